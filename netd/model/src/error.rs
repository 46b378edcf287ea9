//! The kinds of failure every layer maps its errors to, and the error of parsing a value.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a failure means to the caller. Decides the HTTP status and the exit code in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// The request itself is wrong; repeating it cannot help.
    Invalid,
    /// Something else already holds what was asked for.
    Conflict,
    /// The named object does not exist.
    Missing,
    /// The same request may succeed later.
    Retry,
    /// This kernel or host lacks what the request needs.
    Unsupported,
    /// The caller may not do this.
    Denied,
    /// The daemon or an engine cannot be reached.
    Unavailable,
    /// A defect of rnet.
    Bug,
}

impl Kind {
    /// HTTP status code of RFC 9110 section 15.
    pub fn http_status(self) -> u16 {
        match self {
            Kind::Invalid => 400,
            Kind::Denied => 403,
            Kind::Missing => 404,
            Kind::Conflict => 409,
            Kind::Bug => 500,
            Kind::Unsupported => 501,
            Kind::Retry | Kind::Unavailable => 503,
        }
    }

    /// Exit code of the command line tools. 1 stays free for failures of a child's own.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Invalid => 2,
            Kind::Missing => 3,
            Kind::Conflict => 4,
            Kind::Retry => 5,
            Kind::Unsupported => 6,
            Kind::Unavailable => 7,
            Kind::Denied => 8,
            Kind::Bug => 70,
        }
    }
}

/// A word that cannot be the value it was given for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {input:?}: {reason}")]
pub struct InvalidInput {
    /// What was being parsed, in the user's terms ("interface name", "address").
    pub what: &'static str,
    /// The offending text.
    pub input: String,
    /// Why it cannot be used.
    pub reason: String,
    /// What to write instead, when that is known.
    pub hint: Option<String>,
}

impl InvalidInput {
    /// An error about `input` that was given as `what`.
    pub fn new(what: &'static str, input: impl Into<String>, reason: impl Into<String>) -> Self {
        InvalidInput { what, input: input.into(), reason: reason.into(), hint: None }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Always [`Kind::Invalid`].
    pub fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// Serde and JSON Schema for a type that is written as one string and parsed by `FromStr`.
macro_rules! string_value {
    ($ty:ty, $description:literal) => {
        impl serde::Serialize for $ty {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $ty {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $ty {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($ty).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $description })
            }
        }
    };
}
pub(crate) use string_value;
