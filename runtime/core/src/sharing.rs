//! Containers that use another one's network (`--net container:CTR`). The other one is the owner.
//!
//! An owner that ends while others are in its namespace does not give it back: it stays, with its interfaces, addresses
//! and published ports, until the owner runs in it again, the last of the others has gone, or the owner is removed. That
//! is how they follow it over a restart.
//!
//! `LIB/containers/OWNER/joined/ID` says who is in it, `LIB/containers/OWNER/kept` that the owner has ended and left it
//! to them. Both are changed and believed under `LIB/containers/OWNER/joined.lock`, so that either the owner's end sees
//! a container that joins, or that one sees the end.

use std::fs;
use std::io;
use std::path::PathBuf;

use rnet_api::ApiError;
use rnet_model::{Kind, NetworkMode};

use crate::process::ProcessId;
use crate::releases::{self, Addresses, Released};
use crate::store::remove_file;
use crate::{Container, ContainerId, Store, file_error};

/// Containers that join each other's network in a row.
const LONGEST_CHAIN: usize = 16;

const LOCK: &str = "joined.lock";
const KEPT: &str = "kept";

/// The container whose network this one uses: followed through those that have joined another one themselves. `None`
/// when it is its own.
///
/// # Errors
/// [`Kind::Missing`] when one of them is gone, [`Kind::Invalid`] when they join each other in a circle.
pub fn owner(store: &Store, container: &Container) -> Result<Option<Container>, ApiError> {
    let mut found: Option<Container> = None;
    for _ in 0..LONGEST_CHAIN {
        match &found.as_ref().unwrap_or(container).record.spec.network.mode {
            NetworkMode::Container(next) => found = Some(store.find(next)?),
            _ => return Ok(found),
        }
    }
    let name = &container.record.name;
    Err(ApiError::new(Kind::Invalid, format!("the network of {name} is that of another, and so on without an end")))
}

/// Notes that a container whose first process was made is in the owner's namespace.
///
/// # Errors
/// [`Kind::Conflict`] when the owner has ended meanwhile.
pub fn join(owner: &Container, joiner: &ContainerId) -> Result<(), ApiError> {
    let _lock = owner.locked(LOCK)?;
    // One that has left it to others is still joined by way of them.
    if first_process(owner)?.is_none_or(|init| init.open().is_none()) && !owner.lib(KEPT).exists() {
        let name = &owner.record.name;
        return Err(ApiError::new(Kind::Conflict, format!("cannot join the network of {name}: it has just ended"))
            .hint(format!("start it first: rnet start {name}")));
    }
    let dir = dir(owner);
    fs::create_dir_all(&dir).map_err(|e| file_error("make", &dir, &e))?;
    let path = dir.join(joiner.as_str());
    fs::write(&path, "").map_err(|e| file_error("write", &path, &e))
}

/// A container that had joined has ended. The namespace goes when the owner has ended and this was the last one.
///
/// # Errors
/// When it cannot be given back.
pub fn leave(store: &Store, owner: &Container, joiner: &ContainerId) -> Result<Released, ApiError> {
    let _lock = match owner.locked(LOCK) {
        // It was removed, and its namespace with it.
        Err(e) if e.kind == Kind::Missing => return Ok(Released::Now),
        other => other?,
    };
    remove_file(&dir(owner).join(joiner.as_str()))?;
    if !owner.lib(KEPT).exists() || !processes(store, owner)?.is_empty() {
        return Ok(Released::Now);
    }
    remove_file(&owner.lib(KEPT))?;
    releases::release(store.root(), &owner.record.id, Addresses::Keep)
}

/// First processes of the containers that are in the namespace of an owner that netd does not know: through them the
/// namespace is found again.
///
/// # Errors
/// When the list cannot be read.
pub fn others(store: &Store, owner: &Container) -> Result<Vec<ProcessId>, ApiError> {
    let _lock = owner.locked(LOCK)?;
    processes(store, owner)
}

/// Gives a container's namespace back at its end, or leaves it to those that are in it.
///
/// # Errors
/// As [`releases::release`].
pub fn let_go(store: &Store, owner: &Container, addresses: Addresses) -> Result<Released, ApiError> {
    let _lock = owner.locked(LOCK)?;
    if addresses == Addresses::Keep && !processes(store, owner)?.is_empty() {
        let path = owner.lib(KEPT);
        fs::write(&path, "").map_err(|e| file_error("write", &path, &e))?;
        return Ok(Released::Kept);
    }
    remove_file(&owner.lib(KEPT))?;
    releases::release(store.root(), &owner.record.id, addresses)
}

/// The owner takes its namespace up again, if it was left to others: the last of them does not end it then.
///
/// # Errors
/// When a file cannot be removed.
pub fn take_up(owner: &Container) -> Result<(), ApiError> {
    if !owner.lib(KEPT).exists() {
        return Ok(());
    }
    let _lock = owner.locked(LOCK)?;
    remove_file(&owner.lib(KEPT))
}

fn dir(owner: &Container) -> PathBuf {
    owner.lib("joined")
}

fn first_process(container: &Container) -> Result<Option<ProcessId>, ApiError> {
    Ok(container.live()?.and_then(|live| live.init))
}

/// The first processes of the containers that are in it. What a crash left is removed.
fn processes(store: &Store, owner: &Container) -> Result<Vec<ProcessId>, ApiError> {
    let dir = dir(owner);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(file_error("list", &dir, &e)),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse::<ContainerId>().ok());
        let joiner = id.and_then(|id| store.by_id(&id).ok());
        let process = joiner.map(|joiner| first_process(&joiner)).transpose()?.flatten();
        match process.filter(|process| process.open().is_some()) {
            Some(process) => found.push(process),
            None => remove_file(&entry.path())?,
        }
    }
    Ok(found)
}

#[cfg(test)]
#[path = "sharing/tests.rs"]
mod tests;
