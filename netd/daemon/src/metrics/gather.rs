//! The page of metrics as it is when it is asked for.

use std::collections::BTreeMap;
use std::time::Instant;

use rnet_api::{ApiError, Flow, Publication, Stats, Status};
use rnet_dns::Queries;

use super::text::{Kind, Page};
use crate::engine::NetworkGauge;
use crate::server::Context;

/// All metrics as text.
///
/// # Errors
/// When the engine is stopping or the kernel cannot be read.
pub(crate) async fn gather(context: &Context) -> Result<String, ApiError> {
    let gauges = context.engine.gauges().await?;
    let stats = crate::stats::collect(&context.engine, &context.resolver).await?;
    let mut page = Page::default();
    process(&mut page, context.started);
    page.single("rnet_networks", Kind::Gauge, "Networks", gauges.networks.len());
    endpoints(&mut page, &gauges.endpoints);
    addresses(&mut page, &gauges.networks);
    page.family("rnet_ready_namespaces", Kind::Gauge, "Namespaces that are wired and wait for a container");
    for network in &gauges.networks {
        page.sample(&[("network", &network.name)], network.ready);
    }
    published(&mut page, &context.engine.publications().await?);
    queries(&mut page, context.engine.queries());
    page.single("rnet_captures", Kind::Gauge, "Captures that run", context.captures.running());
    page.single("rnet_filter_up", Kind::Gauge, "Whether packet filtering works", u8::from(gauges.filter_works));
    traffic(&mut page, &stats);
    page.append(&context.metrics.render());
    Ok(page.finish())
}

fn process(page: &mut Page, started: Instant) {
    page.family("rnet_build_info", Kind::Gauge, "Always 1");
    let kernel = crate::kernel_release();
    page.sample(&[("version", env!("CARGO_PKG_VERSION")), ("kernel", &kernel)], 1);
    let uptime = format!("{:.3}", started.elapsed().as_secs_f64());
    page.single("rnet_uptime_seconds", Kind::Gauge, "Seconds since netd started", uptime);
    if let Some(bytes) = resident() {
        page.single("rnet_resident_memory_bytes", Kind::Gauge, "Memory of netd that is in RAM", bytes);
    }
}

/// `VmRSS` of /proc/self/status (proc_pid_status(5)).
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn endpoints(page: &mut Page, all: &[(Option<String>, Status)]) {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (network, status) in all {
        let state = match status {
            Status::Ready => "ready",
            Status::Error { .. } => "error",
            _ => "pending",
        };
        *counts.entry((network.as_deref().unwrap_or_default(), state)).or_default() += 1;
    }
    page.family("rnet_endpoints", Kind::Gauge, "Interfaces of containers, by network (none for a bridge) and state");
    for ((network, state), count) in counts {
        page.sample(&[("network", network), ("state", state)], count);
    }
}

fn addresses(page: &mut Page, networks: &[NetworkGauge]) {
    page.family("rnet_addresses", Kind::Gauge, "Addresses of the networks' pools by state");
    for network in networks {
        for pool in &network.pools {
            let subnet = pool.subnet.to_string();
            for (state, count) in [("used", pool.live), ("reserved", pool.reserved), ("resting", pool.resting)] {
                page.sample(&[("network", &network.name), ("subnet", &subnet), ("state", state)], count);
            }
            page.sample(&[("network", &network.name), ("subnet", &subnet), ("state", "free")], pool.free);
        }
    }
}

fn published(page: &mut Page, all: &[Publication]) {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for publication in all {
        *counts.entry(publication.port.protocol.to_string()).or_default() += u64::from(publication.port.count);
    }
    page.family("rnet_published_ports", Kind::Gauge, "Ports of the host that lead to containers");
    for (protocol, count) in counts {
        page.sample(&[("protocol", &protocol)], count);
    }
}

fn queries(page: &mut Page, queries: Queries) {
    let help = "Queries of containers for names: answered by netd, asked of other servers, or no queries at all";
    page.family("rnet_dns_queries_total", Kind::Counter, help);
    for (outcome, count) in
        [("answered", queries.answered), ("forwarded", queries.forwarded), ("dropped", queries.dropped)]
    {
        page.sample(&[("outcome", outcome)], count);
    }
}

type Way = fn(&Stats) -> Vec<Option<Flow>>;

fn traffic(page: &mut Page, stats: &Stats) {
    type Of = fn(&Flow) -> u64;
    let ways: [(&str, &str, Way); 2] = [
        ("receive", "in", |s| s.endpoints.iter().map(|e| e.traffic.map(|t| t.received)).collect()),
        ("transmit", "out", |s| s.endpoints.iter().map(|e| e.traffic.map(|t| t.sent)).collect()),
    ];
    let numbers: [(&str, &str, Of); 4] = [
        ("bytes", "Bytes on the way", |f| f.bytes),
        ("packets", "Packets on the way", |f| f.packets),
        ("errors", "Bad packets on the way", |f| f.errors),
        ("drops", "Packets dropped on the way", |f| f.drops),
    ];
    for (way, verb, flows) in ways {
        let flows = flows(stats);
        for (unit, noun, number) in numbers {
            let name = format!("rnet_endpoint_{way}_{unit}_total");
            page.family(&name, Kind::Counter, &format!("{noun} {verb}, as the container sees it"));
            for (endpoint, flow) in stats.endpoints.iter().zip(&flows) {
                let Some(flow) = flow else { continue };
                let engine = endpoint.engine.to_string();
                let labels = [
                    ("network", endpoint.network.as_ref().map_or("", |n| n.as_str())),
                    ("engine", &engine),
                    ("container", endpoint.container.as_str()),
                    ("ifname", endpoint.ifname.as_str()),
                ];
                page.sample(&labels, number(flow));
            }
        }
    }
}
