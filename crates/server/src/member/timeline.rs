//! When the member's threads did what, coarsely, so that a request that took long can be told where
//! its time went.
//!
//! ```text
//!  offered ── queue ──► taken by the pump ── sync ──► on the own disk ── quorum ──► committed
//!          ── apply ──► applied
//! ```
//!
//! *Invariants.* 1. The fast path pays a clock's reading and a few stores a batch. A request
//! carries its [`Steps`] with its answer, and looks here only when it was slow. 2. What is shorter
//! than [`GRAIN`] is not told apart. 3. Each list has one writer, a fixed length, and forgets the
//! oldest.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use base::Moment;

/// What is shorter counts as nothing.
const GRAIN: u64 = 1_000_000;

/// Spells that are remembered: 4 s at least, since each lasts or follows a pause of [`GRAIN`].
const SPELLS_MAX: usize = 4_096;

/// Moments of a request that the apply thread notes with its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Steps {
    /// The entry was committed, and handed to the apply thread.
    pub committed: Moment,
    /// It is applied.
    pub applied: Moment,
}

/// Where the time of a proposal went. `None`: it did not come so far, or nobody remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Waiting for the pump.
    pub queue: Option<Duration>,
    /// Until it was on this member's own disk.
    pub sync: Option<Duration>,
    /// From then on until a quorum had it.
    pub quorum: Option<Duration>,
    /// Until it was applied.
    pub apply: Option<Duration>,
    /// From then on.
    pub send: Option<Duration>,
}

/// What the threads note.
#[derive(Default)]
pub(super) struct Timeline {
    taken: Spells,
    logged: Spells,
}

impl Timeline {
    /// The pump took everything that waited.
    pub(super) fn note_taken(&self, now: Moment) {
        let now = now.as_nanos();
        if now.saturating_sub(self.taken.last_end()) < GRAIN {
            self.taken.prolong(now);
        } else {
            self.taken.add(now, now);
        }
    }

    /// The log thread was at work.
    pub(super) fn note_logged(&self, begun: Moment, ended: Moment) {
        let (begun, ended) = (begun.as_nanos(), ended.as_nanos());
        if ended.saturating_sub(begun) >= GRAIN {
            self.logged.add(begun, ended);
        }
    }

    /// Where the time went of a proposal that was offered then, and ended now.
    pub(super) fn spent(&self, offered: Moment, steps: Option<Steps>, now: Moment) -> Spent {
        let committed = steps.map_or(now, |steps| steps.committed);
        let mut spent = Spent {
            apply: steps.map(|steps| steps.applied - steps.committed),
            send: steps.map(|steps| now - steps.applied),
            ..Spent::default()
        };
        let Some(taken) = self.taken.first_from(offered.as_nanos()) else { return spent };
        let taken = Moment::from_nanos(taken).min(committed);
        spent.queue = Some(taken - offered);
        let synced = Moment::from_nanos(self.logged.done_from(taken.as_nanos())).min(committed);
        spent.sync = Some(synced - taken);
        spent.quorum = Some(committed - synced);
        spent
    }
}

/// Spans of time, one after the other.
struct Spells {
    begins: Box<[AtomicU64]>,
    ends: Box<[AtomicU64]>,
    count: AtomicUsize,
}

impl Default for Spells {
    fn default() -> Self {
        let zeros = || (0..SPELLS_MAX).map(|_| AtomicU64::new(0)).collect();
        Self { begins: zeros(), ends: zeros(), count: AtomicUsize::new(0) }
    }
}

impl Spells {
    fn last(&self) -> usize {
        self.count.load(Ordering::Acquire).wrapping_sub(1) % SPELLS_MAX
    }

    fn last_end(&self) -> u64 {
        self.ends[self.last()].load(Ordering::Relaxed)
    }

    fn prolong(&self, to: u64) {
        self.ends[self.last()].store(to, Ordering::Relaxed);
    }

    fn add(&self, begin: u64, end: u64) {
        let next = self.count.load(Ordering::Relaxed);
        self.begins[next % SPELLS_MAX].store(begin, Ordering::Relaxed);
        self.ends[next % SPELLS_MAX].store(end, Ordering::Relaxed);
        self.count.store(next + 1, Ordering::Release);
    }

    /// Every spell that is remembered, the oldest first.
    fn all(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let count = self.count.load(Ordering::Acquire);
        (count.saturating_sub(SPELLS_MAX)..count).map(|index| {
            let place = index % SPELLS_MAX;
            let begin = self.begins[place].load(Ordering::Relaxed);
            (begin, self.ends[place].load(Ordering::Relaxed))
        })
    }

    /// The first moment of a spell that is not before `at`.
    fn first_from(&self, at: u64) -> Option<u64> {
        let is_forgotten = self.count.load(Ordering::Acquire) > SPELLS_MAX
            && self.all().next().is_some_and(|(begin, _)| begin > at);
        if is_forgotten {
            return None;
        }
        self.all().find(|(_, end)| *end >= at).map(|(begin, _)| begin.max(at))
    }

    /// When the spell was over that began after `at`, and the one that was under way then.
    fn done_from(&self, at: u64) -> u64 {
        let mut done = at;
        for (begin, end) in self.all().filter(|(_, end)| *end > at) {
            if begin <= at {
                done = end;
            } else {
                // The first one that began later; it is this one's if it did so at once.
                return if begin - done < GRAIN { end } else { done };
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn spans(spent: Spent) -> [Option<u64>; 5] {
        let ms =
            |span: Option<Duration>| span.map(|span| u64::try_from(span.as_millis()).unwrap_or(0));
        let Spent { queue, sync, quorum, apply, send } = spent;
        [ms(queue), ms(sync), ms(quorum), ms(apply), ms(send)]
    }

    #[test]
    fn the_time_of_a_slow_request_is_told_by_its_steps() {
        let timeline = Timeline::default();
        let steps =
            |committed, applied| Some(Steps { committed: ms(committed), applied: ms(applied) });
        timeline.note_taken(ms(10));
        timeline.note_logged(ms(90), ms(150));
        timeline.note_taken(ms(100));
        timeline.note_logged(ms(150), ms(300));
        timeline.note_taken(ms(400));
        timeline.note_logged(ms(401), ms(402));

        // Offered at 20, taken at 100; a sync was under way till 150, its own till 300.
        let spent = timeline.spent(ms(20), steps(450, 500), ms(510));
        assert_eq!(spans(spent), [Some(80), Some(200), Some(150), Some(50), Some(10)]);
        // Without a quorum nothing comes after it.
        let spent = timeline.spent(ms(20), None, ms(900));
        assert_eq!(spans(spent), [Some(80), Some(200), Some(600), None, None]);
        // Committed before the own disk had it.
        let spent = timeline.spent(ms(20), steps(200, 200), ms(200));
        assert_eq!(spans(spent), [Some(80), Some(100), Some(0), Some(0), Some(0)]);
        // Nobody takes it.
        let spent = timeline.spent(ms(500), None, ms(900));
        assert_eq!(spans(spent), [None; 5]);
    }

    #[test]
    fn a_busy_pump_takes_at_once() {
        let timeline = Timeline::default();
        for at in 0..3_000 {
            timeline.note_taken(Moment::from_nanos(5_000_000 + at * 500_000));
        }
        let spent = timeline.spent(ms(700), None, ms(800));
        assert_eq!(spans(spent), [Some(0), Some(0), Some(100), None, None]);
    }

    #[test]
    fn what_is_forgotten_is_not_told() {
        let timeline = Timeline::default();
        for at in 0..2 * SPELLS_MAX as u64 {
            timeline.note_taken(ms(10 + 2 * at));
        }
        assert_eq!(spans(timeline.spent(ms(20), None, ms(90_000))), [None; 5]);
        let recent = 10 + 2 * (2 * SPELLS_MAX as u64 - 5) - 1;
        let spent = timeline.spent(ms(recent), None, ms(recent + 50));
        assert_eq!(spans(spent), [Some(1), Some(0), Some(49), None, None]);
    }
}
