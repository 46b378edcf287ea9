//! S8, S10, S11, S15 and R2: many endpoints.

use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::sys::signal::Signal;
use rnet_kernel::{LinkKind, Links as _, Netns, Route};
use serde_json::json;

use super::flows::Flows;
use super::{Finding, address, attach, attach_request, or_why, ports};
use crate::bed::{Bed, Daemon, resident, wait_for};
use crate::http::{Connection, Request, burst};
use crate::peers::docker::Docker;
use crate::peers::floor;
use crate::peers::netavark::Netavark;
use crate::stats::{Samples, Short, ratio};

const MANY: usize = 1000;
const SAMPLE: usize = 50;
const BURST: usize = 300;
const CONNECTIONS: usize = 8;
const LIMIT: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(1);
const MIB: f64 = 1024.0 * 1024.0;

/// A pool that holds a whole burst.
pub(crate) const POOLED: &str = "pool_size = 300\n";

/// Makes a network and waits until its pool of ready namespaces is full.
pub(crate) fn warm_up(netd: &mut Connection, name: &str, subnet: &str) -> anyhow::Result<()> {
    let bridge = format!("br-{name}");
    netd.send(&Request::post("/v1/networks", &json!({ "name": name, "subnets": [subnet], "bridge": bridge }))?)?;
    let first = json!({ "container_id": "first", "container_name": "first", "networks": [name] });
    netd.send(&Request::post("/v1/sandboxes", &first)?)?;
    netd.send(&Request::delete("/v1/sandboxes/first?forget=true"))?;
    wait_for("a full pool", LIMIT, MOMENT, || {
        // While the pool fills, a dump may change under every attempt to read it.
        Ok(ports(&bridge).is_ok_and(|n| n >= BURST))
    })
}

/// S10: 300 attaches at once, from the pool and cold.
pub(crate) fn bursts(bed: &Bed) -> anyhow::Result<Finding> {
    let daemon = Daemon::start(bed, "s10", POOLED)?;
    let mut netd = Connection::open(&daemon.socket())?;
    warm_up(&mut netd, "s10", "10.43.0.0/16")?;
    let (mut take, mut connect) = (Vec::new(), Vec::new());
    for n in 0..BURST {
        let id = format!("burst{n}");
        let sandbox = json!({ "container_id": id, "container_name": id, "networks": ["s10"] });
        take.push(Request::post("/v1/sandboxes", &sandbox)?);
        connect.push(Request::post(
            format!("/v1/sandboxes/{id}/connect"),
            &json!({ "networks": [{ "network": "s10" }] }),
        )?);
    }
    let (taking, _) = burst(&daemon.socket(), CONNECTIONS, &take)?;
    let (connecting, _) = burst(&daemon.socket(), CONNECTIONS, &connect)?;
    for n in 0..BURST {
        netd.send(&Request::delete(format!("/v1/sandboxes/burst{n}?forget=true")))?;
    }
    drop(netd);
    drop(daemon);
    let daemon = Daemon::start(bed, "s10cold", "")?;
    let containers = bed.namespaces("burst", BURST)?;
    let requests: Vec<Request> = containers
        .iter()
        .enumerate()
        .map(|(n, c)| attach_request("br-burst", c, &address(41, n)))
        .collect::<anyhow::Result<_>>()?;
    let (cold, _) = burst(&daemon.socket(), CONNECTIONS, &requests)?;
    ensure!(ports("br-burst")? == BURST, "the attaches did not take place");
    let rate = 300.0 / cold.as_secs_f64();
    Ok(Finding {
        id: "S10",
        measured: format!(
            "ready: {} (taking the namespaces before: {}); cold: {}, {rate:.0}/s",
            Short(connecting),
            Short(taking),
            Short(cold)
        ),
        peers: String::new(),
        met: connecting <= Duration::from_millis(100) && rate >= 1500.0,
    })
}

/// S8, S11, S15 and R2 on one host with a thousand endpoints.
pub(crate) fn many(bed: &Bed, docker: &anyhow::Result<Docker>) -> anyhow::Result<Vec<Finding>> {
    let containers = bed.namespaces("many", MANY)?;
    let floor = floor::measure(&containers)?.cold;
    let (floor_first, floor_last) = (floor.first(SAMPLE).median(), floor.last(SAMPLE).median());
    let mut daemon = Daemon::start(bed, "many", "")?;
    let idle = resident(daemon.pid())?;
    let mut netd = Connection::open(&daemon.socket())?;
    let mut took = Vec::with_capacity(MANY);
    for (n, container) in containers.iter().enumerate() {
        took.push(netd.send(&attach_request("br-many", container, &address(42, n))?)?);
    }
    drop(netd);
    let full = resident(daemon.pid())?;
    let engine = |of: &[crate::http::Reply]| of.iter().map(|r| r.engine).collect::<Samples>();
    // The very first makes the bridge.
    let (first, last) = (engine(&took[1..=SAMPLE]), engine(&took[MANY - SAMPLE..]));
    let growth = ratio(last.median(), first.median());
    let s8 = Finding {
        id: "S8",
        measured: format!("{growth:.2}x: {} at first, {} at {MANY}", Short(first.median()), Short(last.median())),
        peers: format!(
            "raw netlink {:.2}x at {MANY}: {} to {}; {}",
            ratio(floor_last, floor_first),
            Short(floor_first),
            Short(floor_last),
            or_why(netavark_growth(bed))
        ),
        met: growth <= 1.5,
    };
    #[allow(clippy::cast_precision_loss, reason = "memory of a process is far below 2^52 bytes")]
    let mib = |bytes: u64| bytes as f64 / MIB;
    let theirs = docker.as_ref().map_err(|e| anyhow::anyhow!("{e:#}")).and_then(Docker::resident);
    let s15 = Finding {
        id: "S15",
        measured: format!("{:.1} MiB idle, {:.1} MiB at {MANY} endpoints", mib(idle), mib(full)),
        peers: or_why(theirs.map(|b| format!("dockerd and containerd {:.0} MiB with one container", mib(b)))),
        met: mib(idle) <= 10.0 && mib(full) <= 24.0,
    };
    let r2 = restarts(&mut daemon, &containers)?;
    let s11 = detaches(bed, &daemon, &containers)?;
    Ok(vec![s8, s11, s15, r2])
}

fn restarts(daemon: &mut Daemon, containers: &[crate::bed::Container]) -> anyhow::Result<Finding> {
    let [a, b, ..] = containers else { anyhow::bail!("no containers") };
    let at = "10.42.0.3:9000".parse()?;
    let flows = Flows::start(100, &a.netns, &b.netns, at)?;
    let mut took = Samples::default();
    for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM] {
        took.push(daemon.restart(signal)?);
    }
    let seen = flows.finish()?;
    ensure!(seen.sent > 100, "the flows did not run: {seen:?}, restarts {took}");
    ensure!(ports("br-many")? == MANY, "endpoints are missing after the restarts");
    Ok(Finding {
        id: "R2",
        measured: format!(
            "{} of {} packets lost over 5 restarts (2 by kill -9); {} from exec to the first answer with {MANY} endpoints",
            seen.lost,
            seen.sent,
            Short(took.median())
        ),
        peers: String::new(),
        met: seen.lost == 0 && took.median() <= Duration::from_millis(250),
    })
}

fn detaches(bed: &Bed, daemon: &Daemon, containers: &[crate::bed::Container]) -> anyhow::Result<Finding> {
    let mut netd = Connection::open(&daemon.socket())?;
    let mut requests = Vec::new();
    for container in containers {
        let reference = format!("netns:{}", container.path.display());
        requests.push(Request::post("/v1/detach", &json!({ "container": reference, "which": "all" }))?);
    }
    let begun = Instant::now();
    let mut answers = Samples::default();
    for request in &requests {
        answers.push(netd.send(request)?.wall);
    }
    wait_for("the last link to go", LIMIT, MOMENT, || Ok(host_ends()? == 0))?;
    let each = begun.elapsed() / u32::try_from(MANY)?;
    Ok(Finding {
        id: "S11",
        measured: format!("answer {answers}; {} each until the last link is gone", Short(each)),
        peers: or_why(attach::detach_peers(bed)),
        met: answers.median() <= Duration::from_micros(500) && each <= Duration::from_micros(600),
    })
}

/// Host ends of rnet's links that still exist.
fn host_ends() -> anyhow::Result<usize> {
    let links = Route::open(&Netns::current()?)?.links()?;
    Ok(links.iter().filter(|l| matches!(l.kind, LinkKind::Veth { .. }) && l.name.as_str().starts_with("rn")).count())
}

fn netavark_growth(bed: &Bed) -> anyhow::Result<String> {
    const COUNT: usize = 200;
    const EDGE: usize = 10;
    let peer = Netavark::find(bed)?;
    let containers = bed.namespaces("nvk", COUNT)?;
    let mut took = Vec::new();
    for (n, container) in containers.iter().enumerate() {
        took.push(peer.call("setup", n, container)?);
    }
    let (first, last): (Samples, Samples) =
        (took[1..=EDGE].iter().copied().collect(), took[COUNT - EDGE..].iter().copied().collect());
    for (n, container) in containers.iter().enumerate() {
        peer.call("teardown", n, container)?;
    }
    Ok(format!(
        "netavark {:.1}x at {COUNT}: {} to {}",
        ratio(last.median(), first.median()),
        Short(first.median()),
        Short(last.median())
    ))
}
