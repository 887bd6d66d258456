//! Snapshots that take the place of all state.

use std::time::Duration;

use super::{End, Scenario, each, ends, ensure, once, some_of};
use crate::coverage::Mark;
use crate::plan::Plan;
use crate::run::Report;
use crate::world::{Failure, World};

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "a newer snapshot may come while an older one is being installed",
        about: "A member that received two snapshots in a short time died, because the arrival of \
                the second removed the database that the first was about to put in place.",
        issue: Some(18055),
        run: two_snapshots,
    },
    Scenario {
        name: "an install may end anywhere",
        about: "A process that is killed, or loses its power, while a snapshot comes, is recorded \
                and is put in place must find the old state or the new one, and catch up.",
        issue: None,
        run: interrupted_install,
    },
];

/// The installation of the first has to wait; meanwhile another member leads, goes on, and sends
/// another one.
fn two_snapshots(seed: u64) -> Report {
    once(seed, 3, |world| {
        let slow = world.lag()?;
        world.hold_apply(slow, Duration::from_secs(100))?;
        let base = world.base(slow);
        world.mend();
        world.until("the first", |world| world.base(slow) > base)?;
        // It is in the log, and on its way to its place.
        world.run_for(Duration::from_millis(300))?;
        let first = world.base(slow);
        world.isolate(slow);
        let old = world.until_led()?;
        let mut others = world.ids().into_iter().filter(|id| *id != old && *id != slow);
        let next = others.next_back().unwrap_or(old);
        while world.until_led()? != next {
            world.transfer(next)?;
            world.run_for(Duration::from_millis(300))?;
        }
        world.kill(old)?;
        world.until("all", |world| world.running().count() == 3)?;
        world.isolate(slow);
        world.leave_behind(slow)?;
        world.mend();
        world.until("the second", |world| world.base(slow) > first)?;
        world.run_for(Duration::from_millis(300))?;
        let installed = world.coverage.count(Mark::SnapshotInstalled);
        ensure(installed == 0, || format!("{installed} were installed already"))?;
        world.hold_apply(slow, Duration::ZERO)?;
        world.until("both", |world| world.coverage.count(Mark::SnapshotInstalled) >= 2)?;
        world.finish()
    })
}

/// Operations of the disk of one who receives a snapshot, from its beginning until it is followed
/// by something else in the database.
fn operations_of_an_install(seed: u64) -> u64 {
    let mut world = super::quiet(Plan::quiet(seed, 3));
    let mut measure = || -> Result<u64, Failure> {
        let lagging = world.lag()?;
        let first = world.operations(lagging);
        world.mend();
        let installed = |world: &World| world.coverage.count(Mark::SnapshotInstalled) > 0;
        world.until("an install", installed)?;
        world.put_many(5, "after")?;
        world.rest()?;
        Ok(world.operations(lagging) - first)
    };
    measure().unwrap_or(0)
}

fn interrupted_install(seed: u64) -> Report {
    let operations = operations_of_an_install(seed);
    let variants = ends(&some_of(operations, seed, 5));
    each(
        seed,
        variants,
        |_| Plan::quiet(seed, 3),
        |world, (at, end): &(u64, End)| {
            ensure(operations > 12, || format!("an install takes {operations} operations"))?;
            let lagging = world.lag()?;
            let before = world.crashes();
            world.ends_by(*end);
            world.crash(lagging, *at);
            world.mend();
            world.put_many(5, "after")?;
            // The last operations of the other run were of later commits, which may come together.
            if world.until_ended(before)? {
                world.until_restarted(before)?;
            } else {
                ensure(at + 10 > operations, || format!("no end after {at} operations"))?;
            }
            world.rest()?;
            world.finish()
        },
    )
}
