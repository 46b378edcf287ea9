//! Networks' interfaces: the address comes from the network's pools, the link may come ready-made.

use rnet_api::{ApiError, AttachReply, NetworkConnect, NetworkDisconnect, Outcome};
use rnet_kernel::{LinkOp, Links};
use rnet_model::{EndpointOptions, Kind, MacAddr, NetworkId, one_of_each_family};
use rnet_plan::{Action, Place, Plan, apply};
use rnet_plugins_builtin::port::{self, Wanted};

use super::address::Resolved;
use super::core::{inode, kernel};
use super::drive::Removal;
use super::ready::undress;
use super::reap::Retired;
use super::state::{EndpointRecord, Origin, Phase, Prewired, cni_owner, owner};
use super::wire::Inside;
use super::{Engine, clock, tag};
use crate::resolve::Target;

/// What may be asked of one interface on a network.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    pub(super) options: EndpointOptions,
    /// What a CNI runtime calls its network, if it asks; it names the interface then.
    pub(super) list: Option<String>,
}

impl Asked {
    /// By `rnet network connect`.
    pub(super) fn of(options: &EndpointOptions) -> Self {
        Asked { options: options.clone(), list: None }
    }

    /// Who will hold the addresses.
    fn owner(&self, target: &Target) -> String {
        match (&self.list, &self.options.ifname) {
            (Some(_), Some(ifname)) => cni_owner(target.engine, &target.id, ifname),
            _ => owner(target.engine, &target.id),
        }
    }

    fn origin(&self, network: NetworkId) -> Origin {
        match &self.list {
            Some(list) => Origin::Cni { network, list: list.clone() },
            None => Origin::Network(network),
        }
    }
}

impl Engine {
    /// `rnet network connect`.
    pub(super) fn connect(
        &mut self,
        name: &str,
        request: &NetworkConnect,
        target: &Target,
    ) -> Result<AttachReply, ApiError> {
        let network = self.find_network(name)?;
        self.refuse_ended(target)?;
        self.connect_to(network, target, &Asked::of(&request.options))
    }

    /// Connects a container to a network, or finds that it is.
    pub(super) fn connect_to(
        &mut self,
        network: NetworkId,
        target: &Target,
        asked: &Asked,
    ) -> Result<AttachReply, ApiError> {
        one_of_each_family(&asked.options.ips)?;
        if self.is_listed(network) {
            // It became one between two jobs.
            return Err(ApiError::new(Kind::Retry, "the network has changed").hint("repeat the request"));
        }
        let owner = asked.owner(target);
        if asked.list.is_some() {
            self.refuse_added(target, asked)?;
        } else if let Some(reply) = self.already_connected(network, target, asked)? {
            return Ok(reply);
        }
        let prewired = self.take_prewired(target, network, asked);
        let inside = match &prewired {
            Some(_) => Inside::fresh(),
            None => self.look_inside(&target.netns, &target.name)?,
        };
        let resolved = match self.addresses_for(network, prewired.as_ref(), asked, &owner) {
            Ok(resolved) => resolved,
            Err(error) => {
                self.discard(prewired, inode(target.netns.id()));
                return Err(error);
            }
        };
        let result = self.record_of(network, target, asked, &inside, &resolved, prewired.as_ref()).and_then(|record| {
            match &prewired {
                Some(ready) => self.dress(record, ready, target),
                None => self.wire_to_network(record, target, &inside),
            }
        });
        let result = result.and_then(|record| match self.order_gateways(target.engine, &target.id, &target.netns) {
            Ok(()) => Ok(record),
            Err(error) => {
                self.take_down(record.id)?;
                Err(error)
            }
        });
        match result {
            Ok(record) => Ok(AttachReply { outcome: Outcome::Created, endpoint: self.show(&record), plan: Vec::new() }),
            Err(error) => {
                self.put_back(Some(network), &resolved, &owner);
                self.discard(prewired, inode(target.netns.id()));
                Err(error)
            }
        }
    }

    fn already_connected(
        &mut self,
        network: NetworkId,
        target: &Target,
        asked: &Asked,
    ) -> Result<Option<AttachReply>, ApiError> {
        let same_network = |r: &&EndpointRecord| r.origin == Origin::Network(network);
        let Some(found) = self.of_container(target.engine, &target.id).into_iter().find(same_network).cloned() else {
            return Ok(None);
        };
        if found.netns != inode(target.netns.id()) || found.phase != Phase::Live {
            // Left over from an earlier life of the container.
            self.take_down(found.id)?;
            self.give_back(found.network, &found.addresses, &found.owner());
            return Ok(None);
        }
        let as_asked = asked.options.ips.iter().all(|ip| found.addresses.iter().any(|a| a.ip() == *ip))
            && asked.options.mac.is_none_or(|mac| mac == found.mac)
            && asked.options.ifname.as_ref().is_none_or(|name| *name == found.ifname)
            && asked.options.aliases.iter().all(|alias| found.aliases.contains(alias))
            && (asked.options.gw_priority == 0 || asked.options.gw_priority == found.gw_priority)
            && (!asked.options.allow_spoof || found.allow_spoof);
        let name = &self.networks[&network].record.spec.name;
        if !as_asked {
            return Err(ApiError::new(
                Kind::Conflict,
                format!("{} is connected to network {name} already, as {}", found.container, found.ifname),
            )
            .hint(format!("rnet network disconnect {name} {}", found.container)));
        }
        Ok(Some(AttachReply { outcome: Outcome::Unchanged, endpoint: self.show(&found), plan: Vec::new() }))
    }

    fn record_of(
        &mut self,
        network: NetworkId,
        target: &Target,
        asked: &Asked,
        inside: &Inside,
        resolved: &Resolved,
        prewired: Option<&Prewired>,
    ) -> Result<EndpointRecord, ApiError> {
        let spec = &self.networks[&network].record.spec;
        let id = prewired.map_or_else(clock::endpoint_id, |p| p.endpoint);
        let ifname = match (&asked.options.ifname, prewired) {
            (Some(name), _) if inside.has(name) => {
                return Err(ApiError::new(Kind::Conflict, format!("{} already has an interface {name}", target.name))
                    .hint("choose another name, or leave it out"));
            }
            (Some(name), _) => name.clone(),
            (None, Some(p)) => p.ifname.clone(),
            (None, None) => inside.free_name(),
        };
        Ok(EndpointRecord {
            id,
            engine: target.engine,
            container_id: target.id.clone(),
            container: target.name.clone(),
            origin: asked.origin(network),
            network: Some(network),
            master: spec.bridge.clone().expect("a network has a bridge from its creation on"),
            ifname,
            host_ifname: prewired.map_or_else(|| tag::host_ifname(id), |p| p.host_ifname.clone()),
            mac: asked
                .options
                .mac
                .or_else(|| prewired.map(|p| p.mac))
                .unwrap_or_else(|| MacAddr::local(clock::random())),
            mtu: spec.mtu.expect("a network has an MTU from its creation on"),
            addresses: resolved.addresses.clone(),
            metric: inside.next_metric(&resolved.gateways),
            gateways: resolved.gateways.clone(),
            routes: Vec::new(),
            aliases: asked.options.aliases.clone(),
            gw_priority: asked.options.gw_priority,
            allow_spoof: asked.options.allow_spoof,
            persistent: false,
            phase: Phase::Wiring,
            netns: inode(target.netns.id()),
            source: target.source(),
            generation: 1,
            created: clock::wall(),
            replaces: None,
        })
    }

    /// The addresses that a ready interface has, or others.
    fn addresses_for(
        &mut self,
        network: NetworkId,
        ready: Option<&Prewired>,
        asked: &Asked,
        owner: &str,
    ) -> Result<Resolved, ApiError> {
        if let Some(ready) = ready {
            if let Some(resolved) = self.take_over(ready, &asked.options.ips, owner) {
                return Ok(resolved);
            }
            self.drop_prepared(ready);
        }
        self.allocate(network, &asked.options.ips, owner)
    }

    /// The cold way: the link is made.
    fn wire_to_network(
        &mut self,
        record: EndpointRecord,
        target: &Target,
        inside: &Inside,
    ) -> Result<EndpointRecord, ApiError> {
        let fail = |e| kernel(format!("cannot look for {}", record.master), &e);
        let Some(master) = self.kernel.host.link(&record.master).map_err(fail)? else {
            return Err(ApiError::new(Kind::Retry, format!("bridge {} is being repaired", record.master)));
        };
        let plan = self.plan_of(&record, &target.netns, inside, Some(&master))?;
        self.wire(record, &plan, &target.netns)
    }

    /// The warm way: the link is there with its addresses. If it has to have others, that is one message.
    fn dress(
        &mut self,
        mut record: EndpointRecord,
        ready: &Prewired,
        target: &Target,
    ) -> Result<EndpointRecord, ApiError> {
        let mut plan = Plan::default();
        self.guard_again(&mut plan, ready, &record);
        if record.mac != ready.mac || record.addresses != ready.addresses {
            let wanted = self.wanted(&record, &target.netns);
            let gateways = if ready.addresses.is_empty() { Vec::new() } else { record.gateways.clone() };
            let there = Wanted { mac: ready.mac, addresses: ready.addresses.clone(), gateways, ..wanted.clone() };
            let mut ops = undress(port::dress(&there));
            if record.mac != ready.mac {
                ops.push(LinkOp::Mac(record.ifname.clone(), record.mac));
            }
            ops.extend(port::dress(&wanted));
            plan.step("attach.inside", Action::Links(Place::Inside(target.netns.clone()), ops));
        }
        apply(&plan, &mut self.kernel)
            .map_err(|f| kernel(format!("cannot connect {} to {}", record.container, record.master), &f.cause))?;
        record.phase = Phase::Live;
        self.settle(record, &plan, &target.netns)
    }

    /// A ready interface of the target's sandbox, if it fits.
    fn take_prewired(&mut self, target: &Target, network: NetworkId, asked: &Asked) -> Option<Prewired> {
        let id = self.sandbox_of.get(&target.id)?;
        let sandbox = self.sandboxes.get_mut(id)?;
        if sandbox.netns.id() != target.netns.id() {
            return None;
        }
        let fits = |p: &Prewired| p.network == network && asked.options.ifname.as_ref().is_none_or(|n| *n == p.ifname);
        let prewired = sandbox.record.prewired.take_if(|p| fits(p))?;
        self.ready_ports.remove(&prewired.host_ifname);
        if let Some(inside) = sandbox.inside.take() {
            self.kernel.adopt(target.netns.id(), inside);
        }
        Some(prewired)
    }

    /// Removes a ready interface that is not used after all.
    pub(super) fn discard(&mut self, prewired: Option<Prewired>, netns: u64) {
        let Some(prewired) = prewired else { return };
        self.ready_ports.remove(&prewired.host_ifname);
        let plan = port::del(
            &prewired.host_ifname,
            self.limiter_of(prewired.endpoint, Some(prewired.network)).as_ref(),
            self.tag.group,
        );
        if let Err(failure) = apply(&plan, &mut self.kernel) {
            tracing::warn!(error = %failure.cause, "cannot remove a ready interface");
        }
        let facts = self.ready_facts(&prewired);
        self.unguard(&facts);
        // Not before it is cut off: until then it answers for its addresses.
        self.drop_prepared(&prewired);
        self.reaper.retire(Retired { host_ifname: prewired.host_ifname, netns, ifname: prewired.ifname });
    }

    /// `rnet network disconnect`.
    pub(super) fn disconnect(&mut self, name: &str, request: &NetworkDisconnect) -> Result<Removal, ApiError> {
        let network = self.find_network(name)?;
        let missing = || {
            let name = &self.networks[&network].record.spec.name;
            ApiError::new(Kind::Missing, format!("{} is not connected to network {name}", request.container))
                .hint(format!("see who is: rnet network inspect {name}"))
        };
        let (engine, id) = self.attached_container(&request.container)?.ok_or_else(missing)?;
        let on_network = |r: &&EndpointRecord| r.network == Some(network);
        let found: Vec<_> = self.of_container(engine, &id).into_iter().filter(on_network).map(|r| r.id).collect();
        let chains: Vec<_> = self.chains_of(engine, &id).filter(|r| r.network == network).map(|r| r.id).collect();
        if found.is_empty() && chains.is_empty() {
            return Err(missing());
        }
        let endpoints = found.into_iter().map(|id| self.detach_one(id)).collect::<Result<_, _>>()?;
        Ok(Removal { endpoints, chains })
    }
}
