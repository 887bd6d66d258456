//! The log in memory: the entries after a base, how far each stage has come, and a snapshot that
//! is to replace them.
//!
//! ```text
//!   base      applied   applying   committed          last
//!    │ compacted  │         │          │                │
//!    └────────────┴─────────┴──────────┴───── entries ──┘
//!                              stable      taken
//!                                 │ being    │ not handed
//!                       on disk ◄─┘ written ◄┘ out yet
//! ```
//!
//! An entry that contradicts the leader's is cut off with all after it, which takes `stable` and
//! `taken` back: what replaces it must be written again.
//!
//! *Invariants.*
//! 1. base <= applied <= applying <= committed <= last, applying <= stable <= taken <= last. A
//!    snapshot from the leader lifts base, committed and stable first; applying follows when it is
//!    on disk, and applied when the state is in place.
//! 2. `entries[i]` has the index base + 1 + i.
//! 3. Terms do not descend.
//!
//! *Contract.* `log.go`, `log_unstable.go`, `storage.go` of go.etcd.io/raft v3.7.0.

use std::collections::VecDeque;

use base::mutant::{Mutant, is_on};
use base::{LogIndex, Term};
use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{Entry, HardState, Snapshot};

use crate::message::{index, is_conf_change, term};

/// An entry by its index and term, which together name it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Where it stands.
    pub index: LogIndex,
    /// When it was proposed.
    pub term: Term,
}

impl Position {
    /// Whether a log that ends here is at least as good as one that ends at `other`.
    pub fn is_up_to_date_with(self, other: Self) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }
}

/// A snapshot that came from the leader, until it is durable.
#[derive(Debug, Clone)]
struct Install {
    snapshot: Snapshot,
    position: Position,
    /// Whether it was handed out to be written.
    taken: bool,
}

/// The log as described above.
#[derive(Debug, Clone)]
pub struct Log {
    base: Position,
    entries: VecDeque<Entry>,
    /// Of the data of `entries`.
    bytes: usize,
    install: Option<Install>,
    taken: LogIndex,
    stable: LogIndex,
    committed: LogIndex,
    applying: LogIndex,
    applied: LogIndex,
}

impl Log {
    /// A log whose entries are all on disk. Fails when they do not follow each other, or when
    /// more is committed than there is.
    pub(crate) fn restore(
        base: Position,
        entries: Vec<Entry>,
        state: &HardState,
    ) -> Result<Self, String> {
        let mut before = base;
        for entry in &entries {
            if index(entry) != before.index.next() || term(entry) < before.term {
                return Err(format!(
                    "entry {} of term {} after entry {} of term {}",
                    entry.index(),
                    entry.term(),
                    before.index,
                    before.term
                ));
            }
            before = Position { index: index(entry), term: term(entry) };
        }
        let committed = LogIndex(state.commit()).max(base.index);
        if committed > before.index {
            return Err(format!(
                "commit index {committed} is beyond the last entry {}",
                before.index
            ));
        }
        Ok(Self {
            base,
            bytes: entries.iter().map(data_bytes).sum(),
            entries: entries.into(),
            install: None,
            taken: before.index,
            stable: before.index,
            committed,
            applying: base.index,
            applied: base.index,
        })
    }

    /// The position before the first entry held.
    pub fn base(&self) -> Position {
        self.base
    }

    /// The position of the last entry.
    pub fn last(&self) -> Position {
        self.entries
            .back()
            .map_or(self.base, |entry| Position { index: index(entry), term: term(entry) })
    }

    /// Up to where a quorum agreed.
    pub fn committed(&self) -> LogIndex {
        self.committed
    }

    /// Up to where the state has taken the entries in.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Up to where entries were handed out to be applied.
    pub fn applying(&self) -> LogIndex {
        self.applying
    }

    /// Up to where the own disk has the entries.
    pub fn stable(&self) -> LogIndex {
        self.stable
    }

    /// Up to where entries were handed out to be written.
    pub fn taken(&self) -> LogIndex {
        self.taken
    }

    /// The memory that the data of the entries held takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The term of the entry at `at`; `None` when it is compacted or not there yet.
    pub fn term(&self, at: LogIndex) -> Option<Term> {
        if at == self.base.index {
            return Some(self.base.term);
        }
        self.entry(at).map(term)
    }

    /// The entry at `at`, when it is held.
    pub fn entry(&self, at: LogIndex) -> Option<&Entry> {
        let offset = at.0.checked_sub(self.base.index.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// Whether the entry at `position` is in the log, or is where it begins.
    pub fn has(&self, position: Position) -> bool {
        self.term(position.index) == Some(position.term)
    }

    /// The entries after `after` up to `upto`, both within the log.
    fn slice(&self, after: LogIndex, upto: LogIndex) -> impl Iterator<Item = &Entry> {
        let offset = |at: LogIndex| usize::try_from(at.0 - self.base.index.0).unwrap_or(usize::MAX);
        self.entries.range(offset(after)..offset(upto))
    }

    // ---- growing ----

    /// Adds the leader's own new entries; returns the new last index.
    pub(crate) fn extend(&mut self, entries: impl IntoIterator<Item = Entry>) -> LogIndex {
        for entry in entries {
            assert_eq!(index(&entry), self.last().index.next(), "the log has no gap");
            self.bytes += data_bytes(&entry);
            self.entries.push_back(entry);
        }
        self.last().index
    }

    /// Takes entries that follow `before` from the leader, cutting off what contradicts them, and
    /// raises the commit index. Returns the index of the last of them, or `None` when `before`
    /// is not in the log.
    pub(crate) fn accept(
        &mut self,
        before: Position,
        entries: Vec<Entry>,
        committed: LogIndex,
    ) -> Option<LogIndex> {
        let is_held = is_on(Mutant::AppendWithoutMatch) && self.term(before.index).is_some();
        if !self.has(before) && !is_held {
            return None;
        }
        let last_new = LogIndex(before.index.0 + entries.len() as u64);
        let known =
            entries.iter().take_while(|entry| self.term(index(entry)) == Some(term(entry))).count();
        if let Some(first) = entries.get(known) {
            let first = index(first);
            assert!(
                first > self.committed,
                "entry {first} contradicts the committed entry {}",
                self.committed
            );
            self.cut(first);
            self.extend(entries.into_iter().skip(known));
        }
        self.commit_to(committed.min(last_new));
        Some(last_new)
    }

    /// Removes the entry at `from` and all after it.
    fn cut(&mut self, from: LogIndex) {
        let before = LogIndex(from.0 - 1);
        let keep = usize::try_from(before.0 - self.base.index.0).unwrap_or(usize::MAX);
        self.bytes -= self.entries.drain(keep..).map(|entry| data_bytes(&entry)).sum::<usize>();
        self.taken = self.taken.min(before);
        self.stable = self.stable.min(before);
    }

    /// The largest index at or below `at` whose term is at most `limit`, with its term: where two
    /// logs may agree. The term is `None` for an index outside of what is held.
    pub(crate) fn conflict_hint(&self, at: LogIndex, limit: Term) -> (LogIndex, Option<Term>) {
        if at < self.base.index || at > self.last().index {
            return (at, None);
        }
        // Terms do not descend.
        let count = usize::try_from(at.0 - self.base.index.0).unwrap_or(usize::MAX);
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if term(&self.entries[middle]) <= limit {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if let Some(found) = low.checked_sub(1) {
            return (index(&self.entries[found]), Some(term(&self.entries[found])));
        }
        if self.base.term <= limit {
            return (self.base.index, Some(self.base.term));
        }
        (LogIndex(self.base.index.0.saturating_sub(1)), None)
    }

    /// The entries after `after`, which must be held: at least one if there is any, and no more
    /// than `max_bytes` of them beyond that.
    pub(crate) fn entries_after(&self, after: LogIndex, max_bytes: u64) -> Vec<Entry> {
        let last = self.last().index;
        if after >= last {
            return Vec::new();
        }
        limited(self.slice(after, last), max_bytes)
    }

    /// The size of the data after `after` up to `upto`, as far as it is held.
    pub(crate) fn data_bytes(&self, after: LogIndex, upto: LogIndex) -> u64 {
        let (after, upto) = (after.max(self.base.index), upto.min(self.last().index));
        if after >= upto {
            return 0;
        }
        self.slice(after, upto).map(|entry| data_bytes(entry) as u64).sum()
    }

    /// Raises the commit index; never lowers it. Panics when it lies beyond the log: an entry
    /// that a quorum has acknowledged got lost.
    pub(crate) fn commit_to(&mut self, at: LogIndex) {
        if at > self.committed {
            let last = self.last().index;
            assert!(at <= last, "commit index {at} is beyond the last entry {last}: entries lost");
            self.committed = at;
        }
    }

    // ---- writing ----

    pub(crate) fn has_untaken(&self) -> bool {
        self.taken < self.last().index || self.install.as_ref().is_some_and(|i| !i.taken)
    }

    /// Hands out the entries that nobody is writing yet.
    pub(crate) fn take_entries(&mut self) -> Vec<Entry> {
        let last = self.last().index;
        let entries = self.slice(self.taken, last).cloned().collect();
        self.taken = last;
        entries
    }

    /// Hands out the snapshot that nobody is writing yet.
    pub(crate) fn take_snapshot(&mut self) -> Option<Snapshot> {
        let install = self.install.as_mut().filter(|install| !install.taken)?;
        install.taken = true;
        Some(install.snapshot.clone())
    }

    /// Whether entries are on their way to the disk or still to be written.
    pub(crate) fn has_unstable_entries(&self) -> bool {
        self.stable < self.last().index
    }

    /// Whether a snapshot is on its way to the disk, or its state is not in place yet.
    pub(crate) fn is_installing(&self) -> bool {
        self.install.is_some() || self.applied < self.base.index
    }

    /// Notes that the disk has all entries up to `position`. A report about entries that were
    /// cut off since is stale, and ignored.
    pub(crate) fn stable_to(&mut self, position: Position) {
        if position.index > self.stable
            && position.index <= self.taken
            && self.entry(position.index).map(term) == Some(position.term)
        {
            self.stable = position.index;
        }
    }

    // ---- applying ----

    /// Whether `take_committed` would return something.
    pub fn has_committed(&self) -> bool {
        self.install.is_none() && self.applying < self.committed.min(self.stable)
    }

    /// Hands out the next entries that are committed and on disk: at least one if there is any,
    /// and no more than `max_bytes` of them beyond that.
    pub(crate) fn take_committed(&mut self, max_bytes: usize) -> Vec<Entry> {
        if !self.has_committed() {
            return Vec::new();
        }
        let upto = self.committed.min(self.stable);
        let entries = limited(self.slice(self.applying, upto), max_bytes as u64);
        if let Some(last) = entries.last() {
            self.applying = index(last);
        }
        entries
    }

    /// Notes that the state has taken in everything up to `at`.
    pub(crate) fn applied_to(&mut self, at: LogIndex) {
        if at <= self.applied {
            return;
        }
        assert!(at <= self.committed, "applied {at} beyond the commit index {}", self.committed);
        self.applied = at;
        self.applying = self.applying.max(at);
    }

    /// Whether a configuration change is committed and not applied yet.
    pub(crate) fn has_unapplied_conf_change(&self) -> bool {
        self.slice(self.applied.max(self.base.index), self.committed).any(is_conf_change)
    }

    // ---- shrinking ----

    /// Drops the entries up to `at`, which must be applied.
    pub(crate) fn compact(&mut self, at: LogIndex) {
        let at = at.min(self.applied);
        let Some(term) = self.term(at) else { return };
        if at <= self.base.index {
            return;
        }
        let count = usize::try_from(at.0 - self.base.index.0).unwrap_or(usize::MAX);
        self.bytes -= self.entries.drain(..count).map(|entry| data_bytes(&entry)).sum::<usize>();
        // What a long log needed must not stay allocated for ever.
        if self.entries.capacity() > 4 * self.entries.len().max(1024) {
            self.entries.shrink_to(2 * self.entries.len());
        }
        self.base = Position { index: at, term };
    }

    /// Puts a snapshot in the place of everything.
    pub(crate) fn install(&mut self, snapshot: Snapshot, position: Position) {
        assert!(position.index > self.committed, "a snapshot behind the log is not installed");
        self.entries.clear();
        self.bytes = 0;
        self.base = position;
        self.taken = position.index;
        self.stable = position.index;
        self.committed = position.index;
        self.install = Some(Install { snapshot, position, taken: false });
    }

    /// Notes that the snapshot at `at` is durable: what follows it may be applied after it.
    pub(crate) fn installed(&mut self, at: LogIndex) {
        if self.install.as_ref().is_some_and(|install| install.position.index == at) {
            self.install = None;
            self.applying = self.applying.max(at);
        }
    }
}

fn data_bytes(entry: &Entry) -> usize {
    entry.data.as_ref().map_or(0, Bytes::len)
}

/// The first of `entries`, and as many more as fit into `max_bytes` with it.
fn limited<'a>(entries: impl Iterator<Item = &'a Entry>, max_bytes: u64) -> Vec<Entry> {
    let mut bytes = 0;
    let mut is_first = true;
    let fits = |entry: &&Entry| {
        bytes += entry.encoded_len() as u64;
        std::mem::take(&mut is_first) || bytes <= max_bytes
    };
    entries.take_while(fits).cloned().collect()
}
