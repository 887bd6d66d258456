//! Numbers that many threads add to at once.
//!
//! *Invariants.* Adding takes no lock, allocates nothing and makes no text: a counter is one
//! atomic addition, a duration in a histogram is two.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of something there are now.
#[derive(Debug, Default)]
pub(crate) struct Level(AtomicU64);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Present<'a>(&'a Level);

impl Level {
    /// One more, for as long as the answer lives.
    pub(crate) fn enter(&self) -> Present<'_> {
        self.rise();
        Present(self)
    }

    /// One more; who says so says later that it has gone.
    pub(crate) fn rise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub(crate) fn fall(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.fall();
    }
}

/// How often a measured value fell into which bucket.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// Ascending upper bounds.
    bounds: Vec<f64>,
    /// The same in nanoseconds, where the unit is a second.
    nanos: Vec<u64>,
    /// One more than `bounds`: the last is without bound.
    buckets: Vec<Counter>,
    /// The sum of all durations, in nanoseconds.
    sum_nanos: AtomicU64,
    /// The sum of all other values, as the bits of a float.
    sum: AtomicU64,
}

impl Histogram {
    /// Buckets up to these bounds.
    pub(crate) fn new(bounds: impl IntoIterator<Item = f64>) -> Self {
        let bounds: Vec<f64> = bounds.into_iter().collect();
        let nanos = bounds.iter().map(|bound| (bound * 1e9).round() as u64).collect();
        let buckets = (0..=bounds.len()).map(|_| Counter::default()).collect();
        let (sum_nanos, sum) = (AtomicU64::new(0), AtomicU64::new(0f64.to_bits()));
        Self { bounds, nanos, buckets, sum_nanos, sum }
    }

    /// `count` buckets, each twice as wide as the one before.
    pub(crate) fn exponential(first: f64, count: usize) -> Self {
        Self::new(std::iter::successors(Some(first), |bound| Some(bound * 2.0)).take(count))
    }

    /// The buckets of Prometheus' own libraries.
    pub(crate) fn usual() -> Self {
        Self::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
    }

    /// Counts a duration, in seconds.
    pub(crate) fn observe(&self, duration: Duration) {
        self.observe_many(duration, 1);
    }

    /// Counts several of the same duration.
    pub(crate) fn observe_many(&self, duration: Duration, count: u64) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let at = self.nanos.partition_point(|bound| *bound < nanos);
        self.buckets[at].add(count);
        self.sum_nanos.fetch_add(nanos.saturating_mul(count), Ordering::Relaxed);
    }

    /// Counts a value, in the unit of the bounds. For what is not frequent.
    pub(crate) fn observe_value(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[at].increment();
        let add = |bits: u64| Some((f64::from_bits(bits) + value).to_bits());
        // Never refused: `add` always has a value.
        let _sum = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// What it has counted so far.
    pub(crate) fn counted(&self) -> Counted {
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed))
            + self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
        let buckets = self.buckets.iter().map(Counter::get).collect();
        Counted { bounds: self.bounds.clone(), buckets, sum }
    }

    /// Whether it has counted nothing.
    pub(crate) fn is_unused(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.get() == 0)
    }
}

/// What a histogram has counted at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    /// Ascending upper bounds.
    pub(crate) bounds: Vec<f64>,
    /// What fell into each bucket and into none before it; one more than there are bounds.
    pub(crate) buckets: Vec<u64>,
    /// Of all values.
    pub(crate) sum: f64,
}

impl<const N: usize> From<&peer::Histogram<N>> for Counted {
    fn from(histogram: &peer::Histogram<N>) -> Self {
        let first = histogram.first.as_secs_f64();
        let bounds = std::iter::successors(Some(first), |bound| Some(bound * 2.0)).take(N);
        let mut buckets = histogram.buckets.to_vec();
        let below: u64 = buckets.iter().sum();
        buckets.push(histogram.count.saturating_sub(below));
        Self { bounds: bounds.collect(), buckets, sum: histogram.sum.as_secs_f64() }
    }
}

/// A histogram of what went well and one of what did not.
#[derive(Debug)]
pub(crate) struct Outcomes {
    pub(super) good: Histogram,
    pub(super) bad: Histogram,
}

impl Outcomes {
    pub(crate) fn exponential(first: f64, count: usize) -> Self {
        let histogram = || Histogram::exponential(first, count);
        Self { good: histogram(), bad: histogram() }
    }

    pub(crate) fn observe(&self, is_good: bool, duration: Duration) {
        if is_good { &self.good } else { &self.bad }.observe(duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_not_above_their_bound() {
        let histogram = Histogram::exponential(0.001, 3);
        for micros in [500, 1_000, 1_001, 4_000, 4_001, 9_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        assert_eq!(histogram.counted().buckets, [2, 1, 1, 2]);
    }

    #[test]
    fn durations_and_values_fall_into_the_same_buckets() {
        for first in [0.0001, 0.001, 0.01, 0.1] {
            let (by_time, by_value) =
                (Histogram::exponential(first, 20), Histogram::exponential(first, 20));
            for bound in by_time.bounds.clone() {
                by_time.observe(Duration::from_secs_f64(bound));
                by_value.observe_value(bound);
            }
            assert_eq!(by_time.counted().buckets, by_value.counted().buckets);
            let sums = (by_time.counted().sum, by_value.counted().sum);
            assert!((sums.0 - sums.1).abs() < 1e-6, "{sums:?}");
        }
    }

    #[test]
    fn many_at_once_are_as_many_one_by_one() {
        let (at_once, one_by_one) = (Histogram::usual(), Histogram::usual());
        at_once.observe_many(Duration::from_millis(30), 3);
        for _ in 0..3 {
            one_by_one.observe(Duration::from_millis(30));
        }
        assert_eq!(at_once.counted().buckets, one_by_one.counted().buckets);
        assert!((at_once.counted().sum - one_by_one.counted().sum).abs() < 1e-9);
    }
}
