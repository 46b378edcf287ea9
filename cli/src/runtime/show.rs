//! `rnet ps`, `rnet inspect`, and the part of `rnet wait` that is about a container's end.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::IpAddr;

use clap::Args;
use rnet_api::{ApiError, Endpoint, Publication};
use rnet_model::{ContainerName, ContainerRef, Engine, ExposedPort, Kind};
use rnet_runtime::{Container, ContainerId, ContainerSpec, Ended, Live, Status, Store, neighbours};
use serde::Serialize;

use crate::progress::Progress;
use crate::{Context, output};

/// List containers
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,

    /// Ids only
    #[arg(short, long)]
    quiet: bool,
}

/// Show containers as JSON
///
/// Says what was asked for, the state, and, when netd runs, the interfaces and published ports.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Container: name, id or unique prefix of the id
    #[arg(value_name = "CTR", required = true)]
    containers: Vec<ContainerName>,
}

/// A container and its state.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    id: &'a str,
    name: &'a str,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished: Option<String>,
    /// Absent when netd does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<Vec<Publication>>,
    #[serde(flatten)]
    spec: &'a ContainerSpec,
}

/// With what only `inspect` shows.
#[derive(Debug, Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    shown: Shown<'a>,
    /// Absent when netd does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<Vec<Endpoint>>,
}

fn show<'a>(container: &'a Container, published: Option<&[Publication]>) -> Result<Shown<'a>, ApiError> {
    let status = container.status()?;
    let live: Option<Live> = container.live()?.filter(|_| status == Status::Running);
    let ended: Option<Ended> = container.ended()?.filter(|_| status == Status::Exited);
    let started = live.as_ref().map_or_else(|| ended.as_ref().and_then(|e| e.started), |l| l.started);
    Ok(Shown {
        id: container.record.id.as_str(),
        name: container.record.name.as_str(),
        status,
        pid: live.as_ref().and_then(|l| l.init).map(|init| init.pid),
        exit_code: ended.as_ref().map(|e| e.code),
        error: ended.as_ref().and_then(|e| e.error.clone()),
        created: container.record.created.to_string(),
        started: started.map(|t| t.to_string()),
        finished: ended.as_ref().map(|e| e.finished.to_string()),
        published: published.map(|all| published_of(container, all)),
        spec: &container.record.spec,
    })
}

/// The published ports of one container.
pub(super) fn published_of(container: &Container, all: &[Publication]) -> Vec<Publication> {
    let mine = |p: &&Publication| p.engine == Engine::Rnet && p.container_id == container.record.id.as_str();
    all.iter().filter(mine).cloned().collect()
}

/// In Docker's form: `0.0.0.0:8080->80/tcp`; ports that others are told of and that are not published stand alone.
fn ports(shown: &Shown<'_>) -> String {
    let published = shown.published.as_deref().unwrap_or_default();
    let mut all: Vec<String> = published.iter().flat_map(port_words).collect();
    if shown.status == Status::Running {
        let inside = |p: &Publication| ExposedPort { ports: p.port.container_ports(), protocol: p.port.protocol };
        let alone = |e: &&ExposedPort| !published.iter().any(|p| inside(p) == **e);
        all.extend(shown.spec.network.expose.iter().filter(alone).map(ToString::to_string));
    }
    output::list(all)
}

/// One for each address of the host, or for each family when it is every address.
fn port_words(p: &Publication) -> Vec<String> {
    let inside = ExposedPort { ports: p.port.container_ports(), protocol: p.port.protocol };
    if p.routed {
        return vec![inside.to_string()];
    }
    let every = |v4: bool| if v4 { "0.0.0.0" } else { "[::]" };
    let mut hosts: Vec<String> = match p.port.host {
        Some(IpAddr::V6(ip)) => vec![format!("[{ip}]")],
        Some(IpAddr::V4(ip)) => vec![ip.to_string()],
        None => p.targets.iter().map(|ip| every(ip.is_ipv4()).to_owned()).collect(),
    };
    hosts.dedup();
    hosts.iter().map(|host| format!("{host}:{}->{inside}", p.port.host_ports())).collect()
}

const COLUMNS: [&str; 7] = ["ID", "NAME", "STATUS", "NETWORK", "PORTS", "COMMAND", "CREATED"];

fn row(container: &Container, shown: &Shown<'_>) -> Vec<String> {
    let status = match shown.exit_code {
        Some(code) => format!("{} ({code})", shown.status),
        None => shown.status.to_string(),
    };
    let mut command = shown.spec.command.join(" ");
    if let Some((cut, _)) = command.char_indices().nth(40) {
        command.truncate(cut);
        command.push_str("...");
    }
    let created =
        shown.created.split_once('.').map_or_else(|| shown.created.clone(), |(seconds, _)| format!("{seconds}Z"));
    vec![
        container.record.id.short().to_owned(),
        shown.name.to_owned(),
        status,
        shown.spec.network.mode.to_string(),
        ports(shown),
        command,
        created,
    ]
}

pub(crate) fn ps(args: &PsArgs, ctx: &Context) -> Result<u8, ApiError> {
    let listing = Store::new(&ctx.root).all()?;
    listing.problems.iter().for_each(|p| output::remark(&format!("warning: {p}")));
    let mut all = Vec::new();
    // Without netd there are none to show, and everything else is.
    let asks = !args.quiet && !listing.containers.is_empty();
    let published = asks.then(|| ctx.client().publications().ok()).flatten();
    for container in &listing.containers {
        let shown = show(container, published.as_deref())?;
        if args.all || shown.status == Status::Running {
            all.push((container, shown));
        }
    }
    if args.quiet && ctx.json {
        output::json(&all.iter().map(|(_, shown)| shown.id).collect::<Vec<_>>())?;
    } else if args.quiet {
        all.iter().try_for_each(|(_, shown)| output::line(shown.id))?;
    } else if ctx.json {
        output::json(&all.iter().map(|(_, shown)| shown).collect::<Vec<_>>())?;
    } else {
        output::table(&COLUMNS, &all.iter().map(|(c, shown)| row(c, shown)).collect::<Vec<_>>())?;
    }
    Ok(0)
}

pub(crate) fn inspect(args: &InspectArgs, ctx: &Context) -> Result<u8, ApiError> {
    let store = Store::new(&ctx.root);
    let found: Vec<Container> = args.containers.iter().map(|name| store.find(name)).collect::<Result<_, _>>()?;
    let told = ctx.client().attachments().and_then(|all| Ok((all, ctx.client().publications()?)));
    let (endpoints, published) = match told {
        Ok((endpoints, published)) => (Some(endpoints), Some(published)),
        Err(error) => {
            output::remark(&format!("remark: without interfaces and ports: {}", error.chain()));
            (None, None)
        }
    };
    let own = |container: &Container| {
        let mine = |e: &&Endpoint| e.engine == Engine::Rnet && e.container_id == container.record.id.as_str();
        endpoints.as_ref().map(|all| all.iter().filter(mine).cloned().collect())
    };
    let inspected = found
        .iter()
        .map(|c| Ok(Inspected { shown: show(c, published.as_deref())?, endpoints: own(c) }))
        .collect::<Result<Vec<_>, ApiError>>()?;
    output::json(&inspected)?;
    Ok(0)
}

/// The container of rnet's own that a word means, if there is one.
pub(crate) fn is_own(reference: &ContainerRef, ctx: &Context) -> Result<Option<Container>, ApiError> {
    let name = match reference {
        ContainerRef::Any(name) | ContainerRef::Of(Engine::Rnet, name) => name,
        _ => return Ok(None),
    };
    match Store::new(&ctx.root).find(name) {
        Ok(container) => Ok(Some(container)),
        Err(e) if e.kind == Kind::Missing => Ok(None),
        Err(e) => Err(e),
    }
}

/// Waits for a container's end and prints its exit code.
pub(crate) fn end_of(container: &Container, ctx: &Context) -> Result<u8, ApiError> {
    let name = &container.record.name;
    // Opened before the end, it can be read after the container was removed.
    let exit = container.exit_file()?;
    let shim = container.live()?.and_then(|live| live.shim.open());
    let code = match (shim, exit) {
        (Some(shim), Some(mut exit)) => {
            let progress = Progress::spinner(format!("waiting for the end of {name}"));
            shim.wait()?;
            drop(progress);
            let mut text = String::new();
            let read = exit.read_to_string(&mut text);
            read.map_err(|e| ApiError::new(Kind::Retry, format!("cannot read how {name} ended")).because(&e))?;
            text.parse().ok()
        }
        _ => container.ended()?.map(|e| e.code),
    };
    let code: u8 = code.ok_or_else(|| match container.status() {
        Ok(Status::Created) => ApiError::new(Kind::Conflict, format!("container {name} was never started"))
            .hint(format!("start it: rnet start {name}")),
        _ => ApiError::new(Kind::Retry, format!("nobody knows how container {name} ended: its shim was killed"))
            .hint(format!("clean up: rnet rm -f {name}, or rnet start {name}")),
    })?;
    if ctx.json {
        output::json(&serde_json::json!({"container": name, "exit_code": code}))?;
    } else {
        output::line(&code.to_string())?;
    }
    Ok(0)
}

/// Brings the hosts files of rnet's own containers right whose interfaces have changed.
pub(crate) fn addresses_changed(endpoints: &[Endpoint], ctx: &Context) {
    let store = Store::new(&ctx.root);
    let own = endpoints.iter().filter(|e| e.engine == Engine::Rnet).filter_map(|e| e.container_id.parse().ok());
    let ids: BTreeSet<ContainerId> = own.collect();
    let refresh = |id: &ContainerId| {
        let container = store.by_id(id)?;
        // One that has ended gets its files at its next start.
        if container.status()? == Status::Running { neighbours::refresh(&store, &container) } else { Ok(()) }
    };
    for id in &ids {
        match refresh(id) {
            Err(error) if error.kind != Kind::Missing => output::remark(&format!(
                "warning: /etc/hosts and /etc/resolv.conf of {} are as they were: {}",
                id.short(),
                error.chain()
            )),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_dockers_form() {
        let words = |spec: &str, targets: &[&str], routed: bool| {
            let spec: rnet_model::PortSpec = spec.parse().unwrap();
            let port = rnet_model::PublishedPort {
                host: spec.host,
                host_port: spec.host_ports.unwrap().first(),
                container_port: spec.container_ports.first(),
                count: spec.container_ports.count(),
                protocol: spec.protocol,
            };
            let targets = targets.iter().map(|ip| ip.parse().unwrap()).collect();
            let container_id = "c0ffee".to_owned();
            port_words(&Publication {
                engine: Engine::Rnet,
                container: container_id.clone(),
                container_id,
                spec,
                port,
                targets,
                routed,
                closed_by_host: false,
            })
        };
        assert_eq!(words("8080:80", &["10.0.0.2"], false), ["0.0.0.0:8080->80/tcp"]);
        assert_eq!(words("53:53/udp", &["10.0.0.2", "fd00::2"], false), ["0.0.0.0:53->53/udp", "[::]:53->53/udp"]);
        assert_eq!(words("[::1]:80-81:8080-8081", &["10.0.0.2"], false), ["[::1]:80-81->8080-8081/tcp"]);
        assert_eq!(words("8080:80", &["10.0.0.2"], true), ["80/tcp"]);
    }
}
