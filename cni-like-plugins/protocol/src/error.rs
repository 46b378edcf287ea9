//! Errors as the CNI specification writes them: section 5, "Result types", "Error".

use std::fmt;

use rnet_kernel::KernelError;
use rnet_model::{InvalidInput, Kind};
use serde::{Deserialize, Serialize};

/// A failure: what a plugin prints on stdout and what a runtime reads there. The word is that of the specification.
#[allow(clippy::error_impl_error, reason = "the specification calls it so")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{msg}{}", self.tail())]
pub struct Error {
    /// 1 to 99 by the specification, 100 and above a plugin's own.
    #[serde(default)]
    pub code: u32,
    /// Short: what, and which object.
    #[serde(default)]
    pub msg: String,
    /// Longer: why, and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    /// `cniVersion` is none the plugin speaks.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A key of the configuration, with its value, is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone: no clean-up is needed.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A `CNI_` variable is missing or not one.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO_FAILURE: u32 = 5;
    /// The configuration is no JSON of the right shape.
    pub const DECODING_FAILURE: u32 = 6;
    /// The configuration contradicts itself or the host.
    pub const INVALID_NETWORK_CONFIG: u32 = 7;
    /// `CNI_NETNS` is the namespace of the caller itself.
    pub const INVALID_NETNS: u32 = 8;
    /// The same call may succeed later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: no ADD can be served.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: no ADD can be served, and containers that are there suffer.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// Anything else; the number the reference library uses.
    pub const INTERNAL: u32 = 999;

    /// A failure without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Error { code, msg: msg.into(), details: String::new() }
    }

    /// [`Error::INVALID_NETWORK_CONFIG`].
    pub fn config(msg: impl Into<String>) -> Self {
        Error::new(Error::INVALID_NETWORK_CONFIG, msg)
    }

    /// [`Error::INTERNAL`].
    pub fn internal(msg: impl Into<String>) -> Self {
        Error::new(Error::INTERNAL, msg)
    }

    /// [`Error::IO_FAILURE`] of a file.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Error::new(Error::IO_FAILURE, format!("{what}: {error}"))
    }

    /// Adds details.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Puts what was being done before the message.
    #[must_use]
    pub fn context(mut self, what: impl AsRef<str>) -> Self {
        self.msg = format!("{}: {}", what.as_ref(), self.msg);
        self
    }

    /// What the failure means to rnet's own callers.
    pub fn kind(&self) -> Kind {
        match self.code {
            Error::INCOMPATIBLE_VERSION | Error::UNSUPPORTED_FIELD => Kind::Unsupported,
            Error::UNKNOWN_CONTAINER => Kind::Missing,
            Error::TRY_AGAIN_LATER | Error::IO_FAILURE | Error::NOT_AVAILABLE | Error::LIMITED_CONNECTIVITY => {
                Kind::Retry
            }
            _ => Kind::Invalid,
        }
    }

    fn tail(&self) -> String {
        if self.details.is_empty() { String::new() } else { format!("; {}", self.details) }
    }
}

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Self {
        let code = match error.kind() {
            Kind::Retry => Error::TRY_AGAIN_LATER,
            _ => Error::INTERNAL,
        };
        Error::new(code, error.to_string()).details(error.hint.unwrap_or_default())
    }
}

impl From<InvalidInput> for Error {
    fn from(error: InvalidInput) -> Self {
        Error::config(error.to_string()).details(error.hint.unwrap_or_default())
    }
}
