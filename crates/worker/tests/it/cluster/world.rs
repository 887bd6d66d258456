//! A cluster in one thread: members on disks of their own, a network between them that delays,
//! loses and cuts, and a seed that decides who does what next.

mod clients;
mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, LogIndex, MemberId, Moment, Rng};
use node::Status;
use proto::raftpb::ConfChangeType;
use storage::datadir::DataDir;
use storage::disk::{Disk, Faulty};
use store::Shared;
use worker::bootstrap::{self, Identity, InitialMember};

use super::history::History;
use super::member::{End, Member};
use crate::driver::{ROOT, Settings, Time};
use crate::oracle::{Oracle, portrait};
use crate::workload::{Kinds, Workload};

pub(crate) use clients::Faults;
use network::Delivery;

const TOKEN: &str = "cluster";

/// Steps after which a cluster that is left alone must have come to rest.
const SETTLE_STEPS_MAX: u64 = 1_500_000;

/// One place in the cluster, through all its lives.
struct Slot {
    disk: Faulty,
    settings: Settings,
    member: Option<Member>,
    /// When it starts again.
    down_until: Moment,
    seed: u64,
    /// It was told that it is removed.
    is_removed: bool,
    /// It was removed, and ended.
    gone: bool,
}

/// What was seen on the way, to make sure that a test tests something.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) crashes: u64,
    pub(crate) crashes_while_installing: u64,
    pub(crate) installs: u64,
    pub(crate) snapshots: u64,
    pub(crate) acknowledged: usize,
    pub(crate) entries: usize,
    pub(crate) reads: u64,
    pub(crate) reads_alone: u64,
    pub(crate) transfers: u64,
    pub(crate) handed_over: u64,
    pub(crate) stalls: u64,
    pub(crate) terms: usize,
    pub(crate) changes: u64,
    pub(crate) removed: u64,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    time: Arc<Time>,
    slots: BTreeMap<MemberId, Slot>,
    network: BTreeMap<(Moment, u64), (MemberId, MemberId, Delivery)>,
    next_delivery: u64,
    cut: BTreeSet<(MemberId, MemberId)>,
    pub(crate) history: History,
    workload: Workload,
    identity: Identity,
    founders: Vec<InitialMember>,
    next_member: u64,
    /// Whether a crash is the end of the process only, not of the power; else the seed decides.
    pub(crate) killed: Option<bool>,
    pub(crate) seen: Seen,
}

fn within(rng: &mut Rng, most: Duration) -> Duration {
    Duration::from_micros(rng.below(most.as_micros() as u64 + 1))
}

impl World {
    /// Founds a cluster of `count` members.
    pub(crate) fn new(seed: u64, count: u64, faults: Faults) -> Self {
        let kinds = Kinds { members: false, newest: false, ..Kinds::ALL };
        Self::with(seed, count, faults, kinds)
    }

    /// The same, with requests of these kinds.
    pub(crate) fn with(seed: u64, count: u64, faults: Faults, kinds: Kinds) -> Self {
        let mut rng = Rng::new(seed);
        let time = Arc::new(Time::default());
        time.pass(Duration::from_secs(1));
        let founders: Vec<InitialMember> = (0..count)
            .map(|at| InitialMember {
                name: format!("m{at}"),
                peer_urls: vec![format!("http://m{at}:2380")],
            })
            .collect();
        let ids: Vec<MemberId> =
            founders.iter().map(|one| bootstrap::member_id(&one.peer_urls, TOKEN)).collect();
        let identity = Identity { member: MemberId::NONE, cluster: bootstrap::cluster_id(&ids) };
        let mut slots = BTreeMap::new();
        for id in &ids {
            slots.insert(*id, Slot::new(&mut rng));
        }
        let mut world = Self {
            workload: Workload::new(rng.next_u64(), kinds),
            rng,
            faults,
            time,
            slots,
            network: BTreeMap::new(),
            next_delivery: 0,
            cut: BTreeSet::new(),
            history: History::default(),
            identity,
            founders,
            next_member: 1,
            killed: None,
            seen: Seen::default(),
        };
        for id in ids {
            world.start(id);
        }
        world
    }

    fn ids(&self) -> Vec<MemberId> {
        let here = self.slots.iter().filter(|(_, slot)| !slot.gone);
        here.map(|(id, _)| *id).collect()
    }

    /// The members that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Member> {
        self.slots.values().filter_map(|slot| slot.member.as_ref())
    }

    /// Who leads, as most recent as anyone knows.
    pub(crate) fn leader(&self) -> Option<MemberId> {
        let leads = |member: &&Member| member.leads();
        let leaders = self.running().filter(leads);
        leaders.max_by_key(|member| member.node.status().term).map(|member| member.id)
    }

    pub(crate) fn member(&mut self, id: MemberId) -> Option<&mut Member> {
        self.slots.get_mut(&id)?.member.as_mut()
    }

    /// Operations of a member's disk so far.
    pub(crate) fn operations(&self, id: MemberId) -> u64 {
        self.disk(id).operations()
    }

    /// A disk, to look at.
    pub(crate) fn disk(&self, id: MemberId) -> &Faulty {
        &self.slots[&id].disk
    }

    /// A cluster that leads, and a member of it that has missed what the log does not hold any
    /// more.
    pub(crate) fn lagging(seed: u64, kinds: Kinds) -> (Self, MemberId) {
        let mut world = Self::with(seed, 3, Faults::NONE, kinds);
        world.run_until("a leader", |world| world.running().any(Member::serves));
        let lagging = world.follower();
        world.isolate(lagging);
        let behind = world.status(lagging).applied.get();
        world.run_until("a log that was cut", |world| {
            let leader = world.leader().filter(|leader| *leader != lagging);
            leader.is_some_and(|leader| world.base(leader).get() > behind + 50)
        });
        (world, lagging)
    }

    pub(crate) fn operations_of_all(&self) -> Vec<u64> {
        self.slots.values().map(|slot| slot.disk.operations()).collect()
    }

    fn running_one(&self, id: MemberId) -> &Member {
        self.slots[&id].member.as_ref().expect("a member that runs")
    }

    pub(crate) fn status(&self, id: MemberId) -> Status {
        self.running_one(id).node.status()
    }

    /// Up to where a member's log was cut.
    pub(crate) fn base(&self, id: MemberId) -> LogIndex {
        self.running_one(id).node.raft().log().base().index
    }

    pub(crate) fn installs(&self, id: MemberId) -> u64 {
        self.running_one(id).installs
    }

    pub(crate) fn members_of(&self, id: MemberId) -> Vec<MemberId> {
        let members = self.running_one(id).shared().members();
        members.into_iter().map(|member| member.id).collect()
    }

    pub(crate) fn stall(&mut self, id: MemberId, duration: Duration) {
        let until = self.time.now() + duration;
        if let Some(member) = self.member(id) {
            member.stalled_until = until;
        }
    }

    pub(crate) fn remove(&mut self, by: MemberId, id: MemberId) {
        self.propose_change(by, ConfChangeType::ConfChangeRemoveNode, id, None);
    }

    pub(crate) fn now(&self) -> Moment {
        self.time.now()
    }

    /// Runs under load, without faults, until something is so.
    pub(crate) fn run_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..SETTLE_STEPS_MAX {
            if is_so(self) {
                return;
            }
            self.step(true);
        }
        panic!("it never comes to this: {what}");
    }

    /// A member that follows.
    pub(crate) fn follower(&self) -> MemberId {
        let leader = self.leader();
        let mut ids = self.running().map(|member| member.id);
        ids.find(|id| Some(*id) != leader).expect("a follower")
    }

    /// Some steps of whoever the seed names.
    pub(crate) fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.disturb();
            self.step(true);
        }
    }

    /// The same without faults.
    pub(crate) fn step(&mut self, with_load: bool) {
        if self.rng.one_in(6) {
            let pause = within(&mut self.rng, Duration::from_millis(8));
            self.time.pass(pause);
        }
        self.deliver();
        let ids = self.ids();
        let id = *self.rng.pick(&ids);
        if self.slots[&id].member.is_none() {
            if self.time.now() >= self.slots[&id].down_until {
                self.start(id);
            }
            return;
        }
        if with_load && self.rng.one_in(12) {
            self.ask(id);
        }
        self.step_member(id);
    }

    fn step_member(&mut self, id: MemberId) {
        let slot = self.slots.get_mut(&id).expect("a slot");
        let Some(member) = &mut slot.member else { return };
        let installs = member.installs;
        let ended = member.step(&mut self.rng, &mut self.history);
        let sent = std::mem::take(&mut member.outbox);
        let installed = member.installs > installs;
        if slot.disk.crashed() {
            self.seen.crashes_while_installing += u64::from(installed);
            self.crashed(id);
            return;
        }
        for one in sent {
            self.send(id, one);
        }
        match ended {
            Ok(()) => {}
            Err(End::Fatal(line)) => panic!("member {id} stops: {line}"),
            Err(End::Stopped) => {
                let slot = self.slots.get_mut(&id).expect("a slot");
                let member = slot.member.take().expect("it was running");
                self.seen.note(&member);
                let closed = member.close();
                slot.down_until = self.time.now() + within(&mut self.rng, Duration::from_secs(2));
                if slot.disk.crashed() {
                    self.crashed(id);
                } else {
                    closed.expect("closing a log");
                }
            }
            Err(End::Removed) => {
                self.slots.get_mut(&id).expect("a slot").is_removed = true;
            }
        }
        self.take_away(id);
    }

    /// Takes a removed member away, but not before another one knows that it is removed: a leader
    /// that leaves one who has not heard of it, and who needs its vote, leaves nobody. (So it is
    /// with etcd.)
    fn take_away(&mut self, id: MemberId) {
        if !self.slots[&id].is_removed {
            return;
        }
        let knows = |member: &Member| member.shared().removed_members().contains(&id);
        let is_known = self.running().any(|member| member.id != id && knows(member));
        let slot = self.slots.get_mut(&id).expect("a slot");
        if is_known && let Some(member) = slot.member.take() {
            self.seen.note(&member);
            self.seen.removed += 1;
            slot.gone = true;
        }
    }

    // ---- lives ----

    fn start(&mut self, id: MemberId) {
        let slot = self.slots.get_mut(&id).expect("a slot");
        slot.seed += 1;
        let disk = Arc::new(slot.disk.clone()) as Arc<dyn Disk>;
        let (dir, files) = (DataDir::new(ROOT), slot.settings.files());
        let own =
            self.founders.iter().find(|one| bootstrap::member_id(&one.peer_urls, TOKEN) == id);
        let made = match own {
            Some(own) => bootstrap::create(&disk, &dir, &own.name, &self.founders, TOKEN, &files),
            None => bootstrap::join(&disk, &dir, Identity { member: id, ..self.identity }, &files),
        };
        let started = made
            .and_then(|()| Member::start(&slot.disk, &slot.settings, &self.time, slot.seed ^ id.0));
        if slot.disk.crashed() {
            self.crashed(id);
            return;
        }
        match started {
            Ok(member) => slot.member = Some(member),
            Err(error) => panic!("member {id} cannot start: {error}"),
        }
    }

    /// The disk has stopped: the process was killed, or the power went.
    fn crashed(&mut self, id: MemberId) {
        let killed = self.killed.unwrap_or_else(|| self.rng.one_in(3));
        let slot = self.slots.get_mut(&id).expect("a slot");
        if let Some(member) = slot.member.take() {
            self.seen.note(&member);
        }
        self.seen.crashes += 1;
        if killed {
            slot.disk.restart();
        } else {
            let image = slot.disk.image(&mut self.rng);
            slot.disk = Faulty::from_image(&image, self.rng.next_u64()).expect("an image");
        }
        slot.down_until = self.time.now() + within(&mut self.rng, Duration::from_secs(3));
    }

    /// Lets the disk of a member stop at its next operation but so many.
    pub(crate) fn crash(&mut self, id: MemberId, operations: u64) {
        let disk = &self.slots[&id].disk;
        disk.crash_at(disk.operations() + operations);
    }

    // ---- the end ----

    /// Everything is mended, nobody asks for anything: all come to the same state.
    pub(crate) fn settle(&mut self) {
        self.faults = Faults::NONE;
        self.mend();
        for step in 0..SETTLE_STEPS_MAX {
            self.step(false);
            if step % 64 == 0 && self.is_settled() {
                return;
            }
        }
        let status = |slot: &Slot| slot.member.as_ref().map(|member| member.node.status());
        let all: Vec<_> = self.slots.iter().map(|(id, slot)| (id, status(slot))).collect();
        panic!("the cluster does not come to rest: {all:?}");
    }

    /// Who belongs to the cluster, as its leader says.
    fn belonging(&self) -> Option<BTreeSet<MemberId>> {
        let leader = self.leader()?;
        let leader = self.slots[&leader].member.as_ref()?;
        Some(leader.shared().members().into_iter().map(|member| member.id).collect())
    }

    fn is_settled(&self) -> bool {
        let Some(belonging) = self.belonging() else { return false };
        let committed = self.running().map(|member| member.node.status().committed).max();
        belonging.iter().all(|id| {
            let member = self.slots.get(id).and_then(|slot| slot.member.as_ref());
            member.is_some_and(|member| {
                let status = member.node.status();
                Some(status.applied) == committed
                    && member.is_quiet()
                    && status.leader != MemberId::NONE
                    && status.database == status.applied
            })
        }) && self.running().any(Member::leads)
    }

    /// Compares all members with each other, with the log, and with what was promised.
    pub(crate) fn check(&mut self) {
        let belonging = self.belonging().expect("a leader");
        let entries: Vec<_> = self.history.entries.values().cloned().collect();
        assert_eq!(entries.last().map(|last| last.index()), Some(entries.len() as u64), "a gap");
        let settings = &self.slots.values().next().expect("a slot").settings;
        let mut oracle = Oracle::new(settings.store(MemberId(1)));
        let replayed = oracle.replay(&entries, &self.history.acknowledged_answers);
        let replayed = replayed.expect("the log's replay");
        let expected = portrait(&replayed).expect("its portrait");
        for id in belonging {
            let member = self.slots[&id].member.as_ref().expect("it runs");
            let found = portrait(&member.shared()).expect("a portrait");
            assert!(found == expected, "member {id}: {}", found.difference(&expected));
            assert!(member.shared().revision() >= self.history.acknowledged);
            let versions = |shared: &Shared| (shared.cluster_version(), shared.storage_version());
            assert_eq!(versions(&member.shared()), versions(&replayed), "member {id}");
        }
        self.sum_up();
    }

    fn sum_up(&mut self) {
        for slot in self.slots.values() {
            if let Some(member) = &slot.member {
                self.seen.note(member);
            }
        }
        self.seen.snapshots = self.history.snapshots;
        self.seen.acknowledged = self.history.acknowledged_answers.len();
        self.seen.entries = self.history.entries.len();
        self.seen.terms = self.history.terms();
    }
}

impl Slot {
    fn new(rng: &mut Rng) -> Self {
        let disk = Faulty::new(rng.next_u64());
        let settings = Settings::draw(rng);
        let down_until = Moment::default();
        Self { disk, settings, member: None, down_until, seed: 0, is_removed: false, gone: false }
    }
}

impl Seen {
    fn note(&mut self, member: &Member) {
        self.installs += member.installs;
        self.reads += member.reads;
        self.transfers += member.transfers;
        self.handed_over += member.node.disk_stalls();
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.crashes_while_installing += other.crashes_while_installing;
        self.installs += other.installs;
        self.snapshots += other.snapshots;
        self.acknowledged += other.acknowledged;
        self.entries += other.entries;
        self.reads += other.reads;
        self.reads_alone += other.reads_alone;
        self.transfers += other.transfers;
        self.handed_over += other.handed_over;
        self.stalls += other.stalls;
        self.terms += other.terms;
        self.changes += other.changes;
        self.removed += other.removed;
    }
}
