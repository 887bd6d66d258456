//! Counts calls by the versions that clients say they have.
//!
//! *Invariants.* Whatever clients say, there are `VERSIONS_MAX` texts of `VERSION_BYTES_MAX`
//! bytes at most. Only the first call of a version allocates; no call takes a lock.

use std::sync::OnceLock;

use super::Counter;

/// Versions that are counted apart; further ones count as [`OTHER`].
const VERSIONS_MAX: usize = 64;

/// A longer text is no version.
const VERSION_BYTES_MAX: usize = 64;

/// What is counted together.
const OTHER: &str = "other";

#[derive(Debug, Default)]
struct Slot {
    version: OnceLock<Box<str>>,
    unary: Counter,
    streams: Counter,
}

impl Slot {
    /// Whether this place is the version's, or has become it just now.
    fn is_for(&self, version: &str) -> bool {
        self.version.get_or_init(|| version.into()).as_ref() == version
    }
}

/// The calls of each version.
#[derive(Debug)]
pub(super) struct Versions {
    slots: Vec<Slot>,
    other: Slot,
}

impl Default for Versions {
    fn default() -> Self {
        let slots = (0..VERSIONS_MAX).map(|_| Slot::default()).collect();
        let other = Slot { version: OnceLock::from(Box::from(OTHER)), ..Slot::default() };
        Self { slots, other }
    }
}

impl Versions {
    /// Counts a call.
    pub(super) fn count(&self, is_stream: bool, version: &str) {
        let slot = if version.len() > VERSION_BYTES_MAX {
            &self.other
        } else {
            // A server sees a few versions: the first places are looked at, no more.
            self.slots.iter().find(|slot| slot.is_for(version)).unwrap_or(&self.other)
        };
        if is_stream { &slot.streams } else { &slot.unary }.increment();
    }

    /// Version, kind and number of what was counted.
    pub(super) fn counted(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        self.slots.iter().chain([&self.other]).flat_map(|slot| {
            let version = slot.version.get().map_or("", AsRef::as_ref);
            [(version, "stream", slot.streams.get()), (version, "unary", slot.unary.get())]
                .into_iter()
                .filter(|(_, _, count)| *count > 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_counted_apart_up_to_a_bound() {
        let versions = Versions::default();
        for number in 0..2 * VERSIONS_MAX {
            versions.count(false, &format!("3.{number}"));
        }
        versions.count(true, "3.0");
        versions.count(false, &"9".repeat(VERSION_BYTES_MAX + 1));
        let counted: Vec<_> = versions.counted().collect();
        assert_eq!(counted.len(), VERSIONS_MAX + 2);
        assert_eq!(counted[..2], [("3.0", "stream", 1), ("3.0", "unary", 1)]);
        assert_eq!(counted.last(), Some(&(OTHER, "unary", VERSIONS_MAX as u64 + 1)));
    }
}
