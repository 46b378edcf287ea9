//! Starts a shim and listens to it.

use std::fs::{DirBuilder, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rnet_api::{ApiError, Root};
use rnet_model::Kind;
use rnet_runtime::protocol::{Begin, Channel, Report, Request, WindowSize};

use crate::{Context, output};

/// A shim that was started.
#[derive(Debug)]
pub(super) struct Session {
    channel: Channel,
    log: PathBuf,
}

/// Whether the command stays until the program has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attach {
    /// It does, and its streams are the program's.
    Yes,
    /// It goes when the program runs.
    No,
}

/// Why a program was not started, with the exit code docker-run(1) has for that.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: ApiError,
    pub(super) code: u8,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure { error, code: super::OWN_FAILURE }
    }
}

/// Signals that are passed on to the program.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Exit code of a command that the user left.
const INTERRUPTED: u8 = 130;

/// The last times of SIGINT, newest last. A program that is process 1 and does not handle it cannot be interrupted
/// (pid_namespaces(7)); the command can.
#[derive(Debug, Default)]
struct Interrupts([Option<Instant>; 3]);

impl Interrupts {
    /// So close together they are one wish.
    const WITHIN: Duration = Duration::from_secs(5);

    fn add(&mut self, now: Instant) {
        self.0 = [self.0[1], self.0[2], Some(now)];
    }

    /// Whether the last three were close together.
    fn insist(&self) -> bool {
        matches!(self.0, [Some(first), _, Some(last)] if last.saturating_duration_since(first) <= Self::WITHIN)
    }
}

impl Session {
    /// Starts one with its task.
    pub(super) fn start(ctx: &Context, begin: &Begin, attach: Attach) -> Result<Self, ApiError> {
        let (channel, theirs) = Channel::pair()?;
        let log = ctx.root.run.join("shim.log");
        let mut command = Command::new(find_program()?);
        // Nothing of this environment is for a container, and some of it has a meaning to libcontainer.
        command
            .env_clear()
            .args(&ctx.root.private)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(log_file(&ctx.root, &log)?);
        let child = command.spawn();
        child.map_err(|e| ApiError::new(Kind::Retry, "cannot start rnet-shim").because(&e))?;
        // Its end of the pair must not stay open here.
        drop(command);
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let files: &[BorrowedFd<'_>] = match attach {
            Attach::Yes => &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            Attach::No => &[],
        };
        channel.send(begin, files)?;
        Ok(Session { channel, log })
    }

    /// Waits until the program runs.
    pub(super) fn started(&self) -> Result<(), Failure> {
        match self.report()? {
            Report::Started => Ok(()),
            Report::Failed { error, code } => Err(Failure { error, code }),
            Report::Exited { .. } => Err(self.broken().into()),
        }
    }

    /// Waits until the program has ended, passing signals and the terminal's size on; its exit code. Leaves, saying
    /// `left`, when the user insists on it.
    pub(super) fn follow(&self, signals: &SignalFd, left: &str) -> Result<u8, ApiError> {
        let mut interrupts = Interrupts::default();
        loop {
            let mut fds =
                [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(ApiError::new(Kind::Retry, "cannot wait for the container").because(&e)),
            }
            let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
            let (reported, signalled) = (ready(&fds[0]), ready(&fds[1]));
            if signalled {
                self.pass_on(signals, &mut interrupts);
            }
            if !reported {
                if interrupts.insist() {
                    output::remark(&format!("remark: {left}"));
                    return Ok(INTERRUPTED);
                }
                continue;
            }
            match self.report()? {
                Report::Exited { code, warning } => {
                    warning.into_iter().for_each(|text| output::remark(&format!("warning: {text}")));
                    return Ok(code);
                }
                Report::Started => {}
                Report::Failed { error, .. } => return Err(error),
            }
        }
    }

    fn pass_on(&self, signals: &SignalFd, interrupts: &mut Interrupts) {
        while let Ok(Some(info)) = signals.read_signal() {
            if i32::try_from(info.ssi_signo) == Ok(Signal::SIGINT as i32) {
                interrupts.add(Instant::now());
            }
            let request = match i32::try_from(info.ssi_signo).map(Signal::try_from) {
                Ok(Ok(Signal::SIGWINCH)) => WindowSize::of(std::io::stdout()).map(Request::Resize),
                Ok(Ok(signal)) => Some(Request::Signal(signal as i32)),
                _ => None,
            };
            // A shim that has ended says so on the channel.
            let _ = request.map(|request| self.channel.send(&request, &[]));
        }
    }

    fn report(&self) -> Result<Report, ApiError> {
        self.channel.receive::<Report>()?.map(|r| r.message).ok_or_else(|| self.broken())
    }

    fn broken(&self) -> ApiError {
        ApiError::new(Kind::Bug, "rnet-shim ended without a word")
            .hint(format!("it may have left one in {}", self.log.display()))
    }
}

/// Blocks the signals that are passed on, and makes them readable. Before the shim is started, so that none is lost.
pub(super) fn catch_signals() -> Result<SignalFd, ApiError> {
    let mask: SigSet = PASSED_ON.into_iter().chain([Signal::SIGWINCH]).collect();
    mask.thread_block()
        .and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
        .map_err(|e| ApiError::new(Kind::Retry, "cannot receive signals").because(&e))
}

/// Beside this program, in the libexec of its prefix, or in the PATH.
fn find_program() -> Result<PathBuf, ApiError> {
    const NAME: &str = "rnet-shim";
    let own =
        std::env::current_exe().map_err(|e| ApiError::new(Kind::Retry, "cannot find this program").because(&e))?;
    let beside = own.parent().map(|dir| dir.join(NAME));
    let libexec = own.parent().and_then(|dir| dir.parent()).map(|prefix| prefix.join("libexec").join(NAME));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(NAME));
    beside.into_iter().chain(libexec).chain(in_path).find(|p| p.is_file()).ok_or_else(|| {
        ApiError::new(Kind::Missing, format!("{NAME} is not installed"))
            .hint(format!("it belongs beside {}, or into the PATH", own.display()))
    })
}

/// What a shim has to say when nobody listens.
fn log_file(root: &Root, path: &PathBuf) -> Result<Stdio, ApiError> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(&root.run);
    made.map_err(|e| rnet_runtime::file_error("make", &root.run, &e))?;
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    file.map(Stdio::from).map_err(|e| rnet_runtime::file_error("open", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_interrupts_in_a_row_are_insistence() {
        let begin = Instant::now();
        let insist = |seconds: &[u64]| {
            let mut interrupts = Interrupts::default();
            seconds.iter().for_each(|s| interrupts.add(begin + Duration::from_secs(*s)));
            interrupts.insist()
        };
        for (seconds, expected) in [
            (&[][..], false),
            (&[0, 1], false),
            (&[0, 1, 5], true),
            (&[0, 1, 6], false),
            (&[0, 10, 20, 21], false),
            (&[0, 10, 11, 12], true),
        ] {
            assert_eq!(insist(seconds), expected, "{seconds:?}");
        }
    }
}
