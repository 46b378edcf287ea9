//! The way into the engine's thread.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rnet_api::{
    Allocation, ApiError, AttachReply, AttachRequest, Bridge, BridgeRequest, CniAdd, CniCheck, CniDel, CniGc, CniReply,
    CniStatus, Empty, Endpoint, Event, Link, LinkRequest, Network, Publication, PublishRequest, Sandbox,
    SandboxRequest, Status, UnpublishRequest, Version, WaitRequest,
};
use rnet_kernel::{
    FilterMonitor, FilterTouched, LinkKind, LinkState, Links, Monitor, Netns, ProbeTiming, Route, announce, probe,
};
use rnet_model::{EndpointId, IfName, Kind, MacAddr};
use tokio::sync::{broadcast, oneshot};

use super::attach::{Attach, Probed};
use super::drive::Driver;
use super::gauge::Gauges;
use super::tag::Tag;
use super::{Engine, Options};
use crate::names::Names;
use crate::plugins::Plugins;
use crate::resolve::{Resolver, Target};

/// Longest wait of one `wait` request.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Pauses between two looks for the containers that attachments wait for.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Events a slow listener may lag behind.
const EVENT_BACKLOG: usize = 1024;
/// Closing a packet socket waits for a grace period of the kernel, 10 ms (packet_release, net/packet/af_packet.c); those
/// that are closed at the same time share it.
const ANNOUNCERS: usize = 8;

tokio::task_local! {
    /// How long the engine's thread worked for the request of this task.
    static WORKED: std::cell::Cell<Duration>;
}

/// Runs a request and says how long the engine's thread worked on its jobs, without the time they queued.
pub(crate) async fn worked<T>(request: impl Future<Output = T>) -> (T, Duration) {
    WORKED
        .scope(std::cell::Cell::default(), async {
            let result = request.await;
            (result, WORKED.with(std::cell::Cell::get))
        })
        .await
}

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

/// What reaches the engine's thread.
enum Message {
    Job(Job),
    Kernel(rnet_kernel::Event),
    Stop,
}

/// An announcement to send once, from inside a namespace, without anybody waiting.
pub(super) struct Announcement {
    pub(super) netns: Netns,
    pub(super) ifname: IfName,
    pub(super) mac: MacAddr,
    pub(super) addresses: Vec<IpAddr>,
}

/// A clonable handle of the engine.
#[derive(Clone)]
pub(crate) struct Handle {
    mailbox: mpsc::Sender<Message>,
    events: broadcast::Sender<Event>,
    host: Netns,
    timing: Option<ProbeTiming>,
    pub(super) driver: Driver,
    pub(super) names: Names,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Opens the stores, reconciles the kernel with them, and starts the thread. Call it inside the runtime.
///
/// # Errors
/// When a store cannot be opened or the kernel cannot be read.
pub(crate) fn start(options: Options) -> Result<Handle, ApiError> {
    let host = Netns::current().map_err(|e| super::core::kernel("cannot open the daemon's network namespace", &e))?;
    let timing = options.config.probe_timing();
    let (events, _) = broadcast::channel(EVENT_BACKLOG);
    let (mailbox, inbox) = mpsc::channel();
    let (announcer, announcements) = mpsc::channel::<Announcement>();
    let announcements = Arc::new(Mutex::new(announcements));
    for _ in 0..ANNOUNCERS {
        let announcements = announcements.clone();
        spawn("announcer", move || announce_all(&announcements))?;
    }
    // The monitor listens before the engine reads the kernel, so that no change falls between the two.
    let monitor = Monitor::new().map_err(|e| super::core::kernel("cannot watch the kernel", &e))?;
    let filter = FilterMonitor::open(&host, &Tag::of(&options.root).table);
    let driver = Driver::new(Plugins::new(&options.root, &options.config.plugins, host.clone())?);
    let (chores, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let mut engine = Engine::open(options, host.clone(), events.clone(), announcer, chores)?;
    let names = engine.names.clone();
    tokio::spawn(forward(monitor, mailbox.clone()));
    match filter {
        Ok(filter) => drop(tokio::spawn(forward_filter(filter, mailbox.clone()))),
        // Without nf_tables there are no networks, and everything else works.
        Err(error) => tracing::warn!(%error, "cannot watch the packet filter"),
    }
    let thread = spawn("engine", move || serve(&mut engine, &inbox))?;
    let handle = Handle { mailbox, events, host, timing, driver, names, thread: Arc::new(Mutex::new(Some(thread))) };
    let chores = handle.clone();
    tokio::spawn(async move {
        while let Some(id) = ended.recv().await {
            tokio::spawn(chores.clone().take_one_back(id));
        }
    });
    Ok(handle)
}

/// A socket inside a container, opened beside the engine's thread. Without one the engine opens its own, and says why it
/// cannot.
pub(super) async fn open_inside(netns: &Netns) -> Option<Route> {
    let netns = netns.clone();
    tokio::task::spawn_blocking(move || Route::open(&netns)).await.ok()?.ok()
}

fn announce_all(announcements: &Mutex<mpsc::Receiver<Announcement>>) {
    let next = || announcements.lock().ok()?.recv().ok();
    while let Some(a) = next() {
        if let Err(error) = announce(&a.netns, &a.ifname, a.mac, &a.addresses) {
            tracing::debug!(%error, "cannot announce an address");
        }
    }
}

pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ApiError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(512 * 1024)
        .spawn(body)
        .map_err(|e| ApiError::new(Kind::Retry, format!("cannot start the {name} thread")).because(&e))
}

async fn forward(mut monitor: Monitor, mailbox: mpsc::Sender<Message>) {
    while let Some(event) = monitor.next().await {
        if mailbox.send(Message::Kernel(event)).is_err() {
            return;
        }
    }
}

async fn forward_filter(mut monitor: FilterMonitor, mailbox: mpsc::Sender<Message>) {
    while let Some(touched) = monitor.next().await {
        let message = match touched {
            FilterTouched::Ours => Message::Kernel(rnet_kernel::Event::Filter),
            FilterTouched::ChainsOfOthers => Message::Job(Box::new(Engine::firewall_changed)),
        };
        if mailbox.send(message).is_err() {
            return;
        }
    }
}

fn serve(engine: &mut Engine, inbox: &mpsc::Receiver<Message>) {
    loop {
        let message = match engine.idle_work() {
            None => inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(delay) => inbox.recv_timeout(delay),
        };
        match message {
            Ok(Message::Job(job)) => job(engine),
            Ok(Message::Kernel(event)) => engine.kernel_event(event),
            Err(mpsc::RecvTimeoutError::Timeout) => engine.do_idle_work(),
            Ok(Message::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        engine.after_work();
    }
    engine.close();
}

impl Handle {
    pub(super) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let stopped = || ApiError::new(Kind::Unavailable, "netd is stopping").hint("repeat the request");
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move |engine: &mut Engine| {
            let begun = std::time::Instant::now();
            let result = job(engine);
            // What is gone is closed by the time the answer says so.
            engine.settle_ports();
            // A client that is gone does not matter.
            let _ = reply.send((result, begun.elapsed()));
        });
        self.mailbox.send(Message::Job(job)).map_err(|_| stopped())?;
        let (result, took) = answer.await.map_err(|_| stopped())?;
        // Outside of a request nobody asks.
        let _ = WORKED.try_with(|worked| worked.set(worked.get() + took));
        result
    }

    /// Whether the host has a bridge of this name.
    pub(crate) async fn is_bridge(&self, name: IfName) -> bool {
        let look = move |e: &mut Engine| Ok(e.kernel.host.link(&name));
        let found = self.call(look).await;
        matches!(found, Ok(Ok(Some(LinkState { kind: LinkKind::Bridge { .. }, .. }))))
    }

    /// Version and health.
    pub(crate) async fn version(&self) -> Result<Version, ApiError> {
        self.call(|e| Ok(e.version())).await
    }

    /// Attaches a container to a host interface.
    pub(crate) async fn attach(&self, request: AttachRequest, target: Target) -> Result<AttachReply, ApiError> {
        let (request, target) = (Arc::new(request), Arc::new(target));
        let (r, t) = (request.clone(), target.clone());
        let timing = self.timing;
        let probed = if timing.is_some() { Probed::No } else { Probed::Yes };
        let inside = open_inside(&target.netns).await;
        let first = move |e: &mut Engine| {
            e.enter(&t.netns, inside);
            e.attach(&r, &t, probed)
        };
        match self.call(first).await? {
            Attach::Done(reply) => Ok(*reply),
            Attach::Probe { device, addresses } => {
                self.probe(device, addresses).await?;
                match self.call(move |e| e.attach(&request, &target, Probed::Yes)).await? {
                    Attach::Done(reply) => Ok(*reply),
                    Attach::Probe { .. } => Err(ApiError::new(Kind::Bug, "a probed attach asked for a probe")),
                }
            }
        }
    }

    async fn probe(&self, device: IfName, addresses: Vec<IpAddr>) -> Result<(), ApiError> {
        let Some(timing) = self.timing else { return Ok(()) };
        let host = self.host.clone();
        let dev = device.clone();
        let found = tokio::task::spawn_blocking(move || probe(&host, &dev, &addresses, timing))
            .await
            .map_err(|e| ApiError::new(Kind::Bug, "the conflict probe ended early").because(&e))?
            .map_err(|e| super::core::kernel("cannot probe the LAN for the address", &e))?;
        match found.first() {
            None => Ok(()),
            Some(owner) => {
                let text = format!("address {} is in use on {device}, by {}", owner.ip, owner.mac);
                let mut event = super::view::event("conflict", owner.ip.to_string());
                event.attributes.insert("mac".into(), owner.mac.to_string());
                let _ = self.events.send(event);
                Err(ApiError::new(Kind::Conflict, text).hint("choose another address, or --no-probe to take it anyway"))
            }
        }
    }

    /// Waits until an interface is ready.
    pub(crate) async fn wait(&self, request: WaitRequest) -> Result<Endpoint, ApiError> {
        let mut events = self.events.subscribe();
        let limit = Duration::from_millis(request.timeout_ms).min(LONGEST_WAIT);
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let asked = request.clone();
            let found = self.call(move |e| Ok(e.endpoints_of(&asked.container, asked.ifname.as_ref()))).await?;
            if let Some(ready) = found.iter().find(|e| e.status == Status::Ready) {
                return Ok(ready.clone());
            }
            // Any event may be the one; a lagging receiver has missed some, which is as good a reason to look again.
            let Ok(next) = tokio::time::timeout_at(deadline, events.recv()).await else {
                let interface = request.ifname.as_ref().map_or_else(|| "an interface".to_owned(), ToString::to_string);
                let error = ApiError::new(
                    Kind::Retry,
                    format!("{interface} of {} was not ready within {:.1} s", request.container, limit.as_secs_f64()),
                );
                return Err(match found.first().map(|e| &e.status) {
                    Some(Status::Error { text, .. }) => error.hint(format!("its last attach failed: {text}")),
                    _ => error,
                });
            };
            if matches!(next, Err(broadcast::error::RecvError::Closed)) {
                return Err(ApiError::new(Kind::Unavailable, "netd is stopping"));
            }
        }
    }

    /// Brings attachments back whose containers run again, for as long as the engine lives. Looks soon after something
    /// has happened, and less and less often while nothing does.
    pub(crate) async fn revive(self, resolver: Resolver) {
        let mut events = self.events.subscribe();
        let mut pause = SHORTEST_PAUSE;
        loop {
            let Ok(awaited) = self.call(|e| Ok(e.awaited())).await else { return };
            for container in &awaited {
                // Not there yet, or its engine is not: it is looked for again.
                let Ok(target) = resolver.resolve(container, None).await else { continue };
                let _ = self.call(move |e| e.revive(&target)).await;
            }
            let happened = match awaited.is_empty() {
                true => events.recv().await,
                false => match tokio::time::timeout(pause, events.recv()).await {
                    Ok(happened) => happened,
                    Err(_) => {
                        pause = (pause * 2).min(LONGEST_PAUSE);
                        continue;
                    }
                },
            };
            if matches!(happened, Err(broadcast::error::RecvError::Closed)) {
                return;
            }
            pause = SHORTEST_PAUSE;
            // One look for everything that happens together.
            tokio::time::sleep(SHORTEST_PAUSE).await;
            while !matches!(
                events.try_recv(),
                Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed)
            ) {}
        }
    }

    /// All endpoints.
    pub(crate) async fn endpoints(&self) -> Result<Vec<Endpoint>, ApiError> {
        self.call(|e| Ok(e.endpoints())).await
    }

    /// One endpoint by id or unique prefix of it.
    pub(crate) async fn endpoint(&self, id: String) -> Result<Endpoint, ApiError> {
        self.call(move |e| e.endpoint(&id)).await
    }

    /// All networks.
    pub(crate) async fn networks(&self) -> Result<Vec<Network>, ApiError> {
        self.call(|e| Ok(e.networks())).await
    }

    /// One network by name, id or unique prefix of its id.
    pub(crate) async fn network(&self, name: String) -> Result<Network, ApiError> {
        self.call(move |e| e.network(&name)).await
    }

    /// ADD of plugin `rnet`.
    pub(crate) async fn cni_add(&self, request: CniAdd, target: Target) -> Result<CniReply, ApiError> {
        // The runtime waits for each alone: two changes of threads less are worth more than a free engine.
        self.call(move |e| e.cni_add(&request, &target)).await
    }

    /// DEL of plugin `rnet`.
    pub(crate) async fn cni_del(&self, request: CniDel) -> Result<Vec<Endpoint>, ApiError> {
        self.call(move |e| e.cni_del(&request)).await
    }

    /// CHECK of plugin `rnet`.
    pub(crate) async fn cni_check(&self, request: CniCheck, target: Target) -> Result<CniReply, ApiError> {
        self.call(move |e| e.cni_check(&request, &target)).await
    }

    /// GC of plugin `rnet`.
    pub(crate) async fn cni_gc(&self, request: CniGc) -> Result<Vec<Endpoint>, ApiError> {
        self.call(move |e| e.cni_gc(&request)).await
    }

    /// STATUS of plugin `rnet`.
    pub(crate) async fn cni_status(&self, request: CniStatus) -> Result<Empty, ApiError> {
        self.call(move |e| e.cni_status(&request)).await
    }

    /// Publishes ports.
    pub(crate) async fn publish(&self, request: PublishRequest) -> Result<Vec<Publication>, ApiError> {
        self.call(move |e| e.publish(&request)).await
    }

    /// Takes published ports back.
    pub(crate) async fn unpublish(&self, request: UnpublishRequest) -> Result<Vec<Publication>, ApiError> {
        self.call(move |e| e.unpublish(&request)).await
    }

    /// All published ports.
    pub(crate) async fn publications(&self) -> Result<Vec<Publication>, ApiError> {
        self.call(|e| Ok(e.publications())).await
    }

    /// Every address in use.
    pub(crate) async fn allocations(&self) -> Result<Vec<Allocation>, ApiError> {
        self.call(Engine::allocations).await
    }

    /// All bridges netd made or uses.
    pub(crate) async fn bridges(&self) -> Result<Vec<Bridge>, ApiError> {
        self.call(|e| e.bridges()).await
    }

    /// Makes a bridge; an equal one that exists is returned.
    pub(crate) async fn create_bridge(&self, request: BridgeRequest) -> Result<Bridge, ApiError> {
        self.call(move |e| e.create_bridge(&request)).await
    }

    /// Removes a bridge that netd made.
    pub(crate) async fn remove_bridge(&self, name: IfName) -> Result<Bridge, ApiError> {
        self.call(move |e| e.remove_bridge(&name)).await
    }

    /// All sandboxes.
    pub(crate) async fn sandboxes(&self) -> Result<Vec<Sandbox>, ApiError> {
        self.call(|e| Ok(e.sandboxes())).await
    }

    /// Gets a namespace for a container.
    pub(crate) async fn create_sandbox(&self, request: SandboxRequest) -> Result<Sandbox, ApiError> {
        self.call(move |e| e.create_sandbox(&request)).await
    }

    /// All links between sandboxes.
    pub(crate) async fn links(&self) -> Result<Vec<Link>, ApiError> {
        self.call(|e| Ok(e.links())).await
    }

    /// Makes links between sandboxes, all or none.
    pub(crate) async fn create_links(&self, requests: Vec<LinkRequest>) -> Result<Vec<Link>, ApiError> {
        self.call(move |e| e.create_links(&requests)).await
    }

    /// Removes a link.
    pub(crate) async fn remove_link(&self, id: EndpointId) -> Result<Empty, ApiError> {
        self.call(move |e| e.remove_link(id)).await
    }

    /// What the engine holds, in numbers.
    pub(crate) async fn gauges(&self) -> Result<Gauges, ApiError> {
        self.call(|e| Ok(e.gauges())).await
    }

    /// What became of the queries for names so far.
    pub(crate) fn queries(&self) -> rnet_dns::Queries {
        self.names.queries()
    }

    /// The host's namespace.
    pub(crate) fn host(&self) -> &Netns {
        &self.host
    }

    /// Events from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Ends the thread after the jobs that are queued; endpoints stay as they are.
    pub(crate) async fn shutdown(&self) {
        self.driver.idle().await;
        let _ = self.mailbox.send(Message::Stop);
        let thread = self.thread.lock().ok().and_then(|mut t| t.take());
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}
