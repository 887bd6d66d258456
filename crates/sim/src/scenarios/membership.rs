//! Members that come, change and go.

use std::time::Duration;

use base::MemberId;
use node::requests::membership;

use super::{Scenario, each, ensure};
use crate::clients::story::put;
use crate::coverage::Mark;
use crate::history::Outcome;
use crate::plan::Plan;
use crate::run::Report;
use crate::world::{Failure, World};

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "a learner whose addresses change stays a learner",
        about: "After its addresses were changed, a learner was listed as a voter: it could not \
                be promoted, and another learner could be added beside it.",
        issue: Some(21694),
        run: learner_updated,
    },
    Scenario {
        name: "a removed member does not come back",
        about: "After starts and joins, members that had been removed long ago were members \
                again, and nobody could be elected without them.",
        issue: Some(20967),
        run: removed_for_good,
    },
    Scenario {
        name: "a member alone is not any more when another is added",
        about: "A member that has just been joined by another one must not acknowledge or answer \
                by itself what now takes both.",
        issue: None,
        run: alone_no_more,
    },
    Scenario {
        name: "a removed member is told after the others",
        about: "A leader that removes itself and ends at once may leave others who need its vote \
                and have not heard of it.",
        issue: None,
        run: told_after_the_others,
    },
];

fn is_learner(world: &World, at: MemberId, id: MemberId) -> Option<bool> {
    world.members_of(at).iter().find(|member| member.id == id).map(|member| member.is_learner)
}

/// Waits until everybody runs and is at the same point.
fn all_run(world: &mut World, count: usize) -> Result<(), Failure> {
    world.until("all members", |world| world.running().count() == count)?;
    world.rest()
}

fn learner_updated(seed: u64) -> Report {
    each(
        seed,
        [false, true],
        |_| Plan::quiet(seed, 3),
        |world, restarts| {
            let leader = world.until_led()?;
            let learner = world.add_member(leader, true)?;
            all_run(world, 4)?;
            let urls = vec!["http://elsewhere:2380".to_owned()];
            let leader = world.until_led()?;
            world.propose_change(leader, membership::update(learner, urls.clone()))?;
            world.rest()?;
            if *restarts {
                world.restart_all()?;
                world.rest()?;
            }
            for id in world.ids() {
                let role = is_learner(world, id, learner);
                ensure(role == Some(true), || format!("{id} says of the learner: {role:?}"))?;
                let all = world.members_of(id);
                let told = all.into_iter().find(|one| one.id == learner).map(|one| one.peer_urls);
                ensure(told.as_ref() == Some(&urls), || {
                    format!("{id} has the addresses {told:?}")
                })?;
            }
            let refused = world.coverage.count(Mark::ChangeRefused);
            let leader = world.until_led()?;
            world.add_member(leader, true)?;
            world
                .until("a refusal", |world| world.coverage.count(Mark::ChangeRefused) > refused)?;
            world.rest()?;
            let leader = world.until_led()?;
            world.ask_change(leader, membership::promote(learner))?;
            world.rest()?;
            for id in world.ids() {
                let role = is_learner(world, id, learner);
                ensure(role == Some(false), || format!("{id} says of the promoted: {role:?}"))?;
                let counts = world.member(id).map(|member| {
                    member.node.raft().tracker().configuration().voters.contains(learner)
                });
                ensure(counts == Some(true), || format!("{id} does not count its vote"))?;
            }
            world.finish()
        },
    )
}

/// Adds, removes, adds again, starts everybody anew, brings another one up with a snapshot: the
/// list is the same everywhere.
fn removed_for_good(seed: u64) -> Report {
    each(
        seed,
        [false, true],
        |_| Plan::quiet(seed, 3),
        |world, by_snapshot| {
            let mut gone = Vec::new();
            for _ in 0..2 {
                let leader = world.until_led()?;
                let added = world.add_member(leader, true)?;
                all_run(world, 4)?;
                let leader = world.until_led()?;
                world.propose_change(leader, membership::remove(added))?;
                world.until("its end", |world| world.running().count() == 3)?;
                gone.push(added);
                world.rest()?;
            }
            if *by_snapshot {
                world.put_many(300, "more")?;
            }
            let leader = world.until_led()?;
            world.add_member(leader, true)?;
            all_run(world, 4)?;
            for _ in 0..2 {
                world.restart_all()?;
                world.rest()?;
                for id in world.ids() {
                    let back = world.members_of(id).into_iter().find(|one| gone.contains(&one.id));
                    ensure(back.is_none(), || format!("{id} has {back:?} again"))?;
                    let member = world.member(id);
                    let known = member.map(|member| member.shared().removed_members());
                    let knows = known.is_some_and(|known| gone.iter().all(|id| known.contains(id)));
                    ensure(knows, || format!("{id} forgets who was removed"))?;
                }
            }
            world.finish()
        },
    )
}

fn alone_no_more(seed: u64) -> Report {
    super::once(seed, 1, |world| {
        world.until("one alone", |world| world.running().any(|one| one.node.status().is_alone))?;
        let first = world.until_led()?;
        let second = world.add_member(first, false)?;
        all_run(world, 2)?;
        let is_alone = world.running().any(|member| member.node.status().is_alone);
        ensure(!is_alone, || "one of two is alone".to_owned())?;
        // Now it takes both.
        world.put_many(20, "both")?;
        world.isolate(second);
        world.run_for(Duration::from_millis(10))?;
        let mut calls = Vec::new();
        for number in 0..20 {
            calls.push(world.send_call(first, put(&format!("alone/{number}"), "")));
            calls.push(world.send_call(first, crate::clients::story::get("many/00")));
            world.run_for(Duration::from_millis(150))?;
        }
        for call in calls {
            let outcome = world.outcome_of(call)?;
            let is_answered = matches!(outcome, Outcome::Answered(_) | Outcome::Failed(_));
            ensure(!is_answered, || format!("one of two answers {outcome:?}"))?;
        }
        world.finish()
    })
}

fn told_after_the_others(seed: u64) -> Report {
    each(
        seed,
        [true, false],
        |_| Plan::quiet(seed, 3),
        |world, removed_leads| {
            let leader = world.until_led()?;
            let victim = if *removed_leads { leader } else { world.follower()? };
            world.propose_change(leader, membership::remove(victim))?;
            if *removed_leads {
                world.until("its end", |world| world.coverage.count(Mark::Removed) == 1)?;
            }
            world.rest()?;
            let left = world.until_led()?;
            ensure(left != victim, || "the removed member leads".to_owned())?;
            for id in world.ids().into_iter().filter(|id| *id != victim) {
                let is_listed = world.members_of(id).iter().any(|member| member.id == victim);
                ensure(!is_listed, || format!("{id} lists the removed member"))?;
            }
            world.put("two", "go on")?;
            world.finish()
        },
    )
}
