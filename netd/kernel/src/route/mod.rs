//! Route netlink of one namespace: the real [`Links`].
//!
//! Owns: a socket, the order of messages, the meaning of answers. A batch of route netlink is no transaction: the
//! kernel handles each message of a datagram in turn and goes on after a refusal, so each carries its own sequence
//! number and asks for its own acknowledgement.

pub(crate) mod ack;
mod encode;
pub(crate) mod parse;
mod settle;
mod socket;
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
use crate::links::{Address, Fault, LinkKind, LinkOp, LinkState, Links, Route as RouteEntry};
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

    /// Of one table, or of all if it is unspecified.
    fn read_routes(&mut self, table: u8) -> Result<Vec<parse::IndexedRoute>, KernelError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = encode::dump_routes(family, table);
            match self.socket.dump(&request, |body, all| all.extend(parse::routes(body))) {
                // No route was ever put into the table of this family, or the kernel lacks the family.
                Err(Failure::Refused(r)) if matches!(r.errno, libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {
                }
                other => routes.extend(other.map_err(|e| e.of("list routes"))?),
            }
        }
        Ok(routes)
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
        let found = self.read_routes(RouteHeader::RT_TABLE_MAIN)?;
        let mut names = HashMap::new();
        let mut routes = Vec::new();
        for route in found.into_iter().filter(|r| r.table == RouteEntry::MAIN) {
            let name = names.entry(route.index).or_insert_with(|| name_of(self.socket.as_fd(), route.index));
            // A device that went away between the two requests took its routes along.
            if let Some(name) = name {
                routes.push(route.named(name.clone()));
            }
        }
        Ok(routes)
    }

    fn routes_through(&mut self, dev: &IfName) -> Result<Vec<RouteEntry>, KernelError> {
        let Some(link) = self.link(dev)? else { return Ok(Vec::new()) };
        let found = self.read_routes(RouteHeader::RT_TABLE_UNSPEC)?;
        Ok(found.into_iter().filter(|r| r.index == link.index).map(|r| r.named(dev.clone())).collect())
    }

    fn batch(&mut self, ops: &[LinkOp]) -> Result<Vec<Fault>, KernelError> {
        let mut batch = Batch { route: self, ops, out: Vec::new(), faults: BTreeMap::new(), known: HashMap::new() };
        for (index, op) in ops.iter().enumerate() {
            batch.add(index, op);
        }
        batch.flush();
        batch.compare_existing();
        Ok(batch.faults.into_iter().map(|(index, error)| Fault { index, error }).collect())
    }
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

struct Batch<'a> {
    route: &'a mut Route,
    ops: &'a [LinkOp],
    out: Vec<Part>,
    faults: BTreeMap<usize, KernelError>,
    /// Names looked up in this batch.
    known: HashMap<IfName, u32>,
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
        let makes = |op: &LinkOp| matches!(op, LinkOp::NewVeth(_) | LinkOp::NewBridge(_));
        let previous_makes = index.checked_sub(1).is_some_and(|i| makes(&self.ops[i]));
        let may_join =
            matches!(op, LinkOp::NewVeth(_)) && matches!(self.ops.get(index.wrapping_sub(1)), Some(LinkOp::NewVeth(_)));
        if (previous_makes && !may_join) || self.out.len() >= MESSAGES {
            self.flush();
        }
        if matches!(op, LinkOp::Delete(_) | LinkOp::DeleteGroup(_)) {
            self.known.clear();
        }
        let mut names = Lookup { fd: self.route.socket.as_fd(), known: &mut self.known };
        match encode::operation(op, &mut names) {
            Ok(request) => self.out.push(Part { index, role: Role::Itself, request, otherwise: None }),
            Err((errno, text)) => self.judge(index, Refusal { errno, text: Some(text) }),
        }
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
                // Without CONFIG_BRIDGE_VLAN_FILTERING the kernel takes the attribute and does nothing about it.
                let text = "this kernel's bridges cannot filter VLANs".to_owned();
                self.unmake(index, Refusal { errno: libc::EOPNOTSUPP, text: Some(text) });
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
                    (Role::Itself, Ok(())) if matches!(self.ops[index], LinkOp::NewVeth(_) | LinkOp::NewBridge(_)) => {
                        made.push(index)
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
            _ => return,
        };
        self.route.socket.transact(vec![encode::delete(name)]);
    }

    /// EEXIST of an address or a route is success when what is there is what was asked for.
    fn compare_existing(&mut self) {
        let existing = |op: &LinkOp, e: &KernelError| {
            e.errno == libc::EEXIST
                && matches!(op, LinkOp::AddAddress(..) | LinkOp::MoveAddress(..) | LinkOp::AddRoute(_))
        };
        let candidates: Vec<usize> =
            self.faults.iter().filter(|(i, e)| existing(&self.ops[**i], e)).map(|(i, _)| *i).collect();
        if candidates.is_empty() {
            return;
        }
        let addresses = self.route.addresses().unwrap_or_default();
        for index in candidates {
            let equal = match &self.ops[index] {
                LinkOp::AddAddress(dev, wanted) | LinkOp::MoveAddress(dev, wanted, _) => {
                    let dev = rustix::net::netdevice::name_to_index(self.route.socket.as_fd(), dev.as_str()).ok();
                    addresses.iter().any(|a| Some(a.index) == dev && a.ip == wanted.ip() && a.prefix == wanted.prefix())
                }
                LinkOp::AddRoute(wanted) => {
                    let there = self.route.routes_through(&wanted.dev).unwrap_or_default();
                    there.iter().any(|r| same_route(wanted, r))
                }
                _ => false,
            };
            if equal {
                self.faults.remove(&index);
            }
        }
    }
}
