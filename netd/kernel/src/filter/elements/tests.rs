#![allow(clippy::unwrap_used)]
//! The real nf_tables, each test in a namespace of its own.

use std::process::Command;

use super::*;
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

#[test]
fn base_is_made_once_and_again_when_it_is_not_right() {
    let Some((ns, mut filter)) = filter() else { return };
    assert_eq!(filter.change(&nets(&["10.0.0.0/24"]), &[]).unwrap_err().errno, libc::ENOENT, "no table yet");
    assert!(filter.ensure_base().unwrap());
    assert!(!filter.ensure_base().unwrap());
    assert!(!Nft::new(&ns, "rnet").ensure_base().unwrap(), "another process finds it right");
    let wanted = [devices(FilterSet::Networks, &["br1"]), nets(&["10.0.0.0/24"])].concat();
    filter.change(&wanted, &[]).unwrap();
    // Somebody takes a rule away: the elements survive the repair.
    nft(&ns, "flush chain inet rnet between");
    assert!(filter.ensure_base().unwrap());
    assert_eq!(state(&mut filter), wanted);
    nft(&ns, "flush ruleset");
    assert!(filter.ensure_base().unwrap());
    assert!(state(&mut filter).is_empty());
    filter.remove_base().unwrap();
    filter.remove_base().unwrap();
    assert_eq!(nft(&ns, "list ruleset"), "");
}

#[test]
fn elements_come_and_go() {
    let Some((ns, mut filter)) = filter() else { return };
    filter.ensure_base().unwrap();
    let all = [
        devices(FilterSet::Networks, &["br1", "a-name-of-15-by"]),
        devices(FilterSet::Isolated, &["br1"]),
        devices(FilterSet::Internal, &["br2"]),
        nets(&["10.0.0.0/8", "10.1.0.0/16", "192.168.5.0/24", "fd00::/64", "255.255.255.0/24"]),
    ]
    .concat();
    filter.change(&all, &[]).unwrap();
    filter.change(&all, &[]).unwrap();
    let mut sorted = all.clone();
    sorted.sort();
    assert_eq!(state(&mut filter), sorted);
    let listed = nft(&ns, "list table inet rnet");
    for word in ["\"a-name-of-15-by\"", "\"br1\" . \"br1\"", "10.0.0.0/8", "192.168.5.0/24", "fd00::/64"] {
        assert!(listed.contains(word), "{word} in {listed}");
    }
    // The inner prefix is there again when the outer one goes.
    filter.change(&[], &nets(&["10.0.0.0/8", "1.2.3.0/24"])).unwrap();
    assert!(nft(&ns, "list set inet rnet masquerade4").contains("10.1.0.0/16"));
    filter.change(&[], &all).unwrap();
    filter.change(&[], &all).unwrap();
    assert!(state(&mut filter).is_empty());
    assert!(!nft(&ns, "list table inet rnet").contains("elements"));
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

#[test]
fn without_the_program_it_says_what_to_install() {
    let Some((_ns, mut filter)) = filter() else { return };
    filter.program = NftProgram { folders: vec!["/nowhere".into()] };
    let error = filter.ensure_base().unwrap_err();
    assert_eq!(error.kind(), rnet_model::Kind::Unsupported);
    assert!(error.to_string().contains("/nowhere"), "{error}");
    assert!(error.hint.unwrap().contains("nftables"));
}

#[test]
fn a_table_that_was_removed_is_named_with_what_makes_it_again() {
    let Some((ns, mut filter)) = filter() else { return };
    filter.ensure_base().unwrap();
    nft(&ns, "delete table inet rnet");
    let said = filter.change(&nets(&["10.0.0.0/8"]), &[]).unwrap_err();
    assert_eq!(said.kind(), rnet_model::Kind::Missing);
    assert!(said.to_string().contains("table inet rnet was removed") && said.hint.is_some(), "{said}");
    filter.program = NftProgram { folders: vec!["/nowhere".into()] };
    let said = filter.change(&nets(&["10.0.0.0/8"]), &[]).unwrap_err();
    assert_eq!(said.kind(), rnet_model::Kind::Unsupported);
    assert!(said.to_string().contains("/nowhere"), "{said}");
    assert!(said.hint.unwrap().contains("nftables"));
}
