//! Every rule about watchers, kept and broken.

use base::{Moment, Rng};
use bytes::Bytes;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{DeleteRangeRequest, ResponseHeader, WatchCreateRequest};

use super::super::model::fixtures::*;
use super::*;

/// What a correct member tells a watcher: everything from the start to `to`, in responses of at
/// most `per_response` revisions.
fn told(
    truth: &Truth,
    create: WatchCreateRequest,
    created_at: i64,
    to: i64,
    per_response: usize,
) -> Stream {
    let mut stream = Stream {
        client: ClientId(1),
        member: MEMBERS[0],
        create,
        resumes: false,
        responses: Vec::new(),
        complete_to: Some(Revision(to)),
    };
    let response = |revision| WatchResponse {
        header: Some(ResponseHeader { revision, ..ResponseHeader::default() }),
        watch_id: 3,
        ..WatchResponse::default()
    };
    let mut responses = vec![WatchResponse { created: true, ..response(created_at) }];
    let start = match stream.create.start_revision {
        0 => created_at + 1,
        start => start,
    };
    let mut expected = Expected { stream: &stream, truth, revision: Revision(start), at: 0 };
    let mut batch = response(to);
    let mut revisions = 0;
    while let Some(due) = expected.peek().filter(|due| due.revision <= Revision(to)) {
        let is_new = batch.events.last().is_none_or(|event: &Event| {
            event.kv.as_ref().unwrap().mod_revision != due.revision.get()
        });
        if is_new && revisions == per_response {
            responses.push(std::mem::replace(&mut batch, response(to)));
            revisions = 0;
        }
        revisions += usize::from(is_new);
        batch.events.push(Event {
            r#type: i32::from(due.change().is_delete),
            kv: Some(due.change().kv.clone()),
            prev_kv: due.previous().filter(|_| stream.create.prev_kv).cloned(),
        });
        expected.at += 1;
    }
    if !batch.events.is_empty() {
        responses.push(batch);
    }
    responses.push(WatchResponse { watch_id: NO_WATCH, ..response(to) });
    stream.responses = responses.into_iter().map(|one| (Moment::default(), one)).collect();
    stream
}

fn create(key: &str, end: &str, start_revision: i64) -> WatchCreateRequest {
    let (key, range_end) = (Bytes::from(key.to_owned()), Bytes::from(end.to_owned()));
    WatchCreateRequest { key, range_end, start_revision, prev_kv: true, ..<_>::default() }
}

fn all(start: i64) -> WatchCreateRequest {
    create("", "\0", start)
}

/// Revisions 2 to 7: puts of `a` and `b`, a transaction, a delete of all, and a put of `a`.
fn simple() -> (History, Truth) {
    let mut builder = Builder::new();
    builder.call(1, 0, 10, put("a", "1")).call(1, 10, 20, put("b", "2"));
    let both = [put_request("a", "3"), put_request("c", "4")];
    builder.call(1, 20, 30, txn(both.into_iter().map(Request::RequestPut).collect()));
    builder.call(1, 30, 40, delete("a", "\0")).call(1, 40, 50, put("a", "5"));
    builder.call(1, 50, 60, put("a", "6"));
    let history = builder.finish();
    let truth = Truth::of(&history.log).unwrap();
    (history, truth)
}

fn judge(stream: Stream) -> Result<(), Violation> {
    let (mut history, truth) = simple();
    history.streams.push(stream);
    check_with(&history, &truth)
}

/// That a stream which is told all is right, and that it is wrong once it is changed.
fn finds(create: WatchCreateRequest, change: impl FnOnce(&mut Stream), complaint: &str) {
    let stream = told(&simple().1, create, 4, 7, 1);
    judge(stream.clone()).unwrap();
    let mut wrong = stream;
    change(&mut wrong);
    let found = judge(wrong).unwrap_err().to_string();
    assert!(found.contains(complaint) && !found.contains('\n'), "{found}");
}

fn response(stream: &mut Stream, at: usize) -> &mut WatchResponse {
    &mut stream.responses[at].1
}

#[test]
fn a_watcher_is_told_what_it_asked_for() {
    let truth = simple().1;
    let counts = |create: WatchCreateRequest| {
        let stream = told(&truth, create, 4, 7, 10);
        let count: usize = stream.responses.iter().map(|(_, one)| one.events.len()).sum();
        judge(stream).unwrap();
        count
    };
    assert_eq!(counts(all(1)), 9);
    assert_eq!(counts(all(0)), 5);
    assert_eq!(counts(all(6)), 2);
    assert_eq!(counts(create("b", "", 1)), 2);
    assert_eq!(counts(create("b", "d", 1)), 4);
    let filters = vec![FilterType::Noput as i32];
    assert_eq!(counts(WatchCreateRequest { filters, ..all(1) }), 3);
    let filters = vec![FilterType::Nodelete as i32];
    assert_eq!(counts(WatchCreateRequest { filters, ..all(1) }), 6);
}

#[test]
fn events_that_are_missing_or_wrong_or_told_again_are_found() {
    finds(all(2), |stream| drop(stream.responses.remove(2)), "must be a put");
    finds(all(2), |stream| stream.responses.swap(2, 3), "must be a put");
    finds(
        all(2),
        |stream| {
            let again = stream.responses[2].clone();
            stream.responses.insert(3, again);
        },
        "must be a put",
    );
    finds(all(2), |stream| drop(response(stream, 3).events.pop()), "only a part of revision 4");
    finds(all(2), |stream| response(stream, 3).events.swap(0, 1), "must be a put");
    finds(all(2), |stream| response(stream, 1).events[0].r#type = 1, "must be a put");
    finds(all(2), |stream| response(stream, 4).events[0].r#type = 0, "must be a delete");
    finds(all(2), |stream| response(stream, 1).events[0].kv = None, "must be a put");
    let value = |stream: &mut Stream| {
        response(stream, 1).events[0].kv.as_mut().unwrap().value = "9".into();
    };
    finds(all(2), value, "must be a put");
    finds(all(2), |stream| response(stream, 3).events[0].prev_kv = None, "the row before");
    let wrong = |stream: &mut Stream| {
        response(stream, 1).events[0].prev_kv = Some(proto::mvccpb::KeyValue::default());
    };
    finds(all(2), wrong, "the row before must be None");
    let unasked = WatchCreateRequest { prev_kv: false, ..all(2) };
    let given = |stream: &mut Stream| {
        let (_, truth) = simple();
        response(stream, 3).events[0].prev_kv = truth.changes(Revision(4))[0].before.clone();
    };
    finds(unasked, given, "the row before must be None");
    let foreign = |stream: &mut Stream| stream.create = create("b", "", 2);
    finds(all(2), foreign, "must be a put");
    let behind = |stream: &mut Stream| {
        stream.responses.truncate(7);
        let again = stream.responses[6].clone();
        stream.responses.push(again);
    };
    finds(all(2), behind, "one too many");
}

#[test]
fn marks_of_responses_must_fit() {
    finds(all(2), |stream| drop(stream.responses.remove(0)), "does not say");
    finds(all(2), |stream| response(stream, 1).created = true, "created twice");
    finds(all(2), |stream| response(stream, 1).watch_id = 4, "for another watcher");
    finds(all(2), |stream| response(stream, 1).header = None, "no header");
    finds(all(2), |stream| response(stream, 0).canceled = true, "must be refused: false");
    finds(all(2), |stream| response(stream, 0).compact_revision = 2, "a reason to cancel");
    finds(all(2), |stream| response(stream, 1).compact_revision = 2, "a reason to cancel");
    let header = |stream: &mut Stream, at, revision| {
        response(stream, at).header.as_mut().unwrap().revision = revision;
    };
    finds(all(2), |stream| header(stream, 5, 5), "older than its events");
    finds(all(2), |stream| header(stream, 5, 8), "from the future");
    let named = |stream: &mut Stream| stream.create.watch_id = 9;
    finds(all(2), named, "another watch id");
    let negative = |stream: &mut Stream| stream.create.start_revision = -1;
    finds(all(2), negative, "must be refused: true");
    let empty = |stream: &mut Stream| stream.create = create("b", "a", 2);
    finds(all(2), empty, "must be refused: true");
}

#[test]
fn a_refused_request_has_one_answer() {
    let mut stream = told(&simple().1, all(2), 4, 7, 1);
    (stream.create, stream.complete_to) = (create("b", "a", 2), None);
    stream.responses.truncate(1);
    let refusal = response(&mut stream, 0);
    (refusal.canceled, refusal.watch_id) = (true, NO_WATCH);
    assert!(judge(stream.clone()).unwrap_err().what.contains("without its marks"));
    response(&mut stream, 0).cancel_reason = "mvcc: watcher range is empty".into();
    judge(stream.clone()).unwrap();
    let after = stream.responses[0].clone();
    stream.responses.push(after);
    assert!(judge(stream).unwrap_err().what.contains("after the watcher was canceled"));
}

#[test]
fn progress_promises_that_everything_was_told() {
    let early = |stream: &mut Stream| {
        let progress = stream.responses.pop().unwrap();
        stream.responses.insert(6, progress);
    };
    finds(all(2), early, "revision 7 was not told before");
    let future = told(&simple().1, all(8), 4, 7, 1);
    assert!(judge(future).unwrap_err().what.contains("has not begun"));
    let kind = |stream: &mut Stream| response(stream, 7).fragment = true;
    finds(all(2), kind, "neither events, nor progress");
}

#[test]
fn fragments_follow_one_another() {
    let fragmented = |asked: bool| {
        let create = WatchCreateRequest { fragment: asked, ..all(2) };
        let mut stream = told(&simple().1, create, 4, 7, 1);
        let mut rest = stream.responses[3].clone();
        let first = response(&mut stream, 3);
        (rest.1.events, first.fragment) = (first.events.split_off(1), true);
        stream.responses.insert(4, rest);
        stream
    };
    judge(fragmented(true)).unwrap();
    let found = |stream| judge(stream).unwrap_err().what;
    assert!(found(fragmented(false)).contains("nobody asked for"));
    let mut wrong = fragmented(true);
    response(&mut wrong, 3).fragment = false;
    assert!(found(wrong).contains("only a part of revision 4"));
    let mut wrong = fragmented(true);
    let progress = wrong.responses.pop().unwrap();
    wrong.responses.insert(4, progress);
    assert!(found(wrong).contains("a fragment is missing"));
    let mut cut = fragmented(true);
    cut.responses.truncate(4);
    assert!(found(cut.clone()).contains("a fragment is missing at the end"));
    cut.complete_to = None;
    judge(cut).unwrap();
}

#[test]
fn what_a_calm_end_owes_is_found() {
    let cut = |length| move |stream: &mut Stream| stream.responses.truncate(length);
    finds(all(2), cut(6), "revision 7 never came");
    finds(all(2), cut(0), "never created");
    let canceled = |stream: &mut Stream| {
        let last = response(stream, 7);
        (last.canceled, last.watch_id, last.cancel_reason) = (true, 3, "why not".into());
    };
    finds(all(2), canceled, "canceled, in a time without failures");
}

#[test]
fn a_compaction_cancels_only_what_it_has_overtaken() {
    let (mut history, _) = simple();
    let mut builder = Builder::new();
    for operation in &history.operations {
        builder.call_at(1, (ms(1), ms(2), ms(3)), operation.call.clone());
    }
    builder.call(1, 60, 70, compact(5));
    history.log = builder.finish().log;
    let truth = Truth::of(&history.log).unwrap();
    let canceled = |told_to: usize, at: i64| {
        let mut stream = told(&truth, all(2), 4, 7, 1);
        stream.complete_to = None;
        stream.responses.truncate(1 + told_to);
        stream.responses.push((
            Moment::default(),
            WatchResponse {
                header: Some(ResponseHeader::default()),
                watch_id: 3,
                canceled: true,
                compact_revision: at,
                ..WatchResponse::default()
            },
        ));
        stream
    };
    let judge = |stream: &Stream| {
        let history = History { streams: vec![stream.clone()], ..history.clone() };
        check_with(&history, &truth)
    };
    let found = |stream: &Stream| judge(stream).unwrap_err().what;
    judge(&canceled(0, 5)).unwrap();
    judge(&canceled(2, 5)).unwrap();
    assert!(found(&canceled(3, 5)).contains("revision 5 comes next"));
    assert!(found(&canceled(2, 6)).contains("no compaction at 6"));
    assert!(found(&canceled(2, 0)).contains("without a reason"));
    let mut wrong = canceled(2, 5);
    response(&mut wrong, 3).cancel_reason = "why not".into();
    assert!(found(&wrong).contains("with a reason or a revision"));
    let mut wrong = canceled(2, 5);
    response(&mut wrong, 3).fragment = true;
    assert!(found(&wrong).contains("canceled with events"));

    let mut idle = told(&truth, create("z", "", 2), 4, 4, 1);
    idle.complete_to = None;
    idle.responses.push(canceled(0, 5).responses[1].clone());
    assert!(found(&idle).contains("revision 5 comes next"), "progress was made");

    // The row before the deletes of revision 5 may be gone, that before revision 7 is not.
    let mut gone = told(&truth, all(5), 7, 7, 1);
    response(&mut gone, 1).events[0].prev_kv = None;
    judge(&gone).unwrap();
    response(&mut gone, 3).events[0].prev_kv = None;
    assert!(found(&gone).contains("the row before"));
}

#[test]
fn a_compaction_takes_the_row_before_only_from_the_events_it_covers() {
    let build = |at| {
        let mut builder = Builder::new();
        builder.call(1, 0, 10, put("a", "1")).call(1, 10, 20, put("a", "2"));
        builder.call(1, 20, 30, compact(at));
        let mut history = builder.finish();
        let mut stream = told(&Truth::of(&history.log).unwrap(), all(3), 3, 3, 1);
        response(&mut stream, 1).events[0].prev_kv = None;
        history.streams.push(stream);
        check(&history)
    };
    build(3).unwrap();
    build(2).unwrap_err();
}

#[test]
fn a_put_that_its_own_transaction_deletes_may_be_compacted() {
    let build = |compacted: bool| {
        let mut builder = Builder::new();
        let gone = DeleteRangeRequest { key: "a".into(), ..<_>::default() };
        builder.call(
            1,
            0,
            10,
            txn(vec![
                Request::RequestPut(put_request("a", "1")),
                Request::RequestPut(put_request("b", "1")),
                Request::RequestDeleteRange(gone),
            ]),
        );
        if compacted {
            builder.call(1, 20, 30, compact(2));
        }
        let mut history = builder.finish();
        let truth = Truth::of(&history.log).unwrap();
        let mut stream = told(&truth, all(2), 2, 2, 1);
        assert_eq!(response(&mut stream, 1).events.len(), 3);
        assert_eq!(response(&mut stream, 1).events[2].prev_kv, None, "as it was before");
        history.streams.push(stream.clone());
        check(&history).unwrap();
        response(&mut stream, 1).events.remove(0);
        history.streams = vec![stream];
        check(&history)
    };
    build(true).unwrap();
    assert!(build(false).unwrap_err().what.contains("must be a put"));
}

#[test]
fn a_key_that_begins_again_in_one_transaction_has_no_row_before() {
    let mut builder = Builder::new();
    let gone = DeleteRangeRequest { key: "a".into(), ..<_>::default() };
    let again = vec![Request::RequestDeleteRange(gone), Request::RequestPut(put_request("a", "2"))];
    builder.call(1, 0, 10, put("a", "1")).call(1, 20, 30, txn(again));
    let mut history = builder.finish();
    let truth = Truth::of(&history.log).unwrap();
    let mut stream = told(&truth, all(3), 3, 3, 1);
    let before = truth.changes(Revision(3))[0].before.clone();
    assert!(before.is_some());
    let events = &response(&mut stream, 1).events;
    assert_eq!((&events[0].prev_kv, &events[1].prev_kv), (&before, &None));
    history.streams.push(stream.clone());
    check_with(&history, &truth).unwrap();
    response(&mut stream, 1).events[1].prev_kv = before;
    history.streams = vec![stream];
    assert!(check_with(&history, &truth).unwrap_err().what.contains("must be None"));
}

#[test]
fn whoever_resumes_leaves_nothing_out() {
    let (mut history, truth) = simple();
    let mut first = told(&truth, create("b", "", 2), 3, 4, 1);
    first.responses.pop();
    let mut second = told(&truth, create("b", "", 4), 7, 7, 1);
    second.resumes = true;
    let mut judge = |first: &Stream, start: i64| {
        second.create.start_revision = start;
        history.streams = vec![first.clone(), second.clone()];
        check_with(&history, &truth).map_err(|violation| violation.what)
    };
    // Told of 3; of what follows, only 5 is of that key.
    judge(&first, 4).unwrap();
    judge(&first, 5).unwrap();
    assert!(judge(&first, 6).unwrap_err().contains("was not told of revision 5"));
    assert!(judge(&first, 3).unwrap_err().contains("was told everything up to 3"));
    // A stream that was never created leaves its own start.
    first.responses.clear();
    first.complete_to = None;
    first.create.start_revision = 4;
    judge(&first, 5).unwrap();
    assert!(judge(&first, 6).unwrap_err().contains("was not told of revision 5"));
    history.streams = vec![second];
    assert!(check_with(&history, &truth).unwrap_err().what.contains("resumes nothing"));
}

#[test]
fn half_a_revision_is_resumed_from_its_beginning() {
    let (mut history, truth) = simple();
    let mut first = told(&truth, WatchCreateRequest { fragment: true, ..all(2) }, 4, 7, 1);
    first.responses.truncate(4);
    let cut = response(&mut first, 3);
    cut.events.truncate(1);
    cut.fragment = true;
    first.complete_to = None;
    for start in 3..=6 {
        let mut second = told(&truth, all(start), 7, 7, 1);
        second.resumes = true;
        history.streams = vec![first.clone(), second];
        let found = check_with(&history, &truth);
        assert_eq!(found.is_ok(), start == 4, "{start}: {found:?}");
    }
}

/// Changes something in one of the responses, or leaves one out.
fn corrupt(stream: &mut Stream, rng: &mut Rng) {
    let at = rng.below(stream.responses.len() as u64 - 2) as usize + 1;
    match rng.below(7) {
        0 => drop(stream.responses.remove(at)),
        1 => {
            let again = stream.responses[at].clone();
            stream.responses.insert(at, again);
        }
        2 => stream.responses.swap(at - 1, at),
        kind => {
            let events = &mut response(stream, at).events;
            let one = rng.below(events.len() as u64) as usize;
            match kind {
                3 => drop(events.remove(one)),
                4 => events[one].r#type = 1 - events[one].r#type,
                5 => events[one].kv.as_mut().unwrap().mod_revision += 1,
                _ => events.push(events[one].clone()),
            }
        }
    }
}

#[test]
fn random_streams_pass_and_corrupted_ones_are_found() {
    let (mut corrupted, mut missed) = (0, 0);
    for seed in 0..200 {
        let mut history = random(seed, 150, 5, 12).finish();
        let truth = Truth::of(&history.log).unwrap();
        let newest = truth.revision().get();
        let mut rng = Rng::new(seed);
        let start = rng.below(newest as u64) as i64;
        let end = if rng.one_in(2) { "\0" } else { "k06" };
        let mut request = create("k02", end, start);
        request.prev_kv = rng.one_in(2);
        if rng.one_in(4) {
            request.filters = vec![rng.below(2) as i32];
        }
        let per_response = 1 + rng.below(5) as usize;
        let stream = told(&truth, request, start.max(newest / 2), newest, per_response);
        history.streams = vec![stream.clone()];
        check_with(&history, &truth).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        if stream.responses.len() < 4 {
            continue;
        }
        for _ in 0..5 {
            let mut wrong = stream.clone();
            corrupt(&mut wrong, &mut rng);
            history.streams = vec![wrong];
            corrupted += 1;
            missed += u32::from(check_with(&history, &truth).is_ok());
        }
    }
    println!("{corrupted} corrupted, {missed} missed");
    assert!(corrupted > 500 && missed * 20 <= corrupted);
}
