//! Proposals: what becomes of them with this member, and how the leader appends them.
//!
//! *Invariants.*
//! 1. The entries of one proposal are appended together or not at all.
//! 2. A change of the configuration is proposed only when all before it are applied, unless that
//!    is not validated.
//!
//! *Contract.* `raft.go` of go.etcd.io/raft v3.7.0.

use base::MemberId;
use base::mutant::{Mutant, is_on};
use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{ConfChange, ConfChangeV2, Entry, EntryType, Message, MessageType};
use thiserror::Error;

use crate::confchange;
use crate::core::{Raft, Role};
use crate::log::Position;
use crate::message;

/// Why a proposal went nowhere. Unless it is malformed, it may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Nobody leads, as far as this member knows.
    #[error("no leader")]
    NoLeader,
    /// Another member leads, and this one does not hand proposals over.
    #[error("this member does not forward proposals to the leader")]
    NotForwarded,
    /// Leadership is being handed over.
    #[error("leadership is being transferred")]
    Transferring,
    /// This member has been removed.
    #[error("not a member of the configuration")]
    Removed,
    /// Too much is proposed and not applied yet.
    #[error("too many bytes are waiting to be committed")]
    Uncommitted,
    /// The change of the configuration cannot be read.
    #[error("malformed configuration change")]
    Malformed,
}

impl Raft {
    /// Proposes data. When this member leads, returns where in the log it stands; else the
    /// proposal is on its way to the leader.
    pub fn propose(&mut self, data: Bytes) -> Result<Option<Position>, ProposeError> {
        let entry = Entry { data: Some(data), ..Entry::default() };
        self.propose_entries(vec![entry], MemberId::NONE)
    }

    /// Proposes a change of the configuration. While another one is not applied, an empty entry
    /// takes its place in the log.
    pub fn propose_conf_change(
        &mut self,
        change: &ConfChange,
    ) -> Result<Option<Position>, ProposeError> {
        let entry = change_entry(EntryType::EntryConfChange, change.encode_to_vec());
        self.propose_entries(vec![entry], MemberId::NONE)
    }

    /// Proposes a change of any number of members, or with no members the end of a joint change.
    /// An empty entry takes its place when it does not fit the present configuration.
    pub fn propose_conf_change_v2(
        &mut self,
        change: &ConfChangeV2,
    ) -> Result<Option<Position>, ProposeError> {
        let entry = change_entry(EntryType::EntryConfChangeV2, change.encode_to_vec());
        self.propose_entries(vec![entry], MemberId::NONE)
    }

    /// Proposes what `from` wants to.
    pub(crate) fn propose_entries(
        &mut self,
        entries: Vec<Entry>,
        from: MemberId,
    ) -> Result<Option<Position>, ProposeError> {
        match self.role {
            Role::Leader => self.append_proposals(entries).map(Some),
            Role::Follower if self.leader != MemberId::NONE => {
                if self.config.disable_proposal_forwarding {
                    return Err(ProposeError::NotForwarded);
                }
                let forward = message::to(self.leader, MessageType::MsgProp);
                let forward = Message { from: Some(from.0), entries, ..forward };
                if is_on(Mutant::ForwardTwice) {
                    self.send(forward.clone());
                }
                self.send(forward);
                Ok(None)
            }
            _ => Err(ProposeError::NoLeader),
        }
    }

    /// Whether a change of the configuration may be proposed now. A leader that has not applied the
    /// one before, or its log when it came to lead, would put an empty entry in its place.
    pub fn takes_changes(&self) -> bool {
        self.role != Role::Leader || self.conf_change_until <= self.log.applied()
    }

    fn append_proposals(&mut self, mut entries: Vec<Entry>) -> Result<Position, ProposeError> {
        if self.tracker.progress(self.config.id).is_none() {
            return Err(ProposeError::Removed);
        }
        if self.transferee.is_some() {
            return Err(ProposeError::Transferring);
        }
        let first = self.log.last().index.next();
        let (mut until, mut bytes) = (self.conf_change_until, 0);
        for (entry, index) in entries.iter_mut().zip(first.0..) {
            if let Some(change) = change_of(entry)? {
                let fits = until <= self.log.applied() && self.is_in_place(&change);
                if fits || self.config.disable_conf_change_validation {
                    until.0 = index;
                } else {
                    let normal = EntryType::EntryNormal.into();
                    *entry = Entry { r#type: Some(normal), ..Entry::default() };
                }
            }
            bytes += entry.data().len() as u64;
        }
        self.reserve(bytes)?;
        self.conf_change_until = until;
        self.append_own(entries);
        self.broadcast_append();
        Ok(Position { index: first, term: self.term })
    }

    /// Whether the change may follow the present configuration, which is still that when it is
    /// applied: what failed then would fail with every member.
    fn is_in_place(&self, change: &ConfChangeV2) -> bool {
        confchange::leaves_joint(change) == change.changes.is_empty()
            && self.tracker.clone().change(change, self.log.last().index).is_ok()
    }

    /// Accounts for data that is going to be proposed. Entries without any are never refused, nor
    /// is the first after everything was applied, however large.
    fn reserve(&mut self, bytes: u64) -> Result<(), ProposeError> {
        let max = self.config.uncommitted_bytes_max;
        let sum = self.uncommitted_bytes + bytes;
        if max != 0 && self.uncommitted_bytes > 0 && bytes > 0 && sum > max {
            return Err(ProposeError::Uncommitted);
        }
        self.uncommitted_bytes = sum;
        Ok(())
    }

    /// Ends a joint change that does so by itself, once its beginning is applied.
    pub(crate) fn maybe_leave_joint(&mut self) {
        let is_due = self.tracker.configuration().auto_leave
            && self.role == Role::Leader
            && self.log.applied() >= self.conf_change_until;
        if is_due {
            let kind = EntryType::EntryConfChangeV2.into();
            let leave = Entry { r#type: Some(kind), ..Entry::default() };
            // Refused during a transfer only. Then the new leader does it, or this one does with
            // the next entry that is applied.
            let _refused = self.append_proposals(vec![leave]);
        }
    }

    /// The empty entry that a new leader begins its term with.
    pub(crate) fn append_empty(&mut self) {
        self.append_own(vec![Entry::default()]);
    }

    /// Appends entries as leader. Its own vote for them comes back when they are durable.
    fn append_own(&mut self, mut entries: Vec<Entry>) {
        for (entry, index) in entries.iter_mut().zip(self.log.last().index.next().0..) {
            entry.term = Some(self.term.0);
            entry.index = Some(index);
        }
        let last = self.log.extend(entries);
        let vote = message::to(self.config.id, MessageType::MsgAppResp);
        self.send(Message { index: Some(last.0), ..vote });
    }
}

fn change_entry(kind: EntryType, data: Vec<u8>) -> Entry {
    Entry { r#type: Some(kind.into()), data: Some(data.into()), ..Entry::default() }
}

/// The change of the configuration that the entry asks for, if it does.
fn change_of(entry: &Entry) -> Result<Option<ConfChangeV2>, ProposeError> {
    let change = match entry.r#type() {
        EntryType::EntryNormal => return Ok(None),
        EntryType::EntryConfChange => {
            proto::decode::<ConfChange>(entry.data()).map(|change| confchange::widened(&change))
        }
        EntryType::EntryConfChangeV2 => proto::decode::<ConfChangeV2>(entry.data()),
    };
    change.map(Some).map_err(|_| ProposeError::Malformed)
}
