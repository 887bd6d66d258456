//! Situations that users of etcd have paid for, and those in which this project's own bugs were
//! found: each told step by step, with what a user wants of it.
//!
//! *Invariants.* 1. A scenario forces its situation; what it leaves to chance is decided by its
//! seed. 2. It demands the outcome that a user wants, and then everything that every run must
//! fulfil ([`World::finish`]).
//!
//! *Absent*, of etcd's issues: 14571 (a member that joins an authenticated cluster refuses what
//! others apply) until there is authentication; 13527, of which no public text was found.

mod compaction;
mod crashes;
mod leaders;
mod leases;
mod membership;
mod reads;
mod snapshots;
mod watch;
mod watch_late;

use std::fmt::Debug;
use std::time::Duration;

use base::Moment;

use crate::checkers::Violation;
use crate::coverage::{Coverage, Mark};
use crate::digest::Digest;
use crate::plan::Plan;
use crate::run::{self, Report};
use crate::world::{Failure, World};

/// A situation and what must come of it.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What must be true, as a name.
    pub name: &'static str,
    /// What users saw, in one sentence.
    pub about: &'static str,
    /// The number of etcd's issue, when it is one of etcd's.
    pub issue: Option<u32>,
    /// Goes through it.
    pub run: fn(seed: u64) -> Report,
}

/// All of them, by topic.
pub const ALL: &[&[Scenario]] = &[
    crashes::ALL,
    compaction::ALL,
    watch::ALL,
    watch_late::ALL,
    reads::ALL,
    leases::ALL,
    membership::ALL,
    snapshots::ALL,
    leaders::ALL,
];

/// All of them, one after another.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    ALL.iter().copied().flatten()
}

/// One number where time is short, as in builds that are not optimized, and another elsewhere.
const fn quick_or(quick: usize, thorough: usize) -> usize {
    if cfg!(debug_assertions) { quick } else { thorough }
}

/// Numbers up to `count`: all of them where there is time, and a few, other ones for each seed,
/// where there is not.
fn some_of(count: u64, seed: u64, quick: usize) -> Vec<u64> {
    let most = quick_or(quick, usize::MAX) as u64;
    let every = count.div_ceil(most).max(1);
    (seed % every..count).step_by(usize::try_from(every).unwrap_or(1)).collect()
}

/// The checker that a broken demand of a scenario names.
const NAME: &str = "scenario";

/// Demands something.
fn ensure(is_so: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(Violation::new(NAME, what()).into()) }
}

/// A world in which nothing goes wrong but what the scenario says, not even an answer that is
/// lost.
fn quiet(plan: Plan) -> World {
    let mut world = World::new(plan);
    world.clients.is_told();
    world
}

/// Goes through one situation.
fn once(seed: u64, founders: u64, go: fn(&mut World) -> Result<(), Failure>) -> Report {
    each(seed, [founders], |founders| Plan::quiet(seed, *founders), |world, _| go(world))
}

/// Goes through all variants of a situation, or up to the first that fails; of that one the
/// report tells the story.
fn each<V: Debug>(
    seed: u64,
    variants: impl IntoIterator<Item = V>,
    plan: impl Fn(&V) -> Plan,
    go: impl Fn(&mut World, &V) -> Result<(), Failure>,
) -> Report {
    let mut all = Report {
        seed,
        failure: None,
        coverage: Coverage::default(),
        acknowledged: 0,
        simulated: Duration::ZERO,
        events: 0,
        digest: 0,
        story: Vec::new(),
    };
    let mut digest = Digest::default();
    for variant in variants {
        let one = run::judge(seed, quiet(plan(&variant)), |world| go(world, &variant));
        all.coverage.merge(&one.coverage);
        all.simulated += one.simulated;
        all.events += one.events;
        digest.add(one.digest);
        if let Some(failure) = one.failure {
            let mut world = quiet(plan(&variant));
            world.story = Some(Vec::new());
            all.story = run::judge(seed, world, |world| go(world, &variant)).story;
            all.failure = Some(named(failure, &format!("{variant:?}")));
            break;
        }
    }
    all.acknowledged = all.coverage.count(Mark::Acknowledged);
    all.digest = digest.value();
    all
}

fn named(failure: Failure, variant: &str) -> Failure {
    match failure {
        Failure::Crash(what) => Failure::Crash(format!("variant {variant}: {what}")),
        Failure::Liveness(what) => Failure::Liveness(format!("variant {variant}: {what}")),
        Failure::Safety(Violation { checker, what }) => {
            Violation::new(checker, format!("variant {variant}: {what}")).into()
        }
    }
}

/// How long a scenario waits for an end that may not come.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The process is killed: what it wrote is there.
    Killed,
    /// The power goes: what was not synced may be gone.
    Power,
}

/// Both.
const ENDS: [End; 2] = [End::Killed, End::Power];

/// Every so many operations of a disk, both ends; where time is short, they alternate.
fn ends(operations: &[u64]) -> Vec<(u64, End)> {
    let both = |at: &u64| ENDS.map(|end| (*at, end));
    let all = operations.iter().flat_map(both);
    match quick_or(2, 1) {
        1 => all.collect(),
        _ => all.enumerate().filter(|(at, _)| at % 4 == 0 || at % 4 == 3).map(|(_, v)| v).collect(),
    }
}

impl World {
    /// Says how the next lives end.
    fn ends_by(&mut self, end: End) {
        self.killed = Some(end == End::Killed);
    }

    /// Lets the run go on until one more life has ended than `before`; false when it does not end
    /// in the time that anything takes here.
    fn until_ended(&mut self, before: u64) -> Result<bool, Failure> {
        let until = self.now() + WAIT_MAX;
        while self.crashes() == before && self.now() < until && self.step()? {}
        Ok(self.crashes() > before)
    }

    /// Lets the run go on until one more life has ended than `before`, and somebody leads again.
    fn until_restarted(&mut self, before: u64) -> Result<(), Failure> {
        self.until("a crash", |world| world.crashes() > before)?;
        let all = self.ids().len();
        self.until("all members", |world| world.running().count() == all)?;
        self.until_led()?;
        Ok(())
    }

    /// Ends every process, and waits until all run and somebody leads again.
    fn restart_all(&mut self) -> Result<(), Failure> {
        let before = self.crashes();
        for id in self.ids() {
            self.kill(id)?;
        }
        self.until_restarted(before)
    }

    /// For how long this run has gone on since a moment, in milliseconds.
    fn took(&self, since: Moment) -> u128 {
        (self.now() - since).as_millis()
    }
}
