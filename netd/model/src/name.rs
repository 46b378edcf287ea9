//! Names: interfaces, networks, containers.

use std::fmt;
use std::str::FromStr;

use crate::error::{InvalidInput, string_value};

/// Name of a network interface: 1 to 15 bytes (`IFNAMSIZ` of linux/if.h less the terminator), no `/`, no white space,
/// no `:`, not `.` or `..` (dev_valid_name in net/core/dev.c), not `all` or `default`; printable ASCII only, so that it is safe in any output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfName(String);

impl IfName {
    /// Longest name in bytes.
    pub const MAX: usize = 15;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let bad = |why: String| Err(InvalidInput::new("interface name", s, why));
        if s.is_empty() {
            return bad("is empty".into());
        }
        if s.len() > Self::MAX {
            return bad(format!("is {} bytes long, the kernel takes at most {}", s.len(), Self::MAX));
        }
        if s == "." || s == ".." {
            return bad("is reserved".into());
        }
        // net.ipv4.conf.all and .default are the kernel's own (sysctl_dev_name_is_allowed, include/net/ip.h).
        if s == "all" || s == "default" {
            return bad(format!("is reserved: net.ipv4.conf.{s} is a setting of the kernel, not of an interface"));
        }
        if let Some(c) = s.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%')) {
            return bad(format!("may not contain {c:?}"));
        }
        if s.starts_with('-') {
            return bad("may not begin with '-'".into());
        }
        Ok(IfName(s.to_owned()))
    }
}

/// Shared rule of network and container names: Docker's `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, bounded.
fn plain_name(what: &'static str, s: &str, max: usize) -> Result<String, InvalidInput> {
    if s.is_empty() {
        return Err(InvalidInput::new(what, s, "is empty"));
    }
    if s.len() > max {
        return Err(InvalidInput::new(what, s, format!("is {} bytes long, at most {max} are allowed", s.len())));
    }
    if !s.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(InvalidInput::new(what, s, "must begin with a letter or a digit"));
    }
    if let Some(c) = s.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))) {
        return Err(InvalidInput::new(what, s, format!("may not contain {c:?}"))
            .hint("letters, digits, '_', '.' and '-' are allowed"));
    }
    Ok(s.to_owned())
}

/// Name of an rnet network: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 63 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkName(String);

impl NetworkName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetworkName {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        if matches!(s, "host" | "none" | "container") {
            return Err(InvalidInput::new("network name", s, "is the name of a network mode"));
        }
        plain_name("network name", s, 63).map(NetworkName)
    }
}

/// Name or id of a container: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerName(String);

impl ContainerName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerName {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        plain_name("container name", s, 128).map(ContainerName)
    }
}

/// A name in the DNS: labels of letters, digits, hyphens and underscores, each at most 63 bytes, 253 in all, without
/// the final dot (RFC 1035 section 2.3.4; underscores are in no host name and in many that people use). Compared
/// without regard to case: kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(String);

impl DnsName {
    /// The text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has one label only.
    pub fn is_single_label(&self) -> bool {
        !self.0.contains('.')
    }
}

impl FromStr for DnsName {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let bad = |why: &str| InvalidInput::new("DNS name", s, why);
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let label =
            |l: &str| (1..=63).contains(&l.len()) && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(fine);
        let text = s.strip_suffix('.').unwrap_or(s);
        if text.len() > 253 {
            return Err(bad("is longer than 253 bytes"));
        }
        if !text.split('.').all(label) {
            return Err(bad("is not labels of 1 to 63 letters, digits and hyphens with dots between them"));
        }
        Ok(DnsName(text.to_ascii_lowercase()))
    }
}

macro_rules! display_as_text {
    ($($ty:ty),*) => {$(
        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl AsRef<str> for $ty {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}
display_as_text!(IfName, NetworkName, ContainerName, DnsName);
string_value!(IfName, "interface name, 1 to 15 bytes");
string_value!(NetworkName, "network name, [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most 63 bytes");
string_value!(ContainerName, "container name or id, [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most 128 bytes");
string_value!(DnsName, "DNS name, labels of at most 63 bytes, at most 253 bytes");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "br0", "a", "eth0.10", "veth12345678901"] {
            assert_eq!(good.parse::<IfName>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in
            ["", ".", "..", "a/b", "a b", "a\tb", "a:1", "sixteen-bytes-xx", "é", "-x", "a%d", "a\0", "all", "default"]
        {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_the_dns() {
        for (text, kept) in [("Web.Example.org.", "web.example.org"), ("db_1", "db_1"), ("a", "a")] {
            assert_eq!(text.parse::<DnsName>().map(|n| n.to_string()), Ok(kept.to_owned()));
        }
        let long = "a".repeat(64);
        for bad in ["", ".", "a..b", "-a", "a-", "a b", "a/b", "*.a", "a\n", "\u{fc}", long.as_str()] {
            assert!(bad.parse::<DnsName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn plain_names_cannot_escape() {
        for bad in ["", "../x", "-x", ".x", "a/b", "a b", "a;b", "a\"b", "a\n", "%n", "ü"] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad:?}");
            assert!(bad.parse::<NetworkName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(64).parse::<NetworkName>().is_err());
        assert!("host".parse::<NetworkName>().is_err());
        assert!("blue-1.x_y".parse::<NetworkName>().is_ok());
    }
}
