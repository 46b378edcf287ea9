//! What the engine holds, in numbers, for metrics.

use rnet_api::Status;
use rnet_ipam::State;
use rnet_model::Subnet;

use super::Engine;
use super::view::{event, status};

/// One look at the engine.
#[derive(Debug)]
pub(crate) struct Gauges {
    /// Each network.
    pub(crate) networks: Vec<NetworkGauge>,
    /// The network, if it is on one, and the state of each interface.
    pub(crate) endpoints: Vec<(Option<String>, Status)>,
    /// Whether packet filtering works.
    pub(crate) filter_works: bool,
}

/// A network.
#[derive(Debug)]
pub(crate) struct NetworkGauge {
    /// Its name.
    pub(crate) name: String,
    /// Namespaces that wait for a container.
    pub(crate) ready: usize,
    /// One for each subnet.
    pub(crate) pools: Vec<PoolGauge>,
}

/// Addresses of one subnet.
#[derive(Debug)]
pub(crate) struct PoolGauge {
    /// The subnet.
    pub(crate) subnet: Subnet,
    /// In use.
    pub(crate) live: usize,
    /// Kept for their owners.
    pub(crate) reserved: usize,
    /// Freed a moment ago.
    pub(crate) resting: usize,
    /// Nobody's.
    pub(crate) free: u128,
}

impl Engine {
    /// Says that the packet filter was not as it should be, and is again.
    pub(super) fn filter_repaired(&self) {
        let mut event = event("repair", crate::journal::FILTER);
        event.attributes.insert("what".into(), "somebody else had changed the tables".into());
        self.emit(event);
    }

    pub(super) fn gauges(&self) -> Gauges {
        let networks = self.networks.values().map(|state| {
            let pools = state.pools.iter().map(|pool| {
                let held = |wanted| pool.iter().filter(|(_, _, state)| *state == wanted).count();
                PoolGauge {
                    subnet: pool.subnet(),
                    live: held(State::Live),
                    reserved: held(State::Reserved),
                    resting: held(State::Resting),
                    free: pool.free(),
                }
            });
            NetworkGauge { name: state.record.spec.name.to_string(), ready: state.ready.len(), pools: pools.collect() }
        });
        let name = |id| self.networks.get(&id).map(|n| n.record.spec.name.to_string());
        let ours = self.endpoints.values().map(|r| (r.network.and_then(name), status(&r.phase)));
        let chains = self.chains.values().map(|r| (name(r.network), status(&r.phase)));
        Gauges {
            networks: networks.collect(),
            endpoints: ours.chain(chains).collect(),
            filter_works: self.filter_fault.is_none(),
        }
    }
}
