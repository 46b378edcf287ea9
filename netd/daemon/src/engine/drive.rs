//! Networks that are lists of CNI plugins: the way of a request through them.
//!
//! An executable of others may take as long as it likes, up to its limit: it runs on a thread of its own, between two
//! jobs of the engine. What belongs to one container comes one after the other. A request that was begun is finished,
//! also when its client is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rnet_api::{
    ApiError, AttachReply, ConnectRequest, DetachRequest, Empty, Endpoint, Network, NetworkConnect, NetworkDisconnect,
    OnNetwork,
};
use rnet_model::{ContainerName, EndpointId, Kind, NetworkId, NetworkSpec};
use tokio::sync::{OwnedMutexGuard, Semaphore, oneshot};

use super::Handle;
use super::chain::{Begun, Made, Work};
use super::connect::Asked;
use super::handle::spawn;
use crate::plugins::Plugins;
use crate::resolve::Target;

/// Most lists that run at once; each has a thread.
const AT_ONCE: usize = 64;

/// How long the end of netd waits for plugins.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// What runs plugins.
#[derive(Debug, Clone)]
pub(super) struct Driver {
    pub(super) plugins: Arc<Plugins>,
    slots: Arc<Semaphore>,
    containers: Arc<Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>>,
}

/// What was removed at once, and what plugins have to remove.
#[derive(Debug, Default)]
pub(super) struct Removal {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) chains: Vec<EndpointId>,
}

/// What becomes of an interface whose plugins fail to remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing {
    /// It stays known, and DEL can be repeated.
    Stays,
    /// Nobody will ask again: it is forgotten.
    Goes,
}

impl Driver {
    pub(super) fn new(plugins: Plugins) -> Self {
        Driver { plugins: Arc::new(plugins), slots: Arc::new(Semaphore::new(AT_ONCE)), containers: Arc::default() }
    }

    /// Waits until no plugin runs, up to a limit: one that outlives netd is undone by the next start alone.
    pub(super) async fn idle(&self) {
        let all = u32::try_from(AT_ONCE).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(STOP_LIMIT, self.slots.acquire_many(all)).await;
    }

    /// Leave to work on a container.
    async fn container(&self, key: String) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| lock.strong_count() > 0);
            let there = all.get(&key).and_then(Weak::upgrade);
            there.unwrap_or_else(|| {
                let lock = Arc::default();
                all.insert(key, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    /// Runs plugins on a thread of their own.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Plugins) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let stopped = || ApiError::new(Kind::Unavailable, "netd is stopping").hint("repeat the request");
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| stopped())?;
        let plugins = self.plugins.clone();
        let (reply, answer) = oneshot::channel();
        spawn("plugins", move || {
            let _ = reply.send(work(&plugins));
            drop(slot);
        })?;
        answer.await.map_err(|_| ApiError::new(Kind::Bug, "the plugins ended early"))?
    }
}

fn key(engine: rnet_model::Engine, id: &str) -> String {
    format!("{engine}:{id}")
}

/// A failed ADD, and whether the plugins could take back all of it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: ApiError,
    pub(crate) whole: bool,
}

impl Handle {
    /// Runs to its end whatever becomes of the caller.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let done = tokio::spawn(work).await;
        done.map_err(|e| ApiError::new(Kind::Bug, "a request ended early").because(&e))?
    }

    /// A network of plugins is looked through before it is kept.
    pub(crate) async fn create_network(&self, spec: NetworkSpec) -> Result<Network, ApiError> {
        if spec.conflist.is_none() {
            return self.call(move |e| e.create_network(&spec)).await;
        }
        spec.validate()?;
        let asked = spec.clone();
        let list = self.driver.run(move |plugins| plugins.accept(&asked)).await?;
        self.call(move |e| match e.same_network(&spec)? {
            Some(there) => Ok(there),
            None => e.create_listed(&spec, &list),
        })
        .await
    }

    /// Connects a container to a network of plugins.
    pub(super) async fn connect_listed(
        &self,
        network: NetworkId,
        target: Target,
        asked: Asked,
    ) -> Result<AttachReply, ApiError> {
        let this = self.clone();
        self.to_the_end(async move {
            let _turn = this.driver.container(key(target.engine, &target.id)).await;
            this.connect_in_turn(network, target, asked).await
        })
        .await
    }

    async fn connect_in_turn(&self, network: NetworkId, target: Target, asked: Asked) -> Result<AttachReply, ApiError> {
        loop {
            let (t, a) = (target.clone(), asked.clone());
            match self.call(move |e| e.begin_chain(network, &t, &a)).await? {
                Begun::There(reply) => return Ok(*reply),
                Begun::Leftover(id) => drop(self.unchain_in_turn(id, Failing::Stays).await?),
                Begun::Go(record) => return self.add(record.id, target.netns).await,
            }
        }
    }

    /// ADD, and the record of what it came to.
    async fn add(&self, id: EndpointId, netns: rnet_kernel::Netns) -> Result<AttachReply, ApiError> {
        let work = self.call(move |e| e.work_of(id)).await?;
        let added = self.driver.run(move |plugins| Ok(plugins.add(&work, netns))).await;
        let added: Result<Made, Refused> = added.unwrap_or_else(|error| Err(Refused { error, whole: true }));
        match added {
            Ok(made) => {
                let kept = self.call(move |e| e.chain_made(id, made)).await;
                if kept.is_err() {
                    // Without its record it would be taken back by the next start: better now, and said.
                    self.unchain_in_turn(id, Failing::Stays).await?;
                }
                kept
            }
            Err(Refused { error, whole: true }) => {
                self.call(move |e| e.chain_gone(id)).await?;
                Err(error)
            }
            Err(Refused { error, whole: false }) => {
                let said = error.clone();
                self.call(move |e| {
                    e.chain_failed(id, &said);
                    Ok(())
                })
                .await?;
                Err(error)
            }
        }
    }

    /// DEL.
    pub(super) async fn unchain(&self, id: EndpointId, failing: Failing) -> Result<Endpoint, ApiError> {
        let this = self.clone();
        self.to_the_end(async move {
            let whose = this.call(move |e| e.work_of(id)).await?.record;
            let _turn = this.driver.container(key(whose.engine, &whose.container_id)).await;
            this.unchain_in_turn(id, failing).await
        })
        .await
    }

    async fn unchain_in_turn(&self, id: EndpointId, failing: Failing) -> Result<Endpoint, ApiError> {
        let work: Work = self.call(move |e| e.begin_unchain(id)).await?;
        let deleted = self.driver.run(move |plugins| plugins.del(&work, failing)).await;
        match (deleted, failing) {
            (Ok(()), _) => self.call(move |e| e.chain_gone(id)).await,
            (Err(error), Failing::Goes) => {
                self.call(move |e| e.chain_gone(id)).await?;
                Err(error)
            }
            (Err(error), Failing::Stays) => {
                let said = error.clone();
                self.call(move |e| {
                    e.chain_failed(id, &said);
                    Ok(())
                })
                .await?;
                Err(error)
            }
        }
    }

    /// Removes all of them, and says what failed first.
    async fn unchain_all(&self, removal: Removal, failing: Failing) -> Result<Vec<Endpoint>, ApiError> {
        let mut gone = removal.endpoints;
        let mut failure = None;
        for id in removal.chains {
            match self.unchain(id, failing).await {
                Ok(endpoint) => gone.push(endpoint),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(gone), Err)
    }

    /// Takes back what the last run has left unfinished. What hangs goes on while others are served.
    pub(crate) async fn take_back(&self, at_most: Duration) {
        let Ok(left) = self.call(|e| Ok(std::mem::take(&mut e.left_over))).await else { return };
        let tasks: Vec<_> = left.into_iter().map(|id| tokio::spawn(self.clone().take_one_back(id))).collect();
        let all = async {
            for task in tasks {
                let _ = task.await;
            }
        };
        if tokio::time::timeout(at_most, all).await.is_err() {
            tracing::warn!("plugins are still taking back what an earlier run has left");
        }
    }

    pub(super) async fn take_one_back(self, id: EndpointId) {
        if let Err(error) = self.unchain(id, Failing::Stays).await {
            tracing::warn!(attachment = %id, error = error.chain(), "cannot take an interface back");
        }
    }

    /// Connects a container to a network.
    pub(crate) async fn connect(
        &self,
        name: String,
        request: NetworkConnect,
        target: Target,
    ) -> Result<AttachReply, ApiError> {
        let inside = super::handle::open_inside(&target.netns).await;
        let (asked, whom) = (Asked::of(&request.options), target.clone());
        let netns = target.netns.id().ino;
        let done = self
            .call(move |e| {
                if let Some(network) = e.find_listed(&name) {
                    return Ok(Err(network));
                }
                e.enter(&target.netns, inside);
                e.connect(&name, &request, &target).map(Ok)
            })
            .await?;
        let reply = match done {
            Ok(reply) => reply,
            Err(network) => self.connect_listed(network, whom, asked).await?,
        };
        self.names.ready(netns).await;
        Ok(reply)
    }

    /// Disconnects a container from a network.
    pub(crate) async fn disconnect(&self, name: String, request: NetworkDisconnect) -> Result<Vec<Endpoint>, ApiError> {
        let removal = self.call(move |e| e.disconnect(&name, &request)).await?;
        self.unchain_all(removal, Failing::Stays).await
    }

    /// Detaches.
    pub(crate) async fn detach(&self, request: DetachRequest) -> Result<Vec<Endpoint>, ApiError> {
        let removal = self.call(move |e| e.detach(&request)).await?;
        self.unchain_all(removal, Failing::Stays).await
    }

    /// Removes a network; `force` disconnects what is on it first.
    pub(crate) async fn remove_network(&self, name: String, force: bool) -> Result<Network, ApiError> {
        let asked = name.clone();
        let on_it = self.call(move |e| Ok(e.chains_to_force(&asked, force))).await?;
        for id in on_it {
            if let Err(error) = self.unchain(id, Failing::Goes).await {
                tracing::warn!(network = name, error = error.chain(), "removed with its network");
            }
        }
        self.call(move |e| e.remove_network(&name, force)).await
    }

    /// Gives a namespace back.
    pub(crate) async fn release_sandbox(&self, id: ContainerName, forget: bool) -> Result<Empty, ApiError> {
        let container = id.clone();
        let chains = move |e: &mut super::Engine| {
            Ok(e.chains_of(rnet_model::Engine::Rnet, container.as_str()).map(|r| r.id).collect::<Vec<_>>())
        };
        let removal = Removal { endpoints: Vec::new(), chains: self.call(chains).await? };
        let failing = if forget { Failing::Goes } else { Failing::Stays };
        // The rest goes all the same, so that a repeated request succeeds.
        let unchained = self.unchain_all(removal, failing).await;
        let released = self.call(move |e| e.release_sandbox(&id, forget)).await?;
        unchained.map(|_| released)
    }

    /// Connects a sandbox and brings its persistent attachments back.
    pub(crate) async fn connect_sandbox(
        &self,
        id: ContainerName,
        request: ConnectRequest,
    ) -> Result<Vec<Endpoint>, ApiError> {
        let (name, asked) = (id.clone(), request.clone());
        let (netns, plain) = self
            .call(move |e| {
                let listed = asked.networks.iter().any(|n| e.find_listed(n.network.as_str()).is_some());
                let target = e.sandbox_target(&name)?;
                let netns = target.netns.id().ino;
                if listed {
                    e.present(&name, &asked)?;
                    return Ok((netns, Err(target)));
                }
                Ok((netns, Ok(e.connect_sandbox(&name, &asked)?)))
            })
            .await?;
        let endpoints = match plain {
            Ok(endpoints) => endpoints,
            Err(target) => {
                let this = self.clone();
                self.to_the_end(async move { this.connect_mixed(target, request).await }).await?
            }
        };
        self.names.ready(netns).await;
        Ok(endpoints)
    }

    /// Networks of both sorts, one after the other: all or none.
    async fn connect_mixed(&self, target: Target, request: ConnectRequest) -> Result<Vec<Endpoint>, ApiError> {
        let _turn = self.driver.container(key(target.engine, &target.id)).await;
        let mut done = Vec::new();
        for OnNetwork { network: name, options } in &request.networks {
            let asked = Asked::of(options);
            let (t, a, n) = (target.clone(), asked.clone(), name.clone());
            let listed = self
                .call(move |e| match e.find_listed(n.as_str()) {
                    Some(network) => {
                        e.drop_unused_prewired(&t);
                        Ok(Err(network))
                    }
                    None => e.connect_one(&t, &n, &a).map(Ok),
                })
                .await;
            let connected = match listed {
                Ok(Ok(made)) => Ok(Ok(made)),
                Ok(Err(network)) => {
                    self.connect_in_turn(network, target.clone(), asked).await.map(|reply| Err(reply.endpoint.id))
                }
                Err(error) => Err(error),
            };
            match connected {
                Ok(one) => done.push(one),
                Err(error) => {
                    self.disconnect_again(done).await;
                    return Err(error);
                }
            }
        }
        let whom = target.clone();
        if let Err(error) = self.call(move |e| e.publish_with(&whom, &request)).await {
            self.disconnect_again(done).await;
            return Err(error);
        }
        self.call(move |e| e.finish_connect(&target)).await
    }

    /// Undoes what was connected before something failed.
    async fn disconnect_again(&self, done: Vec<Result<super::sandbox::Connected, EndpointId>>) {
        for one in done.into_iter().rev() {
            let undone = match one {
                Ok(made) => {
                    self.call(move |e| {
                        e.take_connection_back(made);
                        Ok(())
                    })
                    .await
                }
                Err(id) => self.unchain_in_turn(id, Failing::Stays).await.map(drop),
            };
            if let Err(error) = undone {
                tracing::warn!(error = error.chain(), "cannot take a connection back");
            }
        }
    }
}
