//! What is proposed, by clients and by the member itself, and how much of it may wait.
//!
//! A change of the members that reaches the leader before the one before it is applied waits for
//! that. In etcd an empty entry takes its place, and whoever asked hears nothing until the time of
//! the request is up.

use base::{LogIndex, MemberId, RequestId, limits};
use proto::raftpb::{ConfChange, Entry, EntryType, Message, MessageType};
use raft::ProposeError;

use super::{Node, request_timeout};
use crate::effect::Answer;
use crate::held::Proposal;
use crate::leader::Standing;
use crate::requests::Rejected;

/// Data of entries not applied yet, beyond which proposals are refused.
const UNAPPLIED_BYTES_MAX: usize = 256 << 20;

/// Changes of the members that may wait for the one before them to be applied; what comes beyond
/// is treated as etcd treats all of them.
const CHANGES_MAX: usize = 64;

/// A change of the members that waits.
pub(super) enum Postponed {
    /// Asked for here.
    Own(RequestId, Box<ConfChange>),
    /// Asked for at another member.
    Forwarded(Box<Message>),
}

impl Node {
    pub(super) fn propose(&mut self, id: RequestId, proposal: Proposal) {
        if let Some(reason) = self.cannot_take_in() {
            self.answers.push(Answer::Refused { id, reason });
            return;
        }
        let proposal = match proposal {
            Proposal::Change(change) if !self.raft.takes_changes() && self.may_postpone() => {
                self.postpone(Postponed::Own(id, change));
                return;
            }
            now => now,
        };
        let bytes = proposal.bytes();
        let proposed = match &proposal {
            Proposal::Request(data) => self.raft.propose(data.clone()),
            Proposal::Change(change) => self.raft.propose_conf_change(change),
        };
        let reason = match proposed {
            Ok(Some(_)) => {
                self.proposed_bytes += bytes;
                return;
            }
            // On its way to the leader, who counts it.
            Ok(None) => return,
            Err(ProposeError::NoLeader | ProposeError::Transferring) => {
                let until = self.now + request_timeout(self.election());
                if self.held.push(id, proposal, until) {
                    return;
                }
                Rejected::TooManyRequests
            }
            Err(ProposeError::Removed) => Rejected::Stopped,
            Err(_) => Rejected::TooManyRequests,
        };
        self.answers.push(Answer::Refused { id, reason });
    }

    pub(super) fn cannot_take_in(&self) -> Option<Rejected> {
        let status = self.raft.status();
        let backlog = status.committed.0.saturating_sub(status.applied.0);
        if self.is_stopping() {
            Some(Rejected::Stopped)
        } else if backlog > limits::APPLY_BACKLOG_MAX
            || self.unapplied.0 + self.proposed_bytes > UNAPPLIED_BYTES_MAX
        {
            Some(Rejected::TooManyRequests)
        } else {
            None
        }
    }

    /// Proposes what waited for a leader.
    pub(super) fn release_held(&mut self) {
        if self.raft.status().leader == MemberId::NONE || self.raft.transferee().is_some() {
            return;
        }
        for (id, proposal) in std::iter::from_fn(|| self.held.pop()).collect::<Vec<_>>() {
            self.propose(id, proposal);
        }
    }

    fn may_postpone(&self) -> bool {
        self.changes.len() < CHANGES_MAX
    }

    /// Whether a message carries a change of the members that has to wait.
    pub(super) fn must_wait(&self, message: &Message) -> bool {
        let is_change = |entry: &Entry| entry.r#type() != EntryType::EntryNormal;
        message.r#type() == MessageType::MsgProp
            && message.entries.iter().any(is_change)
            && !self.raft.takes_changes()
            && self.may_postpone()
    }

    pub(super) fn postpone(&mut self, change: Postponed) {
        self.changes.push_back(change);
    }

    /// Proposes changes of the members that waited, as far as that is possible now: a leader takes
    /// one, and who does not lead any more passes all on.
    pub(super) fn release_changes(&mut self) {
        while self.raft.takes_changes()
            && let Some(next) = self.changes.pop_front()
        {
            match next {
                Postponed::Own(id, change) => self.propose(id, Proposal::Change(change)),
                Postponed::Forwarded(message) => {
                    // With nobody to pass it on to, it is lost as on the network.
                    let _dropped = self.raft.step(*message);
                }
            }
        }
    }

    /// Refuses the changes that wait: this member ends.
    pub(super) fn refuse_changes(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            if let Postponed::Own(id, _) = change {
                self.answers.push(Answer::Refused { id, reason: Rejected::Stopped });
            }
        }
    }

    pub(super) fn propose_own(&mut self) {
        if self.is_stopping() {
            return;
        }
        let standing = Standing {
            has_leader: self.raft.status().leader != MemberId::NONE,
            leads: self.leads(),
        };
        let tracker = self.raft.tracker();
        let members = || tracker.members().map(|(id, _)| id).collect();
        let mut proposals = Vec::new();
        self.duties.due(self.now, standing, &members, &*self.state, &mut proposals);
        for (_, data) in proposals {
            // One that goes nowhere is made again after its timeout.
            let bytes = data.len();
            if let Ok(Some(_)) = self.raft.propose(data) {
                self.proposed_bytes += bytes;
            }
        }
    }

    /// Keeps count of the data that the state has not taken in.
    pub(super) fn count_appended(&mut self, entries: &[Entry]) {
        self.proposed_bytes = 0;
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let (bytes, upto) = &mut self.unapplied;
        if first.index() > upto.0 {
            *bytes += entries.iter().map(|entry| entry.data().len()).sum::<usize>();
        } else {
            // They take the place of others.
            let log = self.raft.log();
            let all = (log.applied().0 + 1..=log.last().index.0).map(LogIndex);
            *bytes = all.filter_map(|at| log.entry(at)).map(|entry| entry.data().len()).sum();
        }
        *upto = LogIndex(last.index());
    }
}
