//! Ports of containers, and which ports of the host lead to them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Protocol;
use crate::error::{InvalidInput, string_value};

/// `N` or `N-M`: one port or several in a row, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// `None` when `first` is 0 or comes after `last`.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(PortRange { first, last })
    }

    /// The lowest.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest.
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many there are, 1 to 65535.
    pub fn count(self) -> u16 {
        self.last - self.first + 1
    }

    /// All of them, rising.
    pub fn ports(self) -> impl Iterator<Item = u16> + Clone {
        self.first..=self.last
    }
}

impl From<u16> for PortRange {
    /// One port. 0 is taken for 1: use [`PortRange::new`] where 0 can come.
    fn from(port: u16) -> Self {
        PortRange { first: port.max(1), last: port.max(1) }
    }
}

impl FromStr for PortRange {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>()
                .ok()
                .filter(|port| digits && *port > 0)
                .ok_or_else(|| InvalidInput::new("port", s, format!("{text:?} is not a number from 1 to 65535")))
        };
        let (first, last) = s.split_once('-').unwrap_or((s, s));
        let (first, last) = (number(first)?, number(last)?);
        PortRange::new(first, last).ok_or_else(|| InvalidInput::new("port", s, "the range ends before it begins"))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}
string_value!(PortRange, "port or range of ports, N or N-M");

/// `PORT[-PORT][/PROTOCOL]`: ports a container listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExposedPort {
    /// Which.
    pub ports: PortRange,
    /// Default: TCP.
    pub protocol: Protocol,
}

impl FromStr for ExposedPort {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let (ports, protocol) = with_protocol(s)?;
        Ok(ExposedPort { ports: ports.parse()?, protocol })
    }
}

impl fmt::Display for ExposedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ports, self.protocol)
    }
}
string_value!(ExposedPort, "port of a container, PORT[-PORT][/tcp|udp|sctp]");

fn with_protocol(s: &str) -> Result<(&str, Protocol), InvalidInput> {
    match s.rsplit_once('/') {
        Some((rest, protocol)) => Ok((rest, protocol.parse()?)),
        None => Ok((s, Protocol::Tcp)),
    }
}

/// `[ip:][hostPort[-end]:]ctrPort[-end][/tcp|udp|sctp]`: what a user asks to be published, in Docker's words. IPv6
/// addresses stand in brackets.
///
/// Host and container range are of one length, and lead to each other in order; or the container has one port, and any
/// free one of the host's range is taken. Without a host port, or with port 0, a free one is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortSpec {
    /// Address of the host; `None` = every one.
    pub host: Option<IpAddr>,
    /// Ports of the host; `None` = chosen.
    pub host_ports: Option<PortRange>,
    /// Ports of the container.
    pub container_ports: PortRange,
    /// Default: TCP.
    pub protocol: Protocol,
}

impl FromStr for PortSpec {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let bad = |why: &str| {
            InvalidInput::new("published port", s, why)
                .hint("write [IP:][HOSTPORT[-END]:]CONTAINERPORT[-END][/tcp|udp|sctp], IPv6 as [::1]:80:80")
        };
        let (rest, protocol) = with_protocol(s)?;
        let (host, rest) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once("]:").ok_or_else(|| bad("has no ]: after the IPv6 address"))?;
                let address: Ipv6Addr =
                    address.parse().map_err(|_| bad(&format!("{address:?} is not an IPv6 address")))?;
                (Some(IpAddr::V6(address)), rest)
            }
            None if rest.matches(':').count() > 2 => return Err(bad("an IPv6 address stands in brackets")),
            None => match rest.rsplitn(3, ':').nth(2) {
                Some("") => (None, rest.trim_start_matches(':')),
                Some(address) => {
                    let ip: IpAddr = address.parse().map_err(|_| bad(&format!("{address:?} is not an IP address")))?;
                    (Some(ip), &rest[address.len() + 1..])
                }
                None => (None, rest),
            },
        };
        let (host_ports, container) = match rest.split_once(':') {
            Some(("" | "0", container)) => (None, container),
            Some((ports, container)) => (Some(ports.parse::<PortRange>()?), container),
            None => (None, rest),
        };
        let spec = PortSpec { host: host.map(canonical), host_ports, container_ports: container.parse()?, protocol };
        match spec.host_ports {
            Some(ports) if ports.count() != spec.container_ports.count() && spec.container_ports.count() != 1 => {
                Err(bad(&format!(
                    "{} ports of the host for {} of the container",
                    ports.count(),
                    spec.container_ports.count()
                )))
            }
            _ if spec.host.is_some_and(|ip| ip.is_multicast()) => {
                Err(bad("a multicast address cannot be published on"))
            }
            _ => Ok(spec),
        }
    }
}

/// IPv4 written as IPv6 is IPv4.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            None => {}
        }
        match (self.host_ports, self.host) {
            (Some(ports), _) => write!(f, "{ports}:")?,
            (None, Some(_)) => f.write_str(":")?,
            (None, None) => {}
        }
        write!(f, "{}/{}", self.container_ports, self.protocol)
    }
}
string_value!(PortSpec, "port to publish, [IP:][HOSTPORT[-END]:]CONTAINERPORT[-END][/tcp|udp|sctp]");

/// Ports in a row that are published: port `host_port + n` of the host leads to `container_port + n`, for each `n`
/// below `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// Address of the host; absent = every one, of the families the container has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// First port of the host.
    pub host_port: u16,
    /// First port of the container.
    pub container_port: u16,
    /// How many, at least 1.
    pub count: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl PublishedPort {
    /// The ports of the host.
    pub fn host_ports(self) -> PortRange {
        let last = self.host_port.saturating_add(self.count.saturating_sub(1));
        PortRange { first: self.host_port, last }
    }

    /// The ports of the container.
    pub fn container_ports(self) -> PortRange {
        let last = self.container_port.saturating_add(self.count.saturating_sub(1));
        PortRange { first: self.container_port, last }
    }

    /// Pairs of host port and container port, rising.
    pub fn pairs(self) -> impl Iterator<Item = (u16, u16)> {
        self.host_ports().ports().zip(self.container_ports().ports())
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = PortSpec {
            host: self.host,
            host_ports: Some(self.host_ports()),
            container_ports: self.container_ports(),
            protocol: self.protocol,
        };
        write!(f, "{spec}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        for (text, canonical) in [
            ("80", "80/tcp"),
            ("8080:80", "8080:80/tcp"),
            ("8080:80/UDP", "8080:80/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
            ("127.0.0.1:0:80", "127.0.0.1::80/tcp"),
            ("[::1]:80:80", "[::1]:80:80/tcp"),
            ("[::1]::80/sctp", "[::1]::80/sctp"),
            ("[::ffff:10.0.0.1]:1:1", "10.0.0.1:1:1/tcp"),
            ("1000-1009:2000-2009", "1000-1009:2000-2009/tcp"),
            ("8000-9000:80", "8000-9000:80/tcp"),
            ("2000-2009", "2000-2009/tcp"),
            (":80", "80/tcp"),
        ] {
            let parsed = text.parse::<PortSpec>();
            assert_eq!(parsed.as_ref().map(ToString::to_string), Ok(canonical.to_owned()), "{text}");
            assert_eq!(canonical.parse::<PortSpec>(), parsed, "{canonical}");
        }
    }

    #[test]
    fn no_specs() {
        for bad in [
            "",
            "/tcp",
            "0",
            "65536",
            "80:",
            "80:0",
            "x:80",
            "80/icmp",
            "80/",
            "-1",
            "+80:80",
            "10-5:1-6",
            "1-3:1-2",
            "80:1-2",
            "::1:80:80",
            "[::1]80:80",
            "[::1:80:80",
            "[10.0.0.1]:80:80",
            "1.2.3:80:80",
            "224.0.0.1:80:80",
            "a b:80:80",
            "80:80:80:80",
            "[::1%eth0]:80:80",
        ] {
            assert!(bad.parse::<PortSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn published() {
        let port = PublishedPort { host: None, host_port: 1000, container_port: 80, count: 2, protocol: Protocol::Udp };
        assert_eq!(port.to_string(), "1000-1001:80-81/udp");
        assert_eq!(port.pairs().collect::<Vec<_>>(), [(1000, 80), (1001, 81)]);
    }

    #[test]
    fn exposed() {
        assert_eq!("53/udp".parse::<ExposedPort>().map(|p| p.to_string()), Ok("53/udp".into()));
        assert_eq!("80-81".parse::<ExposedPort>().map(|p| p.to_string()), Ok("80-81/tcp".into()));
        assert!("1:2".parse::<ExposedPort>().is_err());
    }
}
