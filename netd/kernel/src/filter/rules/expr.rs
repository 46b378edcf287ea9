//! Expressions of rules, at the level of nft(8)'s statements. Registers are the encoder's business.

use std::net::IpAddr;

use rnet_model::Subnet;

use super::{Field, Verdict};

/// What a packet is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Selector {
    /// Meta information.
    Meta(Meta),
    /// IPv4 header. In tables of several families the encoder puts the check of the family before it.
    Ip(Ip),
    /// IPv6 header, likewise.
    Ip6(Ip),
    /// Source port of TCP, UDP, SCTP or DCCP; check [`Meta::L4proto`] first.
    Sport,
    /// Destination port, likewise.
    Dport,
    /// Ethernet header.
    Ether(Ether),
    /// Sender address of an ARP packet of IPv4 over Ethernet.
    ArpSaddrIp,
    /// Sender hardware address of such a packet.
    ArpSaddrEther,
    /// Operation of an ARP packet, [`Field::Short`]: request 1, reply 2.
    ArpOperation,
    /// Type of an ICMPv6 packet, [`Field::Byte`]; check [`Meta::L4proto`] first.
    Icmpv6Type,
    /// Target address of a neighbour solicitation or advertisement; check the type first.
    NdTarget,
    /// Flags of a TCP header, for [`Test::Bits`] of the lowest byte; check [`Meta::L4proto`] first.
    TcpFlags,
    /// Connection tracking.
    Ct(Ct),
    /// Type of the route to the packet's destination (`RTN_*`, 32 bit in host order).
    FibDaddrType(Fib),
}

/// Keys of `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meta {
    /// Input device, [`Field::Ifname`].
    Iifname,
    /// Output device, [`Field::Ifname`].
    Oifname,
    /// Transport protocol, [`Field::Proto`].
    L4proto,
    /// Network protocol, [`Field::Byte`]: `NFPROTO_IPV4` 2, `NFPROTO_IPV6` 10.
    Nfproto,
    /// Ethernet protocol, [`Field::EtherType`].
    Protocol,
    /// Packet mark, [`Field::Mark`].
    Mark,
    /// `PACKET_*`, [`Field::Byte`].
    Pkttype,
}

/// Fields of an IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ip {
    /// Source address.
    Saddr,
    /// Destination address.
    Daddr,
}

/// Fields of an Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ether {
    /// Source address, [`Field::Ether`].
    Saddr,
    /// Destination address, [`Field::Ether`].
    Daddr,
    /// Protocol, [`Field::EtherType`].
    Type,
}

/// Keys of `ct`; those of tuples are of the original or the reply direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ct {
    /// State bits: [`Ct::ESTABLISHED`] and so on, for [`Test::AnyOf`].
    State,
    /// Status bits (`IPS_*`): [`Ct::DNAT`] and so on.
    Status,
    /// Connection mark, [`Field::Mark`].
    Mark,
    /// Direction of the packet, [`Field::Byte`]: original 0, reply 1.
    Direction,
    /// Address of a tuple, IPv4 (kernel 4.17).
    Ip4(TupleOf, Ip),
    /// Address of a tuple, IPv6 (kernel 4.17).
    Ip6(TupleOf, Ip),
    /// Source port of a tuple, [`Field::Port`].
    ProtoSrc(TupleOf),
    /// Destination port of a tuple, [`Field::Port`].
    ProtoDst(TupleOf),
}

/// Direction of a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TupleOf {
    /// As the connection was opened.
    Original,
    /// As the answers come.
    Reply,
}

impl Ct {
    /// State `invalid`.
    pub const INVALID: u32 = 1;
    /// State `established`.
    pub const ESTABLISHED: u32 = 2;
    /// State `related`.
    pub const RELATED: u32 = 4;
    /// State `new`.
    pub const NEW: u32 = 8;
    /// State `untracked`.
    pub const UNTRACKED: u32 = 64;
    /// Status `snat`: the source is translated (`IPS_SRC_NAT`).
    pub const SNAT: u32 = 16;
    /// Status `dnat`: the destination is translated (`IPS_DST_NAT`).
    pub const DNAT: u32 = 32;
}

impl Selector {
    /// `SYN` of [`Selector::TcpFlags`].
    pub const SYN: u32 = 2;
    /// `ACK` of [`Selector::TcpFlags`].
    pub const ACK: u32 = 16;
}

/// Which device a route lookup is restricted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fib {
    /// None.
    Any,
    /// The input device.
    Iif,
    /// The output device.
    Oif,
}

/// How a value must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Test {
    /// Equal.
    Is(Field),
    /// Not equal.
    Not(Field),
    /// A device name that starts so.
    StartsWith(String),
    /// An address in a prefix.
    Within(Subnet),
    /// An address outside of a prefix.
    Outside(Subnet),
    /// At least the first and at most the second, compared as big endian.
    Between(Field, Field),
    /// Less than the first or more than the second.
    NotBetween(Field, Field),
    /// Any of these bits set (32 bit, host order).
    AnyOf(u32),
    /// None of these bits set.
    NoneOf(u32),
    /// `value & mask == wanted` (32 bit in host order, or one byte).
    Bits {
        /// Bits looked at.
        mask: u32,
        /// What they must be.
        wanted: u32,
    },
    /// `value & mask != unwanted`, likewise.
    NotBits {
        /// Bits looked at.
        mask: u32,
        /// What they must not be.
        unwanted: u32,
    },
}

/// Source or destination translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// `snat`.
    Source,
    /// `dnat`.
    Destination,
}

/// Family of translated addresses; to be said in `inet` tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

/// What an address and port are translated to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NatTo {
    /// A fixed address, and a port range when given (first, last).
    Fixed(IpAddr, Option<(u16, u16)>),
    /// What a map holds under a key; a packet the map does not know goes on with the next rule.
    Map {
        /// The key.
        key: Vec<Selector>,
        /// Name of the map, of `address` or `address . port`.
        map: String,
        /// Family of its addresses.
        address: Address,
        /// Whether its data ends with a port.
        ports: Ports,
    },
}

/// Whether a map's data is `address . port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ports {
    /// `address . port`.
    Mapped,
    /// `address`: ports stay.
    Kept,
}

/// `NF_NAT_RANGE_*` flags a rule may give (linux/netfilter/nf_nat.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NatFlags {
    /// `random`.
    pub random: bool,
    /// `fully-random`.
    pub fully_random: bool,
    /// `persistent`.
    pub persistent: bool,
}

/// Which mark is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MarkOf {
    /// `meta mark`.
    Packet,
    /// `ct mark`.
    Connection,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// `reject with icmpx port-unreachable`.
    PortUnreachable,
    /// `reject with icmpx host-unreachable`.
    HostUnreachable,
    /// `reject with icmpx admin-prohibited`.
    AdminProhibited,
    /// `reject with tcp reset`.
    TcpReset,
}

/// Time a rate is per.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Second.
    Second,
    /// Minute.
    Minute,
    /// Hour.
    Hour,
}

/// `limit rate`: matches up to so many packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Packets.
    pub rate: u64,
    /// Per this time.
    pub per: Unit,
    /// Packets at once.
    pub burst: u32,
}

/// One expression of a rule: a match ends the rule when it does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expr {
    /// A comparison.
    Match(Selector, Test),
    /// The key is in a set.
    In(Vec<Selector>, String),
    /// The key is not in a set.
    NotIn(Vec<Selector>, String),
    /// The verdict a map holds under the key, if any.
    Vmap(Vec<Selector>, String),
    /// A verdict.
    Verdict(Verdict),
    /// `counter`.
    Counter,
    /// `masquerade`.
    Masquerade(NatFlags),
    /// `snat` and `dnat`.
    Nat(NatKind, NatTo, NatFlags),
    /// `redirect` to this host's own address, to the port that a map holds under a key; a packet the map does not
    /// know goes on with the next rule.
    Redirect(Vec<Selector>, String),
    /// `meta mark set (meta mark & mask) ^ xor`, or of the connection; mask 0 sets to `xor`.
    SetMark {
        /// The mark that is set.
        of: MarkOf,
        /// Bits that stay.
        mask: u32,
        /// Bits that are flipped then.
        xor: u32,
    },
    /// Copies one mark to the other: `meta mark set ct mark` for `Packet`.
    CopyMark(MarkOf),
    /// `meta nftrace set 1`: what becomes of the packet is told to everybody who listens.
    Trace,
    /// `reject`.
    Reject(Reject),
    /// `limit rate`.
    Limit(Limit),
}

impl Expr {
    /// `fib daddr type local`: the packet is for an address of this host.
    pub fn to_local() -> Self {
        Expr::Match(Selector::FibDaddrType(Fib::Any), Test::Is(Field::Mark(2)))
    }

    /// Equality with a value.
    pub fn is(selector: Selector, field: Field) -> Self {
        Expr::Match(selector, Test::Is(field))
    }
}
