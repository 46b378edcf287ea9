//! Bodies of requests and responses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use rnet_model::{
    AttachSpec, ContainerName, ContainerRef, DnsName, EndpointId, EndpointOptions, Engine, ExposedPort, IfAddr, IfName,
    MacAddr, NetworkId, NetworkName, NetworkSpec, PortSpec, PublishedPort, RouteSpec, SandboxId, Subnet,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer to `GET /v1/version`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Kernel release.
    pub kernel: String,
    /// What does not work at the moment, a line each; empty = healthy.
    pub degraded: Vec<String>,
}

/// Who a container is, when the caller knows better than a resolver (OCI hook).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The engine.
    pub engine: Engine,
    /// Full id.
    pub id: ContainerName,
    /// Name.
    pub name: ContainerName,
}

/// `POST /v1/attachments`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// What to attach.
    pub spec: AttachSpec,
    /// Plan only, change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Names the container found by `spec.container`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// What an attach did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was made.
    Created,
    /// It was there already, exactly so.
    Unchanged,
    /// A different one was replaced.
    Replaced,
    /// Dry run: nothing was done.
    Planned,
}

/// Answer to `POST /v1/attachments` and to connecting a network.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AttachReply {
    /// What happened.
    pub outcome: Outcome,
    /// The endpoint, as it is or as it would be.
    pub endpoint: Endpoint,
    /// The steps, in the words of ip(8); only for a dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
}

/// `POST /v1/detach`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// Which container; also one that no longer exists, by the name or id it was attached under.
    pub container: ContainerRef,
    /// Which of its interfaces.
    #[serde(default)]
    pub which: DetachWhich,
}

/// Which interfaces to detach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DetachWhich {
    /// The only one there is; an error if there are several.
    #[default]
    Only,
    /// This one.
    Ifname(IfName),
    /// All.
    All,
}

/// `POST /v1/wait`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitRequest {
    /// Which container.
    pub container: ContainerRef,
    /// Which interface; default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<IfName>,
    /// Longest wait in milliseconds; at most one hour.
    pub timeout_ms: u64,
}

/// State of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", tag = "state")]
#[non_exhaustive]
pub enum Status {
    /// Wanted, not there: its container does not run, or work is under way.
    Pending,
    /// There and right.
    Ready,
    /// Wanted, and it failed.
    Error {
        /// Since when, RFC 3339.
        since: String,
        /// Why.
        text: String,
    },
}

/// One interface of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// Id.
    pub id: EndpointId,
    /// Engine of the container.
    pub engine: Engine,
    /// Full id of the container.
    pub container_id: String,
    /// Name of the container.
    pub container: String,
    /// The rnet network, if it belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkName>,
    /// Bridge of the host end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<IfName>,
    /// Name in the container.
    pub ifname: IfName,
    /// Name of the host end, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifname: Option<IfName>,
    /// Address in the container, if the interface has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Bytes.
    pub mtu: u32,
    /// Addresses.
    pub addresses: Vec<IfAddr>,
    /// Gateways, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Additional routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSpec>,
    /// Further names on its network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<DnsName>,
    /// Its claim to the default route.
    #[serde(default)]
    pub gw_priority: i32,
    /// Whether it may send from other addresses than its own.
    #[serde(default)]
    pub allow_spoof: bool,
    /// Metric of its routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// Whether it comes back after a restart of container, netd or host.
    pub persistent: bool,
    /// State.
    pub status: Status,
    /// Counts changes of the endpoint.
    pub generation: u64,
    /// When it was made, RFC 3339.
    pub created: String,
}

/// A network with what is live on it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// Id.
    pub id: NetworkId,
    /// As asked for, with the defaults filled in (subnets, gateways, mtu, bridge).
    pub spec: NetworkSpec,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Endpoints on it.
    pub endpoints: Vec<Endpoint>,
    /// What is not as it should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// `POST /v1/networks/{name}/connect`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkConnect {
    /// Which container.
    pub container: ContainerRef,
    /// Names the container found by `container`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The interface.
    #[serde(default)]
    pub options: EndpointOptions,
}

/// `POST /v1/networks/{name}/disconnect`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkDisconnect {
    /// Which container.
    pub container: ContainerRef,
}

/// `POST /v1/publish`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// Which container.
    pub container: ContainerRef,
    /// What; all of it or nothing.
    pub ports: Vec<PortSpec>,
}

/// `POST /v1/unpublish`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnpublishRequest {
    /// Which container; also one that has ended.
    pub container: ContainerRef,
    /// As they were published or are listed; empty = all.
    pub ports: Vec<PortSpec>,
}

/// What was published at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Publication {
    /// Engine of the container.
    pub engine: Engine,
    /// Full id of the container.
    pub container_id: String,
    /// Name of the container.
    pub container: String,
    /// As asked for.
    pub spec: PortSpec,
    /// As it is, with the ports of the host that were chosen.
    pub port: PublishedPort,
    /// The container's addresses it leads to, at most one per family; none while the container does not run.
    pub targets: Vec<IpAddr>,
    /// Whether the container's network is routed: it is reached at its own address and port, and those of the host mean
    /// nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub routed: bool,
    /// Whether the host's firewall keeps the outside from it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed_by_host: bool,
}

/// One address in use.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Allocation {
    /// Address.
    pub address: IpAddr,
    /// Network or bridge it is on.
    pub network: String,
    /// Subnet it is in, when it belongs to a pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Subnet>,
    /// `container/ifname`, `gateway`, ...
    pub owner: String,
    /// `live`, `reserved` or `resting`.
    pub state: String,
}

/// `POST /v1/bridges`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeRequest {
    /// Name.
    pub name: IfName,
    /// NIC whose addresses and routes move onto the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<IfName>,
    /// VLAN filtering.
    #[serde(default)]
    pub vlan_filtering: bool,
    /// Addresses of the bridge itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IfAddr>,
    /// Bytes; default: the uplink's, else 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// A bridge that netd made or uses.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Bridge {
    /// Name.
    pub name: IfName,
    /// NIC in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<IfName>,
    /// Whether netd made it and may remove it.
    pub ours: bool,
    /// Its own addresses.
    pub addresses: Vec<IfAddr>,
    /// Bytes.
    pub mtu: u32,
    /// Number of ports.
    pub ports: usize,
}

/// `POST /v1/sandboxes`: a network namespace for a container.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxRequest {
    /// Full id of the container.
    pub container_id: ContainerName,
    /// Name of the container.
    pub container_name: ContainerName,
    /// The networks it will be connected to, so that a ready one can be picked from the pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkName>,
}

/// A network namespace that netd keeps for a container.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Sandbox {
    /// Id.
    pub id: SandboxId,
    /// Full id of the container.
    pub container_id: String,
    /// Name of the container.
    pub container: String,
    /// The namespace: a bind-mounted nsfs file.
    pub netns: PathBuf,
    /// Interfaces in it.
    pub endpoints: Vec<Endpoint>,
}

/// A network that a container is to be on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnNetwork {
    /// Which.
    pub network: NetworkName,
    /// The interface.
    #[serde(default)]
    pub options: EndpointOptions,
}

impl From<NetworkName> for OnNetwork {
    fn from(network: NetworkName) -> Self {
        OnNetwork { network, options: EndpointOptions::default() }
    }
}

/// `POST /v1/sandboxes/{container_id}/connect`: connects the networks, publishes the ports and brings persistent
/// attachments back; all of it or nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectRequest {
    /// Networks, in the order of the interfaces.
    pub networks: Vec<OnNetwork>,
    /// Ports to publish.
    pub ports: Vec<PortSpec>,
    /// Ports it listens on: for names of services, links and `publish_all`.
    pub expose: Vec<ExposedPort>,
    /// Publishes what is exposed and not in `ports`, each at a free port of the host.
    pub publish_all: bool,
    /// What is asked about names from within, and under which it is known.
    pub names: ContainerNames,
    /// Containers whose exposed ports it reaches also where containers do not reach each other.
    pub links: Vec<ContainerName>,
}

/// A container's part in the name service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerNames {
    /// Its hostname.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<DnsName>,
    /// Where names of the outside are asked for; default: as the networks say, else the host's name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<IpAddr>,
}

/// One end of a link between two sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkEnd {
    /// Container of a sandbox.
    pub container_id: ContainerName,
    /// Name of the interface.
    pub ifname: IfName,
    /// MAC address; default: made from link id and end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IfAddr>,
}

/// `POST /v1/links`: a veth pair between two sandboxes, or several in one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkRequest {
    /// Two ends, in different sandboxes or the same one.
    pub ends: [LinkEnd; 2],
    /// Bytes; default 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// A veth pair between two sandboxes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Link {
    /// Id.
    pub id: EndpointId,
    /// As asked for, with the defaults filled in.
    pub request: LinkRequest,
}

/// One line of `GET /v1/events` (NDJSON).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// RFC 3339.
    pub time: String,
    /// `attach`, `detach`, `network-create`, `network-rm`, `bridge-create`, `bridge-rm`, `repair`, `conflict`, ...
    pub action: String,
    /// Name of the object.
    pub subject: String,
    /// More, by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// An empty answer.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}
