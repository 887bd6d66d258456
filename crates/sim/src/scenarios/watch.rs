//! Watchers that lag behind while others write, compact, and ask how far they are.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, WatchCreateRequest,
};

use super::{Scenario, each, ensure, once, quick_or};
use crate::clients::story::{Watching, put, watch_all};
use crate::history::{Call, Outcome};
use crate::plan::Plan;
use crate::run::Report;
use crate::world::Failure;

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "progress is told after everything up to it",
        about: "Asked how far it is, a stream named a revision whose events came only \
                afterwards, and who trusted it missed them.",
        issue: Some(15220),
        run: progress_among_events,
    },
    Scenario {
        name: "whoever begins to watch while transactions are committed sees each event once",
        about: "A watcher that read history while a transaction was brought into the database \
                got some of its events twice.",
        issue: Some(17247),
        run: begun_at_any_moment,
    },
    Scenario {
        name: "a watcher overtaken by a compaction is told so",
        about: "Watchers on a stream that was not read for long went on after the compaction as \
                if there had been nothing before it, instead of being told.",
        issue: Some(17529),
        run: overtaken,
    },
    Scenario {
        name: "a watcher far behind does not stop writes",
        about: "A watcher hundreds of thousands of revisions behind had all of them searched, \
                again and again, for the few that fit into a response, and nothing could be \
                written meanwhile.",
        issue: Some(22264),
        run: far_behind,
    },
];

/// Events in the order of revisions, none twice.
fn in_order(watching: &Watching) -> Result<(), Failure> {
    match watching.travels_back() {
        Some(what) => ensure(false, || what),
        None => Ok(()),
    }
}

fn progress_among_events(seed: u64) -> Report {
    each(
        seed,
        [false, true],
        |_| Plan::quiet(seed, 3),
        |world, is_quiet| {
            let large = "v".repeat(40_000);
            let last = world.put_many(60, &large)?;
            world.rest()?;
            let mut watches = Vec::new();
            for id in world.ids() {
                let mut create = WatchCreateRequest { progress_notify: true, ..watch_all(2) };
                if *is_quiet {
                    (create.key, create.range_end) = ("nobody writes it".into(), "".into());
                }
                let mut watching = world.watch(id, create)?;
                world.ask_progress(&mut watching)?;
                watches.push(watching);
            }
            // Many small writes fill the streams' queues while they are not read.
            for round in 0..quick_or(6, 20) {
                let sent = if round % 3 == 2 { 160 } else { 8 };
                world.put_many(sent, "small")?;
                for watching in &mut watches {
                    world.ask_progress(watching)?;
                    world.look(watching)?;
                    world.ask_progress(watching)?;
                    world.tick_watch(watching)?;
                }
            }
            world.rest()?;
            for watching in &mut watches {
                world.complete(watching)?;
                in_order(watching)?;
                let revision = world.revision(watching.member).get();
                let seen = watching.revisions(0);
                let all = if *is_quiet { 0 } else { revision - 1 };
                ensure(seen.len() as i64 == all, || format!("{} events of {all}", seen.len()))?;
                // Without an event, too, there is an answer.
                let known = watching.progress().len();
                world.ask_progress(watching)?;
                let told = watching.progress().get(known).copied();
                ensure(told == Some(revision), || {
                    format!("of {revision} ({last} at first) {told:?} is told")
                })?;
            }
            world.finish()
        },
    )
}

/// Two puts and a deletion in one revision.
fn three_in_one(number: u64) -> Call {
    let put =
        |key: String| Request::RequestPut(PutRequest { key: key.into(), ..Default::default() });
    let delete = DeleteRangeRequest {
        key: "old/".into(),
        range_end: "old0".into(),
        ..DeleteRangeRequest::default()
    };
    let requests = [
        put(format!("one/{}", number % 7)),
        Request::RequestDeleteRange(delete),
        put(format!("two/{}", number % 5)),
    ];
    let success = requests.map(|request| RequestOp { request: Some(request) });
    Call::Txn(TxnRequest { success: success.into(), ..TxnRequest::default() })
}

/// What a watcher is to see of it, by its revision and key.
fn events_of(watching: &Watching, from: i64) -> Vec<(i64, Vec<u8>)> {
    let events = watching.responses.iter().flat_map(|response| &response.events);
    let kvs = events.filter_map(|event| event.kv.as_ref());
    let wanted = kvs.filter(|kv| kv.mod_revision >= from);
    wanted.map(|kv| (kv.mod_revision, kv.key.to_vec())).collect()
}

fn begun_at_any_moment(seed: u64) -> Report {
    once(seed, 1, |world| {
        let one = world.until_led()?;
        let mut first = world.watch(one, watch_all(1))?;
        let mut others = Vec::new();
        for number in 0..quick_or(60, 200) as u64 {
            world.send_call(one, put(&format!("old/{}", number % 3), ""));
            world.send_call(one, three_in_one(number));
            let micros = world.rng.below(4_000);
            world.run_for(Duration::from_micros(micros))?;
            let from = (world.revision(one).get() - 30).max(2);
            let mut other = world.watch(one, watch_all(from))?;
            world.look(&mut other)?;
            others.push((from, other));
            world.look(&mut first)?;
            if number % 4 == 0 {
                world.commit_database(one)?;
            }
        }
        world.rest()?;
        world.complete(&mut first)?;
        let all = events_of(&first, 0);
        ensure(all.is_sorted_by_key(|(at, _)| *at), || format!("not in order: {all:?}"))?;
        let once: BTreeSet<_> = all.iter().collect();
        ensure(once.len() == all.len(), || "an event comes twice".to_owned())?;
        for (from, mut other) in others {
            world.complete(&mut other)?;
            let (own, wanted) = (events_of(&other, 0), events_of(&first, from));
            ensure(own == wanted, || format!("from {from} on: {own:?}, not {wanted:?}"))?;
        }
        world.finish()
    })
}

/// Watchers on one stream.
const TOGETHER: i64 = 12;

/// Each watcher has everything without a gap, or everything up to some revision and the
/// compaction after it.
fn are_whole(watching: &Watching, from: i64, last: i64) -> Result<usize, Failure> {
    let mut overtaken = 0;
    for watch in 0..TOGETHER {
        let seen = watching.revisions(watch);
        let whole: Vec<i64> = (from..from + seen.len() as i64).collect();
        ensure(seen == whole, || format!("watcher {watch} sees {seen:?} from {from} on"))?;
        let next = from + seen.len() as i64;
        match watching.compacted(watch) {
            Some(compacted) => {
                overtaken += 1;
                ensure(compacted > next, || {
                    format!("watcher {watch} at {next} is ended by the compaction of {compacted}")
                })?;
            }
            None => ensure(next == last + 1, || {
                format!("watcher {watch} hears nothing after {next}, the last is {last}")
            })?,
        }
    }
    Ok(overtaken)
}

/// The compaction comes before the stream is read again, after a little, or between two slices of
/// the history that it reads.
fn overtaken(seed: u64) -> Report {
    each(
        seed,
        0..4,
        |_| Plan::quiet(seed, 1),
        |world, variant| {
            let one = world.until_led()?;
            let from = world.put("many/00", "")? + 1;
            let creates =
                (0..TOGETHER).map(|_| WatchCreateRequest { prev_kv: true, ..watch_all(from) });
            let mut watching = world.watch_together(one, creates)?;
            world.look_through(&mut watching)?;
            // One stream's queue holds fewer.
            let size = if *variant == 3 { 30_000 } else { 10 };
            let mut last = world.put_many(120, &"v".repeat(size))?;
            if *variant >= 1 {
                world.look(&mut watching)?;
                last = world.put_many(60, "after")?;
            }
            let revision = last - if *variant == 2 { 100 } else { 0 };
            world.insist(&Call::Compact(CompactionRequest { revision, physical: true }))?;
            let last = world.put_many(5, "newest")?;
            world.look_through(&mut watching)?;
            let overtaken = are_whole(&watching, from, last)?;
            ensure(*variant != 0 || overtaken > 0, || "nobody was overtaken".to_owned())?;
            world.put("later", "")?;
            world.look_through(&mut watching)?;
            are_whole(&watching, from, last + 1)?;
            world.finish()
        },
    )
}

fn far_behind(seed: u64) -> Report {
    once(seed, 1, |world| {
        let one = world.until_led()?;
        let rare = world.put("rare", "")?;
        let count = quick_or(2_200, 5_500);
        world.put_many(count, "")?;
        let create =
            WatchCreateRequest { key: "rare".into(), range_end: "".into(), ..watch_all(rare) };
        let mut watching = world.watch(one, create)?;
        let (mut slices, mut more) = (0, true);
        while more {
            more = world.look(&mut watching)?;
            slices += 1;
            let begun = world.now();
            let outcome = world.ask(one, put("others", "write"))?;
            ensure(matches!(outcome, Outcome::Answered(_)), || format!("{outcome:?}"))?;
            ensure(world.took(begun) < 100, || format!("a write takes {} ms", world.took(begun)))?;
        }
        ensure(slices >= count / 1000, || {
            format!("{count} revisions are read in {slices} slices")
        })?;
        // And it gets on: as many slices as there is to read, with what is written meanwhile.
        ensure(slices <= count / 1000 + 2, || format!("{count} revisions take {slices} slices"))?;
        let seen = watching.revisions(0);
        ensure(seen == [rare], || format!("it sees {seen:?}, not {rare}"))?;
        let again = world.put("rare", "again")?;
        world.complete(&mut watching)?;
        let seen = watching.revisions(0);
        ensure(seen == [rare, again], || format!("it sees {seen:?}, not {rare} and {again}"))?;
        world.finish()
    })
}
