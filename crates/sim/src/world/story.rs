//! What scenarios say: a run told step by step instead of drawn.

use std::time::Duration;

use base::{LogIndex, MemberId, Moment};

use node::Input;

use super::{Failure, World, clients};
use crate::coverage::Mark;
use crate::history::ClientId;
use crate::member::{Lane, Member};

/// Who asks in scenarios.
pub const CLIENT: ClientId = ClientId(u32::MAX);

/// Rounds of writes after which a log must have been cut.
const LAG_ROUNDS_MAX: usize = 40;

/// How long a scenario waits for anything, at most.
const WAIT_MAX: Duration = Duration::from_secs(120);

impl World {
    /// Lets the run go on until something is so.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let until = self.now() + WAIT_MAX;
        while !is_so(self) {
            if self.now() >= until || !self.step()? {
                return Err(Failure::Liveness(format!("it never comes to this: {what}")));
            }
        }
        Ok(())
    }

    /// Lets the run go on until somebody leads and can answer; who that is.
    pub fn until_led(&mut self) -> Result<MemberId, Failure> {
        self.until("a leader", |world| world.running().any(|member| member.serves()))?;
        let serving = self.running().filter(|member| member.serves());
        let newest = serving.max_by_key(|member| member.node.status().term);
        newest.map(|member| member.id).ok_or_else(|| Failure::Liveness("no leader".into()))
    }

    /// A member that follows.
    pub fn follower(&self) -> Result<MemberId, Failure> {
        let leader = self.leader();
        let mut ids = self.running().map(|member| member.id);
        ids.find(|id| Some(*id) != leader)
            .ok_or_else(|| Failure::Liveness("nobody follows".to_owned()))
    }

    /// Up to where a member has applied.
    pub fn applied(&self, id: MemberId) -> LogIndex {
        self.member_ref(id).map_or(LogIndex(0), |member| member.node.status().applied)
    }

    /// Up to where a member's log was cut.
    pub fn base(&self, id: MemberId) -> LogIndex {
        self.member_ref(id).map_or(LogIndex(0), |member| member.node.raft().log().base().index)
    }

    /// Operations of a member's disk so far.
    pub fn operations(&self, id: MemberId) -> u64 {
        self.slots.get(&id).map_or(0, |slot| slot.disk.operations())
    }

    /// Until when a member's process is suspended, if it is.
    pub(crate) fn paused_until(&self, id: MemberId) -> Option<Moment> {
        let until = self.slots.get(&id)?.paused_until;
        (until > self.now()).then_some(until)
    }

    /// Whether two members can talk, both ways.
    pub(crate) fn can_talk(&self, one: MemberId, other: MemberId) -> bool {
        !self.cut.contains(&(one, other)) && !self.cut.contains(&(other, one))
    }

    /// Loses what one member sends another, and breaks no connection.
    pub fn silence(&mut self, from: MemberId, to: MemberId) {
        self.cut.insert((from, to));
    }

    /// Lets a member apply nothing for a while; no time, and it goes on.
    pub fn hold_apply(&mut self, id: MemberId, duration: Duration) -> Result<(), Failure> {
        let until = self.now() + duration;
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        slot.held_until = until;
        // What waits for the end of an earlier hold is planned anew.
        slot.planned[Lane::Apply as usize] = false;
        self.follow(id)
    }

    /// Lets a member bring its state into the database, as a defragmentation does.
    pub fn commit_database(&mut self, id: MemberId) -> Result<(), Failure> {
        let Some(member) = self.member(id) else { return Ok(()) };
        let ticket = member.ticket();
        self.tell(id, Input::CommitDatabase { ticket })
    }

    /// How many processes were killed or lost their power.
    pub fn crashes(&self) -> u64 {
        self.coverage.count(Mark::Killed) + self.coverage.count(Mark::PowerLost)
    }

    /// Who belongs to the cluster and has a vote or not, as a member says.
    pub fn members_of(&self, id: MemberId) -> Vec<store::Member> {
        self.member_ref(id).map(|member| member.shared().members()).unwrap_or_default()
    }

    /// Isolates a follower until the others have cut what it lacks out of their logs; who that
    /// is. Nothing is mended.
    pub fn lag(&mut self) -> Result<MemberId, Failure> {
        self.until_led()?;
        let lagging = self.follower()?;
        self.isolate(lagging);
        self.leave_behind(lagging)?;
        Ok(lagging)
    }

    /// Writes until everybody else has cut what a member lacks out of the log.
    pub fn leave_behind(&mut self, lagging: MemberId) -> Result<(), Failure> {
        let behind = self.member_ref(lagging).map(|member| member.node.raft().log().last().index);
        let behind = behind.unwrap_or(LogIndex(0));
        for _ in 0..LAG_ROUNDS_MAX {
            let is_cut = |member: &Member| member.node.raft().log().base().index > behind;
            if self.running().filter(|member| member.id != lagging).all(is_cut) {
                return Ok(());
            }
            self.put_many(32, "more")?;
        }
        Err(Failure::Liveness("nobody cuts the log".to_owned()))
    }

    /// Plans something of a client's.
    pub(crate) fn plan_client(&mut self, at: Moment, event: clients::Event) {
        self.agenda.plan(at, super::Event::Client(event));
    }

    /// After a member was given something.
    pub(crate) fn after(&mut self, id: MemberId) -> Result<(), Failure> {
        self.follow(id)
    }
}
