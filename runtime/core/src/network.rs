//! The network of a container as asked for: the words of `--net` and of what stands beside it.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rnet_api::{ApiError, OnNetwork};
use rnet_model::{
    DnsName, EndpointOptions, ExposedPort, InvalidInput, Kind, MacAddr, NetworkMode, PortSpec, one_of_each_family,
};
use serde::{Deserialize, Serialize};

use crate::names::{DnsSettings, ExtraHost, LinkSpec};

/// One word of `--net`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetWord {
    /// `host`, `none`, `container:CTR` or `NETWORK[,NETWORK...]`.
    Mode(NetworkMode),
    /// `name=NETWORK[,KEY=VALUE...]`, Docker's long form.
    One(Box<OnNetwork>),
}

/// What the long form can say, for hints.
const KEYS: &str = "name, ip, ip6, alias, mac-address, ifname, gw-priority, allow-spoof";

impl FromStr for NetWord {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        match s.contains('=') {
            true => long_form(s).map(|one| NetWord::One(Box::new(one))),
            false => s.parse().map(NetWord::Mode),
        }
    }
}

fn long_form(s: &str) -> Result<OnNetwork, InvalidInput> {
    let bad = |why: String| InvalidInput::new("network", s, why).hint(format!("known are {KEYS}"));
    let (mut name, mut options) = (None, EndpointOptions::default());
    let mut seen = HashSet::new();
    for part in s.split(',') {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), value),
            None if part == "allow-spoof" => (part.to_owned(), "true"),
            None => {
                return Err(InvalidInput::new("network", s, format!("{part:?} has no value")).hint(
                    "with options each network has a --net of its own: --net name=blue,ip=10.9.0.7 --net green",
                ));
            }
        };
        // Both words for an address may stand for either family; the interface gets one of each at most.
        if !matches!(key.as_str(), "alias" | "ip" | "ip6") && !seen.insert(key.clone()) {
            return Err(bad(format!("says {key} twice")));
        }
        match key.as_str() {
            "name" => name = Some(value.parse()?),
            "ip" | "ip6" => {
                options.ips.push(value.parse().map_err(|_| bad(format!("{value:?} is not an IP address")))?);
            }
            "alias" => options.aliases.push(value.parse()?),
            "mac-address" => options.mac = Some(value.parse()?),
            "ifname" => options.ifname = Some(value.parse()?),
            "gw-priority" => {
                options.gw_priority = value.parse().map_err(|_| bad(format!("{value:?} is not a priority")))?;
            }
            "allow-spoof" => {
                options.allow_spoof = value.parse().map_err(|_| bad(format!("{value:?} is neither true nor false")))?;
            }
            _ => return Err(bad(format!("there is no option {key:?}"))),
        }
    }
    one_of_each_family(&options.ips)?;
    let network = name.ok_or_else(|| {
        InvalidInput::new("network", s, "does not say which network").hint("write name=NETWORK among its options")
    })?;
    Ok(OnNetwork { network, options })
}

impl fmt::Display for NetWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetWord::Mode(mode) => write!(f, "{mode}"),
            NetWord::One(one) => write!(f, "name={},...", one.network),
        }
    }
}

/// What a container's network is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct NetworkSettings {
    /// Mode.
    pub mode: NetworkMode,
    /// The interface on each network of the mode, in its order; empty in other modes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<OnNetwork>,
    /// Ports to publish.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortSpec>,
    /// Ports the program listens on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<ExposedPort>,
    /// Whether what is exposed is published, at free ports of the host.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub publish_all: bool,
    /// What /etc/resolv.conf says.
    #[serde(skip_serializing_if = "DnsSettings::is_empty")]
    pub dns: DnsSettings,
    /// Lines of /etc/hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<ExtraHost>,
    /// Other containers that are told of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkSpec>,
    /// What follows the hostname.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domainname: Option<DnsName>,
}

/// As it is on disk, in this version or an earlier one.
#[derive(Debug, Deserialize)]
struct Stored {
    mode: NetworkMode,
    #[serde(default)]
    networks: Vec<OnNetwork>,
    /// Of the first network, in records of version 0.1.
    #[serde(default)]
    ips: Vec<IpAddr>,
    #[serde(default)]
    mac: Option<MacAddr>,
    #[serde(default)]
    ports: Vec<PortSpec>,
    #[serde(default)]
    expose: Vec<ExposedPort>,
    #[serde(default)]
    publish_all: bool,
    #[serde(default)]
    dns: DnsSettings,
    #[serde(default)]
    extra_hosts: Vec<ExtraHost>,
    #[serde(default)]
    links: Vec<LinkSpec>,
    #[serde(default)]
    domainname: Option<DnsName>,
}

impl From<Stored> for NetworkSettings {
    fn from(stored: Stored) -> Self {
        let mut settings = NetworkSettings::of(stored.mode);
        if !stored.networks.is_empty() {
            settings.networks = stored.networks;
        }
        if let Some(first) = settings.networks.first_mut() {
            if !stored.ips.is_empty() {
                first.options.ips = stored.ips;
            }
            first.options.mac = first.options.mac.or(stored.mac);
        }
        NetworkSettings {
            ports: stored.ports,
            expose: stored.expose,
            publish_all: stored.publish_all,
            dns: stored.dns,
            extra_hosts: stored.extra_hosts,
            links: stored.links,
            domainname: stored.domainname,
            ..settings
        }
    }
}

impl NetworkSettings {
    /// A mode and nothing else.
    pub fn of(mode: NetworkMode) -> Self {
        let networks = match &mode {
            NetworkMode::Networks(names) => names.iter().cloned().map(OnNetwork::from).collect(),
            _ => Vec::new(),
        };
        NetworkSettings {
            mode,
            networks,
            ports: Vec::new(),
            expose: Vec::new(),
            publish_all: false,
            dns: DnsSettings::default(),
            extra_hosts: Vec::new(),
            links: Vec::new(),
            domainname: None,
        }
    }

    /// From all words of `--net`; none is the default network. `first` is what other options say of the first network.
    ///
    /// # Errors
    /// When they contradict each other, or one needs a network and there is none.
    pub fn from_words(words: &[NetWord], first: EndpointOptions) -> Result<Self, ApiError> {
        let mut settings = match words {
            [] => NetworkSettings::of(NetworkMode::default()),
            [NetWord::Mode(mode)] => NetworkSettings::of(mode.clone()),
            several => NetworkSettings::of_networks(several)?,
        };
        let mode = settings.mode.to_string();
        let Some(on) = settings.networks.first_mut() else {
            return match first == EndpointOptions::default() {
                true => Ok(settings),
                false => Err(invalid(format!(
                    "--ip, --mac-address, --network-alias and --allow-spoof need a network, not --net {mode}"
                ))
                .hint("give one: --net NETWORK")),
            };
        };
        merge(on, first)?;
        Ok(settings)
    }

    fn of_networks(words: &[NetWord]) -> Result<Self, ApiError> {
        let mut networks: Vec<OnNetwork> = Vec::new();
        for word in words {
            match word {
                NetWord::One(one) => networks.push((**one).clone()),
                NetWord::Mode(NetworkMode::Networks(names)) => {
                    networks.extend(names.iter().cloned().map(OnNetwork::from));
                }
                NetWord::Mode(mode) => {
                    return Err(invalid(format!(
                        "--net {mode} stands alone: it cannot be combined with another --net"
                    ))
                    .hint("leave one of them out"));
                }
            }
        }
        let mut seen = HashSet::new();
        if let Some(twice) = networks.iter().find(|on| !seen.insert(&on.network)) {
            return Err(invalid(format!("--net names {} twice", twice.network)));
        }
        let mode = NetworkMode::Networks(networks.iter().map(|on| on.network.clone()).collect());
        Ok(NetworkSettings { networks, ..NetworkSettings::of(mode) })
    }

    /// Everything that needs more than one word to be found wrong; what has no effect is returned, a sentence each.
    ///
    /// # Errors
    /// Names the words that do not fit.
    pub fn check(&self) -> Result<Vec<String>, ApiError> {
        let mut aliases = HashSet::new();
        if let Some(twice) = self.links.iter().find(|link| !aliases.insert(&link.alias)) {
            return Err(invalid(format!("--link gives the alias {} to two containers", twice.alias))
                .hint("choose another one: --link NAME:ALIAS"));
        }
        let ports = !self.ports.is_empty() || self.publish_all;
        match &self.mode {
            NetworkMode::Networks(_) => Ok(Vec::new()),
            _ if !self.links.is_empty() => {
                Err(invalid(format!("--link needs a network that both containers are on, not --net {}", self.mode))
                    .hint("give one: --net NETWORK"))
            }
            NetworkMode::Host if ports => {
                Ok(vec!["-p and -P have no effect with --net host: the program's own ports are the host's".to_owned()])
            }
            NetworkMode::Host => Ok(Vec::new()),
            NetworkMode::None if ports => Err(invalid("-p and -P need a network, not --net none")
                .hint("publish on a network: --net NETWORK -p ...; nothing outside reaches a container with lo only")),
            NetworkMode::None => match self.extra_hosts.iter().find(|h| h.target.is_gateway()) {
                Some(host) => Err(invalid(format!("--add-host {host} needs a network, not --net none"))),
                None => Ok(Vec::new()),
            },
            NetworkMode::Container(other) => self.check_joining(other.as_str(), ports).map(|()| Vec::new()),
        }
    }

    /// The network is the other one's, and so is everything about it.
    fn check_joining(&self, other: &str, ports: bool) -> Result<(), ApiError> {
        if ports || !self.expose.is_empty() {
            return Err(invalid(format!("-p, -P and --expose do not go with --net container:{other}"))
                .hint(format!("publish where the network is: rnet run -p ... for {other}")));
        }
        if !self.dns.is_empty() || !self.extra_hosts.is_empty() || self.domainname.is_some() {
            return Err(invalid(format!(
                "--dns, --dns-search, --dns-option, --add-host and --domainname do not go with --net container:{other}"
            ))
            .hint(format!("hosts and resolv.conf are those of {other}: give them there")));
        }
        Ok(())
    }

    /// Ports that other containers are told of: the exposed ones, and those that are published.
    pub fn listening(&self) -> Vec<ExposedPort> {
        let published = self.ports.iter().map(|p| ExposedPort { ports: p.container_ports, protocol: p.protocol });
        self.expose.iter().copied().chain(published).collect()
    }
}

/// What single options say goes to the first network; saying a thing twice is no way to say it.
fn merge(on: &mut OnNetwork, given: EndpointOptions) -> Result<(), ApiError> {
    let twice = |option: &str, key: &str| {
        invalid(format!("{option} and {key} of --net name={} say the same thing", on.network)).hint("leave one out")
    };
    if given.mac.is_some() && on.options.mac.is_some() {
        return Err(twice("--mac-address", "mac-address"));
    }
    if !given.ips.is_empty() && !on.options.ips.is_empty() {
        return Err(twice("--ip", "ip"));
    }
    let options = &mut on.options;
    options.ips.extend(given.ips);
    options.mac = options.mac.or(given.mac);
    options.aliases.extend(given.aliases);
    options.allow_spoof |= given.allow_spoof;
    one_of_each_family(&options.ips)?;
    Ok(())
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Kind::Invalid, message)
}

#[cfg(test)]
#[path = "network/tests.rs"]
mod tests;
