//! The stage of one test: a thread with network and mount namespaces of its own.

use std::cell::{Cell, RefCell};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rnet_kernel::Netns;
use tempfile::TempDir;

use crate::process::built;
use crate::{Host, run_in};

/// Everything of one test. Its network namespace is the LAN that hosts may be plugged into.
#[derive(Debug)]
pub struct World {
    pub(crate) dir: TempDir,
    pub(crate) netns: Netns,
    pub(crate) lan_is_up: Cell<bool>,
    pub(crate) peers: RefCell<Vec<PathBuf>>,
}

/// Runs a test on a stage of its own, or says why not.
///
/// # Panics
/// As the test does.
pub fn run(test: impl FnOnce(&World) + Send) {
    run_or_skip(|| None, test);
}

/// The same for a test that needs something: `lacks` says what is missing.
///
/// # Panics
/// As the test does.
pub fn run_or_skip(lacks: impl FnOnce() -> Option<String>, test: impl FnOnce(&World) + Send) {
    let root = nix::unistd::geteuid().is_root();
    let lacking = if root { lacks() } else { Some("root".to_owned()) };
    if let Some(what) = lacking {
        #[allow(clippy::print_stdout, reason = "a skipped test says why")]
        {
            println!("skipped: needs {what}");
        }
        return;
    }
    std::thread::scope(|scope| {
        let stage = scope.spawn(|| {
            let world = World::enter();
            test(&world);
        });
        if let Err(panic) = stage.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl World {
    /// Moves the calling thread, which ends with the test, into private namespaces.
    fn enter() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may make namespaces");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts can be made private");
        // A namespace netns:NAME of the test, not of the machine. /sys stays the machine's: a sysfs of the new namespace
        // would hide the cgroups below it, and nothing under test reads /sys/class/net.
        std::fs::create_dir_all("/run/netns").expect("/run can be written");
        mount(Some("netns"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).expect("a tmpfs can be mounted");
        let netns = Netns::current().expect("/proc is there");
        let dir = tempfile::Builder::new().prefix("rnet-").tempdir().expect("a directory for temporary files");
        World { dir, netns, lan_is_up: Cell::new(false), peers: RefCell::default() }
    }

    /// A new host: a network namespace with `lo` up, and a root directory for its netd.
    pub fn host(&self, name: &str) -> Host {
        Host::new(self, name)
    }

    /// A second netd in the namespace of a host, with a root directory of its own.
    pub fn beside(&self, host: &Host, name: &str) -> Host {
        Host::within(self, name, host.netns.clone())
    }

    /// A directory with `netd` and `rnet` that every user may run: the build's may be where others cannot go.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn programs_for_all(&self) -> PathBuf {
        let dir = self.dir().join("bin");
        if !dir.exists() {
            std::fs::create_dir(&dir).expect("a test's directory can be written");
            for name in ["netd", "rnet", "rnet-shim"] {
                std::fs::copy(built(name), dir.join(name)).expect("a program can be copied");
            }
        }
        for open in [self.dir(), &dir] {
            std::fs::set_permissions(open, Permissions::from_mode(0o755)).expect("it is the test's own");
        }
        dir
    }

    /// A folder with a link to `rnet-cni` for each plugin, as `rnet-cni install` makes it.
    #[track_caller]
    pub fn cni_plugins(&self) -> PathBuf {
        let dir = self.dir().join("cni");
        let mut install = Command::new(built("rnet-cni"));
        run_in(&self.netns, install.args(["install", "--dir"]).arg(&dir)).ok();
        dir
    }

    /// The test's own directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `ip` in the LAN's namespace.
    #[track_caller]
    pub(crate) fn ip(&self, words: &str) -> String {
        run_in(&self.netns, Command::new("ip").args(words.split_whitespace())).ok().out
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for path in self.peers.take() {
            let _ = Netns::unbind(&path);
        }
        crate::host::unmount_below(self.dir.path());
    }
}
