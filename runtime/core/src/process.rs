//! Processes by id and start time, so that a number that was given out again is not taken for an old acquaintance.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use rnet_api::ApiError;
use rnet_model::Kind;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it was started, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub started: u64,
}

impl ProcessId {
    /// A process that is there now.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn of(pid: i32) -> Result<Self, ApiError> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .map_err(|e| ApiError::new(Kind::Missing, format!("there is no process {pid}")).because(&e))?;
        let started =
            start_time(&stat).ok_or_else(|| ApiError::new(Kind::Bug, format!("/proc/{pid}/stat cannot be read")))?;
        Ok(ProcessId { pid, started })
    }

    /// This process.
    ///
    /// # Errors
    /// Without /proc.
    pub fn this() -> Result<Self, ApiError> {
        ProcessId::of(nix::unistd::getpid().as_raw())
    }

    /// A handle of it, if it is still there (a zombie is not). The start time is compared after the handle was opened,
    /// so the handle is that of the process that was meant.
    pub fn open(self) -> Option<Handle> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        let handle = Handle { fd };
        (ProcessId::of(self.pid).ok()? == self && !handle.ended(Duration::ZERO).ok()?).then_some(handle)
    }
}

/// Field 22. The second field is the program's name in parentheses and may contain anything, so counting begins after
/// the last one.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A process held by its pidfd.
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
}

impl Handle {
    /// Of a process whose number cannot have been given out again: this one, or a child that was not waited for.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of_number(pid: i32) -> Result<Self, ApiError> {
        let missing = || ApiError::new(Kind::Missing, format!("there is no process {pid}"));
        let number = Pid::from_raw(pid).ok_or_else(missing)?;
        let fd = pidfd_open(number, PidfdFlags::empty()).map_err(|e| missing().because(&e))?;
        Ok(Handle { fd })
    }

    /// Sends a signal; a process that has ended meanwhile is success.
    ///
    /// # Errors
    /// When it is not allowed.
    pub fn kill(&self, signal: Signal) -> Result<(), ApiError> {
        let number = rustix::process::Signal::from_named_raw(signal as i32)
            .ok_or_else(|| ApiError::new(Kind::Bug, format!("{signal} cannot be sent")))?;
        match pidfd_send_signal(&self.fd, number) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(ApiError::new(Kind::Denied, format!("cannot send {signal} to the process")).because(&e)),
        }
    }

    /// Waits until it has ended, at most so long; whether it has.
    ///
    /// # Errors
    /// When poll(2) fails.
    pub fn ended(&self, limit: Duration) -> Result<bool, ApiError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: a remainder below one millisecond must not become a busy loop.
            let millis = left.as_micros().div_ceil(1000);
            let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(e) => return Err(ApiError::new(Kind::Retry, "cannot wait for a process").because(&e)),
            }
        }
    }

    /// Waits until it has ended, however long that takes.
    ///
    /// # Errors
    /// As [`Handle::ended`].
    pub fn wait(&self) -> Result<(), ApiError> {
        while !self.ended(Duration::from_secs(3600))? {}
        Ok(())
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(start_time(stat), Some(4242));
        assert_eq!(start_time("12 (x) S 1"), None);
        assert_eq!(start_time(""), None);
    }

    #[test]
    fn this_process_and_its_double() {
        let this = ProcessId::this().unwrap();
        assert!(this.open().is_some());
        assert!(ProcessId { started: this.started + 1, ..this }.open().is_none());
        assert!(ProcessId { pid: 0, started: 0 }.open().is_none());
    }

    #[test]
    fn the_end_is_seen() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let id = ProcessId::of(child.id().cast_signed()).unwrap();
        let handle = id.open().unwrap();
        assert!(!handle.ended(Duration::from_millis(1)).unwrap());
        handle.kill(Signal::SIGKILL).unwrap();
        assert!(handle.ended(Duration::from_secs(10)).unwrap());
        assert!(id.open().is_none(), "a zombie is not there any more");
        child.wait().unwrap();
        handle.kill(Signal::SIGKILL).unwrap();
    }
}
