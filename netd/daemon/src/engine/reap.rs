//! Links that are cut off and wait for their end. Deleting one waits for grace periods of the kernel, 20 ms; a group of
//! them waits once, and on a thread of its own, because the kernel lets go of its lock for most of that time.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use rnet_api::ApiError;
use rnet_kernel::{LinkOp, Links as _, Netns, Route};
use rnet_model::IfName;

use super::core::kernel;
use super::handle::spawn;

/// A link that is cut off.
#[derive(Debug)]
pub(super) struct Retired {
    pub(super) host_ifname: IfName,
    /// Inode of the namespace of its other end.
    pub(super) netns: u64,
    /// Name of its other end.
    pub(super) ifname: IfName,
}

/// How long a link waits for company before the group is deleted.
const AFTER: Duration = Duration::from_millis(5);
/// A group delete holds the kernel's RTNL lock while it takes the devices apart: longer groups are not gathered.
const AT: usize = 256;
/// Longest wait of a link under steady load.
const LATEST: Duration = Duration::from_millis(100);

/// Links that wait, links that are being deleted, and the thread that does it.
pub(super) struct Reaper {
    waiting: Vec<Retired>,
    since: Option<Instant>,
    under_way: Option<(Vec<Retired>, mpsc::Receiver<()>)>,
    orders: mpsc::Sender<mpsc::Sender<()>>,
}

impl Reaper {
    /// Deletes devices of `group` in `host`.
    ///
    /// # Errors
    /// When there can be no socket or no thread.
    pub(super) fn start(host: &Netns, group: u32) -> Result<Self, ApiError> {
        let mut route = Route::open(host).map_err(|e| kernel("cannot open the kernel's interfaces", &e))?;
        let (orders, inbox) = mpsc::channel::<mpsc::Sender<()>>();
        spawn("reaper", move || {
            for done in inbox {
                match route.batch(&[LinkOp::DeleteGroup(group)]) {
                    Ok(faults) => {
                        for fault in faults {
                            tracing::warn!(error = %fault.error, "cannot delete retired links");
                        }
                    }
                    Err(error) => tracing::warn!(%error, "cannot delete retired links"),
                }
                let _ = done.send(());
            }
        })?;
        Ok(Reaper { waiting: Vec::new(), since: None, under_way: None, orders })
    }

    /// Takes a link that has been cut off and put into the group.
    pub(super) fn retire(&mut self, retired: Retired) {
        self.waiting.push(retired);
        self.since.get_or_insert_with(Instant::now);
    }

    /// Whether such a link may still be there.
    pub(super) fn any(&self, such: impl Fn(&Retired) -> bool) -> bool {
        let under_way = self.under_way.iter().flat_map(|(links, _)| links);
        self.waiting.iter().chain(under_way).any(such)
    }

    /// Number of links that may still be there.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.under_way.as_ref().map_or(0, |(links, _)| links.len())
    }

    /// Has everything deleted, and waits for it.
    pub(super) fn finish(&mut self) {
        loop {
            if let Some((_, done)) = self.under_way.take() {
                // The thread is gone only if it panicked; then there is nothing to wait for.
                let _ = done.recv();
            }
            if self.waiting.is_empty() {
                return;
            }
            self.begin();
        }
    }

    /// After how long there is something to do; begins what is overdue.
    pub(super) fn due(&mut self) -> Option<Duration> {
        if self.under_way.as_ref().is_some_and(|(_, done)| done.try_recv() != Err(mpsc::TryRecvError::Empty)) {
            self.under_way = None;
        }
        if self.since.is_some_and(|since| self.waiting.len() >= AT || since.elapsed() >= LATEST) {
            self.begin();
        }
        self.since.map(|_| AFTER)
    }

    /// Begins what has had company for long enough.
    pub(super) fn work(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= AFTER) {
            self.begin();
        }
    }

    /// One group at a time: what is retired meanwhile is in the next.
    fn begin(&mut self) {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return;
        }
        let (done, answer) = mpsc::channel();
        let _ = self.orders.send(done);
        self.under_way = Some((std::mem::take(&mut self.waiting), answer));
        self.since = None;
    }
}
