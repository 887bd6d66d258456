//! After everything that may go wrong: a majority heals and must make progress, then all heal and
//! must come to the same state.

use std::collections::BTreeSet;
use std::time::Duration;

use base::{LogIndex, MemberId, Moment};
use proto::etcdserverpb::{PutRequest, RangeRequest};
use proto::raftpb::EntryType;

use super::{Absence, Failure, World};
use crate::checkers::{leases, linearizable, model, revisions, state, watch};
use crate::coverage::Mark;
use crate::history::{Call, Outcome};
use crate::plan::{Faults, Network};

/// How long a healed majority has for a write and a read of a client, elections included.
const PROGRESS_TIME_MAX: Duration = Duration::from_secs(60);

/// How long a healed cluster has to come to rest.
const REST_TIME_MAX: Duration = Duration::from_secs(180);

/// Events that such a time may take: more would be a loop.
const EVENTS_MAX: u64 = 3_000_000;

/// Longer than any short lease: after this they must have ended.
const LEASES_TIME: Duration = Duration::from_secs(12);

/// Longer than it takes until members remove the files that they do not need any more.
const PURGE_TIME: Duration = Duration::from_secs(31);

/// How often it is looked whether the cluster has come to rest.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

impl World {
    /// Nothing goes wrong by itself any more; what is broken stays so.
    pub fn calm(&mut self) {
        self.calm_since = self.time.now();
        self.tell_story(|| "nothing goes wrong by itself any more".to_owned());
        self.faults = Faults::default();
        self.network = Network::QUIET;
    }

    /// Mends everything: links, disks, paused processes; who is down starts.
    pub fn heal(&mut self) {
        self.calm();
        self.mend();
        for id in self.ids() {
            self.heal_one(id);
        }
    }

    fn heal_one(&mut self, id: MemberId) {
        let never = Moment::default();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.disk.set_capacity(None);
        slot.disk.crash_at(u64::MAX);
        (slot.paused_until, slot.stalled_until) = (never, never);
        (slot.slow_until, slot.held_until) = (never, never);
        if slot.member.is_none() && slot.absence == Absence::Down {
            self.plan_start(id, Duration::from_millis(1));
        }
    }

    /// The end of a run: a majority goes on without the rest, then everybody does.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.calm();
        self.clients.calls_left = 0;
        if let Some(left_out) = self.choose_left_out() {
            self.majority_goes_on(&left_out)?;
        }
        self.heal();
        self.replace_lost()?;
        self.progress("the healed cluster")?;
        self.clients.is_over = true;
        self.run_for(LEASES_TIME)?;
        // Whoever started meanwhile may have found its disk damaged.
        self.replace_lost()?;
        self.rest()?;
        if self.rng.one_in(4) {
            self.all_come_back()?;
        }
        self.complete_watches()?;
        self.check()
    }

    /// What has come to rest is still there when the power of everybody was gone.
    fn all_come_back(&mut self) -> Result<(), Failure> {
        self.run_for(PURGE_TIME)?;
        self.lose_all_power()?;
        self.progress("the cluster after a power loss")?;
        self.rest()
    }

    /// A minority that can be done without: while no change of the members is under way, that is
    /// less than half of the voters.
    fn choose_left_out(&mut self) -> Option<BTreeSet<MemberId>> {
        let voters = self.voters();
        let spare = voters.len().saturating_sub(1) / 2;
        if spare == 0 || self.rng.one_in(2) || self.has_pending_change() {
            return None;
        }
        let lost = |world: &Self, id: MemberId| {
            world
                .slots
                .get(&id)
                .is_none_or(|slot| slot.absence != Absence::Down && slot.member.is_none())
        };
        let mut left_out: BTreeSet<MemberId> =
            voters.iter().copied().filter(|id| lost(self, *id)).collect();
        while left_out.len() < spare {
            left_out.insert(*self.rng.pick(&voters));
        }
        (left_out.len() == spare).then_some(left_out)
    }

    /// Whether any log has a change that its member has not applied.
    fn has_pending_change(&self) -> bool {
        let is_down = self.ids().into_iter().any(|id| self.member_ref(id).is_none());
        // One may be on its way to a log.
        let is_asked = !self.clients.changes.is_empty();
        is_down
            || is_asked
            || self.running().any(|member| {
                let log = member.node.raft().log();
                let first = log.applied().0 + 1;
                (first..=log.last().index.0).any(|index| {
                    log.entry(LogIndex(index))
                        .is_some_and(|entry| entry.r#type() == EntryType::EntryConfChange)
                })
            })
    }

    fn majority_goes_on(&mut self, left_out: &BTreeSet<MemberId>) -> Result<(), Failure> {
        self.mend();
        self.tell_story(|| format!("all but {left_out:?} are mended"));
        for id in self.ids() {
            if left_out.contains(&id) {
                self.isolate(id);
            } else {
                self.heal_one(id);
            }
        }
        self.progress_without("a healed majority", left_out)?;
        self.coverage.add(Mark::MajorityAlone);
        Ok(())
    }

    /// A write and a linearizable read of a client are answered in time.
    pub fn progress(&mut self, who: &str) -> Result<(), Failure> {
        self.progress_without(who, &BTreeSet::new())
    }

    fn progress_without(
        &mut self,
        who: &str,
        left_out: &BTreeSet<MemberId>,
    ) -> Result<(), Failure> {
        let until = self.now() + PROGRESS_TIME_MAX;
        let put =
            PutRequest { key: "progress".into(), value: "is made".into(), ..Default::default() };
        let range = RangeRequest { key: "progress".into(), ..Default::default() };
        let mut calls = vec![Call::Range(range), Call::Put(put)];
        while let Some(call) = calls.last() {
            if self.now() >= until {
                return Err(Failure::Liveness(format!(
                    "{who} makes no progress: {}",
                    self.describe()
                )));
            }
            let voters = self.voters();
            let up: Vec<MemberId> = self
                .running()
                .filter(|member| !member.status.is_learner)
                .map(|member| member.id)
                .filter(|id| !left_out.contains(id) && (voters.is_empty() || voters.contains(id)))
                .collect();
            if up.is_empty() {
                self.run_for(LOOK_INTERVAL)?;
                continue;
            }
            let member = *self.rng.pick(&up);
            let call = call.clone();
            if matches!(self.ask(member, call)?, Outcome::Answered(_)) {
                calls.pop();
            } else {
                self.run_for(LOOK_INTERVAL)?;
            }
        }
        Ok(())
    }

    pub(super) fn describe(&self) -> String {
        let all = self.slots.iter().filter(|(_, slot)| slot.absence != Absence::Gone);
        let all: Vec<String> = all.map(|(id, slot)| format!("{id}: {slot:?}")).collect();
        let idle = if self.clients.is_idle() { "idle" } else { "busy" };
        format!("{}; clients {idle}", all.join("; "))
    }

    /// Whoever lost what its disk held is removed.
    fn replace_lost(&mut self) -> Result<(), Failure> {
        let until = self.now() + REST_TIME_MAX;
        loop {
            let lost = self.slots.iter().find(|(_, slot)| slot.absence == Absence::Lost);
            let Some(lost) = lost.map(|(id, _)| *id) else { return Ok(()) };
            if self.now() >= until {
                return Err(Failure::Liveness(format!(
                    "{lost} cannot be removed: {}",
                    self.describe()
                )));
            }
            if let Some(leader) = self.leader() {
                let is_member = self.member_ref(leader).is_some_and(|leader| {
                    leader.shared().members().iter().any(|one| one.id == lost)
                });
                if is_member {
                    self.ask_change(leader, node::requests::membership::remove(lost))?;
                } else if let Some(slot) = self.slots.get_mut(&lost) {
                    slot.absence = Absence::Gone;
                }
            }
            self.run_for(Duration::from_millis(500))?;
        }
    }

    /// Lets the cluster come to rest: everybody has applied and stored the same.
    pub fn rest(&mut self) -> Result<(), Failure> {
        let (until, most) = (self.now() + REST_TIME_MAX, self.events() + EVENTS_MAX);
        while !self.is_at_rest() {
            if self.now() >= until || self.events() >= most {
                let what = format!("the cluster does not come to rest: {}", self.describe());
                return Err(Failure::Liveness(what));
            }
            self.run_for(LOOK_INTERVAL)?;
        }
        Ok(())
    }

    /// Who belongs to the cluster, as its leader says.
    pub fn belonging(&self) -> Option<BTreeSet<MemberId>> {
        let leader = self.member_ref(self.leader()?)?;
        Some(leader.shared().members().into_iter().map(|member| member.id).collect())
    }

    fn is_at_rest(&self) -> bool {
        let Some(belonging) = self.belonging() else { return false };
        let committed = self.running().map(|member| member.node.status().committed).max();
        self.clients.is_idle()
            && self.running().any(|member| member.leads())
            && belonging.iter().all(|id| {
                self.member_ref(*id).is_some_and(|member| {
                    let status = member.node.status();
                    Some(status.applied) == committed
                        && member.is_quiet()
                        && status.leader != MemberId::NONE
                        && status.database == status.applied
                })
            })
    }

    /// Gives every watcher the time to hear of everything.
    fn complete_watches(&mut self) -> Result<(), Failure> {
        self.run_for(Duration::from_secs(6))?;
        self.rest()?;
        self.complete_streams()
    }

    /// Everything is judged.
    pub fn check(&mut self) -> Result<(), Failure> {
        let belonging = self.belonging().unwrap_or_default();
        let members: Vec<_> = belonging
            .iter()
            .filter_map(|id| self.member_ref(*id))
            .map(|one| one.shared())
            .collect();
        for pair in members.windows(2) {
            state::compare_whole(&pair[0], &pair[1])?;
        }
        let truth = model::Truth::of(&self.history.log)?;
        let history = &self.history;
        if let Some(shared) = members.first() {
            state::compare_with_truth(shared, &truth)?;
        }
        revisions::check_with(history, &truth)?;
        linearizable::check(history)?;
        watch::check_with(history, &truth)?;
        leases::check(history)?;
        let remaining = members.first().map(|shared| shared.lessor().leases()).unwrap_or_default();
        leases::check_expired(history, self.time.now(), self.calm_since, &remaining)?;
        self.count_expired();
        Ok(())
    }

    fn count_expired(&mut self) {
        let asked: BTreeSet<_> =
            self.history.operations.iter().filter_map(|operation| operation.request).collect();
        let ended = self.history.log.outcomes.iter().filter(|(id, outcome)| {
            !asked.contains(id) && matches!(outcome, Ok(store::Response::LeaseRevoke(_)))
        });
        for _ in 0..ended.count() {
            self.coverage.add(Mark::LeaseExpired);
        }
    }
}
