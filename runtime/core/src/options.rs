//! The words of `rnet run` and `rnet exec` that need more than a type of the model: parsed once, valid from then on.

use std::fmt;
use std::path::{Component, PathBuf};
use std::str::FromStr;

use rnet_model::InvalidInput;
use serde::{Deserialize, Serialize};

/// Serde for a type that is written as one string.
macro_rules! as_string {
    ($ty:ty) => {
        impl TryFrom<String> for $ty {
            type Error = InvalidInput;
            fn try_from(s: String) -> Result<Self, InvalidInput> {
                s.parse()
            }
        }
        impl From<$ty> for String {
            fn from(value: $ty) -> String {
                value.to_string()
            }
        }
    };
}
pub(crate) use as_string;

/// `KEY=VALUE`, or `KEY` for the value it has here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvVar {
    /// Not empty, without `=`.
    pub key: String,
    /// Anything but a zero byte.
    pub value: String,
}

impl EnvVar {
    /// Parses `KEY=VALUE` or `KEY`; the latter is looked up with `inherited` and absent when that knows nothing.
    ///
    /// # Errors
    /// An empty key, a zero byte.
    pub fn parse(text: &str, inherited: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, InvalidInput> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, inherited(text)),
        };
        let bad = |why: &str| Err(InvalidInput::new("environment variable", text, why));
        if key.is_empty() {
            return bad("has no name");
        }
        if text.contains('\0') || value.as_deref().is_some_and(|v| v.contains('\0')) {
            return bad("contains a zero byte");
        }
        Ok(value.map(|value| EnvVar { key: key.to_owned(), value }))
    }
}

impl FromStr for EnvVar {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        EnvVar::parse(s, |_| None)?
            .ok_or_else(|| InvalidInput::new("environment variable", s, "has no value").hint("write KEY=VALUE"))
    }
}

impl fmt::Display for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}
as_string!(EnvVar);

/// How a bind mount may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BindAccess {
    /// `rw`, the default.
    ReadWrite,
    /// `ro`.
    ReadOnly,
}

/// `SRC:DST[:ro|rw]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bind {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the container, without `..`; not `/`.
    pub destination: PathBuf,
    /// Access.
    pub access: BindAccess,
}

impl FromStr for Bind {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let bad = |why: &str| InvalidInput::new("volume", s, why).hint("write /SOURCE:/DESTINATION[:ro]");
        let parts: Vec<&str> = s.split(':').collect();
        let (source, destination, options) = match parts[..] {
            [source, destination] => (source, destination, "rw"),
            [source, destination, options] => (source, destination, options),
            _ => return Err(bad("is not SOURCE:DESTINATION[:OPTIONS]")),
        };
        let access = match options {
            "rw" => BindAccess::ReadWrite,
            "ro" => BindAccess::ReadOnly,
            _ => return Err(bad("has options other than ro and rw")),
        };
        let bind = Bind { source: PathBuf::from(source), destination: PathBuf::from(destination), access };
        let plain = |p: &PathBuf| p.is_absolute() && !p.components().any(|c| c == Component::ParentDir);
        if !bind.source.is_absolute() {
            return Err(bad("has a source that is not an absolute path"));
        }
        if !plain(&bind.destination) || bind.destination.components().count() < 2 {
            return Err(bad("has a destination that is not an absolute path below /"));
        }
        if s.contains('\0') {
            return Err(bad("contains a zero byte"));
        }
        Ok(bind)
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.display(), self.destination.display())?;
        if self.access == BindAccess::ReadOnly { f.write_str(":ro") } else { Ok(()) }
    }
}
as_string!(Bind);

/// A user or group as given: a number or a name of the container's own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// By number.
    Number(u32),
    /// By name.
    Name(String),
}

impl Principal {
    fn parse(text: &str, whole: &str) -> Result<Self, InvalidInput> {
        if let Ok(number) = text.parse::<u32>() {
            return Ok(Principal::Number(number));
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            // The last number means "no change" to chown(2) and "none" elsewhere, but what to do with it is the kernel's.
            return Err(InvalidInput::new("user", whole, "is a number that no user or group has")
                .hint(format!("write one from 0 to {}", u32::MAX)));
        }
        let fine = |c: char| c.is_ascii_graphic() && !matches!(c, ':' | '/' | ',');
        if text.is_empty() || text.starts_with('-') || !text.chars().all(fine) {
            return Err(InvalidInput::new("user", whole, "is neither a number nor a name").hint("write USER[:GROUP]"));
        }
        Ok(Principal::Name(text.to_owned()))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Number(n) => write!(f, "{n}"),
            Principal::Name(name) => f.write_str(name),
        }
    }
}

/// `USER[:GROUP]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserSpec {
    /// User.
    pub user: Principal,
    /// Group; default: the user's own.
    pub group: Option<Principal>,
}

impl FromStr for UserSpec {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let (user, group) = match s.split_once(':') {
            Some((user, group)) => (user, Some(Principal::parse(group, s)?)),
            None => (s, None),
        };
        Ok(UserSpec { user: Principal::parse(user, s)?, group })
    }
}

impl fmt::Display for UserSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.user)?;
        self.group.as_ref().map_or(Ok(()), |group| write!(f, ":{group}"))
    }
}
as_string!(UserSpec);

/// Name of a host: labels of letters, digits and hyphens (RFC 1123 section 2.1), at most 64 bytes (`__NEW_UTS_LEN`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);

impl Hostname {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let bad = |why: &str| Err(InvalidInput::new("hostname", s, why));
        if s.len() > 64 {
            return bad("is longer than 64 bytes");
        }
        // An underscore is in no host name of the RFC, and in many that people use.
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let label = |l: &str| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(fine);
        if !s.split('.').all(label) {
            return bad("is not labels of letters, digits and hyphens");
        }
        Ok(Hostname(s.to_owned()))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
as_string!(Hostname);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment() {
        let here = |key: &str| (key == "HERE").then(|| "x".to_owned());
        let parse = |text| EnvVar::parse(text, here).map(|v| v.map(|v| v.to_string()));
        assert_eq!(parse("A=b=c"), Ok(Some("A=b=c".into())));
        assert_eq!(parse("A="), Ok(Some("A=".into())));
        assert_eq!(parse("HERE"), Ok(Some("HERE=x".into())));
        assert_eq!(parse("ABSENT"), Ok(None));
        for bad in ["", "=x", "A=\0"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn binds() {
        for good in ["/a:/b", "/a:/b:ro"] {
            assert_eq!(good.parse::<Bind>().map(|b| b.to_string()), Ok(good.to_owned()));
        }
        assert_eq!("/a:/b:rw".parse::<Bind>().map(|b| b.access), Ok(BindAccess::ReadWrite));
        for bad in ["", "/a", "a:/b", "/a:b", "/a:/", "/a:/b/../c", "/a:/b:z", "/a:/b:ro:x", ":/b"] {
            assert!(bad.parse::<Bind>().is_err(), "{bad}");
        }
    }

    #[test]
    fn users() {
        for good in ["0", "1000:1000", "nobody", "www-data:users"] {
            assert_eq!(good.parse::<UserSpec>().map(|u| u.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", ":", "a:", ":b", "a b", "-1", "a/b", "a:b:c"] {
            assert!(bad.parse::<UserSpec>().is_err(), "{bad}");
        }
        assert!("4294967294:4294967294".parse::<UserSpec>().is_ok());
        for bad in ["99999999999", "0:4294967296"] {
            let refused = bad.parse::<UserSpec>().unwrap_err().to_string();
            assert!(refused.contains("a number that no user or group has"), "{refused}");
        }
    }

    #[test]
    fn hostnames() {
        for good in ["web", "web-1.example.org", "a_b"] {
            assert!(good.parse::<Hostname>().is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "-a", "a-", "a b", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
    }
}
