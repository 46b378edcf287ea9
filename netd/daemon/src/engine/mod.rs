//! The engine: one thread that owns every mutable thing of the daemon.
//!
//! Words come in as API types, become records ([`state`]), plans (`rnet-plan`) and kernel calls ([`surfaces`]); status
//! goes back as API types ([`view`]). [`Handle`] is the only way in: a mailbox of jobs that the thread runs one after
//! the other, so nothing here is locked. What waits for the network (conflict probes) or for an engine's socket
//! (resolvers) happens outside, before the job.

mod address;
mod attach;
mod bridge;
mod chain;
mod clock;
mod cni;
mod connect;
mod core;
mod detach;
mod diagnose;
mod drive;
mod edit;
mod gateway;
mod gauge;
mod guard;
mod handle;
mod host_firewall;
mod limit;
mod link;
mod linked;
mod loopback;
mod naming;
mod network;
mod notice;
mod port_probe;
mod ports;
mod publish;
mod ready;
mod reap;
mod reconcile;
mod revive;
mod sandbox;
mod state;
mod surfaces;
mod tag;
mod view;
mod wire;

pub(crate) use self::core::{Engine, Options};
pub(crate) use chain::{Made, Work};
pub(crate) use diagnose::Known;
pub(crate) use drive::{Failing, Refused};
pub(crate) use gauge::NetworkGauge;
pub(crate) use handle::{Handle, start, worked};

/// Names of all fail points, in the order of the operations.
pub(crate) fn fail_points() -> Vec<String> {
    const STEPS: &[&str] = &[
        "attach.log",
        "attach.guard",
        "attach.bridge",
        "attach.veth",
        "attach.shaper",
        "attach.rate",
        "attach.inside",
        "attach.commit",
        "gateway.order",
        "gateway.commit",
        "detach.log",
        "detach.retire",
        "detach.commit",
        "network.log",
        "network.bridge",
        "network.address",
        "network.sysctl",
        "network.filter",
        "network.commit",
        "network-edit.log",
        "network-edit.mtu",
        "network-edit.filter",
        "network-edit.shaper",
        "network-edit.rate",
        "network-edit.commit",
        "network-rm.commit",
        "network-rm.kernel",
        "bridge.log",
        "bridge.make",
        "bridge.move",
        "bridge.commit",
        "bridge-rm.log",
        "bridge-rm.commit",
        "bridge-rm.kernel",
        "sandbox.log",
        "sandbox.namespace",
        "chain.log",
        "chain.add",
        "chain.commit",
        "chain-rm.log",
        "chain-rm.del",
        "chain-rm.commit",
        "links.log",
        "links.kernel",
        "publish.filter",
        "publish.commit",
        "unpublish.commit",
        "unpublish.filter",
    ];
    STEPS.iter().flat_map(|s| [(*s).to_owned(), format!("{s}.done")]).collect()
}
