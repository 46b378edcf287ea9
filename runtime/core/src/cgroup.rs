//! The control groups of a container: `rnet/ID` in every hierarchy, as libcontainer makes them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::ContainerId;
use crate::process::ProcessId;

/// Where systems mount them.
const ROOT: &str = "/sys/fs/cgroup";
/// Name of the group that holds all of rnet's.
const PARENT: &str = "rnet";

/// Whether a container gets groups of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// Yes, and only the devices every container has may be opened.
    Own,
    /// Yes, but rules about devices cannot be set: this is a user namespace, where no device can be made either
    /// (user_namespaces(7)).
    OwnWithoutDevices,
    /// They cannot be made here (a user namespace, a read-only file system): it stays where the shim is.
    Shared,
}

/// The path below each hierarchy's root.
pub fn path(id: &ContainerId) -> PathBuf {
    Path::new("/").join(PARENT).join(id.as_str())
}

/// Whether groups can be made here: tried in every hierarchy, since one that refuses makes the container fail.
pub fn probe() -> Cgroups {
    let hierarchies = hierarchies();
    let makes = |dir: &PathBuf| match fs::create_dir(dir.join(PARENT)) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => writable(&dir.join(PARENT)),
        Err(_) => false,
    };
    match !hierarchies.is_empty() && hierarchies.iter().all(makes) {
        true if in_user_namespace() => Cgroups::OwnWithoutDevices,
        true => Cgroups::Own,
        false => Cgroups::Shared,
    }
}

/// The first user namespace maps every number to itself.
fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

fn writable(dir: &Path) -> bool {
    nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK).is_ok()
}

/// The controllers' hierarchies of version 1 and the hybrid layout, or the only one of version 2. The other ones of the
/// hybrid layout (`unified`, `systemd`) hold no controllers; libcontainer leaves them alone.
pub fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let names = entries.flatten().filter(|e| e.file_name() != "unified" && e.file_name() != "systemd");
    names.map(|e| e.path()).filter(|p| p.join("cgroup.procs").exists() && !p.is_symlink()).collect()
}

/// Makes the kernel ready for a process to join a group soon.
///
/// The first join after a while waits for a grace period of RCU, some 10 ms, the next ones do not
/// (`cgroup_threadgroup_rwsem` and its `rcu_sync`, kernel/cgroup/cgroup.c). The command spends that time while its shim
/// does other things: it joins the group it is in, which changes nothing.
pub fn make_ready() {
    let Ok(own) = fs::read_to_string("/proc/self/cgroup") else { return };
    let Some(hierarchy) = hierarchies().into_iter().next() else { return };
    let name = hierarchy.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let mut lines = own.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let controllers = if hierarchy == Path::new(ROOT) { "" } else { name };
    let Some((_, path)) = lines.find(|(which, _)| *which == controllers) else { return };
    // Nothing depends on it.
    let _ = fs::write(hierarchy.join(path.trim_start_matches('/')).join("cgroup.procs"), "0");
}

/// The processes in a container's groups.
pub fn processes(id: &ContainerId) -> Vec<ProcessId> {
    let files = hierarchies().into_iter().map(|h| h.join(PARENT).join(id.as_str()).join("cgroup.procs"));
    let texts: Vec<String> = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
    let mut pids: Vec<i32> = texts.iter().flat_map(|t| t.lines()).filter_map(|line| line.parse().ok()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().filter_map(|pid| ProcessId::of(pid).ok()).collect()
}

/// Removes a container's groups, with those that its processes made. They must be empty: the first process of a pid
/// namespace ends last (pid_namespaces(7)).
pub fn remove(id: &ContainerId) {
    for dir in hierarchies().into_iter().map(|h| h.join(PARENT).join(id.as_str())) {
        remove_tree(&dir);
    }
}

fn remove_tree(dir: &Path) {
    // The common case, without a look inside.
    match fs::remove_dir(dir) {
        Ok(()) => return,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(_) => {}
    }
    let Ok(entries) = fs::read_dir(dir) else { return };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).for_each(|e| remove_tree(&e.path()));
    // What cannot be removed is empty and harmless; the next container of this id does not come.
    let _ = fs::remove_dir(dir);
}
