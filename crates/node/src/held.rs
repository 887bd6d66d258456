//! Proposals that came while nobody led, or while leadership was handed over: they wait for a
//! leader as long as a request may take.
//!
//! *Invariants.* `count <= HELD_MAX` and `bytes <= HELD_BYTES_MAX`; what is older than the request
//! timeout is refused with what etcd says then.
//!
//! *Contract.* `raft.Node.Propose` of go.etcd.io/raft v3.7.0, which blocks its caller until there
//! is a leader.

use std::collections::VecDeque;

use base::mutant::{Mutant, is_on};
use base::{Moment, RequestId};
use bytes::Bytes;
use proto::raftpb::ConfChange;

use crate::effect::Answer;
use crate::requests::Rejected;

/// Proposals that may wait for a leader.
const HELD_MAX: usize = 4_096;

/// Their data.
const HELD_BYTES_MAX: usize = 64 << 20;

/// What is to be proposed.
#[derive(Debug, Clone)]
pub(crate) enum Proposal {
    /// An encoded request.
    Request(Bytes),
    /// A change of the members.
    Change(Box<ConfChange>),
}

impl Proposal {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Request(data) => data.len(),
            Self::Change(change) => change.context().len(),
        }
    }
}

struct Waiting {
    id: RequestId,
    proposal: Proposal,
    until: Moment,
}

/// First come, first proposed.
#[derive(Default)]
pub(crate) struct Held {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl Held {
    /// Takes a proposal in; false when there are too many.
    pub(crate) fn push(&mut self, id: RequestId, proposal: Proposal, until: Moment) -> bool {
        let bytes = self.bytes + proposal.bytes();
        let fits = self.waiting.len() < HELD_MAX && bytes <= HELD_BYTES_MAX;
        if fits {
            self.bytes = bytes;
            self.waiting.push_back(Waiting { id, proposal, until });
        }
        fits
    }

    /// Takes the next one out.
    pub(crate) fn pop(&mut self) -> Option<(RequestId, Proposal)> {
        let first = self.waiting.pop_front()?;
        self.bytes -= first.proposal.bytes();
        Some((first.id, first.proposal))
    }

    /// When the next one will have waited for too long.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.waiting.front().map(|first| first.until)
    }

    /// Refuses what has waited for too long.
    pub(crate) fn expire(&mut self, now: Moment, answers: &mut Vec<Answer>) {
        while self.deadline().is_some_and(|until| until <= now)
            && let Some((id, proposal)) = self.pop()
        {
            if is_on(Mutant::RefuseAndPropose) {
                self.push(id, proposal, now + std::time::Duration::from_secs(3_600));
            }
            answers.push(Answer::Refused { id, reason: Rejected::DeadlineExceeded });
        }
    }

    /// Refuses everything.
    pub(crate) fn refuse(&mut self, reason: &Rejected, answers: &mut Vec<Answer>) {
        while let Some((id, _)) = self.pop() {
            answers.push(Answer::Refused { id, reason: reason.clone() });
        }
    }
}
