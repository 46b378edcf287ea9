//! The words between a command and its shim: JSON, one value per datagram of a `SOCK_SEQPACKET` pair, which is the
//! shim's standard input. The first message carries the command's standard streams (unix(7), `SCM_RIGHTS`). When either
//! side closes its end, the other one goes on alone.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::PathBuf;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, sendmsg,
    socketpair,
};
use rnet_api::ApiError;
use rnet_model::Kind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{ContainerId, EnvVar, Streams, UserSpec};

/// Largest message in bytes: a command line with its environment.
const LIMIT: usize = 128 * 1024;

/// The first message of a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Begin {
    /// Make and start a container that is written down, and stay with it.
    Container(ContainerRun),
    /// Run a program in a container that runs.
    Exec(ExecRun),
}

/// A container to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRun {
    /// Which.
    pub id: ContainerId,
    /// What becomes of it when it cannot be started.
    pub on_failure: OnFailure,
    /// Size of the terminal that is to be shown, if there is one.
    pub size: Option<WindowSize>,
}

/// What becomes of a container that cannot be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It was made for this: it goes.
    Remove,
    /// It was there before: it stays.
    Keep,
}

/// A program to run in a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecRun {
    /// Which container.
    pub id: ContainerId,
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    /// Environment beyond the container's.
    pub env: Vec<EnvVar>,
    /// Directory; default: the container's.
    pub workdir: Option<PathBuf>,
    /// User; default: the container's.
    pub user: Option<UserSpec>,
    /// Streams.
    pub streams: Streams,
    /// Size of the terminal that is to be shown, if there is one.
    pub size: Option<WindowSize>,
}

/// Later messages of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Send this signal to the program.
    Signal(i32),
    /// The terminal has another size now.
    Resize(WindowSize),
}

/// Characters of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in each.
    pub columns: u16,
}

impl WindowSize {
    /// Of the terminal behind a file; `None` when it is none.
    pub fn of(file: impl AsFd) -> Option<Self> {
        let size = rustix::termios::tcgetwinsize(file).ok()?;
        Some(WindowSize { rows: size.ws_row, columns: size.ws_col })
    }
}

/// Messages of a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// The program runs.
    Started,
    /// It has ended, and everything that belongs to that is done.
    Exited {
        /// Exit code; 128 + n for signal n.
        code: u8,
        /// What was left undone, for the user.
        warning: Option<String>,
    },
    /// It was never started.
    Failed {
        /// Why.
        error: ApiError,
        /// 125, 126 or 127, as docker-run(1) has them.
        code: u8,
    },
}

/// One end of the pair.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

/// What was received.
#[derive(Debug)]
pub struct Received<T> {
    /// The message.
    pub message: T,
    /// Files that came with it.
    pub files: Vec<OwnedFd>,
}

impl Channel {
    /// Two ends, both closed on exec.
    ///
    /// # Errors
    /// When the system has no more of them.
    pub fn pair() -> Result<(Channel, OwnedFd), ApiError> {
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.map_err(|e| failed("make a pair of sockets", e))?;
        Ok((Channel { fd: ours }, theirs))
    }

    /// The end this process was given.
    pub fn new(fd: OwnedFd) -> Self {
        Channel { fd }
    }

    /// Sends a message with files.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] when the other side is gone.
    pub fn send<T: Serialize>(&self, message: &T, files: &[BorrowedFd<'_>]) -> Result<(), ApiError> {
        let body =
            serde_json::to_vec(message).map_err(|e| ApiError::new(Kind::Bug, "cannot encode a message").because(&e))?;
        if body.len() > LIMIT {
            return Err(ApiError::new(Kind::Invalid, "the command line and environment are larger than 128 KiB"));
        }
        let raw: Vec<i32> = files.iter().map(|f| f.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let vector = [IoSlice::new(&body)];
        let sent = sendmsg::<UnixAddr>(self.fd.as_raw_fd(), &vector, control, MsgFlags::MSG_NOSIGNAL, None);
        sent.map(drop).map_err(|e| failed("talk to the other side", e))
    }

    /// Waits for a message; `None` when the other side is gone.
    ///
    /// # Errors
    /// A message that cannot be understood.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<Received<T>>, ApiError> {
        let mut body = vec![0; LIMIT];
        let (length, files) = match receive_files(self.fd.as_fd(), &mut body) {
            Ok(received) => received,
            Err(Errno::ECONNRESET) => return Ok(None),
            Err(e) => return Err(failed("listen to the other side", e)),
        };
        if length == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&body[..length]).map_err(|e| {
            ApiError::new(Kind::Bug, "rnet and rnet-shim do not understand each other")
                .because(&e)
                .hint("install both from the same version")
        })?;
        Ok(Some(Received { message, files }))
    }
}

/// Receives bytes and files from a unix socket: how many bytes, and the files, closed on exec.
///
/// # Errors
/// As recvmsg(2).
pub fn receive_files(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = cmsg_space!([i32; 3]);
    let mut vector = [IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut vector, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut files = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for this process (unix(7), SCM_RIGHTS), and nothing
            // else knows their numbers.
            #[allow(unsafe_code)]
            files.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, files))
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn failed(what: &str, errno: Errno) -> ApiError {
    let kind = if errno == Errno::EPIPE { Kind::Unavailable } else { Kind::Retry };
    ApiError::new(kind, format!("cannot {what}")).because(&errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn messages_and_files_arrive() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::new(theirs);
        let (mut reader, writer) = std::io::pipe().unwrap();
        let size = WindowSize { rows: 24, columns: 80 };
        ours.send(&Request::Resize(size), &[writer.as_fd()]).unwrap();
        ours.send(&Request::Signal(15), &[]).unwrap();
        drop((ours, writer));
        let first = theirs.receive::<Request>().unwrap().unwrap();
        assert_eq!(first.message, Request::Resize(size));
        let mut sent = std::fs::File::from(first.files.into_iter().next().unwrap());
        sent.write_all(b"x").unwrap();
        drop(sent);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert_eq!(theirs.receive::<Request>().unwrap().unwrap().message, Request::Signal(15));
        assert!(theirs.receive::<Request>().unwrap().is_none());
        assert_eq!(theirs.send(&Request::Signal(1), &[]).unwrap_err().kind, Kind::Unavailable);
    }

    #[test]
    fn strangers_are_refused() {
        let (ours, theirs) = Channel::pair().unwrap();
        ours.send(&"hello", &[]).unwrap();
        assert_eq!(Channel::new(theirs).receive::<Request>().unwrap_err().kind, Kind::Bug);
    }
}
