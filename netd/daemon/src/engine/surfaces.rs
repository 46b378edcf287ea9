//! The kernel and the disk as the engine uses them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rnet_api::ApiError;
use rnet_kernel::rules::NfTables;
use rnet_kernel::{Conntrack, Filter, KernelError, Links, Netns, NetnsId, Nft, ProcSys, Route, Sysctls};
use rnet_model::Kind;
use rnet_plan::{Place, Surfaces};
use rnet_store::{RedbStore, Store, StoreError, Write};
use serde::Serialize;

/// The kernel surfaces. The last namespace entered stays open for the operation that follows.
pub(super) struct Kernel {
    pub(super) host: Route,
    pub(super) inside: Option<(NetnsId, Route)>,
    pub(super) filter: Nft,
    pub(super) sysctls: ProcSys,
    pub(super) sysctls_inside: Option<ProcSys>,
    pub(super) tables: Option<NfTables>,
    pub(super) flows: Option<Conntrack>,
}

impl Kernel {
    /// Route netlink inside a namespace.
    pub(super) fn inside(&mut self, netns: &Netns) -> Result<&mut Route, KernelError> {
        let id = netns.id();
        if self.inside.as_ref().is_none_or(|(open, _)| *open != id) {
            // The old socket is closed first: it would keep an ended container's namespace alive.
            self.inside = None;
            self.inside = Some((id, Route::open(netns)?));
        }
        Ok(&mut self.inside.as_mut().expect("just set").1)
    }

    /// Uses a socket that is open already.
    pub(super) fn adopt(&mut self, id: NetnsId, route: Route) {
        self.inside = Some((id, route));
    }

    /// Lets go of the namespace.
    pub(super) fn leave(&mut self) {
        self.inside = None;
        self.sysctls_inside = None;
    }
}

impl Surfaces for Kernel {
    fn links(&mut self, place: &Place) -> Result<&mut dyn Links, KernelError> {
        match place {
            Place::Host => Ok(&mut self.host),
            Place::Inside(netns) => Ok(self.inside(netns)?),
        }
    }

    fn filter(&mut self) -> &mut dyn Filter {
        &mut self.filter
    }

    fn tables(&mut self) -> Result<&mut NfTables, KernelError> {
        if self.tables.is_none() {
            self.tables = Some(NfTables::open(self.host.netns())?);
        }
        Ok(self.tables.as_mut().expect("just opened"))
    }

    fn flows(&mut self) -> Result<&mut Conntrack, KernelError> {
        if self.flows.is_none() {
            self.flows = Some(Conntrack::open(self.host.netns())?);
        }
        Ok(self.flows.as_mut().expect("just opened"))
    }

    fn sysctls(&mut self, place: &Place) -> Result<&mut dyn Sysctls, KernelError> {
        if let Place::Inside(netns) = place {
            return Ok(self.sysctls_inside.insert(ProcSys::new(netns)));
        }
        Ok(&mut self.sysctls)
    }
}

enum Order {
    Commit(Vec<Write>, Option<mpsc::Sender<Result<(), StoreError>>>),
    Finish,
}

/// The store behind a thread of its own, so that no attach waits for a disk.
///
/// What must be there before the answer (networks, bridges) is committed and waited for. What the run log carries
/// anyway (persistent attachments, reservations) is written behind: a crash of the daemon loses nothing, a crash of the
/// host loses at most what was answered while the disk was still writing.
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    fault: Arc<Mutex<Option<String>>>,
    waiting: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
    directory: PathBuf,
}

/// Bytes below which a disk counts as full: some commits of the store.
const LEAST_ROOM: u64 = 256 * 1024;

/// Everything the store holds: keys and JSON values.
pub(super) type Stored = BTreeMap<String, Vec<u8>>;

impl Writer {
    /// Opens the store, reads all of it and starts the thread.
    pub(super) fn open(path: &Path) -> Result<(Self, Stored), ApiError> {
        if std::fs::metadata(path).is_ok_and(|m| m.len() == 0) {
            // What a crash at the first start leaves, or whoever emptied it.
            tracing::warn!(store = %path.display(), "the store is an empty file: starting without networks and bridges");
        }
        let mut redb = RedbStore::open(path).map_err(|e| super::core::store(&e))?;
        let stored = redb.list("").map_err(|e| super::core::store(&e))?;
        let directory = path.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        let (orders, inbox) = mpsc::channel();
        let fault = Arc::new(Mutex::new(None));
        let waiting = Arc::new(AtomicUsize::new(0));
        let (shared, counter) = (fault.clone(), waiting.clone());
        let thread = std::thread::Builder::new()
            .name("store".into())
            .stack_size(512 * 1024)
            .spawn(move || serve(&mut redb, &inbox, &shared, &counter))
            .map_err(|e| ApiError::new(Kind::Retry, "cannot start the store thread").because(&e))?;
        Ok((Writer { orders, fault, waiting, thread: Some(thread), directory }, stored))
    }

    /// Commits and waits until it is on the disk.
    pub(super) fn commit(&self, writes: Vec<Write>) -> Result<(), ApiError> {
        let gone = || ApiError::new(Kind::Unavailable, "the store is closed");
        let (done, answer) = mpsc::channel();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.orders.send(Order::Commit(writes, Some(done))).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?.map_err(|e| super::core::store(&e))
    }

    /// Commits later.
    pub(super) fn behind(&self, writes: Vec<Write>) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = self.orders.send(Order::Commit(writes, None));
    }

    /// Refuses what is to be written behind when that will fail: after a failure, until everything owed could be
    /// written, and when there is hardly any room.
    pub(super) fn refuse_full(&self) -> Result<(), ApiError> {
        if self.fault().is_some() {
            self.commit(Vec::new())?;
        }
        let left = nix::sys::statvfs::statvfs(&self.directory).map(|s| s.blocks_available() * s.fragment_size());
        match left {
            Ok(left) if left < LEAST_ROOM => Err(ApiError::new(
                Kind::Retry,
                format!("the disk is full: {} KiB are left for {}", left / 1024, self.directory.display()),
            )),
            // What cannot be asked will be said by the write.
            _ => Ok(()),
        }
    }

    /// Whether everything has been written.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0 && self.fault().is_none()
    }

    /// Why the last write behind failed, if it did.
    pub(super) fn fault(&self) -> Option<String> {
        self.fault.lock().ok()?.clone()
    }

    /// Waits until everything is written.
    pub(super) fn finish(&mut self) {
        let _ = self.orders.send(Order::Finish);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A record as a write.
pub(super) fn put(key: String, value: &impl Serialize) -> Write {
    let value = serde_json::to_vec(value).expect("records are JSON objects with string keys");
    Write::Put { key, value }
}

/// A removal.
pub(super) fn delete(key: String) -> Write {
    Write::Delete { key }
}

/// The store's thread.
struct Committer<'a> {
    store: &'a mut RedbStore,
    fault: &'a Mutex<Option<String>>,
    /// Written behind, and failed: nobody else repeats them.
    owed: Vec<Write>,
}

/// How often what could not be written is tried again.
const OWED_EVERY: Duration = Duration::from_secs(1);

fn serve(store: &mut RedbStore, inbox: &mpsc::Receiver<Order>, fault: &Mutex<Option<String>>, waiting: &AtomicUsize) {
    let mut committer = Committer { store, fault, owed: Vec::new() };
    loop {
        let order = match committer.owed.is_empty() {
            true => inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            false => inbox.recv_timeout(OWED_EVERY),
        };
        let (mut writes, mut waiter) = match order {
            Ok(Order::Commit(writes, waiter)) => (writes, waiter),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                committer.commit(Vec::new(), None);
                continue;
            }
            Ok(Order::Finish) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
        let mut orders = 1;
        let mut finish = false;
        // One transaction for everything that queued up, as long as nobody waits: a failed transaction fails exactly
        // the one request it belongs to.
        while waiter.is_none() && !finish {
            match inbox.try_recv() {
                Ok(Order::Commit(more, None)) => {
                    writes.extend(more);
                    orders += 1;
                }
                Ok(Order::Commit(more, someone)) => {
                    committer.commit(std::mem::replace(&mut writes, more), None);
                    waiting.fetch_sub(orders, Ordering::Release);
                    (waiter, orders) = (someone, 1);
                }
                Ok(Order::Finish) => finish = true,
                Err(_) => break,
            }
        }
        committer.commit(writes, waiter);
        waiting.fetch_sub(orders, Ordering::Release);
        if finish {
            return;
        }
    }
}

impl Committer<'_> {
    /// Commits, and before it what is owed: later writes may be about the same keys.
    fn commit(&mut self, writes: Vec<Write>, waiter: Option<mpsc::Sender<Result<(), StoreError>>>) {
        let result = self.pay().and_then(|()| if writes.is_empty() { Ok(()) } else { self.store.commit(&writes) });
        if let Ok(mut fault) = self.fault.lock() {
            *fault = result.as_ref().err().map(ToString::to_string);
        }
        if let Err(error) = &result {
            tracing::error!(%error, "cannot write the store");
        }
        match waiter {
            // Who waits is told, and repeats it or not.
            Some(waiter) => drop(waiter.send(result)),
            None if result.is_err() => self.owed.extend(writes),
            None => {}
        }
    }

    fn pay(&mut self) -> Result<(), StoreError> {
        if !self.owed.is_empty() {
            self.store.commit(&self.owed)?;
            self.owed.clear();
        }
        Ok(())
    }
}
