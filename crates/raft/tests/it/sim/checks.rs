//! What must be true of a group at any time.

use std::collections::BTreeMap;

use base::LogIndex;
use proto::raftpb::Entry;
use raft::{Raft, Role};

/// What has happened in the group, as far as promises follow from it.
#[derive(Default)]
pub(crate) struct History {
    /// Who led in each term.
    leaders: BTreeMap<u64, u64>,
    /// What was committed at each index.
    committed: BTreeMap<u64, Entry>,
    /// What the state was after each index.
    states: BTreeMap<u64, u64>,
    /// Up to where each member was seen to know the commit index, since its last start.
    known: BTreeMap<u64, u64>,
}

impl History {
    /// The largest index that anyone knows to be committed.
    pub(crate) fn newest(&self) -> LogIndex {
        LogIndex(self.committed.keys().next_back().copied().unwrap_or(0))
    }

    /// Whether an entry with that data is among the last ones committed.
    pub(crate) fn has_committed(&self, data: &str) -> bool {
        self.committed.values().rev().take(50).any(|entry| entry.data() == data.as_bytes())
    }

    pub(crate) fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    pub(crate) fn forget(&mut self, id: u64) {
        self.known.remove(&id);
    }

    /// To be called after everything that happens to a member.
    pub(crate) fn check(&mut self, raft: &Raft) {
        check_order(raft);
        self.check_committed(raft);
        self.check_leader(raft);
    }

    /// State machine safety: nobody ever has something else committed at an index.
    fn check_committed(&mut self, raft: &Raft) {
        let (id, log) = (raft.id().0, raft.log());
        let known = self.known.entry(id).or_insert(0);
        let from = (*known).max(log.base().index.0) + 1;
        for index in from..=log.committed().0 {
            let entry = log.entry(LogIndex(index)).expect("a committed entry is held");
            let first = self.committed.entry(index).or_insert_with(|| entry.clone());
            assert_eq!(first, entry, "member {id} has something else committed");
        }
        *known = (*known).max(log.committed().0);
    }

    /// Election safety: one leader a term. Leader completeness: it has all that was committed.
    fn check_leader(&mut self, raft: &Raft) {
        let (id, status) = (raft.id().0, raft.status());
        if status.role != Role::Leader {
            return;
        }
        let is_new = !self.leaders.contains_key(&status.term.0);
        let leader = *self.leaders.entry(status.term.0).or_insert(id);
        assert_eq!(leader, id, "two leaders in term {}", status.term);
        if is_new {
            for (&index, entry) in self.committed.range(raft.log().base().index.0 + 1..) {
                let own = raft.log().entry(LogIndex(index));
                assert_eq!(own, Some(entry), "leader {id} lacks what is committed");
            }
        }
    }

    /// The state after an index is the same with everyone.
    pub(crate) fn check_state(&mut self, id: u64, index: u64, digest: u64) {
        let first = *self.states.entry(index).or_insert(digest);
        assert_eq!(first, digest, "member {id} has another state after {index}");
    }
}

/// How far each stage of the log may be.
fn check_order(raft: &Raft) {
    let log = raft.log();
    let last = log.last().index;
    let stages = [log.applied(), log.applying(), log.committed(), last];
    assert!(stages.is_sorted(), "{log:?}");
    let on_disk = [log.stable(), log.taken(), last];
    assert!(on_disk.is_sorted() && log.base().index <= log.stable(), "{log:?}");
    if log.base().index <= log.applying() {
        assert!(log.applying() <= log.stable(), "applied before it was on disk: {log:?}");
    }
    for (id, progress) in raft.tracker().members() {
        assert!(progress.matched < progress.next, "{id}: {progress:?}");
        if raft.status().role == Role::Leader {
            assert!(progress.next <= last.next(), "{id}: {progress:?} beyond {last}");
        }
    }
}

/// Log matching: two logs that agree at an index agree up to there.
pub(crate) fn check_matching(one: &Raft, other: &Raft) {
    let (one, other) = (one.log(), other.log());
    let first = one.base().index.max(other.base().index).0 + 1;
    let last = one.last().index.min(other.last().index).0;
    let mut agrees = false;
    for index in (first..=last).rev().map(LogIndex) {
        let (a, b) = (one.entry(index).unwrap(), other.entry(index).unwrap());
        agrees |= a.term == b.term;
        assert!(!agrees || a == b, "logs agree after {index} and not there: {a:?} {b:?}");
    }
}
