//! Publishing ports: all of a list or nothing, where its container is reached, for as long as the container has an
//! interface.
//!
//! Owns the records of published ports and their way into the packet filter, the run log and the proxy of
//! [`super::loopback`]. The truth about what is published is the run log; a crash between the packet filter and the log
//! leaves elements that belong to no record, which the next start removes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rnet_api::{ApiError, Publication, PublishRequest, UnpublishRequest};
use rnet_kernel::{Family, Filter, FilterChange, FlowFilter, LinkOp, Links, Published, Switch, Sysctls};
use rnet_model::{
    ContainerRef, Engine as ContainerEngine, ExposedPort, Kind, PortRange, PortSpec, Protocol, PublishedPort,
};
use rnet_plan::{Surfaces as _, fail};

use super::core::{kernel, store};
use super::host_firewall::Looked;
use super::port_probe::user_of;
use super::ports::{ContainerPorts, Entry, Owner, PortRecord, ProxyPorts, Targets, loopbacks, port_key};
use super::state::Phase;
use super::{Engine, view};

/// Key of the ports of the loopback proxy in the run log.
const PROXY: &str = "proxy/loopback";

/// What differs in the packet filter.
#[derive(Debug, Default)]
struct Delta {
    add: Vec<FilterChange>,
    remove: Vec<FilterChange>,
}

/// Addresses of this host, read when they are first needed.
#[derive(Debug, Default)]
struct HostAddresses(Option<Vec<IpAddr>>);

impl Engine {
    /// `rnet publish`.
    pub(super) fn publish(&mut self, request: &PublishRequest) -> Result<Vec<Publication>, ApiError> {
        let (owner, name) = self.container_to_publish(&request.container)?;
        self.publish_all(&owner, &name, &request.ports)
    }

    /// `rnet unpublish`: what is no longer published.
    pub(super) fn unpublish(&mut self, request: &UnpublishRequest) -> Result<Vec<Publication>, ApiError> {
        let owner = self.publishing(&request.container)?;
        let state = self.published.containers.get(&owner);
        let name = state.map_or(&owner.1, |c| &c.container);
        let all = || state.into_iter().flat_map(|c| c.entries.values());
        let mut gone = Vec::new();
        for spec in &request.ports {
            let listed = |e: &&Entry| e.port.to_string() == spec.to_string();
            let same = state.and_then(|c| c.entries.get(spec));
            match same.or_else(|| all().find(listed)) {
                Some(entry) => gone.push(*entry),
                None => {
                    let text = format!("{spec} of {name} is not published");
                    return Err(ApiError::new(Kind::Missing, text).hint(format!("list what is: rnet port {name}")));
                }
            }
        }
        if request.ports.is_empty() {
            gone.extend(all());
        }
        self.withdraw(&owner, &gone)
    }

    /// All publications, or those of one container.
    pub(super) fn publications(&self) -> Vec<Publication> {
        let all = self.published.containers.values();
        let mut all: Vec<Publication> =
            all.flat_map(|c| c.entries.values().map(|e| self.show_publication(c, e))).collect();
        all.sort_by(|a, b| {
            let key = |p: &Publication| (p.port.container_port, p.port.protocol, p.port.host_port, p.port.host);
            (&a.container, &a.container_id, key(a)).cmp(&(&b.container, &b.container_id, key(b)))
        });
        all
    }

    /// Publications whose targets are on a network's bridge.
    fn show_publication(&self, c: &ContainerPorts, entry: &Entry) -> Publication {
        let targets: Vec<IpAddr> = c.targets.iter().map(|(ip, _)| ip).collect();
        let outside = |host: Option<IpAddr>| host.is_none_or(|ip| !ip.is_loopback());
        Publication {
            engine: c.owner.0,
            container_id: c.owner.1.clone(),
            container: c.container.clone(),
            spec: entry.spec,
            port: entry.port,
            routed: !c.targets.is_empty() && c.targets.behind_nat().next().is_none(),
            closed_by_host: outside(entry.port.host) && targets.iter().any(|ip| self.host_drops.drops(ip.is_ipv4())),
            targets,
        }
    }

    /// The container of a request, by its interfaces, and its name.
    fn container_to_publish(&self, reference: &ContainerRef) -> Result<(Owner, String), ApiError> {
        let owner = self.attached_container(reference)?.ok_or_else(|| {
            ApiError::new(Kind::Missing, format!("{reference} is on no network of rnet"))
                .hint(format!("connect it first: rnet network connect NETWORK {reference}"))
        })?;
        let ours = self.of_container(owner.0, &owner.1).first().map(|r| r.container.clone());
        let name = ours.or_else(|| self.chains_of(owner.0, &owner.1).next().map(|r| r.container.clone()));
        let name = name.unwrap_or_else(|| owner.1.clone());
        Ok((owner, name))
    }

    /// The container of a request, which may have no interface any more.
    fn publishing(&self, reference: &ContainerRef) -> Result<Owner, ApiError> {
        if let Some(owner) = self.attached_container(reference)? {
            return Ok(owner);
        }
        let (engine, name) = match reference {
            ContainerRef::Any(name) => (None, name.to_string()),
            ContainerRef::Of(engine, name) => (Some(*engine), name.to_string()),
            ContainerRef::NetnsPath(path) => (Some(ContainerEngine::Netns), path.display().to_string()),
            ContainerRef::Pid(pid) => (Some(ContainerEngine::Pid), pid.to_string()),
        };
        let named =
            |c: &&ContainerPorts| engine.is_none_or(|e| e == c.owner.0) && (c.container == name || c.owner.1 == name);
        let found = self.published.containers.values().find(named).map(|c| (*c.owner).clone());
        found.ok_or_else(|| {
            ApiError::new(Kind::Missing, format!("{reference} has no published ports and is on no network"))
                .hint("list all that are: rnet port")
        })
    }

    /// What a container listens on and what of it is to be published, as one list.
    pub(super) fn with_exposed(ports: &[PortSpec], expose: &[ExposedPort]) -> Vec<PortSpec> {
        let mut all = ports.to_vec();
        for exposed in expose {
            for port in exposed.ports.ports() {
                let covers = |s: &PortSpec| {
                    let inside = s.container_ports;
                    s.protocol == exposed.protocol && (inside.first()..=inside.last()).contains(&port)
                };
                if !all.iter().any(covers) {
                    all.push(PortSpec {
                        host: None,
                        host_ports: None,
                        container_ports: PortRange::from(port),
                        protocol: exposed.protocol,
                    });
                }
            }
        }
        all
    }

    /// Publishes a list, or nothing of it. What is published already is part of the answer.
    pub(super) fn publish_all(
        &mut self,
        owner: &Owner,
        name: &str,
        specs: &[PortSpec],
    ) -> Result<Vec<Publication>, ApiError> {
        if specs.is_empty() {
            return Ok(Vec::new());
        }
        let targets = self.targets_of(owner);
        if targets.is_empty() {
            return Err(self.why_unreachable(owner, name));
        }
        if !self.firewall_known {
            self.look_at_host_firewall();
        }
        let shared = match self.published.containers.get(owner) {
            Some(state) => state.owner.clone(),
            None => Arc::new(owner.clone()),
        };
        let mut fresh = ContainerPorts { owner: shared, container: name.to_owned(), entries: BTreeMap::new(), targets };
        let made = self.choose_all(&mut fresh, specs).and_then(|()| self.put_in_force(&fresh));
        if let Err(error) = made {
            self.let_go(&fresh);
            return Err(error);
        }
        for entry in fresh.entries.values() {
            let mut event = view::event("publish", name);
            event.attributes.insert("port".into(), entry.port.to_string());
            self.emit(event);
        }
        let state = self.published.containers.entry(owner.clone()).or_insert_with(|| fresh.with([]));
        state.entries.extend(fresh.entries);
        self.name_services(owner);
        self.admit_ports(Looked::Changed);
        let state = &self.published.containers[owner];
        let asked: BTreeSet<&PortSpec> = specs.iter().collect();
        let found = asked.into_iter().filter_map(|spec| state.entries.get(spec));
        Ok(found.map(|e| self.show_publication(state, e)).collect())
    }

    /// Chooses and holds the ports of the host for all that is not published yet.
    fn choose_all(&mut self, fresh: &mut ContainerPorts, specs: &[PortSpec]) -> Result<(), ApiError> {
        let mut addresses = HostAddresses::default();
        let behind_nat = fresh.targets.behind_nat().next().is_some();
        for spec in specs {
            let published = self.published.containers.get(&*fresh.owner);
            if fresh.entries.contains_key(spec) || published.is_some_and(|c| c.entries.contains_key(spec)) {
                continue;
            }
            if !behind_nat {
                // Reached at its own address: there is nothing to choose, and nothing to be in the way.
                let port = as_asked(spec, spec.container_ports);
                fresh.entries.insert(*spec, Entry { spec: *spec, port, held: false });
                continue;
            }
            self.refuse_address(spec, &fresh.targets, &fresh.container, &mut addresses)?;
            let port = self.choose_one(spec)?;
            self.published.hold(&fresh.owner, port);
            fresh.entries.insert(*spec, Entry { spec: *spec, port, held: true });
        }
        Ok(())
    }

    /// The ports of the host for one publication.
    fn choose_one(&mut self, spec: &PortSpec) -> Result<PublishedPort, ApiError> {
        let PortSpec { host, protocol, container_ports, .. } = *spec;
        let Some(asked) = spec.host_ports else {
            let count = container_ports.count();
            let reserved = self.reserved_ports();
            let free = |port: u16| !is_reserved(&reserved, port) && user_of(protocol, host, port).is_none();
            let first = self.published.choose(protocol, host, count, free).ok_or_else(|| {
                ApiError::new(Kind::Retry, format!("there are no {count} free ports in a row from 49153 on"))
                    .hint("name the port of the host: HOSTPORT:CONTAINERPORT")
            })?;
            let last = first + (count - 1);
            let chosen = PortRange::new(first, last).expect("a run of ports rises");
            return Ok(as_asked(spec, chosen));
        };
        if asked.count() == container_ports.count() {
            asked.ports().try_for_each(|port| self.refuse_used(protocol, host, port))?;
            return Ok(as_asked(spec, asked));
        }
        // Several for one: the first that is free.
        let mut last = None;
        for port in asked.ports() {
            match self.refuse_used(protocol, host, port) {
                Ok(()) => return Ok(as_asked(spec, PortRange::from(port))),
                Err(error) => last = Some(error),
            }
        }
        let why = last.expect("a range has a port");
        Err(ApiError::new(Kind::Conflict, format!("none of the ports {asked}/{protocol} is free")).because(&why))
    }

    fn refuse_used(&self, protocol: Protocol, host: Option<IpAddr>, port: u16) -> Result<(), ApiError> {
        let on = host.map_or_else(|| format!("port {port}"), |ip| format!("port {}", SocketAddr::new(ip, port)));
        if let Some(owner) = self.published.holder(protocol, host, port) {
            let name = self.published.containers.get(owner).map_or(&owner.1, |c| &c.container);
            return Err(ApiError::new(Kind::Conflict, format!("{on}/{protocol} is published by container {name}"))
                .hint(format!("choose another port of the host, or see: rnet port {name}")));
        }
        match user_of(protocol, host, port) {
            None => Ok(()),
            Some(user) => Err(ApiError::new(Kind::Conflict, format!("{on}/{protocol} is in use by {user}"))
                .hint("choose another port of the host, or stop it")),
        }
    }

    /// An address that is not this host's would take the traffic to somebody else (CVE-2020-8554).
    fn refuse_address(
        &mut self,
        spec: &PortSpec,
        targets: &Targets,
        container: &str,
        addresses: &mut HostAddresses,
    ) -> Result<(), ApiError> {
        let Some(host) = spec.host else { return Ok(()) };
        let family = |v4: bool| if v4 { "IPv4" } else { "IPv6" };
        let on_loopback = host.is_loopback();
        if on_loopback && spec.protocol == Protocol::Sctp {
            return Err(ApiError::new(Kind::Unsupported, format!("{spec}: SCTP is not served on loopback"))
                .hint("publish it on an address of the host"));
        }
        if !on_loopback && !targets.behind_nat().any(|ip| ip.is_ipv4() == host.is_ipv4()) {
            let family = family(host.is_ipv4());
            let text = format!("{spec}: {container} has no {family} address behind its default route");
            return Err(ApiError::new(Kind::Invalid, text)
                .hint("publish on an address of the other family, or connect it to a network with both"));
        }
        if host.is_unspecified() || on_loopback {
            return Ok(());
        }
        if addresses.0.is_none() {
            let fail = |e| kernel("cannot read the host's addresses", &e);
            addresses.0 = Some(self.kernel.host.addresses().map_err(fail)?.into_iter().map(|a| a.ip).collect());
        }
        let ours = addresses.0.as_deref().unwrap_or_default();
        if ours.contains(&host) {
            return Ok(());
        }
        let mut list: Vec<String> =
            ours.iter().filter(|ip| ip.is_ipv4() == host.is_ipv4()).map(ToString::to_string).collect();
        list.sort();
        list.dedup();
        Err(ApiError::new(Kind::Invalid, format!("{spec}: {host} is no address of this host"))
            .hint(format!("it has {}", list.join(", "))))
    }

    /// Ports the administrator keeps for others (`ip_local_reserved_ports`).
    fn reserved_ports(&mut self) -> Vec<PortRange> {
        let text = self.kernel.sysctls.get("net/ipv4/ip_local_reserved_ports").ok().flatten().unwrap_or_default();
        text.split(',').filter_map(|part| part.trim().parse().ok()).collect()
    }

    /// Makes fresh publications true: sockets, packet filter, run log.
    fn put_in_force(&mut self, fresh: &ContainerPorts) -> Result<(), ApiError> {
        self.open_loopback(fresh)?;
        if !self.published.containers.contains_key(&*fresh.owner) {
            self.turn_back(fresh);
        }
        let add: Vec<FilterChange> = fresh.elements(self.loopback.ports).collect();
        fail::point("publish.filter");
        self.ensure_filter()?;
        self.kernel.filter.change(&add, &[]).map_err(|e| kernel("cannot publish ports", &e))?;
        fail::point("publish.filter.done");
        self.lead(fresh, true);
        let records: Vec<(String, PortRecord)> = fresh.entries.values().map(|e| record(fresh, e)).collect();
        fail::point("publish.commit");
        if let Err(error) = self.log.put_all(&records) {
            if let Err(left) = self.kernel.filter.change(&[], &add) {
                tracing::warn!(error = %left, "cannot take published ports back");
                self.settle_filter_soon();
            }
            return Err(store(&error));
        }
        fail::point("publish.commit.done");
        self.forget_flows(&add, &[]);
        Ok(())
    }

    /// Lets a container's bridge ports send back what came by them, or no longer. With br_netfilter in force a packet to
    /// a published port of the own network is translated in the bridge and never leaves it; without it this changes
    /// nothing.
    fn turn_back(&mut self, c: &ContainerPorts) {
        let on = if c.itself().next().is_some() { Switch::On } else { Switch::Off };
        let live = |r: &&super::state::EndpointRecord| r.phase == Phase::Live && r.network.is_some();
        let ports = self.of_container(c.owner.0, &c.owner.1).into_iter().filter(live);
        let ops: Vec<LinkOp> = ports.map(|r| LinkOp::Hairpin(r.host_ifname.clone(), on)).collect();
        let failed = match self.kernel.host.batch(&ops) {
            Ok(faults) => faults.into_iter().next().map(|fault| fault.error),
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            tracing::warn!(container = c.container, %error, "it may not reach its own published ports");
        }
    }

    /// What ports on loopback need.
    fn open_loopback(&mut self, fresh: &ContainerPorts) -> Result<(), ApiError> {
        for entry in fresh.entries.values().filter(|e| e.held && e.port.protocol != Protocol::Sctp) {
            for on in loopbacks(entry.port.host) {
                self.start_loopback()?;
                for port in entry.port.host_ports().ports() {
                    self.loopback.open(entry.port.protocol, on, port).map_err(|e| {
                        let text = format!("cannot serve {} on loopback", entry.port);
                        ApiError::new(Kind::Conflict, text).because(&e)
                    })?;
                }
            }
        }
        Ok(())
    }

    fn start_loopback(&mut self) -> Result<(), ApiError> {
        if self.loopback.ports != ProxyPorts::default() {
            return Ok(());
        }
        self.loopback.start(self.proxy_before)?;
        let ports = self.loopback.ports;
        self.log_put(PROXY, &ports)
    }

    /// Lets the ports on loopback lead to the container, or nowhere.
    fn lead(&self, c: &ContainerPorts, there: bool) {
        self.loopback.lead(c.entries.values().filter(|e| e.held).flat_map(|e| {
            let keys: Vec<Option<IpAddr>> = match e.port.host {
                None => vec![None],
                host => loopbacks(host).into_iter().map(Some).collect(),
            };
            keys.into_iter().flat_map(move |host| {
                let like = host.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
                let ip = c.targets.for_loopback(like).filter(|_| there);
                let target = move |inside| ip.map(|ip| SocketAddr::new(ip, inside));
                e.port.pairs().map(move |(port, inside)| ((e.port.protocol, host, port), target(inside)))
            })
        }));
    }

    /// Lets go of ports of the host and of sockets on loopback.
    fn let_go(&mut self, c: &ContainerPorts) {
        self.lead(c, false);
        for entry in c.entries.values().filter(|e| e.held) {
            self.published.release(&c.owner, entry.port);
            for on in loopbacks(entry.port.host) {
                entry.port.host_ports().ports().for_each(|port| self.loopback.close(entry.port.protocol, on, port));
            }
        }
    }

    /// Takes publications of a container back.
    fn withdraw(&mut self, owner: &Owner, entries: &[Entry]) -> Result<Vec<Publication>, ApiError> {
        let Some(state) = self.published.containers.get(owner) else { return Ok(Vec::new()) };
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let gone = state.with(entries.iter().copied());
        let shown: Vec<Publication> = gone.entries.values().map(|e| self.show_publication(state, e)).collect();
        let keys: Vec<String> = gone.entries.keys().map(|spec| port_key(owner, spec)).collect();
        fail::point("unpublish.commit");
        self.log.remove_all(&keys).map_err(|e| store(&e))?;
        fail::point("unpublish.commit.done");
        let mut remove: Vec<FilterChange> = gone.elements(self.loopback.ports).collect();
        if gone.entries.len() < state.entries.len() {
            remove.retain(|change| !matches!(change, FilterChange::Itself(_)));
        }
        fail::point("unpublish.filter");
        if let Err(error) = self.kernel.filter.change(&[], &remove) {
            // They are no longer wanted, and go as soon as it works.
            tracing::warn!(%error, "cannot close published ports");
            self.settle_filter_soon();
        }
        fail::point("unpublish.filter.done");
        self.forget_flows(&[], &remove);
        self.let_go(&gone);
        if let Some(state) = self.published.containers.get_mut(owner) {
            for spec in gone.entries.keys() {
                state.entries.remove(spec);
            }
            if state.entries.is_empty() {
                self.published.containers.remove(owner);
                self.admit_ports(Looked::Changed);
            }
        }
        if !self.published.containers.contains_key(owner) {
            self.turn_back(&gone.with([]));
        }
        self.name_services(owner);
        for entry in entries {
            let mut event = view::event("unpublish", gone.container.clone());
            event.attributes.insert("port".into(), entry.port.to_string());
            self.emit(event);
        }
        Ok(shown)
    }

    /// Takes back all publications of a container that ends.
    pub(super) fn withdraw_all(&mut self, owner: &Owner) {
        let Some(state) = self.published.containers.get(owner) else { return };
        let entries: Vec<Entry> = state.entries.values().copied().collect();
        if let Err(error) = self.withdraw(owner, &entries) {
            tracing::warn!(error = error.chain(), "cannot take published ports back");
        }
    }

    /// Takes back what a request has published before it failed.
    pub(super) fn withdraw_some(&mut self, owner: &Owner, specs: &[PortSpec]) {
        let Some(state) = self.published.containers.get(owner) else { return };
        let entries: Vec<Entry> = specs.iter().filter_map(|spec| state.entries.get(spec)).copied().collect();
        if let Err(error) = self.withdraw(owner, &entries) {
            tracing::warn!(error = error.chain(), "cannot take published ports back");
        }
    }

    /// Lets published ports follow what has become of their containers' interfaces. At the end of every job.
    pub(super) fn settle_ports(&mut self) {
        if self.published.touched.is_empty() {
            return self.settle_links();
        }
        let mut delta = Delta::default();
        for owner in std::mem::take(&mut self.published.touched) {
            if self.has_ended(&owner) {
                self.withdraw_all(&owner);
                continue;
            }
            self.follow(&owner, &mut delta);
        }
        if !delta.add.is_empty() || !delta.remove.is_empty() {
            if let Err(error) = self.kernel.filter.change(&delta.add, &delta.remove) {
                tracing::warn!(%error, "published ports do not follow their containers yet");
                self.settle_filter_soon();
            }
            self.forget_flows(&delta.add, &delta.remove);
            self.admit_ports(Looked::Changed);
        }
        self.settle_links();
    }

    /// Notes that an interface of a container has changed.
    pub(super) fn touch_ports(&mut self, engine: ContainerEngine, id: &str) {
        self.published.touch(engine, id);
        self.links_stale |= !self.offers.is_empty();
    }

    /// Whether nothing of a container is left that it could get its interfaces back by.
    pub(super) fn has_ended(&self, owner: &Owner) -> bool {
        let kept = owner.0 == ContainerEngine::Rnet && self.sandbox_of.contains_key(&owner.1);
        !kept && self.of_container(owner.0, &owner.1).is_empty()
    }

    /// Leads the ports of a container to where it is now.
    fn follow(&mut self, owner: &Owner, delta: &mut Delta) {
        let targets = self.targets_of(owner);
        let Some(mut state) = self.published.containers.remove(owner) else { return };
        if state.targets != targets {
            let before: Vec<FilterChange> = state.elements(self.loopback.ports).collect();
            state.targets = targets;
            self.hold_all(&mut state);
            let after: Vec<FilterChange> = state.elements(self.loopback.ports).collect();
            let old: HashSet<&FilterChange> = before.iter().collect();
            let new: HashSet<&FilterChange> = after.iter().collect();
            delta.add.extend(after.iter().filter(|e| !old.contains(e)).cloned());
            delta.remove.extend(before.iter().filter(|e| !new.contains(e)).cloned());
            self.lead(&state, true);
        }
        self.turn_back(&state);
        self.published.containers.insert(owner.clone(), state);
    }

    /// Ports of the host that were not needed while the container was on a routed network.
    fn hold_all(&mut self, state: &mut ContainerPorts) {
        if state.targets.behind_nat().next().is_none() || state.entries.values().all(|e| e.held) {
            return;
        }
        let waiting: Vec<Entry> = state.entries.values().filter(|e| !e.held).copied().collect();
        for entry in waiting {
            match self.choose_one(&entry.spec) {
                Ok(port) => {
                    self.published.hold(&state.owner, port);
                    let held = Entry { port, held: true, ..entry };
                    state.entries.insert(entry.spec, held);
                    let only = state.with([held]);
                    if let Err(error) = self.open_loopback(&only) {
                        tracing::warn!(error = error.chain(), "a published port is not served on loopback");
                    }
                    let (key, record) = record(&only, &held);
                    if let Err(error) = self.log_put(&key, &record) {
                        tracing::warn!(error = error.chain(), "cannot write the run log");
                    }
                }
                Err(error) => tracing::warn!(
                    container = state.container,
                    error = error.chain(),
                    "a port is not published on the container's new network"
                ),
            }
        }
    }

    /// Where the ports of a container lead: for each family the endpoint with its default route, if that is on a
    /// network of rnet.
    pub(super) fn targets_of(&self, owner: &Owner) -> Targets {
        let gateway = |family: Family| {
            let record = self.endpoints.get(&self.gateway_endpoint(owner.0, &owner.1, family)?)?;
            let spec = &self.networks.get(&record.network?)?.record.spec;
            let v4 = family == Family::V4;
            let address = record.addresses.iter().map(rnet_model::IfAddr::ip).find(|ip| ip.is_ipv4() == v4)?;
            (!spec.internal).then_some((address, spec.gateway_mode))
        };
        let mut targets = Targets::default();
        for (address, mode) in [Family::V4, Family::V6].into_iter().filter_map(gateway) {
            match address {
                IpAddr::V4(ip) => targets.v4 = Some((ip, mode)),
                IpAddr::V6(ip) => targets.v6 = Some((ip, mode)),
            }
        }
        targets
    }

    fn why_unreachable(&self, owner: &Owner, name: &str) -> ApiError {
        let all = self.of_container(owner.0, &owner.1);
        let network = |r: &super::state::EndpointRecord| r.network.and_then(|id| self.networks.get(&id));
        let live: Vec<_> = all.iter().filter(|r| r.phase == Phase::Live).collect();
        if let Some(chain) = self.chains_of(owner.0, &owner.1).next()
            && live.is_empty()
        {
            let on = self.networks.get(&chain.network).map(|n| n.record.spec.name.to_string()).unwrap_or_default();
            return ApiError::new(
                Kind::Unsupported,
                format!("{name} is on network {on}, which plugins make: netd publishes no ports there"),
            )
            .hint("add plugin portmap to its conflist, or connect it to a network of rnet");
        }
        if live.is_empty() && !all.is_empty() {
            return ApiError::new(Kind::Retry, format!("{name} does not run")).hint("start it and repeat the command");
        }
        let gateway = live.iter().min_by_key(|r| (r.gateways.is_empty(), r.metric.unwrap_or(0)));
        let Some(record) = gateway else {
            return ApiError::new(Kind::Invalid, format!("{name} is on no network"))
                .hint(format!("connect it first: rnet network connect NETWORK {name}"));
        };
        match network(record) {
            None => {
                let own: Vec<String> = record.addresses.iter().map(|a| a.ip().to_string()).collect();
                let bridge = &record.master;
                ApiError::new(
                    Kind::Invalid,
                    format!("{name} is on bridge {bridge}, where it has an address of its own"),
                )
                .hint(format!("it is reached at {}; nothing has to be published", own.join(", ")))
            }
            Some(n) if n.record.spec.internal => {
                let on = &n.record.spec.name;
                ApiError::new(Kind::Invalid, format!("network {on} of {name} is internal: nothing outside reaches it"))
                    .hint("connect it to a network that is not internal")
            }
            Some(n) => {
                let on = &n.record.spec.name;
                ApiError::new(Kind::Invalid, format!("{name} has no default route by its network {on}"))
                    .hint("give it one: reconnect it to the network")
            }
        }
    }

    /// Everything of published ports that the packet filter is to hold.
    pub(super) fn port_elements(&self) -> impl Iterator<Item = FilterChange> {
        let ports = self.published.elements(self.loopback.ports);
        ports.chain(self.linked.iter().copied().map(FilterChange::Linked)).chain(self.host_drops.elements())
    }

    /// What was published when the last netd ended, with the ports it had. After the endpoints are known.
    pub(super) fn recover_ports(&mut self, records: Vec<PortRecord>, proxy: ProxyPorts) {
        self.proxy_before = proxy;
        for PortRecord { engine, container_id, container, spec, port } in records {
            let owner = (engine, container_id);
            if self.has_ended(&owner) {
                self.log_remove(&port_key(&owner, &spec));
                continue;
            }
            if !self.published.containers.contains_key(&owner) {
                let state = ContainerPorts {
                    owner: Arc::new(owner.clone()),
                    container,
                    entries: BTreeMap::new(),
                    targets: self.targets_of(&owner),
                };
                self.published.containers.insert(owner.clone(), state);
            }
            let state = self.published.containers.get_mut(&owner).expect("it was just inserted");
            // A container that does not run keeps its ports.
            let held = state.targets.is_empty() || state.targets.behind_nat().next().is_some();
            state.entries.insert(spec, Entry { spec, port, held });
            let shared = state.owner.clone();
            if held {
                self.published.hold(&shared, port);
            }
        }
        self.published.touched.clear();
        if !self.published.containers.is_empty() {
            self.look_at_host_firewall();
        }
        self.admit_ports(Looked::Again);
        let all: Vec<ContainerPorts> = self.published.containers.values().cloned().collect();
        for state in &all {
            if let Err(error) = self.open_loopback(state) {
                tracing::warn!(container = state.container, error = error.chain(), "a port is not served on loopback");
            }
            self.lead(state, true);
            self.name_services(&state.owner);
        }
    }

    /// UDP and SCTP flows go on under the translation they began with: those of what has changed begin anew. Flows of
    /// others are not touched.
    pub(super) fn forget_flows(&mut self, added: &[FilterChange], removed: &[FilterChange]) {
        fn datagrams(changes: &[FilterChange]) -> impl Iterator<Item = &Published> {
            changes.iter().filter_map(|change| match change {
                FilterChange::Published(p) if p.protocol != Protocol::Tcp => Some(p),
                _ => None,
            })
        }
        if datagrams(added).chain(datagrams(removed)).next().is_none() {
            return;
        }
        let mut filters: Vec<FlowFilter> = datagrams(removed).map(translated).collect();
        if datagrams(added).next().is_some() {
            let ours = match self.kernel.host.addresses() {
                Ok(all) => all.into_iter().map(|a| a.ip).filter(|ip| !ip.is_loopback()).collect::<Vec<_>>(),
                Err(error) => return tracing::warn!(%error, "old flows keep their way"),
            };
            filters.extend(datagrams(added).flat_map(|p| {
                let on = |ip: &&IpAddr| ip.is_ipv4() == p.host.is_ipv4() && (p.host.is_unspecified() || p.host == **ip);
                ours.iter().filter(on).map(|ip| untranslated(p, *ip)).collect::<Vec<_>>()
            }));
        }
        let deleted = self.kernel.flows().and_then(|flows| flows.delete_any(&filters));
        if let Err(error) = deleted {
            tracing::warn!(%error, "old flows keep their way");
        }
    }
}

/// Flows that were led to the container.
fn translated(p: &Published) -> FlowFilter {
    FlowFilter {
        original_destination: Some(p.host).filter(|ip| !ip.is_unspecified()),
        original_port: Some(p.port),
        reply_source: Some(p.target.ip()),
        reply_port: Some(p.target.port()),
        ..FlowFilter::new(p.protocol.number())
    }
}

/// Flows that the host itself was asked to answer before the port was published.
fn untranslated(p: &Published, ours: IpAddr) -> FlowFilter {
    FlowFilter {
        original_destination: Some(ours),
        original_port: Some(p.port),
        reply_source: Some(ours),
        reply_port: Some(p.port),
        ..FlowFilter::new(p.protocol.number())
    }
}

fn record(c: &ContainerPorts, entry: &Entry) -> (String, PortRecord) {
    let (engine, container_id) = (*c.owner).clone();
    let key = port_key(&c.owner, &entry.spec);
    (key, PortRecord { engine, container_id, container: c.container.clone(), spec: entry.spec, port: entry.port })
}

/// A publication at these ports of the host.
fn as_asked(spec: &PortSpec, host_ports: PortRange) -> PublishedPort {
    PublishedPort {
        host: spec.host,
        host_port: host_ports.first(),
        container_port: spec.container_ports.first(),
        count: spec.container_ports.count(),
        protocol: spec.protocol,
    }
}

fn is_reserved(reserved: &[PortRange], port: u16) -> bool {
    reserved.iter().any(|r| (r.first()..=r.last()).contains(&port))
}
