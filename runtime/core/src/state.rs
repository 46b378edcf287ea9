//! Where a container is in its life.
//!
//! `RUN/containers/ID/state.json` ([`Live`]) is there from the shim's first step to its last one;
//! `LIB/containers/ID/ended.json` ([`Ended`]) says how it last ended. A live state whose shim is gone means that the
//! shim was killed: the container is dead, whatever its processes do.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::process::ProcessId;

/// How far the shim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The container is being made.
    Starting,
    /// Its program runs.
    Running,
}

/// What a shim says about its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The shim.
    pub shim: ProcessId,
    /// Phase.
    pub phase: Phase,
    /// The container's first process, as the shim sees it.
    pub init: Option<ProcessId>,
    /// When the program was started.
    pub started: Option<jiff::Timestamp>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its exit code; 128 + n for signal n.
    pub code: u8,
    /// When its program was started; absent when it never was.
    pub started: Option<jiff::Timestamp>,
    /// When.
    pub finished: jiff::Timestamp,
    /// Why it could not be started, or what its end left undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A container's state in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Never started, or being started.
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended.
    Exited,
    /// Its shim was killed; nobody knows about its program.
    Dead,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Exited => "exited",
            Status::Dead => "dead",
        })
    }
}

/// The state from what is on disk and whether the shim is there.
pub fn status(live: Option<&Live>, shim_runs: bool, ended: Option<&Ended>) -> Status {
    match (live, shim_runs, ended) {
        (Some(live), true, _) if live.phase == Phase::Running => Status::Running,
        (Some(_), true, _) => Status::Created,
        (Some(_), false, _) => Status::Dead,
        (None, _, Some(_)) => Status::Exited,
        (None, _, None) => Status::Created,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let live = |phase| Live { shim: ProcessId { pid: 1, started: 1 }, phase, init: None, started: None };
        let ended = Ended { code: 0, started: None, finished: jiff::Timestamp::UNIX_EPOCH, error: None };
        assert_eq!(status(None, false, None), Status::Created);
        assert_eq!(status(None, false, Some(&ended)), Status::Exited);
        assert_eq!(status(Some(&live(Phase::Starting)), true, Some(&ended)), Status::Created);
        assert_eq!(status(Some(&live(Phase::Running)), true, None), Status::Running);
        assert_eq!(status(Some(&live(Phase::Running)), false, Some(&ended)), Status::Dead);
    }
}
