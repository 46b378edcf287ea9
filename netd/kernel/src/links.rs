//! Links, addresses and routes: what can be asked of one namespace's route netlink, as values.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use rnet_model::{IfAddr, IfName, MacAddr, Subnet};

use crate::{KernelError, Netns};

/// Route netlink of one network namespace. One value is used by one thread; every verb is idempotent where the kernel
/// allows it (see [`LinkOp`]).
pub trait Links: Send {
    /// All links. Repeats a dump the kernel marks as interrupted (`NLM_F_DUMP_INTR`).
    fn links(&mut self) -> Result<Vec<LinkState>, KernelError>;
    /// One link, `None` if there is none of that name.
    fn link(&mut self, name: &IfName) -> Result<Option<LinkState>, KernelError>;
    /// All addresses.
    fn addresses(&mut self) -> Result<Vec<Address>, KernelError>;
    /// The addresses of one device, by ifindex; none if there is no such device.
    fn addresses_of(&mut self, index: u32) -> Result<Vec<Address>, KernelError>;
    /// All unicast routes of the main table.
    fn routes(&mut self) -> Result<Vec<Route>, KernelError>;
    /// All unicast routes through one device, of every table.
    fn routes_through(&mut self, dev: &IfName) -> Result<Vec<Route>, KernelError>;
    /// Sends all operations in one datagram, in order (a device that is made takes a second one, see [`NewVeth`], before
    /// what follows it). The kernel goes on after a failed one: every failure comes back with its index. An empty list means that all took effect. Outcomes that already were as asked (`EEXIST` of an
    /// equal address or route, `ENODEV`/`ESRCH`/`EADDRNOTAVAIL` of a removal) are no faults.
    fn batch(&mut self, ops: &[LinkOp]) -> Result<Vec<Fault>, KernelError>;
}

/// The failure of one operation of a batch.
#[derive(Debug)]
pub struct Fault {
    /// Index into the operations given.
    pub index: usize,
    /// What the kernel said.
    pub error: KernelError,
}

/// What a link is, as far as rnet decides by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// Linux bridge; whether it filters VLANs.
    Bridge {
        /// `vlan_filtering` of the bridge.
        vlan_filtering: bool,
    },
    /// One end of a veth pair; ifindex of the other end in its own namespace.
    Veth {
        /// `IFLA_LINK`.
        peer: Option<u32>,
    },
    /// `lo`.
    Loopback,
    /// A device without `IFLA_INFO_KIND`: a physical NIC.
    Physical,
    /// Anything else, by its `IFLA_INFO_KIND`.
    Other(String),
}

/// A link as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// ifindex.
    pub index: u32,
    /// Name.
    pub name: IfName,
    /// Kind.
    pub kind: LinkKind,
    /// `IFF_UP`.
    pub up: bool,
    /// Operational carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Bytes.
    pub mtu: u32,
    /// Hardware address, if it is a unicast Ethernet one.
    pub mac: Option<MacAddr>,
    /// ifindex of the bridge it is a port of (`IFLA_MASTER`).
    pub master: Option<u32>,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// `IFLA_GROUP`.
    pub group: u32,
}

/// An address as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// ifindex.
    pub index: u32,
    /// Address.
    pub ip: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// Set by the kernel itself (IPv6 link-local, router advertisements) rather than by somebody.
    pub automatic: bool,
    /// `IFA_F_SECONDARY` and friends excluded: the scope is link or host.
    pub narrow: bool,
    /// `IFA_BROADCAST`, which an IPv4 address need not have.
    pub broadcast: Option<Ipv4Addr>,
}

/// A unicast route, reported or asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub destination: Subnet,
    /// Next hop; `None` = on link.
    pub via: Option<IpAddr>,
    /// Device by name when asked for; reported routes carry it too.
    pub dev: IfName,
    /// Metric (`RTA_PRIORITY`); `None` = the kernel's default.
    pub metric: Option<u32>,
    /// The next hop is taken to be on the link (`RTNH_F_ONLINK`).
    pub onlink: bool,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// Who made it (`rtm_protocol`, linux/rtnetlink.h): 2 = kernel, 3 = boot, 4 = static, [`Route::OURS`] = rnet.
    pub protocol: u8,
    /// Table (`RTA_TABLE`), [`Route::MAIN`] unless rules of policy routing lead elsewhere.
    pub table: u32,
}

impl Route {
    /// RT_TABLE_MAIN.
    pub const MAIN: u32 = libc::RT_TABLE_MAIN as u32;

    /// The route protocol number of rnet, outside the numbers rtnetlink.h and iproute2 know.
    pub const OURS: u8 = 0x4e;
}

/// A bridge to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBridge {
    /// Name.
    pub name: IfName,
    /// Marks it as ours.
    pub alias: String,
    /// Bytes; fixed, unless it is the kernel's default of 1500. `None` = the smallest of its ports, 1500 without any.
    pub mtu: Option<u32>,
    /// Fixed address; `None` = random, which then stays when ports come and go.
    pub mac: Option<MacAddr>,
    /// `vlan_filtering`.
    pub vlan_filtering: bool,
}

/// A veth pair to make: host end up and enslaved, the other end born in `netns` with its final name and address: one
/// message. Alias and address generation cannot be in it (the kernel ignores the one and refuses the other there), so
/// they follow, once it is known that the pair was made. IPv6 address generation is off on the host end, and on the
/// other one if it is in the same namespace; elsewhere [`LinkOp::Quiet`] does it before [`LinkOp::Up`].
#[derive(Debug, Clone)]
pub struct NewVeth {
    /// Host end.
    pub name: IfName,
    /// Marks it as ours.
    pub alias: String,
    /// Bridge of the host end.
    pub master: Option<IfName>,
    /// Bytes, of both ends.
    pub mtu: u32,
    /// Name inside.
    pub peer: IfName,
    /// Address inside.
    pub peer_mac: MacAddr,
    /// Namespace of the other end; `None` = the namespace the message is sent in.
    pub netns: Option<Netns>,
}

/// One change. Devices are named, not numbered; a name is looked up when the batch is sent, so an address or a route
/// cannot go into the batch that makes its device.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LinkOp {
    /// Makes a bridge, up. Fails if the name is taken.
    NewBridge(NewBridge),
    /// Makes a veth pair. Fails if a name is taken.
    NewVeth(NewVeth),
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
    /// The same with this broadcast address, or without one: an address that moves stays as it was.
    MoveAddress(IfName, IfAddr, Option<Ipv4Addr>),
    /// `ip addr del`.
    DelAddress(IfName, IfAddr),
    /// `ip route add`.
    AddRoute(Route),
    /// `ip route del`; matches destination, next hop, device and metric.
    DelRoute(Route),
    /// Bridge port without address learning from and flooding to others' view: `bridge link set DEV isolated on|off`.
    Isolated(IfName, bool),
}

impl fmt::Display for NewVeth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link add {}", self.name)?;
        if let Some(master) = &self.master {
            write!(f, " master {master}")?;
        }
        write!(f, " mtu {} up type veth peer name {} address {}", self.mtu, self.peer, self.peer_mac)?;
        match &self.netns {
            Some(ns) => write!(f, " netns {ns}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.destination.prefix() == 0 {
            f.write_str("default")?;
        } else {
            write!(f, "{}", self.destination)?;
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " dev {}", self.dev)?;
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        if self.table != Route::MAIN {
            write!(f, " table {}", self.table)?;
        }
        if self.onlink { f.write_str(" onlink") } else { Ok(()) }
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
