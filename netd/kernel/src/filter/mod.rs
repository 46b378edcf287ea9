//! The nf_tables table of rnet: a base ruleset put there once, then elements of named sets by netlink.
//!
//! Rules never grow with networks or endpoints: every rule looks a packet up in a set, and a network or an endpoint is
//! an element. See [`FilterSet`] for the sets and docs/ruleset.md for the rules.

mod base;
mod change;
mod elements;
mod intervals;
pub mod rules;
pub(crate) mod socket;
mod trace;
mod watch;
pub(crate) mod wire;

use std::collections::BTreeSet;

use crate::KernelError;

pub use change::{FilterChange, FilterSet, Guard, Linked, Opened, Published, Redirected};
pub use elements::Nft;
pub use trace::{Flow, Passed, TRACE_TABLES, TraceEvent, TraceStep, TraceVerdict, TracedPacket, Tracer};
pub use watch::{FilterMonitor, FilterTouched};

/// Everything the tables were told.
pub type FilterState = BTreeSet<FilterChange>;

/// The packet filter of the daemon's namespace.
pub trait Filter: Send {
    /// Puts the base table there if it is absent or of another version; sets keep their elements when it is already
    /// right. `true` when the table was made; the elements of one of another version are carried over.
    fn ensure_base(&mut self) -> Result<bool, KernelError>;
    /// Reads everything.
    fn state(&mut self) -> Result<FilterState, KernelError>;
    /// Adds and removes in one transaction: all or none. Adding one that is there and removing one that is
    /// not are successes.
    fn change(&mut self, add: &[FilterChange], remove: &[FilterChange]) -> Result<(), KernelError>;
    /// Removes the table.
    fn remove_base(&mut self) -> Result<(), KernelError>;
}
