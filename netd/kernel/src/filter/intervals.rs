//! Prefixes in interval sets and maps.
//!
//! The kernel refuses overlapping intervals in one set (`nft_set_rbtree`: EEXIST for an inner one, ENOTEMPTY for a
//! crossing one) and nft's auto-merge forgets what was merged. So the table has two sets for each: a register that holds
//! every prefix as it was given (`network . netmask`, exact keys that no rule looks at), and the intervals of the rules,
//! which do not overlap: of prefixes with different values the innermost counts, inside of equal ones nothing is to be
//! seen. Prefixes nest or are apart, never cross, so the second follows from the first, and taking an outer prefix away
//! brings the inner ones back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rnet_model::Subnet;

use super::rules::{Element, Field};

/// IP version of a pair of sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub(super) fn of(net: &Subnet) -> Self {
        if net.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Index of the family's set among those of both.
    pub(super) fn at(self) -> usize {
        usize::from(self == Family::V6)
    }

    fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    fn address(self, value: u128) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::from(u32::try_from(value).expect("an IPv4 address has 32 bits")).into(),
            Family::V6 => Ipv6Addr::from(value).into(),
        }
    }

    fn mask(self, prefix: u8) -> u128 {
        let last = match self {
            Family::V4 => u128::from(u32::MAX),
            Family::V6 => u128::MAX,
        };
        last & u128::MAX.checked_shl(u32::from(self.bits().saturating_sub(prefix))).unwrap_or(0)
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
        Range { first: number(net.network()), last: number(net.last()) }
    }

    /// Whether they have an address in common.
    pub(super) fn meets(&self, other: &Range) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The element of the rules' set.
    pub(super) fn element(&self, family: Family) -> Element {
        let field = |value| Field::from(family.address(value));
        Element { upto: Some(vec![field(self.last)]), ..Element::key([field(self.first)]) }
    }

    /// The range of such an element.
    pub(super) fn read(element: &Element) -> Option<Self> {
        let [first] = element.key.as_slice() else { return None };
        let last = match element.upto.as_deref() {
            Some([last]) => last,
            _ => first,
        };
        Some(Range { first: number(address(first)?), last: number(address(last)?) })
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The address of a field.
pub(super) fn address(field: &Field) -> Option<IpAddr> {
    match field {
        Field::Ipv4(v4) => Some((*v4).into()),
        Field::Ipv6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// The register's key of a prefix.
pub(super) fn register_key(net: &Subnet) -> Element {
    let family = Family::of(net);
    Element::key([net.network().into(), family.address(family.mask(net.prefix())).into()])
}

/// The prefix of a key in the register; `None` when it is none.
pub(super) fn registered(family: Family, element: &Element) -> Option<Subnet> {
    let [network, mask] = element.key.as_slice() else { return None };
    let (network, mask) = (number(address(network)?), number(address(mask)?));
    let prefix = u8::try_from(mask.count_ones()).ok()?;
    let net = Subnet::containing(family.address(network), prefix)?;
    (family.mask(prefix) == mask && Range::of(&net).first == network).then_some(net)
}

/// What to change in the two sets of one family.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan<V> {
    pub(super) register: Vec<(Subnet, V)>,
    pub(super) unregister: Vec<Subnet>,
    pub(super) open: Vec<(Range, V)>,
    pub(super) close: Vec<Range>,
}

/// Leads from what is there to what is wanted. `present` need not follow from `registered`: strays are taken away.
pub(super) fn plan<V: Copy + Ord>(
    registered: &BTreeMap<Subnet, V>,
    present: &[(Range, V)],
    add: &[(Subnet, V)],
    remove: &[(Subnet, V)],
) -> Plan<V> {
    let mut wanted = registered.clone();
    wanted.retain(|net, value| !remove.contains(&(*net, *value)));
    wanted.extend(add.iter().copied());
    let pieces = pieces(&wanted);
    let present: BTreeSet<(Range, V)> = present.iter().copied().collect();
    let stays = |net: &Subnet, value: &V, there: &BTreeMap<Subnet, V>| there.get(net) == Some(value);
    Plan {
        register: wanted.iter().filter(|(n, v)| !stays(n, v, registered)).map(|(n, v)| (*n, *v)).collect(),
        unregister: registered.iter().filter(|(n, v)| !stays(n, v, &wanted)).map(|(n, _)| *n).collect(),
        open: pieces.difference(&present).copied().collect(),
        close: present.difference(&pieces).map(|(range, _)| *range).collect(),
    }
}

/// The intervals of the rules: every address has the value of the innermost prefix it is in.
pub(super) fn pieces<V: Copy + Ord>(nets: &BTreeMap<Subnet, V>) -> BTreeSet<(Range, V)> {
    let mut all: Vec<(Range, V)> = nets.iter().map(|(net, value)| (Range::of(net), *value)).collect();
    // Of two that begin together the longer one comes first, so an outer prefix is always seen before its inner ones.
    all.sort_unstable_by_key(|(range, _)| (range.first, std::cmp::Reverse(range.last)));
    let mut sweep = Sweep { pieces: Vec::with_capacity(all.len()), first_of_outer: 0, open: Vec::new(), from: 0 };
    for (range, value) in all {
        sweep.begin(range, value);
    }
    sweep.finish();
    sweep.pieces.into_iter().collect()
}

/// A walk over prefixes in order.
struct Sweep<V> {
    pieces: Vec<(Range, V)>,
    /// Where the pieces of the outermost prefix that is open begin.
    first_of_outer: usize,
    /// Last address and value of those that are not at their end, the innermost last.
    open: Vec<(u128, V)>,
    /// First address that is in no piece yet.
    from: u128,
}

impl<V: Copy + Ord> Sweep<V> {
    fn begin(&mut self, range: Range, value: V) {
        while let Some(&(last, value)) = self.open.last()
            && last < range.first
        {
            self.piece(last, value);
            self.open.pop();
            // It is less than another address.
            self.from = last + 1;
        }
        match self.open.last() {
            Some(&(_, value)) if self.from < range.first => self.piece(range.first - 1, value),
            Some(_) => {}
            None => self.first_of_outer = self.pieces.len(),
        }
        self.from = range.first;
        self.open.push((range.last, value));
    }

    /// Adds a piece, or makes the one before it longer when both are of one outermost prefix and mean the same.
    fn piece(&mut self, last: u128, value: V) {
        if self.from > last {
            return;
        }
        let of_outer = self.pieces.len() > self.first_of_outer;
        if let Some((range, before)) = self.pieces.last_mut()
            && of_outer
            && *before == value
        {
            range.last = last;
        } else {
            self.pieces.push((Range { first: self.from, last }, value));
        }
    }

    fn finish(&mut self) {
        while let Some((last, value)) = self.open.pop() {
            self.piece(last, value);
            match last.checked_add(1) {
                Some(next) => self.from = next,
                // Those outside of it end there as well.
                None => return,
            }
        }
    }
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
        let add = ["10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8"].map(|text| (net(text), ()));
        let plan = plan(&BTreeMap::new(), &[], &add, &[]);
        assert_eq!(plan.register.len(), 3);
        assert_eq!(plan.open, [(Range::of(&net("10.0.0.0/8")), ()), (Range::of(&net("11.0.0.0/8")), ())]);
    }

    #[test]
    fn the_innermost_value_counts() {
        let nets = [("::/0", 1), ("fd00::/16", 2), ("fd00::/64", 1), ("ffff::/16", 1)];
        let nets: BTreeMap<Subnet, i32> = nets.into_iter().map(|(text, value)| (net(text), value)).collect();
        let values: Vec<i32> = pieces(&nets).into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, [1, 2, 1], "up to the end of fd00::/64, the rest of fd00::/16, everything after it");
        let all: Vec<Range> = pieces(&nets).into_iter().map(|(range, _)| range).collect();
        assert!(all.windows(2).all(|pair| pair[0].last + 1 == pair[1].first), "{all:?}");
        assert_eq!((all[0].first, all[2].last), (0, u128::MAX));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            nets in prop::collection::btree_map((any::<u32>(), 1u8..=32), 0u8..3, 0..12),
            asked in any::<u32>(),
        ) {
            let nets: BTreeMap<Subnet, u8> = nets
                .into_iter()
                .filter_map(|((ip, p), value)| Some((Subnet::containing(Ipv4Addr::from(ip).into(), p)?, value)))
                .collect();
            let pieces: Vec<(Range, u8)> = pieces(&nets).into_iter().collect();
            prop_assert!(pieces.windows(2).all(|pair| pair[0].0.last < pair[1].0.first), "they overlap: {pieces:?}");
            for (range, _) in &pieces {
                prop_assert_eq!(Range::read(&range.element(Family::V4)), Some(*range));
            }
            for net in nets.keys() {
                prop_assert_eq!(registered(Family::V4, &register_key(net)), Some(*net));
            }
            let asked_at = nets.keys().map(|net| number(net.network())).chain([u128::from(asked)]);
            for asked in asked_at {
                let holds = |range: &Range| range.first <= asked && asked <= range.last;
                let wanted = nets.iter().filter(|(net, _)| holds(&Range::of(net))).max_by_key(|(net, _)| net.prefix());
                let found = pieces.iter().find(|(range, _)| holds(range));
                prop_assert_eq!(found.map(|(_, value)| *value), wanted.map(|(_, value)| *value));
            }
        }
    }
}
