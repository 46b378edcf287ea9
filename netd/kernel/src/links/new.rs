//! Devices to make.

use std::fmt;

use rnet_model::{IfName, MacAddr};

use super::Switch;
use crate::Netns;

/// A bridge to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBridge {
    /// Name.
    pub name: IfName,
    /// Marks it as ours; empty = none.
    pub alias: String,
    /// Bytes; fixed, unless it is the kernel's default of 1500. `None` = the smallest of its ports, 1500 without any.
    pub mtu: Option<u32>,
    /// Fixed address; `None` = random, which then stays when ports come and go.
    pub mac: Option<MacAddr>,
    /// `vlan_filtering`.
    pub vlan_filtering: bool,
    /// Whether the kernel makes an IPv6 link-local address for it.
    pub ipv6: AddressGeneration,
    /// `mcast_snooping`.
    pub snooping: Snooping,
}

impl NewBridge {
    /// Without an alias, without filtering; MTU and address as the kernel likes, no address generation, no snooping.
    pub fn new(name: IfName) -> Self {
        NewBridge {
            name,
            alias: String::new(),
            mtu: None,
            mac: None,
            vlan_filtering: false,
            ipv6: AddressGeneration::Off,
            snooping: Snooping::Off,
        }
    }
}

/// A veth pair to make: host end up and enslaved, the other end born in `netns` with its final name and address: one
/// message. Alias and address generation cannot be in it (the kernel ignores the one and refuses the other there), so
/// they follow, once it is known that the pair was made. IPv6 address generation is off on the host end by default, and on the
/// other one if it is in the same namespace; elsewhere [`LinkOp::Quiet`] does it before [`LinkOp::Up`].
#[derive(Debug, Clone)]
pub struct NewVeth {
    /// Host end.
    pub name: IfName,
    /// Marks it as ours; empty = none.
    pub alias: String,
    /// Address of the host end; `None` = the kernel's choice.
    pub mac: Option<MacAddr>,
    /// Whether the kernel makes IPv6 link-local addresses for the ends it is otherwise kept from.
    pub ipv6: AddressGeneration,
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

impl NewVeth {
    /// A pair of 1500 bytes in one namespace, without alias and bridge, with no address generation.
    pub fn new(name: IfName, peer: IfName, peer_mac: MacAddr) -> Self {
        NewVeth {
            name,
            alias: String::new(),
            mac: None,
            ipv6: AddressGeneration::Off,
            master: None,
            mtu: 1500,
            peer,
            peer_mac,
            netns: None,
        }
    }
}

/// Whether the kernel makes IPv6 link-local addresses for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressGeneration {
    /// It does not, and asks for no router (`addrgenmode none`).
    #[default]
    Off,
    /// As it always does: nothing is said about it.
    Kernel,
}

/// Multicast snooping of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Snooping {
    /// Off: each port that joins costs less.
    #[default]
    Off,
    /// As the kernel has it: nothing is said about it.
    Kernel,
}

/// Whether a device is to be up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admin {
    /// As it is born.
    #[default]
    Down,
    /// `IFF_UP`.
    Up,
}

/// Modes of macvlan (`MACVLAN_MODE_*`, linux/if_link.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Siblings do not reach each other.
    Private,
    /// Siblings reach each other through the switch outside.
    Vepa,
    /// Siblings reach each other.
    Bridge,
    /// One device alone, with the parent's address.
    Passthru,
}

impl MacvlanMode {
    pub(crate) fn number(self) -> u32 {
        match self {
            MacvlanMode::Private => 1,
            MacvlanMode::Vepa => 2,
            MacvlanMode::Bridge => 4,
            MacvlanMode::Passthru => 8,
        }
    }

    pub(crate) fn of(number: u32) -> Option<Self> {
        [MacvlanMode::Private, MacvlanMode::Vepa, MacvlanMode::Bridge, MacvlanMode::Passthru]
            .into_iter()
            .find(|m| m.number() == number)
    }

    /// The word of ip(8).
    pub fn word(self) -> &'static str {
        match self {
            MacvlanMode::Private => "private",
            MacvlanMode::Vepa => "vepa",
            MacvlanMode::Bridge => "bridge",
            MacvlanMode::Passthru => "passthru",
        }
    }
}

/// Modes of ipvlan (`IPVLAN_MODE_*`, linux/if_link.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanMode {
    /// Frames.
    L2,
    /// Packets, without broadcast and the parent's filters.
    L3,
    /// Packets, with the parent's filters.
    L3s,
}

impl IpvlanMode {
    pub(crate) fn number(self) -> u16 {
        match self {
            IpvlanMode::L2 => 0,
            IpvlanMode::L3 => 1,
            IpvlanMode::L3s => 2,
        }
    }

    pub(crate) fn of(number: u16) -> Option<Self> {
        [IpvlanMode::L2, IpvlanMode::L3, IpvlanMode::L3s].into_iter().find(|m| m.number() == number)
    }

    /// The word of ip(8).
    pub fn word(self) -> &'static str {
        match self {
            IpvlanMode::L2 => "l2",
            IpvlanMode::L3 => "l3",
            IpvlanMode::L3s => "l3s",
        }
    }
}

/// The kinds of [`NewDevice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Needs a parent.
    Macvlan {
        /// How it reaches its siblings.
        mode: MacvlanMode,
        /// Broadcasts that may wait (`IFLA_MACVLAN_BC_QUEUE_LEN`); `None` = the kernel's 1000.
        bc_queue_len: Option<u32>,
    },
    /// Needs a parent.
    Ipvlan {
        /// At which layer it works.
        mode: IpvlanMode,
    },
    /// Needs a parent.
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
    /// An intermediate functional block.
    Ifb,
}

impl DeviceKind {
    /// `IFLA_INFO_KIND`.
    pub fn word(self) -> &'static str {
        match self {
            DeviceKind::Macvlan { .. } => "macvlan",
            DeviceKind::Ipvlan { .. } => "ipvlan",
            DeviceKind::Vlan { .. } => "vlan",
            DeviceKind::Dummy => "dummy",
            DeviceKind::Vrf { .. } => "vrf",
            DeviceKind::Ifb => "ifb",
        }
    }
}

/// A device to make, in one message: born in `netns` under its final name and address, while its parent is where the
/// message is sent; before Linux 6.13 no device of that name may be there. An alias cannot be in it and follows. For a device born elsewhere, alias and master are refused:
/// they are set there.
#[derive(Debug, Clone)]
pub struct NewDevice {
    /// Name.
    pub name: IfName,
    /// Marks it as ours.
    pub alias: Option<String>,
    /// What it is.
    pub kind: DeviceKind,
    /// The device below, of the namespace the message is sent in.
    pub parent: Option<IfName>,
    /// Bytes; `None` = the kernel's choice, that of the parent.
    pub mtu: Option<u32>,
    /// Address; `None` = the kernel's choice.
    pub mac: Option<MacAddr>,
    /// Where it is born; `None` = the namespace the message is sent in.
    pub netns: Option<Netns>,
    /// Bridge or VRF.
    pub master: Option<IfName>,
    /// Whether it is born up.
    pub admin: Admin,
}

impl NewDevice {
    /// Down, here, without anything the kernel does not choose.
    pub fn new(name: IfName, kind: DeviceKind) -> Self {
        NewDevice {
            name,
            alias: None,
            kind,
            parent: None,
            mtu: None,
            mac: None,
            netns: None,
            master: None,
            admin: Admin::Down,
        }
    }
}

/// Queues of a tap device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Queues {
    /// One.
    #[default]
    One,
    /// As many as programs open (`IFF_MULTI_QUEUE`).
    Several,
}

/// A persistent tap device to make, in the namespace the operation is sent in, down. It has no route netlink message:
/// it is made through /dev/net/tun on a thread inside (linux/if_tun.h).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTap {
    /// Name.
    pub name: IfName,
    /// User that may open it; `None` = any with CAP_NET_ADMIN.
    pub owner: Option<u32>,
    /// Group that may open it.
    pub group: Option<u32>,
    /// How many programs, or threads of one, may open it.
    pub queues: Queues,
    /// Frames have a `struct virtio_net_hdr` in front (`IFF_VNET_HDR`).
    pub vnet_header: Switch,
}

impl fmt::Display for NewVeth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link add {}", self.name)?;
        if let Some(mac) = self.mac {
            write!(f, " address {mac}")?;
        }
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

impl fmt::Display for NewDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link add {}", self.name)?;
        if let Some(parent) = &self.parent {
            write!(f, " link {parent}")?;
        }
        if let Some(mac) = self.mac {
            write!(f, " address {mac}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if let Some(master) = &self.master {
            write!(f, " master {master}")?;
        }
        if self.admin == Admin::Up {
            f.write_str(" up")?;
        }
        if let Some(ns) = &self.netns {
            write!(f, " netns {ns}")?;
        }
        write!(f, " type {}", self.kind.word())?;
        match self.kind {
            DeviceKind::Macvlan { mode, bc_queue_len } => {
                write!(f, " mode {}", mode.word())?;
                bc_queue_len.map_or(Ok(()), |n| write!(f, " bcqueuelen {n}"))
            }
            DeviceKind::Ipvlan { mode } => write!(f, " mode {}", mode.word()),
            DeviceKind::Vlan { id } => write!(f, " id {id}"),
            DeviceKind::Vrf { table } => write!(f, " table {table}"),
            DeviceKind::Dummy | DeviceKind::Ifb => Ok(()),
        }
    }
}

impl fmt::Display for NewTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tuntap add {} mode tap", self.name)?;
        if let Some(user) = self.owner {
            write!(f, " user {user}")?;
        }
        if let Some(group) = self.group {
            write!(f, " group {group}")?;
        }
        if self.queues == Queues::Several {
            f.write_str(" multi_queue")?;
        }
        if self.vnet_header == Switch::On { f.write_str(" vnet_hdr") } else { Ok(()) }
    }
}
