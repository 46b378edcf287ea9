//! How fast the interfaces of a network may be: what its spec says, applied to each port and kept so.

use rnet_kernel::{LinkState, Links as _};
use rnet_model::{EndpointId, IfName, NetworkId, NetworkSpec};
use rnet_plan::apply;
use rnet_plugins_builtin::shaping::{self, Shaping};

use super::core::kernel;
use super::state::{EndpointRecord, Phase};
use super::{Engine, tag, view};

/// Begins the object of a limiting device's mark.
const OBJECT: &str = "limiter/";

/// The object that the device of an endpoint is marked with.
pub(super) fn object(id: EndpointId) -> String {
    format!("{OBJECT}{id}")
}

impl Engine {
    /// The limits of an endpoint, by its network; `None` if it has none.
    pub(super) fn shaping_of(&self, record: &EndpointRecord) -> Option<Shaping> {
        let spec = &self.networks.get(&record.network?)?.record.spec;
        Some(self.shaping_by(spec, record)).filter(Shaping::is_limited)
    }

    /// The limits that a spec gives to an endpoint.
    pub(super) fn shaping_by(&self, spec: &NetworkSpec, record: &EndpointRecord) -> Shaping {
        Shaping {
            port: record.host_ifname.clone(),
            mtu: record.mtu,
            device: tag::limiter_ifname(record.id),
            alias: self.tag.alias(&object(record.id)),
            ingress: spec.rate_ingress,
            egress: spec.rate_egress,
        }
    }

    /// The device an endpoint's frames are led through, if there is one.
    pub(super) fn limiter_of(&self, id: EndpointId, network: Option<NetworkId>) -> Option<IfName> {
        let spec = &self.networks.get(&network?)?.record.spec;
        spec.rate_egress.map(|_| tag::limiter_ifname(id))
    }

    /// Compares the limits of all ports of a network with its spec.
    pub(super) fn verify_limits(&mut self, network: NetworkId) {
        let live = self.endpoints.values().filter(|r| r.network == Some(network) && r.phase == Phase::Live);
        let ids: Vec<EndpointId> = live.map(|r| r.id).collect();
        ids.into_iter().for_each(|id| self.verify_limit(id));
    }

    /// Whether a network's ports have to be looked at although nothing is known to be wrong.
    pub(super) fn is_limited(&self, network: NetworkId) -> bool {
        let spec = self.networks.get(&network).map(|n| &n.record.spec);
        spec.is_some_and(|s| s.rate_ingress.is_some() || s.rate_egress.is_some())
    }

    fn verify_limit(&mut self, id: EndpointId) {
        let Some(record) = self.endpoints.get(&id) else { return };
        let Some(spec) = record.network.and_then(|n| self.networks.get(&n)).map(|n| &n.record.spec) else { return };
        let (wanted, container) = (self.shaping_by(spec, record), record.container.clone());
        let repaired = shaping::repair(&wanted, &mut self.kernel.host)
            .map_err(|e| kernel("cannot read the limits", &e))
            .and_then(|plan| match plan {
                None => Ok(false),
                Some(plan) => apply(&plan, &mut self.kernel)
                    .map(|()| true)
                    .map_err(|f| kernel("cannot set the limits again", &f.cause)),
            });
        match repaired {
            Ok(false) => {}
            Ok(true) => {
                let mut event = view::event("repair", container);
                event.attributes.insert("what".into(), format!("the limits of {} were others", wanted.port));
                self.emit(event);
            }
            Err(error) => tracing::warn!(container, error = error.chain(), "limits"),
        }
    }

    /// A device is gone that somebody's frames are led through: they would all be dropped.
    pub(super) fn limiter_gone(&mut self, name: &IfName) -> bool {
        if !name.as_str().starts_with(tag::LIMITER) {
            return false;
        }
        let live = self.endpoints.values().filter(|r| r.phase == Phase::Live);
        let mut limited = live.filter(|r| self.limiter_of(r.id, r.network).as_ref() == Some(name));
        match limited.next().map(|r| r.id) {
            Some(id) if matches!(self.kernel.host.link(name), Ok(None)) => {
                self.verify_limit(id);
                true
            }
            Some(_) => true,
            None => {
                let waiting = self.sandboxes.values().filter_map(|s| s.record.prewired.as_ref());
                let of_ready = |endpoint| tag::limiter_ifname(endpoint) == *name;
                let network = waiting.into_iter().find(|r| of_ready(r.endpoint)).map(|r| r.network);
                if let Some(network) = network {
                    // Nobody gets an interface whose frames are dropped.
                    self.give_up_ready(network, |_, _, ready| of_ready(ready.endpoint));
                }
                network.is_some()
            }
        }
    }

    /// The device of an endpoint whose port is gone has nothing to limit any more.
    pub(super) fn drop_limiter(&mut self, record: &EndpointRecord) {
        let Some(device) = self.limiter_of(record.id, record.network) else { return };
        if let Err(error) = self.kernel.host.batch(&[rnet_kernel::LinkOp::Delete(device)]) {
            tracing::warn!(%error, "cannot remove a limiting device");
        }
    }

    /// Devices of endpoints that are kept by a start are no garbage.
    pub(super) fn keep_limiters(&self, ours: &mut std::collections::HashMap<String, LinkState>) {
        for record in self.endpoints.values().filter(|r| r.phase == Phase::Live) {
            if self.limiter_of(record.id, record.network).is_some() {
                ours.remove(&object(record.id));
            }
        }
    }
}
