//! Against the real kernel, each test in its own namespaces.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use super::*;
use crate::links::{NewBridge, NewVeth};
use crate::testing::root_or_skip;

fn name(s: &str) -> IfName {
    s.parse().unwrap()
}

fn bridge(s: &str) -> LinkOp {
    LinkOp::NewBridge(NewBridge {
        name: name(s),
        alias: format!("rnet:{s}"),
        mtu: None,
        mac: None,
        vlan_filtering: false,
    })
}

fn veth(s: &str, master: Option<&str>, ns: Option<&Netns>) -> LinkOp {
    LinkOp::NewVeth(NewVeth {
        name: name(s),
        alias: format!("rnet:{s}"),
        master: master.map(name),
        mtu: 1400,
        peer: name("eth0"),
        peer_mac: "02:00:00:00:00:09".parse().unwrap(),
        netns: ns.cloned(),
    })
}

fn default_via(via: &str, dev: &str) -> RouteEntry {
    let via: IpAddr = via.parse().unwrap();
    let destination = if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    RouteEntry {
        destination: destination.parse().unwrap(),
        via: Some(via),
        dev: name(dev),
        metric: None,
        onlink: false,
        source: None,
        protocol: RouteEntry::OURS,
        table: RouteEntry::MAIN,
    }
}

fn host_and_container() -> Option<(Route, Route, Netns)> {
    if !root_or_skip() {
        return None;
    }
    let inside = Netns::create().unwrap();
    let host = Route::open(&Netns::create().unwrap()).unwrap();
    Some((host, Route::open(&inside).unwrap(), inside))
}

/// All took effect.
#[track_caller]
fn fine(route: &mut Route, ops: &[LinkOp]) {
    let faults = route.batch(ops).unwrap();
    assert!(faults.is_empty(), "{faults:?}");
}

/// Waits until the links of both ends of `dev` have carrier, so that what the kernel does on its own is done.
fn carrier(route: &mut Route, dev: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !route.link(&name(dev)).unwrap().unwrap().carrier {
        assert!(std::time::Instant::now() < deadline, "{dev} never got carrier");
        std::thread::yield_now();
    }
}

#[test]
fn an_endpoint_from_nothing() {
    let Some((mut host, mut inside, ns)) = host_and_container() else { return };
    fine(&mut host, &[bridge("br0"), veth("rv1", Some("br0"), Some(&ns)), LinkOp::Isolated(name("rv1"), true)]);
    let br = host.link(&name("br0")).unwrap().unwrap();
    assert_eq!(br.kind, LinkKind::Bridge { vlan_filtering: false });
    assert!(br.up && br.mac.is_some());
    assert_eq!(br.alias.as_deref(), Some("rnet:br0"));
    let port = host.link(&name("rv1")).unwrap().unwrap();
    assert_eq!((port.master, port.mtu, port.up, port.alias.as_deref()), (Some(br.index), 1400, true, Some("rnet:rv1")));
    let eth0 = inside.link(&name("eth0")).unwrap().unwrap();
    assert_eq!(
        (port.kind, eth0.kind),
        (LinkKind::Veth { peer: Some(eth0.index) }, LinkKind::Veth { peer: Some(port.index) })
    );
    assert_eq!((eth0.mac.unwrap().to_string().as_str(), eth0.mtu, eth0.up), ("02:00:00:00:00:09", 1400, false));

    let onlink = RouteEntry {
        destination: "10.9.0.0/16".parse().unwrap(),
        metric: Some(77),
        onlink: true,
        ..default_via("172.31.0.1", "eth0")
    };
    let direct = RouteEntry {
        destination: "10.8.0.0/16".parse().unwrap(),
        via: None,
        source: Some("10.0.0.2".parse().unwrap()),
        ..onlink.clone()
    };
    let direct = RouteEntry { onlink: false, ..direct };
    let over_v6 = RouteEntry {
        destination: "10.7.0.0/16".parse().unwrap(),
        via: Some("fd00::1".parse().unwrap()),
        onlink: false,
        ..onlink.clone()
    };
    let six =
        RouteEntry { destination: "2001:db8::/32".parse().unwrap(), metric: Some(5), ..default_via("fd00::1", "eth0") };
    let routes = [default_via("10.0.0.1", "eth0"), default_via("fd00::1", "eth0"), onlink, direct, over_v6, six];
    let mut ops = vec![
        LinkOp::Up(name("lo")),
        LinkOp::Quiet(name("eth0")),
        LinkOp::Up(name("eth0")),
        LinkOp::AddAddress(name("eth0"), "10.0.0.2/24".parse().unwrap()),
        LinkOp::AddAddress(name("eth0"), "fd00::2/64".parse().unwrap()),
    ];
    ops.extend(routes.iter().cloned().map(LinkOp::AddRoute));
    fine(&mut inside, &ops);
    // The same again changes nothing and is no fault.
    fine(&mut inside, &ops);

    carrier(&mut inside, "eth0");
    carrier(&mut host, "rv1");
    let addresses = inside.addresses().unwrap();
    let mine: Vec<_> = addresses.iter().filter(|a| a.index == eth0.index).collect();
    assert_eq!(mine.len(), 2, "no link-local address is made: {mine:?}");
    assert!(mine.iter().all(|a| !a.automatic && !a.narrow));
    assert!(addresses.iter().filter(|a| a.index == 1).all(|a| a.automatic && a.narrow));
    assert_eq!(host.addresses().unwrap(), []);

    let there = inside.routes().unwrap();
    for route in &routes {
        assert!(there.contains(route), "{route} is missing from {there:?}");
    }
    let connected: Vec<_> = there.iter().filter(|r| r.protocol == 2).map(ToString::to_string).collect();
    assert_eq!(connected, ["10.0.0.0/24 dev eth0 src 10.0.0.2", "fd00::/64 dev eth0 metric 256"]);

    let removal: Vec<_> = routes.iter().cloned().map(LinkOp::DelRoute).collect();
    fine(&mut inside, &removal);
    fine(&mut inside, &removal);
    assert!(inside.routes().unwrap().iter().all(|r| r.protocol != RouteEntry::OURS));
    let removal = [
        LinkOp::DelAddress(name("eth0"), "10.0.0.2/24".parse().unwrap()),
        LinkOp::DelAddress(name("eth0"), "fd00::2/64".parse().unwrap()),
        LinkOp::DelAddress(name("gone"), "fd00::2/64".parse().unwrap()),
        LinkOp::DelRoute(default_via("10.0.0.1", "gone")),
        LinkOp::Delete(name("gone")),
    ];
    fine(&mut inside, &removal);
    fine(&mut inside, &removal);
    assert!(inside.addresses().unwrap().iter().all(|a| a.index == 1));
}

#[test]
fn faults_name_their_operation_and_what_the_kernel_said() {
    let Some((mut host, _, ns)) = host_and_container() else { return };
    fine(&mut host, &[bridge("br0"), LinkOp::AddAddress(name("br0"), "10.0.0.1/24".parse().unwrap())]);
    let faults = host
        .batch(&[
            LinkOp::Up(name("br0")),
            LinkOp::Mtu(name("br0"), 9),
            veth("rv1", Some("br9"), Some(&ns)),
            LinkOp::Alias(name("br0"), "still done".into()),
            LinkOp::AddRoute(default_via("192.0.2.1", "br0")),
            LinkOp::AddAddress(name("br0"), "10.0.0.1/24".parse().unwrap()),
            LinkOp::Up(name("br9")),
        ])
        .unwrap();
    let told: Vec<_> = faults.iter().map(|f| (f.index, f.error.to_string())).collect();
    assert_eq!(
        told,
        [
            (1, "link set br0 mtu 9: mtu less than device minimum (Invalid argument)".to_owned()),
            (
                2,
                format!(
                    "link add rv1 master br9 mtu 1400 up type veth peer name eth0 address 02:00:00:00:00:09 netns {ns}: \
                     no device br9 (No such device)"
                )
            ),
            (
                4,
                "route add default via 192.0.2.1 dev br0: Nexthop has invalid gateway (Network is unreachable)"
                    .to_owned()
            ),
            (6, "link set br9 up: No such device".to_owned()),
        ]
    );
    assert!(faults[2].error.hint.is_some());
    assert_eq!(host.link(&name("br0")).unwrap().unwrap().alias.as_deref(), Some("still done"));
}

#[test]
fn a_taken_name_is_left_alone() {
    let Some((mut host, _, ns)) = host_and_container() else { return };
    fine(&mut host, &[bridge("br0"), LinkOp::Alias(name("br0"), "somebody's".into()), LinkOp::Down(name("br0"))]);
    let before = host.links().unwrap();
    let faults = host.batch(&[bridge("br0"), veth("br0", None, Some(&ns))]).unwrap();
    assert_eq!(
        faults.iter().map(|f| (f.index, f.error.errno)).collect::<Vec<_>>(),
        [(0, libc::EEXIST), (1, libc::EEXIST)]
    );
    assert_eq!(host.links().unwrap(), before);
    // An unfinished device is taken away again: this alias is longer than IFALIASZ.
    let long = NewBridge { name: name("br1"), alias: "x".repeat(300), mtu: None, mac: None, vlan_filtering: false };
    let faults = host.batch(&[LinkOp::NewBridge(long)]).unwrap();
    assert_eq!(faults.len(), 1);
    assert_eq!(host.links().unwrap(), before);
    // An equal address is success, another prefix or another metric is not the same thing.
    let address = |a: &str| LinkOp::AddAddress(name("br0"), a.parse().unwrap());
    fine(&mut host, &[LinkOp::Up(name("br0")), address("fd00::1/64"), address("fd00::1/64")]);
    let faults = host.batch(&[address("fd00::1/48")]).unwrap();
    assert_eq!(faults.first().map(|f| f.error.errno), Some(libc::EEXIST));
}

#[test]
fn filtering_bridges_filter_or_are_refused() {
    let Some((mut host, ..)) = host_and_container() else { return };
    let new = NewBridge { name: name("br0"), alias: "rnet:x".into(), mtu: Some(1400), mac: None, vlan_filtering: true };
    let faults = host.batch(&[LinkOp::NewBridge(new)]).unwrap();
    match host.link(&name("br0")).unwrap() {
        Some(link) => assert_eq!((faults.len(), link.kind), (0, LinkKind::Bridge { vlan_filtering: true })),
        None => assert_eq!(faults.first().map(|f| f.error.errno), Some(libc::EOPNOTSUPP)),
    }
}

#[test]
fn groups_go_together() {
    let Some((mut host, mut inside, ns)) = host_and_container() else { return };
    let mac = "02:00:00:00:00:01".parse().unwrap();
    let br = NewBridge { name: name("br0"), alias: "rnet:x".into(), mtu: None, mac: Some(mac), vlan_filtering: false };
    fine(&mut host, &[LinkOp::NewBridge(br)]);
    let pairs: Vec<_> = (0..20)
        .map(|i| match veth(&format!("rv{i}"), Some("br0"), Some(&ns)) {
            LinkOp::NewVeth(v) => LinkOp::NewVeth(NewVeth { peer: name(&format!("eth{i}")), ..v }),
            other => other,
        })
        .collect();
    fine(&mut host, &pairs);
    let ports = host.links().unwrap();
    assert_eq!(ports.iter().filter(|l| l.alias.is_some() && l.master.is_some()).count(), 20);
    assert_eq!(host.link(&name("br0")).unwrap().unwrap().mac, Some(mac), "the address stays when ports come");
    let retire: Vec<_> = (0..20).map(|i| LinkOp::Retire(name(&format!("rv{i}")), 4242)).collect();
    fine(&mut host, &retire);
    let retired = host.links().unwrap();
    assert_eq!(retired.iter().filter(|l| l.group == 4242 && !l.up).count(), 20);
    fine(&mut host, &[LinkOp::DeleteGroup(4242)]);
    fine(&mut host, &[LinkOp::DeleteGroup(4242), LinkOp::Retire(name("rv1"), 4242), LinkOp::Delete(name("rv1"))]);
    assert_eq!(host.links().unwrap().len(), 2);
    assert_eq!(inside.links().unwrap().len(), 1);
    assert!(!host.batch(&[LinkOp::DeleteGroup(0)]).unwrap().is_empty(), "group 0 is everybody's");
}

#[test]
fn full_bridges_say_so() {
    let Some((mut host, mut inside, ns)) = host_and_container() else { return };
    fine(&mut host, &[bridge("br0")]);
    let pairs: Vec<_> = (0..1024)
        .map(|i| match veth(&format!("rv{i}"), Some("br0"), Some(&ns)) {
            LinkOp::NewVeth(v) => LinkOp::NewVeth(NewVeth { peer: name(&format!("eth{i}")), ..v }),
            other => other,
        })
        .collect();
    let faults = host.batch(&pairs).unwrap();
    assert_eq!(faults.iter().map(|f| (f.index, f.error.errno)).collect::<Vec<_>>(), [(1023, libc::EXFULL)]);
    assert!(faults[0].error.hint.as_deref().unwrap().contains("1023 ports"));
    assert_eq!(inside.links().unwrap().len(), 1024, "nothing is left of the one too many");
    assert!(host.links().unwrap().iter().all(|l| l.name == name("lo") || l.alias.is_some()));
    let retire: Vec<_> = (0..1023).map(|i| LinkOp::Retire(name(&format!("rv{i}")), 9)).collect();
    fine(&mut host, &retire);
    fine(&mut host, &[LinkOp::DeleteGroup(9)]);
    assert_eq!(inside.links().unwrap().len(), 1);
}

#[test]
fn pairs_in_one_namespace_and_every_other_verb() {
    let Some((mut host, ..)) = host_and_container() else { return };
    fine(&mut host, &[bridge("br0"), veth("rv1", None, None), LinkOp::Up(name("eth0"))]);
    carrier(&mut host, "rv1");
    assert_eq!(host.addresses().unwrap(), [], "no link-local address on either end");
    let mac = "02:00:00:00:00:77".parse().unwrap();
    fine(
        &mut host,
        &[
            LinkOp::Master(name("rv1"), name("br0")),
            LinkOp::Mtu(name("eth0"), 1300),
            LinkOp::Mac(name("eth0"), mac),
            LinkOp::Alias(name("eth0"), "x".into()),
            LinkOp::Isolated(name("rv1"), true),
            LinkOp::Isolated(name("rv1"), false),
        ],
    );
    let eth0 = host.link(&name("eth0")).unwrap().unwrap();
    assert_eq!((eth0.mtu, eth0.mac, eth0.alias.as_deref()), (1300, Some(mac), Some("x")));
    fine(
        &mut host,
        &[LinkOp::NoMaster(name("rv1")), LinkOp::Alias(name("eth0"), String::new()), LinkOp::Down(name("eth0"))],
    );
    let eth0 = host.link(&name("eth0")).unwrap().unwrap();
    assert_eq!((eth0.up, eth0.alias), (false, None));
    assert_eq!(host.link(&name("rv1")).unwrap().unwrap().master, None);
    assert_eq!(host.link(&name("none")).unwrap(), None);
    let big: Vec<_> = (0..2000).map(|i| LinkOp::Mtu(name("eth0"), 1300 + i % 2)).collect();
    fine(&mut host, &big);
}

#[test]
fn dumps_stay_whole_while_links_change() {
    let Some((mut host, ..)) = host_and_container() else { return };
    let mut other = Route::open(host.netns()).unwrap();
    fine(&mut host, &[bridge("br0")]);
    let ports: Vec<_> = (0..60)
        .map(|i| match veth(&format!("rv{i}"), Some("br0"), None) {
            LinkOp::NewVeth(v) => LinkOp::NewVeth(NewVeth { peer: name(&format!("pv{i}")), ..v }),
            other => other,
        })
        .collect();
    fine(&mut host, &ports);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fine(&mut other, &[bridge("br1")]);
                fine(&mut other, &[LinkOp::Delete(name("br1"))]);
            }
        });
        for _ in 0..50 {
            match host.links() {
                Ok(links) => assert!(links.len() == 122 || links.len() == 123, "{}", links.len()),
                Err(e) => assert_eq!(e.errno, libc::EAGAIN, "{e}"),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// Not an assertion: the figures of a cold attach, for `--nocapture`.
#[test]
fn cold_attach_figures() {
    use std::time::Instant;
    if !root_or_skip() {
        return;
    }
    let mut host = Route::open(&Netns::create().unwrap()).unwrap();
    fine(&mut host, &[bridge("br0")]);
    let median = |mut v: Vec<u128>| {
        v.sort_unstable();
        v[v.len() / 2]
    };
    let (mut made, mut opened, mut wired, mut configured, mut asked) = (vec![], vec![], vec![], vec![], vec![]);
    let mut kept = Vec::new();
    for i in 0..50 {
        let t = Instant::now();
        let ns = Netns::create().unwrap();
        made.push(t.elapsed().as_micros());
        let t = Instant::now();
        let mut inside = Route::open(&ns).unwrap();
        opened.push(t.elapsed().as_micros());
        let t = Instant::now();
        fine(&mut host, &[veth(&format!("rv{i}"), Some("br0"), Some(&ns))]);
        wired.push(t.elapsed().as_micros());
        let t = Instant::now();
        fine(
            &mut inside,
            &[
                LinkOp::Up(name("lo")),
                LinkOp::Quiet(name("eth0")),
                LinkOp::Up(name("eth0")),
                LinkOp::AddAddress(name("eth0"), format!("10.0.1.{}/16", i + 1).parse().unwrap()),
                LinkOp::AddRoute(RouteEntry { onlink: true, ..default_via("10.0.0.1", "eth0") }),
            ],
        );
        configured.push(t.elapsed().as_micros());
        let t = Instant::now();
        inside.link(&name("eth0")).unwrap().unwrap();
        asked.push(t.elapsed().as_micros());
        kept.push(inside);
    }
    #[allow(clippy::print_stdout)]
    {
        println!(
            "median us: namespace {} socket {} pair {} configure {} link() {}",
            median(made),
            median(opened),
            median(wired),
            median(configured),
            median(asked)
        );
    }
}
