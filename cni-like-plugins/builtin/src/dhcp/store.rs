//! What is remembered of an attachment: its lease, what to ask for, and who keeps it. One file each, replaced as a whole,
//! for root alone.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rnet_model::{IfName, MacAddr};
use rnet_plugin_protocol::{AttachmentId, Error};
use serde::{Deserialize, Serialize};

use super::exchange::{Grant, client_id};
use super::process::Process;
use super::terms::{Ask, Terms};

/// The lease of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) network: String,
    pub(super) container: String,
    pub(super) ifname: String,
    /// Path of the namespace, and its identity while it lives.
    pub(super) netns: PathBuf,
    pub(super) netns_inode: (u64, u64),
    pub(super) ask: Ask,
    /// `None` while there is no lease: it expired and no server answers.
    pub(super) lease: Option<Lease>,
    /// Who renews it.
    pub(super) keeper: Option<Process>,
    /// What went wrong last, for who wonders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<String>,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Lease {
    pub(super) terms: Terms,
    /// The neighbour the server is reached by.
    pub(super) server_mac: String,
    /// Seconds since 1970 at which it was asked for.
    pub(super) since: u64,
    /// Seconds since 1970 at which it ends, if it does.
    pub(super) until: Option<u64>,
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

impl Lease {
    /// Of a grant that was asked for at `since`.
    pub(super) fn new(grant: Grant, since: u64) -> Self {
        let until = grant.terms.times.map(|t| since + u64::from(t.expire));
        Lease { server_mac: grant.mac.to_string(), terms: grant.terms, since, until }
    }

    /// `None` when the file was changed by hand.
    pub(super) fn grant(&self) -> Option<Grant> {
        let mac: MacAddr = self.server_mac.parse().ok()?;
        Some(Grant { terms: self.terms.clone(), mac })
    }

    /// Whether it has not ended. A clock that was set back does not prolong it.
    pub(super) fn is_valid(&self) -> bool {
        let now = now();
        now >= self.since.saturating_sub(1) && self.until.is_none_or(|until| now < until)
    }
}

impl Record {
    pub(super) fn id(&self) -> AttachmentId {
        AttachmentId { container: self.container.clone(), ifname: self.ifname.clone() }
    }

    pub(super) fn client_id(&self) -> Vec<u8> {
        client_id(&self.container, &self.network, &self.ifname)
    }

    /// # Errors
    /// Code 6 when the file was changed by hand.
    pub(super) fn ifname(&self) -> Result<IfName, Error> {
        self.ifname
            .parse()
            .map_err(|_| Error::new(Error::DECODING_FAILURE, format!("dhcp: {:?} is no interface", self.ifname)))
    }
}

/// The files of a network.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(super) fn new(data: &Path, network: &str) -> Self {
        Store { folder: data.join(network) }
    }

    /// A container's id has no `@`.
    pub(super) fn path(&self, id: &AttachmentId) -> PathBuf {
        self.folder.join(format!("{}@{}.json", id.container, id.ifname))
    }

    /// `None` when there is none, or what is there is no record: DEL has to come to an end.
    ///
    /// # Errors
    /// When it may not be read.
    pub(super) fn read(&self, id: &AttachmentId) -> Result<Option<Record>, Error> {
        read(&self.path(id))
    }

    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, record: &Record) -> Result<PathBuf, Error> {
        let fault = |e: std::io::Error| Error::io(format!("dhcp: make {}", self.folder.display()), &e);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(fault)?;
        let path = self.path(&record.id());
        write(&path, record).map(|()| path)
    }

    /// # Errors
    /// When it is there and cannot be removed.
    pub(super) fn remove(&self, id: &AttachmentId) -> Result<(), Error> {
        let path = self.path(id);
        for file in [&path, &fresh(&path)] {
            match fs::remove_file(file) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(format!("dhcp: remove {}", file.display()), &e));
                }
                _ => {}
            }
        }
        // The folder stays: another attachment may be about to write into it.
        Ok(())
    }

    /// # Errors
    /// When the folder is there and may not be read.
    pub(super) fn all(&self) -> Result<Vec<Record>, Error> {
        let fault = |e: std::io::Error| Error::io(format!("dhcp: read {}", self.folder.display()), &e);
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(fault)?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry.map_err(fault)?.path();
            if path.extension().is_some_and(|e| e == "json") {
                records.extend(read(&path)?);
            }
        }
        Ok(records)
    }
}

pub(super) fn read(path: &Path) -> Result<Option<Record>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("dhcp: read {}", path.display()), &e)),
    }
}

/// By way of another name: who reads meanwhile finds the old or the new.
pub(super) fn write(path: &Path, record: &Record) -> Result<(), Error> {
    let bytes = serde_json::to_vec_pretty(record).expect("a record has only string keys");
    let fresh = fresh(path);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
    file.and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|e| Error::io(format!("dhcp: write {}", path.display()), &e))
}

fn fresh(path: &Path) -> PathBuf {
    path.with_extension("new")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn records_are_kept_apart_and_for_root_alone() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::new(temp.path(), "n");
        let id = |container: &str, ifname: &str| AttachmentId { container: container.into(), ifname: ifname.into() };
        assert_ne!(store.path(&id("a-b", "c")), store.path(&id("a", "b-c")));
        let record = Record {
            network: "n".into(),
            container: "c1".into(),
            ifname: "eth0".into(),
            netns: "/run/netns/x".into(),
            netns_inode: (4, 5),
            ask: Ask::new(&[], &[], Some(7), |_| None).unwrap(),
            lease: None,
            keeper: None,
            fault: None,
        };
        let path = store.write(&record).unwrap();
        assert_eq!(store.read(&record.id()).unwrap(), Some(record.clone()));
        assert_eq!(store.all().unwrap(), std::slice::from_ref(&record));
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        fs::write(&path, "{").unwrap();
        assert_eq!(store.read(&record.id()).unwrap(), None);
        store.remove(&record.id()).unwrap();
        store.remove(&record.id()).unwrap();
        assert!(!path.exists());
        assert_eq!(store.all().unwrap(), []);
    }
}
