//! Whole nf_tables tables as values, made and changed by netlink alone: no program is run.
//!
//! Owns: tables, chains, sets, elements and rules of any family ([`Table`] to [`Rule`]), lists of changes to them
//! ([`Changes`]) and the client that commits such a list as one transaction and reads back what is there
//! ([`NfTables`]). Refuses: deciding what a table should hold. The words printed are those of nft(8).

mod changes;
mod client;
pub(crate) mod decode;
pub(super) mod encode;
mod expr;
mod ruleset;
mod text;

pub use changes::{Change, Changes, Place};
pub use client::{ChainInfo, NfTables, RuleInfo};
pub(super) use client::{read_elements, transact};
pub(super) use encode::{TABLE_PERSIST, elements, key_bytes, plain};
pub use expr::{
    Address, Ct, Ether, Expr, Fib, Ip, Limit, MarkOf, Meta, NatFlags, NatKind, NatTo, Ports, Reject, Selector, Test,
    TupleOf, Unit,
};
pub use ruleset::{
    Base, Chain, ChainKind, Data, DataType, Element, Family, Field, Hook, KeyType, Policy, Rule, Set, Table, Verdict,
};

#[cfg(test)]
mod tests;
