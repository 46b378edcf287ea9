//! What runner and agent say to each other over a virtio port: one JSON value a line.
//!
//! A port outlives its users: a runner that was killed leaves lines in it, whole or cut. Every line therefore carries the
//! number of its request, and what does not parse or belongs to another request is passed over.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Programs that run in the guest at the same time, each on a port of its own.
pub(crate) const SLOTS: usize = 4;

/// Name of a port, in the guest and of its socket.
pub(crate) fn slot_name(slot: usize) -> String {
    format!("slot{slot}")
}

/// The socket of a port.
pub(crate) fn slot_socket(dir: &Path, slot: usize) -> PathBuf {
    dir.join(slot_name(slot))
}

/// A line to the agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Kill what runs, if something does, and run this.
    Run(Request),
    /// Kill what runs. The end of a connection does not say so: the guest's kernel may see it after the next one's first
    /// line.
    Stop,
}

/// What to run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Number, unique among those of a guest.
    pub(crate) id: String,
    /// Working directory.
    pub(crate) dir: PathBuf,
    /// The whole environment.
    pub(crate) env: Vec<(String, String)>,
    /// Program and arguments.
    pub(crate) words: Vec<String>,
}

/// Part of an answer; the last part is `Ended`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// Number of the request.
    pub(crate) id: String,
    /// The part.
    pub(crate) said: Said,
}

/// What came of a program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Said {
    /// A line of its stdout, with its end.
    Out(String),
    /// A line of its stderr, with its end.
    Err(String),
    /// A line of the guest's kernel log from while it ran. Only programs that fail have these.
    Kernel(String),
    /// Its exit code; 128 + N if signal N ended it.
    Ended(u8),
}
