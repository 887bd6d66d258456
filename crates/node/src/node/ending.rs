//! How a member hands over and ends.

use base::{MemberId, Moment};

use super::Node;
use crate::effect::Answer;
use crate::handover::hand_over;
use crate::input::Ticket;
use crate::requests::Rejected;

/// How a member ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It does not.
    None,
    /// It waits for another one to lead, but not longer than this.
    HandingOver(Moment),
    /// It listens to nobody any more, and brings what is committed into the database.
    Draining,
    /// It has ended.
    Stopped,
}

impl Node {
    pub(super) fn is_stopping(&self) -> bool {
        self.ending != Ending::None
    }

    /// Whether other members are still listened to.
    pub(super) fn is_deaf(&self) -> bool {
        matches!(self.ending, Ending::Draining | Ending::Stopped)
    }

    pub(super) fn transfer_leader(&mut self, to: MemberId, ticket: Ticket) {
        if self.is_stopping() {
            self.answers.push(Answer::TicketRefused(ticket, Rejected::Stopped));
            return;
        }
        self.answers.extend(self.transfers.begin(&mut self.raft, (to, ticket), self.now));
    }

    pub(super) fn stop(&mut self, connected: &[MemberId]) {
        if self.is_stopping() {
            return;
        }
        self.held.refuse(&Rejected::Stopped, &mut self.answers);
        self.refuse_changes();
        if hand_over(&mut self.raft, connected) {
            self.ending = Ending::HandingOver(self.now + self.election());
        } else {
            self.drain();
        }
    }

    pub(super) fn drain(&mut self) {
        self.ending = Ending::Draining;
        self.commits.drain();
        for message in self.commits.abandon_snapshots() {
            self.snapshot_sent(MemberId(message.to()), false);
        }
    }

    /// When stopping: ends as soon as everything committed is applied and in the database.
    pub(super) fn finish_stopping(&mut self) {
        if self.ending != Ending::Draining {
            return;
        }
        let status = self.raft.status();
        let is_quiet = self.logging.is_empty()
            && self.applying.is_empty()
            && self.install.is_none()
            && self.installing.is_none()
            && status.applied == status.committed
            && !self.raft.has_duties()
            && self.commits.is_idle();
        if !is_quiet {
            return;
        }
        // Else the last commit is on its way.
        if self.commits.is_drained(status.applied) {
            self.ending = Ending::Stopped;
            self.reads.refuse(&Rejected::Stopped, &mut self.answers);
            self.answers.push(Answer::Stopped);
        }
    }
}
