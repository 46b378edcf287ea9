//! `rnet lab inspect`: what is deployed, as tables or JSON.

use std::collections::BTreeMap;

use rnet_api::ApiError;
use rnet_model::{IfAddr, IfName, MacAddr};
use rnet_topology::{Observed, Record};
use serde::Serialize;
use serde_json::json;

use super::book::Book;
use super::world::{Containing, RealWorld};
use super::{Which, not_deployed};
use crate::{Context, output};

/// A node as it is.
#[derive(Debug, Serialize)]
struct NodeView {
    name: String,
    container: String,
    kind: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<std::path::PathBuf>,
    interfaces: Vec<InterfaceView>,
}

/// An interface of a node.
#[derive(Debug, Serialize)]
struct InterfaceView {
    name: IfName,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddr>,
    addresses: Vec<IfAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    peer: String,
}

pub(super) fn run(which: &Which, context: &Context) -> Result<u8, ApiError> {
    let book = Book::open(&context.root)?;
    if which.topology.is_none() && which.name.is_none() {
        list(&book.all()?, context)?;
        return Ok(0);
    }
    let record = book.find(which)?.ok_or_else(|| not_deployed(which))?;
    let observed = RealWorld::new(context).observe(Containing::of(None, Some(&record)))?;
    let nodes = views(&record, &observed);
    let bridges: Vec<_> = observed.bridges.iter().filter(|b| record.bridges.contains(&b.name)).collect();
    if context.json {
        output::json(&json!({ "lab": record.lab, "file": record.file, "nodes": nodes, "bridges": bridges }))?;
        return Ok(0);
    }
    output::line(&format!("lab {} ({})", record.lab, record.file.display()))?;
    let rows: Vec<Vec<String>> = nodes.iter().flat_map(rows).collect();
    output::table(&["NODE", "CONTAINER", "KIND", "STATE", "INTERFACE", "ADDRESSES", "MAC", "PEER"], &rows)?;
    for bridge in bridges {
        output::line(&format!("bridge {}: {} ports, mtu {}", bridge.name, bridge.ports, bridge.mtu))?;
    }
    Ok(0)
}

/// A row for each interface, or one for a node without.
fn rows(node: &NodeView) -> Vec<Vec<String>> {
    let first = vec![node.name.clone(), node.container.clone(), node.kind.to_owned(), node.state.to_owned()];
    if node.interfaces.is_empty() {
        return vec![[first, vec![String::new(); 4]].concat()];
    }
    node.interfaces.iter().map(|i| [first.clone(), interface_row(i)].concat()).collect()
}

fn list(records: &[Record], context: &Context) -> Result<(), ApiError> {
    if context.json {
        let labs: Vec<_> =
            records.iter().map(|r| json!({ "lab": r.lab, "file": r.file, "nodes": r.nodes.len() })).collect();
        return output::json(&json!(labs));
    }
    let row = |r: &Record| vec![r.lab.clone(), r.nodes.len().to_string(), r.file.display().to_string()];
    output::table(&["LAB", "NODES", "FILE"], &records.iter().map(row).collect::<Vec<_>>())
}

fn interface_row(i: &InterfaceView) -> Vec<String> {
    let addresses: Vec<String> = i.addresses.iter().map(ToString::to_string).collect();
    let mac = i.mac.map(|m| m.to_string()).unwrap_or_default();
    vec![i.name.to_string(), addresses.join(" "), mac, i.peer.clone()]
}

fn views(record: &Record, observed: &Observed) -> Vec<NodeView> {
    let by_id: BTreeMap<&str, &str> =
        observed.sandboxes.iter().map(|s| (s.container_id.as_str(), s.container.as_str())).collect();
    let node_name = |container: &str| {
        let node = record.nodes.iter().find(|(name, _)| name.as_str() == container);
        node.map_or(container, |(_, n)| n.node.as_str()).to_owned()
    };
    let mut nodes = Vec::new();
    for (container, node) in &record.nodes {
        let sandbox = observed.sandboxes.iter().find(|s| s.container == container.as_str());
        let id = sandbox.map(|s| s.container_id.clone());
        let mut interfaces: Vec<InterfaceView> = Vec::new();
        for link in &observed.links {
            for (end, other) in [(0, 1), (1, 0)].map(|(a, b)| (&link.request.ends[a], &link.request.ends[b])) {
                if Some(end.container_id.as_str()) == id.as_deref() {
                    let peer = by_id.get(other.container_id.as_str()).copied().unwrap_or("?");
                    interfaces.push(InterfaceView {
                        name: end.ifname.clone(),
                        mac: end.mac,
                        addresses: end.addresses.clone(),
                        mtu: link.request.mtu,
                        peer: format!("{}:{}", node_name(peer), other.ifname),
                    });
                }
            }
        }
        let ports = observed.endpoints.iter().filter(|e| e.container == container.as_str());
        interfaces.extend(ports.map(|e| InterfaceView {
            name: e.ifname.clone(),
            mac: e.mac,
            addresses: e.addresses.clone(),
            mtu: Some(e.mtu),
            peer:
                [&e.bridge, &e.host_ifname].map(|n| n.as_ref().map(ToString::to_string).unwrap_or_default()).join(":"),
        }));
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        nodes.push(NodeView {
            name: node.node.clone(),
            container: container.to_string(),
            kind: if node.rootfs { "rootfs" } else { "namespace" },
            state: match sandbox {
                None => "gone",
                Some(_) if observed.stopped.contains(container) => "stopped",
                Some(_) => "up",
            },
            netns: sandbox.map(|s| s.netns.clone()),
            container_id: id,
            interfaces,
        });
    }
    nodes
}
