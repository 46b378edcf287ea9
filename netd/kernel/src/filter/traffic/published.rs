//! Ports: who reaches them, and who does not.

use super::super::{Linked, Opened, Redirected};
use super::*;

fn served(bed: &Bed) {
    bed.one.serve("0.0.0.0:80", "one");
    bed.one.serve("[::]:8080", "one");
    bed.two.serve("0.0.0.0:80", "two");
    bed.out.serve("0.0.0.0:53", "out");
    bed.out.serve("0.0.0.0:8080", "out");
}

#[test]
fn a_published_port_is_reached_from_everywhere_by_every_address_of_the_host() {
    let Some(mut bed) = Bed::new() else { return };
    served(&bed);
    bed.with(&[]);
    assert_eq!(bed.out.ask("192.0.2.1:8080"), None, "the twin: nothing is published");
    bed.with(&[published("0.0.0.0", 8080, "10.1.0.2:80"), published("::", 8080, "[fd01::2]:8080")]);
    assert_eq!(bed.out.ask("192.0.2.1:8080").unwrap(), "one 192.0.2.9", "the asker's own address is seen");
    assert_eq!(bed.out.ask("192.0.2.2:8080").unwrap(), "one 192.0.2.9");
    assert_eq!(bed.out.ask("[2001:db8::1]:8080").unwrap(), "one 2001:db8::9");
    assert_eq!(bed.host.ask("192.0.2.1:8080").unwrap(), "one 192.0.2.1", "the host itself");
    assert_eq!(bed.host.ask("[2001:db8::1]:8080").unwrap(), "one 2001:db8::1");
    // From inside: itself, its neighbour, and another, isolated network.
    assert_eq!(bed.one.ask("192.0.2.1:8080").unwrap(), "one 10.1.0.1");
    assert_eq!(bed.two.ask("192.0.2.1:8080").unwrap(), "one 10.1.0.1");
    assert_eq!(bed.two.ask("10.1.0.1:8080").unwrap(), "one 10.1.0.1");
    assert!(bed.two.ask("[2001:db8::1]:8080").unwrap().starts_with("one fd01::1"));
    assert_eq!(bed.three.ask("192.0.2.1:8080").unwrap(), "one 10.2.0.2");
    assert_eq!(bed.three.ask("10.1.0.2:80"), None, "the networks are isolated all the same");
    // What is for other hosts goes there.
    assert_eq!(bed.one.ask("192.0.2.9:8080").unwrap(), "out 192.0.2.1");
}

#[test]
fn one_address_is_one_address_and_port_53_is_not_everybodys() {
    let Some(mut bed) = Bed::new() else { return };
    served(&bed);
    bed.with(&[
        published("192.0.2.2", 81, "10.1.0.2:80"),
        published("0.0.0.0", 82, "10.1.0.2:80"),
        published("192.0.2.2", 82, "10.1.0.3:80"),
        published("0.0.0.0", 53, "10.1.0.3:80"),
    ]);
    assert_eq!(bed.out.ask("192.0.2.2:81").unwrap(), "one 192.0.2.9");
    assert_eq!(bed.out.ask("192.0.2.1:81"), None, "another address");
    assert_eq!(bed.out.ask("192.0.2.2:82").unwrap(), "two 192.0.2.9", "its own address comes first");
    assert_eq!(bed.out.ask("192.0.2.1:82").unwrap(), "one 192.0.2.9");
    assert_eq!(bed.out.ask("192.0.2.1:53").unwrap(), "two 192.0.2.9");
    assert_eq!(bed.one.ask("192.0.2.9:53").unwrap(), "out 192.0.2.1", "others' port 53");
    assert_eq!(bed.host.ask("192.0.2.9:53").unwrap(), "out 192.0.2.1");
    bed.host.ip("address del 192.0.2.2/24 dev eth0");
    bed.host.ip("route add 192.0.2.2 via 192.0.2.9");
    assert_eq!(bed.host.ask("192.0.2.2:81"), None, "an address the host has no more");
}

#[test]
fn what_is_not_published_stays_closed_with_a_route_to_it() {
    let Some(mut bed) = Bed::new() else { return };
    served(&bed);
    bed.out.ip("route add 10.1.0.0/24 via 192.0.2.1");
    bed.out.ip("route add fd01::/64 via 2001:db8::1");
    assert_eq!(bed.out.ask("10.1.0.2:80").unwrap(), "one 192.0.2.9", "the twin: no tables at all");
    assert_eq!(bed.out.ask("[fd01::2]:8080").unwrap(), "one 2001:db8::9", "the twin");
    bed.with(&[published("0.0.0.0", 8080, "10.1.0.2:80")]);
    assert_eq!(bed.out.ask("10.1.0.2:80"), None, "by its own address also what is published");
    assert_eq!(bed.out.ask("[fd01::2]:8080"), None);
    let opened =
        |target: &str| FilterChange::Opened(Opened { protocol: Protocol::Tcp, target: target.parse().unwrap() });
    bed.with(&[opened("10.1.0.2:80"), opened("[fd01::2]:8080")]);
    assert_eq!(bed.out.ask("10.1.0.2:80").unwrap(), "one 192.0.2.9", "opened");
    assert_eq!(bed.out.ask("[fd01::2]:8080").unwrap(), "one 2001:db8::9");
    assert_eq!(bed.three.ask("10.1.0.2:80").unwrap(), "one 10.2.0.2", "from an isolated network too");
    assert_eq!(bed.out.ask("10.1.0.3:80"), None, "and no other");
    let mut internal = vec![opened("10.1.0.2:80"), published("0.0.0.0", 8080, "10.1.0.2:80")];
    internal.push(FilterChange::Device(FilterSet::Internal, "rb0".parse().unwrap()));
    bed.with(&internal);
    assert_eq!(bed.out.ask("10.1.0.2:80"), None, "never of an internal network");
    assert_eq!(bed.out.ask("192.0.2.1:8080"), None);
}

#[test]
fn a_host_that_drops_what_comes_in_closes_its_ports() {
    let Some(mut bed) = Bed::new() else { return };
    served(&bed);
    let ports = [published("0.0.0.0", 8080, "10.1.0.2:80"), published("::", 8080, "[fd01::2]:8080")];
    bed.with(&[&ports[..], &[FilterChange::HostDrops(true)]].concat());
    assert_eq!(bed.out.ask("192.0.2.1:8080"), None);
    assert_eq!(bed.out.ask("[2001:db8::1]:8080").unwrap(), "one 2001:db8::9", "the other family");
    assert_eq!(bed.host.ask("192.0.2.1:8080").unwrap(), "one 192.0.2.1");
    assert_eq!(bed.three.ask("192.0.2.1:8080").unwrap(), "one 10.2.0.2");
    assert_eq!(bed.one.ask("192.0.2.9:8080").unwrap(), "out 192.0.2.1", "answers from outside come in");
    bed.with(&[&ports[..], &[FilterChange::HostDrops(false)]].concat());
    assert_eq!(bed.out.ask("192.0.2.1:8080").unwrap(), "one 192.0.2.9");
    assert_eq!(bed.out.ask("[2001:db8::1]:8080"), None);
}

#[test]
fn loopback_is_the_hosts_own() {
    let Some(mut bed) = Bed::new() else { return };
    served(&bed);
    bed.host.serve("127.0.0.1:40000", "proxy");
    bed.host.serve("[::1]:40000", "proxy");
    let redirected = |host: &str, port| {
        FilterChange::Redirected(Redirected { protocol: Protocol::Tcp, host: ip(host), port, proxy: 40000 })
    };
    bed.out.ip("route add 127.0.0.5/32 via 192.0.2.1 table local");
    let facts = [
        redirected("0.0.0.0", 8080),
        redirected("127.0.0.5", 81),
        redirected("::", 8080),
        published("0.0.0.0", 8080, "10.1.0.2:80"),
    ];
    bed.with(&facts);
    for at in ["127.0.0.1:8080", "127.0.0.9:8080", "127.0.0.5:81"] {
        assert_eq!(bed.host.ask(at).unwrap().split(' ').next(), Some("proxy"), "{at}");
    }
    assert_eq!(bed.host.ask("[::1]:8080").unwrap(), "proxy ::1");
    assert_eq!(bed.host.ask("127.0.0.1:81"), None, "another loopback address");
    let localnet = |dev: &str| {
        let read = || std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{dev}/route_localnet")).unwrap();
        bed.host.ns.run(read).unwrap()
    };
    assert!(["all", "eth0", "rb0", "lo"].iter().all(|dev| localnet(dev).trim() == "0"));
    assert_eq!(bed.out.ask("192.0.2.1:81"), None);
    assert_eq!(bed.one.ask("10.1.0.1:81"), None);
    // A packet for loopback that comes in: nobody sees it, not even the container of a port on every address.
    let (mac, dst) = (mac_of(&bed.out, "eth0"), mac_of(&bed.host, "eth0"));
    let builder = etherparse::PacketBuilder::ethernet2(mac, dst).ipv4([192, 0, 2, 9], [127, 0, 0, 1], 64);
    let mut frame = Vec::new();
    builder.tcp(5555, 8080, 1, 1024).syn().write(&mut frame, &[]).unwrap();
    let (seen, from) = (bed.host.wire("rb0"), bed.out.wire("eth0"));
    from.send(&frame);
    // The marker: the same to an address that is published.
    let builder = etherparse::PacketBuilder::ethernet2(mac, dst).ipv4([192, 0, 2, 9], [192, 0, 2, 1], 64);
    let mut marker = Vec::new();
    builder.tcp(5556, 8080, 1, 1024).syn().write(&mut marker, &[]).unwrap();
    assert_eq!(bed.host.ask("10.1.0.2:80").unwrap(), "one 10.1.0.1", "its hardware address is known by now");
    from.send(&marker);
    let syn = |port: u16| [port.to_be_bytes(), 80_u16.to_be_bytes()].concat();
    assert!(!seen.hears(&syn(5555), &syn(5556)));
}

fn mac_of(station: &Station, dev: &str) -> [u8; 6] {
    let dev = dev.parse().unwrap();
    Route::open(&station.ns).unwrap().link(&dev).unwrap().unwrap().mac.unwrap().octets()
}

#[test]
fn a_network_leaves_with_the_address_it_is_given() {
    let Some(mut bed) = Bed::new() else { return };
    served(&bed);
    bed.with(&[]);
    assert_eq!(bed.one.ask("192.0.2.9:8080").unwrap(), "out 192.0.2.1", "the twin: masqueraded");
    bed.with(&[FilterChange::Outbound("10.1.0.0/24".parse().unwrap(), ip("192.0.2.2"))]);
    assert_eq!(bed.one.ask("192.0.2.9:8080").unwrap(), "out 192.0.2.2");
    assert_eq!(bed.three.ask("192.0.2.9:8080").unwrap(), "out 192.0.2.1");
}

#[test]
fn quiet_ports_hear_nothing_of_each_other_but_what_is_linked() {
    let Some(mut bed) = Bed::new() else { return };
    served(&bed);
    bed.one.serve("0.0.0.0:81", "one");
    let quiet: Vec<FilterChange> = ["p1", "p2"].map(|port| FilterChange::Quiet(port.parse().unwrap())).to_vec();
    let apart = FilterChange::Device(FilterSet::Apart, "rb0".parse().unwrap());
    bed.with(&[]);
    assert_eq!(bed.two.ask("10.1.0.2:80").unwrap(), "one 10.1.0.3", "the twin: not quiet");
    bed.with(&[&quiet[..], std::slice::from_ref(&apart)].concat());
    assert_eq!(bed.two.ask("10.1.0.2:80"), None);
    assert_eq!(bed.two.ask("[fd01::2]:8080"), None);
    assert_eq!(bed.two.ask("192.0.2.9:8080").unwrap(), "out 192.0.2.1", "everybody else is there");
    let link = |from: &str, to: &str, port| {
        FilterChange::Linked(Linked { from: ip(from), to: ip(to), protocol: Protocol::Tcp, port })
    };
    let linked = [link("10.1.0.3", "10.1.0.2", 80), link("fd01::3", "fd01::2", 8080)];
    bed.with(&[&quiet[..], &linked[..], std::slice::from_ref(&apart)].concat());
    assert_eq!(bed.two.ask("10.1.0.2:80").unwrap(), "one 10.1.0.3");
    assert_eq!(bed.two.ask("[fd01::2]:8080").unwrap(), "one fd01::3");
    assert_eq!(bed.two.ask("10.1.0.2:81"), None, "another port");
    assert_eq!(bed.one.ask("10.1.0.3:80"), None, "the other way");
    // By way of the host: a route to the neighbour through the gateway.
    bed.two.ip("route add 10.1.0.2/32 via 10.1.0.1");
    bed.one.ip("route add 10.1.0.3/32 via 10.1.0.1");
    assert_eq!(bed.two.ask("10.1.0.2:81"), None);
    bed.with(&quiet);
    assert_eq!(bed.two.ask("10.1.0.2:81").unwrap(), "one 10.1.0.3", "the twin: nothing is said of the bridge");
    bed.with(&[&quiet[..], &[apart, published("0.0.0.0", 8080, "10.1.0.2:80")]].concat());
    assert!(bed.two.ask("192.0.2.1:8080").unwrap().starts_with("one"), "published is for everybody");
}
