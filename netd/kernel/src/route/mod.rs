//! Route netlink of one namespace: the real [`Links`].
//!
//! Owns: a socket, the order of messages, the meaning of answers. A batch of route netlink is no transaction: the
//! kernel handles each message of a datagram in turn and goes on after a refusal, so each carries its own sequence
//! number and asks for its own acknowledgement.

pub(crate) mod ack;
mod counters;
mod encode;
pub(crate) mod lookup;
pub(crate) mod parse;
mod settle;
mod socket;
mod tap;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::fd::BorrowedFd;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteHeader;
use rnet_model::IfName;

use self::ack::Refusal;
use self::encode::{Finish, Names, Request};
pub(crate) use self::settle::same_route;
use self::settle::{Verdict, settle};
use self::socket::{Failure, RouteSocket};
use crate::links::{
    Address, Family, Fault, LinkKind, LinkOp, LinkState, Links, Port, Qdisc, Route as RouteEntry, Rule, Switch,
    VlanEntry,
};
use crate::{KernelError, Netns};

/// Messages in a datagram: far below the send buffer (200 KiB) and what the receive buffer holds of answers.
const MESSAGES: usize = 512;

/// Route netlink of one network namespace. Blocking; usable from any thread once open.
pub struct Route {
    socket: RouteSocket,
    ns: Netns,
}

impl Route {
    /// Opens a socket inside `ns`.
    ///
    /// # Errors
    /// When the namespace may not be entered or no socket can be had.
    pub fn open(ns: &Netns) -> Result<Self, KernelError> {
        Ok(Route { socket: RouteSocket::open(ns)?, ns: ns.clone() })
    }

    /// The namespace the socket is in.
    pub fn netns(&self) -> &Netns {
        &self.ns
    }

    /// Of each family with `request`.
    fn read_routes(
        &mut self,
        request: impl Fn(AddressFamily) -> Request,
    ) -> Result<Vec<parse::IndexedRoute>, KernelError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            match self.socket.dump(&request(family), |body, all| all.extend(parse::route(body))) {
                // No route was ever put into the table of this family, or the kernel lacks the family.
                Err(Failure::Refused(r)) if matches!(r.errno, libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {
                }
                other => routes.extend(other.map_err(|e| e.of("list routes"))?),
            }
        }
        Ok(routes)
    }

    fn name_routes(&self, found: impl Iterator<Item = parse::IndexedRoute>) -> Vec<RouteEntry> {
        let mut names = HashMap::new();
        let fd = self.socket.as_fd();
        let mut name = |index| names.entry(index).or_insert_with(|| name_of(fd, index)).clone();
        found.filter_map(|r| r.named(&mut name)).collect()
    }

    fn index_of(&self, dev: &IfName) -> Option<u32> {
        rustix::net::netdevice::name_to_index(self.socket.as_fd(), dev.as_str()).ok()
    }

    fn filters_vlans(&mut self, name: &IfName) -> bool {
        self.link(name).is_ok_and(|l| l.is_some_and(|l| l.kind == LinkKind::Bridge { vlan_filtering: true }))
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Route({})", self.ns)
    }
}

impl Links for Route {
    fn links(&mut self) -> Result<Vec<LinkState>, KernelError> {
        self.socket
            .dump(&encode::dump_links(), |body, all| all.extend(parse::link(body)))
            .map_err(|e| e.of("list links"))
    }

    fn link(&mut self, name: &IfName) -> Result<Option<LinkState>, KernelError> {
        match self.socket.get(encode::get_link(name), parse::link) {
            Err(Failure::Refused(r)) if r.errno == libc::ENODEV => Ok(None),
            other => other.map_err(|e| e.of(&format!("link show {name}"))),
        }
    }

    fn addresses(&mut self) -> Result<Vec<Address>, KernelError> {
        self.socket
            .dump(&encode::dump_addresses(), |body, all| all.extend(parse::address(body)))
            .map_err(|e| e.of("list addresses"))
    }

    fn addresses_of(&mut self, index: u32) -> Result<Vec<Address>, KernelError> {
        let request = encode::dump_addresses_of(index);
        match self.socket.dump(&request, |body, all| all.extend(parse::address(body))) {
            Err(Failure::Refused(r)) if r.errno == libc::ENODEV => Ok(Vec::new()),
            other => other.map_err(|e| e.of("list the addresses of a device")),
        }
    }

    fn routes(&mut self) -> Result<Vec<RouteEntry>, KernelError> {
        let found = self.read_routes(|family| encode::dump_routes(family, RouteHeader::RT_TABLE_MAIN))?;
        let unicast = found.into_iter().filter(|r| r.table == RouteEntry::MAIN && r.is_unicast());
        Ok(self.name_routes(unicast.flat_map(parse::IndexedRoute::split)))
    }

    fn routes_of_table(&mut self, table: u32) -> Result<Vec<RouteEntry>, KernelError> {
        let found = self.read_routes(|family| encode::dump_table(family, table))?;
        Ok(self.name_routes(found.into_iter().filter(|r| r.table == table)))
    }

    fn routes_through(&mut self, dev: &IfName) -> Result<Vec<RouteEntry>, KernelError> {
        let Some(link) = self.link(dev)? else { return Ok(Vec::new()) };
        let found = self.read_routes(|family| encode::dump_routes(family, RouteHeader::RT_TABLE_UNSPEC))?;
        let hops = found.into_iter().filter(parse::IndexedRoute::is_unicast).flat_map(parse::IndexedRoute::split);
        Ok(hops.filter(|r| r.index() == link.index).filter_map(|r| r.named(|_| Some(dev.clone()))).collect())
    }

    fn link_by_index(&mut self, index: u32) -> Result<Option<LinkState>, KernelError> {
        match self.socket.get(encode::device::get_link_by_index(index), parse::link) {
            Err(Failure::Refused(r)) if r.errno == libc::ENODEV => Ok(None),
            other => other.map_err(|e| e.of(&format!("link show index {index}"))),
        }
    }

    fn port(&mut self, dev: &IfName) -> Result<Option<Port>, KernelError> {
        match self.socket.get(encode::get_link(dev), parse::traffic::port) {
            Err(Failure::Refused(r)) if r.errno == libc::ENODEV => Ok(None),
            other => other.map_err(|e| e.of(&format!("link show {dev}"))),
        }
    }

    fn port_vlans(&mut self, dev: &IfName) -> Result<Vec<VlanEntry>, KernelError> {
        let Some(index) = self.index_of(dev) else { return Ok(Vec::new()) };
        let request = encode::device::dump_vlans();
        let mut all = self
            .socket
            .dump(&request, |body, all| all.extend(parse::traffic::vlans(body, index)))
            .map_err(|e| e.of(&format!("vlan show dev {dev}")))?;
        all.sort_unstable();
        // A bridge reports itself once for itself and may do so once more as the master of a port.
        all.dedup();
        Ok(all)
    }

    fn qdiscs(&mut self, dev: &IfName) -> Result<Vec<Qdisc>, KernelError> {
        let Some(index) = self.index_of(dev) else { return Ok(Vec::new()) };
        self.socket
            .dump(&encode::tc::dump_qdiscs(), |body, all| all.extend(parse::traffic::qdisc(body, index)))
            .map_err(|e| e.of(&format!("qdisc show dev {dev}")))
    }

    fn ingress_mirrors(&mut self, dev: &IfName) -> Result<Vec<u32>, KernelError> {
        let Some(index) = self.index_of(dev) else { return Ok(Vec::new()) };
        if !self.qdiscs(dev)?.iter().any(parse::traffic::is_ingress) {
            return Ok(Vec::new());
        }
        self.socket
            .dump(&encode::tc::dump_ingress_filters(index), |body, all| all.extend(parse::traffic::mirror(body)))
            .map_err(|e| e.of(&format!("filter show dev {dev} ingress")))
    }

    fn rules(&mut self) -> Result<Vec<Rule>, KernelError> {
        let mut rules = Vec::new();
        for family in [Family::V4, Family::V6] {
            match self.socket.dump(&encode::rule::dump(family), |body, all| all.extend(parse::traffic::rule(body))) {
                // The kernel lacks the family.
                Err(Failure::Refused(r)) if matches!(r.errno, libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {}
                other => rules.extend(other.map_err(|e| e.of("list rules"))?),
            }
        }
        Ok(rules)
    }

    fn batch(&mut self, ops: &[LinkOp]) -> Result<Vec<Fault>, KernelError> {
        let mut batch = Batch {
            route: self,
            ops,
            out: Vec::new(),
            faults: BTreeMap::new(),
            known: HashMap::new(),
            filtering: Vec::new(),
        };
        for (index, op) in ops.iter().enumerate() {
            batch.add(index, op);
        }
        batch.flush();
        batch.compare_existing();
        Ok(batch.faults.into_iter().map(|(index, error)| Fault { index, error }).collect())
    }
}

/// Without CONFIG_BRIDGE_VLAN_FILTERING the kernel takes the attribute and does nothing about it.
fn no_filtering() -> Refusal {
    Refusal { errno: libc::EOPNOTSUPP, text: Some("this kernel's bridges cannot filter VLANs".to_owned()) }
}

fn name_of(fd: BorrowedFd<'_>, index: u32) -> Option<IfName> {
    rustix::net::netdevice::index_to_name(fd, index).ok()?.parse().ok()
}

/// A message of a batch and what it is for.
struct Part {
    index: usize,
    role: Role,
    request: Request,
    /// Instead, where the kernel or the device is without IPv6.
    otherwise: Option<Request>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The operation itself.
    Itself,
    /// See [`Finish`].
    Required,
    Ipv6,
}

/// Devices whose making is followed by what finishes them.
fn makes(op: &LinkOp) -> bool {
    matches!(op, LinkOp::NewVeth(_) | LinkOp::NewBridge(_) | LinkOp::NewDevice(_))
}

struct Batch<'a> {
    route: &'a mut Route,
    ops: &'a [LinkOp],
    out: Vec<Part>,
    faults: BTreeMap<usize, KernelError>,
    /// Names looked up in this batch.
    known: HashMap<IfName, u32>,
    /// Bridges that were told to filter and have to be asked whether they do.
    filtering: Vec<usize>,
}

/// SIOCGIFINDEX works on any socket and costs a tenth of an RTM_GETLINK.
struct Lookup<'a> {
    fd: BorrowedFd<'a>,
    known: &'a mut HashMap<IfName, u32>,
}

impl Names for Lookup<'_> {
    fn index(&mut self, name: &IfName) -> Result<u32, i32> {
        if let Some(index) = self.known.get(name) {
            return Ok(*index);
        }
        let index = rustix::net::netdevice::name_to_index(self.fd, name.as_str()).map_err(|e| e.raw_os_error())?;
        self.known.insert(name.clone(), index);
        Ok(index)
    }
}

impl Batch<'_> {
    /// Devices that were just asked for are finished before anything else is done: what follows may be about them.
    /// Neighbouring pairs are made in one datagram.
    fn add(&mut self, index: usize, op: &LinkOp) {
        let renames = |op: &LinkOp| matches!(op, LinkOp::Rename(..) | LinkOp::Move { .. });
        let previous_makes = index.checked_sub(1).is_some_and(|i| makes(&self.ops[i]) || renames(&self.ops[i]));
        let may_join =
            matches!(op, LinkOp::NewVeth(_)) && matches!(self.ops.get(index.wrapping_sub(1)), Some(LinkOp::NewVeth(_)));
        if (previous_makes && !may_join) || self.out.len() >= MESSAGES {
            self.flush();
        }
        if renames(op) || matches!(op, LinkOp::Delete(_) | LinkOp::DeleteGroup(_)) {
            self.known.clear();
        }
        if let LinkOp::NewTap(new) = op {
            self.flush();
            if let Err(errno) = tap::make(new, &self.route.ns) {
                self.judge(index, Refusal::errno(errno));
            }
            return;
        }
        if let LinkOp::AddRule(rule) = op
            && self.is_there(rule)
        {
            return;
        }
        let mut names = Lookup { fd: self.route.socket.as_fd(), known: &mut self.known };
        match encode::operation(op, &mut names) {
            Ok(request) => self.out.push(Part { index, role: Role::Itself, request, otherwise: None }),
            Err((errno, text)) => self.judge(index, Refusal { errno, text: Some(text) }),
        }
    }

    /// rule_exists (net/core/fib_rules.c) compares priorities too, and a rule without one has just been given another.
    fn is_there(&mut self, wanted: &Rule) -> bool {
        if wanted.priority.is_some() {
            return false;
        }
        self.flush();
        let there = self.route.rules().unwrap_or_default();
        there.into_iter().any(|r| Rule { priority: None, ..r } == *wanted)
    }

    /// Sends what is waiting, then what finishes the devices made by it.
    fn flush(&mut self) {
        let made = self.send();
        for index in made {
            let op = &self.ops[index];
            if let LinkOp::NewBridge(bridge) = op
                && bridge.vlan_filtering
                && !self.route.filters_vlans(&bridge.name)
            {
                self.unmake(index, no_filtering());
                continue;
            }
            for finish in encode::finish(op) {
                let (role, request, otherwise) = match finish {
                    Finish::Required(request) => (Role::Required, request, None),
                    Finish::RequiredOr(request, otherwise) => (Role::Required, request, Some(otherwise)),
                    Finish::Ipv6(request) => (Role::Ipv6, request, None),
                };
                self.out.push(Part { index, role, request, otherwise });
            }
        }
        self.send();
        for index in std::mem::take(&mut self.filtering) {
            if let LinkOp::VlanFiltering(bridge, Switch::On) = &self.ops[index]
                && !self.route.filters_vlans(bridge)
            {
                self.judge(index, no_filtering());
            }
        }
    }

    /// Sends what is waiting; the operations that made a device.
    fn send(&mut self) -> Vec<usize> {
        let mut made = Vec::new();
        let mut rest = std::mem::take(&mut self.out).into_iter().peekable();
        while rest.peek().is_some() {
            let (places, requests): (Vec<_>, Vec<_>) =
                rest.by_ref().take(MESSAGES).map(|p| ((p.index, p.role, p.otherwise), p.request)).unzip();
            for ((index, role, otherwise), result) in places.into_iter().zip(self.route.socket.transact(requests)) {
                if let (Some(request), Err(r)) = (otherwise, &result)
                    && r.errno == libc::EAFNOSUPPORT
                {
                    self.out.push(Part { index, role, request, otherwise: None });
                    continue;
                }
                match (role, result) {
                    (Role::Itself, Ok(())) if makes(&self.ops[index]) => made.push(index),
                    (Role::Itself, Ok(())) if matches!(self.ops[index], LinkOp::VlanFiltering(_, Switch::On)) => {
                        self.filtering.push(index);
                    }
                    (_, Ok(())) => {}
                    (Role::Ipv6, Err(r)) if r.errno == libc::EAFNOSUPPORT => {}
                    (Role::Itself, Err(refusal)) => self.judge(index, refusal),
                    (_, Err(refusal)) => self.unmake(index, refusal),
                }
            }
        }
        if !self.out.is_empty() {
            made.extend(self.send());
        }
        made
    }

    fn judge(&mut self, index: usize, refusal: Refusal) {
        if let Verdict::Fault(error) = settle(&self.ops[index], refusal) {
            self.faults.entry(index).or_insert(error);
        }
    }

    /// A device that cannot be finished is taken away: a failed operation leaves nothing.
    fn unmake(&mut self, index: usize, refusal: Refusal) {
        if self.faults.contains_key(&index) {
            return;
        }
        self.judge(index, refusal);
        let name = match &self.ops[index] {
            LinkOp::NewBridge(b) => &b.name,
            LinkOp::NewVeth(v) => &v.name,
            LinkOp::NewDevice(d) => &d.name,
            _ => return,
        };
        self.route.socket.transact(vec![encode::delete(name)]);
    }

    /// EEXIST of an address or a route is success when what is there is what was asked for.
    fn compare_existing(&mut self) {
        let existing = |op: &LinkOp, e: &KernelError| {
            e.errno == libc::EEXIST
                && matches!(
                    op,
                    LinkOp::AddAddress(..)
                        | LinkOp::DetectAddress(..)
                        | LinkOp::MoveAddress(..)
                        | LinkOp::AddRoute(_)
                        | LinkOp::Tbf(_)
                        | LinkOp::Ingress(_)
                        | LinkOp::MirrorIngress { .. }
                )
        };
        let candidates: Vec<usize> =
            self.faults.iter().filter(|(i, e)| existing(&self.ops[**i], e)).map(|(i, _)| *i).collect();
        if candidates.is_empty() {
            return;
        }
        let addresses = self.route.addresses().unwrap_or_default();
        for index in candidates {
            let equal = match &self.ops[index] {
                LinkOp::AddAddress(dev, wanted)
                | LinkOp::DetectAddress(dev, wanted)
                | LinkOp::MoveAddress(dev, wanted, _) => {
                    let dev = rustix::net::netdevice::name_to_index(self.route.socket.as_fd(), dev.as_str()).ok();
                    addresses.iter().any(|a| Some(a.index) == dev && a.ip == wanted.ip() && a.prefix == wanted.prefix())
                }
                LinkOp::AddRoute(wanted) => {
                    let there = self.route.routes_of_table(wanted.table).unwrap_or_default();
                    there.iter().any(|r| same_route(wanted, r))
                }
                LinkOp::Tbf(wanted) => {
                    let there = self.route.qdiscs(&wanted.dev).unwrap_or_default();
                    there.iter().any(|q| q.tbf.is_some_and(|t| t.is(wanted)))
                }
                LinkOp::Ingress(dev) => {
                    self.route.qdiscs(dev).unwrap_or_default().iter().any(parse::traffic::is_ingress)
                }
                LinkOp::MirrorIngress { from, to } => {
                    let to = self.route.index_of(to);
                    self.route.ingress_mirrors(from).unwrap_or_default().iter().any(|i| Some(*i) == to)
                }
                _ => false,
            };
            if equal {
                self.faults.remove(&index);
            }
        }
    }
}
