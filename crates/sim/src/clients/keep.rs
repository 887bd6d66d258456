//! Keepers: each has a lease, keeps it alive for a while, and lets it go.
//!
//! *Contract.* The renewal takes the way of `server::cluster::leases`: whoever leads answers from
//! its own lessor, after it has applied what is committed; others ask the leader.

use std::time::Duration;

use base::{LeaseId, MemberId, Moment};
use node::requests::lease::{self, KeepAlive};
use node::{Input, Ticket};
use proto::etcdserverpb::{LeaseRevokeRequest, PutRequest};
use store::Response;

use super::{Event, OperationId, WAY_MAX, Waiter, Waits};
use crate::coverage::Mark;
use crate::history::{self, Call, ClientId, Outcome};
use crate::plan::HEARTBEAT;
use crate::world::{Failure, World, within};

/// After so many lengths of a tick without a round of the pump, leadership is to be confirmed.
const SILENT_TICKS: u32 = 3;

/// Between two questions to leaders that could not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// How often a leader looks whether it has applied what is committed.
const APPLY_POLL: Duration = Duration::from_millis(1);

/// How long a renewal may take.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time for which a lease is kept.
const KEPT_MAX: Duration = Duration::from_secs(25);

/// How long a keeper waits for the answer to a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// One who keeps leases.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    lease: Option<(LeaseId, i64)>,
    until: Moment,
    is_busy: bool,
}

/// How far a renewal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A member was asked.
    Asked,
    /// Its leadership is confirmed, or need not be.
    Confirmed,
    /// It waits for this entry to be applied.
    Applying(base::LogIndex),
}

/// A renewal under way.
#[derive(Debug, Clone)]
pub(crate) struct Renewal {
    keeper: ClientId,
    lease: LeaseId,
    invoked: Moment,
    until: Moment,
    /// Where the client is connected.
    asked: MemberId,
    /// Who has it now.
    at: MemberId,
    step: Step,
}

impl World {
    pub(super) fn keeper_acts(&mut self, id: ClientId) {
        let now = self.now();
        let ids = self.ids();
        let somebody = *self.rng.pick(&ids);
        let Some(keeper) = self.clients.keepers.get_mut(&id) else { return };
        if keeper.is_busy {
            return;
        }
        let Some((lease, ttl)) = keeper.lease else {
            if self.clients.is_over || self.clients.calls_left == 0 {
                return;
            }
            keeper.is_busy = true;
            let grant = self.clients.workload.own_lease(&mut self.rng);
            self.call(id, somebody, Call::LeaseGrant(grant), CALL_TIMEOUT);
            return;
        };
        if now >= keeper.until || self.clients.is_over {
            // It is kept no more; sometimes that is said.
            keeper.lease = None;
            if self.rng.one_in(3) && !self.clients.is_over {
                keeper.is_busy = true;
                let revoke = LeaseRevokeRequest { id: lease.get() };
                self.call(id, somebody, Call::LeaseRevoke(revoke), CALL_TIMEOUT);
            } else {
                self.plan_act(id, Duration::from_secs(8));
            }
            return;
        }
        let renewal = Renewal {
            keeper: id,
            lease,
            invoked: now,
            until: now + RENEWAL_TIMEOUT,
            asked: somebody,
            at: somebody,
            step: Step::Asked,
        };
        let way = within_way(self);
        self.plan_renewal(Box::new(renewal), way);
        let seconds = u64::try_from(ttl).unwrap_or(1);
        self.plan_client(now + Duration::from_millis(seconds * 1000 / 3), Event::Act(id));
    }

    /// A call of a keeper is answered.
    pub(super) fn keeper_finished(&mut self, id: ClientId, operation: OperationId) {
        let done = &self.history.operations[operation];
        let (call, outcome, member) = (done.call.clone(), done.outcome.clone(), done.member);
        let kept = within(&mut self.rng, KEPT_MAX);
        let until = self.now() + kept;
        let Some(keeper) = self.clients.keepers.get_mut(&id) else { return };
        keeper.is_busy = false;
        if let (Call::LeaseGrant(grant), Outcome::Answered(Response::LeaseGrant(granted))) =
            (call, outcome)
        {
            keeper.lease = Some((LeaseId(grant.id), granted.ttl));
            keeper.until = until;
            keeper.is_busy = true;
            let key = format!("lease/{:02}", grant.id % 16).into();
            let put = PutRequest { key, lease: grant.id, ..PutRequest::default() };
            self.call(id, member, Call::Put(put), CALL_TIMEOUT);
            return;
        }
        self.plan_act(id, Duration::from_millis(300));
    }

    /// A renewal by somebody who keeps nothing else; who that is.
    pub(super) fn ask_renewal(&mut self, member: MemberId, lease: LeaseId) -> ClientId {
        let now = self.now();
        self.clients.renewals += 1;
        let keeper = ClientId(3 << 30 | self.clients.renewals);
        let renewal = Renewal {
            keeper,
            lease,
            invoked: now,
            until: now + RENEWAL_TIMEOUT,
            asked: member,
            at: member,
            step: Step::Asked,
        };
        let way = within_way(self);
        self.plan_renewal(Box::new(renewal), way);
        keeper
    }

    pub(super) fn plan_renewal(&mut self, renewal: Box<Renewal>, after: Duration) {
        let at = self.now() + after;
        self.plan_client(at, Event::Renew(renewal));
    }

    pub(super) fn renew(&mut self, mut renewal: Box<Renewal>) -> Result<(), Failure> {
        let (now, at) = (self.now(), renewal.at);
        if now >= renewal.until {
            return Ok(());
        }
        if let Some(until) = self.paused_until(at) {
            self.plan_client(until, Event::Renew(renewal));
            return Ok(());
        }
        let is_fast = self.clients.is_fast;
        let is_forwarded = renewal.at != renewal.asked;
        let Some(member) = self.member(at) else {
            // Who was asked is gone, and the connection with it; a leader that is gone is looked
            // for anew.
            self.look_for_leader(renewal);
            return Ok(());
        };
        if !member.leads() && !is_forwarded {
            self.forward(renewal);
            return Ok(());
        }
        match renewal.step {
            Step::Asked if !is_forwarded && member.since_pump() >= HEARTBEAT * SILENT_TICKS => {
                let ticket: Ticket = member.ticket();
                member.inbox.push_back(Input::ReadIndex { ticket });
                self.clients.waiting.insert((at, Waits::Ticket(ticket)), Waiter::Renewal(renewal));
                return self.after(at);
            }
            Step::Asked | Step::Confirmed => {
                let skips =
                    is_fast && !is_forwarded && member.shared().lessor().exists(renewal.lease);
                let target = if skips { base::LogIndex(0) } else { member.status.committed };
                renewal.step = Step::Applying(target);
                self.plan_renewal(renewal, Duration::ZERO);
                return Ok(());
            }
            Step::Applying(target) if member.status.applied < target => {
                self.plan_renewal(renewal, APPLY_POLL);
                return Ok(());
            }
            Step::Applying(_) => {}
        }
        let now = member.now();
        match lease::keep_alive(member.shared().lessor(), renewal.lease, now) {
            KeepAlive::Answer(answer) => {
                let arrives = self.now() + within_way(self);
                self.plan_client(arrives, Event::Renewed(renewal, answer.ttl));
            }
            // It is being revoked: the answer would come when it is gone.
            KeepAlive::Expiring => {}
            KeepAlive::Checkpointed => {
                super::propose_checkpoint(member, lease::forget_checkpoint(renewal.lease));
                self.plan_renewal(renewal, RETRY_INTERVAL);
                return self.after(at);
            }
            KeepAlive::NotPrimary => self.look_for_leader(renewal),
        }
        Ok(())
    }

    /// Whoever was asked says so when it cannot answer, and is asked for the leader again.
    fn look_for_leader(&mut self, mut renewal: Box<Renewal>) {
        if renewal.at == renewal.asked && self.member(renewal.asked).is_none() {
            return;
        }
        renewal.at = renewal.asked;
        renewal.step = Step::Asked;
        self.plan_renewal(renewal, RETRY_INTERVAL);
    }

    fn forward(&mut self, mut renewal: Box<Renewal>) {
        let asked = renewal.asked;
        let Some(leader) = self.member(asked).map(|member| member.status.leader) else { return };
        if leader == MemberId::NONE || leader == asked || !self.can_talk(asked, leader) {
            self.look_for_leader(renewal);
            return;
        }
        renewal.at = leader;
        renewal.step = Step::Confirmed;
        let delay = within(&mut self.rng, self.network.delay);
        self.plan_renewal(renewal, delay);
    }

    pub(super) fn confirmed(&mut self, mut renewal: Box<Renewal>, is_confirmed: bool) {
        let leads = self.member(renewal.at).is_some_and(|member| member.leads());
        // Without confirmation the answer is an error.
        if is_confirmed && leads {
            renewal.step = Step::Confirmed;
            self.plan_renewal(renewal, Duration::ZERO);
        }
    }

    pub(super) fn renewed(&mut self, renewal: &Renewal, ttl: i64) {
        let returned = self.now();
        self.coverage.add_if(ttl > 0, Mark::LeaseRenewed);
        self.history.keep_alives.push(history::KeepAlive {
            client: renewal.keeper,
            answered_by: renewal.at,
            lease: renewal.lease,
            invoked: renewal.invoked,
            returned,
            ttl,
            is_fast: self.clients.is_fast,
        });
        if ttl == 0
            && let Some(keeper) = self.clients.keepers.get_mut(&renewal.keeper)
            && keeper.lease.is_some_and(|(lease, _)| lease == renewal.lease)
        {
            keeper.lease = None;
        }
    }
}

fn within_way(world: &mut World) -> Duration {
    within(&mut world.rng, WAY_MAX)
}
