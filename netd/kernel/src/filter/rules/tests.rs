#![allow(clippy::unwrap_used)]
//! The real nf_tables, each test in a namespace of its own, and what nft(8) reads there.

use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::filter::wire::{self, Messages};
use crate::testing;
use crate::{Netns, NfTables};

fn nft(ns: &Netns, words: &[&str]) -> String {
    let output = ns.run(|| Command::new("nft").args(words).output().unwrap()).unwrap();
    assert!(output.status.success(), "nft {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn published(name: &str, address: KeyType) -> Set {
    let data = DataType::Value(vec![address, KeyType::InetService]);
    Set::map(name, &[KeyType::InetProto, KeyType::InetService], data)
}

fn to(map: &str, address: Address) -> NatTo {
    let key = vec![Selector::Meta(Meta::L4proto), Selector::Dport];
    NatTo::Map { key, map: map.to_owned(), address, ports: Ports::Mapped }
}

fn port(protocol: u8, port: u16) -> Element {
    Element::key([Field::Proto(protocol), Field::Port(port)])
}

fn at(address: &str, port: u16) -> Data {
    Data::Value(vec![address.parse::<std::net::IpAddr>().unwrap().into(), Field::Port(port)])
}

fn name(text: &str) -> Field {
    Field::Ifname(text.parse().unwrap())
}

fn accept() -> Expr {
    Expr::Verdict(Verdict::Accept)
}

fn full() -> (Table, Changes) {
    let t = Table::new(Family::Inet, "t");
    let mut all = Changes::new();
    all.ensure_table(&t);
    let m = Set { comment: Some("published".into()), ..published("m", KeyType::Ipv4Addr) };
    let m6 = published("m6", KeyType::Ipv6Addr);
    let nets = Set::new("nets", &[KeyType::Ipv4Addr]).intervals();
    let pip = Set::new("pip", &[KeyType::Ipv4Addr, KeyType::InetService]).intervals();
    let mac = Set::new("mac", &[KeyType::EtherAddr, KeyType::Ifname]);
    let vm = Set::map("vm", &[KeyType::Ifname], DataType::Verdict);
    let mk = Set::new("mk", &[KeyType::Mark]);
    for set in [&m, &m6, &nets, &pip, &mac, &vm, &mk] {
        all.ensure_set(&t, set.clone());
    }
    all.ensure_chain(&t, Chain::plain("other"));
    all.ensure_chain(&t, Chain::base("pre", ChainKind::Nat, Hook::Prerouting, -100));
    all.ensure_chain(&t, Chain::base("post", ChainKind::Nat, Hook::Postrouting, 100));
    all.ensure_chain(&t, Chain::base("forw", ChainKind::Filter, Hook::Forward, 0));
    let web = port(6, 80).data(at("10.0.0.2", 8080)).comment("web");
    all.ensure_elements(&t, &m, vec![web, port(17, 53).data(at("10.0.0.3", 5353))]);
    all.ensure_elements(&t, &m6, vec![port(6, 80).data(at("fd00::2", 8080))]);
    let ten = Element::prefix(&"10.0.0.0/8".parse().unwrap()).comment("ten");
    let few = Element {
        upto: Some(vec![Field::Ipv4([192, 168, 1, 9].into())]),
        ..Element::key([Field::Ipv4([192, 168, 1, 0].into())])
    };
    all.ensure_elements(&t, &nets, vec![ten, few, Element::prefix(&"255.0.0.0/8".parse().unwrap())]);
    all.ensure_elements(
        &t,
        &pip,
        vec![Element {
            upto: Some(vec![Field::Ipv4([10, 255, 255, 255].into()), Field::Port(90)]),
            ..Element::key([Field::Ipv4([10, 0, 0, 0].into()), Field::Port(80)]).comment("x")
        }],
    );
    all.ensure_elements(&t, &mac, vec![Element::key([Field::Ether([2, 0, 0, 0, 0, 1]), name("eth0")])]);
    all.ensure_elements(&t, &mk, vec![Element::key([Field::Mark(0x10)])]);
    let jump = Data::Verdict(Verdict::Jump("other".into()));
    all.ensure_elements(&t, &vm, vec![Element::key([name("br0")]).data(jump)]);
    for rule in rules() {
        all.add_rule(&t, rule, Place::Last);
    }
    (t, all)
}

fn rules() -> Vec<Rule> {
    let (saddr, daddr) = (Selector::Ip(Ip::Saddr), Selector::Ip(Ip::Daddr));
    let (mark, none) = (Selector::Meta(Meta::Mark), NatFlags::default());
    let v4 = |a: [u8; 4]| Field::Ipv4(a.into());
    let dnat = |map, family| Expr::Nat(NatKind::Destination, to(map, family), none);
    let snat = NatTo::Fixed([1, 2, 3, 5].into(), Some((1024, 2000)));
    let post = |exprs: Vec<Expr>| Rule::new("post", exprs);
    let forw = |exprs: Vec<Expr>| Rule::new("forw", exprs);
    let in_original = Ct::Ip4(TupleOf::Original, Ip::Daddr);
    let tcp = Expr::is(Selector::Meta(Meta::L4proto), Field::Proto(6));
    vec![
        Rule::new("other", [Expr::Counter, Expr::Verdict(Verdict::Return)]),
        Rule::new("pre", [Expr::to_local(), dnat("m", Address::Ip)]).comment("dnat it"),
        Rule::new("pre", [Expr::is(Selector::FibDaddrType(Fib::Iif), Field::Mark(2)), accept()]),
        Rule::new("pre", [Expr::to_local(), dnat("m6", Address::Ip6)]),
        post(vec![
            Expr::In(vec![saddr], "nets".into()),
            Expr::Masquerade(NatFlags { random: true, persistent: true, ..none }),
        ]),
        post(vec![
            Expr::Match(saddr, Test::Within("10.1.0.0/20".parse().unwrap())),
            Expr::Match(daddr, Test::Not(v4([10, 2, 3, 4]))),
            Expr::Masquerade(NatFlags { fully_random: true, ..none }),
        ]),
        post(vec![
            Expr::Match(Selector::Ip6(Ip::Saddr), Test::Within("fd00::/64".parse().unwrap())),
            Expr::Masquerade(none),
        ]),
        post(vec![
            Expr::Match(mark, Test::Bits { mask: 0x2000, wanted: 0x2000 }),
            Expr::SetMark { of: MarkOf::Packet, mask: !0x2000, xor: 0 },
        ]),
        post(vec![
            Expr::is(daddr, v4([1, 2, 3, 4])),
            tcp.clone(),
            Expr::Match(Selector::Dport, Test::Between(Field::Port(80), Field::Port(90))),
            Expr::Nat(NatKind::Source, snat, none),
        ]),
        forw(vec![Expr::Vmap(vec![Selector::Meta(Meta::Iifname)], "vm".into())]),
        forw(vec![Expr::Match(Selector::Ct(Ct::State), Test::AnyOf(Ct::ESTABLISHED | Ct::RELATED)), accept()]),
        forw(vec![Expr::Match(Selector::Ct(Ct::Status), Test::AnyOf(Ct::DNAT)), accept()]),
        forw(vec![Expr::is(Selector::Ct(Ct::Mark), Field::Mark(5)), accept()]),
        forw(vec![Expr::is(Selector::Ct(Ct::Direction), Field::Byte(0)), accept()]),
        forw(vec![
            tcp.clone(),
            Expr::is(Selector::Ct(in_original), v4([1, 2, 3, 4])),
            Expr::is(Selector::Ct(Ct::ProtoDst(TupleOf::Original)), Field::Port(80)),
            accept(),
        ]),
        forw(vec![Expr::Match(Selector::Meta(Meta::Iifname), Test::StartsWith("cali".into())), accept()]),
        forw(vec![Expr::Limit(Limit { rate: 10, per: Unit::Second, burst: 6 }), accept()]),
        forw(vec![Expr::Reject(Reject::AdminProhibited)]),
        forw(vec![tcp, Expr::is(Selector::Dport, Field::Port(99)), Expr::Reject(Reject::TcpReset)]),
        forw(vec![Expr::SetMark { of: MarkOf::Packet, mask: 0, xor: 0x10 }]),
        forw(vec![Expr::CopyMark(MarkOf::Connection)]),
        forw(vec![Expr::is(Selector::Meta(Meta::Pkttype), Field::Byte(1)), accept()]),
        forw(vec![Expr::is(Selector::Meta(Meta::Protocol), Field::EtherType(0x0800)), accept()]),
        forw(vec![Expr::NotIn(vec![Selector::Ip(Ip::Saddr), Selector::Dport], "pip".into()), accept()]),
        forw(vec![
            Expr::is(Selector::Meta(Meta::Iifname), name("x")),
            Expr::is(Selector::Meta(Meta::Oifname), name("y")),
            accept(),
        ]),
    ]
}

/// What nft(8) must say, without the white space that its versions differ in.
const LISTED: [&str; 37] = [
    "type inet_proto . inet_service : ipv4_addr . inet_service",
    "comment \"published\"",
    "tcp . 80 comment \"web\" : 10.0.0.2 . 8080",
    "udp . 53 : 10.0.0.3 . 5353",
    "tcp . 80 : fd00::2 . 8080",
    "10.0.0.0/8 comment \"ten\", 192.168.1.0-192.168.1.9, 255.0.0.0/8",
    "10.0.0.0/8 . 80-90 comment \"x\"",
    "02:00:00:00:00:01 . \"eth0\"",
    "\"br0\" : jump other",
    "elements = { 0x00000010 }",
    "type nat hook prerouting priority dstnat; policy accept;",
    "type nat hook postrouting priority srcnat; policy accept;",
    "counter packets 0 bytes 0 return",
    "fib daddr type local dnat ip to meta l4proto . th dport map @m comment \"dnat it\"",
    "fib daddr . iif type local accept",
    "fib daddr type local dnat ip6 to meta l4proto . th dport map @m6",
    "ip saddr @nets masquerade random,persistent",
    "ip saddr 10.1.0.0/20 ip daddr != 10.2.3.4 masquerade fully-random",
    "ip6 saddr fd00::/64 masquerade",
    "meta mark & 0x00002000 == 0x00002000 meta mark set meta mark & 0xffffdfff",
    "ip daddr 1.2.3.4 tcp dport 80-90 snat ip to 1.2.3.5:1024-2000",
    "iifname vmap @vm",
    "ct state established,related accept",
    "ct status dnat accept",
    "ct mark 0x00000005 accept",
    "ct direction original accept",
    "ct original ip daddr 1.2.3.4 ct original proto-dst 80 accept",
    "iifname \"cali*\" accept",
    "limit rate 10/second burst 6 packets accept",
    "reject with icmpx admin-prohibited",
    "tcp dport 99 reject with tcp reset",
    "meta mark set 0x00000010",
    "ct mark set meta mark",
    "meta pkttype broadcast accept",
    "meta protocol ip accept",
    "ip saddr . th dport != @pip accept",
    "iifname \"x\" oifname \"y\" accept",
];

#[test]
fn nft_reads_what_was_meant() {
    if !testing::nft_or_skip() {
        return;
    }
    let ns = Netns::create().unwrap();
    let mut tables = NfTables::open(&ns).unwrap();
    let (t, all) = full();
    assert!(!tables.table_exists(&t).unwrap());
    tables.commit(&all, None).unwrap();
    let listed = nft(&ns, &["list", "table", "inet", "t"]);
    let joined = listed.split_whitespace().collect::<Vec<_>>().join(" ");
    let missing: Vec<_> = LISTED.iter().filter(|line| !joined.contains(*line)).collect();
    assert!(missing.is_empty(), "{missing:#?} in\n{listed}");
    assert!(tables.table_exists(&t).unwrap());
    // What is printed is what nft(8) makes the same table of, but for the words of reading only.
    let other = Netns::create().unwrap();
    let script = std::env::temp_dir().join(format!("rnet-rules-{}", std::process::id()));
    std::fs::write(&script, all.to_string() + "\n").unwrap();
    nft(&other, &["-f", script.to_str().unwrap()]);
    std::fs::remove_file(&script).unwrap();
    assert_eq!(nft(&other, &["list", "table", "inet", "t"]).lines().count(), listed.lines().count());
}

#[test]
fn what_was_written_is_read_back() {
    if !testing::root_or_skip() {
        return;
    }
    let ns = Netns::create().unwrap();
    let mut tables = NfTables::open(&ns).unwrap();
    let (t, all) = full();
    tables.commit(&all, None).unwrap();
    for change in all.list() {
        let Change::EnsureElements(_, set, elements) = change else { continue };
        let mut read = tables.elements(&t, set).unwrap();
        let mut wanted = elements.clone();
        read.sort_by(|a, b| a.key.cmp(&b.key));
        wanted.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(read, wanted, "{}", set.name);
        assert!(tables.any_element(&t, &set.name).unwrap());
        for element in elements {
            let got = tables.get_element(&t, set, &element.key).unwrap().unwrap();
            assert_eq!((&got.key, &got.data, &got.comment), (&element.key, &element.data, &element.comment));
        }
        let mut gone = Changes::new();
        gone.destroy_elements(&t, set, elements.clone());
        tables.commit(&gone, None).unwrap();
        tables.commit(&gone, None).unwrap();
        assert_eq!(tables.elements(&t, set).unwrap(), [], "{}", set.name);
        assert!(!tables.any_element(&t, &set.name).unwrap(), "{}", set.name);
        assert_eq!(tables.get_element(&t, set, &elements[0].key).unwrap(), None);
    }
    let chains = tables.chains(&t).unwrap();
    let pre = chains.iter().find(|chain| chain.name == "pre").unwrap();
    let base =
        Base { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -100, policy: Policy::Accept, device: None };
    assert_eq!((chains.len(), &pre.base, pre.uses), (4, &Some(base), 3));
    let rules = tables.rules(&t, "pre").unwrap();
    assert_eq!(rules.iter().map(|r| r.comment.as_deref()).collect::<Vec<_>>(), [Some("dnat it"), None, None]);
    // Places and removal by handle.
    let mark = |n: &str| Rule::new("pre", [Expr::Counter]).comment(n);
    let mut change = Changes::new();
    change.add_rule(&t, mark("first"), Place::First);
    change.add_rule(&t, mark("before"), Place::Before(rules[2].handle));
    change.add_rule(&t, mark("after"), Place::After(rules[0].handle));
    change.destroy_rule(&t, "pre", rules[1].handle).destroy_rule(&t, "pre", 9999);
    tables.commit(&change, None).unwrap();
    let comments: Vec<_> = tables.rules(&t, "pre").unwrap().into_iter().map(|r| r.comment).collect();
    let words = |list: &[Option<&str>]| list.iter().map(|w| w.map(str::to_owned)).collect::<Vec<_>>();
    assert_eq!(comments, words(&[Some("first"), Some("dnat it"), Some("after"), Some("before"), None]));
    let mut gone = Changes::new();
    gone.flush_chain(&t, "forw").destroy_chain(&t, "forw").destroy_set(&t, "vm").destroy_set(&t, "nothing");
    tables.commit(&gone, None).unwrap();
    assert_eq!(tables.chains(&t).unwrap().len(), 3);
    let mut gone = Changes::new();
    gone.destroy_table(&t).ensure_table(&t).destroy_table(&t);
    tables.commit(&gone, None).unwrap();
    assert!(!tables.table_exists(&t).unwrap());
    gone = Changes::new();
    gone.destroy_table(&t).destroy_chain(&t, "pre").destroy_rule(&t, "pre", 1);
    gone.destroy_elements(&t, &published("m", KeyType::Ipv4Addr), vec![port(6, 80)]);
    tables.commit(&gone, None).unwrap();
}

#[test]
fn all_or_none() {
    if !testing::root_or_skip() {
        return;
    }
    let ns = Netns::create().unwrap();
    let mut tables = NfTables::open(&ns).unwrap();
    let (t, mut all) = full();
    all.add_rule(&t, Rule::new("nowhere", [Expr::Counter]), Place::Last);
    all.ensure_chain(&t, Chain::plain("later"));
    let error = tables.commit(&all, None).unwrap_err();
    assert_eq!((error.errno, error.operation.as_str()), (libc::ENOENT, "add rule inet t nowhere counter"));
    assert!(!tables.table_exists(&t).unwrap());
    // Another generation, or the right one.
    let read = tables.generation().unwrap();
    let mut one = Changes::new();
    one.ensure_table(&t);
    assert_eq!(tables.commit(&one, Some(read.wrapping_add(7))).unwrap_err().errno, 85);
    assert!(!tables.table_exists(&t).unwrap());
    tables.commit(&one, Some(read)).unwrap();
    tables.commit(&one, None).unwrap();
    // What cannot be said.
    let map = published("m", KeyType::Ipv4Addr);
    for element in [port(6, 80), Element::key([Field::Port(1)]), port(6, 1).data(at("::1", 1))] {
        let mut wrong = Changes::new();
        wrong.ensure_set(&t, map.clone()).ensure_elements(&t, &map, vec![element]);
        assert_eq!(tables.commit(&wrong, None).unwrap_err().errno, libc::EINVAL);
    }
    let mut wrong = Changes::new();
    wrong.add_rule(&t, Rule::new("pre", [Expr::is(Selector::Dport, Field::Mark(1))]), Place::Last);
    assert!(tables.commit(&wrong, None).unwrap_err().text.unwrap().contains("2 bytes"));
}

#[test]
fn rules_of_others_are_read() {
    if !testing::nft_or_skip() {
        return;
    }
    let ns = Netns::create().unwrap();
    nft(&ns, &["add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; }"]);
    nft(&ns, &["add rule ip filter FORWARD ct count over 5 log prefix \"x\" drop comment \"theirs\""]);
    let words = "-t filter -A FORWARD -p tcp -m multiport --dports 1,2 -m comment --comment old -j ACCEPT";
    let iptables = || Command::new("iptables-nft").args(words.split(' ')).output().map(|o| o.status.success());
    let compat = ns.run(iptables).unwrap().unwrap_or(false);
    let rules = NfTables::open(&ns).unwrap().rules(&Table::new(Family::Ip, "filter"), "FORWARD").unwrap();
    assert_eq!(rules.len(), 1 + usize::from(compat));
    assert_eq!(rules[0].comment.as_deref(), Some("theirs"));
    assert!(rules.iter().all(|rule| rule.handle > 0));
}

#[test]
fn other_families() {
    if !testing::nft_or_skip() {
        return;
    }
    let ns = Netns::create().unwrap();
    let mut tables = NfTables::open(&ns).unwrap();
    let (bridge, netdev) = (Table::new(Family::Bridge, "b"), Table::new(Family::Netdev, "n"));
    let mut all = Changes::new();
    all.ensure_table(&bridge).ensure_table(&netdev);
    all.ensure_chain(&bridge, Chain::base("pre", ChainKind::Filter, Hook::Prerouting, -300));
    let mut ingress = Chain::base("in", ChainKind::Filter, Hook::Ingress, 0);
    ingress.base.as_mut().unwrap().device = Some("lo".parse().unwrap());
    all.ensure_chain(&netdev, ingress);
    let mac = Test::Not(Field::Ether([2, 0, 0, 0, 0, 1]));
    let from = Expr::Match(Selector::Ether(Ether::Saddr), mac);
    let spoof = [Expr::is(Selector::Meta(Meta::Iifname), name("veth0")), from, Expr::Verdict(Verdict::Drop)];
    all.add_rule(&bridge, Rule::new("pre", spoof).comment("spoof"), Place::Last);
    tables.commit(&all, None).unwrap();
    let listed = nft(&ns, &["list", "ruleset"]);
    let rule = "iifname \"veth0\" ether saddr != 02:00:00:00:00:01 drop comment \"spoof\"";
    for words in [rule, "type filter hook prerouting priority dstnat", "hook ingress device \"lo\" priority filter"] {
        assert!(listed.contains(words), "{words} in {listed}");
    }
    let base = tables.chains(&netdev).unwrap().remove(0).base.unwrap();
    assert_eq!((base.hook, base.device.unwrap().as_str()), (Hook::Ingress, "lo"));
}

/// The time of one commit is printed, not judged: machines differ.
#[test]
#[allow(clippy::print_stdout)]
fn a_commit_is_one_exchange() {
    if !testing::root_or_skip() {
        return;
    }
    let ns = Netns::create().unwrap();
    let mut tables = NfTables::open(&ns).unwrap();
    let (t, all) = full();
    tables.commit(&all, None).unwrap();
    let m = published("m", KeyType::Ipv4Addr);
    let mut times: Vec<std::time::Duration> = (1000_u16..1100)
        .map(|n| {
            let mut five = Changes::new();
            five.ensure_table(&t).ensure_set(&t, m.clone());
            five.ensure_elements(&t, &m, vec![port(6, n).data(at("10.0.0.2", n))]);
            five.ensure_elements(&t, &m, vec![port(17, n).data(at("10.0.0.2", n))]);
            five.ensure_chain(&t, Chain::plain("other"));
            let start = std::time::Instant::now();
            tables.commit(&five, None).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("median of 5 changes: {:?}", times[times.len() / 2]);
    assert_eq!(tables.elements(&t, &m).unwrap().len(), 202);
}

/// A transaction as `nft --debug=mnl` shows it: begin, one interval of one set, end.
#[test]
fn a_transaction_byte_for_byte() {
    let mut batch = Messages::new(7);
    batch.begin(Some(0x0102_0304));
    let set = Set::new("s", &[KeyType::Ipv4Addr]).intervals();
    let element = Element::key([Field::Ipv4([10, 0, 0, 1].into())]);
    encode::elements(&mut batch, wire::Verb::NewSetElem, &Table::new(Family::Inet, "t"), &set, &[element]).unwrap();
    batch.end();
    #[rustfmt::skip]
    let expected: &[u8] = &[
        28, 0, 0, 0, 0x10, 0, 0x01, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 8, 0, 1, 0, 1, 2, 3, 4,
        80, 0, 0, 0, 12, 10, 0x05, 4, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,
        6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 2, 0, b's', 0, 0, 0,
        44, 0, 3, 0x80, 16, 0, 1, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 10, 0, 0, 1,
        24, 0, 1, 0x80, 8, 0, 3, 0, 0, 0, 0, 1, 12, 0, 1, 0x80, 8, 0, 1, 0, 10, 0, 0, 2,
        20, 0, 0, 0, 0x11, 0, 0x01, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10,
    ];
    assert_eq!(batch.bytes(), expected);
}

/// One rule byte for byte: what `nft --debug=mnl` shows, with the register by its 32 bit name (8 for 1).
#[test]
fn a_rule_byte_for_byte() {
    let mut out = Messages::new(1);
    let rule = Rule::new("c", [Expr::is(Selector::Meta(Meta::L4proto), Field::Proto(6))]).comment("x");
    encode::change(&mut out, &Change::AddRule(Table::new(Family::Inet, "t"), rule, Place::Last)).unwrap();
    #[rustfmt::skip]
    let expected: &[u8] = &[
        128, 0, 0, 0, 6, 10, 0x01, 0x0c, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,
        6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 2, 0, b'c', 0, 0, 0,
        84, 0, 4, 0x80,
        36, 0, 1, 0x80, 9, 0, 1, 0, b'm', b'e', b't', b'a', 0, 0, 0, 0,
        20, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 8, 8, 0, 2, 0, 0, 0, 0, 16,
        44, 0, 1, 0x80, 8, 0, 1, 0, b'c', b'm', b'p', 0,
        32, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 8, 8, 0, 2, 0, 0, 0, 0, 0,
        12, 0, 3, 0x80, 5, 0, 1, 0, 6, 0, 0, 0,
        8, 0, 7, 0, 0, 2, b'x', 0,
    ];
    assert_eq!(out.bytes(), expected);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut datagram = u32::try_from(16 + tail.len()).unwrap().to_ne_bytes().to_vec();
        datagram.extend_from_slice(&[12, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        datagram.extend_from_slice(&tail);
        let nets = Set::new("n", &[KeyType::Ipv4Addr]).intervals();
        for message in wire::messages(&datagram).chain(wire::messages(&tail)) {
            for set in [&nets, &published("m", KeyType::Ipv4Addr)] {
                decode::whole(decode::halves(&message, set), set);
            }
            decode::chain(&message, Family::Netdev);
            decode::rule(&message, "c");
            decode::has_element(&message);
            message.verdict();
        }
    }
}
