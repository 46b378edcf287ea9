//! Against the real kernel, each test in its own namespaces.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use super::*;
use crate::links::{
    AddressGeneration, Admin, Devconf4, DeviceKind, Fwmark, IpvlanMode, MacvlanMode, NewBridge, NewDevice, NewTap,
    NewVeth, NextHop, PortVlan, QdiscPlace, Queues, RouteKind, Snooping, Tbf, VlanTarget,
};
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
        ipv6: AddressGeneration::Off,
        snooping: Snooping::Off,
    })
}

fn veth(s: &str, master: Option<&str>, ns: Option<&Netns>) -> LinkOp {
    LinkOp::NewVeth(NewVeth {
        name: name(s),
        alias: format!("rnet:{s}"),
        master: master.map(name),
        mtu: 1400,
        peer: name("eth0"),
        mac: None,
        ipv6: AddressGeneration::Off,
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
        kind: RouteKind::Unicast,
        scope: None,
        mtu: None,
        advmss: None,
        more: Vec::new(),
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
    let long = NewBridge {
        name: name("br1"),
        alias: "x".repeat(300),
        mtu: None,
        mac: None,
        vlan_filtering: false,
        ipv6: AddressGeneration::Off,
        snooping: Snooping::Off,
    };
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
    let new = NewBridge {
        name: name("br0"),
        alias: "rnet:x".into(),
        mtu: Some(1400),
        mac: None,
        vlan_filtering: true,
        ipv6: AddressGeneration::Off,
        snooping: Snooping::Off,
    };
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
    let br = NewBridge {
        name: name("br0"),
        alias: "rnet:x".into(),
        mtu: None,
        mac: Some(mac),
        vlan_filtering: false,
        ipv6: AddressGeneration::Off,
        snooping: Snooping::Off,
    };
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

/// What a command prints inside.
fn said(route: &Route, program: &str, words: &str) -> String {
    let words: Vec<_> = words.split(' ').collect();
    let out = route.netns().run(|| std::process::Command::new(program).args(words).output()).unwrap().unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn devices_are_born_where_they_belong() {
    let Some((mut host, mut inside, ns)) = host_and_container() else { return };
    fine(&mut host, &[veth("rv1", None, None)]);
    let mac = "02:00:00:00:00:55".parse().unwrap();
    let kind = DeviceKind::Macvlan { mode: MacvlanMode::Private, bc_queue_len: Some(2000) };
    let new = NewDevice {
        parent: Some(name("rv1")),
        mac: Some(mac),
        mtu: Some(1300),
        netns: Some(ns),
        admin: Admin::Up,
        ..NewDevice::new(name("mac0"), kind)
    };
    fine(&mut host, &[LinkOp::NewDevice(new)]);
    let there = inside.link(&name("mac0")).unwrap().unwrap();
    let parent = host.link(&name("rv1")).unwrap().unwrap();
    assert_eq!(there.kind, LinkKind::Macvlan { mode: MacvlanMode::Private });
    assert_eq!((there.mac, there.mtu, there.up, there.parent), (Some(mac), 1300, true, Some(parent.index)));
    assert!(there.parent_elsewhere);
    assert_eq!(inside.link_by_index(there.index).unwrap().unwrap().name, there.name);
    assert_eq!(inside.link_by_index(4000).unwrap(), None);
    assert!(said(&inside, "ip", "-d link show mac0").contains("macvlan mode private bcqueuelen 2000"));
    let ifb = NewDevice { alias: Some("x".into()), ..NewDevice::new(name("bwp0"), DeviceKind::Ifb) };
    fine(&mut host, &[LinkOp::NewDevice(ifb)]);
    let ifb = host.link(&name("bwp0")).unwrap().unwrap();
    assert_eq!((ifb.kind, ifb.alias.as_deref()), (LinkKind::Ifb, Some("x")));
    // What this kernel lacks is its own refusal and leaves nothing; what it has is read as it was asked for.
    let kinds = [
        (DeviceKind::Vlan { id: 5 }, LinkKind::Vlan { id: 5 }),
        (DeviceKind::Ipvlan { mode: IpvlanMode::L3 }, LinkKind::Ipvlan { mode: IpvlanMode::L3 }),
        (DeviceKind::Dummy, LinkKind::Dummy),
        (DeviceKind::Vrf { table: 77 }, LinkKind::Vrf { table: 77 }),
    ];
    for (kind, expected) in kinds {
        let parent = matches!(kind, DeviceKind::Vlan { .. } | DeviceKind::Ipvlan { .. }).then(|| name("bwp0"));
        let new = NewDevice { parent, ..NewDevice::new(name("new0"), kind) };
        let faults = host.batch(&[LinkOp::NewDevice(new)]).unwrap();
        match host.link(&name("new0")).unwrap() {
            Some(link) => assert_eq!(link.kind, expected),
            None => assert_eq!(faults.first().map(|f| f.error.errno), Some(libc::EOPNOTSUPP)),
        }
        fine(&mut host, &[LinkOp::Delete(name("new0"))]);
    }
}

#[test]
fn taps_stay_and_take_no_name_that_is_there() {
    let Some((mut host, ..)) = host_and_container() else { return };
    let new = NewTap {
        name: name("tap0"),
        owner: Some(54321),
        group: Some(54322),
        queues: Queues::Several,
        vnet_header: Switch::On,
    };
    fine(&mut host, &[LinkOp::NewTap(new.clone()), LinkOp::Mtu(name("tap0"), 1300), bridge("br0")]);
    let tap = host.link(&name("tap0")).unwrap().unwrap();
    assert_eq!((tap.kind, tap.mtu), (LinkKind::Tap, 1300));
    let told = said(&host, "ip", "-d link show tap0");
    for part in ["type tap", "vnet_hdr on", "persist on", "user 54321", "group 54322", "multi_queue"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let other = NewTap { name: name("br0"), ..new.clone() };
    let faults = host.batch(&[LinkOp::NewTap(new), LinkOp::NewTap(other)]).unwrap();
    assert_eq!(faults.iter().map(|f| f.error.errno).collect::<Vec<_>>(), [libc::EEXIST, libc::EEXIST]);
}

#[test]
fn the_kernels_own_addresses_where_they_are_wanted() {
    let Some((mut host, mut inside, ns)) = host_and_container() else { return };
    let mac = "02:00:00:00:00:66".parse().unwrap();
    let br = NewBridge { ipv6: AddressGeneration::Kernel, snooping: Snooping::Kernel, ..NewBridge::new(name("br0")) };
    let pair = NewVeth {
        ipv6: AddressGeneration::Kernel,
        mac: Some(mac),
        master: Some(name("br0")),
        netns: Some(ns),
        ..NewVeth::new(name("rv1"), name("eth0"), "02:00:00:00:00:09".parse().unwrap())
    };
    fine(&mut host, &[LinkOp::NewBridge(br), LinkOp::NewVeth(pair)]);
    fine(&mut inside, &[LinkOp::Up(name("eth0"))]);
    carrier(&mut host, "br0");
    assert_eq!(host.link(&name("rv1")).unwrap().unwrap().mac, Some(mac));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let index = host.link(&name("br0")).unwrap().unwrap().index;
    while host.addresses_of(index).unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline, "no link-local address");
        std::thread::yield_now();
    }
    assert!(said(&host, "ip", "-d link show br0").contains("mcast_snooping 1"));
}

#[test]
fn settings_moves_and_ports() {
    let Some((mut host, mut inside, ns)) = host_and_container() else { return };
    let rv1 = || name("rv1");
    fine(&mut host, &[bridge("br0"), veth("rv1", Some("br0"), None)]);
    let ops = [
        LinkOp::Promisc(rv1(), Switch::On),
        LinkOp::AllMulti(rv1(), Switch::On),
        LinkOp::TxQueueLen(rv1(), 123),
        LinkOp::Hairpin(rv1(), Switch::On),
        LinkOp::Isolated(rv1(), true),
        LinkOp::Devconf4(rv1(), Devconf4::ArpNotify, 1),
        LinkOp::Devconf4(rv1(), Devconf4::RouteLocalnet, 1),
    ];
    fine(&mut host, &ops);
    let link = host.link(&rv1()).unwrap().unwrap();
    assert!(link.promisc && link.allmulti && !link.parent_elsewhere);
    assert_eq!(link.tx_queue_len, 123);
    let port = host.port(&rv1()).unwrap().unwrap();
    assert!(port.hairpin && port.isolated);
    assert_eq!((host.port(&name("br0")).unwrap(), host.port(&name("none")).unwrap()), (None, None));
    for key in ["net.ipv4.conf.rv1.arp_notify", "net.ipv4.conf.rv1.route_localnet"] {
        assert_eq!(said(&host, "sysctl", &format!("-n {key}")).trim(), "1", "{key}");
    }
    let faults = host.batch(&[LinkOp::VlanFiltering(name("br0"), Switch::On)]).unwrap();
    let filters = host.link(&name("br0")).unwrap().unwrap().kind == LinkKind::Bridge { vlan_filtering: true };
    assert_eq!(faults.first().map(|f| f.error.errno), (!filters).then_some(libc::EOPNOTSUPP));
    let range = PortVlan { from: 10, to: 12, ..PortVlan::tagged(rv1(), 10) };
    let own = PortVlan { target: VlanTarget::Bridge, ..PortVlan::tagged(name("br0"), 10) };
    let faults = host.batch(&[LinkOp::PortVlan(range), LinkOp::PortVlan(own)]).unwrap();
    let vids: Vec<_> = host.port_vlans(&rv1()).unwrap().iter().map(|v| v.vid).collect();
    if filters {
        assert_eq!((faults.len(), vids), (0, vec![1, 10, 11, 12]));
    } else {
        assert_eq!(faults.iter().map(|f| f.error.errno).collect::<Vec<_>>(), [libc::EOPNOTSUPP; 2]);
        assert!(vids.is_empty());
    }
    let there = LinkOp::Move { name: rv1(), netns: ns, new_name: Some(name("net1")) };
    fine(&mut host, &[LinkOp::Down(name("eth0")), LinkOp::Rename(name("eth0"), name("eth1")), there]);
    assert!(host.link(&name("eth1")).unwrap().unwrap().parent_elsewhere);
    assert!(inside.link(&name("net1")).unwrap().is_some());
    assert_eq!(host.link(&rv1()).unwrap(), None);
}

#[test]
fn routes_of_every_sort_and_rules() {
    let Some((mut host, ..)) = host_and_container() else { return };
    let up = [
        veth("rv1", None, None),
        LinkOp::Up(name("eth0")),
        LinkOp::AddAddress(name("eth0"), "10.0.0.2/24".parse().unwrap()),
        LinkOp::AddAddress(name("eth0"), "fd00::2/64".parse().unwrap()),
    ];
    fine(&mut host, &up);
    carrier(&mut host, "eth0");
    let hop = |via: &str| NextHop { via: Some(via.parse().unwrap()), dev: name("eth0"), onlink: false };
    let to = |s: &str| RouteEntry { table: 1000, ..RouteEntry::new(s.parse().unwrap(), name("eth0")) };
    let nowhere = |s: &str, kind| RouteEntry { kind, dev: name("lo"), ..to(s) };
    let routes = [
        RouteEntry { via: hop("10.0.0.3").via, more: vec![hop("10.0.0.4")], ..to("10.1.0.0/16") },
        RouteEntry { via: hop("fd00::3").via, more: vec![hop("fd00::4")], ..to("fd01::/64") },
        RouteEntry { mtu: Some(1400), advmss: Some(1360), scope: Some(254), ..to("10.2.0.0/16") },
        nowhere("10.3.0.0/16", RouteKind::Blackhole),
        nowhere("10.4.0.0/16", RouteKind::Unreachable),
        nowhere("fd02::/64", RouteKind::Prohibit),
    ];
    let add: Vec<_> = routes.iter().cloned().map(LinkOp::AddRoute).collect();
    fine(&mut host, &add);
    fine(&mut host, &add);
    let there = host.routes_of_table(1000).unwrap();
    for route in &routes {
        assert!(there.contains(route), "{route} is missing from {there:?}");
    }
    assert!(host.routes().unwrap().iter().all(|r| r.table == RouteEntry::MAIN));
    let del: Vec<_> = routes.iter().cloned().map(LinkOp::DelRoute).collect();
    fine(&mut host, &del);
    fine(&mut host, &del);
    assert_eq!(host.routes_of_table(1000).unwrap(), []);
    let before = host.rules().unwrap();
    let from = Rule { from: Some("10.0.0.2/32".parse().unwrap()), priority: Some(100), ..Rule::new(Family::V4, 1000) };
    let mark = Some(Fwmark { mark: 1, mask: 0xff });
    let six = Rule {
        to: Some("fd00::/64".parse().unwrap()),
        iif: Some(name("eth0")),
        fwmark: mark,
        ..Rule::new(Family::V6, 7)
    };
    let add = [LinkOp::AddRule(from.clone()), LinkOp::AddRule(six.clone())];
    fine(&mut host, &add);
    fine(&mut host, &add);
    let there = host.rules().unwrap();
    assert_eq!(there.len(), before.len() + 2);
    assert!(there.contains(&from));
    assert!(there.contains(&Rule { priority: Some(32765), ..six.clone() }), "{there:?}");
    assert!(said(&host, "ip", "rule show").contains("100:\tfrom 10.0.0.2 lookup 1000"));
    let del = [LinkOp::DelRule(from), LinkOp::DelRule(six)];
    fine(&mut host, &del);
    fine(&mut host, &del);
    assert_eq!(host.rules().unwrap(), before);
}

#[test]
fn traffic_is_shaped_as_tc_sees_it() {
    let Some((mut host, ..)) = host_and_container() else { return };
    let ifb = LinkOp::NewDevice(NewDevice::new(name("ifb7"), DeviceKind::Ifb));
    fine(&mut host, &[veth("rv1", None, None), ifb]);
    let tbf = |rate| Tbf { dev: name("rv1"), rate, burst: 10_000, latency_us: 25_000 };
    let mirror = LinkOp::MirrorIngress { from: name("rv1"), to: name("ifb7") };
    let all = [LinkOp::Tbf(tbf(1_000_000)), LinkOp::Ingress(name("rv1")), mirror];
    fine(&mut host, &all);
    fine(&mut host, &all);
    let faults = host.batch(&[LinkOp::Tbf(tbf(2_000_000))]).unwrap();
    assert_eq!(faults.first().map(|f| f.error.errno), Some(libc::EEXIST));
    let there = host.qdiscs(&name("rv1")).unwrap();
    assert_eq!(there.len(), 2, "{there:?}");
    assert!(there.iter().any(|q| q.tbf.is_some_and(|t| t.is(&tbf(1_000_000)))));
    let told = said(&host, "tc", "qdisc show dev rv1");
    // tc(8) takes the burst off what may wait.
    assert!(told.contains("rate 8Mbit burst 10000b lat 15ms"), "{told}");
    let told = said(&host, "tc", "filter show dev rv1 ingress");
    assert!(told.contains("match 00000000/00000000 at 0"), "{told}");
    assert!(told.contains("mirred (Egress Redirect to device ifb7) stolen"), "{told}");
    let to = host.link(&name("ifb7")).unwrap().unwrap().index;
    assert_eq!(host.ingress_mirrors(&name("rv1")).unwrap(), [to]);
    let del = [QdiscPlace::Root, QdiscPlace::Ingress].map(|place| LinkOp::DelQdisc(name("rv1"), place));
    fine(&mut host, &del);
    fine(&mut host, &del);
    assert_eq!(host.qdiscs(&name("rv1")).unwrap(), []);
    fine(&mut host, &[LinkOp::Tbf(tbf(5_000_000_000))]);
    let there = host.qdiscs(&name("rv1")).unwrap();
    assert_eq!(there[0].tbf.map(|t| t.rate), Some(5_000_000_000));
}
