//! Finds the intervals that hold a key.
//!
//! Intervals are sorted by their start; above them lies a tree of the largest end of each half.
//! A lookup takes the prefix that starts at or below the key and descends where an end lies
//! above it: logarithmic for each hit. New intervals wait unsorted beside it, few enough to be
//! looked at one by one, until the whole is sorted anew.
//!
//! *Invariants.* `fresh <= FRESH_MAX + sorted / FRESH_SHARE`, `dead <= sorted / 2 + FRESH_MAX`.

use bytes::Bytes;

/// Unsorted intervals that are never worth a sort.
const FRESH_MAX: usize = 32;
/// One in so many may be unsorted.
const FRESH_SHARE: usize = 16;

/// The keys from `start` up to `end`; `None` is no end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interval {
    pub(super) start: Bytes,
    pub(super) end: Option<Bytes>,
}

impl Interval {
    fn holds(&self, key: &[u8]) -> bool {
        &self.start[..] <= key && self.ends_above(key)
    }

    fn ends_above(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| &end[..] > key)
    }
}

/// A set of intervals, each with a value.
#[derive(Debug)]
pub(super) struct Intervals<V> {
    /// Ascending by start; `None` is removed.
    sorted: Vec<(Interval, Option<V>)>,
    /// A heap-shaped tree over `sorted`: each place names the position with the largest end below.
    largest: Vec<usize>,
    fresh: Vec<(Interval, V)>,
    dead: usize,
}

impl<V> Default for Intervals<V> {
    fn default() -> Self {
        Self { sorted: Vec::new(), largest: Vec::new(), fresh: Vec::new(), dead: 0 }
    }
}

impl<V: Copy> Intervals<V> {
    /// Adds an interval that is not there.
    pub(super) fn insert(&mut self, interval: Interval, value: V) {
        self.fresh.push((interval, value));
        if self.fresh.len() > FRESH_MAX + self.sorted.len() / FRESH_SHARE {
            self.rebuild();
        }
    }

    /// Removes an interval.
    pub(super) fn remove(&mut self, interval: &Interval) {
        if let Some(at) = self.fresh.iter().position(|(fresh, _)| fresh == interval) {
            self.fresh.swap_remove(at);
            return;
        }
        // A removed one may stand beside a later one that is equal to it.
        let first = self.sorted.partition_point(|(sorted, _)| sorted < interval);
        let equal = self.sorted[first..].iter_mut().take_while(|(sorted, _)| sorted == interval);
        for (_, value) in equal {
            if value.take().is_some() {
                self.dead += 1;
            }
        }
        if self.dead > FRESH_MAX + self.sorted.len() / 2 {
            self.rebuild();
        }
    }

    /// Calls `found` with the value of every interval that holds `key`.
    pub(super) fn stab(&self, key: &[u8], found: &mut impl FnMut(V)) {
        for (interval, value) in &self.fresh {
            if interval.holds(key) {
                found(*value);
            }
        }
        let starts = self.sorted.partition_point(|(interval, _)| &interval.start[..] <= key);
        if starts > 0 {
            self.descend(1, 0, self.sorted.len(), starts, key, found);
        }
    }

    /// Looks at `first..last`, the part below place `node`, as far as it lies below `limit`.
    fn descend(
        &self,
        node: usize,
        first: usize,
        last: usize,
        limit: usize,
        key: &[u8],
        found: &mut impl FnMut(V),
    ) {
        if first >= limit || !self.sorted[self.largest[node]].0.ends_above(key) {
            return;
        }
        if last - first == 1 {
            if let Some(value) = self.sorted[first].1 {
                found(value);
            }
            return;
        }
        let middle = usize::midpoint(first, last);
        self.descend(2 * node, first, middle, limit, key, found);
        self.descend(2 * node + 1, middle, last, limit, key, found);
    }

    fn rebuild(&mut self) {
        self.sorted.retain(|(_, value)| value.is_some());
        self.sorted.extend(self.fresh.drain(..).map(|(interval, value)| (interval, Some(value))));
        self.sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.dead = 0;
        self.largest.clear();
        self.largest.resize(4 * self.sorted.len().max(1), 0);
        if !self.sorted.is_empty() {
            self.fill(1, 0, self.sorted.len());
        }
    }

    fn fill(&mut self, node: usize, first: usize, last: usize) -> usize {
        let largest = if last - first == 1 {
            first
        } else {
            let middle = usize::midpoint(first, last);
            let (left, right) =
                (self.fill(2 * node, first, middle), self.fill(2 * node + 1, middle, last));
            let (one, other) = (&self.sorted[left].0.end, &self.sorted[right].0.end);
            // No end is above every end.
            if one.is_none() || (other.is_some() && one >= other) { left } else { right }
        };
        self.largest[node] = largest;
        largest
    }
}

#[cfg(test)]
mod tests {
    use base::Rng;

    use super::*;

    fn random(rng: &mut Rng) -> Interval {
        let start = u8::try_from(rng.below(60)).unwrap();
        let end = match rng.below(5) {
            0 => None,
            _ => Some(Bytes::from(vec![start + 1 + u8::try_from(rng.below(20)).unwrap()])),
        };
        Interval { start: vec![start].into(), end }
    }

    #[test]
    fn lookups_agree_with_looking_at_all() {
        let mut rng = Rng::new(3);
        let (mut intervals, mut naive) = (Intervals::default(), Vec::<(Interval, u64)>::new());
        for round in 0..6_000_u64 {
            let interval = random(&mut rng);
            let grows = (round / 1000) % 2 == 0;
            if let Some(at) = naive.iter().position(|(there, _)| *there == interval) {
                if !grows || rng.one_in(2) {
                    naive.swap_remove(at);
                    intervals.remove(&interval);
                }
            } else if grows {
                naive.push((interval.clone(), round));
                intervals.insert(interval, round);
            }
            let key = [u8::try_from(rng.below(90)).unwrap()];
            let mut found = Vec::new();
            intervals.stab(&key, &mut |value| found.push(value));
            found.sort_unstable();
            let mut expected: Vec<_> = naive
                .iter()
                .filter(|(interval, _)| interval.holds(&key))
                .map(|(_, value)| *value)
                .collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "round {round}");
        }
    }
}
