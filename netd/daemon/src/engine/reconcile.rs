//! Keeping kernel and intent equal: what is compared after a start, and again when [`super::notice`] says so.
//!
//! After a start the kernel is read once; only what differs is touched, and only what carries our mark is removed.

use std::collections::{BTreeMap, HashMap, HashSet};

use rnet_api::ApiError;
use rnet_kernel::{Filter, LinkKind, LinkOp, LinkState, Links, Netns, RouteEntry, RouteKind, Sysctls};
use rnet_model::{EndpointId, Engine as ContainerEngine, IfAddr, IfName, NetworkId};
use rnet_plan::apply;
use rnet_plugins_builtin::port;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bridge::bridge_key;
use super::clock::boot_seconds;
use super::core::{SandboxState, endpoint_key, kernel};
use super::network::{bridge_addresses, network_state};
use super::state::{
    BridgeRecord, EndpointRecord, LinkRecord, MakingNetwork, NetworkRecord, Origin, Phase, Reservation, SandboxRecord,
};
use super::surfaces::{Stored, put};
use super::{Engine, clock, view};

/// Key of the random number that makes this host's unique local addresses.
const GLOBAL_ID: &str = "host/global-id";

/// The links of this instance, by the object they were made for.
type Ours = HashMap<String, LinkState>;

impl Engine {
    /// Reads what was written down, then makes the kernel equal to it.
    pub(super) fn recover(&mut self, logged: BTreeMap<String, Value>, stored: Stored) -> Result<(), ApiError> {
        self.recover_global_id(&stored);
        let mut endpoints = of_prefix::<EndpointRecord>(&logged, "endpoint/");
        let mut gone: HashSet<String> =
            logged.keys().filter_map(|k| k.strip_prefix("gone/")).map(str::to_owned).collect();
        // A crash may have come between the two halves of a replacement: the new one is there, so the old one is not.
        let there = endpoints.iter().filter(|r| r.phase == Phase::Live);
        gone.extend(there.filter_map(|r| r.replaces).map(|id| id.to_string()));
        for record in of_stored::<EndpointRecord>(&stored, "attachments/") {
            // A reboot has emptied the run log: what is to come back waits for its container.
            let known = endpoints.iter().any(|r| r.id == record.id);
            if !known && !gone.contains(&record.id.to_string()) {
                endpoints.push(EndpointRecord { phase: Phase::Pending, ..record });
            }
        }
        for id in &gone {
            self.writer.behind(vec![super::surfaces::delete(format!("attachments/{id}"))]);
        }
        self.tombstones = gone.into_iter().collect();
        let fail = |e| kernel("cannot read the host's links", &e);
        let links = self.kernel.host.links().map_err(fail)?;
        let mut ours = self.sort_links(links);
        self.find_unmarked(&logged, &endpoints, &mut ours);

        self.recover_bridges(&logged, &stored, &mut ours)?;
        self.recover_networks(&logged, &stored, &mut ours);
        self.recover_sandboxes(of_prefix(&logged, "sandbox/"));
        self.recover_endpoints(endpoints, &mut ours);
        self.recover_gateways();
        self.keep_limiters(&mut ours);
        let edited = keys_of(&logged, "edit/");
        let limited = self.networks.keys().filter(|id| self.is_limited(**id) && !edited.contains(id));
        for id in limited.copied().collect::<Vec<_>>() {
            self.verify_limits(id);
        }
        edited.into_iter().for_each(|id| self.recover_edit(id));
        self.recover_new_bridges(&mut ours);
        self.recover_reservations(&stored);
        self.recover_chains(of_prefix(&logged, "chain/"));
        self.recover_links(of_prefix(&logged, "link/"));
        self.recover_offers(of_prefix(&logged, "offer/"));
        let proxy = of_prefix(&logged, "proxy/").into_iter().next().unwrap_or_default();
        self.recover_ports(of_prefix(&logged, "port/"), proxy);
        self.collect_garbage(&ours);
        self.recover_filter();
        self.kernel.leave();
        Ok(())
    }

    fn recover_global_id(&mut self, stored: &Stored) {
        let found = stored.get(GLOBAL_ID).and_then(|v| serde_json::from_slice(v).ok());
        self.global_id = found.unwrap_or_else(|| {
            let random = clock::random().to_be_bytes();
            let id = [random[0], random[1], random[2], random[3], random[4]];
            self.writer.behind(vec![put(GLOBAL_ID.to_owned(), &id)]);
            id
        });
    }

    /// Ours by object; the others go into the table of foreign links.
    pub(super) fn sort_links(&mut self, links: Vec<LinkState>) -> Ours {
        let mut ours = Ours::new();
        self.foreign.clear();
        for link in links {
            match self.tag.object(&link).map(str::to_owned) {
                // All bridges made by hand or by an attach carry the same object.
                Some(object) if object == "bridge" => {
                    self.foreign.insert(link.index, link.clone());
                    ours.insert(format!("bridge/{}", link.name), link);
                }
                Some(object) => {
                    ours.insert(object, link);
                }
                None => {
                    self.foreign.insert(link.index, link);
                }
            }
        }
        ours
    }

    /// Links that a crash has left between their making and their marking, which are two messages: they are known by the
    /// names that were written down before.
    fn find_unmarked(&mut self, logged: &BTreeMap<String, Value>, endpoints: &[EndpointRecord], ours: &mut Ours) {
        let wiring = || endpoints.iter().filter(|r| r.phase == Phase::Wiring);
        let mut made: HashMap<IfName, String> = wiring().map(|r| (r.host_ifname.clone(), r.id.to_string())).collect();
        let sandboxes = of_prefix::<SandboxRecord>(logged, "sandbox/").into_iter().filter_map(|s| s.prewired);
        let sandboxes: Vec<_> = sandboxes.collect();
        let limited = wiring().map(|r| r.id).chain(sandboxes.iter().map(|p| p.endpoint));
        made.extend(limited.map(|id| (super::tag::limiter_ifname(id), super::limit::object(id))));
        made.extend(sandboxes.into_iter().map(|p| (p.host_ifname, p.endpoint.to_string())));
        let bridges = of_prefix::<BridgeRecord>(logged, "bridge/").into_iter().map(|r| r.name);
        let bridges = bridges.chain(wiring().filter(|r| r.network.is_none()).map(|r| r.master.clone()));
        made.extend(bridges.map(|name| (name.clone(), format!("bridge/{name}"))));
        let networks = of_prefix::<MakingNetwork>(logged, "network/").into_iter();
        made.extend(networks.filter_map(|n| Some((n.bridge?, n.id.to_string()))));
        let unmarked = |l: &LinkState| match l.kind {
            LinkKind::Veth { .. } | LinkKind::Ifb => l.alias.is_none(),
            // It comes up with the last message.
            LinkKind::Bridge { .. } => l.alias.is_none() && !l.up,
            _ => false,
        };
        let found: Vec<u32> =
            self.foreign.values().filter(|l| unmarked(l) && made.contains_key(&l.name)).map(|l| l.index).collect();
        for link in found.into_iter().filter_map(|index| self.foreign.remove(&index)) {
            ours.insert(made[&link.name].clone(), link);
        }
    }

    /// Bridges: those half made are taken back, those that are missing are made.
    fn recover_bridges(
        &mut self,
        logged: &BTreeMap<String, Value>,
        stored: &Stored,
        ours: &mut Ours,
    ) -> Result<(), ApiError> {
        let wanted = of_stored::<BridgeRecord>(stored, "bridges/");
        for record in of_prefix::<BridgeRecord>(logged, "bridge/") {
            let key = format!("bridge/{}", record.name);
            if !wanted.iter().any(|w| w.name == record.name) {
                let is_ours = ours.remove(&key).is_some();
                let bridge_free = self.kernel.host.link(&record.name).ok().flatten().is_none();
                if is_ours || bridge_free {
                    self.unmake_bridge(&record)?;
                }
            }
            self.log_remove(&key);
        }
        for record in wanted {
            let name = record.name.clone();
            if ours.remove(&format!("bridge/{name}")).is_some() {
                self.bridges.insert(name, record);
                continue;
            }
            if let Err(error) = self.remake_bridge(record.clone()) {
                tracing::warn!(bridge = %name, error = error.chain(), "cannot make a bridge again");
                self.bridges.insert(name, record);
            }
        }
        Ok(())
    }

    /// Bridges of attaches that were written down just before a crash, when the store had not heard of the bridge yet.
    fn recover_new_bridges(&mut self, ours: &mut Ours) {
        let on_bridge = self.endpoints.values().filter(|r| r.network.is_none()).map(|r| r.master.clone());
        for name in on_bridge.collect::<HashSet<IfName>>() {
            if !self.bridges.contains_key(&name)
                && let Some(link) = ours.remove(&format!("bridge/{name}"))
            {
                self.adopt_bridge(&name, link.mtu);
            }
        }
    }

    /// A bridge that should be there: after a reboot, or because somebody deleted it.
    pub(super) fn remake_bridge(&mut self, record: BridgeRecord) -> Result<(), ApiError> {
        if self.kernel.host.link(&record.name).is_ok_and(|l| l.is_some()) {
            // Somebody else's bridge of that name: attaches use it, nothing of it is changed.
            self.bridges.remove(&record.name);
            self.writer.behind(vec![super::surfaces::delete(bridge_key(&record.name))]);
            return Ok(());
        }
        self.make_bridge(record)
    }

    /// Networks: bridge, addresses and filter elements of each.
    fn recover_networks(&mut self, logged: &BTreeMap<String, Value>, stored: &Stored, ours: &mut Ours) {
        let wanted = of_stored::<NetworkRecord>(stored, "networks/");
        // Half made: its bridge is garbage of ours, its elements are no network's; settings are all there is to undo.
        for making in of_prefix::<MakingNetwork>(logged, "network/") {
            if !wanted.iter().any(|w| w.id == making.id) {
                self.restore_settings(&making);
            }
            self.log_remove(&format!("network/{}", making.id));
        }
        for record in wanted {
            let id = record.id;
            self.networks.insert(id, network_state(record, self.config.rest_seconds));
            self.zone_changed(id);
            ours.remove(&id.to_string());
        }
        self.verify_networks();
    }

    /// What containers keep, after what they use: a record of the store may be older than the end of what it is about.
    fn recover_reservations(&mut self, stored: &Stored) {
        let reservations = stored.range("reservations/".to_owned()..);
        for (key, value) in reservations.take_while(|(key, _)| key.starts_with("reservations/")) {
            self.reservations.insert(key.clone());
            let network = key.split('/').nth(1).and_then(|id| id.parse::<NetworkId>().ok());
            let state = network.and_then(|id| self.networks.get_mut(&id));
            let (Some(state), Ok(kept)) = (state, serde_json::from_slice::<Reservation>(value)) else { continue };
            for ip in kept.addresses {
                if let Some(pool) = state.pools.iter_mut().find(|p| p.subnet().contains(ip))
                    && !pool.held_by(&kept.owner).any(|(held, _)| held == ip)
                    && let Err(error) = pool.reserve(ip, &kept.owner)
                {
                    tracing::warn!(%error, owner = kept.owner, "an address that was kept is somebody else's now");
                }
            }
        }
    }

    fn restore_settings(&mut self, making: &MakingNetwork) {
        for (key, value) in &making.sysctls {
            if let Err(error) = self.kernel.sysctls.set(key, value) {
                tracing::warn!(key, %error, "cannot restore a setting");
            }
        }
    }

    /// Compares every network with the kernel and repairs what differs.
    pub(super) fn verify_networks(&mut self) {
        if !self.has_bridged() {
            return self.remove_unused_filter();
        }
        if let Err(error) = self.verify_filter() {
            tracing::error!(error = error.chain(), "networks are not filtered");
        }
        // Reading all routes may take long on a router: only when some of ours may be missing.
        let routes = match std::mem::take(&mut self.routes_gone) {
            true => self.kernel.host.routes().inspect_err(|error| tracing::warn!(%error, "cannot read routes")).ok(),
            false => None,
        };
        let ids: Vec<NetworkId> = self.networks.keys().copied().collect();
        for id in ids {
            if let Err(error) = self.verify_network(id, routes.as_deref()) {
                tracing::error!(network = %id, error = error.chain(), "cannot repair a network");
            }
            self.verify_outbound(id);
        }
    }

    /// A table without networks filters nothing.
    pub(super) fn remove_unused_filter(&mut self) {
        self.filter_ready = false;
        if let Err(error) = self.kernel.filter.remove_base() {
            tracing::warn!(%error, "cannot remove the packet filter table");
        }
    }

    fn verify_network(&mut self, id: NetworkId, routes: Option<&[RouteEntry]>) -> Result<(), ApiError> {
        let record = self.networks[&id].record.clone();
        let Some(bridge) = record.spec.bridge.clone() else { return Ok(()) };
        let fail = |e| kernel(format!("cannot read bridge {bridge}"), &e);
        let Some(link) = self.kernel.host.link(&bridge).map_err(fail)? else {
            let plan = self.network_plan(&record)?;
            apply(&plan, &mut self.kernel).map_err(|f| fail(f.cause))?;
            self.drain_pool(id);
            self.reattach_ports(&bridge);
            let mut event = view::event("repair", record.spec.name.to_string());
            event.attributes.insert("what".into(), format!("bridge {bridge} was gone"));
            self.emit(event);
            return Ok(());
        };
        self.bridge_index.insert(bridge.clone(), link.index);
        let present = self.kernel.host.addresses_of(link.index).map_err(fail)?;
        let here = |ip| present.iter().any(|a| a.ip == ip);
        let (there, missing): (Vec<_>, Vec<_>) =
            bridge_addresses(&record).into_iter().partition(|a: &IfAddr| here(a.ip()));
        let mut ops: Vec<LinkOp> = missing.into_iter().map(|a| LinkOp::AddAddress(bridge.clone(), a)).collect();
        if !link.up {
            ops.push(LinkOp::Up(bridge.clone()));
        }
        // An address that is there may have lost the route that came with it.
        let connected = there.iter().map(|a| connected_route(&bridge, a));
        let routed = |r: &RouteEntry| {
            routes.is_none_or(|all| all.iter().any(|o| o.dev == r.dev && o.destination == r.destination))
        };
        ops.extend(connected.filter(|r| !routed(r)).map(LinkOp::AddRoute));
        if !ops.is_empty() {
            let faults = self.kernel.host.batch(&ops).map_err(fail)?;
            if let Some(fault) = faults.into_iter().next() {
                return Err(fail(fault.error));
            }
        }
        Ok(())
    }

    /// Whether the host still has the addresses a network's traffic leaves under.
    pub(super) fn verify_outbound(&mut self, id: NetworkId) {
        let spec = self.networks[&id].record.spec.clone();
        let problems = match self.missing_outbound(&spec) {
            Ok(missing) => missing
                .iter()
                .map(|ip| {
                    format!("outbound address {ip} is no address of this host any more: answers do not come back")
                })
                .collect(),
            Err(error) => vec![error.chain()],
        };
        if let Some(state) = self.networks.get_mut(&id) {
            state.problems = problems;
        }
    }

    /// Puts the host ends of a bridge's endpoints back into it.
    pub(super) fn reattach_ports(&mut self, bridge: &IfName) {
        let live = self.endpoints.values().filter(|r| r.master == *bridge && r.phase == Phase::Live);
        let ops: Vec<LinkOp> = live.map(|r| LinkOp::Master(r.host_ifname.clone(), bridge.clone())).collect();
        for ops in ops.chunks(128) {
            match self.kernel.host.batch(ops) {
                Ok(faults) => faults.iter().for_each(|f| tracing::warn!(error = %f.error, "cannot put a port back")),
                Err(error) => tracing::warn!(%error, "cannot put ports back"),
            }
        }
    }

    /// Sandboxes whose namespace is still there; those that waited in a pool are ended.
    fn recover_sandboxes(&mut self, records: Vec<SandboxRecord>) {
        let mut known = HashSet::new();
        for record in records {
            let path = self.sandbox_path(record.id);
            known.insert(record.id.to_string());
            match Netns::open(&path) {
                Ok(netns) => {
                    let (id, container) = (record.id, record.container_id.clone());
                    // A ready interface was used, or may be half changed: in the first case it is an endpoint by now, in
                    // the second it goes as garbage.
                    let record = SandboxRecord { prewired: None, ..record };
                    self.sandboxes.insert(id, SandboxState { record, netns, inside: None });
                    if container.is_empty() {
                        self.destroy_sandbox(id);
                    } else {
                        self.sandbox_of.insert(container, id);
                    }
                }
                Err(error) => {
                    tracing::info!(sandbox = %record.id, %error, "a sandbox is gone");
                    let _ = Netns::unbind(&path);
                    self.log_remove(&super::sandbox::sandbox_key(record.id));
                }
            }
        }
        let files = std::fs::read_dir(self.root.netns()).into_iter().flatten().flatten();
        for file in files.filter(|f| !known.contains(&*f.file_name().to_string_lossy())) {
            if let Err(error) = Netns::unbind(&file.path()) {
                tracing::warn!(%error, "cannot remove a namespace nobody knows");
            }
        }
    }

    /// Endpoints: unfinished ones are taken back, live ones are compared, missing ones are made again.
    fn recover_endpoints(&mut self, records: Vec<EndpointRecord>, ours: &mut Ours) {
        let mut lost = Vec::new();
        for record in records {
            let id = record.id;
            match record.phase {
                // Their links stay in `ours` and are collected.
                Phase::Wiring => self.log_remove(&endpoint_key(id)),
                Phase::Draining => {
                    self.writer.behind(vec![super::surfaces::delete(format!("attachments/{id}"))]);
                    self.log_remove(&endpoint_key(id));
                }
                Phase::Live | Phase::Pending | Phase::Failed { .. } => {
                    let link = ours.remove(&id.to_string());
                    self.claim_again(&record);
                    match (link, record.phase == Phase::Live) {
                        (Some(link), true) => {
                            self.remember(record);
                            self.verify_port(id, Some(&link));
                        }
                        (Some(link), false) => {
                            ours.insert(id.to_string(), link);
                            self.remember(record);
                        }
                        (None, true) => {
                            self.remember(record);
                            lost.push(id);
                        }
                        (None, false) => self.remember(record),
                    }
                    if let Some(record) = self.endpoints.get(&id)
                        && record.persistent
                        && matches!(record.origin, Origin::Attach(_))
                        && record.engine != ContainerEngine::Pid
                    {
                        self.writer.behind(vec![put(format!("attachments/{id}"), record)]);
                    }
                }
            }
        }
        for id in lost {
            self.lost_endpoint(id);
        }
    }

    /// The pools are rebuilt from who holds what.
    fn claim_again(&mut self, record: &EndpointRecord) {
        let Some(state) = record.network.and_then(|id| self.networks.get_mut(&id)) else { return };
        for address in &record.addresses {
            let Some(pool) = state.pools.iter_mut().find(|p| p.subnet().contains(address.ip())) else { continue };
            if let Err(error) = pool.claim(address.ip(), &record.owner(), boot_seconds()) {
                tracing::warn!(%error, container = record.container, "cannot claim an address again");
            }
        }
    }

    /// A host end that is there: in the right bridge, and up?
    pub(super) fn verify_port(&mut self, id: EndpointId, link: Option<&LinkState>) {
        let Some(record) = self.endpoints.get(&id).cloned() else { return };
        let Ok(master) = self.kernel.host.link(&record.master) else { return };
        // Only the host's side is compared, so it does not matter which namespace the other end is said to be in.
        let wrong = port::check(&self.wanted(&record, &self.host), link, master.as_ref());
        if wrong.is_empty() || master.is_none() {
            return;
        }
        let ops =
            [LinkOp::Up(record.host_ifname.clone()), LinkOp::Master(record.host_ifname.clone(), record.master.clone())];
        match self.kernel.host.batch(&ops) {
            Ok(faults) if faults.is_empty() => {
                let mut event = view::event("repair", record.container);
                event.attributes.insert("what".into(), wrong.join("; "));
                self.emit(event);
            }
            Ok(faults) => faults.iter().for_each(|f| tracing::warn!(error = %f.error, "cannot repair a port")),
            Err(error) => tracing::warn!(%error, "cannot repair a port"),
        }
    }

    /// An endpoint whose link is gone: made again if its namespace is still there, else it waits or is forgotten.
    pub(super) fn lost_endpoint(&mut self, id: EndpointId) {
        let Some(record) = self.endpoints.get(&id).cloned() else { return };
        self.drop_limiter(&record);
        if let Some(netns) = self.reopen(&record) {
            let result = self.rewire(record.clone(), &netns);
            self.kernel.leave();
            match result {
                Ok(()) => {
                    let mut event = view::event("repair", record.container);
                    event.attributes.insert("what".into(), format!("{} was gone", record.ifname));
                    self.emit(event);
                }
                Err(error) => {
                    tracing::warn!(container = record.container, error = error.chain(), "cannot repair an interface");
                    self.park(record, Some(&error));
                }
            }
            return;
        }
        if record.persistent && matches!(record.origin, Origin::Attach(_)) && record.engine != ContainerEngine::Pid {
            let mut event = view::event("pending", record.container.clone());
            event.attributes.insert("ifname".into(), record.ifname.to_string());
            event.attributes.insert("why".into(), "its namespace ended".into());
            self.park(record, None);
            self.emit(event);
            return;
        }
        self.forget(id);
        self.log_remove(&endpoint_key(id));
        self.give_back(record.network, &record.addresses, &record.owner());
        let mut event = view::event("detach", record.container);
        event.attributes.insert("ifname".into(), record.ifname.to_string());
        event.attributes.insert("why".into(), "its namespace ended".into());
        self.emit(event);
    }

    fn recover_links(&mut self, records: Vec<LinkRecord>) {
        for record in records {
            let there = record.request.ends.iter().all(|e| self.sandbox_of.contains_key(e.container_id.as_str()));
            let whole =
                there && (self.link_is_there(&record) || self.make_links(std::slice::from_ref(&record)).is_ok());
            if whole {
                self.links.insert(record.id, record);
            } else {
                self.log_remove(&super::link::link_key(record.id));
            }
        }
    }

    /// Removes links that carry our mark and belong to nothing. A bridge with somebody else's port in it stays.
    fn collect_garbage(&mut self, ours: &Ours) {
        let busy = |l: &LinkState| self.foreign.values().any(|f| f.master == Some(l.index));
        let stale: Vec<LinkState> = ours.values().filter(|l| !busy(l)).cloned().collect();
        let plan = port::gc(&stale, self.tag.group);
        if let Err(failure) = apply(&plan, &mut self.kernel) {
            tracing::warn!(error = %failure.cause, "cannot remove what an earlier run left");
        }
    }

    /// Removes the tombstones of attachments the store has forgotten.
    pub(super) fn bury(&mut self) {
        if !self.tombstones.is_empty() && self.writer.is_idle() {
            for id in std::mem::take(&mut self.tombstones) {
                self.log_remove(&format!("gone/{id}"));
            }
        }
    }
}

/// The route the kernel makes for an address of a device (fib_add_ifaddr, net/ipv4/fib_frontend.c;
/// addrconf_prefix_route, net/ipv6/addrconf.c).
fn connected_route(dev: &IfName, address: &IfAddr) -> RouteEntry {
    /// IP6_RT_PRIO_ADDRCONF of net/ip6_route.h.
    const METRIC6: u32 = 256;
    let v6 = address.ip().is_ipv6();
    RouteEntry {
        destination: address.subnet(),
        via: None,
        dev: dev.clone(),
        metric: v6.then_some(METRIC6),
        onlink: false,
        source: (!v6).then(|| address.ip()),
        protocol: super::bridge::BY_KERNEL,
        table: RouteEntry::MAIN,
        kind: RouteKind::Unicast,
        scope: None,
        mtu: None,
        advmss: None,
        more: Vec::new(),
    }
}

/// The records below a prefix of the run log. One that cannot be read was written by another version: it is skipped,
/// its links are collected.
fn of_prefix<T: DeserializeOwned>(logged: &BTreeMap<String, Value>, prefix: &str) -> Vec<T> {
    let below = logged.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
    below.filter_map(|(key, value)| readable(key, serde_json::from_value(value.clone()))).collect()
}

/// The records below a prefix of the store.
fn of_stored<T: DeserializeOwned>(stored: &Stored, prefix: &str) -> Vec<T> {
    let below = stored.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
    below.filter_map(|(key, value)| readable(key, serde_json::from_slice(value))).collect()
}

/// The networks whose id follows a prefix of the run log.
fn keys_of(logged: &BTreeMap<String, Value>, prefix: &str) -> Vec<NetworkId> {
    let below = logged.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
    below.filter_map(|(key, _)| key[prefix.len()..].parse().ok()).collect()
}

fn readable<T>(key: &str, parsed: Result<T, serde_json::Error>) -> Option<T> {
    parsed.inspect_err(|error| tracing::warn!(key, %error, "cannot read a record")).ok()
}
