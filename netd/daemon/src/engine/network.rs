//! Networks: created whole or not at all, removed only when nobody is on them.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use rnet_api::{ApiError, Network};
use rnet_ipam::{Pool, PoolSpec, State, SubnetPools, ula_subnet};
use rnet_kernel::{AddressGeneration, FilterChange, FilterSet, LinkOp, Links, NewBridge, Snooping, Sysctls};
use rnet_model::{
    EndpointId, GatewayMode, IfAddr, IfName, Kind, NetworkId, NetworkMode, NetworkName, NetworkSpec, Subnet, Toggle,
};
use rnet_plan::{Action, Place, Plan, apply, fail};

use super::attach::what_vlans_lack;
use super::core::{NetworkState, kernel};
use super::state::{MakingNetwork, NetworkRecord, Reservation};
use super::surfaces::{delete, put};
use super::{Engine, clock, tag, view};

/// Key of a network in the store; in the run log, that of one that is being made.
pub(super) fn network_key(id: NetworkId) -> String {
    format!("networks/{id}")
}

/// Key of what a container keeps on a network.
pub(super) fn reservation_key(network: NetworkId, owner: &str) -> String {
    format!("reservations/{network}/{owner}")
}

impl Engine {
    /// `rnet network create`. An equal network that exists is the answer, so that a repeated request succeeds.
    pub(super) fn create_network(&mut self, requested: &NetworkSpec) -> Result<Network, ApiError> {
        requested.validate()?;
        if let Some(there) = self.same_network(requested)? {
            return Ok(there);
        }
        let id = clock::network_id();
        let spec = self.fill_in(requested, id)?;
        let record = NetworkRecord { id, requested: requested.clone(), spec, created: clock::wall() };
        let made = self.make_network(&record);
        if let Err(error) = made {
            if !self.has_bridged() {
                self.remove_unused_filter();
            }
            return Err(error);
        }
        self.networks.insert(id, network_state(record, self.config.rest_seconds));
        self.zone_changed(id);
        self.emit(view::event("network-create", requested.name.to_string()));
        Ok(self.show_network(id).expect("it was just inserted"))
    }

    /// A network of that name that is as requested, if there is one of that name.
    pub(super) fn same_network(&self, requested: &NetworkSpec) -> Result<Option<Network>, ApiError> {
        let named = |n: &&NetworkState| n.record.spec.name == requested.name;
        match self.networks.values().find(named).map(|n| &n.record) {
            None => Ok(None),
            Some(record) if record.requested == *requested => Ok(self.show_network(record.id)),
            Some(_) => {
                let name = &requested.name;
                Err(ApiError::new(Kind::Conflict, format!("network {name} exists with other options"))
                    .hint(format!("compare: rnet network inspect {name}; or remove it: rnet network rm {name}")))
            }
        }
    }

    /// The kernel's and the store's part: all of it or nothing, but for the table that all networks share.
    fn make_network(&mut self, record: &NetworkRecord) -> Result<(), ApiError> {
        let id = record.id;
        self.ensure_filter()?;
        let plan = self.network_plan(record)?;
        let log_key = format!("network/{id}");
        let making = MakingNetwork { id, sysctls: settings_before(&plan), bridge: record.spec.bridge.clone() };
        fail::point("network.log");
        self.log_put(&log_key, &making)?;
        fail::point("network.log.done");
        let made = apply(&plan, &mut self.kernel)
            .map_err(|f| kernel(format!("cannot create network {}", record.requested.name), &f.cause))
            .and_then(|()| {
                fail::point("network.commit");
                let committed = self.writer.commit(vec![put(network_key(id), record)]);
                if committed.is_err() {
                    rnet_plan::undo(&plan.steps, &mut self.kernel);
                }
                committed
            });
        if made.is_ok() {
            fail::point("network.commit.done");
        }
        self.log_remove(&log_key);
        made
    }

    /// Fills in every default: subnets, gateways, MTU, bridge.
    fn fill_in(&mut self, requested: &NetworkSpec, id: NetworkId) -> Result<NetworkSpec, ApiError> {
        let mut spec = requested.clone();
        let fail = |e| kernel("cannot read the host's addresses and routes", &e);
        let routes = self.kernel.host.routes().map_err(fail)?;
        let addresses = self.kernel.host.addresses().map_err(fail)?;
        let mut taken: Vec<(Subnet, String)> = Vec::new();
        for network in self.networks.values() {
            let name = &network.record.spec.name;
            taken.extend(network.record.spec.subnets.iter().map(|s| (*s, format!("network {name}"))));
        }
        let on_host = addresses.iter().filter(|a| !a.narrow).filter_map(|a| Subnet::containing(a.ip, a.prefix));
        taken.extend(on_host.map(|s| (s, "an address of the host".to_owned())));
        let routed = routes.iter().filter(|r| r.destination.prefix() > 0);
        taken.extend(routed.map(|r| (r.destination, format!("a route of the host via {}", r.dev))));
        for subnet in &spec.subnets {
            if let Some((other, whose)) = taken.iter().find(|(other, _)| other.overlaps(subnet)) {
                return Err(ApiError::new(Kind::Conflict, format!("subnet {subnet} overlaps {other}, {whose}"))
                    .hint("choose another --subnet, or leave it out to get a free one"));
            }
        }
        if spec.subnets.is_empty() {
            let mut blocked: Vec<Subnet> = taken.iter().map(|(s, _)| *s).collect();
            // A network with the address of a name server in it would cut the host off from it.
            let whole = |ip: IpAddr| Subnet::containing(ip, if ip.is_ipv4() { 32 } else { 128 });
            blocked.extend(nameservers().into_iter().filter_map(whole));
            let free = SubnetPools { pools: self.config.pools() }.next_free(&blocked);
            spec.subnets.push(free.ok_or_else(|| self.exhausted())?);
        }
        if spec.ipv6 && spec.subnets.iter().all(Subnet::is_ipv4) {
            spec.subnets.push(ula_subnet(self.global_id, spec.name.as_str()));
        }
        if spec.internal && !spec.gateways.is_empty() {
            return Err(ApiError::new(
                Kind::Invalid,
                format!("network {}: an internal network has no gateway", spec.name),
            )
            .hint("leave out --gateway or --internal"));
        }
        for subnet in spec.subnets.iter().filter(|_| !spec.internal) {
            if !spec.gateways.iter().any(|g| subnet.contains(*g)) {
                spec.gateways.push(first_address(subnet));
            }
        }
        if spec.mtu.is_none() {
            spec.mtu = Some(self.default_mtu(&routes)?);
        }
        let bridge = spec.bridge.clone().unwrap_or_else(|| tag::bridge_ifname(id));
        let fail = |e| kernel(format!("cannot look for {bridge}"), &e);
        if self.kernel.host.link(&bridge).map_err(fail)?.is_some() {
            return Err(ApiError::new(Kind::Conflict, format!("the host already has an interface {bridge}"))
                .hint("choose another --bridge-name, or leave it out"));
        }
        spec.bridge = Some(bridge);
        spec.masquerade = masquerade_of(requested);
        spec.validate()?;
        self.refuse_foreign_outbound(&spec)?;
        if spec.vlan_aware && !what_vlans_lack().is_empty() {
            let text = format!("network {}: a VLAN-aware bridge cannot be made{}", spec.name, what_vlans_lack());
            return Err(ApiError::new(Kind::Unsupported, text).hint("leave --vlan-aware out"));
        }
        Ok(spec)
    }

    fn exhausted(&self) -> ApiError {
        let pools: Vec<_> = self.config.pools().iter().map(|(block, size)| format!("{block} in /{size}")).collect();
        let (first, last) = (pools.first().cloned().unwrap_or_default(), pools.last().cloned().unwrap_or_default());
        let text = format!("no subnet is free: all of the {} pools ({first} to {last}) are in use", pools.len());
        let ours = self.networks.values().filter(|n| !n.record.spec.subnets.is_empty()).count();
        ApiError::new(Kind::Conflict, text).hint(format!(
            "give --subnet, add [[pools]] to netd.toml, or remove one of the {ours} networks: rnet network prune"
        ))
    }

    /// Traffic can leave under an address only if the answers come back to this host.
    pub(super) fn refuse_foreign_outbound(&mut self, spec: &NetworkSpec) -> Result<(), ApiError> {
        let Some(address) = self.missing_outbound(spec)?.first().copied() else { return Ok(()) };
        Err(ApiError::new(Kind::Invalid, format!("network {}: {address} is no address of this host", spec.name))
            .hint("give an address that an interface of the host has, or leave --outbound-address out"))
    }

    /// Outbound addresses of a network that the host does not have.
    pub(super) fn missing_outbound(&mut self, spec: &NetworkSpec) -> Result<Vec<IpAddr>, ApiError> {
        if spec.outbound.is_empty() {
            return Ok(Vec::new());
        }
        let fail = |e| kernel("cannot read the host's addresses", &e);
        let there = self.kernel.host.addresses().map_err(fail)?;
        Ok(spec.outbound.iter().filter(|ip| !there.iter().any(|a| a.ip == **ip)).copied().collect())
    }

    /// The smallest MTU of the devices the host's default routes use.
    fn default_mtu(&mut self, routes: &[rnet_kernel::RouteEntry]) -> Result<u32, ApiError> {
        const ETHERNET: u32 = 1500;
        let mut smallest = None;
        for route in routes.iter().filter(|r| r.destination.prefix() == 0) {
            let fail = |e| kernel(format!("cannot look for {}", route.dev), &e);
            let mtu = self.kernel.host.link(&route.dev).map_err(fail)?.map(|l| l.mtu);
            smallest = [smallest, mtu].into_iter().flatten().min();
        }
        Ok(smallest.unwrap_or(ETHERNET))
    }

    /// The plan of a network: bridge, addresses, forwarding, filter elements.
    pub(super) fn network_plan(&mut self, record: &NetworkRecord) -> Result<Plan, ApiError> {
        let spec = &record.spec;
        let bridge = spec.bridge.clone().expect("filled in");
        let new = NewBridge {
            name: bridge.clone(),
            alias: self.tag.alias(&record.id.to_string()),
            mtu: spec.mtu,
            mac: Some(tag::bridge_mac(record.id)),
            vlan_filtering: spec.vlan_aware,
            ipv6: AddressGeneration::Off,
            snooping: Snooping::Off,
        };
        let mut plan = Plan::default();
        let links = |ops| Action::Links(Place::Host, ops);
        plan.undoable(
            "network.bridge",
            links(vec![LinkOp::NewBridge(new)]),
            vec![links(vec![LinkOp::Delete(bridge.clone())])],
        );
        let addresses = bridge_addresses(record);
        if !addresses.is_empty() {
            let ops = addresses.into_iter().map(|a| LinkOp::AddAddress(bridge.clone(), a)).collect();
            plan.step("network.address", links(ops));
        }
        // A router may only be what netd says: a container that advertises itself is none. A host without IPv6 has no such
        // setting, and a bridge of so small an MTU neither (IPV6_MIN_MTU, linux/ipv6.h).
        let knows = self.kernel.sysctls.get("net/ipv6/conf/default/accept_ra").ok().flatten().is_some();
        if knows && spec.mtu.is_none_or(|mtu| mtu >= 1280) {
            let key = format!("net/ipv6/conf/{bridge}/accept_ra");
            plan.step("network.sysctl", Action::Sysctl { place: Place::Host, key, value: "0".into() });
        }
        for (key, value) in self.wanted_sysctls(spec) {
            let fail = |e| kernel(format!("cannot read {key}"), &e);
            let old = self.kernel.sysctls.get(&key).map_err(fail)?;
            let Some(old) = old.filter(|old| old != value) else { continue };
            let undo = vec![Action::Sysctl { place: Place::Host, key: key.clone(), value: old }];
            plan.undoable("network.sysctl", Action::Sysctl { place: Place::Host, key, value: value.into() }, undo);
        }
        let elements = filter_elements(spec);
        let undo = vec![Action::Filter { add: Vec::new(), remove: elements.clone() }];
        plan.undoable("network.filter", Action::Filter { add: elements, remove: Vec::new() }, undo);
        Ok(plan)
    }

    /// Forwarding, as far as the network needs it and the configuration allows it.
    fn wanted_sysctls(&self, spec: &NetworkSpec) -> Vec<(String, &'static str)> {
        if spec.internal || !self.config.ip_forward {
            return Vec::new();
        }
        let mut out = Vec::new();
        if spec.subnets.iter().any(Subnet::is_ipv4) {
            out.push(("net/ipv4/ip_forward".to_owned(), "1"));
        }
        if spec.subnets.iter().any(|s| !s.is_ipv4()) {
            out.push(("net/ipv6/conf/all/forwarding".to_owned(), "1"));
        }
        out
    }

    /// `rnet network rm`.
    pub(super) fn remove_network(&mut self, name: &str, force: bool) -> Result<Network, ApiError> {
        let id = self.find_network(name)?;
        let shown = self.show_network(id).expect("it was just found");
        let on_it: Vec<_> = self.endpoints.values().filter(|r| r.network == Some(id)).map(|r| r.id).collect();
        if !shown.endpoints.is_empty() && (!force || self.chains_on(id).next().is_some()) {
            let mut who: Vec<_> = shown.endpoints.iter().map(|e| format!("{}:{}", e.engine, e.container)).collect();
            who.sort();
            who.dedup();
            return Err(ApiError::new(
                Kind::Conflict,
                format!("network {} is in use by {}", shown.spec.name, who.join(", ")),
            )
            .hint(format!("disconnect them, or: rnet network rm -f {}", shown.spec.name)));
        }
        for endpoint in on_it {
            self.detach_one(endpoint)?;
        }
        self.drain_pool(id);
        self.reaper.finish();
        // The store first: what is left in the kernel after a crash belongs to no network and is collected.
        fail::point("network-rm.commit");
        self.writer.commit(vec![delete(network_key(id))])?;
        fail::point("network-rm.commit.done");
        let state = self.networks.remove(&id).expect("it was just found");
        self.zone_changed(id);
        self.forget_reservations(id);
        let Some(bridge) = state.record.spec.bridge.clone() else {
            self.emit(view::event("network-rm", shown.spec.name.to_string()));
            return Ok(shown);
        };
        fail::point("network-rm.kernel");
        let remove = self.kernel.host.batch(&[LinkOp::Delete(bridge.clone())]);
        let unfilter = rnet_kernel::Filter::change(&mut self.kernel.filter, &[], &filter_elements(&state.record.spec));
        fail::point("network-rm.kernel.done");
        let fail = |e| kernel(format!("network {name} is removed, but something of it is left"), &e);
        if let Some(fault) = remove.map_err(fail)?.into_iter().next() {
            return Err(fail(fault.error));
        }
        unfilter.map_err(fail)?;
        if !self.has_bridged() {
            self.remove_unused_filter();
        }
        self.emit(view::event("network-rm", shown.spec.name.to_string()));
        Ok(shown)
    }

    /// What plugins have to remove before a network goes.
    pub(super) fn chains_to_force(&self, name: &str, force: bool) -> Vec<EndpointId> {
        let network = self.find_listed(name).filter(|_| force);
        network.into_iter().flat_map(|id| self.chains_on(id)).map(|r| r.id).collect()
    }

    /// A network by name; the default one is made when it is first asked for.
    pub(super) fn network_for(&mut self, name: &NetworkName) -> Result<NetworkId, ApiError> {
        match self.find_network(name.as_str()) {
            Err(error)
                if error.kind == Kind::Missing
                    && self.config.default_network.enabled
                    && name.as_str() == NetworkMode::DEFAULT_NETWORK =>
            {
                let mut spec = NetworkSpec::new(name.clone());
                spec.subnets.extend(self.config.default_network.subnet);
                Ok(self.create_network(&spec)?.id)
            }
            other => other,
        }
    }

    /// Keeps what a container had on its networks for its next start, also over a reboot.
    pub(super) fn reserve(&mut self, network: NetworkId, owner: &str, addresses: &[IfAddr]) {
        self.drop_kept(network, owner, |ip| !addresses.iter().any(|a| a.ip() == ip));
        self.keep_for(Some(network), addresses, owner);
        let kept = Reservation { owner: owner.to_owned(), addresses: addresses.iter().map(IfAddr::ip).collect() };
        let key = reservation_key(network, owner);
        self.writer.behind(vec![put(key.clone(), &kept)]);
        self.reservations.insert(key);
    }

    /// Lets go of everything an owner keeps.
    pub(super) fn unreserve_all(&mut self, owner: &str) {
        let all: Vec<NetworkId> = self.networks.keys().copied().collect();
        for network in all {
            self.unreserve(network, owner);
        }
    }

    /// Lets go of what an owner keeps on one network.
    pub(super) fn unreserve(&mut self, network: NetworkId, owner: &str) {
        self.drop_kept(network, owner, |_| true);
        let key = reservation_key(network, owner);
        if self.reservations.remove(&key) {
            self.writer.behind(vec![delete(key)]);
        }
    }

    /// Frees addresses that are kept for an owner. They rest: neighbours may still know them as his.
    fn drop_kept(&mut self, network: NetworkId, owner: &str, which: impl Fn(IpAddr) -> bool) {
        let now = clock::boot_seconds();
        let state = self.networks.get_mut(&network);
        for pool in state.into_iter().flat_map(|n| &mut n.pools) {
            let kept = pool.held_by(owner).filter(|(ip, held)| *held == State::Reserved && which(*ip));
            for (ip, _) in kept.collect::<Vec<_>>() {
                pool.release(ip, owner, now);
            }
        }
    }

    /// Removes the reservations of a network from the store.
    fn forget_reservations(&mut self, network: NetworkId) {
        let prefix = reservation_key(network, "");
        let below = self.reservations.range(prefix.clone()..).take_while(|key| key.starts_with(&prefix));
        let found: Vec<String> = below.cloned().collect();
        found.iter().for_each(|key| {
            self.reservations.remove(key);
        });
        if !found.is_empty() {
            self.writer.behind(found.into_iter().map(delete).collect());
        }
    }
}

/// The settings that undoing a plan would write.
fn settings_before(plan: &Plan) -> BTreeMap<String, String> {
    let undo = plan.steps.iter().flat_map(|step| &step.undo);
    let settings = undo.filter_map(|action| match action {
        Action::Sysctl { key, value, .. } => Some((key.clone(), value.clone())),
        _ => None,
    });
    settings.collect()
}

/// A network with empty pools.
pub(super) fn network_state(record: NetworkRecord, rest_secs: u64) -> NetworkState {
    let spec = &record.spec;
    let pool = |subnet: &Subnet| {
        let inside = |r: &&rnet_model::AddressRange| subnet.contains(r.first());
        Pool::new(PoolSpec {
            subnet: *subnet,
            gateway: spec.gateways.iter().find(|g| subnet.contains(**g)).copied(),
            ranges: spec.ip_ranges.iter().filter(inside).copied().collect(),
            exclude: spec.exclude.iter().filter(inside).copied().collect(),
            rest_secs,
        })
    };
    let pools = spec.subnets.iter().map(pool).collect();
    NetworkState { record, pools, ready: VecDeque::new(), warm: false, problems: Vec::new() }
}

/// The addresses of a network's bridge: its gateways, and for IPv6 a link-local one. Without it the kernel asks for no
/// neighbour on behalf of what it forwards (ndisc_send_ns, net/ipv6/ndisc.c), and it makes none itself.
pub(super) fn bridge_addresses(record: &NetworkRecord) -> Vec<IfAddr> {
    let spec = &record.spec;
    let address = |gateway: &IpAddr| {
        let subnet = spec.subnets.iter().find(|s| s.contains(*gateway))?;
        IfAddr::new(*gateway, subnet.prefix()).ok()
    };
    let forwards6 = spec.gateways.iter().any(IpAddr::is_ipv6);
    let link_local = forwards6.then(|| tag::bridge_mac(record.id).link_local());
    spec.gateways.iter().filter_map(address).chain(link_local).collect()
}

/// Whether source addresses are replaced, by all that was asked for: what is routed keeps them.
pub(super) fn masquerade_of(requested: &NetworkSpec) -> Toggle {
    if requested.gateway_mode == GatewayMode::Routed { Toggle::Off } else { requested.masquerade }
}

/// The name servers of the host, but for those on its loopback.
fn nameservers() -> Vec<IpAddr> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    // systemd-resolved is on loopback itself, and keeps those it asks in a second file.
    ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"].iter().flat_map(|f| servers_of(&read(f))).collect()
}

/// The addresses behind `nameserver` (resolv.conf(5)), without scopes.
fn servers_of(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|w| *w == "nameserver").and_then(|_| words.next())?;
        address.split('%').next()?.parse::<IpAddr>().ok()
    };
    text.lines().filter_map(server).filter(|ip| !ip.is_loopback()).collect()
}

/// The elements of the packet filter that make a bridge a network.
pub(super) fn filter_elements(spec: &NetworkSpec) -> Vec<FilterChange> {
    // What plugins make is theirs to filter.
    let Some(bridge): Option<IfName> = spec.bridge.clone() else { return Vec::new() };
    let mut out = vec![FilterChange::Device(FilterSet::Networks, bridge.clone())];
    if spec.isolate.is_on() {
        out.push(FilterChange::Device(FilterSet::Isolated, bridge.clone()));
    }
    if !spec.icc.is_on() {
        out.push(FilterChange::Device(FilterSet::Apart, bridge.clone()));
    }
    if spec.internal {
        out.push(FilterChange::Device(FilterSet::Internal, bridge));
    } else if spec.masquerade.is_on() {
        let of_family = |s: &Subnet| spec.outbound.iter().find(|ip| ip.is_ipv4() == s.is_ipv4()).copied();
        out.extend(spec.subnets.iter().map(|s| match of_family(s) {
            Some(address) => FilterChange::Outbound(*s, address),
            None => FilterChange::Masquerade(*s),
        }));
    }
    out
}

/// The address people give a gateway: the first after the network's own.
pub(super) fn first_address(subnet: &Subnet) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(ip) => IpAddr::from((u32::from(ip) | 1).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) | 1).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_a_file() {
        let text = "# nameserver 10.0.0.1\nsearch x\nnameserver 127.0.0.53\nnameserver 172.17.0.53\nnameserver fe80::1%eth0\nnameserver\n";
        let found: Vec<String> = servers_of(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["172.17.0.53", "fe80::1"]);
    }
}
