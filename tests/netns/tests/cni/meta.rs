//! Plugins that change what others made, beside the reference.

use rnet_netns_harness::{Container, SOON, path_text, wait_for};
use serde_json::{Value, json};

use super::bridge::{bridge_plugin, there_and_back, there_and_back_unchecked};
use super::differ::{Stage, differential, differential_or_skip, lacks_kind};
use super::driver::{Chain, Whose};

const TWO: [&str; 2] = ["10.88.0.0/24", "fd88::/64"];

/// A bridge and plugins behind it.
fn chain(stage: &Stage<'_>, subnets: &[&str], plugins: &[Value]) -> Chain {
    let mut all = vec![bridge_plugin(stage, subnets, &json!({}))];
    all.extend(plugins.iter().cloned());
    Chain::new("1.0.0", "net1", json!(all))
}

#[test]
fn tuning() {
    for more in [
        json!({"sysctl": {"net.core.somaxconn": "500", "net.ipv4.conf.eth0.arp_filter": "1"}}),
        json!({"mac": "c2:11:22:00:00:20", "mtu": 1400, "promisc": true, "allmulti": true}),
        json!({"args": {"cni": {"mac": "c2:11:22:00:00:21"}}}),
        json!({"runtimeConfig": {"mac": "c2:11:22:00:00:22"}}),
    ] {
        differential(|stage| {
            let mut plugin = more.clone();
            plugin["type"] = json!("tuning");
            plugin["dataDir"] = json!(path_text(&stage.folder("tuning")));
            let chain = chain(stage, &["10.88.0.0/24"], &[plugin]);
            let c1 = stage.container("c1");
            stage.add(&chain, &c1);
            stage.record("after ADD");
            stage.note("somaxconn", c1.run("sysctl -n net.core.somaxconn").ok().out);
            stage.check(&chain, &c1);
            stage.del(&chain, &c1);
            stage.record("after DEL");
        });
    }
}

#[test]
fn tuning_that_cannot_be() {
    differential(|stage| {
        let c1 = stage.container("c1");
        for sysctl in [json!({"kernel.hostname": "x"}), json!({"net.ipv4.no_such_key": "1"})] {
            stage.fails(&chain(stage, &["10.88.0.0/24"], &[json!({"type": "tuning", "sysctl": sysctl.clone()})]), &c1);
            // A runtime takes back what the chain has made so far.
            stage.del(&chain(stage, &["10.88.0.0/24"], &[]), &c1);
            stage.note(&format!("links with {sysctl}"), c1.ip("-o link").lines().count());
        }
    });
}

#[test]
fn sbr() {
    differential(|stage| there_and_back_unchecked(stage, &chain(stage, &["10.88.0.0/24"], &[json!({"type": "sbr"})])));
}

#[test]
fn vrf() {
    for more in [json!({"vrfname": "red"}), json!({"vrfname": "red", "table": 77})] {
        differential_or_skip(
            || lacks_kind("vrf"),
            |stage| {
                let mut plugin = more.clone();
                plugin["type"] = json!("vrf");
                there_and_back_unchecked(stage, &chain(stage, &["10.88.0.0/24"], &[plugin]));
            },
        );
    }
}

#[test]
fn bandwidth() {
    for more in [
        json!({"ingressRate": 8_000_000, "ingressBurst": 800_000}),
        json!({"egressRate": 8_000_000, "egressBurst": 800_000}),
        json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 1_600_000}),
    ] {
        differential(|stage| {
            let mut plugin = more.clone();
            plugin["type"] = json!("bandwidth");
            there_and_back(stage, &chain(stage, &["10.88.0.0/24"], &[plugin]));
        });
    }
}

/// Answers on a port of a container as long as it lives.
pub(super) fn serve(container: &Container, port: u16) {
    let tcp = container.netns.run(|| std::net::TcpListener::bind(("::", port)).unwrap()).unwrap();
    let udp = container.netns.run(|| std::net::UdpSocket::bind(("::", port)).unwrap()).unwrap();
    let name = container.name.clone();
    let udp_name = name.clone();
    // Both threads end with the test's process.
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), name.as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(udp_name.as_bytes(), from);
        }
    });
}

/// Who answers at an address; empty if nobody does.
pub(super) fn asked(netns: &rnet_kernel::Netns, protocol: &str, address: &str) -> String {
    const LIMIT: std::time::Duration = std::time::Duration::from_millis(700);
    let address: std::net::SocketAddr = address.parse().unwrap();
    let tcp = || {
        let mut stream = std::net::TcpStream::connect_timeout(&address, LIMIT).ok()?;
        stream.set_read_timeout(Some(LIMIT)).ok()?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).ok()?;
        Some(text)
    };
    let udp = || {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = std::net::UdpSocket::bind(any).ok()?;
        socket.set_read_timeout(Some(LIMIT)).ok()?;
        socket.connect(address).ok()?;
        socket.send(b"who?").ok()?;
        let mut buffer = [0; 16];
        let read = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
    };
    netns.run(|| if protocol == "tcp" { tcp() } else { udp() }).unwrap().unwrap_or_default()
}

/// Notes who answers to whom, and waits for the first to do so.
fn reachability(stage: &Stage<'_>, phase: &str, callers: &[(&str, &rnet_kernel::Netns)], addresses: &[&str]) {
    for (caller, netns) in callers {
        for address in addresses {
            for protocol in ["tcp", "udp"] {
                stage.note(&format!("{phase}: {caller} to {protocol} {address}"), asked(netns, protocol, address));
            }
        }
    }
}

fn mappings(list: &[(u16, &str, Option<&str>)]) -> Value {
    let one = |(port, protocol, ip): &(u16, &str, Option<&str>)| {
        let mut mapping = json!({"hostPort": port, "containerPort": 80, "protocol": protocol});
        if let Some(ip) = ip {
            mapping["hostIP"] = json!(ip);
        }
        mapping
    };
    json!(list.iter().map(one).collect::<Vec<_>>())
}

#[test]
fn portmap() {
    for more in [json!({}), json!({"snat": false})] {
        differential(|stage| {
            stage.world.plug(&stage.host, "up0", &["192.0.2.1/24", "192.0.2.9/24", "2001:db8::1/64"]);
            let peer = stage.world.peer("out", &["192.0.2.2/24", "2001:db8::2/64"]);
            peer.run("ip route add 10.88.0.0/24 via 192.0.2.1").ok();
            peer.run("ip route add fd88::/64 via 2001:db8::1").ok();
            let mut plugin = more.clone();
            plugin["type"] = json!("portmap");
            plugin["capabilities"] = json!({"portMappings": true});
            let chain = chain(stage, &TWO, &[plugin]);
            let ports = [(8080, "tcp", None), (8080, "udp", None), (8081, "tcp", Some("192.0.2.9"))];
            let published = chain.clone().capability("portMappings", mappings(&ports));
            let (c1, c2) = (stage.container("c1"), stage.container("c2"));
            for container in [&c1, &c2] {
                container.ip("link set lo up");
                serve(container, 80);
            }
            stage.add(&published, &c1);
            stage.add(&chain, &c2);
            stage.record("after ADD");
            wait_for("a published port to answer", SOON, || asked(&peer.netns, "tcp", "192.0.2.1:8080") == "c1");
            let callers = [("peer", &peer.netns), ("host", &stage.host.netns), ("c1", &c1.netns), ("c2", &c2.netns)];
            let addresses = [
                "192.0.2.1:8080",
                "192.0.2.9:8080",
                "192.0.2.9:8081",
                "192.0.2.1:8081",
                "[2001:db8::1]:8080",
                "10.88.0.1:8080",
            ];
            reachability(stage, "after ADD", &callers, &addresses);
            reachability(stage, "loopback", &[("host", &stage.host.netns)], &["127.0.0.1:8080", "[::1]:8080"]);
            // CHECK of the reference does not find the rules it made itself.
            if stage.whose == Whose::Ours {
                stage.check(&published, &c1);
            }
            stage.del(&published, &c1);
            reachability(stage, "after DEL", &[("peer", &peer.netns)], &["192.0.2.1:8080", "192.0.2.9:8081"]);
            stage.add(&published, &c1);
            reachability(stage, "after ADD again", &[("peer", &peer.netns)], &["192.0.2.1:8080"]);
            stage.del(&published, &c1);
            stage.del(&chain, &c2);
            stage.record("after DEL");
            if stage.whose == Whose::Ours {
                assert_eq!(stage.host.run("nft list ruleset").ok().out, "", "nothing of ours is left");
            }
        });
    }
}

#[test]
fn firewall() {
    for more in [json!({}), json!({"ingressPolicy": "same-bridge"})] {
        differential(|stage| {
            stage.world.plug(&stage.host, "up0", &["192.0.2.1/24"]);
            let peer = stage.world.peer("out", &["192.0.2.2/24"]);
            peer.run("ip route add 10.0.0.0/8 via 192.0.2.1").ok();
            let mut plugin = more.clone();
            plugin["type"] = json!("firewall");
            plugin["backend"] = json!("iptables");
            let blue = chain(stage, &["10.88.0.0/24"], &[plugin.clone()]);
            let mut bridge = bridge_plugin(stage, &["10.89.0.0/24"], &json!({"bridge": "cni1"}));
            bridge["ipam"]["dataDir"] = json!(path_text(&stage.folder("green")));
            let green = Chain::new("1.0.0", "green", json!([bridge, plugin]));
            let (c1, c2, c3) = (stage.container("c1"), stage.container("c2"), stage.container("c3"));
            stage.add(&blue, &c1);
            stage.add(&blue, &c2);
            stage.add(&green, &c3);
            stage.record("after ADD");
            c1.ping("10.88.0.3");
            for (from, who) in [(&c1, "c1"), (&c3, "c3")] {
                for address in ["10.88.0.3", "10.89.0.2", "10.88.0.1", "192.0.2.2"] {
                    stage.note(&format!("{who} to {address}"), from.reaches(address));
                }
            }
            stage.note("from outside", peer.reaches("10.88.0.2"));
            stage.check(&blue, &c1);
            stage.del(&blue, &c1);
            stage.note("others after DEL", c2.reaches("10.88.0.1"));
            stage.del(&blue, &c2);
            stage.del(&green, &c3);
            stage.record("after DEL");
            if stage.whose == Whose::Ours {
                assert_eq!(stage.host.run("nft list ruleset").ok().out, "", "nothing of ours is left");
            }
        });
    }
}
