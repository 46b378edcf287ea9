//! ICMP echo over a raw socket inside a namespace.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rnet_kernel::Netns;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

/// Types of RFC 792 and RFC 4443.
const REQUEST4: u8 = 8;
const ANSWER4: u8 = 0;
const UNREACHABLE4: u8 = 3;
const REQUEST6: u8 = 128;
const ANSWER6: u8 = 129;
const UNREACHABLE6: u8 = 1;

/// A socket for echo requests of one family.
#[derive(Debug)]
pub(crate) struct Echo {
    socket: OwnedFd,
    v4: bool,
}

/// What came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// An answer: who, identity, number.
    Answer(IpAddr, u16, u16),
    /// The destination of a request cannot be reached: who says so, the code, identity and number of the request.
    Unreachable(IpAddr, u8, u16, u16),
}

impl Echo {
    /// Opens a socket in `ns` that sends from `source`.
    pub(crate) fn open(ns: &Netns, source: IpAddr) -> io::Result<Self> {
        let v4 = source.is_ipv4();
        let (family, protocol) =
            if v4 { (AddressFamily::INET, ipproto::ICMP) } else { (AddressFamily::INET6, ipproto::ICMPV6) };
        let open = || -> io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(family, SocketType::RAW, flags, Some(protocol))?;
            rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
            Ok(socket)
        };
        let socket = ns.run(open).map_err(|e| io::Error::other(e.to_string()))??;
        Ok(Echo { socket, v4 })
    }

    pub(crate) fn send(&self, to: IpAddr, identity: u16, number: u16) -> io::Result<()> {
        let mut message = [0; 16];
        message[0] = if self.v4 { REQUEST4 } else { REQUEST6 };
        message[4..6].copy_from_slice(&identity.to_be_bytes());
        message[6..8].copy_from_slice(&number.to_be_bytes());
        if self.v4 {
            // That of ICMPv6 is the kernel's business (RFC 3542 section 3.1).
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        rustix::net::sendto(&self.socket, &message, SendFlags::empty(), &SocketAddr::new(to, 0))?;
        Ok(())
    }

    /// The next message about a request; `None` when nothing waits.
    pub(crate) fn hear(&self) -> io::Result<Option<Heard>> {
        let mut buffer = [0; 1500];
        loop {
            match rustix::net::recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _, from)) => {
                    let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
                    let heard = from.and_then(|from| read(&buffer[..length.min(1500)], from, self.v4));
                    if heard.is_some() {
                        return Ok(heard);
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Echo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// A raw socket of IPv4 hears the IP header too, one of IPv6 does not.
fn read(bytes: &[u8], from: IpAddr, v4: bool) -> Option<Heard> {
    let icmp = if v4 { bytes.get(header_length(bytes)?..)? } else { bytes };
    let numbers = |icmp: &[u8]| {
        let word = |at: usize| Some(u16::from_be_bytes([*icmp.get(at)?, *icmp.get(at + 1)?]));
        word(4).zip(word(6))
    };
    match (*icmp.first()?, v4) {
        (ANSWER4, true) | (ANSWER6, false) => numbers(icmp).map(|(id, number)| Heard::Answer(from, id, number)),
        (UNREACHABLE4, true) | (UNREACHABLE6, false) => {
            let request = icmp.get(8..)?;
            let inner = request.get(if v4 { header_length(request)? } else { 40 }..)?;
            let asked = matches!((*inner.first()?, v4), (REQUEST4, true) | (REQUEST6, false));
            let (id, number) = numbers(inner).filter(|_| asked)?;
            Some(Heard::Unreachable(from, *icmp.get(1)?, id, number))
        }
        _ => None,
    }
}

fn header_length(bytes: &[u8]) -> Option<usize> {
    Some(usize::from(*bytes.first()? & 0xf) * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_refusals_are_read() {
        let from: IpAddr = [10, 0, 0, 1].into();
        let mut packet = vec![0x45; 1];
        packet.resize(20, 0);
        let answer: Vec<u8> = packet.iter().copied().chain([0, 0, 0, 0, 0, 7, 0, 9]).collect();
        assert_eq!(read(&answer, from, true), Some(Heard::Answer(from, 7, 9)));
        let request: Vec<u8> = packet.iter().copied().chain([8, 0, 0, 0, 0, 7, 0, 9]).collect();
        assert_eq!(read(&request, from, true), None);
        let refused: Vec<u8> = packet.iter().copied().chain([3, 13, 0, 0, 0, 0, 0, 0]).chain(request).collect();
        assert_eq!(read(&refused, from, true), Some(Heard::Unreachable(from, 13, 7, 9)));
        for cut in 0..refused.len() {
            read(&refused[..cut], from, true);
            read(&refused[..cut], from, false);
        }
        assert_eq!(read(&[129, 0, 0, 0, 0, 7, 0, 9], from, false), Some(Heard::Answer(from, 7, 9)));
    }

    #[test]
    fn checksums() {
        // RFC 1071 section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
