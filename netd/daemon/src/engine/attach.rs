//! Attaching: from a spec to a live endpoint, or to nothing at all.

use std::net::IpAddr;

use rnet_api::{ApiError, AttachReply, AttachRequest, Outcome};
use rnet_kernel::{AddressGeneration, LinkKind, LinkOp, LinkState, Links, Netns, NewBridge, Route, Snooping};
use rnet_model::{
    AddressSpec, AttachSpec, EndpointId, Engine as ContainerEngine, HostIf, IfAddr, IfName, Kind, MacAddr, NetworkId,
};
use rnet_plugins_builtin::port;

use super::address::Resolved;
use super::core::{inode, kernel};
use super::state::{EndpointRecord, Origin, Phase, owner};
use super::wire::Inside;
use super::{Engine, clock, tag};
use crate::resolve::Target;

/// Whether the LAN has been asked for the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probed {
    No,
    Yes,
}

/// What became of an attach.
#[derive(Debug)]
pub(super) enum Attach {
    /// It is done.
    Done(Box<AttachReply>),
    /// Nothing was done: the LAN behind `device` has to be asked first.
    Probe { device: IfName, addresses: Vec<IpAddr> },
}

/// The endpoint that an attach would repeat or change.
#[derive(Debug, Clone, Copy)]
enum Existing {
    None,
    /// Equal and live.
    Same(EndpointId),
    /// Equal, but its interface is not there (any more).
    Stale(EndpointId),
    Different(EndpointId),
}

/// Everything that was looked up for one attach.
struct Draft<'a> {
    spec: &'a AttachSpec,
    target: &'a Target,
    inside: &'a Inside,
    master_name: &'a IfName,
    master: Option<&'a LinkState>,
    network: Option<NetworkId>,
    old: Option<&'a EndpointRecord>,
}

impl Engine {
    /// `rnet attach`.
    pub(super) fn attach(
        &mut self,
        request: &AttachRequest,
        target: &Target,
        probed: Probed,
    ) -> Result<Attach, ApiError> {
        let spec = &request.spec;
        spec.validate()?;
        let master_name = self.host_device(spec)?;
        let old = match self.existing(spec, target) {
            Existing::None => None,
            Existing::Same(id) => {
                let endpoint = self.show(&self.endpoints[&id]);
                let reply = AttachReply { outcome: Outcome::Unchanged, endpoint, plan: Vec::new() };
                return Ok(Attach::Done(Box::new(reply)));
            }
            Existing::Stale(id) => Some(id),
            Existing::Different(id) if spec.options.replace => Some(id),
            Existing::Different(id) => return Err(self.differs(id)),
        };
        self.refuse_ended(target)?;
        if !spec.options.no_persist && !request.dry_run && target.engine != ContainerEngine::Pid {
            self.writer
                .refuse_full()
                .map_err(|e| e.hint("make room, or attach it until the next restart: --no-persist"))?;
        }
        let old = old.and_then(|id| self.endpoints.get(&id).cloned());
        let master = self.master(&master_name, spec)?;
        self.refuse_full(&master_name, master.as_ref())?;
        let inside = self.look_inside(&target.netns, &target.name)?;
        let network = self.network_of_bridge(&master_name);
        if probed == Probed::No && !spec.options.no_probe && !request.dry_run && network.is_none() {
            let known = |ip: &IpAddr| old.as_ref().is_some_and(|r| r.addresses.iter().any(|a| a.ip() == *ip));
            let addresses: Vec<_> = static_addresses(&spec.address).filter(|a| !known(&a.ip())).collect();
            if !addresses.is_empty() && self.leads_to_lan(master.as_ref()) {
                // What this host knows needs no question to the LAN, and is said better.
                self.refuse_taken(&addresses, &master_name, old.as_ref().map(|r| r.id))?;
                let addresses = addresses.iter().map(IfAddr::ip).collect();
                return Ok(Attach::Probe { device: master_name, addresses });
            }
        }
        let draft = Draft {
            spec,
            target,
            inside: &inside,
            master_name: &master_name,
            master: master.as_ref(),
            network,
            old: old.as_ref(),
        };
        let holder = owner(target.engine, &target.id);
        let replaced = old.as_ref().map(|r| r.id);
        let go = |engine: &mut Self| {
            let resolved = engine.resolve_addresses(&spec.address, &master_name, network, &holder, replaced)?;
            engine.attach_resolved(request, &draft, &resolved)
        };
        let result = match request.dry_run {
            true => self.rehearse(network, go),
            false => go(self),
        };
        result.map(|reply| Attach::Done(Box::new(reply)))
    }

    /// The rest, once the addresses are taken; they are given back when they are not used.
    fn attach_resolved(
        &mut self,
        request: &AttachRequest,
        draft: &Draft<'_>,
        resolved: &Resolved,
    ) -> Result<AttachReply, ApiError> {
        let result = self.draft(draft, resolved).and_then(|record| self.carry_out(request, draft, record));
        if result.is_err() {
            let kept = draft.old.filter(|old| old.network == draft.network).map_or(&[][..], |r| &r.addresses);
            let unused = resolved.addresses.iter().filter(|a| !kept.contains(a)).copied().collect();
            let unused = Resolved { addresses: unused, before: resolved.before.clone(), ..Resolved::default() };
            self.put_back(draft.network, &unused, &owner(draft.target.engine, &draft.target.id));
        }
        result
    }

    /// Shows the plan, or applies it.
    fn carry_out(
        &mut self,
        request: &AttachRequest,
        draft: &Draft<'_>,
        mut record: EndpointRecord,
    ) -> Result<AttachReply, ApiError> {
        let netns = &draft.target.netns;
        let plan = self.plan_of(&record, netns, draft.inside, draft.master)?;
        if request.dry_run {
            let endpoint = self.show(&record);
            let replaced = draft.old.filter(|old| old.phase == Phase::Live);
            let first = replaced.map(|old| {
                port::del(&old.host_ifname, self.limiter_of(old.id, old.network).as_ref(), self.tag.group).lines()
            });
            let plan = first.into_iter().flatten().chain(plan.lines()).collect();
            return Ok(AttachReply { outcome: Outcome::Planned, endpoint, plan });
        }
        let Some(old) = draft.old else {
            let record = self.wire(record, &plan, netns)?;
            self.order_gateways_or_warn(&record, netns);
            return Ok(AttachReply { outcome: Outcome::Created, endpoint: self.show(&record), plan: Vec::new() });
        };
        record.generation = old.generation + 1;
        let was_live = old.phase == Phase::Live;
        self.take_down(old.id)?;
        let stays = |a: &&IfAddr| old.network == record.network && record.addresses.contains(a);
        let dropped: Vec<_> = old.addresses.iter().filter(|a| !stays(a)).copied().collect();
        match self.wire(record, &plan, netns) {
            Ok(record) => {
                self.give_back(old.network, &dropped, &old.owner());
                self.unpersist(old.id)?;
                let outcome = if was_live { Outcome::Replaced } else { Outcome::Created };
                Ok(AttachReply { outcome, endpoint: self.show(&record), plan: Vec::new() })
            }
            Err(error) => Err(match self.rewire(old.clone(), netns) {
                Ok(()) => error,
                Err(again) => {
                    error.hint(format!("the attachment it was to replace could not be restored: {}", again.chain()))
                }
            }),
        }
    }

    /// The device the words name. Refuses what is understood but cannot be done here.
    fn host_device(&mut self, spec: &AttachSpec) -> Result<IfName, ApiError> {
        let HostIf::Name(name) = &spec.hostif else {
            return Err(ApiError::new(
                Kind::Unsupported,
                format!("{}: such a host side is not in this version", spec.hostif),
            )
            .hint("name a bridge"));
        };
        if spec.options.vlan.is_some() || spec.options.trunk.is_some() {
            return Err(ApiError::new(
                Kind::Unsupported,
                format!("VLANs on {name}: VLANs of bridge ports are not in this version{}", what_vlans_lack()),
            )
            .hint("leave --vlan, --trunk and @VLAN out, and use one bridge for each LAN"));
        }
        Ok(name.clone())
    }

    /// The endpoint that this attach would repeat or change. Without a name, an attach that equals none of the
    /// container's is one more interface, unless `--replace` points at the one on the same device.
    fn existing(&self, spec: &AttachSpec, target: &Target) -> Existing {
        let ours = self.of_container(target.engine, &target.id);
        let equal =
            |r: &&&EndpointRecord| matches!(&r.origin, Origin::Attach(asked) if same_words(asked, spec, &r.ifname));
        if let Some(found) = ours.iter().find(equal) {
            let live = found.phase == Phase::Live && found.netns == inode(target.netns.id());
            return if live { Existing::Same(found.id) } else { Existing::Stale(found.id) };
        }
        let changed = match &spec.options.ifname {
            Some(name) => ours.iter().find(|r| r.ifname == *name),
            None if spec.options.replace => {
                ours.iter().find(|r| matches!(&spec.hostif, HostIf::Name(n) if *n == r.master))
            }
            None => None,
        };
        changed.map_or(Existing::None, |r| Existing::Different(r.id))
    }

    fn differs(&self, id: EndpointId) -> ApiError {
        let r = &self.endpoints[&id];
        let addresses: Vec<_> = r.addresses.iter().map(ToString::to_string).collect();
        let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(",") };
        ApiError::new(
            Kind::Conflict,
            format!("{} of {} is attached to {} with {addresses} already", r.ifname, r.container, r.master),
        )
        .hint("--replace changes it, rnet detach removes it, another -i NAME makes one more")
    }

    /// The host side; `None` if it is a bridge that has to be made.
    fn master(&mut self, name: &IfName, spec: &AttachSpec) -> Result<Option<LinkState>, ApiError> {
        let link = self.kernel.host.link(name).map_err(|e| kernel(format!("cannot look for {name}"), &e))?;
        let Some(link) = link else {
            if name.as_str().starts_with("br") {
                return Ok(None);
            }
            let error = ApiError::new(Kind::Missing, format!("there is no interface {name} on this host"));
            let container = &spec.container;
            if self.networks.values().any(|n| n.record.spec.name.as_str() == name.as_str()) {
                return Err(error.hint(format!("{name} is a network: rnet network connect {name} {container}")));
            }
            return Err(error.hint(format!(
                "make a bridge: rnet bridge create {name}; one whose name begins with br is made by attach"
            )));
        };
        let what = match &link.kind {
            LinkKind::Bridge { .. } => return Ok(Some(link)),
            LinkKind::Physical => "a NIC",
            LinkKind::Loopback => "the loopback device",
            LinkKind::Veth { .. } => "a veth",
            LinkKind::Macvlan { .. } => "macvlan",
            LinkKind::Ipvlan { .. } => "ipvlan",
            LinkKind::Vlan { .. } => "vlan",
            LinkKind::Dummy => "dummy",
            LinkKind::Vrf { .. } => "vrf",
            LinkKind::Ifb => "ifb",
            LinkKind::Tun | LinkKind::Tap => "tun",
            LinkKind::Other(kind) => kind.as_str(),
        };
        let error = ApiError::new(
            Kind::Unsupported,
            format!("{name} is not a bridge ({what}): this version attaches to Linux bridges only"),
        );
        if matches!(link.kind, LinkKind::Loopback) {
            return Err(error.hint(format!("nothing can be attached to {name}; attach to a bridge, as br0")));
        }
        if let Some(bridge) = self.bridges.values().find(|b| b.uplink.as_ref().is_some_and(|u| u.name == *name)) {
            return Err(error.hint(format!("it is the uplink of {0}: attach to {0}", bridge.name)));
        }
        Err(error.hint(format!("put it into a bridge: rnet bridge create br0 --uplink {name}")))
    }

    fn refuse_full(&mut self, name: &IfName, master: Option<&LinkState>) -> Result<(), ApiError> {
        // A Linux bridge numbers its ports with 10 bits and does not use 0 (BR_PORT_BITS, net/bridge/br_private.h).
        const MAX_PORTS: usize = 1023;
        let ours = self.ports.get(name).copied().unwrap_or(0);
        let foreign = master.map_or(0, |m| self.foreign.values().filter(|l| l.master == Some(m.index)).count());
        // What is cut off has its port until it is deleted.
        if ours + foreign + self.reaper.len() >= MAX_PORTS {
            self.reaper.finish();
        }
        if ours + foreign < MAX_PORTS {
            return Ok(());
        }
        Err(ApiError::new(Kind::Conflict, format!("bridge {name} is full: it has {} ports", ours + foreign))
            .hint("a Linux bridge has 1,023 ports; use another bridge"))
    }

    /// Whether a port of the bridge was made by somebody else: then hosts may live behind it that netd does not know.
    /// A bridge that is down carries no question to them.
    fn leads_to_lan(&self, master: Option<&LinkState>) -> bool {
        master.is_some_and(|m| m.up && self.foreign.values().any(|l| l.master == Some(m.index)))
    }

    /// The network whose bridge this is.
    pub(super) fn network_of_bridge(&self, bridge: &IfName) -> Option<NetworkId> {
        self.networks.values().find(|n| n.record.spec.bridge.as_ref() == Some(bridge)).map(|n| n.record.id)
    }

    /// The record of what will be, with every default filled in.
    fn draft(&mut self, d: &Draft<'_>, resolved: &Resolved) -> Result<EndpointRecord, ApiError> {
        let o = &d.spec.options;
        let own = d.old.filter(|r| r.netns == inode(d.target.netns.id()) && r.phase == Phase::Live);
        let ifname = match (&o.ifname, d.old) {
            (Some(name), _) => name.clone(),
            (None, Some(old)) if own.is_some() || !d.inside.has(&old.ifname) => old.ifname.clone(),
            (None, _) => d.inside.free_name(),
        };
        let netns = inode(d.target.netns.id());
        if d.inside.has(&ifname) && own.is_none_or(|r| r.ifname != ifname) {
            return Err(ApiError::new(Kind::Conflict, format!("{} already has an interface {ifname}", d.target.name))
                .hint("choose another name with -i, or leave -i out"));
        }
        let id = clock::endpoint_id();
        // A name the user once gave stays, as the MAC address does.
        let given = d.old.filter(|r| r.host_ifname != tag::host_ifname(r.id)).map(|r| &r.host_ifname);
        let host_ifname = match o.host_ifname.as_ref().or(given) {
            None => tag::host_ifname(id),
            Some(name) => {
                let waiting = self.reaper.any(|r| r.host_ifname == *name);
                let found = self.kernel.host.link(name).map_err(|e| kernel(format!("cannot look for {name}"), &e))?;
                if found.is_some() && own.is_none_or(|r| r.host_ifname != *name) && !waiting {
                    return Err(ApiError::new(Kind::Conflict, format!("the host already has an interface {name}"))
                        .hint("choose another name with -l, or leave -l out"));
                }
                name.clone()
            }
        };
        let most = d.master.map_or(1500, |m| m.mtu);
        if let Some(mtu) = o.mtu
            && mtu > most
        {
            let master = d.master_name;
            let text = format!("MTU {mtu} is more than the MTU of {master}, {most}: {master} would drop larger frames");
            return Err(ApiError::new(Kind::Invalid, text)
                .hint(format!("leave --mtu out, or use a bridge of that MTU: rnet bridge create NAME --mtu {mtu}")));
        }
        let gateways = if o.no_default_route { Vec::new() } else { resolved.gateways.clone() };
        let metric = match (o.metric, own) {
            (Some(metric), None) if d.inside.has_default(&gateways, metric) => {
                return Err(ApiError::new(
                    Kind::Conflict,
                    format!("{} already has a default route with metric {metric}", d.target.name),
                )
                .hint("give another --metric, or --no-default-route"));
            }
            (Some(metric), _) => Some(metric),
            (None, Some(old)) => old.metric,
            (None, None) => d.inside.next_metric(&gateways),
        };
        Ok(EndpointRecord {
            id,
            engine: d.target.engine,
            container_id: d.target.id.clone(),
            container: d.target.name.clone(),
            origin: Origin::Attach(Box::new(d.spec.clone())),
            network: d.network,
            master: d.master_name.clone(),
            ifname,
            host_ifname,
            mac: o.mac.or_else(|| d.old.map(|r| r.mac)).unwrap_or_else(|| MacAddr::local(clock::random())),
            mtu: o.mtu.unwrap_or(most),
            addresses: resolved.addresses.clone(),
            gateways,
            routes: o.routes.clone(),
            aliases: Vec::new(),
            gw_priority: 0,
            allow_spoof: o.allow_spoof,
            metric,
            persistent: !o.no_persist,
            phase: Phase::Wiring,
            netns,
            source: d.target.source(),
            generation: 1,
            created: clock::wall(),
            replaces: d.old.map(|r| r.id),
        })
    }
}

/// Whether two attaches of one container ask for the same. `ifname` is what the first one got.
fn same_words(asked: &AttachSpec, spec: &AttachSpec, ifname: &IfName) -> bool {
    let mut a = asked.clone();
    // How the container was named, and what only steers one call, makes no difference.
    a.container.clone_from(&spec.container);
    a.options.replace = spec.options.replace;
    a.options.no_probe = spec.options.no_probe;
    if spec.options.ifname.is_none() || spec.options.ifname.as_ref() == Some(ifname) {
        a.options.ifname.clone_from(&spec.options.ifname);
    }
    a == *spec
}

/// What the kernel lacks for VLANs of bridge ports, as the end of a sentence. It is tried in a namespace of its own.
pub(super) fn what_vlans_lack() -> &'static str {
    let attempt = || -> Result<bool, rnet_kernel::KernelError> {
        let mut links = Route::open(&Netns::create()?)?;
        let name: IfName = "br0".parse().expect("br0 is an interface name");
        let bridge = NewBridge {
            name: name.clone(),
            alias: String::new(),
            mtu: None,
            mac: None,
            vlan_filtering: true,
            ipv6: AddressGeneration::Off,
            snooping: Snooping::Off,
        };
        let faults = links.batch(&[LinkOp::NewBridge(bridge)])?;
        let made = links.link(&name)?.map(|l| l.kind);
        Ok(faults.is_empty() && made == Some(LinkKind::Bridge { vlan_filtering: true }))
    };
    match attempt() {
        Ok(true) => "",
        _ => ", and this kernel lacks CONFIG_BRIDGE_VLAN_FILTERING",
    }
}

fn static_addresses(spec: &AddressSpec) -> impl Iterator<Item = IfAddr> {
    let list = match spec {
        AddressSpec::Static(list) => list.as_slice(),
        _ => &[],
    };
    list.iter().map(|a| a.address)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(container: &str, address: &str) -> AttachSpec {
        AttachSpec {
            hostif: "br0".parse().unwrap(),
            container: container.parse().unwrap(),
            address: address.parse().unwrap(),
            options: Default::default(),
        }
    }

    #[test]
    fn the_same_attach_in_other_words() {
        let eth0: IfName = "eth0".parse().unwrap();
        let asked = spec("web", "10.0.0.2/24");
        let mut again = spec("docker:web", "10.0.0.2/24");
        again.options.replace = true;
        again.options.no_probe = true;
        assert!(same_words(&asked, &again, &eth0));
        again.options.ifname = Some(eth0.clone());
        assert!(same_words(&asked, &again, &eth0));
        again.options.ifname = Some("eth1".parse().unwrap());
        assert!(!same_words(&asked, &again, &eth0));
        assert!(!same_words(&asked, &spec("web", "10.0.0.3/24"), &eth0));
    }
}
