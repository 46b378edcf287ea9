//! What published ports do when their containers, their networks or netd come and go.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rnet_api::{ConnectRequest, OnNetwork, SandboxRequest};
use rnet_kernel::Netns;
use rnet_model::{NetworkName, NetworkSpec, Toggle};
use rnet_netns_harness::{Host, SOON, run, wait_for};

use super::stage::{Bed, Station as _, Web, echo, exchange};
use super::{HOST, listed};

/// What the host's connection tracking knows of UDP, one line a flow.
fn flows(host: &Host) -> BTreeSet<String> {
    let said = host.run("conntrack -L -p udp").out;
    // Without the number of seconds left.
    said.lines().map(|l| l.split_whitespace().filter(|w| w.contains('=')).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_udp_client_is_answered_by_the_new_address_at_once() {
    run(|world| {
        let bed = Bed::new(world);
        let web = Web::udp(&bed.web.netns, 53, "old");
        bed.host.rnet("publish web 53:53/udp").ok();
        let client = bed.peer.netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        let other = bed.web.netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        let to = |address: &str| format!("{address}:53").parse().unwrap();
        let _upstream = Web::udp(&bed.peer.netns, 53, "upstream");
        assert_eq!(exchange(&other, to("192.168.115.9")).unwrap(), "upstream");
        assert_eq!(exchange(&client, to(HOST)).unwrap(), "old");
        let unrelated = |host: &Host| {
            let all = flows(host);
            all.into_iter().filter(|l| l.contains("dst=192.168.115.9")).find(|l| l.starts_with("src=10.9.0.5"))
        };
        let before = unrelated(&bed.host).expect("a flow of the container to the outside");
        drop(web);
        bed.host.rnet("network disconnect blue web").ok();
        bed.host.rnet("network connect blue web --ip 10.9.0.77").ok();
        // Whoever ends its last interface ends its ports.
        assert!(listed(&bed).is_empty());
        bed.host.rnet("publish web 53:53/udp").ok();
        let _web = Web::udp(&bed.web.netns, 53, "new");
        assert_eq!(exchange(&client, to(HOST)).unwrap(), "new", "the first datagram of the flow that goes on");
        assert_eq!(unrelated(&bed.host), Some(before), "others keep their flows");
        bed.host.rnet("unpublish web --all").ok();
        assert!(exchange(&client, to(HOST)).is_err());
    });
}

#[test]
fn a_flow_that_was_refused_before_is_answered_once_the_port_is_published() {
    run(|world| {
        let bed = Bed::new(world);
        let _web = Web::udp(&bed.web.netns, 53, "web");
        let client = bed.peer.netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        let to = format!("{HOST}:53").parse().unwrap();
        assert!(exchange(&client, to).is_err());
        bed.host.rnet("publish web 53:53/udp").ok();
        assert_eq!(exchange(&client, to).unwrap(), "web");
    });
}

#[test]
fn ports_move_to_the_network_that_gets_the_default_route() {
    run(|world| {
        let bed = Bed::new(world);
        bed.host.rnet("network create green --subnet 10.8.0.0/24").ok();
        bed.host.rnet("network connect green web --ip 10.8.0.5").ok();
        let _web = Web::tcp(&bed.web.netns, 80, "web");
        bed.host.rnet("publish web 8080:80").ok();
        let targets = || listed(&bed)[0]["targets"].clone();
        assert_eq!(targets(), serde_json::json!(["10.9.0.5", "fd09::5"]));
        bed.host.rnet("network disconnect blue web").ok();
        assert_eq!(targets(), serde_json::json!(["10.8.0.5"]));
        // The interface on the other network goes a moment after the answer, and its routes with it.
        wait_for("the port to answer", SOON, || bed.peer.netns.ask(HOST, 8080).as_deref() == Ok("web"));
        assert_eq!(bed.host.netns.ask("::1", 8080).as_deref(), Ok("web"));
        bed.host.rnet("detach web --all").ok();
        assert!(listed(&bed).is_empty(), "without an interface there is nothing to publish");
    });
}

#[test]
fn a_restart_of_netd_loses_no_connection_and_no_packet() {
    run(|world| {
        let bed = Bed::new(world);
        let _web = Web::tcp(&bed.web.netns, 80, "web");
        bed.host.rnet("publish web 8080:80 8081:80 127.0.0.1:9090:80 5353:5353/udp").ok();
        let ports = listed(&bed);
        let mut streams: Vec<_> = (0..100).map(|n| bed.peer.netns.open(HOST, 8080 + n % 2)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (failed, asked) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let scanner = {
            let (netns, stop, failed, asked) = (bed.peer.netns.clone(), stop.clone(), failed.clone(), asked.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    if netns.ask(HOST, 8080).is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let sent = || bed.host.run("nstat -asz TcpRetransSegs").out;
        let retransmitted = sent();
        for crash in [false, true] {
            if crash {
                bed.host.crash();
            } else {
                bed.host.stop();
            }
            assert!(streams.iter_mut().all(|s| echo(s, 1)), "while netd is down");
            bed.host.start();
            assert!(streams.iter_mut().all(|s| echo(s, 2)), "after netd is back");
            assert_eq!(listed(&bed), ports);
            assert_eq!(bed.host.netns.ask("127.0.0.1", 9090).as_deref(), Ok("web"));
        }
        stop.store(true, Ordering::Relaxed);
        scanner.join().unwrap();
        assert!(asked.load(Ordering::Relaxed) > 0);
        assert_eq!(failed.load(Ordering::Relaxed), 0, "of {} new connections", asked.load(Ordering::Relaxed));
        assert_eq!(sent(), retransmitted);
    });
}

#[test]
fn who_flushes_the_ruleset_closes_no_port_for_long() {
    run(|world| {
        let bed = Bed::new(world);
        let _web = Web::tcp(&bed.web.netns, 80, "web");
        bed.host.rnet("publish web 8080:80").ok();
        bed.host.run("nft flush ruleset").ok();
        wait_for("the port to answer", SOON, || bed.peer.netns.ask(HOST, 8080).is_ok());
    });
}

fn sandbox(host: &Host, id: &str) -> Netns {
    let request = SandboxRequest {
        container_id: id.parse().unwrap(),
        container_name: format!("name-{id}").parse().unwrap(),
        networks: Vec::new(),
    };
    Netns::open(&host.client().create_sandbox(&request).unwrap().netns).unwrap()
}

fn on(network: &str) -> OnNetwork {
    network.parse::<NetworkName>().unwrap().into()
}

#[test]
fn a_container_publishes_from_its_start_to_its_end() {
    run(|world| {
        let bed = Bed::new(world);
        let host = &bed.host;
        let netns = sandbox(host, "one");
        let request = ConnectRequest {
            networks: vec![on("blue")],
            ports: vec!["8080:80".parse().unwrap()],
            expose: vec!["80".parse().unwrap(), "81".parse().unwrap()],
            publish_all: true,
            ..ConnectRequest::default()
        };
        let connect = |request: &ConnectRequest| host.client().connect_sandbox(&"one".parse().unwrap(), request);
        let first = connect(&request).unwrap()[0].addresses.clone();
        let web = Web::tcp(&netns, 80, "one");
        let ports: Vec<u64> = listed(&bed).iter().map(|p| p["port"]["host_port"].as_u64().unwrap()).collect();
        assert_eq!(ports, [8080, 49153], "what is exposed and published goes to no second port");
        assert_eq!(bed.peer.netns.ask(HOST, 8080).as_deref(), Ok("one"));
        drop(web);
        host.client().release_sandbox(&"one".parse().unwrap(), false).unwrap();
        assert!(listed(&bed).is_empty(), "the runtime gives them again");
        let netns = sandbox(host, "one");
        let _web = Web::tcp(&netns, 80, "again");
        host.rnet("publish web 81:80").ok();
        let taken =
            ConnectRequest { ports: vec!["82:80".parse().unwrap(), "81:80".parse().unwrap()], ..request.clone() };
        let error = connect(&taken).unwrap_err();
        assert!(error.chain().contains("published by container web"), "{}", error.chain());
        assert!(host.client().sandboxes().unwrap()[0].endpoints.is_empty(), "all or nothing");
        assert_eq!(listed(&bed).len(), 1);
        assert_eq!(connect(&request).unwrap()[0].addresses, first);
        // The host learns the new hardware address of the old address by its announcement, a moment after the answer.
        wait_for("the port to answer", SOON, || bed.peer.netns.ask(HOST, 8080).as_deref() == Ok("again"));
        host.client().release_sandbox(&"one".parse().unwrap(), true).unwrap();
        assert!(bed.peer.netns.ask(HOST, 8080).is_err());
    });
}

#[test]
fn links_open_exposed_ports_and_follow() {
    run(|world| {
        let bed = Bed::new(world);
        let spec = NetworkSpec {
            icc: Toggle::Off,
            subnets: vec!["10.3.0.0/24".parse().unwrap()],
            ..NetworkSpec::new("shy".parse().unwrap())
        };
        bed.host.client().create_network(&spec).unwrap();
        let start = |id: &str, expose: &[&str], links: &[&str]| {
            let netns = sandbox(&bed.host, id);
            let request = ConnectRequest {
                networks: vec![on("shy")],
                expose: expose.iter().map(|e| e.parse().unwrap()).collect(),
                links: links.iter().map(|l| l.parse().unwrap()).collect(),
                ..ConnectRequest::default()
            };
            let reply = bed.host.client().connect_sandbox(&id.parse().unwrap(), &request).unwrap();
            (netns, reply[0].addresses[0].ip().to_string())
        };
        let (db, address) = start("db", &["80"], &[]);
        let (app, _) = start("app", &[], &["name-db"]);
        let (stranger, _) = start("stranger", &[], &[]);
        let _webs = [Web::tcp(&db, 80, "db"), Web::tcp(&db, 81, "shut")];
        assert_eq!(app.ask(&address, 80).as_deref(), Ok("db"));
        assert!(app.ask(&address, 81).is_err(), "not exposed");
        assert!(stranger.ask(&address, 80).is_err(), "not linked");
        bed.host.client().release_sandbox(&"db".parse().unwrap(), true).unwrap();
        let (db, address) = start("db", &["80"], &[]);
        let _web = Web::tcp(&db, 80, "db again");
        assert_eq!(app.ask(&address, 80).as_deref(), Ok("db again"));
        bed.host.crash();
        bed.host.start();
        assert_eq!(app.ask(&address, 80).as_deref(), Ok("db again"));
        assert!(stranger.ask(&address, 80).is_err());
    });
}
