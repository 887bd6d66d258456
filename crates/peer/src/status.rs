//! Whether a member answers, and what has been counted of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::MemberId;
use net::Url;
use parking_lot::Mutex;

use crate::event::{Event, Level};
use crate::handler::Handler;

/// Whether a member answers on any way.
pub(crate) struct Status {
    id: MemberId,
    handler: Arc<dyn Handler>,
    since: Mutex<Option<Instant>>,
    pub(crate) counters: Counters,
}

/// What has been counted of a member since it became a peer.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_failures: AtomicU64,
    pub(crate) received_failures: AtomicU64,
    pub(crate) disconnects: AtomicU64,
    pub(crate) snapshots_sending: AtomicU64,
    pub(crate) snapshot_send_failures: AtomicU64,
    pub(crate) snapshot_sends: Mutex<Histogram<10>>,
    pub(crate) snapshots_receiving: AtomicU64,
    pub(crate) snapshot_receive_failures: AtomicU64,
    pub(crate) snapshot_receipts: Mutex<Histogram<10>>,
    pub(crate) round_trips: Mutex<Histogram<16>>,
}

/// One more of what is under way, until it is dropped.
pub(crate) struct Inflight<'a>(&'a AtomicU64);

impl<'a> Inflight<'a> {
    pub(crate) fn begin(all: &'a AtomicU64) -> Self {
        count(all, 1);
        Self(all)
    }
}

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// How often something took how long: bucket `i` counts what took `first * 2^i` at most, and not
/// what an earlier bucket counts; what took longer is only in the count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Histogram<const N: usize> {
    /// The bound of the first bucket.
    pub first: Duration,
    /// See the type.
    pub buckets: [u64; N],
    /// How many in all.
    pub count: u64,
    /// How long in all.
    pub sum: Duration,
}

impl<const N: usize> Histogram<N> {
    const fn new(first: Duration) -> Self {
        Self { first, buckets: [0; N], count: 0, sum: Duration::ZERO }
    }

    pub(crate) fn observe(&mut self, took: Duration) {
        self.count += 1;
        self.sum += took;
        let mut bound = self.first;
        for bucket in &mut self.buckets {
            if took <= bound {
                *bucket += 1;
                break;
            }
            bound *= 2;
        }
    }
}

impl Default for Histogram<10> {
    fn default() -> Self {
        Self::new(Duration::from_millis(100))
    }
}

impl Default for Histogram<16> {
    fn default() -> Self {
        Self::new(Duration::from_micros(100))
    }
}

/// The figures of one peer, for metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeerFigures {
    /// Who.
    pub id: MemberId,
    /// It answers (`etcd_network_active_peers`).
    pub is_active: bool,
    /// `etcd_network_peer_sent_bytes_total`.
    pub sent_bytes: u64,
    /// `etcd_network_peer_received_bytes_total`.
    pub received_bytes: u64,
    /// `etcd_network_peer_sent_failures_total`.
    pub sent_failures: u64,
    /// `etcd_network_peer_received_failures_total`.
    pub received_failures: u64,
    /// `etcd_network_disconnected_peers_total`.
    pub disconnects: u64,
    /// `etcd_network_snapshot_send_inflights_total`.
    pub snapshots_sending: u64,
    /// `etcd_network_snapshot_send_failures`.
    pub snapshot_send_failures: u64,
    /// `etcd_network_snapshot_send_total_duration_seconds`; its count is
    /// `etcd_network_snapshot_send_success`.
    pub snapshot_sends: Histogram<10>,
    /// `etcd_network_snapshot_receive_inflights_total`.
    pub snapshots_receiving: u64,
    /// `etcd_network_snapshot_receive_failures`.
    pub snapshot_receive_failures: u64,
    /// `etcd_network_snapshot_receive_total_duration_seconds`; its count is
    /// `etcd_network_snapshot_receive_success`.
    pub snapshot_receipts: Histogram<10>,
    /// `etcd_network_peer_round_trip_time_seconds`.
    pub round_trips: Histogram<16>,
}

impl Status {
    pub(crate) fn new(id: MemberId, handler: Arc<dyn Handler>) -> Self {
        Self { id, handler, since: Mutex::new(None), counters: Counters::default() }
    }

    pub(crate) fn since(&self) -> Option<Instant> {
        *self.since.lock()
    }

    pub(crate) fn is_active(&self) -> bool {
        self.since.lock().is_some()
    }

    /// It answered.
    pub(crate) fn activate(&self) {
        let mut since = self.since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            drop(since);
            self.handler.event(Event::info("peer became active").text("peer-id", self.id));
        }
    }

    /// It did not: what was to be done, over what, and why it failed.
    pub(crate) fn deactivate(&self, action: &str, source: &str, reason: &str) {
        let was_active = self.since.lock().take().is_some();
        let (level, message) = if was_active {
            count(&self.counters.disconnects, 1);
            (Level::Warn, "peer became inactive (message send to peer failed)")
        } else {
            (Level::Debug, "peer deactivated again")
        };
        if self.handler.wants(level) {
            let error = format!("failed to {action} {} on {source} ({reason})", self.id);
            let event = Event::new(level, message).text("peer-id", self.id).text("error", error);
            self.handler.event(event);
        }
    }

    pub(crate) fn figures(&self) -> PeerFigures {
        let counters = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerFigures {
            id: self.id,
            is_active: self.is_active(),
            sent_bytes: get(&counters.sent_bytes),
            received_bytes: get(&counters.received_bytes),
            sent_failures: get(&counters.sent_failures),
            received_failures: get(&counters.received_failures),
            disconnects: get(&counters.disconnects),
            snapshots_sending: get(&counters.snapshots_sending),
            snapshot_send_failures: get(&counters.snapshot_send_failures),
            snapshot_sends: *counters.snapshot_sends.lock(),
            snapshots_receiving: get(&counters.snapshots_receiving),
            snapshot_receive_failures: get(&counters.snapshot_receive_failures),
            snapshot_receipts: *counters.snapshot_receipts.lock(),
            round_trips: *counters.round_trips.lock(),
        }
    }
}

/// Which of a member's addresses to use.
#[derive(Debug, Default)]
pub(crate) struct Picker(Mutex<Picked>);

#[derive(Debug, Default)]
struct Picked {
    urls: Vec<Url>,
    /// `at < urls.len()`, or both are 0.
    at: usize,
}

impl Picker {
    pub(crate) fn new(urls: Vec<Url>) -> Self {
        Self(Mutex::new(Picked { urls, at: 0 }))
    }

    /// Takes other addresses; whether they differ.
    pub(crate) fn update(&self, urls: Vec<Url>) -> bool {
        let mut picked = self.0.lock();
        if picked.urls == urls {
            return false;
        }
        *picked = Picked { urls, at: 0 };
        true
    }

    /// The address to try; `None` when there is no good one.
    pub(crate) fn pick(&self) -> Option<Url> {
        let picked = self.0.lock();
        picked.urls.get(picked.at).cloned()
    }

    /// An address did not work: the next one is tried from now on.
    pub(crate) fn unreachable(&self, url: &Url) {
        let mut picked = self.0.lock();
        if picked.urls.get(picked.at) == Some(url) {
            picked.at = (picked.at + 1) % picked.urls.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_round() {
        let urls: Vec<_> =
            ["http://a:1", "http://b:1"].iter().map(|url| Url::parse(url).expect(url)).collect();
        let picker = Picker::new(urls.clone());
        assert_eq!(picker.pick().as_ref(), Some(&urls[0]));
        picker.unreachable(&urls[1]);
        assert_eq!(picker.pick().as_ref(), Some(&urls[0]));
        picker.unreachable(&urls[0]);
        assert_eq!(picker.pick().as_ref(), Some(&urls[1]));
        assert!(!picker.update(urls.clone()));
        assert_eq!(picker.pick().as_ref(), Some(&urls[1]));
        picker.unreachable(&urls[1]);
        assert_eq!(picker.pick().as_ref(), Some(&urls[0]));
        assert!(picker.update(Vec::new()));
        assert_eq!(picker.pick(), None);
        picker.unreachable(&urls[0]);
    }

    #[test]
    fn durations_fall_into_buckets() {
        let mut histogram = Histogram::<16>::default();
        for micros in [1, 100, 101, 400, 10_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        assert_eq!(histogram.buckets[..4], [2, 1, 1, 0]);
        assert_eq!((histogram.count, histogram.buckets.iter().sum::<u64>()), (5, 4));
    }
}
