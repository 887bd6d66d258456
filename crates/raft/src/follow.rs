//! The follower's side of replication: appends, heartbeats and snapshots of the term's leader.
//!
//! *Invariants.*
//! 1. What is committed is never replaced.
//! 2. A refusal names a place behind which the logs cannot agree.
//!
//! *Contract.* `raft.go` of go.etcd.io/raft v3.7.0.

use base::{LogIndex, MemberId, Term};
use proto::raftpb::{Entry, Message, MessageType, Snapshot};

use crate::core::{Raft, snapshot_position};
use crate::log::Position;
use crate::message;
use crate::step::{NUMBER_MAX, StepError};

impl Raft {
    pub(crate) fn step_append(
        &mut self,
        message: Message,
        from: MemberId,
    ) -> Result<(), StepError> {
        let before = Position { index: LogIndex(message.index()), term: Term(message.log_term()) };
        check_consecutive(before, &message.entries, Term(message.term()))?;
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

    pub(crate) fn step_heartbeat(
        &mut self,
        message: &Message,
        from: MemberId,
    ) -> Result<(), StepError> {
        let commit = LogIndex(message.commit());
        if commit > self.log.last().index {
            return Err(StepError::Malformed("a commit index beyond the log"));
        }
        self.log.commit_to(commit);
        let answer = message::to(from, MessageType::MsgHeartbeatResp);
        self.send(Message { context: message.context.clone(), ..answer });
        Ok(())
    }

    pub(crate) fn step_snapshot(
        &mut self,
        mut message: Message,
        from: MemberId,
    ) -> Result<(), StepError> {
        let snapshot = message.snapshot.take().ok_or(StepError::Malformed("no snapshot"))?;
        let position = snapshot_position(&snapshot);
        if position.index.0 > NUMBER_MAX || position.term.0 > message.term() {
            return Err(StepError::Malformed("a snapshot out of reach"));
        }
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
        let mut tracker = self.tracker.clone();
        tracker
            .restore(&conf_state, position.index)
            .map_err(|_| StepError::Malformed("contradictory configuration in a snapshot"))?;
        if tracker.progress(self.config.id).is_none() {
            return Ok(false);
        }
        if self.log.has(position) {
            self.log.commit_to(position.index);
            return Ok(false);
        }
        self.snapshot = Some(snapshot.clone());
        self.log.install(snapshot, position);
        self.tracker = tracker;
        Ok(true)
    }
}

/// Entries of a leader follow each other, with terms that do not descend and not exceed its own.
fn check_consecutive(before: Position, entries: &[Entry], term: Term) -> Result<(), StepError> {
    let mut last = before;
    for entry in entries {
        let next = Position { index: LogIndex(entry.index()), term: Term(entry.term()) };
        if last.index.0.checked_add(1) != Some(next.index.0) || next.term < last.term {
            return Err(StepError::Malformed("entries do not follow each other"));
        }
        last = next;
    }
    if !entries.is_empty() && last.term > term {
        return Err(StepError::Malformed("an entry of a later term than its leader's"));
    }
    Ok(())
}
