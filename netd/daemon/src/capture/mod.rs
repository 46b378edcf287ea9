//! `GET /v1/capture`: packets of a container as they pass, as a stream of pcapng.
//!
//! Each capture is a thread with a packet socket inside the container's namespace. It waits for its reader: what comes
//! meanwhile waits in the kernel, up to the socket's buffer, and is counted as dropped beyond that. It ends when the
//! reader goes, is told to, has what was asked for, or the container ends.

mod pcapng;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use rnet_api::{ApiError, CaptureQuery};
use rnet_kernel::{Capture, LinkKind, Links, Netns, Route};
use rnet_model::{ContainerRef, Kind};
use tokio::sync::mpsc;

use self::pcapng::Count;
use crate::resolve::{Resolver, Target};

/// Most captures at once.
const CAPTURES: usize = 16;
/// Bytes that are sent at once when many packets come.
const PIECE: usize = 64 * 1024;
/// Pieces that wait for a slow reader.
const PIECES: usize = 8;
/// How soon a capture sees that it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// How often it is looked whether the container is still there.
const ALIVE: Duration = Duration::from_millis(500);

/// The captures that run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Captures {
    running: Arc<Mutex<HashMap<u64, Arc<AtomicBool>>>>,
    last: Arc<AtomicU64>,
}

/// One that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    /// What it is ended by.
    pub(crate) id: u64,
    /// Its bytes.
    pub(crate) pieces: mpsc::Receiver<Bytes>,
}

impl Captures {
    /// How many run.
    pub(crate) fn running(&self) -> usize {
        self.table().len()
    }

    /// Ends one in order. One that does not run has ended.
    pub(crate) fn end(&self, id: u64) {
        if let Some(stop) = self.table().get(&id) {
            stop.store(true, Ordering::Relaxed);
        }
    }

    /// Ends all.
    pub(crate) fn end_all(&self) {
        self.table().values().for_each(|stop| stop.store(true, Ordering::Relaxed));
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<AtomicBool>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> Result<Running, ApiError> {
        let mut running = self.table();
        if running.len() >= CAPTURES {
            return Err(ApiError::new(Kind::Retry, format!("{CAPTURES} captures run already"))
                .hint("end one of them: they end with the rnet capture that shows them"));
        }
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let stop = Arc::new(AtomicBool::new(false));
        running.insert(id, stop.clone());
        Ok(Running { captures: self.clone(), id, stop })
    }

    /// Begins one.
    ///
    /// # Errors
    /// When there is no such container or interface, or too many run.
    pub(crate) async fn begin(&self, query: CaptureQuery, resolver: &Resolver) -> Result<Begun, ApiError> {
        let snaplen = query.snaplen.unwrap_or(CaptureQuery::WHOLE);
        if !(CaptureQuery::LEAST..=CaptureQuery::WHOLE).contains(&snaplen) {
            let (least, most) = (CaptureQuery::LEAST, CaptureQuery::WHOLE);
            return Err(ApiError::new(Kind::Invalid, format!("snaplen {snaplen} is not from {least} to {most}")));
        }
        let reference: ContainerRef = query.container.parse()?;
        let target = resolver.resolve(&reference, None).await?;
        let running = self.enter()?;
        let id = running.id;
        let (sender, pieces) = mpsc::channel(PIECES);
        tokio::spawn(watch(
            reference,
            target.netns.clone(),
            resolver.clone(),
            running.stop.clone(),
            sender.downgrade(),
        ));
        let open = tokio::task::spawn_blocking(move || Job::open(&query, snaplen, target, running, sender));
        let job = open.await.map_err(|e| ApiError::new(Kind::Bug, "the capture ended early").because(&e))??;
        std::thread::Builder::new()
            .name("capture".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || job.work())
            .map_err(|e| ApiError::new(Kind::Retry, "cannot start a capture").because(&e))?;
        Ok(Begun { id, pieces })
    }
}

/// A place in the table, given back at the end.
#[derive(Debug)]
struct Running {
    captures: Captures,
    id: u64,
    stop: Arc<AtomicBool>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.captures.table().remove(&self.id);
    }
}

/// The socket keeps the namespace alive, so the container is asked for by its name from time to time.
async fn watch(
    reference: ContainerRef,
    netns: Netns,
    resolver: Resolver,
    stop: Arc<AtomicBool>,
    sender: mpsc::WeakSender<Bytes>,
) {
    let id = netns.id();
    // Its descriptor would keep the namespace too.
    drop(netns);
    loop {
        tokio::time::sleep(ALIVE).await;
        if sender.upgrade().is_none_or(|s| s.is_closed()) {
            return;
        }
        let gone = match resolver.resolve(&reference, None).await {
            Ok(target) => target.netns.id() != id,
            Err(error) => matches!(error.kind, Kind::Missing | Kind::Invalid | Kind::Conflict),
        };
        if gone {
            stop.store(true, Ordering::Relaxed);
            return;
        }
    }
}

/// A device of the section.
#[derive(Debug, Default)]
struct Interface {
    number: u32,
    packets: u64,
}

/// What the thread works with.
struct Job {
    capture: Capture,
    container: String,
    snaplen: u32,
    count: u64,
    end: Option<Instant>,
    interfaces: HashMap<u32, Interface>,
    out: Vec<u8>,
    running: Running,
    sender: mpsc::Sender<Bytes>,
}

impl Job {
    fn open(
        query: &CaptureQuery,
        snaplen: u32,
        target: Target,
        running: Running,
        sender: mpsc::Sender<Bytes>,
    ) -> Result<Self, ApiError> {
        let name = format!("{}:{}", target.engine, target.name);
        let fail = |e: rnet_kernel::KernelError| {
            let error = ApiError::new(e.kind(), format!("cannot capture in {name}")).because(&e);
            match &query.ifname {
                Some(_) => error.hint(format!("its interfaces: rnet stats {}", query.container)),
                None => error,
            }
        };
        let room = usize::try_from(snaplen).expect("a bounded number");
        let capture = Capture::open(&target.netns, query.ifname.as_ref(), room).map_err(fail)?;
        let links = Route::open(&target.netns).and_then(|mut route| route.links()).map_err(fail)?;
        let mut job = Job {
            capture,
            container: name,
            snaplen,
            count: query.count.unwrap_or(u64::MAX),
            end: query.duration_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms))),
            interfaces: HashMap::new(),
            out: Vec::new(),
            running,
            sender,
        };
        let release = crate::kernel_release();
        pcapng::section_header(&mut job.out, &format!("Linux {release}"));
        for link in links.iter().filter(|l| query.ifname.as_ref().is_none_or(|name| l.name == *name)) {
            // Devices that begin with IP show their hardware type with their first packet only.
            if link.mac.is_some() || link.kind == LinkKind::Loopback {
                job.describe(link.index, 1, link.name.as_str());
            }
        }
        Ok(job)
    }

    fn describe(&mut self, index: u32, hardware: u16, name: &str) -> u32 {
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        pcapng::interface(&mut self.out, pcapng::link_type(hardware), name, &self.container, self.snaplen);
        self.interfaces.insert(index, Interface { number, packets: 0 });
        number
    }

    fn work(mut self) {
        let begun = now();
        let mut left = self.count;
        while left > 0 && self.goes_on() {
            // Whoever waits sees at once what there is.
            if self.out.len() >= PIECE && !self.send() {
                return;
            }
            let wait = if self.out.is_empty() { self.pause() } else { Duration::ZERO };
            match self.step(wait) {
                Ok(true) => left -= 1,
                Ok(false) if !self.out.is_empty() && !self.send() => return,
                Ok(false) => {}
                // The device is gone.
                Err(_) => break,
            }
        }
        self.finish(begun);
    }

    fn goes_on(&self) -> bool {
        !self.running.stop.load(Ordering::Relaxed)
            && !self.sender.is_closed()
            && self.end.is_none_or(|end| Instant::now() < end)
    }

    fn pause(&self) -> Duration {
        let left = self.end.map_or(LOOK, |end| end.saturating_duration_since(Instant::now()));
        // Rounded up: a wait of 0 ms would spin.
        left.min(LOOK) + Duration::from_millis(1)
    }

    /// One packet, if there is one in time.
    fn step(&mut self, wait: Duration) -> std::io::Result<bool> {
        // The packet borrows the socket's buffer; what is written goes elsewhere.
        let Job { capture, interfaces, out, container, snaplen, .. } = self;
        let Some(packet) = capture.next(wait)? else { return Ok(false) };
        let (index, hardware) = (packet.index, packet.hardware);
        if !interfaces.contains_key(&index) {
            let number = u32::try_from(interfaces.len()).unwrap_or(u32::MAX);
            let mut late = Vec::new();
            pcapng::packet(&mut late, number, &packet);
            let name = capture.name_of(index).map_or_else(|| format!("if{index}"), |name| name.to_string());
            pcapng::interface(out, pcapng::link_type(hardware), &name, container, *snaplen);
            out.append(&mut late);
            interfaces.insert(index, Interface { number, packets: 1 });
            return Ok(true);
        }
        if let Some(interface) = interfaces.get_mut(&index) {
            interface.packets += 1;
            pcapng::packet(out, interface.number, &packet);
        }
        Ok(true)
    }

    fn finish(mut self, begun: u64) {
        let drops = self.capture.drops();
        let together = (self.interfaces.len() > 1 && drops > 0).then_some("drops of all interfaces together");
        let mut interfaces: Vec<&Interface> = self.interfaces.values().collect();
        interfaces.sort_unstable_by_key(|i| i.number);
        for interface in interfaces {
            // The socket is one for all: the kernel does not say whose packets it threw away.
            let first = interface.number == 0;
            let count = Count { packets: interface.packets, drops: if first { drops } else { 0 } };
            let comment = together.filter(|_| first);
            pcapng::statistics(&mut self.out, interface.number, count, begun, now(), comment);
        }
        self.send();
    }

    /// Waits for the reader; `false` when it is gone.
    fn send(&mut self) -> bool {
        let piece = Bytes::from(std::mem::take(&mut self.out));
        self.sender.blocking_send(piece).is_ok()
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
