//! Programs that only say something, run with a time limit.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Where a program of administrators is looked for; a daemon's PATH often lacks the sbin folders.
const FOLDERS: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(3);

/// The path of a program that can be run.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let runs = |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| runs(path))
}

/// What a program says, in the namespace of the calling thread; `None` when it failed or took too long.
pub(crate) fn output<S: AsRef<OsStr>>(program: &Path, words: impl IntoIterator<Item = S>) -> Option<String> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdout = child.stdout.take()?;
    let (done, read) = mpsc::channel();
    // It ends with the program, at the latest when that is killed.
    let reader = std::thread::Builder::new().name("said".to_owned()).spawn(move || {
        let mut text = Vec::new();
        let _ = stdout.read_to_end(&mut text);
        let _ = done.send(text);
    });
    let said = reader.ok().and_then(|_| read.recv_timeout(LIMIT).ok());
    if said.is_none() {
        let _ = child.kill();
    }
    let status = child.wait().ok()?;
    said.filter(|_| status.success()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
