//! Why a file of state cannot be used, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rnet_model::Kind;

/// A failure of one file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", .path.display())]
pub struct StoreError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a file of state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Its bytes make no sense.
    #[error("the file is damaged ({0})")]
    Corrupt(String),
    /// It was written by a later version.
    #[error("the file has format {found}, this version reads up to {known}")]
    Newer {
        /// Format of the file.
        found: u64,
        /// Latest format this version knows.
        known: u64,
    },
    /// It may be read but not written.
    #[error("the file cannot be written: {0}")]
    ReadOnly(io::Error),
    /// No space left.
    #[error("the disk is full")]
    Full,
    /// Another process uses it.
    #[error("another process has it open")]
    Locked,
    /// Everything else.
    #[error("{0}")]
    Io(io::Error),
}

impl StoreError {
    pub(crate) fn new(path: &Path, fault: Fault) -> Self {
        StoreError { path: path.to_owned(), fault }
    }

    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        StoreError::new(path, Fault::of(error))
    }

    /// What the failure means to the caller.
    pub fn kind(&self) -> Kind {
        match self.fault {
            // What is in the file stands in the way; rnet is no more at fault for it than for a full disk.
            Fault::Locked | Fault::Corrupt(_) => Kind::Conflict,
            Fault::Full | Fault::Io(_) => Kind::Retry,
            Fault::Newer { .. } => Kind::Unsupported,
            Fault::ReadOnly(_) => Kind::Denied,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        let path = self.path.display();
        Some(match self.fault {
            Fault::Corrupt(_) => format!(
                "the file was not changed; restore it from a backup, or move it away to start without networks: \
                 mv {path} {path}.damaged"
            ),
            Fault::Newer { .. } => "the file was not changed; start the version of netd that wrote it".into(),
            Fault::ReadOnly(_) => format!("make {path} and its directory writable for netd"),
            Fault::Full => format!("make space on the file system of {path}; the request can be repeated"),
            Fault::Locked => "another netd runs on this root; stop it, or use another --root".into(),
            Fault::Io(_) => return None,
        })
    }
}

impl Fault {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::Full,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Fault::ReadOnly(error),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Fault::Corrupt(error.to_string()),
            _ => Fault::Io(error),
        }
    }
}
