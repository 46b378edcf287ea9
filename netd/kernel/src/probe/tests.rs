//! Over a real bridge, in private namespaces.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::links::{AddressGeneration, LinkOp, NewBridge, NewVeth, Snooping};
use crate::testing::root_or_skip;

fn name(s: &str) -> IfName {
    s.parse().unwrap()
}

fn fine(route: &mut Route, ops: &[LinkOp]) {
    let faults = route.batch(ops).unwrap();
    assert!(faults.is_empty(), "{faults:?}");
}

/// A namespace with bridge br0 and one with eth0 (mac) behind it that has the addresses.
fn owner_behind_a_bridge(mac: MacAddr, addresses: &[&str]) -> (Netns, Netns) {
    let (host, inside) = (Netns::create().unwrap(), Netns::create().unwrap());
    let mut route = Route::open(&host).unwrap();
    let bridge = NewBridge {
        name: name("br0"),
        alias: "x".into(),
        mtu: None,
        mac: None,
        vlan_filtering: false,
        ipv6: AddressGeneration::Off,
        snooping: Snooping::Off,
    };
    let veth = NewVeth {
        name: name("rv1"),
        alias: "x".into(),
        master: Some(name("br0")),
        mtu: 1500,
        peer: name("eth0"),
        mac: None,
        ipv6: AddressGeneration::Off,
        peer_mac: mac,
        netns: Some(inside.clone()),
    };
    fine(&mut route, &[LinkOp::NewBridge(bridge), LinkOp::NewVeth(veth)]);
    let mut ops = vec![LinkOp::Quiet(name("eth0")), LinkOp::Up(name("eth0"))];
    ops.extend(addresses.iter().map(|a| LinkOp::AddAddress(name("eth0"), a.parse().unwrap())));
    fine(&mut Route::open(&inside).unwrap(), &ops);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !route.link(&name("br0")).unwrap().unwrap().carrier || !route.link(&name("rv1")).unwrap().unwrap().carrier {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    (host, inside)
}

#[test]
fn owners_answer_and_free_addresses_do_not() {
    if !root_or_skip() {
        return;
    }
    let mac = "02:00:00:00:00:09".parse().unwrap();
    let (host, inside) = owner_behind_a_bridge(mac, &["10.0.0.2/24", "fd00::2/64"]);
    let ips = |all: &[&str]| -> Vec<IpAddr> { all.iter().map(|ip| ip.parse().unwrap()).collect() };
    // A bridge with the default forward delay does not forward before its port has learned; ask until it does.
    let taken = ips(&["10.0.0.2", "fd00::2"]);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut found;
    loop {
        let start = Instant::now();
        found = probe(&host, &name("br0"), &taken, ProbeTiming::Fast).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "three questions, not a hang");
        if found.len() == 2 || Instant::now() > deadline {
            break;
        }
    }
    found.sort_by_key(|p| p.ip);
    assert_eq!(found, taken.iter().map(|ip| Probe { ip: *ip, mac }).collect::<Vec<_>>());
    let start = Instant::now();
    assert_eq!(probe(&host, &name("br0"), &taken, ProbeTiming::Fast).unwrap().len(), 2);
    let answered = start.elapsed();
    let start = Instant::now();
    assert_eq!(probe(&host, &name("br0"), &ips(&["10.0.0.3", "fd00::3"]), ProbeTiming::Fast).unwrap(), []);
    let free = start.elapsed();
    assert!(free >= Duration::from_millis(300));
    assert!(answered < free);
    let mixed = probe(&host, &name("br0"), &ips(&["fd00::3", "10.0.0.2"]), ProbeTiming::Fast).unwrap();
    assert_eq!(mixed, [Probe { ip: "10.0.0.2".parse().unwrap(), mac }]);
    assert_eq!(probe(&host, &name("none"), &taken, ProbeTiming::Fast).unwrap_err().errno, libc::ENODEV);
    assert_eq!(probe(&inside, &name("lo"), &taken, ProbeTiming::Fast).unwrap_err().errno, libc::EOPNOTSUPP);
    #[allow(clippy::print_stdout)]
    {
        println!("answered in {answered:?}, free after {free:?}");
    }
}

#[test]
fn announcements_arrive() {
    if !root_or_skip() {
        return;
    }
    let mac: MacAddr = "02:00:00:00:00:09".parse().unwrap();
    let (host, inside) = owner_behind_a_bridge(mac, &[]);
    let ips: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    let index = Route::open(&host).unwrap().link(&name("br0")).unwrap().unwrap().index;
    let other = Asker { index, mac: "02:00:00:00:00:01".parse().unwrap() };
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut heard = Vec::new();
    let sockets = host.run(|| vec![other.arp().unwrap(), other.discovery(&ips).unwrap()]).unwrap();
    while heard.len() < 2 && Instant::now() < deadline {
        announce(&inside, &name("eth0"), mac, &ips).unwrap();
        other.listen(&sockets, Instant::now() + Duration::from_millis(200), &ips, &mut heard).unwrap();
    }
    heard.sort_by_key(|p| p.ip);
    assert_eq!(heard, ips.iter().map(|ip| Probe { ip: *ip, mac }).collect::<Vec<_>>());
    assert_eq!(announce(&inside, &name("none"), mac, &ips).unwrap_err().errno, libc::ENODEV);
}

#[test]
fn timings() {
    for chance in [0, 1, 128, 255] {
        let (asks, end) = ProbeTiming::Rfc5227.schedule(chance);
        assert!(asks[0] <= Duration::from_secs(1) && end - asks[2] == Duration::from_secs(2));
        for gap in [asks[1] - asks[0], asks[2] - asks[1]] {
            assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&gap));
        }
    }
    let (asks, end) = ProbeTiming::Fast.schedule(255);
    assert!(asks[2] < end && end <= Duration::from_millis(300));
}
