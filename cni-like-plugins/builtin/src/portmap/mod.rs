#![doc = include_str!("README.md")]

mod config;
mod localnet;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rnet_kernel::rules::{Changes, Data, Element, Field, NfTables, Set};
use rnet_kernel::{FlowFilter, KernelError, LinkKind};
use rnet_model::IfName;
use rnet_plan::{Action, Plan};
use rnet_plugin_protocol::{AttachmentId, Call, CniResult, Error, Plugin, Request, View, Work};

use self::config::{Config, Mapping, Snat};
use crate::chained::own_addresses;
use crate::table::{self, Ipv};

/// The plugin.
#[derive(Debug)]
pub struct Portmap {
    config: Config,
    /// What is wrong with it; then it has no ports.
    wrong: Option<Error>,
}

/// An element and the set it belongs to.
type Entry = (Set, Element);

impl Portmap {
    /// From a configuration. What is wrong with it every command but DEL and GC says.
    pub fn new(request: &Request) -> Self {
        match Config::new(request) {
            Ok(config) => Portmap { config, wrong: None },
            Err(error) => Portmap { config: Config { snat: Snat::Needed, mappings: Vec::new() }, wrong: Some(error) },
        }
    }

    /// The published ports: whom a second claim hurts.
    fn ports<'a>(&'a self, targets: &'a [IpNetwork], owner: &str) -> Vec<(Entry, &'a Mapping)> {
        let mut all: Vec<(Entry, &Mapping)> = Vec::new();
        for (mapping, target) in self.each(targets) {
            let entry = port(mapping, target, owner);
            if !all.iter().any(|(known, _)| *known == entry) {
                all.push((entry, mapping));
            }
        }
        all
    }

    /// Everything an ADD adds.
    fn entries(&self, targets: &[IpNetwork], owner: &str) -> Vec<Entry> {
        let ports = self.ports(targets, owner).into_iter().map(|(entry, _)| entry);
        ports.chain(self.callers(targets, owner)).collect()
    }

    /// Container ports whose callers are translated.
    fn callers(&self, targets: &[IpNetwork], owner: &str) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for (mapping, target) in self.each(targets) {
            let v = Ipv::of(target.ip());
            let key = [target.ip().into(), Field::Proto(mapping.protocol), Field::Port(mapping.container_port)];
            let element = Element::key(key).comment(owner);
            let sets = match self.config.snat {
                Snat::Off => vec![],
                Snat::Needed => vec![v.reflected()],
                Snat::All => vec![v.reflected(), v.hidden()],
            };
            entries.extend(sets.into_iter().map(|set| (set, element.clone())));
        }
        // Two ports of the host may lead to one of the container.
        let mut unique: Vec<Entry> = Vec::new();
        entries.into_iter().for_each(|e| {
            if !unique.contains(&e) {
                unique.push(e)
            }
        });
        unique
    }

    fn each<'a>(&'a self, targets: &'a [IpNetwork]) -> impl Iterator<Item = (&'a Mapping, IpNetwork)> {
        self.config.mappings.iter().flat_map(move |mapping| {
            let of_family = move |t: &IpNetwork| mapping.host_ip.is_none_or(|ip| ip.is_ipv4() == t.is_ipv4());
            targets.iter().copied().filter(of_family).map(move |t| (mapping, t))
        })
    }

    /// Mappings of protocols whose flows outlive a change of the translation: nothing in them says that one ends.
    fn lasting(&self) -> impl Iterator<Item = &Mapping> {
        self.config.mappings.iter().filter(|m| m.protocol_word() != "tcp")
    }

    /// Flows to the published ports that were there before: they would go on without the new translation.
    fn flows_to_host(&self, view: &mut View<'_>) -> Result<Vec<FlowFilter>, Error> {
        let all: Vec<IpAddr> = match self.lasting().next() {
            Some(_) => view.host()?.addresses()?.into_iter().map(|a| a.ip).collect(),
            None => Vec::new(),
        };
        let to = |m: &Mapping, ip: IpAddr| FlowFilter {
            original_destination: Some(ip),
            original_port: Some(m.host_port),
            ..FlowFilter::new(m.protocol)
        };
        let on = |m: &Mapping, ip: &IpAddr| m.host_ip.is_none_or(|h| h == *ip || h.is_unspecified());
        Ok(self
            .lasting()
            .flat_map(|m| all.iter().filter(|ip| on(m, ip)).map(|ip| to(m, *ip)).collect::<Vec<_>>())
            .collect())
    }

    /// Flows that are translated to the container.
    fn flows_to_container(&self, targets: &[IpNetwork]) -> Vec<FlowFilter> {
        let from = |m: &Mapping, ip: IpAddr| FlowFilter {
            reply_source: Some(ip),
            reply_port: Some(m.container_port),
            ..FlowFilter::new(m.protocol)
        };
        self.lasting().flat_map(|m| targets.iter().map(|t| from(m, t.ip())).collect::<Vec<_>>()).collect()
    }

    /// Whether somebody may call by 127.0.0.1.
    fn on_loopback(&self) -> bool {
        let reachable = |m: &Mapping| match m.host_ip {
            None => true,
            Some(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_unspecified(),
            Some(IpAddr::V6(_)) => false,
        };
        self.config.snat != Snat::Off && self.config.mappings.iter().any(reachable)
    }
}

fn port(mapping: &Mapping, target: IpNetwork, owner: &str) -> Entry {
    let v = Ipv::of(target.ip());
    let tail = [Field::Proto(mapping.protocol), Field::Port(mapping.host_port)];
    let to = Data::Value(vec![target.ip().into(), Field::Port(mapping.container_port)]);
    let (set, key) = match mapping.host_ip.filter(|ip| !ip.is_unspecified()) {
        Some(ip) => (v.ports_at(), [&[Field::from(ip)][..], &tail].concat()),
        None => (v.ports(), tail.to_vec()),
    };
    (set, Element::key(key).data(to).comment(owner))
}

/// The first address of each family.
fn targets(result: &CniResult, ifname: &IfName) -> Vec<IpNetwork> {
    let all: Vec<IpNetwork> = own_addresses(result, ifname).map(|ip| ip.address).collect();
    [true, false].into_iter().filter_map(|v4| all.iter().find(|ip| ip.is_ipv4() == v4).copied()).collect()
}

/// The device of the host by which the container is reached: a bridge, or the host's end of the pair.
fn host_side(view: &mut View<'_>, result: &CniResult) -> Result<Option<IfName>, Error> {
    let mut pair = None;
    for interface in result.interfaces.iter().filter(|i| i.sandbox.is_empty()) {
        let Ok(name) = interface.name.parse::<IfName>() else { continue };
        match view.host()?.link(&name)?.map(|l| l.kind) {
            Some(LinkKind::Bridge { .. }) => return Ok(Some(name)),
            Some(LinkKind::Veth { .. }) => pair = pair.or(Some(name)),
            _ => {}
        }
    }
    Ok(pair)
}

/// One port cannot lead to two places.
fn once(ports: &[(Entry, &Mapping)]) -> Result<(), Error> {
    for (at, ((set, element), mapping)) in ports.iter().enumerate() {
        if ports[..at].iter().any(|((s, e), _)| s == set && e.key == element.key) {
            return Err(Error::config(format!("portMappings: host port {} is there twice", mapping.host())));
        }
    }
    Ok(())
}

/// Somebody else's claim of a port is refused, unless its address has become ours: then its owner is gone. `at` are all
/// published ports of single addresses, of this family.
fn free(
    tables: &mut NfTables,
    changes: &mut Changes,
    (entry, mapping): &(Entry, &Mapping),
    at: &[Element],
    owner: &str,
) -> Result<(), Error> {
    let (set, element) = entry;
    let address = |e: &Element| match &e.data {
        Some(Data::Value(fields)) => fields.first().cloned(),
        _ => None,
    };
    for (of, there) in claims(tables, set, element, at)? {
        let comment = there.comment.as_deref().unwrap_or_default();
        if comment == owner {
            continue;
        }
        if address(&there) == address(element) {
            // One under the same key is replaced anyway.
            if of != *set {
                changes.destroy_elements(&table::table(), &of, vec![there]);
            }
            continue;
        }
        let container = comment.splitn(3, ' ').nth(2).unwrap_or("somebody else");
        let taken = format!("host port {} is in use by container {container}", mapping.host());
        return Err(Error::internal(taken).details("stop that container, or take another hostPort"));
    }
    Ok(())
}

/// Elements by which packets to the port go somewhere: a port of every address is one of each address too.
fn claims(
    tables: &mut NfTables,
    set: &Set,
    element: &Element,
    at: &[Element],
) -> Result<Vec<(Set, Element)>, KernelError> {
    let same = tables.get_element(&table::table(), set, &element.key)?;
    let mut claims: Vec<(Set, Element)> = same.into_iter().map(|e| (set.clone(), e)).collect();
    let Some(v) = Ipv::BOTH.into_iter().find(|v| v.has(set)) else { return Ok(claims) };
    if *set == v.ports() {
        claims.extend(at.iter().filter(|e| e.key.ends_with(&element.key)).map(|e| (v.ports_at(), e.clone())));
    } else if let Some(every) = tables.get_element(&table::table(), &v.ports(), &element.key[1..])? {
        claims.push((v.ports(), every));
    }
    Ok(claims)
}

fn sets() -> Vec<Set> {
    Ipv::BOTH.into_iter().flat_map(|v| [v.ports(), v.ports_at(), v.reflected(), v.hidden()]).collect()
}

impl Plugin for Portmap {
    fn configured(&self) -> Result<(), Error> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    fn add(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Work, Error> {
        let previous = call.previous()?;
        let mut plan = Plan::default();
        let targets = targets(previous, call.ifname()?);
        if self.config.mappings.is_empty() || targets.is_empty() {
            return Ok(Work::Planned(plan, previous.clone()));
        }
        let owner = table::owner(&call.request.name, &call.id());
        let ports = self.ports(&targets, &owner);
        once(&ports)?;
        let open = match targets.iter().find(|t| t.is_ipv4() && self.on_loopback()) {
            Some(target) => host_side(view, previous)?.map(|dev| (dev, target.ip())),
            None => None,
        };
        let flows = self.flows_to_host(view)?;
        let tables = view.tables()?;
        let mut changes = table::base(tables)?;
        table::keep_own(tables, &mut changes, &targets)?;
        for target in &targets {
            let v = Ipv::of(target.ip());
            let at = table::elements(tables, &v.ports_at())?;
            for port in ports.iter().filter(|((set, _), _)| v.has(set)) {
                free(tables, &mut changes, port, &at, &owner)?;
            }
        }
        let mut entries = self.entries(&targets, &owner);
        entries.extend(open.iter().map(|(dev, target)| localnet::entry(dev, *target, &owner)));
        let mut undo = Changes::new();
        for (set, element) in entries {
            undo.destroy_elements(&table::table(), &set, vec![element.clone()]);
            table::put(tables, &mut changes, &set, element)?;
        }
        // Whole: when it fails there is nothing to take back.
        plan.undoable("cni.portmap", Action::Tables(changes), vec![Action::Tables(undo)]);
        if let Some((dev, _)) = open {
            localnet::open(dev, &mut plan);
        }
        if !flows.is_empty() {
            plan.step("cni.portmap.flows", Action::ForgetFlows(flows));
        }
        Ok(Work::Planned(plan, previous.clone()))
    }

    fn del(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let tables = view.tables()?;
        let generation = tables.generation()?;
        if !tables.table_exists(&table::table())? {
            return Ok(plan);
        }
        let owner = table::owner(&call.request.name, &call.id());
        let targets = match &call.previous {
            Some(previous) => targets(previous, call.ifname()?),
            None => Vec::new(),
        };
        let keys = self.entries(&targets, &owner).into_iter().map(|(set, element)| (set, element.key));
        let mut changes = table::take(tables, keys, &sets(), &owner)?;
        if localnet::close(view, &|comment| comment == owner, &mut changes, &mut plan)? {
            table::remove_unless_changed(changes, generation, &mut plan);
        } else {
            table::remove(changes, &mut plan);
        }
        let flows = self.flows_to_container(&targets);
        if !flows.is_empty() {
            plan.step("cni.portmap.flows", Action::ForgetFlows(flows));
        }
        Ok(plan)
    }

    fn check(&self, call: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let targets = targets(call.previous()?, call.ifname()?);
        let owner = table::owner(&call.request.name, &call.id());
        let tables = view.tables()?;
        let wanted = self.entries(&targets, &owner);
        if wanted.is_empty() {
            return Ok(());
        }
        let there = tables.table_exists(&table::table())?;
        for (set, element) in wanted {
            let found = if there { tables.get_element(&table::table(), &set, &element.key)? } else { None };
            if found.as_ref() != Some(&element) {
                return Err(Error::internal(format!("portmap: {:?} is not in {}", element.key, set.name)));
            }
        }
        table::check(tables)
    }

    fn gc(&self, call: &Call<'_>, valid: &[AttachmentId], view: &mut View<'_>) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let tables = view.tables()?;
        let generation = tables.generation()?;
        let stale = |comment: &str| table::is_stale(comment, &call.request.name, valid);
        let mut changes = table::take_all(tables, &sets(), &stale)?;
        if localnet::close(view, &stale, &mut changes, &mut plan)? {
            table::remove_unless_changed(changes, generation, &mut plan);
        } else {
            table::remove(changes, &mut plan);
        }
        Ok(plan)
    }

    fn status(&self, _: &Call<'_>, view: &mut View<'_>) -> Result<(), Error> {
        let asked = view.tables().and_then(|tables| tables.table_exists(&table::table()));
        asked.map(drop).map_err(|e| Error::new(Error::NOT_AVAILABLE, format!("portmap: nf_tables: {e}")))
    }
}
