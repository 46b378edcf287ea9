//! A process that is told from a later one with its number by when it began.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rnet_plugin_protocol::Error;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// How long a process may take to end when it is asked to.
const POLITE: Duration = Duration::from_secs(2);
/// And when it is not asked.
const FORCED: Duration = Duration::from_secs(5);

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pid: u32,
    /// Clock ticks since boot: field 22 of /proc/PID/stat.
    start: u64,
}

impl Process {
    /// The one with this number, unless it has ended.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, field 2, may hold anything.
        let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        let start = fields.nth(18)?.parse().ok()?;
        (!ended).then_some(Process { pid, start })
    }

    /// Whether it still runs.
    pub(super) fn is_alive(&self) -> bool {
        Process::of(self.pid) == Some(*self)
    }

    /// Ends it and waits for that. Its having ended is success.
    ///
    /// # Errors
    /// When it may not be ended.
    pub(super) fn end(&self) -> Result<(), Error> {
        let fault = |e: io::Error| Error::io(format!("dhcp: end process {}", self.pid), &e);
        let Some(fd) = self.open().map_err(fault)? else { return Ok(()) };
        for (signal, patience) in [(Signal::TERM, POLITE), (Signal::KILL, FORCED)] {
            match pidfd_send_signal(&fd, signal) {
                Ok(()) => {}
                Err(Errno::SRCH) => return Ok(()),
                Err(e) => return Err(fault(e.into())),
            }
            if ended(&fd, patience).map_err(fault)? {
                return Ok(());
            }
        }
        Err(Error::internal(format!("dhcp: process {} does not end", self.pid)))
    }

    /// The descriptor is of the process that has the number now; looked at afterwards, it cannot become another.
    fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(self.is_alive().then_some(fd)),
            Err(Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

fn ended(fd: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], wait) {
            Ok(0) | Err(nix::errno::Errno::EINTR) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_the_very_process_is_ended() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_alive());
        let earlier = Process { start: process.start - 1, ..process };
        assert!(!earlier.is_alive());
        earlier.end().unwrap();
        assert!(process.is_alive(), "another process with the number of ours");
        process.end().unwrap();
        assert!(!process.is_alive(), "a process that ended and was not waited for");
        process.end().unwrap();
        child.wait().unwrap();
        assert_eq!(Process::of(child.id()), None);
        process.end().unwrap();
    }
}
