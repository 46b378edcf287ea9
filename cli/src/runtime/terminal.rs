//! The user's own terminal while a program has it.

use std::io::{IsTerminal as _, Stdin, stdin};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use rnet_api::ApiError;
use rnet_model::Kind;
use rnet_runtime::Streams;

/// A terminal in raw mode; dropped, it is as it was.
#[derive(Debug)]
pub(super) struct Raw {
    stdin: Stdin,
    before: Termios,
}

impl Raw {
    /// Hands the terminal's keys to a program that has a terminal and wants input; nothing to do otherwise.
    ///
    /// # Errors
    /// When there is no terminal to hand over.
    pub(super) fn enter(streams: Streams) -> Result<Option<Self>, ApiError> {
        if streams != Streams::InteractiveTerminal {
            return Ok(None);
        }
        let stdin = stdin();
        if !stdin.is_terminal() {
            return Err(ApiError::new(Kind::Invalid, "the input is not a terminal").hint("leave -t out, or use -d"));
        }
        let failed = |e| ApiError::new(Kind::Retry, "cannot set up the terminal").because(&e);
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).map_err(failed)?;
        Ok(Some(Raw { stdin, before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&self.stdin, SetArg::TCSADRAIN, &self.before);
    }
}
