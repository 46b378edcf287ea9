//! The records of deployed labs: RUN/labs/LAB.json, and the lock that lets one lab command change them at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rnet_api::{ApiError, Root};
use rnet_model::{ContainerName, Kind};
use rnet_topology::{Lab, Record};

use super::{Which, cannot, topology_file};

/// Longest wait for another lab command.
const PATIENCE: Duration = Duration::from_secs(60);

/// The records of an instance, locked.
#[derive(Debug)]
pub(super) struct Book {
    directory: PathBuf,
    /// flock(2) on the directory; the kernel drops it with the process.
    _lock: File,
}

impl Book {
    pub(super) fn open(root: &Root) -> Result<Self, ApiError> {
        let directory = root.run.join("labs");
        let begin = Instant::now();
        loop {
            std::fs::create_dir_all(&directory).map_err(|e| cannot("make", &directory, &e))?;
            let lock = File::open(&directory).map_err(|e| cannot("open", &directory, &e))?;
            match lock.try_lock() {
                // An empty directory is removed by who empties it; then this lock is on nothing.
                Ok(()) if directory.is_dir() => return Ok(Book { directory, _lock: lock }),
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) if begin.elapsed() < PATIENCE => {
                    #[expect(clippy::disallowed_methods, reason = "bounded by PATIENCE; flock(2) announces no release")]
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(ApiError::new(Kind::Retry, "another lab command has been running for a minute"));
                }
                Err(std::fs::TryLockError::Error(e)) => return Err(cannot("lock", &directory, &e)),
            }
        }
    }

    fn path(&self, lab: &str) -> Result<PathBuf, ApiError> {
        // The same rule as for names of containers, so that a name cannot leave the directory.
        let name: ContainerName = lab.parse()?;
        Ok(self.directory.join(format!("{name}.json")))
    }

    pub(super) fn read(&self, lab: &str) -> Result<Option<Record>, ApiError> {
        read(&self.path(lab)?)
    }

    pub(super) fn all(&self) -> Result<Vec<Record>, ApiError> {
        let entries = std::fs::read_dir(&self.directory).map_err(|e| cannot("read", &self.directory, &e))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "json"));
        paths.sort();
        paths.iter().filter_map(|p| read(p).transpose()).collect()
    }

    /// The record of the lab that the user means; `None` when it is not deployed.
    pub(super) fn find(&self, which: &Which) -> Result<Option<Record>, ApiError> {
        match (&which.name, &which.topology) {
            (Some(name), _) => self.read(name),
            (None, Some(file)) => self.by_file(file),
            (None, None) => Err(super::not_deployed(which)),
        }
    }

    /// By path first: the file may have changed since, or name images that only the deploy knew.
    fn by_file(&self, file: &Path) -> Result<Option<Record>, ApiError> {
        let file = topology_file(file)?;
        let absolute = std::path::absolute(&file).map_err(|e| cannot("find", &file, &e))?;
        if let Some(record) = self.all()?.into_iter().find(|r| r.file == absolute) {
            return Ok(Some(record));
        }
        let lab = Lab::load(&file, &std::collections::BTreeMap::new())?;
        self.read(&lab.name)
    }

    /// Replaces the record in one step, so that a crash leaves the old or the new one.
    pub(super) fn write(&self, record: &Record) -> Result<(), ApiError> {
        let path = self.path(&record.lab)?;
        let text = serde_json::to_vec_pretty(record).map_err(|e| {
            ApiError::new(Kind::Bug, format!("cannot encode the record of lab {}", record.lab)).because(&e)
        })?;
        let next = path.with_extension("next");
        std::fs::write(&next, text).map_err(|e| cannot("write", &next, &e))?;
        std::fs::rename(&next, &path).map_err(|e| cannot("write", &path, &e))
    }

    pub(super) fn remove(&self, lab: &str) -> Result<(), ApiError> {
        let path = self.path(lab)?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(cannot("remove", &path, &e)),
            _ => Ok(()),
        }
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        // Fails while there are records; then it stays.
        let _ = std::fs::remove_dir(&self.directory);
    }
}

fn read(path: &Path) -> Result<Option<Record>, ApiError> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| {
            ApiError::new(Kind::Invalid, format!("the lab record {} cannot be read", path.display())).because(&e)
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(cannot("read", path, &e)),
    }
}
