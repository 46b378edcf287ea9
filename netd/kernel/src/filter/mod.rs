//! The nf_tables table of rnet: a base ruleset put there once, then elements of named sets by netlink.
//!
//! Rules never grow with networks or endpoints: every rule looks a packet up in a set, and a network or an endpoint is
//! an element. See [`FilterSet`] for the sets and docs/ruleset.md for the rules.

mod base;
mod elements;
mod intervals;
pub mod rules;
pub(crate) mod socket;
mod trace;
mod watch;
pub(crate) mod wire;

use std::collections::BTreeSet;
use std::fmt;

use rnet_model::{IfName, Subnet};

use crate::KernelError;

pub use elements::Nft;
pub use trace::{Flow, Passed, TRACE_TABLES, TraceEvent, TraceStep, TraceVerdict, TracedPacket, Tracer};
pub use watch::FilterMonitor;

/// A set of the base table, and what being in it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FilterSet {
    /// Bridges of rnet networks (ifname): the protected devices.
    Networks,
    /// Bridges whose networks talk to no other network (ifname).
    Isolated,
    /// Bridges nothing may enter or leave (ifname).
    Internal,
    /// IPv4 source prefixes that are masqueraded on the way out of any device not in `Networks`.
    Masquerade4,
    /// The same for IPv6.
    Masquerade6,
}

/// One element of a set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FilterChange {
    /// A device of [`FilterSet::Networks`], [`FilterSet::Isolated`] or [`FilterSet::Internal`].
    Device(FilterSet, IfName),
    /// A prefix of [`FilterSet::Masquerade4`] or [`FilterSet::Masquerade6`], by its family.
    Masquerade(Subnet),
}

/// All elements of all sets.
pub type FilterState = BTreeSet<FilterChange>;

/// The packet filter of the daemon's namespace.
pub trait Filter: Send {
    /// Puts the base table there if it is absent or of another version; sets keep their elements when it is already
    /// right. `true` when the table was made; the elements of one of another version are carried over.
    fn ensure_base(&mut self) -> Result<bool, KernelError>;
    /// Reads all elements.
    fn state(&mut self) -> Result<FilterState, KernelError>;
    /// Adds and removes elements in one transaction: all or none. Adding one that is there and removing one that is
    /// not are successes.
    fn change(&mut self, add: &[FilterChange], remove: &[FilterChange]) -> Result<(), KernelError>;
    /// Removes the table.
    fn remove_base(&mut self) -> Result<(), KernelError>;
}

impl FilterSet {
    /// Name of the set in the table.
    pub fn name(self) -> &'static str {
        match self {
            FilterSet::Networks => "networks",
            FilterSet::Isolated => "isolated",
            FilterSet::Internal => "internal_only",
            FilterSet::Masquerade4 => "masquerade4",
            FilterSet::Masquerade6 => "masquerade6",
        }
    }
}

impl fmt::Display for FilterChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterChange::Device(set, device) => write!(f, "@{} {{ {device} }}", set.name()),
            FilterChange::Masquerade(net) if net.is_ipv4() => {
                write!(f, "@{} {{ {net} }}", FilterSet::Masquerade4.name())
            }
            FilterChange::Masquerade(net) => write!(f, "@{} {{ {net} }}", FilterSet::Masquerade6.name()),
        }
    }
}
