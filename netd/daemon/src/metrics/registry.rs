//! Numbers that are counted where something happens. A handle is an atomic: counting takes no lock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::text::{Kind, Page};

/// A number that only grows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Counts so many more.
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of durations, microseconds: from what a ready namespace takes to what plugins may.
const BOUNDS: [u64; 14] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 30_000_000];

/// How long something took, by size.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    /// One for each bound, not added up, and one for what is longer.
    counts: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    /// Counts one that took so long.
    pub(crate) fn observe(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS.partition_point(|bound| *bound < took);
        self.0.counts[place].fetch_add(1, Ordering::Relaxed);
        self.0.microseconds.fetch_add(took, Ordering::Relaxed);
    }

    fn render(&self, page: &mut Page, labels: &[(&str, &str)]) {
        let mut sum = 0;
        for (count, bound) in self.0.counts.iter().zip(BOUNDS.map(Some).into_iter().chain([None])) {
            sum += count.load(Ordering::Relaxed);
            let le = bound.map_or_else(|| "+Inf".to_owned(), seconds);
            let labels: Vec<_> = labels.iter().copied().chain([("le", le.as_str())]).collect();
            page.suffixed("_bucket", &labels, sum);
        }
        page.suffixed("_sum", labels, seconds(self.0.microseconds.load(Ordering::Relaxed)));
        page.suffixed("_count", labels, sum);
    }
}

/// Microseconds as seconds.
fn seconds(microseconds: u64) -> String {
    let text = format!("{}.{:06}", microseconds / 1_000_000, microseconds % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Family {
    Counters { help: &'static str, all: BTreeMap<Labels, Counter> },
    Histograms { help: &'static str, all: BTreeMap<Labels, Histogram> },
}

/// All numbers of one netd, by name and labels. A name is one kind of number; it ends in `_total` if it is a counter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<BTreeMap<&'static str, Family>>>);

impl Registry {
    /// The counter of this name and these labels, made at 0 if it is not there.
    ///
    /// # Panics
    /// When the name is one of histograms.
    pub(crate) fn counter(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name).or_insert_with(|| Family::Counters { help, all: BTreeMap::new() });
        match family {
            Family::Counters { all, .. } => all.entry(owned(labels)).or_default().clone(),
            Family::Histograms { .. } => unreachable!("{name} is one kind of number"),
        }
    }

    /// The histogram of this name and these labels, made empty if it is not there.
    ///
    /// # Panics
    /// When the name is one of counters.
    pub(crate) fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
    ) -> Histogram {
        let mut families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name).or_insert_with(|| Family::Histograms { help, all: BTreeMap::new() });
        match family {
            Family::Histograms { all, .. } => all.entry(owned(labels)).or_default().clone(),
            Family::Counters { .. } => unreachable!("{name} is one kind of number"),
        }
    }

    /// All families as text.
    pub(crate) fn render(&self) -> String {
        let families = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = Page::default();
        for (name, family) in families.iter() {
            match family {
                Family::Counters { help, all } => {
                    page.family(name, Kind::Counter, help);
                    all.iter().for_each(|(labels, counter)| page.sample(&borrowed(labels), counter.value()));
                }
                Family::Histograms { help, all } => {
                    page.family(name, Kind::Histogram, help);
                    all.iter().for_each(|(labels, histogram)| histogram.render(&mut page, &borrowed(labels)));
                }
            }
        }
        page.finish()
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
}

fn borrowed(labels: &Labels) -> Vec<(&str, &str)> {
    labels.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let registry = Registry::default();
        let took = registry.histogram("rnet_x_seconds", "How long", &[("operation", "attach")]);
        for microseconds in [100, 101, 40_000_000] {
            took.observe(Duration::from_micros(microseconds));
        }
        let text = registry.render();
        for line in [
            "# TYPE rnet_x_seconds histogram",
            "rnet_x_seconds_bucket{operation=\"attach\",le=\"0.0001\"} 1",
            "rnet_x_seconds_bucket{operation=\"attach\",le=\"0.00025\"} 2",
            "rnet_x_seconds_bucket{operation=\"attach\",le=\"30\"} 2",
            "rnet_x_seconds_bucket{operation=\"attach\",le=\"+Inf\"} 3",
            "rnet_x_seconds_sum{operation=\"attach\"} 40.000201",
            "rnet_x_seconds_count{operation=\"attach\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn a_name_and_labels_are_one_counter() {
        let registry = Registry::default();
        registry.counter("rnet_x_total", "X", &[("action", "one")]).add(1);
        registry.counter("rnet_x_total", "X", &[("action", "one")]).add(2);
        registry.counter("rnet_x_total", "X", &[("action", "two")]);
        let expected = "# HELP rnet_x_total X\n# TYPE rnet_x_total counter\n\
                        rnet_x_total{action=\"one\"} 3\nrnet_x_total{action=\"two\"} 0\n";
        assert_eq!(registry.render(), expected);
    }
}
