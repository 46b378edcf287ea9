//! The `ip` commands that pipework runs for one attach to a Linux bridge, without its shell around them.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::bed::{Container, run};

/// Whether the new address is announced, which `arping -c1` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announce {
    Yes,
    No,
}

fn ip(words: &str) -> anyhow::Result<String> {
    run(Command::new("ip").args(words.split_whitespace()))
}

/// Makes a bridge as a host has it before.
pub(crate) fn bridge(name: &str) -> anyhow::Result<()> {
    ip(&format!("link add {name} type bridge"))?;
    ip(&format!("link set {name} up")).map(drop)
}

/// Attaches `container` to `bridge`, and says how long it took.
pub(crate) fn attach(
    bridge: &str,
    number: usize,
    container: &Container,
    address: &str,
    gateway: &str,
    announce: Announce,
) -> anyhow::Result<Duration> {
    let (host, guest, name) = (format!("v1pl{number}"), format!("v1pg{number}"), &container.name);
    let bare = address.split('/').next().unwrap_or(address);
    let begun = Instant::now();
    ip(&format!("link show {bridge}"))?;
    ip(&format!("link add name {host} mtu 1500 type veth peer name {guest} mtu 1500"))?;
    ip(&format!("link set {host} master {bridge}"))?;
    ip(&format!("link set {host} up"))?;
    ip(&format!("link set {guest} netns {name}"))?;
    ip(&format!("netns exec {name} ip link set {guest} name eth1"))?;
    ip(&format!("netns exec {name} ip addr add {address} brd + dev eth1"))?;
    ip(&format!("netns exec {name} ip link set eth1 up"))?;
    ip(&format!("netns exec {name} ip route get {gateway}"))?;
    ip(&format!("netns exec {name} ip route replace default via {gateway} dev eth1"))?;
    if announce == Announce::Yes {
        // As there: nobody need answer an announcement, so how arping ends says nothing.
        let _ = ip(&format!("netns exec {name} arping -c 1 -A -I eth1 {bare}"));
    }
    Ok(begun.elapsed())
}

/// Removes what [`attach`] made, and says how long it took.
pub(crate) fn detach(number: usize) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    ip(&format!("link del v1pl{number}"))?;
    Ok(begun.elapsed())
}
