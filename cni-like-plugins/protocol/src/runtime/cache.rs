//! What ADD was given and came to, kept for DEL, CHECK and GC in the files of CNI's library: a container added by one
//! runtime can be removed by the other.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rnet_model::IfName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::files;
use crate::{AttachmentId, CniResult, Error, LIMIT, Version, is_name};

/// `kind` of a file.
const KIND: &str = "cniCacheV1";

/// A folder of files, one for each attachment.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// What is known of an attachment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cached {
    /// `name` of the network.
    pub network: String,
    /// Container.
    pub container: String,
    /// Its interface.
    pub ifname: String,
    /// Path of its namespace; may be empty.
    pub netns: String,
    /// The network's configuration as ADD used it.
    pub config: Vec<u8>,
    /// `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// Values for capabilities.
    pub capability_args: Map<String, Value>,
    /// What the last plugin of the list returned, with its `cniVersion`.
    pub result: Option<Value>,
}

/// The keys of a file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    kind: String,
    #[serde(default)]
    container_id: String,
    /// Go writes bytes as base64 with padding (encoding/json, Marshal), and none as null.
    #[serde(default)]
    config: Option<String>,
    #[serde(default)]
    if_name: String,
    #[serde(default)]
    network_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    netns: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capability_args: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Map<String, Value>>,
}

impl Cached {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// Code 6 for anything else than such a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let bad = |why: String| Error::new(Error::DECODING_FAILURE, why);
        let value: Value = serde_json::from_slice(bytes).map_err(|e| bad(format!("no JSON: {e}")))?;
        if !value.is_object() {
            return Err(bad("no JSON object".to_owned()));
        }
        let entry: Entry = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
        if entry.kind != KIND {
            return Err(bad(format!("its kind is {:?}", entry.kind)));
        }
        let config = STANDARD.decode(entry.config.unwrap_or_default()).map_err(|e| bad(format!("config: {e}")))?;
        Ok(Cached {
            network: entry.network_name,
            container: entry.container_id,
            ifname: entry.if_name,
            netns: entry.netns,
            config,
            args: entry.cni_args.unwrap_or_default(),
            capability_args: entry.capability_args.unwrap_or_default(),
            result: entry.result.map(Value::Object),
        })
    }

    /// The bytes of a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let entry = Entry {
            kind: KIND.to_owned(),
            container_id: self.container.clone(),
            config: Some(STANDARD.encode(&self.config)),
            if_name: self.ifname.clone(),
            network_name: self.network.clone(),
            netns: self.netns.clone(),
            cni_args: Some(self.args.clone()).filter(|a| !a.is_empty()),
            capability_args: Some(self.capability_args.clone()).filter(|a| !a.is_empty()),
            result: self.result.as_ref().and_then(Value::as_object).cloned(),
        };
        serde_json::to_vec(&entry).expect("an entry has only string keys")
    }

    /// The result of ADD; `None` without one.
    ///
    /// # Errors
    /// As [`CniResult::from_json`].
    pub fn result(&self, default: Version) -> Result<Option<CniResult>, Error> {
        let read = |value| CniResult::from_json(value, default).map_err(|e| e.context("cached result"));
        self.result.as_ref().map(read).transpose()
    }

    /// Whose it is.
    pub fn id(&self) -> AttachmentId {
        AttachmentId { container: self.container.clone(), ifname: self.ifname.clone() }
    }

    fn is_of(&self, network: &str, id: &AttachmentId) -> bool {
        self.network == network && self.container == id.container && self.ifname == id.ifname
    }
}

impl Cache {
    /// Where CNI's library has its files.
    pub const DEFAULT: &'static str = "/var/lib/cni/results";

    /// In a folder, which is made when it is first needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Cache { folder: folder.into() }
    }

    /// What is known of an attachment; `None` when nothing is.
    ///
    /// # Errors
    /// Code 4 for a wrong name, 5 or 6 for a file that cannot be read.
    pub fn read(&self, network: &str, id: &AttachmentId) -> Result<Option<Cached>, Error> {
        let path = self.file(network, id)?;
        let bytes = match files::read(&path, 4 * LIMIT) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path.display(), &e)),
        };
        match Cached::parse(&bytes) {
            // Names may have dashes: this one is another's.
            Ok(cached) if !cached.is_of(network, id) => Ok(None),
            Ok(cached) => Ok(Some(cached)),
            Err(e) => legacy(network, id, &bytes).map(Some).ok_or_else(|| e.context(path.display().to_string())),
        }
    }

    /// Keeps what is known of an attachment. It is there wholly or not at all.
    ///
    /// # Errors
    /// Code 4 for a wrong name, 5 when the file cannot be written, 7 when its name is that of another attachment's.
    pub fn write(&self, cached: &Cached) -> Result<(), Error> {
        let path = self.file(&cached.network, &cached.id())?;
        self.mine(&path, &cached.network, &cached.id())?;
        let hidden = self.hidden(&path);
        self.write_file(&hidden, &path, &cached.to_bytes()).map_err(|e| {
            let _ = std::fs::remove_file(&hidden);
            Error::io(path.display(), &e)
        })
    }

    fn write_file(&self, hidden: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        match std::fs::remove_file(hidden) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(hidden)?.write_all(bytes)?;
        // Not synced: after a loss of power there are no containers either.
        std::fs::rename(hidden, path)
    }

    /// Forgets an attachment, if it is known, also by a file that cannot be read.
    ///
    /// # Errors
    /// Code 4 for a wrong name, 5 when the file cannot be removed.
    pub fn remove(&self, network: &str, id: &AttachmentId) -> Result<(), Error> {
        let path = self.file(network, id)?;
        if self.mine(&path, network, id).is_err() {
            return Ok(());
        }
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(path.display(), &e)),
            _ => Ok(()),
        }
    }

    /// All attachments, by the names of their files. Files that cannot be read are passed over.
    ///
    /// # Errors
    /// Code 5 when the folder cannot be read. One that is not there is empty.
    pub fn list(&self) -> Result<Vec<Cached>, Error> {
        self.some(|_| true)
    }

    /// The attachments to a network.
    ///
    /// # Errors
    /// As [`Cache::list`].
    pub fn of_network(&self, network: &str) -> Result<Vec<Cached>, Error> {
        let mut found = self.some(|name| name.strip_prefix(network).is_some_and(|rest| rest.starts_with('-')))?;
        found.retain(|cached| cached.network == network);
        Ok(found)
    }

    /// The attachments by an interface of a container: at most one, if runtimes do as they should.
    ///
    /// # Errors
    /// As [`Cache::list`].
    pub fn of_interface(&self, id: &AttachmentId) -> Result<Vec<Cached>, Error> {
        let ending = format!("-{}-{}", id.container, id.ifname);
        let mut found = self.some(|name| name.ends_with(&ending))?;
        found.retain(|cached| cached.id() == *id);
        Ok(found)
    }

    fn some(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Cached>, Error> {
        let paths = files::names(&self.folder).map_err(|e| Error::io(self.folder.display(), &e))?;
        let named = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| !name.starts_with('.') && wanted(name))
        };
        let read = |path: PathBuf| files::read(&path, 4 * LIMIT).ok().and_then(|bytes| Cached::parse(&bytes).ok());
        let full = |cached: &Cached| !cached.network.is_empty() && !cached.ifname.is_empty();
        Ok(paths.into_iter().filter(named).filter_map(read).filter(full).collect())
    }

    /// Refuses a file that names another attachment.
    fn mine(&self, path: &Path, network: &str, id: &AttachmentId) -> Result<(), Error> {
        let there = files::read(path, 4 * LIMIT).ok().and_then(|bytes| Cached::parse(&bytes).ok());
        match there {
            Some(other) if !other.is_of(network, id) => {
                let whose = format!("network {:?}, container {:?}", other.network, other.container);
                Err(Error::config(format!("{} is in use for {whose}", path.display()))
                    .details("names with dashes can collide there: rename the network"))
            }
            _ => Ok(()),
        }
    }

    fn file(&self, network: &str, id: &AttachmentId) -> Result<PathBuf, Error> {
        let bad = |what: &str| Error::new(Error::INVALID_ENVIRONMENT, format!("{what} has no cached result"));
        if !is_name(network) {
            return Err(bad(&format!("network {network:?}")));
        }
        if !is_name(&id.container) {
            return Err(bad(&format!("container {:?}", id.container)));
        }
        id.ifname.parse::<IfName>().map_err(|_| bad(&format!("interface {:?}", id.ifname)))?;
        Ok(self.folder.join(format!("{network}-{}-{}", id.container, id.ifname)))
    }

    /// Fixed, so that what a crash leaves is found by the next write.
    fn hidden(&self, path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.folder.join(format!(".{name}"))
    }
}

/// Older libraries kept the bare result.
fn legacy(network: &str, id: &AttachmentId, bytes: &[u8]) -> Option<Cached> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    if value.get("kind").is_some() || value.get("cniVersion").is_none() {
        return None;
    }
    CniResult::from_json(&value, Version::V0_1_0).ok()?;
    Some(Cached {
        network: network.to_owned(),
        container: id.container.clone(),
        ifname: id.ifname.clone(),
        result: Some(value),
        ..Cached::default()
    })
}
