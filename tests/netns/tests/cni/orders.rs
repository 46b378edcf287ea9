//! Plugins of both in one chain, and nodes that are switched over while containers run.

use std::path::{Path, PathBuf};

use rnet_netns_harness::{Container, Host, SOON, World, path_text, run_or_skip, wait_for};
use serde_json::{Value, json};

use super::differ::files;
use super::driver::{Attachment, Chain, Node, REFERENCE, lacks_reference, mixed};
use super::meta::{asked, serve};

fn bridge(world: &World) -> Value {
    json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": {
            "type": "host-local", "dataDir": path_text(&world.dir().join("leases")),
            "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    })
}

fn node<'a>(host: &'a Host, plugins: &'a Path, container: &Container) -> Node<'a> {
    Node { host: &host.netns, plugins, attachment: Attachment::of(container) }
}

fn leases(world: &World) -> Vec<String> {
    let files = files(&world.dir().join("leases/net1"));
    files.into_keys().filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
}

/// A chain in which these are ours: two containers that reach each other, checked, and nothing left of them.
#[track_caller]
fn works(ours: &[&str], more: Value) {
    run_or_skip(lacks_reference, |world| {
        let host = world.host("node");
        let plugins = mixed(world, ours);
        let mut list = vec![bridge(world)];
        list.extend(more.as_array().unwrap().clone());
        let chain = Chain::new("1.0.0", "net1", json!(list));
        let before = host.run("nft list ruleset").ok().out;
        let containers = ["c1", "c2"].map(|name| host.container(name));
        let results = [0, 1].map(|i| chain.add(&node(&host, &plugins, &containers[i])).ok());
        for (container, result) in containers.iter().zip(&results) {
            assert_eq!(result["ips"].as_array().unwrap().len(), 2, "{result}");
            chain.check(&node(&host, &plugins, container), result).ok();
        }
        containers[0].ping("10.88.0.1");
        containers[0].ping("10.88.0.3");
        containers[0].ping("fd88::3");
        assert_eq!(leases(world), ["10.88.0.2", "10.88.0.3", "fd88::2", "fd88::3"]);
        for (container, result) in containers.iter().zip(&results) {
            chain.del(&node(&host, &plugins, container), Some(result)).ok();
            chain.del(&node(&host, &plugins, container), Some(result)).ok();
        }
        assert!(leases(world).is_empty());
        assert!(!host.ip("link").contains("veth"), "a pair is left");
        let foreign_chains = ours.iter().all(|name| *name == "bridge" || *name == "host-local");
        if more.as_array().unwrap().is_empty() || !foreign_chains {
            assert!(!host.run("nft list ruleset").ok().out.contains("rnet_cni"), "rules of ours are left");
        }
        if more.as_array().unwrap().is_empty() {
            assert_eq!(host.run("nft list ruleset").ok().out, before);
        }
    });
}

#[test]
fn their_bridge_with_our_host_local() {
    works(&["host-local"], json!([]));
}

#[test]
fn our_bridge_with_their_host_local() {
    works(&["bridge"], json!([]));
}

#[test]
fn our_bridge_with_their_tuning() {
    works(&["bridge", "host-local"], json!([{"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "mtu": 1400}]));
}

#[test]
fn our_bridge_with_their_firewall() {
    works(&["bridge", "host-local"], json!([{"type": "firewall", "backend": "iptables"}]));
}

/// ADD by one, everything else by the other. Not with published ports and masquerading: the reference has them in chains
/// of iptables, ours in a table of nf_tables, and neither removes rules it does not know.
#[track_caller]
fn switched_over(first: fn(&World) -> PathBuf, then: fn(&World) -> PathBuf) {
    run_or_skip(lacks_reference, |world| {
        let host = world.host("node");
        let (first, then) = (first(world), then(world));
        let chain = Chain::new("1.0.0", "net1", json!([bridge(world)]));
        let old = ["c1", "c2"].map(|name| host.container(name));
        let results = [0, 1].map(|i| chain.add(&node(&host, &first, &old[i])).ok());
        for (container, result) in old.iter().zip(&results) {
            chain.check(&node(&host, &then, container), result).ok();
        }
        // A new one beside them: no address is given twice, and all reach each other.
        let new = host.container("c3");
        let result = chain.add(&node(&host, &then, &new)).ok();
        assert_eq!(leases(world).len(), 6);
        for address in ["10.88.0.1", "10.88.0.2", "10.88.0.3", "fd88::2", "fd88::3"] {
            new.ping(address);
        }
        chain.del(&node(&host, &then, &old[0]), Some(&results[0])).ok();
        assert!(!old[0].ip("link").contains("eth0"));
        assert_eq!(leases(world), ["10.88.0.3", "10.88.0.4", "fd88::3", "fd88::4"]);
        // And back.
        chain.check(&node(&host, &first, &new), &result).ok();
        chain.del(&node(&host, &first, &new), Some(&result)).ok();
        chain.del(&node(&host, &then, &old[1]), Some(&results[1])).ok();
        assert!(leases(world).is_empty());
        assert!(!host.ip("link").contains("veth"), "a pair is left");
    });
}

#[test]
fn a_node_of_the_reference_goes_on_with_ours() {
    switched_over(|_| REFERENCE.into(), World::cni_plugins);
}

#[test]
fn a_node_of_ours_goes_on_with_the_reference() {
    switched_over(World::cni_plugins, |_| REFERENCE.into());
}

/// A port published by ours on a container of their bridge, or by theirs on one of ours.
#[track_caller]
fn publishes(ours: &[&str]) {
    run_or_skip(lacks_reference, |world| {
        let host = world.host("node");
        world.plug(&host, "up0", &["192.0.2.1/24"]);
        let peer = world.peer("out", &["192.0.2.2/24"]);
        let plugins = mixed(world, ours);
        let mut bridge = bridge(world);
        bridge["ipam"]["ranges"] = json!([[{"subnet": "10.88.0.0/24"}]]);
        bridge["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}]);
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let chain = Chain::new("1.0.0", "net1", json!([bridge, portmap]));
        let chain =
            chain.capability("portMappings", json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]));
        let container = host.container("c1");
        serve(&container, 80);
        let result = chain.add(&node(&host, &plugins, &container)).ok();
        let reached = || asked(&peer.netns, "tcp", "192.0.2.1:8080");
        wait_for("a published port to answer", SOON, || reached() == "c1");
        assert_eq!(asked(&host.netns, "tcp", "127.0.0.1:8080"), "c1");
        // CHECK of the reference does not find the rules it made itself, behind its own bridge neither.
        if ours.contains(&"portmap") {
            chain.check(&node(&host, &plugins, &container), &result).ok();
        }
        chain.del(&node(&host, &plugins, &container), Some(&result)).ok();
        assert_eq!(reached(), "");
        assert!(!host.run("nft list ruleset").ok().out.contains("10.88.0.2"), "rules are left");
    });
}

#[test]
fn their_bridge_with_our_portmap() {
    publishes(&["portmap"]);
}

#[test]
fn our_bridge_with_their_portmap() {
    publishes(&["bridge", "host-local"]);
}

#[test]
fn their_bridge_with_our_firewall_and_tuning() {
    works(&["firewall", "tuning"], json!([{"type": "firewall"}, {"type": "tuning", "mtu": 1400}]));
}
