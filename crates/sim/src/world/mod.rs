//! A cluster in one thread: members on disks of their own, connections between them, clients, and
//! a plan of what goes wrong.
//!
//! ```text
//!  agenda ─► the next event ─► a member works, a packet arrives, a client acts, something breaks
//!                 │
//!                 └─► follow: what the member sent, told and showed; when its lanes work next
//! ```
//!
//! *Invariants.* 1. The seed decides everything: no other source of chance, time or order. 2. Two
//! members share nothing but packets. 3. What the checkers are shown has happened; what happened
//! they are shown.
//!
//! *Absent.* gRPC and HTTP, TLS, threads: see `docs/testing.md`.

mod change;
mod end;
mod faults;
mod lives;
mod network;
pub mod story;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use base::{Clock, LogIndex, MemberId, Moment, Rng};
use node::Input;
use storage::disk::Faulty;
use worker::bootstrap::{Identity, InitialMember};

use crate::agenda::Agenda;
use crate::checkers::Violation;
use crate::checkers::bounds;
use crate::checkers::promises::Promises;
use crate::checkers::raft::Onlooker;
use crate::checkers::state::Fingerprints;
use crate::clients::{self, Clients};
use crate::clock::Time;
use crate::coverage::{Coverage, Mark};
use crate::digest::Digest;
use crate::history::History;
use crate::links::{Links, Packet};
use crate::member::{Lane, Member, Sent, Setup, Shown, Told};
use crate::plan::{Faults, Network, Plan};
use faults::Fault;

/// How often leaders hear of the others' versions, and leases' rests are noted.
const DUTIES_INTERVAL: Duration = Duration::from_millis(500);

/// The longest time between something coming in and the pump's next round.
const PUMP_DELAY_MAX: Duration = Duration::from_micros(60);

/// The pause between two slices of a compaction.
const SWEEP_PAUSE: Duration = Duration::from_millis(10);

/// What applying takes, at most, while it is slow.
const SLOW_APPLY_MAX: Duration = Duration::from_millis(400);

/// Events that may happen at one moment: more would be a member that spins.
const AT_ONCE_MAX: u64 = 20_000;

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A member panicked, or stopped for no reason that the run gave it.
    Crash(String),
    /// A promise was broken.
    Safety(Violation),
    /// A healthy cluster made no progress.
    Liveness(String),
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Safety(violation)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(what) => write!(f, "crash: {what}"),
            Self::Safety(violation) => write!(f, "safety: {violation}"),
            Self::Liveness(what) => write!(f, "liveness: {what}"),
        }
    }
}

/// What happens.
enum Event {
    Work { member: MemberId, life: u32, lane: Lane },
    Packet { from: MemberId, to: MemberId, packet: Packet },
    Snapshot { from: MemberId, to: MemberId, message: Box<proto::raftpb::Message>, file: Vec<u8> },
    SnapshotSent { at: MemberId, member: MemberId, ok: bool },
    Unreachable { at: MemberId, member: MemberId },
    Start { member: MemberId, life: u32 },
    Fault(Fault),
    Duties,
    Client(clients::Event),
}

/// Why a place has no running member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// It starts again.
    Down,
    /// What its disk holds is of no use: others must remove it.
    Lost,
    /// It was removed, and ended.
    Gone,
}

/// One place in the cluster, through all its lives.
struct Slot {
    disk: Faulty,
    setup: Setup,
    member: Option<Member>,
    absence: Absence,
    /// Counts lives: what was planned for one before is void.
    life: u32,
    /// Whether a lane's next work is planned; the pump's is kept apart.
    planned: [bool; 5],
    pump_at: Option<Moment>,
    paused_until: Moment,
    stalled_until: Moment,
    slow_until: Moment,
    /// Nothing is applied before.
    held_until: Moment,
    /// Errors of its disk that have ended a process already.
    errors: u64,
    /// What its disk holds was damaged: it may refuse to start, now or later.
    is_damaged: bool,
    /// It was told that it is removed.
    is_removed: bool,
    promises: Promises,
}

/// A cluster and everything around it.
pub struct World {
    /// Decides what follows.
    pub rng: Rng,
    /// The run's time.
    pub time: Time,
    /// What was drawn for this run.
    pub plan: Plan,
    /// What goes wrong now.
    pub faults: Faults,
    /// What the network does now.
    pub network: Network,
    /// What is known of the run.
    pub history: History,
    /// What was seen on the way.
    pub coverage: Coverage,
    agenda: Agenda<Event>,
    slots: BTreeMap<MemberId, Slot>,
    links: Links,
    cut: BTreeSet<(MemberId, MemberId)>,
    identity: Identity,
    founders: Vec<InitialMember>,
    next_member: u64,
    onlooker: Onlooker,
    fingerprints: Fingerprints,
    pub(crate) clients: Clients,
    digest: Digest,
    events: u64,
    /// Since when nothing goes wrong by itself.
    calm_since: Moment,
    /// Events so far at this moment.
    at_once: u64,
    /// What happened, line by line, when that is wanted.
    pub story: Option<Vec<String>>,
    /// Crashes end the process only (`Some(true)`), or the power goes; else the seed decides.
    pub killed: Option<bool>,
}

/// A duration up to `most`.
pub(crate) fn within(rng: &mut Rng, most: Duration) -> Duration {
    let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX - 1);
    Duration::from_nanos(rng.below(nanos + 1))
}

impl World {
    /// Founds the cluster of a plan.
    pub fn new(plan: Plan) -> Self {
        let mut rng = Rng::new(plan.seed);
        let time = Time::default();
        time.advance_to(Moment::from_nanos(1_000_000_000));
        let (founders, ids, identity) = lives::found(plan.founders);
        let history = History {
            clocks: crate::history::ClockBounds {
                drift_ppm: plan.drift_ppm,
                jumps: Duration::ZERO,
            },
            ..History::default()
        };
        let mut world = Self {
            clients: Clients::new(&plan, &mut rng),
            rng,
            time,
            faults: plan.faults.clone(),
            network: plan.network,
            history,
            coverage: Coverage::default(),
            agenda: Agenda::default(),
            slots: BTreeMap::new(),
            links: Links::default(),
            cut: BTreeSet::new(),
            identity,
            founders,
            next_member: 1,
            onlooker: Onlooker::default(),
            fingerprints: Fingerprints::default(),
            digest: Digest::default(),
            events: 0,
            calm_since: Moment::default(),
            at_once: 0,
            story: None,
            killed: None,
            plan,
        };
        for id in ids {
            world.add_slot(id);
            world.plan_start(id, Duration::from_millis(1));
        }
        world.agenda.plan(world.time.now() + DUTIES_INTERVAL, Event::Duties);
        world.plan_faults();
        world.plan_clients();
        world
    }

    /// What time it is.
    pub fn now(&self) -> Moment {
        self.time.now()
    }

    /// How many events have happened.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// What a repetition of this run must come to as well.
    pub fn digest(&self) -> u64 {
        self.digest.value()
    }

    /// Lets the next event happen. False when nothing is to come.
    pub fn step(&mut self) -> Result<bool, Failure> {
        let Some((at, event)) = self.agenda.next() else { return Ok(false) };
        self.at_once = if at > self.time.now() { 0 } else { self.at_once + 1 };
        if self.at_once > AT_ONCE_MAX {
            let what = format!("members work, and no time passes: {}", self.describe());
            return Err(Failure::Liveness(what));
        }
        self.time.advance_to(at);
        self.events += 1;
        self.digest.add(at.as_nanos());
        match event {
            Event::Work { member, life, lane } => self.work(member, life, lane)?,
            Event::Packet { from, to, packet } => self.arrive(from, to, &packet)?,
            Event::Snapshot { from, to, message, file } => {
                self.receive(from, to, *message, &file)?;
            }
            Event::SnapshotSent { at, member, ok } => {
                self.tell(at, Input::SnapshotSent { member, ok })?;
            }
            Event::Unreachable { at, member } => self.tell(at, Input::Unreachable { member })?,
            Event::Start { member, life } => self.start(member, life)?,
            Event::Fault(fault) => self.strike(fault)?,
            Event::Duties => self.duties()?,
            Event::Client(event) => self.client(event)?,
        }
        Ok(true)
    }

    /// Notes a line, when lines are wanted.
    pub(crate) fn tell_story(&mut self, line: impl FnOnce() -> String) {
        let now = self.time.now();
        if let Some(story) = &mut self.story {
            story.push(format!("{:>12.6} {}", now.since(Moment::default()).as_secs_f64(), line()));
        }
    }

    /// Lets a time pass.
    pub fn run_for(&mut self, duration: Duration) -> Result<(), Failure> {
        let until = self.now() + duration;
        while self.now() < until && self.step()? {}
        Ok(())
    }

    /// Hands an input to a member that runs.
    fn tell(&mut self, id: MemberId, input: Input) -> Result<(), Failure> {
        let Some(member) = self.member(id) else { return Ok(()) };
        member.inbox.push_back(input);
        self.follow(id)
    }

    fn work(&mut self, id: MemberId, life: u32, lane: Lane) -> Result<(), Failure> {
        let now = self.now();
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.life == life) else {
            return Ok(());
        };
        let Some(member) = &mut slot.member else { return Ok(()) };
        if lane == Lane::Pump {
            if slot.pump_at != Some(now) {
                // It was planned anew.
                return Ok(());
            }
            slot.pump_at = None;
        } else {
            slot.planned[lane as usize] = false;
        }
        let late = match lane {
            Lane::Log | Lane::Commit => slot.stalled_until.max(slot.paused_until),
            Lane::Apply => slot.held_until.max(slot.paused_until),
            _ => slot.paused_until,
        };
        if late > now {
            slot.plan_at(&mut self.agenda, lane, late);
            return Ok(());
        }
        self.digest.add(id.get() << 3 | lane as u64);
        let worked = member.work(lane, &mut self.rng);
        if let Err(error) = worked
            && !slot.disk.crashed()
        {
            return self.stopped_by(id, &error.to_string());
        }
        self.follow(id)
    }

    /// After anything that a member did: what came of it, and when it works next.
    fn follow(&mut self, id: MemberId) -> Result<(), Failure> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        if slot.disk.crashed() {
            return self.crashed(id);
        }
        let Some(member) = &mut slot.member else { return Ok(()) };
        bounds::check(member)?;
        let shown = std::mem::take(&mut member.shown);
        let sent = std::mem::take(&mut member.outbox);
        let told = std::mem::take(&mut member.told);
        slot.plan_lanes(id, self.time.now(), &mut self.agenda, &mut self.rng);
        for shown in shown {
            self.show(id, shown)?;
        }
        if let Some(member) = self.slots.get(&id).and_then(|slot| slot.member.as_ref()) {
            self.onlooker.looks_at(member, &self.history.log, &mut self.coverage)?;
        }
        for one in sent {
            if let (Sent::Message(message), Some(slot)) = (&one, self.slots.get_mut(&id)) {
                slot.promises.sent(message);
            }
            self.send(id, one);
        }
        for one in told {
            self.hear(id, one)?;
        }
        self.take_away(id);
        Ok(())
    }

    /// Lets the checkers see something.
    fn show(&mut self, id: MemberId, shown: Shown) -> Result<(), Failure> {
        let now = self.now();
        if let Shown::Installed(index) = &shown {
            self.tell_story(|| format!("{id} installs the snapshot of entry {index}"));
        }
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        match shown {
            Shown::Logging(entries) => self.onlooker.logs(id, &entries)?,
            Shown::Logged(effect, synced) => slot.promises.logged(effect, synced),
            Shown::Applied(entries) => {
                let Some(last) = entries.last().map(|last| LogIndex(last.index())) else {
                    return Ok(());
                };
                for entry in &entries {
                    self.digest.add(entry.index() ^ entry.term() << 40);
                    let at = (LogIndex(entry.index()), id);
                    self.history.log.applied.entry(at).or_insert(now);
                }
                let Some(member) = &slot.member else { return Ok(()) };
                let whose = (id, member.node.raft().status().term);
                self.onlooker.applies(whose, entries, &mut self.history.log)?;
                self.fingerprints.compare(id, last, &member.shared())?;
            }
            Shown::Installed(index) => {
                self.coverage.add(Mark::SnapshotInstalled);
                self.onlooker.begins(id);
                if let Some(member) = &slot.member {
                    self.fingerprints.compare(id, index, &member.shared())?;
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, id: MemberId, told: Told) -> Result<(), Failure> {
        match told {
            Told::Applied(request, result) => {
                self.onlooker.answers(request, &result, &mut self.history.log)?;
                self.client_applied(id, request, result);
            }
            Told::Decided(request, result) => {
                self.onlooker.answers(request, &result, &mut self.history.log)?;
            }
            Told::Changed(request, result) => self.client_changed(id, request, result.is_ok()),
            Told::Refused(request, reason) => {
                self.onlooker.refuses(request, &self.history.log)?;
                self.client_refused(id, request, &reason);
            }
            Told::Ready(ticket) => self.client_ready(id, ticket, true)?,
            Told::NotReady(ticket) => self.client_ready(id, ticket, false)?,
            Told::Removed => {
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.is_removed = true;
                }
            }
            Told::Stopped => self.stopped(id)?,
        }
        Ok(())
    }

    /// What a server asks and notes now and then, beside requests.
    fn duties(&mut self) -> Result<(), Failure> {
        self.agenda.plan(self.now() + DUTIES_INTERVAL, Event::Duties);
        self.start_forgotten();
        for id in self.ids() {
            let connected = self.reachable(id);
            let version =
                |other: &MemberId| Some("3.7.1".to_owned()).filter(|_| connected.contains(other));
            let Some(member) = self.member(id) else { continue };
            let others: Vec<MemberId> = member
                .shared()
                .members()
                .iter()
                .map(|one| one.id)
                .filter(|one| *one != id)
                .collect();
            if member.leads() {
                let versions = others.iter().map(|other| (*other, version(other))).collect();
                member.inbox.push_back(Input::MemberVersions { versions });
            }
            if connected.len() > 1 && member.status.leader == MemberId::NONE {
                member.inbox.push_back(Input::Connected);
            }
            let now = member.now();
            let due = member.shared().lessor().due_checkpoints(now, 100);
            if !due.is_empty() {
                let request = node::requests::lease::checkpoint(due);
                clients::propose_checkpoint(member, request);
            }
            self.follow(id)?;
        }
        Ok(())
    }

    // ---- who is there ----

    pub(crate) fn ids(&self) -> Vec<MemberId> {
        let here = self.slots.iter().filter(|(_, slot)| slot.absence != Absence::Gone);
        here.map(|(id, _)| *id).collect()
    }

    /// The members that run.
    pub fn running(&self) -> impl Iterator<Item = &Member> {
        self.slots.values().filter_map(|slot| slot.member.as_ref())
    }

    /// A member, if it runs.
    pub fn member(&mut self, id: MemberId) -> Option<&mut Member> {
        self.slots.get_mut(&id)?.member.as_mut()
    }

    fn member_ref(&self, id: MemberId) -> Option<&Member> {
        self.slots.get(&id)?.member.as_ref()
    }

    /// Who leads, as most recent as anyone knows.
    pub fn leader(&self) -> Option<MemberId> {
        let leaders = self.running().filter(|member| member.leads());
        leaders.max_by_key(|member| member.node.status().term).map(|member| member.id)
    }

    /// The members that run and that this one can talk with, in both directions.
    fn reachable(&self, id: MemberId) -> Vec<MemberId> {
        let others = self.running().map(|member| member.id).filter(|other| *other != id);
        let is_open = |other: &MemberId| {
            !self.cut.contains(&(id, *other)) && !self.cut.contains(&(*other, id))
        };
        others.filter(is_open).collect()
    }
}

impl Slot {
    /// Plans work of a lane; the pump's plan is void when it is planned for sooner.
    fn plan_at(&mut self, agenda: &mut Agenda<Event>, lane: Lane, at: Moment) {
        let Some(member) = &self.member else { return };
        let event = Event::Work { member: member.id, life: self.life, lane };
        if lane == Lane::Pump {
            if self.pump_at.is_none_or(|planned| at < planned) {
                self.pump_at = Some(at);
                agenda.plan(at, event);
            }
        } else if !self.planned[lane as usize] {
            self.planned[lane as usize] = true;
            agenda.plan(at, event);
        }
    }

    fn plan_lanes(&mut self, id: MemberId, now: Moment, agenda: &mut Agenda<Event>, rng: &mut Rng) {
        let Some(member) = &self.member else { return };
        debug_assert_eq!(member.id, id);
        let pump = match member.has_work(Lane::Pump) {
            true => now + within(rng, PUMP_DELAY_MAX),
            false => member.deadline(),
        };
        let pace = self.setup.pace;
        let apply = if self.slow_until > now { SLOW_APPLY_MAX } else { pace.apply };
        let lanes = [
            (Lane::Log, pace.log),
            (Lane::Apply, apply),
            (Lane::Commit, pace.commit),
            (Lane::Sweep, SWEEP_PAUSE),
        ];
        let due: Vec<(Lane, Moment)> = lanes
            .into_iter()
            .filter(|(lane, _)| member.has_work(*lane) && !self.planned[*lane as usize])
            .map(|(lane, most)| (lane, now + within(rng, most)))
            .collect();
        self.plan_at(agenda, Lane::Pump, pump.max(self.paused_until));
        for (lane, at) in due {
            self.plan_at(agenda, lane, at);
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.member.as_ref().map(|member| member.node.status());
        let now = self.setup.clock.now();
        let waiting = self.member.as_ref().map(|member| {
            (
                member.waiting(),
                member.has_work(Lane::Sweep),
                member.deadline() - self.setup.clock.now(),
            )
        });
        write!(f, "life {} {:?} {status:?} at {now:?}, {waiting:?}", self.life, self.absence)
    }
}
