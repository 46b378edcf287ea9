//! What the kernel says has changed in the daemon's namespace, and what is looked at because of it.
//!
//! A notification may be older than what it is about: the kernel is asked again before anything is touched.

use rnet_kernel::{Event, Filter as _, LinkOp, LinkState, Links};
use rnet_model::IfName;

use super::state::{BridgeRecord, Phase};
use super::{Engine, view};

impl Engine {
    /// Something changed in the daemon's namespace.
    pub(super) fn kernel_event(&mut self, event: Event) {
        match event {
            Event::Link(link) => self.link_changed(link),
            Event::LinkGone { index, name } => {
                self.foreign.remove(&index);
                self.link_gone(&name);
            }
            // Containers' addresses live elsewhere: these are rare, and one look covers all that came together.
            Event::Address => self.verify_soon(),
            // What was changed from here is as it should be: reading all of it for each published port would take time.
            Event::Filter if matches!(self.kernel.filter.touched(), Ok(false)) => {}
            Event::Filter => self.verify_soon(),
            Event::RouteGone { index } => {
                if self.bridge_index.values().any(|bridge| *bridge == index) {
                    self.routes_gone = true;
                    self.verify_soon();
                }
            }
            Event::Overrun => self.resync(),
        }
    }

    fn link_changed(&mut self, link: LinkState) {
        match self.tag.object(&link) {
            // The kernel tells of a new link before it has its alias: this one is known by its name.
            None if self.by_host_ifname.contains_key(&link.name) => {}
            Some("bridge") | None => {
                let name = link.name.clone();
                self.foreign.insert(link.index, link);
                self.verify_uplink(&name);
            }
            Some(object) => {
                if object.parse().is_ok_and(|id| self.networks.contains_key(&id)) {
                    return self.bridge_changed(&link);
                }
                self.foreign.remove(&link.index);
                if self.ready_ports.contains_key(&link.name) {
                    return self.verify_ready(&link.name);
                }
                if self.is_in_place(&link) {
                    return;
                }
                let Some(id) = self.by_host_ifname.get(&link.name).copied() else { return };
                // The event may be older than the endpoint: look again before touching anything.
                if let Ok(Some(now)) = self.kernel.host.link(&link.name)
                    && self.endpoints.get(&id).is_some_and(|r| r.phase == Phase::Live)
                {
                    self.verify_port(id, Some(&now));
                }
            }
        }
    }

    /// A network's bridge: going down takes its routes along, which IPv4 does not tell.
    fn bridge_changed(&mut self, link: &LinkState) {
        self.bridge_index.insert(link.name.clone(), link.index);
        if !link.up {
            self.verify_soon();
        }
    }

    /// Whether a host end is up and in the bridge it belongs to, as far as that is known without asking the kernel.
    fn is_in_place(&mut self, link: &LinkState) -> bool {
        let record = self.by_host_ifname.get(&link.name).and_then(|id| self.endpoints.get(id));
        let Some(bridge) = record.map(|r| r.master.clone()) else { return false };
        let (true, Some(master)) = (link.up, link.master) else { return false };
        if self.bridge_index.get(&bridge) != Some(&master)
            && let Ok(Some(now)) = self.kernel.host.link(&bridge)
        {
            self.bridge_index.insert(bridge.clone(), now.index);
        }
        self.bridge_index.get(&bridge) == Some(&master)
    }

    /// An uplink that somebody took out of its bridge goes back: its addresses are the bridge's.
    fn verify_uplink(&mut self, name: &IfName) {
        let is_uplink = |b: &&BridgeRecord| b.uplink.as_ref().is_some_and(|u| u.name == *name);
        let Some(bridge) = self.bridges.values().find(is_uplink).map(|b| b.name.clone()) else { return };
        let Ok(Some(master)) = self.kernel.host.link(&bridge) else { return };
        // The event may be old: look again.
        let Ok(Some(link)) = self.kernel.host.link(name) else { return };
        match link.master {
            Some(index) if index == master.index => return,
            Some(_) => return tracing::warn!(uplink = %name, %bridge, "an uplink is in another device; it stays there"),
            None => {}
        }
        match self.kernel.host.batch(&[LinkOp::Master(name.clone(), bridge.clone())]) {
            Ok(faults) if faults.is_empty() => {
                let mut event = view::event("repair", bridge.to_string());
                event.attributes.insert("what".into(), format!("{name} was no port of it"));
                self.emit(event);
            }
            Ok(faults) => faults.iter().for_each(|f| tracing::warn!(error = %f.error, "cannot put an uplink back")),
            Err(error) => tracing::warn!(%error, "cannot put an uplink back"),
        }
    }

    fn link_gone(&mut self, name: &IfName) {
        self.chain_link_gone(name);
        if self.limiter_gone(name) {
            return;
        }
        let gone = |engine: &mut Self| matches!(engine.kernel.host.link(name), Ok(None));
        if let Some(id) = self.by_host_ifname.get(name).copied() {
            if self.endpoints.get(&id).is_some_and(|r| r.phase == Phase::Live) && gone(self) {
                self.lost_endpoint(id);
            }
        } else if self.ready_ports.contains_key(name) {
            self.verify_ready(name);
        } else if self.network_of_bridge(name).is_some() {
            self.verify_networks();
        } else if let Some(record) = self.bridges.get(name).cloned()
            && gone(self)
        {
            self.bridges.remove(name);
            match self.remake_bridge(record.clone()) {
                Ok(()) => {
                    self.reattach_ports(name);
                    let mut event = view::event("repair", name.to_string());
                    event.attributes.insert("what".into(), "the bridge was gone".into());
                    self.emit(event);
                }
                Err(error) => {
                    tracing::warn!(bridge = %name, error = error.chain(), "cannot make a bridge again");
                    self.bridges.insert(name.clone(), record);
                }
            }
        }
    }

    /// Events were lost: the kernel is read again.
    fn resync(&mut self) {
        let links = match self.kernel.host.links() {
            Ok(links) => links,
            Err(error) => return tracing::error!(%error, "cannot read the host's links"),
        };
        let ours = self.sort_links(links);
        self.routes_gone = true;
        self.verify_networks();
        let bridges: Vec<IfName> = self.bridges.keys().cloned().collect();
        let uplinks: Vec<IfName> =
            self.bridges.values().filter_map(|b| Some(b.uplink.as_ref()?.name.clone())).collect();
        bridges.iter().for_each(|name| self.link_gone(name));
        uplinks.iter().for_each(|name| self.verify_uplink(name));
        let live: Vec<_> =
            self.endpoints.values().filter(|r| r.phase == Phase::Live).map(|r| (r.id, r.host_ifname.clone())).collect();
        for (id, name) in live {
            match ours.get(&id.to_string()) {
                Some(link) if link.name == name => self.verify_port(id, Some(link)),
                _ => self.link_gone(&name),
            }
        }
        let limited: Vec<_> = self.networks.keys().filter(|id| self.is_limited(**id)).copied().collect();
        limited.into_iter().for_each(|id| self.verify_limits(id));
        let ready: Vec<IfName> = self.ready_ports.keys().cloned().collect();
        ready.iter().for_each(|name| self.verify_ready(name));
    }
}
