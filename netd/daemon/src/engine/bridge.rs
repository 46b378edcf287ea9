//! Bridges outside of any network: made by hand or by an attach, with or without a NIC of the host in them.

use rnet_api::{ApiError, Bridge, BridgeRequest};
use rnet_kernel::{AddressGeneration, LinkKind, LinkOp, LinkState, Links, NewBridge, RouteEntry, RouteKind, Snooping};
use rnet_model::{IfAddr, IfName, Kind};
use rnet_plan::{Action, Place, Plan, apply, fail};

use super::core::kernel;
use super::state::{BridgeRecord, MovedAddress, MovedRoute, UplinkRecord};
use super::surfaces::{delete, put};
use super::{Engine, view};

/// Key of a bridge in the store; in the run log, that of one that is being made.
pub(super) fn bridge_key(name: &IfName) -> String {
    format!("bridges/{name}")
}

/// `RTPROT_KERNEL` of linux/rtnetlink.h: routes that come and go with an address.
pub(super) const BY_KERNEL: u8 = 2;

impl Engine {
    /// All bridges that netd made or attached somebody to.
    pub(super) fn bridges(&mut self) -> Result<Vec<Bridge>, ApiError> {
        let used = self.endpoints.values().filter(|r| r.network.is_none()).map(|r| r.master.clone());
        let names: std::collections::BTreeSet<IfName> = self.bridges.keys().cloned().chain(used).collect();
        names.iter().map(|name| self.show_bridge(name)).collect()
    }

    fn show_bridge(&mut self, name: &IfName) -> Result<Bridge, ApiError> {
        let fail = |e| kernel(format!("cannot read bridge {name}"), &e);
        let links = self.kernel.host.links().map_err(fail)?;
        let link = links.iter().find(|l| l.name == *name);
        let index = link.map(|l| l.index);
        let addresses = self.kernel.host.addresses().map_err(fail)?;
        let own = addresses.iter().filter(|a| Some(a.index) == index && !a.automatic);
        let record = self.bridges.get(name);
        Ok(Bridge {
            name: name.clone(),
            uplink: record.and_then(|r| r.uplink.as_ref()).map(|u| u.name.clone()),
            ours: record.is_some(),
            addresses: own.filter_map(|a| IfAddr::new(a.ip, a.prefix).ok()).collect(),
            mtu: link.map_or(0, |l| l.mtu),
            ports: links.iter().filter(|l| l.master.is_some() && l.master == index).count(),
        })
    }

    /// `rnet bridge create`. An equal bridge that exists is the answer.
    pub(super) fn create_bridge(&mut self, request: &BridgeRequest) -> Result<Bridge, ApiError> {
        let name = &request.name;
        if request.vlan_filtering {
            return Err(ApiError::new(
                Kind::Unsupported,
                format!("bridge {name}: VLAN filtering is not in this version"),
            )
            .hint("leave --vlan-filtering out, and make one bridge for each LAN"));
        }
        if let Some(found) = self.bridges.get(name) {
            let uplink = found.uplink.as_ref().map(|u| &u.name);
            let as_asked = uplink == request.uplink.as_ref()
                && found.addresses == request.addresses
                && request.mtu.is_none_or(|mtu| mtu == found.mtu);
            if as_asked {
                return self.show_bridge(name);
            }
            return Err(ApiError::new(Kind::Conflict, format!("bridge {name} exists with other options"))
                .hint(format!("see it: rnet bridge ls; remove it: rnet bridge rm {name}")));
        }
        let fail = |e| kernel(format!("cannot look for {name}"), &e);
        if self.kernel.host.link(name).map_err(fail)?.is_some() {
            return Err(ApiError::new(Kind::Conflict, format!("the host already has an interface {name}"))
                .hint("rnet attach can use a bridge that exists; choose another name to make a new one"));
        }
        let uplink = request.uplink.as_ref().map(|u| self.look_at_uplink(u)).transpose()?;
        let record = BridgeRecord {
            name: name.clone(),
            mac: uplink.as_ref().and_then(|(link, _)| link.mac),
            mtu: request.mtu.or_else(|| uplink.as_ref().map(|(link, _)| link.mtu)).unwrap_or(1500),
            addresses: request.addresses.clone(),
            uplink: uplink.map(|(_, record)| record),
        };
        self.make_bridge(record)?;
        self.emit(view::event("bridge-create", name.to_string()));
        self.show_bridge(name)
    }

    /// Makes a bridge, all of it or nothing, and remembers it.
    pub(super) fn make_bridge(&mut self, record: BridgeRecord) -> Result<(), ApiError> {
        let log_key = format!("bridge/{}", record.name);
        fail::point("bridge.log");
        self.log_put(&log_key, &record)?;
        fail::point("bridge.log.done");
        let plan = self.bridge_plan(&record);
        let made = apply(&plan, &mut self.kernel)
            .map_err(|f| kernel(format!("cannot create bridge {}", record.name), &f.cause))
            .and_then(|()| {
                fail::point("bridge.commit");
                let committed = self.writer.commit(vec![put(bridge_key(&record.name), &record)]);
                if committed.is_err() {
                    rnet_plan::undo(&plan.steps, &mut self.kernel);
                }
                committed
            });
        self.log_remove(&log_key);
        made?;
        fail::point("bridge.commit.done");
        self.bridges.insert(record.name.clone(), record);
        Ok(())
    }

    /// The NIC that is to become a port: what it is, and what has to move.
    fn look_at_uplink(&mut self, name: &IfName) -> Result<(LinkState, UplinkRecord), ApiError> {
        let fail = |e| kernel(format!("cannot look at {name}"), &e);
        let Some(link) = self.kernel.host.link(name).map_err(fail)? else {
            return Err(ApiError::new(Kind::Missing, format!("there is no interface {name} on this host"))
                .hint("list them: ip link"));
        };
        if matches!(link.kind, LinkKind::Bridge { .. } | LinkKind::Loopback) {
            return Err(ApiError::new(
                Kind::Invalid,
                format!("{name} cannot be an uplink: it is a bridge or loopback"),
            ));
        }
        if let Some(bridge) = self.bridges.values().find(|b| b.uplink.as_ref().is_some_and(|u| u.name == *name)) {
            // Freed by hand it would be without the addresses and routes that are on the bridge.
            let bridge = &bridge.name;
            return Err(ApiError::new(Kind::Conflict, format!("{name} is the uplink of {bridge} already"))
                .hint(format!("rnet bridge rm {bridge} gives it back")));
        }
        if link.master.is_some() {
            return Err(ApiError::new(Kind::Conflict, format!("{name} is a port of another device already"))
                .hint(format!("free it: ip link set {name} nomaster")));
        }
        let addresses = self.kernel.host.addresses_of(link.index).map_err(fail)?;
        let routes = self.kernel.host.routes_through(name).map_err(fail)?;
        let movable = addresses.iter().filter(|a| !a.automatic && !a.narrow);
        let moved = |r: &RouteEntry| MovedRoute {
            destination: r.destination,
            via: r.via,
            metric: r.metric,
            onlink: r.onlink,
            source: r.source,
            protocol: r.protocol,
            table: r.table,
        };
        let mut routes: Vec<MovedRoute> = routes.iter().filter(|r| r.protocol != BY_KERNEL).map(moved).collect();
        // The way to a next hop may be one of them, as where a host has a /32 and its gateway a route of its own.
        routes.sort_by_key(|r| r.via.is_some());
        let record = UplinkRecord {
            name: name.clone(),
            up: link.up,
            addresses: movable
                .filter_map(|a| {
                    let address = IfAddr::new(a.ip, a.prefix).ok()?;
                    Some(MovedAddress { address, broadcast: a.broadcast })
                })
                .collect(),
            routes,
        };
        Ok((link, record))
    }

    /// The bridge takes the NIC's hardware address, so that neighbours' tables and open connections stay valid.
    fn bridge_plan(&self, record: &BridgeRecord) -> Plan {
        let name = &record.name;
        let host = |ops| Action::Links(Place::Host, ops);
        let new = NewBridge {
            name: name.clone(),
            alias: self.tag.alias("bridge"),
            mtu: Some(record.mtu),
            mac: record.mac,
            vlan_filtering: false,
            ipv6: AddressGeneration::Off,
            snooping: Snooping::Off,
        };
        let mut plan = Plan::default();
        plan.undoable(
            "bridge.make",
            host(vec![LinkOp::NewBridge(new)]),
            vec![host(vec![LinkOp::Delete(name.clone())])],
        );
        let mut ops: Vec<LinkOp> = Vec::new();
        let mut undo = Vec::new();
        if let Some(uplink) = &record.uplink {
            ops.extend(hand_over(uplink, name));
            undo.push(host(hand_back(uplink, name)));
        }
        ops.extend(record.addresses.iter().map(|a| LinkOp::AddAddress(name.clone(), *a)));
        if !ops.is_empty() {
            plan.undoable("bridge.move", host(ops), undo);
        }
        plan
    }

    /// An attach has made this bridge: from now on it is one of ours.
    pub(super) fn adopt_bridge(&mut self, name: &IfName, mtu: u32) {
        let record = BridgeRecord { name: name.clone(), mac: None, mtu, addresses: Vec::new(), uplink: None };
        self.writer.behind(vec![put(bridge_key(name), &record)]);
        self.bridges.insert(name.clone(), record);
        self.emit(view::event("bridge-create", name.to_string()));
    }

    /// `rnet bridge rm`.
    pub(super) fn remove_bridge(&mut self, name: &IfName) -> Result<Bridge, ApiError> {
        let Some(record) = self.bridges.get(name).cloned() else {
            if let Some(network) = self.network_of_bridge(name).and_then(|id| self.networks.get(&id)) {
                let network = &network.record.spec.name;
                return Err(ApiError::new(Kind::Conflict, format!("bridge {name} belongs to network {network}"))
                    .hint(format!("rnet network rm {network}")));
            }
            let fail = |e| kernel(format!("cannot look for {name}"), &e);
            return Err(match self.kernel.host.link(name).map_err(fail)? {
                Some(_) => ApiError::new(Kind::Conflict, format!("{name} was not made by rnet"))
                    .hint(format!("if it is to go: ip link del {name}")),
                None => ApiError::new(Kind::Missing, format!("there is no bridge {name}")).hint("rnet bridge ls"),
            });
        };
        let shown = self.show_bridge(name)?;
        let on_it = self.endpoints.values().filter(|r| r.master == *name);
        let on_it: Vec<_> = on_it.map(|r| format!("{}:{} {}", r.engine, r.container, r.ifname)).collect();
        if !on_it.is_empty() {
            return Err(ApiError::new(Kind::Conflict, format!("bridge {name} is in use by {}", on_it.join(", ")))
                .hint("detach them first: rnet detach CONTAINER"));
        }
        let fail = |e| kernel(format!("cannot read the ports of {name}"), &e);
        // Read now: what is known of others' links may be a moment old.
        let links = self.kernel.host.links().map_err(fail)?;
        let index = links.iter().find(|l| l.name == *name).map(|l| l.index);
        let uplink = record.uplink.as_ref().map(|u| &u.name);
        let stranger = |l: &&LinkState| {
            l.master.is_some() && l.master == index && Some(&l.name) != uplink && self.tag.object(l).is_none()
        };
        if let Some(port) = links.iter().find(stranger) {
            return Err(ApiError::new(
                Kind::Conflict,
                format!("bridge {name} has a port rnet did not make: {}", port.name),
            )
            .hint(format!("free it: ip link set {} nomaster", port.name)));
        }
        // The store first: a bridge of ours that no record knows is taken back by the next start.
        let log_key = format!("bridge/{name}");
        fail::point("bridge-rm.log");
        self.log_put(&log_key, &record)?;
        fail::point("bridge-rm.log.done");
        fail::point("bridge-rm.commit");
        if let Err(error) = self.writer.commit(vec![delete(bridge_key(name))]) {
            self.log_remove(&log_key);
            return Err(error);
        }
        fail::point("bridge-rm.commit.done");
        self.bridges.remove(name);
        self.reaper.finish();
        fail::point("bridge-rm.kernel");
        self.unmake_bridge(&record)?;
        fail::point("bridge-rm.kernel.done");
        self.log_remove(&log_key);
        self.emit(view::event("bridge-rm", name.to_string()));
        Ok(shown)
    }

    /// Gives an uplink its addresses back and deletes the bridge. Idempotent: also used on what a crash left.
    pub(super) fn unmake_bridge(&mut self, record: &BridgeRecord) -> Result<(), ApiError> {
        let fail = |e| kernel(format!("cannot remove bridge {}", record.name), &e);
        let mut ops = Vec::new();
        if let Some(uplink) = &record.uplink
            && self.kernel.host.link(&uplink.name).map_err(fail)?.is_some()
        {
            // What is to go from a bridge that is gone already is no fault.
            ops.extend(hand_back(uplink, &record.name));
        }
        ops.push(LinkOp::Delete(record.name.clone()));
        match self.kernel.host.batch(&ops).map_err(fail)?.into_iter().next() {
            Some(fault) => Err(fail(fault.error)),
            None => Ok(()),
        }
    }
}

fn entry(route: &MovedRoute, dev: &IfName) -> RouteEntry {
    RouteEntry {
        destination: route.destination,
        via: route.via,
        dev: dev.clone(),
        metric: route.metric,
        onlink: route.onlink,
        source: route.source,
        protocol: route.protocol,
        table: route.table,
        kind: RouteKind::Unicast,
        scope: None,
        mtu: None,
        advmss: None,
        more: Vec::new(),
    }
}

/// The NIC becomes a port, its addresses and routes the bridge's.
fn hand_over(uplink: &UplinkRecord, bridge: &IfName) -> Vec<LinkOp> {
    let mut ops = vec![LinkOp::Up(uplink.name.clone()), LinkOp::Master(uplink.name.clone(), bridge.clone())];
    // IPv6 keeps a device's routes when its addresses go; IPv4 drops them with the last one.
    ops.extend(uplink.routes.iter().map(|r| LinkOp::DelRoute(entry(r, &uplink.name))));
    ops.extend(uplink.addresses.iter().map(|a| LinkOp::DelAddress(uplink.name.clone(), a.address)));
    ops.extend(uplink.addresses.iter().map(|a| LinkOp::MoveAddress(bridge.clone(), a.address, a.broadcast)));
    ops.extend(uplink.routes.iter().map(|r| LinkOp::AddRoute(entry(r, bridge))));
    ops
}

/// The reverse of [`hand_over`].
fn hand_back(uplink: &UplinkRecord, bridge: &IfName) -> Vec<LinkOp> {
    let mut ops = vec![LinkOp::NoMaster(uplink.name.clone())];
    // IPv6 knows a route by destination and metric alone: the bridge's would be in the way of the NIC's.
    ops.extend(uplink.routes.iter().map(|r| LinkOp::DelRoute(entry(r, bridge))));
    ops.extend(uplink.addresses.iter().map(|a| LinkOp::DelAddress(bridge.clone(), a.address)));
    ops.extend(uplink.addresses.iter().map(|a| LinkOp::MoveAddress(uplink.name.clone(), a.address, a.broadcast)));
    ops.extend(uplink.routes.iter().map(|r| LinkOp::AddRoute(entry(r, &uplink.name))));
    if !uplink.up {
        ops.push(LinkOp::Down(uplink.name.clone()));
    }
    ops
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_uplink_moves_and_comes_back() {
        let uplink = UplinkRecord {
            name: "eth0".parse().unwrap(),
            up: true,
            addresses: vec![
                MovedAddress {
                    address: "192.168.115.2/24".parse().unwrap(),
                    broadcast: Some("192.168.115.255".parse().unwrap()),
                },
                MovedAddress { address: "10.0.0.2/8".parse().unwrap(), broadcast: None },
            ],
            routes: vec![MovedRoute {
                destination: "0.0.0.0/0".parse().unwrap(),
                via: Some("192.168.115.1".parse().unwrap()),
                metric: None,
                onlink: false,
                source: None,
                protocol: 3,
                table: RouteEntry::MAIN,
            }],
        };
        let bridge: IfName = "br0".parse().unwrap();
        let words = |ops: Vec<LinkOp>| ops.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            words(hand_over(&uplink, &bridge)),
            [
                "link set eth0 up",
                "link set eth0 master br0",
                "route del default via 192.168.115.1 dev eth0",
                "addr del 192.168.115.2/24 dev eth0",
                "addr del 10.0.0.2/8 dev eth0",
                "addr add 192.168.115.2/24 broadcast 192.168.115.255 dev br0",
                "addr add 10.0.0.2/8 dev br0",
                "route add default via 192.168.115.1 dev br0",
            ]
        );
        assert_eq!(
            words(hand_back(&uplink, &bridge)),
            [
                "link set eth0 nomaster",
                "route del default via 192.168.115.1 dev br0",
                "addr del 192.168.115.2/24 dev br0",
                "addr del 10.0.0.2/8 dev br0",
                "addr add 192.168.115.2/24 broadcast 192.168.115.255 dev eth0",
                "addr add 10.0.0.2/8 dev eth0",
                "route add default via 192.168.115.1 dev eth0",
            ]
        );
    }
}
