//! [`RedbStore`]: a redb file. Each value carries a checksum, because redb checks its own only after a crash.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableDatabase as _, TableDefinition, TableError};

use crate::error::Fault;
use crate::{Store, StoreError, Write};

/// Format of the tables and values of this file.
const FORMAT: u64 = 1;
/// All records together are some hundred KiB; redb's own default is a gigabyte.
const CACHE_BYTES: usize = 256 * 1024;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

/// Records in one file.
#[derive(Debug)]
pub struct RedbStore {
    path: PathBuf,
    /// Closed after a failed write: redb wants to be opened again then.
    database: Option<Database>,
}

impl RedbStore {
    /// Opens the file, or makes it. A file that exists is only ever changed by [`Store::commit`] and by redb's own
    /// recovery after a crash.
    ///
    /// # Errors
    /// Says what is wrong with the file; the file stays as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // What a crash left half made has another name, so a file of this name is a whole one.
        if std::fs::metadata(path).is_ok_and(|m| m.len() > 0) {
            let database = open_existing(path)?;
            let mut store = RedbStore { path: path.to_owned(), database: Some(database) };
            store.list("")?;
            return Ok(store);
        }
        let new = path.with_extension("new");
        let made = make(&new).and_then(|()| std::fs::rename(&new, path).map_err(|e| StoreError::io(path, e)));
        if made.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        made?;
        Ok(RedbStore { path: path.to_owned(), database: Some(open_existing(path)?) })
    }

    fn database(&mut self) -> Result<&Database, StoreError> {
        if self.database.is_none() {
            self.database = Some(open_existing(&self.path)?);
        }
        Ok(self.database.as_ref().expect("just opened"))
    }
}

fn make(path: &Path) -> Result<(), StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| StoreError::io(path, e))?;
    guarded(path, || {
        let database = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)?;
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert("format", FORMAT)?;
        transaction.open_table(RECORDS)?;
        transaction.commit()?;
        Ok(())
    })
}

fn open_existing(path: &Path) -> Result<Database, StoreError> {
    // redb reports a file it may not write as damaged; asking first gives the right words.
    OpenOptions::new().read(true).write(true).open(path).map_err(|e| StoreError::io(path, e))?;
    let (database, format) = guarded(path, || {
        let database = Builder::new().set_cache_size(CACHE_BYTES).open(path)?;
        let format = match database.begin_read()?.open_table(META) {
            Ok(meta) => meta.get("format")?.map(|f| f.value()),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(error.into()),
        };
        Ok((database, format))
    })?;
    match format {
        Some(FORMAT) => Ok(database),
        Some(found) if found > FORMAT => Err(StoreError::new(path, Fault::Newer { found, known: FORMAT })),
        _ => Err(StoreError::new(path, Fault::Corrupt("it is not a store of rnet".into()))),
    }
}

impl Store for RedbStore {
    fn list(&mut self, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let path = self.path.clone();
        let database = self.database()?;
        let sealed: BTreeMap<String, Vec<u8>> = guarded(&path, || {
            let records = database.begin_read()?.open_table(RECORDS)?;
            let mut found = BTreeMap::new();
            for entry in records.range(prefix..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.insert(key.value().to_owned(), value.value().to_vec());
            }
            Ok(found)
        })?;
        let damaged = |key: &str| StoreError::new(&path, Fault::Corrupt(format!("record {key}")));
        let open = |(key, value): (String, Vec<u8>)| {
            let value = unseal(&key, &value).ok_or_else(|| damaged(&key))?;
            Ok((key, value))
        };
        sealed.into_iter().map(open).collect()
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let path = self.path.clone();
        let database = self.database()?;
        let done = guarded(&path, || {
            let transaction = database.begin_write()?;
            {
                let mut records = transaction.open_table(RECORDS)?;
                for write in writes {
                    match write {
                        Write::Put { key, value } => drop(records.insert(key.as_str(), &*seal(key, value))?),
                        Write::Delete { key } => drop(records.remove(key.as_str())?),
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        });
        if done.is_err() {
            self.database = None;
        }
        done
    }
}

/// Runs redb and names the file in what it says. A damaged file can make redb panic; that is a failure like others.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    let panicked = || Fault::Corrupt("its inner structure is broken".into());
    let result = catch_unwind(AssertUnwindSafe(work)).map_err(|_| StoreError::new(path, panicked()))?;
    result.map_err(|error| {
        let fault = match error {
            redb::Error::Io(error) => return StoreError::io(path, error),
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Fault::Locked,
            redb::Error::UpgradeRequired(found) => Fault::Corrupt(format!("redb format {found} is too old")),
            other => Fault::Corrupt(other.to_string()),
        };
        StoreError::new(path, fault)
    })
}

/// FNV-1a over key and value.
fn checksum(key: &str, value: &[u8]) -> [u8; 8] {
    let bytes = key.bytes().chain([0]).chain(value.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)).to_le_bytes()
}

fn seal(key: &str, value: &[u8]) -> Vec<u8> {
    [&checksum(key, value)[..], value].concat()
}

fn unseal(key: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (sum, value) = sealed.split_at_checked(8)?;
    (sum == checksum(key, value)).then(|| value.to_vec())
}
