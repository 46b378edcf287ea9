//! `rnet run`.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};
use rnet_api::ApiError;
use rnet_model::{ContainerName, InvalidInput, Kind};
use rnet_runtime::protocol::{Begin, ContainerRun, OnFailure, WindowSize};
use rnet_runtime::{
    Bind, CapName, Container, ContainerId, ContainerSpec, EnvVar, Hostname, Keep, Lock, Record, Store, Streams,
    UserSpec,
};
use serde::Serialize;

use super::ProgramArgs;
use super::net_args::NetworkArgs;
use super::shim::{Attach, Failure, Session, catch_signals};
use super::show::published_of;
use super::terminal::Raw;
use crate::progress::Progress;
use crate::{Context, output};

/// Run a program in a new container
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rnet run --rm --rootfs /srv/rootfs sh -c 'ip address'
  rnet run -d --name web --net blue --ip 10.9.0.7 --rootfs /srv/rootfs httpd -f
  rnet run -d --name db --net blue --expose 5432 --rootfs /srv/rootfs postgres
  rnet run -d -p 8080:80 --link db --net blue --rootfs /srv/rootfs httpd -f
  rnet run --rm --net name=blue,ip=10.9.0.8,alias=www --net name=green,gw-priority=10 --rootfs /srv/rootfs sh
  rnet run -it --rm --net container:web --rootfs /srv/rootfs sh

Options of a network after --net name=NETWORK, separated by commas:
  ip=IP  ip6=IP  alias=NAME (repeatable)  mac-address=MAC  ifname=NAME  allow-spoof
  gw-priority=N   the network with the highest gives the default route [default: 0]

Exit codes:
  that of the program; 128+n when signal n ended it
  125 rnet itself failed   126 the program cannot be run   127 there is no such program")]
pub(crate) struct RunArgs {
    /// Directory that is the container's file system; used as it is, not copied
    #[arg(long, value_name = "DIR")]
    rootfs: PathBuf,

    #[command(flatten)]
    program: ProgramArgs,

    /// Remove the container when it has ended
    #[arg(long)]
    rm: bool,

    /// Name [default: the first 12 digits of the id]
    #[arg(long, value_name = "NAME")]
    name: Option<ContainerName>,

    /// File or directory of the host that is seen in the container; repeatable
    #[arg(short = 'v', long = "volume", value_name = "SRC:DST[:ro]")]
    volumes: Vec<Bind>,

    /// Directory the program starts in; made when it is missing
    #[arg(short, long, value_name = "DIR", default_value = "/", value_parser = workdir)]
    workdir: PathBuf,

    /// User, by number or by the container's /etc/passwd [default: root]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<UserSpec>,

    /// Capability to add to Docker's default set without NET_RAW, or ALL; repeatable
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<CapName>,

    /// Capability to leave out, or ALL; repeatable
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<CapName>,

    /// Hostname [default: the first 12 digits of the id; with --net host or container:CTR, that one's]
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<Hostname>,

    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    // Last: its heading would go on.
    #[command(flatten)]
    network: NetworkArgs,
}

/// A directory of the container.
pub(super) fn workdir(text: &str) -> Result<PathBuf, InvalidInput> {
    match Path::new(text).is_absolute() {
        true => Ok(text.into()),
        false => Err(InvalidInput::new("directory", text, "is not an absolute path")),
    }
}

/// The variables; those that have no value here are left out.
pub(super) fn environment(words: &[String]) -> Result<Vec<EnvVar>, InvalidInput> {
    let here = |key: &str| std::env::var(key).ok();
    words.iter().filter_map(|word| EnvVar::parse(word, here).transpose()).collect()
}

impl RunArgs {
    fn into_spec(self) -> Result<ContainerSpec, ApiError> {
        let rootfs =
            self.rootfs.canonicalize().map_err(|e| rnet_runtime::file_error("use --rootfs", &self.rootfs, &e))?;
        if !rootfs.is_dir() {
            return Err(ApiError::new(Kind::Invalid, format!("--rootfs {} is not a directory", rootfs.display())));
        }
        // pivot_root(2) wants another root than the present one.
        if rootfs.parent().is_none() {
            return Err(ApiError::new(Kind::Invalid, "--rootfs / is the host's own root directory")
                .hint("give a directory with a file system of its own, or a bind mount of /"));
        }
        if let Some(absent) = self.volumes.iter().find(|b| !b.source.exists()) {
            return Err(ApiError::new(Kind::Missing, format!("-v {absent}: there is no {}", absent.source.display())));
        }
        Ok(ContainerSpec {
            rootfs,
            command: self.program.command,
            env: environment(&self.program.env)?,
            binds: self.volumes,
            workdir: self.workdir,
            user: self.user,
            cap_add: self.cap_add,
            cap_drop: self.cap_drop,
            hostname: self.hostname,
            network: self.network.into_settings()?,
            streams: Streams::from_flags(self.program.interactive, self.program.tty),
            keep: if self.rm { Keep::WhileRunning } else { Keep::UntilRemoved },
        })
    }
}

/// What `run -d --json` prints.
#[derive(Debug, Serialize)]
struct Begun<'a> {
    id: &'a ContainerId,
    name: &'a ContainerName,
}

/// Failures of rnet itself are 125 here, so that they are not taken for the program's.
pub(crate) fn run(args: RunArgs, ctx: &Context) -> Result<u8, ApiError> {
    Ok(attempt(args, ctx).unwrap_or_else(|Failure { error, code }| {
        crate::report(&error);
        code
    }))
}

fn attempt(args: RunArgs, ctx: &Context) -> Result<u8, Failure> {
    let attach = if args.program.detach { Attach::No } else { Attach::Yes };
    let id = ContainerId::random()?;
    let name = match args.name.clone() {
        Some(name) => name,
        None => id.short().parse().map_err(ApiError::from)?,
    };
    let record = Record { id, name, created: rnet_runtime::now(), spec: args.into_spec()? };
    let streams = record.spec.streams;
    // The terminal first: without one nothing is made.
    let raw = if attach == Attach::Yes { Raw::enter(streams)? } else { None };
    let container = Store::new(&ctx.root).create(record)?;
    let lock = container.lock()?;
    let code = start(ctx, &container, lock, OnFailure::Remove, attach, raw)?;
    if attach == Attach::No {
        let Record { id, name, .. } = &container.record;
        match ctx.json {
            true => output::json(&Begun { id, name })?,
            false => output::line(id.as_str())?,
        }
    }
    Ok(code)
}

/// Starts a container that is written down; its exit code, or 0 when it is left running. The lock is held until it
/// runs.
pub(super) fn start(
    ctx: &Context,
    container: &Container,
    lock: Lock,
    on_failure: OnFailure,
    attach: Attach,
    raw: Option<Raw>,
) -> Result<u8, Failure> {
    let signals = if attach == Attach::Yes { Some(catch_signals()?) } else { None };
    let size = if attach == Attach::Yes { WindowSize::of(std::io::stdout()) } else { None };
    let id = container.record.id.clone();
    let begin = Begin::Container(ContainerRun { id, on_failure, size });
    let session = Session::start(ctx, &begin, attach).inspect_err(|_| {
        if on_failure == OnFailure::Remove {
            // The first error is the one to report.
            let _ = Store::new(&ctx.root).remove(container);
        }
    })?;
    rnet_runtime::cgroup::make_ready();
    let name = &container.record.name;
    let progress = Progress::spinner(format!("starting {name}"));
    session.started()?;
    drop(progress);
    drop(lock);
    warn_of_ports(ctx, container);
    let left = format!("container {name} still runs; stop it with: rnet stop {name}");
    let code = signals.map_or(Ok(0), |signals| session.follow(&signals, &left))?;
    drop(raw);
    Ok(code)
}

/// Says which of its ports are not reached as one would expect.
fn warn_of_ports(ctx: &Context, container: &Container) {
    let asked = &container.record.spec.network;
    if asked.networks.is_empty() || (asked.ports.is_empty() && !asked.publish_all) {
        return;
    }
    if let Ok(all) = ctx.client().publications() {
        crate::port::warn(&published_of(container, &all));
    }
}
