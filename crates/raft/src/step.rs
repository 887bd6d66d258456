//! Messages from other members, and from this one to itself after its disk has written.

use base::{LogIndex, MemberId, Term};
use bytes::Bytes;
use proto::raftpb::{Entry, Message, MessageType, Snapshot};
use thiserror::Error;

use crate::core::{ProposeError, Raft, Role};
use crate::duties::ReadState;
use crate::log::Position;
use crate::message;
use crate::tracker::Tracker;

/// A message that changed nothing, and whose sender may want to know.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StepError {
    /// Of a kind that only the member itself may use.
    #[error("message {0:?} may not come from outside")]
    Local(MessageType),
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
        match kind {
            MessageType::MsgProp => return self.step_proposals(message.entries),
            MessageType::MsgReadIndex => {
                return self.step_read_request(message);
            }
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgCheckQuorum
            | MessageType::MsgStorageAppend
            | MessageType::MsgStorageAppendResp
            | MessageType::MsgStorageApply
            | MessageType::MsgStorageApplyResp
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgForgetLeader => return Err(StepError::Local(kind)),
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
        match kind {
            MessageType::MsgVote | MessageType::MsgPreVote => self.step_vote(&message, kind),
            MessageType::MsgVoteResp if self.role == Role::Candidate => {
                self.count_vote(from, !message.reject());
            }
            MessageType::MsgPreVoteResp if self.role == Role::PreCandidate => {
                self.count_vote(from, !message.reject());
            }
            MessageType::MsgApp | MessageType::MsgHeartbeat | MessageType::MsgSnap => {
                return self.step_from_leader(message, kind, from);
            }
            MessageType::MsgAppResp => self.step_append_response(&message, from),
            MessageType::MsgTimeoutNow if self.role == Role::Follower && self.can_campaign() => {
                self.run_for_leader(MessageType::MsgVote, true);
            }
            MessageType::MsgReadIndexResp => {
                if self.role == Role::Follower
                    && let [request] = message.entries.as_slice()
                {
                    let (index, context) = (LogIndex(message.index()), data_of(request));
                    self.read_ready(ReadState { index, context });
                }
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
        let free = self.vote == from
            || (self.vote == MemberId::NONE && self.leader == MemberId::NONE)
            || (is_pre_vote && message.term() > self.term.0);
        let theirs = Position { index: LogIndex(message.index()), term: Term(message.log_term()) };
        let answer = message::vote_response(kind);
        if free && theirs.is_up_to_date_with(self.log.last()) {
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

    fn step_proposals(&mut self, entries: Vec<Entry>) -> Result<(), StepError> {
        if entries.is_empty() {
            return Err(StepError::Malformed("a proposal without entries"));
        }
        for entry in entries {
            self.propose_entry(entry)?;
        }
        Ok(())
    }

    fn step_read_request(&mut self, message: Message) -> Result<(), StepError> {
        let [request] = message.entries.as_slice() else {
            return Err(StepError::Malformed("a read request needs one entry"));
        };
        // Answering other members comes with replication; a sole voter has none.
        if message.from() == self.config.id.0 || message.from() == 0 {
            self.read_index(data_of(request));
        }
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
            _ => self.step_snapshot(message.snapshot, from),
        }
    }

    fn step_append(&mut self, message: Message, from: MemberId) -> Result<(), StepError> {
        let before = Position { index: LogIndex(message.index()), term: Term(message.log_term()) };
        let consecutive = (before.index.0 + 1..).zip(&message.entries);
        if consecutive.into_iter().any(|(index, entry)| entry.index() != index) {
            return Err(StepError::Malformed("entries do not follow each other"));
        }
        let answer = message::to(from, MessageType::MsgAppResp);
        let committed = self.log.committed();
        if before.index < committed {
            self.send(Message { index: Some(committed.0), ..answer });
            return Ok(());
        }
        match self.log.accept(before, message.entries, LogIndex(message.commit.unwrap_or(0))) {
            Some(last) => self.send(Message { index: Some(last.0), ..answer }),
            None => {
                let at = before.index.min(self.log.last().index);
                let (hint, term) = self.log.conflict_hint(at, before.term);
                self.send(Message {
                    index: Some(before.index.0),
                    reject: Some(true),
                    reject_hint: Some(hint.0),
                    log_term: Some(term.unwrap_or_default().0),
                    ..answer
                });
            }
        }
        Ok(())
    }

    fn step_heartbeat(&mut self, message: &Message, from: MemberId) -> Result<(), StepError> {
        let commit = LogIndex(message.commit());
        if commit > self.log.last().index {
            return Err(StepError::Malformed("a commit index beyond the log"));
        }
        self.log.commit_to(commit);
        let answer = message::to(from, MessageType::MsgHeartbeatResp);
        self.send(Message { context: message.context.clone(), ..answer });
        Ok(())
    }

    fn step_snapshot(
        &mut self,
        snapshot: Option<Snapshot>,
        from: MemberId,
    ) -> Result<(), StepError> {
        let snapshot = snapshot.ok_or(StepError::Malformed("no snapshot"))?;
        let metadata =
            snapshot.metadata.as_ref().ok_or(StepError::Malformed("no snapshot metadata"))?;
        let position = Position { index: LogIndex(metadata.index()), term: Term(metadata.term()) };
        let reached = if self.restore(snapshot, position)? {
            self.log.last().index
        } else {
            self.log.committed()
        };
        let answer = message::to(from, MessageType::MsgAppResp);
        self.send(Message { index: Some(reached.0), ..answer });
        Ok(())
    }

    /// Puts the snapshot in the place of the log, unless the log has what it would bring.
    fn restore(&mut self, snapshot: Snapshot, position: Position) -> Result<bool, StepError> {
        if position.index <= self.log.committed() {
            return Ok(false);
        }
        let conf_state =
            snapshot.metadata.as_ref().and_then(|metadata| metadata.conf_state.clone());
        let conf_state = conf_state.unwrap_or_default();
        let tracker = Tracker::restore(&conf_state, position.index)
            .map_err(|_| StepError::Malformed("contradictory configuration in a snapshot"))?;
        if tracker.progress(self.config.id).is_none() {
            return Ok(false);
        }
        if self.log.has(position) {
            self.log.commit_to(position.index);
            return Ok(false);
        }
        self.log.install(snapshot, position);
        self.tracker = tracker;
        self.configuration_changed();
        Ok(true)
    }

    /// A member, this one included, has made entries durable.
    fn step_append_response(&mut self, message: &Message, from: MemberId) {
        let index = LogIndex(message.index());
        if self.role != Role::Leader || message.reject() || index > self.log.last().index {
            return;
        }
        let Some(progress) = self.tracker.progress_mut(from) else { return };
        progress.recent_active = true;
        if index <= progress.matched {
            return;
        }
        progress.matched = index;
        progress.next = progress.next.max(index.next());
        if self.maybe_commit() {
            self.release_reads();
        }
        if self.transferee == Some(from) {
            self.try_hand_over(from);
        }
    }
}

fn data_of(entry: &Entry) -> Bytes {
    entry.data.clone().unwrap_or_default()
}
