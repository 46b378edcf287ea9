//! What is measured, each beside its peers.

pub(crate) mod attach;
pub(crate) mod cni;
pub(crate) mod flows;
pub(crate) mod network;
pub(crate) mod path;
pub(crate) mod ports;
pub(crate) mod runtime;
pub(crate) mod scale;

use rnet_kernel::{Links as _, Netns, Route};
use serde_json::json;

use crate::bed::{Container, Daemon};
use crate::http::Request;

/// One measured promise.
#[derive(Debug)]
pub(crate) struct Finding {
    /// As in the table of promises.
    pub(crate) id: &'static str,
    /// Our figures.
    pub(crate) measured: String,
    /// The others' figures in the same run.
    pub(crate) peers: String,
    /// Whether the promise holds.
    pub(crate) met: bool,
}

/// What a peer said, or why it could not be asked.
fn or_why<T: std::fmt::Display>(result: anyhow::Result<T>) -> String {
    result.map_or_else(|error| format!("not measured: {error:#}"), |value| value.to_string())
}

/// `rnet attach BRIDGE netns:PATH ADDRESS` as a request.
fn attach_request(bridge: &str, container: &Container, address: &str) -> anyhow::Result<Request> {
    let container = format!("netns:{}", container.path.display());
    let spec = json!({ "hostif": bridge, "container": container, "address": address });
    Request::post("/v1/attachments", &json!({ "spec": spec }))
}

/// The address of endpoint number `n` in 10.N.0.0/16.
fn address(second: u8, n: usize) -> String {
    format!("10.{second}.{}.{}/16", n / 250, n % 250 + 2)
}

/// The command line client of a daemon.
fn rnet(bed: &crate::bed::Bed, daemon: &Daemon, words: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(bed.binary("rnet"));
    command.arg("--root").arg(daemon.root()).args(words);
    command
}

/// How many ports the bridge has.
fn ports(bridge: &str) -> anyhow::Result<usize> {
    let links = Route::open(&Netns::current()?)?.links()?;
    let index = links.iter().find(|l| l.name.as_str() == bridge).map(|l| l.index);
    Ok(links.iter().filter(|l| index.is_some() && l.master == index).count())
}
