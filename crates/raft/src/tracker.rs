//! Who takes part, how far each has come, and how the configuration changes by one member.
//!
//! *Invariants.*
//! 1. Voters and learners are disjoint.
//! 2. There is a progress for every voter and learner, and for nobody else.
//! 3. A simple change never removes the last voter.
//!
//! *Absent.* Joint changes: the shapes are here, nothing enters one (etcd never proposes them).
//!
//! *Contract.* `tracker/`, `confchange/` of go.etcd.io/raft v3.7.0.

use std::collections::{BTreeMap, BTreeSet};

use base::{LogIndex, MemberId};
use proto::raftpb::{ConfChange, ConfChangeType, ConfState};
use thiserror::Error;

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
}

/// Why a configuration change cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConfChangeError {
    /// Nobody would be left to vote.
    #[error("the last voter cannot be removed")]
    NoVoters,
    /// A member is both voter and learner.
    #[error("member {0} is voter and learner at once")]
    Overlap(MemberId),
    /// A change of more than one member is under way.
    #[error("a joint configuration change is under way")]
    Joint,
}

/// The configuration with the progress and the votes of its members.
#[derive(Debug, Clone, Default)]
pub struct Tracker {
    configuration: Configuration,
    progress: BTreeMap<MemberId, Progress>,
    votes: BTreeMap<MemberId, bool>,
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
        Ok(Self { voters, learners, learners_next, auto_leave: state.auto_leave() })
    }

    /// What a snapshot and the database record.
    pub fn conf_state(&self) -> ConfState {
        ConfState {
            voters: numbers(&self.voters.incoming.0),
            learners: numbers(&self.learners),
            voters_outgoing: numbers(&self.voters.outgoing.0),
            learners_next: numbers(&self.learners_next),
            auto_leave: self.auto_leave.then_some(true),
        }
    }
}

impl Tracker {
    /// A tracker for the members of `state`, of whom nothing is known yet but that they would
    /// next need the entry after `last`.
    pub(crate) fn restore(state: &ConfState, last: LogIndex) -> Result<Self, ConfChangeError> {
        let configuration = Configuration::from_conf_state(state)?;
        let mut tracker = Self { configuration, ..Self::default() };
        tracker.align(last);
        Ok(tracker)
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
        self.votes.clear();
    }

    /// Notes what `id` said, once, and returns how the vote stands.
    pub(crate) fn record_vote(&mut self, id: MemberId, granted: bool) -> VoteResult {
        self.votes.entry(id).or_insert(granted);
        self.configuration.voters.vote(|id| self.votes.get(&id).copied())
    }

    /// Makes the change of one member. Changes of addresses alone, and those without a member
    /// (which is how etcd says that a change was refused), leave everything as it is.
    pub(crate) fn change(
        &mut self,
        change: &ConfChange,
        last: LogIndex,
    ) -> Result<(), ConfChangeError> {
        let id = MemberId(change.node_id());
        if !self.configuration.voters.outgoing.0.is_empty() {
            return Err(ConfChangeError::Joint);
        }
        if id == MemberId::NONE {
            return Ok(());
        }
        let mut next = self.configuration.clone();
        match change.r#type() {
            ConfChangeType::ConfChangeAddNode => {
                next.learners.remove(&id);
                next.voters.incoming.0.insert(id);
            }
            ConfChangeType::ConfChangeAddLearnerNode => {
                next.voters.incoming.0.remove(&id);
                next.learners.insert(id);
            }
            ConfChangeType::ConfChangeRemoveNode => {
                next.voters.incoming.0.remove(&id);
                next.learners.remove(&id);
            }
            ConfChangeType::ConfChangeUpdateNode => {}
        }
        if next.voters.incoming.0.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        self.configuration = next;
        self.align(last);
        Ok(())
    }

    /// Gives every member a progress, and nobody else.
    fn align(&mut self, last: LogIndex) {
        let voters = self.configuration.voters.ids();
        let learners = &self.configuration.learners;
        self.progress.retain(|id, _| voters.contains(id) || learners.contains(id));
        for &id in voters.iter().chain(learners) {
            let is_learner = learners.contains(&id);
            let progress = self.progress.entry(id).or_insert_with(|| Progress {
                matched: LogIndex(0),
                // Before the first answer the leader assumes that the member has everything.
                next: LogIndex(last.0.max(1)),
                state: ProgressState::Probe,
                // Else a check of the quorum could fail before the newcomer had a chance.
                recent_active: true,
                is_learner,
            });
            progress.is_learner = is_learner;
        }
    }
}
