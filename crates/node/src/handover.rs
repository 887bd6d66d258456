//! Leadership that is handed over: because somebody asked for it, because the member ends, or
//! because its own disk does not answer.
//!
//! A leader whose disk stalls still sends and still is heard, so nobody takes over; but it applies
//! nothing and answers nobody. So it hands over to the member that has most of its log. Time is
//! counted in ticks that this member saw pass: a process that was suspended is not a stalled disk.
//!
//! *Invariants.* One transfer at a time; each is bounded by an election timeout, after which raft
//! gives it up.
//!
//! *Contract.* `MoveLeader`, `TryTransferLeadershipOnShutdown` of `server/etcdserver/server.go` of
//! etcd v3.7.1. The stalled disk is ours.

use std::time::Duration;

use base::{MemberId, Moment};
use raft::{Raft, Role};

use crate::effect::Answer;
use crate::input::Ticket;
use crate::requests::Rejected;

/// Callers that may wait for a transfer.
const TRANSFERS_MAX: usize = 64;

/// Election timeouts without a report of the log lane, while one is due, after which a leader
/// takes its disk for stalled.
const STALLED_ELECTIONS: u32 = 1;

struct Transfer {
    ticket: Ticket,
    to: MemberId,
    until: Moment,
}

/// Who waits for another leader.
pub(crate) struct Transfers {
    waiting: Vec<Transfer>,
    /// How long raft tries.
    election: Duration,
}

impl Transfers {
    pub(crate) const fn new(election: Duration) -> Self {
        Self { waiting: Vec::new(), election }
    }

    /// Hands leadership to `to`, or says why not.
    pub(crate) fn begin(
        &mut self,
        raft: &mut Raft,
        (to, ticket): (MemberId, Ticket),
        now: Moment,
    ) -> Option<Answer> {
        let is_voter = raft.tracker().configuration().voters.contains(to);
        let refused = if raft.status().role != Role::Leader {
            Rejected::NotLeader
        } else if !is_voter {
            Rejected::BadLeaderTransferee
        } else if to == raft.id() {
            return Some(Answer::Transferred(ticket));
        } else if self.waiting.len() >= TRANSFERS_MAX {
            Rejected::TooManyRequests
        } else {
            raft.transfer_leader(to);
            self.waiting.push(Transfer { ticket, to, until: now + self.election });
            return None;
        };
        Some(Answer::TicketRefused(ticket, refused))
    }

    /// Answers those who have waited for what is, or for too long.
    pub(crate) fn answer(&mut self, leader: MemberId, now: Moment, answers: &mut Vec<Answer>) {
        for Transfer { ticket, .. } in self.waiting.extract_if(.., |wait| wait.to == leader) {
            answers.push(Answer::Transferred(ticket));
        }
        for Transfer { ticket, .. } in self.waiting.extract_if(.., |wait| wait.until <= now) {
            answers.push(Answer::TicketRefused(ticket, Rejected::LeaderTransferTimeout));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.waiting.iter().map(|wait| wait.until).min()
    }
}

/// Begins to hand over to the first of `connected` that may lead. False when there is none.
pub(crate) fn hand_over(raft: &mut Raft, connected: &[MemberId]) -> bool {
    if raft.status().role != Role::Leader || raft.is_sole_voter() {
        return false;
    }
    let voters = &raft.tracker().configuration().voters;
    let mut others = connected.iter().filter(|id| **id != raft.id() && voters.contains(**id));
    let Some(to) = others.next().copied() else { return false };
    raft.transfer_leader(to);
    true
}

/// How the log lane has answered.
#[derive(Default)]
pub(crate) struct Stall {
    /// Ticks without a report while one was due.
    ticks: u32,
    /// Reports so far, at the last tick.
    reports: u64,
    /// How often this member handed over because of it.
    pub(crate) handed_over: u64,
}

impl Stall {
    /// A tick has passed. When the disk of a leader does not answer, hands over.
    pub(crate) fn tick(
        &mut self,
        raft: &mut Raft,
        reports: u64,
        is_due: bool,
        election_ticks: u32,
    ) {
        if !is_due || reports != self.reports {
            (self.ticks, self.reports) = (0, reports);
            return;
        }
        self.ticks = self.ticks.saturating_add(1);
        if self.ticks < STALLED_ELECTIONS * election_ticks {
            return;
        }
        // When nothing comes of it, the next attempt is an election timeout later.
        self.ticks = 0;
        let own = raft.id();
        let mut others: Vec<_> = raft
            .tracker()
            .members()
            .filter(|(id, progress)| *id != own && progress.recent_active)
            .map(|(id, progress)| (progress.matched, id))
            .collect();
        others.sort_unstable_by(|one, two| two.cmp(one));
        let others: Vec<MemberId> = others.into_iter().map(|(_, id)| id).collect();
        self.handed_over += u64::from(hand_over(raft, &others));
    }
}
