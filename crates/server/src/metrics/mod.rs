//! Counts what happens, and shows it as Prometheus text.
//!
//! ```text
//!  handlers, workers ──► Metrics (atomics) ──┐
//!  status, store     ────────────────────────┴─► text::Page ─► /metrics
//! ```
//!
//! *Invariants.*
//! 1. A metric is shown only when its value is true; what has no meaning here is absent, never 0
//!    for show.
//! 2. What is counted for each request takes no lock, allocates nothing and makes no text.
//! 3. Showing stops nothing: it only reads.
//!
//! *Contract.* Names, labels and buckets of `facts` section 13: those of etcd v3.7.1. Our own
//! begin with `quorate_`.

mod disk;
mod families;
mod network;
mod number;
pub(crate) mod process;
mod scrape;
mod storage;
mod text;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::MemberId;
use parking_lot::Mutex;
use proto::etcdserverpb::AlarmType;
use store::{Applied, ApplyError, Counts, Operation, Response, Swept};

use crate::grpc::method::{METHODS, Method};

pub(crate) use disk::Measured;
pub(crate) use number::{Counter, Histogram, Level, Outcomes};
pub(crate) use scrape::{Text, answer};
use versions::Versions;

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

/// Reasons of failure that are counted apart.
const REASONS_MAX: usize = 64;

/// A stream of a client in which something came that is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Watch,
    Lease,
}

impl Broken {
    const ALL: [Self; 2] = [Self::Watch, Self::Lease];

    /// etcd's name of the stream.
    const fn name(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Lease => "lease-keepalive",
        }
    }
}

/// What is counted of one gRPC method.
#[derive(Debug)]
pub(crate) struct MethodMetrics {
    pub(crate) started: Counter,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    handled: [Counter; 17],
    /// How long calls took; shown when that is asked for (`--metrics extensive`).
    handling_seconds: Histogram,
}

impl Default for MethodMetrics {
    fn default() -> Self {
        let (started, received, sent) =
            (Counter::default(), Counter::default(), Counter::default());
        let (handled, handling_seconds) = (Default::default(), Histogram::usual());
        Self { started, received, sent, handled, handling_seconds }
    }
}

/// How long messages of watch streams took, from being taken up to being handed over.
#[derive(Debug)]
pub(crate) struct WatchLoop {
    pub(crate) events: Histogram,
    /// The same, for each event of the message.
    pub(crate) per_event: Histogram,
    /// Answers to what clients ask for.
    pub(crate) control: Histogram,
    /// Looks at which watchers are to be told of their progress.
    pub(crate) progress: Histogram,
}

impl Default for WatchLoop {
    fn default() -> Self {
        let histogram = || Histogram::exponential(0.001, 14);
        let (events, per_event) = (histogram(), histogram());
        Self { events, per_event, control: histogram(), progress: histogram() }
    }
}

/// Everything that the server counts itself.
#[derive(Debug)]
pub(crate) struct Metrics {
    methods: Vec<MethodMetrics>,
    client_requests: Versions,
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
    pub(crate) watch_loop: WatchLoop,
    broken_streams: [Counter; 2],
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
    /// Slices of compactions: of the index, and of rows.
    index_slice_millis: Histogram,
    row_slice_millis: Histogram,
    rows_removed: Counter,
    /// When the last compaction has removed its rows, in seconds since 1970.
    compacted_at: AtomicU64,
    put_bytes: Counter,
    scrapes: scrape::Scrapes,
    pub(crate) snapshot_seconds: Histogram,
    /// What the disk does now.
    disk: disk::Underway,
    wal_sync_seconds: Histogram,
    wal_write_seconds: Histogram,
    wal_write_bytes: Counter,
    commit_seconds: Histogram,
    /// Of a commit: until its pages are made, and until they are on disk.
    commit_spill_seconds: Histogram,
    commit_write_seconds: Histogram,
    /// Writes and syncs of the database since its last commit, in nanoseconds.
    database_writes: AtomicU64,
    defragment_seconds: Histogram,
    defragmenting: Level,
    snap_marshal_seconds: Histogram,
    snap_save_seconds: Histogram,
    snap_sync_seconds: Histogram,
    received_sync_seconds: Histogram,
    pub(crate) received_save_seconds: Histogram,
    pub(crate) installing: Level,
    pub(crate) heartbeats_late: Counter,
    pub(crate) leases_expired: Counter,
    /// Alarms that were raised at any time since the start.
    alarms_seen: Mutex<BTreeSet<(MemberId, AlarmType)>>,
    pub(crate) leader_changes: Counter,
    pub(crate) disk_stalls: Counter,
    pub(crate) slow_applies: Counter,
    pub(crate) proposals_failed: Counter,
    pub(crate) reads_failed: Counter,
    pub(crate) reads_slow: Counter,
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
            client_requests: Versions::default(),
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
            watch_loop: WatchLoop::default(),
            broken_streams: Default::default(),
            hash_seconds: Histogram::exponential(0.01, 15),
            hash_rev_seconds: Histogram::exponential(0.01, 15),
            range_seconds: Outcomes::exponential(0.0001, 20),
            request_seconds: by_operation(|| Outcomes::exponential(0.001, 14)),
            read_seconds: Outcomes::exponential(0.001, 14),
            read_txn_seconds: Outcomes::exponential(0.001, 14),
            apply_seconds: by_operation(|| Outcomes::exponential(0.0001, 20)),
            lease_ttls: Histogram::exponential(1.0, 24),
            compaction_millis: Histogram::exponential(100.0, 14),
            index_slice_millis: Histogram::exponential(0.5, 14),
            row_slice_millis: Histogram::exponential(1.0, 13),
            rows_removed: Counter::default(),
            compacted_at: AtomicU64::new(0),
            put_bytes: Counter::default(),
            scrapes: scrape::Scrapes::default(),
            snapshot_seconds: Histogram::exponential(0.01, 17),
            disk: disk::Underway::default(),
            wal_sync_seconds: Histogram::exponential(0.001, 14),
            wal_write_seconds: Histogram::exponential(0.001, 14),
            wal_write_bytes: Counter::default(),
            commit_seconds: Histogram::exponential(0.001, 14),
            commit_spill_seconds: Histogram::exponential(0.001, 14),
            commit_write_seconds: Histogram::exponential(0.001, 14),
            database_writes: AtomicU64::new(0),
            defragment_seconds: Histogram::exponential(0.1, 13),
            defragmenting: Level::default(),
            snap_marshal_seconds: Histogram::exponential(0.001, 14),
            snap_save_seconds: Histogram::exponential(0.001, 14),
            snap_sync_seconds: Histogram::exponential(0.001, 14),
            received_sync_seconds: Histogram::exponential(0.001, 14),
            received_save_seconds: Histogram::exponential(0.1, 10),
            installing: Level::default(),
            heartbeats_late: Counter::default(),
            leases_expired: Counter::default(),
            alarms_seen: Mutex::default(),
            leader_changes: Counter::default(),
            disk_stalls: Counter::default(),
            slow_applies: Counter::default(),
            proposals_failed: Counter::default(),
            reads_failed: Counter::default(),
            reads_slow: Counter::default(),
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
            Ok(Response::Alarm(told)) => {
                let seen = |alarm: &proto::etcdserverpb::AlarmMember| {
                    let kind = AlarmType::try_from(alarm.alarm).unwrap_or_default();
                    (MemberId(alarm.member_id), kind)
                };
                self.alarms_seen.lock().extend(told.alarms.iter().map(seen));
            }
            _ => {}
        }
    }

    /// Notes a commit of the database.
    pub(crate) fn committed(&self, took: Duration) {
        self.commit_seconds.observe(took);
        let written = Duration::from_nanos(self.database_writes.swap(0, Ordering::Relaxed));
        self.commit_write_seconds.observe(written);
        self.commit_spill_seconds.observe(took.saturating_sub(written));
    }

    /// Notes a write or a sync of the database.
    fn database_written(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.database_writes.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Notes a snapshot file: how long it took to make its bytes, and in all.
    pub(crate) fn snapshot_saved(&self, marshalled: Duration, took: Duration) {
        self.snap_marshal_seconds.observe(marshalled);
        self.snap_save_seconds.observe(took);
    }

    /// Notes one slice of a compaction.
    pub(crate) fn slice_swept(&self, swept: Swept, took: Duration) {
        let millis = took.as_millis() as f64;
        match swept {
            Swept::Nothing => {}
            Swept::Index => self.index_slice_millis.observe_value(millis),
            Swept::Rows { removed } => {
                self.row_slice_millis.observe_value(millis);
                self.rows_removed.add(removed);
            }
        }
    }

    /// Does what a client takes for a defragmentation, and measures it.
    pub(crate) async fn defragment<T>(&self, work: impl Future<Output = T>) -> T {
        let (begun, _underway) = (std::time::Instant::now(), self.defragmenting.enter());
        let done = work.await;
        self.defragment_seconds.observe(begun.elapsed());
        done
    }

    /// Counts a stream that its client has broken.
    pub(crate) fn broken(&self, what: Broken) {
        self.broken_streams[what as usize].increment();
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
    pub(crate) fn handled(&self, method: Method, code: usize, took: Option<Duration>) {
        let counted = &self.methods[method as usize];
        counted.handled[code.min(CODES.len() - 1)].increment();
        if let Some(took) = took {
            counted.handling_seconds.observe(took);
        }
    }

    /// Counts a call by its client's version.
    pub(crate) fn client_request(&self, is_stream: bool, version: &str) {
        self.client_requests.count(is_stream, version);
    }

    /// Counts a learner that was not promoted.
    pub(crate) fn promotion_failed(&self, reason: String) {
        let mut all = self.promotions_failed.lock();
        if all.len() < REASONS_MAX || all.contains_key(&reason) {
            *all.entry(reason).or_default() += 1;
        }
    }

    /// Notes the result of one health check: its kind and name. A quiet one is not told before it
    /// has failed once.
    pub(crate) fn health_check(
        &self,
        check: (&'static str, &'static str),
        is_ok: bool,
        is_quiet: bool,
    ) {
        let mut all = self.health_checks.lock();
        if is_quiet && is_ok && !all.contains_key(&check) {
            return;
        }
        let check = all.entry(check).or_default();
        check.is_ok = is_ok;
        if is_ok { check.successes += 1 } else { check.errors += 1 }
    }
}
