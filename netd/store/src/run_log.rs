//! [`RunLog`]: what is live, as lines appended to a file in /run.
//!
//! A line is `{"key":...,"value":...}`, or without a value where the key is removed; the first one names the format. A
//! line is one write(2), so a daemon that dies leaves whole lines, but for the last one on a full file system, which is
//! dropped. There is no fsync: /run does not outlive the host, and a dead process's writes stay.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::StoreError;
use crate::error::Fault;

const FORMAT: u64 = 1;
/// Lines that may be out of date before the log is written anew, besides as many as there are records.
const SLACK: usize = 4096;

/// An append-only log of records by key.
#[derive(Debug)]
pub struct RunLog {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    length: u64,
    lines: usize,
    /// Records when it was last written anew.
    settled: usize,
    line: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u64,
}

#[derive(Serialize)]
struct Put<'a, T> {
    key: &'a str,
    value: &'a T,
}

#[derive(Serialize)]
struct Removed<'a> {
    key: &'a str,
}

#[derive(Deserialize)]
struct Line {
    key: String,
    value: Option<Value>,
}

impl RunLog {
    /// Opens the log, or makes it, and reads what it says.
    ///
    /// # Errors
    /// Says what is wrong with the file; the file stays as it is.
    pub fn open(path: &Path) -> Result<(Self, BTreeMap<String, Value>), StoreError> {
        let records = read(path)?;
        // Always anew: it begins without garbage, and without a line cut short that the next one would be glued to.
        let (file, length) = write_anew(path, &records)?;
        let settled = records.len();
        let log = RunLog { path: path.to_owned(), file, length, lines: settled, settled, line: Vec::new() };
        Ok((log, records))
    }

    /// Makes or replaces a record.
    ///
    /// # Errors
    /// When the file system refuses; then the log says what it said before.
    pub fn put(&mut self, key: &str, value: &impl Serialize) -> Result<(), StoreError> {
        self.append(&Put { key, value })
    }

    /// Makes or replaces several records by one write(2).
    ///
    /// # Errors
    /// As [`RunLog::put`]; then none of them is written.
    pub fn put_all(&mut self, records: &[(String, impl Serialize)]) -> Result<(), StoreError> {
        self.append_all(records.iter().map(|(key, value)| Put { key, value }))
    }

    /// Removes several records by one write(2).
    ///
    /// # Errors
    /// As [`RunLog::put_all`].
    pub fn remove_all(&mut self, keys: &[String]) -> Result<(), StoreError> {
        self.append_all(keys.iter().map(|key| Removed { key }))
    }

    /// Removes a record; an absent one is success.
    ///
    /// # Errors
    /// As [`RunLog::put`].
    pub fn remove(&mut self, key: &str) -> Result<(), StoreError> {
        self.append(&Removed { key })
    }

    fn append(&mut self, entry: &impl Serialize) -> Result<(), StoreError> {
        self.append_all(std::iter::once(entry))
    }

    fn append_all(&mut self, entries: impl Iterator<Item = impl Serialize>) -> Result<(), StoreError> {
        self.line.clear();
        let mut lines = 0;
        for entry in entries {
            serde_json::to_writer(&mut self.line, &entry).map_err(|e| StoreError::io(&self.path, e.into()))?;
            self.line.push(b'\n');
            lines += 1;
        }
        if let Err(error) = self.file.write_all(&self.line) {
            // Whatever of the line arrived goes again, lest the next one be glued to it.
            let _ = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            return Err(StoreError::io(&self.path, error));
        }
        self.length += u64::try_from(self.line.len()).unwrap_or(u64::MAX);
        self.lines += lines;
        if self.lines > 2 * self.settled + SLACK && self.settle().is_err() {
            // The line is written: who asked for it must not hear that it is not. The log is only longer, for a while.
            self.settled = self.lines;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        let records = read(&self.path)?;
        (self.file, self.length) = write_anew(&self.path, &records)?;
        self.settled = records.len();
        self.lines = self.settled;
        Ok(())
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Value>, StoreError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(StoreError::io(path, error)),
    };
    let mut records = BTreeMap::new();
    // What follows the last newline was cut short.
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(&[][..], |end| &text[..end]);
    let mut lines = whole.split(|b| *b == b'\n').enumerate();
    let damaged = |number: usize, why: &serde_json::Error| {
        StoreError::new(path, Fault::Corrupt(format!("line {}: {why}", number + 1)))
    };
    match lines.next().filter(|(_, line)| !line.is_empty()) {
        None => return Ok(records),
        Some((number, line)) => {
            let Header { format } = serde_json::from_slice(line).map_err(|e| damaged(number, &e))?;
            if format > FORMAT {
                return Err(StoreError::new(path, Fault::Newer { found: format, known: FORMAT }));
            }
        }
    }
    for (number, line) in lines {
        let Line { key, value } = serde_json::from_slice(line).map_err(|e| damaged(number, &e))?;
        match value {
            Some(value) => records.insert(key, value),
            None => records.remove(&key),
        };
    }
    Ok(records)
}

fn write_anew(path: &Path, records: &BTreeMap<String, Value>) -> Result<(File, u64), StoreError> {
    let new = path.with_extension("new");
    let write = || -> std::io::Result<(File, u64)> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut text = serde_json::to_vec(&Header { format: FORMAT })?;
        text.push(b'\n');
        for (key, value) in records {
            serde_json::to_writer(&mut text, &Put { key, value })?;
            text.push(b'\n');
        }
        file.write_all(&text)?;
        std::fs::rename(&new, path)?;
        Ok((file, u64::try_from(text.len()).unwrap_or(u64::MAX)))
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&new);
        StoreError::io(path, error)
    })
}
