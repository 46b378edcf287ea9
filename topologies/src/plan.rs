//! The pure planner: a lab, what it made before, and what is there now give an ordered list of steps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use rnet_api::{ApiError, Bridge, BridgeRequest, Endpoint, Sandbox};
use rnet_model::{AddressSpec, AttachOptions, AttachSpec, ContainerName, ContainerRef, Engine, HostIf, IfName, Kind};
use rnet_model::{EndpointId, StaticAddress};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::lab::{BridgeNode, DEFAULT_MTU, End, Lab, Link, Node, NodeBody, Port};

/// What a lab made, written down before it is made: the only things that destroy may remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the lab.
    pub lab: String,
    /// Its topology file, absolute.
    pub file: PathBuf,
    /// Containers and sandboxes.
    pub nodes: BTreeMap<ContainerName, NodeRecord>,
    /// Bridges that were not there before.
    pub bridges: BTreeSet<IfName>,
    /// Attachments: container and interface.
    pub ports: BTreeSet<(ContainerName, IfName)>,
}

/// A node that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Name in the lab.
    pub node: String,
    /// Whether the runtime has a container for it.
    pub rootfs: bool,
    /// Hash of what the node shall be; another one means that it is made anew.
    pub fingerprint: String,
}

/// What is there.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Namespaces that netd keeps.
    pub sandboxes: Vec<Sandbox>,
    /// Links between them.
    pub links: Vec<rnet_api::Link>,
    /// Bridges.
    pub bridges: Vec<Bridge>,
    /// Attachments.
    pub endpoints: Vec<Endpoint>,
    /// Containers of the runtime that do not run.
    pub stopped: BTreeSet<ContainerName>,
}

/// One change.
#[derive(Debug, Clone)]
pub enum Step {
    /// Removes a link that is no longer wanted, or wanted differently.
    RemoveLink(rnet_api::Link),
    /// Removes a port that is no longer wanted, or wanted differently.
    Detach(Box<Endpoint>),
    /// Removes a node.
    RemoveNode(ContainerName, NodeRecord),
    /// Makes a bridge.
    CreateBridge(BridgeRequest),
    /// Makes a node.
    StartNode(Box<Node>),
    /// Starts a container that has stopped.
    RestartNode(ContainerName),
    /// Makes links, all or none.
    CreateLinks(Vec<Link>),
    /// Connects a node to a bridge.
    Attach(Box<AttachSpec>),
    /// Sets a value in a node's namespace.
    Sysctl(ContainerName, String, String),
    /// Runs a command in a node.
    Exec(ContainerName, Vec<String>),
    /// Removes a bridge.
    RemoveBridge(IfName),
}

/// What to do, and what will then belong to the lab.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What the lab owns afterwards.
    pub record: Record,
    /// Nodes, bridges, links and ports that are already right.
    pub unchanged: usize,
}

impl Plan {
    /// How to make `lab` out of what is there. `record` is what an earlier deploy made, `file` the topology file.
    ///
    /// # Errors
    /// `Conflict` when a name of the lab belongs to something it did not make.
    pub fn deploy(lab: &Lab, file: &Path, record: Option<&Record>, observed: &Observed) -> Result<Plan, ApiError> {
        let none = Record { lab: lab.name.clone(), ..Record::default() };
        let mut planner =
            Planner { lab, before: record.unwrap_or(&none), observed, kept: BTreeSet::new(), unchanged: 0 };
        planner.plan(file)
    }

    /// How to remove everything that `record` says was made.
    pub fn destroy(record: &Record, observed: &Observed) -> Plan {
        let mut steps: Vec<Step> =
            record.nodes.iter().map(|(name, node)| Step::RemoveNode(name.clone(), node.clone())).collect();
        let there = observed.bridges.iter().filter(|b| record.bridges.contains(&b.name));
        steps.extend(there.map(|b| Step::RemoveBridge(b.name.clone())));
        Plan { steps, record: Record { lab: record.lab.clone(), ..Record::default() }, unchanged: 0 }
    }
}

struct Planner<'a> {
    lab: &'a Lab,
    before: &'a Record,
    observed: &'a Observed,
    /// Containers that are there and stay.
    kept: BTreeSet<&'a str>,
    unchanged: usize,
}

impl<'a> Planner<'a> {
    fn plan(&mut self, file: &Path) -> Result<Plan, ApiError> {
        let mut record = Record { lab: self.lab.name.clone(), file: file.to_owned(), ..Record::default() };
        let (replaced, started) = self.nodes(&mut record)?;
        let bridges = self.bridges(&mut record);
        let (stale_links, links) = self.links();
        let (stale_ports, ports) = self.ports(&mut record);

        let mut steps: Vec<Step> = stale_links.into_iter().map(Step::RemoveLink).collect();
        steps.extend(stale_ports.into_iter().map(|e| Step::Detach(Box::new(e))));
        steps.extend(replaced);
        steps.extend(bridges);
        let fresh: Vec<&Node> =
            started.iter().filter_map(|s| if let Step::StartNode(n) = s { Some(&**n) } else { None }).collect();
        let sysctls: Vec<Step> = fresh.iter().flat_map(|n| sysctls(n)).collect();
        let execs: Vec<Step> = fresh.iter().flat_map(|n| execs(n)).collect();
        steps.extend(started);
        if !links.is_empty() {
            steps.push(Step::CreateLinks(links));
        }
        steps.extend(ports);
        steps.extend(sysctls);
        steps.extend(execs);
        steps.extend(self.leftovers(&record));
        Ok(Plan { steps, record, unchanged: self.unchanged })
    }

    /// Nodes to remove because they changed, and nodes to start.
    fn nodes(&mut self, record: &mut Record) -> Result<(Vec<Step>, Vec<Step>), ApiError> {
        let there: BTreeSet<&str> = self.observed.sandboxes.iter().map(|s| s.container.as_str()).collect();
        let (mut replaced, mut started) = (Vec::new(), Vec::new());
        for node in &self.lab.nodes {
            let wanted = NodeRecord {
                node: node.name.clone(),
                rootfs: matches!(node.body, NodeBody::Rootfs(_)),
                fingerprint: fingerprint(node),
            };
            let known = self.before.nodes.get_key_value(&node.container);
            let exists = there.contains(node.container.as_str());
            match known {
                Some((name, known)) if exists && *known == wanted => {
                    self.kept.insert(name.as_str());
                    self.unchanged += 1;
                    if self.observed.stopped.contains(name) {
                        started.push(Step::RestartNode(name.clone()));
                    }
                }
                Some((name, known)) => {
                    if exists || known.rootfs {
                        replaced.push(Step::RemoveNode(name.clone(), known.clone()));
                    }
                    started.push(Step::StartNode(Box::new(node.clone())));
                }
                None if exists => return Err(foreign(&self.lab.name, &node.container)),
                None => started.push(Step::StartNode(Box::new(node.clone()))),
            }
            record.nodes.insert(node.container.clone(), wanted);
        }
        Ok((replaced, started))
    }

    fn bridges(&mut self, record: &mut Record) -> Vec<Step> {
        let mut steps = Vec::new();
        for BridgeNode { name, addresses } in &self.lab.bridges {
            let exists = self.observed.bridges.iter().any(|b| b.name == *name);
            if exists {
                self.unchanged += 1;
            } else {
                steps.push(Step::CreateBridge(BridgeRequest {
                    name: name.clone(),
                    uplink: None,
                    vlan_filtering: false,
                    addresses: addresses.clone(),
                    mtu: Some(DEFAULT_MTU),
                }));
            }
            if !exists || self.before.bridges.contains(name) {
                record.bridges.insert(name.clone());
            }
        }
        steps
    }

    /// Links to remove and links to make.
    fn links(&mut self) -> (Vec<rnet_api::Link>, Vec<Link>) {
        let ids: HashMap<&str, &str> =
            self.observed.sandboxes.iter().map(|s| (s.container_id.as_str(), s.container.as_str())).collect();
        let container = |id: &ContainerName| ids.get(id.as_str()).copied();
        let mine = |link: &rnet_api::Link| {
            link.request.ends.iter().any(|e| container(&e.container_id).is_some_and(|c| self.is_kept(c)))
        };
        let of_node: HashMap<&str, &ContainerName> =
            self.lab.nodes.iter().map(|n| (n.name.as_str(), &n.container)).collect();
        // By one end, which no two links share.
        let mut there: HashMap<(&str, &IfName), &rnet_api::Link> = HashMap::new();
        for link in self.observed.links.iter().filter(|l| mine(l)) {
            for end in &link.request.ends {
                there.insert((end.container_id.as_str(), &end.ifname), link);
            }
        }
        let id_of: HashMap<&str, &str> =
            self.observed.sandboxes.iter().map(|s| (s.container.as_str(), s.container_id.as_str())).collect();
        let mut missing = Vec::new();
        let mut right = BTreeSet::new();
        for link in &self.lab.links {
            let same_end = |wanted: &End, end: &rnet_api::LinkEnd| {
                container(&end.container_id) == of_node.get(wanted.node.as_str()).map(|c| c.as_str())
                    && end.ifname == wanted.ifname
                    && end.mac.is_none_or(|mac| mac == wanted.mac)
                    && end.addresses == wanted.addresses
            };
            let first = &link.ends[0];
            let id = of_node.get(first.node.as_str()).and_then(|c| id_of.get(c.as_str()));
            let found = id.and_then(|id| there.get(&(*id, &first.ifname)));
            let same = |l: &&&rnet_api::Link| {
                let [a, b] = &l.request.ends;
                let [left, right] = &link.ends;
                l.request.mtu.is_none_or(|mtu| mtu == link.mtu)
                    && ((same_end(left, a) && same_end(right, b)) || (same_end(left, b) && same_end(right, a)))
            };
            match found.filter(same) {
                Some(link) => {
                    right.insert(link.id);
                }
                None => missing.push(link.clone()),
            }
        }
        let stale = self.observed.links.iter().filter(|l| mine(l) && !right.contains(&l.id)).cloned().collect();
        self.unchanged += right.len();
        (stale, missing)
    }

    fn is_kept(&self, container: &str) -> bool {
        self.kept.contains(container)
    }

    /// Ports to remove and ports to make.
    fn ports(&mut self, record: &mut Record) -> (Vec<Endpoint>, Vec<Step>) {
        let mine = |e: &&Endpoint| {
            self.is_kept(&e.container)
                && self.before.ports.iter().any(|(c, i)| c.as_str() == e.container && *i == e.ifname)
        };
        let mut there: Vec<&Endpoint> = self.observed.endpoints.iter().filter(mine).collect();
        let mut steps = Vec::new();
        for port in &self.lab.ports {
            let Some(node) = self.lab.nodes.iter().find(|n| n.name == port.end.node) else { continue };
            record.ports.insert((node.container.clone(), port.end.ifname.clone()));
            let same = |e: &&Endpoint| {
                e.container == node.container.as_str()
                    && e.ifname == port.end.ifname
                    && e.bridge.as_ref() == Some(&port.bridge)
                    && e.host_ifname.as_ref() == Some(&port.port)
                    && e.mac == Some(port.end.mac)
                    && e.addresses == port.end.addresses
                    && port.mtu.is_none_or(|mtu| mtu == e.mtu)
            };
            if let Some(i) = there.iter().position(same) {
                there.swap_remove(i);
                self.unchanged += 1;
            } else {
                let ours = record.bridges.contains(&port.bridge);
                steps.push(Step::Attach(Box::new(attachment(port, &node.container, ours))));
            }
        }
        (there.into_iter().cloned().collect(), steps)
    }

    /// What an earlier deploy made and this lab no longer has. Last, so that a failure before leaves it alone.
    fn leftovers(&self, record: &Record) -> Vec<Step> {
        let nodes = self.before.nodes.iter().filter(|(name, _)| !record.nodes.contains_key(*name));
        let nodes = nodes.map(|(name, node)| Step::RemoveNode(name.clone(), node.clone()));
        let there = |name: &&IfName| self.observed.bridges.iter().any(|b| b.name == **name);
        let bridges = self.before.bridges.difference(&record.bridges).filter(there);
        nodes.chain(bridges.map(|name| Step::RemoveBridge(name.clone()))).collect()
    }
}

fn foreign(lab: &str, container: &ContainerName) -> ApiError {
    ApiError::new(Kind::Conflict, format!("lab {lab}: there is a container {container} that the lab did not make"))
        .hint("rename the node or the lab, or remove that container")
}

fn sysctls(node: &Node) -> Vec<Step> {
    node.sysctls.iter().map(|(key, value)| Step::Sysctl(node.container.clone(), key.clone(), value.clone())).collect()
}

fn execs(node: &Node) -> Vec<Step> {
    node.exec.iter().map(|words| Step::Exec(node.container.clone(), words.clone())).collect()
}

/// The attachment of a port. On a bridge the lab made nobody else has an address, so nobody is asked.
fn attachment(port: &Port, container: &ContainerName, lab_made_bridge: bool) -> AttachSpec {
    let addresses: Vec<StaticAddress> =
        port.end.addresses.iter().map(|a| StaticAddress { address: *a, gateway: None }).collect();
    AttachSpec {
        hostif: HostIf::Name(port.bridge.clone()),
        container: ContainerRef::Of(Engine::Rnet, container.clone()),
        address: if addresses.is_empty() { AddressSpec::None } else { AddressSpec::Static(addresses) },
        options: AttachOptions {
            ifname: Some(port.end.ifname.clone()),
            host_ifname: Some(port.port.clone()),
            mac: Some(port.end.mac),
            mtu: port.mtu,
            no_probe: lab_made_bridge,
            ..AttachOptions::default()
        },
    }
}

fn fingerprint(node: &Node) -> String {
    let text = serde_json::to_vec(node).expect("a node is strings, lists and maps with string keys");
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Id and names of a link for messages: `a:eth1 -- b:eth1`.
pub(crate) fn link_words(link: &Link) -> String {
    let end = |e: &End| {
        let addresses: String = e.addresses.iter().map(|a| format!(" {a}")).collect();
        format!("{}:{}{addresses}", e.node, e.ifname)
    };
    format!("{} -- {} mtu {}", end(&link.ends[0]), end(&link.ends[1]), link.mtu)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::RemoveLink(link) => {
                let [a, b] = &link.request.ends;
                write!(f, "- link {}:{} -- {}:{}", a.container_id, a.ifname, b.container_id, b.ifname)
            }
            Step::Detach(e) => write!(f, "- port {}:{}", e.container, e.ifname),
            Step::RemoveNode(name, _) => write!(f, "- node {name}"),
            Step::CreateBridge(bridge) => {
                write!(f, "+ bridge {}", bridge.name)?;
                bridge.addresses.iter().try_for_each(|a| write!(f, " {a}"))
            }
            Step::StartNode(node) => match &node.body {
                NodeBody::Namespace => write!(f, "+ node {}: namespace {}", node.name, node.container),
                NodeBody::Rootfs(p) => {
                    write!(f, "+ node {}: container {}, {}", node.name, node.container, p.command.join(" "))
                }
            },
            Step::RestartNode(name) => write!(f, "~ node {name}: started again"),
            Step::CreateLinks(links) => {
                let lines: Vec<_> = links.iter().map(|l| format!("+ link {}", link_words(l))).collect();
                f.write_str(&lines.join("\n"))
            }
            Step::Attach(spec) => {
                let text = |name: &Option<IfName>| name.as_ref().map(ToString::to_string).unwrap_or_default();
                let o = &spec.options;
                write!(
                    f,
                    "+ port {}:{} -- {}:{} {}",
                    spec.hostif,
                    text(&o.host_ifname),
                    spec.container,
                    text(&o.ifname),
                    spec.address
                )?;
                o.mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))
            }
            Step::Sysctl(name, key, value) => write!(f, "+ setting {name}: {key} = {value}"),
            Step::Exec(name, words) => write!(f, "+ exec {name}: {}", words.join(" ")),
            Step::RemoveBridge(name) => write!(f, "- bridge {name}"),
        }
    }
}

/// The attachment that brings a detached endpoint back.
pub(crate) fn again(e: &Endpoint) -> Option<AttachSpec> {
    let addresses: Vec<_> = e.addresses.iter().map(|a| StaticAddress { address: *a, gateway: None }).collect();
    Some(AttachSpec {
        hostif: HostIf::Name(e.bridge.clone()?),
        container: ContainerRef::Of(e.engine, e.container.parse().ok()?),
        address: if addresses.is_empty() { AddressSpec::None } else { AddressSpec::Static(addresses) },
        options: AttachOptions {
            ifname: Some(e.ifname.clone()),
            host_ifname: e.host_ifname.clone(),
            mac: e.mac,
            mtu: Some(e.mtu),
            no_probe: true,
            ..AttachOptions::default()
        },
    })
}

/// Ids of links, for undo.
pub(crate) fn link_ids(links: &[rnet_api::Link]) -> Vec<EndpointId> {
    links.iter().map(|l| l.id).collect()
}
