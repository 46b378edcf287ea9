//! The only crate that speaks to the kernel's network interfaces.
//!
//! Owns: route netlink, nf_tables, connection tracking, network namespaces, sysctls and raw ARP/ND frames. Refuses: any decision; callers
//! say what to do in terms of `rnet-model`, this crate says it to the kernel and reports what the kernel answered.
//! No netlink wire type crosses its public interface.
//!
//! Each surface is a narrow trait ([`Links`], [`Filter`], [`Sysctls`]); the real implementations ([`Route`],
//! [`Nft`], [`ProcSys`]) have in-memory siblings in [`fake`].

mod capture;
mod conntrack;
mod datagrams;
mod error;
mod events;
pub mod fake;
mod filter;
mod links;
mod netns;
mod probe;
mod route;
mod sysctl;
#[cfg(test)]
mod testing;

pub use capture::{Capture, Direction, Packet, Reception};
pub use conntrack::{Conntrack, FlowFilter};
pub use datagrams::{Datagram, Datagrams};
pub use error::KernelError;
pub use events::{Event, Monitor};
pub use filter::rules;
pub use filter::rules::NfTables;
pub use filter::{
    Filter, FilterChange, FilterMonitor, FilterSet, FilterState, FilterTouched, Guard, Linked, Nft, Opened, Published,
    Redirected, ruleset,
};
pub use filter::{Flow, Passed, TRACE_TABLES, TraceEvent, TraceStep, TraceVerdict, TracedPacket, Tracer};
pub use links::{
    Address, AddressGeneration, Admin, Counters, Devconf4, DeviceKind, Family, Fault, Fwmark, IpvlanMode, LinkKind,
    LinkOp, LinkState, Links, MacvlanMode, NewBridge, NewDevice, NewTap, NewVeth, NextHop, Port, PortVlan, Qdisc,
    QdiscPlace, Queues, Route as RouteEntry, RouteKind, Rule, Snooping, Switch, Tbf, TbfState, VlanEntry, VlanTarget,
};
pub use netns::{Netns, NetnsId};
pub use probe::{Probe, ProbeTiming, announce, probe};
pub use route::Route;
pub use route::lookup::{Neighbour, Way, WayKind, WayOf};
pub use sysctl::{ProcSys, Sysctls};
