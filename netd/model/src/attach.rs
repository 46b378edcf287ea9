//! The grammar of `rnet attach <hostif> <ctr> <address> [MAC|U:text][@VLAN]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{InvalidInput, string_value};
use crate::{ContainerRef, IfAddr, IfName, MacAddr, RouteSpec, Subnet, VlanId, VlanSet};

/// The host side of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostIf {
    /// An interface, or a bridge to make.
    Name(IfName),
    /// The physical interface with this address.
    Mac(MacAddr),
    /// No host side: a dummy device in the container.
    Dummy,
}

impl FromStr for HostIf {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        match s.strip_prefix("mac:") {
            Some(mac) => mac.parse().map(HostIf::Mac),
            None if s == "dummy" => Ok(HostIf::Dummy),
            None => s.parse().map(HostIf::Name),
        }
    }
}

impl fmt::Display for HostIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostIf::Name(name) => write!(f, "{name}"),
            HostIf::Mac(mac) => write!(f, "mac:{mac}"),
            HostIf::Dummy => f.write_str("dummy"),
        }
    }
}
string_value!(HostIf, "host interface: NAME, mac:xx:xx:xx:xx:xx:xx or dummy");

/// The gateway of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gateway {
    /// This address.
    Address(IpAddr),
    /// `@gw`: the host's default gateway if it is in the subnet, else the bridge's own address in it.
    Find,
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gateway::Address(ip) => write!(f, "{ip}"),
            Gateway::Find => f.write_str("gw"),
        }
    }
}

fn parse_gateway(whole: &str, s: &str) -> Result<Gateway, InvalidInput> {
    if s == "gw" {
        return Ok(Gateway::Find);
    }
    s.parse().map(Gateway::Address).map_err(|_| {
        InvalidInput::new("address", whole, format!("{s:?} is not a gateway"))
            .hint("write @192.168.115.1, or @gw to have it found")
    })
}

/// `IP/PREFIX[@GATEWAY]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StaticAddress {
    /// Address and prefix.
    pub address: IfAddr,
    /// Default gateway through this address.
    pub gateway: Option<Gateway>,
}

impl FromStr for StaticAddress {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let (address, gateway) = match s.split_once('@') {
            Some((a, g)) => (a, Some(parse_gateway(s, g)?)),
            None => (s, None),
        };
        let address: IfAddr = address.parse()?;
        if let Some(Gateway::Address(gw)) = gateway {
            check_gateway(s, &address, gw)?;
        }
        Ok(StaticAddress { address, gateway })
    }
}

fn check_gateway(whole: &str, address: &IfAddr, gw: IpAddr) -> Result<(), InvalidInput> {
    let bad = |why: String| Err(InvalidInput::new("address", whole, why));
    if gw == address.ip() {
        return bad(format!("the address {} equals its gateway {gw}", address.ip()));
    }
    if gw.is_ipv4() != address.ip().is_ipv4() {
        return bad(format!("{address} and its gateway {gw} are of different families"));
    }
    if gw.is_unspecified() || gw.is_multicast() || gw.is_loopback() {
        return bad(format!("{gw} cannot be a gateway"));
    }
    let net = address.subnet();
    if net.is_ipv4() && net.prefix() < 31 && (gw == net.network() || gw == net.last()) {
        return bad(format!("the gateway {gw} is the network or broadcast address of {net}"));
    }
    Ok(())
}

impl fmt::Display for StaticAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.gateway.map_or(Ok(()), |gw| write!(f, "@{gw}"))
    }
}

/// What addresses an attachment gets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressSpec {
    /// These. Never empty, no address twice, at most one gateway per family.
    Static(Vec<StaticAddress>),
    /// The next free one of the network's pool.
    Auto(Option<Gateway>),
    /// The link only (`0/0` or `none`).
    None,
    /// From a DHCPv4 server.
    Dhcp,
    /// From a DHCPv6 server.
    Dhcp6,
}

impl FromStr for AddressSpec {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        match s {
            "0/0" | "none" => return Ok(AddressSpec::None),
            "dhcp" => return Ok(AddressSpec::Dhcp),
            "dhcp6" => return Ok(AddressSpec::Dhcp6),
            "auto" => return Ok(AddressSpec::Auto(None)),
            _ => {}
        }
        if let Some(gateway) = s.strip_prefix("auto@") {
            return parse_gateway(s, gateway).map(|g| AddressSpec::Auto(Some(g)));
        }
        let list: Vec<StaticAddress> = s.split(',').map(str::parse).collect::<Result<_, _>>()?;
        for (i, one) in list.iter().enumerate() {
            if list[..i].iter().any(|other| other.address.ip() == one.address.ip()) {
                return Err(InvalidInput::new("address", s, format!("{} is given twice", one.address.ip())));
            }
            if list.iter().any(|other| other.gateway == Some(Gateway::Address(one.address.ip()))) {
                return Err(InvalidInput::new(
                    "address",
                    s,
                    format!("{} is both an address and a gateway", one.address.ip()),
                ));
            }
            let same_family =
                |o: &&StaticAddress| o.gateway.is_some() && o.address.ip().is_ipv4() == one.address.ip().is_ipv4();
            if one.gateway.is_some() && list[..i].iter().any(|o| same_family(&o)) {
                return Err(InvalidInput::new("address", s, "has two gateways of one family")
                    .hint("give the gateway with one of the addresses only"));
            }
        }
        Ok(AddressSpec::Static(list))
    }
}

impl fmt::Display for AddressSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressSpec::Static(list) => {
                let list: Vec<_> = list.iter().map(ToString::to_string).collect();
                f.write_str(&list.join(","))
            }
            AddressSpec::Auto(None) => f.write_str("auto"),
            AddressSpec::Auto(Some(gw)) => write!(f, "auto@{gw}"),
            AddressSpec::None => f.write_str("none"),
            AddressSpec::Dhcp => f.write_str("dhcp"),
            AddressSpec::Dhcp6 => f.write_str("dhcp6"),
        }
    }
}
string_value!(AddressSpec, "IP/PREFIX[@GATEWAY][,...], auto[@GATEWAY], none, 0/0, dhcp or dhcp6");

/// Everything one attachment asks for. The link part is decided when it is made; see `rnet attach --help`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachSpec {
    /// Host side.
    pub hostif: HostIf,
    /// Container side.
    pub container: ContainerRef,
    /// Addresses of the interface inside.
    pub address: AddressSpec,
    /// The rest, each with its default.
    #[serde(default)]
    pub options: AttachOptions,
}

/// The options of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AttachOptions {
    /// Name inside the container; default: the first free `ethN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifname: Option<IfName>,
    /// Name of the host end of the veth; default: made from the endpoint's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_ifname: Option<IfName>,
    /// MAC address inside; default: random, locally administered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Access VLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanId>,
    /// Tagged VLANs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trunk: Option<VlanSet>,
    /// MTU in bytes; default: the host side's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Additional routes inside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSpec>,
    /// Metric of the default route and the additional routes; default: 0 if the container has no default route of the
    /// family yet, else one more than the largest there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// Do not make the gateway the default route.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_default_route: bool,
    /// Forget the attachment when the container or netd ends.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_persist: bool,
    /// Do not ask the LAN whether the address is in use.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_probe: bool,
    /// On a network of rnet: frames with other source addresses than its own are let through.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_spoof: bool,
    /// Replace an attachment that differs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

impl AttachOptions {
    /// Smallest and largest MTU a veth takes (ETH_MIN_MTU and ETH_MAX_MTU of linux/if_ether.h).
    pub const MTU: std::ops::RangeInclusive<u32> = 68..=65535;

    /// Adds the fourth word `[MAC|U:text][@VLAN]`.
    ///
    /// # Errors
    /// A malformed word, or one that says again what an option said.
    pub fn apply_mac_word(&mut self, word: &str) -> Result<(), InvalidInput> {
        let (mac, vlan) = match word.rsplit_once('@') {
            Some((m, v)) => (m, Some(v)),
            None => (word, None),
        };
        if mac.is_empty() && vlan.is_none() {
            return Err(InvalidInput::new("MAC address", word, "is empty"));
        }
        if !mac.is_empty() && self.mac.replace(mac.parse()?).is_some() {
            return Err(InvalidInput::new("MAC address", word, "is given twice, here and with --mac"));
        }
        if let Some(vlan) = vlan
            && self.vlan.replace(vlan.parse()?).is_some()
        {
            return Err(InvalidInput::new("VLAN id", word, "is given twice, here and with --vlan"));
        }
        Ok(())
    }
}

impl AttachSpec {
    /// Checks what no single field can: that MTU and routes fit the addresses.
    ///
    /// # Errors
    /// Names the two values that do not fit.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        let o = &self.options;
        if let Some(mtu) = o.mtu {
            let has_v6 = matches!(&self.address, AddressSpec::Static(l) if l.iter().any(|a| a.address.ip().is_ipv6()));
            let least = if has_v6 { 1280 } else { *AttachOptions::MTU.start() };
            if !(least..=*AttachOptions::MTU.end()).contains(&mtu) {
                return Err(InvalidInput::new(
                    "MTU",
                    mtu.to_string(),
                    format!("is not from {least} to {}", AttachOptions::MTU.end()),
                ));
            }
        }
        if o.vlan.is_some() && o.trunk.is_some() {
            return Err(InvalidInput::new(
                "VLAN id",
                o.vlan.map(|v| v.to_string()).unwrap_or_default(),
                "an access VLAN and --trunk exclude each other",
            ));
        }
        let subnets: Vec<Subnet> = match &self.address {
            AddressSpec::Static(list) => list.iter().map(|a| a.address.subnet()).collect(),
            _ => Vec::new(),
        };
        for route in &o.routes {
            let Some(via) = route.via else { continue };
            let link_local = matches!(via, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if !subnets.is_empty() && !link_local && !subnets.iter().any(|s| s.contains(via)) {
                let known: Vec<_> = subnets.iter().map(ToString::to_string).collect();
                return Err(InvalidInput::new(
                    "route",
                    route.to_string(),
                    format!("its next hop {via} is not in {}", known.join(" or ")),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn address_forms() {
        for good in [
            "192.168.115.10/24@192.168.115.1",
            "192.168.115.10/24@gw",
            "192.168.115.10/24,fd00::10/64@fd00::1",
            "10.0.0.1/24,10.0.1.1/24@gw",
            "10.0.0.9/24@10.9.9.9",
            "auto",
            "auto@gw",
            "none",
            "dhcp",
            "dhcp6",
        ] {
            assert_eq!(good.parse::<AddressSpec>().map(|a| a.to_string()), Ok(good.to_owned()));
        }
        assert_eq!("0/0".parse(), Ok(AddressSpec::None));
        for bad in [
            "",
            ",",
            "192.168.1.10",
            "192.168.1.10/24@",
            "192.168.1.10/24@192.168.1.10",
            "192.168.1.10/24@192.168.1.255",
            "192.168.1.10/24@fd00::1",
            "192.168.1.10/24,192.168.1.10/24",
            "192.168.1.10/24@192.168.1.1,192.168.1.11/24@192.168.1.1",
            "192.168.1.10/24,192.168.1.1/24@192.168.1.10",
            "192.168.1.10/24@127.0.0.1",
            "auto@x",
            "dhcp@gw",
        ] {
            assert!(bad.parse::<AddressSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn fourth_word() {
        let mut o = AttachOptions::default();
        o.apply_mac_word("02:00:00:00:00:01@10").expect("both");
        assert_eq!(
            (o.mac.map(|m| m.to_string()), o.vlan.map(VlanId::get)),
            (Some("02:00:00:00:00:01".into()), Some(10))
        );
        let mut o = AttachOptions::default();
        o.apply_mac_word("@10").expect("vlan only");
        assert!(o.mac.is_none() && o.vlan.is_some());
        assert!(o.apply_mac_word("@11").is_err(), "twice");
        assert!(AttachOptions::default().apply_mac_word("").is_err());
        assert!(AttachOptions::default().apply_mac_word("@0").is_err());
    }

    #[test]
    fn whole_specs() {
        let spec = |address: &str, options: AttachOptions| AttachSpec {
            hostif: "br0".parse().expect("hostif"),
            container: "web".parse().expect("container"),
            address: address.parse().expect("address"),
            options,
        };
        assert!(spec("10.0.0.2/24", AttachOptions { mtu: Some(67), ..Default::default() }).validate().is_err());
        assert!(spec("fd00::2/64", AttachOptions { mtu: Some(1279), ..Default::default() }).validate().is_err());
        let route = |r: &str| AttachOptions { routes: vec![r.parse().expect("route")], ..Default::default() };
        assert!(spec("10.0.0.2/24", route("10.9.0.0/16@10.1.0.1")).validate().is_err());
        assert!(spec("10.0.0.2/24", route("10.9.0.0/16@10.0.0.1")).validate().is_ok());
        assert!(spec("fd00::2/64", route("fd01::/64@fe80::1")).validate().is_ok());
    }

    proptest! {
        #[test]
        fn never_panics_and_round_trips(s in "\\PC{0,60}") {
            if let Ok(a) = s.parse::<AddressSpec>() {
                prop_assert_eq!(a.to_string().parse::<AddressSpec>(), Ok(a));
            }
            let _ = s.parse::<HostIf>();
            let _ = s.parse::<ContainerRef>();
            let _ = AttachOptions::default().apply_mac_word(&s);
        }

        #[test]
        fn near_grammar(s in "[0-9a-f.:/@,gw]{0,40}") {
            if let Ok(a) = s.parse::<AddressSpec>() {
                prop_assert_eq!(a.to_string().parse::<AddressSpec>(), Ok(a));
            }
        }
    }
}
