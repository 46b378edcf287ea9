//! Facts as elements of sets, and back.
//!
//! One fact is one element, or a few: a bridge is paired with itself, a guard has an element for each address. Prefixes
//! are not here, they depend on each other (see `intervals`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use rnet_model::{IfName, MacAddr, Protocol};

use super::base::{Of, bridge, inet};
use super::intervals::address;
use super::rules::{Data, Element, Field, Verdict};
use super::{FilterChange, FilterSet, FilterState, Guard, Linked, Opened, Published, Redirected};

/// A set by its table and name.
pub(super) type SetName = (Of, &'static str);

/// Elements of sets.
pub(super) type Elements = BTreeMap<SetName, BTreeSet<Entry>>;

/// An element in the order of its key, and of what it maps to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) key: Vec<Field>,
    pub(super) value: Option<Vec<Field>>,
}

impl Entry {
    pub(super) fn element(&self, set: SetName) -> Element {
        let element = Element::key(self.key.clone());
        match &self.value {
            Some(value) => element.data(Data::Value(value.clone())),
            None if set.1 == inet::HOST_DROPS => element.data(Data::Verdict(Verdict::Drop)),
            None => element,
        }
    }
}

/// The elements of facts other than prefixes.
pub(super) fn elements<'a>(facts: impl IntoIterator<Item = &'a FilterChange>) -> Elements {
    let mut all = Elements::new();
    for fact in facts {
        put(&mut all, fact);
    }
    all
}

fn put(all: &mut Elements, fact: &FilterChange) {
    let mut add = |of: Of, set: &'static str, key: Vec<Field>, value: Option<Vec<Field>>| {
        all.entry((of, set)).or_default().insert(Entry { key, value });
    };
    let name = |device: &IfName| Field::Ifname(device.clone());
    match fact {
        FilterChange::Device(set, device) => {
            add(Of::Inet, set.name(), vec![name(device)], None);
            if *set == FilterSet::Networks {
                add(Of::Inet, inet::WITHIN, vec![name(device), name(device)], None);
            }
        }
        FilterChange::Masquerade(_) | FilterChange::Outbound(..) => {}
        FilterChange::Published(it) => {
            let (set, key) = at(&inet::PUBLISHED, &inet::PUBLISHED_AT, it.protocol, it.host, it.port);
            add(Of::Inet, set, key, Some(vec![it.target.ip().into(), Field::Port(it.target.port())]));
        }
        FilterChange::Redirected(it) => {
            let (set, key) = at(&inet::LOOPBACK, &inet::LOOPBACK_AT, it.protocol, it.host, it.port);
            add(Of::Inet, set, key, Some(vec![Field::Port(it.proxy)]));
        }
        FilterChange::Opened(it) => {
            let key = vec![it.target.ip().into(), proto(it.protocol), Field::Port(it.target.port())];
            add(Of::Inet, of_family(&inet::OPENED, it.target.ip()), key, None);
        }
        FilterChange::Itself(ip) => {
            add(Of::Inet, of_family(&inet::ITSELF, *ip), vec![(*ip).into(), (*ip).into()], None);
        }
        FilterChange::HostDrops(v4) => {
            add(Of::Inet, inet::HOST_DROPS, vec![Field::Byte(inet::NFPROTO[usize::from(!v4)])], None);
        }
        FilterChange::Guard(Guard { port, mac, addresses }) => {
            add(Of::Bridge, bridge::GUARDED, vec![name(port)], None);
            add(Of::Bridge, bridge::MACS, vec![name(port), Field::Ether(mac.octets())], None);
            for ip in addresses.iter().copied().chain([mac.link_local().ip()]) {
                add(Of::Bridge, of_family(&bridge::ADDRESSES, ip), vec![name(port), ip.into()], None);
            }
        }
        FilterChange::Quiet(port) => add(Of::Bridge, bridge::QUIET, vec![name(port)], None),
        FilterChange::Linked(it) => {
            let key = vec![it.from.into(), it.to.into(), proto(it.protocol), Field::Port(it.port)];
            for of in Of::BOTH {
                add(of, of_family(&bridge::LINKED, it.from), key.clone(), None);
            }
        }
    }
}

fn of_family(sets: &[&'static str; 2], ip: IpAddr) -> &'static str {
    sets[usize::from(ip.is_ipv6())]
}

fn proto(protocol: Protocol) -> Field {
    Field::Proto(protocol.number())
}

fn at(
    any: &[&'static str; 2],
    one: &[&'static str; 2],
    protocol: Protocol,
    host: IpAddr,
    port: u16,
) -> (&'static str, Vec<Field>) {
    let key = vec![proto(protocol), Field::Port(port)];
    match host.is_unspecified() {
        true => (of_family(any, host), key),
        false => (of_family(one, host), [vec![host.into()], key].concat()),
    }
}

/// The facts that elements stand for. Half of one is as good as nothing and left out: reported so, it is put right by
/// whoever wants it there. Elements that are no fact of rnet's are left out too.
pub(super) fn facts(all: &Elements) -> FilterState {
    let of = |of: Of, set: &'static str| all.get(&(of, set)).into_iter().flatten();
    let has = |table: Of, set: &'static str, key: &[Field]| of(table, set).any(|entry| entry.key == key);
    let mut state = FilterState::new();
    let within: BTreeSet<&[Field]> = of(Of::Inet, inet::WITHIN).map(|entry| entry.key.as_slice()).collect();
    for set in FilterSet::ALL {
        for name in of(Of::Inet, set.name()).filter_map(|entry| device(&entry.key)) {
            let pair = [Field::Ifname(name.clone()), Field::Ifname(name.clone())];
            if set != FilterSet::Networks || within.contains(pair.as_slice()) {
                state.insert(FilterChange::Device(set, name));
            }
        }
    }
    for (at, unspecified) in [IpAddr::from([0; 4]), IpAddr::from([0; 16])].into_iter().enumerate() {
        let sets = [(inet::PUBLISHED[at], false), (inet::PUBLISHED_AT[at], false)];
        let sets = sets.into_iter().chain([(inet::LOOPBACK[at], true), (inet::LOOPBACK_AT[at], true)]);
        for (set, loopback) in sets {
            state.extend(of(Of::Inet, set).filter_map(|entry| translated(entry, unspecified, loopback)));
        }
        state.extend(of(Of::Inet, inet::OPENED[at]).filter_map(opened));
        state.extend(of(Of::Inet, inet::ITSELF[at]).filter_map(itself));
        let other: BTreeSet<&[Field]> = of(Of::Inet, bridge::LINKED[at]).map(|entry| entry.key.as_slice()).collect();
        let both = of(Of::Bridge, bridge::LINKED[at]).filter(|entry| other.contains(entry.key.as_slice()));
        state.extend(both.filter_map(linked));
        if has(Of::Inet, inet::HOST_DROPS, &[Field::Byte(inet::NFPROTO[at])]) {
            state.insert(FilterChange::HostDrops(at == 0));
        }
    }
    let quiet = of(Of::Bridge, bridge::QUIET).filter_map(|entry| device(&entry.key));
    state.extend(quiet.map(FilterChange::Quiet));
    state.extend(guards(all));
    state
}

/// A guard is whole when its port is guarded and has a hardware address and the address that follows from it.
fn guards(all: &Elements) -> Vec<FilterChange> {
    let of = |set: &'static str| all.get(&(Of::Bridge, set)).into_iter().flatten();
    let guarded: BTreeSet<IfName> = of(bridge::GUARDED).filter_map(|entry| device(&entry.key)).collect();
    let mut addresses: BTreeMap<IfName, Vec<IpAddr>> = BTreeMap::new();
    for entry in bridge::ADDRESSES.iter().flat_map(|set| of(set)) {
        if let [Field::Ifname(port), ip] = entry.key.as_slice()
            && let Some(ip) = address(ip)
        {
            addresses.entry(port.clone()).or_default().push(ip);
        }
    }
    let macs = of(bridge::MACS).filter_map(|entry| match entry.key.as_slice() {
        [Field::Ifname(port), Field::Ether(mac)] => Some((port.clone(), MacAddr::new(*mac)?)),
        _ => None,
    });
    let whole = macs.filter_map(|(port, mac)| {
        let of_port = addresses.get(&port)?;
        let whole = guarded.contains(&port) && of_port.contains(&mac.link_local().ip());
        whole.then(|| FilterChange::Guard(Guard::new(port, mac, of_port.iter().copied())))
    });
    whole.collect()
}

fn by_number(number: u8) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)
}

/// The device of a key; names that are no names of devices (`br*`) are not rnet's.
fn device(key: &[Field]) -> Option<IfName> {
    match key {
        [Field::Ifname(name)] => Some(name.clone()),
        _ => None,
    }
}

fn translated(entry: &Entry, unspecified: IpAddr, loopback: bool) -> Option<FilterChange> {
    let (host, rest) = match entry.key.as_slice() {
        [host, rest @ ..] if rest.len() == 2 => (address(host)?, rest),
        rest => (unspecified, rest),
    };
    let [Field::Proto(number), Field::Port(port)] = rest else { return None };
    let (protocol, port) = (by_number(*number)?, *port);
    Some(match (entry.value.as_deref()?, loopback) {
        ([ip, Field::Port(target)], false) => {
            let target = SocketAddr::new(address(ip)?, *target);
            FilterChange::Published(Published { protocol, host, port, target })
        }
        ([Field::Port(proxy)], true) => FilterChange::Redirected(Redirected { protocol, host, port, proxy: *proxy }),
        _ => return None,
    })
}

fn opened(entry: &Entry) -> Option<FilterChange> {
    let [ip, Field::Proto(number), Field::Port(port)] = entry.key.as_slice() else { return None };
    let target = SocketAddr::new(address(ip)?, *port);
    Some(FilterChange::Opened(Opened { protocol: by_number(*number)?, target }))
}

fn itself(entry: &Entry) -> Option<FilterChange> {
    let [ip, same] = entry.key.as_slice() else { return None };
    (ip == same).then(|| address(ip)).flatten().map(FilterChange::Itself)
}

fn linked(entry: &Entry) -> Option<FilterChange> {
    let [from, to, Field::Proto(number), Field::Port(port)] = entry.key.as_slice() else { return None };
    let protocol = by_number(*number)?;
    Some(FilterChange::Linked(Linked { from: address(from)?, to: address(to)?, protocol, port: *port }))
}
