//! What the outside, and an onlooker who sees everything, know about a cluster.

use std::collections::{BTreeMap, BTreeSet};

use base::{LogIndex, MemberId, RequestId, Revision, Term};
use proto::raftpb::{ConfState, Entry};
use store::{ApplyError, Response};

use crate::driver::revision_of;
use crate::oracle::Answers;

/// Gathered from all members, through all their lives. Contradictions panic.
#[derive(Default)]
pub(crate) struct History {
    /// Every entry that any member has applied: all apply the same.
    pub(crate) entries: BTreeMap<u64, Entry>,
    /// Every outcome: it is the same on all members.
    outcomes: Answers,
    /// What clients were told.
    pub(crate) acknowledged_answers: Answers,
    /// The newest revision that a client was told.
    pub(crate) acknowledged: Revision,
    refused: BTreeSet<RequestId>,
    leaders: BTreeMap<Term, MemberId>,
    pub(crate) snapshots: u64,
}

impl History {
    pub(crate) fn applies(&mut self, entries: &[Entry]) {
        for entry in entries {
            let known = self.entries.entry(entry.index()).or_insert_with(|| entry.clone());
            let same = (known.term(), known.data(), known.r#type)
                == (entry.term(), entry.data(), entry.r#type);
            assert!(same, "entry {} is applied as {entry:?} and as {known:?}", entry.index());
        }
    }

    pub(crate) fn answered(
        &mut self,
        id: RequestId,
        result: Result<Response, ApplyError>,
        is_acknowledged: bool,
    ) {
        let known = self.outcomes.entry(id).or_insert_with(|| result.clone());
        assert_eq!(*known, result, "{id} has two outcomes");
        assert!(!self.refused.contains(&id), "{id} was refused, and is applied");
        if !is_acknowledged {
            return;
        }
        if let Some(revision) = result.as_ref().ok().and_then(revision_of) {
            self.acknowledged = self.acknowledged.max(revision);
        }
        self.acknowledged_answers.insert(id, result);
    }

    /// What was refused must never be applied.
    pub(crate) fn refused(&mut self, id: RequestId) {
        self.refused.insert(id);
    }

    pub(crate) fn leads(&mut self, term: Term, id: MemberId) {
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "two leaders in term {term}");
    }

    pub(crate) fn terms(&self) -> usize {
        self.leaders.len()
    }

    /// A snapshot leaves: it is of an entry that was applied in that term.
    pub(crate) fn sends(&mut self, index: LogIndex, term: Term, conf_state: Option<&ConfState>) {
        self.snapshots += 1;
        if let Some(entry) = self.entries.get(&index.0) {
            assert_eq!(entry.term(), term.0, "a snapshot at {index} with another term");
        }
        assert!(conf_state.is_some_and(|state| !state.voters.is_empty()), "{conf_state:?}");
    }
}
