//! Wiring: a record made true in the kernel, written ahead, taken back whole when it fails.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use rnet_api::ApiError;
use rnet_kernel::{KernelError, LinkKind, LinkState, Links, Netns};
use rnet_model::{EndpointId, Engine as ContainerEngine, IfName, Kind};
use rnet_plan::{Plan, apply, fail};
use rnet_plugins_builtin::port::{self, Loopback, PortError, Wanted};

use super::core::{endpoint_key, inode, kernel};
use super::handle::Announcement;
use super::reap::Retired;
use super::state::{EndpointRecord, Origin, Phase, Source};
use super::surfaces::{delete, put};
use super::{Engine, view};
use crate::resolve::Target;

/// The inside of a namespace before anything is done.
#[derive(Debug)]
pub(super) struct Inside {
    names: Vec<IfName>,
    loopback: Loopback,
    /// Family (IPv4?) and metric of each default route.
    defaults: Vec<(bool, u32)>,
}

impl Inside {
    /// A namespace with nothing but `lo`, which is up.
    pub(super) fn fresh() -> Self {
        Inside { names: Vec::new(), loopback: Loopback::Up, defaults: Vec::new() }
    }

    /// Whether the name is taken.
    pub(super) fn has(&self, name: &IfName) -> bool {
        self.names.contains(name)
    }

    /// The first free `ethN`.
    pub(super) fn free_name(&self) -> IfName {
        (0u32..)
            .map(|n| format!("eth{n}").parse().expect("eth and a number is an interface name"))
            .find(|name| !self.has(name))
            .expect("a namespace has fewer interfaces than there are numbers")
    }

    /// Whether a default route through one of the gateways would collide.
    pub(super) fn has_default(&self, gateways: &[std::net::IpAddr], metric: u32) -> bool {
        gateways.iter().any(|g| self.defaults.contains(&(g.is_ipv4(), metric)))
    }

    /// The metric that comes after every default route there is; `None` if there is none.
    pub(super) fn next_metric(&self, gateways: &[std::net::IpAddr]) -> Option<u32> {
        let same_family = |(v4, _): &&(bool, u32)| gateways.iter().any(|g| g.is_ipv4() == *v4);
        self.defaults.iter().filter(same_family).map(|(_, metric)| metric.saturating_add(1)).max()
    }
}

/// Key of a persistent attachment in the store.
fn attachment_key(id: EndpointId) -> String {
    format!("attachments/{id}")
}

fn port_error(error: &PortError) -> ApiError {
    let api = ApiError::new(error.kind, error.text.clone());
    match &error.hint {
        Some(hint) => api.hint(hint.clone()),
        None => api,
    }
}

/// When an address is announced for the second time (RFC 5227 section 2.3 has two announcements).
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);

impl Engine {
    /// Reads a container's namespace.
    pub(super) fn look_inside(&mut self, netns: &Netns, container: &str) -> Result<Inside, ApiError> {
        if netns.id() == self.host.id() {
            return Err(ApiError::new(Kind::Invalid, format!("{container} shares the host's network"))
                .hint("only a container with a network namespace of its own can be attached"));
        }
        let fail = |e| kernel(format!("cannot look into the network namespace of {container}"), &e);
        let links = self.kernel.inside(netns).map_err(fail)?;
        let (found, routes) = (links.links().map_err(fail)?, links.routes().map_err(fail)?);
        let up = found.iter().any(|l| l.kind == LinkKind::Loopback && l.up);
        // What is detached and waits for its deletion counts as gone: it goes before anything is made.
        let id = inode(netns.id());
        let waiting = |name: &IfName| self.reaper.any(|r| r.netns == id && r.ifname == *name);
        let default = routes.iter().filter(|r| r.destination.prefix() == 0 && !waiting(&r.dev));
        Ok(Inside {
            loopback: if up { Loopback::Up } else { Loopback::Down },
            defaults: default.map(|r| (r.destination.is_ipv4(), r.metric.unwrap_or(0))).collect(),
            names: found.into_iter().map(|l| l.name).filter(|name| !waiting(name)).collect(),
        })
    }

    /// The plugin's view of a record.
    pub(super) fn wanted(&self, record: &EndpointRecord, netns: &Netns) -> Wanted {
        Wanted {
            id: record.id,
            alias: self.tag.alias(&record.id.to_string()),
            master: record.master.clone(),
            master_alias: self.tag.alias("bridge"),
            host_ifname: record.host_ifname.clone(),
            netns: netns.clone(),
            ifname: record.ifname.clone(),
            mac: record.mac,
            mtu: record.mtu,
            addresses: record.addresses.clone(),
            gateways: record.gateways.clone(),
            routes: record.routes.clone(),
            metric: record.metric,
            shaping: self.shaping_of(record),
        }
    }

    /// The plugin's plan for a record; without a master the plan makes it.
    pub(super) fn plan_of(
        &self,
        record: &EndpointRecord,
        netns: &Netns,
        inside: &Inside,
        master: Option<&LinkState>,
    ) -> Result<Plan, ApiError> {
        let wanted = self.wanted(record, netns);
        let plan = port::add(&wanted, master, inside.loopback).map_err(|e| port_error(&e))?;
        Ok(self.guarded(plan, record))
    }

    /// Applies the plan of a record: afterwards the endpoint is live, or there is nothing of it.
    pub(super) fn wire(
        &mut self,
        mut record: EndpointRecord,
        plan: &Plan,
        netns: &Netns,
    ) -> Result<EndpointRecord, ApiError> {
        let key = endpoint_key(record.id);
        record.phase = Phase::Wiring;
        fail::point("attach.log");
        self.log_put(&key, &record)?;
        fail::point("attach.log.done");
        self.reap_if_in_the_way(&record.host_ifname, record.netns);
        if let Err(failure) = apply(plan, &mut self.kernel) {
            self.log_remove(&key);
            let what = format!("cannot attach {} to {}", record.container, record.master);
            let mut error = kernel(what, &failure.cause);
            error.causes.extend(failure.left.iter().map(|l| format!("and could not be taken back: {l}")));
            return Err(error);
        }
        record.phase = Phase::Live;
        self.settle(record, plan, netns)
    }

    /// What follows the kernel's part: write down, index, tell.
    pub(super) fn settle(
        &mut self,
        record: EndpointRecord,
        plan: &Plan,
        netns: &Netns,
    ) -> Result<EndpointRecord, ApiError> {
        fail::point("attach.commit");
        if let Err(error) = self.log_put(&endpoint_key(record.id), &record) {
            // Without its record the endpoint would be removed by the next start: better now, and said.
            let left = rnet_plan::undo(&plan.steps, &mut self.kernel);
            tracing::warn!(?left, "an attach was taken back because the run log cannot be written");
            return Err(error);
        }
        fail::point("attach.commit.done");
        if plan.steps.iter().any(|s| s.point == "attach.bridge") {
            self.adopt_bridge(&record.master, record.mtu);
        }
        if record.persistent && matches!(record.origin, Origin::Attach(_)) && record.engine != ContainerEngine::Pid {
            self.writer.behind(vec![put(attachment_key(record.id), &record)]);
        }
        self.announce(&record, netns);
        let mut event = view::event("attach", record.container.clone());
        let addresses: Vec<_> = record.addresses.iter().map(ToString::to_string).collect();
        event.attributes = [
            ("ifname".to_owned(), record.ifname.to_string()),
            ("bridge".to_owned(), record.master.to_string()),
            ("addresses".to_owned(), addresses.join(",")),
            ("id".to_owned(), record.id.to_string()),
        ]
        .into();
        self.remember(record.clone());
        self.emit(event);
        Ok(record)
    }

    /// Tells the neighbours, and waits for nobody.
    fn announce(&mut self, record: &EndpointRecord, netns: &Netns) {
        if record.addresses.is_empty() {
            return;
        }
        // On a busy machine the bridge lets a new port forward a moment after the first frame has come and gone.
        self.repeats.push_back((Instant::now() + ANNOUNCE_AGAIN, record.id));
        self.send_announcement(record, netns);
    }

    /// Tells them once more, if it still is so.
    pub(super) fn repeat_announcement(&mut self) {
        let Some((_, id)) = self.repeats.pop_front() else { return };
        let Some(record) = self.endpoints.get(&id).filter(|r| r.phase == Phase::Live).cloned() else { return };
        if let Some(netns) = self.reopen(&record) {
            self.send_announcement(&record, &netns);
        }
    }

    fn send_announcement(&mut self, record: &EndpointRecord, netns: &Netns) {
        self.announcements.push(Announcement {
            netns: netns.clone(),
            ifname: record.ifname.clone(),
            mac: record.mac,
            addresses: record.addresses.iter().map(rnet_model::IfAddr::ip).collect(),
        });
    }

    /// Makes a known endpoint again, as it was, in a namespace that may be another one.
    pub(super) fn rewire(&mut self, mut record: EndpointRecord, netns: &Netns) -> Result<(), ApiError> {
        let inside = self.look_inside(netns, &record.container)?;
        if inside.has(&record.ifname) {
            let text = format!("{} already has an interface {}", record.container, record.ifname);
            return Err(ApiError::new(Kind::Conflict, text));
        }
        let fail = |e| kernel("cannot look for the bridge", &e);
        let master = self.kernel.host.link(&record.master).map_err(fail)?;
        record.netns = inode(netns.id());
        record.generation += 1;
        let plan = self.plan_of(&record, netns, &inside, master.as_ref())?;
        self.forget(record.id);
        let kept = record.clone();
        match self.wire(record, &plan, netns) {
            Ok(record) => {
                self.order_gateways_or_warn(&record, netns);
                Ok(())
            }
            Err(error) => {
                self.park(kept, Some(&error));
                Err(error)
            }
        }
    }

    /// Keeps an endpoint that is wanted but not there.
    pub(super) fn park(&mut self, mut record: EndpointRecord, error: Option<&ApiError>) {
        record.phase = match error {
            None => Phase::Pending,
            Some(error) => Phase::Failed { since: super::clock::wall(), text: error.chain() },
        };
        record.generation += 1;
        if let Err(error) = self.log_put(&endpoint_key(record.id), &record) {
            tracing::warn!(error = error.chain(), "cannot write the run log");
        }
        self.remember(record);
    }

    /// Cuts an endpoint off, at once; its device goes with the next group delete. Its record is gone afterwards, its
    /// addresses are still held.
    pub(super) fn take_down(&mut self, id: EndpointId) -> Result<(), ApiError> {
        let Some(mut record) = self.endpoints.get(&id).cloned() else { return Ok(()) };
        let key = endpoint_key(id);
        if matches!(record.phase, Phase::Live | Phase::Draining) {
            record.phase = Phase::Draining;
            fail::point("detach.log");
            self.log_put(&key, &record)?;
            fail::point("detach.log.done");
            let plan = port::del(&record.host_ifname, self.limiter_of(id, record.network).as_ref(), self.tag.group);
            if let Err(failure) = apply(&plan, &mut self.kernel) {
                // It stays attached, also for the next start.
                if let Some(kept) = self.endpoints.get(&id).cloned() {
                    let _ = self.log_put(&key, &kept);
                }
                let what = format!("cannot detach {} of {}", record.ifname, record.container);
                return Err(kernel(what, &failure.cause));
            }
            let facts = self.port_facts(&record);
            self.unguard(&facts);
            self.reaper.retire(Retired {
                host_ifname: record.host_ifname.clone(),
                netns: record.netns,
                ifname: record.ifname.clone(),
            });
        }
        fail::point("detach.commit");
        self.log_remove(&key);
        fail::point("detach.commit.done");
        self.forget(id);
        Ok(())
    }

    /// Forgets that an endpoint is to come back. A tombstone in the run log stands until the store has followed.
    pub(super) fn unpersist(&mut self, id: EndpointId) -> Result<(), ApiError> {
        self.log_put(&format!("gone/{id}"), &true)?;
        self.writer.behind(vec![delete(attachment_key(id))]);
        self.tombstones.push(id.to_string());
        Ok(())
    }

    /// Takes [`Engine::unpersist`] back: the detach it was for failed.
    pub(super) fn persist_again(&mut self, record: &EndpointRecord) {
        let id = record.id.to_string();
        self.tombstones.retain(|gone| *gone != id);
        self.log_remove(&format!("gone/{id}"));
        if matches!(record.origin, Origin::Attach(_)) && record.engine != ContainerEngine::Pid {
            self.writer.behind(vec![put(attachment_key(record.id), record)]);
        }
    }

    /// The namespace an endpoint lives in, if it still is the same one.
    pub(super) fn reopen(&self, record: &EndpointRecord) -> Option<Netns> {
        let opened = self.open_source(&record.source, &record.container_id).ok().flatten();
        opened.filter(|ns| inode(ns.id()) == record.netns)
    }

    /// `None` if there is no such container any more.
    fn open_source(&self, source: &Source, container: &str) -> Result<Option<Netns>, KernelError> {
        let opened = match source {
            Source::Sandbox => {
                let sandbox = self.sandbox_of.get(container).and_then(|id| self.sandboxes.get(id));
                return Ok(sandbox.map(|s| s.netns.clone()));
            }
            Source::Path(path) => Netns::open(path),
            Source::Pid(pid) => Netns::of_process(*pid),
        };
        match opened {
            Ok(netns) => Ok(Some(netns)),
            // EINVAL: a file whose namespace was unmounted.
            Err(e) => match Errno::from_raw(e.errno) {
                Errno::ENOENT | Errno::ESRCH | Errno::EINVAL => Ok(None),
                _ => Err(e),
            },
        }
    }

    /// Refuses a container that has ended since it was looked up. Its namespace is held open, so everything would work,
    /// and nobody would ever see it.
    pub(super) fn refuse_ended(&self, target: &Target) -> Result<(), ApiError> {
        let fail = |e| kernel(format!("cannot look whether {} still runs", target.name), &e);
        let now = self.open_source(&target.source(), &target.id).map_err(fail)?;
        if now.is_some_and(|netns| netns.id() == target.netns.id()) {
            return Ok(());
        }
        Err(ApiError::new(Kind::Missing, format!("{} has ended meanwhile", target.name))
            .hint("start it and repeat the command"))
    }
}
