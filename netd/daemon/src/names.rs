//! The name service: a resolver on 127.0.0.11 in every namespace that has an interface on a network with names.
//!
//! Owns a thread with a runtime of its own, the sockets inside the namespaces and the table `ip rnet_dns` there, which
//! leads port 53 of that address to the sockets: so a container may have a server of its own on every address. The engine
//! says who is served and what is visible, and never waits. A namespace whose resolver cannot be set up works without.
//!
//! Sockets keep their namespace alive. One that netd did not make is looked after: when its file leads elsewhere, the
//! sockets are closed.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rnet_api::ApiError;
use rnet_dns::{Asker, Directory, Forwarder, Queries, Service, Serving, Sockets};
use rnet_kernel::rules::{
    Chain, ChainKind, Changes, Expr, Family, Field, Hook, Ip, Meta, NatFlags, NatKind, NatTo, Place as At, Rule,
    Selector, Table,
};
use rnet_kernel::{KernelError, Netns, NfTables};
use rnet_model::{Kind, Protocol};
use tokio::sync::oneshot;

/// Where containers ask.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
/// The sockets' own ports are from here on: above those that the kernel gives to connections (ip_local_port_range ends at
/// 60999), below the last.
const FIRST_PORT: u16 = 61_000;
const PORTS: u64 = 4_000;
/// How many of them are tried.
const TRIES: u16 = 64;
/// Clients that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Bytes of queries that wait, as the kernel counts them: hundreds of clients may ask at once.
const RECEIVE_BUFFER: usize = 1 << 20;
/// The table in the container's namespace.
const TABLE: &str = "rnet_dns";
/// Priority of nft(8)'s `dstnat`.
const DSTNAT: i32 = -100;
/// How long a request waits for a resolver.
const READY: Duration = Duration::from_secs(5);
/// How often namespaces of others are looked after.
const LOOK: Duration = Duration::from_millis(250);

/// How a namespace is reached.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// One of ours; it is told when it ends.
    Sandbox(Netns),
    /// A file that stands for it, as long as it does.
    File(PathBuf),
}

/// The name service. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Names {
    shared: Arc<Shared>,
}

struct Shared {
    directory: Arc<Directory>,
    service: Service,
    runtime: tokio::runtime::Handle,
    sites: Mutex<Sites>,
}

#[derive(Default)]
struct Sites {
    /// By inode of the namespace.
    all: HashMap<u64, Site>,
    /// Counts openings: a result that comes late is not taken for a newer one.
    turn: u64,
    /// Whether somebody looks after namespaces of others.
    watched: bool,
}

/// A namespace that is served.
struct Site {
    asker: Asker,
    file: Option<PathBuf>,
    turn: u64,
    state: State,
}

enum State {
    Opening(Vec<oneshot::Sender<()>>),
    /// Held: the servers end with it.
    Serving(Serving),
    Failed(String),
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("sites", &self.lock().all.len()).finish_non_exhaustive()
    }
}

impl Names {
    /// Starts the thread. Names of the outside are asked of the servers in `resolv_conf`.
    ///
    /// # Errors
    /// When there can be no thread or no runtime.
    pub(crate) fn start(resolv_conf: &Path) -> Result<Self, ApiError> {
        let fail = |e| ApiError::new(Kind::Retry, "cannot start the name service").because(&e);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // For what is done inside of namespaces, one after the other: a table that is to go must not be newer than
            // the order.
            .max_blocking_threads(1)
            .thread_stack_size(128 * 1024)
            .build()
            .map_err(fail)?;
        let directory = Arc::new(Directory::new());
        let service = Service::new(directory.clone(), Forwarder::new(resolv_conf.to_owned()));
        let shared = Shared { directory, service, runtime: runtime.handle().clone(), sites: Mutex::default() };
        // It ends with the process: a query that is being answered needs no farewell.
        let serve = move || runtime.block_on(std::future::pending::<()>());
        std::thread::Builder::new().name("names".to_owned()).stack_size(512 * 1024).spawn(serve).map_err(fail)?;
        Ok(Names { shared: Arc::new(shared) })
    }

    /// What became of the queries so far.
    pub(crate) fn queries(&self) -> Queries {
        self.shared.service.queries()
    }

    /// What is known.
    pub(crate) fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    fn lock(&self) -> MutexGuard<'_, Sites> {
        self.shared.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a namespace, or changes what is visible to it. `key` is its inode. Waits for nothing.
    pub(crate) fn serve(&self, key: u64, place: &Place, asker: Asker) {
        let mut sites = self.lock();
        sites.turn += 1;
        let turn = sites.turn;
        match sites.all.get_mut(&key) {
            Some(site) => {
                site.asker = asker;
                match &site.state {
                    State::Serving(serving) => return serving.update(site.asker.clone()),
                    State::Opening(_) => return,
                    State::Failed(_) => (site.state, site.turn) = (State::Opening(Vec::new()), turn),
                }
            }
            None => {
                let file = match place {
                    Place::File(path) => Some(path.clone()),
                    Place::Sandbox(_) => None,
                };
                if file.is_some() && !std::mem::replace(&mut sites.watched, true) {
                    self.shared.runtime.spawn(self.clone().look_after());
                }
                sites.all.insert(key, Site { asker, file, turn, state: State::Opening(Vec::new()) });
            }
        }
        drop(sites);
        self.open(key, turn, place.clone());
    }

    /// Whether a namespace is served or about to be.
    pub(crate) fn serves(&self, key: u64) -> bool {
        self.lock().all.contains_key(&key)
    }

    /// Serves a namespace no more.
    pub(crate) fn stop(&self, key: u64) {
        let site = self.lock().all.remove(&key);
        // One that goes on without us is left as it was.
        if let Some(Site { file: Some(path), .. }) = site {
            self.shared.runtime.spawn_blocking(move || {
                if let Err(error) = tidy(key, &path) {
                    tracing::debug!(%error, "cannot remove a table");
                }
            });
        }
    }

    /// Waits until a namespace is served as far as it can be; at once when it is or need not be.
    pub(crate) async fn ready(&self, key: u64) {
        let (tell, told) = oneshot::channel();
        match self.lock().all.get_mut(&key).map(|site| &mut site.state) {
            Some(State::Opening(waiting)) => waiting.push(tell),
            _ => return,
        }
        // What takes longer goes on behind; what ends without a word has been stopped.
        let _ = tokio::time::timeout(READY, told).await;
    }

    /// What does not work, a line.
    pub(crate) fn fault(&self) -> Option<String> {
        let sites = self.lock();
        let failed = |site: &Site| match &site.state {
            State::Failed(why) => Some(why.clone()),
            _ => None,
        };
        let mut faults: Vec<String> = sites.all.values().filter_map(failed).collect();
        faults.sort();
        let count = faults.len();
        Some(format!("names: {count} namespaces are without, one because: {}", faults.into_iter().next()?))
    }

    /// Sets a namespace up, on the one thread that does: what is asked for first is done first.
    fn open(&self, key: u64, turn: u64, place: Place) {
        let this = self.clone();
        let gone = match &place {
            Place::File(path) => Some(path.clone()),
            Place::Sandbox(_) => None,
        };
        let opening = self.shared.runtime.spawn_blocking(move || {
            let wanted = this.lock().all.get(&key).is_some_and(|site| site.turn == turn);
            if wanted { open(key, &place) } else { Err(KernelError::text("set up names", "nobody wants it any more")) }
        });
        let this = self.clone();
        self.shared.runtime.spawn(async move {
            let opened = opening.await.unwrap_or_else(|e| Err(KernelError::text("set up names", e.to_string())));
            let ended = opened.is_err() && gone.is_some_and(|path| !leads_to(&path, key));
            this.opened(key, turn, opened, ended);
        });
    }

    fn opened(&self, key: u64, turn: u64, opened: Result<Sockets, KernelError>, ended: bool) {
        let mut sites = self.lock();
        let Some(site) = sites.all.get_mut(&key).filter(|site| site.turn == turn) else { return };
        if ended {
            sites.all.remove(&key);
            return;
        }
        let served = opened.and_then(|sockets| {
            let fail = |e| KernelError::io("serve names", &e);
            self.shared.service.serve(sockets, site.asker.clone()).map_err(fail)
        });
        // Whoever waits is told by the end of its channel.
        site.state = match served {
            Ok(serving) => State::Serving(serving),
            Err(error) => {
                tracing::warn!(netns = key, %error, "a namespace is without names");
                State::Failed(error.to_string())
            }
        };
    }

    /// Lets go of namespaces whose files lead elsewhere, for as long as there are any.
    async fn look_after(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let with_file = |(key, site): (&u64, &Site)| Some((*key, site.file.clone()?));
            let files: Vec<(u64, PathBuf)> = self.lock().all.iter().filter_map(with_file).collect();
            let ended: Vec<u64> =
                files.iter().filter(|(key, path)| !leads_to(path, *key)).map(|(key, _)| *key).collect();
            let mut sites = self.lock();
            sites.all.retain(|key, site| site.file.is_none() || !ended.contains(key));
            if sites.all.values().all(|site| site.file.is_none()) {
                sites.watched = false;
                return;
            }
        }
    }
}

fn leads_to(path: &Path, key: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|m| std::os::unix::fs::MetadataExt::ino(&m) == key)
}

/// A namespace by its file, if it still is the same one.
fn enter(key: u64, path: &Path) -> Result<Netns, KernelError> {
    let netns = Netns::open(path)?;
    if netns.id().ino == key {
        return Ok(netns);
    }
    Err(KernelError::text(format!("open network namespace {}", path.display()), "it is another one by now"))
}

/// Opens the sockets and leads port 53 to them. A table of an earlier run is replaced.
fn open(key: u64, place: &Place) -> Result<Sockets, KernelError> {
    let netns = match place {
        Place::Sandbox(netns) => netns.clone(),
        Place::File(path) => enter(key, path)?,
    };
    let begun = std::time::Instant::now();
    netns.run(|| {
        let (sockets, port) = bind(key)?;
        NfTables::open(&netns)?.commit(&changes(port), None)?;
        tracing::debug!(netns = key, took = ?begun.elapsed(), "names are served");
        Ok(sockets)
    })?
}

fn tidy(key: u64, path: &Path) -> Result<(), KernelError> {
    let mut changes = Changes::new();
    changes.destroy_table(&table());
    let netns = enter(key, path)?;
    netns.run(|| NfTables::open(&netns)?.commit(&changes, None))?
}

/// Sockets on the same port of both protocols. It follows from the namespace: after a restart of netd it is the same, and
/// what the kernel remembers of earlier queries still leads to it.
fn bind(key: u64) -> Result<(Sockets, u16), KernelError> {
    let mut failure = None;
    for attempt in 0..TRIES {
        let offset = u16::try_from((key + u64::from(attempt)) % PORTS).unwrap_or(0);
        match bind_at(FIRST_PORT + offset) {
            Ok(sockets) => return Ok((sockets, FIRST_PORT + offset)),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => failure = Some(e),
            Err(e) => return Err(KernelError::io(format!("bind {ADDRESS}"), &e)),
        }
    }
    let failure = failure.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into());
    Err(KernelError::io(format!("bind {ADDRESS}"), &failure))
}

fn bind_at(port: u16) -> std::io::Result<Sockets> {
    let at = SocketAddrV4::new(ADDRESS, port);
    let sockets = Sockets { tcp: TcpListener::bind(at)?, udp: UdpSocket::bind(at)? };
    sockets.tcp.set_nonblocking(true)?;
    sockets.udp.set_nonblocking(true)?;
    rustix::net::listen(&sockets.tcp, BACKLOG)?;
    // Where the namespace is not ours to raise it the default has to do.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&sockets.udp, RECEIVE_BUFFER);
    Ok(sockets)
}

fn table() -> Table {
    Table::new(Family::Ip, TABLE)
}

/// The table, whole.
fn changes(port: u16) -> Changes {
    let table = table();
    let mut changes = Changes::new();
    changes.destroy_table(&table).ensure_table(&table);
    changes.ensure_chain(&table, Chain::base("output", ChainKind::Nat, Hook::Output, DSTNAT));
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let to = NatTo::Fixed(ADDRESS.into(), Some((port, port)));
        let exprs = [
            Expr::is(Selector::Ip(Ip::Daddr), Field::Ipv4(ADDRESS)),
            Expr::is(Selector::Meta(Meta::L4proto), Field::Proto(protocol.number())),
            Expr::is(Selector::Dport, Field::Port(PORT)),
            Expr::Nat(NatKind::Destination, to, NatFlags::default()),
        ];
        changes.add_rule(&table, Rule::new("output", exprs), At::Last);
    }
    changes
}
