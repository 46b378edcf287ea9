//! IP prefixes: a network (`Subnet`), an interface address with its prefix (`IfAddr`) and a range.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;

use crate::error::{InvalidInput, string_value};

/// What an `IP/PREFIX` stands for: the words and the hints of its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefixed {
    /// A network, without host bits.
    Subnet,
    /// An address of an interface.
    Address,
}

impl Prefixed {
    fn what(self) -> &'static str {
        match self {
            Prefixed::Subnet => "subnet",
            Prefixed::Address => "address",
        }
    }

    /// How such a word looks.
    fn example(self) -> &'static str {
        match self {
            Prefixed::Subnet => "write it as 192.168.115.0/24",
            Prefixed::Address => "write it as 192.168.115.10/24",
        }
    }

    /// What an address without a prefix length may have been meant to be.
    fn guess(self, ip: IpAddr) -> String {
        let prefix = if ip.is_ipv4() { 24 } else { 64 };
        match (self, Subnet::containing(ip, prefix)) {
            (Prefixed::Subnet, Some(subnet)) => format!("maybe {subnet} is meant"),
            _ => format!("maybe {ip}/{prefix} is meant"),
        }
    }
}

/// Parses `IP/PREFIX`, with the errors a user needs when the prefix is missing or wrong.
fn parse_prefixed(kind: Prefixed, s: &str) -> Result<IpNetwork, InvalidInput> {
    let what = kind.what();
    let Some((ip, prefix)) = s.split_once('/') else {
        return Err(match s.parse::<IpAddr>() {
            Ok(ip) => InvalidInput::new(what, s, "has no prefix length").hint(kind.guess(ip)),
            Err(_) => InvalidInput::new(what, s, "is not an IP address with a prefix length").hint(kind.example()),
        });
    };
    let ip: IpAddr = ip.parse().map_err(|_| InvalidInput::new(what, s, "is not an IP address").hint(kind.example()))?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    prefix
        .parse::<u8>()
        .ok()
        .filter(|p| *p <= max && prefix.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|p| IpNetwork::new(ip, p).ok())
        .ok_or_else(|| InvalidInput::new(what, s, format!("the prefix length is a number from 0 to {max}")))
}

/// An IPv4 or IPv6 prefix with all host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subnet(IpNetwork);

impl Subnet {
    /// The prefix that contains `address`; `None` when `prefix` is too long for the family.
    pub fn containing(address: IpAddr, prefix: u8) -> Option<Self> {
        let net = IpNetwork::new(address, prefix).ok()?;
        IpNetwork::new(net.network(), prefix).ok().map(Subnet)
    }

    /// First address (all host bits zero).
    pub fn network(&self) -> IpAddr {
        self.0.network()
    }

    /// Last address (all host bits one); for IPv4 the directed broadcast address.
    pub fn last(&self) -> IpAddr {
        self.0.broadcast()
    }

    /// Prefix length in bits.
    pub fn prefix(&self) -> u8 {
        self.0.prefix()
    }

    /// Whether this is an IPv4 prefix.
    pub fn is_ipv4(&self) -> bool {
        self.0.is_ipv4()
    }

    /// Whether `address` is of the same family and inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Whether the two prefixes share any address.
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }
}

impl FromStr for Subnet {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let net = parse_prefixed(Prefixed::Subnet, s)?;
        if net.ip() != net.network() {
            return Err(InvalidInput::new("subnet", s, "has host bits set").hint(format!(
                "the network is {}/{}",
                net.network(),
                net.prefix()
            )));
        }
        Ok(Subnet(net))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}
string_value!(Subnet, "IP prefix with zero host bits, 172.17.0.0/16");

/// The address of an interface with its prefix: `192.168.115.10/24`. Never the network address of an IPv4 prefix
/// shorter than 31 bits nor its broadcast address, never unspecified, loopback or multicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfAddr(IpNetwork);

impl IfAddr {
    /// Checks what [`FromStr`] checks.
    ///
    /// # Errors
    /// When the address cannot belong to a host.
    pub fn new(ip: IpAddr, prefix: u8) -> Result<Self, InvalidInput> {
        format!("{ip}/{prefix}").parse()
    }

    /// The address without its prefix.
    pub fn ip(&self) -> IpAddr {
        self.0.ip()
    }

    /// Prefix length in bits.
    pub fn prefix(&self) -> u8 {
        self.0.prefix()
    }

    /// The network the address is in.
    pub fn subnet(&self) -> Subnet {
        Subnet::containing(self.0.ip(), self.0.prefix()).expect("an IfAddr has a valid prefix")
    }

    /// IPv4 directed broadcast address, for prefixes shorter than 31 bits.
    pub fn broadcast(&self) -> Option<std::net::Ipv4Addr> {
        match self.0 {
            IpNetwork::V4(net) if net.prefix() < 31 => Some(net.broadcast()),
            _ => None,
        }
    }
}

impl FromStr for IfAddr {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let net = parse_prefixed(Prefixed::Address, s)?;
        let bad = |why: String| InvalidInput::new("address", s, why);
        let ip = net.ip();
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            return Err(bad("cannot be given to an interface: it is unspecified, loopback or multicast".into()));
        }
        if net.prefix() == 0 {
            return Err(bad("has prefix length 0".into()));
        }
        if let IpNetwork::V4(v4) = net {
            if v4.prefix() < 31 && v4.ip() == v4.network() {
                return Err(bad(format!("is the network address of {}/{}", v4.network(), v4.prefix()))
                    .hint("choose a host address inside it"));
            }
            if v4.prefix() < 31 && v4.ip() == v4.broadcast() {
                return Err(bad(format!("is the broadcast address of {}/{}", v4.network(), v4.prefix()))
                    .hint("choose a host address inside it"));
            }
        }
        Ok(IfAddr(net))
    }
}

impl fmt::Display for IfAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}
string_value!(IfAddr, "interface address with prefix length, 192.168.115.10/24");

/// An inclusive range of addresses of one family: `10.0.0.10-10.0.0.20`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// First address.
    pub fn first(&self) -> IpAddr {
        self.first
    }
    /// Last address.
    pub fn last(&self) -> IpAddr {
        self.last
    }
    /// Whether `address` is of the same family and inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }
}

impl FromStr for AddressRange {
    type Err = InvalidInput;
    fn from_str(s: &str) -> Result<Self, InvalidInput> {
        let bad = |why: &str| InvalidInput::new("address range", s, why).hint("write 10.0.0.10 or 10.0.0.10-10.0.0.20");
        if s.contains('/') {
            let net: Subnet = s.parse()?;
            return Ok(AddressRange { first: net.network(), last: net.last() });
        }
        let (first, last) = s.split_once('-').unwrap_or((s, s));
        let first: IpAddr = first.parse().map_err(|_| bad("is not an address or a range"))?;
        let last: IpAddr = last.parse().map_err(|_| bad("is not an address or a range"))?;
        if first.is_ipv4() != last.is_ipv4() {
            return Err(bad("mixes IPv4 and IPv6"));
        }
        if first > last {
            return Err(bad("ends before it begins"));
        }
        Ok(AddressRange { first, last })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}
/// Refuses two addresses of one family, where an interface gets one of each at most.
///
/// # Errors
/// Names both.
pub fn one_of_each_family(ips: &[IpAddr]) -> Result<(), InvalidInput> {
    for (index, ip) in ips.iter().enumerate() {
        if let Some(other) = ips[..index].iter().find(|other| other.is_ipv4() == ip.is_ipv4()) {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let reason = format!("is a second {family} address, beside {other}");
            return Err(InvalidInput::new("address", ip.to_string(), reason)
                .hint("an interface on a network gets one of IPv4 and one of IPv6 at most"));
        }
    }
    Ok(())
}

string_value!(AddressRange, "inclusive address range, 10.0.0.10-10.0.0.20, one address, or a prefix");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_prefix_is_explained() {
        let e = "192.168.115.10".parse::<IfAddr>().expect_err("no prefix");
        assert_eq!(e.hint.as_deref(), Some("maybe 192.168.115.10/24 is meant"));
        let e = "fd00::1".parse::<IfAddr>().expect_err("no prefix");
        assert_eq!(e.hint.as_deref(), Some("maybe fd00::1/64 is meant"));
    }

    #[test]
    fn a_subnet_is_hinted_without_host_bits() {
        let hint = |text: &str| text.parse::<Subnet>().expect_err("no subnet").hint.expect("a hint");
        assert_eq!(hint("foo"), "write it as 192.168.115.0/24");
        assert_eq!(hint("foo/24"), "write it as 192.168.115.0/24");
        assert_eq!(hint("10.0.0.9"), "maybe 10.0.0.0/24 is meant");
        assert_eq!(hint("fd00::9"), "maybe fd00::/64 is meant");
        assert_eq!(
            "foo".parse::<IfAddr>().expect_err("no address").hint.expect("a hint"),
            "write it as 192.168.115.10/24"
        );
    }

    #[test]
    fn two_addresses_of_one_family() {
        let check = |list: &[&str]| {
            one_of_each_family(&list.iter().map(|ip| ip.parse().expect("an address")).collect::<Vec<_>>())
        };
        assert!(check(&[]).is_ok() && check(&["10.0.0.1", "fd00::1"]).is_ok());
        let refused = check(&["10.0.0.1", "fd00::1", "10.0.0.2"]).expect_err("two of IPv4").to_string();
        assert!(refused.contains("10.0.0.2") && refused.contains("10.0.0.1"), "{refused}");
        assert!(check(&["fd00::1", "fd00::1"]).is_err());
    }

    #[test]
    fn host_addresses_only() {
        for bad in [
            "192.168.1.0/24",
            "192.168.1.255/24",
            "0.0.0.0/0",
            "127.0.0.1/8",
            "224.0.0.1/4",
            "10.0.0.1/33",
            "10.0.0.1/+8",
            "x/24",
            "::/64",
            "fe80::1/129",
            "10.0.0.1/0",
        ] {
            assert!(bad.parse::<IfAddr>().is_err(), "{bad}");
        }
        for good in ["192.168.1.1/24", "10.0.0.0/31", "10.0.0.255/32", "10.1.0.255/16", "fd00::1/64", "2001:db8::/127"]
        {
            assert_eq!(good.parse::<IfAddr>().map(|a| a.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn subnets() {
        assert!("10.0.0.1/24".parse::<Subnet>().is_err());
        let net: Subnet = "10.0.0.0/24".parse().expect("subnet");
        assert!(net.overlaps(&"10.0.0.128/25".parse().expect("subnet")));
        assert!(net.overlaps(&"10.0.0.0/8".parse().expect("subnet")));
        assert!(!net.overlaps(&"10.0.1.0/24".parse().expect("subnet")));
        assert!(!net.overlaps(&"fd00::/64".parse().expect("subnet")));
    }

    #[test]
    fn ranges() {
        let r: AddressRange = "10.0.0.10-10.0.0.20".parse().expect("range");
        assert!(r.contains("10.0.0.15".parse().expect("ip")) && !r.contains("10.0.0.21".parse().expect("ip")));
        assert!("10.0.0.2-10.0.0.1".parse::<AddressRange>().is_err());
        assert!("10.0.0.2-fd00::1".parse::<AddressRange>().is_err());
        assert_eq!("10.0.0.0/30".parse::<AddressRange>().map(|r| r.to_string()), Ok("10.0.0.0-10.0.0.3".into()));
    }
}
