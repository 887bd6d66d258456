//! Whole clusters in one thread, from one seed.
//!
//! `CLUSTER_SEEDS` says how many are tried, `CLUSTER_SEED` with which one to begin,
//! `CLUSTER_STEPS` how long each works before everything is mended. `INSTALL_EVERY=1` tries every
//! operation of an install.

mod history;
mod member;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use base::Rng;
use member::Member;
use world::{Faults, Seen, World};

use crate::crash::number;
use crate::workload::Kinds;

const SEEDS: u64 = 24;
const STEPS: u64 = 12_000;

/// Runs a seed; says which one it was when it fails.
fn named<T>(name: &str, seed: u64, run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
        panic!("{name}={seed} {name}S=1: {text}")
    })
}

fn run(seed: u64, steps: u64) -> Seen {
    let faults = Faults::draw(&mut Rng::new(seed ^ 0xfa17));
    // Most begin with three, some with one that others join.
    let founders = if seed.is_multiple_of(5) { 1 } else { 3 };
    let mut world = World::new(seed, founders, faults);
    world.run(steps);
    world.settle();
    world.check();
    world.seen
}

#[test]
fn members_agree_whatever_happens_to_them() {
    let (first, seeds) = (number("CLUSTER_SEED", 1), number("CLUSTER_SEEDS", SEEDS));
    let steps = number("CLUSTER_STEPS", STEPS);
    let mut seen = Seen::default();
    for seed in first..first + seeds {
        seen.add(&named("CLUSTER_SEED", seed, || run(seed, steps)));
    }
    println!("{seen:#?}");
    if seeds >= SEEDS {
        let things = [
            seen.crashes,
            seen.installs,
            seen.reads,
            seen.reads_alone,
            seen.transfers,
            seen.stalls,
            seen.changes,
        ];
        assert!(things.into_iter().all(|thing| thing > 0), "{seen:?}");
        assert!(seen.acknowledged * 2 > seen.entries, "{seen:?}");
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    let trace = || {
        let mut world = World::new(7, 3, Faults::draw(&mut Rng::new(7)));
        world.run(3_000);
        (world.operations_of_all(), format!("{:?}", world.history.entries))
    };
    assert_eq!(trace(), trace());
}

/// The process, or the power, goes between any two operations that a snapshot takes on the disk of
/// who receives it (or, in a short run, some of them): while it comes, is recorded, is put in
/// place, and in what follows.
#[test]
fn an_install_may_end_anywhere() {
    let every = number("INSTALL_EVERY", 3) as usize;
    let lagging = || World::lagging(11, Kinds { members: false, newest: false, ..Kinds::ALL });
    let (mut world, member) = lagging();
    let first = world.operations(member);
    world.mend();
    world.run_until("an install", |world| world.installs(member) > 0);
    let applied = world.status(member).committed;
    world.run_until("what follows", |world| world.status(member).database > applied);
    let operations = world.operations(member) - first;
    assert!(operations > 12, "{operations}");
    let mut crashes_while_installing = 0;
    for at in (0..operations).step_by(every) {
        for killed in [true, false] {
            let (mut world, member) = lagging();
            world.killed = Some(killed);
            world.crash(member, at);
            world.mend();
            world.run_until("the crash", |world| world.seen.crashes == 1);
            world.settle();
            named("INSTALL", at, || world.check());
            crashes_while_installing += world.seen.crashes_while_installing;
        }
    }
    assert!(crashes_while_installing > 0);
}

#[test]
fn a_leader_that_is_stopped_leaves_another_one() {
    for seed in 1..6 {
        let mut world = World::new(seed, 3, Faults::NONE);
        world.run_until("a leader", |world| world.running().any(Member::serves));
        let leader = world.leader().unwrap();
        let begun = world.now();
        world.stop(leader);
        let another = |member: &Member| member.id != leader && member.serves();
        world.run_until("another leader", |world| world.running().any(another));
        let took = world.now() - begun;
        assert!(took < Duration::from_millis(500), "it took {took:?}, an election takes a second");
        world.settle();
        world.check();
    }
}

#[test]
fn a_leader_whose_disk_stalls_leaves_another_one() {
    let mut world = World::new(3, 3, Faults::NONE);
    world.run_until("a leader", |world| world.running().any(Member::serves));
    let leader = world.leader().unwrap();
    let begun = world.now();
    world.stall(leader, Duration::from_secs(60));
    let another = |member: &Member| member.id != leader && member.serves();
    world.run_until("another leader", |world| world.running().any(another));
    let took = world.now() - begun;
    assert!(took < Duration::from_secs(3), "{took:?}");
    let acknowledged = world.history.acknowledged;
    world.run_until("writes", |world| world.history.acknowledged.get() > acknowledged.get() + 50);
    assert!(world.now() - begun < Duration::from_secs(30));
    world.settle();
    world.check();
    assert_eq!(world.seen.handed_over, 1);
}

#[test]
fn a_member_alone_is_not_any_more_when_another_is_added() {
    let mut world = World::new(5, 1, Faults::NONE);
    world.run_until("one alone", |world| world.running().any(|one| one.node.status().is_alone));
    let first = world.leader().unwrap();
    let second = world.add_voter(first);
    world.run_until("two", |world| world.running().count() == 2);
    world
        .run_until("the same", |world| world.status(first).applied == world.status(second).applied);
    assert!(world.running().all(|member| !member.node.status().is_alone));
    // Now it takes both.
    let acknowledged = world.history.acknowledged;
    world.run_until("writes", |world| world.history.acknowledged.get() > acknowledged.get() + 20);
    world.isolate(second);
    world.run(500);
    let acknowledged = world.history.acknowledged;
    world.run(3_000);
    assert_eq!(world.history.acknowledged, acknowledged, "one of two acknowledges nothing");
    world.settle();
    world.check();
}

#[test]
fn a_removed_member_is_told_after_the_others() {
    for removed_leads in [true, false] {
        let mut world = World::new(9, 3, Faults::NONE);
        world.run_until("a leader", |world| world.running().any(Member::serves));
        let leader = world.leader().unwrap();
        let victim = if removed_leads { leader } else { world.follower() };
        world.remove(leader, victim);
        if removed_leads {
            world.run_until("its end", |world| world.seen.removed == 1);
        }
        world.settle();
        let left = world.leader().unwrap();
        assert_ne!(left, victim);
        assert!(world.members_of(left).iter().all(|member| *member != victim));
        world.check();
    }
}
