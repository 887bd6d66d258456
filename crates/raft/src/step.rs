//! Messages from other members, and from this one to itself after its disk has written: what their
//! term says, and who in which role takes them.
//!
//! *Contract.* `raft.go`, `rawnode.go` of go.etcd.io/raft v3.7.0. A message that contradicts itself
//! is refused here where it panics there.

use base::mutant::{Mutant, is_on};
use base::{LogIndex, MemberId, Term};
use bytes::Bytes;
use proto::raftpb::{Entry, Message, MessageType};
use thiserror::Error;

use crate::core::{Raft, Role};
use crate::duties::ReadState;
use crate::log::Position;
use crate::message;
use crate::propose::ProposeError;

/// Terms and indexes that are taken from others: none beyond is ever reached, and those up to it
/// can be counted on without an overflow.
pub(crate) const NUMBER_MAX: u64 = u64::MAX / 2;

/// A message that changed nothing, and whose sender may want to know.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StepError {
    /// Of a kind that only the member itself may use.
    #[error("message {0:?} may not come from outside")]
    Local(MessageType),
    /// An answer from who is no member.
    #[error("an answer from {0}, which is no member")]
    Stranger(MemberId),
    /// A proposal that was forwarded to this member.
    #[error("proposal dropped: {0}")]
    Dropped(#[from] ProposeError),
    /// It contradicts itself.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
}

impl Raft {
    /// Takes a message in.
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        let kind = message.r#type();
        let (term, from) = (Term(message.term()), MemberId(message.from()));
        if message::is_local(kind) {
            return Err(StepError::Local(kind));
        }
        self.check_origin(&message, kind, from)?;
        if message::is_response(kind) && self.tracker.progress(from).is_none() {
            return Err(StepError::Stranger(from));
        }
        match kind {
            // They belong to no term.
            MessageType::MsgProp => return self.step_proposals(message.entries, from),
            MessageType::MsgReadIndex => {
                self.step_read_request(from, only_data(&message)?);
                return Ok(());
            }
            _ => {}
        }
        if term > self.term {
            if !self.step_newer_term(&message, kind, term, from) {
                return Ok(());
            }
        } else if term < self.term {
            self.step_older_term(kind, from);
            return Ok(());
        }
        self.step_present_term(message, kind, from)
    }

    /// What no member ever sends, whatever its state.
    fn check_origin(
        &self,
        message: &Message,
        kind: MessageType,
        from: MemberId,
    ) -> Result<(), StepError> {
        if message.term() > NUMBER_MAX {
            return Err(StepError::Malformed("a term out of reach"));
        }
        let from_self = match kind {
            // Promises of this member's own disk, and what others passed back to it.
            MessageType::MsgAppResp => !message.reject(),
            MessageType::MsgVoteResp
            | MessageType::MsgPreVoteResp
            | MessageType::MsgProp
            | MessageType::MsgReadIndex
            | MessageType::MsgTransferLeader => true,
            _ => false,
        };
        if from == self.config.id && !from_self {
            return Err(StepError::Malformed("a member does not send this to itself"));
        }
        // Who asks in its own name only has none until the message is sent.
        let is_anonymous = matches!(kind, MessageType::MsgProp | MessageType::MsgReadIndex);
        if from == MemberId::NONE && !is_anonymous {
            return Err(StepError::Malformed("a message from nobody"));
        }
        Ok(())
    }

    fn step_present_term(
        &mut self,
        message: Message,
        kind: MessageType,
        from: MemberId,
    ) -> Result<(), StepError> {
        match kind {
            MessageType::MsgVote | MessageType::MsgPreVote => self.step_vote(&message, kind),
            MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgSnap => {
                return self.step_from_leader(message, kind, from);
            }
            // The sender is whom leadership is to be handed to, whoever asked for it.
            MessageType::MsgTransferLeader => self.transfer_leader(from),
            _ => {}
        }
        match (self.role, kind) {
            (Role::Leader, MessageType::MsgAppResp) => self.step_append_response(&message, from),
            (Role::Leader, MessageType::MsgHeartbeatResp) => {
                self.step_heartbeat_response(&message, from);
            }
            (Role::Candidate, MessageType::MsgVoteResp)
            | (Role::PreCandidate, MessageType::MsgPreVoteResp) => {
                self.count_vote(from, !message.reject());
            }
            (Role::Follower, MessageType::MsgTimeoutNow) if self.can_campaign() => {
                // Whoever leads wants it: nobody needs to be asked first.
                self.run_for_leader(MessageType::MsgVote, true);
            }
            (Role::Follower, MessageType::MsgReadIndexResp) => {
                let (index, context) = (LogIndex(message.index()), only_data(&message)?);
                self.reads.push_ready(ReadState { index, context });
            }
            _ => {}
        }
        Ok(())
    }

    /// The message comes from a later term. False when it is to be ignored.
    fn step_newer_term(
        &mut self,
        message: &Message,
        kind: MessageType,
        term: Term,
        from: MemberId,
    ) -> bool {
        let asks_for_vote = matches!(kind, MessageType::MsgVote | MessageType::MsgPreVote);
        if asks_for_vote {
            let forced = message.context() == message::TRANSFER;
            let has_leader = self.config.check_quorum
                && self.leader != MemberId::NONE
                && self.election_elapsed < self.config.election_ticks;
            if has_leader && !forced {
                return false;
            }
        }
        match kind {
            // Asking changes no term, and a granted answer carries the term that was asked for.
            MessageType::MsgPreVote => {}
            MessageType::MsgPreVoteResp if !message.reject() => {}
            MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgSnap => {
                self.become_follower(term, from);
            }
            _ => self.become_follower(term, MemberId::NONE),
        }
        true
    }

    /// The message comes from an earlier term: its sender may have to learn of ours.
    fn step_older_term(&mut self, kind: MessageType, from: MemberId) {
        let guarded = self.config.check_quorum || self.config.pre_vote;
        match kind {
            MessageType::MsgHeartbeat | MessageType::MsgApp if guarded => {
                self.send(message::to(from, MessageType::MsgAppResp));
            }
            MessageType::MsgPreVote => {
                self.send(message::refusal(from, MessageType::MsgPreVoteResp, self.term));
            }
            _ => {}
        }
    }

    fn step_vote(&mut self, message: &Message, kind: MessageType) {
        let from = MemberId(message.from());
        let is_pre_vote = kind == MessageType::MsgPreVote;
        let free = is_on(Mutant::VoteTwice)
            || self.vote == from
            || (self.vote == MemberId::NONE && self.leader == MemberId::NONE)
            || (is_pre_vote && message.term() > self.term.0);
        let theirs = Position { index: LogIndex(message.index()), term: Term(message.log_term()) };
        let answer = message::vote_response(kind);
        let is_good = theirs.is_up_to_date_with(self.log.last()) || is_on(Mutant::VoteForOlderLog);
        if free && is_good {
            // With the term that was asked for: a pre-vote is about a term that is not ours yet.
            self.send(Message { term: message.term, ..message::to(from, answer) });
            if !is_pre_vote {
                self.election_elapsed = 0;
                self.vote = from;
            }
        } else {
            self.send(message::refusal(from, answer, self.term));
        }
    }

    fn step_proposals(&mut self, entries: Vec<Entry>, from: MemberId) -> Result<(), StepError> {
        if entries.is_empty() {
            return Err(StepError::Malformed("a proposal without entries"));
        }
        self.propose_entries(entries, from)?;
        Ok(())
    }

    /// A message that only the leader of the term sends.
    fn step_from_leader(
        &mut self,
        message: Message,
        kind: MessageType,
        from: MemberId,
    ) -> Result<(), StepError> {
        match self.role {
            // Two leaders in one term cannot be: the message is forged or misrouted.
            Role::Leader => return Err(StepError::Malformed("another leader in the same term")),
            Role::Follower => {
                self.election_elapsed = 0;
                self.leader = from;
            }
            Role::Candidate | Role::PreCandidate => self.become_follower(self.term, from),
        }
        match kind {
            MessageType::MsgApp => self.step_append(message, from),
            MessageType::MsgHeartbeat => self.step_heartbeat(&message, from),
            _ => self.step_snapshot(message, from),
        }
    }
}

/// What the one entry of a read request, or of its answer, carries.
fn only_data(message: &Message) -> Result<Bytes, StepError> {
    match message.entries.as_slice() {
        [request] => Ok(request.data.clone().unwrap_or_default()),
        _ => Err(StepError::Malformed("a read request needs one entry")),
    }
}
