//! The engine's state and what every operation uses.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rnet_api::{ApiError, Event, Root, Version};
use rnet_ipam::Pool;
use rnet_kernel::{Filter, KernelError, LinkState, Linked, Netns, NetnsId, Nft, ProcSys, Route};
use rnet_model::{EndpointId, Engine as ContainerEngine, IfName, Kind, NetworkId, SandboxId};
use rnet_store::{RunLog, StoreError};
use tokio::sync::broadcast;
use tokio::sync::mpsc::UnboundedSender;

use super::chain::ChainRecord;
use super::handle::Announcement;
use super::host_firewall::{HostDrops, Looked};
use super::linked::Offers;
use super::loopback::Loopback;
use super::naming::Told;
use super::ports::{Ports, ProxyPorts};
use super::reap::{Reaper, Retired};
use super::state::{BridgeRecord, EndpointRecord, LinkRecord, NetworkRecord, SandboxRecord};
use super::surfaces::{Kernel, Writer};
use super::tag::Tag;
use crate::config::Config;
use crate::names::Names;

/// What the engine is started with.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Directories.
    pub(crate) root: Root,
    /// Configuration.
    pub(crate) config: Config,
}

/// A network and what lives on it.
#[derive(Debug)]
pub(super) struct NetworkState {
    pub(super) record: NetworkRecord,
    /// One per subnet.
    pub(super) pools: Vec<Pool>,
    /// Sandboxes that are wired to the network and wait for a container.
    pub(super) ready: VecDeque<SandboxId>,
    /// Whether sandboxes have been asked for, so that a pool is worth its memory.
    pub(super) warm: bool,
    /// What is not as it should be, and not netd's to put right.
    pub(super) problems: Vec<String>,
}

/// A sandbox and the open ends of its namespace.
pub(super) struct SandboxState {
    pub(super) record: SandboxRecord,
    pub(super) netns: Netns,
    /// Kept open only while it waits in a pool: the socket holds no namespace that would otherwise end.
    pub(super) inside: Option<Route>,
}

impl std::fmt::Debug for SandboxState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SandboxState").field("record", &self.record).field("netns", &self.netns).finish_non_exhaustive()
    }
}

/// All state. Only its own thread touches it.
pub(crate) struct Engine {
    pub(super) root: Root,
    pub(super) config: Config,
    pub(super) tag: Tag,
    pub(super) host: Netns,
    pub(super) kernel: Kernel,
    pub(super) log: RunLog,
    pub(super) writer: Writer,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) announcer: mpsc::Sender<Announcement>,
    /// Wait for the answer to be given.
    pub(super) announcements: Vec<Announcement>,

    pub(super) endpoints: BTreeMap<EndpointId, EndpointRecord>,
    pub(super) by_container: HashMap<(ContainerEngine, String), Vec<EndpointId>>,
    pub(super) by_address: HashMap<(IfName, IpAddr), EndpointId>,
    pub(super) by_host_ifname: HashMap<IfName, EndpointId>,
    pub(super) ports: HashMap<IfName, usize>,
    pub(super) networks: BTreeMap<NetworkId, NetworkState>,
    pub(super) bridges: BTreeMap<IfName, BridgeRecord>,
    pub(super) sandboxes: BTreeMap<SandboxId, SandboxState>,
    pub(super) sandbox_of: HashMap<String, SandboxId>,
    /// Keys of the reservations in the store.
    pub(super) reservations: BTreeSet<String>,
    /// Whose ready interface a host end is.
    pub(super) ready_ports: HashMap<IfName, SandboxId>,
    /// The last known ifindex of bridges, to tell with one look that a port is where it belongs.
    pub(super) bridge_index: HashMap<IfName, u32>,
    pub(super) links: BTreeMap<EndpointId, LinkRecord>,
    /// Links that others made, by ifindex: whose bridges lead to a LAN.
    pub(super) foreign: HashMap<u32, LinkState>,
    pub(super) global_id: [u8; 5],

    /// Answers for names.
    pub(super) names: Names,
    /// What it has been told of each interface.
    pub(super) named: Told,
    /// Interfaces that plugins made.
    pub(super) chains: BTreeMap<EndpointId, ChainRecord>,
    /// Those of an earlier run that are to be taken back.
    pub(super) left_over: Vec<EndpointId>,
    /// Those whose namespace has ended.
    pub(super) chores: UnboundedSender<EndpointId>,

    /// Published ports.
    pub(super) published: Ports,
    /// What serves them on loopback.
    pub(super) loopback: Loopback,
    /// Where an earlier run listened on loopback.
    pub(super) proxy_before: ProxyPorts,
    /// What the host's firewall does with what comes in.
    pub(super) host_drops: HostDrops,
    /// Whether that has been looked at; from then on changes are told.
    pub(super) firewall_known: bool,
    /// Addresses that were let through a filter of the host that drops what is forwarded.
    pub(super) admitted: BTreeSet<IpAddr>,
    /// When it is to be looked at again.
    pub(super) firewall_at: Option<Instant>,
    /// What containers offer to linked ones.
    pub(super) offers: Offers,
    /// Exceptions for linked containers, as the packet filter has them.
    pub(super) linked: BTreeSet<Linked>,
    /// Whether those may be others by now.
    pub(super) links_stale: bool,
    /// Whether all that an earlier run has left is known: until then the packet filter may know more.
    pub(super) recovered: bool,

    /// Detached attachments the store may still know.
    pub(super) tombstones: Vec<String>,
    /// When the networks are to be compared with the kernel.
    pub(super) verify_at: Option<Instant>,
    /// Whether a route of one of our bridges was deleted since.
    pub(super) routes_gone: bool,
    pub(super) reaper: Reaper,
    /// Announcements to repeat, and when.
    pub(super) repeats: VecDeque<(Instant, EndpointId)>,
    /// Why packet filtering does not work, if so.
    pub(super) filter_fault: Option<KernelError>,
    /// Whether the base table has been put there by this process.
    pub(super) filter_ready: bool,
}

/// How long a change of addresses or routes waits for others.
const VERIFY_AFTER: Duration = Duration::from_millis(50);
/// And how much longer while there is other work all the time.
const VERIFY_LATEST: Duration = Duration::from_millis(20);
/// A pause between two requests that is long enough to prepare a sandbox.
const REFILL_AFTER: Duration = Duration::from_millis(1);
/// How often it is looked whether the store has followed.
const BURY_AFTER: Duration = Duration::from_secs(1);

impl Engine {
    /// Opens state and kernel and makes them equal.
    pub(super) fn open(
        options: Options,
        host: Netns,
        events: broadcast::Sender<Event>,
        announcer: mpsc::Sender<Announcement>,
        chores: UnboundedSender<EndpointId>,
    ) -> Result<Self, ApiError> {
        let Options { root, config } = options;
        let tag = Tag::of(&root);
        let (log, logged) = RunLog::open(&root.run.join("endpoints.log")).map_err(|e| store(&e))?;
        let (writer, stored) = Writer::open(&root.lib.join("rnet.redb"))?;
        let fail = |e: KernelError| kernel("cannot open the kernel's interfaces", &e);
        let mut engine = Engine {
            reaper: Reaper::start(&host, tag.group)?,
            kernel: Kernel {
                host: Route::open(&host).map_err(fail)?,
                inside: None,
                filter: Nft::new(&host, tag.table.clone()),
                sysctls: ProcSys::new(&host),
                sysctls_inside: None,
                tables: None,
                flows: None,
            },
            published: Ports::default(),
            loopback: Loopback::new(config.loopback_connections),
            proxy_before: ProxyPorts::default(),
            host_drops: HostDrops::default(),
            firewall_known: false,
            admitted: BTreeSet::new(),
            firewall_at: None,
            offers: Offers::new(),
            linked: BTreeSet::new(),
            links_stale: false,
            recovered: false,
            root,
            config,
            tag,
            host,
            log,
            writer,
            events,
            announcer,
            announcements: Vec::new(),
            endpoints: BTreeMap::new(),
            by_container: HashMap::new(),
            by_address: HashMap::new(),
            by_host_ifname: HashMap::new(),
            ports: HashMap::new(),
            networks: BTreeMap::new(),
            bridges: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            sandbox_of: HashMap::new(),
            reservations: BTreeSet::new(),
            ready_ports: HashMap::new(),
            bridge_index: HashMap::new(),
            links: BTreeMap::new(),
            foreign: HashMap::new(),
            names: Names::start(std::path::Path::new("/etc/resolv.conf"))?,
            named: Told::default(),
            chains: BTreeMap::new(),
            left_over: Vec::new(),
            chores,
            global_id: [0; 5],
            tombstones: Vec::new(),
            verify_at: None,
            routes_gone: false,
            repeats: VecDeque::new(),
            filter_fault: None,
            filter_ready: false,
        };
        engine.recover(logged, stored)?;
        Ok(engine)
    }

    /// Ends in order: what is retired goes, what is written reaches the disk; endpoints stay.
    pub(super) fn close(&mut self) {
        self.reaper.finish();
        self.drain_pools();
        self.writer.finish();
    }

    pub(super) fn version(&self) -> Version {
        let mut degraded: Vec<String> = Vec::new();
        degraded.extend(self.filter_fault.as_ref().map(|e| format!("packet filter: {e}")));
        degraded.extend(self.writer.fault().map(|e| format!("store: {e}")));
        degraded.extend(self.names.fault());
        Version {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            kernel: crate::kernel_release(),
            degraded,
        }
    }

    /// Puts the base table there when the first network needs it.
    pub(super) fn ensure_filter(&mut self) -> Result<(), ApiError> {
        if self.filter_ready {
            return Ok(());
        }
        match self.kernel.filter.ensure_base() {
            Ok(_) => {
                self.filter_fault = None;
                self.filter_ready = true;
                Ok(())
            }
            Err(error) => {
                let api = kernel("cannot install the packet filter table", &error);
                self.filter_fault = Some(error);
                Err(api)
            }
        }
    }

    pub(super) fn emit(&self, event: Event) {
        // No listener is no failure.
        let _ = self.events.send(event);
    }

    /// Puts an endpoint into all indexes, or its changed record.
    pub(super) fn remember(&mut self, record: EndpointRecord) {
        let id = record.id;
        self.take_out(id);
        self.touch_ports(record.engine, &record.container_id);
        self.by_container.entry((record.engine, record.container_id.clone())).or_default().push(id);
        for address in &record.addresses {
            self.by_address.insert((record.master.clone(), address.ip()), id);
        }
        self.by_host_ifname.insert(record.host_ifname.clone(), id);
        *self.ports.entry(record.master.clone()).or_default() += 1;
        self.endpoints.insert(id, record);
        self.naming(id);
    }

    /// Takes an endpoint out of all indexes.
    pub(super) fn forget(&mut self, id: EndpointId) -> Option<EndpointRecord> {
        let record = self.take_out(id);
        self.naming(id);
        record
    }

    fn take_out(&mut self, id: EndpointId) -> Option<EndpointRecord> {
        let record = self.endpoints.remove(&id)?;
        self.touch_ports(record.engine, &record.container_id);
        let key = (record.engine, record.container_id.clone());
        if let Some(ids) = self.by_container.get_mut(&key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_container.remove(&key);
            }
        }
        for address in &record.addresses {
            self.by_address.remove(&(record.master.clone(), address.ip()));
        }
        self.by_host_ifname.remove(&record.host_ifname);
        if let Some(count) = self.ports.get_mut(&record.master) {
            *count = count.saturating_sub(1);
        }
        Some(record)
    }

    /// The endpoints of one container, by engine and full id.
    pub(super) fn of_container(&self, engine: ContainerEngine, id: &str) -> Vec<&EndpointRecord> {
        let ids = self.by_container.get(&(engine, id.to_owned()));
        ids.into_iter().flatten().filter_map(|id| self.endpoints.get(id)).collect()
    }

    /// Deletes retired links now if one of them holds a name that is wanted again, or names, addresses and routes in a
    /// namespace that gets new ones.
    pub(super) fn reap_if_in_the_way(&mut self, host_ifname: &IfName, netns: u64) {
        let in_the_way = |r: &Retired| r.host_ifname == *host_ifname || r.netns == netns;
        if self.reaper.any(in_the_way) {
            self.reaper.finish();
        }
    }

    /// Compares the networks with the kernel, once for all changes that come together.
    pub(super) fn verify_soon(&mut self) {
        if !self.networks.is_empty() {
            self.verify_at.get_or_insert_with(|| Instant::now() + VERIFY_AFTER);
        }
    }

    /// After how long without a message there is something to do.
    pub(super) fn idle_work(&mut self) -> Option<Duration> {
        if self.verify_at.is_some_and(|at| at.elapsed() >= VERIFY_LATEST) {
            self.verify_at = None;
            self.verify_networks();
        }
        let reap = self.reaper.due();
        let verify = self.verify_at.map(|at| at.saturating_duration_since(Instant::now()));
        let repeat = self.repeats.front().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        let refill = self.wants_refill().then_some(REFILL_AFTER);
        let bury = (!self.tombstones.is_empty()).then_some(BURY_AFTER);
        let firewall = self.firewall_at.map(|at| at.saturating_duration_since(Instant::now()));
        [reap, verify, firewall, repeat, refill, bury].into_iter().flatten().min()
    }

    /// Uses a socket inside a container that is open already.
    pub(super) fn enter(&mut self, netns: &Netns, inside: Option<Route>) {
        if let Some(route) = inside {
            self.kernel.adopt(netns.id(), route);
        }
    }

    /// What nobody waits for, after each answer: the neighbours are told, and the socket inside a container is closed,
    /// which would keep the namespace of an ended one alive.
    pub(super) fn after_work(&mut self) {
        self.settle_ports();
        for announcement in self.announcements.drain(..) {
            let _ = self.announcer.send(announcement);
        }
        self.kernel.leave();
    }

    /// What is done when nobody asks for anything: one piece, then the mailbox again.
    pub(super) fn do_idle_work(&mut self) {
        if self.verify_at.is_some_and(|at| at <= Instant::now()) {
            self.verify_at = None;
            self.verify_networks();
        } else if self.firewall_at.is_some_and(|at| at <= Instant::now()) {
            self.firewall_at = None;
            self.look_at_host_firewall();
            self.admit_ports(Looked::Again);
        } else if self.repeats.front().is_some_and(|(at, _)| *at <= Instant::now()) {
            self.repeat_announcement();
        } else if self.wants_refill() {
            self.refill_one();
        } else {
            self.reaper.work();
            self.bury();
        }
    }

    /// Writes a record of the run log, ahead of what it announces.
    pub(super) fn log_put(&mut self, key: &str, value: &impl serde::Serialize) -> Result<(), ApiError> {
        self.log.put(key, value).map_err(|e| store(&e))
    }

    /// Removes a record from the run log. A failure only means that the next start finds a finished piece of work.
    pub(super) fn log_remove(&mut self, key: &str) {
        if let Err(error) = self.log.remove(key) {
            tracing::warn!(%error, key, "cannot write the run log");
        }
    }
}

/// Key of an endpoint in the run log.
pub(super) fn endpoint_key(id: EndpointId) -> String {
    format!("endpoint/{id}")
}

/// An API error from the kernel's.
pub(super) fn kernel(what: impl Into<String>, error: &KernelError) -> ApiError {
    let api = ApiError::new(error.kind(), what).because(error);
    match &error.hint {
        Some(hint) => api.hint(hint.clone()),
        None => api,
    }
}

/// An API error from a store's.
pub(super) fn store(error: &StoreError) -> ApiError {
    let mut api = ApiError::new(error.kind(), error.to_string());
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        api.causes.push(cause.to_string());
        next = cause.source();
    }
    match error.hint() {
        Some(hint) => api.hint(hint),
        None => api,
    }
}

/// Inode of a namespace, the part of its id that is kept.
pub(super) fn inode(id: NetnsId) -> u64 {
    id.ino
}

/// Not more than one of several: the error lists the candidates.
pub(super) fn ambiguous(what: &str, given: &str, candidates: &[String]) -> ApiError {
    ApiError::new(Kind::Conflict, format!("{what} {given:?} is ambiguous"))
        .hint(format!("it could be {}", candidates.join(" or ")))
}
