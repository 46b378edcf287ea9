//! What the tables are told: one [`FilterChange`] per fact, whatever number of elements it takes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use rnet_model::{IfName, MacAddr, Protocol, Subnet};

/// A set of devices of the table, and what being in it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FilterSet {
    /// Bridges of rnet networks (ifname): the protected devices.
    Networks,
    /// Bridges whose networks talk to no other network (ifname).
    Isolated,
    /// Bridges nothing may enter or leave (ifname).
    Internal,
    /// Bridges whose ports are quiet ([`FilterChange::Quiet`]): nor do they meet by way of the host (ifname).
    Apart,
}

/// One fact about the networks and endpoints of the host that the packet filter acts on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FilterChange {
    /// A bridge in one of the sets of devices.
    Device(FilterSet, IfName),
    /// Sources of this prefix are masqueraded on the way out of any device not in [`FilterSet::Networks`].
    Masquerade(Subnet),
    /// Sources of this prefix leave with this address of the host instead. Both of one family.
    Outbound(Subnet, IpAddr),
    /// A port of this host leads to a container.
    Published(Published),
    /// A port on loopback leads to a proxy.
    Redirected(Redirected),
    /// A port of a container may be reached from outside.
    Opened(Opened),
    /// A container with published ports: what it sends to itself by way of the host comes back by way of the host.
    Itself(IpAddr),
    /// The host's firewall drops what comes in, IPv4 (`true`) or IPv6: published ports are closed to everything but the
    /// host itself and rnet's networks for this family.
    HostDrops(bool),
    /// What a bridge port may send.
    Guard(Guard),
    /// A bridge port that hears from and talks to no other such port.
    Quiet(IfName),
    /// What two quiet ports may say to each other.
    Linked(Linked),
}

/// A port of this host that leads to a port of a container: for destinations that are addresses of this host, whoever
/// asks. There is one for each protocol, address and port: a second one is refused (EBUSY) unless the first goes in the
/// same change, and removing it removes it whatever its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Published {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The address of the host; the unspecified one means every address of the family but loopback.
    pub host: IpAddr,
    /// Port of the host.
    pub port: u16,
    /// The container's address, of the same family, and port.
    pub target: SocketAddr,
}

/// A port on loopback, for this host's own connections alone, that leads to a proxy listening on 127.0.0.1 or ::1.
/// One for each protocol, address and port, as with [`Published`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Redirected {
    /// Transport protocol.
    pub protocol: Protocol,
    /// A loopback address; the unspecified one means every loopback address of the family.
    pub host: IpAddr,
    /// Port that is asked for.
    pub port: u16,
    /// Port of the proxy.
    pub proxy: u16,
}

/// A port of a container in a routed network that may be reached from outside by the container's own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Opened {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The container's address and port.
    pub target: SocketAddr,
}

/// What a bridge port may send: frames of its hardware address with its own addresses, its link-local address (of
/// the hardware address) and what one sends before one has an address (duplicate address detection, ARP probes, DHCP).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guard {
    /// The port.
    pub port: IfName,
    /// Hardware address of the container's interface.
    pub mac: MacAddr,
    /// The container's addresses there.
    pub addresses: Vec<IpAddr>,
}

/// One direction of an exception to [`FilterChange::Quiet`]: `from` may connect to this port of `to`, and is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Linked {
    /// Address of the asking container.
    pub from: IpAddr,
    /// Address of the asked container, of the same family.
    pub to: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port of `to`.
    pub port: u16,
}

impl Guard {
    /// The guard in its one form: addresses in order, without the one that follows from the hardware address.
    pub fn new(port: IfName, mac: MacAddr, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let automatic = mac.link_local().ip();
        let mut addresses: Vec<IpAddr> = addresses.into_iter().filter(|address| *address != automatic).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Guard { port, mac, addresses }
    }
}

impl FilterSet {
    /// All of them.
    pub(super) const ALL: [FilterSet; 4] =
        [FilterSet::Networks, FilterSet::Isolated, FilterSet::Internal, FilterSet::Apart];

    /// Name of the set in the table.
    pub fn name(self) -> &'static str {
        match self {
            FilterSet::Networks => "networks",
            FilterSet::Isolated => "isolated",
            FilterSet::Internal => "internal_only",
            FilterSet::Apart => "apart",
        }
    }
}

impl fmt::Display for FilterChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterChange::Device(set, device) => write!(f, "{} {device}", set.name()),
            FilterChange::Masquerade(net) => write!(f, "masquerade {net}"),
            FilterChange::Outbound(net, address) => write!(f, "snat {net} to {address}"),
            FilterChange::Published(it) => {
                write!(f, "publish {} to {} {}", SocketAddr::new(it.host, it.port), it.protocol, it.target)
            }
            FilterChange::Redirected(it) => {
                write!(f, "redirect {} to {} port {}", SocketAddr::new(it.host, it.port), it.protocol, it.proxy)
            }
            FilterChange::Opened(it) => write!(f, "open {} {}", it.protocol, it.target),
            FilterChange::Itself(address) => write!(f, "answer {address} itself"),
            FilterChange::HostDrops(true) => f.write_str("the host drops ip"),
            FilterChange::HostDrops(false) => f.write_str("the host drops ip6"),
            FilterChange::Guard(Guard { port, mac, addresses }) => {
                write!(f, "guard {port}: {mac}")?;
                addresses.iter().try_for_each(|address| write!(f, " {address}"))
            }
            FilterChange::Quiet(port) => write!(f, "quiet {port}"),
            FilterChange::Linked(it) => {
                write!(f, "link {} to {} {}", it.from, it.protocol, SocketAddr::new(it.to, it.port))
            }
        }
    }
}
