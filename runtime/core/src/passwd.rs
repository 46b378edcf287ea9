//! Users by the container's own /etc/passwd and /etc/group (passwd(5), group(5)).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rnet_api::ApiError;
use rnet_model::Kind;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use crate::options::Principal;
use crate::{UserSpec, file_error};

/// Who a process is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Largest file that is read.
const LIMIT: u64 = 4 * 1024 * 1024;

/// Who `spec` is in the root file system at `rootfs`; root without one.
///
/// # Errors
/// [`Kind::Missing`] when a name is in neither file.
pub fn resolve(rootfs: &Path, spec: Option<&UserSpec>) -> Result<Identity, ApiError> {
    let Some(spec) = spec else { return Ok(Identity::default()) };
    look_up(spec, &read(rootfs, "etc/passwd")?, &read(rootfs, "etc/group")?)
}

/// Reads a file of the container, whose links must not lead out of it. Absent is empty.
fn read(rootfs: &Path, name: &str) -> Result<String, ApiError> {
    let failed = |e: rustix::io::Errno| file_error("read", &rootfs.join(name), &e.into());
    let dir = openat(CWD, rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    // NONBLOCK: a named pipe there must not make this wait.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match openat2(&dir, name, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text).map_err(|e| file_error("read", &rootfs.join(name), &e))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// One line of either file: name, number, and the fields after it.
struct Entry<'a> {
    name: &'a str,
    number: u32,
    rest: Vec<&'a str>,
}

fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, number) = (fields.first()?, fields.get(2)?.parse().ok()?);
        Some(Entry { name, number, rest: fields[3..].to_vec() })
    })
}

fn matches(entry: &Entry<'_>, wanted: &Principal) -> bool {
    match wanted {
        Principal::Number(n) => entry.number == *n,
        Principal::Name(name) => entry.name == name,
    }
}

/// As Docker does it: without a group the user's own and all that list it; a number that is in no file is that number
/// with group 0.
fn look_up(spec: &UserSpec, passwd: &str, group: &str) -> Result<Identity, ApiError> {
    let missing = |what: &str, name: &Principal| {
        ApiError::new(Kind::Missing, format!("there is no {what} {name} in the container's /etc/passwd and /etc/group"))
            .hint("write a number")
    };
    let user = entries(passwd).find(|e| matches(e, &spec.user));
    let uid = match (&user, &spec.user) {
        (Some(entry), _) => entry.number,
        (None, Principal::Number(n)) => *n,
        (None, name) => return Err(missing("user", name)),
    };
    if let Some(wanted) = &spec.group {
        let gid = match (entries(group).find(|e| matches(e, wanted)), wanted) {
            (Some(entry), _) => entry.number,
            (None, Principal::Number(n)) => *n,
            (None, name) => return Err(missing("group", name)),
        };
        return Ok(Identity { uid, gid, groups: Vec::new() });
    }
    let Some(user) = user else { return Ok(Identity { uid, gid: 0, groups: Vec::new() }) };
    let gid = user.rest.first().and_then(|g| g.parse().ok()).unwrap_or(0);
    let lists = |e: &Entry<'_>| e.rest.first().is_some_and(|members| members.split(',').any(|m| m == user.name));
    let mut groups: Vec<u32> = entries(group).filter(lists).map(|e| e.number).collect();
    groups.sort_unstable();
    groups.dedup();
    Ok(Identity { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:50:db,web\naudio:x:29:web\n";

    fn who(spec: &str) -> Result<(u32, u32, Vec<u32>), Kind> {
        let id = look_up(&spec.parse().unwrap(), PASSWD, GROUP).map_err(|e| e.kind)?;
        Ok((id.uid, id.gid, id.groups))
    }

    #[test]
    fn users_and_groups() {
        assert_eq!(who("web"), Ok((33, 34, vec![29, 50])));
        assert_eq!(who("33"), Ok((33, 34, vec![29, 50])));
        assert_eq!(who("web:logs"), Ok((33, 50, vec![])));
        assert_eq!(who("1000"), Ok((1000, 0, vec![])));
        assert_eq!(who("1000:1001"), Ok((1000, 1001, vec![])));
        assert_eq!(who("nobody"), Err(Kind::Missing));
        assert_eq!(who("web:nogroup"), Err(Kind::Missing));
    }

    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        assert_eq!(resolve(dir.path(), Some(&"7".parse().unwrap())).unwrap().uid, 7);
        std::os::unix::fs::symlink("/etc/inside", etc.join("passwd")).unwrap();
        std::fs::write(etc.join("inside"), "web:x:33:34::/:\n").unwrap();
        assert_eq!(resolve(dir.path(), Some(&"web".parse().unwrap())).unwrap().uid, 33);
        std::fs::remove_file(etc.join("passwd")).unwrap();
        std::os::unix::fs::symlink("../../../../../../etc/passwd", etc.join("passwd")).unwrap();
        std::fs::write(etc.join("group"), "").unwrap();
        assert!(resolve(dir.path(), Some(&"root".parse().unwrap())).is_err());
    }
}
