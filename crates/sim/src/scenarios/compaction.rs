//! What a compaction may take away, and what not, whatever happens while it works.

use std::time::Duration;

use base::MemberId;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use proto::mvccpb::event::EventType;
use store::ApplyError;

use super::{End, Scenario, each, ends, ensure, some_of};
use crate::clients::story::watch_all;
use crate::history::{Call, Outcome};
use crate::plan::Plan;
use crate::run::Report;
use crate::world::{Failure, World};

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "the revision never goes back whenever a compaction is interrupted",
        about: "After a crash in the middle of a compaction that had removed the newest rows, \
                which were deletions, the revision was lower than what clients had been told.",
        issue: Some(17780),
        run: interrupted_after_deletes,
    },
    Scenario {
        name: "a watch from the revision of a compaction sees the deletion at it",
        about: "A watch from the revision at which the store had been compacted did not see the \
                deletion that had happened at that revision.",
        issue: Some(18089),
        run: deleted_at_the_compaction,
    },
    Scenario {
        name: "a watch sees the deletion at a compaction that was interrupted",
        about: "When a compaction was interrupted and done again after the start, the deletion at \
                its revision was removed with the key, and a watch from there missed it.",
        issue: Some(19179),
        run: deleted_and_interrupted,
    },
    Scenario {
        name: "a transaction that reads a compacted revision fails on all members",
        about: "A transaction that reads at a compacted revision failed on the member that the \
                client was connected to, and had its effect on the others.",
        issue: Some(18667),
        run: txn_at_a_compacted_revision,
    },
];

fn delete(key: &str) -> Call {
    Call::DeleteRange(DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() })
}

fn compact(revision: i64, physical: bool) -> Call {
    Call::Compact(CompactionRequest { revision, physical })
}

fn remove(world: &mut World, key: &str) -> Result<i64, Failure> {
    let outcome = world.insist(&delete(key))?;
    World::revision_of(&outcome)
}

/// A plan in which a compaction takes many slices.
fn in_slices(seed: u64, founders: u64) -> Plan {
    let mut plan = Plan::quiet(seed, founders);
    for settings in &mut plan.settings {
        settings.compaction_batch = 2;
    }
    plan
}

/// Keys that are deleted: more than one slice of a compaction takes.
const KEYS: u64 = 12;

/// Writes keys and deletes them; the last revisions are deletions. The last of them.
fn write_and_delete(world: &mut World, keys: u64) -> Result<i64, Failure> {
    world.put("stays", "")?;
    for key in 0..keys {
        world.put(&format!("goes/{key}"), "")?;
    }
    let mut last = 0;
    for key in 0..keys {
        last = remove(world, &format!("goes/{key}"))?;
    }
    Ok(last)
}

/// Compacts, and has every slice of it on disk before the next.
fn compact_and_commit(world: &mut World, one: MemberId, revision: i64) -> Result<(), Failure> {
    world.send_call(one, compact(revision, true));
    for _ in 0..60 {
        world.commit_database(one)?;
        world.run_for(Duration::from_millis(2))?;
    }
    Ok(())
}

/// Operations that a disk does while a compaction is at work, and a little after.
fn operations_of_a_compaction(seed: u64) -> u64 {
    let mut world = super::quiet(in_slices(seed, 1));
    let mut measure = || -> Result<u64, Failure> {
        let last = write_and_delete(&mut world, KEYS)?;
        let one = world.until_led()?;
        let before = world.operations(one);
        compact_and_commit(&mut world, one, last)?;
        Ok(world.operations(one) - before)
    };
    measure().unwrap_or(0)
}

/// Writes, deletes, compacts, and ends a life in the middle. The revision of the compaction.
fn interrupt(world: &mut World, at: u64, end: End) -> Result<(MemberId, i64), Failure> {
    let last = write_and_delete(world, KEYS)?;
    let one = world.until_led()?;
    let before = world.crashes();
    world.ends_by(end);
    world.crash(one, at);
    compact_and_commit(world, one, last)?;
    // The last operations of the other run may come together in this one.
    if world.until_ended(before)? {
        world.until_restarted(before)?;
    }
    Ok((world.until_led()?, last))
}

fn interrupted_after_deletes(seed: u64) -> Report {
    let operations = operations_of_a_compaction(seed);
    let variants = ends(&some_of(operations, seed, 6));
    each(
        seed,
        variants,
        |_| in_slices(seed, 1),
        |world, (at, end)| {
            ensure(operations > 4, || format!("a compaction takes {operations} operations"))?;
            let (one, last) = interrupt(world, *at, *end)?;
            let revision = world.revision(one).get();
            ensure(revision == last, || format!("revision {revision} after {last}"))?;
            let next = world.put("next", "")?;
            ensure(next == last + 1, || format!("the write after {last} has revision {next}"))?;
            world.finish()
        },
    )
}

/// What a watch from `from` on sees, as letters: `p` for a put, `d` for a deletion.
fn kinds_seen(world: &mut World, member: MemberId, from: i64) -> Result<String, Failure> {
    let mut watching = world.watch(member, watch_all(from))?;
    world.complete(&mut watching)?;
    let compacted = watching.compacted(0);
    ensure(compacted.is_none(), || format!("the watch from {from} ends: {compacted:?}"))?;
    let first = watching.revisions(0).first().copied();
    ensure(first == Some(from), || format!("a watch from {from} on sees {first:?} first"))?;
    let events = watching.responses.iter().flat_map(|response| &response.events);
    let letter = |kind| if kind == EventType::Delete { 'd' } else { 'p' };
    Ok(events.map(|event| letter(event.r#type())).collect())
}

/// The four: a member or three of them, the compaction is waited for or not, with a start after
/// it or without.
fn deleted_at_the_compaction(seed: u64) -> Report {
    let variants = [1_u64, 3].into_iter().flat_map(|founders| {
        [(true, false), (false, false), (true, true), (false, true)]
            .map(|(physical, restarts)| (founders, physical, restarts))
    });
    let plan = |(founders, ..): &(u64, bool, bool)| in_slices(seed, *founders);
    each(seed, variants, plan, |world, (_, physical, restarts)| {
        for value in ["2", "3", "4"] {
            world.put("k", value)?;
        }
        let deleted = remove(world, "k")?;
        world.put("k", "6")?;
        world.insist(&compact(deleted, *physical))?;
        if *restarts {
            world.rest()?;
            world.restart_all()?;
        }
        world.rest()?;
        for id in world.ids() {
            let seen = kinds_seen(world, id, deleted)?;
            ensure(seen.starts_with("dp"), || format!("a watch at {id} sees {seen}"))?;
        }
        world.finish()
    })
}

fn deleted_and_interrupted(seed: u64) -> Report {
    let operations = operations_of_a_compaction(seed);
    let variants = ends(&some_of(operations, seed, 6));
    each(
        seed,
        variants,
        |_| in_slices(seed, 1),
        |world, (at, end)| {
            let (one, last) = interrupt(world, *at, *end)?;
            let is_compacted = |world: &mut World| {
                let member = world.member(one);
                member.is_some_and(|member| member.shared().view().compact_revision().get() == last)
            };
            if !is_compacted(world) {
                world.insist(&compact(last, true))?;
            }
            for starts in 0..2 {
                world.rest()?;
                let seen = kinds_seen(world, one, last)?;
                ensure(seen == "d", || format!("after {starts} more starts a watch sees {seen}"))?;
                let before = world.crashes();
                world.kill(one)?;
                world.until_restarted(before)?;
            }
            world.finish()
        },
    )
}

fn read_and_write(revision: i64, key: &str) -> Call {
    let range = RangeRequest { key: "k".into(), revision, ..RangeRequest::default() };
    let put = PutRequest { key: key.to_owned().into(), ..PutRequest::default() };
    let requests = [Request::RequestRange(range), Request::RequestPut(put)];
    let success = requests.map(|request| RequestOp { request: Some(request) });
    Call::Txn(TxnRequest { success: success.into(), ..TxnRequest::default() })
}

/// With the compaction before it, or under way together with it, in either order of arrival; and
/// on members of which one applies late, or has just started.
fn txn_at_a_compacted_revision(seed: u64) -> Report {
    each(
        seed,
        0..4,
        |_| in_slices(seed, 3),
        |world, variant| {
            let mut last = 0;
            for value in ["1", "2", "3", "4", "5"] {
                last = world.put("k", value)?;
            }
            let leader = world.until_led()?;
            let follower = world.follower()?;
            match variant {
                0 => {}
                1 => world.hold_apply(follower, Duration::from_millis(700))?,
                2 => {
                    let before = world.crashes();
                    world.kill(follower)?;
                    world.until_restarted(before)?;
                }
                _ => world.slow_apply(leader, Duration::from_millis(700)),
            }
            let compaction = world.send_call(leader, compact(last, false));
            if *variant == 0 {
                world.outcome_of(compaction)?;
            }
            let mut under_way = Vec::new();
            for (number, id) in world.ids().into_iter().enumerate() {
                let key = format!("x{number}");
                under_way.push((key.clone(), world.send_call(id, read_and_write(last - 2, &key))));
            }
            world.outcome_of(compaction)?;
            for (key, operation) in under_way {
                let outcome = world.outcome_of(operation)?;
                let has_failed = outcome == Outcome::Failed(ApplyError::Compacted);
                let may_be_early = *variant != 0 && matches!(outcome, Outcome::Answered(_));
                ensure(has_failed || may_be_early, || format!("{key} comes to {outcome:?}"))?;
                world.rest()?;
                for id in world.ids() {
                    let is_there = world.get(id, &key)?.is_some();
                    ensure(is_there != has_failed, || format!("{id} has {key}: {is_there}"))?;
                }
            }
            world.finish()
        },
    )
}
