//! Counts what happens, and shows it as Prometheus text.
//!
//! ```text
//!  handlers, workers ──► Metrics (atomics) ──┐
//!  status, store     ────────────────────────┴─► text::Page ─► /metrics
//! ```
//!
//! *Invariants.* A metric is shown only when its value is true; what is not measured yet is
//! absent, never 0 for show.
//!
//! *Contract.* Names, labels and buckets of `facts` section 13: those of etcd v3.7.1.

mod families;
pub(crate) mod process;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use store::{Applied, ApplyError, Counts, Operation, Response};

use crate::grpc::method::{METHODS, Method};

pub(crate) use families::render;

/// gRPC codes by their number.
pub(crate) const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Versions of clients that are counted apart; further ones count as `other`.
const CLIENT_VERSIONS_MAX: usize = 64;

/// Reasons of failure that are counted apart.
const REASONS_MAX: usize = 64;

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

/// How often a measured value fell into which bucket.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// Ascending upper bounds.
    bounds: Vec<f64>,
    /// One more than `bounds`: the last is without bound.
    buckets: Vec<Counter>,
    /// The sum of all values, as the bits of a float.
    sum: AtomicU64,
}

impl Histogram {
    /// `count` buckets, each twice as wide as the one before.
    pub(crate) fn exponential(first: f64, count: usize) -> Self {
        let bounds: Vec<_> =
            std::iter::successors(Some(first), |bound| Some(bound * 2.0)).take(count).collect();
        let buckets = (0..=count).map(|_| Counter::default()).collect();
        Self { bounds, buckets, sum: AtomicU64::new(0f64.to_bits()) }
    }

    /// Counts a duration, in seconds.
    pub(crate) fn observe(&self, duration: Duration) {
        self.observe_value(duration.as_secs_f64());
    }

    /// Counts a value, in the unit of the bounds.
    pub(crate) fn observe_value(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[at].increment();
        let add = |bits: u64| Some((f64::from_bits(bits) + value).to_bits());
        // Never refused: `add` always has a value.
        let _sum = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Ordering::Relaxed))
    }
}

/// A histogram of what went well and one of what did not.
#[derive(Debug)]
pub(crate) struct Outcomes {
    good: Histogram,
    bad: Histogram,
}

impl Outcomes {
    fn exponential(first: f64, count: usize) -> Self {
        let histogram = || Histogram::exponential(first, count);
        Self { good: histogram(), bad: histogram() }
    }

    pub(crate) fn observe(&self, is_good: bool, duration: Duration) {
        if is_good { &self.good } else { &self.bad }.observe(duration);
    }
}

/// What is counted of one gRPC method.
#[derive(Debug, Default)]
pub(crate) struct MethodMetrics {
    pub(crate) started: Counter,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    handled: [Counter; 17],
}

/// Everything that the server counts itself.
#[derive(Debug)]
pub(crate) struct Metrics {
    methods: Vec<MethodMetrics>,
    client_requests: RwLock<BTreeMap<(&'static str, String), Arc<Counter>>>,
    health_checks: Mutex<BTreeMap<(&'static str, &'static str), HealthCheck>>,
    pub(crate) promotions: Counter,
    /// Learners that were not promoted, by the reason.
    promotions_failed: Mutex<BTreeMap<String, u64>>,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) health_success: Counter,
    pub(crate) health_failures: Counter,
    pub(crate) puts: Counter,
    pub(crate) ranges: Counter,
    pub(crate) deletes: Counter,
    pub(crate) txns: Counter,
    pub(crate) leases_granted: Counter,
    pub(crate) leases_renewed: Counter,
    pub(crate) leases_revoked: Counter,
    pub(crate) watch_streams: Counter,
    pub(crate) watch_streams_ended: Counter,
    pub(crate) watchers: Counter,
    pub(crate) watchers_ended: Counter,
    pub(crate) hash_seconds: Histogram,
    pub(crate) hash_rev_seconds: Histogram,
    pub(crate) range_seconds: Outcomes,
    /// Times of requests that wait for the log, by their kind.
    request_seconds: Vec<Outcomes>,
    /// Times of the others.
    pub(crate) read_seconds: Outcomes,
    pub(crate) read_txn_seconds: Outcomes,
    /// Times in which requests were applied, by their kind.
    apply_seconds: Vec<Outcomes>,
    /// Times that granted leases have.
    lease_ttls: Histogram,
    compaction_millis: Histogram,
    /// When the last compaction has removed its rows, in seconds since 1970.
    compacted_at: AtomicU64,
    put_bytes: Counter,
    pub(crate) scrapes: Counter,
    pub(crate) snapshot_seconds: Histogram,
    pub(crate) wal_sync_seconds: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) leader_changes: Counter,
    pub(crate) disk_stalls: Counter,
    pub(crate) slow_applies: Counter,
    pub(crate) proposals_failed: Counter,
    pub(crate) reads_failed: Counter,
}

#[derive(Debug, Default, Clone, Copy)]
struct HealthCheck {
    is_ok: bool,
    successes: u64,
    errors: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            methods: METHODS.iter().map(|_| MethodMetrics::default()).collect(),
            client_requests: RwLock::default(),
            health_checks: Mutex::default(),
            promotions: Counter::default(),
            promotions_failed: Mutex::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            health_success: Counter::default(),
            health_failures: Counter::default(),
            puts: Counter::default(),
            ranges: Counter::default(),
            deletes: Counter::default(),
            txns: Counter::default(),
            leases_granted: Counter::default(),
            leases_renewed: Counter::default(),
            leases_revoked: Counter::default(),
            watch_streams: Counter::default(),
            watch_streams_ended: Counter::default(),
            watchers: Counter::default(),
            watchers_ended: Counter::default(),
            hash_seconds: Histogram::exponential(0.01, 15),
            hash_rev_seconds: Histogram::exponential(0.01, 15),
            range_seconds: Outcomes::exponential(0.0001, 20),
            request_seconds: by_operation(|| Outcomes::exponential(0.001, 14)),
            read_seconds: Outcomes::exponential(0.001, 14),
            read_txn_seconds: Outcomes::exponential(0.001, 14),
            apply_seconds: by_operation(|| Outcomes::exponential(0.0001, 20)),
            lease_ttls: Histogram::exponential(1.0, 24),
            compaction_millis: Histogram::exponential(100.0, 14),
            compacted_at: AtomicU64::new(0),
            put_bytes: Counter::default(),
            scrapes: Counter::default(),
            snapshot_seconds: Histogram::exponential(0.01, 17),
            wal_sync_seconds: Histogram::exponential(0.001, 14),
            commit_seconds: Histogram::exponential(0.001, 14),
            leader_changes: Counter::default(),
            disk_stalls: Counter::default(),
            slow_applies: Counter::default(),
            proposals_failed: Counter::default(),
            reads_failed: Counter::default(),
        }
    }
}

fn by_operation(histograms: impl Fn() -> Outcomes) -> Vec<Outcomes> {
    Operation::ALL.iter().map(|_| histograms()).collect()
}

impl Metrics {
    /// Notes the time of a request that waited for the log. It went well unless it could not be
    /// proposed: what became of it is not asked here, in etcd neither.
    pub(crate) fn requested(&self, operation: Operation, is_proposed: bool, took: Duration) {
        self.request_seconds[operation as usize].observe(is_proposed, took);
    }

    /// Counts an applied entry.
    pub(crate) fn applied(&self, applied: &Applied, took: Duration) {
        let Some(operation) = applied.operation else { return };
        let is_good = matches!(applied.result, Ok(_) | Err(ApplyError::Compacted));
        self.apply_seconds[operation as usize].observe(is_good, took);
        self.count(applied.counts);
        match &applied.result {
            Ok(Response::LeaseGrant(granted)) => {
                self.leases_granted.increment();
                self.lease_ttls.observe_value(granted.ttl as f64);
            }
            Ok(Response::LeaseRevoke(_)) => self.leases_revoked.increment(),
            _ => {}
        }
    }

    /// Counts what a request did to the keys.
    pub(crate) fn count(&self, counts: Counts) {
        for (counter, count) in [
            (&self.ranges, counts.ranges),
            (&self.puts, counts.puts),
            (&self.put_bytes, counts.put_bytes),
            (&self.deletes, counts.deletes),
            (&self.txns, counts.txns),
        ] {
            if count > 0 {
                counter.add(count);
            }
        }
    }

    /// Notes a read of an interval by itself.
    pub(crate) fn ranged(&self, is_good: bool, took: Duration) {
        self.ranges.increment();
        self.range_seconds.observe(is_good, took);
    }

    /// Notes that a compaction has removed its rows.
    pub(crate) fn compacted(&self, took: Duration) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.compacted_at.store(now.map_or(0, |time| time.as_secs()), Ordering::Relaxed);
        self.compaction_millis.observe_value(took.as_millis() as f64);
    }

    /// What is counted of `method`.
    pub(crate) fn method(&self, method: Method) -> &MethodMetrics {
        &self.methods[method as usize]
    }

    /// Counts the end of a call.
    pub(crate) fn handled(&self, method: Method, code: usize) {
        self.methods[method as usize].handled[code.min(CODES.len() - 1)].increment();
    }

    /// Counts a call by its client's version.
    pub(crate) fn client_request(&self, kind: &'static str, version: &str) {
        let key = (kind, version.to_owned());
        if let Some(counter) = self.client_requests.read().get(&key) {
            counter.increment();
            return;
        }
        let mut all = self.client_requests.write();
        let key = if all.len() < CLIENT_VERSIONS_MAX { key } else { (kind, "other".to_owned()) };
        all.entry(key).or_default().increment();
    }

    /// Counts a learner that was not promoted.
    pub(crate) fn promotion_failed(&self, reason: String) {
        let mut all = self.promotions_failed.lock();
        if all.len() < REASONS_MAX || all.contains_key(&reason) {
            *all.entry(reason).or_default() += 1;
        }
    }

    /// Notes the result of one health check.
    pub(crate) fn health_check(&self, kind: &'static str, name: &'static str, is_ok: bool) {
        let mut all = self.health_checks.lock();
        let check = all.entry((kind, name)).or_default();
        check.is_ok = is_ok;
        if is_ok { check.successes += 1 } else { check.errors += 1 }
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
        let counts: Vec<_> = histogram.buckets.iter().map(Counter::get).collect();
        assert_eq!(counts, [2, 1, 1, 2]);
    }
}
