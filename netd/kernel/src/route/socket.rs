//! A blocking route netlink socket: send, and read until everything sent is answered.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::ack::{Acks, Answer, Body, Refusal, answers};
use super::encode::Request;
use crate::{KernelError, Netns};

/// Room for answers. Each acknowledgement takes about 1 KiB of it while it waits to be read.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The kernel makes parts of a dump at most 32 KiB long, whatever it is offered (netlink_recvmsg).
const DATAGRAM: usize = 64 << 10;
/// The kernel answers inside sendmsg(2); a longer wait means that an answer was lost.
const PATIENCE_SECS: i64 = 10;
/// How often a dump that changes under our hands is taken again.
const DUMPS: usize = 10;

pub(super) struct RouteSocket {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// How a request for objects failed.
#[derive(Debug)]
pub(super) enum Failure {
    Refused(Refusal),
    Io(io::Error),
    /// A dump changed under our hands each time it was taken.
    Unsteady,
}

impl Failure {
    pub(super) fn of(self, operation: &str) -> KernelError {
        match self {
            Failure::Refused(Refusal { errno, text }) => KernelError { text, ..KernelError::os(operation, errno) },
            Failure::Io(e) => KernelError::io(operation, &e),
            Failure::Unsteady => KernelError {
                errno: libc::EAGAIN,
                ..KernelError::text(operation, format!("it changed during each of {DUMPS} attempts to read it"))
            },
        }
    }
}

/// Where the answers of one dump end up.
enum Dump {
    Complete,
    Interrupted,
}

impl RouteSocket {
    /// A socket belongs to the namespace of the thread that makes it, and stays there whoever uses it.
    pub(super) fn open(ns: &Netns) -> Result<Self, KernelError> {
        let socket = ns.run(Self::here)?.map_err(|e| KernelError::io(format!("open route netlink in {ns}"), &e))?;
        Ok(RouteSocket { socket, sequence: 0, buffer: vec![0; DATAGRAM] })
    }

    fn here() -> io::Result<Socket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        // The forced form needs CAP_NET_ADMIN over the first user namespace; the other is bounded by rmem_max.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECS))?;
        Ok(socket)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn numbers(&mut self, count: usize) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(u32::try_from(count).expect("a datagram has few messages"));
        first
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// One datagram, from the kernel.
    fn receive(&mut self, flags: i32) -> io::Result<usize> {
        loop {
            let mut room = &mut self.buffer[..];
            match self.socket.recv_from(&mut room, flags | libc::MSG_TRUNC) {
                // Another process with our port number as its target.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((length, _)) if length > DATAGRAM => return Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
                Ok((length, _)) => return Ok(length),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends all requests in one datagram; what became of each.
    pub(super) fn transact(&mut self, requests: Vec<Request>) -> Vec<Result<(), Refusal>> {
        let count = requests.len();
        let first = self.numbers(count);
        let mut acks = Acks::new(first, count);
        let mut bytes = Vec::with_capacity(count * 128);
        for (sequence, request) in (0..).map(|i| first.wrapping_add(i)).zip(requests) {
            request.append(sequence, &mut bytes);
        }
        let lost = match self.send(&bytes).and_then(|()| self.collect(&mut acks)) {
            Ok(()) => Refusal::errno(libc::ENOBUFS),
            Err(e) => Refusal { errno: e.raw_os_error().unwrap_or(libc::EIO), text: None },
        };
        acks.finish(&lost)
    }

    fn collect(&mut self, acks: &mut Acks) -> io::Result<()> {
        let mut flags = 0;
        while !acks.complete() {
            match self.receive(flags) {
                Ok(length) => answers(&self.buffer[..length]).for_each(|a| acks.take(a)),
                // Answers were dropped. Those that were not are queued already; there is no more to wait for.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => flags = libc::MSG_DONTWAIT,
                Err(e) if flags != 0 && e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Asks for one object.
    pub(super) fn get<T>(
        &mut self,
        request: Request,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let sequence = self.numbers(1);
        let mut bytes = Vec::with_capacity(64);
        request.append(sequence, &mut bytes);
        self.send(&bytes).map_err(Failure::Io)?;
        loop {
            let length = self.receive(0).map_err(Failure::Io)?;
            match answers(&self.buffer[..length]).find(|a| a.sequence == sequence).map(|a| a.body) {
                Some(Body::Object(_, body)) => return Ok(parse(body)),
                Some(Body::Ack(Err(refusal))) => return Err(Failure::Refused(refusal)),
                Some(Body::Ack(Ok(())) | Body::Done(_)) => return Ok(None),
                None => {}
            }
        }
    }

    /// Asks for all objects of a sort, again while the kernel says that they changed meanwhile.
    pub(super) fn dump<T>(
        &mut self,
        request: &Request,
        mut parse: impl FnMut(&[u8], &mut Vec<T>),
    ) -> Result<Vec<T>, Failure> {
        for _ in 0..DUMPS {
            let mut all = Vec::new();
            if let Dump::Complete = self.dump_once(request.clone(), |body| parse(body, &mut all))? {
                return Ok(all);
            }
        }
        Err(Failure::Unsteady)
    }

    fn dump_once(&mut self, request: Request, mut parse: impl FnMut(&[u8])) -> Result<Dump, Failure> {
        let sequence = self.numbers(1);
        let mut bytes = Vec::with_capacity(64);
        request.append(sequence, &mut bytes);
        self.send(&bytes).map_err(Failure::Io)?;
        let mut outcome = Dump::Complete;
        loop {
            let length = match self.receive(0) {
                Ok(length) => length,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    outcome = Dump::Interrupted;
                    continue;
                }
                Err(e) => return Err(Failure::Io(e)),
            };
            for Answer { interrupted, body, .. } in answers(&self.buffer[..length]).filter(|a| a.sequence == sequence) {
                if interrupted {
                    outcome = Dump::Interrupted;
                }
                match body {
                    Body::Object(_, body) => parse(body),
                    Body::Done(Err(r)) | Body::Ack(Err(r)) if r.errno == libc::EINTR => outcome = Dump::Interrupted,
                    Body::Done(Err(r)) | Body::Ack(Err(r)) => return Err(Failure::Refused(r)),
                    Body::Done(Ok(())) | Body::Ack(Ok(())) => return Ok(outcome),
                }
            }
        }
    }
}
