//! What survives: records by key on the disk, and a log of what is live in /run.
//!
//! Owns: the two files, their formats and every way in which they can be broken. Refuses: knowing what a record means;
//! values are bytes and JSON to it. A file that cannot be read is never changed: whoever repairs it needs all of it.
//!
//! The [`Store`] keeps what must outlive a reboot (networks, reservations, persistent attachments). The [`RunLog`]
//! keeps what must outlive the daemon only, and costs one write to memory per change.

mod error;
mod memory;
mod redb;
mod run_log;

use std::collections::BTreeMap;

pub use error::{Fault, StoreError};
pub use memory::MemoryStore;
pub use redb::RedbStore;
pub use run_log::RunLog;

/// One change of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Makes or replaces it.
    Put {
        /// Key, parts separated by `/`.
        key: String,
        /// Value.
        value: Vec<u8>,
    },
    /// Removes it; an absent one is success.
    Delete {
        /// Key.
        key: String,
    },
}

/// Records by key.
pub trait Store: Send {
    /// All records whose key begins with `prefix`.
    ///
    /// # Errors
    /// When the file cannot be read.
    fn list(&mut self, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError>;
    /// Makes all changes, in order, or none; they are on the disk when it returns.
    ///
    /// # Errors
    /// When the disk refuses. The next call tries again: a disk may get space.
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests;
