//! A set of numbers as intervals, so that an empty /64 is as small as a full /24.

use std::collections::BTreeMap;

/// Disjoint intervals that do not touch: first to last, both inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Intervals(BTreeMap<u128, u128>);

impl Intervals {
    /// Adds an interval; what is there already stays.
    pub(crate) fn insert(&mut self, mut first: u128, mut last: u128) {
        if let Some((&before, &end)) = self.0.range(..=first).next_back()
            && end >= first.saturating_sub(1)
        {
            first = before;
            last = last.max(end);
        }
        while let Some((&next, &end)) = self.0.range(first..=last.saturating_add(1)).next() {
            self.0.remove(&next);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    /// Takes an interval out.
    pub(crate) fn remove(&mut self, first: u128, last: u128) {
        while let Some((&start, &end)) = self.0.range(..=last).next_back() {
            if end < first {
                return;
            }
            self.0.remove(&start);
            if end > last {
                self.0.insert(last + 1, end);
            }
            if start < first {
                self.0.insert(start, first - 1);
                return;
            }
        }
    }

    pub(crate) fn contains(&self, number: u128) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, end)| *end >= number)
    }

    /// How many numbers it holds; all 2^128 count as one less.
    pub(crate) fn count(&self) -> u128 {
        self.0.iter().fold(0, |sum: u128, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// The numbers from `start` on to the end, then those before it.
    pub(crate) fn cyclic(&self, start: u128) -> impl Iterator<Item = u128> + '_ {
        let around = self.0.range(..start).next_back().filter(|(_, end)| **end >= start).map(|(_, end)| start..=*end);
        let after = self.0.range(start..).map(|(first, last)| *first..=*last);
        let before = self.0.range(..start).map(move |(first, last)| *first..=(*last).min(start.wrapping_sub(1)));
        around.into_iter().chain(after).chain(before).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn like_a_set(ops in prop::collection::vec((any::<bool>(), 0u128..60, 0u128..8), 0..60), start in 0u128..70) {
            let (mut intervals, mut set) = (Intervals::default(), BTreeSet::new());
            for (add, first, more) in ops {
                let last = first + more;
                if add {
                    intervals.insert(first, last);
                    set.extend(first..=last);
                } else {
                    intervals.remove(first, last);
                    set.retain(|n| *n < first || *n > last);
                }
            }
            prop_assert!((0..80).all(|n| intervals.contains(n) == set.contains(&n)));
            let cyclic: Vec<u128> = set.range(start..).chain(set.range(..start)).copied().collect();
            prop_assert_eq!(intervals.cyclic(start).collect::<Vec<_>>(), cyclic);
            let touching = intervals.0.iter().zip(intervals.0.keys().skip(1)).any(|((_, end), next)| end + 1 >= *next);
            prop_assert!(!touching);
        }
    }
}
