//! Devices of other kinds, ports, VLANs, rules and qdiscs.

use rnet_model::IfName;

use super::{DEFAULT_MTU, Place, Space, World, blank};
use crate::links::{
    Admin, DeviceKind, Family, LinkKind, LinkOp, LinkState, NewDevice, NewTap, Port, PortVlan, Qdisc, QdiscPlace, Rule,
    TbfState, VlanEntry,
};

/// TC_H_ROOT and TC_H_INGRESS of linux/pkt_sched.h.
const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;

#[derive(Clone)]
pub(in crate::fake) struct Traffic {
    pub(in crate::fake) port: Port,
    pub(in crate::fake) vlans: Vec<VlanEntry>,
    pub(in crate::fake) qdiscs: Vec<Qdisc>,
    pub(in crate::fake) mirrors: Vec<u32>,
}

impl Default for Traffic {
    fn default() -> Self {
        let port = Port { hairpin: false, isolated: false };
        Traffic { port, vlans: Vec::new(), qdiscs: Vec::new(), mirrors: Vec::new() }
    }
}

impl Space {
    fn traffic_of(&mut self, name: &IfName) -> Result<&mut Traffic, i32> {
        let index = self.find(name)?;
        self.devices.get_mut(&index).map(|d| &mut d.traffic).ok_or(libc::ENODEV)
    }

    /// Settings of a port of a bridge.
    pub(super) fn port(&mut self, name: &IfName) -> Result<&mut Port, i32> {
        if self.get(name)?.master.is_none() {
            return Err(libc::EOPNOTSUPP);
        }
        self.traffic_of(name).map(|t| &mut t.port)
    }

    /// What the parent module does not know.
    pub(super) fn traffic(&mut self, op: &LinkOp) -> Result<(), i32> {
        match op {
            LinkOp::Rename(old, new) => {
                self.free(new)?;
                self.get(old)?.name = new.clone();
                for route in self.routes.iter_mut().filter(|r| r.dev == *old) {
                    route.dev = new.clone();
                }
            }
            LinkOp::Promisc(d, on) => self.get(d)?.promisc = on.is_on(),
            LinkOp::AllMulti(d, on) => self.get(d)?.allmulti = on.is_on(),
            LinkOp::TxQueueLen(d, n) => self.get(d)?.tx_queue_len = *n,
            LinkOp::Hairpin(d, on) => self.port(d)?.hairpin = on.is_on(),
            LinkOp::VlanFiltering(d, on) => match &mut self.get(d)?.kind {
                LinkKind::Bridge { vlan_filtering } => *vlan_filtering = on.is_on(),
                _ => return Err(libc::EOPNOTSUPP),
            },
            LinkOp::PortVlan(v) => self.add_vlans(v)?,
            LinkOp::DelPortVlan(v) => {
                self.traffic_of(&v.dev)?.vlans.retain(|there| !(v.from..=v.to).contains(&there.vid));
            }
            LinkOp::Devconf4(d, ..) => drop(self.find(d)?),
            LinkOp::AddRule(r) => self.add_rule(r),
            LinkOp::DelRule(r) => {
                let same = |there: &Rule| Rule { priority: r.priority.or(there.priority), ..r.clone() } == *there;
                if let Some(at) = self.rules.iter().position(same) {
                    self.rules.remove(at);
                }
            }
            LinkOp::Tbf(t) => {
                let tbf = TbfState { rate: t.rate, burst: u64::from(t.burst), limit: t.limit() };
                let kind = "tbf".to_owned();
                self.add_qdisc(&t.dev, Qdisc { kind, handle: 0x1_0000, parent: ROOT, tbf: Some(tbf) })?;
            }
            LinkOp::Ingress(d) => {
                let kind = "ingress".to_owned();
                self.add_qdisc(d, Qdisc { kind, handle: 0xffff_0000, parent: INGRESS, tbf: None })?;
            }
            LinkOp::MirrorIngress { from, to } => {
                let to = self.find(to)?;
                let traffic = self.traffic_of(from)?;
                if !traffic.qdiscs.iter().any(|q| q.parent == INGRESS) {
                    return Err(libc::EINVAL);
                }
                match traffic.mirrors.first() {
                    Some(there) if *there != to => return Err(libc::EEXIST),
                    Some(_) => {}
                    None => traffic.mirrors.push(to),
                }
            }
            LinkOp::DelQdisc(d, place) => {
                let traffic = self.traffic_of(d)?;
                let parent = match place {
                    QdiscPlace::Root => ROOT,
                    QdiscPlace::Ingress => {
                        traffic.mirrors.clear();
                        INGRESS
                    }
                };
                traffic.qdiscs.retain(|q| q.parent != parent);
            }
            _ => {}
        }
        Ok(())
    }

    fn add_vlans(&mut self, v: &PortVlan) -> Result<(), i32> {
        let vlans = &mut self.traffic_of(&v.dev)?.vlans;
        vlans.retain(|there| !(v.from..=v.to).contains(&there.vid));
        if v.pvid {
            vlans.iter_mut().for_each(|there| there.pvid = false);
        }
        vlans.extend((v.from..=v.to).map(|vid| VlanEntry { vid, pvid: v.pvid, untagged: v.untagged }));
        vlans.sort_unstable();
        Ok(())
    }

    fn add_rule(&mut self, wanted: &Rule) {
        let same = |there: &Rule| Rule { priority: wanted.priority.or(there.priority), ..wanted.clone() } == *there;
        if self.rules.iter().any(same) {
            return;
        }
        let of_family = self.rules.iter().filter(|r| r.family == wanted.family).filter_map(|r| r.priority);
        let before = of_family.filter(|p| *p > 0).min().unwrap_or(32766).saturating_sub(1);
        self.rules.push(Rule { priority: wanted.priority.or(Some(before)), ..wanted.clone() });
        self.rules.sort_by_key(|r| (r.family == Family::V6, r.priority));
    }

    fn add_qdisc(&mut self, dev: &IfName, wanted: Qdisc) -> Result<(), i32> {
        let qdiscs = &mut self.traffic_of(dev)?.qdiscs;
        match qdiscs.iter().find(|q| q.parent == wanted.parent) {
            Some(there) if *there == wanted => Ok(()),
            Some(_) => Err(libc::EEXIST),
            None => {
                qdiscs.push(wanted);
                Ok(())
            }
        }
    }
}

impl World {
    pub(in crate::fake) fn traffic(&mut self, place: Place, dev: &IfName) -> Option<&Traffic> {
        self.space(place).traffic_of(dev).ok().map(|t| &*t)
    }

    pub(in crate::fake) fn port(&mut self, place: Place, dev: &IfName) -> Option<Port> {
        self.space(place).port(dev).ok().copied()
    }

    /// With those the kernel makes.
    pub(in crate::fake) fn rules(&mut self, place: Place) -> Vec<Rule> {
        const LAST: [(Family, u32, u32); 3] =
            [(Family::V4, 254, 32766), (Family::V4, 253, 32767), (Family::V6, 254, 32766)];
        let local = [Family::V4, Family::V6].map(|f| Rule { priority: Some(0), ..Rule::new(f, 255) });
        let last = LAST.map(|(family, table, p)| Rule { priority: Some(p), ..Rule::new(family, table) });
        let own = self.space(place).rules.clone();
        let mut all: Vec<Rule> = local.into_iter().chain(own).chain(last).collect();
        all.sort_by_key(|r| (r.family == Family::V6, r.priority));
        all
    }

    pub(super) fn new_device(&mut self, place: Place, d: &NewDevice) -> Result<(), i32> {
        let parent = d.parent.as_ref().map(|p| self.space(place).get(p).map(|l| (l.index, l.mtu))).transpose()?;
        let needs_parent =
            matches!(d.kind, DeviceKind::Macvlan { .. } | DeviceKind::Ipvlan { .. } | DeviceKind::Vlan { .. });
        if needs_parent && parent.is_none() {
            return Err(libc::EINVAL);
        }
        if d.netns.is_some() && (d.master.is_some() || d.alias.is_some()) {
            return Err(libc::EINVAL);
        }
        let at = d.netns.as_ref().map_or(place, |ns| Some(ns.id()));
        self.space(at).free(&d.name)?;
        let master = d.master.as_ref().map(|m| self.space(place).bridge(m)).transpose()?;
        let kind = match d.kind {
            DeviceKind::Macvlan { mode, .. } => LinkKind::Macvlan { mode },
            DeviceKind::Ipvlan { mode } => LinkKind::Ipvlan { mode },
            DeviceKind::Vlan { id } => LinkKind::Vlan { id },
            DeviceKind::Dummy => LinkKind::Dummy,
            DeviceKind::Vrf { table } => LinkKind::Vrf { table },
            DeviceKind::Ifb => LinkKind::Ifb,
        };
        let mtu = d.mtu.or_else(|| parent.map(|p| p.1)).unwrap_or(DEFAULT_MTU);
        let mac = d.mac.unwrap_or_else(|| self.mac());
        let state = LinkState {
            mac: Some(mac),
            master,
            alias: d.alias.clone().filter(|a| !a.is_empty()),
            up: d.admin == Admin::Up,
            parent: parent.map(|p| p.0),
            parent_elsewhere: at != place && parent.is_some(),
            ..blank(d.name.clone(), kind, mtu)
        };
        self.space(at).add(state, None);
        Ok(())
    }

    pub(super) fn new_tap(&mut self, place: Place, t: &NewTap) -> Result<(), i32> {
        self.space(place).free(&t.name)?;
        let mac = self.mac();
        let state = LinkState { mac: Some(mac), ..blank(t.name.clone(), LinkKind::Tap, DEFAULT_MTU) };
        self.space(place).add(state, None);
        Ok(())
    }

    /// Down, without addresses, routes, bridge and qdiscs; a free ifindex there.
    pub(super) fn relocate(&mut self, place: Place, name: &IfName, to: Place, new: &IfName) -> Result<(), i32> {
        let index = self.space(place).find(name)?;
        if to == place {
            return Ok(());
        }
        self.space(to).free(new)?;
        let space = self.space(place);
        let Some(device) = space.devices.remove(&index) else { return Err(libc::ENODEV) };
        space.addresses.retain(|a| a.index != index);
        space.routes.retain(|r| r.dev != *name);
        let state = LinkState { name: new.clone(), up: false, master: None, ..device.state };
        let there = self.space(to).add(state, device.far);
        if let Some((far, far_index)) = device.far
            && let Some(other) = self.space(far).devices.get_mut(&far_index)
        {
            other.far = Some((to, there));
            other.state.kind = LinkKind::Veth { peer: Some(there) };
            other.state.parent = Some(there);
            other.state.parent_elsewhere = far != to;
        }
        Ok(())
    }
}
