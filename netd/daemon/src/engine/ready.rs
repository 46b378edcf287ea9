//! Addresses of ready namespaces: taken from the pools and set before anybody asks, so that a connect changes nothing in
//! the kernel. The pools keep them reserved for a ready interface; whoever asks for such an address by number, or finds
//! the pool empty, gets it, and the ready namespace goes.

use std::net::IpAddr;

use rnet_api::ApiError;
use rnet_kernel::LinkOp;
use rnet_model::{EndpointId, NetworkId, SandboxId};

use super::Engine;
use super::address::Resolved;
use super::state::Prewired;

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
            return Some(Resolved { addresses: ready.addresses.clone(), gateways });
        }
        let moved = ready.addresses[..count].to_vec();
        self.give_back(Some(ready.network), &moved, owner);
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

    /// Ends ready namespaces that hold one of `asked`.
    pub(super) fn make_room_for(&mut self, network: NetworkId, asked: &[IpAddr]) {
        let Some(state) = self.networks.get_mut(&network) else { return };
        if asked.is_empty() || state.ready.is_empty() {
            return;
        }
        let sandboxes = &self.sandboxes;
        let holds = |id: &SandboxId| {
            let ready = sandboxes.get(id).and_then(|s| s.record.prewired.as_ref());
            ready.is_some_and(|r| r.addresses.iter().any(|a| asked.contains(&a.ip())))
        };
        let (going, staying): (Vec<_>, Vec<_>) = std::mem::take(&mut state.ready).into_iter().partition(holds);
        state.ready = staying.into();
        going.into_iter().for_each(|id| self.destroy_sandbox(id));
    }

    /// One address of every subnet of a network: those asked for, else the owner's own, else the next free ones. What
    /// ready namespaces hold is given up when it is asked for, or when there is nothing else.
    pub(super) fn allocate(&mut self, network: NetworkId, asked: &[IpAddr], owner: &str) -> Result<Resolved, ApiError> {
        self.make_room_for(network, asked);
        let first = self.take_addresses(network, asked, owner);
        let spare = self.networks.get(&network).is_some_and(|n| !n.ready.is_empty());
        if first.is_ok() || !spare {
            return first;
        }
        self.drain_pool(network);
        self.take_addresses(network, asked, owner)
    }
}

/// Takes back what [`rnet_plugins_builtin::dress`] did.
pub(super) fn undress(dressed: Vec<LinkOp>) -> Vec<LinkOp> {
    let reverse = |op| match op {
        LinkOp::AddAddress(dev, address) => Some(LinkOp::DelAddress(dev, address)),
        LinkOp::AddRoute(route) => Some(LinkOp::DelRoute(route)),
        _ => None,
    };
    dressed.into_iter().rev().filter_map(reverse).collect()
}
