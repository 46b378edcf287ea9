#![allow(clippy::unwrap_used, clippy::print_stdout)]
//! What the tables do to packets: a host with two networks and a neighbour outside, in private namespaces.
//!
//! Each thing that must not pass has its twin: without the element or the guard it does, so the test can fail.

mod guard;
mod published;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::MsgFlags;
use rnet_model::Protocol;

use super::{Filter as _, FilterChange, FilterSet, FilterState, Nft};
use crate::probe::{bind, transmit, unbound};
use crate::{Links as _, Netns, Route, testing};

/// A namespace with a name in the file system, for ip(8).
struct Station {
    ns: Netns,
    file: PathBuf,
}

impl Station {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let ns = Netns::create().unwrap();
        let file = std::env::temp_dir().join(format!("rnet-traffic-{}-{number}", std::process::id()));
        ns.bind(&file).unwrap();
        Station { ns, file }
    }

    fn ip(&self, words: &str) {
        let output = self.ns.run(|| Command::new("ip").args(words.split_whitespace()).output().unwrap()).unwrap();
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn sysctl(&self, key: &str, value: &str) {
        self.ns.run(|| std::fs::write(format!("/proc/sys/{key}"), value).unwrap()).unwrap();
    }

    /// Serves TCP: whoever connects is told this word and the address he seems to come from.
    fn serve(&self, at: &str, word: &'static str) {
        let listener = self.ns.run(|| TcpListener::bind(at).unwrap()).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = write!(stream, "{word} {}", stream.peer_addr().unwrap().ip());
            }
        });
    }

    /// What a server says; `None` when there is no connection.
    fn ask(&self, at: &str) -> Option<String> {
        let at: SocketAddr = at.parse().unwrap();
        self.ns
            .run(|| {
                let mut stream = TcpStream::connect_timeout(&at, Duration::from_millis(700)).ok()?;
                stream.set_read_timeout(Some(Duration::from_millis(700))).ok()?;
                let mut said = String::new();
                stream.read_to_string(&mut said).ok()?;
                Some(said)
            })
            .unwrap()
    }

    /// A raw socket on a device.
    fn wire(&self, dev: &str) -> Wire {
        let dev: rnet_model::IfName = dev.parse().unwrap();
        let index = Route::open(&self.ns).unwrap().link(&dev).unwrap().unwrap().index;
        let socket = self.ns.run(|| unbound().unwrap()).unwrap();
        bind(&socket, libc::ETH_P_ALL, index).unwrap();
        Wire { socket }
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        let _ = Netns::unbind(&self.file);
    }
}

struct Wire {
    socket: OwnedFd,
}

impl Wire {
    fn send(&self, frame: &[u8]) {
        transmit(&self.socket, frame).unwrap();
    }

    /// Whether a frame with these bytes in it comes in before the marker, which is sent after it and always passes.
    fn hears(&self, wanted: &[u8], marker: &[u8]) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut buffer = vec![0; 2048];
        let mut heard = false;
        let has = |frame: &[u8], part: &[u8]| frame.windows(part.len()).any(|window| window == part);
        while Instant::now() < deadline {
            match nix::sys::socket::recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) if has(&buffer[..length], marker) => return heard,
                Ok(length) => heard |= has(&buffer[..length], wanted),
                Err(_) => std::thread::yield_now(),
            }
        }
        panic!("the marker never came");
    }
}

/// `out` at 192.0.2.9 and 2001:db8::9, `host` at .1 with networks 10.1.0.0/24 (`one`, `two`, and fd01::) on `rb0` and
/// 10.2.0.0/24 (`three`, isolated) on `rb1`.
struct Bed {
    host: Station,
    out: Station,
    one: Station,
    two: Station,
    three: Station,
    filter: Nft,
}

const MAC_ONE: [u8; 6] = [2, 0, 0, 0, 1, 2];
const MAC_TWO: [u8; 6] = [2, 0, 0, 0, 1, 3];

impl Bed {
    fn new() -> Option<Self> {
        if !testing::nft_or_skip() {
            return None;
        }
        let host = Station::new();
        let bed = Bed {
            filter: Nft::new(&host.ns, "rnet"),
            out: Station::new(),
            one: Station::new(),
            two: Station::new(),
            three: Station::new(),
            host,
        };
        let host = &bed.host;
        host.ip("link set lo up");
        host.ip(&format!("link add eth0 type veth peer name eth0 netns {}", bed.out.file.display()));
        host.sysctl("net/ipv4/ip_forward", "1");
        host.sysctl("net/ipv6/conf/all/forwarding", "1");
        let both = [(host, "1"), (&bed.out, "9")];
        for (station, last) in both {
            station.ip("link set lo up");
            station.ip("link set eth0 up");
            station.ip(&format!("address add 192.0.2.{last}/24 dev eth0"));
            station.ip(&format!("address add 2001:db8::{last}/64 dev eth0 nodad"));
        }
        host.ip("address add 192.0.2.2/24 dev eth0");
        for bridge in ["rb0", "rb1"] {
            host.ip(&format!("link add {bridge} type bridge forward_delay 0"));
            host.ip(&format!("link set {bridge} addrgenmode none up"));
        }
        host.ip("address add 10.1.0.1/24 dev rb0");
        host.ip("address add fd01::1/64 dev rb0 nodad");
        // The kernel asks for a neighbour of a packet it forwards from a link-local address, or not at all
        // (ndisc_solicit, net/ipv6/ndisc.c).
        host.ip("address add fe80::1/64 dev rb0 nodad");
        host.ip("address add 10.2.0.1/24 dev rb1");
        for (station, port, bridge, mac, ip) in [
            (&bed.one, "p1", "rb0", MAC_ONE, "10.1.0.2"),
            (&bed.two, "p2", "rb0", MAC_TWO, "10.1.0.3"),
            (&bed.three, "p3", "rb1", [2, 0, 0, 0, 2, 2], "10.2.0.2"),
        ] {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            let file = station.file.display();
            host.ip(&format!("link add {port} type veth peer name eth0 address {mac} netns {file}"));
            host.ip(&format!("link set {port} master {bridge} addrgenmode none up"));
            station.ip("link set lo up");
            station.ip("link set eth0 up");
            station.ip(&format!("address add {ip}/24 dev eth0"));
            let net = ip.rsplit_once('.').unwrap().0;
            station.ip(&format!("route add default via {net}.1"));
            if bridge == "rb0" {
                station.ip(&format!("address add fd01::{}/64 dev eth0 nodad", ip.rsplit_once('.').unwrap().1));
                station.ip("route add default via fd01::1");
            }
        }
        Some(bed)
    }

    fn networks() -> Vec<FilterChange> {
        let device = |set, name: &str| FilterChange::Device(set, name.parse().unwrap());
        vec![
            device(FilterSet::Networks, "rb0"),
            device(FilterSet::Networks, "rb1"),
            device(FilterSet::Isolated, "rb0"),
            device(FilterSet::Isolated, "rb1"),
            FilterChange::Masquerade("10.1.0.0/24".parse().unwrap()),
            FilterChange::Masquerade("fd01::/64".parse().unwrap()),
            FilterChange::Masquerade("10.2.0.0/24".parse().unwrap()),
        ]
    }

    /// The tables with these facts and no others.
    fn with(&mut self, facts: &[FilterChange]) {
        let wanted: FilterState = Bed::networks().into_iter().chain(facts.iter().cloned()).collect();
        self.filter.settle(&wanted).unwrap();
    }
}

fn published(host: &str, port: u16, target: &str) -> FilterChange {
    let (host, target) = (host.parse().unwrap(), target.parse().unwrap());
    FilterChange::Published(super::Published { protocol: Protocol::Tcp, host, port, target })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
