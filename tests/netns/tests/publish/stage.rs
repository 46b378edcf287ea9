//! A host with a container, a station on its LAN, and servers that say their name.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rnet_kernel::Netns;
use rnet_netns_harness::{Container, Host, Peer, World};

/// How long nobody may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Bed {
    pub(super) host: Host,
    /// On network `blue` with both families.
    pub(super) web: Container,
    /// On the host's LAN.
    pub(super) peer: Peer,
}

impl Bed {
    pub(super) fn new(world: &World) -> Self {
        Bed::with(world, "")
    }

    /// With a netd.toml.
    pub(super) fn with(world: &World, config: &str) -> Self {
        let host = world.host("h1");
        host.config(config);
        world.plug(&host, "eth0", &["192.168.115.2/24", "fd00:115::2/64"]);
        host.ip("route add default via 192.168.115.9");
        host.forwarding_may_stay();
        host.start();
        let peer = world.peer("alice", &["192.168.115.9/24", "fd00:115::9/64"]);
        host.rnet("network create blue --subnet 10.9.0.0/24 --subnet fd09::/64").ok();
        let web = host.container("web");
        host.rnet("network connect blue web --ip 10.9.0.5 --ip6 fd09::5").ok();
        Bed { host, web, peer }
    }

    /// One more on network `blue`.
    pub(super) fn container(&self, name: &str) -> Container {
        let container = self.host.container(name);
        self.host.rnet(&format!("network connect blue {name}")).ok();
        container
    }
}

/// A client in a namespace.
pub(super) trait Station {
    /// Who answers a TCP connection.
    fn ask(&self, address: &str, port: u16) -> Result<String, String>;
    /// Who answers a datagram.
    fn send(&self, address: &str, port: u16) -> Result<String, String>;
    /// A connection that stays open.
    fn open(&self, address: &str, port: u16) -> TcpStream;
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

impl Station for Netns {
    fn ask(&self, address: &str, port: u16) -> Result<String, String> {
        let to = at(address, port);
        let stream = self.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        let asked = stream.and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            hear(&mut stream)
        });
        asked.map_err(|e| e.to_string())
    }

    fn send(&self, address: &str, port: u16) -> Result<String, String> {
        let to = at(address, port);
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = self.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        exchange(&socket, to).map_err(|e| e.to_string())
    }

    fn open(&self, address: &str, port: u16) -> TcpStream {
        let to = at(address, port);
        let mut stream = self.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE * 10)).unwrap();
        hear(&mut stream).unwrap();
        stream
    }
}

/// One datagram and its answer.
pub(super) fn exchange(socket: &UdpSocket, to: SocketAddr) -> std::io::Result<String> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The line a server begins with.
fn hear(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut said = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ if byte[0] == b'\n' => return Ok(String::from_utf8_lossy(&said).into_owned()),
            _ => said.push(byte[0]),
        }
    }
}

/// One byte there and back.
pub(super) fn echo(stream: &mut TcpStream, byte: u8) -> bool {
    let mut back = [0];
    stream.write_all(&[byte]).and_then(|()| stream.read_exact(&mut back)).is_ok() && back == [byte]
}

/// A server in a namespace: TCP connections hear its name and then themselves, datagrams are answered with its name.
pub(super) struct Web {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn readable(what: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(what.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(20u8)).is_ok_and(|n| n > 0)
}

impl Web {
    pub(super) fn tcp(netns: &Netns, port: u16, name: &str) -> Self {
        let listener = netns.run(|| TcpListener::bind(("::", port))).unwrap().unwrap();
        let name = name.to_owned();
        Web::start(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                if !readable(&listener) {
                    continue;
                }
                let Ok((mut stream, _)) = listener.accept() else { continue };
                let hello = format!("{name}\n");
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    let _ = stream.set_nodelay(true);
                    let _ = stream.write_all(hello.as_bytes());
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..length]).is_err() {
                            return;
                        }
                    }
                });
            }
        })
    }

    pub(super) fn udp(netns: &Netns, port: u16, name: &str) -> Self {
        Web::udp_at(netns, "::", port, name)
    }

    pub(super) fn udp_at(netns: &Netns, address: &str, port: u16, name: &str) -> Self {
        let socket = netns.run(|| UdpSocket::bind((address, port))).unwrap().unwrap();
        let name = name.to_owned();
        Web::start(move |stop| {
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if readable(&socket)
                    && let Ok((_, from)) = socket.recv_from(&mut buffer)
                {
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            }
        })
    }

    fn start(work: impl FnOnce(Arc<AtomicBool>) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        Web { stop, thread: Some(std::thread::spawn(move || work(flag))) }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
