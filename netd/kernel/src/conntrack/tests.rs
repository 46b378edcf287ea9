#![allow(clippy::unwrap_used)]
//! The real connection tracking: flows made by a client, a host that publishes ports and two containers, and flows made
//! by netlink where only their tuples matter.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::wire::{self, Tuple};
use super::*;
use crate::filter::wire::{NLM_F_CREATE, NLM_F_REQUEST, messages};
use crate::links::NewVeth;
use crate::rules::{
    Address, Chain, ChainKind, Changes, DataType, Element, Expr, Family, Field, Hook, KeyType, Meta, NatFlags, NatKind,
    NatTo, Place, Ports, Rule, Selector, Set, Table,
};
use crate::testing::root_or_skip;
use crate::{LinkOp, Links, NfTables, ProcSys, Route, RouteEntry, RouteKind, Sysctls};

const SOON: Duration = Duration::from_secs(5);
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// A host with a client (`10.1.0.2`, `fd01::2`) and two containers (`10.2.0.2` and `10.3.0.2`, `fd02::2` and `fd03::2`)
/// on a cable each.
struct Stage {
    host: Netns,
    client: Netns,
    containers: [Netns; 2],
    tables: NfTables,
    table: Table,
    maps: [Set; 2],
}

/// The host as the client sees it, and a container.
fn host(v6: bool) -> IpAddr {
    if v6 { "fd01::1" } else { "10.1.0.1" }.parse().unwrap()
}

fn container(v6: bool, number: usize) -> IpAddr {
    if v6 { format!("fd0{}::2", number + 2) } else { format!("10.{}.0.2", number + 2) }.parse().unwrap()
}

impl Stage {
    fn new() -> Option<Self> {
        if !root_or_skip() {
            return None;
        }
        let host = Netns::create().unwrap();
        let all = [1, 2, 3].map(|number| cable(&host, number));
        let mut sysctls = ProcSys::new(&host);
        sysctls.set("net/ipv4/ip_forward", "1").unwrap();
        sysctls.set("net/ipv6/conf/all/forwarding", "1").unwrap();
        let table = Table::new(Family::Inet, "t");
        let maps = [("m", KeyType::Ipv4Addr), ("m6", KeyType::Ipv6Addr)].map(|(name, address)| {
            let data = DataType::Value(vec![address, KeyType::InetService]);
            Set::map(name, &[KeyType::InetProto, KeyType::InetService], data)
        });
        let mut rules = Changes::new();
        rules.ensure_table(&table);
        rules.ensure_chain(&table, Chain::base("pre", ChainKind::Nat, Hook::Prerouting, -100));
        for (map, address) in maps.iter().zip([Address::Ip, Address::Ip6]) {
            let key = vec![Selector::Meta(Meta::L4proto), Selector::Dport];
            let to = NatTo::Map { key, map: map.name.clone(), address, ports: Ports::Mapped };
            rules.ensure_set(&table, map.clone());
            let nat = [Expr::to_local(), Expr::Nat(NatKind::Destination, to, NatFlags::default())];
            rules.add_rule(&table, Rule::new("pre", nat), Place::Last);
        }
        let mut tables = NfTables::open(&host).unwrap();
        tables.commit(&rules, None).unwrap();
        let [client, one, two] = all;
        Some(Stage { host, client, containers: [one, two], tables, table, maps })
    }

    /// Publishes a port of the host as one of a container, and takes back what was published there before, at once.
    fn publish(&mut self, v6: bool, protocol: u8, port: u16, to: (usize, u16)) {
        let map = &self.maps[usize::from(v6)];
        let key = Element::key([Field::Proto(protocol), Field::Port(port)]);
        let data = crate::rules::Data::Value(vec![container(v6, to.0).into(), Field::Port(to.1)]);
        let mut changes = Changes::new();
        changes.destroy_elements(&self.table, map, vec![key.clone()]);
        changes.ensure_elements(&self.table, map, vec![key.clone().data(data.clone())]);
        self.tables.commit(&changes, None).unwrap();
        let there = self.tables.elements(&self.table, map).unwrap();
        let there = there.into_iter().find(|element| element.key == key.key).unwrap();
        assert_eq!(there.data, Some(data));
    }

    /// Servers on a UDP port of both containers.
    fn servers(&self, port: u16) -> [UdpSocket; 2] {
        [0, 1].map(|number| udp(&self.containers[number], SocketAddr::new("::".parse().unwrap(), port)))
    }

    /// A client of a published UDP port.
    fn caller(&self, v6: bool, port: u16) -> UdpSocket {
        let any: IpAddr = if v6 { "::" } else { "0.0.0.0" }.parse().unwrap();
        let socket = udp(&self.client, SocketAddr::new(any, 0));
        socket.connect(SocketAddr::new(host(v6), port)).unwrap();
        socket
    }

    /// What the kernel tracks, a line for each flow.
    fn tracked(&self) -> String {
        self.host.run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack")).unwrap().unwrap()
    }
}

/// A namespace with an address of both families and its default routes through the host.
fn cable(host: &Netns, number: u8) -> Netns {
    let (ns, dev, eth0) = (Netns::create().unwrap(), format!("v{number}").parse().unwrap(), "eth0".parse().unwrap());
    let mac = format!("02:00:00:00:00:0{number}").parse().unwrap();
    let mut outside = Route::open(host).unwrap();
    let veth = NewVeth { netns: Some(ns.clone()), ..NewVeth::new(dev, eth0, mac) };
    let (dev, eth0) = (veth.name.clone(), veth.peer.clone());
    let both =
        |end: u8| [format!("10.{number}.0.{end}/24"), format!("fd0{number}::{end}/64")].map(|a| a.parse().unwrap());
    let mut ops = vec![LinkOp::NewVeth(veth), LinkOp::Up(dev.clone())];
    ops.extend(both(1).map(|address| LinkOp::AddAddress(dev.clone(), address)));
    // A router asks for neighbours of those it forwards for from its link-local address.
    ops.push(LinkOp::AddAddress(dev.clone(), "fe80::1/64".parse().unwrap()));
    assert!(outside.batch(&ops).unwrap().is_empty());
    let mut ops = vec![LinkOp::Up("lo".parse().unwrap()), LinkOp::Up(eth0.clone())];
    ops.extend(both(2).map(|address| LinkOp::AddAddress(eth0.clone(), address)));
    for (all, via) in [("0.0.0.0/0", format!("10.{number}.0.1")), ("::/0", format!("fd0{number}::1"))] {
        ops.push(LinkOp::AddRoute(RouteEntry {
            destination: all.parse().unwrap(),
            via: Some(via.parse().unwrap()),
            dev: eth0.clone(),
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
        }));
    }
    let mut inside = Route::open(&ns).unwrap();
    assert!(inside.batch(&ops).unwrap().is_empty());
    let deadline = Instant::now() + SOON;
    while !inside.link(&eth0).unwrap().unwrap().carrier || !outside.link(&dev).unwrap().unwrap().carrier {
        assert!(Instant::now() < deadline, "no carrier");
        std::thread::yield_now();
    }
    ns
}

fn udp(ns: &Netns, at: SocketAddr) -> UdpSocket {
    let socket = ns.run(|| UdpSocket::bind(at)).unwrap().unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// A question and its answer; that it comes from where the question was sent to is checked by the kernel.
#[track_caller]
fn talk(caller: &UdpSocket, server: &UdpSocket) {
    let mut room = [0; 16];
    caller.send(b"question").unwrap();
    let (length, from) = server.recv_from(&mut room).expect("the question reaches this server");
    assert_eq!(&room[..length], b"question");
    server.send_to(b"answer", from).unwrap();
    let length = caller.recv(&mut room).expect("the answer comes back");
    assert_eq!(&room[..length], b"answer");
}

#[test]
fn a_forgotten_flow_goes_where_the_port_leads_now() {
    let Some(mut stage) = Stage::new() else { return };
    let mut conntrack = Conntrack::open(&stage.host).unwrap();
    for v6 in [false, true] {
        let [one, two] = stage.servers(5353);
        let [moves, stays] = [stage.caller(v6, 53), stage.caller(v6, 54)];
        stage.publish(v6, UDP, 53, (0, 5353));
        stage.publish(v6, UDP, 54, (0, 5353));
        talk(&moves, &one);
        talk(&stays, &one);
        stage.publish(v6, UDP, 53, (1, 5353));
        // This is what flows are forgotten for.
        talk(&moves, &one);
        let published =
            FlowFilter { original_destination: Some(host(v6)), original_port: Some(53), ..FlowFilter::new(UDP) };
        let other = FlowFilter { original_destination: Some(host(!v6)), ..published };
        assert_eq!(conntrack.delete(&FlowFilter { protocol: TCP, ..published }).unwrap(), 0);
        assert_eq!(conntrack.delete(&other).unwrap(), 0);
        assert_eq!(conntrack.delete(&published).unwrap(), 1);
        assert!(!stage.tracked().contains("dport=53 "), "{}", stage.tracked());
        assert!(stage.tracked().contains("dport=54 "), "{}", stage.tracked());
        talk(&moves, &two);
        talk(&stays, &one);
        // By who answers.
        let behind =
            FlowFilter { reply_source: Some(container(v6, 0)), reply_port: Some(5353), ..FlowFilter::new(UDP) };
        assert_eq!(conntrack.delete(&behind).unwrap(), 1);
        assert!(!stage.tracked().contains("dport=54 "), "{}", stage.tracked());
        talk(&moves, &two);
        assert_eq!(conntrack.delete(&published).unwrap(), 1);
        assert_eq!(conntrack.delete(&published).unwrap(), 0);
    }
}

#[test]
fn one_map_translates_both_protocols() {
    let Some(mut stage) = Stage::new() else { return };
    for v6 in [false, true] {
        let [_, server] = stage.servers(5353);
        let any = SocketAddr::new("::".parse().unwrap(), 8080);
        let listeners = [0, 1].map(|n: usize| stage.containers[n].run(|| TcpListener::bind(any)).unwrap().unwrap());
        stage.publish(v6, TCP, 80, (0, 8080));
        stage.publish(v6, UDP, 80, (1, 5353));
        talk(&stage.caller(v6, 80), &server);
        let client = stage.client.clone();
        let call = |port: u16| {
            let to = SocketAddr::new(host(v6), port);
            let stream = client.run(|| TcpStream::connect_timeout(&to, SOON)).unwrap();
            stream.inspect(|stream| stream.set_read_timeout(Some(SOON)).unwrap())
        };
        let answer = |mut stream: TcpStream, listener: &TcpListener| {
            // The connection is there already: the client has it.
            listener.set_nonblocking(true).unwrap();
            let deadline = Instant::now() + SOON;
            let mut accepted = loop {
                match listener.accept() {
                    Ok((accepted, _)) => break accepted,
                    Err(e) => assert!(Instant::now() < deadline, "{e}"),
                }
            };
            accepted.write_all(b"answer").unwrap();
            drop(accepted);
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            assert_eq!(said, "answer");
        };
        answer(call(80).unwrap(), &listeners[0]);
        assert_eq!(call(81).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        stage.publish(v6, TCP, 80, (1, 8080));
        answer(call(80).unwrap(), &listeners[1]);
    }
}

/// A flow that no packet made.
#[derive(Debug, Clone, Copy)]
struct Made {
    original: Tuple,
    reply: Tuple,
    zone: Option<u16>,
}

/// From `client` to a port of the host, translated to a port of a container.
fn made(protocol: u8, client: (IpAddr, u16), port: u16, to: (IpAddr, u16)) -> Made {
    let v6 = client.0.is_ipv6();
    let tuple = |source: (IpAddr, u16), destination: (IpAddr, u16)| Tuple {
        protocol: Some(protocol),
        source: Some(source.0),
        source_port: Some(source.1),
        destination: Some(destination.0),
        destination_port: Some(destination.1),
    };
    Made { original: tuple(client, (host(v6), port)), reply: tuple(to, client), zone: None }
}

fn make(conntrack: &mut Conntrack, flows: &[Made]) {
    for some in flows.chunks(AT_ONCE) {
        let mut request = conntrack.socket.messages();
        for flow in some {
            let family = if flow.original.source.unwrap().is_ipv4() { wire::V4 } else { wire::V6 };
            let at = request.open(wire::NEW, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK, family, 0);
            flow.original.put(&mut request, wire::TUPLE_ORIG);
            flow.reply.put(&mut request, wire::TUPLE_REPLY);
            // CTA_TIMEOUT and CTA_ZONE.
            request.number(7, 600);
            if let Some(zone) = flow.zone {
                request.attr(18, &zone.to_be_bytes());
            }
            request.close(at);
        }
        let mut made = 0;
        conntrack
            .socket
            .exchange(&request, |message| {
                assert_eq!(message.verdict().errno, 0);
                made += 1;
            })
            .unwrap();
        assert_eq!(made, some.len());
    }
}

/// Ports the flows come from, and their zones.
fn left(conntrack: &mut Conntrack, family: u8) -> BTreeSet<u16> {
    let dumped = conntrack.socket.dump_with(
        |request| wire::ask(request, family, &[]),
        |message, all| all.extend(wire::entry(&message).map(|e| e.original().source_port.unwrap())),
    );
    dumped.unwrap().into_iter().collect()
}

#[test]
fn only_what_fits_is_forgotten() {
    if !root_or_skip() {
        return;
    }
    for v6 in [false, true] {
        let family = if v6 { wire::V6 } else { wire::V4 };
        let mut conntrack = Conntrack::open(&Netns::create().unwrap()).unwrap();
        let client: IpAddr = if v6 { "fd01::2" } else { "10.1.0.2" }.parse().unwrap();
        let [one, two] = [container(v6, 0), container(v6, 1)];
        let all = [
            made(UDP, (client, 1), 53, (one, 5353)),
            made(UDP, (client, 2), 53, (two, 5353)),
            made(UDP, (client, 3), 54, (one, 5353)),
            made(UDP, (client, 4), 54, (one, 5454)),
            made(TCP, (client, 5), 53, (one, 5353)),
            made(SCTP, (client, 6), 53, (one, 5353)),
            made(SCTP, (client, 7), 54, (one, 5353)),
            Made { zone: Some(9), ..made(UDP, (client, 8), 55, (one, 5353)) },
            // The same flow in another zone: only one of them is translated to this container.
            Made { zone: Some(9), ..made(UDP, (client, 1), 53, (two, 99)) },
        ];
        make(&mut conntrack, &all);
        let here = FlowFilter { original_destination: Some(host(v6)), ..FlowFilter::new(UDP) };
        let mut gone = |filters: &[FlowFilter], count: usize, rest: &[u16]| {
            assert_eq!(conntrack.delete_any(filters).unwrap(), count, "{filters:?}");
            assert_eq!(left(&mut conntrack, family), rest.iter().copied().collect(), "{filters:?}");
        };
        gone(&[], 0, &[1, 2, 3, 4, 5, 6, 7, 8]);
        gone(&[FlowFilter { original_destination: Some(client), ..here }], 0, &[1, 2, 3, 4, 5, 6, 7, 8]);
        gone(&[FlowFilter { original_destination: Some(host(!v6)), ..here }], 0, &[1, 2, 3, 4, 5, 6, 7, 8]);
        gone(&[FlowFilter { original_port: Some(55), ..here }], 1, &[1, 2, 3, 4, 5, 6, 7]);
        gone(&[FlowFilter { reply_port: Some(99), ..here }], 1, &[1, 2, 3, 4, 5, 6, 7]);
        gone(&[FlowFilter { original_port: Some(53), ..FlowFilter::new(SCTP) }], 1, &[1, 2, 3, 4, 5, 7]);
        gone(&[FlowFilter { reply_port: Some(5454), original_port: Some(54), ..here }], 1, &[1, 2, 3, 5, 7]);
        gone(&[FlowFilter { reply_source: Some(two), ..FlowFilter::new(UDP) }], 1, &[1, 3, 5, 7]);
        // Filters that have nothing in common, and one of the other family.
        let none = FlowFilter { original_destination: Some(host(!v6)), ..here };
        gone(&[FlowFilter::new(TCP), FlowFilter { original_port: Some(54), ..here }, none], 2, &[1, 7]);
        gone(&[FlowFilter::new(UDP), FlowFilter::new(SCTP)], 2, &[]);
    }
}

#[test]
fn one_that_ended_or_came_again_is_left_alone() {
    if !root_or_skip() {
        return;
    }
    let mut conntrack = Conntrack::open(&Netns::create().unwrap()).unwrap();
    let all = [1, 2].map(|port| made(UDP, ("10.1.0.2".parse().unwrap(), port), 53, (container(false, 0), 53)));
    make(&mut conntrack, &all);
    let read = conntrack.read(wire::V4, &[FlowFilter::new(UDP)]).unwrap();
    assert_eq!(conntrack.forget(&read[..1]).unwrap(), 1);
    assert_eq!(conntrack.forget(&read).unwrap(), 1);
    // Another identity with the same tuple.
    make(&mut conntrack, &all);
    let later: Vec<_> = conntrack.read(wire::V4, &[FlowFilter::new(UDP)]).unwrap();
    let earlier: Vec<_> = later.iter().map(|flow| flow.with_id([1, 2, 3, 4])).collect();
    assert_eq!(conntrack.forget(&earlier).unwrap(), 0);
    assert_eq!(left(&mut conntrack, wire::V4), BTreeSet::from([1, 2]));
    assert_eq!(conntrack.forget(&later).unwrap(), 2);
}

/// The times are printed, not judged: machines differ.
#[test]
#[allow(clippy::print_stdout)]
fn among_many_others() {
    if !root_or_skip() {
        return;
    }
    let mut conntrack = Conntrack::open(&Netns::create().unwrap()).unwrap();
    let flows: Vec<Made> = (0..20_000_u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let port = if n % 200 == 7 { 53 } else { 54 };
            made(UDP, ([10, 1, high, low].into(), 1000), port, (container(false, 0), 5353))
        })
        .collect();
    make(&mut conntrack, &flows);
    let published = FlowFilter { original_port: Some(53), ..FlowFilter::new(UDP) };
    // The kernel sends only what was asked for.
    let sent = conntrack.socket.dump_with(
        |request| wire::ask(request, wire::V4, &[published]),
        |message, all| all.extend(wire::entry(&message).map(|e| e.fits(&published))),
    );
    assert_eq!(sent.unwrap(), [true; 100]);
    let mut timed = |filter: &FlowFilter, count: usize| {
        let start = Instant::now();
        assert_eq!(conntrack.delete(filter).unwrap(), count);
        println!("{filter}: {count} of 20000 in {:?}", start.elapsed());
    };
    timed(&FlowFilter { original_port: Some(55), ..published }, 0);
    timed(&published, 100);
    timed(&FlowFilter::new(UDP), 19_900);
}

#[test]
fn filters_read_as_options_of_conntrack() {
    let all = FlowFilter {
        original_destination: Some(host(true)),
        original_port: Some(53),
        reply_source: Some(container(false, 0)),
        reply_port: Some(5353),
        ..FlowFilter::new(SCTP)
    };
    assert_eq!(
        all.to_string(),
        "-p sctp --orig-dst fd01::1 --orig-port-dst 53 --reply-src 10.2.0.2 --reply-port-src 5353"
    );
    assert_eq!(FlowFilter::new(33).to_string(), "-p 33");
}

/// Without a tuple a deletion would be one of all flows.
#[test]
fn an_entry_without_a_tuple_is_none() {
    for kind in [wire::TUPLE_ORIG, wire::TUPLE_REPLY] {
        for empty in [false, true] {
            let mut message = Messages::new(1);
            let at = message.open(wire::NEW, 0, wire::V4, 0);
            let tuple = made(UDP, ([10, 0, 0, 1].into(), 1), 2, ([10, 0, 0, 2].into(), 3)).original;
            tuple.put(&mut message, kind);
            if empty {
                message.attr(wire::TUPLE_ORIG + wire::TUPLE_REPLY - kind, &[]);
            }
            message.close(at);
            assert!(messages(message.bytes()).all(|m| wire::entry(&m).is_none()));
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        tail in proptest::collection::vec(any::<u8>(), 0..300),
        inner in proptest::collection::vec(any::<u8>(), 1..100),
    ) {
        let mut message = Messages::new(1);
        let at = message.open(wire::NEW, 0, wire::V4, 0);
        for kind in [wire::TUPLE_ORIG, wire::TUPLE_REPLY] {
            message.attr(kind, &inner);
        }
        message.close(at);
        let mut datagram = u32::try_from(16 + tail.len()).unwrap().to_ne_bytes().to_vec();
        datagram.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        datagram.extend_from_slice(&tail);
        for bytes in [message.bytes(), &datagram, &tail] {
            for entry in messages(bytes).filter_map(|m| wire::entry(&m)) {
                entry.fits(&FlowFilter::new(UDP));
                let mut request = Messages::new(1);
                wire::delete(&mut request, &entry.flow(), 0);
                prop_assert!(messages(request.bytes()).all(|m| m.attributes().any(|(_, tuple)| !tuple.is_empty())));
            }
        }
    }
}
