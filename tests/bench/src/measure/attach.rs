//! S1 and S2: one attach, seen from inside netd and as a command.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use super::{Finding, address, attach_request, or_why, ports, rnet};
use crate::bed::{Bed, Daemon, timed};
use crate::http::{Connection, Request};
use crate::peers::ip::Announce;
use crate::peers::{floor, ip};
use crate::stats::{Samples, Short, ratio};

const ROUNDS: usize = 200;
const COMMANDS: usize = 40;
/// With its announcement an attach of the peer takes more than a second.
const ANNOUNCED: usize = 3;

/// The time inside netd, next to the same netlink messages with nothing around them.
pub(crate) fn inside_netd(bed: &Bed) -> anyhow::Result<Finding> {
    let floor = floor::measure(&bed.namespaces("floor", ROUNDS)?)?;
    let daemon = Daemon::start(bed, "s1", super::scale::POOLED)?;
    let mut netd = Connection::open(&daemon.socket())?;
    let containers = bed.namespaces("cold", ROUNDS)?;
    let mut cold = Samples::default();
    for (n, container) in containers.iter().enumerate() {
        cold.push(netd.send(&attach_request("br-cold", container, &address(11, n))?)?.engine);
    }
    let (mut connect, mut both) = (Samples::default(), Samples::default());
    super::scale::warm_up(&mut netd, "s1", "10.40.0.0/16")?;
    for n in 0..ROUNDS {
        let id = format!("warm{n}");
        let sandbox = json!({ "container_id": id, "container_name": id, "networks": ["s1"] });
        let made = netd.send(&Request::post("/v1/sandboxes", &sandbox)?)?.engine;
        let path = format!("/v1/sandboxes/{id}/connect");
        let connected = netd.send(&Request::post(path, &json!({ "networks": [{ "network": "s1" }] }))?)?.engine;
        connect.push(connected);
        both.push(made + connected);
        netd.send(&Request::delete(format!("/v1/sandboxes/{id}?forget=true")))?;
    }
    let met = connect.median() <= Duration::from_micros(50) && cold.median() <= Duration::from_millis(1);
    Ok(Finding {
        id: "S1",
        measured: format!("ready {connect}, with taking the namespace {}; cold {cold}", Short(both.median())),
        peers: format!("raw netlink: ready {}, cold {}", Short(floor.warm.median()), floor.cold),
        met,
    })
}

/// The wall time of the command, next to the `ip` commands of pipework and to the reference plugin.
pub(crate) fn as_command(bed: &Bed) -> anyhow::Result<Finding> {
    let daemon = Daemon::start(bed, "s2", "")?;
    let ours = bed.namespaces("ours", COMMANDS)?;
    let theirs = bed.namespaces("pipe", COMMANDS + ANNOUNCED)?;
    ip::bridge("brpipe")?;
    let (mut rnet_took, mut plain, mut announced) = (Samples::default(), Samples::default(), Samples::default());
    for (n, (container, other)) in ours.iter().zip(&theirs).enumerate() {
        let words = [
            "attach",
            "br-s2",
            &format!("netns:{}", container.path.display()),
            &format!("{}@10.12.255.1", address(12, n)),
        ];
        rnet_took.push(timed(&mut rnet(bed, &daemon, &words))?);
        plain.push(ip::attach("brpipe", n, other, &address(13, n), "10.13.255.1", Announce::No)?);
    }
    for (n, other) in theirs.iter().enumerate().skip(COMMANDS) {
        announced.push(ip::attach("brpipe", n, other, &address(13, n), "10.13.255.1", Announce::Yes)?);
    }
    ensure!(ports("br-s2")? == COMMANDS, "the attaches did not take place");
    for n in 0..COMMANDS + ANNOUNCED {
        ip::detach(n)?;
    }
    let reference = reference(bed);
    let times = ratio(announced.median(), rnet_took.median());
    Ok(Finding {
        id: "S2",
        measured: format!(
            "{rnet_took}; {times:.0}x, without the announcement {:.1}x",
            ratio(plain.median(), rnet_took.median())
        ),
        peers: format!(
            "ip commands with arping {}, without {}; reference bridge plugin ADD {}",
            Short(announced.median()),
            Short(plain.median()),
            or_why(reference)
        ),
        met: rnet_took.median() <= Duration::from_millis(3) && times >= 20.0,
    })
}

fn reference(bed: &Bed) -> anyhow::Result<Short> {
    Ok(Short(super::cni::reference_bridge(bed)?.add.median()))
}

/// How long detaching takes the others, per interface.
pub(crate) fn detach_peers(bed: &Bed) -> anyhow::Result<String> {
    const COUNT: usize = 20;
    let containers = bed.namespaces("del", COUNT)?;
    ip::bridge("brdel")?;
    for (n, container) in containers.iter().enumerate() {
        ip::attach("brdel", n, container, &address(14, n), "10.14.255.1", Announce::No)?;
    }
    let begun = Instant::now();
    let single: Samples = (0..COUNT).map(ip::detach).collect::<anyhow::Result<_>>()?;
    let each = begun.elapsed() / u32::try_from(COUNT)?;
    let reference = super::cni::reference_bridge(bed).map(|times| Short(times.del.median()));
    Ok(format!(
        "ip link del {} each ({} in a row); reference bridge plugin DEL {}",
        Short(single.median()),
        Short(each),
        or_why(reference)
    ))
}
