//! Runs an executable of others: bytes in, bytes out, within limits of time and size, and nothing of it left behind.
//!
//! One thread feeds and drains all three pipes, so neither side can wait for the other for ever.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid};

/// How often a start is tried again while somebody has the executable open for writing (execve(2), ETXTBSY).
const BUSY_TRIES: u32 = 5;
/// How long a killed process may take to end. Only one stuck in the kernel takes longer.
const DEATH: Duration = Duration::from_secs(5);
/// Bytes per read.
const CHUNK: usize = 16 << 10;
/// Reads in a row before the clock is looked at again; more than a pipe holds (pipe(7), 64 KiB).
const READS: usize = 64;

/// How much an executable of others may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From start to end. It is killed then, with all processes of its group.
    pub time: Duration,
    /// Bytes on stdout. It is killed when it writes more.
    pub stdout: usize,
    /// Bytes of stderr that are kept, the last ones.
    pub stderr: usize,
    /// Time between two tries to start an executable that is being written.
    pub busy: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { time: Duration::from_secs(60), stdout: 4 << 20, stderr: 16 << 10, busy: Duration::from_secs(1) }
    }
}

/// What an executable left.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// Why there is no output. The executable does not run any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot be started: {0}")]
    Start(io::Error),
    #[error("gave no answer within {0:?} and was killed")]
    Time(Duration),
    #[error("wrote more than {0} bytes and was killed")]
    Size(usize),
    #[error("was killed, as it cannot be talked to: {0}")]
    Pipe(io::Error),
}

/// Runs a command in a process group of its own until it ends or breaks a limit. Gives what was on stderr, too, when it
/// fails.
pub(super) fn run(command: &mut Command, input: &[u8], limits: &Limits) -> Result<Output, (Failure, Vec<u8>)> {
    let deadline = Instant::now() + limits.time;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let none = |failure| (failure, Vec::new());
    let child = start(command, limits.busy).map_err(|e| none(Failure::Start(e)))?;
    let mut running = Running::new(child).map_err(|e| none(Failure::Pipe(e)))?;
    match running.talk(input, limits, deadline) {
        Ok(stdout) => match running.end() {
            Ok(status) => Ok(Output { status, stdout, stderr: running.stderr() }),
            Err(e) => Err((Failure::Pipe(e), running.stderr())),
        },
        Err(failure) => {
            running.kill();
            Err((failure, running.stderr()))
        }
    }
}

fn start(command: &mut Command, pause: Duration) -> io::Result<Child> {
    let mut tries = BUSY_TRIES;
    loop {
        match command.spawn() {
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy && tries > 0 => {
                tries -= 1;
                // Nothing tells when the last writer has closed the file.
                let _ = poll(&mut [], Some(&timespec(pause)));
            }
            other => return other,
        }
    }
}

/// A started executable. Dropping it kills what still runs.
struct Running {
    child: Child,
    pidfd: OwnedFd,
    group: Pid,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    tail: VecDeque<u8>,
    reaped: bool,
}

impl Running {
    fn new(mut child: Child) -> io::Result<Self> {
        let group = Pid::from_child(&child);
        let opened = pidfd_open(group, PidfdFlags::empty());
        let pidfd = match opened {
            Ok(pidfd) => pidfd,
            Err(e) => {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.wait();
                return Err(e.into());
            }
        };
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let running = Running { child, pidfd, group, stdin, stdout, stderr, tail: VecDeque::new(), reaped: false };
        let pipes = [
            running.stdin.as_ref().map(|f| f.as_fd()),
            running.stdout.as_ref().map(|f| f.as_fd()),
            running.stderr.as_ref().map(|f| f.as_fd()),
        ];
        for fd in pipes.into_iter().flatten() {
            fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        }
        Ok(running)
    }

    /// Writes the input and reads stdout and stderr until the executable has ended.
    fn talk(&mut self, mut input: &[u8], limits: &Limits, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let mut stdout = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Time(limits.time));
            }
            // Looked at before the pipes: what it wrote before it ended is in them by now.
            let ended = self.wait(left).map_err(Failure::Pipe)?;
            self.feed(&mut input).map_err(Failure::Pipe)?;
            let open = drain(&mut self.stdout, |bytes| {
                stdout.extend_from_slice(bytes);
                stdout.len() <= limits.stdout
            });
            if !open.map_err(Failure::Pipe)? {
                return Err(Failure::Size(limits.stdout));
            }
            let tail = &mut self.tail;
            let keep = |bytes: &[u8]| {
                tail.extend(bytes);
                tail.drain(..tail.len().saturating_sub(limits.stderr));
                true
            };
            drain(&mut self.stderr, keep).map_err(Failure::Pipe)?;
            if ended {
                return Ok(stdout);
            }
        }
    }

    /// Waits until there is something to do; true when the executable has ended.
    fn wait(&self, time: Duration) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
        fds.extend(self.stdin.as_ref().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        fds.extend(self.stdout.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(self.stderr.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, Some(&timespec(time))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty())),
            Err(e) => Err(e.into()),
        }
    }

    fn feed(&mut self, input: &mut &[u8]) -> io::Result<()> {
        while let Some(stdin) = &mut self.stdin {
            if input.is_empty() {
                self.stdin = None;
                break;
            }
            match stdin.write(input) {
                Ok(written) => *input = input.get(written..).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // It need not read what it has no use for.
                Err(e) if e.kind() == ErrorKind::BrokenPipe => self.stdin = None,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reaps the executable, which has ended. If it failed, what it started goes with it; what a plugin that succeeded
    /// leaves running is its own affair.
    fn end(&mut self) -> io::Result<ExitStatus> {
        // Not reaped by this: its number, and with it that of the group, cannot be another's yet.
        let peek = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        if peek.and_then(|status| status.exit_status()) != Some(0) {
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(status)
    }

    fn kill(&mut self) {
        if self.reaped {
            return;
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        // It can have moved itself to another group.
        let _ = self.child.kill();
        let deadline = Instant::now() + DEATH;
        self.stdin = None;
        self.stdout = None;
        self.stderr = None;
        while !deadline.saturating_duration_since(Instant::now()).is_zero() {
            if self.wait(deadline.saturating_duration_since(Instant::now())).unwrap_or(true) {
                break;
            }
        }
        // One that is stuck in the kernel stays a zombie until this process ends, which beats waiting for it.
        let _ = self.child.try_wait();
        self.reaped = true;
    }

    fn stderr(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.tail).into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads what is there and closes a pipe at its end; false when `take` has had enough.
fn drain<R: Read>(pipe: &mut Option<R>, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<bool> {
    let mut chunk = [0; CHUNK];
    for _ in 0..READS {
        let Some(reader) = pipe else { break };
        match reader.read(&mut chunk) {
            Ok(0) => *pipe = None,
            Ok(read) => {
                if !take(chunk.get(..read).unwrap_or_default()) {
                    return Ok(false);
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}
