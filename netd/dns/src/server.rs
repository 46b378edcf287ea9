//! The servers: two tasks for each namespace, over sockets that somebody else opened in it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout_at};

use crate::answer::{Answer, Transport, answer};
use crate::directory::{Asker, Directory};
use crate::upstream::{Forwarder, receive};

/// How long a TCP client may be silent, or take for one query.
const SILENCE: Duration = Duration::from_secs(3);
/// Most TCP clients of a namespace.
const CLIENTS: usize = 128;
/// A client that has asked nothing for so long makes room when there are too many.
const PATIENCE: Duration = Duration::from_millis(250);
/// One that has been answered makes room sooner.
const COURTESY: Duration = Duration::from_millis(50);
/// How often it is looked for room, and how long a failing accept is let alone.
const PAUSE: Duration = Duration::from_millis(20);
/// Most queries of a namespace that wait for other servers.
const WAITING: usize = 512;
/// Most queries of one TCP client that are answered at once; then no more are read.
const PIPELINE: usize = 16;
/// Longest query. Nobody asks in more; a client that announces more would only hold memory.
const LONGEST_QUERY: usize = 4096;
/// Queries of one namespace before others have their turn.
const AT_ONCE: usize = 32;

/// Sockets of a namespace, bound and not blocking.
#[derive(Debug)]
pub struct Sockets {
    /// For datagrams.
    pub udp: std::net::UdpSocket,
    /// For streams; it listens.
    pub tcp: std::net::TcpListener,
}

/// What all servers have in common. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Service {
    directory: Arc<Directory>,
    forwarder: Forwarder,
    turn: Arc<AtomicU32>,
    counts: Arc<Counts>,
}

/// Queries since the start.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    forwarded: AtomicU64,
    dropped: AtomicU64,
}

/// What became of the queries since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queries {
    /// Answered from the directory, also by saying that there is no such name.
    pub answered: u64,
    /// Asked of other servers.
    pub forwarded: u64,
    /// What was no query.
    pub dropped: u64,
}

/// The servers of one namespace; they end when it is dropped, with their sockets and clients.
#[derive(Debug)]
pub struct Serving {
    site: Arc<Site>,
    tasks: [AbortHandle; 2],
}

/// What the tasks of a namespace share.
#[derive(Debug)]
struct Site {
    service: Service,
    asker: RwLock<Arc<Asker>>,
    waiting: Arc<Semaphore>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Serving {
    /// Changes what is visible from now on.
    pub fn update(&self, asker: Asker) {
        *self.site.asker.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(asker);
    }
}

impl Service {
    /// Answers from a directory, and from others what is not in it.
    pub fn new(directory: Arc<Directory>, forwarder: Forwarder) -> Self {
        Service { directory, forwarder, turn: Arc::default(), counts: Arc::default() }
    }

    /// What became of all queries so far.
    pub fn queries(&self) -> Queries {
        let Counts { answered, forwarded, dropped } = &*self.counts;
        let [answered, forwarded, dropped] = [answered, forwarded, dropped].map(|n| n.load(Ordering::Relaxed));
        Queries { answered, forwarded, dropped }
    }

    /// Begins to serve a namespace. Call it inside a runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the sockets.
    pub fn serve(&self, sockets: Sockets, asker: Asker) -> io::Result<Serving> {
        let udp = Arc::new(UdpSocket::from_std(sockets.udp)?);
        let tcp = TcpListener::from_std(sockets.tcp)?;
        let site = Arc::new(Site {
            service: self.clone(),
            asker: RwLock::new(Arc::new(asker)),
            waiting: Arc::new(Semaphore::new(WAITING)),
        });
        let tasks = [
            tokio::spawn(datagrams(site.clone(), udp)).abort_handle(),
            tokio::spawn(streams(site.clone(), tcp)).abort_handle(),
        ];
        Ok(Serving { site, tasks })
    }
}

impl Site {
    fn answer(&self, query: &[u8], transport: Transport) -> Answer {
        let asker = self.asker.read().unwrap_or_else(PoisonError::into_inner).clone();
        let turn = self.service.turn.fetch_add(1, Ordering::Relaxed);
        let answered = answer(query, transport, &asker, &self.service.directory, turn);
        let counts = &self.service.counts;
        let count = match &answered {
            Answer::Reply(_) => &counts.answered,
            Answer::Forward(_) => &counts.forwarded,
            Answer::Drop => &counts.dropped,
        };
        count.fetch_add(1, Ordering::Relaxed);
        answered
    }

    /// Leave to wait for another server.
    fn may_wait(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_owned().ok()
    }
}

async fn datagrams(site: Arc<Site>, socket: Arc<UdpSocket>) {
    // Forwarded queries of this namespace; they end with it.
    let mut asking = JoinSet::new();
    loop {
        if let Err(error) = socket.readable().await {
            tracing::warn!(%error, "a name server cannot receive");
            return;
        }
        while asking.try_join_next().is_some() {}
        for _ in 0..AT_ONCE {
            match receive(&socket, |query, from| (site.answer(query, Transport::Udp), from)) {
                Ok((answered, from)) => give(&site, &socket, &mut asking, answered, from),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // What a client that is gone sent back (ICMP): it is reported once.
                Err(_) => {}
            }
        }
        yield_now().await;
    }
}

fn give(site: &Arc<Site>, socket: &Arc<UdpSocket>, asking: &mut JoinSet<()>, answered: Answer, to: SocketAddr) {
    match answered {
        Answer::Drop => {}
        // Where there is no room for an answer it is lost, as datagrams are: the client asks again.
        Answer::Reply(bytes) => drop(socket.try_send_to(&bytes, to)),
        Answer::Forward(forward) => match site.may_wait() {
            None => drop(socket.try_send_to(&forward.failure(refused()), to)),
            Some(permit) => {
                let (site, socket) = (site.clone(), socket.clone());
                asking.spawn(async move {
                    let bytes = site.service.forwarder.ask(&forward).await;
                    let _ = socket.send_to(&bytes, to).await;
                    drop(permit);
                });
            }
        },
    }
}

fn refused() -> hickory_proto::op::ResponseCode {
    hickory_proto::op::ResponseCode::Refused
}

/// A TCP client, as the one who accepts sees it.
#[derive(Debug)]
struct Client {
    task: AbortHandle,
    since: Instant,
    manners: Arc<Manners>,
}

/// What decides whether a client makes room.
#[derive(Debug, Default)]
struct Manners {
    /// It waits for an answer: not this one.
    busy: AtomicBool,
    /// It has got one: sooner than others.
    answered: AtomicBool,
}

async fn streams(site: Arc<Site>, listener: TcpListener) {
    let mut tasks = JoinSet::new();
    // In the order they came.
    let mut clients: VecDeque<Client> = VecDeque::new();
    loop {
        while tasks.try_join_next().is_some() {}
        clients.retain(|client| !client.task.is_finished());
        if clients.len() >= CLIENTS && !make_room(&mut clients) {
            sleep(PAUSE).await;
            continue;
        }
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is left, or the client is gone already; both pass.
            sleep(PAUSE).await;
            continue;
        };
        let manners = Arc::new(Manners::default());
        let task = tasks.spawn(converse(site.clone(), stream, manners.clone()));
        clients.push_back(Client { task, since: Instant::now(), manners });
        // The new client first: it has probably asked already.
        yield_now().await;
    }
}

/// Ends the oldest client that waits for nothing, if it had its time.
fn make_room(clients: &mut VecDeque<Client>) -> bool {
    let idle = |c: &Client| {
        let limit = if c.manners.answered.load(Ordering::Relaxed) { COURTESY } else { PATIENCE };
        !c.manners.busy.load(Ordering::Relaxed) && c.since.elapsed() >= limit
    };
    let Some(client) = clients.iter().position(idle).and_then(|at| clients.remove(at)) else { return false };
    client.task.abort();
    true
}

/// What a client sends, cut into queries.
#[derive(Debug, Default)]
struct Incoming {
    bytes: Vec<u8>,
}

/// What comes next from a client.
#[derive(Debug)]
enum Next {
    Query(Vec<u8>),
    /// It will send no more.
    End,
}

impl Incoming {
    /// The next query. What was read is kept when the future is dropped.
    async fn next(&mut self, from: &mut ReadHalf<'_>) -> io::Result<Next> {
        loop {
            if let [high, low, rest @ ..] = &self.bytes[..] {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if length > LONGEST_QUERY {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if rest.len() >= length {
                    let query = rest[..length].to_vec();
                    self.bytes.drain(..2 + length);
                    return Ok(Next::Query(query));
                }
            }
            // At most one query and the beginning of the next are held.
            let mut some = [0; 512];
            match from.read(&mut some).await? {
                0 => return Ok(Next::End),
                count => self.bytes.extend_from_slice(&some[..count]),
            }
        }
    }
}

/// Serves one TCP client until it ends, breaks the rules or is silent.
async fn converse(site: Arc<Site>, mut stream: TcpStream, manners: Arc<Manners>) {
    let (mut from, mut to) = stream.split();
    let mut incoming = Incoming::default();
    let mut asking: JoinSet<(Vec<u8>, Option<OwnedSemaphorePermit>)> = JoinSet::new();
    let mut deadline = Instant::now() + SILENCE;
    let mut more = true;
    loop {
        manners.busy.store(!asking.is_empty(), Ordering::Relaxed);
        let reading = more && asking.len() < PIPELINE;
        let answered = tokio::select! {
            Some(done) = asking.join_next(), if !asking.is_empty() => match done {
                Ok((bytes, _)) => bytes,
                Err(_) => return,
            },
            next = timeout_at(deadline, incoming.next(&mut from)), if reading => match next {
                Ok(Ok(Next::Query(query))) => match site.answer(&query, Transport::Tcp) {
                    // Whoever sends no queries is no client.
                    Answer::Drop => return,
                    Answer::Reply(bytes) => bytes,
                    Answer::Forward(forward) => match site.may_wait() {
                        None => forward.failure(refused()),
                        Some(permit) => {
                            let forwarder = site.service.forwarder.clone();
                            asking.spawn(async move { (forwarder.ask(&forward).await, Some(permit)) });
                            deadline = Instant::now() + SILENCE;
                            continue;
                        }
                    },
                },
                Ok(Ok(Next::End)) => {
                    more = false;
                    continue;
                }
                // Silent while it waits for an answer is no fault.
                Err(_) if !asking.is_empty() => {
                    deadline = Instant::now() + SILENCE;
                    continue;
                }
                _ => return,
            },
            else => return,
        };
        deadline = Instant::now() + SILENCE;
        if !matches!(timeout_at(deadline, send(&mut to, &answered)).await, Ok(Ok(()))) {
            return;
        }
        manners.answered.store(true, Ordering::Relaxed);
    }
}

async fn send(to: &mut WriteHalf<'_>, answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    // One segment: some clients read the length and the message with one call.
    to.write_all(&[&length.to_be_bytes()[..], answer].concat()).await
}
