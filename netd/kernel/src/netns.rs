//! Network namespaces as checked file descriptors.
//!
//! A namespace is opened once and passed on by descriptor, never by path: a path can be replaced between two uses. A
//! switch into one happens on a thread that ends with the work, so that no other code ever runs in the wrong one.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::KernelError;

/// Where a thread finds its own namespace. `/proc/self` would be the one of the first thread of the process.
const OWN: &str = "/proc/thread-self/ns/net";

mod ioctl {
    // linux/nsfs.h: NSIO 0xb7, NS_GET_NSTYPE 3.
    nix::ioctl_none!(ns_get_nstype, 0xb7, 3);
}

/// Identity of a namespace while it lives: inode and device of its nsfs file. Both are used again after it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// Device of nsfs.
    pub dev: u64,
    /// Inode, the number in `net:[4026531840]`.
    pub ino: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.ino)
    }
}

/// A network namespace, kept alive by an open descriptor that is checked to be one.
#[derive(Clone)]
pub struct Netns {
    fd: Arc<OwnedFd>,
    id: NetnsId,
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn current() -> Result<Self, KernelError> {
        Netns::open(Path::new(OWN))
    }

    /// The namespace a file stands for: `/run/netns/NAME`, `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the file cannot be opened or is no network namespace.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let operation = || format!("open network namespace {}", path.display());
        // O_NONBLOCK: a FIFO put at the path must not hang the caller.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| KernelError::io(operation(), &e))?;
        Netns::from_file(file, operation)
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// When there is no such process or it may not be looked at.
    pub fn of_process(pid: u32) -> Result<Self, KernelError> {
        Netns::open(Path::new(&format!("/proc/{pid}/ns/net")))
            .map_err(|e| KernelError { operation: format!("open the network namespace of process {pid}"), ..e })
    }

    /// A new, empty namespace. Nothing holds it but the value.
    ///
    /// # Errors
    /// When the kernel refuses: no right, or too many namespaces.
    pub fn create() -> Result<Self, KernelError> {
        on_dying_thread("create network namespace", || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|e| KernelError::os("create network namespace", e as i32))?;
            Netns::current()
        })?
    }

    /// From a descriptor somebody passed, checked.
    ///
    /// # Errors
    /// When it is no network namespace.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, KernelError> {
        Netns::from_file(File::from(fd), || "use a passed descriptor as a network namespace".to_owned())
    }

    fn from_file(file: File, operation: impl Fn() -> String) -> Result<Self, KernelError> {
        let fs = fstatfs(&file).map_err(|e| KernelError::os(operation(), e as i32))?;
        let not_one =
            || KernelError { errno: libc::EINVAL, ..KernelError::text(operation(), "it is not a network namespace") };
        if fs.filesystem_type() != NSFS_MAGIC {
            return Err(not_one());
        }
        // SAFETY: NS_GET_NSTYPE takes no argument and writes no memory; the descriptor is open and on nsfs.
        let kind =
            unsafe { ioctl::ns_get_nstype(file.as_raw_fd()) }.map_err(|e| KernelError::os(operation(), e as i32))?;
        if kind != libc::CLONE_NEWNET {
            return Err(not_one());
        }
        let meta = file.metadata().map_err(|e| KernelError::io(operation(), &e))?;
        let id = NetnsId { dev: meta.dev(), ino: meta.ino() };
        Ok(Netns { fd: Arc::new(OwnedFd::from(file)), id })
    }

    /// A value for the fakes: it has an identity and cannot be entered.
    pub(crate) fn pretend(id: NetnsId) -> Result<Self, KernelError> {
        let file = File::open("/dev/null").map_err(|e| KernelError::io("open /dev/null", &e))?;
        Ok(Netns { fd: Arc::new(OwnedFd::from(file)), id })
    }

    /// Who it is, while it lives.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Keeps the namespace alive under a path: a file, made if absent, with the namespace mounted on it. The same one
    /// being there already is success.
    ///
    /// # Errors
    /// When the file cannot be made or mounted on, or another namespace is there.
    pub fn bind(&self, path: &Path) -> Result<(), KernelError> {
        let operation = || format!("bind {self} to {}", path.display());
        let opened = OpenOptions::new()
            .read(true)
            .create_new(true)
            .write(true)
            .mode(0o444)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(path);
        let made = match opened {
            Ok(_) => true,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(KernelError::io(operation(), &e)),
        };
        if !made && let Ok(there) = Netns::open(path) {
            if there.id == self.id {
                return Ok(());
            }
            return Err(KernelError {
                errno: libc::EEXIST,
                ..KernelError::text(operation(), format!("{there} is bound there"))
            });
        }
        let source = format!("/proc/thread-self/fd/{}", self.fd.as_raw_fd());
        nix::mount::mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|e| {
            if made {
                let _ = std::fs::remove_file(path);
            }
            KernelError::os(operation(), e as i32)
        })
    }

    /// Takes the path away again. The namespace dies when nothing else holds it. Absent is success.
    ///
    /// # Errors
    /// When it is busy in a way a detached unmount cannot solve, or the file cannot be removed.
    pub fn unbind(path: &Path) -> Result<(), KernelError> {
        let operation = || format!("unbind {}", path.display());
        match nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: not a mount point, the rest of an interrupted bind.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(e) => return Err(KernelError::os(operation(), e as i32)),
        }
        match std::fs::remove_file(path) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(KernelError::io(operation(), &e)),
        }
    }

    /// Runs `f` inside the namespace: on a thread that ends with it. In a program of one thread that thread goes there and
    /// back, and a thread that is inside stays where it is. A panic of `f` goes on in the caller.
    ///
    /// # Errors
    /// When no thread can be made or the namespace may not be entered.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, KernelError> {
        if std::fs::metadata(OWN).is_ok_and(|m| NetnsId { dev: m.dev(), ino: m.ino() } == self.id) {
            return Ok(f());
        }
        let enter = || {
            nix::sched::setns(&self.fd, CloneFlags::CLONE_NEWNET)
                .map_err(|e| KernelError::os(format!("enter {self}"), e as i32))
        };
        if alone() {
            let home = Netns::current()?;
            enter()?;
            let _back = Return(home);
            return Ok(f());
        }
        on_dying_thread("enter network namespace", || {
            enter()?;
            Ok(f())
        })?
    }
}

/// Whether the process has one thread: each is a folder, and a folder has a link of each in it and two of its own.
fn alone() -> bool {
    std::fs::metadata("/proc/self/task").is_ok_and(|m| m.nlink() == 3)
}

/// Brings the thread back where it came from.
struct Return(Netns);

impl Drop for Return {
    fn drop(&mut self) {
        if nix::sched::setns(&self.0.fd, CloneFlags::CLONE_NEWNET).is_err() {
            // Everything that follows would happen in the wrong namespace.
            std::process::abort();
        }
    }
}

fn on_dying_thread<T: Send>(operation: &str, f: impl FnOnce() -> T + Send) -> Result<T, KernelError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, f)
            .map_err(|e| KernelError::io(operation, &e))?;
        thread.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PartialEq for Netns {
    /// Two values that are alive are the same namespace exactly when their inodes are.
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Netns {}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Netns({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::root_or_skip;

    #[test]
    fn only_network_namespaces() {
        assert_eq!(Netns::current().unwrap(), Netns::of_process(std::process::id()).unwrap());
        for path in ["/proc/self/ns/mnt", "/proc/self/status", "/dev/null", "/"] {
            let e = Netns::open(Path::new(path)).unwrap_err();
            assert_eq!(
                e.to_string(),
                format!("open network namespace {path}: it is not a network namespace (Invalid argument)")
            );
        }
        assert_eq!(Netns::open(Path::new("/nonexistent")).unwrap_err().errno, libc::ENOENT);
        let gone = Netns::of_process(u32::MAX).unwrap_err();
        assert_eq!(
            (gone.errno, gone.operation.as_str()),
            (libc::ENOENT, "open the network namespace of process 4294967295")
        );
    }

    #[test]
    fn work_runs_inside_and_nowhere_else() {
        if !root_or_skip() {
            return;
        }
        let here = Netns::current().unwrap();
        let ns = Netns::create().unwrap();
        assert_ne!(ns, here);
        assert_eq!(ns.run(Netns::current).unwrap().unwrap(), ns);
        assert_eq!(Netns::current().unwrap(), here);
    }

    #[test]
    fn bound_namespaces_outlive_their_value() {
        if !root_or_skip() {
            return;
        }
        // A private mount namespace, so that nothing of this is seen outside.
        thread::spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
            nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .unwrap();
            let dir = std::env::temp_dir().join(format!("rnet-netns-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            let path = dir.join("web");
            Netns::unbind(&path).unwrap();
            let ns = Netns::create().unwrap();
            let id = ns.id();
            ns.bind(&path).unwrap();
            ns.bind(&path).unwrap();
            let other = Netns::create().unwrap().bind(&path).unwrap_err();
            assert_eq!(other.errno, libc::EEXIST);
            drop(ns);
            assert_eq!(Netns::open(&path).unwrap().id(), id);
            Netns::unbind(&path).unwrap();
            Netns::unbind(&path).unwrap();
            assert!(!path.exists());
            // What a crash between the file and the mount leaves.
            std::fs::write(&path, "").unwrap();
            Netns::create().unwrap().bind(&path).unwrap();
            Netns::unbind(&path).unwrap();
            std::fs::remove_dir(&dir).unwrap();
        })
        .join()
        .unwrap();
    }
}
