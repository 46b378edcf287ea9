//! S6, S7, S13: what published ports cost to make, and to use.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nftables::batch::Batch;
use nftables::expr::{Expression, NamedExpression, Payload, PayloadField};
use nftables::schema::{Chain, NfListObject, Rule, Table};
use nftables::stmt::{Match, NAT, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use rnet_kernel::{Netns, ProcSys, Sysctls as _};
use serde_json::json;

use super::path::join;
use super::{Finding, or_why, rnet};
use crate::bed::{Bed, Container, Daemon, run, timed};
use crate::http::{Connection, Request};
use crate::peers::docker::{Docker, IMAGE};
use crate::stats::{Samples, Short, ratio};

const FIVE_HUNDRED: &str = "20000-20499:20000-20499";
const START_ROUNDS: usize = 10;
const DOCKER_START_ROUNDS: usize = 2;
/// 50,000 mappings on ten containers.
const HOLDERS: usize = 10;
const EACH: usize = 5_000;
const FIRST_PORT: usize = 10_000;
/// The port whose connections are measured, and the one that comes and goes.
const SERVICE: u16 = 8080;
const EXTRA: u16 = 8081;
const PUBLISH_ROUNDS: usize = 60;
const CONNECTIONS: usize = 4_000;
const TURNS: usize = 3;
/// Rules of the table made by hand that has one for each port.
const LINEAR: usize = 10_000;

/// S6: wall time of starting a container with 500 published ports.
pub(crate) fn five_hundred(bed: &Bed, docker: &anyhow::Result<Docker>) -> anyhow::Result<Finding> {
    let daemon = Daemon::start(bed, "s6", "")?;
    let rootfs = bed.rootfs()?.display().to_string();
    let container = "busy";
    let start = |ports: &[&str]| {
        let fixed = ["--rootfs", &rootfs, "/bin/busybox", "sleep", "600"];
        let words = [&["run", "-d", "--name", container], ports, &fixed].concat();
        let took = timed(&mut rnet(bed, &daemon, &words));
        run(&mut rnet(bed, &daemon, &["rm", "-f", container]))?;
        took
    };
    // The first makes the network.
    start(&[])?;
    let with: Samples =
        (0..START_ROUNDS).map(|_| start(&["-p", FIVE_HUNDRED])).collect::<anyhow::Result<_>>().context("rnet run")?;
    let without: Samples = (0..START_ROUNDS).map(|_| start(&[])).collect::<anyhow::Result<_>>()?;
    let theirs = docker.as_ref().map_err(|e| anyhow::anyhow!("{e:#}")).and_then(|docker| {
        let start = |ports: &[&str]| {
            let words = [&["run", "-d", "--name", container], ports, &[IMAGE, "/bin/busybox", "sleep", "600"]].concat();
            let took = docker.timed(&words);
            docker.timed(&["rm", "-f", container])?;
            took
        };
        let with: Samples =
            (0..DOCKER_START_ROUNDS).map(|_| start(&["-p", FIVE_HUNDRED])).collect::<anyhow::Result<_>>()?;
        Ok((with.median(), start(&[])?))
    });
    let times = theirs.as_ref().ok().map(|(there, _)| ratio(*there, with.median()));
    let faster = times.map(|t| format!("; {t:.0}x")).unwrap_or_default();
    Ok(Finding {
        id: "S6",
        measured: format!("{with}; without ports {}{faster}", Short(without.median())),
        peers: or_why(theirs.map(|(w, wo)| format!("docker run -d {}, without ports {}", Short(w), Short(wo)))),
        met: with.median() <= Duration::from_millis(60) && times.is_none_or(|t| t >= 150.0),
    })
}

/// A host with a service in a container, and a neighbour on its LAN.
struct Scene {
    daemon: Daemon,
    service: Container,
    neighbour: Container,
    holders: Vec<Container>,
}

/// The host's address on the LAN, and the neighbour's.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const LAN: [&str; 2] = ["192.0.2.1/24", "192.0.2.2/24"];

impl Scene {
    fn new(bed: &Bed) -> anyhow::Result<Self> {
        let daemon = Daemon::start(bed, "s7", "")?;
        let neighbour = bed.namespaces("lan", 1)?.remove(0);
        join(&Netns::current()?, "lan0", LAN[0], &neighbour.netns, "eth0", LAN[1])?;
        run(&mut rnet(bed, &daemon, &["network", "create", "ports", "--subnet", "10.41.0.0/16"]))?;
        let service = bed.namespaces("service", 1)?.remove(0);
        let holders = bed.namespaces("holder", HOLDERS)?;
        for container in holders.iter().chain([&service]) {
            run(&mut rnet(bed, &daemon, &["network", "connect", "ports", &reference(container)]))?;
        }
        Ok(Scene { daemon, service, neighbour, holders })
    }
}

fn reference(container: &Container) -> String {
    format!("netns:{}", container.path.display())
}

fn publish(container: &Container, spec: &str) -> anyhow::Result<Request> {
    Request::post("/v1/publish", &json!({ "container": reference(container), "ports": [spec] }))
}

fn unpublish(container: &Container, spec: &str) -> anyhow::Result<Request> {
    Request::post("/v1/unpublish", &json!({ "container": reference(container), "ports": [spec] }))
}

/// S7 and S13: one port beside 50,000, made and used.
pub(crate) fn fifty_thousand(bed: &Bed, docker: &anyhow::Result<Docker>) -> anyhow::Result<[Finding; 2]> {
    let scene = Scene::new(bed)?;
    // Opened anew each time: netd ends connections on which nothing is asked.
    let netd = || Connection::open(&scene.daemon.socket());
    let server = Server::start(&scene.service.netns, SERVICE)?;
    netd()?.send(&publish(&scene.service, &format!("{SERVICE}:{SERVICE}"))?)?;
    let at = SocketAddr::from((HOST, SERVICE));
    connections(&scene.neighbour.netns, at, 100)?;

    let first = one_port(&mut netd()?, &scene.service)?;
    let command_first = as_command(bed, &scene)?;
    let (mut few, mut many) = (Samples::default(), Samples::default());
    let mut filled = Samples::default();
    let mut beside = None;
    // In turns, so that a machine that gets slower makes both slower.
    for turn in 0..TURNS {
        few.extend(connections(&scene.neighbour.netns, at, CONNECTIONS)?);
        let mut filling = netd()?;
        for (request, _) in fill(&scene.holders)? {
            filled.push(filling.send(&request)?.wall);
        }
        many.extend(connections(&scene.neighbour.netns, at, CONNECTIONS)?);
        if turn == 0 {
            beside = Some((one_port(&mut netd()?, &scene.service)?, as_command(bed, &scene)?));
        }
        let mut emptying = netd()?;
        for (_, request) in fill(&scene.holders)? {
            emptying.send(&request)?;
        }
    }
    server.stop();
    let (beside, command) = beside.context("no turn was taken")?;
    let (slower, longer) = (ratio(beside.median(), first.median()), ratio(many.median(), few.median()));
    let s7 = Finding {
        id: "S7",
        measured: format!(
            "{beside} beside 50,000, the first {first}: {slower:.2}x; as a command {} and {}; 5,000 at once {}",
            Short(command.median()),
            Short(command_first.median()),
            Short(filled.median())
        ),
        peers: or_why(beside_500(docker)),
        met: command.median() <= Duration::from_millis(5) && slower <= 1.5,
    };
    let s13 = Finding {
        id: "S13",
        measured: format!("{many} at 50,000, {few} at one: {:+.1} %", (longer - 1.0) * 100.0),
        peers: or_why(linear(bed)),
        met: longer <= 1.05,
    };
    Ok([s7, s13])
}

/// Requests that publish and unpublish the 50,000.
fn fill(holders: &[Container]) -> anyhow::Result<Vec<(Request, Request)>> {
    let both = |(n, holder): (usize, &Container)| {
        let first = FIRST_PORT + n * EACH;
        let spec = format!("{first}-{last}:{first}-{last}", last = first + EACH - 1);
        Ok((publish(holder, &spec)?, unpublish(holder, &spec)?))
    };
    holders.iter().enumerate().map(both).collect()
}

/// Publishing one port, as seen by a client that is connected.
fn one_port(netd: &mut Connection, container: &Container) -> anyhow::Result<Samples> {
    let spec = format!("{EXTRA}:{EXTRA}");
    let (on, off) = (publish(container, &spec)?, unpublish(container, &spec)?);
    let round = |_| {
        let took = netd.send(&on)?.wall;
        netd.send(&off)?;
        anyhow::Ok(took)
    };
    (0..PUBLISH_ROUNDS).map(round).collect()
}

/// The same as a command.
fn as_command(bed: &Bed, scene: &Scene) -> anyhow::Result<Samples> {
    let (container, spec) = (reference(&scene.service), format!("{EXTRA}:{EXTRA}"));
    let round = |_| {
        let took = timed(&mut rnet(bed, &scene.daemon, &["publish", &container, &spec]))?;
        run(&mut rnet(bed, &scene.daemon, &["unpublish", &container, &spec]))?;
        anyhow::Ok(took)
    };
    (0..PUBLISH_ROUNDS / 3).map(round).collect()
}

/// What Docker takes for a container with one port: alone, and beside 500 mappings.
fn beside_500(docker: &anyhow::Result<Docker>) -> anyhow::Result<String> {
    let docker = docker.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
    let program = [IMAGE, "/bin/busybox", "sleep", "600"];
    let one = || {
        let words = [&["run", "-d", "--name", "one", "-p", "8081:8081"][..], &program].concat();
        let took = docker.timed(&words);
        docker.timed(&["rm", "-f", "one"])?;
        took
    };
    let alone: Samples = (0..3).map(|_| one()).collect::<anyhow::Result<_>>()?;
    docker.timed(&[&["run", "-d", "--name", "busy", "-p", FIVE_HUNDRED][..], &program].concat())?;
    let beside: anyhow::Result<Samples> = (0..3).map(|_| one()).collect();
    docker.timed(&["rm", "-f", "busy"])?;
    Ok(format!("docker run -d with one port {}, beside 500 {}", Short(alone.median()), Short(beside?.median())))
}

/// A rule for each port instead of one for all: the way of iptables, in a table made by hand.
fn linear(bed: &Bed) -> anyhow::Result<String> {
    let [host, neighbour, service]: [Container; 3] =
        bed.namespaces("linear", 3)?.try_into().map_err(|_| anyhow::anyhow!("three were asked for"))?;
    join(&host.netns, "lan0", LAN[0], &neighbour.netns, "eth0", LAN[1])?;
    join(&host.netns, "in0", "10.42.0.1/24", &service.netns, "eth0", "10.42.0.2/24")?;
    let gateway = ["route", "add", "default", "via", "10.42.0.1"];
    service.netns.run(|| run(Command::new("ip").args(gateway)))??;
    ProcSys::new(&host.netns).set("net/ipv4/ip_forward", "1")?;
    let server = Server::start(&service.netns, SERVICE)?;
    let at = SocketAddr::from((HOST, SERVICE));
    let mut medians = Vec::new();
    for rules in [1, LINEAR] {
        one_rule_each(&host.netns, rules)?;
        connections(&neighbour.netns, at, 100)?;
        medians.push(Samples::from_iter(connections(&neighbour.netns, at, CONNECTIONS / 2)?).median());
    }
    server.stop();
    let [one, many] = medians[..] else { anyhow::bail!("two were measured") };
    Ok(format!(
        "a rule for each port, by hand: {} at one, {} at 10,000: {:.1}x",
        Short(one),
        Short(many),
        ratio(many, one)
    ))
}

/// Makes the table: a chain of `rules` rules, of which the last fits.
fn one_rule_each(netns: &Netns, rules: usize) -> anyhow::Result<()> {
    let table = Table { family: NfFamily::IP, name: "linear".into(), handle: None };
    let chain = Chain {
        family: NfFamily::IP,
        table: "linear".into(),
        name: "pre".into(),
        _type: Some(NfChainType::NAT),
        hook: Some(NfHook::Prerouting),
        prio: Some(-100),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    };
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(table.clone()));
    batch.delete(NfListObject::Table(table.clone()));
    batch.add(NfListObject::Table(table));
    batch.add(NfListObject::Chain(chain));
    for port in (1..rules).map(|n| FIRST_PORT + n).chain([usize::from(SERVICE)]) {
        let dport = PayloadField { protocol: "tcp".into(), field: "dport".into() };
        let is_port = Match {
            left: Expression::Named(NamedExpression::Payload(Payload::PayloadField(dport))),
            right: Expression::Number(u32::try_from(port)?),
            op: Operator::EQ,
        };
        let to = NAT { addr: Some(Expression::String("10.42.0.2".into())), family: None, port: None, flags: None };
        batch.add(NfListObject::Rule(Rule {
            family: NfFamily::IP,
            table: "linear".into(),
            chain: "pre".into(),
            expr: vec![Statement::Match(is_port), Statement::DNAT(Some(to))].into(),
            ..Rule::default()
        }));
    }
    let ruleset = batch.to_nftables();
    netns.run(|| nftables::helper::apply_ruleset(&ruleset))?.context("nft cannot make the table")
}

/// How long `count` connections take to be there, one after the other.
fn connections(from: &Netns, to: SocketAddr, count: usize) -> anyhow::Result<Vec<Duration>> {
    from.run(|| {
        let mut samples = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            let stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
            samples.push(begun.elapsed());
            // A reset: no port of the client's is used up.
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        Ok(samples)
    })?
}

/// Accepts and forgets.
struct Server {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
    at: SocketAddr,
    netns: Netns,
}

impl Server {
    fn start(netns: &Netns, port: u16) -> anyhow::Result<Self> {
        let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                drop(stream);
                if flag.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Ok(Server { stop, thread, at: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), netns: netns.clone() })
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // One more wakes it.
        let woken = self.netns.run(|| TcpStream::connect_timeout(&self.at, Duration::from_secs(1)));
        if matches!(woken, Ok(Ok(_))) {
            let _ = self.thread.join();
        }
    }
}
