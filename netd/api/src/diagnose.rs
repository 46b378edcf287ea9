//! Bodies of the commands that say what is wrong: doctor, explain, ping-all.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rnet_model::{ContainerRef, EndpointId, Engine, IfName, InvalidInput, NetworkName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; nothing fails by it.
    Note,
    /// Something fails by it in some cases.
    Warning,
    /// Something does not work.
    Error,
}

/// One thing that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Name of the check that found it.
    pub check: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, with which object and what follows from it.
    pub text: String,
    /// What to do, one line.
    pub fix: String,
}

/// Answer to `GET /v1/doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorReport {
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// Names of the checks that were made.
    pub checks: Vec<String>,
    /// What could not be looked at, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
}

impl DoctorReport {
    /// Whether something is wrong: a finding that is more than a note.
    pub fn is_wrong(&self) -> bool {
        self.findings.iter().any(|f| f.severity > Severity::Note)
    }
}

/// What is sent to explain a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A connection is opened and closed.
    Tcp,
    /// One datagram with one byte, a line end.
    Udp,
    /// One echo request.
    Icmp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Icmp => "icmp",
        })
    }
}

/// Where a path ends: `DST[:PORT][/tcp|udp|icmp]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainTarget {
    /// A container, or an address.
    pub host: TargetHost,
    /// Port, of TCP and UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What is sent.
    pub transport: Transport,
}

/// A container or an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TargetHost {
    /// An address.
    Address(IpAddr),
    /// A container: the address it has on a network of the source, else its first.
    Container(ContainerRef),
}

impl FromStr for ExplainTarget {
    type Err = InvalidInput;

    /// Without a protocol: TCP with a port, else ICMP.
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let wrong = |why: &str| {
            InvalidInput::new("destination", s, why)
                .hint("write DST[:PORT][/tcp|udp|icmp]: web:80, 10.9.0.2, [fd00::1]:53/udp")
        };
        let (rest, transport) = match s.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, Some(Transport::Tcp)),
            Some((rest, "udp")) => (rest, Some(Transport::Udp)),
            Some((rest, "icmp")) => (rest, Some(Transport::Icmp)),
            _ => (s, None),
        };
        let port = |text: &str| {
            text.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(|| wrong("the port is not from 1 to 65535"))
        };
        let (host, port) = if let Ok(ip) = rest.parse::<IpAddr>() {
            (TargetHost::Address(ip), None)
        } else if let Some(bracketed) = rest.strip_prefix('[') {
            let (ip, after) = bracketed.split_once(']').ok_or_else(|| wrong("a bracket is not closed"))?;
            let ip = ip.parse().map_err(|_| wrong("there is no IPv6 address in the brackets"))?;
            let after = after.strip_prefix(':').map(port).transpose()?;
            (TargetHost::Address(ip), after)
        } else {
            match rest.rsplit_once(':') {
                // `pid:7` and `docker:7` are containers, `web:7` is a port.
                Some((before, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) && !is_prefix(before) => {
                    let host = match before.parse::<IpAddr>() {
                        Ok(ip) => TargetHost::Address(ip),
                        Err(_) => TargetHost::Container(before.parse()?),
                    };
                    (host, Some(port(digits)?))
                }
                _ => (TargetHost::Container(rest.parse()?), None),
            }
        };
        let default = if port.is_some() { Transport::Tcp } else { Transport::Icmp };
        let transport = transport.unwrap_or(default);
        match (transport, port) {
            (Transport::Icmp, Some(_)) => Err(wrong("icmp has no ports")),
            (Transport::Tcp | Transport::Udp, None) => Err(wrong("tcp and udp need a port")),
            _ => Ok(ExplainTarget { host, port, transport }),
        }
    }
}

fn is_prefix(word: &str) -> bool {
    Engine::PREFIXES.iter().any(|engine| engine.as_str() == word)
}

impl fmt::Display for ExplainTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (TargetHost::Address(IpAddr::V6(ip)), Some(_)) => write!(f, "[{ip}]")?,
            (TargetHost::Address(ip), _) => write!(f, "{ip}")?,
            (TargetHost::Container(container), _) => write!(f, "{container}")?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "/{}", self.transport)
    }
}

/// `POST /v1/explain`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// Which container sends; `host` is the host itself (a container of that name is `rnet:host`).
    pub source: ContainerRef,
    /// What it sends, and where to.
    pub target: ExplainTarget,
}

/// Direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From source to destination.
    Sent,
    /// Back.
    Answer,
}

/// A rule or policy that decided about a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleRef {
    /// Family of the table: `inet`, `ip`, `ip6`, `bridge`, `arp`, `netdev`.
    pub family: String,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// Handle of the rule, as `nft -a list ruleset` shows it; none for a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// The rule, or its comment, as far as it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// `accept`, `drop`, ...
    pub verdict: String,
}

/// One step of the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PathHop {
    /// Which way the packet went.
    pub direction: Direction,
    /// `source`, `port`, `filter`, `nat`, `route`, `destination`.
    pub place: String,
    /// What happened there.
    pub text: String,
    /// The rule that decided, for `filter` and `nat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleRef>,
    /// The path ends here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stops: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PathOutcome {
    /// The destination answered.
    Connected,
    /// UDP: it arrived, nobody answered it, which a datagram does not need.
    Delivered,
    /// The destination has nothing at that port.
    Refused,
    /// A rule or policy dropped or rejected it.
    Dropped,
    /// There is no way to the destination.
    NoRoute,
    /// The next hop does not answer on its link.
    NoNeighbour,
    /// An interface of the path is down or gone.
    InterfaceDown,
    /// A container of the path does not run.
    NotRunning,
    /// An address of the host, and no container's port is published there.
    NotPublished,
    /// It was sent and nothing came back.
    Unanswered,
}

/// Answer to `POST /v1/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// Source, with the address it sends from.
    pub source: String,
    /// Destination, with its address.
    pub destination: String,
    /// What was sent.
    pub transport: Transport,
    /// The path, in the order of the packets.
    pub hops: Vec<PathHop>,
    /// How it ended.
    pub outcome: PathOutcome,
    /// The same in a sentence, with the object that decided.
    pub verdict: String,
    /// What the user can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// One end of a ping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PingEnd {
    /// Name of the container.
    pub container: String,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its interface in the container.
    pub ifname: IfName,
    /// Its address.
    pub address: IpAddr,
}

/// One echo request and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PingPair {
    /// Who asked.
    pub from: PingEnd,
    /// Who should answer.
    pub to: PingEnd,
    /// Time until the answer, in microseconds; none if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// Why nothing could be sent, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Answer to `POST /v1/networks/{name}/ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PingReport {
    /// The network.
    pub network: NetworkName,
    /// All pairs of running containers, each in both directions, by family.
    pub pairs: Vec<PingPair>,
    /// Containers of the network that do not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_running: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_and_written() {
        for (given, written) in [
            ("web", "web/icmp"),
            ("web:80", "web:80/tcp"),
            ("docker:web:53/udp", "docker:web:53/udp"),
            ("10.9.0.2", "10.9.0.2/icmp"),
            ("10.9.0.2:80", "10.9.0.2:80/tcp"),
            ("fd00::1", "fd00::1/icmp"),
            ("[fd00::1]:53/udp", "[fd00::1]:53/udp"),
            ("[fd00::1]", "fd00::1/icmp"),
            ("pid:7", "pid:7/icmp"),
            ("pid:7:80", "pid:7:80/tcp"),
            ("netns:/run/netns/x", "netns:/run/netns/x/icmp"),
        ] {
            let target: ExplainTarget = given.parse().unwrap_or_else(|e| panic!("{given}: {e}"));
            assert_eq!(target.to_string(), written);
            assert_eq!(written.parse::<ExplainTarget>().ok(), Some(target), "{written}");
        }
        for wrong in ["", "web:0", "web:99999", "web:80/icmp", "web/tcp", "[fd00::1:80", "[x]:80", "a b"] {
            assert!(wrong.parse::<ExplainTarget>().is_err(), "{wrong}");
        }
    }
}
