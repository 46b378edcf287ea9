//! Asking others: the servers of the host, of a network or of a container, from the namespace of the process.
//!
//! Every question leaves by a socket of its own, so with a source port that the kernel chose at random, and with a random
//! id. The same question of several clients is asked once: a server that sends its questions back to us waits for itself
//! and nothing multiplies.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::answer::{Forward, Servers};
use crate::resolv_conf::ResolvConf;

/// How long a client waits at most: less than the 5 s after which the C library asks again.
const PATIENCE: Duration = Duration::from_secs(4);
/// Most questions that are out at once.
const IN_FLIGHT: usize = 1024;
/// Most servers that are asked.
const MOST_SERVERS: usize = 3;

/// Where a resolver listens in a container's namespace.
pub(crate) const OURS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Whether an address may be one of a name server: not where we listen ourselves, and not one that stands for any.
pub fn may_be_asked(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip != IpAddr::V4(OURS) && !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// What becomes of a question: nothing yet, an answer, or why there is none.
type Outcome = Option<Result<Arc<[u8]>, ResponseCode>>;
/// Whom, and what without id.
type Key = (Vec<SocketAddr>, Vec<u8>);

/// Asks others. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Forwarder {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    host: Mutex<ResolvConf>,
    pending: Mutex<HashMap<Key, watch::Receiver<Outcome>>>,
    slots: Arc<Semaphore>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Forwarder {
    /// With the servers of this file, which is read when they are needed and again when it has changed.
    pub fn new(resolv_conf: PathBuf) -> Self {
        let shared = Shared {
            host: Mutex::new(ResolvConf::new(resolv_conf)),
            pending: Mutex::default(),
            slots: Arc::new(Semaphore::new(IN_FLIGHT)),
        };
        Forwarder { shared: Arc::new(shared) }
    }

    /// The answer for the client: that of the first server that has one, else the reason why there is none. Takes 4 s at
    /// most.
    pub async fn ask(&self, forward: &Forward) -> Vec<u8> {
        match self.outcome(forward).await {
            Ok(answer) => forward.reply(&answer),
            Err(code) => forward.failure(code),
        }
    }

    async fn outcome(&self, forward: &Forward) -> Result<Arc<[u8]>, ResponseCode> {
        let servers = match &forward.servers {
            Servers::Host => lock(&self.shared.host).servers().to_vec(),
            Servers::Given(given) => {
                given.iter().copied().filter(|s| may_be_asked(s.ip())).take(MOST_SERVERS).collect()
            }
        };
        if servers.is_empty() {
            return Err(ResponseCode::ServFail);
        }
        let mut answer = self.join(servers, forward)?;
        // An error means that the task has ended without an answer.
        let outcome = answer.wait_for(Option::is_some).await.map_err(|_| ResponseCode::ServFail)?;
        outcome.clone().unwrap_or(Err(ResponseCode::ServFail))
    }

    /// Waits with those who ask the same, or begins to ask.
    fn join(&self, servers: Vec<SocketAddr>, forward: &Forward) -> Result<watch::Receiver<Outcome>, ResponseCode> {
        let key = (servers, forward.sameness());
        let mut pending = lock(&self.shared.pending);
        if let Some(there) = pending.get(&key) {
            return Ok(there.clone());
        }
        let slot = self.shared.slots.clone().try_acquire_owned().map_err(|_| ResponseCode::Refused)?;
        let (tell, answer) = watch::channel(None);
        pending.insert(key.clone(), answer.clone());
        let (shared, forward) = (self.shared.clone(), forward.clone());
        tokio::spawn(async move {
            let outcome = ask_all(&key.0, &forward).await.map(Arc::from);
            lock(&shared.pending).remove(&key);
            // Clients may be gone.
            let _ = tell.send(Some(outcome));
            drop(slot);
        });
        Ok(answer)
    }
}

/// Asks one server after the other, and the first once more at the end. An answer that is a failure is only given when no
/// other server has a better one.
async fn ask_all(servers: &[SocketAddr], forward: &Forward) -> Result<Vec<u8>, ResponseCode> {
    let rounds: Vec<SocketAddr> = servers.iter().chain(servers.first()).copied().collect();
    let end = Instant::now() + PATIENCE;
    let mut failure = None;
    for (at, server) in rounds.iter().enumerate() {
        let left = u32::try_from(rounds.len() - at).unwrap_or(1);
        let until = Instant::now() + end.saturating_duration_since(Instant::now()) / left;
        match ask_one(*server, forward, until).await {
            Ok((answer, NOERROR | NXDOMAIN)) => return Ok(answer),
            Ok((answer, _)) => drop(failure.get_or_insert(answer)),
            Err(error) => tracing::debug!(%server, %error, "a name server does not answer"),
        }
        if failure.is_some() && at + 2 == rounds.len() {
            // All have answered or had their time: asking the first again would bring the same.
            break;
        }
    }
    failure.ok_or(ResponseCode::ServFail)
}

const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;
/// The bit of an answer that is not whole.
const TRUNCATED: u8 = 0x02;

async fn ask_one(server: SocketAddr, forward: &Forward, until: Instant) -> io::Result<(Vec<u8>, u8)> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let (answer, code) = timeout_at(until, by_udp(server, forward)).await.map_err(late)??;
    if answer[2] & TRUNCATED == 0 {
        return Ok((answer, code));
    }
    match timeout_at(until, by_tcp(server, forward)).await {
        Ok(Ok(whole)) => Ok(whole),
        // A part is better than nothing, and says that it is one.
        _ => Ok((answer, code)),
    }
}

thread_local! {
    /// For the longest datagram there is; nothing is kept in it.
    static DATAGRAM: RefCell<Vec<u8>> = RefCell::new(vec![0; 65_536]);
}

/// Receives one datagram if there is one: the buffer is that of the thread, nobody waits with one of his own.
pub(crate) fn receive<T>(socket: &UdpSocket, use_it: impl FnOnce(&[u8], SocketAddr) -> T) -> io::Result<T> {
    DATAGRAM.with_borrow_mut(|buffer| {
        let (length, from) = socket.try_recv_from(buffer)?;
        Ok(use_it(&buffer[..length], from))
    })
}

fn random_id() -> io::Result<[u8; 2]> {
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    Ok(id)
}

async fn by_udp(server: SocketAddr, forward: &Forward) -> io::Result<(Vec<u8>, u8)> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // Only what comes from the server is received.
    socket.connect(server).await?;
    let id = random_id()?;
    socket.send(&forward.query_with(id)).await?;
    loop {
        socket.readable().await?;
        let right = |answer: &[u8], _| forward.code_of(answer, id).map(|code| (answer.to_vec(), code));
        match receive(&socket, right) {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

async fn by_tcp(server: SocketAddr, forward: &Forward) -> io::Result<(Vec<u8>, u8)> {
    let mut stream = TcpStream::connect(server).await?;
    let id = random_id()?;
    let query = forward.query_with(id);
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    let code = forward.code_of(&answer, id).ok_or(io::ErrorKind::InvalidData)?;
    Ok((answer, code))
}
