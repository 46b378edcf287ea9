//! `rnet-shim`: makes one container with libcontainer and stays with it, or runs one program in a container.
//!
//! `rnet` starts it with a socket as standard input ([`rnet_runtime::protocol`]) and the instance's directory as its
//! only argument, if it is a private one. It has one thread: libcontainer clones, and a clone of a process with more
//! threads may hold a lock for ever. It outlives the command that started it, and netd.

mod container;
mod engine;
mod exec;
mod links;
mod network;
mod own_files;
mod program;
mod pump;
mod stand_in;
mod streams;

use std::fs::OpenOptions;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::SigSet;
use rnet_api::{ApiError, Root};
use rnet_model::Kind;
use rnet_runtime::Store;
use rnet_runtime::protocol::{Begin, Channel, Report};

/// Why a program was not started, and the exit code docker-run(1) has for that.
#[derive(Debug)]
struct Failure {
    error: ApiError,
    code: u8,
}

impl Failure {
    /// Exit code of a failure that is not the program's.
    const OWN: u8 = 125;
    /// The program was found and is none, or may not be run, or not there.
    const NOT_EXECUTABLE: u8 = 126;

    fn new(code: u8, error: ApiError) -> Self {
        Failure { error, code }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure { error, code: Failure::OWN }
    }
}

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rnet-shim: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), ApiError> {
    let channel = Channel::new(take_stdin()?);
    // A session of its own: what the user types to the command is not for the shim. It fails when this is one already.
    let _ = nix::unistd::setsid();
    // The command blocks signals to read them; a container must not begin that way.
    SigSet::empty().thread_set_mask().map_err(|e| cannot("let signals in", &e))?;
    let root = Root::from_option(std::env::args_os().nth(1).map(PathBuf::from));
    let store = Store::new(&root);
    let Some(begin) = channel.receive::<Begin>()? else { return Ok(()) };
    let client = streams::Client::new(begin.files);
    let failed = match begin.message {
        Begin::Container(run) => container::run(&store, &run, client, &channel),
        Begin::Exec(run) => exec::run(&store, &run, client, &channel),
    };
    if let Err(Failure { error, code }) = failed {
        return match channel.send(&Report::Failed { error: error.clone(), code }, &[]) {
            // Nobody is left to tell but the log.
            Err(_) => Err(error),
            Ok(()) => Ok(()),
        };
    }
    Ok(())
}

/// The socket, with /dev/null in its place: libcontainer would hand it to the container.
fn take_stdin() -> Result<OwnedFd, ApiError> {
    let stdin = std::io::stdin();
    let socket = stdin.as_fd().try_clone_to_owned();
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let replaced = socket.and_then(|socket| {
        nix::unistd::dup2_stdin(null?)?;
        Ok(socket)
    });
    replaced.map_err(|e| {
        ApiError::new(Kind::Invalid, "rnet-shim is started by rnet, with a socket as its input").because(&e)
    })
}

fn cannot(what: &str, error: &dyn std::error::Error) -> ApiError {
    ApiError::new(Kind::Retry, format!("cannot {what}")).because(error)
}
