//! What a leader knows about one member, and how that changes with each message.
//!
//! ```text
//!            answer of success                       needs what is compacted
//!  Probe ───────────────────────► Replicate ─────┐         │
//!    ▲  one message at a time       │ a stream   └────► Snapshot: nothing is sent
//!    └──── refusal, unreachable ────┘                       │
//!    └──── snapshot reported ───────────────────────────────┘ (or: acknowledged -> Replicate)
//! ```
//!
//! *Invariants.*
//! 1. matched < next; the entries between them are on their way.
//! 2. In `Snapshot(at)`, next = at + 1 = sent_commit + 1, unless an acknowledgement raised next.
//!
//! *Contract.* `tracker/progress.go` of go.etcd.io/raft v3.7.0.

use base::LogIndex;

use crate::inflights::Inflights;

/// How a leader sends to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressState {
    /// One message at a time, until the match is known.
    Probe,
    /// A stream of messages.
    Replicate,
    /// Nothing, while it installs the snapshot at this index.
    Snapshot(LogIndex),
}

/// What a leader knows about a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The last entry known to be stable on the member, and equal to ours.
    pub matched: LogIndex,
    /// The entry to send next. Above `matched`.
    pub next: LogIndex,
    /// How the leader sends.
    pub state: ProgressState,
    /// Whether it was heard from since the last check of the quorum.
    pub recent_active: bool,
    /// Whether it is a learner.
    pub is_learner: bool,
    /// The largest commit index on its way. May go back when messages are known to be lost.
    pub(crate) sent_commit: LogIndex,
    /// Nothing more is sent before an answer, or before the next answer to a heartbeat.
    pub(crate) is_held: bool,
    /// What is on its way while in `Replicate`.
    pub(crate) inflights: Inflights,
}

impl Progress {
    /// Of a member that nothing is known about but which entry to try first.
    pub(crate) fn new(next: LogIndex, is_learner: bool, inflights: Inflights) -> Self {
        Self {
            matched: LogIndex(0),
            next,
            state: ProgressState::Probe,
            recent_active: false,
            is_learner,
            sent_commit: LogIndex(0),
            is_held: false,
            inflights,
        }
    }

    /// Whether nothing may be sent now.
    pub fn is_paused(&self) -> bool {
        self.is_held || matches!(self.state, ProgressState::Snapshot(_))
    }

    /// The messages that are not acknowledged.
    pub fn inflights(&self) -> &Inflights {
        &self.inflights
    }

    /// Whether a message may carry entries. When the window is full, only empty ones leave: they
    /// find out whether everything in it was lost.
    pub(crate) fn takes_entries(&self) -> bool {
        self.state != ProgressState::Replicate || !self.inflights.is_full()
    }

    /// Forgets everything but the part: a new term begins, and `next` is tried first.
    pub(crate) fn reset(&mut self, next: LogIndex) {
        self.enter(ProgressState::Probe);
        self.matched = LogIndex(0);
        self.next = next;
        self.sent_commit = LogIndex(0);
        self.recent_active = false;
    }

    fn enter(&mut self, state: ProgressState) {
        self.state = state;
        self.is_held = false;
        self.inflights.clear();
    }

    /// Starts again behind what is known to match, or behind a snapshot that was delivered.
    pub(crate) fn probe(&mut self) {
        let next = match self.state {
            ProgressState::Snapshot(at) => self.matched.max(at).next(),
            _ => self.matched.next(),
        };
        self.enter(ProgressState::Probe);
        self.set_next(next);
    }

    /// Starts a stream behind what is known to match.
    pub(crate) fn replicate(&mut self) {
        self.enter(ProgressState::Replicate);
        self.next = self.matched.next();
    }

    /// Sends nothing while the member installs the snapshot at `at`.
    pub(crate) fn await_snapshot(&mut self, at: LogIndex) {
        self.enter(ProgressState::Snapshot(at));
        self.next = at.next();
        self.sent_commit = at;
    }

    /// The end of a snapshot's transmission was reported. What follows is held back until the
    /// member's answer, or after a failure until the next answer to a heartbeat.
    pub(crate) fn snapshot_sent(&mut self, ok: bool) {
        if !matches!(self.state, ProgressState::Snapshot(_)) {
            return;
        }
        if !ok {
            self.state = ProgressState::Snapshot(LogIndex(0));
        }
        self.probe();
        self.is_held = true;
    }

    fn set_next(&mut self, next: LogIndex) {
        self.next = next;
        // A commit index beyond was on its way in messages that did not arrive.
        self.sent_commit = self.sent_commit.min(LogIndex(next.0 - 1));
    }

    /// Notes that a message with `count` entries, `bytes` of data and the commit index leaves.
    pub(crate) fn sent(&mut self, count: usize, bytes: u64, commit: LogIndex) {
        match self.state {
            ProgressState::Replicate => {
                if count > 0 {
                    self.inflights.add(LogIndex(self.next.0 + count as u64 - 1), bytes);
                    self.next.0 += count as u64;
                }
                self.is_held = self.inflights.is_full();
            }
            ProgressState::Probe => self.is_held |= count > 0,
            ProgressState::Snapshot(_) => unreachable!("entries leave during a snapshot"),
        }
        self.sent_commit = commit;
    }

    /// Whether telling `commit` could make the member commit more than what it was told makes it.
    pub(crate) fn can_learn_commit(&self, commit: LogIndex) -> bool {
        commit > self.sent_commit && self.sent_commit.next() < self.next
    }

    /// Takes in that everything up to `at` is stable on the member. False when that is old news.
    pub(crate) fn acknowledged(&mut self, at: LogIndex) -> bool {
        if at <= self.matched {
            return false;
        }
        self.matched = at;
        self.next = self.next.max(at.next());
        self.is_held = false;
        true
    }

    /// Takes in that a message behind `rejected` was refused, and that the logs may agree at
    /// `hint`. False when the refusal is of a message that does not matter any more.
    pub(crate) fn refused(&mut self, rejected: LogIndex, hint: LogIndex) -> bool {
        if self.state == ProgressState::Replicate {
            if rejected <= self.matched {
                return false;
            }
            self.set_next(self.matched.next());
            return true;
        }
        // One message at a time is on its way to others.
        if self.next.0 - 1 != rejected.0 {
            return false;
        }
        let hinted = LogIndex(hint.0.saturating_add(1));
        self.set_next(rejected.min(hinted).max(self.matched.next()));
        self.is_held = false;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(state: ProgressState, matched: u64, next: u64) -> Progress {
        let mut progress = Progress::new(LogIndex(next), false, Inflights::new(2, 0));
        (progress.state, progress.matched) = (state, LogIndex(matched));
        progress
    }

    #[test]
    fn a_refusal_steps_back_to_the_hint_and_never_behind_the_match() {
        let mut probing = progress(ProgressState::Probe, 3, 10);
        assert!(!probing.refused(LogIndex(8), LogIndex(7)), "not the message on its way");
        assert!(probing.refused(LogIndex(9), LogIndex(5)));
        assert_eq!(probing.next, LogIndex(6));
        assert!(probing.refused(LogIndex(5), LogIndex(1)));
        assert_eq!(probing.next, LogIndex(4));
        let mut streaming = progress(ProgressState::Replicate, 3, 10);
        assert!(!streaming.refused(LogIndex(3), LogIndex(3)), "it was acknowledged since");
        assert!(streaming.refused(LogIndex(9), LogIndex(u64::MAX)));
        assert_eq!(streaming.next, LogIndex(4));
    }

    #[test]
    fn a_snapshot_is_followed_by_a_probe_behind_it_or_behind_the_match() {
        for (ok, next) in [(true, 21), (false, 4)] {
            let mut progress = progress(ProgressState::Replicate, 3, 10);
            progress.await_snapshot(LogIndex(20));
            assert!(progress.is_paused());
            progress.snapshot_sent(ok);
            assert_eq!((progress.state, progress.next.0), (ProgressState::Probe, next));
            assert!(progress.is_paused(), "until an answer comes");
        }
    }

    #[test]
    fn a_stream_is_held_while_its_window_is_full() {
        let mut progress = progress(ProgressState::Replicate, 0, 1);
        progress.sent(3, 10, LogIndex(0));
        assert!(!progress.is_paused());
        progress.sent(1, 10, LogIndex(0));
        assert!(progress.is_paused() && !progress.takes_entries());
        assert_eq!(progress.next, LogIndex(5));
        assert!(progress.acknowledged(LogIndex(3)));
        assert!(!progress.acknowledged(LogIndex(3)));
        assert!(!progress.is_paused());
        progress.inflights.free_to(LogIndex(3));
        assert!(progress.takes_entries());
    }
}
