//! docs/ruleset.md shows the rules that netd installs.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rnet_kernel::rules::{Change, Rule, Table};
use rnet_kernel::{Filter as _, Netns, NfTables, Nft, ruleset};

const PAGE: &str = include_str!("../../../docs/ruleset.md");

/// Name and rules.
type Chain = (String, Vec<String>);

/// The words of one change without those that name its table.
fn words(change: &Change, verb: &str, table: &Table) -> String {
    change.to_string().trim_start_matches(&format!("add {verb} {table} ")).to_owned()
}

/// The tables as `nft list` would show them: sets, then chains with their rules.
fn shown() -> String {
    let mut tables: Vec<(Table, Vec<String>, Vec<Chain>)> = Vec::new();
    for change in ruleset("rnet").list() {
        let (Change::EnsureSet(table, _) | Change::EnsureChain(table, _) | Change::AddRule(table, ..)) = change else {
            panic!("the page has no words for {change}");
        };
        if tables.last().is_none_or(|(last, ..)| last != table) {
            tables.push((table.clone(), Vec::new(), Vec::new()));
        }
        let (_, sets, chains) = tables.last_mut().unwrap();
        match change {
            Change::EnsureSet(_, set) => {
                let kind = if set.data.is_some() { "map" } else { "set" };
                sets.push(format!("\t{kind} {}\n", words(change, kind, table)));
            }
            Change::EnsureChain(_, chain) => {
                let head = words(change, "chain", table);
                let hook = head.split_once(" { ").map(|(_, hook)| hook.trim_end_matches(" }").to_owned());
                chains.push((chain.name.clone(), hook.into_iter().collect()));
            }
            Change::AddRule(_, rule, _) => {
                let (_, rules) = chains.iter_mut().find(|(name, _)| *name == rule.chain).unwrap();
                rules.push(words(change, "rule", table).trim_start_matches(&rule.chain).trim().to_owned());
            }
            _ => {}
        }
    }
    let mut text = String::new();
    for (table, sets, chains) in tables {
        writeln!(text, "table {table} {{").unwrap();
        text.extend(sets);
        for (name, rules) in chains {
            writeln!(text, "\n\tchain {name} {{").unwrap();
            rules.iter().for_each(|rule| writeln!(text, "\t\t{rule}").unwrap());
            writeln!(text, "\t}}").unwrap();
        }
        writeln!(text, "}}\n").unwrap();
    }
    text.trim_end().to_owned() + "\n"
}

#[test]
fn the_page_shows_the_rules() {
    let (_, rest) = PAGE.split_once("```nft\n").expect("the page has a block of rules");
    let (rules, _) = rest.split_once("```").expect("the block ends");
    assert_eq!(rules, shown(), "put this into docs/ruleset.md:\n{}", shown());
}

/// Read back from the kernel: the same rules in the same order, by their comments, and every one has a comment.
#[test]
fn the_rules_are_those_that_are_installed() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let ns = Netns::create().unwrap();
    let mut filter = Nft::new(&ns, "rnet");
    filter.ensure_base().unwrap();
    let mut wanted: BTreeMap<(Table, String), Vec<Option<String>>> = BTreeMap::new();
    for change in ruleset("rnet").list() {
        match change {
            Change::EnsureChain(table, chain) => drop(wanted.insert((table.clone(), chain.name.clone()), Vec::new())),
            Change::AddRule(table, Rule { chain, comment, .. }, _) => {
                assert!(comment.is_some(), "{change}");
                wanted.get_mut(&(table.clone(), chain.clone())).unwrap().push(comment.clone());
            }
            _ => {}
        }
    }
    let mut tables = NfTables::open(&ns).unwrap();
    for ((table, chain), comments) in wanted {
        let found: Vec<_> = tables.rules(&table, &chain).unwrap().into_iter().map(|rule| rule.comment).collect();
        assert_eq!(found, comments, "{table} {chain}");
    }
}
