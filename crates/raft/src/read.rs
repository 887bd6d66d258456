//! Read requests on their way to an index from which on they are linearizable.
//!
//! ```text
//!   request ──► waiting ──────────────► unconfirmed ──────────────► answer: own state, or a
//!               (first commit of        (a quorum answers a          message to who asked
//!                the term)               heartbeat sent since)
//! ```
//!
//! Requests are numbered in the order in which they are taken in. A heartbeat carries the number
//! of the newest one, whoever answers it confirms that one and all before: any number of reads
//! needs one round.
//!
//! *Invariants.*
//! 1. A leader answers only after an entry of its own term is committed: before, it does not know
//!    what its predecessors committed.
//! 2. The index of a request is the commit index when it was taken in; they ascend.
//!
//! *Contract.* `read_only.go`, `raft.go` of go.etcd.io/raft v3.7.0, which lets a sole voter answer
//! before its first commit; we wait, because its commit index may be older than what it
//! acknowledged before a restart.

use std::collections::{BTreeMap, VecDeque};

use base::mutant::{Mutant, is_on};
use base::{LogIndex, MemberId};
use bytes::Bytes;
use proto::raftpb::{Entry, Message, MessageType};

use crate::config::ReadMode;
use crate::core::{Raft, Role};
use crate::duties::ReadState;
use crate::message;
use crate::quorum::Joint;

/// Requests that may wait for a new leader's first commit. Beyond, they are dropped, as they are
/// without a leader: who asked tries again.
const WAITING_MAX: usize = 1024;

/// Requests that may wait for a quorum. Beyond, they are dropped just so.
const UNCONFIRMED_MAX: usize = 64 * 1024;

/// Who asked, and what the answer is to be called.
#[derive(Debug, Clone)]
pub(crate) struct ReadRequest {
    from: MemberId,
    context: Bytes,
}

/// Requests in the three states that they go through.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Until the first commit of the term.
    waiting: Vec<ReadRequest>,
    /// Until a quorum confirms the leadership. The first one has the number `confirmed + 1`.
    unconfirmed: VecDeque<(ReadRequest, LogIndex)>,
    /// How many requests of this term were confirmed.
    confirmed: u64,
    /// Up to which number each member has confirmed.
    acknowledged: BTreeMap<MemberId, u64>,
    /// Until the next duties.
    ready: Vec<ReadState>,
}

impl Reads {
    /// Drops what only the leader of a term can answer.
    pub(crate) fn forget(&mut self) {
        self.waiting.clear();
        self.unconfirmed.clear();
        self.confirmed = 0;
        self.acknowledged.clear();
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn push_ready(&mut self, state: ReadState) {
        self.ready.push(state);
    }

    pub(crate) fn take_ready(&mut self) -> Vec<ReadState> {
        std::mem::take(&mut self.ready)
    }

    fn newest(&self) -> u64 {
        self.confirmed + self.unconfirmed.len() as u64
    }

    /// What a heartbeat carries, so that its answers confirm everything taken in so far.
    pub(crate) fn heartbeat_context(&self) -> Option<Bytes> {
        let number = self.newest();
        (!self.unconfirmed.is_empty()).then(|| Bytes::copy_from_slice(&number.to_le_bytes()))
    }

    fn acknowledge(&mut self, from: MemberId, number: u64) {
        // An answer to what was never asked confirms nothing to come.
        let number = number.min(self.newest());
        let known = self.acknowledged.entry(from).or_default();
        *known = number.max(*known);
    }

    /// Takes out what a quorum has confirmed.
    fn take_confirmed(&mut self, voters: &Joint) -> Vec<(ReadRequest, LogIndex)> {
        let by_quorum =
            voters.committed(|id| self.acknowledged.get(&id).map(|&number| LogIndex(number)));
        // Without voters it has no bound.
        let upto = by_quorum.0.min(self.newest());
        let count = usize::try_from(upto.saturating_sub(self.confirmed)).unwrap_or(0);
        self.confirmed = self.confirmed.max(upto);
        self.unconfirmed.drain(..count).collect()
    }
}

impl Raft {
    /// Asks from which index on a read is linearizable. The answer comes as a [`ReadState`] with
    /// the same `context`; when nobody leads, none comes.
    pub fn read_index(&mut self, context: Bytes) {
        self.step_read_request(MemberId::NONE, context);
    }

    /// This member or another one asks: the leader answers, who follows passes it on.
    pub(crate) fn step_read_request(&mut self, from: MemberId, context: Bytes) {
        match self.role {
            Role::Leader => self.read_as_leader(ReadRequest { from, context }),
            Role::Follower if self.leader != MemberId::NONE => {
                let ask = message::to(self.leader, MessageType::MsgReadIndex);
                let entries = request_entries(context);
                self.send(Message { from: Some(from.0), entries, ..ask });
            }
            _ => {}
        }
    }

    fn read_as_leader(&mut self, request: ReadRequest) {
        let committed = self.log.committed();
        if !self.has_committed_in_term() && !is_on(Mutant::ReadBeforeFirstCommit) {
            if self.reads.waiting.len() < WAITING_MAX {
                self.reads.waiting.push(request);
            }
        } else if self.is_sole_voter()
            || self.config.read_mode == ReadMode::Lease
            || is_on(Mutant::SkipReadRound)
        {
            self.answer_read(request, committed);
        } else if self.reads.unconfirmed.len() < UNCONFIRMED_MAX {
            self.reads.unconfirmed.push_back((request, committed));
            let newest = self.reads.newest();
            self.reads.acknowledge(self.config.id, newest);
            if self.config.gather {
                self.heartbeat_due = true;
            } else {
                self.broadcast_heartbeat();
            }
        }
    }

    /// The first entry of the term is committed: whoever waited for it goes on.
    pub(crate) fn release_reads(&mut self) {
        for request in std::mem::take(&mut self.reads.waiting) {
            self.read_as_leader(request);
        }
    }

    /// `from` has answered a heartbeat with that context.
    pub(crate) fn confirm_reads(&mut self, from: MemberId, context: &[u8]) {
        let Ok(number) = context.try_into().map(u64::from_le_bytes) else { return };
        self.reads.acknowledge(from, number);
        for (request, index) in self.reads.take_confirmed(&self.tracker.configuration().voters) {
            self.answer_read(request, index);
        }
    }

    fn answer_read(&mut self, request: ReadRequest, index: LogIndex) {
        let ReadRequest { from, context } = request;
        if from == MemberId::NONE || from == self.config.id {
            self.reads.push_ready(ReadState { index, context });
            return;
        }
        let answer = message::to(from, MessageType::MsgReadIndexResp);
        let entries = request_entries(context);
        self.send(Message { index: Some(index.0), entries, ..answer });
    }
}

fn request_entries(context: Bytes) -> Vec<Entry> {
    vec![Entry { data: Some(context), ..Entry::default() }]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::quorum::Majority;

    fn reads_with(count: u64) -> (Reads, Joint) {
        let mut reads = Reads::default();
        for number in 1..=count {
            let request = ReadRequest { from: MemberId::NONE, context: number.to_string().into() };
            reads.unconfirmed.push_back((request, LogIndex(number)));
        }
        reads.acknowledge(MemberId(1), count);
        let incoming = Majority(BTreeSet::from([1, 2, 3].map(MemberId)));
        (reads, Joint { incoming, outgoing: Majority::default() })
    }

    fn take(reads: &mut Reads, voters: &Joint) -> Vec<u64> {
        reads.take_confirmed(voters).iter().map(|(_, index)| index.0).collect()
    }

    #[test]
    fn an_answer_confirms_all_reads_up_to_its_number_once() {
        let (mut reads, voters) = reads_with(5);
        assert_eq!(reads.heartbeat_context().as_deref(), Some(&5_u64.to_le_bytes()[..]));
        assert!(take(&mut reads, &voters).is_empty(), "one of three is no quorum");
        reads.acknowledge(MemberId(2), 3);
        assert_eq!(take(&mut reads, &voters), [1, 2, 3]);
        reads.acknowledge(MemberId(3), 2);
        reads.acknowledge(MemberId(2), 1);
        assert!(take(&mut reads, &voters).is_empty(), "an old answer takes nothing back");
        assert_eq!(reads.heartbeat_context().as_deref(), Some(&5_u64.to_le_bytes()[..]));
        reads.acknowledge(MemberId(3), 5);
        assert_eq!(take(&mut reads, &voters), [4, 5]);
        assert_eq!(reads.heartbeat_context(), None);
    }

    #[test]
    fn answers_of_strangers_and_to_the_future_confirm_nothing_more() {
        let (mut reads, voters) = reads_with(2);
        reads.acknowledge(MemberId(9), 2);
        assert!(take(&mut reads, &voters).is_empty());
        reads.acknowledge(MemberId(1), u64::MAX);
        reads.acknowledge(MemberId(2), u64::MAX);
        assert_eq!(take(&mut reads, &voters), [1, 2]);
        let request = ReadRequest { from: MemberId::NONE, context: Bytes::new() };
        reads.unconfirmed.push_back((request, LogIndex(3)));
        assert!(take(&mut reads, &voters).is_empty());
    }
}
