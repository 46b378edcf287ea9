//! Namespaces that netd keeps for containers: what the runtime asks for.

use std::net::IpAddr;

use rnet_api::{ConnectRequest, Endpoint, OnNetwork, Sandbox, SandboxRequest};
use rnet_kernel::Netns;
use rnet_model::NetworkName;
use rnet_netns_harness::{Host, Output, SOON, Start, World, run, run_in, wait_for};

fn host_with_network(world: &World) -> Host {
    let host = world.host("h1");
    host.forwarding_may_stay();
    host.start();
    host.rnet("network create blue --subnet 10.9.0.0/24").ok();
    host
}

fn create(host: &Host, id: &str, networks: &[&str]) -> Sandbox {
    let request = SandboxRequest {
        container_id: id.parse().unwrap(),
        container_name: format!("name-{id}").parse().unwrap(),
        networks: networks.iter().map(|n| n.parse().unwrap()).collect(),
    };
    host.client().create_sandbox(&request).unwrap()
}

fn connect(host: &Host, id: &str, networks: &[&str]) -> Vec<Endpoint> {
    let request = ConnectRequest { networks: networks.iter().map(|n| on(n)).collect(), ..ConnectRequest::default() };
    host.client().connect_sandbox(&id.parse().unwrap(), &request).unwrap()
}

fn on(network: &str) -> OnNetwork {
    network.parse::<NetworkName>().unwrap().into()
}

fn with_ips(ips: Vec<IpAddr>) -> ConnectRequest {
    let mut blue = on("blue");
    blue.options.ips = ips;
    ConnectRequest { networks: vec![blue], ..ConnectRequest::default() }
}

fn release(host: &Host, id: &str, forget: bool) {
    host.client().release_sandbox(&id.parse().unwrap(), forget).unwrap();
}

fn inside(sandbox: &Sandbox, words: &str) -> Output {
    let mut words = words.split(' ');
    let netns = Netns::open(&sandbox.netns).unwrap();
    run_in(&netns, std::process::Command::new(words.next().unwrap()).args(words))
}

#[test]
fn a_sandbox_is_wired_and_leaves_nothing() {
    run(|world| {
        let host = host_with_network(world);
        let before = host.snapshot();
        // The first one is made cold, the next ones come from the pool, which is refilled between them.
        for n in 0..6 {
            let id = format!("box{n}");
            let sandbox = create(&host, &id, &["blue"]);
            assert_eq!(create(&host, &id, &["blue"]).id, sandbox.id, "asking again gives the same one");
            let endpoints = connect(&host, &id, &["blue"]);
            assert_eq!(endpoints.len(), 1);
            assert_eq!(endpoints[0].ifname.as_str(), "eth0");
            inside(&sandbox, "ping -c 1 -W 2 10.9.0.1").ok();
            let route = inside(&sandbox, "ip route show default").ok().out;
            assert!(route.starts_with("default via 10.9.0.1 dev eth0"), "{route}");
            assert_eq!(inside(&sandbox, "ip -4 -o address show scope global").ok().out.lines().count(), 1);
        }
        assert_eq!(host.client().sandboxes().unwrap().len(), 6);
        (0..6).for_each(|n| release(&host, &format!("box{n}"), true));
        assert!(host.client().sandboxes().unwrap().is_empty());
        // Ready ones wait for the next containers; without the daemon there are none.
        host.stop();
        before.same(&host.snapshot(), "after all were released");
    });
}

#[test]
fn a_container_keeps_its_address_over_its_next_start() {
    run(|world| {
        let host = host_with_network(world);
        create(&host, "one", &["blue"]);
        let first = connect(&host, "one", &["blue"])[0].addresses.clone();
        create(&host, "two", &["blue"]);
        let other = connect(&host, "two", &["blue"])[0].addresses.clone();
        assert_ne!(first, other);
        release(&host, "one", false);
        release(&host, "two", false);
        host.stop();
        host.start();
        create(&host, "three", &["blue"]);
        let third = connect(&host, "three", &["blue"])[0].addresses.clone();
        assert!(third != first && third != other, "kept addresses are given to nobody else");
        create(&host, "two", &["blue"]);
        assert_eq!(connect(&host, "two", &["blue"])[0].addresses, other);
        create(&host, "one", &["blue"]);
        assert_eq!(connect(&host, "one", &["blue"])[0].addresses, first);
        ["one", "two", "three"].iter().for_each(|id| release(&host, id, true));
        let held = host.client().allocations().unwrap();
        assert!(held.iter().all(|a| a.state != "reserved" || a.owner == "a ready namespace"), "{held:?}");
    });
}

#[test]
fn a_persistent_attachment_comes_back_with_the_container() {
    run(|world| {
        let host = host_with_network(world);
        create(&host, "one", &["blue"]);
        connect(&host, "one", &["blue"]);
        let reply = host.rnet_json("attach br0 rnet:name-one 192.168.115.10/24");
        release(&host, "one", false);
        assert_eq!(host.rnet_json("attachments ls")[0]["status"]["state"], "pending");
        let sandbox = create(&host, "one", &["blue"]);
        let endpoints = connect(&host, "one", &["blue"]);
        let back = endpoints.iter().find(|e| e.ifname.as_str() == "eth1").unwrap();
        assert_eq!(back.mac.unwrap().to_string(), reply["endpoint"]["mac"]);
        assert!(inside(&sandbox, "ip -o address show eth1").ok().out.contains("192.168.115.10/24"));
        release(&host, "one", true);
        assert!(host.client().attachments().unwrap().is_empty());
    });
}

#[test]
fn a_connect_that_fails_leaves_the_sandbox_as_it_was() {
    run(|world| {
        let host = host_with_network(world);
        host.rnet("network create green --subnet 10.8.0.0/30").ok();
        host.container("last");
        host.rnet("network connect green last").ok();
        let sandbox = create(&host, "one", &["blue"]);
        let request = ConnectRequest { networks: vec![on("blue"), on("green")], ..ConnectRequest::default() };
        let error = host.client().connect_sandbox(&"one".parse().unwrap(), &request).unwrap_err();
        assert!(error.chain().contains("green"), "{}", error.chain());
        wait_for("the first network to be taken back", SOON, || {
            inside(&sandbox, "ip -o link").ok().out.lines().count() == 1
        });
        assert_eq!(host.client().attachments().unwrap().len(), 1);
        connect(&host, "one", &["blue"]);
        assert!(
            host.client().connect_sandbox(&"ghost".parse().unwrap(), &request).unwrap_err().chain().contains("ghost")
        );
        let nowhere = SandboxRequest {
            container_id: "two".parse().unwrap(),
            container_name: "two".parse().unwrap(),
            networks: vec!["nowhere".parse().unwrap()],
        };
        assert!(host.client().create_sandbox(&nowhere).unwrap_err().chain().contains("nowhere"));
        assert_eq!(host.client().sandboxes().unwrap().len(), 1);
    });
}

#[test]
fn sandboxes_survive_a_crash_and_ready_ones_do_not_pile_up() {
    run(|world| {
        let host = host_with_network(world);
        let one = create(&host, "one", &["blue"]);
        let was = connect(&host, "one", &["blue"]);
        let files = || std::fs::read_dir(host.root.join("run/netns")).unwrap().count();
        wait_for("ready ones to be made", SOON, || files() > 1);
        for _ in 0..3 {
            host.crash();
            inside(&one, "ping -c 1 -W 2 10.9.0.1").ok();
            host.start();
            wait_for("what was ready before to be gone", SOON, || files() <= 1 + 4);
            assert_eq!(host.client().attachments().unwrap(), was);
            inside(&one, "ping -c 1 -W 2 10.9.0.1").ok();
        }
        // Killed while a ready one gets its address.
        for point in ["attach.inside", "attach.inside.done", "attach.commit", "attach.commit.done"] {
            host.stop();
            host.start_with(&Start { fail_point: Some(point.to_owned()), ..Start::default() });
            let request = SandboxRequest {
                container_id: "late".parse().unwrap(),
                container_name: "late".parse().unwrap(),
                networks: vec!["blue".parse().unwrap()],
            };
            let _ = host.client().create_sandbox(&request);
            let networks = ConnectRequest { networks: vec![on("blue")], ..ConnectRequest::default() };
            let connected = host.client().connect_sandbox(&"late".parse().unwrap(), &networks);
            assert!(connected.is_err() && host.ended_by() == Some(9), "{point}");
            host.start();
            let sandbox = create(&host, "late", &["blue"]);
            let endpoints = connect(&host, "late", &["blue"]);
            assert_eq!(endpoints.len(), 1, "{point}");
            let addresses = inside(&sandbox, "ip -4 -o address show scope global").ok().out;
            assert_eq!(addresses.lines().count(), 1, "{point}: {addresses}");
            inside(&sandbox, "ping -c 1 -W 2 10.9.0.1").ok();
            release(&host, "late", true);
        }
    });
}

/// The host ends of ready interfaces: those that are no endpoint's.
fn ready_ports(host: &Host, bridge: &str) -> Vec<String> {
    let known: Vec<String> =
        host.client().attachments().unwrap().iter().map(|e| e.host_ifname.clone().unwrap().to_string()).collect();
    let all = host.ip(&format!("-o link show master {bridge}"));
    let names = all.lines().filter_map(|l| l.split(": ").nth(1)?.split('@').next());
    names.filter(|n| !known.iter().any(|k| k == n)).map(str::to_owned).collect()
}

fn blue(host: &Host) -> String {
    host.client().network("blue").unwrap().spec.bridge.unwrap().to_string()
}

#[test]
fn a_ready_interface_that_somebody_spoiled_is_given_to_nobody() {
    run(|world| {
        let host = host_with_network(world);
        let bridge = blue(&host);
        create(&host, "one", &["blue"]);
        connect(&host, "one", &["blue"]);
        for (n, words) in ["link del PORT", "link set PORT nomaster", "link set PORT down"].into_iter().enumerate() {
            wait_for("ready ones", SOON, || ready_ports(&host, &bridge).len() >= 4);
            // One that waits in the pool, and one whose container has it but is not connected.
            let taken = format!("taken{n}");
            let sandbox = create(&host, &taken, &["blue"]);
            let spoiled = ready_ports(&host, &bridge);
            for port in &spoiled {
                host.run(&format!("ip {}", words.replace("PORT", port)));
            }
            wait_for("others to be made", SOON, || {
                spoiled.iter().all(|p| !host.has_link(p)) && ready_ports(&host, &bridge).len() >= 4
            });
            let late = format!("late{n}");
            let other = create(&host, &late, &["blue"]);
            for (id, sandbox) in [(&taken, &sandbox), (&late, &other)] {
                let endpoints = connect(&host, id, &["blue"]);
                assert_eq!(endpoints.len(), 1);
                assert_eq!(endpoints[0].ifname.as_str(), "eth0", "{words}");
                wait_for("the gateway to answer", SOON, || inside(sandbox, "ping -c 1 -W 1 10.9.0.1").code == 0);
                assert_eq!(inside(sandbox, "ip -4 -o address show scope global").ok().out.lines().count(), 1);
            }
            release(&host, &taken, true);
            release(&host, &late, true);
        }
    });
}

#[test]
fn a_full_pool_serves_every_address_and_gives_each_back_to_its_container() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/29 --subnet fd09::/125").ok();
        let ids = ["one", "two", "three", "four", "five"];
        let mut given = std::collections::BTreeMap::new();
        for id in ids {
            create(&host, id, &["blue"]);
            given.insert(id, connect(&host, id, &["blue"])[0].addresses.clone());
        }
        let all: std::collections::BTreeSet<_> = given.values().flatten().map(ToString::to_string).collect();
        assert_eq!(all.len(), 10, "{all:?}");
        // All of them start again at once; each gets what it had, in whatever order.
        ids.iter().for_each(|id| release(&host, id, false));
        ids.iter().rev().for_each(|id| drop(create(&host, id, &["blue"])));
        for id in ["three", "one", "five", "two", "four"] {
            assert_eq!(connect(&host, id, &["blue"])[0].addresses, given[id], "{id}");
        }
        // One that is about to get its own back does not keep the last free one from somebody else.
        release(&host, "one", false);
        release(&host, "two", true);
        let wanted = given["two"].iter().map(|a| a.ip()).collect::<Vec<_>>();
        create(&host, "one", &["blue"]);
        create(&host, "six", &["blue"]);
        let request = with_ips(wanted);
        let six = host.client().connect_sandbox(&"six".parse().unwrap(), &request).unwrap();
        assert_eq!(six[0].addresses, given["two"]);
        assert_eq!(connect(&host, "one", &["blue"])[0].addresses, given["one"]);
    });
}

#[test]
fn an_address_that_a_ready_interface_has_is_given_to_who_asks_for_it() {
    run(|world| {
        let host = host_with_network(world);
        let bridge = blue(&host);
        create(&host, "one", &["blue"]);
        connect(&host, "one", &["blue"]);
        wait_for("ready ones", SOON, || ready_ports(&host, &bridge).len() >= 4);
        let held = host.client().allocations().unwrap();
        let ready: Vec<_> = held.iter().filter(|a| a.owner == "a ready namespace").map(|a| a.address).collect();
        // The first one goes to a container that has not been connected yet.
        let two = create(&host, "two", &["blue"]);
        for (id, address) in [("three", ready[0]), ("four", *ready.last().unwrap())] {
            let sandbox = create(&host, id, &["blue"]);
            let request = with_ips(vec![address]);
            let endpoints = host.client().connect_sandbox(&id.parse().unwrap(), &request).unwrap();
            assert_eq!(endpoints[0].addresses[0].ip(), address);
            let answered = host.run(&format!("arping -D -c 1 -w 1 -I {bridge} {address}")).code;
            assert!(answered < 2, "arping cannot run");
            wait_for("the gateway to answer", SOON, || inside(&sandbox, "ping -c 1 -W 1 10.9.0.1").code == 0);
        }
        let other = connect(&host, "two", &["blue"]);
        assert!(!ready[..1].contains(&other[0].addresses[0].ip()));
        inside(&two, "ping -c 1 -W 2 10.9.0.1").ok();
        let all = host.client().attachments().unwrap();
        let distinct: std::collections::BTreeSet<_> = all.iter().flat_map(|e| &e.addresses).map(|a| a.ip()).collect();
        assert_eq!(distinct.len(), 4);
    });
}

#[test]
fn what_was_kept_for_one_who_let_it_go_is_not_his_after_a_crash() {
    run(|world| {
        let host = world.host("h1");
        host.forwarding_may_stay();
        host.config("rest_seconds = 0\npool_size = 0\n");
        host.start();
        host.rnet("network create blue --subnet 10.9.0.0/30").ok();
        host.container("web");
        let restart = |host: &Host| {
            host.crash();
            host.start();
        };
        for let_go in ["network disconnect blue rnet:one", "forgotten"] {
            create(&host, "one", &["blue"]);
            connect(&host, "one", &["blue"]);
            release(&host, "one", false);
            create(&host, "one", &["blue"]);
            connect(&host, "one", &["blue"]);
            match let_go {
                "forgotten" => release(&host, "one", true),
                words => drop(host.rnet(words).ok()),
            }
            // What comes to the store afterwards has not come to it yet, or has: both are right.
            host.rnet("network connect blue web").ok();
            restart(&host);
            create(&host, "one", &["blue"]);
            let request = ConnectRequest { networks: vec![on("blue")], ..ConnectRequest::default() };
            let refused = host.client().connect_sandbox(&"one".parse().unwrap(), &request);
            assert!(refused.is_err(), "{let_go}: two have the same address: {refused:?}");
            assert!(!host.log().contains("cannot claim an address again"), "{let_go}");
            host.rnet("network disconnect blue web").ok();
            release(&host, "one", true);
        }
    });
}

#[test]
fn a_dry_run_leaves_ready_interfaces_as_they_are() {
    run(|world| {
        let host = host_with_network(world);
        let bridge = blue(&host);
        create(&host, "one", &["blue"]);
        connect(&host, "one", &["blue"]);
        wait_for("ready ones", SOON, || ready_ports(&host, &bridge).len() >= 4);
        host.container("web");
        let held = host.rnet_json("network allocations");
        let is_ready = |a: &&serde_json::Value| a["owner"] == "a ready namespace";
        let ready = held.as_array().unwrap().iter().find(is_ready).unwrap()["address"].as_str().unwrap().to_owned();
        let ports = ready_ports(&host, &bridge);
        let words = format!("attach {bridge} web {ready}/24");
        assert_eq!(host.rnet_json(&format!("{words} --dry-run"))["outcome"], "planned");
        assert_eq!(ready_ports(&host, &bridge), ports);
        assert_eq!(host.rnet_json("network allocations"), held);
        assert_eq!(host.rnet_json(&words)["outcome"], "created");
    });
}

#[test]
fn a_start_that_fails_does_not_cost_a_container_its_address() {
    run(|world| {
        let host = host_with_network(world);
        host.rnet("network create green --subnet 10.8.0.0/30").ok();
        host.container("last");
        host.rnet("network connect green last").ok();
        create(&host, "one", &["blue"]);
        let was = connect(&host, "one", &["blue"])[0].addresses.clone();
        release(&host, "one", false);
        create(&host, "one", &["blue", "green"]);
        let request = ConnectRequest { networks: vec![on("blue"), on("green")], ..ConnectRequest::default() };
        host.client().connect_sandbox(&"one".parse().unwrap(), &request).unwrap_err();
        release(&host, "one", false);
        let held = host.client().allocations().unwrap();
        let kept = held.iter().find(|a| a.address == was[0].ip()).map(|a| a.state.as_str());
        assert_eq!(kept, Some("reserved"), "{held:?}");
        // A removed container's address rests like any other that was in use.
        create(&host, "two", &["blue"]);
        let two = connect(&host, "two", &["blue"])[0].addresses.clone();
        release(&host, "two", true);
        let held = host.client().allocations().unwrap();
        assert!(held.iter().any(|a| a.address == two[0].ip() && a.state == "resting"), "{held:?}");
    });
}
