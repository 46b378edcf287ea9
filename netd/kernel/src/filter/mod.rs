//! The nf_tables tables of rnet: a base ruleset put there once, then elements of named sets, all by netlink.
//!
//! Rules never grow with networks or endpoints: every rule looks a packet up in a set, and a network or an endpoint is
//! an element. See [`FilterChange`] for what there is and docs/ruleset.md for the rules.

mod base;
mod change;
mod elements;
mod facts;
mod intervals;
pub mod rules;
pub(crate) mod socket;
mod trace;
#[cfg(test)]
mod traffic;
mod watch;
pub(crate) mod wire;

use std::collections::BTreeSet;

use crate::KernelError;

pub use base::ruleset;
pub use change::{FilterChange, FilterSet, Guard, Linked, Opened, Published, Redirected};
pub use elements::Nft;
pub use trace::{Flow, Passed, TRACE_TABLES, TraceEvent, TraceStep, TraceVerdict, TracedPacket, Tracer};
pub use watch::{FilterMonitor, FilterTouched};

/// Everything the tables were told.
pub type FilterState = BTreeSet<FilterChange>;

/// The packet filter of the daemon's namespace.
pub trait Filter: Send {
    /// Puts the tables there if they are absent or of another version; sets keep their elements when they are already
    /// right. `true` when they were made; the elements of those of another version are carried over.
    fn ensure_base(&mut self) -> Result<bool, KernelError>;
    /// Reads everything.
    fn state(&mut self) -> Result<FilterState, KernelError>;
    /// Makes the tables hold this and nothing else, in one transaction; also puts them there. `true` when anything had to
    /// be changed.
    fn settle(&mut self, wanted: &FilterState) -> Result<bool, KernelError>;
    /// Whether anybody else may have changed the tables since they were last made or settled here.
    fn touched(&mut self) -> Result<bool, KernelError>;
    /// Adds and removes in one transaction: all or none. Adding one that is there and removing one that is
    /// not are successes.
    fn change(&mut self, add: &[FilterChange], remove: &[FilterChange]) -> Result<(), KernelError>;
    /// Removes the tables.
    fn remove_base(&mut self) -> Result<(), KernelError>;
}
