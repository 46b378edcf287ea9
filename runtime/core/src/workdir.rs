//! The directory a program starts in. What libcontainer says of one that is not there does not name it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rnet_api::ApiError;
use rnet_model::Kind;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

use crate::{Bind, file_error};

/// File systems that every container gets, where nothing can be made beforehand.
const MOUNTED: [&str; 3] = ["/proc", "/dev", "/sys"];

/// Makes the directory in the root file system when it is missing, as Docker does, with mode 755. Links of the container
/// do not lead out of it. What is below a mount is left: it is not the root file system's.
///
/// # Errors
/// When it cannot be made, or something else is in its place.
pub fn make(rootfs: &Path, workdir: &Path, binds: &[Bind]) -> Result<(), ApiError> {
    let mut mounts = MOUNTED.iter().map(Path::new).chain(binds.iter().map(|b| b.destination.as_path()));
    if mounts.any(|mount| workdir.starts_with(mount)) {
        return Ok(());
    }
    let failed = |e: Errno| cannot("make", workdir, e);
    let root = open_root(rootfs)?;
    let mut parent = root.try_clone().map_err(|e| file_error("open", rootfs, &e))?;
    let mut path = PathBuf::new();
    for part in workdir.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir)) {
        path.push(part);
        parent = match look(&root, &path) {
            Err(Errno::NOENT) => {
                match mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                    // Another container of this file system was faster; or it is a link to nothing, which the look tells.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(failed(e)),
                }
                look(&root, &path).map_err(failed)?
            }
            found => found.map_err(failed)?,
        };
    }
    Ok(())
}

/// Whether a process, a container's first one, has such a directory.
///
/// # Errors
/// [`Kind::Missing`] when it has none, [`Kind::Invalid`] when it is something else.
pub fn require(process: i32, workdir: &Path) -> Result<(), ApiError> {
    let root = open_root(Path::new(&format!("/proc/{process}/root")))?;
    match look(&root, workdir) {
        Err(e @ (Errno::NOENT | Errno::NOTDIR)) => Err(cannot("start in", workdir, e)),
        // Others are for the program's own user to find.
        _ => Ok(()),
    }
}

fn open_root(path: &Path) -> Result<OwnedFd, ApiError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|e| file_error("open", path, &e.into()))
}

fn look(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

fn cannot(verb: &str, workdir: &Path, errno: Errno) -> ApiError {
    let error = |kind, why: &str| {
        ApiError::new(kind, format!("cannot {verb} the directory {} of the container{why}", workdir.display()))
    };
    match errno {
        Errno::NOENT => error(Kind::Missing, ": there is none").hint("give another one: -w DIR"),
        Errno::NOTDIR => error(Kind::Invalid, ": it is something else").hint("give another one: -w DIR"),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => error(Kind::Denied, "").because(&errno),
        _ => error(Kind::Retry, "").because(&errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn directories_are_made_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (rootfs, outside) = (dir.path().join("rootfs"), dir.path().join("outside"));
        std::fs::create_dir_all(rootfs.join("srv")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        symlink("/srv", rootfs.join("inner")).unwrap();
        symlink(&outside, rootfs.join("absolute")).unwrap();
        symlink("../outside", rootfs.join("outer")).unwrap();
        std::fs::write(rootfs.join("file"), "").unwrap();
        let make = |workdir: &str, binds: &[Bind]| make(&rootfs, Path::new(workdir), binds).map_err(|e| e.kind);
        assert_eq!(make("/", &[]), Ok(()));
        assert_eq!(make("/a/b/../c", &[]), Ok(()));
        assert!(rootfs.join("a/b").is_dir() && rootfs.join("a/c").is_dir());
        assert_eq!(make("/inner/x", &[]), Ok(()));
        assert!(rootfs.join("srv/x").is_dir());
        assert_eq!(make("/absolute/x", &[]), Err(Kind::Missing));
        assert_eq!(make("/outer/x", &[]), Err(Kind::Missing));
        assert_eq!(make("/../../../up", &[]), Ok(()));
        assert!(rootfs.join("up").is_dir());
        assert_eq!(make("/file/x", &[]), Err(Kind::Invalid));
        assert_eq!(make("/data/x", &["/a:/data".parse().unwrap()]), Ok(()));
        assert_eq!(make("/proc/x", &[]), Ok(()));
        assert!(!rootfs.join("data").exists() && !rootfs.join("proc").exists());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_process_has_it_or_not() {
        let this = std::process::id().cast_signed();
        assert_eq!(require(this, &std::env::temp_dir()), Ok(()));
        let absent = require(this, Path::new("/nonexist")).unwrap_err();
        assert_eq!(absent.kind, Kind::Missing);
        assert!(absent.message.contains("/nonexist"), "{absent}");
    }
}
