//! The two tables as values: what must be there before any element.
//!
//! docs/ruleset.md shows them with reasons and a test compares the two. Each table carries its version as an empty chain
//! whose name is a digest of both, so that a build with other rules notices by itself, and the question "is it there and
//! right" is answered without reading rules.

pub(super) mod bridge;
pub(super) mod inet;

use std::collections::BTreeMap;

use super::rules::{Chain, Change, Changes, Expr, Family, Field, Place, Rule, Selector, Set, Table, Test, Verdict};

/// Which of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Of {
    /// `inet NAME`: what is routed.
    Inet,
    /// `bridge NAME`: what the ports of bridges send.
    Bridge,
}

impl Of {
    pub(super) const BOTH: [Of; 2] = [Of::Inet, Of::Bridge];

    /// The table of an instance.
    pub(super) fn table(self, name: &str) -> Table {
        let family = match self {
            Of::Inet => Family::Inet,
            Of::Bridge => Family::Bridge,
        };
        Table::new(family, name)
    }

    /// Its sets by name.
    pub(super) fn sets(self) -> Vec<(&'static str, Set)> {
        match self {
            Of::Inet => inet::sets(),
            Of::Bridge => bridge::sets(),
        }
    }

    fn chains(self) -> Vec<Chain> {
        match self {
            Of::Inet => inet::chains(),
            Of::Bridge => bridge::chains(),
        }
    }

    fn rules(self) -> Vec<Rule> {
        match self {
            Of::Inet => inet::rules(),
            Of::Bridge => bridge::rules(),
        }
    }
}

/// Whose table it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// This socket's.
    Owned,
    /// Anybody's: the kernel knows no owners.
    Open,
}

/// What makes both tables without any element.
pub(super) fn make(name: &str, ownership: Ownership) -> Changes {
    let version = version_chain();
    let mut changes = Changes::new();
    for of in Of::BOTH {
        let table = of.table(name);
        changes.push(match ownership {
            Ownership::Owned => Change::OwnTable(table.clone()),
            Ownership::Open => Change::EnsureTable(table.clone()),
        });
        changes.ensure_chain(&table, Chain::plain(&*version));
        objects(of, &table, &mut changes);
    }
    changes
}

/// The sets, chains and rules of both tables, as netd makes them under a name.
pub fn ruleset(name: &str) -> Changes {
    let mut all = Changes::new();
    Of::BOTH.iter().for_each(|of| objects(*of, &of.table(name), &mut all));
    all
}

fn objects(of: Of, table: &Table, changes: &mut Changes) {
    for (_, set) in of.sets() {
        changes.ensure_set(table, set);
    }
    for chain in of.chains() {
        changes.ensure_chain(table, chain);
    }
    for rule in of.rules() {
        changes.add_rule(table, rule, Place::Last);
    }
}

/// Name of the empty chain that says which rules the tables hold: FNV-1a of their text.
pub(super) fn version_chain() -> String {
    let digest = ruleset("rnet")
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("version_{digest:016x}")
}

/// A chain as it must be for a table to be right: how often it is used (its rules, and the rules that lead to it) and
/// whether a hook calls it. The kernel counts the same in `NFTA_CHAIN_USE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExpectedChain {
    pub(super) uses: u32,
    pub(super) hooked: bool,
}

/// All chains of a table but the version's.
pub(super) fn expected_chains(of: Of) -> BTreeMap<String, ExpectedChain> {
    let chains = of.chains().into_iter();
    let mut expected: BTreeMap<_, _> =
        chains.map(|chain| (chain.name, ExpectedChain { uses: 0, hooked: chain.base.is_some() })).collect();
    let mut used = |name: &str| {
        if let Some(chain) = expected.get_mut(name) {
            chain.uses += 1;
        }
    };
    for rule in of.rules() {
        used(&rule.chain);
        for expr in &rule.exprs {
            if let Expr::Verdict(Verdict::Goto(target) | Verdict::Jump(target)) = expr {
                used(target);
            }
        }
    }
    expected
}

// The words of the rules, for both tables.

fn rule<const N: usize>(chain: &str, reason: &str, exprs: [Expr; N]) -> Rule {
    Rule::new(chain, exprs).comment(reason)
}

fn within(selector: Selector, set: &str) -> Expr {
    Expr::In(vec![selector], set.to_owned())
}

fn outside(selector: Selector, set: &str) -> Expr {
    Expr::NotIn(vec![selector], set.to_owned())
}

fn protocol(number: u8) -> Expr {
    Expr::is(Selector::Meta(super::rules::Meta::L4proto), Field::Proto(number))
}

fn port(selector: Selector, port: u16) -> Expr {
    Expr::is(selector, Field::Port(port))
}

fn icmpv6(kind: u8) -> [Expr; 2] {
    [protocol(ICMPV6), Expr::is(Selector::Icmpv6Type, Field::Byte(kind))]
}

/// A connection begins: SYN without ACK.
fn syn() -> Expr {
    let mask = Selector::SYN | Selector::ACK;
    Expr::Match(Selector::TcpFlags, Test::Bits { mask, wanted: Selector::SYN })
}

fn accept() -> Expr {
    Expr::Verdict(Verdict::Accept)
}

fn drop() -> Expr {
    Expr::Verdict(Verdict::Drop)
}

fn back() -> Expr {
    Expr::Verdict(Verdict::Return)
}

fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.to_owned()))
}

/// `IPPROTO_*`.
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// RFC 4861: router solicitation, router advertisement, neighbour solicitation and advertisement, redirect.
const SOLICIT_ROUTER: u8 = 133;
const ADVERTISE_ROUTER: u8 = 134;
const SOLICIT_NEIGHBOUR: u8 = 135;
const ADVERTISE_NEIGHBOUR: u8 = 136;
const REDIRECT: u8 = 137;
