//! `rnet port`, `rnet publish` and `rnet unpublish`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::{ArgGroup, Args, Subcommand};
use rnet_api::{ApiError, Publication, PublishRequest, UnpublishRequest};
use rnet_model::{ContainerRef, ExposedPort, Kind, PortSpec};

use crate::{Context, output};

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    Publish(PublishArgs),
    Unpublish(UnpublishArgs),
    Port(PortArgs),
}

/// Publish ports of a running container on the host
///
/// All of the ports are published, or none. They stay published while the container has an interface, also when netd
/// ends, and follow it to the network that gets its default route.
#[derive(Debug, Args)]
#[command(after_help = "\
A PORT is [IP:][HOSTPORT[-END]:]CONTAINERPORT[-END][/tcp|udp|sctp], an IPv6 address stands in brackets. Without HOSTPORT
a free one from 49153 on is chosen. IP has to be an address of the host; without it the port is open on all of them. On
127.0.0.1 or ::1 it answers this host only.

Examples:
  rnet publish web 8080:80
  rnet publish web 127.0.0.1:8080:80 [::1]:8080:80
  rnet publish dns 53:53/udp 53:53
  rnet publish ftp 30000-30009:30000-30009")]
pub(crate) struct PublishArgs {
    /// Container: a name or id, netns:NAME, pid:N
    #[arg(value_name = "CONTAINER")]
    container: ContainerRef,
    /// Ports
    #[arg(value_name = "PORT", required = true)]
    ports: Vec<PortSpec>,
}

/// Take published ports back
///
/// New connections are refused from then on; those that are open go on until they end.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("which").required(true).multiple(false).args(["ports", "all"])),
    after_help = "\
Examples:
  rnet unpublish web 8080:80
  rnet unpublish web --all"
)]
pub(crate) struct UnpublishArgs {
    /// Container, also one that has ended
    #[arg(value_name = "CONTAINER")]
    container: ContainerRef,
    /// Ports, as they were published or as `rnet publish` showed them
    #[arg(value_name = "PORT")]
    ports: Vec<PortSpec>,
    /// All of the container
    #[arg(long)]
    all: bool,
}

/// List published ports
///
/// Of one container in the form of `docker port`: the container's port, and where the host answers for it; ::: and
/// 0.0.0.0: stand for every address of the host. Of all containers as a table.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet port
  rnet port web
  rnet port web 80
  rnet port dns 53/udp")]
pub(crate) struct PortArgs {
    /// Container [default: all]
    #[arg(value_name = "CONTAINER")]
    container: Option<ContainerRef>,
    /// Only where this port of the container is answered for; not published is an error
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    private: Option<ExposedPort>,
}

pub(crate) fn dispatch(command: PortCommand, ctx: &Context) -> Result<u8, ApiError> {
    match command {
        PortCommand::Publish(PublishArgs { container, ports }) => {
            let published = ctx.client().publish(&PublishRequest { container, ports })?;
            warn(&published);
            print(&published, "published", ctx)?;
        }
        PortCommand::Unpublish(UnpublishArgs { container, ports, .. }) => {
            let gone = ctx.client().unpublish(&UnpublishRequest { container, ports })?;
            print(&gone, "no longer published", ctx)?;
        }
        PortCommand::Port(args) => list(&args, ctx)?,
    }
    Ok(0)
}

/// Says what a reader of the list would not expect.
pub(crate) fn warn(published: &[Publication]) {
    let routed: Vec<&Publication> = published.iter().filter(|p| ignored(p)).collect();
    if !routed.is_empty() {
        let specs = output::list(routed.iter().map(|p| p.spec));
        output::remark(&format!(
            "warning: {specs}: the network is routed, so the container is reached at its own address and port; address \
             and port of the host are ignored"
        ));
    }
    let closed: Vec<&Publication> = published.iter().filter(|p| p.closed_by_host).collect();
    if !closed.is_empty() {
        output::remark(&format!(
            "warning: {}: the host's firewall drops what comes in, so the outside cannot reach it; allow it with \
             published_ports = \"accept\" in netd.toml",
            output::list(closed.iter().map(|p| p.port))
        ));
    }
}

/// Whether a word of the request had no effect.
fn ignored(p: &Publication) -> bool {
    p.routed && (p.spec.host.is_some() || p.spec.host_ports.is_some_and(|ports| ports != p.spec.container_ports))
}

fn print(all: &[Publication], what: &str, ctx: &Context) -> Result<(), ApiError> {
    if ctx.json {
        return output::json(all);
    }
    all.iter().try_for_each(|p| output::line(&format!("{} {}: {what}", p.container, p.port)))
}

fn list(args: &PortArgs, ctx: &Context) -> Result<(), ApiError> {
    let mut all = ctx.client().publications()?;
    if let Some(container) = &args.container {
        all = of(container, all)?;
    }
    if let Some(private) = args.private {
        all.retain(|p| inside(p, private));
        if all.is_empty() {
            let container = args.container.as_ref().map(ToString::to_string).unwrap_or_default();
            return Err(ApiError::new(Kind::Missing, format!("no public port {private} published for {container}")));
        }
    }
    warn(&all);
    if ctx.json {
        return output::json(&all);
    }
    if args.container.is_none() {
        return output::table(&["CONTAINER", "PORT", "HOST", "STATUS"], &all.iter().map(row).collect::<Vec<_>>());
    }
    for p in &all {
        for (address, port) in lines(p).into_iter().filter(|(_, port)| args.private.is_none_or(|w| w == *port)) {
            output::line(&match args.private {
                Some(_) => address,
                None => format!("{port} -> {address}"),
            })?;
        }
    }
    Ok(())
}

/// Those of one container: by name, id or a prefix of the id that only one has.
fn of(container: &ContainerRef, all: Vec<Publication>) -> Result<Vec<Publication>, ApiError> {
    let (engine, word) = match container {
        ContainerRef::Any(name) => (None, name.to_string()),
        ContainerRef::Of(engine, name) => (Some(*engine), name.to_string()),
        ContainerRef::NetnsPath(path) => (Some(rnet_model::Engine::Netns), path.display().to_string()),
        ContainerRef::Pid(pid) => (Some(rnet_model::Engine::Pid), pid.to_string()),
    };
    let engine_fits = |p: &Publication| engine.is_none_or(|e| e == p.engine);
    let exact = |p: &Publication| engine_fits(p) && (p.container == word || p.container_id == word);
    if all.iter().any(exact) || word.len() < 4 {
        return Ok(all.into_iter().filter(exact).collect());
    }
    let begins = |p: &Publication| engine_fits(p) && p.container_id.starts_with(&word);
    let found: Vec<Publication> = all.into_iter().filter(begins).collect();
    let ids: BTreeSet<&str> = found.iter().map(|p| p.container_id.as_str()).collect();
    match ids.len() {
        0 | 1 => Ok(found),
        _ => Err(ApiError::new(Kind::Conflict, format!("container {word:?} is ambiguous"))
            .hint(format!("it could be {}", ids.into_iter().collect::<Vec<_>>().join(" or ")))),
    }
}

fn inside(p: &Publication, private: ExposedPort) -> bool {
    let ports = p.port.container_ports();
    private.protocol == p.port.protocol && (ports.first()..=ports.last()).contains(&private.ports.first())
}

/// Where the host answers, and for which port: a line for each address and port, as `docker port` has it.
fn lines(p: &Publication) -> Vec<(String, ExposedPort)> {
    let any = |v4: bool| if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let on: Vec<IpAddr> = match p.port.host {
        Some(host) => vec![host],
        None if p.targets.is_empty() => vec![any(true), any(false)],
        None => p.targets.iter().map(|ip| any(ip.is_ipv4())).collect(),
    };
    let pairs =
        || p.port.pairs().map(|(host, inside)| (host, ExposedPort { ports: inside.into(), protocol: p.port.protocol }));
    if p.routed {
        return pairs()
            .flat_map(|(_, port)| {
                p.targets.iter().map(move |ip| (SocketAddr::new(*ip, port.ports.first()).to_string(), port))
            })
            .collect();
    }
    pairs().flat_map(|(host, port)| on.iter().map(move |ip| (SocketAddr::new(*ip, host).to_string(), port))).collect()
}

fn row(p: &Publication) -> Vec<String> {
    let inside = ExposedPort { ports: p.port.container_ports(), protocol: p.port.protocol };
    let host = match (p.routed, p.port.host) {
        (true, _) => output::list(&p.targets),
        (false, None) => p.port.host_ports().to_string(),
        (false, Some(IpAddr::V6(ip))) => format!("[{ip}]:{}", p.port.host_ports()),
        (false, Some(ip)) => format!("{ip}:{}", p.port.host_ports()),
    };
    let status = match (p.targets.is_empty(), p.closed_by_host) {
        (true, _) => "waits for the container",
        (false, true) => "closed by the host's firewall",
        (false, false) => "open",
    };
    vec![p.container.clone(), inside.to_string(), host, status.to_owned()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rnet_model::{Engine, Protocol, PublishedPort};

    use super::*;

    fn publication(host: Option<&str>, targets: &[&str], routed: bool) -> Publication {
        Publication {
            engine: Engine::Rnet,
            container_id: "0123456789ab".into(),
            container: "web".into(),
            spec: "8080-8081:80-81".parse().unwrap(),
            port: PublishedPort {
                host: host.map(|h| h.parse().unwrap()),
                host_port: 8080,
                container_port: 80,
                count: 2,
                protocol: Protocol::Tcp,
            },
            targets: targets.iter().map(|t| t.parse().unwrap()).collect(),
            routed,
            closed_by_host: false,
        }
    }

    fn shown(p: &Publication) -> Vec<String> {
        lines(p).into_iter().map(|(address, port)| format!("{port} -> {address}")).collect()
    }

    #[test]
    fn lines_are_those_of_docker() {
        let both = publication(None, &["10.0.0.2", "fd00::2"], false);
        assert_eq!(
            shown(&both),
            ["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080", "81/tcp -> 0.0.0.0:8081", "81/tcp -> [::]:8081"]
        );
        let local = publication(Some("::1"), &["10.0.0.2"], false);
        assert_eq!(shown(&local)[0], "80/tcp -> [::1]:8080");
        assert_eq!(shown(&publication(None, &["10.0.0.2"], true))[1], "81/tcp -> 10.0.0.2:81");
        assert_eq!(row(&local), ["web", "80-81/tcp", "[::1]:8080-8081", "open"]);
        assert_eq!(row(&publication(None, &[], false))[3], "waits for the container");
    }

    #[test]
    fn one_container_of_several() {
        let other =
            Publication { container_id: "0123456700".into(), container: "db".into(), ..publication(None, &[], false) };
        let all = vec![publication(None, &[], false), other];
        let found = |word: &str| of(&word.parse().unwrap(), all.clone()).map(|found| found.len());
        assert_eq!(found("web").unwrap(), 1);
        assert_eq!(found("012345678").unwrap(), 1);
        assert_eq!(found("rnet:db").unwrap(), 1);
        assert_eq!(found("012").unwrap(), 0, "too short to be an id");
        assert!(found("0123456").is_err());
    }

    #[test]
    fn a_private_port() {
        let p = publication(None, &["10.0.0.2"], false);
        for (word, is) in [("80", true), ("81/tcp", true), ("82", false), ("80/udp", false)] {
            assert_eq!(inside(&p, word.parse().unwrap()), is, "{word}");
        }
    }
}
