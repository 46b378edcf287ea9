//! [`Links`] of namespaces in memory.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rnet_model::IfName;

use super::world::{Place, World};
use crate::links::{Address, Fault, LinkOp, LinkState, Links, Port, Qdisc, Route, RouteKind, Rule, VlanEntry};
use crate::{KernelError, Netns};

/// Some namespaces with links between them. Clones are the same namespaces.
#[derive(Clone, Default)]
pub struct FakeNet {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    world: World,
    done: Vec<String>,
    failing: Vec<(String, i32)>,
}

/// Links of one of them.
#[derive(Clone)]
pub struct FakeLinks {
    net: FakeNet,
    place: Place,
}

impl FakeNet {
    /// Namespaces with nothing but `lo`.
    pub fn new() -> Self {
        FakeNet::default()
    }

    /// The daemon's own namespace.
    pub fn host(&self) -> FakeLinks {
        FakeLinks { net: self.clone(), place: None }
    }

    /// Another one.
    pub fn inside(&self, ns: &Netns) -> FakeLinks {
        FakeLinks { net: self.clone(), place: Some(ns.id()) }
    }

    /// The next operation whose words (see the Display of [`LinkOp`]) contain `words` is refused with `errno`.
    pub fn fail_next(&self, words: impl Into<String>, errno: i32) {
        self.lock().failing.push((words.into(), errno));
    }

    /// Every operation so far in words, a line each, refused or not; those inside a namespace begin with it.
    pub fn done(&self) -> Vec<String> {
        self.lock().done.clone()
    }

    /// Forgets what [`FakeNet::done`] returns.
    pub fn forget(&self) {
        self.lock().done.clear();
    }

    /// Ends a namespace: its links go, and with each veth its other end.
    pub fn end(&self, ns: &Netns) {
        self.lock().world.end(Some(ns.id()));
    }

    /// A test that panicked elsewhere does not make the values wrong.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for FakeLinks {
    fn default() -> Self {
        FakeNet::new().host()
    }
}

impl FakeLinks {
    /// The first namespace of a new [`FakeNet`].
    pub fn new() -> Self {
        FakeLinks::default()
    }

    /// The namespaces it is one of.
    pub fn net(&self) -> &FakeNet {
        &self.net
    }
}

impl fmt::Debug for FakeNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeNet")
    }
}

impl fmt::Debug for FakeLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeLinks({:?})", self.place)
    }
}

impl Links for FakeLinks {
    fn links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        Ok(self.net.lock().world.links(self.place))
    }

    fn link(&mut self, name: &IfName) -> Result<Option<LinkState>, KernelError> {
        Ok(self.links()?.into_iter().find(|l| l.name == *name))
    }

    fn addresses_of(&mut self, index: u32) -> Result<Vec<Address>, KernelError> {
        Ok(self.addresses()?.into_iter().filter(|a| a.index == index).collect())
    }

    fn addresses(&mut self) -> Result<Vec<Address>, KernelError> {
        Ok(self.net.lock().world.addresses(self.place))
    }

    fn link_by_index(&mut self, index: u32) -> Result<Option<LinkState>, KernelError> {
        Ok(self.links()?.into_iter().find(|l| l.index == index))
    }

    fn port(&mut self, dev: &IfName) -> Result<Option<Port>, KernelError> {
        Ok(self.net.lock().world.port(self.place, dev))
    }

    fn port_vlans(&mut self, dev: &IfName) -> Result<Vec<VlanEntry>, KernelError> {
        Ok(self.net.lock().world.traffic(self.place, dev).map(|t| t.vlans.clone()).unwrap_or_default())
    }

    fn qdiscs(&mut self, dev: &IfName) -> Result<Vec<Qdisc>, KernelError> {
        Ok(self.net.lock().world.traffic(self.place, dev).map(|t| t.qdiscs.clone()).unwrap_or_default())
    }

    fn ingress_mirrors(&mut self, dev: &IfName) -> Result<Vec<u32>, KernelError> {
        Ok(self.net.lock().world.traffic(self.place, dev).map(|t| t.mirrors.clone()).unwrap_or_default())
    }

    fn rules(&mut self) -> Result<Vec<Rule>, KernelError> {
        Ok(self.net.lock().world.rules(self.place))
    }

    fn routes_of_table(&mut self, table: u32) -> Result<Vec<Route>, KernelError> {
        let all = self.net.lock().world.routes(self.place);
        Ok(all.into_iter().filter(|r| r.table == table).collect())
    }

    fn routes(&mut self) -> Result<Vec<Route>, KernelError> {
        let all = self.net.lock().world.routes(self.place);
        Ok(all.into_iter().filter(|r| r.table == Route::MAIN && r.kind == RouteKind::Unicast).collect())
    }

    fn routes_through(&mut self, dev: &IfName) -> Result<Vec<Route>, KernelError> {
        let all = self.net.lock().world.routes(self.place);
        Ok(all.into_iter().filter(|r| r.dev == *dev && r.kind == RouteKind::Unicast).collect())
    }

    fn batch(&mut self, ops: &[LinkOp]) -> Result<Vec<Fault>, KernelError> {
        let mut guard = self.net.lock();
        let shared = &mut *guard;
        let mut faults = Vec::new();
        for (index, op) in ops.iter().enumerate() {
            let words = op.to_string();
            let planned = shared.failing.iter().position(|(part, _)| words.contains(part.as_str()));
            let result = match planned {
                Some(i) => Err(shared.failing.remove(i).1),
                None => shared.world.apply(self.place, op),
            };
            shared.done.push(self.place.map_or_else(|| words.clone(), |id| format!("{id} {words}")));
            if let Err(errno) = result {
                faults.push(Fault { index, error: KernelError::os(words, errno) });
            }
        }
        Ok(faults)
    }
}

#[cfg(test)]
mod tests;
