//! Tables and what is in them, as values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rnet_model::{IfName, Subnet};

/// Address family of a table (`enum nfproto`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// ARP.
    Arp,
    /// Frames on a bridge.
    Bridge,
    /// Ingress and egress of one device.
    Netdev,
}

/// A table by its identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    /// Family; tables of different families are different tables.
    pub family: Family,
    /// Name, 1 to 255 bytes.
    pub name: String,
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// `filter`.
    Filter,
    /// `nat`: sees the first packet of a connection.
    Nat,
    /// `route`: a changed packet is routed again.
    Route,
}

/// Where a base chain is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `prerouting`.
    Prerouting,
    /// `input`.
    Input,
    /// `forward`.
    Forward,
    /// `output`.
    Output,
    /// `postrouting`.
    Postrouting,
    /// `ingress` of a device, in `netdev` (and `inet`) tables.
    Ingress,
    /// `egress` of a device, in `netdev` tables.
    Egress,
}

/// What happens at the end of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// `accept`.
    Accept,
    /// `drop`.
    Drop,
}

/// The hook of a base chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Base {
    /// Chain type.
    pub kind: ChainKind,
    /// Hook.
    pub hook: Hook,
    /// Priority; lower is called earlier. nft(8)'s `dstnat` is -100, `filter` 0, `srcnat` 100.
    pub priority: i32,
    /// Policy.
    pub policy: Policy,
    /// The device of `ingress` and `egress`.
    pub device: Option<IfName>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Chain {
    /// Name, 1 to 255 bytes.
    pub name: String,
    /// Its hook; without one it is called by rules only.
    pub base: Option<Base>,
}

/// Type of one field of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// `ipv4_addr`, 4 bytes.
    Ipv4Addr,
    /// `ipv6_addr`, 16 bytes.
    Ipv6Addr,
    /// `inet_proto`, 1 byte.
    InetProto,
    /// `inet_service`: a port, 2 bytes.
    InetService,
    /// `ifname`, 16 bytes.
    Ifname,
    /// `mark`, 4 bytes.
    Mark,
    /// `ether_addr`, 6 bytes.
    EtherAddr,
    /// `nf_proto`: a network protocol as of [`super::Meta::Nfproto`], 1 byte.
    Nfproto,
}

/// What a map maps to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DataType {
    /// A verdict (`vmap`).
    Verdict,
    /// A value, several fields being a concatenation.
    Value(Vec<KeyType>),
}

/// A set, or with `data` a map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Set {
    /// Name, 1 to 255 bytes.
    pub name: String,
    /// Fields of the key; more than one is a concatenation. At most 64 bytes, each field rounded up to 4.
    pub key: Vec<KeyType>,
    /// What a map maps to.
    pub data: Option<DataType>,
    /// Whether elements are intervals.
    pub interval: bool,
    /// Comment, at most 127 bytes.
    pub comment: Option<String>,
}

/// One field of a key or of data, or a value to compare with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// A transport protocol (`IPPROTO_*`).
    Proto(u8),
    /// A port.
    Port(u16),
    /// The name of a device.
    Ifname(IfName),
    /// A mark, or another 32 bit number in host order.
    Mark(u32),
    /// A hardware address.
    Ether([u8; 6]),
    /// An Ethernet protocol (`ETH_P_*`); to compare with, not in sets.
    EtherType(u16),
    /// One byte; in sets that of [`super::Meta::Nfproto`].
    Byte(u8),
    /// A number of 16 bits that is no port; to compare with, not in sets.
    Short(u16),
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// `accept`.
    Accept,
    /// `drop`.
    Drop,
    /// `return` to the calling chain, or to the policy.
    Return,
    /// `continue` with the next rule.
    Continue,
    /// `jump` to a chain.
    Jump(String),
    /// `goto` a chain.
    Goto(String),
}

/// What an element of a map maps to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    /// A verdict.
    Verdict(Verdict),
    /// The fields of a value.
    Value(Vec<Field>),
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// The fields of the key, of an interval the first.
    pub key: Vec<Field>,
    /// The last of an interval, inclusive, field by field. `None` is the key alone.
    pub upto: Option<Vec<Field>>,
    /// What it maps to, in a map.
    pub data: Option<Data>,
    /// Comment, at most 127 bytes.
    pub comment: Option<String>,
}

/// A rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The chain it belongs to.
    pub chain: String,
    /// Its expressions, in order.
    pub exprs: Vec<super::Expr>,
    /// Comment, at most 127 bytes.
    pub comment: Option<String>,
}

impl Table {
    /// A table.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Table { family, name: name.into() }
    }
}

impl Chain {
    /// A chain that rules call.
    pub fn plain(name: impl Into<String>) -> Self {
        Chain { name: name.into(), base: None }
    }

    /// A chain that a hook calls, with policy accept.
    pub fn base(name: impl Into<String>, kind: ChainKind, hook: Hook, priority: i32) -> Self {
        let base = Base { kind, hook, priority, policy: Policy::Accept, device: None };
        Chain { name: name.into(), base: Some(base) }
    }
}

impl Set {
    /// A set of exact keys.
    pub fn new(name: impl Into<String>, key: &[KeyType]) -> Self {
        Set { name: name.into(), key: key.to_vec(), data: None, interval: false, comment: None }
    }

    /// A map of exact keys.
    pub fn map(name: impl Into<String>, key: &[KeyType], data: DataType) -> Self {
        Set { data: Some(data), ..Set::new(name, key) }
    }

    /// The same with intervals.
    #[must_use]
    pub fn intervals(self) -> Self {
        Set { interval: true, ..self }
    }
}

impl Element {
    /// An exact key.
    pub fn key(key: impl Into<Vec<Field>>) -> Self {
        Element { key: key.into(), upto: None, data: None, comment: None }
    }

    /// All addresses of a prefix, for a set of intervals.
    pub fn prefix(net: &Subnet) -> Self {
        Element { upto: Some(vec![net.last().into()]), ..Element::key([net.network().into()]) }
    }

    /// The same, of a map.
    #[must_use]
    pub fn data(self, data: Data) -> Self {
        Element { data: Some(data), ..self }
    }

    /// The same with a comment.
    #[must_use]
    pub fn comment(self, comment: impl Into<String>) -> Self {
        Element { comment: Some(comment.into()), ..self }
    }
}

impl Rule {
    /// A rule without a comment.
    pub fn new(chain: impl Into<String>, exprs: impl Into<Vec<super::Expr>>) -> Self {
        Rule { chain: chain.into(), exprs: exprs.into(), comment: None }
    }

    /// The same with a comment.
    #[must_use]
    pub fn comment(self, comment: impl Into<String>) -> Self {
        Rule { comment: Some(comment.into()), ..self }
    }
}

impl From<IpAddr> for Field {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Field::Ipv4(v4),
            IpAddr::V6(v6) => Field::Ipv6(v6),
        }
    }
}
