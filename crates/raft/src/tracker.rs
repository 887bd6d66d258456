//! Who takes part, how far each has come, and how the votes stand.
//!
//! *Invariants.*
//! 1. Voters (of either set) and learners are disjoint.
//! 2. There is a progress for every voter and learner, and for nobody else.
//! 3. Who becomes a learner when the joint change ends is an outgoing voter until then.
//!
//! *Contract.* `tracker/tracker.go`, `confchange/restore.go` of go.etcd.io/raft v3.7.0.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use base::mutant::{Mutant, is_on};
use base::{LogIndex, MemberId};
use proto::raftpb::ConfState;

use crate::confchange::ConfChangeError;
use crate::inflights::Inflights;
use crate::progress::Progress;
use crate::quorum::{Joint, Majority, VoteResult};

/// The members by their part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Those whose votes count.
    pub voters: Joint,
    /// Those that receive the log, and do not vote.
    pub learners: BTreeSet<MemberId>,
    /// Voters that become learners when the joint change ends.
    pub learners_next: BTreeSet<MemberId>,
    /// Whether the joint change ends by itself.
    pub auto_leave: bool,
}

fn ids(numbers: &[u64]) -> BTreeSet<MemberId> {
    numbers.iter().copied().map(MemberId).collect()
}

fn numbers(ids: &BTreeSet<MemberId>) -> Vec<u64> {
    ids.iter().map(|id| id.0).collect()
}

impl Configuration {
    /// Reads what a snapshot or a database says.
    pub fn from_conf_state(state: &ConfState) -> Result<Self, ConfChangeError> {
        let voters = Joint {
            incoming: Majority(ids(&state.voters)),
            outgoing: Majority(ids(&state.voters_outgoing)),
        };
        let learners = ids(&state.learners);
        if let Some(&both) = learners.iter().find(|&&id| voters.contains(id)) {
            return Err(ConfChangeError::Overlap(both));
        }
        let learners_next = ids(&state.learners_next);
        if let Some(&stray) = learners_next.iter().find(|id| !voters.outgoing.0.contains(id)) {
            return Err(ConfChangeError::Staged(stray));
        }
        let configuration =
            Self { voters, learners, learners_next, auto_leave: state.auto_leave() };
        if configuration.is_joint() {
            if configuration.voters.incoming.0.is_empty() {
                return Err(ConfChangeError::NoVoters);
            }
        } else if configuration.auto_leave {
            return Err(ConfChangeError::NotJoint);
        }
        Ok(configuration)
    }

    /// What a snapshot and the database record.
    pub fn conf_state(&self) -> ConfState {
        ConfState {
            voters: numbers(&self.voters.incoming.0),
            learners: numbers(&self.learners),
            voters_outgoing: numbers(&self.voters.outgoing.0),
            learners_next: numbers(&self.learners_next),
            auto_leave: Some(self.auto_leave),
        }
    }

    /// Whether a change of more than one member is under way.
    pub fn is_joint(&self) -> bool {
        !self.voters.outgoing.0.is_empty()
    }
}

/// How much may be on its way to each member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) messages_max: usize,
    pub(crate) bytes_max: u64,
}

impl Window {
    pub(crate) fn open(self) -> Inflights {
        Inflights::new(self.messages_max, self.bytes_max)
    }
}

/// The configuration with the progress and the votes of its members.
#[derive(Debug, Clone)]
pub struct Tracker {
    pub(crate) configuration: Configuration,
    pub(crate) progress: BTreeMap<MemberId, Progress>,
    pub(crate) window: Window,
    votes: BTreeMap<MemberId, bool>,
}

impl Tracker {
    /// A tracker without members. At most `inflight_messages_max` messages may be on their way to
    /// each, with little more than `inflight_bytes_max` of data (0 for no bound).
    pub fn new(inflight_messages_max: usize, inflight_bytes_max: u64) -> Self {
        Self {
            configuration: Configuration::default(),
            progress: BTreeMap::new(),
            window: Window { messages_max: inflight_messages_max, bytes_max: inflight_bytes_max },
            votes: BTreeMap::new(),
        }
    }

    /// Takes over the members of `state`, of whom nothing is known yet but that they would next
    /// need the entry after `last`.
    pub(crate) fn restore(
        &mut self,
        state: &ConfState,
        last: LogIndex,
    ) -> Result<(), ConfChangeError> {
        let configuration = Configuration::from_conf_state(state)?;
        self.progress.clear();
        for id in configuration.voters.ids() {
            self.progress.insert(id, self.newcomer(last, false));
        }
        for &id in &configuration.learners {
            self.progress.insert(id, self.newcomer(last, true));
        }
        self.configuration = configuration;
        self.votes.clear();
        Ok(())
    }

    pub(crate) fn newcomer(&self, last: LogIndex, is_learner: bool) -> Progress {
        // Before the first answer the leader assumes that the member has all but the last entry.
        let next = LogIndex(last.0.max(1));
        let mut progress = Progress::new(next, is_learner, self.window.open());
        // Else a check of the quorum could fail before the newcomer had a chance.
        progress.recent_active = true;
        progress
    }

    /// The members by their part.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// What the leader knows about `id`.
    pub fn progress(&self, id: MemberId) -> Option<&Progress> {
        self.progress.get(&id)
    }

    pub(crate) fn progress_mut(&mut self, id: MemberId) -> Option<&mut Progress> {
        self.progress.get_mut(&id)
    }

    /// Every member with its progress, ascending.
    pub fn members(&self) -> impl Iterator<Item = (MemberId, &Progress)> {
        self.progress.iter().map(|(&id, progress)| (id, progress))
    }

    pub(crate) fn members_mut(&mut self) -> impl Iterator<Item = (MemberId, &mut Progress)> {
        self.progress.iter_mut().map(|(&id, progress)| (id, progress))
    }

    /// The member with the smallest id above `id`: to visit all while each is sent something.
    pub(crate) fn member_after(&self, id: MemberId) -> Option<MemberId> {
        let above = (Bound::Excluded(id), Bound::Unbounded);
        self.progress.range(above).next().map(|(&id, _)| id)
    }

    /// Whether somebody else takes part, in whatever way.
    pub(crate) fn has_other_than(&self, id: MemberId) -> bool {
        self.progress.len() > usize::from(self.progress.contains_key(&id))
    }

    /// Whether `id` is the only one who votes.
    pub fn is_sole_voter(&self, id: MemberId) -> bool {
        let voters = &self.configuration.voters;
        voters.outgoing.0.is_empty()
            && voters.incoming.0.len() == 1
            && voters.incoming.0.contains(&id)
    }

    /// The largest index that a quorum holds.
    pub(crate) fn committed(&self) -> LogIndex {
        self.configuration.voters.committed(|id| self.progress.get(&id).map(|p| p.matched))
    }

    /// Whether a quorum was heard from since the last check.
    pub(crate) fn quorum_active(&self) -> bool {
        let active = |id: MemberId| self.progress.get(&id).map(|p| p.recent_active);
        self.configuration.voters.vote(active) == VoteResult::Won
    }

    pub(crate) fn forget_votes(&mut self) {
        if !is_on(Mutant::CountOldVotes) {
            self.votes.clear();
        }
    }

    /// Notes what `id` said, once, and returns how the vote stands.
    pub(crate) fn record_vote(&mut self, id: MemberId, granted: bool) -> VoteResult {
        self.votes.entry(id).or_insert(granted);
        self.configuration.voters.vote(|id| self.votes.get(&id).copied())
    }
}
