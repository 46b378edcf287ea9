//! UDP over IPv4 on a link that need not have an address: what a DHCP client speaks before it has one.
//!
//! Raw frames on a packet socket, because the kernel's own UDP sends nothing without an address of its own and drops
//! what comes to an address that is not yet there (RFC 2131 section 4.1).

use std::fmt;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use rnet_model::{IfName, MacAddr};

use crate::probe::{bind, set, transmit, unbound};
use crate::{KernelError, Links, Netns, Route};

/// The largest frame of a link with jumbo frames, and more than any DHCP message.
const FRAME: usize = 9216;
const TTL: u8 = 64;

/// UDP to one port of one Ethernet link.
pub struct Datagrams {
    socket: OwnedFd,
    dev: IfName,
    mac: MacAddr,
    port: u16,
}

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Hardware address of the last sender: of `from`, or of a router between.
    pub mac: MacAddr,
    /// Who says to have sent it.
    pub from: SocketAddrV4,
    /// Its contents. The checksum is not looked at: between two namespaces of a host there is none yet.
    pub payload: Vec<u8>,
}

impl Datagrams {
    /// Opens a socket on `dev` in `ns`, which hears what is sent to `port` from then on.
    ///
    /// # Errors
    /// When the device is absent or not Ethernet, or packet sockets are not allowed.
    pub fn open(ns: &Netns, dev: &IfName, port: u16) -> Result<Self, KernelError> {
        let operation = || format!("open a packet socket on {dev}");
        let link = Route::open(ns)?.link(dev)?.ok_or_else(|| KernelError::os(operation(), libc::ENODEV))?;
        let Some(mac) = link.mac else {
            return Err(KernelError {
                errno: libc::EOPNOTSUPP,
                ..KernelError::text(operation(), "it is no Ethernet device")
            });
        };
        let open = || -> io::Result<OwnedFd> {
            let socket = unbound()?;
            only_port(&socket, port)?;
            bind(&socket, libc::ETH_P_IP, link.index)?;
            Ok(socket)
        };
        let socket = ns.run(open)?.map_err(|e| KernelError::io(operation(), &e))?;
        Ok(Datagrams { socket, dev: dev.clone(), mac, port })
    }

    /// Hardware address of the device.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Sends one datagram from the port of the socket. `mac` is the neighbour it goes to; `None` = everybody on the
    /// link.
    ///
    /// # Errors
    /// When the device is gone or down, or the datagram is longer than its MTU.
    pub fn send(
        &self,
        from: std::net::Ipv4Addr,
        to: SocketAddrV4,
        mac: Option<MacAddr>,
        payload: &[u8],
    ) -> Result<(), KernelError> {
        let there = mac.map_or([0xff; 6], MacAddr::octets);
        let builder = PacketBuilder::ethernet2(self.mac.octets(), there)
            .ipv4(from.octets(), to.ip().octets(), TTL)
            .udp(self.port, to.port());
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        let built = builder.write(&mut frame, payload);
        let fault = |e: &io::Error| KernelError::io(format!("send a datagram on {}", self.dev), e);
        built.map_err(|e| fault(&io::Error::other(e)))?;
        transmit(&self.socket, &frame).map_err(|e| fault(&e))
    }

    /// Waits for a datagram until `deadline`; `None` when it has passed.
    ///
    /// # Errors
    /// When the device is gone or goes down.
    pub fn receive(&self, deadline: Instant) -> Result<Option<Datagram>, KernelError> {
        let fault = |e: &io::Error| KernelError::io(format!("receive a datagram on {}", self.dev), e);
        let mut buffer = vec![0; FRAME];
        loop {
            match nix::sys::socket::recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    if let Some(datagram) = parse(&buffer[..length], self.port) {
                        return Ok(Some(datagram));
                    }
                    continue;
                }
                Err(nix::errno::Errno::EINTR) => continue,
                Err(nix::errno::Errno::EAGAIN) => {}
                Err(e) => return Err(fault(&e.into())),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Rounded up: a wait of 0 ms would spin.
            let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(fault(&e.into())),
            }
        }
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Datagrams({}, port {})", self.dev, self.port)
    }
}

fn parse(frame: &[u8], port: u16) -> Option<Datagram> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let mac = MacAddr::new(frame.get(6..12)?.try_into().ok()?)?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (&packet.net, &packet.transport) else {
        return None;
    };
    (udp.destination_port() == port).then(|| Datagram {
        mac,
        from: SocketAddrV4::new(ip.header().source_addr(), udp.source_port()),
        payload: udp.payload().to_vec(),
    })
}

/// Lets through whole UDP datagrams to the port only: who waits for an answer is not woken by a busy link.
fn only_port(socket: &OwnedFd, port: u16) -> io::Result<()> {
    // linux/bpf_common.h: BPF_LD|BPF_B|BPF_ABS, BPF_LD|BPF_H|BPF_ABS, BPF_LDX|BPF_B|BPF_MSH, BPF_LD|BPF_H|BPF_IND,
    // BPF_JMP|BPF_JEQ|BPF_K, BPF_JMP|BPF_JSET|BPF_K, BPF_RET|BPF_K.
    const BYTE: u16 = 0x30;
    const HALF: u16 = 0x28;
    const HEADER: u16 = 0xb1;
    const HALF_BEHIND: u16 = 0x48;
    const EQUAL: u16 = 0x15;
    const ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // Offsets behind Ethernet's 14 bytes: protocol 9, fragment 6, header length 0, then the destination port.
    let mut program = [
        step(BYTE, 0, 0, 14 + 9),
        step(EQUAL, 0, 6, 17),
        step(HALF, 0, 0, 14 + 6),
        step(ANY_BIT, 4, 0, 0x3fff),
        step(HEADER, 0, 0, 14),
        step(HALF_BEHIND, 0, 0, 14 + 2),
        step(EQUAL, 0, 1, u32::from(port)),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: 9, filter: program.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use super::*;
    use crate::links::{LinkOp, NewVeth};
    use crate::testing::root_or_skip;

    #[test]
    fn datagrams_pass_between_links_without_addresses() {
        if !root_or_skip() {
            return;
        }
        let ns = Netns::create().unwrap();
        let mut route = Route::open(&ns).unwrap();
        let (left, right): (IfName, IfName) = ("left0".parse().unwrap(), "right0".parse().unwrap());
        let pair = NewVeth::new(left.clone(), right.clone(), "02:00:00:00:00:02".parse().unwrap());
        assert!(route.batch(&[LinkOp::NewVeth(pair)]).unwrap().is_empty());
        assert!(route.batch(&[LinkOp::Up(left.clone()), LinkOp::Up(right.clone())]).unwrap().is_empty());
        let server = Datagrams::open(&ns, &left, 67).unwrap();
        let client = Datagrams::open(&ns, &right, 68).unwrap();
        let to = |port| SocketAddrV4::new(Ipv4Addr::BROADCAST, port);
        client.send(Ipv4Addr::UNSPECIFIED, to(66), None, b"to another port").unwrap();
        client.send(Ipv4Addr::UNSPECIFIED, to(67), None, b"question").unwrap();
        let soon = Instant::now() + Duration::from_secs(5);
        let asked = server.receive(soon).unwrap().unwrap();
        assert_eq!((asked.payload.as_slice(), asked.from.port()), (&b"question"[..], 68));
        assert_eq!(asked.mac, client.mac());
        server.send("10.0.0.1".parse().unwrap(), to(68), Some(asked.mac), b"answer").unwrap();
        let answer = client.receive(soon).unwrap().unwrap();
        assert_eq!(answer.payload, b"answer");
        assert_eq!(answer.from, SocketAddrV4::new("10.0.0.1".parse().unwrap(), 67));
        assert_eq!(client.receive(Instant::now()).unwrap(), None);

        route.batch(&[LinkOp::Delete(left)]).unwrap();
        assert_eq!(client.send(Ipv4Addr::UNSPECIFIED, to(67), None, b"x").unwrap_err().errno, libc::ENXIO);
        assert_eq!(Datagrams::open(&ns, &right, 68).unwrap_err().errno, libc::ENODEV);
    }
}
