//! Traffic of the containers' interfaces: what the host's ends have counted, read beside the engine's thread.

use std::time::Duration;

use rnet_api::{ApiError, Endpoint, EndpointStats, Flow, Stats, Status, Traffic};
use rnet_kernel::{Counters, Netns, Route};
use rnet_model::{ContainerRef, Engine, IfName, Kind};

use crate::engine::Handle;
use crate::resolve::Resolver;

/// An interface without an end on the host, and where it is.
struct Inside {
    place: usize,
    netns: Netns,
}

/// All interfaces with their counters, from one dump of the host's devices.
///
/// # Errors
/// When the engine is stopping or the kernel cannot be read.
pub(crate) async fn collect(engine: &Handle, resolver: &Resolver) -> Result<Stats, ApiError> {
    let endpoints = engine.endpoints().await?;
    let mut inside = Vec::new();
    for (place, endpoint) in endpoints.iter().enumerate() {
        if endpoint.host_ifname.is_some() || endpoint.status != Status::Ready {
            continue;
        }
        // A container that just ended has no traffic any more.
        if let Some(reference) = reference(endpoint)
            && let Ok(target) = resolver.resolve(&reference, None).await
        {
            inside.push(Inside { place, netns: target.netns });
        }
    }
    let host = engine.host().clone();
    tokio::task::spawn_blocking(move || read(&host, endpoints, &inside))
        .await
        .map_err(|e| ApiError::new(Kind::Bug, "reading counters ended early").because(&e))?
}

/// The container of an endpoint, by what names it for certain.
fn reference(endpoint: &Endpoint) -> Option<ContainerRef> {
    match endpoint.engine {
        Engine::Netns => Some(ContainerRef::NetnsPath(endpoint.container_id.clone().into())),
        Engine::Pid => endpoint.container_id.parse().ok().map(ContainerRef::Pid),
        engine => endpoint.container_id.parse().ok().map(|id| ContainerRef::Of(engine, id)),
    }
}

fn read(host: &Netns, endpoints: Vec<Endpoint>, inside: &[Inside]) -> Result<Stats, ApiError> {
    let fail = |e| {
        let error: rnet_kernel::KernelError = e;
        ApiError::new(error.kind(), "cannot read the counters of the interfaces").because(&error)
    };
    let (places, names): (Vec<usize>, Vec<IfName>) =
        endpoints.iter().enumerate().filter_map(|(n, e)| Some((n, e.host_ifname.clone()?))).unzip();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let time = jiff::Timestamp::now();
    let mut traffic = vec![None; endpoints.len()];
    if !names.is_empty() {
        let counted = Route::open(host).map_err(fail)?.counters(&names).map_err(fail)?;
        for (place, counters) in places.into_iter().zip(counted) {
            traffic[place] = counters.map(|c| turned(own(&c)));
        }
    }
    for Inside { place, netns } in inside {
        let names = [endpoints[*place].ifname.clone()];
        // The namespace may end at any time.
        let counted = Route::open(netns).and_then(|mut route| route.counters(&names));
        traffic[*place] = counted.ok().and_then(|c| c.first().copied().flatten()).map(|c| own(&c));
    }
    Ok(Stats {
        time: time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        clock_ms: milliseconds(now),
        endpoints: endpoints.into_iter().zip(traffic).map(|(e, t)| shown(e, t)).collect(),
    })
}

fn milliseconds(now: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or_default();
    u64::try_from(Duration::new(seconds, nanoseconds).as_millis()).unwrap_or(u64::MAX)
}

/// As the device itself sees it.
fn own(c: &Counters) -> Traffic {
    Traffic {
        received: Flow { bytes: c.rx_bytes, packets: c.rx_packets, errors: c.rx_errors, drops: c.rx_dropped },
        sent: Flow { bytes: c.tx_bytes, packets: c.tx_packets, errors: c.tx_errors, drops: c.tx_dropped },
    }
}

/// As the other end of a pair sees it: what the host received, the container sent.
fn turned(t: Traffic) -> Traffic {
    Traffic { received: t.sent, sent: t.received }
}

fn shown(e: Endpoint, traffic: Option<Traffic>) -> EndpointStats {
    EndpointStats {
        id: e.id,
        engine: e.engine,
        container_id: e.container_id,
        container: e.container,
        network: e.network,
        bridge: e.bridge,
        ifname: e.ifname,
        traffic,
    }
}
