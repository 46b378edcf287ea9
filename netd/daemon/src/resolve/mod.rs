//! From what a user calls a container to its network namespace.
//!
//! A chain of small resolvers: rnet's own containers, Docker, named namespaces; `pid:` and `netns:/path` say it
//! themselves. A prefix asks one of them. Without one all are asked: one match wins, several are an error that lists
//! them. Everything here happens before the engine's job, so that a slow engine delays nobody else.

mod docker;

use std::path::{Path, PathBuf};

use rnet_api::{ApiError, Identity, Sandbox};
use rnet_kernel::{KernelError, Netns};
use rnet_model::{ContainerName, ContainerRef, Engine, Kind};

use crate::config;
use crate::engine::Handle;
use docker::Docker;

/// A container that was found, and its namespace held open.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Who made it.
    pub(crate) engine: Engine,
    /// Full id.
    pub(crate) id: String,
    /// Name.
    pub(crate) name: String,
    /// Its network namespace.
    pub(crate) netns: Netns,
    /// Its first process, if it is known by that.
    pub(crate) pid: Option<u32>,
    /// Its namespace's file, if it is known by that.
    pub(crate) path: Option<PathBuf>,
}

/// All resolvers.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    engine: Handle,
    docker: Docker,
    host: Netns,
}

/// Where `ip netns add` keeps names (ip-netns(8)).
const NAMED: &str = "/run/netns";

impl Resolver {
    /// Opens nothing yet but the daemon's own namespace.
    ///
    /// # Errors
    /// When that cannot be opened.
    pub(crate) fn new(engine: Handle, docker: &config::Docker) -> Result<Self, ApiError> {
        let host = Netns::current().map_err(|e| opening("the daemon's own namespace", &e))?;
        Ok(Resolver { engine, docker: Docker::new(docker), host })
    }

    /// Finds a container. `identity` replaces who it is, for callers that know better (the OCI hook).
    ///
    /// # Errors
    /// Nobody knows it, several do, it does not run, or it uses the host's own network.
    pub(crate) async fn resolve(
        &self,
        reference: &ContainerRef,
        identity: Option<&Identity>,
    ) -> Result<Target, ApiError> {
        let mut target = match reference {
            ContainerRef::Pid(pid) => of_pid(*pid)?,
            ContainerRef::NetnsPath(path) => of_path(path)?,
            ContainerRef::Of(engine, name) => self.of_engine(*engine, name).await?,
            ContainerRef::Any(name) => self.any(name).await?,
        };
        if target.netns.id() == self.host.id() {
            return Err(ApiError::new(
                Kind::Invalid,
                format!("{reference} has no network of its own: it uses the host's"),
            )
            .hint("attach works on containers with a network namespace of their own"));
        }
        if let Some(identity) = identity {
            target.engine = identity.engine;
            target.id = identity.id.to_string();
            target.name = identity.name.to_string();
        }
        Ok(target)
    }

    async fn of_engine(&self, engine: Engine, name: &ContainerName) -> Result<Target, ApiError> {
        let found = match engine {
            Engine::Rnet => self.rnet(name).await?,
            Engine::Docker => self.docker.find(name).await?,
            Engine::Netns => named(name)?,
            Engine::Podman | Engine::Containerd | Engine::Lxc => {
                return Err(ApiError::new(
                    Kind::Unsupported,
                    format!("{engine}:{name}: containers of {engine} are not in this version"),
                )
                .hint("name one of its processes instead: pid:N"));
            }
            _ => {
                let how = if engine == Engine::Cni { "by its CNI configuration" } else { "by the hook" };
                return Err(ApiError::new(
                    Kind::Unsupported,
                    format!("{engine}:{name}: its runtime attaches it, {how}"),
                )
                .hint("attach by its process: pid:N"));
            }
        };
        found.ok_or_else(|| not_found(&format!("{engine}:{name}"), &[format!("{engine} knows none of that name")]))
    }

    async fn any(&self, name: &ContainerName) -> Result<Target, ApiError> {
        let mut found = Vec::new();
        let mut tried = Vec::new();
        let mut refused = None;
        let answers = [
            (Engine::Rnet, self.rnet(name).await),
            (Engine::Docker, self.docker.find(name).await),
            (Engine::Netns, named(name)),
        ];
        for (engine, answer) in answers {
            match answer {
                Ok(Some(target)) => found.push(target),
                Ok(None) => tried.push(format!("{engine}: no")),
                // An engine that is not there knows no containers either.
                Err(error) if error.kind == Kind::Unavailable => tried.push(format!("{engine}: {}", error.chain())),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        match (found.pop(), refused) {
            (Some(target), _) if found.is_empty() => Ok(target),
            (Some(last), _) => {
                found.push(last);
                let names: Vec<_> = found.iter().map(|t| format!("{}:{}", t.engine, t.name)).collect();
                Err(ApiError::new(Kind::Conflict, format!("{name} is ambiguous: {}", names.join(", ")))
                    .hint("write it with the prefix of the one you mean"))
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(not_found(name.as_str(), &tried)),
        }
    }

    /// By id, name or unique prefix of the id.
    async fn rnet(&self, name: &ContainerName) -> Result<Option<Target>, ApiError> {
        let all = self.engine.sandboxes().await?;
        let name = name.as_str();
        let exact = |s: &&Sandbox| s.container_id == name || s.container == name;
        let mut found: Vec<&Sandbox> = all.iter().filter(exact).collect();
        if found.is_empty() && name.len() >= 4 {
            found = all.iter().filter(|s| s.container_id.starts_with(name)).collect();
        }
        match found[..] {
            [] => Ok(None),
            [one] => {
                let netns = Netns::open(&one.netns).map_err(|e| opening(&one.container, &e))?;
                let (id, name) = (one.container_id.clone(), one.container.clone());
                Ok(Some(Target { engine: Engine::Rnet, id, name, netns, pid: None, path: None }))
            }
            _ => {
                let ids: Vec<_> = found.iter().map(|s| format!("rnet:{}", s.container_id)).collect();
                Err(ApiError::new(Kind::Conflict, format!("{name} is ambiguous: {}", ids.join(", ")))
                    .hint("write more of the id"))
            }
        }
    }
}

fn of_pid(pid: u32) -> Result<Target, ApiError> {
    let netns = Netns::of_process(pid).map_err(|error| {
        let api = opening(&format!("process {pid}"), &error);
        match error.kind() {
            Kind::Missing => ApiError { kind: Kind::Missing, ..api }.hint("it has ended; see ps -e"),
            _ => api,
        }
    })?;
    let name = pid.to_string();
    Ok(Target { engine: Engine::Pid, id: name.clone(), name, netns, pid: Some(pid), path: None })
}

fn of_path(path: &Path) -> Result<Target, ApiError> {
    let netns = Netns::open(path).map_err(|e| opening(&path.display().to_string(), &e))?;
    // One file has one id, however it is spelled.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let id = path.display().to_string();
    let name = match (path.parent(), path.file_name().and_then(|n| n.to_str())) {
        (Some(parent), Some(name)) if parent == Path::new(NAMED) => name.to_owned(),
        _ => id.clone(),
    };
    Ok(Target { engine: Engine::Netns, id, name, netns, pid: None, path: Some(path) })
}

fn named(name: &ContainerName) -> Result<Option<Target>, ApiError> {
    let path = Path::new(NAMED).join(name.as_str());
    if path.exists() { of_path(&path).map(Some) } else { Ok(None) }
}

fn not_found(name: &str, tried: &[String]) -> ApiError {
    ApiError::new(Kind::Missing, format!("there is no running container {name} ({})", tried.join("; ")))
        .hint("a process is named by pid:N, a namespace by netns:NAME or netns:/path")
}

fn opening(what: &str, error: &KernelError) -> ApiError {
    let mut api = ApiError::new(error.kind(), format!("cannot open the network namespace of {what}"));
    // The kernel's operation is the same in other words.
    api.causes.push(error.said());
    match &error.hint {
        Some(hint) => api.hint(hint.clone()),
        None => api,
    }
}
