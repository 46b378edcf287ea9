//! Sandboxes: namespaces that netd makes and keeps, some of them ready-made.
//!
//! A namespace is used once. What is prepared for a network is a namespace with `lo` up and `eth0` wired to the
//! network's bridge, with an address: whoever gets it needs nothing more from the kernel.

use std::net::IpAddr;

use rnet_api::{ApiError, ConnectRequest, Empty, Endpoint, OnNetwork, Sandbox, SandboxRequest};
use rnet_ipam::State;
use rnet_kernel::{LinkOp, Links, Netns, Route};
use rnet_model::{
    ContainerName, EndpointId, Engine as ContainerEngine, ExposedPort, IfAddr, IfName, Kind, MacAddr, NetworkId,
    NetworkName, PortSpec, SandboxId,
};
use rnet_plan::{apply, fail};

use super::connect::Asked;
use super::core::{SandboxState, inode, kernel};
use super::linked::Offer;
use super::naming::Presented;
use super::state::{EndpointRecord, Origin, Phase, Prewired, SandboxRecord, Source, owner};
use super::wire::Inside;
use super::{Engine, clock, tag};
use crate::resolve::Target;

/// Key of a sandbox in the run log.
pub(super) fn sandbox_key(id: SandboxId) -> String {
    format!("sandbox/{id}")
}

/// A connection that may have to be undone.
#[derive(Debug)]
pub(super) struct Connected {
    id: EndpointId,
    /// What the container held in the network's pools before.
    before: Vec<(IpAddr, State)>,
}

impl Engine {
    /// Gets a namespace for a container; asking again gives the same one.
    pub(super) fn create_sandbox(&mut self, request: &SandboxRequest) -> Result<Sandbox, ApiError> {
        let container = request.container_id.as_str();
        if let Some(id) = self.sandbox_of.get(container) {
            return Ok(self.show_sandbox(&self.sandboxes[id].record));
        }
        // The networks are looked up now: a container without its network must not get as far as being created.
        let networks: Vec<NetworkId> =
            request.networks.iter().map(|n| self.network_for(n)).collect::<Result<_, _>>()?;
        let id = match networks.first() {
            Some(network) if !self.is_listed(*network) => self.ready_sandbox(*network)?,
            _ => self.new_sandbox()?,
        };
        let sandbox = self.sandboxes.get_mut(&id).expect("it was just made");
        sandbox.record.container_id = container.to_owned();
        sandbox.record.container = request.container_name.to_string();
        let record = sandbox.record.clone();
        if let Err(error) = self.log_put(&sandbox_key(id), &record) {
            self.destroy_sandbox(id);
            return Err(error);
        }
        self.sandbox_of.insert(container.to_owned(), id);
        Ok(self.show_sandbox(&record))
    }

    /// An empty namespace with `lo` up.
    fn new_sandbox(&mut self) -> Result<SandboxId, ApiError> {
        let id = clock::sandbox_id();
        let record = SandboxRecord {
            id,
            container_id: String::new(),
            container: String::new(),
            prewired: None,
            presented: Presented::default(),
        };
        fail::point("sandbox.log");
        self.log_put(&sandbox_key(id), &record)?;
        fail::point("sandbox.log.done");
        let path = self.sandbox_path(id);
        let made = (|| {
            let netns = Netns::create()?;
            fail::point("sandbox.namespace");
            netns.bind(&path)?;
            fail::point("sandbox.namespace.done");
            let mut inside = Route::open(&netns)?;
            match inside.batch(&[LinkOp::Up(loopback())])?.into_iter().next() {
                Some(fault) => Err(fault.error),
                None => Ok((netns, inside)),
            }
        })();
        match made {
            Ok((netns, inside)) => {
                self.sandboxes.insert(id, SandboxState { record, netns, inside: Some(inside) });
                Ok(id)
            }
            Err(error) => {
                if let Err(left) = Netns::unbind(&path) {
                    tracing::warn!(error = %left, "cannot remove a namespace");
                }
                self.log_remove(&sandbox_key(id));
                Err(kernel("cannot make a network namespace", &error))
            }
        }
    }

    /// A ready sandbox of a network: the one that has waited longest, or one made now. The next ones will be made while
    /// nobody waits.
    fn ready_sandbox(&mut self, network: NetworkId) -> Result<SandboxId, ApiError> {
        let state = self.networks.get_mut(&network).expect("the caller found the network");
        state.warm = self.config.pool_size > 0;
        if let Some(id) = state.ready.pop_front() {
            return Ok(id);
        }
        self.make_ready(network)
    }

    fn make_ready(&mut self, network: NetworkId) -> Result<SandboxId, ApiError> {
        let id = self.new_sandbox()?;
        match self.prewire(id, network) {
            Ok(()) => {
                self.prepare_names(id, network);
                Ok(id)
            }
            Err(error) => {
                self.destroy_sandbox(id);
                Err(error)
            }
        }
    }

    /// Whether a pool is not full.
    pub(super) fn wants_refill(&self) -> bool {
        self.networks.values().any(|n| n.warm && n.ready.len() < self.config.pool_size)
    }

    /// Makes one ready sandbox.
    pub(super) fn refill_one(&mut self) {
        let wanting = |n: &&super::core::NetworkState| n.warm && n.ready.len() < self.config.pool_size;
        let Some(network) = self.networks.values().find(wanting).map(|n| n.record.id) else { return };
        let made = self.make_ready(network);
        let Some(state) = self.networks.get_mut(&network) else { return };
        match made {
            Ok(id) => state.ready.push_back(id),
            Err(error) => {
                // Without a pool everything works, only slower: try again when the network is used next.
                state.warm = false;
                tracing::warn!(error = error.chain(), "cannot prepare a sandbox");
            }
        }
    }

    /// Wires a new sandbox to a network.
    fn prewire(&mut self, id: SandboxId, network: NetworkId) -> Result<(), ApiError> {
        let endpoint = clock::endpoint_id();
        let resolved = self.prepare_addresses(network, endpoint);
        let spec = &self.networks[&network].record.spec;
        let (bridge, mtu) = (spec.bridge.clone().expect("filled in"), spec.mtu.expect("filled in"));
        let prewired = Prewired {
            endpoint,
            network,
            host_ifname: tag::host_ifname(endpoint),
            ifname: "eth0".parse().expect("eth0 is an interface name"),
            mac: MacAddr::local(clock::random()),
            mtu,
            addresses: resolved.addresses.clone(),
        };
        let sandbox = self.sandboxes.get_mut(&id).expect("it was just made");
        sandbox.record.prewired = Some(prewired.clone());
        self.ready_ports.insert(prewired.host_ifname.clone(), id);
        let (record, netns, inside) = (sandbox.record.clone(), sandbox.netns.clone(), sandbox.inside.take());
        self.log_put(&sandbox_key(id), &record)?;
        let bare = EndpointRecord {
            id: endpoint,
            engine: ContainerEngine::Rnet,
            container_id: String::new(),
            container: "a sandbox".into(),
            origin: Origin::Network(network),
            network: Some(network),
            master: bridge.clone(),
            ifname: prewired.ifname,
            host_ifname: prewired.host_ifname,
            mac: prewired.mac,
            mtu,
            addresses: resolved.addresses,
            gateways: resolved.gateways,
            routes: Vec::new(),
            aliases: Vec::new(),
            gw_priority: 0,
            allow_spoof: false,
            metric: None,
            persistent: false,
            phase: Phase::Wiring,
            netns: inode(netns.id()),
            source: Source::Sandbox,
            generation: 1,
            created: String::new(),
            replaces: None,
        };
        let fail = |e| kernel(format!("cannot look for {bridge}"), &e);
        let Some(master) = self.kernel.host.link(&bridge).map_err(fail)? else {
            return Err(ApiError::new(Kind::Retry, format!("bridge {bridge} is gone")));
        };
        let plan = self.plan_of(&bare, &netns, &Inside::fresh(), Some(&master))?;
        if let Some(inside) = inside {
            self.kernel.adopt(netns.id(), inside);
        }
        let applied = apply(&plan, &mut self.kernel);
        let inside = self.kernel.inside.take().map(|(_, route)| route);
        applied.map_err(|f| kernel(format!("cannot wire a sandbox to {bridge}"), &f.cause))?;
        self.sandboxes.get_mut(&id).expect("still there").inside = inside;
        Ok(())
    }

    /// Connects the networks and brings persistent attachments back: between a container's creation and its start.
    pub(super) fn connect_sandbox(
        &mut self,
        container: &ContainerName,
        request: &ConnectRequest,
    ) -> Result<Vec<Endpoint>, ApiError> {
        let target = self.sandbox_target(container)?;
        self.present(container, request)?;
        let made = self.connect_all(&target, request)?;
        if let Err(error) = self.publish_with(&target, request) {
            made.into_iter().for_each(|connected| self.take_connection_back(connected));
            return Err(error);
        }
        self.finish_connect(&target)
    }

    /// A container by its sandbox.
    pub(super) fn sandbox_target(&self, container: &ContainerName) -> Result<Target, ApiError> {
        let id = self.sandbox_of.get(container.as_str()).copied().ok_or_else(|| {
            ApiError::new(Kind::Missing, format!("there is no sandbox for container {container}"))
                .hint("make one first: POST /v1/sandboxes")
        })?;
        let sandbox = &self.sandboxes[&id];
        Ok(Target {
            engine: ContainerEngine::Rnet,
            id: sandbox.record.container_id.clone(),
            name: sandbox.record.container.clone(),
            netns: sandbox.netns.clone(),
            pid: None,
            path: None,
        })
    }

    fn connect_all(&mut self, target: &Target, request: &ConnectRequest) -> Result<Vec<Connected>, ApiError> {
        let mut made = Vec::new();
        for OnNetwork { network: name, options } in &request.networks {
            let asked = Asked::of(options);
            match self.connect_one(target, name, &asked) {
                Ok(connected) => made.push(connected),
                Err(error) => {
                    made.into_iter().for_each(|connected| self.take_connection_back(connected));
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    /// What a container publishes, offers and is linked to, from its start on.
    pub(super) fn publish_with(&mut self, target: &Target, request: &ConnectRequest) -> Result<(), ApiError> {
        let expose: &[ExposedPort] = if request.publish_all { &request.expose } else { &[] };
        let ports = Engine::with_exposed(&request.ports, expose);
        let owner = (target.engine, target.id.clone());
        self.publish_all(&owner, &target.name, &ports)?;
        let inside = |p: &PortSpec| ExposedPort { ports: p.container_ports, protocol: p.protocol };
        let mut offered: Vec<ExposedPort> = request.expose.iter().copied().chain(ports.iter().map(inside)).collect();
        offered.sort_unstable();
        offered.dedup();
        let offer = Offer {
            engine: target.engine,
            container_id: target.id.clone(),
            container: target.name.clone(),
            expose: offered,
            links: request.links.clone(),
        };
        self.offer(offer).inspect_err(|_| self.withdraw_some(&owner, &ports))
    }

    /// One network of several.
    pub(super) fn connect_one(
        &mut self,
        target: &Target,
        name: &NetworkName,
        asked: &Asked,
    ) -> Result<Connected, ApiError> {
        let network = self.network_for(name)?;
        let before = self.held_before(network, &owner(target.engine, &target.id));
        Ok(Connected { id: self.connect_to(network, target, asked)?.endpoint.id, before })
    }

    /// What follows the networks: attachments that wait for the container come back.
    pub(super) fn finish_connect(&mut self, target: &Target) -> Result<Vec<Endpoint>, ApiError> {
        self.drop_unused_prewired(target);
        let waiting = |r: &&EndpointRecord| matches!(r.phase, Phase::Pending | Phase::Failed { .. });
        let pending: Vec<_> =
            self.of_container(target.engine, &target.id).into_iter().filter(waiting).cloned().collect();
        for mut record in pending {
            record.source = Source::Sandbox;
            // One attachment that cannot come back is shown as such; it does not keep the container from starting.
            if let Err(error) = self.rewire(record.clone(), &target.netns) {
                tracing::warn!(container = target.name, error = error.chain(), "cannot bring an attachment back");
                self.park(record, Some(&error));
            }
        }
        Ok(self.shown_of(target.engine, &target.id))
    }

    /// Undoes one of several connections; what was kept for the container before still is.
    pub(super) fn take_connection_back(&mut self, Connected { id, before }: Connected) {
        let Some(record) = self.endpoints.get(&id).cloned() else { return };
        match self.detach_one(id) {
            Ok(_) => {
                let was_kept = |a: &&IfAddr| before.contains(&(a.ip(), State::Reserved));
                let kept: Vec<IfAddr> = record.addresses.iter().filter(was_kept).copied().collect();
                if let Some(network) = record.network.filter(|_| !kept.is_empty()) {
                    self.reserve(network, &record.owner(), &kept);
                }
            }
            Err(left) => tracing::warn!(error = left.chain(), "cannot take a connection back"),
        }
    }

    /// A ready interface nobody asked for must not stay in the container.
    pub(super) fn drop_unused_prewired(&mut self, target: &Target) {
        let Some(id) = self.sandbox_of.get(&target.id) else { return };
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return };
        sandbox.inside = None;
        let unused = sandbox.record.prewired.take();
        if unused.is_some() {
            self.discard(unused, inode(target.netns.id()));
            self.reaper.finish();
        }
    }

    /// Gives a namespace back. `forget` drops what the container would get again at its next start.
    pub(super) fn release_sandbox(&mut self, container: &ContainerName, forget: bool) -> Result<Empty, ApiError> {
        let holder = owner(ContainerEngine::Rnet, container.as_str());
        let all: Vec<EndpointRecord> =
            self.of_container(ContainerEngine::Rnet, container.as_str()).into_iter().cloned().collect();
        let whose = (ContainerEngine::Rnet, container.to_string());
        self.withdraw_all(&whose);
        self.withdraw_offer(&whose);
        for record in all {
            match (&record.origin, forget) {
                (Origin::Attach(_), false) if record.persistent => {
                    self.take_down(record.id)?;
                    self.park(record, None);
                }
                (Origin::Network(network), false) => {
                    self.take_down(record.id)?;
                    self.reserve(*network, &holder, &record.addresses);
                }
                _ => {
                    self.detach_one(record.id)?;
                }
            }
        }
        if forget {
            self.unreserve_all(&holder);
        }
        if let Some(id) = self.sandbox_of.remove(container.as_str()) {
            self.remove_links_of(container.as_str());
            self.destroy_sandbox(id);
        }
        Ok(Empty {})
    }

    /// Removes the namespace's name; the kernel ends it with its last process.
    pub(super) fn destroy_sandbox(&mut self, id: SandboxId) {
        let Some(sandbox) = self.sandboxes.remove(&id) else { return };
        self.names.stop(inode(sandbox.netns.id()));
        self.discard(sandbox.record.prewired, inode(sandbox.netns.id()));
        if let Err(error) = Netns::unbind(&self.sandbox_path(id)) {
            tracing::warn!(%error, "cannot remove a namespace");
        }
        self.log_remove(&sandbox_key(id));
    }

    /// Ends the ready sandboxes of one network.
    pub(super) fn drain_pool(&mut self, network: NetworkId) {
        let Some(state) = self.networks.get_mut(&network) else { return };
        state.warm = false;
        for id in std::mem::take(&mut state.ready) {
            self.destroy_sandbox(id);
        }
    }

    /// Ends all ready sandboxes.
    pub(super) fn drain_pools(&mut self) {
        let all: Vec<NetworkId> = self.networks.keys().copied().collect();
        for network in all {
            self.drain_pool(network);
        }
        self.reaper.finish();
    }
}

fn loopback() -> IfName {
    "lo".parse().expect("lo is an interface name")
}
