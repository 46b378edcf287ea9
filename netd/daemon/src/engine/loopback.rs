//! The proxy behind published ports on loopback addresses.
//!
//! The kernel sends nothing from 127.0.0.0/8 out of a device without `route_localnet`, which would also let neighbours
//! reach what listens on loopback. So connections of the host to its own loopback are taken here and made again from
//! the host's side of the container's bridge. It also joins the families: `[::1]:80` leads to a container with IPv4
//! only.
//!
//! TCP has one listener per family, on a port of its own: the packet filter leads the published ports of all loopback
//! addresses there, and each connection is asked where it was meant to go. What was not led there is refused. UDP has a socket per
//! published port. Everything runs on one thread, which is not there before it is needed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rnet_api::ApiError;
use rnet_model::{Kind, Protocol};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet, LocalSet};

use super::handle::spawn;
use super::ports::ProxyPorts;

/// Longest time for a container to take a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a UDP client is remembered after its last datagram and the last answer to it.
const IDLE: Duration = Duration::from_secs(60);
/// Most UDP clients of all ports; more than these are not heard until others have gone.
const CLIENTS: usize = 4096;
/// Largest datagram of UDP.
const DATAGRAM: usize = 65_535;

/// A published port on loopback. `None` means both 127.0.0.1 and ::1: most publications are so, and there may be many.
type Key = (Protocol, Option<IpAddr>, u16);
type Table = Arc<Mutex<HashMap<Key, SocketAddr>>>;

/// What the thread is told.
enum Order {
    Listen(std::net::TcpListener),
    Serve(SocketAddr, std::net::UdpSocket),
    Stop(SocketAddr),
}

/// The engine's end of the proxy.
#[derive(Debug)]
pub(super) struct Loopback {
    table: Table,
    orders: Option<mpsc::UnboundedSender<Order>>,
    /// Most TCP connections at once.
    connections: usize,
    /// Where it listens on 127.0.0.1 and ::1.
    pub(super) ports: ProxyPorts,
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

impl Loopback {
    /// Of at most so many connections. Nothing runs yet.
    pub(super) fn new(connections: usize) -> Self {
        Loopback { table: Table::default(), orders: None, connections, ports: ProxyPorts::default() }
    }

    /// Starts the thread, unless it runs; `before` are the ports an earlier run listened on, which the packet filter may
    /// still lead to. To be called in the host's namespace.
    pub(super) fn start(&mut self, before: ProxyPorts) -> Result<(), ApiError> {
        if self.orders.is_some() {
            return Ok(());
        }
        let fail = |e: std::io::Error| ApiError::new(Kind::Retry, "cannot listen on loopback").because(&e);
        let (orders, inbox) = mpsc::unbounded_channel();
        let v4 = listen(V4, before.v4).map_err(fail)?;
        // A host without IPv6 has no ::1.
        let v6 = listen(V6, before.v6).ok();
        let port = |l: &std::net::TcpListener| l.local_addr().map(|a| a.port());
        self.ports = ProxyPorts { v4: Some(port(&v4).map_err(fail)?), v6: v6.as_ref().and_then(|l| port(l).ok()) };
        let (table, connections) = (self.table.clone(), self.connections);
        spawn("loopback", move || serve(&table, connections, inbox))?;
        for listener in std::iter::once(v4).chain(v6) {
            let _ = orders.send(Order::Listen(listener));
        }
        self.orders = Some(orders);
        Ok(())
    }

    /// Takes what the publication of a port needs: a socket of its own, with UDP. The port itself leads nowhere before
    /// [`Loopback::lead`].
    pub(super) fn open(&self, protocol: Protocol, on: IpAddr, port: u16) -> std::io::Result<()> {
        let (Protocol::Udp, Some(orders)) = (protocol, &self.orders) else { return Ok(()) };
        let socket = match std::net::UdpSocket::bind((on, port)) {
            // A host without IPv6.
            Err(e) if on == V6 && e.kind() == std::io::ErrorKind::AddrNotAvailable => return Ok(()),
            bound => bound?,
        };
        socket.set_nonblocking(true)?;
        let _ = orders.send(Order::Serve(SocketAddr::new(on, port), socket));
        Ok(())
    }

    /// Gives back what [`Loopback::open`] took for one port.
    pub(super) fn close(&self, protocol: Protocol, on: IpAddr, port: u16) {
        if let (Protocol::Udp, Some(orders)) = (protocol, &self.orders) {
            let _ = orders.send(Order::Stop(SocketAddr::new(on, port)));
        }
    }

    /// Leads ports to the container, or with `None` nowhere.
    pub(super) fn lead(&self, changes: impl IntoIterator<Item = (Key, Option<SocketAddr>)>) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, target) in changes {
            match target {
                Some(target) => table.insert(key, target),
                None => table.remove(&key),
            };
        }
    }
}

/// Ports that hardly anybody publishes: the last ones below 1024.
const OUT_OF_THE_WAY: std::ops::RangeInclusive<u16> = 960..=1023;

/// On the port of an earlier run if it can be had, else on one that nobody is likely to publish, else on any.
fn listen(address: IpAddr, before: Option<u16>) -> std::io::Result<std::net::TcpListener> {
    let ports = before.into_iter().chain(OUT_OF_THE_WAY.rev());
    let bound = ports.map(|port| std::net::TcpListener::bind((address, port))).find_map(Result::ok);
    let listener = bound.map_or_else(|| std::net::TcpListener::bind((address, 0)), Ok)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn look_up(table: &Table, protocol: Protocol, at: SocketAddr) -> Option<SocketAddr> {
    let table = table.lock().unwrap_or_else(PoisonError::into_inner);
    let exact = table.get(&(protocol, Some(at.ip()), at.port()));
    let usual = || table.get(&(protocol, None, at.port())).filter(|_| at.ip() == V4 || at.ip() == V6);
    exact.or_else(usual).copied()
}

fn serve(table: &Table, connections: usize, mut inbox: mpsc::UnboundedReceiver<Order>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "published ports do not work on loopback"),
    };
    let slots = Arc::new(Semaphore::new(connections));
    let clients = Arc::new(Semaphore::new(CLIENTS));
    let mut sockets: HashMap<SocketAddr, AbortHandle> = HashMap::new();
    let local = LocalSet::new();
    let work = local.run_until(async {
        while let Some(order) = inbox.recv().await {
            match order {
                Order::Listen(listener) => match TcpListener::from_std(listener) {
                    Ok(listener) => {
                        tokio::task::spawn_local(accept(listener, table.clone(), slots.clone()));
                    }
                    Err(error) => tracing::error!(%error, "published ports do not work on loopback"),
                },
                Order::Serve(address, socket) => match UdpSocket::from_std(socket) {
                    Ok(socket) => {
                        let task = tokio::task::spawn_local(relay(socket, address, table.clone(), clients.clone()));
                        if let Some(old) = sockets.insert(address, task.abort_handle()) {
                            old.abort();
                        }
                    }
                    Err(error) => tracing::error!(%error, %address, "a published port does not work on loopback"),
                },
                Order::Stop(address) => {
                    if let Some(task) = sockets.remove(&address) {
                        task.abort();
                    }
                }
            }
        }
    });
    runtime.block_on(work);
}

async fn accept(listener: TcpListener, table: Table, slots: Arc<Semaphore>) {
    loop {
        // What waits for a slot waits in the kernel's queue.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let table = table.clone();
                tokio::task::spawn_local(async move {
                    connect(stream, &table).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors: connections that are open will end.
                tracing::warn!(%error, "cannot accept a connection on loopback");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Where a connection was meant to go, if it was led here.
fn meant_for(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let original: SocketAddr = if local.is_ipv4() {
        let raw = getsockopt(stream, sockopt::OriginalDst).ok()?;
        (Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr)), u16::from_be(raw.sin_port)).into()
    } else {
        let raw = getsockopt(stream, sockopt::Ip6tOriginalDst).ok()?;
        (Ipv6Addr::from(raw.sin6_addr.s6_addr), u16::from_be(raw.sin6_port)).into()
    };
    (original != local).then_some(original)
}

async fn connect(mut stream: TcpStream, table: &Table) {
    let target = meant_for(&stream).and_then(|at| look_up(table, Protocol::Tcp, at));
    let Some(target) = target else { return reset(&stream) };
    match tokio::time::timeout(CONNECT, TcpStream::connect(target)).await {
        Ok(Ok(mut inside)) => {
            let _ = (stream.set_nodelay(true), inside.set_nodelay(true));
            // Each half is closed when the other side's is.
            if tokio::io::copy_bidirectional(&mut stream, &mut inside).await.is_err() {
                reset(&stream);
                reset(&inside);
            }
        }
        Ok(Err(error)) => {
            tracing::debug!(%target, %error, "a published port is closed inside");
            reset(&stream);
        }
        Err(_) => reset(&stream),
    }
}

/// Its end will be a reset, not an orderly one.
fn reset(stream: &TcpStream) {
    let _ = setsockopt(stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 });
}

/// A client of a UDP port: the socket that stands for it towards the container.
struct Client {
    socket: Rc<UdpSocket>,
    target: SocketAddr,
    heard: Rc<RefCell<Instant>>,
    task: AbortHandle,
}

/// Takes one datagram without a buffer that lives on.
fn take<T>(socket: &UdpSocket, mut receive: impl FnMut(&UdpSocket, &mut [u8]) -> std::io::Result<T>) -> Option<T> {
    let mut buffer = [0; DATAGRAM];
    receive(socket, &mut buffer).ok()
}

async fn relay(socket: UdpSocket, address: SocketAddr, table: Table, slots: Arc<Semaphore>) {
    let socket = Rc::new(socket);
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            ready = socket.readable() => if ready.is_err() { return },
            ended = tasks.join_next(), if !tasks.is_empty() => {
                // Unless it has come again meanwhile.
                let over = |c: &Client| c.task.is_finished();
                if let Some(Ok(client)) = ended && clients.get(&client).is_some_and(over) {
                    clients.remove(&client);
                }
                continue;
            }
        }
        let received =
            take(&socket, |s, buffer| s.try_recv_from(buffer).map(|(length, from)| (from, buffer[..length].to_vec())));
        let Some((from, datagram)) = received else { continue };
        let Some(target) = look_up(&table, Protocol::Udp, address) else { continue };
        let known = clients.get(&from).filter(|c| c.target == target && !c.task.is_finished());
        let inside = match known {
            Some(client) => {
                *client.heard.borrow_mut() = Instant::now();
                client.socket.clone()
            }
            None => {
                if let Some(old) = clients.remove(&from) {
                    old.task.abort();
                }
                let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                let Ok(inside) = socket_to(target).await else { continue };
                let (inside, heard) = (Rc::new(inside), Rc::new(RefCell::new(Instant::now())));
                let answers = answer(inside.clone(), socket.clone(), from, heard.clone());
                let task = tasks.spawn_local(async move {
                    answers.await;
                    drop(slot);
                    from
                });
                clients.insert(from, Client { socket: inside.clone(), target, heard, task });
                inside
            }
        };
        // A container that is not listening says so; the client may try again.
        let _ = inside.send(&datagram).await;
    }
}

async fn socket_to(target: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// The way back, until nobody has said anything for a while.
async fn answer(inside: Rc<UdpSocket>, socket: Rc<UdpSocket>, client: SocketAddr, heard: Rc<RefCell<Instant>>) {
    loop {
        let until = *heard.borrow() + IDLE;
        match tokio::time::timeout_at(until.into(), inside.readable()).await {
            Ok(Ok(())) => {
                let received = take(&inside, |s, buffer| s.try_recv(buffer).map(|length| buffer[..length].to_vec()));
                if let Some(datagram) = received {
                    let _ = socket.send_to(&datagram, client).await;
                    *heard.borrow_mut() = Instant::now();
                }
            }
            Ok(Err(_)) => return,
            Err(_) if heard.borrow().elapsed() >= IDLE => return,
            Err(_) => {}
        }
    }
}
