//! Where control groups cannot be made (an ordinary user's user namespace on version 1 hierarchies), libcontainer still
//! insists on them. It gets a tree of ordinary files in their place, seen by this process and its children alone, and
//! the container stays in the group it was started in. On version 2 it tolerates the refusal by itself.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount as mount_fs};
use nix::sched::{CloneFlags, unshare};
use rnet_api::ApiError;
use rnet_runtime::{ContainerId, cgroup, file_error};

use crate::cannot;

const ROOT: &str = "/sys/fs/cgroup";

/// Mounts the tree for one container.
pub(crate) fn mount(id: &ContainerId) -> Result<(), ApiError> {
    let hierarchies = cgroup::hierarchies();
    if hierarchies.is_empty() || hierarchies.iter().any(|h| h == Path::new(ROOT)) {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(|e| cannot("make a mount namespace", &e))?;
    let none: Option<&str> = None;
    mount_fs(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .and_then(|()| mount_fs(Some("tmpfs"), ROOT, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, none))
        .map_err(|e| cannot(&format!("mount over {ROOT}"), &e))?;
    let own = cgroup::path(id);
    for hierarchy in hierarchies {
        let mut dir = hierarchy.clone();
        for part in own.iter() {
            // The first part is the root, which is the hierarchy's own here.
            if part != "/" {
                dir.push(part);
            }
            // What libcontainer writes, and what it reads of cpuset.
            let files = [("cgroup.procs", ""), ("cpuset.cpus", "0"), ("cpuset.mems", "0")];
            let made = fs::create_dir_all(&dir)
                .and_then(|()| files.iter().try_for_each(|(name, text)| fs::write(dir.join(name), text)));
            made.map_err(|e| file_error("make", &dir, &e))?;
        }
    }
    Ok(())
}
