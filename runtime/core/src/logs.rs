//! What a container printed: one JSON object per line with `log`, `stream` and `time`, the format of Docker's
//! json-file driver. A file that has grown too long becomes `container.log.1`, and the one before it goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rnet_api::ApiError;
use serde::{Deserialize, Serialize};

use crate::file_error;
use crate::process::Handle;

/// Name of the current file in the container's directory.
pub const FILE: &str = "container.log";
/// Name of the one before it.
pub const OLD_FILE: &str = "container.log.1";
/// Bytes after which a file is full.
const FULL: u64 = 10 * 1024 * 1024;
/// Longest piece of a line in one entry.
const PIECE: usize = 16 * 1024;

/// Where something was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line, or a piece of a very long one (then `log` does not end in a newline).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The text. Bytes that are not UTF-8 are U+FFFD.
    pub log: String,
    /// Stream.
    pub stream: Stream,
    /// When it was read from the container.
    pub time: jiff::Timestamp,
}

/// The file of a container, with the lines that are not complete yet.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    old: PathBuf,
    file: File,
    length: u64,
    full: u64,
    partial: [Vec<u8>; 2],
}

impl Writer {
    /// Appends to the file in `dir`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(dir: &Path) -> Result<Self, ApiError> {
        let path = dir.join(FILE);
        let opened = append(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (length, file) = opened.map_err(|e| file_error("open", &path, &e))?;
        let old = dir.join(OLD_FILE);
        Ok(Writer { path, old, file, length, full: FULL, partial: [Vec::new(), Vec::new()] })
    }

    /// Takes what was read from a stream at a time.
    ///
    /// # Errors
    /// When it cannot be written. What was printed is lost for the log then, and nothing else.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], time: jiff::Timestamp) -> Result<(), ApiError> {
        let mut rest = std::mem::take(&mut self.partial[stream as usize]);
        rest.extend_from_slice(bytes);
        let mut out = Vec::new();
        let mut begin = 0;
        while let Some(end) = piece(&rest[begin..]) {
            encode(&mut out, stream, &rest[begin..begin + end], time);
            begin += end;
        }
        rest.drain(..begin);
        self.partial[stream as usize] = rest;
        self.append(&out)
    }

    /// The container will print no more.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn finish(&mut self, time: jiff::Timestamp) -> Result<(), ApiError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.partial[stream as usize]);
            if !rest.is_empty() {
                let mut out = Vec::new();
                encode(&mut out, stream, &rest, time);
                self.append(&out)?;
            }
        }
        Ok(())
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), ApiError> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.length >= self.full {
            self.rotate().map_err(|e| file_error("rotate", &self.path, &e))?;
        }
        self.file.write_all(lines).map_err(|e| file_error("write", &self.path, &e))?;
        self.length += lines.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, &self.old)?;
        self.file = append(&self.path)?;
        self.length = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Length of the next entry's text, if it is complete.
fn piece(bytes: &[u8]) -> Option<usize> {
    match bytes.iter().position(|b| *b == b'\n') {
        Some(end) if end < PIECE => Some(end + 1),
        _ => (bytes.len() >= PIECE).then(|| boundary(bytes)),
    }
}

/// A cut near [`PIECE`] that is not within a character of UTF-8.
fn boundary(bytes: &[u8]) -> usize {
    (PIECE - 3..=PIECE).rev().find(|at| bytes.get(*at).is_none_or(|b| b & 0xc0 != 0x80)).unwrap_or(PIECE)
}

fn encode(out: &mut Vec<u8>, stream: Stream, bytes: &[u8], time: jiff::Timestamp) {
    let entry = Entry { log: String::from_utf8_lossy(bytes).into_owned(), stream, time };
    serde_json::to_writer(&mut *out, &entry).expect("text, a word and a time can always be encoded");
    out.push(b'\n');
}

/// Entries in complete lines at the beginning of `bytes`, and how many bytes those lines are. Lines that cannot be read
/// are passed over: a full disk may have cut one.
pub fn decode(bytes: &[u8]) -> (Vec<Entry>, usize) {
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let lines = bytes[..end].split(|b| *b == b'\n');
    (lines.filter_map(|line| serde_json::from_slice(line).ok()).collect(), end)
}

/// Reads a container's log from its beginning, and what is added to it.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    file: Option<File>,
    rest: Vec<u8>,
    changes: Option<OwnedFd>,
}

/// Whether what comes later is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// Yes.
    Follow,
    /// No.
    Ignore,
}

impl Reader {
    /// Of the container whose directory is `dir`.
    ///
    /// # Errors
    /// When changes cannot be watched.
    pub fn open(dir: &Path, later: Later) -> Result<Self, ApiError> {
        let changes = match later {
            Later::Follow => Some(watch(dir).map_err(|e| file_error("watch", dir, &e.into()))?),
            Later::Ignore => None,
        };
        Ok(Reader { dir: dir.to_owned(), file: None, rest: Vec::new(), changes })
    }

    /// What is there and was not read yet, oldest first.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&mut self) -> Result<Vec<Entry>, ApiError> {
        let mut entries = Vec::new();
        if self.file.is_none() {
            for name in [OLD_FILE, FILE] {
                self.file = self.open_file(name)?;
                self.read_file(&mut entries)?;
            }
            return Ok(entries);
        }
        self.read_file(&mut entries)?;
        let newest = self.open_file(FILE)?;
        if newest.as_ref().map(identity) != self.file.as_ref().map(identity) {
            // It was rotated: what came before that was just read from the old one.
            self.read_file(&mut entries)?;
            self.file = newest;
            self.read_file(&mut entries)?;
        }
        Ok(entries)
    }

    fn open_file(&self, name: &str) -> Result<Option<File>, ApiError> {
        let path = self.dir.join(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(file_error("open", &path, &e)),
        }
    }

    fn read_file(&mut self, entries: &mut Vec<Entry>) -> Result<(), ApiError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.read_to_end(&mut self.rest).map_err(|e| file_error("read", &self.dir, &e))?;
        let (complete, end) = decode(&self.rest);
        entries.extend(complete);
        self.rest.drain(..end);
        Ok(())
    }

    /// Waits until something may have been added, or the process has ended; whether it has.
    ///
    /// # Errors
    /// When poll(2) fails.
    pub fn wait(&mut self, process: &Handle) -> Result<bool, ApiError> {
        let Some(changes) = &self.changes else { return Ok(true) };
        let mut fds =
            [PollFd::new(changes.as_fd(), PollFlags::POLLIN), PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(file_error("watch", &self.dir, &e.into())),
        }
        let ended = fds[1].revents().is_some_and(|r| !r.is_empty());
        // What changed does not matter: everything is looked at.
        let mut events = [0; 4096];
        while nix::unistd::read(changes, &mut events).is_ok_and(|n| n > 0) {}
        Ok(ended)
    }
}

fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|m| (m.dev(), m.ino()))
}

fn watch(dir: &Path) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    add_watch(&inotify, dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
    Ok(inotify)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    fn texts(dir: &Path, name: &str) -> Vec<(Stream, String)> {
        let bytes = fs::read(dir.join(name)).unwrap();
        let (entries, end) = decode(&bytes);
        assert_eq!(end, bytes.len());
        entries.into_iter().map(|e| (e.stream, e.log)).collect()
    }

    #[test]
    fn lines_are_put_together() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Writer::open(dir.path()).unwrap();
        log.write(Stream::Stdout, b"a\nb", TIME).unwrap();
        log.write(Stream::Stderr, b"x\xff\n", TIME).unwrap();
        log.write(Stream::Stdout, b"c\nd", TIME).unwrap();
        log.finish(TIME).unwrap();
        let expected =
            [(Stream::Stdout, "a\n"), (Stream::Stderr, "x\u{fffd}\n"), (Stream::Stdout, "bc\n"), (Stream::Stdout, "d")];
        assert_eq!(texts(dir.path(), FILE), expected.map(|(s, t)| (s, t.to_owned())));
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Writer::open(dir.path()).unwrap();
        let long = format!("a{}\n", "é".repeat(20_000));
        log.write(Stream::Stdout, long.as_bytes(), TIME).unwrap();
        let pieces = texts(dir.path(), FILE);
        assert!(pieces.len() > 2 && pieces.iter().all(|(_, t)| t.len() <= PIECE));
        assert_eq!(pieces.into_iter().map(|(_, t)| t).collect::<String>(), long);
    }

    #[test]
    fn full_files_are_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Writer::open(dir.path()).unwrap();
        log.full = 100;
        for n in 0..5 {
            log.write(Stream::Stdout, format!("line {n}\n").as_bytes(), TIME).unwrap();
        }
        assert_eq!(texts(dir.path(), OLD_FILE).len(), 2);
        assert_eq!(texts(dir.path(), FILE), [(Stream::Stdout, "line 4\n".to_owned())]);
    }

    #[test]
    fn a_reader_follows_over_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::open(dir.path(), Later::Follow).unwrap();
        assert!(reader.read().unwrap().is_empty());
        let mut log = Writer::open(dir.path()).unwrap();
        log.full = 60;
        let mut seen = Vec::new();
        for n in 0..6 {
            log.write(Stream::Stdout, format!("{n}\n").as_bytes(), TIME).unwrap();
            seen.extend(reader.read().unwrap().into_iter().map(|e| e.log));
        }
        assert_eq!(seen.concat(), "0\n1\n2\n3\n4\n5\n");
        let all = Reader::open(dir.path(), Later::Ignore).unwrap().read().unwrap();
        assert!(!all.is_empty() && all.last().unwrap().log == "5\n");
    }

    #[test]
    fn what_was_cut_is_passed_over() {
        let (entries, end) =
            decode(b"{\"log\":\n{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:00Z\"}\n{\"lo");
        assert_eq!(entries.len(), 1);
        assert!(end < 80);
    }
}
