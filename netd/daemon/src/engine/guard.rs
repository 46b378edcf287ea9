//! What the packet filter is told: of each network, of each port of a network's bridge, and of published ports.
//!
//! A port of a network may send what is its own only. It is told so before its link appears, and forgotten after the link
//! is cut off, so that there is no moment in which it could send anything else. Ports of other bridges (`br0`) are the
//! LAN's: nothing is known about what lives there.

use std::net::IpAddr;

use rnet_api::ApiError;
use rnet_kernel::{Filter, FilterChange, FilterState, Guard};
use rnet_model::{IfAddr, IfName, MacAddr, NetworkId};
use rnet_plan::{Action, Plan, Step};

use super::Engine;
use super::core::kernel;
use super::network::filter_elements;
use super::state::{EndpointRecord, Phase, Prewired};

impl Engine {
    /// Everything the tables are to hold.
    pub(super) fn wanted_filter(&self) -> FilterState {
        let mut wanted: FilterState = self.networks.values().flat_map(|n| filter_elements(&n.record.spec)).collect();
        let live = self.endpoints.values().filter(|r| matches!(r.phase, Phase::Live | Phase::Wiring | Phase::Draining));
        wanted.extend(live.flat_map(|r| self.port_facts(r)));
        let ready = self.sandboxes.values().filter_map(|s| s.record.prewired.as_ref());
        wanted.extend(ready.flat_map(|r| self.ready_facts(r)));
        wanted.extend(self.port_elements());
        wanted
    }

    /// Makes the tables hold that, if anybody else may have touched them. While the state is being recovered nothing is
    /// taken away: not everything is known yet.
    pub(super) fn verify_filter(&mut self) -> Result<(), ApiError> {
        let fail = |e| kernel("cannot update the packet filter", &e);
        if !self.recovered {
            self.filter_ready = false;
            self.ensure_filter()?;
            let known: Vec<FilterChange> =
                self.networks.values().flat_map(|n| filter_elements(&n.record.spec)).collect();
            return self.kernel.filter.change(&known, &[]).map_err(fail);
        }
        if self.filter_ready && self.kernel.filter.touched().is_ok_and(|touched| !touched) {
            return Ok(());
        }
        if self.settle_filter()? {
            self.filter_repaired();
        }
        Ok(())
    }

    /// The same without asking first; whether they held something else.
    fn settle_filter(&mut self) -> Result<bool, ApiError> {
        let wanted = self.wanted_filter();
        self.filter_ready = false;
        match self.kernel.filter.settle(&wanted) {
            Ok(changed) => {
                self.filter_fault = None;
                self.filter_ready = true;
                if changed {
                    // What began while something was missing went its own way.
                    self.forget_flows(&wanted.into_iter().collect::<Vec<_>>(), &[]);
                }
                Ok(changed)
            }
            Err(error) => {
                let api = kernel("cannot update the packet filter", &error);
                self.filter_fault = Some(error);
                Err(api)
            }
        }
    }

    /// Looks at everything in a moment, though nobody else has touched it: a change from here has failed.
    pub(super) fn settle_filter_soon(&mut self) {
        self.filter_ready = false;
        self.verify_soon();
    }

    /// The last step of a start: the tables hold what is wanted and nothing else, and what was published before and is no
    /// more leads nowhere.
    pub(super) fn recover_filter(&mut self) {
        self.recovered = true;
        if !self.has_bridged() {
            return;
        }
        let before = self.kernel.filter.state().unwrap_or_default();
        if let Err(error) = self.settle_filter() {
            return tracing::error!(error = error.chain(), "networks are not filtered");
        }
        let wanted: FilterState = self.port_elements().collect();
        let gone: Vec<_> = before.difference(&wanted).cloned().collect();
        self.forget_flows(&[], &gone);
    }

    /// What the filter knows of an endpoint's port; nothing when it is on no network's bridge.
    pub(super) fn port_facts(&self, record: &EndpointRecord) -> Vec<FilterChange> {
        let guard = (!record.allow_spoof).then(|| guard(&record.host_ifname, record.mac, &record.addresses));
        self.facts_on(record.network, &record.host_ifname, guard)
    }

    /// The same of a port that waits.
    pub(super) fn ready_facts(&self, ready: &Prewired) -> Vec<FilterChange> {
        let guard = guard(&ready.host_ifname, ready.mac, &ready.addresses);
        self.facts_on(Some(ready.network), &ready.host_ifname, Some(guard))
    }

    fn facts_on(&self, network: Option<NetworkId>, port: &IfName, guard: Option<FilterChange>) -> Vec<FilterChange> {
        let spec = network.and_then(|id| self.networks.get(&id)).map(|n| &n.record.spec);
        let Some(spec) = spec.filter(|spec| spec.bridge.is_some()) else { return Vec::new() };
        let quiet = (!spec.icc.is_on()).then(|| FilterChange::Quiet(port.clone()));
        guard.into_iter().chain(quiet).collect()
    }

    /// Puts the port's facts before everything else of the plan that makes it.
    pub(super) fn guarded(&self, mut plan: Plan, record: &EndpointRecord) -> Plan {
        let facts = self.port_facts(record);
        if !facts.is_empty() {
            let undo = vec![Action::Filter { add: Vec::new(), remove: facts.clone() }];
            let action = Action::Filter { add: facts, remove: Vec::new() };
            plan.steps.insert(0, Step { point: "attach.guard", action, undo });
        }
        plan
    }

    /// What a ready port's facts become when a container gets it; no step when they stay as they are.
    pub(super) fn guard_again(&self, plan: &mut Plan, ready: &Prewired, record: &EndpointRecord) {
        let (before, after) = (self.ready_facts(ready), self.port_facts(record));
        let add: Vec<_> = after.iter().filter(|fact| !before.contains(fact)).cloned().collect();
        let remove: Vec<_> = before.iter().filter(|fact| !after.contains(fact)).cloned().collect();
        if !add.is_empty() || !remove.is_empty() {
            let undo = vec![Action::Filter { add: remove.clone(), remove: add.clone() }];
            plan.undoable("attach.guard", Action::Filter { add, remove }, undo);
        }
    }

    /// Forgets a port that is cut off. What is left of it harms nobody and goes with the next comparison.
    pub(super) fn unguard(&mut self, facts: &[FilterChange]) {
        if facts.is_empty() {
            return;
        }
        if let Err(error) = self.kernel.filter.change(&[], facts) {
            tracing::warn!(%error, "the packet filter still knows a port that is gone");
            self.filter_ready = false;
        }
    }
}

fn guard(port: &IfName, mac: MacAddr, addresses: &[IfAddr]) -> FilterChange {
    FilterChange::Guard(Guard::new(port.clone(), mac, addresses.iter().map(IfAddr::ip).collect::<Vec<IpAddr>>()))
}
