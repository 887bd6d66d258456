//! How one configuration becomes another: by one voter at a time, or by a joint change that asks
//! the majorities of both sets of voters while it is under way.
//!
//! ```text
//!   (1 2 3) ── simple ──► (1 2 3 4)
//!   (1 2 3) ── enter joint ──► (1 4 5)&&(1 2 3) ── leave joint ──► (1 4 5)
//! ```
//!
//! *Invariants.*
//! 1. A change is made as a whole or not at all.
//! 2. A simple change adds or removes at most one voter, and none removes the last.
//! 3. A voter that is to become a learner waits in `learners_next` while it still votes in the
//!    outgoing set.
//!
//! *Contract.* `confchange/confchange.go`, `raftpb/confchange.go` of go.etcd.io/raft v3.7.0.

use std::collections::BTreeMap;

use base::mutant::{Mutant, is_on};
use base::{LogIndex, MemberId};
use proto::raftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2,
};
use thiserror::Error;

use crate::progress::Progress;
use crate::tracker::{Configuration, Tracker};

/// Why a configuration change cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConfChangeError {
    /// Nobody would be left to vote.
    #[error("the last voter cannot be removed")]
    NoVoters,
    /// A member is both voter and learner.
    #[error("member {0} is voter and learner at once")]
    Overlap(MemberId),
    /// A member is to become a learner, but is no outgoing voter.
    #[error("member {0} is to become a learner without being an outgoing voter")]
    Staged(MemberId),
    /// A change of more than one member is under way.
    #[error("a joint configuration change is under way")]
    Joint,
    /// There is nothing to leave.
    #[error("no joint configuration change is under way")]
    NotJoint,
    /// A joint change needs voters to start from.
    #[error("a configuration without voters cannot become joint")]
    Empty,
    /// Two voters or more at once.
    #[error("a simple change may concern one voter only")]
    TooMany,
    /// A number that stands for no kind of change.
    #[error("configuration change of unknown type {0}")]
    UnknownType(i32),
    /// A number that stands for no way to change.
    #[error("configuration change by unknown transition {0}")]
    UnknownTransition(i32),
}

/// A change of one member, in the form that changes of several have.
pub(crate) fn widened(change: &ConfChange) -> ConfChangeV2 {
    ConfChangeV2 {
        transition: None,
        changes: vec![ConfChangeSingle { r#type: change.r#type, node_id: change.node_id }],
        context: change.context.clone(),
    }
}

/// Whether the change ends a joint one.
pub(crate) fn leaves_joint(change: &ConfChangeV2) -> bool {
    change.transition.unwrap_or_default() == i32::from(ConfChangeTransition::Auto)
        && change.changes.is_empty()
}

/// A configuration in the making.
struct Draft<'a> {
    tracker: &'a Tracker,
    last: LogIndex,
    configuration: Configuration,
    progress: BTreeMap<MemberId, Progress>,
}

impl Tracker {
    /// Makes a committed change, in the way that it asks for. New members are first tried with
    /// the entry at `last`.
    pub(crate) fn change(
        &mut self,
        change: &ConfChangeV2,
        last: LogIndex,
    ) -> Result<(), ConfChangeError> {
        let number = change.transition.unwrap_or_default();
        let transition = ConfChangeTransition::try_from(number)
            .map_err(|_| ConfChangeError::UnknownTransition(number))?;
        if leaves_joint(change) {
            return self.leave_joint();
        }
        match transition {
            ConfChangeTransition::Auto if change.changes.len() == 1 => {
                self.change_simply(&change.changes, last)
            }
            ConfChangeTransition::Auto | ConfChangeTransition::JointImplicit => {
                self.enter_joint(true, &change.changes, last)
            }
            ConfChangeTransition::JointExplicit => self.enter_joint(false, &change.changes, last),
        }
    }

    /// Makes changes that together concern at most one voter.
    pub fn change_simply(
        &mut self,
        changes: &[ConfChangeSingle],
        last: LogIndex,
    ) -> Result<(), ConfChangeError> {
        if self.configuration.is_joint() {
            return Err(ConfChangeError::Joint);
        }
        let mut draft = Draft::of(self, last);
        draft.make(changes)?;
        let (before, after) =
            (&self.configuration.voters.incoming.0, &draft.configuration.voters.incoming.0);
        if before.symmetric_difference(after).count() > 1 {
            return Err(ConfChangeError::TooMany);
        }
        (self.configuration, self.progress) = draft.done();
        Ok(())
    }

    /// Makes changes of any number of members, which come into force when the joint configuration
    /// is left: by itself if `auto_leave`.
    pub fn enter_joint(
        &mut self,
        auto_leave: bool,
        changes: &[ConfChangeSingle],
        last: LogIndex,
    ) -> Result<(), ConfChangeError> {
        if self.configuration.is_joint() {
            return Err(ConfChangeError::Joint);
        }
        if self.configuration.voters.incoming.0.is_empty() {
            return Err(ConfChangeError::Empty);
        }
        let mut draft = Draft::of(self, last);
        draft.configuration.voters.outgoing = draft.configuration.voters.incoming.clone();
        draft.make(changes)?;
        draft.configuration.auto_leave = auto_leave;
        (self.configuration, self.progress) = draft.done();
        Ok(())
    }

    /// Lets the incoming voters decide alone.
    pub fn leave_joint(&mut self) -> Result<(), ConfChangeError> {
        if !self.configuration.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        let Self { configuration, progress, .. } = self;
        for id in std::mem::take(&mut configuration.learners_next) {
            configuration.learners.insert(id);
            if let Some(progress) = progress.get_mut(&id) {
                progress.is_learner = true;
            }
        }
        configuration.voters.outgoing.0.clear();
        configuration.auto_leave = false;
        let Configuration { voters, learners, .. } = configuration;
        progress.retain(|&id, _| voters.contains(id) || learners.contains(&id));
        Ok(())
    }
}

impl<'a> Draft<'a> {
    fn of(tracker: &'a Tracker, last: LogIndex) -> Self {
        let configuration = tracker.configuration.clone();
        Self { tracker, last, configuration, progress: tracker.progress.clone() }
    }

    fn done(self) -> (Configuration, BTreeMap<MemberId, Progress>) {
        (self.configuration, self.progress)
    }

    /// Makes the changes one after the other. Those of addresses alone, and those without a
    /// member (which is how etcd says that a change was refused), leave everything as it is.
    fn make(&mut self, changes: &[ConfChangeSingle]) -> Result<(), ConfChangeError> {
        for change in changes {
            let id = MemberId(change.node_id());
            if id == MemberId::NONE {
                continue;
            }
            let number = change.r#type.unwrap_or_default();
            match ConfChangeType::try_from(number) {
                Ok(ConfChangeType::ConfChangeAddNode) => self.make_voter(id),
                Ok(ConfChangeType::ConfChangeAddLearnerNode) => self.make_learner(id),
                Ok(ConfChangeType::ConfChangeRemoveNode) => self.remove(id),
                Ok(ConfChangeType::ConfChangeUpdateNode) => {}
                Err(_) => return Err(ConfChangeError::UnknownType(number)),
            }
        }
        if self.configuration.voters.incoming.0.is_empty() {
            return Err(ConfChangeError::NoVoters);
        }
        Ok(())
    }

    fn make_voter(&mut self, id: MemberId) {
        let progress =
            self.progress.entry(id).or_insert_with(|| self.tracker.newcomer(self.last, false));
        progress.is_learner = false;
        self.configuration.learners.remove(&id);
        self.configuration.learners_next.remove(&id);
        self.configuration.voters.incoming.0.insert(id);
    }

    fn make_learner(&mut self, id: MemberId) {
        let Some(progress) = self.progress.get_mut(&id) else {
            self.progress.insert(id, self.tracker.newcomer(self.last, true));
            self.configuration.learners.insert(id);
            return;
        };
        if progress.is_learner {
            return;
        }
        self.configuration.voters.incoming.0.remove(&id);
        if self.configuration.voters.outgoing.0.contains(&id) {
            self.configuration.learners_next.insert(id);
        } else {
            progress.is_learner = true;
            self.configuration.learners.insert(id);
        }
    }

    fn remove(&mut self, id: MemberId) {
        if !is_on(Mutant::RemovedKeepsVote) {
            self.configuration.voters.incoming.0.remove(&id);
        }
        self.configuration.learners.remove(&id);
        self.configuration.learners_next.remove(&id);
        if !self.configuration.voters.outgoing.0.contains(&id) {
            self.progress.remove(&id);
        }
    }
}
