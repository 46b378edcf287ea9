//! What netd could not be told: namespaces and addresses of containers that ended while it did not run.
//!
//! One file per container in `LIB/releases`. Every command that talks to netd for a container works the list off
//! first. The lock orders that against the container's own next start, which must not lose its new namespace to an
//! old entry.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};
use rnet_api::{ApiError, Client, Root};
use rnet_model::Kind;
use serde::{Deserialize, Serialize};

use crate::store::{Sync, read_json, remove_file, write_json};
use crate::{ContainerId, file_error};

/// What becomes of a container's addresses and persistent attachments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Addresses {
    /// It gets them again at its next start.
    Keep,
    /// It is gone for good.
    Forget,
}

/// Whether netd knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// It does.
    Now,
    /// It does not run; it will be told later.
    Later,
    /// It need not: other containers are in the namespace, and keep it.
    Kept,
}

fn dir(root: &Root) -> PathBuf {
    root.lib.join("releases")
}

/// Gives a container's namespace back, now or, when netd cannot be reached, later.
///
/// # Errors
/// When netd refuses, or the note for later cannot be written.
pub fn release(root: &Root, id: &ContainerId, addresses: Addresses) -> Result<Released, ApiError> {
    match Client::new(root).release_sandbox(&id.name(), addresses == Addresses::Forget) {
        Ok(_) => {
            remove_file(&dir(root).join(id.as_str()))?;
            Ok(Released::Now)
        }
        Err(error) if matches!(error.kind, Kind::Unavailable | Kind::Retry) => {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir(root));
            made.map_err(|e| file_error("make", &dir(root), &e))?;
            write_json(&dir(root).join(id.as_str()), &addresses, Sync::Yes)?;
            Ok(Released::Later)
        }
        Err(error) => Err(error),
    }
}

/// Tells netd what it missed.
///
/// # Errors
/// When netd cannot be reached or refuses; what is left is tried again next time.
pub fn catch_up(root: &Root) -> Result<(), ApiError> {
    let entries = match fs::read_dir(dir(root)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(file_error("list", &dir(root), &e)),
    };
    let ids: Vec<ContainerId> =
        entries.flatten().filter_map(|e| e.file_name().to_str().and_then(|n| n.parse().ok())).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let _lock = lock(root)?;
    for id in ids {
        let path = dir(root).join(id.as_str());
        // Another one may have been faster.
        let Some(addresses) = read_json::<Addresses>(&path)? else { continue };
        Client::new(root).release_sandbox(&id.name(), addresses == Addresses::Forget)?;
        remove_file(&path)?;
    }
    Ok(())
}

fn lock(root: &Root) -> Result<Flock<File>, ApiError> {
    let path = dir(root).join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|e| file_error("open", &path, &e))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| file_error("lock", &path, &e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_netd_it_is_written_down() {
        let dir_ = tempfile::tempdir().unwrap();
        let root = Root::from_option(Some(dir_.path().to_owned()));
        let id = ContainerId::random().unwrap();
        catch_up(&root).unwrap();
        assert_eq!(release(&root, &id, Addresses::Keep).unwrap(), Released::Later);
        assert_eq!(release(&root, &id, Addresses::Forget).unwrap(), Released::Later);
        assert_eq!(read_json(&dir(&root).join(id.as_str())).unwrap(), Some(Addresses::Forget));
        assert_eq!(catch_up(&root).unwrap_err().kind, Kind::Unavailable);
    }
}
