//! What a linearizable read may miss: nothing.

use std::time::Duration;

use base::{MemberId, Moment};
use store::Response;

use super::{Scenario, each, ensure, quick_or};
use crate::clients::story::{get, put};
use crate::history::{Call, Operation, Outcome};
use crate::plan::{Network, Plan};
use crate::run::Report;
use crate::world::{Failure, World};

pub(super) const ALL: &[Scenario] = &[Scenario {
    name: "a linearizable read is never stale when processes are suspended",
    about: "When a leader was suspended and others went on without it, late and repeated answers \
            to questions asked before confirmed reads that came later, and they missed writes.",
    issue: Some(20418),
    run: stale_reads,
}];

/// A network on which almost everything comes twice and much is overtaken.
fn unfair(seed: u64, founders: u64) -> Plan {
    let network = Network {
        repeat_one_in: 2,
        reorder_one_in: 2,
        delay: Duration::from_millis(20),
        ..Network::QUIET
    };
    let pre_vote = !seed.is_multiple_of(2);
    Plan { network, pre_vote, ..Plan::quiet(seed, founders) }
}

/// When it was known that `x` had which revision: the highest so far, in the order of time.
fn acknowledged(world: &World) -> Vec<(Moment, i64)> {
    let operations = world.history.operations.iter();
    let writes = operations.filter(|one| matches!(&one.call, Call::Put(put) if put.key == "x"));
    let known = |write: &Operation| {
        World::revision_of(&write.outcome).ok().map(|revision| (write.returned, revision))
    };
    let mut all: Vec<(Moment, i64)> = writes.filter_map(known).collect();
    all.sort_unstable();
    let mut highest = 0;
    for (_, revision) in &mut all {
        highest = highest.max(*revision);
        *revision = highest;
    }
    all
}

/// No read has missed a write that was acknowledged before it was asked. How many there were.
fn none_is_stale(world: &World) -> Result<usize, Failure> {
    let (acknowledged, mut count) = (acknowledged(world), 0);
    for read in &world.history.operations {
        let (Call::Range(range), Outcome::Answered(Response::Range(found))) =
            (&read.call, &read.outcome)
        else {
            continue;
        };
        if range.key != "x" {
            continue;
        }
        count += 1;
        let seen = found.kvs.first().map_or(0, |kv| kv.mod_revision);
        let before = acknowledged.partition_point(|(at, _)| *at <= read.invoked);
        let wanted = acknowledged[..before].last().map_or(0, |(_, revision)| *revision);
        ensure(seen >= wanted, || {
            let (member, at) = (read.member, read.invoked);
            format!("{member} reads revision {seen}, asked at {at:?}, after {wanted} was written")
        })?;
    }
    Ok(count)
}

/// What is done to a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// It is suspended, for longer than an election takes.
    Suspended,
    /// And when it wakes, it does not hear at once that others went on.
    Deaf,
    /// The answers to its last questions travel for longer than an election takes.
    LateAnswers,
}

fn stale_reads(seed: u64) -> Report {
    let all = [Trouble::Suspended, Trouble::Deaf, Trouble::LateAnswers];
    let variants = all.into_iter().flat_map(|trouble| [(trouble, 3), (trouble, 5)]);
    let plan = |(trouble, founders): &(Trouble, u64)| match trouble {
        Trouble::LateAnswers => Plan::quiet(seed, *founders),
        _ => unfair(seed, *founders),
    };
    each(seed, variants, plan, |world, (trouble, _)| {
        let mut written = 0;
        let rounds = quick_or(2, 8) * if *trouble == Trouble::LateAnswers { 2 } else { 1 };
        for _ in 0..rounds {
            match trouble {
                Trouble::LateAnswers => late_answers(world, &mut written)?,
                _ => suspended(world, &mut written, *trouble == Trouble::Deaf)?,
            }
        }
        world.calm();
        world.finish()?;
        let reads = none_is_stale(world)?;
        ensure(reads > rounds * 10, || format!("only {reads} reads were answered"))
    })
}

/// A number is written by one who is not `leader`; all are asked for it, until it is written or a
/// while has passed.
fn write_and_read(
    world: &mut World,
    leader: MemberId,
    written: &mut u64,
    within: Duration,
) -> Result<(), Failure> {
    *written += 1;
    let ids = world.ids();
    let others: Vec<_> = ids.iter().copied().filter(|id| *id != leader).collect();
    let asked = *world.rng.pick(&others);
    let write = world.send_call(asked, put("x", &written.to_string()));
    for id in ids {
        world.send_call(id, get("x"));
    }
    let until = world.now() + within;
    while world.is_open(write) && world.now() < until && world.step()? {}
    Ok(())
}

/// Numbers are written one after another; everybody is asked for them all the time. Whoever leads
/// is suspended, wakes, and is asked as well.
fn suspended(world: &mut World, written: &mut u64, is_deaf: bool) -> Result<(), Failure> {
    let leader = world.until_led()?;
    for id in world.ids() {
        world.send_call(id, get("x"));
    }
    let until = world.now() + Duration::from_secs(4);
    let lead = Duration::from_micros(world.rng.below(60_000));
    world.run_for(lead)?;
    let asleep = Duration::from_millis(1_200 + world.rng.below(1_500));
    let mended = world.now() + asleep + Duration::from_millis(world.rng.below(700));
    world.pause(leader, asleep);
    if is_deaf {
        world.isolate(leader);
    }
    while world.now() < until {
        write_and_read(world, leader, written, Duration::from_millis(100))?;
        if world.now() >= mended {
            world.mend();
        }
    }
    world.mend();
    Ok(())
}

/// A leader has asked whether it leads; nobody hears it from then on, and the answers are late.
/// Meanwhile another one leads. The old one is asked all the time.
fn late_answers(world: &mut World, written: &mut u64) -> Result<(), Failure> {
    let leader = world.until_led()?;
    let others: Vec<MemberId> = world.ids().into_iter().filter(|id| *id != leader).collect();
    for _ in 0..8 {
        world.send_call(leader, get("x"));
        let micros = world.rng.below(600);
        world.run_for(Duration::from_micros(micros))?;
    }
    let delay = world.network.delay;
    world.network.delay = Duration::from_millis(2_400);
    world.run_for(Duration::from_millis(1))?;
    world.network.delay = delay;
    for (number, other) in others.iter().enumerate() {
        world.silence(leader, *other);
        // Some answer late; of the others, who may lead next, the old one hears nothing.
        if number >= others.len() / 2 {
            world.silence(*other, leader);
        }
    }
    let until = world.now() + Duration::from_millis(3_500);
    let another = |world: &World| {
        world.running().find(|member| member.id != leader && member.serves()).map(|one| one.id)
    };
    while world.now() < until {
        match another(world) {
            None => world.run_for(Duration::from_millis(5))?,
            Some(next) => {
                world.silence(next, leader);
                write_and_read(world, leader, written, Duration::from_millis(20))?;
            }
        }
    }
    world.mend();
    world.run_for(Duration::from_millis(500))
}
