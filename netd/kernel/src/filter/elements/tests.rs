#![allow(clippy::unwrap_used)]
//! The real nf_tables, each test in a namespace of its own.

use std::process::Command;

use std::net::SocketAddr;
use std::time::Instant;

use rnet_model::Protocol;

use super::*;
use crate::filter::{FilterSet, Guard, Linked, Opened, Published, Redirected};
use crate::testing;

fn devices(set: FilterSet, names: &[&str]) -> Vec<FilterChange> {
    names.iter().map(|n| FilterChange::Device(set, n.parse().unwrap())).collect()
}

fn nets(texts: &[&str]) -> Vec<FilterChange> {
    texts.iter().map(|t| FilterChange::Masquerade(t.parse().unwrap())).collect()
}

fn nft(ns: &Netns, words: &str) -> String {
    let run = || Command::new("nft").args(words.split_whitespace()).output().unwrap();
    let output = ns.run(run).unwrap();
    assert!(output.status.success(), "nft {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn state(filter: &mut Nft) -> Vec<FilterChange> {
    filter.state().unwrap().into_iter().collect()
}

fn filter() -> Option<(Netns, Nft)> {
    let ns = testing::nft_or_skip().then(|| Netns::create().unwrap())?;
    let nft = Nft::new(&ns, "rnet");
    Some((ns, nft))
}

/// Whether the kernel knows owners of tables: whether a flush by somebody else leaves the table there.
fn owned(ns: &Netns) -> bool {
    nft(ns, "flush ruleset");
    nft(ns, "list tables").contains("table inet rnet")
}

fn published(host: &str, port: u16, target: &str) -> FilterChange {
    let (host, target) = (host.parse().unwrap(), target.parse().unwrap());
    FilterChange::Published(Published { protocol: Protocol::Tcp, host, port, target })
}

/// One of every kind, in its one form.
fn everything() -> FilterState {
    let guard = |port: &str, mac: &str, addresses: &[&str]| {
        let addresses = addresses.iter().map(|text| text.parse().unwrap());
        FilterChange::Guard(Guard::new(port.parse().unwrap(), mac.parse().unwrap(), addresses))
    };
    let redirected = |host: &str| {
        let host = host.parse().unwrap();
        FilterChange::Redirected(Redirected { protocol: Protocol::Udp, host, port: 53, proxy: 40000 })
    };
    let opened = |target: &str| {
        FilterChange::Opened(Opened { protocol: Protocol::Sctp, target: target.parse::<SocketAddr>().unwrap() })
    };
    let linked = |from: &str, to: &str| {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        FilterChange::Linked(Linked { from, to, protocol: Protocol::Tcp, port: 5432 })
    };
    let outbound = |net: &str, to: &str| FilterChange::Outbound(net.parse().unwrap(), to.parse().unwrap());
    [
        devices(FilterSet::Networks, &["br1", "a-name-of-15-by"]),
        devices(FilterSet::Isolated, &["br1"]),
        devices(FilterSet::Internal, &["br2"]),
        devices(FilterSet::Apart, &["br1"]),
        nets(&["10.0.0.0/8", "10.1.0.0/16", "192.168.5.0/24", "fd00::/64", "255.255.255.0/24"]),
        vec![
            outbound("10.0.0.0/8", "192.0.2.1"),
            outbound("10.1.0.0/16", "192.0.2.2"),
            outbound("fd00::/64", "2001:db8::1"),
            published("0.0.0.0", 80, "10.0.0.2:8080"),
            published("192.0.2.1", 80, "10.0.0.3:8080"),
            published("::", 80, "[fd00::2]:8080"),
            published("2001:db8::1", 80, "[fd00::3]:8080"),
            redirected("0.0.0.0"),
            redirected("127.0.0.5"),
            redirected("::"),
            redirected("::1"),
            opened("10.0.0.2:80"),
            opened("[fd00::2]:80"),
            FilterChange::HostDrops(true),
            FilterChange::HostDrops(false),
            guard("rn1", "02:00:00:00:00:01", &["10.0.0.2", "fd00::2"]),
            guard("rn2", "02:00:00:00:00:02", &[]),
            FilterChange::Quiet("rn1".parse().unwrap()),
            linked("10.0.0.2", "10.0.0.3"),
            linked("fd00::2", "fd00::3"),
        ],
    ]
    .concat()
    .into_iter()
    .collect()
}

/// Whether some of its elements are in the table of ports.
fn of_ports(fact: &FilterChange) -> bool {
    matches!(fact, FilterChange::Guard(_) | FilterChange::Quiet(_) | FilterChange::Linked(_))
}

#[test]
fn tables_are_made_once_and_again_when_they_are_not_right() {
    let Some((ns, mut filter)) = filter() else { return };
    for (add, remove) in [(nets(&["10.0.0.0/24"]), vec![]), (vec![FilterChange::HostDrops(true)], vec![])] {
        assert_eq!(filter.change(&add, &remove).unwrap_err().errno, libc::ENOENT, "no table yet");
        assert_eq!(filter.change(&remove, &add).unwrap_err().errno, libc::ENOENT, "no table yet");
    }
    assert!(filter.ensure_base().unwrap());
    assert!(!filter.ensure_base().unwrap());
    let wanted = everything();
    assert!(filter.settle(&wanted).unwrap());
    assert!(!filter.touched().unwrap());
    filter.change(&[], &devices(FilterSet::Networks, &["br1"])).unwrap();
    filter.change(&devices(FilterSet::Networks, &["br1"]), &[]).unwrap();
    assert!(!filter.touched().unwrap(), "these were our own");
    if owned(&ns) {
        assert!(!filter.touched().unwrap(), "nobody else can touch it");
        assert!(!filter.ensure_base().unwrap());
        assert_eq!(filter.state().unwrap(), wanted);
    } else {
        assert!(filter.touched().unwrap());
        assert!(filter.settle(&wanted).unwrap(), "everything again, in one transaction");
        assert_eq!(filter.state().unwrap(), wanted);
    }
    drop(filter);
    // Somebody changes it while no netd runs: the elements survive the repair.
    for words in ["flush chain inet rnet between", "delete table bridge rnet", "flush chain bridge rnet guard"] {
        nft(&ns, words);
        let mut filter = Nft::new(&ns, "rnet");
        let kept: FilterState = match words.contains("delete") {
            false => wanted.clone(),
            true => wanted.iter().filter(|fact| !of_ports(fact)).cloned().collect(),
        };
        assert!(filter.ensure_base().unwrap(), "{words}");
        assert_eq!(filter.state().unwrap(), kept, "{words}");
        assert_eq!(filter.settle(&wanted).unwrap(), kept != wanted, "{words}");
        assert_eq!(filter.state().unwrap(), wanted, "{words}");
    }
    let mut filter = Nft::new(&ns, "rnet");
    filter.ensure_base().unwrap();
    filter.remove_base().unwrap();
    filter.remove_base().unwrap();
    assert_eq!(nft(&ns, "list ruleset"), "");
}

/// Kernels before 6.9 know no owners: there this only shows that a table is found right.
#[test]
fn a_table_has_one_owner_and_is_adopted_when_he_is_gone() {
    let Some((ns, mut filter)) = filter() else { return };
    filter.ensure_base().unwrap();
    filter.change(&devices(FilterSet::Networks, &["br1"]), &[]).unwrap();
    if !owned(&ns) {
        filter.ensure_base().unwrap();
        assert!(!Nft::new(&ns, "rnet").ensure_base().unwrap(), "another process finds it right");
        return;
    }
    let mut other = Nft::new(&ns, "rnet");
    let refused = other.ensure_base().unwrap_err();
    assert_eq!(refused.kind(), rnet_model::Kind::Conflict, "{refused}");
    assert!(other.change(&devices(FilterSet::Networks, &["br2"]), &[]).is_err());
    drop(filter);
    assert!(!other.ensure_base().unwrap(), "an orphan is adopted as it is");
    other.change(&devices(FilterSet::Networks, &["br2"]), &[]).unwrap();
    assert_eq!(state(&mut other), devices(FilterSet::Networks, &["br1", "br2"]));
    let deleted = ns.run(|| Command::new("nft").args(["delete", "table", "inet", "rnet"]).output().unwrap()).unwrap();
    assert!(!deleted.status.success(), "a foreign nft deletes it");
    // One without an owner, as of an older kernel or restored from a file, is made anew.
    other.remove_base().unwrap();
    let mut plain = Nft::new(&ns, "rnet");
    plain.open = true;
    plain.ensure_base().unwrap();
    plain.change(&devices(FilterSet::Isolated, &["br7"]), &[]).unwrap();
    assert!(!plain.ensure_base().unwrap());
    assert!(other.ensure_base().unwrap());
    assert_eq!(state(&mut other), devices(FilterSet::Isolated, &["br7"]));
    assert!(owned(&ns) && !other.ensure_base().unwrap());
}

/// What older kernels have: a table of everybody, which is watched.
#[test]
fn a_table_of_everybody_is_watched_and_repaired() {
    let Some((ns, mut filter)) = filter() else { return };
    filter.open = true;
    let wanted = everything();
    assert!(filter.settle(&wanted).unwrap());
    assert!(filter.touched().unwrap(), "made, but not looked at");
    assert!(!filter.settle(&wanted).unwrap() && !filter.touched().unwrap());
    filter.change(&[], &devices(FilterSet::Networks, &["br1"])).unwrap();
    filter.change(&devices(FilterSet::Networks, &["br1"]), &[]).unwrap();
    assert!(!filter.touched().unwrap(), "these were our own");
    for words in ["delete element inet rnet networks { br1 }", "delete table bridge rnet", "flush ruleset"] {
        nft(&ns, words);
        assert!(filter.touched().unwrap(), "{words}");
        assert!(filter.settle(&wanted).unwrap(), "{words}");
        assert_eq!(filter.state().unwrap(), wanted, "{words}");
        assert!(!filter.settle(&wanted).unwrap() && !filter.touched().unwrap(), "{words}");
    }
}

#[test]
fn facts_come_and_go() {
    let Some((ns, mut filter)) = filter() else { return };
    filter.ensure_base().unwrap();
    let all = everything();
    let list: Vec<FilterChange> = all.iter().cloned().collect();
    filter.change(&list, &[]).unwrap();
    filter.change(&list, &[]).unwrap();
    assert_eq!(filter.state().unwrap(), all);
    let listed = nft(&ns, "list ruleset");
    for word in [
        "\"a-name-of-15-by\"",
        "\"br1\" . \"br1\"",
        "10.0.0.0/8",
        "192.168.5.0/24",
        "fd00::/64",
        "tcp . 80 : 10.0.0.2 . 8080",
        "192.0.2.1 . tcp . 80 : 10.0.0.3 . 8080",
        "127.0.0.5 . udp . 53 : 40000",
        "10.0.0.2 . sctp . 80",
        "\"rn1\" . fe80::ff:fe00:1",
        "ipv4 : drop",
    ] {
        assert!(listed.contains(word), "{word} in {listed}");
    }
    // The inner prefix is there again when the outer one goes; what is not there is not missed.
    let outer = vec![FilterChange::Outbound("10.0.0.0/8".parse().unwrap(), "192.0.2.1".parse().unwrap())];
    filter.change(&[], &[nets(&["10.0.0.0/8", "1.2.3.0/24"]), outer].concat()).unwrap();
    assert!(nft(&ns, "list set inet rnet masquerade4").contains("10.1.0.0/16"));
    let outbound = nft(&ns, "list map inet rnet outbound4");
    assert!(outbound.contains("10.1.0.0/16 : 192.0.2.2") && !outbound.contains("192.0.2.1"), "{outbound}");
    filter.change(&[], &[list.clone(), devices(FilterSet::Isolated, &["br77"])].concat()).unwrap();
    filter.change(&[], &list).unwrap();
    assert!(state(&mut filter).is_empty());
    assert!(!nft(&ns, "list ruleset").contains("elements"));
    assert!(filter.settle(&all).unwrap() && !filter.settle(&all).unwrap());
    assert_eq!(filter.state().unwrap(), all);
    assert!(filter.settle(&FilterState::new()).unwrap());
    assert!(state(&mut filter).is_empty());
}

#[test]
fn a_port_changes_its_target_in_one_step_and_a_guard_its_address() {
    let Some((ns, mut filter)) = filter() else { return };
    filter.ensure_base().unwrap();
    let (one, other) = (published("0.0.0.0", 80, "10.0.0.2:80"), published("0.0.0.0", 80, "10.0.0.3:80"));
    filter.change(std::slice::from_ref(&one), &[]).unwrap();
    let taken = filter.change(std::slice::from_ref(&other), &[]).unwrap_err();
    assert_eq!(taken.kind(), rnet_model::Kind::Conflict, "{taken}");
    assert_eq!(state(&mut filter), std::slice::from_ref(&one), "all or none");
    filter.change(std::slice::from_ref(&other), std::slice::from_ref(&one)).unwrap();
    assert_eq!(state(&mut filter), [other]);
    let guard = |mac: &str, ip: &str| {
        vec![FilterChange::Guard(Guard::new("rn1".parse().unwrap(), mac.parse().unwrap(), [ip.parse().unwrap()]))]
    };
    let (before, after) = (guard("02:00:00:00:00:01", "10.0.0.2"), guard("02:00:00:00:00:02", "10.0.0.2"));
    filter.change(&before, &[one]).unwrap();
    filter.change(&after, &before).unwrap();
    assert_eq!(state(&mut filter), after);
    assert!(!nft(&ns, "list table bridge rnet").contains(":01"));
}

#[test]
fn two_instances_and_strangers_are_left_alone() {
    let Some((ns, mut filter)) = filter() else { return };
    nft(&ns, "add table inet foreign");
    let mut other = Nft::new(&ns, "rnet_2");
    filter.ensure_base().unwrap();
    other.ensure_base().unwrap();
    other.change(&devices(FilterSet::Networks, &["br9"]), &[]).unwrap();
    filter.remove_base().unwrap();
    assert_eq!(state(&mut other), devices(FilterSet::Networks, &["br9"]));
    other.remove_base().unwrap();
    assert_eq!(nft(&ns, "list tables").trim(), "table inet foreign");
}

#[test]
fn thousands_in_one_transaction() {
    let Some((_ns, mut filter)) = filter() else { return };
    filter.ensure_base().unwrap();
    let names: Vec<String> = (0..5000).map(|n| format!("br{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let many = devices(FilterSet::Networks, &names);
    filter.change(&many, &[]).unwrap();
    assert_eq!(state(&mut filter).len(), many.len());
    filter.change(&[], &many).unwrap();
    assert!(state(&mut filter).is_empty());
}

/// What one port costs must not grow with those that are there. Ratios, not times: the machine may be busy.
#[test]
#[allow(clippy::print_stdout)]
fn one_port_more_costs_the_same_among_fifty_thousand() {
    let Some((_ns, mut filter)) = filter() else { return };
    filter.ensure_base().unwrap();
    let port = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        let low = u16::from_be_bytes([b, c]);
        published(&format!("192.0.2.{}", a + 1), low, &format!("10.{}.{b}.{c}:80", a + 1))
    };
    let one_by_one = |filter: &mut Nft, from: u32| {
        let mut times: Vec<_> = (from..from + 50)
            .map(|n| {
                let fact = [port(n)];
                let start = Instant::now();
                filter.change(&fact, &[]).unwrap();
                let added = start.elapsed();
                filter.change(&[], &fact).unwrap();
                (added, start.elapsed() - added)
            })
            .collect();
        times.sort_unstable();
        times[25]
    };
    let alone = one_by_one(&mut filter, 0);
    let many: Vec<FilterChange> = (1000..51_000).map(port).collect();
    let start = Instant::now();
    filter.change(&many, &[]).unwrap();
    println!("50,000 ports: {:?}, {:?} each", start.elapsed(), start.elapsed() / 50_000);
    let among = one_by_one(&mut filter, 60_000);
    println!("one alone: {alone:?}; among 50,000: {among:?} (added, removed)");
    let batch: Vec<FilterChange> = (70_000..70_500).map(port).collect();
    let start = Instant::now();
    filter.change(&batch, &[]).unwrap();
    println!("500: {:?}, {:?} each", start.elapsed(), start.elapsed() / 500);
    let start = Instant::now();
    let state = filter.state().unwrap();
    println!("read back: {:?}", start.elapsed());
    assert_eq!(state.len(), 50_500);
    let start = Instant::now();
    assert!(!filter.settle(&state).unwrap());
    println!("compared: {:?}", start.elapsed());
    let unknown = [port(80_000), port(1000)];
    let start = Instant::now();
    filter.change(&[], &unknown).unwrap();
    println!("one that is not there removed with one that is: {:?}", start.elapsed());
    assert_eq!(filter.state().unwrap().len(), 50_499);
    filter.remove_base().unwrap();
    let start = Instant::now();
    assert!(filter.settle(&state).unwrap());
    println!("everything again: {:?}", start.elapsed());
    assert_eq!(filter.state().unwrap(), state);
    assert!(among.0 < alone.0 * 20 && among.1 < alone.1 * 20, "{alone:?} {among:?}");
}

#[test]
fn a_table_that_was_removed_is_named_with_what_makes_it_again() {
    let Some((ns, mut filter)) = filter() else { return };
    filter.ensure_base().unwrap();
    // By this socket: other programs can do that on kernels without owners only.
    filter.remove_base().unwrap();
    assert_eq!(nft(&ns, "list tables"), "");
    for facts in [nets(&["10.0.0.0/8"]), devices(FilterSet::Networks, &["br1"])] {
        let said = filter.change(&facts, &[]).unwrap_err();
        assert_eq!(said.kind(), rnet_model::Kind::Missing);
        assert!(said.to_string().contains("inet rnet was removed") && said.hint.is_some(), "{said}");
    }
}
