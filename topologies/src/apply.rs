//! Executes a plan on a [`World`]; when a step fails, what was done is undone in reverse.

use std::collections::HashMap;

use rnet_api::{ApiError, BridgeRequest, LinkEnd, LinkRequest};
use rnet_model::{AttachSpec, ContainerName, EndpointId, IfName, Kind};

use crate::lab::{Link, Node};
use crate::plan::{NodeRecord, Observed, Plan, Record, Step, again, link_ids};

/// Largest body of one request for links, below what netd reads ([`rnet_api::BODY_LIMIT`]) with room to spare.
const LINKS_BODY: usize = rnet_api::BODY_LIMIT * 3 / 4;

/// Everything a lab is made of. Removing what is not there is success.
pub trait World {
    /// Makes a bridge.
    fn create_bridge(&mut self, request: &BridgeRequest) -> Result<(), ApiError>;
    /// Removes a bridge.
    fn remove_bridge(&mut self, name: &IfName) -> Result<(), ApiError>;
    /// Makes a node with its namespace and starts what runs in it; the id netd knows it under.
    fn start_node(&mut self, node: &Node) -> Result<ContainerName, ApiError>;
    /// Starts a stopped one again.
    fn restart_node(&mut self, container: &ContainerName) -> Result<(), ApiError>;
    /// Removes a node, its interfaces and its namespace.
    fn remove_node(&mut self, container: &ContainerName, node: &NodeRecord) -> Result<(), ApiError>;
    /// Makes links, all or none.
    fn create_links(&mut self, links: &[LinkRequest]) -> Result<Vec<rnet_api::Link>, ApiError>;
    /// Removes a link.
    fn remove_link(&mut self, id: EndpointId) -> Result<(), ApiError>;
    /// Connects a node to a bridge.
    fn attach(&mut self, spec: &AttachSpec) -> Result<(), ApiError>;
    /// Takes it off again.
    fn detach(&mut self, container: &ContainerName, ifname: &IfName) -> Result<(), ApiError>;
    /// Sets a value in a node's namespace.
    fn set_sysctl(&mut self, container: &ContainerName, key: &str, value: &str) -> Result<(), ApiError>;
    /// Runs a command in a node and waits for it; what it printed and how it ended.
    fn exec(&mut self, container: &ContainerName, words: &[String]) -> Result<Executed, ApiError>;
}

/// A command that ran in a node.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Executed {
    /// The node's container.
    pub container: ContainerName,
    /// The command.
    pub command: Vec<String>,
    /// Exit code; 128+n for signal n.
    pub code: i32,
    /// Both its output streams.
    pub output: String,
}

/// A plan that could not be carried out.
#[derive(Debug)]
pub struct Failure {
    /// What failed. What was done before it is undone.
    pub error: ApiError,
    /// What could not be undone.
    pub rollback: Vec<ApiError>,
}

/// Carries `plan` out. A command in a node that fails is reported and does not stop the deploy, as in containerlab.
///
/// # Errors
/// The first step that fails; what was done is undone.
pub fn apply(
    plan: &Plan,
    observed: &Observed,
    world: &mut dyn World,
    progress: &mut dyn FnMut(&Step),
) -> Result<Vec<Executed>, Failure> {
    let mut run = Run { world, names: names(&plan.record), ids: ids(observed), undo: Vec::new(), executed: Vec::new() };
    for step in &plan.steps {
        progress(step);
        if let Err(error) = run.step(step) {
            return Err(Failure { error, rollback: run.roll_back() });
        }
    }
    Ok(run.executed)
}

/// Container names by node name.
fn names(record: &Record) -> HashMap<String, ContainerName> {
    record.nodes.iter().map(|(container, node)| (node.node.clone(), container.clone())).collect()
}

/// Container ids by container name.
fn ids(observed: &Observed) -> HashMap<String, ContainerName> {
    let id = |text: &str| text.parse::<ContainerName>().ok();
    observed.sandboxes.iter().filter_map(|s| Some((s.container.clone(), id(&s.container_id)?))).collect()
}

enum Undo {
    RemoveBridge(IfName),
    RemoveNode(ContainerName, NodeRecord),
    RemoveLinks(Vec<EndpointId>),
    Detach(ContainerName, IfName),
    CreateLink(LinkRequest),
    Attach(Box<AttachSpec>),
}

struct Run<'a> {
    world: &'a mut dyn World,
    names: HashMap<String, ContainerName>,
    ids: HashMap<String, ContainerName>,
    undo: Vec<Undo>,
    executed: Vec<Executed>,
}

impl Run<'_> {
    fn step(&mut self, step: &Step) -> Result<(), ApiError> {
        match step {
            Step::RemoveLink(link) => {
                self.world.remove_link(link.id)?;
                self.undo.push(Undo::CreateLink(link.request.clone()));
            }
            Step::Detach(endpoint) => {
                let container = endpoint.container.parse::<ContainerName>()?;
                self.world.detach(&container, &endpoint.ifname)?;
                self.undo.extend(again(endpoint).map(|spec| Undo::Attach(Box::new(spec))));
            }
            // A node that is gone cannot come back as it was: its processes and their files are lost.
            Step::RemoveNode(container, node) => self.world.remove_node(container, node)?,
            Step::CreateBridge(request) => {
                self.world.create_bridge(request)?;
                self.undo.push(Undo::RemoveBridge(request.name.clone()));
            }
            Step::StartNode(node) => {
                let record = NodeRecord {
                    node: node.name.clone(),
                    rootfs: matches!(node.body, crate::NodeBody::Rootfs(_)),
                    fingerprint: String::new(),
                };
                let id = self.world.start_node(node)?;
                self.ids.insert(node.container.to_string(), id);
                self.undo.push(Undo::RemoveNode(node.container.clone(), record));
            }
            Step::RestartNode(container) => self.world.restart_node(container)?,
            Step::CreateLinks(links) => self.links(links)?,
            Step::Attach(spec) => {
                self.world.attach(spec)?;
                if let (rnet_model::ContainerRef::Of(_, name), Some(ifname)) = (&spec.container, &spec.options.ifname) {
                    self.undo.push(Undo::Detach(name.clone(), ifname.clone()));
                }
            }
            Step::Sysctl(container, key, value) => self.world.set_sysctl(container, key, value)?,
            Step::Exec(container, words) => {
                let done = self.world.exec(container, words)?;
                self.executed.push(done);
            }
            Step::RemoveBridge(name) => self.world.remove_bridge(name)?,
        }
        Ok(())
    }

    /// Several requests only if one would be larger than netd reads; all or none either way, by the undo.
    fn links(&mut self, links: &[Link]) -> Result<(), ApiError> {
        let requests: Vec<LinkRequest> = links.iter().map(|l| self.request(l)).collect::<Result<_, _>>()?;
        for chunk in chunks(&requests) {
            let made = self.world.create_links(chunk)?;
            self.undo.push(Undo::RemoveLinks(link_ids(&made)));
        }
        Ok(())
    }

    fn request(&self, link: &Link) -> Result<LinkRequest, ApiError> {
        let end = |end: &crate::End| {
            let id = self.names.get(&end.node).and_then(|name| self.ids.get(name.as_str()));
            let id = id.ok_or_else(|| ApiError::new(Kind::Bug, format!("node {} has no namespace", end.node)))?;
            Ok::<_, ApiError>(LinkEnd {
                container_id: id.clone(),
                ifname: end.ifname.clone(),
                mac: Some(end.mac),
                addresses: end.addresses.clone(),
            })
        };
        Ok(LinkRequest { ends: [end(&link.ends[0])?, end(&link.ends[1])?], mtu: Some(link.mtu) })
    }

    fn roll_back(&mut self) -> Vec<ApiError> {
        let mut failed = Vec::new();
        while let Some(undo) = self.undo.pop() {
            let world = &mut *self.world;
            let result = match undo {
                Undo::RemoveBridge(name) => world.remove_bridge(&name),
                Undo::RemoveNode(name, node) => world.remove_node(&name, &node),
                Undo::RemoveLinks(ids) => ids.into_iter().try_for_each(|id| world.remove_link(id)),
                Undo::Detach(container, ifname) => world.detach(&container, &ifname),
                Undo::CreateLink(request) => world.create_links(std::slice::from_ref(&request)).map(|_| ()),
                Undo::Attach(spec) => world.attach(&spec),
            };
            failed.extend(result.err());
        }
        failed
    }
}

/// Cuts `requests` so that the JSON of each part stays below [`LINKS_BODY`].
fn chunks(requests: &[LinkRequest]) -> Vec<&[LinkRequest]> {
    let (mut parts, mut start, mut size) = (Vec::new(), 0, 0);
    for (i, request) in requests.iter().enumerate() {
        let length = serde_json::to_vec(request).map_or(0, |json| json.len() + 1);
        if size + length > LINKS_BODY && i > start {
            parts.push(&requests[start..i]);
            (start, size) = (i, 0);
        }
        size += length;
    }
    if start < requests.len() {
        parts.push(&requests[start..]);
    }
    parts
}
