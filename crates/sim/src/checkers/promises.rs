//! What a member has promised by answering, its disk must hold when it starts again.
//!
//! *Invariants checked.* After any end of a process or of the power: the term is no lower than the
//! last one that was synced, the vote of that term is the same, and every entry that was synced is
//! there, or one of a later term stands in its place. What was said to others counts whether or not
//! anybody claimed a sync: a vote that was given, entries that were acknowledged to the leader of a
//! term that goes on. So it is on a disk that was damaged, if the member starts at all.
//!
//! *Absent.* What other members make of it: [`super::raft`].

use std::collections::BTreeMap;

use base::MemberId;
use node::LogEffect;
use proto::raftpb::{Entry, HardState, Message, MessageType, Snapshot};

use super::Violation;

const NAME: &str = "promises";

/// What one disk must hold.
#[derive(Debug, Default)]
pub struct Promises {
    term: u64,
    vote: u64,
    /// Index and term of the entries after the last snapshot.
    entries: BTreeMap<u64, u64>,
    /// What is written, and not known to be synced.
    written: Vec<LogEffect>,
    /// The last vote that was given to another one: its term, and to whom.
    voted: (u64, u64),
    /// The last term of whose leader entries were acknowledged, and up to which one.
    acknowledged: (u64, u64),
}

impl Promises {
    /// Something was written to the log.
    pub fn logged(&mut self, effect: LogEffect, synced: bool) {
        self.written.push(effect);
        if synced {
            for effect in std::mem::take(&mut self.written) {
                self.keep(effect);
            }
        }
    }

    /// A message has left.
    pub fn sent(&mut self, message: &Message) {
        if message.reject() {
            return;
        }
        match message.r#type() {
            MessageType::MsgVoteResp => self.voted = (message.term(), message.to()),
            MessageType::MsgAppResp => {
                let told = (message.term(), message.index());
                self.acknowledged = self.acknowledged.max(told);
            }
            _ => {}
        }
    }

    fn keep(&mut self, effect: LogEffect) {
        match effect {
            LogEffect::Append { snapshot, entries, hard_state, .. } => {
                if let Some(snapshot) = snapshot {
                    self.replace(&snapshot);
                }
                self.append(&entries);
                self.vote(hard_state);
            }
            LogEffect::Snapshot(snapshot) => {
                let index = index_of(&snapshot);
                self.entries = self.entries.split_off(&(index + 1));
            }
            LogEffect::Sync | LogEffect::Release(_) | LogEffect::Discard(_) | LogEffect::Purge => {}
        }
    }

    fn replace(&mut self, snapshot: &Snapshot) {
        let index = index_of(snapshot);
        // Entries before it are of no use; those after it do not go on from it.
        self.entries.clear();
        let term = snapshot.metadata.as_ref().map_or(0, |metadata| metadata.term());
        self.entries.insert(index, term);
    }

    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        self.entries.split_off(&first.index());
        self.entries.extend(entries.iter().map(|entry| (entry.index(), entry.term())));
    }

    fn vote(&mut self, state: Option<HardState>) {
        if let Some(state) = state {
            (self.term, self.vote) = (state.term(), state.vote());
        }
    }

    /// Compares with what was found at a start.
    pub fn keeps(&mut self, id: MemberId, found: &raft::Restored) -> Result<(), Violation> {
        self.written.clear();
        let wrong = |what: String| Err(Violation::new(NAME, format!("member {id} {what}")));
        let (term, vote) = (found.hard_state.term(), found.hard_state.vote());
        if term < self.term {
            return wrong(format!("was in term {}, and starts in term {term}", self.term));
        }
        if term == self.term && self.vote != 0 && vote != self.vote {
            return wrong(format!("voted for {:x} in term {term}, and for {vote:x}", self.vote));
        }
        if term < self.voted.0 || (term == self.voted.0 && vote != self.voted.1) {
            let (gave, to) = self.voted;
            return wrong(format!("gave its vote of term {gave} to {to:x}, and forgot it"));
        }
        let base = found.base.index.get();
        let end = found.entries.last().map_or(base, Entry::index);
        if term < self.acknowledged.0 || (term == self.acknowledged.0 && end < self.acknowledged.1)
        {
            let (of, upto) = self.acknowledged;
            return wrong(format!("acknowledged entry {upto} in term {of}, and has up to {end}"));
        }
        let last = found.entries.last().map_or(found.base.term.get(), Entry::term);
        for (index, term) in self.entries.range(base + 1..) {
            let at = usize::try_from(index - base - 1).unwrap_or(usize::MAX);
            let there = found.entries.get(at).map_or(last, Entry::term);
            let is_kept = found.entries.get(at).is_some() && there >= *term;
            let is_replaced = last > *term;
            if !is_kept && !is_replaced {
                return wrong(format!("had synced entry {index} of term {term}, which is gone"));
            }
        }
        (self.term, self.vote) = (term, vote);
        Ok(())
    }
}

fn index_of(snapshot: &Snapshot) -> u64 {
    snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index())
}

#[cfg(test)]
mod tests {
    use base::{LogIndex, Term};

    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index: Some(index), term: Some(term), ..Entry::default() }
    }

    fn state(term: u64, vote: u64) -> HardState {
        HardState { term: Some(term), vote: Some(vote), commit: Some(0) }
    }

    fn append(entries: Vec<Entry>, hard_state: Option<HardState>) -> LogEffect {
        LogEffect::Append { snapshot: None, entries, hard_state, must_sync: true }
    }

    fn found(entries: Vec<Entry>, hard_state: HardState) -> raft::Restored {
        let base = raft::Position { index: LogIndex(0), term: Term(0) };
        raft::Restored { base, conf_state: Default::default(), hard_state, entries }
    }

    fn promised() -> Promises {
        let mut promises = Promises::default();
        let entries = vec![entry(1, 1), entry(2, 1)];
        promises.logged(append(entries, Some(state(2, 7))), true);
        promises
    }

    #[test]
    fn what_was_synced_must_be_there() {
        let all = || vec![entry(1, 1), entry(2, 1)];
        let keeps = |entries, state| promised().keeps(MemberId(1), &found(entries, state));
        assert_eq!(keeps(all(), state(2, 7)), Ok(()));
        assert_eq!(keeps(all(), state(3, 1)), Ok(()));
        assert!(keeps(all(), state(1, 7)).is_err());
        assert!(keeps(all(), state(2, 8)).is_err());
        assert!(keeps(vec![entry(1, 1)], state(2, 7)).is_err());
        assert_eq!(keeps(vec![entry(1, 2)], state(2, 7)), Ok(()));
    }

    #[test]
    fn what_was_said_to_others_must_be_there() {
        let message = |kind: MessageType, term, index| Message {
            r#type: Some(kind.into()),
            to: Some(7),
            term: Some(term),
            index: Some(index),
            ..Message::default()
        };
        let told = || {
            let mut promises = Promises::default();
            promises.sent(&message(MessageType::MsgVoteResp, 3, 0));
            promises.sent(&message(MessageType::MsgAppResp, 3, 2));
            let refusal = message(MessageType::MsgVoteResp, 4, 0);
            promises.sent(&Message { reject: Some(true), ..refusal });
            promises
        };
        let keeps = |entries, state| told().keeps(MemberId(1), &found(entries, state));
        let all = || vec![entry(1, 1), entry(2, 1)];
        assert_eq!(keeps(all(), state(3, 7)), Ok(()));
        assert_eq!(keeps(Vec::new(), state(4, 0)), Ok(()));
        assert!(keeps(all(), state(2, 7)).is_err());
        assert!(keeps(all(), state(3, 8)).is_err());
        assert!(keeps(vec![entry(1, 1)], state(3, 7)).is_err());
    }

    #[test]
    fn what_was_only_written_may_be_gone() {
        let mut promises = promised();
        promises.logged(append(vec![entry(3, 2)], None), false);
        let left = found(vec![entry(1, 1), entry(2, 1)], state(2, 7));
        assert_eq!(promises.keeps(MemberId(1), &left), Ok(()));
        let mut promises = promised();
        promises.logged(append(vec![entry(3, 2)], None), false);
        promises.logged(LogEffect::Sync, true);
        assert!(promises.keeps(MemberId(1), &left).is_err());
    }
}
