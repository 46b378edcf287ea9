//! Links, addresses and routes: what can be asked of one namespace's route netlink, as values.

mod counters;
mod new;
mod op;
mod route;
mod traffic;

use std::net::{IpAddr, Ipv4Addr};

use rnet_model::{IfName, MacAddr};

pub use self::counters::Counters;
pub use self::new::{
    AddressGeneration, Admin, DeviceKind, IpvlanMode, MacvlanMode, NewBridge, NewDevice, NewTap, NewVeth, Queues,
    Snooping,
};
pub use self::op::{Devconf4, LinkOp, Switch};
pub use self::route::{Family, Fwmark, NextHop, Route, RouteKind, Rule};
pub use self::traffic::{PortVlan, Qdisc, QdiscPlace, Tbf, TbfState, VlanTarget};

use crate::KernelError;

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
    /// One link by its ifindex, `None` if there is none.
    fn link_by_index(&mut self, index: u32) -> Result<Option<LinkState>, KernelError>;
    /// What a bridge port is set to; `None` if there is no such device or it is no port of a bridge.
    fn port(&mut self, dev: &IfName) -> Result<Option<Port>, KernelError>;
    /// The VLANs of a bridge port, or of a bridge itself, in ascending order. Empty where the kernel's bridges know
    /// none, and if there is no such device.
    fn port_vlans(&mut self, dev: &IfName) -> Result<Vec<VlanEntry>, KernelError>;
    /// The qdiscs of a device that somebody made; not those the kernel gives each device (handle 0).
    fn qdiscs(&mut self, dev: &IfName) -> Result<Vec<Qdisc>, KernelError>;
    /// The ifindexes all that comes in at a device is sent to instead ([`LinkOp::MirrorIngress`]).
    fn ingress_mirrors(&mut self, dev: &IfName) -> Result<Vec<u32>, KernelError>;
    /// The policy rules of both families that lead to a table, in the order the kernel asks them. Those with selectors
    /// or actions [`Rule`] has no words for are left out.
    fn rules(&mut self) -> Result<Vec<Rule>, KernelError>;
    /// All unicast routes of the main table, one for each next hop.
    fn routes(&mut self) -> Result<Vec<Route>, KernelError>;
    /// All routes of one table, of every [`RouteKind`], those with several next hops whole.
    fn routes_of_table(&mut self, table: u32) -> Result<Vec<Route>, KernelError>;
    /// All unicast routes through one device, of every table, one for each next hop.
    fn routes_through(&mut self, dev: &IfName) -> Result<Vec<Route>, KernelError>;
    /// Sends all operations in one datagram, in order (a device that is made takes a second one, see [`NewVeth`], before
    /// what follows it). The kernel goes on after a failed one: every failure comes back with its index. An empty list means that all took effect. Outcomes that already were as asked (`EEXIST` of an
    /// equal address, route, rule or qdisc, `ENODEV`/`ESRCH`/`EADDRNOTAVAIL` of a removal) are no faults.
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
    /// A macvlan device; its [`LinkState::parent`] is the device below.
    Macvlan {
        /// How it reaches its siblings.
        mode: MacvlanMode,
    },
    /// An ipvlan device.
    Ipvlan {
        /// At which layer it works.
        mode: IpvlanMode,
    },
    /// An 802.1Q device.
    Vlan {
        /// 1 to 4094.
        id: u16,
    },
    /// A dummy device.
    Dummy,
    /// A VRF.
    Vrf {
        /// Its routing table.
        table: u32,
    },
    /// An intermediate functional block, the device traffic is sent through to be shaped.
    Ifb,
    /// A tun device, of layer 3.
    Tun,
    /// A tap device, of layer 2.
    Tap,
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
    /// `IFF_PROMISC`, as somebody set it; what the kernel needs for itself does not show here.
    pub promisc: bool,
    /// `IFF_ALLMULTI`, the same.
    pub allmulti: bool,
    /// Frames (`IFLA_TXQLEN`).
    pub tx_queue_len: u32,
    /// ifindex of the device below, for a veth of the other end (`IFLA_LINK`).
    pub parent: Option<u32>,
    /// The parent is in another namespace and its ifindex of there (`IFLA_LINK_NETNSID`).
    pub parent_elsewhere: bool,
}

/// What a bridge port is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Frames may leave where they came in (`IFLA_BRPORT_MODE`).
    pub hairpin: bool,
    /// No frames between isolated ports (`IFLA_BRPORT_ISOLATED`).
    pub isolated: bool,
}

/// A VLAN of a bridge port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VlanEntry {
    /// 1 to 4094.
    pub vid: u16,
    /// Frames without a tag belong to it.
    pub pvid: bool,
    /// Its frames leave without a tag.
    pub untagged: bool,
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
