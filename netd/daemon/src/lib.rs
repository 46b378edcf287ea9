//! `netd`: wires configuration, engine, socket and signals together. A library, so that the generator of man pages sees
//! the same command line as the binary.

#![allow(clippy::print_stdout, reason = "what the options that only print are for")]

mod auth;
mod capture;
mod config;
mod diagnose;
mod engine;
mod journal;
mod metrics;
mod names;
mod plugins;
mod privileges;
mod resolve;
mod server;
mod stats;

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rnet_api::{ApiError, Root};
use rnet_model::Kind;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::auth::Guard;
use crate::config::{AskedFor, Config};

/// How long the start waits for plugins that take back what the last run has left.
const TAKE_BACK: std::time::Duration = std::time::Duration::from_secs(5);

/// The network daemon of rnet
#[derive(Debug, Parser)]
#[command(
    name = "netd",
    version,
    about = "The network daemon of rnet",
    long_about = "The network daemon of rnet. It keeps bridges, networks and the interfaces of containers as they are \
                  wanted, and serves the rnet command on a unix socket. It runs in the foreground; interfaces stay \
                  when it ends, and are compared with what is wanted when it starts.",
    after_help = "Needs CAP_NET_ADMIN and CAP_SYS_ADMIN in the user namespace that owns its network namespace: root, \
                  or root of an own user namespace (unshare -Urnm)."
)]
struct Args {
    /// Keep state in DIR/lib and run files with the socket in DIR/run [env: RNET_ROOT]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Configuration file [default: /etc/rnet/netd.toml, or DIR/netd.toml with --root DIR]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read the configuration, say whether it is right, and end
    #[arg(long)]
    check_config: bool,
    /// Print the names of the fail points that RNET_FAIL_POINT takes, for crash tests
    #[arg(long)]
    list_fail_points: bool,
}

/// The definition of the command line, for the man page.
pub fn command() -> clap::Command {
    Args::command()
}

/// Parses the process's arguments and is the daemon until a signal ends it.
pub fn main() -> ExitCode {
    if let Some(code) = rnet_plugins_builtin::dhcp::keep_if_asked() {
        return code;
    }
    let args = Args::parse();
    if args.list_fail_points {
        engine::fail_points().iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.chain());
            if let Some(hint) = &error.hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn start(args: &Args) -> Result<(), ApiError> {
    let root = match &args.root {
        Some(dir) => Root::from_option(Some(dir.clone())),
        None => Root::from_env(),
    };
    let config = match &args.config {
        Some(path) => Config::read(path, AskedFor::Yes)?,
        None => Config::read(&root.config(), AskedFor::No)?,
    };
    if args.check_config {
        println!("the configuration is right");
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(ApiError::new(Kind::Denied, "netd needs root: it makes network devices and namespaces")
            .hint("sudo netd, or without root in namespaces of your own: unshare -Urnm netd --root DIR"));
    }
    raise_descriptor_limit();
    privileges::drop_others()?;
    make_directories(&root)?;
    let _lock = lock(&root)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Probes and signals' helpers; each costs a stack.
        .max_blocking_threads(16)
        .thread_stack_size(256 * 1024)
        .build()
        .map_err(|e| ApiError::new(Kind::Retry, "cannot start the runtime").because(&e))?;
    runtime.block_on(daemon(root, config))
}

async fn daemon(root: Root, config: Config) -> Result<(), ApiError> {
    let guard = Guard::new(&config.api.group);
    let begun = std::time::Instant::now();
    let engine = engine::start(engine::Options { root: root.clone(), config: config.clone() })?;
    let registry = metrics::Registry::default();
    let (stop_streams, stopping) = tokio::sync::watch::channel(false);
    let journal = journal::Journal::keep(engine.events(), &registry, stopping);
    let resolver = resolve::Resolver::new(engine.clone(), &config.docker)?;
    tokio::spawn(engine.clone().revive(resolver.clone()));
    diagnose::sweep();
    engine.take_back(TAKE_BACK).await;
    let captures = capture::Captures::default();
    let context = std::sync::Arc::new(server::Context {
        engine: engine.clone(),
        resolver,
        api: config.api,
        journal,
        captures: captures.clone(),
        metrics: registry,
        started: begun,
    });
    if let Some(address) = config.metrics.listen {
        metrics::listen(address, context.clone()).await?;
    }
    let listener = listen(&root, &guard)?;
    let fail = |e| ApiError::new(Kind::Retry, "cannot wait for signals").because(&e);
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    tracing::info!(socket = %root.socket().display(), took = ?begun.elapsed(), "ready");
    notify(&[sd_notify::NotifyState::Ready]);
    let stop = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        notify(&[sd_notify::NotifyState::Stopping]);
        // What would not end by itself.
        let _ = stop_streams.send(true);
        captures.end_all();
    };
    server::serve(listener, guard, context, stop).await;
    engine.shutdown().await;
    // The next netd may start when the lock is free; a socket nobody listens on only confuses.
    let _ = std::fs::remove_file(root.socket());
    tracing::info!("stopped; interfaces stay as they are");
    Ok(())
}

/// `uname -r`.
fn kernel_release() -> String {
    nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Tells systemd, if it asked (sd_notify(3)).
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// Every container at work and every connection takes descriptors: as many as the system allows, instead of the 1,024
/// that select(2) could count.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        let most = hard.min(65_536);
        setrlimit(Resource::RLIMIT_NOFILE, most, hard)
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn make_directories(root: &Root) -> Result<(), ApiError> {
    for (dir, mode) in [(&root.lib, 0o700), (&root.run, 0o750), (&root.netns(), 0o755)] {
        DirBuilder::new().recursive(true).mode(mode).create(dir).map_err(|e| cannot("make", dir, &e))?;
    }
    Ok(())
}

/// One netd per root: the lock ends with the process, however it ends.
fn lock(root: &Root) -> Result<Flock<File>, ApiError> {
    let path = root.run.join("netd.lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| cannot("open", &path, &e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let written = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
            written.map_err(|e| cannot("write", &path, &e))?;
            Ok(lock)
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let who = if pid.is_empty() { String::new() } else { format!(" (process {})", pid.trim()) };
            Err(ApiError::new(Kind::Conflict, format!("another netd runs on {}{who}", root.run.display()))
                .hint("stop it first, or start this one with another --root"))
        }
        Err((_, errno)) => Err(cannot("lock", &path, &errno.into())),
    }
}

/// The socket: 0660, owned by the group if there is one, in a directory others may not enter.
fn listen(root: &Root, guard: &Guard) -> Result<UnixListener, ApiError> {
    let path = root.socket();
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot("replace", &path, &e)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(|e| {
        // sun_path of unix(7) has 108 bytes.
        let error = cannot("listen at", &path, &e);
        if path.as_os_str().len() > 107 {
            error.hint("the path is longer than 107 bytes: use a shorter --root")
        } else {
            error
        }
    })?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o660)).map_err(|e| cannot("restrict", &path, &e))?;
    if let Some(gid) = guard.gid() {
        for owned in [&root.run, &path] {
            // In a user namespace the group may not be mapped: root alone uses the socket then.
            if let Err(error) = std::os::unix::fs::chown(owned, None, Some(gid.as_raw())) {
                tracing::warn!(path = %owned.display(), %error, "cannot give it to the group");
            }
        }
    }
    Ok(listener)
}

fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> ApiError {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Kind::Denied,
        std::io::ErrorKind::StorageFull => Kind::Retry,
        _ => Kind::Invalid,
    };
    ApiError::new(kind, format!("cannot {verb} {}", path.display())).because(error)
}
