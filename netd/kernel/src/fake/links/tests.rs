//! The fake against the real kernel: the same operations give the same faults and the same state.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::fake::netns;
use crate::links::{AddressGeneration, LinkKind, NewBridge, NewVeth, Snooping};
use crate::testing::root_or_skip;

fn name(s: &str) -> IfName {
    s.parse().unwrap()
}

fn veth(s: &str, peer: &str, master: Option<&str>, ns: &Netns) -> LinkOp {
    LinkOp::NewVeth(NewVeth {
        name: name(s),
        alias: "rnet:e".into(),
        master: master.map(name),
        mtu: 1400,
        peer: name(peer),
        mac: None,
        ipv6: AddressGeneration::Off,
        peer_mac: "02:00:00:00:00:09".parse().unwrap(),
        netns: Some(ns.clone()),
    })
}

fn bridge(s: &str) -> LinkOp {
    let mac = Some("02:00:00:00:00:01".parse().unwrap());
    LinkOp::NewBridge(NewBridge {
        name: name(s),
        alias: "rnet:n".into(),
        mtu: None,
        mac,
        vlan_filtering: false,
        ipv6: AddressGeneration::Off,
        snooping: Snooping::Off,
    })
}

fn route(destination: &str, via: Option<&str>, metric: Option<u32>) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        via: via.map(|v| v.parse().unwrap()),
        dev: name("eth0"),
        metric,
        onlink: false,
        source: None,
        protocol: Route::OURS,
        table: Route::MAIN,
        kind: RouteKind::Unicast,
        scope: None,
        mtu: None,
        advmss: None,
        more: Vec::new(),
    }
}

/// Batches for the host and for the inside, in turn.
fn story(ns: &Netns) -> Vec<(bool, Vec<LinkOp>)> {
    let addr = |a: &str| LinkOp::AddAddress(name("eth0"), a.parse().unwrap());
    vec![
        (
            true,
            vec![
                bridge("br0"),
                bridge("br0"),
                LinkOp::Up(name("none")),
                LinkOp::DeleteGroup(0),
                LinkOp::DeleteGroup(9),
            ],
        ),
        (true, vec![veth("rv1", "eth0", Some("none"), ns), veth("rv1", "eth0", Some("br0"), ns)]),
        (true, vec![veth("rv1", "eth1", None, ns), veth("rv2", "eth0", None, ns)]),
        (true, vec![veth("rv2", "eth1", None, ns), LinkOp::Master(name("rv2"), name("rv1"))]),
        (
            true,
            vec![LinkOp::Mtu(name("rv1"), 9), LinkOp::Isolated(name("rv2"), true), LinkOp::Isolated(name("rv1"), true)],
        ),
        (false, vec![LinkOp::AddRoute(route("0.0.0.0/0", Some("10.0.0.1"), None))]),
        (false, vec![LinkOp::Quiet(name("eth0")), LinkOp::Quiet(name("eth1")), LinkOp::Up(name("eth0"))]),
        (
            false,
            vec![addr("10.0.0.2/24"), addr("10.0.0.2/24"), addr("fd00::2/64"), addr("fd00::2/48"), addr("10.0.0.2/16")],
        ),
        (
            false,
            vec![
                LinkOp::AddRoute(route("0.0.0.0/0", Some("10.0.0.1"), None)),
                LinkOp::AddRoute(route("0.0.0.0/0", Some("10.0.0.1"), None)),
                LinkOp::AddRoute(route("0.0.0.0/0", Some("10.0.0.3"), None)),
                LinkOp::AddRoute(route("0.0.0.0/0", Some("10.0.0.3"), Some(5))),
                LinkOp::AddRoute(route("::/0", Some("fd00::1"), None)),
                LinkOp::AddRoute(route("::/0", Some("fd01::1"), Some(7))),
                LinkOp::AddRoute(route("192.0.2.0/24", Some("10.9.0.1"), None)),
                LinkOp::DelRoute(route("198.51.100.0/24", None, None)),
                LinkOp::DelAddress(name("eth0"), "10.0.0.2/16".parse().unwrap()),
            ],
        ),
        (
            true,
            vec![LinkOp::Alias(name("rv1"), String::new()), LinkOp::NoMaster(name("rv1")), LinkOp::Delete(name("lo"))],
        ),
        (true, vec![LinkOp::Master(name("rv1"), name("br0")), LinkOp::Master(name("rv1"), name("br0"))]),
        (true, vec![LinkOp::Retire(name("rv2"), 9), LinkOp::Retire(name("none"), 9), LinkOp::DeleteGroup(9)]),
        (false, vec![LinkOp::Down(name("eth0")), LinkOp::Up(name("eth0")), LinkOp::Delete(name("none"))]),
        (true, vec![LinkOp::Delete(name("br0")), LinkOp::Delete(name("br0"))]),
    ]
}

/// What both have to agree on; the host end's address is random.
fn seen(links: &mut impl Links) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for mut l in links.links().unwrap().into_iter().filter(|l| l.kind != LinkKind::Loopback) {
        if l.mac.is_some_and(|m| m.octets()[5] != 9 && m.octets()[5] != 1)
            || l.name == name("rv1")
            || l.name == name("rv2")
        {
            l.mac = None;
        }
        // Numbers depend on who counts, and carrier comes when the kernel gets to it.
        let kind = match l.kind {
            LinkKind::Veth { peer } => format!("veth {}", peer.is_some()),
            kind => format!("{kind:?}"),
        };
        all.push(format!(
            "{} {kind} {} {} {:?} {} {:?} {}",
            l.name,
            l.up,
            l.mtu,
            l.mac,
            l.master.is_some(),
            l.alias,
            l.group
        ));
    }
    all.extend(links.addresses().unwrap().iter().filter(|a| !a.automatic).map(|a| format!("{}/{}", a.ip, a.prefix)));
    all.extend(links.routes().unwrap().iter().map(ToString::to_string));
    all.sort();
    all
}

#[test]
fn the_fake_agrees_with_the_kernel() {
    if !root_or_skip() {
        return;
    }
    let ns = Netns::create().unwrap();
    let fake = FakeNet::new();
    let (mut fake_host, mut fake_inside) = (fake.host(), fake.inside(&ns));
    let mut real_host = crate::Route::open(&Netns::create().unwrap()).unwrap();
    let mut real_inside = crate::Route::open(&ns).unwrap();
    for (step, (on_host, ops)) in story(&ns).into_iter().enumerate() {
        let (fake, real): (&mut dyn Links, &mut dyn Links) =
            if on_host { (&mut fake_host, &mut real_host) } else { (&mut fake_inside, &mut real_inside) };
        let faults = |links: &mut dyn Links| -> Vec<(usize, i32)> {
            links.batch(&ops).unwrap().iter().map(|f| (f.index, f.error.errno)).collect()
        };
        assert_eq!(faults(fake), faults(real), "step {step}: {ops:?}");
        assert_eq!(seen(&mut fake_host), seen(&mut real_host), "host after step {step}");
        assert_eq!(seen(&mut fake_inside), seen(&mut real_inside), "inside after step {step}");
    }
}

#[test]
fn failures_and_records() {
    let fake = FakeNet::new();
    let ns = netns(7).unwrap();
    let (mut host, mut inside) = (fake.host(), fake.inside(&ns));
    fake.fail_next("dev eth0", libc::EPERM);
    assert!(host.batch(&[bridge("br0"), veth("rv1", "eth0", Some("br0"), &ns)]).unwrap().is_empty());
    let add = LinkOp::AddAddress(name("eth0"), "10.0.0.2/24".parse().unwrap());
    let faults = inside.batch(&[LinkOp::Up(name("eth0")), add.clone()]).unwrap();
    assert_eq!(faults.iter().map(|f| (f.index, f.error.errno)).collect::<Vec<_>>(), [(1, libc::EPERM)]);
    assert!(inside.batch(&[add]).unwrap().is_empty());
    assert_eq!(
        fake.done()[2..],
        ["net:[7] link set eth0 up", "net:[7] addr add 10.0.0.2/24 dev eth0", "net:[7] addr add 10.0.0.2/24 dev eth0"]
    );
    assert!(host.link(&name("br0")).unwrap().unwrap().carrier);
    let full: Vec<_> = (2..=1024).map(|i| veth(&format!("rv{i}"), &format!("p{i}"), Some("br0"), &ns)).collect();
    let faults = host.batch(&full).unwrap();
    assert_eq!(faults.iter().map(|f| (f.index, f.error.errno)).collect::<Vec<_>>(), [(1022, libc::EXFULL)]);
    fake.end(&ns);
    assert_eq!(host.links().unwrap().len(), 2);
}
