//! How members come, end, and come again.

use std::sync::Arc;
use std::time::Duration;

use base::{MemberId, Moment, Rng};
use node::Input;
use storage::datadir::DataDir;
use storage::disk::{Disk, Faulty};
use worker::bootstrap::{self, Identity, InitialMember, StartError};

use super::{Absence, Event, Failure, Slot, World, within};
use crate::checkers::promises::Promises;
use crate::clock::Skewed;
use crate::coverage::Mark;
use crate::member::{Found, Member, ROOT, Setup};

const TOKEN: &str = "cluster";

/// How long a member that ended is down, at most.
const DOWN_MAX: Duration = Duration::from_secs(3);

/// Who founds a cluster of `count` members.
pub(super) fn found(count: u64) -> (Vec<InitialMember>, Vec<MemberId>, Identity) {
    let founders: Vec<InitialMember> = (0..count)
        .map(|at| InitialMember {
            name: format!("m{at}"),
            peer_urls: vec![format!("http://m{at}:2380")],
        })
        .collect();
    let ids: Vec<MemberId> =
        founders.iter().map(|one| bootstrap::member_id(&one.peer_urls, TOKEN)).collect();
    let identity = Identity { member: MemberId::NONE, cluster: bootstrap::cluster_id(&ids) };
    (founders, ids, identity)
}

impl World {
    /// Makes a place for a member, with an empty disk.
    pub(super) fn add_slot(&mut self, id: MemberId) {
        let number = self.slots.len();
        let pick = |count: usize| number % count.max(1);
        let drift = self.plan.drift_ppm;
        let drift_ppm = i64::try_from(self.rng.below(2 * drift + 1)).unwrap_or(0)
            - i64::try_from(drift).unwrap_or(0);
        let ahead = within(&mut self.rng, Duration::from_secs(100));
        let setup = Setup {
            settings: self.plan.settings[pick(self.plan.settings.len())].clone(),
            pace: self.plan.paces[pick(self.plan.paces.len())],
            clock: Arc::new(Skewed::new(&self.time, ahead, drift_ppm)),
            election_ticks: self.plan.election_ticks,
            pre_vote: self.plan.pre_vote,
        };
        let disk = Faulty::new(self.rng.next_u64());
        self.slots.insert(id, Slot::new(disk, setup));
    }

    /// Plans the start of a member that is down.
    pub(super) fn plan_start(&mut self, id: MemberId, after: Duration) {
        let Some(slot) = self.slots.get(&id) else { return };
        let event = Event::Start { member: id, life: slot.life };
        self.agenda.plan(self.time.now() + after, event);
    }

    pub(super) fn start(&mut self, id: MemberId, life: u32) -> Result<(), Failure> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        if slot.life != life || slot.member.is_some() || slot.absence != Absence::Down {
            return Ok(());
        }
        slot.begin_life();
        let disk = Arc::new(slot.disk.clone()) as Arc<dyn Disk>;
        let (dir, files) = (DataDir::new(ROOT), slot.setup.settings.files());
        let own =
            self.founders.iter().find(|one| bootstrap::member_id(&one.peer_urls, TOKEN) == id);
        let made = match own {
            Some(own) => bootstrap::create(&disk, &dir, &own.name, &self.founders, TOKEN, &files),
            None => bootstrap::join(&disk, &dir, Identity { member: id, ..self.identity }, &files),
        };
        drop(disk);
        let found = made.and_then(|()| Found::open(&slot.disk, &slot.setup));
        if slot.disk.crashed() {
            drop(found);
            self.coverage.add(Mark::CrashWhileStarting);
            return self.crashed(id);
        }
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.refused_to_start(id, &error),
        };
        slot.promises.keeps(id, found.restored())?;
        self.onlooker.begins(id);
        let seed = self.rng.next_u64();
        match Member::start(found, &slot.setup, seed) {
            Ok(member) => slot.member = Some(member),
            Err(error) => return self.refused_to_start(id, &error),
        }
        self.coverage.add(Mark::Started);
        self.tell_story(|| format!("{id} starts"));
        self.follow(id)
    }

    /// A member whose disk was damaged may refuse to start, and no other.
    fn refused_to_start(&mut self, id: MemberId, error: &StartError) -> Result<(), Failure> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        if !slot.has_failed() && !slot.is_damaged {
            return Err(Failure::Crash(format!("member {id} cannot start: {error}")));
        }
        let is_in_trouble = slot.has_failed();
        slot.errors = slot.disk.errors();
        if slot.disk.sync_failed() {
            slot.lose_power(&mut self.rng)?;
        }
        if is_in_trouble {
            // It is tried again and again, as by a supervisor, until the disk works.
            slot.end_life();
            self.plan_start(id, Duration::from_millis(700));
            return Ok(());
        }
        self.coverage.add(Mark::DamageRefused);
        let line = error.to_string();
        slot.end_life();
        slot.absence = Absence::Lost;
        self.tell_story(|| format!("{id} refuses to start: {line}"));
        Ok(())
    }

    /// The disk has stopped: the process was killed, or the power went.
    pub(super) fn crashed(&mut self, id: MemberId) -> Result<(), Failure> {
        let killed = self.killed.unwrap_or_else(|| self.rng.one_in(3));
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        // A disk whose sync failed has forgotten what it had to write: with it the machine ends.
        let killed = killed && !slot.disk.sync_failed();
        slot.end_life();
        let how = if killed { "is killed" } else { "loses its power" };
        if killed {
            self.coverage.add(Mark::Killed);
            slot.disk.restart();
        } else {
            self.coverage.add(Mark::PowerLost);
            slot.lose_power(&mut self.rng)?;
        }
        self.tell_story(|| format!("{id} {how}"));
        self.links.reset_all(id);
        self.clients_lose(id);
        let down = within(&mut self.rng, DOWN_MAX);
        self.plan_start(id, down);
        Ok(())
    }

    /// A worker said what is wrong, and the process ended.
    pub(super) fn stopped_by(&mut self, id: MemberId, line: &str) -> Result<(), Failure> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        if !slot.has_failed() && !slot.is_damaged {
            return Err(Failure::Crash(format!("member {id} stops: {line}")));
        }
        self.coverage.add(Mark::StoppedByDisk);
        let line = line.to_owned();
        self.tell_story(|| format!("{id} stops: {line}"));
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        slot.member = None;
        slot.end_life();
        if slot.disk.sync_failed() {
            slot.lose_power(&mut self.rng)?;
        }
        slot.errors = slot.disk.errors();
        self.links.reset_all(id);
        self.clients_lose(id);
        let down = within(&mut self.rng, DOWN_MAX);
        self.plan_start(id, down);
        Ok(())
    }

    /// The member has ended as it was told to.
    pub(super) fn stopped(&mut self, id: MemberId) -> Result<(), Failure> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        let Some(member) = slot.member.take() else { return Ok(()) };
        let closed = member.close();
        let may_fail = slot.has_failed() || slot.disk.crashed();
        slot.end_life();
        if let Err(error) = closed
            && !may_fail
        {
            return Err(Failure::Crash(format!("member {id} cannot close its log: {error}")));
        }
        if slot.disk.crashed() {
            return self.crashed(id);
        }
        self.coverage.add(Mark::StoppedGracefully);
        if slot.disk.sync_failed() {
            slot.lose_power(&mut self.rng)?;
        }
        self.tell_story(|| format!("{id} has stopped"));
        self.links.reset_all(id);
        self.clients_lose(id);
        let down = within(&mut self.rng, DOWN_MAX);
        self.plan_start(id, down);
        Ok(())
    }

    /// Takes a removed member away, but not before another one knows that it is removed: a leader
    /// that leaves one who has not heard of it, and who needs its vote, leaves nobody. (So it is
    /// with etcd.)
    pub(super) fn take_away(&mut self, id: MemberId) {
        if !self.slots.get(&id).is_some_and(|slot| slot.is_removed) {
            return;
        }
        let knows = |member: &Member| member.shared().removed_members().contains(&id);
        if !self.running().any(|member| member.id != id && knows(member)) {
            return;
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.member.take().is_some() {
            slot.end_life();
            slot.absence = Absence::Gone;
            self.coverage.add(Mark::Removed);
            self.tell_story(|| format!("{id} was removed"));
            self.links.reset_all(id);
            self.clients_lose(id);
        }
    }

    /// Lets the disk of a member stop at its next operation but so many.
    pub fn crash(&mut self, id: MemberId, operations: u64) {
        if let Some(slot) = self.slots.get(&id) {
            slot.disk.crash_at(slot.disk.operations() + operations);
        }
    }

    /// Ends a member's process now, and, unless `killed` says otherwise, the power.
    pub fn kill(&mut self, id: MemberId) -> Result<(), Failure> {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.disk.crash_at(slot.disk.operations());
            slot.disk.stop_now();
        }
        self.crashed(id)
    }

    /// The power of everybody goes at once.
    pub fn lose_all_power(&mut self) -> Result<(), Failure> {
        self.coverage.add(Mark::Blackout);
        let before = self.killed.replace(false);
        for id in self.running().map(|member| member.id).collect::<Vec<_>>() {
            self.kill(id)?;
        }
        self.killed = before;
        Ok(())
    }

    /// Tells a member to stop.
    pub fn stop(&mut self, id: MemberId) -> Result<(), Failure> {
        let connected = self.reachable(id);
        let Some(member) = self.member(id).filter(|member| !member.stopping) else {
            return Ok(());
        };
        member.stopping = true;
        self.tell(id, Input::Stop { connected })
    }
}

impl Slot {
    fn new(disk: Faulty, setup: Setup) -> Self {
        let never = Moment::default();
        Self {
            disk,
            setup,
            member: None,
            absence: Absence::Down,
            life: 0,
            planned: [false; 5],
            pump_at: None,
            paused_until: never,
            stalled_until: never,
            slow_until: never,
            held_until: never,
            errors: 0,
            is_damaged: false,
            is_removed: false,
            promises: Promises::default(),
        }
    }

    fn begin_life(&mut self) {
        self.life += 1;
        self.planned = [false; 5];
        self.pump_at = None;
        let never = Moment::default();
        (self.paused_until, self.stalled_until) = (never, never);
        (self.slow_until, self.held_until) = (never, never);
    }

    /// What was planned for this life is void.
    fn end_life(&mut self) {
        self.member = None;
        self.life += 1;
        self.absence = Absence::Down;
    }

    /// Whether the disk has failed since that ended a process last.
    fn has_failed(&self) -> bool {
        self.disk.errors() > self.errors
    }

    /// The power goes and comes back.
    fn lose_power(&mut self, rng: &mut Rng) -> Result<(), Failure> {
        let image = self.disk.image(rng);
        let disk = Faulty::from_image(&image, rng.next_u64());
        self.disk = disk.map_err(|error| Failure::Crash(format!("an image: {error}")))?;
        self.errors = 0;
        Ok(())
    }
}
