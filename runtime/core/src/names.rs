//! The words about names: `--dns`, `--add-host`, `--link`. What they become are lines of files and names of variables,
//! so nothing in them can begin another line.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rnet_model::{ContainerName, DnsName, InvalidInput};
use serde::{Deserialize, Serialize};

use crate::options::as_string;

/// What is asked of /etc/resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsSettings {
    /// `--dns`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<IpAddr>,
    /// `--dns-search`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<SearchDomain>,
    /// `--dns-option`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<DnsOption>,
}

impl DnsSettings {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == DnsSettings::default()
    }
}

/// A domain to search names in, or `.` for none at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SearchDomain {
    /// `.`: names are looked for as they are.
    None,
    /// A domain.
    Domain(DnsName),
}

impl FromStr for SearchDomain {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        if s == "." { Ok(SearchDomain::None) } else { s.parse().map(SearchDomain::Domain) }
    }
}

impl fmt::Display for SearchDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SearchDomain::None => f.write_str("."),
            SearchDomain::Domain(name) => write!(f, "{name}"),
        }
    }
}
as_string!(SearchDomain);

/// A word of resolv.conf's `options` (resolv.conf(5)): letters, digits and `-_.:=`, at most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsOption(String);

impl DnsOption {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsOption {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.:=".contains(&b);
        if s.is_empty() || s.len() > 64 || !s.bytes().all(fine) {
            return Err(InvalidInput::new("DNS option", s, "is not a word of letters, digits and -_.:=")
                .hint("for example ndots:2 or use-vc"));
        }
        Ok(DnsOption(s.to_owned()))
    }
}

impl fmt::Display for DnsOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
as_string!(DnsOption);

/// Where an extra name leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostTarget {
    /// There.
    Address(IpAddr),
    /// `host-gateway`: the host, as the container reaches it.
    Gateway,
}

impl HostTarget {
    /// Whether it is the host.
    pub fn is_gateway(self) -> bool {
        self == HostTarget::Gateway
    }
}

/// `NAME:IP`, `NAME:[IPv6]` or `NAME:host-gateway`; `=` may stand for the colon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExtraHost {
    /// Name.
    pub name: DnsName,
    /// Where it leads.
    pub target: HostTarget,
}

impl FromStr for ExtraHost {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let bad = |why: &str| InvalidInput::new("host", s, why).hint("write NAME:IP or NAME:host-gateway");
        let (name, target) = s.split_once([':', '=']).ok_or_else(|| bad("has no address"))?;
        let target = match target {
            "host-gateway" => HostTarget::Gateway,
            text => {
                let bare = text.strip_prefix('[').map_or(Some(text), |rest| rest.strip_suffix(']'));
                let bracketed = text.starts_with('[');
                let address = bare.and_then(|text| text.parse::<IpAddr>().ok());
                let address = address.filter(|ip| !bracketed || ip.is_ipv6());
                HostTarget::Address(address.ok_or_else(|| bad(&format!("{text:?} is not an IP address")))?)
            }
        };
        Ok(ExtraHost { name: name.parse()?, target })
    }
}

impl fmt::Display for ExtraHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            HostTarget::Address(ip) => write!(f, "{}:{ip}", self.name),
            HostTarget::Gateway => write!(f, "{}:host-gateway", self.name),
        }
    }
}
as_string!(ExtraHost);

/// `NAME[:ALIAS]`: a container that another one is told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkSpec {
    /// Name or id.
    pub target: ContainerName,
    /// What it is called; default: as given.
    pub alias: ContainerName,
}

impl FromStr for LinkSpec {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let (target, alias) = s.split_once(':').unwrap_or((s, s));
        Ok(LinkSpec { target: target.parse()?, alias: alias.parse()? })
    }
}

impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target == self.alias {
            true => write!(f, "{}", self.target),
            false => write!(f, "{}:{}", self.target, self.alias),
        }
    }
}
as_string!(LinkSpec);

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T: FromStr<Err = InvalidInput> + fmt::Display>(text: &str) -> Option<String> {
        text.parse::<T>().ok().map(|v| v.to_string())
    }

    #[test]
    fn hosts() {
        for (text, kept) in [
            ("db:10.0.0.1", Some("db:10.0.0.1")),
            ("db=10.0.0.1", Some("db:10.0.0.1")),
            ("db:fd00::1", Some("db:fd00::1")),
            ("db:[fd00::1]", Some("db:fd00::1")),
            ("Host.Internal:host-gateway", Some("host.internal:host-gateway")),
            ("db", None),
            ("db:", None),
            (":10.0.0.1", None),
            ("db:[10.0.0.1]", None),
            ("db:[fd00::1", None),
            ("db:fe80::1%eth0", None),
            ("d b:10.0.0.1", None),
            ("db:10.0.0.1\n6.6.6.6 bank", None),
            ("db\n6.6.6.6:10.0.0.1", None),
        ] {
            assert_eq!(round::<ExtraHost>(text).as_deref(), kept, "{text:?}");
        }
    }

    #[test]
    fn resolver_words() {
        for good in ["ndots:2", "use-vc", "timeout:1"] {
            assert_eq!(round::<DnsOption>(good).as_deref(), Some(good));
        }
        for bad in ["", "a b", "ndots:2\nnameserver 6.6.6.6", "a\t", "#x", &"x".repeat(65)] {
            assert!(bad.parse::<DnsOption>().is_err(), "{bad:?}");
        }
        assert_eq!(round::<SearchDomain>("."), Some(".".to_owned()));
        assert_eq!(round::<SearchDomain>("Example.org"), Some("example.org".to_owned()));
        assert_eq!(round::<SearchDomain>("a\nnameserver 6.6.6.6"), None);
    }

    #[test]
    fn links() {
        assert_eq!(round::<LinkSpec>("db"), Some("db".to_owned()));
        assert_eq!(round::<LinkSpec>("db:db"), Some("db".to_owned()));
        assert_eq!(round::<LinkSpec>("db:store"), Some("db:store".to_owned()));
        for bad in ["", ":", "db:", ":db", "a:b:c", "a b", "db:x\ny"] {
            assert!(bad.parse::<LinkSpec>().is_err(), "{bad:?}");
        }
    }
}
