//! Records as the API shows them.

use rnet_api::{ApiError, Endpoint, Event, Network, Sandbox, Status};
use rnet_model::{ContainerRef, Engine as ContainerEngine, IfName, Kind, NetworkId, SandboxId};

use super::Engine;
use super::core::ambiguous;
use super::state::{EndpointRecord, Phase, SandboxRecord};

/// An event of now.
pub(super) fn event(action: &str, subject: impl Into<String>) -> Event {
    Event {
        time: super::clock::wall(),
        action: action.to_owned(),
        subject: subject.into(),
        attributes: std::collections::BTreeMap::new(),
    }
}

/// A phase as the API shows it.
pub(super) fn status(phase: &Phase) -> Status {
    match phase {
        Phase::Live => Status::Ready,
        Phase::Wiring | Phase::Draining | Phase::Pending => Status::Pending,
        Phase::Failed { since, text } => Status::Error { since: since.clone(), text: text.clone() },
    }
}

impl Engine {
    /// One endpoint as the API shows it.
    pub(super) fn show(&self, r: &EndpointRecord) -> Endpoint {
        Endpoint {
            id: r.id,
            engine: r.engine,
            container_id: r.container_id.clone(),
            container: r.container.clone(),
            network: r.network.and_then(|id| self.networks.get(&id)).map(|n| n.record.spec.name.clone()),
            bridge: Some(r.master.clone()),
            ifname: r.ifname.clone(),
            host_ifname: Some(r.host_ifname.clone()),
            mac: Some(r.mac),
            mtu: r.mtu,
            addresses: r.addresses.clone(),
            gateways: r.gateways.clone(),
            routes: r.routes.clone(),
            aliases: r.aliases.clone(),
            gw_priority: r.gw_priority,
            allow_spoof: r.allow_spoof,
            metric: r.metric,
            persistent: r.persistent,
            status: status(&r.phase),
            generation: r.generation,
            created: r.created.clone(),
        }
    }

    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        let chains = self.chains.values().map(|r| self.show_chain(r));
        self.endpoints.values().map(|r| self.show(r)).chain(chains).collect()
    }

    /// By id or unique prefix.
    pub(super) fn endpoint(&self, id: &str) -> Result<Endpoint, ApiError> {
        let given = id.to_ascii_lowercase();
        let found: Vec<_> = self.endpoints().into_iter().filter(|r| r.id.to_string().starts_with(&given)).collect();
        match &found[..] {
            [one] => Ok(one.clone()),
            [] => Err(ApiError::new(Kind::Missing, format!("there is no attachment {id:?}"))
                .hint("list them: rnet attachments")),
            _ => {
                let ids: Vec<_> = found.iter().map(|r| r.id.to_string()).collect();
                Err(ambiguous("attachment", id, &ids))
            }
        }
    }

    /// What a reference that may name an ended container can mean among the endpoints: engine and full id.
    pub(super) fn attached_container(
        &self,
        reference: &ContainerRef,
    ) -> Result<Option<(ContainerEngine, String)>, ApiError> {
        /// Engine, id and name.
        type Known<'a> = (ContainerEngine, &'a str, &'a str);
        let known = || {
            let ours = self.endpoints.values().map(|r| (r.engine, r.container_id.as_str(), r.container.as_str()));
            ours.chain(self.chains.values().map(|r| (r.engine, r.container_id.as_str(), r.container.as_str())))
        };
        let named = |(_, id, called): &Known<'_>, name: &str| *id == name || *called == name;
        let matches = |r: &Known<'_>| match reference {
            ContainerRef::Any(name) => named(r, name.as_str()),
            ContainerRef::Of(engine, name) => r.0 == *engine && named(r, name.as_str()),
            ContainerRef::NetnsPath(path) => r.0 == ContainerEngine::Netns && named(r, &path.display().to_string()),
            ContainerRef::Pid(pid) => r.0 == ContainerEngine::Pid && named(r, &pid.to_string()),
        };
        let mut found: Vec<(ContainerEngine, String)> =
            known().filter(|r| matches(r)).map(|(engine, id, _)| (engine, id.to_owned())).collect();
        if found.is_empty()
            && let ContainerRef::Any(name) | ContainerRef::Of(_, name) = reference
            && name.as_str().len() >= 4
        {
            let by_prefix = |r: &Known<'_>| {
                r.1.starts_with(name.as_str()) && !matches!(reference, ContainerRef::Of(engine, _) if *engine != r.0)
            };
            found = known().filter(by_prefix).map(|(engine, id, _)| (engine, id.to_owned())).collect();
        }
        found.sort();
        found.dedup();
        match &found[..] {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            _ => {
                let names: Vec<_> = found.iter().map(|(engine, id)| format!("{engine}:{id}")).collect();
                Err(ambiguous("container", &reference.to_string(), &names))
            }
        }
    }

    /// All interfaces of one container.
    pub(super) fn shown_of(&self, engine: ContainerEngine, id: &str) -> Vec<Endpoint> {
        let ours = self.of_container(engine, id).into_iter().map(|r| self.show(r));
        ours.chain(self.chains_of(engine, id).map(|r| self.show_chain(r))).collect()
    }

    /// The endpoints a `wait` looks at.
    pub(super) fn endpoints_of(&self, container: &ContainerRef, ifname: Option<&IfName>) -> Vec<Endpoint> {
        let Ok(Some((engine, id))) = self.attached_container(container) else { return Vec::new() };
        let mut all = self.shown_of(engine, &id);
        all.retain(|r| ifname.is_none_or(|name| r.ifname == *name));
        all
    }

    pub(super) fn show_network(&self, id: NetworkId) -> Option<Network> {
        let state = self.networks.get(&id)?;
        let ours = self.endpoints.values().filter(|r| r.network == Some(id)).map(|r| self.show(r));
        let endpoints = ours.chain(self.chains_on(id).map(|r| self.show_chain(r))).collect();
        let fault = self.filter_fault.iter().filter(|_| !self.is_listed(id));
        let problems = fault.map(|e| format!("not filtered: {e}")).chain(state.problems.iter().cloned()).collect();
        Some(Network {
            id,
            spec: state.record.spec.clone(),
            created: state.record.created.clone(),
            endpoints,
            problems,
        })
    }

    /// By name, id or unique prefix of the id.
    pub(super) fn find_network(&self, given: &str) -> Result<NetworkId, ApiError> {
        let lower = given.to_ascii_lowercase();
        let by_name = self.networks.values().find(|n| n.record.spec.name.as_str() == given);
        if let Some(found) = by_name {
            return Ok(found.record.id);
        }
        let found: Vec<NetworkId> =
            self.networks.keys().filter(|id| id.to_string().starts_with(&lower)).copied().collect();
        match found[..] {
            [one] => Ok(one),
            [] => Err(ApiError::new(Kind::Missing, format!("there is no network {given:?}"))
                .hint("list them: rnet network ls")),
            _ => {
                let ids: Vec<_> = found.iter().map(ToString::to_string).collect();
                Err(ambiguous("network", given, &ids))
            }
        }
    }

    pub(super) fn networks(&self) -> Vec<Network> {
        self.networks.keys().filter_map(|id| self.show_network(*id)).collect()
    }

    pub(super) fn network(&self, name: &str) -> Result<Network, ApiError> {
        let id = self.find_network(name)?;
        Ok(self.show_network(id).expect("a found network exists"))
    }

    /// The file of a sandbox's namespace.
    pub(super) fn sandbox_path(&self, id: SandboxId) -> std::path::PathBuf {
        self.root.netns().join(id.to_string())
    }

    pub(super) fn show_sandbox(&self, r: &SandboxRecord) -> Sandbox {
        Sandbox {
            id: r.id,
            container_id: r.container_id.clone(),
            container: r.container.clone(),
            netns: self.sandbox_path(r.id),
            endpoints: self.shown_of(ContainerEngine::Rnet, &r.container_id),
        }
    }

    pub(super) fn sandboxes(&self) -> Vec<Sandbox> {
        let used = self.sandboxes.values().filter(|s| !s.record.container_id.is_empty());
        used.map(|s| self.show_sandbox(&s.record)).collect()
    }
}
