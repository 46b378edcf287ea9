//! Networks that are lists of CNI plugins: what the engine remembers of their interfaces.
//!
//! The plugins run outside of the engine's thread ([`super::drive`]); here is the record of each interface, written down
//! before they begin, and again when they are done. One that was begun and not finished is taken back by DEL.

use std::net::IpAddr;
use std::path::PathBuf;

use rnet_api::{ApiError, AttachReply, Endpoint, Network, Outcome};
use rnet_kernel::Netns;
use rnet_model::{
    EndpointId, Engine as ContainerEngine, IfAddr, IfName, Kind, MacAddr, NetworkId, NetworkSpec, one_of_each_family,
};
use rnet_plan::fail;
use rnet_plugin_protocol::is_name;
use rnet_plugin_protocol::runtime::NetworkList;
use serde::{Deserialize, Serialize};

use super::connect::Asked;
use super::core::inode;
use super::state::{NetworkRecord, Phase};
use super::surfaces::put;
use super::{Engine, clock, view};
use crate::resolve::Target;

/// An interface that plugins made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChainRecord {
    pub(crate) id: EndpointId,
    pub(crate) engine: ContainerEngine,
    pub(crate) container_id: String,
    pub(crate) container: String,
    pub(crate) network: NetworkId,
    /// `CNI_CONTAINERID`.
    pub(crate) cni_id: String,
    /// `CNI_NETNS`.
    pub(crate) path: PathBuf,
    /// Its inode.
    pub(crate) netns: u64,
    pub(crate) ifname: IfName,
    /// As asked for.
    pub(crate) ips: Vec<IpAddr>,
    /// As asked for.
    pub(crate) mac: Option<MacAddr>,
    pub(super) made: Made,
    pub(super) phase: Phase,
    generation: u64,
    created: String,
}

/// What plugins made, as far as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) bridge: Option<IfName>,
    pub(crate) host_ifname: Option<IfName>,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu: u32,
    pub(crate) addresses: Vec<IfAddr>,
    pub(crate) gateways: Vec<IpAddr>,
}

impl ChainRecord {
    /// Its namespace, if it still is the same one.
    pub(crate) fn reopen(&self) -> Option<Netns> {
        Netns::open(&self.path).ok().filter(|netns| inode(netns.id()) == self.netns)
    }

    /// `engine:name`.
    pub(super) fn whose(&self) -> String {
        format!("{}:{}", self.engine, self.container)
    }
}

/// What a connect to such a network begins with.
#[derive(Debug)]
pub(super) enum Begun {
    /// It is connected, as asked.
    There(Box<AttachReply>),
    /// Something of an earlier life has to be taken back first.
    Leftover(EndpointId),
    /// Written down: the plugins may begin.
    Go(Box<ChainRecord>),
}

/// A record and its network.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) record: ChainRecord,
    /// Its name with rnet.
    pub(crate) network: String,
    pub(crate) spec: NetworkSpec,
}

fn chain_key(id: EndpointId) -> String {
    format!("chain/{id}")
}

impl Engine {
    /// Whether a network is a list of plugins; its id if so.
    pub(super) fn find_listed(&self, name: &str) -> Option<NetworkId> {
        let id = self.find_network(name).ok()?;
        self.is_listed(id).then_some(id)
    }

    pub(super) fn is_listed(&self, network: NetworkId) -> bool {
        self.networks.get(&network).is_some_and(|n| n.record.spec.conflist.is_some())
    }

    /// Whether there is a network whose bridge netd keeps.
    pub(super) fn has_bridged(&self) -> bool {
        self.networks.values().any(|n| n.record.spec.conflist.is_none())
    }

    /// A new network of plugins: nothing is done before a container is on it.
    pub(super) fn create_listed(&mut self, requested: &NetworkSpec, list: &NetworkList) -> Result<Network, ApiError> {
        let same_list = |spec: &NetworkSpec| {
            let name = spec.conflist.as_ref().and_then(|l| l.get("name")?.as_str());
            name == Some(list.name.as_str())
        };
        if let Some(other) = self.networks.values().find(|n| same_list(&n.record.spec)) {
            let other = &other.record.spec.name;
            return Err(ApiError::new(Kind::Conflict, format!("network {other} has a list named {:?} too", list.name))
                .hint("plugins keep their state under that name: choose another \"name\" in the file"));
        }
        let id = clock::network_id();
        let record =
            NetworkRecord { id, requested: requested.clone(), spec: requested.clone(), created: clock::wall() };
        fail::point("network.commit");
        self.writer.commit(vec![put(super::network::network_key(id), &record)])?;
        fail::point("network.commit.done");
        self.networks.insert(id, super::network::network_state(record, self.config.rest_seconds));
        self.zone_changed(id);
        self.emit(view::event("network-create", requested.name.to_string()));
        Ok(self.show_network(id).expect("it was just inserted"))
    }

    /// Chooses the interface's name and writes the record, or finds that there is one.
    pub(super) fn begin_chain(
        &mut self,
        network: NetworkId,
        target: &Target,
        asked: &Asked,
    ) -> Result<Begun, ApiError> {
        one_of_each_family(&asked.options.ips)?;
        let here = inode(target.netns.id());
        let same = |r: &&ChainRecord| r.network == network && r.engine == target.engine && r.container_id == target.id;
        if let Some(found) = self.chains.values().find(same) {
            if found.phase != Phase::Live || found.netns != here {
                return Ok(Begun::Leftover(found.id));
            }
            let as_asked = asked.options.ips.iter().all(|ip| found.made.addresses.iter().any(|a| a.ip() == *ip))
                && asked.options.mac.is_none_or(|mac| found.made.mac == Some(mac))
                && asked.options.ifname.as_ref().is_none_or(|name| *name == found.ifname);
            if as_asked {
                let endpoint = self.show_chain(found);
                return Ok(Begun::There(Box::new(AttachReply {
                    outcome: Outcome::Unchanged,
                    endpoint,
                    plan: Vec::new(),
                })));
            }
            let name = &self.networks[&network].record.spec.name;
            let text = format!("{} is connected to network {name} already, as {}", found.container, found.ifname);
            return Err(
                ApiError::new(Kind::Conflict, text).hint(format!("rnet network disconnect {name} {}", found.container))
            );
        }
        self.refuse_ended(target)?;
        let inside = self.look_inside(&target.netns, &target.name)?;
        let ifname = match &asked.options.ifname {
            Some(name) if inside.has(name) => {
                let text = format!("{} already has an interface {name}", target.name);
                return Err(ApiError::new(Kind::Conflict, text).hint("choose another name, or leave it out"));
            }
            Some(name) => name.clone(),
            None => inside.free_name(),
        };
        let id = clock::endpoint_id();
        let record = ChainRecord {
            id,
            engine: target.engine,
            container_id: target.id.clone(),
            container: target.name.clone(),
            network,
            // A namespace's id is a path, which no plugin takes.
            cni_id: if is_name(&target.id) { target.id.clone() } else { id.to_string() },
            path: self.path_of(target),
            netns: here,
            ifname,
            ips: asked.options.ips.clone(),
            mac: asked.options.mac,
            made: Made::default(),
            phase: Phase::Wiring,
            generation: 1,
            created: clock::wall(),
        };
        fail::point("chain.log");
        self.log_put(&chain_key(id), &record)?;
        fail::point("chain.log.done");
        self.chains.insert(id, record.clone());
        Ok(Begun::Go(Box::new(record)))
    }

    /// A file that stands for a namespace.
    fn path_of(&self, target: &Target) -> PathBuf {
        match (target.pid, &target.path, self.sandbox_of.get(&target.id)) {
            (Some(pid), ..) => format!("/proc/{pid}/ns/net").into(),
            (None, Some(path), _) => path.clone(),
            (None, None, Some(sandbox)) => self.sandbox_path(*sandbox),
            (None, None, None) => PathBuf::new(),
        }
    }

    /// The plugins have made it.
    pub(super) fn chain_made(&mut self, id: EndpointId, made: Made) -> Result<AttachReply, ApiError> {
        let mut record = self.chain(id)?.clone();
        record.made = made;
        record.phase = Phase::Live;
        fail::point("chain.commit");
        self.log_put(&chain_key(id), &record)?;
        fail::point("chain.commit.done");
        let mut event = view::event("attach", record.container.clone());
        let addresses: Vec<_> = record.made.addresses.iter().map(ToString::to_string).collect();
        event.attributes = [
            ("ifname".to_owned(), record.ifname.to_string()),
            ("addresses".to_owned(), addresses.join(",")),
            ("id".to_owned(), id.to_string()),
        ]
        .into();
        let endpoint = self.show_chain(&record);
        self.chains.insert(id, record);
        self.naming(id);
        self.emit(event);
        Ok(AttachReply { outcome: Outcome::Created, endpoint, plan: Vec::new() })
    }

    /// Ahead of DEL: a crash from here on ends with DEL too.
    pub(super) fn begin_unchain(&mut self, id: EndpointId) -> Result<Work, ApiError> {
        let mut record = self.chain(id)?.clone();
        record.phase = Phase::Draining;
        fail::point("chain-rm.log");
        self.log_put(&chain_key(id), &record)?;
        fail::point("chain-rm.log.done");
        self.chains.insert(id, record);
        self.naming(id);
        self.work_of(id)
    }

    /// A record with what the plugins need.
    pub(super) fn work_of(&self, id: EndpointId) -> Result<Work, ApiError> {
        let record = self.chain(id)?.clone();
        let network = self.networks.get(&record.network);
        let spec = network.map(|n| n.record.spec.clone()).ok_or_else(|| {
            ApiError::new(Kind::Bug, format!("{} of {} is on no network", record.ifname, record.container))
        })?;
        Ok(Work { network: spec.name.to_string(), record, spec })
    }

    fn chain(&self, id: EndpointId) -> Result<&ChainRecord, ApiError> {
        self.chains.get(&id).ok_or_else(|| ApiError::new(Kind::Missing, format!("there is no attachment {id}")))
    }

    /// Nothing is left of it.
    pub(super) fn chain_gone(&mut self, id: EndpointId) -> Result<Endpoint, ApiError> {
        let shown = self.show_chain(self.chain(id)?);
        fail::point("chain-rm.commit");
        self.log_remove(&chain_key(id));
        fail::point("chain-rm.commit.done");
        let record = self.chains.remove(&id);
        self.naming(id);
        if let Some(record) = record.filter(|r| !r.made.addresses.is_empty()) {
            let mut event = view::event("detach", record.container);
            event.attributes.insert("ifname".into(), record.ifname.to_string());
            event.attributes.insert("id".into(), id.to_string());
            self.emit(event);
        }
        Ok(shown)
    }

    /// Something may be left of it: DEL can be repeated.
    pub(super) fn chain_failed(&mut self, id: EndpointId, error: &ApiError) {
        let Some(mut record) = self.chains.get(&id).cloned() else { return };
        record.phase = Phase::Failed { since: clock::wall(), text: error.chain() };
        record.generation += 1;
        if let Err(error) = self.log_put(&chain_key(id), &record) {
            tracing::warn!(error = error.chain(), "cannot write the run log");
        }
        self.chains.insert(id, record);
        self.naming(id);
    }

    /// After a start: who is to be taken back, because it was not finished or its namespace has ended.
    pub(super) fn recover_chains(&mut self, records: Vec<ChainRecord>) {
        for record in records {
            let id = record.id;
            if !self.is_listed(record.network) {
                self.log_remove(&chain_key(id));
                continue;
            }
            let unfinished = matches!(record.phase, Phase::Wiring | Phase::Draining);
            if unfinished || record.reopen().is_none() {
                self.left_over.push(id);
            }
            self.chains.insert(id, record);
            self.naming(id);
        }
    }

    /// A link of the host is gone; it may have been the other end of a container that has ended.
    pub(super) fn chain_link_gone(&mut self, name: &IfName) {
        let lost = |r: &&ChainRecord| {
            r.phase == Phase::Live && r.made.host_ifname.as_ref() == Some(name) && r.reopen().is_none()
        };
        for record in self.chains.values().filter(lost) {
            let _ = self.chores.send(record.id);
        }
    }

    /// Those of a container.
    pub(super) fn chains_of(&self, engine: ContainerEngine, id: &str) -> impl Iterator<Item = &ChainRecord> {
        self.chains.values().filter(move |r| r.engine == engine && r.container_id == id)
    }

    /// Those on a network.
    pub(super) fn chains_on(&self, network: NetworkId) -> impl Iterator<Item = &ChainRecord> {
        self.chains.values().filter(move |r| r.network == network)
    }

    /// As the API shows it.
    pub(super) fn show_chain(&self, r: &ChainRecord) -> Endpoint {
        Endpoint {
            id: r.id,
            engine: r.engine,
            container_id: r.container_id.clone(),
            container: r.container.clone(),
            network: self.networks.get(&r.network).map(|n| n.record.spec.name.clone()),
            bridge: r.made.bridge.clone(),
            ifname: r.ifname.clone(),
            host_ifname: r.made.host_ifname.clone(),
            mac: r.made.mac,
            mtu: r.made.mtu,
            addresses: r.made.addresses.clone(),
            gateways: r.made.gateways.clone(),
            routes: Vec::new(),
            aliases: Vec::new(),
            gw_priority: 0,
            allow_spoof: false,
            metric: None,
            persistent: false,
            status: view::status(&r.phase),
            generation: r.generation,
            created: r.created.clone(),
        }
    }
}
