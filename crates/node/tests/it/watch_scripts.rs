//! Scripts that change a store and tell what the streams that watch it answer.
//!
//! - `put KEY=VALUE...`, `del KEY [END]`: one transaction each; `revision` tells the newest one.
//! - `put_del KEY=VALUE`: both in one transaction.
//! - `history COUNT KEY`: so many puts of one key. `compact REVISION`.
//! - `create [id=] [key=] [end=] [rev=] [prev_kv] [progress] [fragment] [no_put] [no_delete]`,
//!   `cancel ID`, `progress`, `tick`: a stream's requests, and its clock. The stream is the
//!   command's prefix, if it has one.
//! - `slice`: polls once; `drain`: polls until there is nothing left, as a stream's task does.
//!   Both tell the responses. `woken` tells whether the stream was called since.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use base::{ClusterId, MemberId, Rng, Term};
use node::requests::watch::{Limits, Response, Session};
use prost::Message;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use proto::mvccpb::{Event, KeyValue};

use crate::store::{Member, delete, nested, put};

const FRAGMENT_BYTES: usize = 100;

type Failure = Box<dyn std::error::Error>;

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Stream {
    session: Session,
    woken: Arc<Woken>,
}

struct Runner {
    member: Member,
    streams: BTreeMap<String, Stream>,
}

impl Runner {
    fn new() -> Self {
        Self { member: Member::new(), streams: BTreeMap::new() }
    }

    fn stream(&mut self, name: &str) -> &mut Stream {
        let shared = self.member.shared();
        self.streams.entry(name.to_owned()).or_insert_with(|| {
            let limits = Limits {
                progress_interval: Duration::from_secs(600),
                fragment_bytes: FRAGMENT_BYTES,
                header: (ClusterId(1), MemberId(1), Term(1)),
            };
            Stream {
                session: Session::new(shared, limits, &mut Rng::new(1)),
                woken: Arc::default(),
            }
        })
    }

    fn write(&mut self, command: &goldenscript::Command) -> Result<(), Failure> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "put" => {
                let puts = std::iter::from_fn(|| args.next_key());
                let ops = puts.map(|(key, value)| put(key, value)).collect();
                self.member.txn(ops);
            }
            "put_del" => {
                let (key, value) = args.next_key().ok_or("key=value?")?;
                self.member.txn(vec![nested(put(key, value)), nested(delete(key, ""))]);
            }
            "del" => {
                let key = args.next_pos().ok_or("key?")?;
                self.member.txn(vec![delete(key, args.next_pos().unwrap_or_default())]);
            }
            "history" => {
                let count: usize = args.next_pos().ok_or("count?")?.parse()?;
                let key = args.next_pos().ok_or("key?")?;
                (0..count).for_each(|_| self.member.txn(vec![put(key, "")]));
            }
            "compact" => self.member.compact(args.next_pos().ok_or("revision?")?.parse()?),
            name => return Err(format!("unknown command {name}").into()),
        }
        args.reject_next()
    }
}

fn create(command: &goldenscript::Command) -> Result<RequestUnion, Failure> {
    let mut args = command.consume_args();
    let mut request = WatchCreateRequest::default();
    while let Some(flag) = args.next_pos() {
        match flag {
            "prev_kv" => request.prev_kv = true,
            "progress" => request.progress_notify = true,
            "fragment" => request.fragment = true,
            "no_put" => request.filters.push(0),
            "no_delete" => request.filters.push(1),
            "no_such_filter" => request.filters.push(7),
            flag => return Err(format!("unknown flag {flag}").into()),
        }
    }
    while let Some((key, value)) = args.next_key() {
        match key {
            "id" => request.watch_id = value.parse()?,
            "rev" => request.start_revision = value.parse()?,
            "key" => request.key = value.to_owned().into(),
            "end" => request.range_end = value.to_owned().into(),
            key => return Err(format!("unknown argument {key}").into()),
        }
    }
    Ok(RequestUnion::CreateRequest(request))
}

/// `key=value`, with the revisions that a client sees.
fn show_kv(kv: &KeyValue) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut out = format!("{}={}@{}", text(&kv.key), text(&kv.value), kv.mod_revision);
    if kv.version > 0 {
        write!(out, " (version {} since {})", kv.version, kv.create_revision).unwrap();
    }
    out
}

fn show_event(event: &Event) -> String {
    let kind = if event.r#type == 0 { "put" } else { "delete" };
    let before = event.prev_kv.as_ref().map(|kv| format!(", before {}", show_kv(kv)));
    format!("{kind} {}{}", show_kv(event.kv.as_ref().unwrap()), before.unwrap_or_default())
}

/// What a client decodes, not what the session says.
fn show(response: &Response, out: &mut String) {
    let mut bytes = Vec::new();
    response.encode((ClusterId(1), MemberId(2), Term(3)), &mut bytes);
    let response = WatchResponse::decode(&bytes[..]).unwrap();
    let header = response.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id, header.raft_term), (1, 2, 3));
    write!(out, "watch {} at {}:", response.watch_id, header.revision).unwrap();
    let flags = [
        (response.created, "created"),
        (response.canceled, "canceled"),
        (response.fragment, "fragment"),
    ];
    for (_, name) in flags.iter().filter(|(flag, _)| *flag) {
        write!(out, " {name}").unwrap();
    }
    if response.compact_revision != 0 {
        write!(out, " compacted {}", response.compact_revision).unwrap();
    }
    if !response.cancel_reason.is_empty() {
        write!(out, " {:?}", response.cancel_reason).unwrap();
    }
    let is_progress = !response.created && !response.canceled && response.events.is_empty();
    writeln!(out, "{}", if is_progress { " progress" } else { "" }).unwrap();
    if let [first, .., last] = &response.events[..]
        && response.events.len() > 8
    {
        let (first, last) = (show_event(first), show_event(last));
        writeln!(out, "  {} events: {first} .. {last}", response.events.len()).unwrap();
        return;
    }
    for event in &response.events {
        writeln!(out, "  {}", show_event(event)).unwrap();
    }
}

/// Long answers by their ends.
fn show_all(responses: &[Response], out: &mut String) {
    const SHOWN: usize = 20;
    const ENDS: usize = 4;
    if responses.len() <= SHOWN {
        responses.iter().for_each(|response| show(response, out));
        return;
    }
    let (head, tail) = responses.split_at(ENDS);
    let (middle, tail) = tail.split_at(tail.len() - ENDS);
    head.iter().for_each(|response| show(response, out));
    let events: usize = middle.iter().map(|response| response.events.len()).sum();
    writeln!(out, "... {} responses with {events} events", middle.len()).unwrap();
    tail.iter().for_each(|response| show(response, out));
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        context: &goldenscript::Context,
    ) -> Result<String, Failure> {
        let mut out = String::new();
        let shared = self.member.shared();
        let name = command.name.as_str();
        if ["put", "put_del", "del", "history", "compact"].contains(&name) {
            self.write(command)?;
            return Ok(out);
        }
        if name == "revision" {
            writeln!(out, "{}, {} subscribed", shared.revision(), shared.hub().subscriptions())?;
            return Ok(out);
        }
        let stream = self.stream(context.prefix.as_deref().unwrap_or_default());
        let (session, woken) = (&mut stream.session, &stream.woken);
        let mut handle = |request| session.handle(WatchRequest { request_union: request });
        let mut args = command.consume_args();
        match name {
            "create" => handle(Some(create(command)?)),
            "cancel" => {
                let watch_id = args.next_pos().ok_or("id?")?.parse()?;
                handle(Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })));
            }
            "progress" => handle(Some(RequestUnion::ProgressRequest(WatchProgressRequest {}))),
            "nothing" => handle(None),
            "tick" => session.tick(),
            "woken" => writeln!(out, "{}", woken.0.swap(false, Ordering::Relaxed))?,
            "slice" | "drain" => {
                let waker = Waker::from(Arc::clone(woken));
                while session.poll(&waker)? && name == "drain" {}
                show_all(&session.take_responses(), &mut out);
            }
            name => return Err(format!("unknown command {name}").into()),
        }
        Ok(out)
    }
}

#[test]
fn scripts() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/watch");
    let mut paths: Vec<_> =
        std::fs::read_dir(scripts).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 6, "scripts are missing");
    for path in paths {
        goldenscript::run(&mut Runner::new(), &path).unwrap();
    }
}
