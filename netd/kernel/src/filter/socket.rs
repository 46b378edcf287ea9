//! The netlink socket of netfilter (nf_tables, conntrack): one request or one transaction at a time, each answer matched by sequence number.
//!
//! The kernel handles a request inside `send(2)` and has queued every answer when it returns, so only dumps (which go
//! on inside `recv(2)`) ever wait.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::sys::socket::{setsockopt, sockopt};

use super::wire::{self, Message, Messages, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, Verdict};
use crate::KernelError;

/// Repeats of a dump that was changed under.
const DUMP_TRIES: u32 = 16;
/// The kernel fills dump answers up to 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Room for a transaction with some hundred thousand elements; nothing is taken before it is needed.
const BUFFER_BYTES: usize = 16 * 1024 * 1024;

/// An open socket, tied to the namespace it was opened in.
pub(crate) struct NftSocket {
    socket: Socket,
    next: u32,
    port: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for NftSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NftSocket").field("next", &self.next).finish_non_exhaustive()
    }
}

/// A refused request: what the kernel said, or the failure of the socket itself.
#[derive(Debug)]
pub(crate) enum Refusal {
    Kernel(Verdict),
    Socket(io::Error),
    /// The dump did not come to rest.
    Unsettled,
}

impl Refusal {
    pub(super) fn errno(&self) -> i32 {
        match self {
            Refusal::Kernel(verdict) => verdict.errno,
            Refusal::Socket(error) => error.raw_os_error().unwrap_or(0),
            Refusal::Unsettled => libc::EAGAIN,
        }
    }

    pub(crate) fn into_error(self, operation: impl Into<String>) -> KernelError {
        match self {
            Refusal::Kernel(Verdict { errno, text, .. }) => KernelError { text, ..KernelError::os(operation, errno) },
            Refusal::Socket(error) => KernelError::io(operation, &error),
            Refusal::Unsettled => KernelError {
                text: Some("what is read keeps changing".to_owned()),
                ..KernelError::os(operation, libc::EAGAIN)
            },
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Socket(error)
    }
}

impl NftSocket {
    /// Opens the socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // A transaction must fit into the send buffer. FORCE needs CAP_NET_ADMIN in the first user namespace; without
        // it the limit is net.core.wmem_max, which is some thousand elements and fails clearly (EMSGSIZE).
        if setsockopt(&socket.as_fd(), sockopt::SndBufForce, &BUFFER_BYTES).is_err() {
            setsockopt(&socket.as_fd(), sockopt::SndBuf, &BUFFER_BYTES)?;
        }
        if setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
            setsockopt(&socket.as_fd(), sockopt::RcvBuf, &BUFFER_BYTES)?;
        }
        Ok(NftSocket { socket, next: 1, port, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// A fresh message buffer whose sequence numbers no earlier answer can carry.
    pub(crate) fn messages(&self) -> Messages {
        Messages::new(self.next)
    }

    /// Sends a transaction. `Ok` only when the kernel acknowledged its last message and refused none.
    pub(super) fn commit(&mut self, mut batch: Messages) -> Result<(), Refusal> {
        batch.end();
        let first = self.next;
        // The end marker is the last message, the acknowledged one is before it.
        let last = batch.next_seq().wrapping_sub(2);
        let mut acked = false;
        let mut refused: Option<Verdict> = None;
        self.exchange(&batch, |message| {
            if message.kind != NLMSG_ERROR {
                return;
            }
            let verdict = message.verdict();
            if verdict.errno != 0 {
                // A refusal of the whole transaction carries the number of its first message.
                refused.get_or_insert(verdict);
            } else if message.seq == last && last != first {
                acked = true;
            }
        })?;
        match refused {
            Some(verdict) => Err(Refusal::Kernel(verdict)),
            None if acked => Ok(()),
            None => Err(Refusal::Socket(io::Error::from_raw_os_error(libc::ENOBUFS))),
        }
    }

    /// Sends plain requests and hands every answer to `each`.
    pub(crate) fn exchange(&mut self, request: &Messages, mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
        let first = self.send(request)?;
        let end = self.next;
        loop {
            match self.receive(libc::MSG_DONTWAIT) {
                Ok(()) => {
                    for message in wire::messages(&self.buffer) {
                        // Numbers outside this request belong to an answer that was given up on.
                        if message.seq.wrapping_sub(first) < end.wrapping_sub(first) {
                            each(message);
                        }
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The generation of the namespace's ruleset.
    pub(super) fn generation(&mut self) -> Result<u32, Refusal> {
        let mut request = self.messages();
        request.generation();
        let mut answer = Err(Refusal::Socket(io::Error::from_raw_os_error(libc::ENOBUFS)));
        self.exchange(&request, |message| {
            if message.kind == NLMSG_ERROR {
                answer = Err(Refusal::Kernel(message.verdict()));
            } else if let Some(id) =
                message.attributes().find(|(kind, _)| *kind == 1).and_then(|(_, v)| wire::u32_be(v))
            {
                answer = Ok(id);
            }
        })?;
        answer
    }

    /// The socket's netlink port, by which the kernel knows the owner of a table.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Makes a dump, again when the ruleset changed meanwhile or answers were lost: `ask` builds the request, `read` takes an answer apart.
    pub(crate) fn dump_with<T>(
        &mut self,
        ask: impl Fn(&mut Messages),
        read: impl Fn(Message<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, Refusal> {
        for _ in 0..DUMP_TRIES {
            let mut request = self.messages();
            ask(&mut request);
            let seq = self.send(&request)?;
            match self.collect(seq, &read) {
                Ok(Some(dumped)) => return Ok(dumped),
                Ok(None) => {}
                Err(Refusal::Socket(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::Unsettled)
    }

    /// Answers of one dump; `None` when they do not belong to one generation.
    fn collect<T>(&mut self, seq: u32, read: &impl Fn(Message<'_>, &mut Vec<T>)) -> Result<Option<Vec<T>>, Refusal> {
        let mut all = Vec::new();
        let mut settled = true;
        loop {
            self.receive(0)?;
            for message in wire::messages(&self.buffer).filter(|m| m.seq == seq) {
                settled &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        let verdict = message.verdict();
                        if verdict.errno != 0 && verdict.errno != libc::EINTR {
                            return Err(Refusal::Kernel(verdict));
                        }
                        return Ok((settled && verdict.errno == 0).then_some(all));
                    }
                    _ => read(message, &mut all),
                }
            }
        }
    }

    /// Whether the first datagram of a dump has an answer that `wanted` knows. The dump is left where it is: the
    /// socket must not be used again.
    pub(super) fn peek(mut self, request: &Messages, wanted: impl Fn(Message<'_>) -> bool) -> Result<bool, Refusal> {
        let seq = self.send(request)?;
        loop {
            self.receive(0)?;
            for message in wire::messages(&self.buffer).filter(|m| m.seq == seq) {
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        let verdict = message.verdict();
                        return if verdict.errno == 0 { Ok(false) } else { Err(Refusal::Kernel(verdict)) };
                    }
                    _ if wanted(message) => return Ok(true),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, request: &Messages) -> io::Result<u32> {
        let first = self.next;
        self.next = request.next_seq();
        let sent = self.socket.send(request.bytes(), 0)?;
        if sent == request.bytes().len() { Ok(first) } else { Err(io::Error::from_raw_os_error(libc::EMSGSIZE)) }
    }

    fn receive(&mut self, flags: libc::c_int) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, flags | libc::MSG_TRUNC) {
                Ok(len) if len > self.buffer.len() => return Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
