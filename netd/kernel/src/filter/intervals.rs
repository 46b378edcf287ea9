//! Prefixes in interval sets.
//!
//! The kernel refuses overlapping intervals in one set (`nft_set_rbtree`: EEXIST for an inner one, ENOTEMPTY for a
//! crossing one) and nft's auto-merge forgets what was merged. So the table has two sets per family: a register that
//! holds every prefix as it was given (`network . netmask`, an exact-match set that no rule looks at), and the interval
//! set of the rules, which holds the outermost prefixes only. Prefixes nest or are apart, never cross, so the second
//! follows from the first, and taking an outer prefix away brings the inner ones back.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rnet_model::Subnet;

use super::wire::{Edge, Element, Key};

/// IP version of a pair of sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(net: &Subnet) -> Self {
        if net.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn last(self) -> u128 {
        match self {
            Family::V4 => u128::from(u32::MAX),
            Family::V6 => u128::MAX,
        }
    }

    fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    fn key(self, value: u128) -> Key {
        match self {
            Family::V4 => Key::new(&[&u32::try_from(value).expect("an IPv4 address has 32 bits").to_be_bytes()]),
            Family::V6 => Key::new(&[&value.to_be_bytes()]),
        }
    }

    fn value(self, bytes: &[u8]) -> Option<u128> {
        match self {
            Family::V4 => bytes.try_into().ok().map(|b| u128::from(u32::from_be_bytes(b))),
            Family::V6 => bytes.try_into().ok().map(u128::from_be_bytes),
        }
    }

    fn address(self, value: u128) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::from(u32::try_from(value).expect("an IPv4 address has 32 bits")).into(),
            Family::V6 => Ipv6Addr::from(value).into(),
        }
    }

    fn mask(self, prefix: u8) -> u128 {
        let host = u32::from(self.bits().saturating_sub(prefix));
        self.last() & u128::MAX.checked_shl(host).unwrap_or(0)
    }
}

/// First and last address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) first: u128,
    pub(super) last: u128,
}

impl Range {
    pub(super) fn of(net: &Subnet) -> Self {
        let number = |ip| match ip {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        Range { first: number(net.network()), last: number(net.last()) }
    }

    /// Whether all of `other` is inside.
    pub(super) fn covers(&self, other: &Range) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// The two elements that make the interval; one when it reaches the end of the address space.
    pub(super) fn elements(&self, family: Family) -> impl Iterator<Item = Element> + use<> {
        let start = Element { key: family.key(self.first), edge: Edge::Start };
        let end = (self.last < family.last()).then(|| Element { key: family.key(self.last + 1), edge: Edge::End });
        std::iter::once(start).chain(end)
    }
}

/// Puts the elements of a dump together again. An end without a start is nft(8)'s filler at the zero address.
pub(super) fn ranges(family: Family, elements: &[Element]) -> Vec<Range> {
    let mut edges: Vec<(u128, Edge)> =
        elements.iter().filter_map(|e| Some((family.value(e.key.bytes())?, e.edge))).collect();
    edges.sort_unstable();
    let mut found = Vec::with_capacity(edges.len() / 2);
    let mut open: Option<u128> = None;
    for (value, edge) in edges {
        if let (Some(first), true) = (open.take(), value > 0) {
            found.push(Range { first, last: value - 1 });
        }
        if edge == Edge::Start {
            open = Some(value);
        }
    }
    found.extend(open.map(|first| Range { first, last: family.last() }));
    found
}

/// The register's key of a prefix.
pub(super) fn register_key(net: &Subnet) -> Element {
    let family = Family::of(net);
    let (network, mask) = (family.key(Range::of(net).first), family.key(family.mask(net.prefix())));
    Element { key: Key::new(&[network.bytes(), mask.bytes()]), edge: Edge::Start }
}

/// The prefix of a key in the register; `None` when it is none.
pub(super) fn registered(family: Family, element: &Element) -> Option<Subnet> {
    let (network, mask) = element.key.bytes().split_at_checked(usize::from(family.bits() / 8))?;
    let (network, mask) = (family.value(network)?, family.value(mask)?);
    let prefix = u8::try_from(mask.count_ones()).ok()?;
    let net = Subnet::containing(family.address(network), prefix)?;
    (family.mask(prefix) == mask && Range::of(&net).first == network).then_some(net)
}

/// The prefix that is exactly this range, if there is one.
pub(super) fn prefix_of(family: Family, range: Range) -> Option<Subnet> {
    (0..=family.bits())
        .filter_map(|prefix| Subnet::containing(family.address(range.first), prefix))
        .find(|net| Range::of(net) == range)
}

/// What to change in the two sets of one family.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) register: Vec<Subnet>,
    pub(super) unregister: Vec<Subnet>,
    pub(super) open: Vec<Range>,
    pub(super) close: Vec<Range>,
}

/// Leads from what is there to what is wanted. `present` need not follow from `registered`: strays are taken away.
pub(super) fn plan(registered: &BTreeSet<Subnet>, present: &[Range], add: &[Subnet], remove: &[Subnet]) -> Plan {
    let mut wanted = registered.clone();
    remove.iter().for_each(|net| {
        wanted.remove(net);
    });
    wanted.extend(add);
    let outer = outermost(&wanted);
    let present: BTreeSet<Range> = present.iter().copied().collect();
    Plan {
        register: wanted.difference(registered).copied().collect(),
        unregister: registered.difference(&wanted).copied().collect(),
        open: outer.difference(&present).copied().collect(),
        close: present.difference(&outer).copied().collect(),
    }
}

fn outermost(nets: &BTreeSet<Subnet>) -> BTreeSet<Range> {
    let mut all: Vec<Range> = nets.iter().map(Range::of).collect();
    // Of two that begin together the longer one comes first, so an outer prefix is always seen before its inner ones.
    all.sort_unstable_by_key(|range| (range.first, std::cmp::Reverse(range.last)));
    let mut outer: Vec<Range> = Vec::with_capacity(all.len());
    for range in all {
        if !outer.last().is_some_and(|last| last.covers(&range)) {
            outer.push(range);
        }
    }
    outer.into_iter().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn only_outermost_prefixes_are_seen() {
        let plan = plan(&BTreeSet::new(), &[], &[net("10.0.0.0/8"), net("10.1.0.0/16"), net("11.0.0.0/8")], &[]);
        assert_eq!(plan.register.len(), 3);
        assert_eq!(plan.open, [Range::of(&net("10.0.0.0/8")), Range::of(&net("11.0.0.0/8"))]);
    }

    #[test]
    fn the_end_of_the_address_space_has_no_end_element() {
        assert_eq!(Range::of(&net("255.255.255.0/24")).elements(Family::V4).count(), 1);
        assert_eq!(Range::of(&net("ffff::/16")).elements(Family::V6).count(), 1);
        assert_eq!(Range::of(&net("0.0.0.0/0")).elements(Family::V4).count(), 1);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nets in prop::collection::btree_set((any::<u32>(), 1u8..=32), 0..12)) {
            let nets: BTreeSet<Subnet> =
                nets.into_iter().filter_map(|(ip, p)| Subnet::containing(Ipv4Addr::from(ip).into(), p)).collect();
            let outer: Vec<Range> = outermost(&nets).into_iter().collect();
            let elements: Vec<Element> = outer.iter().flat_map(|r| r.elements(Family::V4)).collect();
            prop_assert_eq!(ranges(Family::V4, &elements), outer);
            for net in &nets {
                prop_assert_eq!(registered(Family::V4, &register_key(net)), Some(*net));
            }
        }
    }
}
