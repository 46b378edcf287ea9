//! Samples of a duration and what is said about them.

use std::fmt;
use std::time::Duration;

/// Durations of one thing, measured several times.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The value that `percent` of the samples do not exceed; zero without samples.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(rank).copied().unwrap_or_default()
    }

    /// The first `count`, in the order they were taken.
    pub(crate) fn first(&self, count: usize) -> Samples {
        self.0.iter().take(count).copied().collect()
    }

    /// The last `count`.
    pub(crate) fn last(&self, count: usize) -> Samples {
        self.0.iter().skip(self.0.len().saturating_sub(count)).copied().collect()
    }

    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }
}

impl Extend<Duration> for Samples {
    fn extend<I: IntoIterator<Item = Duration>>(&mut self, samples: I) {
        self.0.extend(samples);
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        Samples(samples.into_iter().collect())
    }
}

/// Median and 99th percentile.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (p99 {})", Short(self.median()), Short(self.percentile(99)))
    }
}

/// A duration with three digits and the unit that suits it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Short(pub(crate) Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let (value, unit) = match seconds {
            s if s < 1e-3 => (s * 1e6, "us"),
            s if s < 1.0 => (s * 1e3, "ms"),
            s => (s, "s"),
        };
        let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        write!(f, "{value:.digits$} {unit}")
    }
}

/// How many times longer `slow` takes than `fast`.
pub(crate) fn ratio(slow: Duration, fast: Duration) -> f64 {
    slow.as_secs_f64() / fast.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let samples: Samples = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(samples.median(), Duration::from_millis(50));
        assert_eq!(samples.percentile(99), Duration::from_millis(99));
        assert_eq!(Samples::default().median(), Duration::ZERO);
        assert_eq!(Samples::from_iter([Duration::from_millis(3)]).percentile(99), Duration::from_millis(3));
    }

    #[test]
    fn shown() {
        let shown = |micros| Short(Duration::from_micros(micros)).to_string();
        assert_eq!([shown(9), shown(430), shown(1_165_000), shown(72_300)], ["9.00 us", "430 us", "1.17 s", "72.3 ms"]);
    }
}
