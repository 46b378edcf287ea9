//! Containers on disk.
//!
//! ```text
//! LIB/containers/ID/   container.json ended.json hosts hostname resolv.conf container.log lock netd;
//!                      joined/ kept joined.lock (see `sharing`), linked/ hosts.lock (see `neighbours`)
//! LIB/names/NAME       a symbolic link whose text is the id: making it is what reserves the name
//! RUN/containers/ID/   state.json config.json exit oci/ ; only while a shim has the container in hand
//! ```
//!
//! Files are replaced by rename, so a reader sees the old one or the new one. A directory without container.json is one
//! that is being made or removed, and is passed over.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use rnet_api::{ApiError, Root};
use rnet_model::{ContainerName, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bundle::OwnFiles;
use crate::{ContainerId, Ended, Keep, Live, Record, Status, instance_error, status};

const RECORD: &str = "container.json";
const ENDED: &str = "ended.json";
const LIVE: &str = "state.json";
const EXIT: &str = "exit";
const NETD: &str = "netd";
/// Shortest prefix of an id that names a container.
const PREFIX: usize = 4;

/// All containers of one instance.
#[derive(Debug, Clone)]
pub struct Store {
    root: Root,
}

/// One container.
#[derive(Debug, Clone)]
pub struct Container {
    /// What was asked for.
    pub record: Record,
    lib: PathBuf,
    run: PathBuf,
}

/// What a look at all containers found.
#[derive(Debug)]
pub struct Listing {
    /// Oldest first.
    pub containers: Vec<Container>,
    /// Records that cannot be read, one sentence each.
    pub problems: Vec<String>,
}

impl Store {
    /// Of an instance; touches nothing.
    pub fn new(root: &Root) -> Self {
        Store { root: root.clone() }
    }

    /// The instance.
    pub fn root(&self) -> &Root {
        &self.root
    }

    fn containers(&self) -> PathBuf {
        self.root.lib.join("containers")
    }

    fn names(&self) -> PathBuf {
        self.root.lib.join("names")
    }

    fn container(&self, record: Record) -> Container {
        let lib = self.containers().join(record.id.as_str());
        let run = self.root.run.join("containers").join(record.id.as_str());
        Container { record, lib, run }
    }

    /// Writes a new container down and takes its name.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when the name is taken; nothing is left then.
    pub fn create(&self, record: Record) -> Result<Container, ApiError> {
        make_dir(&self.root.lib, 0o700)?;
        make_dir(&self.names(), 0o700)?;
        let container = self.container(record);
        make_dir(&container.lib, 0o700)?;
        let taken = container
            .write(&container.lib.join(RECORD), &container.record)
            .and_then(|()| self.take_name(&container.record.name, &container.record.id));
        if let Err(error) = taken {
            let _ = fs::remove_dir_all(&container.lib);
            return Err(error);
        }
        Ok(container)
    }

    fn take_name(&self, name: &ContainerName, id: &ContainerId) -> Result<(), ApiError> {
        let link = self.names().join(name.as_str());
        // Twice: a link to a container that is gone is what a crash left. Links are made after their containers and
        // removed before them, so nobody else's can be mistaken for one.
        for _ in 0..2 {
            match std::os::unix::fs::symlink(id.as_str(), &link) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(instance_error("take the name", &link, &e)),
            }
            let Some(holder) = self.named(name.as_str()) else { continue };
            if self.load(&holder)?.is_some() {
                let text = format!("the name {name} is taken by container {}", holder.short());
                return Err(ApiError::new(Kind::Conflict, text)
                    .hint(format!("remove that one with: rnet rm {name}, or choose another --name")));
            }
            remove_file(&link)?;
        }
        Err(ApiError::new(Kind::Retry, format!("the name {name} changes hands just now")))
    }

    fn named(&self, name: &str) -> Option<ContainerId> {
        let target = fs::read_link(self.names().join(name)).ok()?;
        target.to_str()?.parse().ok()
    }

    fn load(&self, id: &ContainerId) -> Result<Option<Container>, ApiError> {
        let record: Option<Record> = read_json(&self.containers().join(id.as_str()).join(RECORD))?;
        Ok(record.map(|record| self.container(record)))
    }

    /// A container by its full id.
    ///
    /// # Errors
    /// [`Kind::Missing`] when there is none.
    pub fn by_id(&self, id: &ContainerId) -> Result<Container, ApiError> {
        self.load(id)?.ok_or_else(|| unknown(id.as_str()))
    }

    /// A container by name, id, or a unique prefix of the id of at least four digits.
    ///
    /// # Errors
    /// [`Kind::Missing`] when there is none, [`Kind::Conflict`] when there are several.
    pub fn find(&self, word: &ContainerName) -> Result<Container, ApiError> {
        let word = word.as_str();
        if let Some(found) = self.named(word).map(|id| self.load(&id)).transpose()?.flatten() {
            return Ok(found);
        }
        if let Ok(id) = word.parse::<ContainerId>() {
            return self.by_id(&id);
        }
        let ids = self.ids()?;
        let matching: Vec<&ContainerId> =
            ids.iter().filter(|id| word.len() >= PREFIX && id.as_str().starts_with(word)).collect();
        match matching[..] {
            [] => Err(unknown(word)),
            [id] => self.by_id(id),
            _ => {
                let all: Vec<&str> = matching.iter().map(|id| id.as_str()).collect();
                Err(ApiError::new(Kind::Conflict, format!("{word} is ambiguous: {}", all.join(", ")))
                    .hint("write more of the id"))
            }
        }
    }

    fn ids(&self) -> Result<Vec<ContainerId>, ApiError> {
        let dir = self.containers();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(instance_error("list", &dir, &e)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| instance_error("list", &dir, &e))?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse().ok()));
        }
        Ok(ids)
    }

    /// All containers, oldest first. One that cannot be read does not hide the others.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all(&self) -> Result<Listing, ApiError> {
        let mut listing = Listing { containers: Vec::new(), problems: Vec::new() };
        for id in self.ids()? {
            match self.load(&id) {
                Ok(found) => listing.containers.extend(found),
                Err(error) => listing.problems.push(error.chain()),
            }
        }
        listing.containers.sort_by(|a, b| (a.record.created, &a.record.id).cmp(&(b.record.created, &b.record.id)));
        Ok(listing)
    }

    /// Removes everything that is kept about a container. Repeating it is success.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(&self, container: &Container) -> Result<(), ApiError> {
        container.clear_run()?;
        if self.named(container.record.name.as_str()).as_ref() == Some(&container.record.id) {
            remove_file(&self.names().join(container.record.name.as_str()))?;
        }
        // The record first: from then on nobody finds the rest.
        remove_file(&container.lib.join(RECORD))?;
        remove_dir(&container.lib)
    }
}

impl Container {
    /// A file that survives a reboot.
    pub fn lib(&self, name: &str) -> PathBuf {
        self.lib.join(name)
    }

    /// The directory that is there while a shim has the container in hand; the OCI bundle.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// Where its namespace is kept when there is no netd to keep it.
    pub fn netns(&self) -> PathBuf {
        self.run.join("netns")
    }

    /// Its hosts, hostname and resolv.conf.
    pub fn own_files(&self) -> OwnFiles {
        OwnFiles { hosts: self.lib("hosts"), hostname: self.lib("hostname"), resolv_conf: self.lib("resolv.conf") }
    }

    /// Remembers that netd is to be told when the container goes. Said before netd is asked for anything, so that a crash
    /// in between leaves nothing there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark_known_to_netd(&self) -> Result<(), ApiError> {
        let path = self.lib(NETD);
        fs::write(&path, "").map_err(|e| instance_error("write", &path, &e))
    }

    /// netd was never reached.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn unmark_known_to_netd(&self) -> Result<(), ApiError> {
        remove_file(&self.lib(NETD))
    }

    /// Whether netd ever kept something for it.
    pub fn known_to_netd(&self) -> bool {
        self.lib(NETD).exists()
    }

    /// One command at a time changes a container. The lock ends with its process. A container that was removed while
    /// this waited is reported as missing.
    ///
    /// # Errors
    /// As said; and when the lock's file cannot be opened.
    pub fn lock(&self) -> Result<Flock<File>, ApiError> {
        let lock = self.locked("lock")?;
        match self.lib(RECORD).exists() {
            true => Ok(lock),
            false => Err(unknown(self.record.name.as_str())),
        }
    }

    /// Holds one of its files as a lock, for as short a time as it takes to change what that guards.
    ///
    /// # Errors
    /// [`Kind::Missing`] when the container is gone; when the file cannot be locked.
    pub(crate) fn locked(&self, name: &str) -> Result<Flock<File>, ApiError> {
        let path = self.lib(name);
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(unknown(self.record.name.as_str())),
            Err(e) => return Err(instance_error("open", &path, &e)),
        };
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| instance_error("lock", &path, &e.into()))
    }

    /// What the shim says, whether it still runs or not.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn live(&self) -> Result<Option<Live>, ApiError> {
        read_json(&self.run.join(LIVE))
    }

    /// How it last ended.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn ended(&self) -> Result<Option<Ended>, ApiError> {
        read_json(&self.lib.join(ENDED))
    }

    /// Its state.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn status(&self) -> Result<Status, ApiError> {
        let live = self.live()?;
        let shim_runs = live.as_ref().is_some_and(|live| live.shim.open().is_some());
        if live.is_some() && !shim_runs {
            // A shim that ended in good order meanwhile took its state away first.
            let live = self.live()?;
            return Ok(status(live.as_ref(), false, self.ended()?.as_ref()));
        }
        Ok(status(live.as_ref(), shim_runs, self.ended()?.as_ref()))
    }

    /// Makes the run directory, and the file that [`Container::exit_file`] reads.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin_run(&self) -> Result<(), ApiError> {
        make_dir(&self.run, 0o700)?;
        let exit = self.run.join(EXIT);
        fs::write(&exit, "").map_err(|e| instance_error("write", &exit, &e))
    }

    /// Says how far the shim is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_live(&self, live: &Live) -> Result<(), ApiError> {
        write_json(&self.run.join(LIVE), live, Sync::No)
    }

    /// Says how it ended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_ended(&self, ended: &Ended) -> Result<(), ApiError> {
        self.write(&self.lib.join(ENDED), ended)?;
        let exit = self.run.join(EXIT);
        fs::write(&exit, ended.code.to_string()).map_err(|e| instance_error("write", &exit, &e))
    }

    /// The file that will say the exit code of this run. Opened before the end it can be read after it, also when the
    /// container was removed with it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn exit_file(&self) -> Result<Option<File>, ApiError> {
        let path = self.run.join(EXIT);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(instance_error("open", &path, &e)),
        }
    }

    /// The shim has nothing more to say.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn clear_run(&self) -> Result<(), ApiError> {
        // The state goes first: a run directory without it is nobody's.
        remove_file(&self.run.join(LIVE))?;
        // Absent or no mount point: the usual case.
        let _ = nix::mount::umount2(&self.netns(), nix::mount::MntFlags::MNT_DETACH);
        remove_dir(&self.run)
    }

    /// A container that goes with its end needs no care for the case that the power fails.
    fn write<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), ApiError> {
        let sync = if self.record.spec.keep == Keep::UntilRemoved { Sync::Yes } else { Sync::No };
        write_json(path, value, sync)
    }
}

fn unknown(word: &str) -> ApiError {
    ApiError::new(Kind::Missing, format!("there is no container {word}")).hint("rnet ps -a lists them")
}

fn make_dir(path: &Path, mode: u32) -> Result<(), ApiError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|e| instance_error("make", path, &e))
}

/// Whether a file must be on the disk before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    Yes,
    No,
}

/// Replaces a file by rename(2).
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T, sync: Sync) -> Result<(), ApiError> {
    let body = serde_json::to_vec(value)
        .map_err(|e| ApiError::new(Kind::Bug, format!("cannot encode {}", path.display())).because(&e))?;
    let mut name = OsString::from(path);
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&body)?;
        if sync == Sync::Yes {
            file.sync_data()?;
        }
        fs::rename(&temporary, path)
    })();
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        instance_error("write", path, &e)
    })
}

/// `None` when there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ApiError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(instance_error("read", path, &e)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        ApiError::new(Kind::Bug, format!("{} cannot be understood", path.display()))
            .because(&e)
            .hint("it was written by another version of rnet, or damaged; remove its directory if it is not needed")
    })
}

pub(crate) fn remove_file(path: &Path) -> Result<(), ApiError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(instance_error("remove", path, &e)),
        _ => Ok(()),
    }
}

fn remove_dir(path: &Path) -> Result<(), ApiError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(instance_error("remove", path, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "store/tests.rs"]
pub(crate) mod tests;
