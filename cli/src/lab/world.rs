//! The real world of a lab: netd for namespaces, links and bridges, the runtime for nodes with a root file system.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rnet_api::{
    ApiError, AttachRequest, BridgeRequest, Client, DetachRequest, DetachWhich, LinkRequest, SandboxRequest,
};
use rnet_model::{AttachSpec, ContainerName, ContainerRef, EndpointId, Engine, IfName, Kind};
use rnet_topology::{Executed, Lab, Node, NodeBody, NodeRecord, Observed, Record, World};

use super::container::Containers;
use super::netns;
use crate::Context;

/// What the nodes of a lab are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Containing {
    /// Namespaces only: the runtime need not be asked.
    Namespaces,
    /// Containers too.
    Containers,
}

impl Containing {
    /// Of one lab and what an earlier deploy of it made.
    pub(super) fn of(lab: Option<&Lab>, record: Option<&Record>) -> Self {
        let wanted = lab.is_some_and(|l| l.nodes.iter().any(|n| matches!(n.body, NodeBody::Rootfs(_))));
        match wanted || record.is_some_and(|r| r.nodes.values().any(|n| n.rootfs)) {
            true => Containing::Containers,
            false => Containing::Namespaces,
        }
    }
}

/// netd and the runtime of one instance.
#[derive(Debug)]
pub(super) struct RealWorld {
    client: Client,
    containers: Containers,
    /// Where the namespaces are, by container.
    netns: HashMap<String, PathBuf>,
    /// The nodes that are containers.
    rootfs: HashSet<ContainerName>,
}

impl RealWorld {
    pub(super) fn new(context: &Context) -> Self {
        RealWorld {
            client: context.client(),
            containers: Containers::new(context),
            netns: HashMap::new(),
            rootfs: HashSet::new(),
        }
    }

    /// Everything that netd knows, and the runtime if the lab is about containers too.
    pub(super) fn observe(&mut self, about: Containing) -> Result<Observed, ApiError> {
        let sandboxes = self.client.sandboxes()?;
        self.netns = sandboxes.iter().map(|s| (s.container.clone(), s.netns.clone())).collect();
        Ok(Observed {
            sandboxes,
            links: self.client.links()?,
            bridges: self.client.bridges()?,
            endpoints: self.client.attachments()?,
            stopped: match about {
                Containing::Containers => self.containers.stopped()?,
                Containing::Namespaces => BTreeSet::new(),
            },
        })
    }

    /// What is still there of a lab that should be gone. `before` is what was there when the destroy began.
    pub(super) fn left_of(&mut self, record: &Record, before: &Observed) -> Result<Vec<String>, ApiError> {
        let now = self.observe(Containing::of(None, Some(record)))?;
        let is_node = |name: &str| record.nodes.keys().any(|n| n.as_str() == name);
        let ids: HashSet<&str> =
            before.sandboxes.iter().filter(|s| is_node(&s.container)).map(|s| s.container_id.as_str()).collect();
        let mut left = Vec::new();
        left.extend(
            now.sandboxes.iter().filter(|s| is_node(&s.container)).map(|s| format!("namespace {}", s.container)),
        );
        left.extend(
            now.endpoints
                .iter()
                .filter(|e| is_node(&e.container))
                .map(|e| format!("attachment {}:{}", e.container, e.ifname)),
        );
        let links = now.links.iter().filter(|l| l.request.ends.iter().any(|e| ids.contains(e.container_id.as_str())));
        left.extend(links.map(|l| format!("link {}", l.id)));
        left.extend(
            now.bridges.iter().filter(|b| record.bridges.contains(&b.name)).map(|b| format!("bridge {}", b.name)),
        );
        left.extend(now.stopped.iter().filter(|c| record.nodes.contains_key(*c)).map(|c| format!("container {c}")));
        let files = before.sandboxes.iter().filter(|s| is_node(&s.container) && s.netns.exists());
        left.extend(files.map(|s| format!("file {}", s.netns.display())));
        Ok(left)
    }

    /// Becomes the command in the node; returns only when that cannot be done.
    pub(super) fn replace_by(
        &mut self,
        container: &ContainerName,
        node: &NodeRecord,
        command: &[String],
    ) -> Result<u8, ApiError> {
        if node.rootfs {
            let e = self.containers.exec_command(container, command)?.exec();
            return Err(ApiError::new(Kind::Retry, format!("cannot run a command in the node {container}")).because(&e));
        }
        netns::enter(&self.netns(container)?)?;
        let (program, arguments) = command.split_first().expect("clap wants at least one word");
        let e = Command::new(program).args(arguments).exec();
        let missing = e.kind() == std::io::ErrorKind::NotFound;
        crate::report(
            &ApiError::new(Kind::Missing, format!("cannot run {program:?} in the node {container}")).because(&e),
        );
        // What docker and env(1) say: 127 not found, 126 found and not runnable.
        Ok(if missing { 127 } else { 126 })
    }

    fn netns(&mut self, container: &ContainerName) -> Result<PathBuf, ApiError> {
        if let Some(path) = self.netns.get(container.as_str()) {
            return Ok(path.clone());
        }
        self.netns = self.client.sandboxes()?.into_iter().map(|s| (s.container, s.netns)).collect();
        let found = self.netns.get(container.as_str()).cloned();
        found.ok_or_else(|| ApiError::new(Kind::Missing, format!("node {container} has no namespace")))
    }
}

impl World for RealWorld {
    fn create_bridge(&mut self, request: &BridgeRequest) -> Result<(), ApiError> {
        self.client.create_bridge(request).map(|_| ())
    }

    fn remove_bridge(&mut self, name: &IfName) -> Result<(), ApiError> {
        absent_is_fine(self.client.remove_bridge(name).map(|_| ()))
    }

    fn start_node(&mut self, node: &Node) -> Result<ContainerName, ApiError> {
        match &node.body {
            NodeBody::Rootfs(process) => {
                self.rootfs.insert(node.container.clone());
                self.containers.start(&node.container, process)
            }
            NodeBody::Namespace => {
                let request = SandboxRequest {
                    container_id: node.container.clone(),
                    container_name: node.container.clone(),
                    networks: Vec::new(),
                };
                let sandbox = self.client.create_sandbox(&request)?;
                self.netns.insert(sandbox.container, sandbox.netns);
                Ok(node.container.clone())
            }
        }
    }

    fn restart_node(&mut self, container: &ContainerName) -> Result<(), ApiError> {
        self.containers.restart(container)
    }

    fn remove_node(&mut self, container: &ContainerName, node: &NodeRecord) -> Result<(), ApiError> {
        self.netns.remove(container.as_str());
        if node.rootfs {
            return self.containers.remove(container);
        }
        self.client.release_sandbox(container, true).map(|_| ())
    }

    fn create_links(&mut self, links: &[LinkRequest]) -> Result<Vec<rnet_api::Link>, ApiError> {
        self.client.create_links(links)
    }

    fn remove_link(&mut self, id: EndpointId) -> Result<(), ApiError> {
        self.client.remove_link(id).map(|_| ())
    }

    fn attach(&mut self, spec: &AttachSpec) -> Result<(), ApiError> {
        self.client.attach(&AttachRequest { spec: spec.clone(), dry_run: false, identity: None }).map(|_| ())
    }

    fn detach(&mut self, container: &ContainerName, ifname: &IfName) -> Result<(), ApiError> {
        let container = ContainerRef::Of(Engine::Rnet, container.clone());
        let request = DetachRequest { container, which: DetachWhich::Ifname(ifname.clone()) };
        absent_is_fine(self.client.detach(&request).map(|_| ()))
    }

    fn set_sysctl(&mut self, container: &ContainerName, key: &str, value: &str) -> Result<(), ApiError> {
        let path = sysctl_path(key);
        let failed = |e: std::io::Error| {
            let kind = if e.kind() == std::io::ErrorKind::NotFound { Kind::Unsupported } else { Kind::Invalid };
            ApiError::new(kind, format!("node {container}: cannot set {key} to {value:?}")).because(&e)
        };
        // /proc/sys/net shows the namespace of the thread that opens it (net/sysctl_net.c).
        netns::inside(&self.netns(container)?, || std::fs::write(&path, value).map_err(failed))
    }

    fn exec(&mut self, container: &ContainerName, words: &[String]) -> Result<Executed, ApiError> {
        let done = |code, output| Executed { container: container.clone(), command: words.to_vec(), code, output };
        let mut command = if self.rootfs.contains(container) {
            self.containers.exec_command(container, words)?
        } else {
            let (program, arguments) = words.split_first().expect("the reader refuses empty commands");
            let mut command = Command::new(program);
            command.args(arguments);
            command
        };
        command.stdin(Stdio::null());
        let output = match self.rootfs.contains(container) {
            true => command.output(),
            false => netns::inside(&self.netns(container)?, || Ok(command.output()))?,
        };
        Ok(match output {
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                let code = output.status.code().or_else(|| output.status.signal().map(|s| 128 + s));
                done(code.unwrap_or(1), String::from_utf8_lossy(&text).into_owned())
            }
            Err(e) => done(127, e.to_string()),
        })
    }
}

fn absent_is_fine(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(e) if e.kind == Kind::Missing => Ok(()),
        other => other,
    }
}

/// `net.ipv4.ip_forward` to its file. As in sysctl.d(5) a slash in the name is a dot of an interface's name.
fn sysctl_path(key: &str) -> PathBuf {
    let swapped: String = key
        .chars()
        .map(|c| {
            if c == '.' {
                '/'
            } else if c == '/' {
                '.'
            } else {
                c
            }
        })
        .collect();
    PathBuf::from("/proc/sys").join(swapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_paths() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), PathBuf::from("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/10.rp_filter"),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.10/rp_filter")
        );
    }
}
