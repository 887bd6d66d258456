//! The passing of time, changing roles, and asking for votes.
//!
//! *Contract.* `raft.go` of go.etcd.io/raft v3.7.0.

use base::{LogIndex, MemberId, Term};
use proto::raftpb::{Message, MessageType};

use crate::config::ReadMode;
use crate::core::{Raft, Role};
use crate::message;
use crate::quorum::VoteResult;

impl Raft {
    // ---- time ----

    /// Time has passed: one heartbeat interval.
    pub fn tick(&mut self) {
        self.election_elapsed += 1;
        if self.role == Role::Leader {
            self.tick_leader();
        } else if self.is_promotable() && self.election_elapsed >= self.election_timeout {
            self.election_elapsed = 0;
            self.campaign();
        }
    }

    fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            if self.config.check_quorum && !self.check_quorum() {
                return;
            }
            // Whoever was to take over did not do so within an election timeout.
            self.transferee = None;
        }
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.broadcast_heartbeat();
        }
    }

    /// Steps down when no quorum was heard from since the last time.
    fn check_quorum(&mut self) -> bool {
        let id = self.config.id;
        if let Some(own) = self.tracker.progress_mut(id) {
            own.recent_active = true;
        }
        if !self.tracker.quorum_active() {
            self.become_follower(self.term, MemberId::NONE);
            return false;
        }
        for (other, progress) in self.tracker.members_mut() {
            progress.recent_active = other == id;
        }
        true
    }

    /// Starts an election now, if this member may.
    pub fn campaign(&mut self) {
        if self.can_campaign() {
            let kind = match self.config.pre_vote {
                true => MessageType::MsgPreVote,
                false => MessageType::MsgVote,
            };
            self.run_for_leader(kind, false);
        }
    }

    /// Lets the next election without a leader start after `ticks`, until the member's term or
    /// role changes and a new number is drawn.
    pub fn set_election_timeout(&mut self, ticks: u32) {
        self.election_timeout = ticks;
    }

    /// Gives up the belief in the present leader, without a change of the term: this member may
    /// vote for another one at once. Only for who follows, and not while reads trust a lease.
    pub fn forget_leader(&mut self) {
        if self.role == Role::Follower && self.config.read_mode != ReadMode::Lease {
            self.leader = MemberId::NONE;
        }
    }

    // ---- roles ----

    fn reset(&mut self, term: Term) {
        if self.term != term {
            self.term = term;
            self.vote = MemberId::NONE;
        }
        self.leader = MemberId::NONE;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        self.draw_election_timeout();
        self.transferee = None;
        self.conf_change_until = LogIndex(0);
        self.uncommitted_bytes = 0;
        (self.append_due, self.heartbeat_due) = (false, false);
        self.reads.forget();
        self.tracker.forget_votes();
        let (own, last) = (self.config.id, self.log.last().index);
        for (id, progress) in self.tracker.members_mut() {
            progress.reset(last.next());
            if id == own {
                progress.matched = last;
            }
        }
    }

    fn draw_election_timeout(&mut self) {
        let ticks = self.config.election_ticks;
        let extra = self.rng.below(u64::from(ticks));
        self.election_timeout = ticks + u32::try_from(extra).unwrap_or(0);
    }

    pub(crate) fn become_follower(&mut self, term: Term, leader: MemberId) {
        self.reset(term);
        self.role = Role::Follower;
        self.leader = leader;
    }

    fn become_pre_candidate(&mut self) {
        assert_ne!(self.role, Role::Leader, "a leader does not ask for votes");
        // Neither term nor vote change: others are only asked what they would do.
        self.tracker.forget_votes();
        self.leader = MemberId::NONE;
        self.role = Role::PreCandidate;
    }

    fn become_candidate(&mut self) {
        assert_ne!(self.role, Role::Leader, "a leader does not ask for votes");
        self.reset(self.term.next());
        self.vote = self.config.id;
        self.role = Role::Candidate;
    }

    fn become_leader(&mut self) {
        assert_ne!(self.role, Role::Follower, "a leader was a candidate before");
        self.reset(self.term);
        self.leader = self.config.id;
        self.role = Role::Leader;
        let own = self.config.id;
        if let Some(progress) = self.tracker.progress_mut(own) {
            progress.replicate();
            progress.recent_active = true;
        }
        // There may be a change of the configuration among the entries not committed yet.
        self.conf_change_until = self.log.last().index;
        self.append_empty();
    }

    // ---- votes ----

    /// Asks everyone for votes of `kind`. The own vote counts when it is durable.
    pub(crate) fn run_for_leader(&mut self, kind: MessageType, transfer: bool) {
        let term = if kind == MessageType::MsgPreVote {
            self.become_pre_candidate();
            self.term.next()
        } else {
            self.become_candidate();
            self.term
        };
        let last = self.log.last();
        for id in self.tracker.configuration().voters.ids() {
            if id == self.config.id {
                let own = message::to(id, message::vote_response(kind));
                self.send(Message { term: Some(term.0), ..own });
                continue;
            }
            let context = transfer.then(|| message::TRANSFER.into());
            let request = Message {
                term: Some(term.0),
                index: Some(last.index.0),
                log_term: Some(last.term.0),
                context,
                ..message::to(id, kind)
            };
            self.send(request);
        }
    }

    /// A voter has answered a candidate.
    pub(crate) fn count_vote(&mut self, from: MemberId, granted: bool) {
        match self.tracker.record_vote(from, granted) {
            VoteResult::Pending => {}
            // The term of a refused pre-vote is not ours: nothing else changes.
            VoteResult::Lost => self.become_follower(self.term, MemberId::NONE),
            VoteResult::Won if self.role == Role::PreCandidate => {
                self.run_for_leader(MessageType::MsgVote, false);
            }
            VoteResult::Won => {
                self.become_leader();
                self.broadcast_append();
            }
        }
    }
}
