//! What the fakes hold, and the rules of the kernel as far as they matter. Errors are errnos.

mod traffic;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use rnet_model::{IfAddr, IfName, MacAddr, Subnet};

use crate::NetnsId;
use crate::links::{Address, LinkKind, LinkOp, LinkState, NewBridge, NewVeth, Route, RouteKind, Rule};
use crate::route::same_route;

/// `None` is the daemon's own.
pub(super) type Place = Option<NetnsId>;

const BRIDGE_PORTS: usize = 1023;
const MIN_MTU: u32 = 68;
const DEFAULT_MTU: u32 = 1500;
/// RTPROT_KERNEL.
const BY_KERNEL: u8 = 2;

struct Device {
    state: LinkState,
    /// The MTU of a bridge was set and no longer follows its ports.
    fixed_mtu: bool,
    far: Option<(Place, u32)>,
    traffic: traffic::Traffic,
}

struct Space {
    devices: BTreeMap<u32, Device>,
    last_index: u32,
    addresses: Vec<Address>,
    routes: Vec<Route>,
    rules: Vec<Rule>,
}

#[derive(Default)]
pub(super) struct World {
    spaces: BTreeMap<Place, Space>,
    macs: u64,
}

/// With `lo` in it.
impl Default for Space {
    fn default() -> Self {
        let mut space = Space {
            devices: BTreeMap::new(),
            last_index: 0,
            addresses: Vec::new(),
            routes: Vec::new(),
            rules: Vec::new(),
        };
        let lo = blank("lo".parse().expect("lo is a name"), LinkKind::Loopback, 65536);
        space.add(lo, None);
        space
    }
}

impl Space {
    fn add(&mut self, mut state: LinkState, far: Option<(Place, u32)>) -> u32 {
        self.last_index += 1;
        state.index = self.last_index;
        self.devices
            .insert(self.last_index, Device { state, fixed_mtu: false, far, traffic: traffic::Traffic::default() });
        self.last_index
    }

    fn find(&self, name: &IfName) -> Result<u32, i32> {
        self.devices.values().find(|d| d.state.name == *name).map(|d| d.state.index).ok_or(libc::ENODEV)
    }

    fn get(&mut self, name: &IfName) -> Result<&mut LinkState, i32> {
        let index = self.find(name)?;
        self.devices.get_mut(&index).map(|d| &mut d.state).ok_or(libc::ENODEV)
    }

    fn free(&self, name: &IfName) -> Result<(), i32> {
        if self.find(name).is_ok() { Err(libc::EEXIST) } else { Ok(()) }
    }

    /// Index of a bridge that takes another port, or of a VRF.
    fn bridge(&self, name: &IfName) -> Result<u32, i32> {
        let index = self.find(name)?;
        if matches!(self.devices[&index].state.kind, LinkKind::Vrf { .. }) {
            return Ok(index);
        }
        if !matches!(self.devices[&index].state.kind, LinkKind::Bridge { .. }) {
            return Err(libc::EOPNOTSUPP);
        }
        let ports = self.devices.values().filter(|d| d.state.master == Some(index)).count();
        if ports >= BRIDGE_PORTS { Err(libc::EXFULL) } else { Ok(index) }
    }

    fn connected(&self) -> impl Iterator<Item = (Subnet, &Device, &Address)> {
        self.addresses.iter().filter_map(|a| {
            let device = self.devices.get(&a.index).filter(|d| d.state.up)?;
            Some((Subnet::containing(a.ip, a.prefix)?, device, a))
        })
    }

    /// Carrier when it is up and a port has it; the smallest MTU of its ports (br_mtu_auto_adjust).
    fn refresh_bridges(&mut self) {
        let mut ports: BTreeMap<u32, (bool, u32)> = BTreeMap::new();
        for port in self.devices.values().map(|d| &d.state) {
            if let Some(master) = port.master {
                let (carrier, mtu) = ports.entry(master).or_insert((false, u32::MAX));
                (*carrier, *mtu) = (*carrier || port.carrier, port.mtu.min(*mtu));
            }
        }
        for (index, device) in &mut self.devices {
            if !matches!(device.state.kind, LinkKind::Bridge { .. }) {
                continue;
            }
            let (carrier, mtu) = ports.get(index).copied().unwrap_or((false, DEFAULT_MTU));
            device.state.carrier = device.state.up && carrier;
            if !device.fixed_mtu {
                device.state.mtu = mtu;
            }
        }
    }

    fn down(&mut self, index: u32) {
        if let Some(device) = self.devices.get_mut(&index) {
            device.state.up = false;
            let name = device.state.name.clone();
            self.routes.retain(|r| r.dev != name);
            // The kernel keeps IPv4 addresses and forgets those of IPv6 (keep_addr_on_down = 0).
            self.addresses.retain(|a| a.index != index || a.ip.is_ipv4());
        }
    }

    fn add_address(&mut self, dev: &IfName, wanted: &IfAddr, broadcast: Option<Ipv4Addr>) -> Result<(), i32> {
        let index = self.find(dev)?;
        let same = |a: &&Address| a.index == index && a.ip == wanted.ip();
        match self
            .addresses
            .iter()
            .filter(same)
            .map(|a| a.prefix)
            .find(|p| *p == wanted.prefix() || wanted.ip().is_ipv6())
        {
            Some(prefix) if prefix == wanted.prefix() => Ok(()),
            Some(_) => Err(libc::EEXIST),
            None => {
                self.addresses.push(Address {
                    index,
                    ip: wanted.ip(),
                    prefix: wanted.prefix(),
                    automatic: false,
                    narrow: false,
                    broadcast,
                });
                Ok(())
            }
        }
    }

    fn add_route(&mut self, wanted: &Route) -> Result<(), i32> {
        if wanted.kind == RouteKind::Unicast {
            self.reachable(wanted)?;
        }
        if self.routes.iter().any(|r| same_route(wanted, r)) {
            return Ok(());
        }
        let same_place =
            |r: &Route| (r.destination, r.metric, r.table) == (wanted.destination, wanted.metric, wanted.table);
        if self.routes.iter().any(same_place) {
            return Err(libc::EEXIST);
        }
        self.routes.push(wanted.clone());
        Ok(())
    }

    fn reachable(&self, wanted: &Route) -> Result<(), i32> {
        wanted.more.iter().try_for_each(|hop| self.find(&hop.dev).map(drop))?;
        let index = self.find(&wanted.dev)?;
        if let Some(via) = wanted.via.filter(|_| !wanted.onlink) {
            let reachable =
                self.connected().any(|(net, d, a)| d.state.index == index && net.contains(via) && a.ip != via);
            let link_local = matches!(via, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if !reachable && !link_local {
                return Err(if via.is_ipv4() { libc::ENETUNREACH } else { libc::EHOSTUNREACH });
            }
        }
        if !self.devices[&index].state.up {
            return Err(libc::ENETDOWN);
        }
        if let Some(source) = wanted.source.filter(|s| self.addresses.iter().all(|a| a.ip != *s)) {
            return Err(if source.is_ipv4() { libc::EINVAL } else { libc::EADDRNOTAVAIL });
        }
        Ok(())
    }
}

fn blank(name: IfName, kind: LinkKind, mtu: u32) -> LinkState {
    LinkState {
        index: 0,
        name,
        kind,
        up: false,
        carrier: false,
        mtu,
        mac: None,
        master: None,
        alias: None,
        group: 0,
        promisc: false,
        allmulti: false,
        tx_queue_len: 1000,
        parent: None,
        parent_elsewhere: false,
    }
}

impl World {
    fn space(&mut self, place: Place) -> &mut Space {
        self.spaces.entry(place).or_default()
    }

    fn mac(&mut self) -> MacAddr {
        self.macs += 1;
        MacAddr::local(self.macs)
    }

    pub(super) fn links(&mut self, place: Place) -> Vec<LinkState> {
        self.space(place).devices.values().map(|d| d.state.clone()).collect()
    }

    pub(super) fn addresses(&mut self, place: Place) -> Vec<Address> {
        self.space(place).addresses.clone()
    }

    pub(super) fn routes(&mut self, place: Place) -> Vec<Route> {
        let space = self.space(place);
        let connected = space.connected().map(|(destination, device, a)| Route {
            metric: (!a.ip.is_ipv4()).then_some(256),
            source: a.ip.is_ipv4().then_some(a.ip),
            protocol: BY_KERNEL,
            ..Route::new(destination, device.state.name.clone())
        });
        connected.chain(space.routes.iter().cloned()).collect()
    }

    pub(super) fn end(&mut self, place: Place) {
        for index in self.space(place).devices.keys().copied().collect::<Vec<_>>() {
            self.remove(place, index);
        }
        self.spaces.remove(&place);
        self.refresh();
    }

    pub(super) fn apply(&mut self, place: Place, op: &LinkOp) -> Result<(), i32> {
        let result = self.change(place, op);
        self.refresh();
        match (op, result) {
            (
                LinkOp::Delete(_)
                | LinkOp::Retire(..)
                | LinkOp::DelAddress(..)
                | LinkOp::DelRoute(_)
                | LinkOp::DelPortVlan(_)
                | LinkOp::DelQdisc(..),
                Err(libc::ENODEV),
            ) => Ok(()),
            (_, result) => result,
        }
    }

    fn change(&mut self, place: Place, op: &LinkOp) -> Result<(), i32> {
        match op {
            LinkOp::NewBridge(b) => return self.new_bridge(place, b),
            LinkOp::NewVeth(v) => return self.new_veth(place, v),
            LinkOp::NewDevice(d) => return self.new_device(place, d),
            LinkOp::NewTap(t) => return self.new_tap(place, t),
            LinkOp::Move { name, netns, new_name } => {
                return self.relocate(place, name, Some(netns.id()), new_name.as_ref().unwrap_or(name));
            }
            LinkOp::Delete(name) => {
                let index = self.space(place).find(name)?;
                if self.space(place).devices[&index].state.kind == LinkKind::Loopback {
                    return Err(libc::EOPNOTSUPP);
                }
                self.remove(place, index);
                return Ok(());
            }
            LinkOp::DeleteGroup(0) => return Err(libc::EPERM),
            LinkOp::DeleteGroup(group) => {
                let of_group = |d: &&Device| d.state.group == *group;
                let all: Vec<u32> =
                    self.space(place).devices.values().filter(of_group).map(|d| d.state.index).collect();
                all.into_iter().for_each(|index| self.remove(place, index));
                return Ok(());
            }
            _ => {}
        }
        let space = self.space(place);
        match op {
            LinkOp::Up(d) => space.get(d)?.up = true,
            LinkOp::Down(d) => {
                let index = space.find(d)?;
                space.down(index);
            }
            LinkOp::Master(d, m) => {
                let index = space.find(d)?;
                if space.devices[&index].state.master != Some(space.find(m)?) {
                    let master = space.bridge(m)?;
                    space.get(d)?.master = Some(master);
                }
            }
            LinkOp::NoMaster(d) => space.get(d)?.master = None,
            LinkOp::Mtu(d, mtu) if *mtu < MIN_MTU => return space.find(d).and(Err(libc::EINVAL)),
            LinkOp::Mtu(d, mtu) => {
                let index = space.find(d)?;
                if let Some(device) = space.devices.get_mut(&index).filter(|device| device.state.mtu != *mtu) {
                    (device.state.mtu, device.fixed_mtu) = (*mtu, true);
                }
            }
            LinkOp::Mac(d, mac) => space.get(d)?.mac = Some(*mac),
            LinkOp::Alias(d, text) => space.get(d)?.alias = Some(text.clone()).filter(|t| !t.is_empty()),
            LinkOp::Retire(d, group) => {
                let index = space.find(d)?;
                space.down(index);
                space.get(d)?.group = *group;
            }
            LinkOp::AddAddress(d, a) | LinkOp::DetectAddress(d, a) => space.add_address(d, a, a.broadcast())?,
            LinkOp::MoveAddress(d, a, broadcast) => space.add_address(d, a, *broadcast)?,
            LinkOp::DelAddress(d, wanted) => {
                let index = space.find(d)?;
                space.addresses.retain(|a| (a.index, a.ip, a.prefix) != (index, wanted.ip(), wanted.prefix()));
            }
            LinkOp::AddRoute(r) => space.add_route(r)?,
            LinkOp::DelRoute(r) => {
                if r.kind == RouteKind::Unicast {
                    space.find(&r.dev)?;
                }
                let wanted = Route { source: None, ..r.clone() };
                space.routes.retain(|there| !same_route(&wanted, there));
            }
            LinkOp::Isolated(d, on) => space.port(d)?.isolated = *on,
            // Nothing that shows.
            LinkOp::Quiet(d) => drop(space.find(d)?),
            other => space.traffic(other)?,
        }
        Ok(())
    }

    fn new_bridge(&mut self, place: Place, b: &NewBridge) -> Result<(), i32> {
        self.space(place).free(&b.name)?;
        let mac = b.mac.unwrap_or_else(|| self.mac());
        let kind = LinkKind::Bridge { vlan_filtering: b.vlan_filtering };
        let state = blank(b.name.clone(), kind, DEFAULT_MTU);
        let state =
            LinkState { up: true, mac: Some(mac), alias: Some(b.alias.clone()).filter(|a| !a.is_empty()), ..state };
        self.space(place).add(state, None);
        b.mtu.map_or(Ok(()), |mtu| self.change(place, &LinkOp::Mtu(b.name.clone(), mtu)))
    }

    fn new_veth(&mut self, place: Place, v: &NewVeth) -> Result<(), i32> {
        let far = v.netns.as_ref().map_or(place, |ns| Some(ns.id()));
        self.space(place).free(&v.name)?;
        self.space(far).free(&v.peer)?;
        if far == place && v.peer == v.name {
            return Err(libc::EEXIST);
        }
        let master = v.master.as_ref().map(|m| self.space(place).bridge(m)).transpose()?;
        let mac = v.mac.unwrap_or_else(|| self.mac());
        let kind = LinkKind::Veth { peer: None };
        let peer = LinkState { mac: Some(v.peer_mac), ..blank(v.peer.clone(), kind.clone(), v.mtu) };
        let far_index = self.space(far).add(peer, None);
        let near = LinkState {
            up: true,
            mac: Some(mac),
            master,
            alias: Some(v.alias.clone()).filter(|a| !a.is_empty()),
            ..blank(v.name.clone(), kind, v.mtu)
        };
        let near_index = self.space(place).add(near, Some((far, far_index)));
        for (at, index, other) in [(place, near_index, (far, far_index)), (far, far_index, (place, near_index))] {
            if let Some(device) = self.space(at).devices.get_mut(&index) {
                device.far = Some(other);
                device.state.kind = LinkKind::Veth { peer: Some(other.1) };
                device.state.parent = Some(other.1);
                device.state.parent_elsewhere = at != other.0;
            }
        }
        Ok(())
    }

    fn remove(&mut self, place: Place, index: u32) {
        let space = self.space(place);
        let Some(device) = space.devices.remove(&index) else { return };
        space.addresses.retain(|a| a.index != index);
        space.routes.retain(|r| r.dev != device.state.name);
        for other in space.devices.values_mut().filter(|d| d.state.master == Some(index)) {
            other.state.master = None;
        }
        if let Some((far, far_index)) = device.far {
            self.remove(far, far_index);
        }
    }

    /// Carrier: of a pair when both ends are up; bridges follow their ports.
    fn refresh(&mut self) {
        let up = |world: &World, (place, index): (Place, u32)| {
            world.spaces.get(&place).and_then(|s| s.devices.get(&index)).is_some_and(|d| d.state.up)
        };
        for place in self.spaces.keys().copied().collect::<Vec<_>>() {
            let indices: Vec<u32> = self.space(place).devices.keys().copied().collect();
            for index in &indices {
                let own = up(self, (place, *index));
                let far = self.space(place).devices[index].far;
                let carrier = own && far.is_none_or(|far| up(self, far));
                if let Some(device) = self.space(place).devices.get_mut(index) {
                    device.state.carrier = carrier;
                }
            }
            self.space(place).refresh_bridges();
        }
    }
}
