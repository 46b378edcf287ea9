//! `rnet start`, `stop`, `kill` and `rm`.

use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;
use rnet_api::ApiError;
use rnet_model::{ContainerName, Kind};
use rnet_runtime::process::Handle;
use rnet_runtime::protocol::OnFailure;
use rnet_runtime::releases::{Addresses, Released};
use rnet_runtime::{Container, Ended, SignalName, Status, Store, cgroup, sharing};

use super::run;
use super::shim::{Attach, Failure};
use super::terminal::Raw;
use crate::progress::Progress;
use crate::{Context, output};

/// Start containers that have ended, with the addresses they had
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Container: name, id or unique prefix of the id
    #[arg(value_name = "CTR", required = true)]
    containers: Vec<ContainerName>,

    /// Stay until it ends, with its output; the exit code is the program's [default: leave it running]
    #[arg(short, long)]
    attach: bool,
}

/// Stop containers: SIGTERM, and SIGKILL when that takes too long
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Container: name, id or unique prefix of the id
    #[arg(value_name = "CTR", required = true)]
    containers: Vec<ContainerName>,

    /// Seconds between the two signals
    #[arg(short = 't', long = "time", value_name = "SECS", default_value_t = 10)]
    seconds: u16,
}

/// Send a signal to containers' first process
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Container: name, id or unique prefix of the id
    #[arg(value_name = "CTR", required = true)]
    containers: Vec<ContainerName>,

    /// Signal, by name or number
    #[arg(short, long, value_name = "SIG", default_value = "KILL")]
    signal: SignalName,
}

/// Remove containers
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Container: name, id or unique prefix of the id
    #[arg(value_name = "CTR", required = true)]
    containers: Vec<ContainerName>,

    /// Kill those that run [default: refuse]
    #[arg(short, long)]
    force: bool,
}

/// Longest time for a shim to take its container down: it may have to wait for netd.
const TAKE_DOWN: Duration = Duration::from_secs(60);

/// Does something with each container and prints its name; the exit code is the last failure's.
fn each(
    names: &[ContainerName],
    ctx: &Context,
    act: impl Fn(&Store, Container) -> Result<(), ApiError>,
) -> Result<u8, ApiError> {
    let store = Store::new(&ctx.root);
    let mut code = 0;
    let mut done = Vec::new();
    let progress = Progress::steps(String::new(), names.len());
    for name in names {
        progress.say(name.as_str());
        match store.find(name).and_then(|container| act(&store, container)) {
            Ok(()) => done.push(name),
            Err(error) => {
                progress.aside(|| crate::report(&error));
                code = error.kind.exit_code();
            }
        }
        progress.step();
    }
    drop(progress);
    if ctx.json {
        output::json(&done)?;
    } else {
        done.iter().try_for_each(|name| output::line(name.as_str()))?;
    }
    Ok(code)
}

pub(crate) fn start(args: &StartArgs, ctx: &Context) -> Result<u8, ApiError> {
    if !args.attach {
        return each(&args.containers, ctx, |store, container| {
            start_one(store, &container, Attach::No, ctx).map(drop).map_err(|f| f.error)
        });
    }
    let [name] = &args.containers[..] else {
        return Err(ApiError::new(Kind::Invalid, "-a takes one container"));
    };
    let store = Store::new(&ctx.root);
    let container = store.find(name)?;
    Ok(start_one(&store, &container, Attach::Yes, ctx).unwrap_or_else(|Failure { error, code }| {
        crate::report(&error);
        code
    }))
}

fn start_one(store: &Store, container: &Container, attach: Attach, ctx: &Context) -> Result<u8, Failure> {
    let lock = container.lock()?;
    match container.status()? {
        Status::Running if attach == Attach::No => return Ok(0),
        Status::Running => {
            return Err(ApiError::new(Kind::Conflict, format!("container {} runs already", container.record.name))
                .hint("see its output with: rnet logs -f")
                .into());
        }
        Status::Dead => bury(store, container)?,
        Status::Created if container.live()?.is_some() => {
            return Err(
                ApiError::new(Kind::Retry, format!("container {} is being started", container.record.name)).into()
            );
        }
        Status::Created | Status::Exited => {}
    }
    let raw = if attach == Attach::Yes { Raw::enter(container.record.spec.streams)? } else { None };
    run::start(ctx, container, lock, OnFailure::Keep, attach, raw)
}

pub(crate) fn stop(args: &StopArgs, ctx: &Context) -> Result<u8, ApiError> {
    let patience = Duration::from_secs(args.seconds.into());
    each(&args.containers, ctx, |store, container| match hold(&container)? {
        Some(held) => held.end(store, &container, Some(patience)),
        // It has ended: that is what was asked for.
        None => Ok(()),
    })
}

pub(crate) fn kill(args: &KillArgs, ctx: &Context) -> Result<u8, ApiError> {
    each(&args.containers, ctx, |_, container| {
        let held = hold(&container)?.ok_or_else(|| {
            ApiError::new(Kind::Conflict, format!("container {} does not run", container.record.name))
        })?;
        held.init.kill(args.signal.0)
    })
}

/// A container whose program runs.
struct Held {
    init: Handle,
    /// Gone when it was killed.
    shim: Option<Handle>,
}

/// Its processes, if its program runs.
fn hold(container: &Container) -> Result<Option<Held>, ApiError> {
    let Some(live) = container.live()? else { return Ok(None) };
    let init = live.init.and_then(|init| init.open());
    Ok(init.map(|init| Held { init, shim: live.shim.open() }))
}

impl Held {
    /// Ends it: SIGTERM and time to obey, if any, then SIGKILL. Returns when everything is cleaned up.
    fn end(&self, store: &Store, container: &Container, patience: Option<Duration>) -> Result<(), ApiError> {
        let obeyed = match patience {
            Some(patience) => {
                self.init.kill(Signal::SIGTERM)?;
                self.init.ended(patience)?
            }
            None => false,
        };
        if !obeyed {
            self.init.kill(Signal::SIGKILL)?;
        }
        let Some(shim) = &self.shim else {
            let _lock = container.lock()?;
            return match container.status()? {
                Status::Dead => bury(store, container),
                _ => Ok(()),
            };
        };
        match shim.ended(TAKE_DOWN)? {
            true => Ok(()),
            false => Err(ApiError::new(Kind::Retry, format!("container {} does not end", container.record.name))),
        }
    }
}

pub(crate) fn rm(args: &RmArgs, ctx: &Context) -> Result<u8, ApiError> {
    each(&args.containers, ctx, |store, container| remove(store, &container, args.force))
}

fn remove(store: &Store, container: &Container, force: bool) -> Result<(), ApiError> {
    let name = &container.record.name;
    if let Some(held) = hold(container)? {
        if !force {
            return Err(ApiError::new(Kind::Conflict, format!("container {name} runs"))
                .hint(format!("stop it first: rnet stop {name}, or kill it with: rnet rm -f {name}")));
        }
        held.end(store, container, None)?;
    }
    let _lock = match container.lock() {
        Ok(lock) => lock,
        // It went with its end.
        Err(e) if e.kind == Kind::Missing => return Ok(()),
        Err(e) => return Err(e),
    };
    match container.status()? {
        Status::Dead => bury(store, container)?,
        Status::Running => return Err(ApiError::new(Kind::Conflict, format!("container {name} was started again"))),
        Status::Created | Status::Exited => {}
    }
    if container.known_to_netd() {
        tell(container, sharing::let_go(store, container, Addresses::Forget)?);
    }
    store.remove(container)
}

/// Cleans up after a shim that was killed: its program, its groups, its network.
fn bury(store: &Store, container: &Container) -> Result<(), ApiError> {
    let live = container.live()?;
    // A shim that was killed early did not write the first process down; then its groups tell.
    let known = live.as_ref().and_then(|l| l.init);
    for process in known.into_iter().chain(cgroup::processes(&container.record.id)) {
        let Some(handle) = process.open() else { continue };
        handle.kill(Signal::SIGKILL)?;
        if !handle.ended(TAKE_DOWN)? {
            return Err(ApiError::new(Kind::Retry, format!("container {} does not end", container.record.name)));
        }
    }
    cgroup::remove(&container.record.id);
    if container.known_to_netd() {
        tell(container, sharing::let_go(store, container, Addresses::Keep)?);
    }
    // An owner that is gone took the namespace with it.
    if let Ok(Some(owner)) = sharing::owner(store, container) {
        tell(container, sharing::leave(store, &owner, &container.record.id)?);
    }
    let started = live.and_then(|l| l.started);
    let error = Some("its shim was killed".to_owned());
    container.set_ended(&Ended { code: 137, started, finished: rnet_runtime::now(), error })?;
    container.clear_run()
}

fn tell(container: &Container, released: Released) {
    if released == Released::Later {
        let name = &container.record.name;
        output::remark(&format!(
            "remark: netd is not running: the network of {name} is given back with the next command"
        ));
    }
}
