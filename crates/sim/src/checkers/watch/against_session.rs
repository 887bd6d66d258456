//! The checker beside the watch streams of a real member, on random calls.

use std::path::Path;
use std::task::Waker;
use std::time::Duration;

use base::{ClusterId, Moment, Rng, Term};
use bytes::BytesMut;
use node::requests::watch::{Limits, Session};
use prost::Message;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest};
use storage::bolt::{Database, Options};
use storage::disk::Faulty;
use store::{Store, StoreOptions};

use super::super::model::fixtures::*;
use super::super::model::is_read;
use super::*;

const LIMITS: Limits = Limits {
    progress_interval: Duration::from_secs(1),
    fragment_bytes: 60,
    header: (ClusterId(1), MEMBERS[0], Term(1)),
};

fn ask(session: &mut Session, request: RequestUnion) {
    session.handle(WatchRequest { request_union: Some(request) });
}

fn take(session: &mut Session, stream: &mut Stream) {
    for response in session.take_responses() {
        let mut bytes = BytesMut::new();
        response.encode(LIMITS.header, &mut bytes);
        stream
            .responses
            .push((Moment::default(), WatchResponse::decode(bytes).expect("a response")));
    }
}

fn begin(rng: &mut Rng, store: &Store, newest: Revision) -> (Session, Stream) {
    let key = |rng: &mut Rng| format!("k{:02}", rng.below(6));
    let end = match rng.below(4) {
        0 => "\0".into(),
        1 => key(rng),
        _ => String::new(),
    };
    let start = newest.get() + 3 - rng.below(20) as i64;
    let create = WatchCreateRequest {
        key: if rng.one_in(3) { String::new() } else { key(rng) }.into(),
        range_end: end.into(),
        start_revision: if rng.one_in(3) { 0 } else { start },
        progress_notify: rng.one_in(2),
        filters: if rng.one_in(4) { vec![rng.below(2) as i32] } else { Vec::new() },
        prev_kv: rng.one_in(2),
        watch_id: rng.below(3) as i64,
        fragment: rng.one_in(2),
    };
    let mut session = Session::new(store.handle(), LIMITS, rng);
    ask(&mut session, RequestUnion::CreateRequest(create.clone()));
    let stream = Stream {
        client: ClientId(1),
        member: MEMBERS[0],
        create,
        resumes: false,
        responses: Vec::new(),
        complete_to: None,
    };
    (session, stream)
}

#[test]
fn what_a_real_member_tells_its_watchers_passes() {
    let (mut events, mut canceled, mut fragments) = (0, 0, 0);
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let database =
            Database::open(&Faulty::new(1), Path::new("db"), Options::default()).unwrap();
        let options = StoreOptions::default();
        let mut store = Store::open(database.view(), options, Moment::default()).unwrap();
        let space = Space { keys: 6, leases: 3 };
        let mut builder = Builder::new();
        let mut watchers: Vec<(Session, Stream)> = Vec::new();
        for _ in 0..200 {
            let call = space.call(&mut rng, &builder.model);
            if !is_read(&call) {
                builder.commit(ms(0), &call);
                let (_, entry) = builder.history.log.entries.last_key_value().unwrap();
                store.apply(entry, Moment::default()).unwrap();
            }
            if rng.one_in(10) {
                watchers.push(begin(&mut rng, &store, builder.model.revision()));
            }
            if rng.one_in(3) {
                store.compact_slice().unwrap();
            }
            for (session, stream) in &mut watchers {
                match rng.below(12) {
                    0..=3 => drop(session.poll(Waker::noop()).unwrap()),
                    4 => session.tick(),
                    5 => {
                        ask(session, RequestUnion::ProgressRequest(WatchProgressRequest {}));
                    }
                    _ => {}
                }
                take(session, stream);
            }
        }
        let newest = builder.model.revision();
        for (mut session, mut stream) in watchers {
            while session.poll(Waker::noop()).unwrap() {
                take(&mut session, &mut stream);
            }
            take(&mut session, &mut stream);
            let is_canceled = |(_, response): &(Moment, WatchResponse)| response.canceled;
            if !stream.responses.iter().any(is_canceled) {
                stream.complete_to = Some(newest);
            }
            for (_, response) in &stream.responses {
                events += response.events.len();
                canceled += u32::from(response.compact_revision > 0);
                fragments += u32::from(response.fragment);
            }
            builder.history.streams.push(stream);
        }
        check(&builder.history).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    println!("{events} events, {canceled} canceled, {fragments} fragments");
    assert!(events > 5_000 && canceled > 10 && fragments > 100);
}
