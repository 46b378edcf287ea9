//! Lab topologies: from a topology file to namespaces, containers, bridges and links.
//!
//! Data runs one way: text -> [`Lab`] (parsed, inherited, checked) -> [`Plan`] (what to do, given what is there) ->
//! steps on a [`World`]. The first two are pure; the last is a trait that netd's client and the runtime implement
//! together in the command line tool. The file format is containerlab's with additions; see `docs` and [`Lab`].
//!
//! Refuses: to touch what the lab did not make. What it made is in its [`Record`].

mod apply;
mod error;
mod file;
mod lab;
mod merge;
mod plan;
mod read;
mod subst;
pub mod words;

pub use apply::{Executed, Failure, World, apply};
pub use error::{Place, Spot, TopologyError};
pub use lab::{Bind, BridgeNode, DEFAULT_MTU, End, Inputs, Lab, Link, Node, NodeBody, Port, Process, stable_mac};
pub use plan::{NodeRecord, Observed, Plan, Record, Step};
