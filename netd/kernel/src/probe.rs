//! Who has an address on a link, and telling the link that it has moved: ARP for IPv4, Neighbour Discovery for IPv6.
//!
//! Raw frames on a packet socket, because the kernel only asks for addresses it is about to use itself.
#![allow(unsafe_code)]

mod frame;

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use rnet_model::{IfName, MacAddr};

use crate::{KernelError, Links, Netns, Route};

/// An address and who answered for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Probe {
    /// The address that was asked for.
    pub ip: IpAddr,
    /// Hardware address of its owner.
    pub mac: MacAddr,
}

/// How long to listen for an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProbeTiming {
    /// Three questions within 300 ms. RFC 5227 section 1.3 lets fast links use shorter times.
    #[default]
    Fast,
    /// The times of RFC 5227 section 1.1: up to 7 s.
    Rfc5227,
}

impl ProbeTiming {
    /// When each question goes out and when listening ends, from the start. `chance` is from 0 to 255.
    fn schedule(self, chance: u8) -> ([Duration; 3], Duration) {
        let ms = Duration::from_millis;
        match self {
            ProbeTiming::Fast => ([ms(0), ms(100), ms(200)], ms(300)),
            ProbeTiming::Rfc5227 => {
                // PROBE_WAIT 0 to 1 s, PROBE_MIN 1 s to PROBE_MAX 2 s between probes, ANNOUNCE_WAIT 2 s.
                let part = ms(u64::from(chance) * 1000 / 255);
                let gap = ms(1000) + part;
                ([part, part + gap, part + gap * 2], part + gap * 2 + ms(2000))
            }
        }
    }
}

/// Asks the link of `dev` in `ns` who has `ips`. Returns when all are answered for, else when the time is over; an
/// address that is not in the answer is free as far as anybody there knows. Blocks.
///
/// # Errors
/// When the device is absent, down or not Ethernet, or packet sockets are not allowed.
pub fn probe(ns: &Netns, dev: &IfName, ips: &[IpAddr], timing: ProbeTiming) -> Result<Vec<Probe>, KernelError> {
    let operation = || format!("probe for addresses on {dev}");
    if ips.is_empty() {
        return Ok(Vec::new());
    }
    let link = Route::open(ns)?.link(dev)?.ok_or_else(|| KernelError::os(operation(), libc::ENODEV))?;
    let Some(mac) = link.mac else {
        return Err(KernelError {
            errno: libc::EOPNOTSUPP,
            ..KernelError::text(operation(), "it is no Ethernet device")
        });
    };
    let asker = Asker { index: link.index, mac };
    ns.run(|| asker.ask(ips, timing))?.map_err(|e| KernelError::io(operation(), &e))
}

/// Tells the link of `dev` in `ns` that `ips` are at `mac` now, so that caches and switches follow a moved address.
/// One frame each; does not wait.
///
/// # Errors
/// When the device is absent or down, or packet sockets are not allowed.
pub fn announce(ns: &Netns, dev: &IfName, mac: MacAddr, ips: &[IpAddr]) -> Result<(), KernelError> {
    let send = || -> io::Result<()> {
        let socket = unbound()?;
        let index = rustix::net::netdevice::name_to_index(&socket, dev.as_str())?;
        // Protocol 0: nothing is to be received.
        bind(&socket, 0, index)?;
        ips.iter().try_for_each(|ip| transmit(&socket, &frame::announcement(mac, *ip)))
    };
    ns.run(send)?.map_err(|e| KernelError::io(format!("announce addresses on {dev}"), &e))
}

struct Asker {
    index: u32,
    mac: MacAddr,
}

impl Asker {
    fn ask(&self, ips: &[IpAddr], timing: ProbeTiming) -> io::Result<Vec<Probe>> {
        let mut sockets = Vec::new();
        if ips.iter().any(IpAddr::is_ipv4) {
            sockets.push(self.arp()?);
        }
        if ips.iter().any(IpAddr::is_ipv6) {
            sockets.push(self.discovery(ips)?);
        }
        let mut chance = [0];
        // Without it all askers of a link that came up together would ask at the same time, no more.
        let _ = rustix::rand::getrandom(&mut chance, rustix::rand::GetRandomFlags::NONBLOCK);
        let (questions, end) = timing.schedule(chance[0]);
        let start = Instant::now();
        let mut found: Vec<Probe> = Vec::new();
        for (at, until) in questions.iter().zip(questions[1..].iter().chain([&end])) {
            self.listen(&sockets, start + *at, ips, &mut found)?;
            for ip in ips.iter().filter(|ip| found.iter().all(|p| p.ip != **ip)) {
                let socket = if ip.is_ipv4() { sockets.first() } else { sockets.last() };
                transmit(socket.expect("each family asked for has a socket"), &frame::question(self.mac, *ip))?;
            }
            self.listen(&sockets, start + *until, ips, &mut found)?;
            if found.len() == ips.len() {
                break;
            }
        }
        Ok(found)
    }

    /// Reads what comes until `deadline` or until every address is found.
    fn listen(&self, sockets: &[OwnedFd], deadline: Instant, ips: &[IpAddr], found: &mut Vec<Probe>) -> io::Result<()> {
        let mut buffer = [0; 1514];
        while found.len() < ips.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let mut fds: Vec<_> = sockets.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
            // Rounded up: a wait of 0 ms would spin.
            let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
            match poll(&mut fds, wait) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            for socket in sockets {
                let length = match nix::sys::socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => length,
                    Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => continue,
                    Err(e) => return Err(e.into()),
                };
                let claim = frame::claim(&buffer[..length], self.mac);
                if let Some(claim) = claim.filter(|c| ips.contains(&c.ip) && found.iter().all(|f| f.ip != c.ip)) {
                    found.push(claim);
                }
            }
        }
        Ok(())
    }

    fn arp(&self) -> io::Result<OwnedFd> {
        let socket = unbound()?;
        bind(&socket, libc::ETH_P_ARP, self.index)?;
        Ok(socket)
    }

    fn discovery(&self, ips: &[IpAddr]) -> io::Result<OwnedFd> {
        let socket = unbound()?;
        only_neighbour_discovery(&socket)?;
        // Answers to a question from :: go to all nodes, other askers to the solicited-node group. The device passes
        // them on only if somebody listens; the kernel itself may not, with IPv6 off.
        join(&socket, self.index, frame::all_nodes())?;
        for ip in ips {
            if let IpAddr::V6(ip) = ip {
                join(&socket, self.index, frame::multicast_mac(frame::solicited_node(*ip)))?;
            }
        }
        bind(&socket, libc::ETH_P_IPV6, self.index)?;
        Ok(socket)
    }
}

/// Protocol 0 receives nothing until [`bind`] names a protocol and a device (packet(7)).
pub(crate) fn unbound() -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("the structures of the socket interface are small")
}

fn result(code: libc::c_int) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn device(index: u32) -> io::Result<i32> {
    i32::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
}

pub(crate) fn bind(socket: &OwnedFd, ether_type: i32, index: u32) -> io::Result<()> {
    let ether_type = u16::try_from(ether_type).expect("an EtherType is 16 bits");
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).expect("an address family is 16 bits"),
        sll_protocol: ether_type.to_be(),
        sll_ifindex: device(index)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer is to a sockaddr_ll that lives through the call, and the length is its size.
    result(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length_of::<libc::sockaddr_ll>()) })
}

pub(crate) fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer is to a T that lives through the call, and the length is its size.
    result(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length_of::<T>())
    })
}

fn join(socket: &OwnedFd, index: u32, group: [u8; 6]) -> io::Result<()> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&group);
    let request = libc::packet_mreq {
        mr_ifindex: device(index)?,
        mr_type: u16::try_from(libc::PACKET_MR_MULTICAST).expect("a membership type is 16 bits"),
        mr_alen: 6,
        mr_address: address,
    };
    set(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Lets through ICMPv6 of types 135 and 136 only, so that a busy link does not drown the answers.
fn only_neighbour_discovery(socket: &OwnedFd) -> io::Result<()> {
    // linux/bpf_common.h: BPF_LD|BPF_B|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K.
    const LOAD: u16 = 0x30;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // Offsets: next header of IPv6 behind Ethernet, type of ICMPv6 behind both.
    let mut program = [
        step(LOAD, 0, 0, 20),
        step(EQUAL, 0, 4, 58),
        step(LOAD, 0, 0, 54),
        step(EQUAL, 1, 0, 135),
        step(EQUAL, 0, 1, 136),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: 7, filter: program.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

pub(crate) fn transmit(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    loop {
        match nix::sys::socket::send(socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests;
