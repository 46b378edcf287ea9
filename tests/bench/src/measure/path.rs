//! S14: the data path from container to container.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rnet_kernel::{AddressGeneration, LinkOp, Links as _, Netns, NewBridge, NewVeth, Route, Snooping};
use rnet_model::{IfAddr, IfName, MacAddr};

use super::{Finding, or_why, rnet};
use crate::bed::{Bed, Container, Daemon, run};
use crate::peers::docker::{Docker, IMAGE};

const TURNS: usize = 9;
const LENGTH: Duration = Duration::from_millis(400);
const CHUNK: usize = 128 * 1024;
const MTU: u32 = 1500;

/// Two namespaces that reach each other.
struct Pair {
    from: Netns,
    to: Netns,
    at: IpAddr,
}

/// Bytes a second over one TCP connection: medians of several turns, all ways in each turn.
pub(crate) fn throughput(bed: &Bed, docker: &anyhow::Result<Docker>) -> anyhow::Result<Finding> {
    let daemon = Daemon::start(bed, "s14", "")?;
    let containers = bed.namespaces("path", 2)?;
    let ours = over_ours(bed, &daemon, &containers)?;
    let hosts = bed.namespaces("hand", 3)?;
    let by_hand = by_hand(&hosts)?;
    let theirs = docker.as_ref().map_err(|e| anyhow::anyhow!("{e:#}")).and_then(over_docker);
    let (mut rates, mut hand, mut peer) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        rates.push(send(&ours)?);
        hand.push(send(&by_hand)?);
        if let Ok(pair) = &theirs {
            peer.push(send(pair)?);
        }
    }
    if let Ok(docker) = docker {
        let _ = docker.timed(&["rm", "-f", "path0", "path1"]);
    }
    let (rate, hand) = (median(rates), median(hand));
    let share = rate / hand;
    Ok(Finding {
        id: "S14",
        measured: format!("{}, {:.1} % of the one made by hand", gigabits(rate), share * 100.0),
        peers: format!(
            "by hand {}; {}",
            gigabits(hand),
            or_why(theirs.map(|_| format!("docker0 {}", gigabits(median(peer)))))
        ),
        met: share >= 0.98,
    })
}

fn over_ours(bed: &Bed, daemon: &Daemon, containers: &[Container]) -> anyhow::Result<Pair> {
    run(&mut rnet(bed, daemon, &["network", "create", "path", "--subnet", "10.43.0.0/24"]))?;
    for (container, address) in containers.iter().zip(["10.43.0.2", "10.43.0.3"]) {
        let reference = format!("netns:{}", container.path.display());
        run(&mut rnet(bed, daemon, &["network", "connect", "path", &reference, "--ip", address]))?;
    }
    let [from, to] = containers else { anyhow::bail!("two containers are needed") };
    Ok(Pair { from: from.netns.clone(), to: to.netns.clone(), at: "10.43.0.3".parse()? })
}

/// A bridge and two veths in a namespace without any rules.
fn by_hand(hosts: &[Container]) -> anyhow::Result<Pair> {
    let [host, from, to] = hosts else { anyhow::bail!("three namespaces are needed") };
    let bridge: IfName = "brhand".parse()?;
    let new = NewBridge {
        name: bridge.clone(),
        alias: "hand".into(),
        mtu: Some(MTU),
        mac: None,
        vlan_filtering: false,
        ipv6: AddressGeneration::Off,
        snooping: Snooping::Off,
    };
    apply(&host.netns, &[LinkOp::NewBridge(new)])?;
    for (n, (end, address)) in [(from, "10.43.0.2/24"), (to, "10.43.0.3/24")].into_iter().enumerate() {
        let wire = Wire { name: format!("hand{n}"), master: Some(bridge.clone()), number: n };
        wire.lay(&host.netns, &end.netns, "eth0", address)?;
    }
    Ok(Pair { from: from.netns.clone(), to: to.netns.clone(), at: "10.43.0.3".parse()? })
}

fn over_docker(docker: &Docker) -> anyhow::Result<Pair> {
    let container = |name: &str| {
        docker.timed(&["run", "-d", "--name", name, IMAGE, "/bin/busybox", "sleep", "600"])?;
        let words = ["inspect", "-f", "{{.State.Pid}} {{.NetworkSettings.IPAddress}}", name];
        let said = run(docker.cli().args(words))?;
        let (pid, address) = said.trim().split_once(' ').context("no process and address")?;
        anyhow::Ok((Netns::of_process(pid.parse()?)?, address.parse::<IpAddr>()?))
    };
    let ((from, _), (to, at)) = (container("path0")?, container("path1")?);
    Ok(Pair { from, to, at })
}

/// A veth pair that is to be made.
struct Wire {
    name: String,
    master: Option<IfName>,
    /// Makes the peer's hardware address.
    number: usize,
}

impl Wire {
    /// From `host` to `end`, whose interface gets the address; both up, and `lo` of `end` too.
    fn lay(&self, host: &Netns, end: &Netns, ifname: &str, address: &str) -> anyhow::Result<()> {
        let (peer, address): (IfName, IfAddr) = (ifname.parse()?, address.parse()?);
        let veth = NewVeth {
            name: self.name.parse()?,
            alias: "hand".into(),
            master: self.master.clone(),
            mtu: MTU,
            peer: peer.clone(),
            mac: None,
            ipv6: AddressGeneration::Off,
            peer_mac: MacAddr::local(u64::try_from(self.number)?),
            netns: Some(end.clone()),
        };
        apply(host, &[LinkOp::NewVeth(veth)])?;
        apply(end, &[LinkOp::Up("lo".parse()?), LinkOp::Up(peer.clone()), LinkOp::AddAddress(peer, address)])
    }
}

/// A veth pair with an address at both ends.
pub(crate) fn join(
    one: &Netns,
    name: &str,
    address: &str,
    other: &Netns,
    ifname: &str,
    theirs: &str,
) -> anyhow::Result<()> {
    Wire { name: name.into(), master: None, number: 0x77 }.lay(one, other, ifname, theirs)?;
    apply(one, &[LinkOp::Up(name.parse()?), LinkOp::AddAddress(name.parse()?, address.parse()?)])
}

fn apply(netns: &Netns, ops: &[LinkOp]) -> anyhow::Result<()> {
    match Route::open(netns)?.batch(ops)?.into_iter().next() {
        Some(fault) => Err(fault.error.into()),
        None => Ok(()),
    }
}

/// Bytes a second that arrive.
fn send(pair: &Pair) -> anyhow::Result<f64> {
    let listener = pair.to.run(|| TcpListener::bind((pair.at, 0)))??;
    let at: SocketAddr = listener.local_addr()?;
    let sender = pair.from.run(|| TcpStream::connect(at))??;
    let (receiver, _) = listener.accept()?;
    let sending = std::thread::spawn(move || {
        let (mut sender, chunk) = (sender, vec![0; CHUNK]);
        // Ends when the receiver has seen enough.
        while sender.write_all(&chunk).is_ok() {}
    });
    let mut receiver = receiver;
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0_u64;
    let begun = Instant::now();
    while begun.elapsed() < LENGTH {
        bytes += u64::try_from(receiver.read(&mut buffer)?)?;
    }
    let took = begun.elapsed();
    drop(receiver);
    sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(bytes as f64 / took.as_secs_f64())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

fn gigabits(bytes: f64) -> String {
    format!("{:.1} Gbit/s", bytes * 8.0 / 1e9)
}
