//! What a user asks of a network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::InvalidInput;
use crate::{AddressRange, DnsName, IfName, MacAddr, NetworkName, Rate, Subnet};

/// Which plugin makes the links of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum NetworkType {
    /// A Linux bridge of its own with an address on it and NAT to the outside.
    #[default]
    Bridge,
    /// A list of CNI plugins, those of rnet and those of others.
    Conflist,
}

/// On or off, where a bool would not say which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Toggle {
    /// Yes.
    On,
    /// No.
    Off,
}

impl Toggle {
    /// Whether this is [`Toggle::On`].
    pub fn is_on(self) -> bool {
        self == Toggle::On
    }
}

impl std::str::FromStr for Toggle {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        match s {
            "on" => Ok(Toggle::On),
            "off" => Ok(Toggle::Off),
            _ => Err(InvalidInput::new("switch", s, "is neither on nor off")),
        }
    }
}

impl std::fmt::Display for Toggle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(if self.is_on() { "on" } else { "off" })
    }
}

/// How a network is joined to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GatewayMode {
    /// Containers leave under the host's address, published ports are ports of the host.
    #[default]
    Nat,
    /// Containers are reached at their own addresses, at published ports only; no address is replaced.
    Routed,
}

impl std::str::FromStr for GatewayMode {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        match s {
            "nat" => Ok(GatewayMode::Nat),
            "routed" => Ok(GatewayMode::Routed),
            _ => Err(InvalidInput::new("gateway mode", s, "is neither nat nor routed")),
        }
    }
}

impl std::fmt::Display for GatewayMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(if *self == GatewayMode::Nat { "nat" } else { "routed" })
    }
}

/// What can be asked of one interface on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointOptions {
    /// Static addresses, at most one per family; default: the next free ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// MAC address; default: random, locally administered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Name inside; default: the first free `ethN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifname: Option<IfName>,
    /// Further names on this network; several containers may have the same one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<DnsName>,
    /// The network with the highest priority gives the default route; between equal ones the one connected first.
    #[serde(skip_serializing_if = "is_zero")]
    pub gw_priority: i32,
    /// Frames with other source addresses than its own are let through: for routers and labs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_spoof: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// Whether traffic may pass between this network and others.
pub type Isolation = Toggle;

fn on() -> Toggle {
    Toggle::On
}

/// Everything `rnet network create` can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Name.
    pub name: NetworkName,
    /// Plugin.
    #[serde(default, rename = "type")]
    pub kind: NetworkType,
    /// Subnets, at most one per family; empty: the next free block of the pool list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<Subnet>,
    /// Gateways, each in one of the subnets; default: the first address of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Ranges addresses are taken from, each in one of the subnets; default: the whole subnet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<AddressRange>,
    /// Addresses never handed out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<AddressRange>,
    /// Adds a ULA /64 when no IPv6 subnet is given.
    #[serde(default)]
    pub ipv6: bool,
    /// No gateway, no NAT, no way out.
    #[serde(default)]
    pub internal: bool,
    /// No traffic between networks (default), or routed between networks that both say off.
    #[serde(default = "on")]
    pub isolate: Isolation,
    /// Source addresses are replaced by the host's on the way out.
    #[serde(default = "on")]
    pub masquerade: Toggle,
    /// Containers of the network reach each other.
    #[serde(default = "on")]
    pub icc: Toggle,
    /// How it is joined to the outside.
    #[serde(default)]
    pub gateway_mode: GatewayMode,
    /// Addresses of the host under which traffic leaves, at most one per family; default: that of the interface it
    /// leaves by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outbound: Vec<IpAddr>,
    /// Containers find each other by name.
    #[serde(default = "on")]
    pub dns: Toggle,
    /// Where names of the outside are asked for; default: the host's name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_forward: Vec<IpAddr>,
    /// Domain of the network: search domain of its containers, and their names end with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DnsName>,
    /// Most that one interface receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_ingress: Option<Rate>,
    /// Most that one interface sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_egress: Option<Rate>,
    /// The bridge tells VLANs apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub vlan_aware: bool,
    /// Options that mean nothing to rnet: kept and shown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// MTU in bytes; default: the smallest of the host's default routes' devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Name of the bridge device; default: made from the network's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<IfName>,
    /// Free-form labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The network as a list of CNI plugins (`type` is `conflist`): a JSON object by section 1 of the CNI specification.
    /// Everything else about the network is theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflist: Option<Value>,
}

impl NetworkSpec {
    /// A bridge network with every default.
    pub fn new(name: NetworkName) -> Self {
        NetworkSpec {
            name,
            kind: NetworkType::Bridge,
            subnets: Vec::new(),
            gateways: Vec::new(),
            ip_ranges: Vec::new(),
            exclude: Vec::new(),
            ipv6: false,
            internal: false,
            isolate: Toggle::On,
            masquerade: Toggle::On,
            icc: Toggle::On,
            gateway_mode: GatewayMode::Nat,
            outbound: Vec::new(),
            dns: Toggle::On,
            dns_forward: Vec::new(),
            domain: None,
            rate_ingress: None,
            rate_egress: None,
            vlan_aware: false,
            options: BTreeMap::new(),
            mtu: None,
            bridge: None,
            labels: BTreeMap::new(),
            conflist: None,
        }
    }

    /// A network of CNI plugins.
    pub fn of_conflist(name: NetworkName, conflist: Value) -> Self {
        NetworkSpec { kind: NetworkType::Conflist, conflist: Some(conflist), ..NetworkSpec::new(name) }
    }

    /// A list and nothing that is the plugins' to decide, or no list.
    fn validate_conflist(&self) -> Result<(), InvalidInput> {
        match (self.kind, &self.conflist) {
            (NetworkType::Bridge, None) => Ok(()),
            (NetworkType::Bridge, Some(_)) => {
                Err(InvalidInput::new("network", self.name.to_string(), "has a conflist, and is not of that type"))
            }
            (NetworkType::Conflist, None) => {
                Err(InvalidInput::new("network", self.name.to_string(), "is of type conflist, and has none"))
            }
            (NetworkType::Conflist, Some(list)) => {
                let plain = NetworkSpec::of_conflist(self.name.clone(), list.clone());
                if (NetworkSpec { labels: self.labels.clone(), ..plain }) == *self {
                    return Ok(());
                }
                let why = "takes subnets, gateways, MTU and the like from its conflist alone";
                Err(InvalidInput::new("network", self.name.to_string(), why))
            }
        }
    }

    /// Checks what no single field can.
    ///
    /// # Errors
    /// Names the two values that do not fit.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        self.validate_conflist()?;
        for v4 in [true, false] {
            let of_family: Vec<_> = self.subnets.iter().filter(|s| s.is_ipv4() == v4).collect();
            if let [first, second, ..] = of_family[..] {
                return Err(InvalidInput::new(
                    "subnet",
                    second.to_string(),
                    format!("the network already has {first} of the same family"),
                ));
            }
            if self.gateways.iter().filter(|g| g.is_ipv4() == v4).count() > 1 {
                return Err(InvalidInput::new("gateway", self.name.to_string(), "more than one of the same family"));
            }
        }
        for subnet in &self.subnets {
            let longest = if subnet.is_ipv4() { 30 } else { 126 };
            if subnet.prefix() > longest || subnet.prefix() < 4 {
                return Err(InvalidInput::new(
                    "subnet",
                    subnet.to_string(),
                    format!("the prefix length must be from 4 to {longest}"),
                ));
            }
            if subnet.network().is_loopback() || subnet.network().is_multicast() || subnet.network().is_unspecified() {
                return Err(InvalidInput::new("subnet", subnet.to_string(), "is reserved"));
            }
        }
        let home = |ip: IpAddr| self.subnets.iter().find(|s| s.contains(ip));
        for gateway in &self.gateways {
            match home(*gateway) {
                None => {
                    return Err(InvalidInput::new(
                        "gateway",
                        gateway.to_string(),
                        "is in none of the network's subnets",
                    )
                    .hint("give the subnet too: --subnet"));
                }
                Some(s) if s.is_ipv4() && (*gateway == s.network() || *gateway == s.last()) => {
                    return Err(InvalidInput::new(
                        "gateway",
                        gateway.to_string(),
                        format!("is the network or broadcast address of {s}"),
                    ));
                }
                Some(_) => {}
            }
        }
        for (what, ranges) in [("address range", &self.ip_ranges), ("exclusion", &self.exclude)] {
            for range in ranges {
                if home(range.first()).is_none_or(|s| !s.contains(range.last())) {
                    return Err(InvalidInput::new(what, range.to_string(), "is in none of the network's subnets")
                        .hint("give the subnet too: --subnet"));
                }
            }
        }
        if let Some(mtu) = self.mtu {
            let v6 = self.ipv6 || self.subnets.iter().any(|s| !s.is_ipv4());
            let least = if v6 { 1280 } else { 68 };
            if !(least..=65535).contains(&mtu) {
                return Err(InvalidInput::new("MTU", mtu.to_string(), format!("is not from {least} to 65535")));
            }
        }
        self.validate_gateway_mode()?;
        self.validate_outbound()?;
        self.validate_names()?;
        self.validate_rates()?;
        for (what, keys) in [("label", &self.labels), ("option", &self.options)] {
            let odd = |key: &&String| key.is_empty() || key.len() > 128 || key.chars().any(char::is_control);
            if let Some(key) = keys.keys().find(odd) {
                return Err(InvalidInput::new(what, key.clone(), "a key is 1 to 128 printable characters"));
            }
        }
        Ok(())
    }

    fn validate_gateway_mode(&self) -> Result<(), InvalidInput> {
        if self.gateway_mode == GatewayMode::Routed && self.internal {
            return Err(InvalidInput::new("gateway mode", "routed", "nothing is routed to an internal network")
                .hint("leave out --gateway-mode or --internal"));
        }
        Ok(())
    }

    fn validate_outbound(&self) -> Result<(), InvalidInput> {
        let Some(first) = self.outbound.first() else { return Ok(()) };
        let bad = |ip: &IpAddr, why: &str| InvalidInput::new("outbound address", ip.to_string(), why);
        let kept = "the addresses of containers are kept on the way out";
        if self.internal {
            return Err(bad(first, "nothing leaves an internal network").hint("leave out one of the two"));
        }
        if self.gateway_mode == GatewayMode::Routed || !self.masquerade.is_on() {
            return Err(bad(first, kept).hint("leave out --outbound-address, or --gateway-mode routed and --no-masq"));
        }
        for v4 in [true, false] {
            let mut of_family = self.outbound.iter().filter(|ip| ip.is_ipv4() == v4);
            let Some(ip) = of_family.next() else { continue };
            if let Some(second) = of_family.next() {
                return Err(bad(second, &format!("there already is {ip} of the same family")));
            }
            if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
                return Err(bad(ip, "is no address that an answer would come back to"));
            }
            let has_family = self.subnets.iter().any(|s| s.is_ipv4() == v4) || (!v4 && self.ipv6);
            if !self.subnets.is_empty() && !has_family {
                return Err(bad(ip, "the network has no subnet of its family"));
            }
        }
        Ok(())
    }

    fn validate_names(&self) -> Result<(), InvalidInput> {
        let Some(server) = self.dns_forward.first() else { return Ok(()) };
        let bad = |ip: &IpAddr, why: &str| InvalidInput::new("name server", ip.to_string(), why);
        if self.internal {
            return Err(bad(server, "containers of an internal network ask nobody outside")
                .hint("leave out --dns-forward or --internal"));
        }
        if !self.dns.is_on() {
            return Err(
                bad(server, "rnet answers no names on this network").hint("leave out --dns-forward or --dns off")
            );
        }
        match self.dns_forward.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
            Some(odd) => Err(bad(odd, "is no address of a host")),
            None => Ok(()),
        }
    }

    fn validate_rates(&self) -> Result<(), InvalidInput> {
        const ETHERNET: u64 = 14;
        const PLAIN_MTU: u32 = 1500;
        let frame = u64::from(self.mtu.unwrap_or(PLAIN_MTU)) + ETHERNET;
        for rate in [self.rate_ingress, self.rate_egress].into_iter().flatten() {
            if rate.burst.is_some_and(|burst| burst < frame) {
                let why = format!("the burst is smaller than a full frame of {frame} bytes, which would never pass");
                return Err(InvalidInput::new("rate", rate.to_string(), why)
                    .hint("give a larger burst, or leave it out: 100mbit"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(f: impl FnOnce(&mut NetworkSpec)) -> Result<(), InvalidInput> {
        let mut s = NetworkSpec::new("blue".parse().expect("name"));
        f(&mut s);
        s.validate()
    }

    #[test]
    fn combinations() {
        let net = |s: &str| s.parse::<Subnet>().expect("subnet");
        assert!(spec(|_| ()).is_ok());
        assert!(spec(|s| s.subnets = vec![net("10.0.0.0/24"), net("fd00::/64")]).is_ok());
        assert!(spec(|s| s.subnets = vec![net("10.0.0.0/24"), net("10.0.1.0/24")]).is_err());
        assert!(spec(|s| s.subnets = vec![net("10.0.0.0/31")]).is_err());
        assert!(spec(|s| s.gateways = vec!["10.0.0.1".parse().expect("ip")]).is_err());
        assert!(
            spec(|s| {
                s.subnets = vec![net("10.0.0.0/24")];
                s.gateways = vec!["10.0.0.255".parse().expect("ip")];
            })
            .is_err()
        );
        assert!(
            spec(|s| {
                s.subnets = vec![net("10.0.0.0/24")];
                s.exclude = vec!["10.0.0.250-10.0.1.5".parse().expect("range")];
            })
            .is_err()
        );
        assert!(
            spec(|s| {
                s.ipv6 = true;
                s.mtu = Some(1000);
            })
            .is_err()
        );
        assert!(spec(|s| s.mtu = Some(1000)).is_ok());
    }

    #[test]
    fn what_does_not_go_together() {
        let ip = |s: &str| s.parse::<IpAddr>().expect("ip");
        let refused = |f: fn(&mut NetworkSpec)| spec(f).expect_err("refused").to_string();
        assert!(spec(|s| s.outbound = vec![ip("192.0.2.1"), ip("2001:db8::1")]).is_ok());
        let twice: fn(&mut NetworkSpec) =
            |s| s.outbound = vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        assert!(refused(twice).contains("same family"));
        for with in [
            (|s: &mut NetworkSpec| s.internal = true) as fn(&mut NetworkSpec),
            |s| s.gateway_mode = GatewayMode::Routed,
            |s| s.masquerade = Toggle::Off,
            |s| s.subnets = vec!["fd00::/64".parse().unwrap()],
        ] {
            let found = spec(|s| {
                s.outbound = vec![ip("192.0.2.1")];
                with(s);
            });
            assert!(found.expect_err("refused").to_string().contains("192.0.2.1"));
        }
        assert!(refused(|s| s.outbound = vec!["127.0.0.1".parse().unwrap()]).contains("127.0.0.1"));
        for with in [(|s: &mut NetworkSpec| s.internal = true) as fn(&mut NetworkSpec), |s| s.dns = Toggle::Off] {
            let found = spec(|s| {
                s.dns_forward = vec![ip("192.0.2.53")];
                with(s);
            });
            assert!(found.expect_err("refused").to_string().contains("192.0.2.53"));
        }
        assert!(spec(|s| s.rate_ingress = Some("1mbit/2k".parse().unwrap())).is_ok());
        assert!(refused(|s| s.rate_ingress = Some("1mbit/1k".parse().unwrap())).contains("full frame"));
        assert!(refused(|s| s.rate_egress = Some("1mbit/1513b".parse().unwrap())).contains("full frame"));
        let routed_inside: fn(&mut NetworkSpec) = |s| {
            s.internal = true;
            s.gateway_mode = GatewayMode::Routed;
        };
        assert!(refused(routed_inside).contains("internal"));
        assert!(refused(|s| drop(s.options.insert(String::new(), String::new()))).contains("option"));
    }

    #[test]
    fn a_conflist_stands_alone() {
        let list = serde_json::json!({"name": "x", "plugins": []});
        assert!(spec(|s| s.conflist = Some(list.clone())).is_err());
        assert!(spec(|s| s.kind = NetworkType::Conflist).is_err());
        let both = |f: fn(&mut NetworkSpec)| {
            spec(|s| {
                *s = NetworkSpec::of_conflist(s.name.clone(), list.clone());
                f(s);
            })
        };
        assert!(both(|_| ()).is_ok());
        assert!(both(|s| drop(s.labels.insert("a".into(), "b".into()))).is_ok());
        assert!(both(|s| s.mtu = Some(1400)).is_err());
        assert!(both(|s| s.internal = true).is_err());
    }

    #[test]
    fn unknown_keys_are_errors() {
        let e = serde_json::from_str::<NetworkSpec>(r#"{"name":"blue","subnetz":[]}"#).expect_err("unknown");
        assert!(e.to_string().contains("subnetz"));
    }
}
