//! Whether a process of the host has a port, and which one.
//!
//! A port is tried by binding a socket to it. Only when that fails /proc is read, to tell who has it: it holds every
//! socket of the namespace, and looking for a process goes through all descriptors of the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use rnet_model::Protocol;

/// Who has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum User {
    /// A process: its name and number.
    Process(String, u32),
    /// A socket of the kernel, or of a process that cannot be seen from here.
    Unknown,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            User::Process(name, pid) => write!(f, "{name} (process {pid})"),
            User::Unknown => f.write_str("another process"),
        }
    }
}

/// Whose port it is; `None` = nobody's. `host` as of a published port. To be called in the host's namespace.
pub(super) fn user_of(protocol: Protocol, host: Option<IpAddr>, port: u16) -> Option<User> {
    let refused = match host {
        // One socket for both families, where there are two.
        None => match try_bind(protocol, Ipv6Addr::UNSPECIFIED.into(), port) {
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => try_bind(protocol, Ipv4Addr::UNSPECIFIED.into(), port),
            tried => tried,
        },
        Some(address) => try_bind(protocol, address, port),
    };
    if refused.err() != Some(Errno::EADDRINUSE) {
        // A kernel without SCTP cannot have somebody listen there either; what else fails is no answer.
        return None;
    }
    let all: Vec<Socket> = sockets(protocol).into_iter().filter(|s| s.address.port() == port).collect();
    if all.is_empty() {
        // One that is bound and does not listen is in no list.
        return Some(User::Unknown);
    }
    let in_the_way = |s: &&Socket| s.waits && is_hidden(s.address.ip(), host);
    all.iter().find(in_the_way).map(|s| process_of(s.inode))
}

/// Whether a socket on `address` would no longer get what is published on `host`. A wildcard is served on the usual
/// loopback addresses only, so that name servers on 127.0.0.53 stay as they are.
fn is_hidden(address: IpAddr, host: Option<IpAddr>) -> bool {
    let usual = address == IpAddr::V4(Ipv4Addr::LOCALHOST) || address == IpAddr::V6(Ipv6Addr::LOCALHOST);
    match host {
        _ if address.is_unspecified() => true,
        None => !address.is_loopback() || usual,
        Some(host) if host.is_unspecified() => address.is_ipv4() == host.is_ipv4() && (!address.is_loopback() || usual),
        Some(host) => address == host,
    }
}

fn try_bind(protocol: Protocol, address: IpAddr, port: u16) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, Some(SockProtocol::Tcp)),
        Protocol::Udp => (SockType::Datagram, Some(SockProtocol::Udp)),
        Protocol::Sctp => return Err(Errno::EPROTONOSUPPORT),
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, number)?;
    if protocol == Protocol::Tcp {
        // Connections that are at their end do not keep the port.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &!address.is_unspecified())?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, port)))?;
    Ok(fd)
}

/// One line of /proc/net/tcp and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    address: SocketAddr,
    inode: u64,
    /// Whether it waits for anybody: listens, or is not connected. One that is connected hears from its peer, whose
    /// answers belong to a flow that is known.
    waits: bool,
}

fn sockets(protocol: Protocol) -> Vec<Socket> {
    let files: &[&str] = match protocol {
        Protocol::Tcp => &["tcp", "tcp6"],
        Protocol::Udp => &["udp", "udp6"],
        Protocol::Sctp => &[],
    };
    let read = |file: &&str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    files.iter().map(read).flat_map(|text| text.lines().filter_map(parse).collect::<Vec<_>>()).collect()
}

/// `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ...` (proc_pid_net(5)).
fn parse(line: &str) -> Option<Socket> {
    /// TCP_LISTEN and TCP_CLOSE of net/tcp_states.h; a UDP socket without a peer is in the latter.
    const WAITS: [&str; 2] = ["0A", "07"];
    let mut words = line.split_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let (_, state) = (words.next()?, words.next()?);
    let inode = words.nth(5)?.parse().ok()?;
    let address = SocketAddr::new(address_of(address)?, u16::from_str_radix(port, 16).ok()?);
    Some(Socket { address, inode, waits: WAITS.contains(&state) })
}

/// Words of 32 bits, each as the machine stores it.
fn address_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (n, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(n * 8)?);
            }
            Some(IpAddr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

fn process_of(inode: u64) -> User {
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|link| link.as_os_str() == wanted.as_str())
    };
    match numbers.find(has) {
        Some(pid) => {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            User::Process(name.trim_end().to_owned(), pid)
        }
        None => User::Unknown,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn the_process_that_listens_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = user_of(Protocol::Tcp, None, port);
        assert!(matches!(found, Some(User::Process(_, pid)) if pid == std::process::id()), "{found:?}");
        assert_eq!(user_of(Protocol::Tcp, Some("127.0.0.2".parse().unwrap()), port), None, "another address");
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let own = client.local_addr().unwrap().port();
        assert_eq!(user_of(Protocol::Tcp, None, own), None, "a port a connection comes from");
    }

    #[test]
    fn datagrams() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(matches!(user_of(Protocol::Udp, None, port), Some(User::Process(..))));
        let other = UdpSocket::bind("127.0.0.53:0").unwrap();
        let port = other.local_addr().unwrap().port();
        assert_eq!(user_of(Protocol::Udp, None, port), None, "a wildcard is not served there");
        assert!(user_of(Protocol::Udp, Some("127.0.0.53".parse().unwrap()), port).is_some());
        assert_eq!(user_of(Protocol::Sctp, None, port), None);
    }

    #[test]
    fn lines() {
        let line =
            "  10: 3500007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 21551 1 x";
        let socket = parse(line).unwrap();
        assert_eq!((socket.address, socket.inode, socket.waits), ("127.0.0.53:53".parse().unwrap(), 21551, true));
        assert_eq!(address_of("00000000000000000000000001000000"), Some("::1".parse().unwrap()));
        assert_eq!(parse("  sl  local_address rem_address   st"), None);
    }
}
