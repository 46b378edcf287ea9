#![allow(clippy::unwrap_used)]
//! Pools against what people expect of them, and against a naive model in random histories.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use rnet_model::{AddressRange, Kind, Subnet};

use crate::{IpamError, Pool, PoolSpec, State, SubnetPools, ula_subnet};

fn net(text: &str) -> Subnet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn range(text: &str) -> AddressRange {
    text.parse().unwrap()
}

fn spec(subnet: &str, gateway: Option<&str>) -> PoolSpec {
    PoolSpec { subnet: net(subnet), gateway: gateway.map(ip), ranges: Vec::new(), exclude: Vec::new(), rest_secs: 60 }
}

fn nothing_seen(_: IpAddr) -> bool {
    false
}

/// Allocates until the pool is empty.
fn all(pool: &mut Pool) -> Vec<String> {
    let take = |n: u32| pool.allocate(&format!("c{n}"), 0, &nothing_seen).ok().map(|ip| ip.to_string());
    (0..).map_while(take).collect()
}

#[test]
fn every_usable_address_of_small_subnets() {
    let usable = |subnet, gateway| all(&mut Pool::new(spec(subnet, gateway)));
    assert_eq!(usable("10.0.0.0/30", Some("10.0.0.1")), ["10.0.0.2"]);
    assert_eq!(usable("10.0.0.0/29", Some("10.0.0.6")), ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    assert_eq!(usable("10.0.0.0/31", None), ["10.0.0.0", "10.0.0.1"]);
    assert_eq!(usable("10.0.0.7/32", None), ["10.0.0.7"]);
    assert_eq!(usable("fd00::/126", Some("fd00::1")), ["fd00::2", "fd00::3"]);
    assert_eq!(usable("255.255.255.252/30", None), ["255.255.255.253", "255.255.255.254"]);
}

#[test]
fn an_exact_fit_of_a_thousand() {
    let mut spec = spec("10.0.0.0/16", Some("10.0.0.1"));
    spec.ranges = vec![range("10.0.4.0-10.0.7.231")];
    assert_eq!(all(&mut Pool::new(spec)).len(), 1000);
}

#[test]
fn ranges_and_exclusions_bound_what_is_handed_out_not_what_is_claimed() {
    let mut spec = spec("10.0.0.0/24", Some("10.0.0.1"));
    spec.ranges = vec![range("10.0.0.10-10.0.0.13")];
    spec.exclude = vec![range("10.0.0.11")];
    let mut pool = Pool::new(spec);
    pool.claim(ip("10.0.0.200"), "static", 0).unwrap();
    pool.claim(ip("10.0.0.11"), "static", 0).unwrap();
    assert_eq!(all(&mut pool), ["10.0.0.10", "10.0.0.12", "10.0.0.13"]);
    assert!(pool.release(ip("10.0.0.200"), "static", 0));
    assert!(pool.allocate("x", 1000, &nothing_seen).is_err(), "what is outside does not become free");
}

#[test]
fn refusals_name_both_sides() {
    let mut pool = Pool::new(spec("10.0.0.0/24", Some("10.0.0.1")));
    pool.claim(ip("10.0.0.5"), "web", 0).unwrap();
    pool.claim(ip("10.0.0.5"), "web", 0).unwrap();
    let said = |pool: &mut Pool, address| {
        let error = pool.claim(ip(address), "db", 0).unwrap_err();
        (error.to_string(), error.kind())
    };
    assert_eq!(said(&mut pool, "10.0.0.5"), ("address 10.0.0.5 is held by web".into(), Kind::Conflict));
    assert_eq!(said(&mut pool, "10.0.1.5"), ("address 10.0.1.5 is not in subnet 10.0.0.0/24".into(), Kind::Invalid));
    assert_eq!(said(&mut pool, "10.0.0.1").0, "address 10.0.0.1 is the gateway of 10.0.0.0/24");
    assert_eq!(said(&mut pool, "10.0.0.0").0, "address 10.0.0.0 is the network address of 10.0.0.0/24");
    assert_eq!(said(&mut pool, "10.0.0.255").0, "address 10.0.0.255 is the broadcast address of 10.0.0.0/24");
    assert!(!pool.release(ip("10.0.0.5"), "db", 0), "only its owner frees an address");
    assert_eq!(pool.holder(ip("10.0.0.5")), Some("web"));
}

#[test]
fn freed_addresses_rest_and_go_back_to_their_owner() {
    let mut pool = Pool::new(spec("10.0.0.0/29", Some("10.0.0.1")));
    for owner in ["a", "b", "c", "d", "e"] {
        pool.allocate(owner, 100, &nothing_seen).unwrap();
    }
    assert!(pool.release(ip("10.0.0.3"), "b", 100));
    let full = pool.allocate("x", 130, &nothing_seen).unwrap_err();
    assert_eq!(full, IpamError::Exhausted { subnet: net("10.0.0.0/29"), next: Some(30) });
    assert_eq!(full.kind(), Kind::Retry);
    assert_eq!(pool.allocate("b", 130, &nothing_seen).unwrap(), ip("10.0.0.3"), "its owner need not wait");
    assert!(pool.release(ip("10.0.0.3"), "b", 140));
    assert_eq!(pool.allocate("x", 200, &nothing_seen).unwrap(), ip("10.0.0.3"));
    assert!(pool.release(ip("10.0.0.3"), "x", 200));
    pool.claim(ip("10.0.0.3"), "y", 201).unwrap();
    assert_eq!(pool.holder(ip("10.0.0.3")), Some("y"), "asked for by number it does not rest");
}

#[test]
fn reservations_hold_until_they_are_dropped() {
    let mut pool = Pool::new(spec("10.0.0.0/30", Some("10.0.0.1")));
    pool.reserve(ip("10.0.0.2"), "web").unwrap();
    assert!(pool.allocate("other", 1_000_000, &nothing_seen).is_err());
    assert_eq!(pool.allocate("web", 0, &nothing_seen).unwrap(), ip("10.0.0.2"));
    assert!(!pool.unreserve(ip("10.0.0.2"), "web"), "it is in use");
    pool.reserve(ip("10.0.0.2"), "web").unwrap();
    assert!(pool.unreserve(ip("10.0.0.2"), "web"));
    assert_eq!(pool.allocate("other", 0, &nothing_seen).unwrap(), ip("10.0.0.2"), "nobody used it: no rest");
}

#[test]
fn what_is_seen_in_use_is_stepped_over() {
    let mut pool = Pool::new(spec("10.0.0.0/29", Some("10.0.0.1")));
    let seen = |address: IpAddr| address == ip("10.0.0.2");
    assert_eq!(pool.allocate("a", 0, &seen).unwrap(), ip("10.0.0.3"));
    assert!(Pool::new(spec("fd00::/64", None)).allocate("a", 0, &|_| true).is_err(), "it gives up some day");
}

#[test]
fn a_clock_that_jumps_loses_no_address() {
    let mut pool = Pool::new(spec("10.0.0.0/30", Some("10.0.0.1")));
    pool.allocate("a", 1_000_000, &nothing_seen).unwrap();
    pool.release(ip("10.0.0.2"), "a", 1_000_000);
    assert!(pool.allocate("b", 5, &nothing_seen).is_err(), "going back is no time");
    assert!(pool.allocate("b", 64, &nothing_seen).is_err());
    assert!(pool.allocate("b", 65, &nothing_seen).is_ok());
}

#[test]
fn subnets_step_over_what_is_taken() {
    let pools = SubnetPools { pools: vec![(net("172.17.0.0/16"), 16), (net("192.168.0.0/16"), 20)] };
    assert_eq!(pools.next_free(&[]), Some(net("172.17.0.0/16")));
    assert_eq!(pools.next_free(&[net("172.17.5.0/24")]), Some(net("192.168.0.0/20")));
    let taken = [net("172.16.0.0/12"), net("192.168.1.0/24"), net("192.168.16.0/21")];
    assert_eq!(pools.next_free(&taken), Some(net("192.168.32.0/20")));
    assert_eq!(pools.next_free(&[net("0.0.0.0/0")]), None);
    assert_eq!(SubnetPools { pools: vec![(net("10.0.0.0/16"), 8)] }.next_free(&[]), None);
    let end = SubnetPools { pools: vec![(net("255.255.255.0/24"), 25)] };
    assert_eq!(end.next_free(&[net("255.255.255.0/25")]), Some(net("255.255.255.128/25")));
    assert_eq!(end.next_free(&[net("255.255.255.0/24")]), None);
}

#[test]
fn local_prefixes_are_stable_and_differ() {
    let id = [1, 2, 3, 4, 5];
    assert_eq!(ula_subnet(id, "blue"), ula_subnet(id, "blue"));
    assert_ne!(ula_subnet(id, "blue"), ula_subnet(id, "green"));
    assert!(ula_subnet(id, "blue").to_string().starts_with("fd01:203:405:"));
}

/// One step of a history.
#[derive(Debug, Clone)]
enum Op {
    Allocate(u8),
    Claim(u8, u8),
    Release(u8, u8),
    Reserve(u8, u8),
    Unreserve(u8, u8),
    HandOver(u8, u8, u8),
    /// The daemon dies; the next one knows what is live and what is reserved.
    Crash,
    Clock(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u8..8).prop_map(Op::Allocate),
        2 => (0u8..8, 0u8..16).prop_map(|(o, a)| Op::Claim(o, a)),
        4 => (0u8..8, 0u8..16).prop_map(|(o, a)| Op::Release(o, a)),
        1 => (0u8..8, 0u8..16).prop_map(|(o, a)| Op::Reserve(o, a)),
        1 => (0u8..8, 0u8..16).prop_map(|(o, a)| Op::Unreserve(o, a)),
        1 => (0u8..8, 0u8..8, 0u8..16).prop_map(|(o, p, a)| Op::HandOver(o, p, a)),
        1 => Just(Op::Crash),
        2 => prop_oneof![0u64..200, any::<u64>()].prop_map(Op::Clock),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Nobody ever gets what another one uses or keeps, and no address is lost.
    #[test]
    fn no_duplicates_and_no_losses(ops in prop::collection::vec(op(), 1..60)) {
        let spec = spec("10.0.0.0/28", Some("10.0.0.1"));
        let mut pool = Pool::new(spec.clone());
        let mut held: BTreeMap<IpAddr, (String, State)> = BTreeMap::new();
        let mut now = 1000u64;
        for op in ops {
            match op {
                Op::Allocate(o) => {
                    let owner = format!("o{o}");
                    if let Ok(got) = pool.allocate(&owner, now, &nothing_seen) {
                        let before = held.insert(got, (owner.clone(), State::Live));
                        prop_assert!(before.is_none_or(|(whose, state)| whose == owner && state == State::Reserved));
                    }
                }
                Op::Claim(o, a) => {
                    let (owner, address) = (format!("o{o}"), ip(&format!("10.0.0.{a}")));
                    let others = held.get(&address).is_some_and(|(whose, _)| *whose != owner);
                    let claimed = pool.claim(address, &owner, now).is_ok();
                    prop_assert_eq!(claimed, !others && ![0, 1, 15].contains(&a));
                    if claimed {
                        held.insert(address, (owner, State::Live));
                    }
                }
                Op::Release(o, a) => {
                    let (owner, address) = (format!("o{o}"), ip(&format!("10.0.0.{a}")));
                    let own = held.get(&address).is_some_and(|(whose, _)| *whose == owner);
                    prop_assert_eq!(pool.release(address, &owner, now), own);
                    if own {
                        held.remove(&address);
                    }
                }
                Op::Reserve(o, a) => {
                    let (owner, address) = (format!("o{o}"), ip(&format!("10.0.0.{a}")));
                    if pool.reserve(address, &owner).is_ok() {
                        let before = held.insert(address, (owner.clone(), State::Reserved));
                        prop_assert!(before.is_none_or(|(whose, _)| whose == owner));
                    }
                }
                Op::Unreserve(o, a) => {
                    let (owner, address) = (format!("o{o}"), ip(&format!("10.0.0.{a}")));
                    pool.unreserve(address, &owner);
                    if held.get(&address) == Some(&(owner, State::Reserved)) {
                        held.remove(&address);
                    }
                }
                Op::HandOver(o, p, a) => {
                    let (from, to, address) = (format!("o{o}"), format!("o{p}"), ip(&format!("10.0.0.{a}")));
                    let reserved = held.get(&address) == Some(&(from.clone(), State::Reserved));
                    let handed = pool.hand_over(address, &from, &to);
                    prop_assert!(reserved || !handed);
                    if handed {
                        held.insert(address, (to, State::Live));
                    }
                }
                Op::Crash => {
                    pool = Pool::new(spec.clone());
                    for (address, (owner, state)) in &held {
                        match state {
                            State::Live => pool.claim(*address, owner, now).unwrap(),
                            _ => pool.reserve(*address, owner).unwrap(),
                        }
                    }
                }
                Op::Clock(to) => now = to,
            }
            let known: BTreeSet<IpAddr> = pool.iter().filter(|(.., s)| *s != State::Resting).map(|(ip, ..)| ip).collect();
            prop_assert_eq!(&known, &held.keys().copied().collect());
        }
        // When everybody has let go and time has passed, the whole subnet is there again.
        for (address, (owner, _)) in held {
            pool.release(address, &owner, now);
        }
        let kept: Vec<(IpAddr, String)> = pool.iter().map(|(ip, owner, _)| (ip, owner.to_owned())).collect();
        for (address, owner) in kept {
            pool.unreserve(address, &owner);
        }
        prop_assert_eq!(all(&mut pool).len(), 13);
    }
}
