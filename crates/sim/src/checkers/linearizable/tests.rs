//! Histories that have an order, and histories that have none.

use std::time::Instant;

use proto::etcdserverpb::RangeRequest;
use store::Response;

use super::super::model::fixtures::*;
use super::*;
use crate::checkers::revisions;
use crate::history::Operation;

fn found(history: &History) -> String {
    check(history).unwrap_err().to_string()
}

#[test]
fn overlapping_calls_may_have_any_order_that_explains_them() {
    let mut builder = Builder::new();
    builder.call_at(1, (ms(0), ms(90), ms(100)), put("a", "late"));
    builder.call_at(2, (ms(0), ms(95), ms(100)), get("a"));
    let mut history = builder.finish();
    check(&history).unwrap();
    // The read before the put is just as good.
    let read = Model::new().apply(&get("a")).unwrap();
    history.operations[1].outcome = Outcome::Answered(read);
    check(&history).unwrap();
    // But not when the put has returned before.
    history.operations[0].returned = ms(10);
    history.operations[1].invoked = ms(20);
    let what = found(&history);
    assert!(what.contains("call 1 of client 2") && !what.contains('\n'), "{what}");
}

#[test]
fn calls_of_one_client_do_not_overlap_even_at_one_moment() {
    let mut builder = Builder::new();
    builder.call(1, 0, 10, put("a", "1")).call(1, 10, 20, get("a"));
    let mut history = builder.finish();
    check(&history).unwrap();
    history.operations[1].outcome = Outcome::Answered(Model::new().apply(&get("a")).unwrap());
    found(&history);
    history.operations[1].client = crate::history::ClientId(2);
    check(&history).unwrap();
}

#[test]
fn what_nobody_was_told_of_happened_if_the_log_has_it() {
    let mut builder = Builder::new();
    let id = builder.commit(ms(500), &put("a", "1"));
    builder.record(1, (ms(0), ms(10)), put("a", "1"), Outcome::Unknown, Some(id));
    builder.call(2, 600, 610, get("a"));
    let missing = Some(RequestId(77));
    builder.record(3, (ms(0), ms(10)), put("a", "2"), Outcome::Unknown, missing);
    let mut history = builder.finish();
    check(&history).unwrap();

    let unknown = history.operations.iter_mut().find(|one| one.request == Some(id)).unwrap();
    unknown.outcome = Outcome::Refused;
    assert!(found(&history).contains("was refused, but took place"));

    let unknown = history.operations.iter_mut().find(|one| one.request == Some(id)).unwrap();
    (unknown.outcome, unknown.invoked) = (Outcome::Unknown, ms(650));
    found(&history);
}

#[test]
fn members_may_end_leases_by_themselves() {
    let mut builder = Builder::new();
    builder.call(1, 0, 10, grant(1, 5)).call(1, 10, 20, put_leased("a", 1));
    builder.commit(ms(30), &revoke(1));
    builder.call(1, 40, 50, get("a")).call(1, 60, 70, grant(1, 5));
    builder.commit(ms(75), &revoke(1));
    builder.call(1, 80, 90, grant(1, 5));
    let mut history = builder.finish();
    check(&history).unwrap();
    let revoked = LogIndex(3);
    history.log.entries.remove(&revoked);
    history.log.outcomes.remove(&RequestId(3));
    let found = found(&history);
    assert!(found.contains("no entry before entry 4"), "{found}");
}

#[test]
fn a_compaction_lies_between_reads_that_differ() {
    let mut builder = Builder::new();
    builder.call(1, 0, 10, put("a", "1")).call(1, 10, 20, put("a", "2"));
    let old = || Call::Range(RangeRequest { revision: 2, ..range_request("a", "") });
    builder.call(2, 30, 40, old());
    builder.call_at(1, (ms(25), ms(45), ms(60)), compact(3));
    builder.call(2, 50, 60, old());
    let mut history = builder.finish();
    assert_eq!(history.operations[4].outcome, Outcome::Failed(ApplyError::Compacted));
    check(&history).unwrap();
    let (one, two) = (history.operations[3].outcome.clone(), history.operations[4].outcome.clone());
    (history.operations[3].outcome, history.operations[4].outcome) = (two, one);
    found(&history);
}

#[test]
fn a_search_without_an_end_is_undecided() {
    // Grants of many leases overlap, in any order; a read that cannot be explained comes after.
    let mut builder = Builder::new();
    for client in 0..24 {
        let id = i64::from(client) + 1;
        builder.call_at(client, (ms(0), ms(50), ms(100)), grant(id, 5));
    }
    builder.call(99, 110, 120, get("a"));
    let mut history = builder.finish();
    check(&history).unwrap();
    let Outcome::Answered(Response::Range(range)) = &mut history.operations[24].outcome else {
        panic!("a range")
    };
    range.count = 1;
    assert!(found(&history).contains("undecided"));
}

/// Changes one answer. `None` when there is nothing to change.
fn corrupt(operation: &mut Operation, rng: &mut Rng) -> Option<()> {
    let Outcome::Answered(response) = &mut operation.outcome else {
        if matches!(operation.outcome, Outcome::Failed(_)) {
            operation.outcome = Outcome::Failed(ApplyError::NoSpace);
            return Some(());
        }
        return None;
    };
    let how = rng.below(4);
    let header = match response {
        Response::Put(put) => {
            if let Some(kv) = put.prev_kv.as_mut().filter(|_| how > 0) {
                kv.version += 1;
                return Some(());
            }
            put.header.as_mut()
        }
        Response::Range(range) => {
            match how {
                0 => range.count += 1,
                1 => range.more = !range.more,
                _ => match range.kvs.last_mut() {
                    Some(kv) if how == 2 => kv.mod_revision -= 1,
                    Some(_) => drop(range.kvs.pop()),
                    None => range.count -= 1,
                },
            }
            return Some(());
        }
        Response::DeleteRange(delete) => {
            if how > 1 {
                delete.deleted += 1;
                return Some(());
            }
            delete.header.as_mut()
        }
        Response::Txn(txn) => match how {
            0 => txn.header.as_mut(),
            1 => {
                txn.succeeded = !txn.succeeded;
                return Some(());
            }
            _ => {
                txn.responses.pop()?;
                return Some(());
            }
        },
        Response::Compaction(response) => response.header.as_mut(),
        Response::LeaseGrant(response) => response.header.as_mut(),
        Response::LeaseRevoke(response) => response.header.as_mut(),
        _ => None,
    };
    header?.revision += if rng.one_in(2) { 1 } else { -1 };
    Some(())
}

#[test]
fn random_histories_pass_and_corrupted_answers_are_found() {
    let (mut corrupted, mut missed, mut missed_by_all) = (0, 0, 0);
    for seed in 0..150 {
        let history = random(seed, 120, 5, 12).finish();
        check(&history).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        revisions::check(&history).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let mut rng = Rng::new(seed);
        for _ in 0..4 {
            let mut wrong = history.clone();
            let at = rng.below(wrong.operations.len() as u64) as usize;
            let operation = &mut wrong.operations[at];
            let is_serializable = is_serializable(&operation.call);
            if corrupt(operation, &mut rng).is_none() {
                continue;
            }
            corrupted += 1;
            let found = check(&wrong).is_err();
            missed += u32::from(!found && !is_serializable);
            missed_by_all += u32::from(!found && revisions::check(&wrong).is_ok());
        }
    }
    println!("{corrupted} corrupted, {missed} not linearizable and missed, {missed_by_all} by all");
    assert!(corrupted > 400);
    // A revision that is one off may be explained by calls that overlap: the log knows better.
    assert!(missed * 10 <= corrupted && missed_by_all * 100 <= corrupted);
}

#[test]
fn the_order_of_the_log_is_only_a_hint() {
    for seed in 0..100 {
        let mut history = random(seed, 200, 8, 12).finish();
        let mut rng = Rng::new(seed);
        let mut entries: Vec<_> = history.log.entries.values().cloned().collect();
        for at in (1..entries.len()).rev() {
            entries.swap(at, rng.below(at as u64 + 1) as usize);
        }
        for (place, entry) in history.log.entries.values_mut().zip(entries) {
            *place = entry;
        }
        check(&history).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn a_wrong_guess_is_taken_back() {
    // The log has the compaction first, but a read that overlaps both says otherwise.
    let mut builder = Builder::new();
    builder.call(1, 0, 10, put("a", "1")).call(1, 10, 20, put("a", "2"));
    builder.call_at(1, (ms(30), ms(40), ms(100)), compact(3));
    builder.call_at(2, (ms(30), ms(50), ms(60)), grant(1, 5));
    let request = RangeRequest { revision: 2, ..range_request("a", "") };
    let read = Call::Range(request.clone());
    let old = builder.states[2].range(&request).map(Response::Range).unwrap();
    builder.record(2, (ms(70), ms(80)), read, Outcome::Answered(old), None);
    let mut history = builder.finish();
    check(&history).unwrap();
    // Not when the compaction has returned before.
    history.operations[2].returned = ms(65);
    found(&history);
}

#[test]
fn a_violation_names_the_call_at_which_the_best_attempt_ended() {
    let mut builder = Builder::new();
    for client in 0..3 {
        builder.call_at(client, (ms(0), ms(50), ms(100)), grant(i64::from(client) + 1, 5));
    }
    builder.call(9, 110, 120, get("a")).call(8, 115, 130, get("b"));
    let mut history = builder.finish();
    let Outcome::Answered(Response::Range(range)) = &mut history.operations[3].outcome else {
        panic!("a range")
    };
    range.count = 1;
    let what = found(&history);
    let begins = "linearizable: call 3 of client 9 (Moment(110ms) to Moment(120ms))";
    assert!(what.starts_with(begins), "{what}");
    assert!(what.contains("after 4 others at revision 1"), "{what}");
    assert_eq!(what.matches("call 3").count(), 1, "{what}");
    // The other read could be placed beside it; it is no neighbour any more.
    assert!(what.ends_with("beside it: "), "{what}");

    let Outcome::Answered(Response::Range(range)) = &mut history.operations[4].outcome else {
        panic!("a range")
    };
    range.count = 1;
    assert!(found(&history).contains("beside it: call 4 of client 8"));
}

#[test]
fn writes_that_change_places_are_found() {
    let mut found = 0;
    for seed in 0..100 {
        let mut history = random(seed, 200, 8, 12).finish();
        // One write returns before another that has an earlier revision begins.
        let puts: Vec<usize> = (0..200)
            .filter(|at| {
                let operation = &history.operations[*at];
                let is_answered = matches!(operation.outcome, Outcome::Answered(_));
                matches!(operation.call, Call::Put(_)) && is_answered
            })
            .collect();
        let (first, last) = (puts[5], puts[puts.len() - 5]);
        let end = history.operations[last].returned;
        (history.operations[first].invoked, history.operations[first].returned) =
            (end + secs(1), end + secs(2));
        found += u32::from(check(&history).is_err());
    }
    assert_eq!(found, 100);
}

#[test]
fn a_thousand_calls_take_milliseconds() {
    let history = random(9, 1_000, 8, 50).finish();
    let start = Instant::now();
    check(&history).unwrap();
    let taken = start.elapsed();
    println!("1000 calls of 8 clients: {taken:?}");
    // Debug builds on a busy machine are slow; a search that explodes is slower by far.
    assert!(taken.as_secs() < 5, "{taken:?}");
}
