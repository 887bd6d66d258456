//! Handing leadership over: the transferee is brought up to date, and then told to start its
//! election at once, while nothing is proposed. After an election timeout the leader goes on.
//!
//! *Contract.* `raft.go` of go.etcd.io/raft v3.7.0, section 3.10 of the raft thesis.

use base::MemberId;
use proto::raftpb::{Message, MessageType};

use crate::core::{Raft, Role};
use crate::message;

impl Raft {
    /// Hands leadership to `to`, which must be a voter. Who follows asks the leader to do so;
    /// without a leader nothing happens.
    pub fn transfer_leader(&mut self, to: MemberId) {
        match self.role {
            Role::Leader => self.start_transfer(to),
            Role::Follower => self.forward_transfer(to),
            Role::Candidate | Role::PreCandidate => {}
        }
    }

    /// To whom leadership is being handed.
    pub fn transferee(&self) -> Option<MemberId> {
        self.transferee
    }

    /// The sender of this message is the transferee, whoever asks.
    fn forward_transfer(&mut self, to: MemberId) {
        if self.leader != MemberId::NONE {
            let kind = MessageType::MsgTransferLeader;
            self.send(Message { from: Some(to.0), ..message::to(self.leader, kind) });
        }
    }

    fn start_transfer(&mut self, to: MemberId) {
        let eligible = self.tracker.progress(to).is_some_and(|progress| !progress.is_learner);
        if !eligible || self.transferee == Some(to) {
            return;
        }
        // Another one under way is given up, also for this member itself.
        self.transferee = None;
        if to == self.config.id {
            return;
        }
        self.election_elapsed = 0;
        self.transferee = Some(to);
        if !self.try_hand_over(to) {
            self.maybe_send_append(to, true);
        }
    }

    /// Tells the transferee to start its election, as soon as it has the whole log.
    pub(crate) fn try_hand_over(&mut self, to: MemberId) -> bool {
        let last = self.log.last().index;
        let is_ready = self.tracker.progress(to).is_some_and(|progress| progress.matched == last);
        if is_ready {
            // What is committed must not come after a message that ends this term.
            self.send_gathered();
            self.send(message::to(to, MessageType::MsgTimeoutNow));
        }
        is_ready
    }
}
