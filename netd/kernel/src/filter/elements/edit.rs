//! What is to be changed in the sets, as a value.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rnet_model::Subnet;

use super::super::base::{Of, inet};
use super::super::facts::{Elements, SetName};
use super::super::intervals::{self, Family};
use super::super::rules::{Changes, Data, Element, Field};
use super::{FilterChange, Nft};

/// Elements to remove and to add, in this order: an interval that grows may not meet its former self, and a key may be
/// given another value.
#[derive(Debug, Default)]
pub(super) struct Edit {
    remove: Vec<(SetName, Vec<Element>)>,
    add: Vec<(SetName, Vec<Element>)>,
}

impl Edit {
    pub(super) fn is_empty(&self) -> bool {
        self.remove.iter().chain(&self.add).all(|(_, elements)| elements.is_empty())
    }

    pub(super) fn exact(&mut self, remove: &Elements, add: &Elements) {
        let all = |elements: &Elements| -> Vec<(SetName, Vec<Element>)> {
            elements.iter().map(|(set, entries)| (*set, entries.iter().map(|e| e.element(*set)).collect())).collect()
        };
        self.remove.extend(all(remove));
        self.add.extend(all(add));
    }

    pub(super) fn masquerade(&mut self, family: Family, plan: intervals::Plan<()>) {
        let names = (inet::MASQUERADE[family.at()], inet::PREFIXES[family.at()]);
        self.prefixes(family, names, &plan, |element, ()| element);
    }

    pub(super) fn outbound(&mut self, family: Family, plan: intervals::Plan<IpAddr>) {
        let names = (inet::OUTBOUND[family.at()], inet::OUTBOUNDS[family.at()]);
        self.prefixes(family, names, &plan, |element, address| element.data(Data::Value(vec![address.into()])));
    }

    fn prefixes<V: Copy>(
        &mut self,
        family: Family,
        (set, register): (&'static str, &'static str),
        plan: &intervals::Plan<V>,
        valued: impl Fn(Element, V) -> Element,
    ) {
        let (set, register) = ((Of::Inet, set), (Of::Inet, register));
        self.remove.push((register, plan.unregister.iter().map(intervals::register_key).collect()));
        self.remove.push((set, plan.close.iter().map(|range| range.element(family)).collect()));
        let new = plan.register.iter().map(|(net, value)| valued(intervals::register_key(net), *value));
        self.add.push((register, new.collect()));
        self.add.push((set, plan.open.iter().map(|(range, value)| valued(range.element(family), *value)).collect()));
    }

    pub(super) fn changes(&self, nft: &Nft) -> Changes {
        let mut changes = Changes::new();
        for (name, elements) in self.remove.iter().filter(|(_, elements)| !elements.is_empty()) {
            changes.destroy_elements(&name.0.table(&nft.name), nft.set(*name), elements.clone());
        }
        for (name, elements) in self.add.iter().filter(|(_, elements)| !elements.is_empty()) {
            changes.ensure_elements(&name.0.table(&nft.name), nft.set(*name), elements.clone());
        }
        changes
    }
}

pub(super) fn is_prefix(fact: &FilterChange) -> bool {
    matches!(fact, FilterChange::Masquerade(_) | FilterChange::Outbound(..))
}

/// The masqueraded prefixes of a family.
pub(super) fn nets(facts: &[FilterChange], family: Family) -> Vec<(Subnet, ())> {
    let nets = facts.iter().filter_map(|fact| match fact {
        FilterChange::Masquerade(net) if Family::of(net) == family => Some((*net, ())),
        _ => None,
    });
    nets.collect()
}

/// The prefixes of a family that leave with an address of their own.
pub(super) fn outbounds(facts: &[FilterChange], family: Family) -> Vec<(Subnet, IpAddr)> {
    let nets = facts.iter().filter_map(|fact| match fact {
        FilterChange::Outbound(net, address) if Family::of(net) == family => Some((*net, *address)),
        _ => None,
    });
    nets.collect()
}

/// Those that are not among the others.
pub(super) fn without(mut elements: Elements, others: &Elements) -> Elements {
    for (name, entries) in &mut elements {
        if let Some(others) = others.get(name) {
            entries.retain(|entry| !others.contains(entry));
        }
    }
    elements
}

/// What has to go: what is added again as it is stays, and a key goes once, whatever its values.
pub(super) fn removals(elements: Elements, added: &Elements) -> Elements {
    let mut gone = without(elements, added);
    for entries in gone.values_mut() {
        let mut seen: BTreeSet<Vec<Field>> = BTreeSet::new();
        entries.retain(|entry| seen.insert(entry.key.clone()));
    }
    gone.retain(|_, entries| !entries.is_empty());
    gone
}
