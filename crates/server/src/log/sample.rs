//! Lets through the first hundred lines of a kind in a second, and then each hundredth.
//!
//! *Invariants.* The table has a fixed size: kinds that share a place in it are counted together.
//! The last lines of a process are always let through.
//!
//! *Contract.* zap's sampler with `Initial: 100, Thereafter: 100`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Level;

const FIRST: u64 = 100;
const THEN_EACH: u64 = 100;
const PERIOD: Duration = Duration::from_secs(1);
const PLACES: usize = 1_024;

/// Bits of a place's word that count; those above them are the period.
const COUNT_BITS: u32 = 32;

/// Off for the journal, which has limits of its own.
static IS_ON: AtomicBool = AtomicBool::new(true);
static TABLE: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(super) fn turn(on: bool) {
    IS_ON.store(on, Ordering::Relaxed);
}

/// Whether this line is written.
pub(super) fn admits(level: Level, msg: &str) -> bool {
    if level >= Level::Panic || !IS_ON.load(Ordering::Relaxed) {
        return true;
    }
    let mut hasher = DefaultHasher::new();
    (level as u8, msg).hash(&mut hasher);
    let place = &TABLE[(hasher.finish() % PLACES as u64) as usize];
    let period = BEGUN.elapsed().as_nanos() / PERIOD.as_nanos();
    admits_at(place, u64::try_from(period).unwrap_or_default() + 1)
}

fn admits_at(place: &AtomicU64, period: u64) -> bool {
    let period = period << COUNT_BITS;
    let next = |word: u64| if word >> COUNT_BITS << COUNT_BITS == period { word } else { period };
    let counted =
        place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| Some(next(word) + 1));
    // The update always gives a word, so both arms are the word before.
    let (Ok(before) | Err(before)) = counted;
    let count = (next(before) + 1) & u64::from(u32::MAX);
    count <= FIRST || (count - FIRST).is_multiple_of(THEN_EACH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hundred_pass_and_then_each_hundredth() {
        let place = AtomicU64::new(0);
        let passed = |period| (1..=1_000).filter(|_| admits_at(&place, period)).count();
        assert_eq!(passed(1), 100 + 9);
        assert_eq!(passed(2), 100 + 9, "a new second begins anew");
    }

    #[test]
    fn the_last_lines_of_a_process_always_pass() {
        assert!((0..5_000).all(|_| admits(Level::Fatal, "the end")));
        assert!(!(0..5_000).all(|_| admits(Level::Warn, "again and again")));
    }
}
