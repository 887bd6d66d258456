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
    sum_nanos: Counter,
}

impl Histogram {
    /// `count` buckets, each twice as wide as the one before.
    pub(crate) fn exponential(first: f64, count: usize) -> Self {
        let bounds: Vec<_> =
            std::iter::successors(Some(first), |bound| Some(bound * 2.0)).take(count).collect();
        let buckets = (0..=count).map(|_| Counter::default()).collect();
        Self { bounds, buckets, sum_nanos: Counter::default() }
    }

    /// Counts a duration, in seconds.
    pub(crate) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let at = self.bounds.partition_point(|bound| *bound < seconds);
        self.buckets[at].increment();
        self.sum_nanos.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
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
    pub(crate) range_seconds: Histogram,
    pub(crate) snapshot_seconds: Histogram,
    pub(crate) wal_sync_seconds: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) leader_changes: Counter,
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
            range_seconds: Histogram::exponential(0.0001, 20),
            snapshot_seconds: Histogram::exponential(0.01, 17),
            wal_sync_seconds: Histogram::exponential(0.001, 14),
            commit_seconds: Histogram::exponential(0.001, 14),
            leader_changes: Counter::default(),
            slow_applies: Counter::default(),
            proposals_failed: Counter::default(),
            reads_failed: Counter::default(),
        }
    }
}

impl Metrics {
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
