//! Since when a lane has been at work on the disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::Moment;

/// Stands for no work; a beginning at the clock's very start counts as one nanosecond later.
const IDLE: u64 = 0;

/// One lane.
#[derive(Debug, Default)]
pub(super) struct Busy(AtomicU64);

impl Busy {
    pub(super) fn begin(&self, now: Moment) {
        self.0.store(now.as_nanos().max(1), Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }

    /// How long the work under way has taken so far.
    pub(super) fn so_far(&self, now: Moment) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            IDLE => Duration::ZERO,
            begun => now.since(Moment::from_nanos(begun)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_under_way_counts() {
        let busy = Busy::default();
        let at = |seconds: u64| Moment::from_nanos(seconds * 1_000_000_000);
        assert_eq!(busy.so_far(at(9)), Duration::ZERO);
        busy.begin(at(2));
        assert_eq!(busy.so_far(at(9)), Duration::from_secs(7));
        busy.end();
        assert_eq!(busy.so_far(at(9)), Duration::ZERO);
    }
}
