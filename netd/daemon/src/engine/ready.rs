//! Addresses of ready namespaces: taken from the pools and set before anybody asks, so that a connect changes nothing in
//! the kernel. The pools keep them reserved for a ready interface; whoever asks for such an address by number, or finds
//! the pool empty, gets it, and the ready namespace goes.

use std::net::IpAddr;

use rnet_api::ApiError;
use rnet_ipam::State;
use rnet_kernel::{LinkOp, LinkState, Links};
use rnet_model::{EndpointId, Engine as ContainerEngine, IfName, NetworkId, SandboxId};

use super::address::Resolved;
use super::core::inode;
use super::state::{Prewired, SandboxRecord};
use super::{Engine, state};

/// Owner of what waits with a ready interface, as the pools know it.
fn waiting(endpoint: EndpointId) -> String {
    format!("{READY}{endpoint}")
}

/// Begins the owner of an address that waits with a ready interface.
pub(super) const READY: &str = "ready:";

impl Engine {
    /// Addresses for an interface that is being prepared; none when the pools have none to spare.
    pub(super) fn prepare_addresses(&mut self, network: NetworkId, endpoint: EndpointId) -> Resolved {
        let owner = waiting(endpoint);
        let Ok(resolved) = self.take_addresses(network, &[], &owner) else { return Resolved::default() };
        self.keep_for(Some(network), &resolved.addresses, &owner);
        resolved
    }

    /// Gives the prepared addresses to the container that got the interface. `None` if it wants others, has others
    /// from an earlier life, or somebody else got them.
    pub(super) fn take_over(&mut self, ready: &Prewired, asked: &[IpAddr], owner: &str) -> Option<Resolved> {
        let state = self.networks.get_mut(&ready.network)?;
        let spec = &state.record.spec;
        let gateways = if spec.internal { Vec::new() } else { spec.gateways.clone() };
        if ready.addresses.is_empty() || !asked.iter().all(|ip| ready.addresses.iter().any(|a| a.ip() == *ip)) {
            return None;
        }
        let from = waiting(ready.endpoint);
        let moved = ready.addresses.iter().take_while(|address| {
            let pool = state.pools.iter_mut().find(|p| p.subnet().contains(address.ip()));
            pool.is_some_and(|p| p.hand_over(address.ip(), &from, owner))
        });
        let count = moved.count();
        if count == ready.addresses.len() {
            return Some(Resolved { addresses: ready.addresses.clone(), gateways, before: Vec::new() });
        }
        let moved = Resolved { addresses: ready.addresses[..count].to_vec(), ..Resolved::default() };
        self.put_back(Some(ready.network), &moved, owner);
        None
    }

    /// Puts the addresses of a ready interface back. Nobody ever used them: they need no rest.
    pub(super) fn drop_prepared(&mut self, ready: &Prewired) {
        let Some(state) = self.networks.get_mut(&ready.network) else { return };
        for address in &ready.addresses {
            if let Some(pool) = state.pools.iter_mut().find(|p| p.subnet().contains(address.ip())) {
                pool.unreserve(address.ip(), &waiting(ready.endpoint));
            }
        }
    }

    /// Takes `asked` away from ready interfaces that hold one of them.
    pub(super) fn make_room_for(&mut self, network: NetworkId, asked: &[IpAddr]) {
        if asked.is_empty() {
            return;
        }
        self.give_up_ready(network, |_, _, ready| ready.addresses.iter().any(|a| asked.contains(&a.ip())));
    }

    /// Gives up the ready interfaces of a network that `which` chooses.
    pub(super) fn give_up_ready(
        &mut self,
        network: NetworkId,
        which: impl Fn(&Self, &SandboxRecord, &Prewired) -> bool,
    ) {
        let chosen = |id: &&SandboxId| {
            let Some(sandbox) = self.sandboxes.get(*id) else { return false };
            let ready = sandbox.record.prewired.as_ref().filter(|r| r.network == network);
            ready.is_some_and(|r| which(self, &sandbox.record, r))
        };
        let going: Vec<SandboxId> = self.ready_ports.values().filter(chosen).copied().collect();
        going.into_iter().for_each(|id| self.spoil(id));
    }

    /// Ends a ready namespace; one that a container has already only loses its ready interface, and is wired when it
    /// connects.
    fn spoil(&mut self, id: SandboxId) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        if !sandbox.record.container_id.is_empty() {
            let netns = inode(sandbox.netns.id());
            let ready = sandbox.record.prewired.take();
            return self.discard(ready, netns);
        }
        let network = sandbox.record.prewired.as_ref().map(|r| r.network);
        if let Some(state) = network.and_then(|n| self.networks.get_mut(&n)) {
            state.ready.retain(|other| *other != id);
        }
        self.destroy_sandbox(id);
    }

    /// Somebody may have taken a ready interface's port away: nobody gets it then.
    pub(super) fn verify_ready(&mut self, port: &IfName) {
        let Some(id) = self.ready_ports.get(port).copied() else { return };
        let network = self.sandboxes.get(&id).and_then(|s| s.record.prewired.as_ref()).map(|r| r.network);
        let spec = network.and_then(|n| self.networks.get(&n)).map(|n| &n.record.spec);
        let Some(bridge) = spec.and_then(|s| s.bridge.clone()) else { return };
        // The event may be older than the interface: look again.
        let (Ok(link), Ok(master)) = (self.kernel.host.link(port), self.kernel.host.link(&bridge)) else { return };
        let right = |l: LinkState| l.up && l.master.is_some() && l.master == master.as_ref().map(|m| m.index);
        if !link.is_some_and(right) {
            self.spoil(id);
        }
    }

    /// Does what only looks at the kernel, and forgets what it did to the pools. Ready interfaces stay, whatever address
    /// is asked for.
    pub(super) fn rehearse<T>(
        &mut self,
        network: Option<NetworkId>,
        mut act: impl FnMut(&mut Self) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let pools = |engine: &Self| network.and_then(|id| engine.networks.get(&id)).map(|n| n.pools.clone());
        let before = pools(self);
        let ready = std::mem::take(&mut self.ready_ports);
        let mut result = act(self);
        if result.is_err() && !ready.is_empty() {
            // In earnest they would give way.
            let state = network.and_then(|id| self.networks.get_mut(&id));
            for pool in state.into_iter().flat_map(|n| &mut n.pools) {
                let waiting = pool.iter().filter(|(_, owner, _)| owner.starts_with(READY));
                let waiting: Vec<_> = waiting.map(|(ip, owner, _)| (ip, owner.to_owned())).collect();
                for (ip, owner) in waiting {
                    pool.unreserve(ip, &owner);
                }
            }
            result = act(self);
        }
        self.ready_ports = ready;
        if let Some((pools, state)) = before.zip(network.and_then(|id| self.networks.get_mut(&id))) {
            state.pools = pools;
        }
        result
    }

    /// One address of every subnet of a network: those asked for, else the owner's own, else the next free ones. What
    /// ready namespaces hold is given up when it is asked for, or when there is nothing else.
    pub(super) fn allocate(&mut self, network: NetworkId, asked: &[IpAddr], owner: &str) -> Result<Resolved, ApiError> {
        self.make_room_for(network, asked);
        let first = self.take_addresses(network, asked, owner);
        if first.is_ok() || self.ready_ports.is_empty() {
            return first;
        }
        self.drain_pool(network);
        // A container that is about to get back what it had needs no second one.
        self.give_up_ready(network, |engine, sandbox, _| {
            let owner = state::owner(ContainerEngine::Rnet, &sandbox.container_id);
            let pools = engine.networks.get(&network).map(|n| &n.pools);
            pools.into_iter().flatten().any(|p| p.held_by(&owner).any(|(_, held)| held == State::Reserved))
        });
        self.take_addresses(network, asked, owner)
    }
}

/// Takes back what [`port::dress`] did.
pub(super) fn undress(dressed: Vec<LinkOp>) -> Vec<LinkOp> {
    let reverse = |op| match op {
        LinkOp::AddAddress(dev, address) => Some(LinkOp::DelAddress(dev, address)),
        LinkOp::AddRoute(route) => Some(LinkOp::DelRoute(route)),
        _ => None,
    };
    dressed.into_iter().rev().filter_map(reverse).collect()
}
