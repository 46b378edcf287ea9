//! Changes, as values.

use std::fmt;
use std::net::Ipv4Addr;

use rnet_model::{IfAddr, IfName, MacAddr};

use super::{NewBridge, NewDevice, NewTap, NewVeth, PortVlan, QdiscPlace, Route, Rule, Tbf};
use crate::Netns;

/// One change. Devices are named, not numbered; a name is looked up when the batch is sent, so an address or a route
/// cannot go into the batch that makes its device.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LinkOp {
    /// Makes a bridge, up. Fails if the name is taken.
    NewBridge(NewBridge),
    /// Makes a veth pair. Fails if a name is taken.
    NewVeth(NewVeth),
    /// Makes a device of another kind. Fails if the name is taken.
    NewDevice(NewDevice),
    /// Makes a tap device. Fails if the name is taken.
    NewTap(NewTap),
    /// `ip link set DEV netns NS [name NAME]`: into another namespace, under another name. It goes down, and loses
    /// addresses and routes.
    Move {
        /// Name here.
        name: IfName,
        /// Where to.
        netns: Netns,
        /// Name there; `None` = the same.
        new_name: Option<IfName>,
    },
    /// `ip link set OLD name NEW`.
    Rename(IfName, IfName),
    /// `ip link set DEV promisc on|off`.
    Promisc(IfName, Switch),
    /// `ip link set DEV allmulticast on|off`.
    AllMulti(IfName, Switch),
    /// `ip link set DEV txqueuelen N`.
    TxQueueLen(IfName, u32),
    /// `bridge link set dev DEV hairpin on|off`.
    Hairpin(IfName, Switch),
    /// `ip link set BRIDGE type bridge vlan_filtering 1|0`. On a kernel whose bridges cannot it fails with EOPNOTSUPP.
    VlanFiltering(IfName, Switch),
    /// `bridge vlan add`: VLANs the port has already take the new flags.
    PortVlan(PortVlan),
    /// `bridge vlan del`; flags do not matter. VLANs the port does not have are success.
    DelPortVlan(PortVlan),
    /// A setting under net/ipv4/conf/DEV.
    Devconf4(IfName, Devconf4, i32),
    /// `ip link set DEV up`.
    Up(IfName),
    /// `ip link set DEV down`.
    Down(IfName),
    /// `ip link set DEV master BRIDGE`.
    Master(IfName, IfName),
    /// `ip link set DEV nomaster`.
    NoMaster(IfName),
    /// `ip link set DEV mtu N`.
    Mtu(IfName, u32),
    /// `ip link set DEV address MAC`.
    Mac(IfName, MacAddr),
    /// `ip link set DEV alias TEXT`; empty removes it.
    Alias(IfName, String),
    /// `ip link set DEV addrgenmode none`: the kernel makes no IPv6 link-local address for it, and asks for no router.
    /// Has to come before the device has carrier. No IPv6 there is success.
    Quiet(IfName),
    /// Cuts a port off and marks it for a group delete: down, group N, in one message. It stays a port until then: a
    /// bridge lets each port go with a grace period of its own, which the group delete does for all of them.
    Retire(IfName, u32),
    /// `ip link del DEV`. No such device is success.
    Delete(IfName),
    /// `ip link del group N`: all devices of the group in one grace period. None is success.
    DeleteGroup(u32),
    /// `ip addr add` with broadcast for IPv4 and without duplicate detection for IPv6.
    AddAddress(IfName, IfAddr),
    /// `ip addr add` with broadcast for IPv4 and with duplicate detection for IPv6, as the kernel does of its own.
    DetectAddress(IfName, IfAddr),
    /// The same as [`LinkOp::AddAddress`] with this broadcast address, or without one: an address that moves stays as it was.
    MoveAddress(IfName, IfAddr, Option<Ipv4Addr>),
    /// `ip addr del`.
    DelAddress(IfName, IfAddr),
    /// `ip route add`.
    AddRoute(Route),
    /// `ip route del`; matches destination, next hop, device and metric.
    DelRoute(Route),
    /// Bridge port without address learning from and flooding to others' view: `bridge link set DEV isolated on|off`.
    Isolated(IfName, bool),
    /// `ip rule add`. An equal one being there is success.
    AddRule(Rule),
    /// `ip rule del`: the first that has all that is asked for. None is success.
    DelRule(Rule),
    /// `tc qdisc add dev DEV root tbf`.
    Tbf(Tbf),
    /// `tc qdisc add dev DEV ingress`.
    Ingress(IfName),
    /// All that comes in at `from`, which has an ingress qdisc, leaves through `to` instead (cls_u32, mirred egress
    /// redirect).
    MirrorIngress {
        /// Where it comes in.
        from: IfName,
        /// Where it leaves.
        to: IfName,
    },
    /// `tc qdisc del`, with its filters. None there is success.
    DelQdisc(IfName, QdiscPlace),
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Switch {
    /// Off.
    #[default]
    Off,
    /// On.
    On,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Switch::On
    }
}

impl From<bool> for Switch {
    fn from(on: bool) -> Self {
        if on { Switch::On } else { Switch::Off }
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "on" } else { "off" })
    }
}

/// IPv4 settings of a device that need nothing but their value set (`IPV4_DEVCONF_*`, linux/ip.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devconf4 {
    /// proxy_arp.
    ProxyArp,
    /// accept_redirects.
    AcceptRedirects,
    /// send_redirects.
    SendRedirects,
    /// rp_filter.
    RpFilter,
    /// arp_announce.
    ArpAnnounce,
    /// arp_ignore.
    ArpIgnore,
    /// arp_accept.
    ArpAccept,
    /// arp_notify.
    ArpNotify,
    /// accept_local.
    AcceptLocal,
    /// route_localnet.
    RouteLocalnet,
}

impl Devconf4 {
    pub(crate) fn number(self) -> u16 {
        match self {
            Devconf4::ProxyArp => 3,
            Devconf4::AcceptRedirects => 4,
            Devconf4::SendRedirects => 6,
            Devconf4::RpFilter => 8,
            Devconf4::ArpAnnounce => 18,
            Devconf4::ArpIgnore => 19,
            Devconf4::ArpAccept => 21,
            Devconf4::ArpNotify => 22,
            Devconf4::AcceptLocal => 23,
            Devconf4::RouteLocalnet => 26,
        }
    }

    /// File name under net/ipv4/conf/DEV.
    pub fn word(self) -> &'static str {
        match self {
            Devconf4::ProxyArp => "proxy_arp",
            Devconf4::AcceptRedirects => "accept_redirects",
            Devconf4::SendRedirects => "send_redirects",
            Devconf4::RpFilter => "rp_filter",
            Devconf4::ArpAnnounce => "arp_announce",
            Devconf4::ArpIgnore => "arp_ignore",
            Devconf4::ArpAccept => "arp_accept",
            Devconf4::ArpNotify => "arp_notify",
            Devconf4::AcceptLocal => "accept_local",
            Devconf4::RouteLocalnet => "route_localnet",
        }
    }
}

/// The words of ip(8) that would do the same.
impl fmt::Display for LinkOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkOp::NewBridge(b) => {
                write!(f, "link add {} type bridge", b.name)?;
                if b.vlan_filtering { f.write_str(" vlan_filtering 1") } else { Ok(()) }
            }
            LinkOp::NewVeth(v) => v.fmt(f),
            LinkOp::NewDevice(d) => d.fmt(f),
            LinkOp::NewTap(t) => t.fmt(f),
            LinkOp::Move { name, netns, new_name } => {
                write!(f, "link set {name} netns {netns}")?;
                new_name.as_ref().map_or(Ok(()), |n| write!(f, " name {n}"))
            }
            LinkOp::Rename(old, new) => write!(f, "link set {old} name {new}"),
            LinkOp::Promisc(d, on) => write!(f, "link set {d} promisc {on}"),
            LinkOp::AllMulti(d, on) => write!(f, "link set {d} allmulticast {on}"),
            LinkOp::TxQueueLen(d, n) => write!(f, "link set {d} txqueuelen {n}"),
            LinkOp::Hairpin(d, on) => write!(f, "link set {d} type bridge_slave hairpin {on}"),
            LinkOp::VlanFiltering(d, on) => {
                write!(f, "link set {d} type bridge vlan_filtering {}", u8::from(on.is_on()))
            }
            LinkOp::PortVlan(v) => write!(f, "vlan add {v}"),
            LinkOp::DelPortVlan(v) => write!(f, "vlan del {}", PortVlan { pvid: false, untagged: false, ..v.clone() }),
            LinkOp::Devconf4(d, key, value) => write!(f, "net/ipv4/conf/{d}/{}={value}", key.word()),
            LinkOp::DetectAddress(d, a) => write!(f, "addr add {a} dev {d} with duplicate detection"),
            LinkOp::AddRule(r) => write!(f, "rule add {r}"),
            LinkOp::DelRule(r) => write!(f, "rule del {r}"),
            LinkOp::Tbf(t) => write!(f, "qdisc add {t}"),
            LinkOp::Ingress(d) => write!(f, "qdisc add dev {d} ingress"),
            LinkOp::MirrorIngress { from, to } => write!(
                f,
                "filter add dev {from} ingress protocol all u32 match u32 0 0 action mirred egress redirect dev {to}"
            ),
            LinkOp::DelQdisc(d, place) => write!(f, "qdisc del dev {d} {place}"),
            LinkOp::Up(d) => write!(f, "link set {d} up"),
            LinkOp::Down(d) => write!(f, "link set {d} down"),
            LinkOp::Master(d, m) => write!(f, "link set {d} master {m}"),
            LinkOp::NoMaster(d) => write!(f, "link set {d} nomaster"),
            LinkOp::Mtu(d, n) => write!(f, "link set {d} mtu {n}"),
            LinkOp::Mac(d, m) => write!(f, "link set {d} address {m}"),
            LinkOp::Alias(d, a) => write!(f, "link set {d} alias {a:?}"),
            LinkOp::Quiet(d) => write!(f, "link set {d} addrgenmode none"),
            LinkOp::Retire(d, g) => write!(f, "link set {d} down group {g}"),
            LinkOp::Delete(d) => write!(f, "link del {d}"),
            LinkOp::DeleteGroup(g) => write!(f, "link del group {g}"),
            LinkOp::AddAddress(d, a) => write!(f, "addr add {a} dev {d}"),
            LinkOp::MoveAddress(d, a, broadcast) => {
                write!(f, "addr add {a} ")?;
                broadcast.map_or(Ok(()), |b| write!(f, "broadcast {b} "))?;
                write!(f, "dev {d}")
            }
            LinkOp::DelAddress(d, a) => write!(f, "addr del {a} dev {d}"),
            LinkOp::AddRoute(r) => write!(f, "route add {r}"),
            LinkOp::DelRoute(r) => write!(f, "route del {r}"),
            LinkOp::Isolated(d, on) => {
                write!(f, "link set {d} type bridge_slave isolated {}", if *on { "on" } else { "off" })
            }
        }
    }
}
