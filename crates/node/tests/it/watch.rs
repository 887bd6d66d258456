//! Whatever a watcher asks for and however slow it is, it hears of exactly what it watches.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use base::{ClusterId, MemberId, Revision, Rng, Term};
use node::requests::watch::{Limits, Response, Session};
use prost::Message;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
};
use proto::mvccpb::{Event, KeyValue};
use store::Shared;

use crate::store::{Member, delete, put};

const KEYS: [&str; 6] = ["a", "b", "ba", "bb", "c", "d"];

const HEADER: (ClusterId, MemberId, Term) = (ClusterId(1), MemberId(1), Term(1));

fn limits() -> Limits {
    Limits { progress_interval: Duration::from_secs(600), fragment_bytes: 200, header: HEADER }
}

fn session(shared: &Arc<Shared>) -> Session {
    Session::new(Arc::clone(shared), limits(), &mut Rng::new(1))
}

fn create(request: WatchCreateRequest) -> WatchRequest {
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) }
}

fn cancel(watch_id: i64) -> WatchRequest {
    let cancel = WatchCancelRequest { watch_id };
    WatchRequest { request_union: Some(RequestUnion::CancelRequest(cancel)) }
}

fn progress() -> WatchRequest {
    let progress = WatchProgressRequest {};
    WatchRequest { request_union: Some(RequestUnion::ProgressRequest(progress)) }
}

fn events(response: &Response) -> Vec<Event> {
    response.events.iter().map(|event| Event::decode(event.clone()).unwrap()).collect()
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().unwrap().mod_revision
}

fn drain(session: &mut Session) -> Vec<Response> {
    while session.poll(Waker::noop()).unwrap() {}
    session.take_responses()
}

/// A watcher of the random test: what it asked for, and what it has heard.
struct Watcher {
    request: WatchCreateRequest,
    from: i64,
    heard: Vec<Event>,
    compacted: Option<i64>,
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let key = &event.kv.as_ref().unwrap().key;
        let (first, end) = (&self.request.key, &self.request.range_end);
        let covers = match &end[..] {
            [] => key == first,
            [0] => key >= first,
            _ => key >= first && key < end,
        };
        covers && revision(event) >= self.from && !self.request.filters.contains(&event.r#type)
    }

    /// What it should hear of a history, whose events carry their previous rows.
    fn expects(&self, history: &[Event], compacted: i64) -> Vec<Event> {
        let strip = |event: &Event| {
            let mut event = event.clone();
            // A row below the compaction may be gone: it is compared where it must be there.
            if !self.request.prev_kv || revision(&event) - 1 < compacted {
                event.prev_kv = None;
            }
            event
        };
        history.iter().filter(|event| self.wants(event)).map(strip).collect()
    }
}

/// Builds the events that a transaction of these operations causes.
fn apply(
    member: &mut Member,
    state: &mut BTreeMap<String, KeyValue>,
    history: &mut Vec<Event>,
    rng: &mut Rng,
) {
    let next = member.revision().next().0;
    let (mut ops, mut used) = (Vec::new(), Vec::new());
    for _ in 0..=rng.below(3) {
        let key = *rng.pick(&KEYS);
        if used.contains(&key) {
            continue;
        }
        used.push(key);
        let mut event = Event { prev_kv: state.get(key).cloned(), ..Event::default() };
        if rng.one_in(3) {
            ops.push(delete(key, ""));
            if state.remove(key).is_none() {
                continue;
            }
            event.r#type = 1;
            let key = key.to_owned().into();
            event.kv = Some(KeyValue { key, mod_revision: next, ..KeyValue::default() });
        } else {
            let value = "v".repeat(rng.below(60) as usize);
            ops.push(put(key, &value));
            let old = state.get(key).cloned().unwrap_or_default();
            let created = old.version == 0;
            let kv = KeyValue {
                key: key.to_owned().into(),
                value: value.into(),
                create_revision: if created { next } else { old.create_revision },
                mod_revision: next,
                version: old.version + 1,
                lease: 0,
            };
            state.insert(key.to_owned(), kv.clone());
            event.kv = Some(kv);
        }
        history.push(event);
    }
    member.txn(ops);
}

fn note(watchers: &mut BTreeMap<i64, Watcher>, responses: Vec<Response>, compacted: i64) {
    let mut unfinished: Option<i64> = None;
    for response in responses {
        let Some(watcher) = watchers.get_mut(&response.watch.0) else { continue };
        if response.canceled {
            assert_eq!(response.revision, Revision(0));
            watcher.compacted = Some(response.compact_revision.0);
            continue;
        }
        let heard = events(&response);
        if let (Some(last), Some(first)) = (watcher.heard.last(), heard.first()) {
            let continues = unfinished == Some(response.watch.0);
            assert!(
                revision(last) < revision(first) || continues,
                "a revision comes in one response, or in fragments"
            );
        }
        unfinished = response.fragment.then_some(response.watch.0);
        watcher.heard.extend(heard.into_iter().map(|mut event| {
            if revision(&event) - 1 < compacted {
                event.prev_kv = None;
            }
            event
        }));
    }
    assert_eq!(unfinished, None, "the last fragment says that it is the last");
}

fn random_watch(rng: &mut Rng, current: i64) -> WatchCreateRequest {
    let ends = ["", "", "\0", "bb", "c", "z"];
    let key = *rng.pick(&KEYS[..4]);
    let end = *rng.pick(&ends);
    let end = if end == "\0" || end > key { end } else { "" };
    WatchCreateRequest {
        key: key.into(),
        range_end: end.into(),
        start_revision: match rng.below(3) {
            0 => 0,
            _ => 1 + rng.below(current.unsigned_abs() + 5).cast_signed(),
        },
        filters: if rng.one_in(3) { vec![rng.below(2) as i32] } else { vec![] },
        prev_kv: rng.one_in(2),
        fragment: rng.one_in(2),
        ..WatchCreateRequest::default()
    }
}

#[test]
fn every_watcher_hears_exactly_what_it_watches() {
    let (mut canceled, mut installs) = (0, 0);
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let mut member = Member::new();
        let shared = member.shared();
        let mut sessions: Vec<(Session, BTreeMap<i64, Watcher>)> =
            (0..3).map(|_| (session(&shared), BTreeMap::new())).collect();
        let (mut state, mut history) = (BTreeMap::new(), Vec::new());
        let mut compacted = 0;
        for _ in 0..600 {
            let current = shared.revision().0;
            let at = rng.below(3) as usize;
            match rng.below(20) {
                0 => {
                    let (session, watchers) = &mut sessions[at];
                    let request = random_watch(&mut rng, current);
                    session.handle(create(request.clone()));
                    let from = match request.start_revision {
                        0 => current + 1,
                        start => start,
                    };
                    let id = watchers.len() as i64;
                    let watcher = Watcher { request, from, heard: Vec::new(), compacted: None };
                    watchers.insert(id, watcher);
                }
                1 => member.commit(),
                2 if rng.one_in(6) && member.revision().0 > compacted + 1 => {
                    let current = member.revision().0;
                    // Half the time everybody is up to date, and only starts in the past are
                    // hurt.
                    if rng.one_in(2) {
                        for (session, watchers) in &mut sessions {
                            note(watchers, drain(session), compacted);
                        }
                    }
                    compacted += 1 + rng.below((current - compacted) as u64).cast_signed();
                    compacted = compacted.min(current);
                    member.compact(compacted);
                }
                // Slow streams are not polled for long, and then one slice at a time.
                3 => {
                    let (session, watchers) = &mut sessions[at];
                    session.poll(Waker::noop()).unwrap();
                    note(watchers, session.take_responses(), compacted);
                }
                // For a while this member hears nothing; then it gets the whole state at once.
                4 if rng.one_in(3) => {
                    installs += 1;
                    member.install();
                    if rng.one_in(2) {
                        member.cut_off();
                    }
                }
                _ => apply(&mut member, &mut state, &mut history, &mut rng),
            }
        }
        member.install();
        for (session, watchers) in &mut sessions {
            note(watchers, drain(session), compacted);
            for (id, watcher) in watchers {
                let mut heard = watcher.heard.clone();
                for event in &mut heard {
                    if revision(event) - 1 < compacted {
                        event.prev_kv = None;
                    }
                }
                let mut expected = watcher.expects(&history, compacted);
                if let Some(at) = watcher.compacted {
                    let last = heard.last().map_or(watcher.from - 1, revision);
                    assert!(last < at, "canceled without need");
                    canceled += 1;
                    expected.truncate(heard.len());
                }
                assert_eq!(heard, expected, "seed {seed}, watcher {id} {:?}", watcher.request);
            }
        }
    }
    assert!(canceled > 5, "compaction canceled {canceled} watchers");
    assert!(installs > 100, "{installs}");
}

#[test]
fn a_full_queue_sends_the_watcher_back_to_history() {
    let mut member = Member::new();
    let mut session = session(&member.shared());
    session.handle(create(WatchCreateRequest { key: "k".into(), ..<_>::default() }));
    for number in 0..3000 {
        member.txn(vec![put("k", &number.to_string())]);
    }
    let responses = drain(&mut session);
    let sizes: Vec<usize> = responses.iter().map(|response| response.events.len()).collect();
    assert!(responses[0].created && sizes[1..=128].iter().all(|size| *size == 1));
    assert_eq!(sizes[129..], [1000, 1000, 872], "the rest comes from history, in slices");
    assert_eq!(responses.last().unwrap().revision, Revision(3001));
    let heard: Vec<i64> = responses.iter().flat_map(events).map(|event| revision(&event)).collect();
    assert_eq!(heard, (2..=3001).collect::<Vec<_>>());
}

#[test]
fn many_watchers_hear_what_is_theirs() {
    const WATCHERS: usize = 10_000;
    let mut member = Member::new();
    let shared = member.shared();
    let key = |number: usize| format!("{number:05}");
    let mut exact = session(&shared);
    let mut prefixes = session(&shared);
    let mut crowd: Vec<_> = (0..100).map(|_| session(&shared)).collect();
    for number in 0..WATCHERS {
        exact.handle(create(WatchCreateRequest { key: key(number).into(), ..<_>::default() }));
        // The hundred keys that begin like this one, for a hundredth of them.
        let (start, end) = (key(number / 100 * 100), key(number / 100 * 100 + 100));
        let range =
            WatchCreateRequest { key: start.into(), range_end: end.into(), ..<_>::default() };
        if number.is_multiple_of(10) {
            prefixes.handle(create(range));
        }
        let at = number % crowd.len();
        crowd[at].handle(create(WatchCreateRequest { key: "crowd".into(), ..<_>::default() }));
    }
    assert_eq!(shared.hub().subscriptions(), 2 * WATCHERS + WATCHERS / 10);
    drain(&mut exact);
    drain(&mut prefixes);
    crowd.iter_mut().for_each(|session| drop(drain(session)));

    for number in (0..WATCHERS).step_by(997) {
        member.txn(vec![put(&key(number), "")]);
        let told: Vec<_> = drain(&mut exact).iter().map(|response| response.watch.0).collect();
        assert_eq!(told, [number as i64]);
        assert_eq!(drain(&mut prefixes).len(), 10);
    }
    member.txn(vec![put("crowd", "")]);
    for session in &mut crowd {
        let responses = drain(session);
        assert_eq!(responses.len(), WATCHERS / 100);
        assert!(responses.iter().all(|response| response.events == responses[0].events));
    }
    drop(crowd);
    assert_eq!(shared.hub().subscriptions(), WATCHERS + WATCHERS / 10);
}

fn show(responses: &[Response]) -> Vec<String> {
    responses
        .iter()
        .map(|response| {
            let Response { watch, revision, created, canceled, compact_revision, .. } = response;
            let flags = match (created, canceled) {
                (true, true) => "refused",
                (true, false) => "created",
                (false, true) => "canceled",
                (false, false) => "",
            };
            let events = response.events.len();
            let reason = &response.cancel_reason;
            format!("{watch} @{revision} {flags} c{} e{events} {reason}", compact_revision.0)
        })
        .collect()
}

#[test]
fn ids_refusals_and_cancels_are_etcds() {
    let mut member = Member::new();
    for _ in 0..5 {
        member.txn(vec![put("k", "v")]);
    }
    member.compact(4);
    let mut session = session(&member.shared());
    let key = WatchCreateRequest { key: "k".into(), ..<_>::default() };
    session.handle(create(key.clone()));
    session.handle(create(WatchCreateRequest { watch_id: 2, ..key.clone() }));
    session.handle(create(WatchCreateRequest { watch_id: 2, ..key.clone() }));
    session.handle(create(key.clone()));
    session.handle(create(key.clone()));
    session.handle(create(WatchCreateRequest { range_end: "a".into(), ..key.clone() }));
    session.handle(create(WatchCreateRequest { start_revision: -1, ..key.clone() }));
    session.handle(create(WatchCreateRequest { start_revision: 3, ..key.clone() }));
    session.handle(create(WatchCreateRequest { start_revision: 4, ..key }));
    session.handle(cancel(0));
    session.handle(cancel(77));
    assert_eq!(
        show(&drain(&mut session)),
        [
            "0 @6 created c0 e0 ",
            "2 @6 created c0 e0 ",
            "-1 @6 refused c0 e0 mvcc: duplicate watch ID provided on the WatchStream",
            "1 @6 created c0 e0 ",
            "3 @6 created c0 e0 ",
            "-1 @6 refused c0 e0 mvcc: watcher range is empty",
            "-1 @6 refused c0 e0 etcdserver: mvcc: required revision has been compacted",
            "4 @6 created c0 e0 ",
            "5 @6 created c0 e0 ",
            "0 @6 canceled c0 e0 ",
            "4 @0 canceled c4 e0 ",
            "5 @6  c0 e3 ",
        ]
    );
    assert_eq!(session.watchers(), 4);
}

#[test]
fn progress_is_told_only_when_it_is_true() {
    let mut member = Member::new();
    member.txn(vec![put("k", "v")]);
    let mut session = session(&member.shared());
    session.handle(progress());
    assert_eq!(show(&drain(&mut session)), [""; 0], "there is no watcher");

    let notified = |start_revision| {
        create(WatchCreateRequest {
            key: "k".into(),
            progress_notify: true,
            start_revision,
            ..<_>::default()
        })
    };
    session.handle(notified(1));
    session.handle(progress());
    assert_eq!(show(&session.take_responses()), ["0 @2 created c0 e0 "], "it is not synced");
    assert_eq!(show(&drain(&mut session)), ["0 @2  c0 e1 "]);
    session.handle(progress());
    assert_eq!(show(&drain(&mut session)), ["-1 @2  c0 e0 "]);

    session.tick();
    assert_eq!(show(&session.take_responses()), [""; 0], "it was busy");
    session.tick();
    assert_eq!(show(&session.take_responses()), ["0 @2  c0 e0 "]);
    member.txn(vec![put("other", "v")]);
    session.tick();
    assert_eq!(show(&session.take_responses()), ["0 @3  c0 e0 "]);

    session.handle(notified(9));
    session.handle(progress());
    session.tick();
    assert_eq!(
        show(&drain(&mut session)),
        ["1 @3 created c0 e0 ", "0 @3  c0 e0 "],
        "one begins in the future"
    );
}
