//! Records: what the engine remembers, as it is written to the run log and the store.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use rnet_api::LinkRequest;
use rnet_model::{
    AttachSpec, DnsName, EndpointId, Engine, IfAddr, IfName, MacAddr, NetworkId, NetworkSpec, RouteSpec, SandboxId,
    Subnet,
};
use serde::{Deserialize, Serialize};

use super::naming::Presented;
use crate::resolve::Target;

/// How the namespace of an endpoint is found again after a restart of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// A sandbox of this container.
    Sandbox,
    /// A namespace file.
    Path(PathBuf),
    /// A process.
    Pid(u32),
}

/// The life of an endpoint, as far as it must survive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// Links may or may not be there: taken back at the next start.
    Wiring,
    /// There.
    Live,
    /// Links may or may not be there: removed at the next start.
    Draining,
    /// Wanted again as soon as its container runs.
    Pending,
    /// Wanted, and the last try failed.
    Failed {
        /// RFC 3339.
        since: String,
        /// Why.
        text: String,
    },
}

/// Who asked for the endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Origin {
    /// `rnet attach`.
    Attach(Box<AttachSpec>),
    /// `rnet network connect` or a container's network mode.
    Network(NetworkId),
    /// Plugin `rnet` of a network of a CNI runtime.
    Cni {
        /// The network it stands on.
        network: NetworkId,
        /// What the runtime calls its own.
        list: String,
    },
}

/// An interface of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EndpointRecord {
    pub(super) id: EndpointId,
    pub(super) engine: Engine,
    pub(super) container_id: String,
    pub(super) container: String,
    pub(super) origin: Origin,
    /// The rnet network whose bridge this is, however it was asked for.
    pub(super) network: Option<NetworkId>,
    pub(super) master: IfName,
    pub(super) ifname: IfName,
    pub(super) host_ifname: IfName,
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
    pub(super) addresses: Vec<IfAddr>,
    /// Default gateways: those that become routes.
    pub(super) gateways: Vec<IpAddr>,
    pub(super) routes: Vec<RouteSpec>,
    pub(super) metric: Option<u32>,
    /// Further names on its network.
    #[serde(default)]
    pub(super) aliases: Vec<DnsName>,
    /// Its claim to the default route.
    #[serde(default)]
    pub(super) gw_priority: i32,
    /// Whether it may send from other addresses than its own.
    #[serde(default)]
    pub(super) allow_spoof: bool,
    pub(super) persistent: bool,
    pub(super) phase: Phase,
    /// Inode of the namespace: a number that is not reused while the namespace lives.
    pub(super) netns: u64,
    pub(super) source: Source,
    pub(super) generation: u64,
    pub(super) created: String,
    /// The endpoint this one took the place of: with this record, that one is gone.
    #[serde(default)]
    pub(super) replaces: Option<EndpointId>,
}

impl EndpointRecord {
    /// Who holds the endpoint's addresses in a pool.
    pub(super) fn owner(&self) -> String {
        match self.origin {
            Origin::Cni { .. } => cni_owner(self.engine, &self.container_id, &self.ifname),
            _ => owner(self.engine, &self.container_id),
        }
    }
}

/// The owner of an address in a pool: a container keeps its address over restarts, so its id is the owner.
pub(super) fn owner(engine: Engine, container_id: &str) -> String {
    format!("{engine}:{container_id}")
}

/// The same for CNI, where a container may have several interfaces on one network, each with addresses of its own.
pub(super) fn cni_owner(engine: Engine, container_id: &str, ifname: &IfName) -> String {
    format!("{engine}:{container_id}/{ifname}")
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    pub(super) id: NetworkId,
    /// As asked for; an equal request is the same network.
    pub(super) requested: NetworkSpec,
    /// With every default filled in.
    pub(super) spec: NetworkSpec,
    pub(super) created: String,
}

/// A route of an uplink, to be put on the bridge and back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MovedRoute {
    pub(super) destination: Subnet,
    pub(super) via: Option<IpAddr>,
    pub(super) metric: Option<u32>,
    pub(super) onlink: bool,
    pub(super) source: Option<IpAddr>,
    pub(super) protocol: u8,
    #[serde(default = "main_table")]
    pub(super) table: u32,
}

/// What a record without a table means.
fn main_table() -> u32 {
    rnet_kernel::RouteEntry::MAIN
}

/// A network that is being made: what to take back when it is never finished. Links and elements of the packet filter
/// are found by their marks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MakingNetwork {
    pub(super) id: NetworkId,
    /// Settings that the network changes, as they were.
    pub(super) sysctls: BTreeMap<String, String>,
    /// Its bridge.
    #[serde(default)]
    pub(super) bridge: Option<IfName>,
}

/// An address of an uplink, to be put on the bridge and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MovedAddress {
    pub(super) address: IfAddr,
    /// An IPv4 address may be without one.
    pub(super) broadcast: Option<Ipv4Addr>,
}

/// The NIC in a bridge and what it gave to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UplinkRecord {
    pub(super) name: IfName,
    pub(super) up: bool,
    pub(super) addresses: Vec<MovedAddress>,
    pub(super) routes: Vec<MovedRoute>,
}

/// A bridge that netd made outside of any network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BridgeRecord {
    pub(super) name: IfName,
    pub(super) mac: Option<MacAddr>,
    pub(super) mtu: u32,
    /// Its own addresses, without those moved from the uplink.
    pub(super) addresses: Vec<IfAddr>,
    pub(super) uplink: Option<UplinkRecord>,
}

/// A namespace kept for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) id: SandboxId,
    /// Empty while it waits in a pool.
    pub(super) container_id: String,
    pub(super) container: String,
    /// An interface that is wired but belongs to nobody yet.
    pub(super) prewired: Option<Prewired>,
    /// What its container says about itself.
    #[serde(default)]
    pub(super) presented: Presented,
}

/// An interface that waits for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Prewired {
    pub(super) endpoint: EndpointId,
    pub(super) network: NetworkId,
    pub(super) host_ifname: IfName,
    pub(super) ifname: IfName,
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
    /// Set on it already, with the network's gateways as default routes; kept for it in the pools.
    #[serde(default)]
    pub(super) addresses: Vec<IfAddr>,
}

/// A veth pair between two sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LinkRecord {
    pub(super) id: EndpointId,
    pub(super) request: LinkRequest,
}

/// Addresses a container keeps while it does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reservation {
    pub(super) owner: String,
    pub(super) addresses: Vec<IpAddr>,
}

impl Target {
    /// How the namespace is found again.
    pub(super) fn source(&self) -> Source {
        match (self.engine, self.pid, &self.path) {
            (_, Some(pid), _) => Source::Pid(pid),
            (_, None, Some(path)) => Source::Path(path.clone()),
            (_, None, None) => Source::Sandbox,
        }
    }
}
