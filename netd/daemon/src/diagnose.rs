//! doctor, explain, ping-all: takes a copy of what the engine knows, and looks and sends on threads of its own.

use std::net::IpAddr;

use rnet_api::{ApiError, DoctorReport, Endpoint, ExplainRequest, Explanation, PingReport, Status, TargetHost};
use rnet_diagnose::doctor::{self, Ask, Daemon, EndpointFact, NetworkFact};
use rnet_diagnose::explain::{self, Destination, Publication, Scene, Source};
use rnet_diagnose::ping::{self, Member};
use rnet_kernel::{Netns, Tracer};
use rnet_model::{ContainerRef, Kind};
use tokio::sync::Semaphore;

use crate::engine::{Handle, Known};
use crate::resolve::Resolver;

/// Each takes a thread for a second or more.
static TURNS: Semaphore = Semaphore::const_new(4);

/// Runs what waits on a thread that may.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let turn = TURNS.acquire().await.map_err(|e| ApiError::new(Kind::Bug, "no more turns").because(&e))?;
    let done = tokio::task::spawn_blocking(work).await;
    drop(turn);
    done.map_err(|e| ApiError::new(Kind::Bug, "the diagnosis ended early").because(&e))
}

/// Removes what a daemon that was killed during a trace has left, on kernels where it does not go by itself.
pub(crate) fn sweep() {
    drop(tokio::task::spawn_blocking(|| {
        if let Err(error) = Netns::current().and_then(|host| Tracer::sweep(&host)) {
            tracing::debug!(%error, "cannot look for tables of old traces");
        }
    }));
}

/// `POST /v1/networks/{name}/ping`.
pub(crate) async fn ping(engine: &Handle, name: String) -> Result<PingReport, ApiError> {
    let network = engine.network(name).await?;
    let known = engine.known().await?;
    let of = |e: &Endpoint| network.endpoints.iter().any(|own| own.id == e.id);
    let members: Vec<Member> = known
        .endpoints
        .into_iter()
        .filter(|(endpoint, _)| of(endpoint))
        .map(|(endpoint, netns)| Member { endpoint, netns })
        .collect();
    let name = network.spec.name.clone();
    aside(move || ping::ping_all(name, &members)).await
}

/// `GET /v1/doctor`.
pub(crate) async fn doctor(engine: &Handle) -> Result<DoctorReport, ApiError> {
    let known = engine.known().await?;
    let ask = Ask { host: known.host.clone(), root: known.root.clone(), daemon: facts(&known) };
    aside(move || doctor::examine(&doctor::collect(&ask))).await
}

fn facts(known: &Known) -> Daemon {
    let text = |name: &rnet_model::IfName| name.to_string();
    let networks = known.networks.iter().map(|n| NetworkFact {
        name: n.spec.name.to_string(),
        subnets: n.spec.subnets.clone(),
        bridge: n.spec.bridge.as_ref().map(text),
        mtu: n.spec.mtu,
        internal: n.spec.internal,
        problems: n.problems.clone(),
    });
    let endpoints = known.endpoints.iter().map(|(e, _)| EndpointFact {
        container: e.container.clone(),
        ifname: e.ifname.to_string(),
        bridge: e.bridge.as_ref().map(text),
        mtu: e.mtu,
        error: match &e.status {
            Status::Error { text, .. } => Some(text.clone()),
            _ => None,
        },
    });
    Daemon {
        unreachable: None,
        start: known.root.start_command(),
        degraded: known.version.degraded.clone(),
        networks: networks.collect(),
        endpoints: endpoints.collect(),
        publications: known.publications.iter().flat_map(Publication::all_of).collect(),
    }
}

/// `POST /v1/explain`.
pub(crate) async fn explain(
    engine: &Handle,
    resolver: &Resolver,
    request: ExplainRequest,
) -> Result<Explanation, ApiError> {
    let ExplainRequest { source, target } = request;
    let is_host = matches!(&source, ContainerRef::Any(name) if name.as_str() == "host");
    let from = if is_host { None } else { Some(resolver.resolve(&source, None).await?) };
    let to = match &target.host {
        TargetHost::Address(ip) => To::Address(*ip),
        TargetHost::Container(container) => match resolver.resolve(container, None).await {
            Ok(found) => To::Running(found.name, found.netns),
            Err(error) if error.kind == Kind::Missing => match engine.attached(container.clone()).await? {
                Some((engine, id)) => To::Ended(container.to_string(), engine, id),
                None => return Err(error),
            },
            Err(error) => return Err(error),
        },
    };
    let known = engine.known().await?;
    let of = |netns: &Netns| {
        let there = known.endpoints.iter().filter(|(_, own)| own.as_ref() == Some(netns));
        there.map(|(endpoint, _)| endpoint.clone()).collect::<Vec<_>>()
    };
    let source = match from {
        Some(from) => Source { endpoints: of(&from.netns), name: from.name, netns: from.netns },
        None => Source { name: "host".to_owned(), netns: known.host.clone(), endpoints: Vec::new() },
    };
    let destination = match to {
        To::Address(ip) => Destination::Address(ip),
        To::Running(name, netns) => Destination::Container { name, endpoints: of(&netns), runs: true },
        To::Ended(name, engine, id) => {
            let own = known.endpoints.iter().filter(|(e, _)| e.engine == engine && e.container_id == id);
            let endpoints = own.map(|(e, _)| e.clone()).collect();
            Destination::Container { name, endpoints, runs: false }
        }
    };
    let scene = Scene {
        host: known.host,
        source,
        destination,
        port: target.port,
        transport: target.transport,
        networks: known.networks,
        namespaces: known.endpoints.iter().filter_map(|(e, ns)| Some((e.id, ns.clone()?))).collect(),
        endpoints: known.endpoints.into_iter().map(|(endpoint, _)| endpoint).collect(),
        publications: known.publications.iter().flat_map(Publication::all_of).collect(),
    };
    aside(move || explain::explain(&scene)).await?
}

/// A destination that was found.
enum To {
    Address(IpAddr),
    Running(String, Netns),
    /// It has interfaces that wait for it.
    Ended(String, rnet_model::Engine, String),
}
