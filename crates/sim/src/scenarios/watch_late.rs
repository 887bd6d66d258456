//! Watchers at a member that lags behind, and that a snapshot puts ahead.

use std::time::Duration;

use base::MemberId;
use proto::etcdserverpb::WatchCreateRequest;

use super::{Scenario, each, ensure};
use crate::clients::story::{Watching, watch_all};
use crate::coverage::Mark;
use crate::plan::Plan;
use crate::run::Report;
use crate::world::{Failure, World};

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "a watch does not go back in time when its member gets a snapshot",
        about: "After a partition a watcher got events again that it had before, when its member \
                was brought up to date by a snapshot.",
        issue: Some(15271),
        run: snapshot_under_a_watch,
    },
    Scenario {
        name: "a watch from a future revision gets nothing older",
        about: "A watch from a revision that its member did not have yet was told of older \
                revisions, and given their events, when the member got a snapshot.",
        issue: Some(20221),
        run: future_revision,
    },
];

/// A follower and watchers there; it is cut off, the others go on, and a snapshot brings it back.
/// In the meantime the streams are looked at, or not.
fn caught_up_by_snapshot(
    world: &mut World,
    lagging: MemberId,
    watches: &mut [Watching],
    looks: bool,
) -> Result<(), Failure> {
    let installed = world.coverage.count(Mark::SnapshotInstalled);
    world.isolate(lagging);
    world.leave_behind(lagging)?;
    for watching in watches.iter_mut().filter(|_| looks) {
        world.ask_progress(watching)?;
        world.tick_watch(watching)?;
        world.look_through(watching)?;
    }
    world.mend();
    while world.coverage.count(Mark::SnapshotInstalled) == installed {
        if !world.step()? {
            break;
        }
        for watching in watches.iter_mut().filter(|_| looks) {
            world.ask_progress(watching)?;
        }
    }
    for watching in watches.iter_mut() {
        world.ask_progress(watching)?;
        world.tick_watch(watching)?;
        world.look(watching)?;
        world.ask_progress(watching)?;
    }
    world.put_many(40, "after")?;
    world.rest()
}

fn is_whole(watching: &Watching, from: i64, last: i64) -> Result<(), Failure> {
    if let Some(what) = watching.travels_back() {
        return ensure(false, || what);
    }
    let (seen, whole) = (watching.revisions(0), (from..=last).collect::<Vec<i64>>());
    ensure(seen == whole, || format!("from {from} to {last} it sees {seen:?}"))?;
    ensure(!seen.is_empty(), || format!("from {from} on there is nothing to see"))
}

fn snapshot_under_a_watch(seed: u64) -> Report {
    let variants = [1, 2].into_iter().flat_map(|rounds| [(rounds, true), (rounds, false)]);
    each(
        seed,
        variants,
        |_| Plan::quiet(seed, 3),
        |world, (rounds, looks)| {
            world.put_many(20, "before")?;
            world.rest()?;
            let lagging = world.follower()?;
            let newest = world.revision(lagging).get();
            // From the past, from now on, and one that is not read at all for long.
            let mut watches = vec![
                world.watch(lagging, watch_all(2))?,
                world.watch(lagging, watch_all(0))?,
                world.watch(lagging, watch_all(newest - 3))?,
            ];
            world.look_through(&mut watches[0])?;
            for _ in 0..*rounds {
                // So long a leader keeps what follows a snapshot that it has sent.
                world.run_for(Duration::from_secs(31))?;
                caught_up_by_snapshot(world, lagging, &mut watches, *looks)?;
            }
            let last = world.revision(lagging).get();
            for (watching, from) in watches.iter_mut().zip([2, newest + 1, newest - 3]) {
                world.complete(watching)?;
                is_whole(watching, from, last)?;
            }
            world.finish()
        },
    )
}

fn future_revision(seed: u64) -> Report {
    let variants = [1, 40, 90].into_iter().flat_map(|ahead| [(ahead, true), (ahead, false)]);
    each(
        seed,
        variants,
        |_| Plan::quiet(seed, 3),
        |world, (ahead, looks)| {
            world.put_many(20, "before")?;
            world.rest()?;
            let lagging = world.follower()?;
            let from = world.revision(lagging).get() + 1 + ahead;
            let create = WatchCreateRequest { progress_notify: true, ..watch_all(from) };
            let mut watches = vec![world.watch(lagging, create)?];
            caught_up_by_snapshot(world, lagging, &mut watches, *looks)?;
            let last = world.revision(lagging).get();
            ensure(last > from, || format!("{last} is not after {from}"))?;
            for watching in &mut watches {
                world.complete(watching)?;
                is_whole(watching, from, last)?;
                let early = watching.progress().into_iter().find(|at| *at < from);
                ensure(early.is_none(), || format!("from {from} on it is told of {early:?}"))?;
            }
            world.finish()
        },
    )
}
