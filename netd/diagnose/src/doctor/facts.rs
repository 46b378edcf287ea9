//! What the checks look at. Plain values, so that a test writes them down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use rnet_kernel::rules::{Base, Family};
use rnet_model::Subnet;

use crate::explain::Publication;

/// Everything about a host.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Features of the kernel that were tried.
    pub features: Vec<Feature>,
    /// Programs that were looked for and are not there.
    pub missing_programs: Vec<String>,
    /// Settings below /proc/sys by path (`net/ipv4/ip_forward`), those that exist.
    pub sysctls: BTreeMap<String, String>,
    /// Links of the host.
    pub links: Vec<Link>,
    /// Unicast routes of the main table.
    pub routes: Vec<Route>,
    /// Tables of nf_tables that are not rnet's.
    pub tables: Vec<TableFact>,
    /// Tables that iptables-legacy has made in the kernel.
    pub legacy_tables: Vec<String>,
    /// Policy of the FORWARD chain of iptables-legacy, where it could be asked.
    pub legacy_forward: Option<String>,
    /// Programs that run in this network namespace and manage networks or firewalls.
    pub services: BTreeSet<Service>,
    /// Whether systemd-networkd leaves routes of others alone (`ManageForeignRoutes=no`).
    pub networkd_spares_routes: bool,
    /// Whether NetworkManager is told to leave rnet's devices alone.
    pub nm_spares_devices: bool,
    /// Whether dhcpcd is.
    pub dhcpcd_spares_devices: bool,
    /// Sockets of the host that listen.
    pub listeners: Vec<Listener>,
    /// Neighbours known to the host.
    pub neighbours: usize,
    /// Open files a process may have (soft limit), of the process that looks.
    pub open_files: Option<u64>,
    /// Files with what others may do.
    pub files: Vec<FileFact>,
    /// The daemon.
    pub daemon: Daemon,
    /// What could not be looked at, and why.
    pub skipped: Vec<String>,
}

/// A feature of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// What it is called.
    pub name: &'static str,
    /// What needs it.
    pub purpose: &'static str,
    /// Whether networks work without it.
    pub need: Need,
    /// What the kernel said, if it is not there.
    pub missing: Option<String>,
}

/// How much a feature is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing works without.
    Always,
    /// Some options do not work without.
    Sometimes,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: String,
    /// Whether it is a bridge.
    pub bridge: bool,
    /// Bytes.
    pub mtu: u32,
    /// The bridge it is in.
    pub master: Option<String>,
    /// Whether netd made it.
    pub ours: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub destination: Subnet,
    /// Device.
    pub dev: String,
    /// `rtm_protocol`: 9 = router advertisement.
    pub protocol: u8,
}

impl Route {
    /// Whether it is a default route.
    pub fn is_default(&self) -> bool {
        self.destination.prefix() == 0
    }
}

/// A table of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFact {
    /// Family.
    pub family: Family,
    /// Name.
    pub name: String,
    /// Its chains.
    pub chains: Vec<ChainFact>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainFact {
    /// Name.
    pub name: String,
    /// Where it is called.
    pub base: Option<Base>,
    /// Its rules in the words of nft(8); none when that is not installed.
    pub rules: Vec<String>,
}

/// A program that manages networks or firewalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// firewalld.
    Firewalld,
    /// ufw is enabled.
    Ufw,
    /// systemd-networkd.
    Networkd,
    /// NetworkManager.
    NetworkManager,
    /// dhcpcd.
    Dhcpcd,
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// `name (pid N)`, where it could be found out.
    pub process: Option<String>,
}

/// A file or folder and what others may do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFact {
    /// Path.
    pub path: PathBuf,
    /// Permission bits, 0o7777.
    pub mode: u32,
    /// User id of its owner.
    pub owner: u32,
    /// Bits that should not be set.
    pub forbidden: u32,
}

/// The daemon of the instance.
#[derive(Debug, Clone, Default)]
pub struct Daemon {
    /// Why it cannot be asked, if so; everything below is empty then.
    pub unreachable: Option<String>,
    /// How to start it.
    pub start: String,
    /// What does not work, by its own account.
    pub degraded: Vec<String>,
    /// Networks.
    pub networks: Vec<NetworkFact>,
    /// Interfaces of containers.
    pub endpoints: Vec<EndpointFact>,
    /// Published ports.
    pub publications: Vec<Publication>,
}

/// A network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkFact {
    /// Name.
    pub name: String,
    /// Subnets.
    pub subnets: Vec<Subnet>,
    /// Bridge.
    pub bridge: Option<String>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Whether it has no way out.
    pub internal: bool,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

/// An interface of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointFact {
    /// Container.
    pub container: String,
    /// Name in it.
    pub ifname: String,
    /// Bridge of its host end.
    pub bridge: Option<String>,
    /// Bytes.
    pub mtu: u32,
    /// Why it failed, if so.
    pub error: Option<String>,
}

impl Facts {
    /// A setting as a number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.sysctls.get(key)?.trim().parse().ok()
    }

    /// Whether a setting is on.
    pub fn is_on(&self, key: &str) -> bool {
        self.number(key).is_some_and(|n| n != 0)
    }

    /// Names of the bridges that netd made or uses.
    pub fn our_bridges(&self) -> BTreeSet<&str> {
        let networks = self.daemon.networks.iter().filter_map(|n| n.bridge.as_deref());
        let endpoints = self.daemon.endpoints.iter().filter_map(|e| e.bridge.as_deref());
        let made = self.links.iter().filter(|l| l.bridge && l.ours).map(|l| l.name.as_str());
        networks.chain(endpoints).chain(made).collect()
    }
}
