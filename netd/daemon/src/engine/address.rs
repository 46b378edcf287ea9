//! Which addresses and gateways an interface gets: the grammar's words made into values.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rnet_api::{Allocation, ApiError};
use rnet_ipam::{IpamError, State};
use rnet_kernel::{Links, RouteEntry};
use rnet_model::{
    AddressSpec, EndpointId, Engine as ContainerEngine, Gateway, IfAddr, IfName, Kind, NetworkId, Subnet,
};

use super::Engine;
use super::clock::boot_seconds;
use super::core::kernel;
use super::ready::READY;
use super::state::EndpointRecord;

/// Addresses that were found or taken for one interface.
#[derive(Debug, Clone, Default)]
pub(super) struct Resolved {
    pub(super) addresses: Vec<IfAddr>,
    pub(super) gateways: Vec<IpAddr>,
    /// What their owner held in the pools before.
    pub(super) before: Vec<(IpAddr, State)>,
}

impl Engine {
    /// Resolves the address word of an attach. Addresses of a network's pool are taken from it: call
    /// [`Engine::give_back`] if the attach does not happen.
    pub(super) fn resolve_addresses(
        &mut self,
        spec: &AddressSpec,
        master: &IfName,
        network: Option<NetworkId>,
        owner: &str,
        replaced: Option<EndpointId>,
    ) -> Result<Resolved, ApiError> {
        match spec {
            AddressSpec::None => Ok(Resolved::default()),
            AddressSpec::Static(list) => {
                let mut resolved = Resolved::default();
                for one in list {
                    if let Some(gateway) = one.gateway {
                        let found = self.resolve_gateway(gateway, &one.address, master)?;
                        resolved.gateways.push(found);
                    }
                    resolved.addresses.push(one.address);
                }
                self.refuse_taken(&resolved.addresses, master, replaced)?;
                if let Some(network) = network {
                    self.claim_all(network, &mut resolved, owner)?;
                }
                Ok(resolved)
            }
            AddressSpec::Auto(gateway) => {
                let Some(network) = network else {
                    return Err(ApiError::new(
                        Kind::Invalid,
                        format!(
                            "auto: {master} belongs to no rnet network, so there is no pool to take an address from"
                        ),
                    )
                    .hint("give the address, or attach to the bridge of a network: rnet network ls"));
                };
                let mut resolved = self.allocate(network, &[], owner)?;
                if let Some(gateway) = gateway {
                    resolved.gateways.clear();
                    let first = resolved.addresses[0];
                    match self.resolve_gateway(*gateway, &first, master) {
                        Ok(found) => resolved.gateways.push(found),
                        Err(error) => {
                            self.put_back(Some(network), &resolved, owner);
                            return Err(error);
                        }
                    }
                }
                Ok(resolved)
            }
            AddressSpec::Dhcp | AddressSpec::Dhcp6 => {
                Err(ApiError::new(Kind::Unsupported, format!("{spec}: this version has no DHCP client"))
                    .hint("give a static address, or 0/0 for the link only"))
            }
            _ => Err(ApiError::new(Kind::Unsupported, format!("{spec}: not known to this version"))),
        }
    }

    /// `@gw`: the host's default gateway if it is in the subnet, else the bridge's own address in it.
    fn resolve_gateway(&mut self, gateway: Gateway, address: &IfAddr, master: &IfName) -> Result<IpAddr, ApiError> {
        let subnet = address.subnet();
        let given = match gateway {
            Gateway::Address(ip) => return Ok(ip),
            Gateway::Find => "gw",
        };
        let fail = |e| kernel(format!("cannot look for the gateway of {address}"), &e);
        let routes = self.kernel.host.routes().map_err(fail)?;
        let default = |r: &&RouteEntry| r.destination.prefix() == 0 && r.via.is_some_and(|via| subnet.contains(via));
        if let Some(found) = routes.iter().filter(default).min_by_key(|r| r.metric.unwrap_or(0)).and_then(|r| r.via)
            && found != address.ip()
        {
            return Ok(found);
        }
        if let Some(link) = self.kernel.host.link(master).map_err(fail)? {
            let addresses = self.kernel.host.addresses_of(link.index).map_err(fail)?;
            let own = addresses.iter().find(|a| subnet.contains(a.ip) && a.ip != address.ip());
            if let Some(own) = own {
                return Ok(own.ip);
            }
        }
        let hint = match super::network::first_address(&subnet) {
            // The first address of a subnet is what most gateways have.
            example if example != address.ip() => {
                format!("write the gateway: {address}@{example}, or leave @gw out")
            }
            _ => "write the gateway after the @, or leave @gw out".to_owned(),
        };
        Err(ApiError::new(
            Kind::Invalid,
            format!(
                "address {address}@{given}: no gateway found: the host has no default gateway in {subnet} and {master} no address in it"
            ),
        )
        .hint(hint))
    }

    /// Refuses an address that another endpoint on the same device or the device itself holds.
    pub(super) fn refuse_taken(
        &mut self,
        addresses: &[IfAddr],
        master: &IfName,
        replaced: Option<EndpointId>,
    ) -> Result<(), ApiError> {
        for address in addresses {
            let holder = self.by_address.get(&(master.clone(), address.ip())).and_then(|id| self.endpoints.get(id));
            if let Some(holder) = holder
                && Some(holder.id) != replaced
            {
                return Err(ApiError::new(
                    Kind::Conflict,
                    format!(
                        "address {} is in use on {master}, by {}:{} {}",
                        address.ip(),
                        holder.engine,
                        holder.container,
                        holder.ifname
                    ),
                )
                .hint("choose another address, or detach that container"));
            }
        }
        let fail = |e| kernel("cannot read the host's addresses", &e);
        let Some(link) = self.kernel.host.link(master).map_err(fail)? else { return Ok(()) };
        let host = self.kernel.host.addresses_of(link.index).map_err(fail)?;
        let own = |a: &&IfAddr| host.iter().any(|h| h.ip == a.ip());
        match addresses.iter().find(own) {
            Some(address) => Err(ApiError::new(
                Kind::Conflict,
                format!("address {} is in use: it is the host's own on {master}", address.ip()),
            )
            .hint("choose another address")),
            None => Ok(()),
        }
    }

    /// Takes given addresses out of a network's pools; those outside of its subnets are the user's own affair.
    fn claim_all(&mut self, network: NetworkId, resolved: &mut Resolved, owner: &str) -> Result<(), ApiError> {
        let now = boot_seconds();
        let asked: Vec<IpAddr> = resolved.addresses.iter().map(IfAddr::ip).collect();
        self.make_room_for(network, &asked);
        resolved.before = self.held_before(network, owner);
        let Some(state) = self.networks.get_mut(&network) else { return Ok(()) };
        for (index, ip) in asked.into_iter().enumerate() {
            let Some(pool) = state.pools.iter_mut().find(|p| p.subnet().contains(ip)) else { continue };
            if let Err(error) = pool.claim(ip, owner, now) {
                resolved.addresses.truncate(index);
                self.put_back(Some(network), resolved, owner);
                return Err(Self::ipam_among(&self.endpoints, error));
            }
        }
        Ok(())
    }

    /// The pool side of an error: what, which address, why. Pools know their owners by id, users by name.
    fn ipam_among(endpoints: &BTreeMap<EndpointId, EndpointRecord>, mut error: IpamError) -> ApiError {
        if let IpamError::Held { owner, .. } = &mut error
            && let Some(holder) = endpoints.values().find(|r| r.owner() == *owner)
        {
            *owner = format!("{}:{} {}", holder.engine, holder.container, holder.ifname);
        }
        ApiError::new(error.kind(), error.to_string())
    }

    /// What an owner holds in the pools of a network.
    pub(super) fn held_before(&self, network: NetworkId, owner: &str) -> Vec<(IpAddr, State)> {
        let pools = self.networks.get(&network).into_iter().flat_map(|n| &n.pools);
        pools.flat_map(|p| p.held_by(owner)).collect()
    }

    /// One address of every subnet of a network from what the pools have free. The gateways are the network's, unless
    /// it is internal.
    pub(super) fn take_addresses(
        &mut self,
        network: NetworkId,
        asked: &[IpAddr],
        owner: &str,
    ) -> Result<Resolved, ApiError> {
        let now = boot_seconds();
        let before = self.held_before(network, owner);
        let state = self.networks.get_mut(&network).expect("the caller found the network");
        let spec = &state.record.spec;
        if let Some(stray) = asked.iter().find(|ip| !spec.subnets.iter().any(|s| s.contains(**ip))) {
            let subnets: Vec<_> = spec.subnets.iter().map(ToString::to_string).collect();
            return Err(ApiError::new(
                Kind::Invalid,
                format!("address {stray} is not in network {} ({})", spec.name, subnets.join(", ")),
            ));
        }
        let gateways = if spec.internal { Vec::new() } else { spec.gateways.clone() };
        let (bridge, name) = (spec.bridge.clone(), spec.name.clone());
        let mut addresses = Vec::new();
        let mut failure = None;
        for pool in &mut state.pools {
            let subnet = pool.subnet();
            let by_address = &self.by_address;
            let seen = |ip: IpAddr| bridge.as_ref().is_some_and(|b| by_address.contains_key(&(b.clone(), ip)));
            let taken = match asked.iter().find(|ip| subnet.contains(**ip)) {
                Some(ip) => pool.claim(*ip, owner, now).map(|()| *ip),
                None => pool.allocate(owner, now, &seen),
            };
            let address = match taken {
                Ok(ip) => IfAddr::new(ip, subnet.prefix()).map_err(ApiError::from),
                Err(error) => Err(Self::ipam_among(&self.endpoints, error)),
            };
            match address {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let resolved = Resolved { addresses, gateways, before };
        if let Some(error) = failure {
            self.put_back(Some(network), &resolved, owner);
            return Err(ApiError { message: format!("network {name}: {}", error.message), ..error });
        }
        Ok(resolved)
    }

    /// Puts addresses back that were taken for nothing: their owner holds what it held before, and what nobody has used
    /// does not rest.
    pub(super) fn put_back(&mut self, network: Option<NetworkId>, resolved: &Resolved, owner: &str) {
        let now = boot_seconds();
        let Some(state) = network.and_then(|id| self.networks.get_mut(&id)) else { return };
        for ip in resolved.addresses.iter().map(IfAddr::ip) {
            let Some(pool) = state.pools.iter_mut().find(|p| p.subnet().contains(ip)) else { continue };
            match resolved.before.iter().find(|(held, _)| *held == ip).map(|(_, state)| *state) {
                Some(State::Live) => {}
                Some(State::Resting) => {
                    pool.release(ip, owner, now);
                }
                was => {
                    pool.release(ip, owner, now);
                    pool.unreserve(ip, owner);
                    if was == Some(State::Reserved)
                        && let Err(error) = pool.reserve(ip, owner)
                    {
                        tracing::warn!(%error, owner, "cannot keep an address for its owner");
                    }
                }
            }
        }
    }

    /// Puts addresses back into the pools they came from; they rest there.
    pub(super) fn give_back(&mut self, network: Option<NetworkId>, addresses: &[IfAddr], owner: &str) {
        let now = boot_seconds();
        let Some(state) = network.and_then(|id| self.networks.get_mut(&id)) else { return };
        for address in addresses {
            if let Some(pool) = state.pools.iter_mut().find(|p| p.subnet().contains(address.ip())) {
                pool.release(address.ip(), owner, now);
            }
        }
    }

    /// Keeps addresses for their owner while it does not run.
    pub(super) fn keep_for(&mut self, network: Option<NetworkId>, addresses: &[IfAddr], owner: &str) {
        self.give_back(network, addresses, owner);
        let Some(state) = network.and_then(|id| self.networks.get_mut(&id)) else { return };
        for address in addresses {
            if let Some(pool) = state.pools.iter_mut().find(|p| p.subnet().contains(address.ip()))
                && let Err(error) = pool.reserve(address.ip(), owner)
            {
                tracing::warn!(%error, owner, "cannot keep an address for its owner");
            }
        }
    }

    /// Every address of the host and of its containers, with their owners.
    pub(super) fn allocations(&mut self) -> Result<Vec<Allocation>, ApiError> {
        let mut out = self.host_allocations()?;
        for state in self.networks.values() {
            let spec = &state.record.spec;
            for gateway in &spec.gateways {
                out.push(Allocation {
                    address: *gateway,
                    network: spec.name.to_string(),
                    subnet: spec.subnets.iter().find(|s| s.contains(*gateway)).copied(),
                    owner: "gateway".into(),
                    state: "live".into(),
                });
            }
            for pool in &state.pools {
                for (ip, owner, held) in pool.iter() {
                    out.push(Allocation {
                        address: ip,
                        network: spec.name.to_string(),
                        subnet: Some(pool.subnet()),
                        owner: self.people_name(owner),
                        state: match held {
                            State::Live => "live",
                            State::Reserved if owner.starts_with(READY) => "ready",
                            State::Reserved => "reserved",
                            State::Resting => "resting",
                        }
                        .into(),
                    });
                }
            }
        }
        let pooled: std::collections::HashSet<IpAddr> = out.iter().map(|a| a.address).collect();
        for r in self.endpoints.values() {
            for address in r.addresses.iter().filter(|a| r.network.is_none() || !pooled.contains(&a.ip())) {
                out.push(Allocation {
                    address: address.ip(),
                    network: r.master.to_string(),
                    subnet: None,
                    owner: format!("{}:{}", r.engine, r.container),
                    state: "live".into(),
                });
            }
        }
        for r in self.chains.values() {
            let network = self.networks.get(&r.network).map(|n| n.record.spec.name.to_string());
            out.extend(r.made.addresses.iter().map(|address| Allocation {
                address: address.ip(),
                network: network.clone().unwrap_or_default(),
                subnet: None,
                owner: r.whose(),
                state: "live".into(),
            }));
        }
        out.sort_by(|a, b| (&a.network, a.address).cmp(&(&b.network, b.address)));
        Ok(out)
    }

    /// Addresses of the host's own interfaces, without the gateways of networks, which are listed with them.
    fn host_allocations(&mut self) -> Result<Vec<Allocation>, ApiError> {
        let fail = |e| kernel("cannot read the host's addresses", &e);
        let names: BTreeMap<u32, IfName> =
            self.kernel.host.links().map_err(fail)?.into_iter().map(|l| (l.index, l.name)).collect();
        let of_network = |dev: &IfName| self.networks.values().any(|n| n.record.spec.bridge.as_ref() == Some(dev));
        let mut out = Vec::new();
        for address in self.kernel.host.addresses().map_err(fail)? {
            let Some(dev) = names.get(&address.index).filter(|dev| !of_network(dev)) else { continue };
            out.push(Allocation {
                address: address.ip,
                network: dev.to_string(),
                subnet: Subnet::containing(address.ip, address.prefix),
                owner: "host".into(),
                state: "live".into(),
            });
        }
        Ok(out)
    }

    /// `engine:name` for a pool owner, which is `engine:id`.
    fn people_name(&self, owner: &str) -> String {
        if owner.starts_with(READY) {
            return "a ready namespace".to_owned();
        }
        let Some((engine, id)) = owner.split_once(':') else { return owner.to_owned() };
        let engine = ContainerEngine::PREFIXES.into_iter().chain([ContainerEngine::Oci]).find(|e| e.as_str() == engine);
        let name = engine.and_then(|e| Some((e, self.of_container(e, id).first()?.container.clone())));
        name.map_or_else(|| owner.to_owned(), |(engine, name)| format!("{engine}:{name}"))
    }
}
