//! The packet that is sent: a TCP connect, a datagram, an echo request, from inside a namespace.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rnet_api::Transport;
use rnet_kernel::Netns;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::echo::{Echo, Heard};

/// Echo requests so far.
static ECHOES: AtomicU16 = AtomicU16::new(1);

/// A socket that is bound and has sent nothing yet.
#[derive(Debug)]
pub(crate) struct Probe {
    socket: Socket,
    to: SocketAddr,
    /// Source port, or the identity of an echo request.
    pub(crate) own: u16,
}

#[derive(Debug)]
enum Socket {
    Tcp(OwnedFd),
    Udp(OwnedFd),
    Icmp(Echo),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The destination answered.
    Yes,
    /// Somebody on the path refused, with this errno.
    Refused(i32),
}

impl Probe {
    /// Binds a socket in `ns` to `source`.
    pub(crate) fn open(ns: &Netns, transport: Transport, source: IpAddr, to: SocketAddr) -> io::Result<Self> {
        if transport == Transport::Icmp {
            // Another identity each time: a connection that is still tracked would not be translated anew.
            let own = rustix::process::getpid().as_raw_nonzero().get().to_ne_bytes();
            let own = u16::from_ne_bytes([own[0], own[1]]).wrapping_add(ECHOES.fetch_add(1, Ordering::Relaxed));
            return Ok(Probe { socket: Socket::Icmp(Echo::open(ns, source)?), to, own });
        }
        let family = if source.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = if transport == Transport::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
        let open = || -> io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(family, kind, flags, None)?;
            rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
            Ok(socket)
        };
        let socket = ns.run(open).map_err(|e| io::Error::other(e.to_string()))??;
        let own = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?.port();
        let socket = if transport == Transport::Tcp { Socket::Tcp(socket) } else { Socket::Udp(socket) };
        Ok(Probe { socket, to, own })
    }

    /// Sends.
    pub(crate) fn send(&self) -> Result<(), i32> {
        let sent = match &self.socket {
            Socket::Tcp(socket) => match rustix::net::connect(socket, &self.to) {
                Err(Errno::INPROGRESS) => Ok(()),
                other => other,
            },
            Socket::Udp(socket) => rustix::net::connect(socket, &self.to)
                .and_then(|()| rustix::net::send(socket, b"\n", SendFlags::empty()).map(|_| ())),
            Socket::Icmp(echo) => {
                return echo.send(self.to.ip(), self.own, 1).map_err(|e| e.raw_os_error().unwrap_or(0));
            }
        };
        sent.map_err(Errno::raw_os_error)
    }

    /// What has come back so far. Does not wait.
    pub(crate) fn answer(&self) -> Option<Answer> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::ZERO) != Ok(1) {
                    return None;
                }
                match rustix::net::sockopt::socket_error(socket) {
                    Ok(Ok(())) => Some(Answer::Yes),
                    Ok(Err(error)) | Err(error) => Some(Answer::Refused(error.raw_os_error())),
                }
            }
            Socket::Udp(socket) => match rustix::net::recv(socket, &mut [0; 64][..], RecvFlags::empty()) {
                Ok(_) => Some(Answer::Yes),
                Err(Errno::AGAIN | Errno::INTR) => None,
                Err(error) => Some(Answer::Refused(error.raw_os_error())),
            },
            Socket::Icmp(echo) => match echo.hear() {
                Ok(Some(Heard::Answer(_, id, _))) if id == self.own => Some(Answer::Yes),
                Ok(Some(Heard::Unreachable(_, code, id, _))) if id == self.own => {
                    Some(Answer::Refused(unreachable(code, self.to.ip())))
                }
                Ok(_) => None,
                Err(error) => Some(Answer::Refused(error.raw_os_error().unwrap_or(0))),
            },
        }
    }

    /// To wait for an answer on.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) | Socket::Udp(socket) => socket.as_fd(),
            Socket::Icmp(echo) => echo.as_fd(),
        }
    }
}

/// The errno a socket would get for the code of a destination unreachable (RFC 792; RFC 4443 section 3.1).
fn unreachable(code: u8, to: IpAddr) -> i32 {
    let errno = match (to.is_ipv4(), code) {
        (true, 0 | 6) | (false, 0) => Errno::NETUNREACH,
        (true, 3) | (false, 4) => Errno::CONNREFUSED,
        (true, 9 | 10 | 13) | (false, 1 | 5 | 6) => Errno::ACCESS,
        _ => Errno::HOSTUNREACH,
    };
    errno.raw_os_error()
}
