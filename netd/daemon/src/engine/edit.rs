//! Changing a network that is in use: all of it or nothing, for the kernel and for the store.
//!
//! The kernel is changed first, and the store decides: a crash before its commit is put right by the next start, which
//! makes the kernel equal to what is stored. The note in the run log says that it has to look at the ports too.

use rnet_api::{ApiError, Network, NetworkEdit, PruneFailure, PruneReply, PruneRequest};
use rnet_ipam::State;
use rnet_kernel::{FilterChange, LinkOp, Links as _};
use rnet_model::{Kind, NetworkId, NetworkMode, NetworkSpec};
use rnet_plan::{Action, Place, Plan, apply, fail};
use rnet_plugins_builtin::shaping::{self, Shaping};

use super::core::kernel;
use super::network::{filter_elements, network_key, network_state, reservation_key};
use super::state::{NetworkRecord, Phase};
use super::surfaces::put;
use super::{Engine, Handle, clock, view};

/// Key of a network in the run log while it is being changed.
pub(super) fn edit_key(id: NetworkId) -> String {
    format!("edit/{id}")
}

impl Engine {
    /// `rnet network edit`. An edit that changes nothing is a success.
    pub(super) fn edit_network(&mut self, name: &str, edit: &NetworkEdit) -> Result<Network, ApiError> {
        let id = self.find_network(name)?;
        let old = self.networks[&id].record.clone();
        let requested = edit.apply(&old.requested);
        requested.validate()?;
        let mut spec = edit.apply(&old.spec);
        spec.masquerade = super::network::masquerade_of(&requested);
        spec.validate()?;
        let new = NetworkRecord { requested, spec, ..old.clone() };
        if new == old {
            return Ok(self.show_network(id).expect("it was just found"));
        }
        self.refuse_edit(id, &old, &new)?;
        // Ready interfaces are as the network was: whoever comes next gets one that is as it is.
        if old.spec.mtu != new.spec.mtu || has_other_ports(&old.spec, &new.spec) || ranges_differ(&old.spec, &new.spec)
        {
            self.give_up_all_ready(id);
        }
        let plan = self.edit_plan(id, &old.spec, &new.spec);
        fail::point("network-edit.log");
        self.log_put(&edit_key(id), &true)?;
        fail::point("network-edit.log.done");
        let done = apply(&plan, &mut self.kernel)
            .map_err(|f| {
                let mut error = kernel(format!("cannot change network {}", old.spec.name), &f.cause);
                error.causes.extend(f.left.iter().map(|l| format!("and could not be taken back: {l}")));
                error
            })
            .and_then(|()| {
                fail::point("network-edit.commit");
                let committed = self.writer.commit(vec![put(network_key(id), &new)]);
                if committed.is_err() {
                    rnet_plan::undo(&plan.steps, &mut self.kernel);
                }
                committed
            });
        if done.is_ok() {
            fail::point("network-edit.commit.done");
        }
        self.log_remove(&edit_key(id));
        done?;
        self.adopt_record(id, new);
        self.verify_outbound(id);
        self.zone_changed(id);
        self.emit(view::event("network-edit", old.spec.name.to_string()));
        Ok(self.show_network(id).expect("it is still there"))
    }

    /// What cannot be changed the way it is.
    fn refuse_edit(&mut self, id: NetworkId, old: &NetworkRecord, new: &NetworkRecord) -> Result<(), ApiError> {
        let name = &old.spec.name;
        if old.spec.outbound != new.spec.outbound {
            self.refuse_foreign_outbound(&new.spec)?;
        }
        if old.spec.gateway_mode == new.spec.gateway_mode {
            return Ok(());
        }
        let shown = self.show_network(id).expect("the caller found it");
        if shown.endpoints.is_empty() {
            return Ok(());
        }
        let mut who: Vec<_> = shown.endpoints.iter().map(|e| format!("{}:{}", e.engine, e.container)).collect();
        who.sort();
        who.dedup();
        let text = format!("the gateway mode of network {name} cannot change while it is used by {}", who.join(", "));
        Err(ApiError::new(Kind::Conflict, text)
            .hint("what their published ports mean would change under them: disconnect them first"))
    }

    /// What leads the kernel from one spec to the other.
    fn edit_plan(&self, id: NetworkId, old: &NetworkSpec, new: &NetworkSpec) -> Plan {
        let mut plan = Plan::default();
        if let (Some(bridge), Some(before), Some(after)) = (&new.bridge, old.mtu, new.mtu)
            && before != after
        {
            let mtu = |n| Action::Links(Place::Host, vec![LinkOp::Mtu(bridge.clone(), n)]);
            plan.undoable("network-edit.mtu", mtu(after), vec![mtu(before)]);
        }
        let ports = self.endpoints.values().filter(|r| r.network == Some(id) && r.phase == Phase::Live);
        let ports: Vec<_> = ports.collect();
        let (mut before, mut after) = (filter_elements(old), filter_elements(new));
        if old.icc != new.icc {
            let quiet = ports.iter().map(|r| FilterChange::Quiet(r.host_ifname.clone()));
            if old.icc.is_on() { after.extend(quiet) } else { before.extend(quiet) }
        }
        let add: Vec<_> = after.iter().filter(|e| !before.contains(e)).cloned().collect();
        let remove: Vec<_> = before.into_iter().filter(|e| !after.contains(e)).collect();
        if !add.is_empty() || !remove.is_empty() {
            let undo = vec![Action::Filter { add: remove.clone(), remove: add.clone() }];
            plan.undoable("network-edit.filter", Action::Filter { add, remove }, undo);
        }
        if has_other_limits(old, new) {
            let pair = |r: &&super::state::EndpointRecord| (self.shaping_by(old, r), self.shaping_by(new, r));
            let pairs: Vec<(Shaping, Shaping)> = ports.iter().map(pair).collect();
            shaping::change(&pairs, &mut plan);
        }
        plan
    }

    /// The network from now on. Pools are made anew where others addresses are handed out now; who holds one keeps it.
    fn adopt_record(&mut self, id: NetworkId, new: NetworkRecord) {
        self.links_stale = true;
        let Some(state) = self.networks.get_mut(&id) else { return };
        if !ranges_differ(&state.record.spec, &new.spec) {
            state.record = new;
            return;
        }
        let now = clock::boot_seconds();
        let mut fresh = network_state(new, self.config.rest_seconds);
        for (old, pool) in state.pools.iter().zip(&mut fresh.pools) {
            for (ip, owner, held) in old.iter() {
                let kept = match held {
                    State::Reserved => pool.reserve(ip, owner),
                    State::Live | State::Resting => pool.claim(ip, owner, now),
                };
                if let Err(error) = kept {
                    tracing::warn!(%error, owner, "an address cannot be kept");
                }
                if held == State::Resting {
                    pool.release(ip, owner, now);
                }
            }
        }
        fresh.problems = std::mem::take(&mut state.problems);
        *state = fresh;
    }

    /// A crash came while a network was being changed: what it has beyond the filter may be of either spec.
    pub(super) fn recover_edit(&mut self, id: NetworkId) {
        let spec = self.networks.get(&id).map(|n| n.record.spec.clone());
        if let Some((bridge, mtu)) = spec.and_then(|s| s.bridge.zip(s.mtu)) {
            match self.kernel.host.batch(&[LinkOp::Mtu(bridge, mtu)]) {
                Ok(faults) => faults.iter().for_each(|f| tracing::warn!(error = %f.error, "cannot set an MTU back")),
                Err(error) => tracing::warn!(%error, "cannot set an MTU back"),
            }
        }
        self.verify_limits(id);
        self.log_remove(&edit_key(id));
    }

    /// `rnet network prune`: what fails is named, and the others go.
    pub(super) fn prune_networks(&mut self, request: &PruneRequest) -> Result<PruneReply, ApiError> {
        let mut reply = PruneReply::default();
        for (id, name) in self.unused_networks(request) {
            match self.remove_network(&id.to_string(), false) {
                Ok(network) => reply.removed.push(network),
                Err(error) => reply.failed.push(PruneFailure { network: name, error }),
            }
        }
        Ok(reply)
    }

    /// Networks that nobody is on and nobody keeps an address of, without the default one.
    fn unused_networks(&self, request: &PruneRequest) -> Vec<(NetworkId, rnet_model::NetworkName)> {
        let now = jiff::Timestamp::now();
        let old_enough = |created: &str| {
            let Some(least) = request.older_than_seconds else { return true };
            let age = created.parse::<jiff::Timestamp>().map(|t| now.as_second().saturating_sub(t.as_second()));
            age.is_ok_and(|age| u64::try_from(age).unwrap_or(0) >= least)
        };
        let kept = |id: NetworkId| {
            let prefix = reservation_key(id, "");
            self.reservations.range(prefix.clone()..).next().is_some_and(|key| key.starts_with(&prefix))
        };
        let used = |id: NetworkId| {
            self.endpoints.values().any(|r| r.network == Some(id)) || self.chains_on(id).next().is_some() || kept(id)
        };
        let all = self.networks.values().map(|n| &n.record);
        all.filter(|r| r.spec.name.as_str() != NetworkMode::DEFAULT_NETWORK)
            .filter(|r| old_enough(&r.created) && request.labels.iter().all(|l| l.fits(&r.spec.labels)))
            .filter(|r| !used(r.id))
            .map(|r| (r.id, r.spec.name.clone()))
            .collect()
    }

    /// Endpoints whose ports a change of a network is about.
    fn give_up_all_ready(&mut self, id: NetworkId) {
        self.drain_pool(id);
        self.give_up_ready(id, |_, _, _| true);
        self.reaper.finish();
    }
}

fn has_other_limits(old: &NetworkSpec, new: &NetworkSpec) -> bool {
    old.rate_ingress != new.rate_ingress || old.rate_egress != new.rate_egress
}

fn has_other_ports(old: &NetworkSpec, new: &NetworkSpec) -> bool {
    has_other_limits(old, new) || old.icc != new.icc
}

fn ranges_differ(old: &NetworkSpec, new: &NetworkSpec) -> bool {
    old.exclude != new.exclude || old.ip_ranges != new.ip_ranges
}

impl Handle {
    /// Changes a network.
    pub(crate) async fn edit_network(&self, name: String, edit: NetworkEdit) -> Result<Network, ApiError> {
        self.call(move |e| e.edit_network(&name, &edit)).await
    }

    /// Removes the networks nobody uses.
    pub(crate) async fn prune_networks(&self, request: PruneRequest) -> Result<PruneReply, ApiError> {
        self.call(move |e| e.prune_networks(&request)).await
    }
}
