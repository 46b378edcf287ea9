//! Hosts, containers and a LAN between them, in private namespaces of the real kernel, with the real `netd` and `rnet`.
//!
//! Owns: the stage of a test ([`run`]), what a host looks like before and after ([`Snapshot`]), waiting without sleeping
//! ([`wait_for`]), and the dump when a test fails. Refuses: touching the namespaces the test was started in. A [`Host`]
//! that goes out of scope takes back all that was asked of its netd and compares the kernel with what it was before.

mod container;
mod host;
mod lan;
mod process;
mod snapshot;
mod web;
mod world;

pub use container::{Container, Flow, Process};
pub use host::{Host, Start};
pub use lan::Peer;
pub use process::{Output, built, path_text, run_fed, run_in, wait_for};
pub use snapshot::Snapshot;
pub use web::{Answer, ask, try_ask};
pub use world::{World, run, run_or_skip};

use std::time::Duration;

/// How long anything may take that is said to happen soon.
pub const SOON: Duration = Duration::from_secs(10);
