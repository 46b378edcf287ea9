//! Names of containers as DNS answers.
//!
//! Owns: the [`Directory`] of names, the pure [`answer`], the [`Forwarder`] that asks the servers of the host, and the
//! server tasks over sockets that are handed in ([`Service`]). Refuses: opening namespaces, packet filters, and deciding
//! who is on which network. The truth is the engine's; this crate only hears of it.

mod answer;
mod directory;
mod resolv_conf;
mod server;
mod upstream;

pub use answer::{Answer, Forward, Servers, TTL, Transport, answer};
pub use directory::{Asker, Directory, Member, Zone};
pub use server::{Queries, Service, Serving, Sockets};
pub use upstream::{Forwarder, may_be_asked};
