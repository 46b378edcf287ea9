//! From records to names: which interface has which names on which network, and what is visible to whom.
//!
//! One way in for every change: [`Engine::naming`] after an interface has changed, [`Engine::zone_changed`] after a network
//! has. Both compare with what was said before.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use rnet_api::{ApiError, ConnectRequest, ContainerNames};
use rnet_dns::{Asker, Member, Zone};
use rnet_model::{
    ContainerName, EndpointId, Engine as ContainerEngine, ExposedPort, NetworkId, NetworkSpec, NetworkType, SandboxId,
};
use serde::{Deserialize, Serialize};

use super::Engine;
use super::core::inode;
use super::sandbox::sandbox_key;
use super::state::{Phase, Source};
use crate::names::Place;

/// The port of DNS.
const PORT: u16 = 53;
/// Digits of a short id.
const SHORT: usize = 12;

/// What the name service has been told of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    network: NetworkId,
    engine: ContainerEngine,
    container_id: String,
    netns: u64,
    /// The file of the namespace, when it is not a sandbox.
    file: Option<PathBuf>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Told {
    by_id: HashMap<EndpointId, Named>,
    /// By inode of the namespace, in the order of age: that of the ids.
    by_netns: HashMap<u64, BTreeSet<EndpointId>>,
}

impl Told {
    /// The one before.
    fn put(&mut self, id: EndpointId, named: Named) -> Option<Named> {
        let before = self.take(id);
        self.by_netns.entry(named.netns).or_default().insert(id);
        self.by_id.insert(id, named);
        before
    }

    fn take(&mut self, id: EndpointId) -> Option<Named> {
        let before = self.by_id.remove(&id)?;
        if let Some(here) = self.by_netns.get_mut(&before.netns) {
            here.remove(&id);
            if here.is_empty() {
                self.by_netns.remove(&before.netns);
            }
        }
        Some(before)
    }

    /// The networks that a namespace is on, the oldest first.
    fn networks_of(&self, netns: u64) -> Vec<NetworkId> {
        let here = self.by_netns.get(&netns).into_iter().flatten().filter_map(|id| self.by_id.get(id));
        let mut networks = Vec::new();
        for network in here.map(|n| n.network) {
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        networks
    }

    fn on(&self, network: NetworkId) -> Vec<EndpointId> {
        self.by_id.iter().filter(|(_, n)| n.network == network).map(|(id, _)| *id).collect()
    }
}

/// What a container says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Presented {
    #[serde(default)]
    pub(super) names: ContainerNames,
    /// Ports that are published or exposed.
    #[serde(default)]
    pub(super) services: Vec<ExposedPort>,
}

fn has_names(spec: &NetworkSpec) -> bool {
    spec.dns.is_on() && spec.kind == NetworkType::Bridge
}

fn at_port(servers: &[IpAddr]) -> Vec<SocketAddr> {
    servers.iter().map(|ip| SocketAddr::new(*ip, PORT)).collect()
}

impl Engine {
    /// Writes down what a container says about itself, before it is connected.
    pub(super) fn present(&mut self, container: &ContainerName, request: &ConnectRequest) -> Result<(), ApiError> {
        let published = request.ports.iter().map(|p| ExposedPort { ports: p.container_ports, protocol: p.protocol });
        let mut services: Vec<ExposedPort> = request.expose.iter().copied().chain(published).collect();
        services.sort();
        services.dedup();
        let presented = Presented { names: request.names.clone(), services };
        let Some(id) = self.sandbox_of.get(container.as_str()).copied() else { return Ok(()) };
        let Some(sandbox) = self.sandboxes.get_mut(&id).filter(|s| s.record.presented != presented) else {
            return Ok(());
        };
        sandbox.record.presented = presented;
        let record = sandbox.record.clone();
        self.log_put(&sandbox_key(id), &record)?;
        let known: Vec<EndpointId> =
            self.of_container(ContainerEngine::Rnet, container.as_str()).iter().map(|r| r.id).collect();
        known.into_iter().for_each(|id| self.naming(id));
        Ok(())
    }

    /// Tells the name service how an interface is now, be it gone.
    pub(super) fn naming(&mut self, id: EndpointId) {
        let now = self.named_now(id);
        let before = match &now {
            Some((named, member)) => {
                if self.has_names(named.network) {
                    self.names.directory().set_member(named.network, id, member.clone());
                }
                self.named.put(id, named.clone())
            }
            None => self.named.take(id),
        };
        let now = now.map(|(named, _)| named);
        if let Some(before) = before.as_ref().filter(|b| now.as_ref().is_none_or(|n| n.network != b.network)) {
            self.names.directory().remove_member(before.network, id);
        }
        if let Some(before) = before.filter(|b| now.as_ref().is_none_or(|n| n.netns != b.netns)) {
            self.show_names_to(&before);
        }
        if let Some(now) = now {
            self.show_names_to(&now);
        }
    }

    /// An interface as it is to be known; `None` when it is not to be.
    fn named_now(&self, id: EndpointId) -> Option<(Named, Member)> {
        if let Some(r) = self.endpoints.get(&id).filter(|r| r.phase == Phase::Live) {
            let file = match &r.source {
                Source::Sandbox => None,
                Source::Path(path) => Some(path.clone()),
                Source::Pid(pid) => Some(format!("/proc/{pid}/ns/net").into()),
            };
            let addresses = r.addresses.iter().map(rnet_model::IfAddr::ip).collect();
            let aliases = r.aliases.iter().map(ToString::to_string).collect();
            let (engine, container_id) = (r.engine, r.container_id.clone());
            let member = Member { aliases, addresses, ..self.member(engine, &container_id, &r.container) };
            return Some((Named { network: r.network?, engine, container_id, netns: r.netns, file }, member));
        }
        let r = self.chains.get(&id).filter(|r| r.phase == Phase::Live)?;
        let sandbox = r.engine == ContainerEngine::Rnet && self.sandbox_of.contains_key(&r.container_id);
        let addresses = r.made.addresses.iter().map(rnet_model::IfAddr::ip).collect();
        let (engine, container_id) = (r.engine, r.container_id.clone());
        let member = Member { addresses, ..self.member(engine, &container_id, &r.container) };
        let file = (!sandbox).then(|| r.path.clone());
        Some((Named { network: r.network, engine, container_id, netns: r.netns, file }, member))
    }

    /// What is the same on all networks of a container.
    fn member(&self, engine: ContainerEngine, id: &str, name: &str) -> Member {
        let presented = self.presented(engine, id);
        let mut names = vec![name.to_owned()];
        let hexadecimal = id.len() >= SHORT && id.bytes().all(|b| b.is_ascii_alphanumeric());
        names.extend(hexadecimal.then(|| id[..SHORT].to_owned()));
        names.extend(presented.and_then(|p| p.names.hostname.as_ref()).map(ToString::to_string));
        let services = presented.map(|p| &p.services[..]).unwrap_or_default();
        let ports = services.iter().flat_map(|s| s.ports.ports().map(|port| (s.protocol, port))).collect();
        Member { names, ports, ..Member::default() }
    }

    fn presented(&self, engine: ContainerEngine, id: &str) -> Option<&Presented> {
        let id = self.sandbox_of.get(id).filter(|_| engine == ContainerEngine::Rnet)?;
        Some(&self.sandboxes.get(id)?.record.presented)
    }

    /// Lists of plugins may have names of their own.
    fn has_names(&self, network: NetworkId) -> bool {
        self.networks.get(&network).is_some_and(|n| has_names(&n.record.spec))
    }

    /// Tells the name service what is visible to the namespace of an interface, or that it is not to be served.
    fn show_names_to(&mut self, named: &Named) {
        if matches!(named.engine, ContainerEngine::Docker | ContainerEngine::Cni) {
            // Docker has its own resolver at the same address, and CNI runtimes write whom their containers ask.
            return;
        }
        let networks = self.named.networks_of(named.netns);
        let servers = self.presented(named.engine, &named.container_id).map(|p| at_port(&p.names.servers));
        let asker = Asker { networks, upstreams: servers.unwrap_or_default() };
        let any = asker.networks.iter().any(|n| self.has_names(*n));
        let sandbox = self.sandbox_of.get(&named.container_id).and_then(|id| self.sandboxes.get(id));
        match (&named.file, sandbox.filter(|s| inode(s.netns.id()) == named.netns)) {
            // A sandbox keeps its resolver until it ends.
            (None, Some(sandbox)) if any || self.names.serves(named.netns) => {
                self.names.serve(named.netns, &Place::Sandbox(sandbox.netns.clone()), asker);
            }
            (Some(path), _) if any => self.names.serve(named.netns, &Place::File(path.clone()), asker),
            (Some(_), _) => self.names.stop(named.netns),
            _ => {}
        }
    }

    /// Opens the resolver of a namespace that waits for a container.
    pub(super) fn prepare_names(&self, id: SandboxId, network: NetworkId) {
        if let Some(sandbox) = self.sandboxes.get(&id).filter(|_| self.has_names(network)) {
            let asker = Asker { networks: vec![network], upstreams: Vec::new() };
            self.names.serve(inode(sandbox.netns.id()), &Place::Sandbox(sandbox.netns.clone()), asker);
        }
    }

    /// Tells the name service what a network is now, be it gone.
    pub(super) fn zone_changed(&mut self, id: NetworkId) {
        let Some(state) = self.networks.get(&id) else { return self.names.directory().remove_zone(id) };
        let spec = &state.record.spec;
        let zone = Zone {
            name: spec.name.to_string(),
            domain: spec.domain.as_ref().map(ToString::to_string),
            forwards: at_port(&spec.dns_forward),
            internal: spec.internal,
        };
        let on = has_names(spec);
        self.names.directory().set_zone(id, zone);
        for endpoint in self.named.on(id) {
            if !on {
                self.names.directory().remove_member(id, endpoint);
            }
            self.naming(endpoint);
        }
    }
}
