//! Processes that end, and powers that go, while much is under way.

use std::time::Duration;

use base::Moment;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{Compare, PutRequest, RequestOp, TxnRequest};

use super::{End, Scenario, each, ends, ensure, some_of};
use crate::clients::story::put;
use crate::history::{Call, Outcome};
use crate::plan::{Pace, Plan};
use crate::run::Report;
use crate::world::{Failure, World};

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "every entry has its effect once whenever a member is killed",
        about: "Members that were killed under high load came back with other revisions and other \
                keys than the rest, because the index up to which entries had been applied could \
                reach the disk without what they had done.",
        issue: Some(13766),
        run: killed_under_load,
    },
    Scenario {
        name: "a member alone does not forget what it has acknowledged",
        about: "A cluster of one member acknowledged writes that were not on its disk yet, and \
                had lost them when its power came back.",
        issue: Some(14370),
        run: alone_without_power,
    },
    Scenario {
        name: "every entry has its effect once whenever a defragmentation is interrupted",
        about: "A member that crashed while it was being defragmented applied entries again that \
                its database already had, and its revision was ahead of the others' for ever.",
        issue: Some(14685),
        run: killed_while_defragmented,
    },
];

/// Operations of a disk in which lives end.
const WINDOW: u64 = 120;

/// A plan in which commits are slow, so that much is in memory only.
fn busy(seed: u64, founders: u64, at: u64) -> Plan {
    let mut plan = Plan::quiet(seed, founders);
    let pace = Pace {
        log: Duration::from_micros(300),
        apply: Duration::from_micros(100),
        commit: Duration::from_millis(8),
    };
    plan.paces = vec![pace; 8];
    for settings in &mut plan.settings {
        // With snapshots on disk, and without one that would tell what the database must have.
        settings.snapshot_count = if at % 4 < 2 { 20 } else { 100_000 };
    }
    plan.load.think = Duration::from_millis(1);
    plan
}

/// An increment whose second application would be seen: it writes only where the version is what
/// it has seen, and another key where it is not.
fn increment(version: i64) -> Call {
    let put = |key: &str| {
        let put = PutRequest { key: key.to_owned().into(), ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    };
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: "counter".into(),
        target_union: Some(TargetUnion::Version(version)),
        ..Compare::default()
    };
    Call::Txn(TxnRequest {
        compare: vec![compare],
        success: vec![put("counter")],
        failure: vec![put("missed")],
    })
}

/// The next write has the revision after the last one that any member has ever reached.
fn revisions_are_whole(world: &mut World) -> Result<(), Failure> {
    let outcomes = world.history.log.outcomes.values().cloned();
    let answered = outcomes.filter_map(Result::ok).map(Outcome::Answered);
    let last = answered.filter_map(|outcome| World::revision_of(&outcome).ok()).max().unwrap_or(0);
    let next = world.put("next", "")?;
    ensure(next == last + 1, || format!("the write after revision {last} has revision {next}"))
}

/// Calls of every kind, increments between them, and a life that ends in the middle.
fn under_load(world: &mut World, at: u64, end: End, defragments: bool) -> Result<(), Failure> {
    let leader = world.until_led()?;
    world.load(120);
    world.run_for(Duration::from_millis(30))?;
    let victim = if at.is_multiple_of(2) { leader } else { world.follower().unwrap_or(leader) };
    let before = world.crashes();
    world.ends_by(end);
    world.crash(victim, at);
    let mut until = Moment::default();
    for version in 0.. {
        if world.crashes() > before && world.clients.is_idle() {
            break;
        }
        if defragments && world.now() >= until {
            until = world.now() + Duration::from_millis(3);
            world.commit_database(victim)?;
        }
        let asked = if world.leader().is_some() { leader } else { victim };
        world.ask(asked, increment(version))?;
        world.run_for(Duration::from_micros(500))?;
    }
    world.until_restarted(before)?;
    revisions_are_whole(world)?;
    world.finish()
}

fn killed_under_load(seed: u64) -> Report {
    let variants = ends(&some_of(WINDOW, seed, 12));
    let variants = variants.into_iter().map(|(at, end)| (if at % 3 == 0 { 1 } else { 3 }, at, end));
    let plan = |(founders, at, _): &(u64, u64, End)| busy(seed, *founders, *at);
    each(seed, variants, plan, |world, (_, at, end)| under_load(world, *at, *end, false))
}

fn killed_while_defragmented(seed: u64) -> Report {
    let variants = ends(&some_of(WINDOW, seed, 12));
    let variants = variants.into_iter().map(|(at, end)| (if at % 3 == 0 { 3 } else { 1 }, at, end));
    let plan = |(founders, at, _): &(u64, u64, End)| busy(seed, *founders, *at);
    each(seed, variants, plan, |world, (_, at, end)| under_load(world, *at, *end, true))
}

fn alone_without_power(seed: u64) -> Report {
    let points = some_of(60, seed, 12);
    each(
        seed,
        points,
        |_| Plan::quiet(seed, 1),
        |world, at| {
            let one = world.until_led()?;
            let before = world.crashes();
            world.ends_by(End::Power);
            world.crash(one, *at);
            let mut kept = Vec::new();
            for number in 0.. {
                let key = format!("key/{number}");
                match world.ask(one, put(&key, "kept"))? {
                    Outcome::Answered(_) => kept.push(key),
                    _ => break,
                }
            }
            world.until_restarted(before)?;
            for key in &kept {
                let found = world.get(one, key)?;
                ensure(found.is_some(), || format!("{key} was acknowledged, and is gone"))?;
            }
            ensure(!kept.is_empty() || *at < 20, || {
                format!("nothing is written in {at} operations")
            })?;
            world.finish()
        },
    )
}
