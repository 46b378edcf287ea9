//! One call by a container runtime: which plugin, in which namespace, with which delegate.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rnet_kernel::Netns;
use rnet_plan::Plan;
use rnet_plugin_protocol::drive::Pair;
use rnet_plugin_protocol::runtime::{Directories, Limits};
use rnet_plugin_protocol::{AttachmentId, Call, Command, Environment, Error, Plugin, Request, Version, View, Work};
use rnet_plugins_builtin::{Kernel, configure, oldest, unknown_keys};
use serde_json::{Value, json};

use crate::{NAME, names, rnet};

/// Answers a call; `None` is an answer without words.
///
/// # Errors
/// By the codes of the CNI specification.
pub(crate) fn answer(called: &str, env: &Environment, input: &[u8]) -> Result<Option<Value>, Error> {
    if env.command == Command::Version {
        return Ok(Some(versions(called, input)));
    }
    let request = Request::parse(input)?;
    supported(env.command, request.version)?;
    let kind = if called == NAME { request.kind.as_str() } else { called };
    if kind == rnet::NAME {
        let netns = namespace(rnet::NAME, env, &Netns::current()?)?;
        let result = rnet::answer(env, &request, netns.as_ref(), previous(env.command, &request)?.as_ref())?;
        return Ok(result.map(|result| result.to_json(request.version)));
    }
    let plugin = configure(kind, &request)?.ok_or_else(|| unknown(kind))?;
    if env.command == Command::Add {
        unknown_keys(kind, &request).iter().for_each(|key| eprintln!("{NAME}: {key} means nothing to it"));
    }
    let undoes = matches!(env.command, Command::Del | Command::Gc);
    let ipam = request.ipam.as_ref().map(|ipam| match delegate(ipam, &request, env) {
        // The plugin's own part has to go all the same.
        Err(error) if undoes => Ok(Box::new(Unusable(error)) as Box<dyn Plugin>),
        other => other,
    });
    let ipam = ipam.transpose()?;
    let host = Netns::current()?;
    let mut call = Call {
        env,
        request: &request,
        netns: namespace(kind, env, &host)?,
        previous: previous(env.command, &request)?,
        leased: None,
    };
    let pair = Pair { plugin: plugin.as_ref(), ipam: ipam.as_deref() };
    let mut kernel = Kernel::new(host);
    match env.command {
        Command::Add => pair.add(&mut call, &mut kernel).map(|result| Some(result.to_json(request.version))),
        Command::Del => pair.del(&call, &mut kernel).map(|()| None),
        Command::Check => pair.check(&call, &mut kernel).map(|()| None),
        Command::Gc => pair.gc(&call, &mut kernel).map(|()| None),
        Command::Status => pair.status(&call, &mut kernel).map(|()| None),
        Command::Version => unreachable!("answered above"),
    }
}

/// A delegate that cannot be asked; says so to whoever asks.
#[derive(Debug)]
struct Unusable(Error);

impl Plugin for Unusable {
    fn add(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<Work, Error> {
        Err(self.0.clone())
    }
    fn del(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<Plan, Error> {
        Err(self.0.clone())
    }
    fn check(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Err(self.0.clone())
    }
    fn gc(&self, _: &Call<'_>, _: &[AttachmentId], _: &mut View<'_>) -> Result<Plan, Error> {
        Err(self.0.clone())
    }
    fn status(&self, _: &Call<'_>, _: &mut View<'_>) -> Result<(), Error> {
        Err(self.0.clone())
    }
}

fn unknown(kind: &str) -> Error {
    Error::config(format!("{NAME} has no plugin {kind:?}"))
        .details(format!("it has {}", names().collect::<Vec<_>>().join(", ")))
}

/// Section 4 of the specification, "VERSION": the version asked in is repeated, and what is on stdin hardly matters.
fn versions(called: &str, input: &[u8]) -> Value {
    let value: Value = serde_json::from_slice(input).unwrap_or_default();
    let asked = value.get("cniVersion").and_then(Value::as_str).filter(|v| !v.is_empty());
    let kind = if called == NAME { value.get("type").and_then(Value::as_str).unwrap_or_default() } else { called };
    let spoken: Vec<&str> = Version::ALL.into_iter().filter(|v| *v >= oldest(kind)).map(Version::as_str).collect();
    json!({"cniVersion": asked.unwrap_or(Version::NEWEST.as_str()), "supportedVersions": spoken})
}

/// A command that the version of the configuration does not know is not run.
fn supported(command: Command, version: Version) -> Result<(), Error> {
    let since = match command {
        Command::Check => Version::V0_4_0,
        Command::Gc | Command::Status => Version::V1_1_0,
        _ => return Ok(()),
    };
    if version >= since {
        return Ok(());
    }
    let text = format!("config version {version} does not allow {}", command.as_str());
    Err(Error::new(Error::INCOMPATIBLE_VERSION, text).details(format!("it is known since {since}")))
}

/// The container's namespace. For DEL it may be gone already, or never have been told.
fn namespace(kind: &str, env: &Environment, host: &Netns) -> Result<Option<Netns>, Error> {
    // Addresses out of files are given to whoever asks.
    let needed = matches!(env.command, Command::Add | Command::Check) && !matches!(kind, "host-local" | "static");
    if env.netns.is_empty() || matches!(env.command, Command::Gc | Command::Status | Command::Version) {
        return Ok(None);
    }
    let opened = match Netns::open(Path::new(&env.netns)) {
        Ok(netns) => netns,
        Err(_) if !needed => return Ok(None),
        Err(e) => return Err(Error::internal(format!("failed to open netns {:?}: {e}", env.netns))),
    };
    if opened == *host && env.command == Command::Del {
        // A number of a process that is somebody else's by now. The container's namespace is gone.
        return Ok(None);
    }
    if opened == *host && !env.netns_override {
        return Err(Error::new(
            Error::INVALID_NETNS,
            format!("CNI_NETNS {} is the namespace of the plugin itself", env.netns),
        )
        .details("a container has a namespace of its own; CNI_NETNS_OVERRIDE=1 allows this one"));
    }
    Ok(Some(opened))
}

/// DEL goes on without a previous result it cannot read.
fn previous(command: Command, request: &Request) -> Result<Option<rnet_plugin_protocol::CniResult>, Error> {
    match request.previous() {
        Err(_) if command == Command::Del => Ok(None),
        other => other,
    }
}

/// The plugin addresses come from. Where CNI_PATH leads to this very executable, or nowhere, it is asked in process.
fn delegate(
    ipam: &serde_json::Map<String, Value>,
    request: &Request,
    env: &Environment,
) -> Result<Box<dyn Plugin>, Error> {
    let kind = ipam.get("type").and_then(Value::as_str).unwrap_or_default();
    let found = env.path.iter().map(|folder| Path::new(folder).join(kind)).find(|file| file.is_file());
    if is_file_name(kind)
        && found.is_none_or(|path| is_us(&path))
        && let Some(plugin) = configure(kind, request)?
    {
        return Ok(plugin);
    }
    let folders = env.path.iter().map(PathBuf::from).collect();
    Ok(Box::new(Directories::new(folders, Limits::default())?.find(kind)?))
}

fn is_file_name(kind: &str) -> bool {
    !kind.is_empty() && !kind.contains('/') && kind != "." && kind != ".."
}

fn is_us(path: &Path) -> bool {
    let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (std::fs::metadata(path), std::fs::metadata("/proc/self/exe")) {
        (Ok(a), Ok(b)) => same(a, b),
        _ => false,
    }
}
