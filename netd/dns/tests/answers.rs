//! Queries and their answers, without any socket.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use proptest::prelude::*;
use rnet_dns::{Answer, Asker, Directory, Member, Servers, Transport, Zone, answer};
use rnet_model::{EndpointId, NetworkId, Protocol};

const BLUE: u128 = 1;
const RED: u128 = 2;
const INTERNAL: u128 = 3;

fn network(n: u128) -> NetworkId {
    NetworkId::from_bits(n)
}

fn member(names: &[&str], aliases: &[&str], addresses: &[&str]) -> Member {
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    Member {
        names: owned(names),
        aliases: owned(aliases),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ports: vec![(Protocol::Tcp, 80)],
    }
}

/// blue with the domain lab.example and web, db, three workers; red with web and secret; an internal one with vault.
fn directory() -> Directory {
    let d = Directory::new();
    let zone = |name: &str| Zone { name: name.into(), ..Zone::default() };
    d.set_zone(network(BLUE), Zone { domain: Some("Lab.Example".into()), ..zone("blue") });
    d.set_zone(network(RED), Zone { forwards: vec!["192.0.2.53:53".parse().unwrap()], ..zone("red") });
    d.set_zone(network(INTERNAL), Zone { internal: true, ..zone("inner") });
    let add = |n: u128, id: u128, m: Member| d.set_member(network(n), EndpointId::from_bits(id), m);
    add(BLUE, 1, member(&["Web", "0123456789ab"], &["www"], &["10.1.0.2", "fd00:1::2"]));
    add(BLUE, 2, member(&["db"], &[], &["10.1.0.3"]));
    for n in 0..3u128 {
        let address = format!("10.1.0.{}", 10 + n);
        add(BLUE, 10 + n, member(&[&format!("worker{n}")], &["worker"], &[&address]));
    }
    add(BLUE, 20, member(&["api.github"], &[], &["10.1.0.20"]));
    add(RED, 30, member(&["web"], &[], &["10.2.0.2"]));
    add(RED, 31, member(&["secret"], &[], &["10.2.0.3"]));
    add(INTERNAL, 40, member(&["vault"], &[], &["10.3.0.2"]));
    d
}

fn on(networks: &[u128]) -> Asker {
    Asker { networks: networks.iter().map(|n| network(*n)).collect(), upstreams: Vec::new() }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let labels = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes);
    let mut name = Name::from_labels(labels).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message
}

fn ask_at(query: &Message, transport: Transport, asker: &Asker, turn: u32) -> Answer {
    answer(&query.to_vec().unwrap(), transport, asker, &directory(), turn)
}

fn reply(query: &Message, asker: &Asker) -> Message {
    match ask_at(query, Transport::Udp, asker, 0) {
        Answer::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The answers in words, after a look at the header.
fn said(name: &str, kind: RecordType, asker: &Asker) -> Vec<String> {
    let reply = reply(&question(name, kind), asker);
    assert_eq!((reply.metadata.id, reply.metadata.message_type), (0x1234, MessageType::Response));
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available && reply.metadata.recursion_desired);
    assert!(reply.answers.iter().all(|r| r.ttl == rnet_dns::TTL && r.name == reply.queries[0].name().clone()));
    reply.answers.iter().map(|r| r.data.to_string()).collect()
}

fn code(name: &str, kind: RecordType, asker: &Asker) -> ResponseCode {
    reply(&question(name, kind), asker).metadata.response_code
}

fn forwarded(name: &str, asker: &Asker) -> Servers {
    match ask_at(&question(name, RecordType::A), Transport::Udp, asker, 0) {
        Answer::Forward(forward) => forward.servers,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn names_in_all_their_forms() {
    let blue = on(&[BLUE]);
    for name in ["web", "WEB", "wEb.", "0123456789AB", "www", "web.blue", "Web.BLUE.", "web.lab.example.", "www.blue"] {
        assert_eq!(said(name, RecordType::A, &blue), ["10.1.0.2"], "{name}");
        assert_eq!(said(name, RecordType::AAAA, &blue), ["fd00:1::2"], "{name}");
    }
    assert_eq!(said("db", RecordType::AAAA, &blue), [""; 0]);
    for kind in [RecordType::MX, RecordType::TXT, RecordType::SOA, RecordType::NS, RecordType::HTTPS] {
        let reply = reply(&question("web", kind), &blue);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{kind}");
        assert!(reply.answers.is_empty() && reply.authorities.is_empty(), "{kind}: nothing that could be kept");
    }
}

#[test]
fn addresses_have_names() {
    let blue = on(&[BLUE]);
    assert_eq!(said("2.0.1.10.in-addr.arpa.", RecordType::PTR, &blue), ["web.lab.example."]);
    assert_eq!(said("2.0.2.10.in-addr.arpa.", RecordType::PTR, &on(&[RED])), ["web.red."]);
    let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(said(v6, RecordType::PTR, &blue), ["web.lab.example."]);
    assert_eq!(said("2.0.1.10.in-addr.arpa.", RecordType::A, &blue), [""; 0]);
    assert_eq!(forwarded("2.0.2.10.in-addr.arpa.", &blue), Servers::Host, "of a network it is not on");
    assert_eq!(forwarded("1.10.in-addr.arpa.", &blue), Servers::Host, "no whole address");
}

#[test]
fn ports_are_services() {
    let blue = on(&[BLUE]);
    assert_eq!(said("_80._tcp.web", RecordType::SRV, &blue), ["0 0 80 web.lab.example."]);
    assert_eq!(said("_80._TCP.web.blue", RecordType::SRV, &blue), ["0 0 80 web.lab.example."]);
    assert_eq!(said("_80._tcp.worker", RecordType::SRV, &blue).len(), 3);
    assert_eq!(said("_80._tcp.web", RecordType::A, &blue), [""; 0]);
    assert_eq!(code("_80._udp.web", RecordType::SRV, &blue), ResponseCode::NXDomain);
    assert_eq!(code("_81._tcp.web", RecordType::SRV, &blue), ResponseCode::NXDomain);
    let reply = reply(&question("_80._tcp.web", RecordType::SRV), &blue);
    let more: Vec<_> = reply.additionals.iter().map(|r| format!("{} {}", r.name, r.data)).collect();
    assert_eq!(more, ["web.lab.example. 10.1.0.2", "web.lab.example. fd00:1::2"]);
    assert_eq!(forwarded("_ldap._tcp.corp.example", &blue), Servers::Host);
    assert_eq!(forwarded("_80._tcp.nobody.example", &blue), Servers::Host);
}

#[test]
fn one_alias_of_several_takes_turns() {
    let query = question("worker", RecordType::A);
    let first = |turn: u32| match ask_at(&query, Transport::Udp, &on(&[BLUE]), turn) {
        Answer::Reply(bytes) => {
            let reply = Message::from_vec(&bytes).unwrap();
            assert_eq!(reply.answers.len(), 3);
            reply.answers[0].data.to_string()
        }
        other => panic!("{other:?}"),
    };
    let firsts: BTreeSet<String> = (0..3).map(first).collect();
    assert_eq!(firsts.len(), 3);
    assert_eq!(first(0), first(3));
}

#[test]
fn only_shared_networks_are_seen_in_their_order() {
    assert_eq!(said("web", RecordType::A, &on(&[BLUE, RED])), ["10.1.0.2"]);
    assert_eq!(said("web", RecordType::A, &on(&[RED, BLUE])), ["10.2.0.2"]);
    assert_eq!(said("web", RecordType::AAAA, &on(&[RED, BLUE])), ["fd00:1::2"], "where there is one");
    assert_eq!(said("web.red", RecordType::A, &on(&[BLUE, RED])), ["10.2.0.2"]);
    for name in ["secret", "secret.red", "vault", "vault.inner"] {
        assert_eq!(forwarded(name, &on(&[BLUE])), Servers::Host, "{name}");
    }
}

#[test]
fn what_is_not_ours_goes_to_whom_it_should() {
    let given: SocketAddr = "198.51.100.1:53".parse().unwrap();
    for name in ["nobody", "example.com", "web.example.com", "blue", "lab.example", "web.blue.example", "api.github"] {
        assert_eq!(forwarded(name, &on(&[BLUE])), Servers::Host, "{name}");
    }
    let of_network = Servers::Given(vec!["192.0.2.53:53".parse().unwrap()]);
    assert_eq!(forwarded("example.com", &on(&[BLUE, RED])), of_network);
    let own = Asker { upstreams: vec![given], ..on(&[RED]) };
    assert_eq!(forwarded("example.com", &own), Servers::Given(vec![given]));
    assert_eq!(said("api.github.blue", RecordType::A, &on(&[BLUE])), ["10.1.0.20"]);
}

#[test]
fn internal_networks_ask_nobody() {
    let own = |networks| Asker { upstreams: vec!["198.51.100.1:53".parse().unwrap()], ..on(networks) };
    for asker in [on(&[INTERNAL]), own(&[INTERNAL]), own(&[])] {
        assert_eq!(code("nobody", RecordType::A, &asker), ResponseCode::NXDomain);
        assert_eq!(code("example.com", RecordType::A, &asker), ResponseCode::ServFail);
        assert_eq!(code("4.3.2.1.in-addr.arpa", RecordType::PTR, &asker), ResponseCode::ServFail);
    }
    assert_eq!(said("vault", RecordType::A, &on(&[INTERNAL])), ["10.3.0.2"]);
    assert_eq!(forwarded("example.com", &on(&[INTERNAL, BLUE])), Servers::Host);
}

#[test]
fn edns_is_spoken() {
    let with = |version: u8, payload: u16| {
        let mut query = question("web", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(version).set_max_payload(payload);
        query.set_edns(edns);
        query
    };
    let good = reply(&with(0, 1232), &on(&[BLUE]));
    assert_eq!((good.edns.as_ref().unwrap().version(), good.answers.len()), (0, 1));
    assert!(reply(&question("web", RecordType::A), &on(&[BLUE])).edns.is_none());
    let Answer::Reply(bytes) = ask_at(&with(1, 1232), Transport::Udp, &on(&[BLUE]), 0) else { panic!() };
    let bad = Message::from_vec(&bytes).unwrap();
    // 16 has two names.
    assert_eq!(u16::from(bad.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(bad.edns.as_ref().unwrap().version(), 0);
}

#[test]
fn long_answers_are_cut_for_datagrams() {
    let d = directory();
    for n in 0..200u128 {
        let address = format!("10.1.1.{n}");
        d.set_member(network(BLUE), EndpointId::from_bits(1000 + n), member(&[], &["many"], &[&address]));
    }
    let mut query = question("many", RecordType::A);
    let mut sizes = Vec::new();
    for payload in [None, Some(1232), Some(4096)] {
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            query.set_edns(edns);
        }
        let Answer::Reply(bytes) = answer(&query.to_vec().unwrap(), Transport::Udp, &on(&[BLUE]), &d, 7) else {
            panic!()
        };
        let limit = usize::from(payload.unwrap_or(512));
        assert!(bytes.len() <= limit);
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.edns.is_some(), payload.is_some());
        assert_eq!(reply.metadata.truncation, reply.answers.len() < 200);
        assert!(reply.answers.len() == 200 || bytes.len() + 16 > limit, "as much as fits");
        sizes.push(reply.answers.len());
    }
    assert!(sizes[0] > 20 && sizes[0] < sizes[1] && sizes[2] == 200, "{sizes:?}");
    let Answer::Reply(bytes) = answer(&query.to_vec().unwrap(), Transport::Tcp, &on(&[BLUE]), &d, 7) else { panic!() };
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (200, false));
}

#[test]
fn what_is_no_question_of_ours_is_refused() {
    let blue = on(&[BLUE]);
    let mut notify = question("web", RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(reply(&notify, &blue).metadata.response_code, ResponseCode::NotImp);
    let mut chaos = question("version.bind", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(reply(&chaos, &blue).metadata.response_code, ResponseCode::Refused);
    assert_eq!(code("blue", RecordType::AXFR, &blue), ResponseCode::Refused);
    let mut two = question("web", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("db").unwrap(), RecordType::A));
    assert_eq!(reply(&two, &blue).metadata.response_code, ResponseCode::FormErr);
    let none = Message::new(7, MessageType::Query, OpCode::Query);
    assert_eq!(reply(&none, &blue).metadata.response_code, ResponseCode::FormErr);

    let directory = directory();
    let raw = |bytes: &[u8]| answer(bytes, Transport::Udp, &blue, &directory, 0);
    assert_eq!(raw(&[]), Answer::Drop);
    assert_eq!(raw(&[0; 11]), Answer::Drop);
    let mut response = question("web", RecordType::A).to_vec().unwrap();
    response[2] |= 0x80;
    assert_eq!(raw(&response), Answer::Drop, "an answer is never answered");
    let cut = &question("web", RecordType::A).to_vec().unwrap()[..15];
    let Answer::Reply(bytes) = raw(cut) else { panic!() };
    assert_eq!(bytes, [0x12, 0x34, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0], "FORMERR and nothing else");
    // A name that is a pointer to itself.
    let itself = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1];
    let Answer::Reply(bytes) = raw(&itself) else { panic!() };
    assert_eq!(bytes[3] & 15, 1);
}

#[test]
fn members_come_and_go() {
    let d = directory();
    let ask = |name: &str| match answer(
        &question(name, RecordType::A).to_vec().unwrap(),
        Transport::Udp,
        &on(&[BLUE]),
        &d,
        0,
    ) {
        Answer::Reply(bytes) => Message::from_vec(&bytes).unwrap().answers.iter().map(|r| r.data.to_string()).collect(),
        Answer::Forward(_) => vec!["forwarded".to_owned()],
        Answer::Drop => panic!(),
    };
    let before = d.len();
    d.set_member(network(BLUE), EndpointId::from_bits(1), member(&["web"], &["front"], &["10.1.0.9"]));
    assert_eq!(
        (ask("web"), ask("front"), ask("www")),
        (vec!["10.1.0.9".into()], vec!["10.1.0.9".into()], vec!["forwarded".into()])
    );
    d.remove_member(network(BLUE), EndpointId::from_bits(1));
    d.remove_member(network(BLUE), EndpointId::from_bits(1));
    assert_eq!((ask("web"), d.len()), (vec!["forwarded".into()], before - 1));
    d.set_member(NetworkId::from_bits(99), EndpointId::from_bits(1), member(&["web"], &[], &["10.1.0.9"]));
    assert_eq!(ask("web"), ["forwarded"], "no network, no name");
    d.remove_zone(network(BLUE));
    assert_eq!(code_of(&d, "db"), ResponseCode::NXDomain);
}

fn code_of(d: &Directory, name: &str) -> ResponseCode {
    let query = question(name, RecordType::A).to_vec().unwrap();
    match answer(&query, Transport::Udp, &on(&[BLUE]), d, 0) {
        Answer::Reply(bytes) => Message::from_vec(&bytes).unwrap().metadata.response_code,
        other => panic!("{other:?}"),
    }
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9_-]{1,12}", Just("web".to_owned()), Just("blue".to_owned()), Just("_80".to_owned())]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, nothing breaks, and what is said can be read.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600), tcp in any::<bool>()) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        if let Answer::Reply(reply) = answer(&bytes, transport, &on(&[BLUE]), &directory(), 3) {
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            prop_assert!(Message::from_vec(&reply).is_ok());
        }
    }

    /// Queries with a few wrong bytes get further than noise.
    #[test]
    fn nearly_right(
        labels in proptest::collection::vec(label(), 1..5),
        kind in any::<u16>(),
        wrong in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        edns in any::<bool>(),
    ) {
        let mut query = question(&labels.join("."), RecordType::from(kind));
        if edns {
            query.set_edns(Edns::new());
        }
        let mut bytes = query.to_vec().unwrap();
        for (at, byte) in wrong {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        match answer(&bytes, Transport::Udp, &on(&[BLUE]), &directory(), 3) {
            Answer::Reply(reply) => {
                prop_assert_eq!(&reply[..2], &bytes[..2]);
                prop_assert!(reply.len() <= 4096 && Message::from_vec(&reply).is_ok());
            }
            Answer::Forward(forward) => {
                let failure = forward.failure(ResponseCode::ServFail);
                prop_assert!(Message::from_vec(&failure).is_ok());
            }
            Answer::Drop => {}
        }
    }

    /// Other servers' answers cannot break anything either.
    #[test]
    fn any_answer_of_others(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let Answer::Forward(forward) = ask_at(&question("example.com", RecordType::A), Transport::Udp, &on(&[BLUE]), 0)
        else { panic!() };
        let reply = forward.reply(&bytes);
        prop_assert_eq!(&reply[..2], &[0x12, 0x34]);
        prop_assert!(reply.len() <= 600);
    }

    /// Nothing of a network is visible to who is on another alone.
    #[test]
    fn networks_are_strangers(
        names in proptest::collection::vec(label(), 1..20),
        asked in label(),
        suffix in proptest::option::of(label()),
    ) {
        let d = Directory::new();
        for (n, name) in [(1u128, "blue"), (2, "red")] {
            d.set_zone(network(n), Zone { name: name.into(), ..Zone::default() });
        }
        for (at, name) in names.iter().enumerate() {
            let at = u128::try_from(at).unwrap();
            // Even ones are blue's, 10.1.0.0/16; odd ones red's.
            let n = 1 + at % 2;
            let address: IpAddr = format!("10.{n}.0.{at}").parse().unwrap();
            let m = Member { names: vec![name.clone()], addresses: vec![address], ..Member::default() };
            d.set_member(network(n), EndpointId::from_bits(at), m);
        }
        let name = suffix.map_or_else(|| asked.clone(), |s| format!("{asked}.{s}"));
        let query = question(&name, RecordType::ANY).to_vec().unwrap();
        if let Answer::Reply(bytes) = answer(&query, Transport::Tcp, &on(&[BLUE]), &d, 0) {
            for record in Message::from_vec(&bytes).unwrap().answers {
                prop_assert!(record.data.to_string().starts_with("10.1."), "{} is {}", name, record.data);
            }
        }
        for at in 0..names.len() {
            let back = question(&format!("{at}.0.2.10.in-addr.arpa"), RecordType::PTR).to_vec().unwrap();
            prop_assert!(!matches!(answer(&back, Transport::Udp, &on(&[BLUE]), &d, 0), Answer::Reply(_)));
        }
    }
}
