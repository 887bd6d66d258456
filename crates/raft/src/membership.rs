//! Putting committed changes of the configuration into force.
//!
//! *Contract.* `raft.go` of go.etcd.io/raft v3.7.0.

use base::MemberId;
use proto::raftpb::{ConfChange, ConfChangeV2, ConfState};

use crate::confchange::{self, ConfChangeError};
use crate::core::{Raft, Role};

impl Raft {
    /// Puts a committed change of the configuration into force. A refused change is given with
    /// the member id 0, and changes nothing.
    pub fn apply_conf_change(&mut self, change: &ConfChange) -> Result<ConfState, ConfChangeError> {
        self.apply_conf_change_v2(&confchange::widened(change))
    }

    /// Puts a committed change of any number of members into force.
    pub fn apply_conf_change_v2(
        &mut self,
        change: &ConfChangeV2,
    ) -> Result<ConfState, ConfChangeError> {
        self.tracker.change(change, self.log.last().index)?;
        let state = self.tracker.configuration().conf_state();
        self.configuration_changed();
        Ok(state)
    }

    /// What follows from another configuration for a leader: it may not be part of it any more,
    /// and other majorities may mean that more is committed.
    fn configuration_changed(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        if self.tracker.progress(self.config.id).is_none_or(|own| own.is_learner) {
            if self.config.step_down_on_removal {
                self.become_follower(self.term, MemberId::NONE);
            }
            return;
        }
        if self.maybe_commit() {
            self.release_reads();
            self.broadcast_append();
        } else {
            // Who is new need not wait for the next heartbeat.
            self.each_other(|raft, id| {
                raft.maybe_send_append(id, false);
            });
        }
        if let Some(to) = self.transferee
            && !self.tracker.configuration().voters.contains(to)
        {
            self.transferee = None;
        }
    }
}
