//! Leaders that stop, or whose disks do, and members that end.

use std::time::Duration;

use base::MemberId;

use super::{Scenario, each, ensure};
use crate::coverage::Mark;
use crate::plan::{Pace, Plan};
use crate::run::Report;
use crate::world::{Failure, World};

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "a leader that is stopped leaves another one",
        about: "When a leader is stopped as an operator does it, nobody is to wait for an \
                election.",
        issue: None,
        run: stopped_leader,
    },
    Scenario {
        name: "a leader whose disk stalls leaves another one",
        about: "A leader whose disk does not answer still sends heartbeats, so nobody takes over, \
                and nothing can be written.",
        issue: None,
        run: stalled_leader,
    },
    Scenario {
        name: "a member that hands leadership over or drains does not spin",
        about: "A member that was told to stop while its disk was slow took all the time of a \
                core until it had ended, because what was due lay in the past and was not done.",
        issue: None,
        run: ends_without_spinning,
    },
];

fn another_serves(world: &mut World, leader: MemberId) -> Result<(), Failure> {
    world.until("another leader", |world| {
        world.running().any(|member| member.id != leader && member.serves())
    })
}

fn stopped_leader(seed: u64) -> Report {
    each(
        seed,
        [3, 5],
        |founders| Plan::quiet(seed, *founders),
        |world, _| {
            let leader = world.until_led()?;
            world.load(60);
            world.run_for(Duration::from_millis(20))?;
            let begun = world.now();
            world.stop(leader)?;
            another_serves(world, leader)?;
            let took = world.took(begun);
            ensure(took < 500, || format!("it took {took} ms, and an election takes a second"))?;
            world.until_idle()?;
            world.finish()
        },
    )
}

fn stalled_leader(seed: u64) -> Report {
    super::once(seed, 3, |world| {
        let leader = world.until_led()?;
        world.put("before", "")?;
        let begun = world.now();
        world.stall(leader, Duration::from_secs(60));
        // Its disk is due only when there is something to write.
        world.send_call(leader, crate::clients::story::put("stalled", ""));
        another_serves(world, leader)?;
        let took = world.took(begun);
        ensure(took < 3_000, || format!("it took {took} ms"))?;
        world.put_many(50, "others")?;
        let took = world.took(begun);
        ensure(took < 30_000, || format!("with writes it took {took} ms"))?;
        let given = world.coverage.count(Mark::HandedOver);
        ensure(given == 1, || format!("it gave leadership away {given} times"))?;
        world.finish()
    })
}

/// How a member ends.
#[derive(Debug, Clone, Copy)]
enum Ends {
    /// It leads, and hands over.
    Leading,
    /// It leads, and nobody can be reached.
    CutOff,
    /// It follows.
    Following,
    /// It is alone.
    Alone,
}

fn ends_without_spinning(seed: u64) -> Report {
    let all = [Ends::Leading, Ends::CutOff, Ends::Following, Ends::Alone];
    let variants = all.into_iter().flat_map(|how| [(how, false), (how, true)]);
    let plan = |(how, _): &(Ends, bool)| {
        let founders = if matches!(how, Ends::Alone) { 1 } else { 3 };
        let mut plan = Plan::quiet(seed, founders);
        plan.paces = vec![
            Pace {
                log: Duration::from_millis(2),
                apply: Duration::from_millis(2),
                commit: Duration::from_millis(200),
            };
            8
        ];
        plan
    };
    each(seed, variants, plan, |world, (how, is_stalled)| {
        let leader = world.until_led()?;
        world.load(200);
        world.run_for(Duration::from_millis(150))?;
        let ending = match how {
            Ends::Following => world.follower()?,
            _ => leader,
        };
        if *is_stalled {
            world.stall(ending, Duration::from_secs(3));
        }
        match how {
            Ends::Leading => {}
            Ends::CutOff => world.isolate(ending),
            Ends::Following | Ends::Alone => {}
        }
        // The duties of a leader fall due meanwhile.
        world.hold_apply(ending, Duration::from_millis(700))?;
        let events = world.events();
        world.stop(ending)?;
        world.until("its end", |world| world.coverage.count(Mark::StoppedGracefully) == 1)?;
        let events = world.events() - events;
        ensure(events < 40_000, || format!("it ends after {events} events"))?;
        world.mend();
        world.until_idle()?;
        world.finish()
    })
}
