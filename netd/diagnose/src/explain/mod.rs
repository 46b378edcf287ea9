//! `rnet explain`: walks a path with a real packet and names what stops it.
//!
//! The kernel is the oracle. It is asked for routes where they are used, and tells what nf_tables does with the packet
//! ([`rnet_kernel::Tracer`]); what never reaches nf_tables (a missing route, a link that is down, a neighbour that does
//! not answer) is looked up around it.

mod outcome;
mod probe;
mod walk;

pub(crate) use walk::is_own;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rnet_api::{ApiError, Direction, Endpoint, Explanation, Network, PathHop, PathOutcome, Transport};
use rnet_kernel::{Flow, KernelError, LinkState, Links as _, Netns, Route, Tracer, Way, WayKind, WayOf};
use rnet_model::{EndpointId, Kind};

use crate::rules::RuleBook;
use probe::{Answer, Probe};
use walk::Walk;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(1);
/// How long the reports about a packet may be behind it.
const BEHIND: Duration = Duration::from_millis(30);
/// How often answer and reports are looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Tells the traces of one process apart.
static TRACES: AtomicU32 = AtomicU32::new(0);

/// Who sends.
#[derive(Debug, Clone)]
pub struct Source {
    /// As the user calls it.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its interfaces; none for the host.
    pub endpoints: Vec<Endpoint>,
}

/// Where to.
#[derive(Debug, Clone)]
pub enum Destination {
    /// An address.
    Address(IpAddr),
    /// A container.
    Container {
        /// Its name.
        name: String,
        /// Its interfaces.
        endpoints: Vec<Endpoint>,
        /// Whether it runs.
        runs: bool,
    },
}

/// A port of a container that the host listens at for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Container.
    pub container: String,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: String,
    /// Address of the host; `None` = all.
    pub host: Option<IpAddr>,
    /// Port there.
    pub port: u16,
}

impl Publication {
    /// The ports of what was published at once, one by one.
    pub fn all_of(published: &rnet_api::Publication) -> Vec<Publication> {
        let port = &published.port;
        let each = |offset| Publication {
            container: published.container.clone(),
            protocol: port.protocol.to_string(),
            host: port.host,
            port: port.host_port.saturating_add(offset),
        };
        (0..port.count).map(each).collect()
    }
}

/// Everything the walk has to know.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The daemon's namespace.
    pub host: Netns,
    /// Who sends.
    pub source: Source,
    /// Where to.
    pub destination: Destination,
    /// Port, of TCP and UDP.
    pub port: Option<u16>,
    /// What is sent.
    pub transport: Transport,
    /// All networks.
    pub networks: Vec<Network>,
    /// All interfaces of all containers.
    pub endpoints: Vec<Endpoint>,
    /// Where they are, those whose container runs.
    pub namespaces: HashMap<EndpointId, Netns>,
    /// All published ports.
    pub publications: Vec<Publication>,
}

/// The verdict with what leads to it.
#[derive(Debug)]
struct End {
    outcome: PathOutcome,
    verdict: String,
    hint: Option<String>,
}

impl End {
    fn new(outcome: PathOutcome, verdict: impl Into<String>) -> Self {
        End { outcome, verdict: verdict.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Links of a namespace and questions about its routes.
#[derive(Debug)]
struct Place {
    route: Route,
    links: Vec<LinkState>,
}

impl Place {
    fn open(ns: &Netns) -> Result<Self, KernelError> {
        let mut route = Route::open(ns)?;
        let links = route.links()?;
        Ok(Place { route, links })
    }

    fn link(&self, index: u32) -> Option<&LinkState> {
        self.links.iter().find(|l| l.index == index)
    }

    fn name(&self, index: u32) -> String {
        self.link(index).map_or_else(|| format!("the device with index {index}"), |l| l.name.to_string())
    }

    fn named(&self, name: &str) -> Option<&LinkState> {
        self.links.iter().find(|l| l.name.as_str() == name)
    }

    /// Whether the next hop was asked for and does not answer.
    fn is_silent(&mut self, output: u32, hop: IpAddr) -> bool {
        let known = self.route.neighbours().unwrap_or_default();
        known.iter().any(|n| n.index == output && n.ip == hop && n.silent)
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(KernelError) -> ApiError {
    let what = what.into();
    move |error| ApiError::new(error.kind(), what).because(&error)
}

/// Walks the path. Takes up to one second when nothing answers.
///
/// # Errors
/// When the path cannot be looked at: no nf_tables, no such address family, no right.
pub fn explain(scene: &Scene) -> Result<Explanation, ApiError> {
    let mut hops = Vec::new();
    let (address, shown) = match destination(scene) {
        Ok(found) => found,
        Err((shown, end)) => return Ok(told(scene, scene.source.name.clone(), shown, hops, end)),
    };
    let mut inside = Place::open(&scene.source.netns).map_err(failed("cannot look into the source"))?;
    let way = match inside.route.way(&WayOf { destination: address, source: None, input: None }) {
        Ok(way) => way,
        Err(error) => {
            let end = outcome::no_way(scene, &inside, address, &error);
            return Ok(told(scene, scene.source.name.clone(), shown, hops, end));
        }
    };
    let Some(own) = way.source else {
        let end = outcome::no_source(scene, &inside, &way, address);
        return Ok(told(scene, scene.source.name.clone(), shown, hops, end));
    };
    hops.push(source_hop(&inside, &way, own, address));
    let is_host = scene.source.netns == scene.host;
    let mut host = Place::open(&scene.host).map_err(failed("cannot look at the host"))?;
    if !is_host {
        match port_hop(scene, &inside, &host, &way) {
            Ok(hop) => hops.extend(hop),
            Err(end) => return Ok(told(scene, named(&scene.source.name, own), shown, hops, end)),
        }
    }
    let (walk, answer) = walk_it(scene, own, address)?;
    hops.extend(walk.hops.iter().cloned());
    let mut look = outcome::Look { scene, inside: &mut inside, host: &mut host, way: &way, walk: &walk, address };
    hops.extend(look.arrival());
    let end = look.end(answer);
    hops.sort_by_key(|hop| hop.direction == Direction::Answer);
    Ok(told(scene, named(&scene.source.name, own), shown, hops, end))
}

fn told(scene: &Scene, source: String, destination: String, hops: Vec<PathHop>, end: End) -> Explanation {
    let End { outcome, verdict, hint } = end;
    Explanation { source, destination, transport: scene.transport, hops, outcome, verdict, hint }
}

fn named(name: &str, address: IpAddr) -> String {
    format!("{name} ({address})")
}

fn hop(place: &str, text: String) -> PathHop {
    PathHop { direction: Direction::Sent, place: place.to_owned(), text, rule: None, stops: false }
}

/// The address to send to and what it is called, or why there is none.
fn destination(scene: &Scene) -> Result<(IpAddr, String), (String, End)> {
    let port = scene.port.map(|port| format!(" port {port}")).unwrap_or_default();
    let (name, endpoints, runs) = match &scene.destination {
        Destination::Address(ip) => {
            let owner = scene.endpoints.iter().find(|e| e.addresses.iter().any(|a| a.ip() == *ip));
            let called = owner.map_or_else(|| ip.to_string(), |owner| named(&owner.container, *ip));
            return Ok((*ip, format!("{called}{port}")));
        }
        Destination::Container { name, endpoints, runs } => (name, endpoints, *runs),
    };
    if !runs {
        let end = End::new(PathOutcome::NotRunning, format!("{name} does not run")).hint("start it, then ask again");
        return Err((name.clone(), end));
    }
    let near = |e: &&Endpoint| {
        scene
            .source
            .endpoints
            .iter()
            .any(|own| own.bridge.is_some() && own.bridge == e.bridge && own.network == e.network)
    };
    let all = || endpoints.iter().filter(near).chain(endpoints.iter().filter(|e| !near(e)));
    let addresses = all().flat_map(|e| e.addresses.iter().map(|a| a.ip()));
    match addresses.clone().find(IpAddr::is_ipv4).or_else(|| addresses.clone().next()) {
        Some(ip) => Ok((ip, format!("{}{port}", named(name, ip)))),
        None => {
            let end = End::new(PathOutcome::NoRoute, format!("{name} has no address that netd knows"))
                .hint(format!("connect it: rnet network connect NETWORK {name}; or give its address instead"));
            Err((name.clone(), end))
        }
    }
}

fn source_hop(inside: &Place, way: &Way, own: IpAddr, address: IpAddr) -> PathHop {
    let dev = inside.name(way.output);
    let text = match (way.kind, way.via) {
        (WayKind::Local, _) => format!("{own} is an address of its own"),
        (_, Some(via)) => format!("{dev} {own}, route to {address} via {via}"),
        (_, None) => format!("{dev} {own}, {address} is on the link"),
    };
    hop("source", text)
}

/// The host's end of the source's interface.
fn port_hop(scene: &Scene, inside: &Place, host: &Place, way: &Way) -> Result<Option<PathHop>, End> {
    let dev = inside.name(way.output);
    let Some(endpoint) = scene.source.endpoints.iter().find(|e| e.ifname.as_str() == dev) else { return Ok(None) };
    let Some(port) = &endpoint.host_ifname else { return Ok(None) };
    let network = endpoint.network.as_ref().map(|n| format!(" of network {n}")).unwrap_or_default();
    let Some(link) = host.named(port.as_str()) else {
        return Err(End::new(PathOutcome::InterfaceDown, format!("{port}, the host's end of {dev}, is gone"))
            .hint("netd repairs it when it runs: see rnet doctor and netd's log"));
    };
    let down = |what: &str, name: &str| {
        End::new(PathOutcome::InterfaceDown, format!("{what} {name} is down")).hint(format!("ip link set {name} up"))
    };
    if !link.up {
        return Err(down("the bridge port", port.as_str()));
    }
    match link.master.and_then(|index| host.link(index)) {
        Some(bridge) if !bridge.up => Err(down("the bridge", bridge.name.as_str())),
        Some(bridge) => Ok(Some(hop("port", format!("{port} on bridge {}{network}", bridge.name)))),
        None if endpoint.bridge.is_some() => {
            let bridge = endpoint.bridge.as_ref().map(ToString::to_string).unwrap_or_default();
            Err(End::new(PathOutcome::InterfaceDown, format!("{port} is in no bridge, it should be in {bridge}"))
                .hint(format!("ip link set {port} master {bridge}")))
        }
        None => Ok(Some(hop("port", format!("{port} on the host")))),
    }
}

/// Sends the packet and listens.
fn walk_it(scene: &Scene, own: IpAddr, address: IpAddr) -> Result<(Walk, Option<Answer>), ApiError> {
    let protocol: u8 = match (scene.transport, address) {
        (Transport::Tcp, _) => 6,
        (Transport::Udp, _) => 17,
        (Transport::Icmp, IpAddr::V4(_)) => 1,
        (Transport::Icmp, IpAddr::V6(_)) => 58,
    };
    let to = SocketAddr::new(address, scene.port.unwrap_or(0));
    let probe = Probe::open(&scene.source.netns, scene.transport, own, to).map_err(|e| {
        ApiError::new(Kind::Retry, format!("cannot open a socket in {}", scene.source.name)).because(&e)
    })?;
    let ports = scene.port.map(|port| (probe.own, port));
    let flow = Flow { protocol, source: own, destination: address, ports };
    let mut book = RuleBook::open(&scene.host).map_err(failed("cannot read the packet filter"))?;
    let name = TRACES.fetch_add(1, Ordering::Relaxed).to_string();
    let mut tracer = Tracer::start(&scene.host, &name, &flow).map_err(failed("cannot trace packets"))?;
    let echo = (scene.transport == Transport::Icmp).then_some(probe.own);
    let mut walk = Walk::new(flow);
    let mut answer = probe.send().err().map(Answer::Refused);
    let mut deadline = Instant::now() + LIMIT;
    loop {
        for event in tracer.read(LOOK).map_err(failed("cannot read packet traces"))? {
            tracing::trace!(?event, "nf_tables");
            walk.take(&event, echo, &mut book);
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok((walk, answer));
        }
        answer = answer.or_else(|| probe.answer());
        if answer.is_some() || walk.stop.is_some() {
            // What is told of a packet comes after it: a little more, then no more.
            deadline = deadline.min(now + BEHIND);
        }
        if answer.is_none() {
            let wait = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut [PollFd::new(probe.fd().as_fd(), PollFlags::POLLIN)], wait);
        }
    }
}
