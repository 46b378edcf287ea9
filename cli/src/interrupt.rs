//! Ctrl-C as something that is waited for, for commands that run until then and have something to finish.

use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rnet_api::ApiError;
use rnet_model::Kind;

/// Takes SIGINT and SIGTERM away from this thread and those it starts.
#[derive(Debug)]
pub(crate) struct Interrupt(SignalFd);

impl Interrupt {
    /// From now on.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn take() -> Result<Self, ApiError> {
        let fail = |e| ApiError::new(Kind::Retry, "cannot wait for Ctrl-C").because(&e);
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().map_err(fail)?;
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map(Interrupt).map_err(fail)
    }

    /// Waits so long, or until the user has enough, which is `true`.
    pub(crate) fn wait(&self, pause: Option<Duration>) -> bool {
        // Rounded up: a wait of 0 ms would spin.
        let pause = pause.map_or(PollTimeout::NONE, |p| {
            PollTimeout::try_from(p + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, pause);
        ready.is_ok_and(|n| n > 0) && matches!(self.0.read_signal(), Ok(Some(_)))
    }
}
