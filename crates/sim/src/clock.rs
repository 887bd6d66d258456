//! Time that passes when the run says so, and members' clocks that are wrong about it.
//!
//! *Invariants.* 1. A member's monotonic clock never goes back. 2. It is a function of the run's
//! time, so that the moment at which it shows something can be computed ([`Skewed::when`]).
//!
//! *Absent.* Waiting: see [`crate::agenda`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::{Clock, Moment};
use parking_lot::Mutex;

/// What the wall clock showed when the run began, in milliseconds since 1970.
const BEGINNING_UNIX_MS: u64 = 1_700_000_000_000;

const MILLION: u128 = 1_000_000;

/// The run's own time. Clones are the same time.
#[derive(Debug, Clone, Default)]
pub struct Time(Arc<AtomicU64>);

impl Time {
    /// What time it is.
    pub fn now(&self) -> Moment {
        Moment::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Lets it be `at`; earlier moments are ignored.
    pub fn advance_to(&self, at: Moment) {
        self.0.fetch_max(at.as_nanos(), Ordering::Relaxed);
    }
}

/// A straight piece of a clock: at `from` of the run's time it showed `shown`.
#[derive(Debug, Clone, Copy)]
struct Piece {
    from: u64,
    shown: u64,
    /// How many parts of a million more (or less) it shows than passes.
    drift_ppm: i64,
}

impl Piece {
    fn rate(self) -> u128 {
        u128::from(1_000_000_u64.saturating_add_signed(self.drift_ppm))
    }

    fn at(self, now: u64) -> u64 {
        let passed = u128::from(now.saturating_sub(self.from)) * self.rate() / MILLION;
        self.shown.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

/// A member's clock: it drifts, and jumps ahead when told to.
#[derive(Debug)]
pub struct Skewed {
    time: Time,
    piece: Mutex<Piece>,
}

impl Skewed {
    /// A clock that shows `ahead` when the run's time is 0, and drifts.
    pub fn new(time: &Time, ahead: Duration, drift_ppm: i64) -> Self {
        let shown = u64::try_from(ahead.as_nanos()).unwrap_or(u64::MAX);
        let piece = Piece { from: 0, shown, drift_ppm };
        Self { time: time.clone(), piece: Mutex::new(piece) }
    }

    /// Lets it show `ahead` more from now on, as when a machine was suspended.
    pub fn jump(&self, ahead: Duration) {
        let mut piece = self.piece.lock();
        let now = self.time.now().as_nanos();
        let shown = (Moment::from_nanos(piece.at(now)) + ahead).as_nanos();
        *piece = Piece { from: now, shown, ..*piece };
    }

    /// At which moment of the run's time this clock shows `local`; now, when that has passed.
    pub fn when(&self, local: Moment) -> Moment {
        let piece = *self.piece.lock();
        let passed = u128::from(local.as_nanos().saturating_sub(piece.shown));
        let passed = (passed * MILLION).div_ceil(piece.rate());
        let at = piece.from.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        Moment::from_nanos(at).max(self.time.now())
    }
}

impl Clock for Skewed {
    fn now(&self) -> Moment {
        Moment::from_nanos(self.piece.lock().at(self.time.now().as_nanos()))
    }

    fn unix_ms(&self) -> u64 {
        BEGINNING_UNIX_MS + self.now().as_nanos() / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drifting_clock_tells_when_it_will_show_something() {
        let time = Time::default();
        for drift_ppm in [-200_000, 0, 300, 100_000] {
            let clock = Skewed::new(&time, Duration::from_secs(3), drift_ppm);
            time.advance_to(time.now() + Duration::from_secs(7));
            clock.jump(Duration::from_millis(11));
            let shown = clock.now();
            for later in [0, 1, 999, 123_456_789] {
                let local = Moment::from_nanos(shown.as_nanos() + later);
                let at = clock.when(local).as_nanos();
                let piece = *clock.piece.lock();
                assert!(piece.at(at) >= local.as_nanos(), "{drift_ppm} {later}");
                assert!(piece.at(at - 2) <= local.as_nanos(), "{drift_ppm} {later}");
            }
        }
    }

    #[test]
    fn a_clock_never_goes_back() {
        let time = Time::default();
        let clock = Skewed::new(&time, Duration::ZERO, -100_000);
        let mut last = clock.now();
        for step in 0..1000 {
            time.advance_to(time.now() + Duration::from_micros(step));
            if step % 7 == 0 {
                clock.jump(Duration::from_nanos(step));
            }
            assert!(clock.now() >= last);
            last = clock.now();
        }
    }
}
