//! The name servers of the host, from a file in the format of resolv.conf(5).

use std::fs::Metadata;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::upstream::may_be_asked;

/// The port of DNS.
pub(crate) const PORT: u16 = 53;
/// Most servers, as in the C library (`MAXNS` of resolv.h).
const MOST: usize = 3;

/// A resolv.conf that is read again when it has changed.
#[derive(Debug)]
pub(crate) struct ResolvConf {
    path: PathBuf,
    seen: Option<Stamp>,
    servers: Vec<SocketAddr>,
}

/// What another content has another of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(m: Metadata) -> Self {
        Stamp { device: m.dev(), inode: m.ino(), size: m.size(), modified: (m.mtime(), m.mtime_nsec()) }
    }
}

impl ResolvConf {
    pub(crate) fn new(path: PathBuf) -> Self {
        ResolvConf { path, seen: None, servers: Vec::new() }
    }

    /// The servers as the file is now; none when it cannot be read.
    pub(crate) fn servers(&mut self) -> &[SocketAddr] {
        let stamp = std::fs::metadata(&self.path).ok().map(Stamp::from);
        if stamp != self.seen || stamp.is_none() {
            let text = std::fs::read(&self.path).unwrap_or_default();
            self.servers = parse(&String::from_utf8_lossy(&text));
            self.seen = stamp;
        }
        &self.servers
    }
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default());
    let servers = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten().and_then(server)
    });
    servers.filter(|server| may_be_asked(server.ip())).take(MOST).collect()
}

/// An address; a link-local one may have its interface behind a `%`.
fn server(word: &str) -> Option<SocketAddr> {
    let Some((address, scope)) = word.split_once('%') else {
        return Some(SocketAddr::new(word.parse::<IpAddr>().ok()?, PORT));
    };
    let interface = || {
        let file = Path::new("/sys/class/net").join(scope).join("ifindex");
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    };
    let scope: u32 = scope.parse().ok().or_else(|| if scope.contains('/') { None } else { interface() })?;
    Some(SocketAddrV6::new(address.parse::<Ipv6Addr>().ok()?, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn servers_of_a_file() {
        let text = "# comment\nsearch a.example\nnameserver 127.0.0.11\n nameserver\t192.0.2.1 # first\n\
                    nameserver 0.0.0.0\nnameserver fe80::1%7\nnameserver nonsense\nnameserver 127.0.0.53\nnameserver 192.0.2.4\n";
        let found: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[fe80::1%7]:53", "127.0.0.53:53"]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let mut conf = ResolvConf::new(path.clone());
        assert!(conf.servers().is_empty());
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(conf.servers(), ["192.0.2.1:53".parse().unwrap()]);
        let other = dir.path().join("other");
        std::fs::write(&other, "nameserver 192.0.2.2\n").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(conf.servers(), ["192.0.2.2:53".parse().unwrap()]);
        std::fs::remove_file(&path).unwrap();
        assert!(conf.servers().is_empty());
    }
}
