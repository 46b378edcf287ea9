//! S3: CNI plugins as executables, the reference's and ours, one by one, as the usual chain, and with 500 containers.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Finding, or_why};
use crate::bed::{Bed, Container, Daemon, run};
use crate::peers::cni::{Of, Plugins};
use crate::stats::{Samples, Short, ratio};

/// Calls of each kind.
const ROUNDS: usize = 20;
/// Containers at the same time.
const MANY: usize = 500;

/// What one set of plugins took.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) add: Samples,
    pub(super) del: Samples,
}

/// Times of a set beside the reference's, and how many times faster it has to be.
struct Case {
    name: &'static str,
    list: fn(&Path, u8) -> Vec<Value>,
    add: f64,
    del: f64,
}

fn host_local(data: &Path, second: u8) -> Value {
    json!({
        "type": "host-local", "dataDir": data,
        "ranges": [[{"subnet": format!("10.{second}.0.0/16")}]], "routes": [{"dst": "0.0.0.0/0"}],
    })
}

fn bridge(data: &Path, second: u8, masquerade: bool) -> Value {
    json!({
        "type": "bridge", "bridge": format!("cni{second}"), "isGateway": true, "ipMasq": masquerade,
        "ipam": host_local(data, second),
    })
}

const CASES: [Case; 3] = [
    Case { name: "bridge + host-local", list: |d, n| vec![bridge(d, n, false)], add: 3.0, del: 1.0 },
    Case { name: "with masquerade", list: |d, n| vec![bridge(d, n, true)], add: 8.0, del: 3.0 },
    Case { name: "with portmap and firewall", list: |d, n| chain(d, n), add: 15.0, del: 8.0 },
];

/// The usual chain. Each container publishes a port of its own, which `publish` fills in.
fn chain(data: &Path, second: u8) -> Vec<Value> {
    let port = json!([{"hostPort": 0, "containerPort": 80, "protocol": "tcp"}]);
    vec![
        bridge(data, second, true),
        json!({"type": "portmap", "runtimeConfig": {"portMappings": port}}),
        json!({"type": "firewall"}),
    ]
}

fn publish(list: &mut [Value], n: usize) {
    for plugin in list.iter_mut().filter(|p| p["type"] == "portmap") {
        plugin["runtimeConfig"]["portMappings"][0]["hostPort"] = json!(20_000 + n);
    }
}

/// The other plugins, one by one.
fn single(data: &Path, n: u8) -> Vec<(&'static str, Vec<Value>)> {
    let ipam = || host_local(data, n);
    let behind = |plugin: Value| vec![bridge(data, n, false), plugin];
    vec![
        ("macvlan", vec![json!({"type": "macvlan", "master": "bench0", "ipam": ipam()})]),
        ("ptp", vec![json!({"type": "ptp", "ipam": ipam()})]),
        ("loopback", vec![json!({"type": "loopback"})]),
        ("tap", vec![json!({"type": "tap", "ipam": ipam()})]),
        ("tuning", behind(json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "mtu": 1400}))),
        (
            "bandwidth",
            behind(json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000,
            "egressRate": 8_000_000, "egressBurst": 800_000})),
        ),
        ("sbr", behind(json!({"type": "sbr"}))),
    ]
}

fn times(plugins: &Plugins, containers: &[Container], list: &[Value]) -> anyhow::Result<Times> {
    let mut times = Times::default();
    let mut live = Vec::new();
    for (n, container) in containers.iter().enumerate() {
        let mut list = list.to_vec();
        publish(&mut list, n);
        let (took, result) = plugins.add(Of { container, list: &list })?;
        times.add.push(took);
        live.push((container, list, result));
    }
    for (container, list, result) in live {
        times.del.push(plugins.del(Of { container, list: &list }, &result)?);
    }
    Ok(times)
}

/// Every figure of S3.
pub(crate) fn executables(bed: &Bed) -> anyhow::Result<Finding> {
    let ours = Plugins::ours(bed, None)?;
    let theirs = Plugins::reference();
    let mut measured = Vec::new();
    let mut peers = Vec::new();
    let mut met = theirs.is_ok();
    run(std::process::Command::new("ip").args(["link", "add", "bench0", "up", "type", "veth", "peer", "bench1"]))?;
    for (n, case) in (1u8..).zip(&CASES) {
        let mine = times(&ours, &bed.namespaces("so", ROUNDS)?, &(case.list)(&bed.dir("cni-ours")?, n))?;
        let other = beside(bed, &theirs, &(case.list)(&bed.dir("cni-theirs")?, n + 100));
        let (add, del) = (mine.add.median(), mine.del.median());
        let mut text = format!("{} ADD {}, DEL {}", case.name, Short(add), Short(del));
        if let Ok(other) = &other {
            let (a, d) = (ratio(other.add.median(), add), ratio(other.del.median(), del));
            met &= a >= case.add && d >= case.del;
            text += &format!(" ({a:.1}x, {d:.1}x)");
        }
        measured.push(text);
        peers
            .push(or_why(other.map(|o| format!("{} {}, {}", case.name, Short(o.add.median()), Short(o.del.median())))));
    }
    let netd = through_netd(bed)?;
    met &= netd.add.median() <= Duration::from_millis(2) && netd.del.median() <= Duration::from_millis(2);
    measured.push(format!("type rnet ADD {}, DEL {}", Short(netd.add.median()), Short(netd.del.median())));
    let (flat, text) = many(bed, &ours)?;
    met &= flat;
    measured.push(text);
    let mine = full_pool(bed, &ours, "full-ours")?;
    measured.push(format!("host-local at 60,000 ADD {}, DEL {}", Short(mine.add.median()), Short(mine.del.median())));
    let other = theirs.as_ref().map_err(|e| anyhow::anyhow!("{e:#}")).and_then(|t| full_pool(bed, t, "full-theirs"));
    peers.push(or_why(
        other.map(|o| format!("host-local at 60,000 {}, {}", Short(o.add.median()), Short(o.del.median()))),
    ));
    for (name, list) in single(&bed.dir("cni-ours")?, 60) {
        let mine = times(&ours, &bed.namespaces("si", ROUNDS)?, &list)?;
        measured.push(format!("{name} {}, {}", Short(mine.add.median()), Short(mine.del.median())));
    }
    for (name, list) in single(&bed.dir("cni-theirs")?, 160) {
        let other = beside(bed, &theirs, &list);
        peers.push(or_why(other.map(|o| format!("{name} {}, {}", Short(o.add.median()), Short(o.del.median())))));
    }
    run(std::process::Command::new("ip").args(["link", "del", "bench0"]))?;
    let size = std::fs::metadata(bed.binary("rnet-cni"))?.len();
    met &= size <= 4 << 20;
    measured.push(format!("the executable has {} KiB", size >> 10));
    Ok(Finding {
        id: "S3",
        measured: measured.join("; "),
        peers: format!("reference plugins: {}", peers.join("; ")),
        met,
    })
}

/// The reference's bridge with host-local addresses.
pub(super) fn reference_bridge(bed: &Bed) -> anyhow::Result<Times> {
    beside(bed, &Plugins::reference(), &[bridge(&bed.dir("cni-alone")?, 70, false)])
}

fn beside(bed: &Bed, theirs: &anyhow::Result<Plugins>, list: &[Value]) -> anyhow::Result<Times> {
    let theirs = theirs.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
    times(theirs, &bed.namespaces("st", ROUNDS)?, list)
}

/// The container is handed to netd.
fn through_netd(bed: &Bed) -> anyhow::Result<Times> {
    let daemon = Daemon::start(bed, "s3", "")?;
    run(&mut super::rnet(bed, &daemon, &["network", "create", "blue", "--subnet", "10.90.0.0/16"]))?;
    let plugins = Plugins::ours(bed, Some(daemon.root()))?;
    times(&plugins, &bed.namespaces("sn", ROUNDS)?, &[json!({"type": "rnet", "network": "blue"})])
}

/// host-local as an executable with 60,000 of 65,533 addresses in use.
fn full_pool(bed: &Bed, plugins: &Plugins, name: &str) -> anyhow::Result<Times> {
    const USED: u32 = 60_000;
    let data = bed.dir(name)?;
    let folder = data.join("bench");
    std::fs::create_dir_all(&folder)?;
    let first = u32::from(std::net::Ipv4Addr::new(10, 80, 0, 2));
    for n in 0..USED {
        let address = std::net::Ipv4Addr::from(first + n);
        std::fs::write(folder.join(address.to_string()), format!("used{n}\r\neth0"))?;
    }
    let last = std::net::Ipv4Addr::from(first + USED - 1);
    std::fs::write(folder.join("last_reserved_ip.0"), last.to_string())?;
    let list = [json!({"type": "host-local", "ipam": host_local(&data, 80)})];
    // What was there before is read once.
    times(plugins, &bed.namespaces("sw", 1)?, &list)?;
    times(plugins, &bed.namespaces("sf", 8)?, &list)
}

/// The usual chain from the first to the last of many containers: whether it stays as fast.
fn many(bed: &Bed, ours: &Plugins) -> anyhow::Result<(bool, String)> {
    const EDGE: usize = 20;
    let all = times(ours, &bed.namespaces("sm", MANY)?, &chain(&bed.dir("cni-ours")?, 50))?;
    let edges = |s: &Samples| (s.first(EDGE).median(), s.last(EDGE).median());
    let ((add, add_last), (del, del_last)) = (edges(&all.add), edges(&all.del));
    // The kernel's own part of an attach grows with the ports of a bridge (S8): half as much again is allowed.
    let flat = ratio(add_last, add) <= 1.5 && ratio(del_last, del) <= 1.5;
    let text = format!(
        "the chain at 500 containers: ADD {} -> {}, DEL {} -> {}",
        Short(add),
        Short(add_last),
        Short(del),
        Short(del_last)
    );
    Ok((flat, text))
}
