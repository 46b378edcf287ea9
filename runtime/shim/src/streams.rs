//! The standard streams of a program: the container's ends, the shim's ends, and the command's.

use std::fs::OpenOptions;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rnet_api::ApiError;
use rnet_model::Kind;
use rnet_runtime::Streams;
use rnet_runtime::protocol::{WindowSize, receive_files};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::cannot;

/// The streams of the command that started this shim, as long as it is there.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

impl Client {
    /// From the files that came with the first message: stdin, stdout and stderr, or none.
    pub(crate) fn new(files: Vec<OwnedFd>) -> Self {
        let mut files = files.into_iter();
        Client { stdin: files.next(), stdout: files.next(), stderr: files.next() }
    }

    /// Whether the command waits for the program.
    pub(crate) fn attached(&self) -> bool {
        self.stdout.is_some()
    }
}

/// What a new process gets as 0, 1 and 2.
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The shim's ends.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// Where input for the program goes.
    pub(crate) stdin: Option<OwnedFd>,
    /// What it prints, unless it prints to the command's own streams.
    pub(crate) stdout: Option<OwnedFd>,
    /// What it prints to stderr, unless it has a terminal.
    pub(crate) stderr: Option<OwnedFd>,
    /// Its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Pipes; stdin is /dev/null unless it is forwarded. The ends inside belong to the program's user, so that it may open
/// /dev/stdout again.
pub(crate) fn pipes(streams: Streams, uid: u32, gid: u32) -> Result<(Inside, Outside), ApiError> {
    let pipe = || std::io::pipe().map_err(|e| cannot("make a pipe", &e));
    let (stdout_reader, stdout) = pipe()?;
    let (stderr_reader, stderr) = pipe()?;
    let (stdin, writer): (OwnedFd, Option<OwnedFd>) = if streams.interactive() {
        let (reader, writer) = pipe()?;
        (reader.into(), Some(writer.into()))
    } else {
        (null()?, None)
    };
    let inside = Inside { stdin, stdout: stdout.into(), stderr: stderr.into() };
    for end in
        [Some(&inside.stdout), Some(&inside.stderr), writer.as_ref().map(|_| &inside.stdin)].into_iter().flatten()
    {
        // In a user namespace the user may not be mapped; the program runs all the same.
        let _ = std::os::unix::fs::fchown(end, Some(uid), Some(gid));
    }
    let outside = Outside {
        stdin: writer,
        stdout: Some(stdout_reader.into()),
        stderr: Some(stderr_reader.into()),
        terminal: None,
    };
    Ok((inside, outside))
}

/// /dev/null.
pub(crate) fn null() -> Result<OwnedFd, ApiError> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/null");
    opened.map(OwnedFd::from).map_err(|e| cannot("open /dev/null", &e))
}

/// A socket at which libcontainer hands over a terminal that was made inside the container.
#[derive(Debug)]
pub(crate) struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    /// Listens in `dir`.
    pub(crate) fn listen(dir: &Path) -> Result<Self, ApiError> {
        let path = dir.join(format!("console-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        // By a short name: the path of a unix socket is 107 bytes at most (unix(7)).
        let bound = std::env::current_dir().and_then(|back| {
            std::env::set_current_dir(dir)?;
            let bound = UnixListener::bind(path.file_name().unwrap_or_default());
            std::env::set_current_dir(back)?;
            bound
        });
        let listener = bound.map_err(|e| cannot("make a socket for the terminal", &e))?;
        Ok(Console { listener, path })
    }

    /// Where.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal; called when the container was made.
    pub(crate) fn accept(self, size: Option<WindowSize>) -> Result<Outside, ApiError> {
        let (stream, _) = self.listener.accept().map_err(|e| cannot("wait for the terminal", &e))?;
        let _ = std::fs::remove_file(&self.path);
        let (_, files) = receive_files(stream.as_fd(), &mut [0; 64]).map_err(|e| cannot("receive the terminal", &e))?;
        let master =
            files.into_iter().next().ok_or_else(|| ApiError::new(Kind::Bug, "libcontainer handed over no terminal"))?;
        if let Some(size) = size {
            resize(&master, size);
        }
        let again = || master.try_clone().map_err(|e| cannot("use the terminal", &e));
        Ok(Outside { stdin: Some(again()?), stdout: Some(again()?), stderr: None, terminal: Some(master) })
    }
}

/// Tells a terminal its size; the kernel sends SIGWINCH to what runs in it.
pub(crate) fn resize(terminal: &OwnedFd, size: WindowSize) {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // A terminal that has no size works too.
    let _ = tcsetwinsize(terminal, size);
}
