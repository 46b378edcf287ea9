//! Packets as they pass the devices of a namespace, for looking at: packet(7) sockets that receive only.
//!
//! Owns: the socket, where it looks, and what the kernel tells of each packet. Refuses: promiscuous mode, which would
//! change what the device receives, and filters; who looks may leave out what it does not want.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use rnet_model::IfName;

use crate::probe::{bind, set, unbound};
use crate::{KernelError, Netns};

/// What waits in the kernel for a slow reader, bytes; the kernel doubles it for its own costs.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Room for a timestamp and the auxiliary data of a packet, aligned as control messages are.
const CONTROL_WORDS: usize = 16;
/// Bytes of a VLAN tag, and where it stands.
const TAG: usize = 4;
const TAG_AT: usize = 12;
/// linux/if_packet.h: the tag was taken off by the device.
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;

/// Which way a packet passed the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    In,
    /// Sent.
    Out,
}

/// Whom a packet is for (`sll_pkttype`, packet(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// It is our own; nothing is said about whom it is for.
    Unspecified,
    /// This host.
    Unicast,
    /// A group.
    Multicast,
    /// Everybody.
    Broadcast,
    /// Somebody else.
    Other,
}

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// ifindex of the device.
    pub index: u32,
    /// Hardware type of the device (`ARPHRD_*`, linux/if_arp.h).
    pub hardware: u16,
    /// Which way.
    pub direction: Direction,
    /// Whom for.
    pub reception: Reception,
    /// Nanoseconds since 1970, by the kernel.
    pub time: u64,
    /// Bytes it had on the device.
    pub length: usize,
    /// Its first bytes.
    pub data: &'a [u8],
}

/// A packet socket in a namespace. Blocking; usable from any thread once open. It keeps the namespace alive.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    /// The one device, or all.
    device: Option<IfName>,
    /// Room for the first bytes of a packet and for its tag.
    buffer: Vec<u8>,
    snaplen: usize,
    drops: u64,
}

impl Capture {
    /// Receives what passes one device of `ns`, or all of them, also those that are made later; at most `snaplen` bytes
    /// of each packet.
    ///
    /// # Errors
    /// When the device is absent, or packet sockets are not allowed.
    pub fn open(ns: &Netns, device: Option<&IfName>, snaplen: usize) -> Result<Self, KernelError> {
        let open = || -> io::Result<OwnedFd> {
            let socket = unbound()?;
            let index = match device {
                Some(name) => rustix::net::netdevice::name_to_index(&socket, name.as_str())?,
                None => 0,
            };
            set(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)?;
            set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32)?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
                .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
            bind(&socket, libc::ETH_P_ALL, index)?;
            Ok(socket)
        };
        let what = || device.map_or_else(|| "capture".to_owned(), |name| format!("capture on {name}"));
        let socket = ns.run(open)?.map_err(|e| KernelError::io(what(), &e))?;
        Ok(Capture { socket, device: device.cloned(), buffer: vec![0; snaplen + TAG], snaplen, drops: 0 })
    }

    /// The next packet, `None` if there is none within `wait`.
    ///
    /// # Errors
    /// `ENODEV` when the one device it looks at is gone.
    pub fn next(&mut self, wait: Duration) -> io::Result<Option<Packet<'_>>> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        let (head, length) = match self.receive() {
            Ok(received) => received,
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => return Ok(None),
            // Said once when the device goes down, also for good.
            Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => {
                let there = |name: &IfName| rustix::net::netdevice::name_to_index(&self.socket, name.as_str()).is_ok();
                return match self.device.as_ref().is_none_or(there) {
                    true => Ok(None),
                    false => Err(io::Error::from_raw_os_error(libc::ENODEV)),
                };
            }
            Err(e) => return Err(e),
        };
        // What a device sends to itself is seen twice.
        if head.hardware == libc::ARPHRD_LOOPBACK && head.direction == Direction::Out {
            return Ok(None);
        }
        let mut kept = length.min(self.snaplen);
        let mut whole = length;
        if let Some(tag) = head.tag.filter(|_| kept >= TAG_AT) {
            self.buffer.copy_within(TAG_AT..kept, TAG_AT + TAG);
            self.buffer[TAG_AT..TAG_AT + TAG].copy_from_slice(&tag);
            kept = (kept + TAG).min(self.snaplen);
            whole += TAG;
        }
        Ok(Some(Packet {
            index: head.index,
            hardware: head.hardware,
            direction: head.direction,
            reception: head.reception,
            time: head.time,
            length: whole,
            data: &self.buffer[..kept],
        }))
    }

    /// How many packets the kernel has dropped so far because nobody read fast enough, of all devices together.
    pub fn drops(&mut self) -> u64 {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).expect("it is small");
        // SAFETY: the pointers are to a tpacket_stats and its size, which live through the call.
        let code = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        if code == 0 {
            // The kernel begins anew with each look.
            self.drops += u64::from(stats.tp_drops);
        }
        self.drops
    }

    /// The name of a device of the namespace.
    pub fn name_of(&self, index: u32) -> Option<IfName> {
        rustix::net::netdevice::index_to_name(&self.socket, index).ok()?.parse().ok()
    }

    /// One packet into the buffer: what the kernel says of it, and its length.
    fn receive(&mut self) -> io::Result<(Head, usize)> {
        let mut control = [0_u64; CONTROL_WORDS];
        // SAFETY: both structures are plain numbers and pointers, of which zero is a value.
        let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { (zeroed(), zeroed()) };
        let mut part = libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.snaplen };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).expect("it is small");
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of::<[u64; CONTROL_WORDS]>();
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: every pointer of the message is to a live object of the length beside it.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, flags) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut head = Head::of(&from);
        // SAFETY: the message was filled by the kernel, its control buffer lives and is aligned.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        while !next.is_null() {
            // SAFETY: the pointer is to a header inside the control buffer, by CMSG_FIRSTHDR or CMSG_NXTHDR; the data
            // behind it is as long as the kernel makes these two kinds, and is read without asking for alignment.
            unsafe {
                let data = libc::CMSG_DATA(next);
                match ((*next).cmsg_level, (*next).cmsg_type) {
                    (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                        head.time = nanoseconds(data.cast::<libc::timespec>().read_unaligned());
                    }
                    (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                        head.tag = tag(data.cast::<libc::tpacket_auxdata>().read_unaligned());
                    }
                    _ => {}
                }
                next = libc::CMSG_NXTHDR(&raw const message, next);
            }
        }
        Ok((head, length))
    }
}

/// What the kernel says of a packet.
struct Head {
    index: u32,
    hardware: u16,
    direction: Direction,
    reception: Reception,
    time: u64,
    tag: Option<[u8; TAG]>,
}

impl Head {
    fn of(from: &libc::sockaddr_ll) -> Self {
        let (direction, reception) = match from.sll_pkttype {
            libc::PACKET_OUTGOING => (Direction::Out, Reception::Unspecified),
            libc::PACKET_BROADCAST => (Direction::In, Reception::Broadcast),
            libc::PACKET_MULTICAST => (Direction::In, Reception::Multicast),
            libc::PACKET_OTHERHOST => (Direction::In, Reception::Other),
            _ => (Direction::In, Reception::Unicast),
        };
        Head {
            index: u32::try_from(from.sll_ifindex).unwrap_or_default(),
            hardware: from.sll_hatype,
            direction,
            reception,
            time: 0,
            tag: None,
        }
    }
}

fn nanoseconds(time: libc::timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or_default())
}

fn tag(data: libc::tpacket_auxdata) -> Option<[u8; TAG]> {
    const VLAN: u16 = 0x8100;
    if data.tp_status & TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let kind = if data.tp_status & TP_STATUS_VLAN_TPID_VALID == 0 { VLAN } else { data.tp_vlan_tpid };
    let ([a, b], [c, d]) = (kind.to_be_bytes(), data.tp_vlan_tci.to_be_bytes());
    Some([a, b, c, d])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::root_or_skip;
    use crate::{LinkOp, Links, NewVeth, Route, announce};

    const SOON: Duration = Duration::from_secs(5);

    /// A namespace with a pair that is up.
    fn pair() -> (Netns, Route, [IfName; 2]) {
        let ns = Netns::create().unwrap();
        let mut route = Route::open(&ns).unwrap();
        let names = ["left", "right"].map(|n| n.parse::<IfName>().unwrap());
        let [left, right] = names.clone();
        let ops = [
            LinkOp::NewVeth(NewVeth::new(left.clone(), right.clone(), "02:00:00:00:00:02".parse().unwrap())),
            LinkOp::Up(left),
            LinkOp::Up(right),
        ];
        assert!(route.batch(&ops).unwrap().is_empty());
        (ns, route, names)
    }

    fn is_arp(data: &[u8]) -> bool {
        data.get(12..14) == Some(&[8, 6])
    }

    #[test]
    fn both_directions_with_length_and_time() {
        if !root_or_skip() {
            return;
        }
        let (ns, mut route, [left, right]) = pair();
        let mut capture = Capture::open(&ns, None, 20).unwrap();
        let mut seen = Vec::new();
        let begun = std::time::Instant::now();
        while seen.len() < 2 && begun.elapsed() < SOON {
            let Some(p) = capture.next(Duration::from_millis(20)).unwrap() else {
                // A device that came up a moment ago may still throw away what it is to send (net/core/link_watch.c).
                announce(&ns, &left, "02:00:00:00:00:01".parse().unwrap(), &["10.0.0.1".parse().unwrap()]).unwrap();
                continue;
            };
            if is_arp(p.data) {
                assert_eq!((p.data.len(), p.hardware), (20, libc::ARPHRD_ETHER));
                assert!(p.length >= 42 && p.time > 1_600_000_000_000_000_000, "{p:?}");
                seen.push((p.index, p.direction, p.reception));
            }
        }
        let index = |name: &IfName, route: &mut Route| route.link(name).unwrap().unwrap().index;
        let (l, r) = (index(&left, &mut route), index(&right, &mut route));
        assert!(seen.contains(&(l, Direction::Out, Reception::Unspecified)), "{seen:?}");
        assert!(seen.contains(&(r, Direction::In, Reception::Broadcast)), "{seen:?}");
        assert_eq!((capture.name_of(l), capture.drops()), (Some(left), 0));
    }

    #[test]
    fn it_ends_with_its_device() {
        if !root_or_skip() {
            return;
        }
        let (ns, mut route, [left, right]) = pair();
        assert_eq!(Capture::open(&ns, Some(&"absent".parse().unwrap()), 64).unwrap_err().errno, libc::ENODEV);
        let mut capture = Capture::open(&ns, Some(&left), 64).unwrap();
        assert!(route.batch(&[LinkOp::Delete(right)]).unwrap().is_empty());
        let begun = std::time::Instant::now();
        loop {
            match capture.next(SOON) {
                Err(e) => break assert_eq!(e.raw_os_error(), Some(libc::ENODEV)),
                Ok(_) => assert!(begun.elapsed() < SOON, "it does not end"),
            }
        }
    }

    #[test]
    fn tags_that_the_device_took_off_are_seen() {
        let mut data = libc::tpacket_auxdata {
            tp_status: TP_STATUS_VLAN_VALID,
            tp_len: 0,
            tp_snaplen: 0,
            tp_mac: 0,
            tp_net: 0,
            tp_vlan_tci: 0x2064,
            tp_vlan_tpid: 0x88a8,
        };
        assert_eq!(tag(data), Some([0x81, 0, 0x20, 0x64]));
        data.tp_status |= TP_STATUS_VLAN_TPID_VALID;
        assert_eq!(tag(data), Some([0x88, 0xa8, 0x20, 0x64]));
        data.tp_status = 0;
        assert_eq!(tag(data), None);
    }
}
