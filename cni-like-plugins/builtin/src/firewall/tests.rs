#![allow(clippy::unwrap_used)]
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rnet_kernel::{LinkOp, Netns, NewVeth};
use rnet_plan::{Place, Surfaces};
use serde_json::{Value, json};

use crate::Kernel;
use crate::common::name;
use crate::testing::{Bench, listen, refused, with};

const ADDRESSES: &[&str] = &["10.1.0.2/24", "fd00::2/64"];

fn base() -> Value {
    json!({"cniVersion": "1.1.0", "name": "n", "type": "firewall"})
}

fn conf(bench: &Bench<Kernel>, addresses: &[&str], keys: Value) -> Value {
    with(with(base(), json!({"prevResult": bench.previous(addresses)})), keys)
}

/// A host whose policy is to drop, as Docker leaves it, with a rule of somebody else.
fn dropping() -> Option<Bench<Kernel>> {
    let bench = Bench::real()?;
    for family in ["ip", "ip6"] {
        bench.on_host("nft", &["add", "table", family, "filter"]);
        let chain = "{ type filter hook forward priority 0; policy drop; }";
        bench.on_host("nft", &["add", "chain", family, "filter", "FORWARD", chain]);
        bench.on_host("nft", &["add", "rule", family, "filter", "FORWARD", "counter", "return"]);
    }
    Some(bench)
}

fn ruleset(bench: &Bench<Kernel>) -> String {
    bench.on_host("nft", &["list", "ruleset"])
}

#[test]
fn configurations_that_are_none() {
    refused(
        &base(),
        &[
            (json!({"cniVersion": "0.3.1"}), 1, "0.3.1"),
            (json!({"ingressPolicy": "shut"}), 7, "unknown ingress policy: \"shut\""),
            (json!({"backend": "ipfw"}), 7, "ipfw"),
            (json!({"backend": 1}), 6, "firewall"),
        ],
    );
}

#[test]
fn nothing_is_made_where_packets_pass() {
    let Some(mut bench) = Bench::real() else { return };
    let open = conf(&bench, ADDRESSES, json!({"backend": "iptables", "firewalldZone": "trusted"}));
    assert_eq!(bench.add(&base()).unwrap_err().code, 7);
    assert_eq!(bench.add(&open).unwrap().ips.len(), 2);
    assert_eq!(ruleset(&bench), "");
    bench.check(&open).unwrap();
    bench.status(&open).unwrap();
    bench.del(&open).unwrap();
}

#[test]
fn a_host_that_drops_lets_containers_through() {
    let Some(mut bench) = dropping() else { return };
    let before = ruleset(&bench);
    bench.on_host("nft", &["add", "chain", "ip", "filter", "CNI-ADMIN"]);
    let conf = conf(&bench, ADDRESSES, json!({}));
    bench.add(&conf).unwrap();
    bench.check(&conf).unwrap();
    bench.add(&conf).unwrap();
    let listed = bench.on_host("nft", &["list", "chain", "ip", "filter", "RNET-CNI"]);
    let position = |text: &str| listed.find(text).unwrap_or_else(|| panic!("{text}: {listed}"));
    assert!(position("jump CNI-ADMIN") < position("ip saddr 10.1.0.2"));
    assert_eq!(listed.matches("10.1.0.2").count(), 2, "{listed}");
    // The owner's key tells containers apart.
    bench.container = "c2".into();
    let other = with(conf.clone(), json!({"prevResult": bench.previous(&["10.1.0.3/24"])}));
    bench.add(&other).unwrap();
    bench.container = "c1".into();
    bench.del(&conf).unwrap();
    assert!(bench.check(&conf).unwrap_err().msg.contains("rules of c1 are gone"));
    bench.container = "c2".into();
    bench.check(&other).unwrap();
    bench.del_late(&base()).unwrap();
    bench.on_host("nft", &["delete", "chain", "ip", "filter", "CNI-ADMIN"]);
    assert_eq!(ruleset(&bench), before);
    bench.del(&other).unwrap();
}

#[test]
fn iptables_can_still_list_the_table() {
    let Some(mut bench) = dropping() else { return };
    if std::process::Command::new("iptables-nft").arg("--version").output().is_err() {
        #[allow(clippy::print_stdout)]
        {
            println!("skipped: needs iptables-nft(8), package iptables");
        }
        return;
    }
    let conf = conf(&bench, &["10.1.0.2/24"], json!({}));
    bench.add(&conf).unwrap();
    let listed = bench.on_host("iptables-nft-save", &["-t", "filter"]);
    assert!(listed.contains("-A RNET-CNI -s 10.1.0.2/32") && listed.contains("-A RNET-CNI -d 10.1.0.2/32"), "{listed}");
}

#[test]
fn policies_are_sets() {
    let Some(mut bench) = Bench::real() else { return };
    let sealed = conf(&bench, ADDRESSES, json!({"ingressPolicy": "same-bridge"}));
    let isolated = conf(&bench, ADDRESSES, json!({"ingressPolicy": "isolated"}));
    bench.add(&sealed).unwrap();
    bench.check(&sealed).unwrap();
    assert!(bench.check(&isolated).unwrap_err().msg.contains("is not in isolated4"));
    bench.add(&isolated).unwrap();
    bench.check(&isolated).unwrap();
    let gc = |valid: Value| with(base(), json!({"cni.dev/valid-attachments": valid}));
    bench.gc(&gc(json!([{"containerID": "c1", "ifname": "eth0"}]))).unwrap();
    bench.check(&isolated).unwrap();
    bench.gc(&gc(json!([]))).unwrap();
    assert_eq!(ruleset(&bench), "");
    bench.add(&isolated).unwrap();
    bench.del(&isolated).unwrap();
    assert_eq!(ruleset(&bench), "");
    bench.del(&isolated).unwrap();
}

#[test]
fn collection_takes_rules_too() {
    let Some(mut bench) = dropping() else { return };
    let before = ruleset(&bench);
    let conf = conf(&bench, ADDRESSES, json!({}));
    bench.add(&conf).unwrap();
    bench.gc(&with(base(), json!({"cni.dev/valid-attachments": []}))).unwrap();
    assert_eq!(ruleset(&bench), before);
}

/// `c1` with 10.1.0.2 and another namespace with 10.2.0.2, routed by the host.
fn routed(bench: &mut Bench<Kernel>) -> Netns {
    let other = Netns::create().unwrap();
    bench.veth(&["10.1.0.2/24"]);
    let veth = NewVeth {
        netns: Some(other.clone()),
        ..NewVeth::new(name("veth2"), name("eth0"), "02:00:00:00:00:03".parse().unwrap())
    };
    bench.ops(&Place::Host, &[LinkOp::NewVeth(veth)]);
    for (dev, address) in [("veth1", "10.1.0.1/24"), ("veth2", "10.2.0.1/24")] {
        bench.on_host("ip", &["addr", "add", address, "dev", dev]);
        bench.on_host("ip", &["link", "set", dev, "up"]);
    }
    bench.surfaces.sysctls(&Place::Host).unwrap().set("net/ipv4/ip_forward", "1").unwrap();
    let far = Place::Inside(other.clone());
    let ops = [LinkOp::Up(name("eth0")), LinkOp::AddAddress(name("eth0"), "10.2.0.2/24".parse().unwrap())];
    bench.ops(&far, &ops);
    for (place, gateway) in [(bench.place(), "10.1.0.1"), (far, "10.2.0.1")] {
        let route = rnet_kernel::RouteEntry {
            via: Some(gateway.parse().unwrap()),
            ..rnet_kernel::RouteEntry::new("0.0.0.0/0".parse().unwrap(), name("eth0"))
        };
        bench.ops(&place, &[LinkOp::AddRoute(route)]);
    }
    other
}

/// Whether a connection from one namespace to a listener on port 80 of another is made before the deadline.
fn connects_by(wait: Duration, from: &Netns, to: &Netns, address: &str) -> bool {
    let listener = listen(to);
    let address: SocketAddr = address.parse().unwrap();
    let deadline = Instant::now() + wait;
    let attempt = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok();
    let made = from
        .run(|| {
            attempt()
                || (Instant::now() < deadline
                    && std::iter::repeat_with(attempt).take_while(|_| Instant::now() < deadline).any(|made| made))
        })
        .unwrap();
    drop(listener);
    made
}

fn connects(from: &Netns, to: &Netns, address: &str) -> bool {
    connects_by(Duration::from_secs(5), from, to, address)
}

fn shut(from: &Netns, to: &Netns, address: &str) -> bool {
    !connects_by(Duration::from_millis(300), from, to, address)
}

#[test]
fn networks_are_kept_apart() {
    let Some(mut bench) = Bench::real() else { return };
    let other = routed(&mut bench);
    let inside = bench.inside.clone().unwrap();
    let mine = conf(&bench, &["10.1.0.2/24"], json!({"ingressPolicy": "same-bridge"}));
    let theirs = conf(&bench, &["10.2.0.2/24"], json!({"ingressPolicy": "same-bridge"}));
    assert!(connects(&other, &inside, "10.1.0.2:80"));
    bench.add(&mine).unwrap();
    // Nobody but containers with a policy is kept out.
    assert!(connects(&other, &inside, "10.1.0.2:80"));
    bench.container = "c2".into();
    bench.add(&theirs).unwrap();
    assert!(shut(&other, &inside, "10.1.0.2:80"));
    assert!(shut(&inside, &other, "10.2.0.2:80"));
    bench.del(&theirs).unwrap();
    assert!(connects(&other, &inside, "10.1.0.2:80"));
}

#[test]
fn answers_and_published_ports_pass_a_host_that_drops() {
    let Some(mut bench) = dropping() else { return };
    let outside = routed(&mut bench);
    let inside = bench.inside.clone().unwrap();
    let conf = conf(&bench, &["10.1.0.2/24"], json!({}));
    assert!(shut(&inside, &outside, "10.2.0.2:80"));
    bench.add(&conf).unwrap();
    assert!(connects(&inside, &outside, "10.2.0.2:80"));
    assert!(shut(&outside, &inside, "10.1.0.2:80"));
    let port = json!({"type": "portmap", "runtimeConfig": {"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}});
    bench.add(&with(conf.clone(), port.clone())).unwrap();
    assert!(connects(&outside, &inside, "10.2.0.1:8080"));
    bench.del(&with(conf.clone(), port)).unwrap();
    bench.del(&conf).unwrap();
    assert!(shut(&inside, &outside, "10.2.0.2:80"));
}

#[test]
fn a_configuration_that_is_none_keeps_nothing() {
    let Some(mut bench) = Bench::real() else { return };
    bench.veth(ADDRESSES);
    let conf = conf(&bench, ADDRESSES, json!({"ingressPolicy": "same-bridge"}));
    bench.add(&conf).unwrap();
    bench.del(&with(conf, json!({"ingressPolicy": "x"}))).unwrap();
    assert_eq!(bench.on_host("nft", &["list", "tables"]), "");
}

#[test]
fn sixteen_at_once_are_led_to_once_and_leave_nothing() {
    let Some(bench) = dropping() else { return };
    let before = ruleset(&bench);
    let host = bench.host.clone().unwrap();
    let all = |undo: bool| {
        std::thread::scope(|scope| {
            for n in 0..16 {
                let (host, inside) = (host.clone(), bench.inside.clone());
                scope.spawn(move || {
                    let surfaces = Kernel::new(host.clone());
                    let mut one =
                        Bench { surfaces, host: Some(host), inside, container: format!("c{n}"), ifname: "eth0" };
                    let conf = conf(&one, &[&format!("10.1.0.{}/24", 10 + n)], json!({}));
                    if undo { one.del(&conf).unwrap() } else { drop(one.add(&conf).unwrap()) }
                });
            }
        });
    };
    all(false);
    let listed = bench.on_host("nft", &["list", "chain", "ip", "filter", "FORWARD"]);
    assert_eq!(listed.matches("jump RNET-CNI").count(), 1, "{listed}");
    let listed = bench.on_host("nft", &["list", "chain", "ip", "filter", "RNET-CNI"]);
    assert_eq!(listed.matches("accept").count(), 32, "{listed}");
    all(true);
    assert_eq!(ruleset(&bench), before);
}

#[test]
fn a_flushed_forward_chain_is_noticed_and_put_right() {
    let Some(mut bench) = dropping() else { return };
    bench.on_host("nft", &["add", "chain", "ip", "filter", "CNI-ADMIN"]);
    let conf = conf(&bench, &["10.1.0.2/24"], json!({}));
    bench.add(&conf).unwrap();
    bench.on_host("nft", &["flush", "chain", "ip", "filter", "FORWARD"]);
    assert!(bench.check(&conf).unwrap_err().msg.contains("nothing leads from FORWARD"));
    bench.add(&conf).unwrap();
    bench.check(&conf).unwrap();
    let listed = ruleset(&bench);
    assert_eq!(listed.matches("jump CNI-ADMIN").count(), 1, "{listed}");
}
