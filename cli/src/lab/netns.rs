//! Work inside a node's network namespace: on a thread that dies with it, or for good before an exec(3).

use std::fs::File;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use rnet_api::ApiError;
use rnet_model::Kind;

use super::cannot;

/// Moves this thread into the namespace. setns(2) checks that the file is a network namespace.
pub(super) fn enter(netns: &Path) -> Result<(), ApiError> {
    let file = File::open(netns).map_err(|e| cannot("open the namespace", netns, &e))?;
    setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| {
        let kind = if e == nix::errno::Errno::EPERM { Kind::Denied } else { Kind::Retry };
        ApiError::new(kind, format!("cannot enter the namespace {}", netns.display())).because(&e)
    })
}

/// Runs `work` inside the namespace, on a thread of its own.
pub(super) fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> Result<T, ApiError> + Send) -> Result<T, ApiError> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| enter(netns).and_then(|()| work()));
        thread.join().unwrap_or_else(|_| Err(ApiError::new(Kind::Bug, "a thread in a namespace ended badly")))
    })
}
