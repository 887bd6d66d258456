//! Watchers: each has a stream to one member, and goes on with another one where it ends.

use std::task::Waker;
use std::time::Duration;

use base::{ClusterId, MemberId, Moment, Rng, Term};
use bytes::Bytes;
use node::requests::watch::{Limits, Response, Session};
use prost::Message as _;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};

use super::Event;
use crate::coverage::Mark;
use crate::history::{ClientId, Stream};
use crate::world::{Failure, World, within};

/// Slices of history that one look takes at most.
const SLICES_MAX: usize = 4;

/// Slices in which a run's whole history can be read.
const HISTORY_SLICES_MAX: usize = 10_000;

/// From how many bytes on responses are split for those who allow it.
const FRAGMENT_BYTES: usize = 2_000;

/// One who watches.
pub(super) struct Watcher {
    id: ClientId,
    /// Its stream, on the member's side.
    session: Option<(MemberId, Session)>,
    /// The stream's place in the history.
    stream: usize,
    /// What it asks for next.
    create: Option<WatchCreateRequest>,
    /// It goes on where a stream ended.
    resumes: bool,
    /// The revision from which it would go on.
    next: i64,
    /// How often it looks.
    interval: Duration,
    ticks_at: Moment,
}

impl Watcher {
    pub(super) fn new(id: ClientId, rng: &mut Rng) -> Self {
        Self {
            id,
            session: None,
            stream: 0,
            create: None,
            resumes: false,
            next: 0,
            interval: Duration::from_millis(*rng.pick(&[4, 30, 700])),
            ticks_at: Moment::default(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// The stream is no more.
    fn close(&mut self) {
        self.session = None;
    }
}

/// What a watcher may ask for: `newest` is the revision that the cluster is near.
fn draw(rng: &mut Rng, newest: i64) -> WatchCreateRequest {
    let key = |rng: &mut Rng| Bytes::from(format!("key/{:02}", rng.below(24)));
    let (one, two) = (key(rng), key(rng));
    let (key, range_end) = match rng.below(5) {
        0 => (one, Bytes::new()),
        1 if one < two => (one, two),
        2 => (Bytes::from_static(b"key/"), Bytes::from_static(b"key0")),
        _ => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
    };
    let back = i64::try_from(rng.below(60)).unwrap_or(0);
    let start_revision = match rng.below(4) {
        0 | 1 => 0,
        2 => (newest - back).max(1),
        _ => newest + back / 8,
    };
    let filters = match rng.below(8) {
        0 => vec![FilterType::Noput.into()],
        1 => vec![FilterType::Nodelete.into()],
        _ => Vec::new(),
    };
    WatchCreateRequest {
        key,
        range_end,
        start_revision,
        filters,
        prev_kv: rng.one_in(2),
        progress_notify: rng.one_in(2),
        fragment: rng.one_in(2),
        watch_id: 0,
    }
}

/// The header of everything that a member tells on a stream.
const fn header_of(member: MemberId) -> (ClusterId, MemberId, Term) {
    (ClusterId(1), member, Term(1))
}

/// What a member's streams are told once.
pub(super) fn limits(member: MemberId, progress_interval: Duration) -> Limits {
    Limits { progress_interval, fragment_bytes: FRAGMENT_BYTES, header: header_of(member) }
}

/// A response as the client decodes it.
pub(super) fn travelled(member: MemberId, response: &Response) -> Result<WatchResponse, Failure> {
    let mut bytes = Vec::new();
    response.encode(header_of(member), &mut bytes);
    WatchResponse::decode(&bytes[..])
        .map_err(|error| Failure::Crash(format!("a watch response: {error}")))
}

impl World {
    pub(super) fn plan_poll(&mut self, at: usize, most: Duration) {
        let when = self.now() + within(&mut self.rng, most);
        self.plan_client(when, Event::Poll(at));
    }

    pub(super) fn poll_watcher(&mut self, at: usize) -> Result<(), Failure> {
        let interval = self.clients.watchers[at].interval;
        self.plan_poll(at, 2 * interval);
        let Some((member, _)) = &self.clients.watchers[at].session else {
            self.open_stream(at);
            return Ok(());
        };
        let member = *member;
        if self.paused_until(member).is_some() {
            return Ok(());
        }
        let fate = if self.clients.is_over { 1 } else { self.rng.below(400) };
        if fate == 0 {
            // The connection breaks; it goes on elsewhere.
            self.end_stream(at, true);
            return Ok(());
        }
        if (20..24).contains(&fate) {
            // It has seen enough, and wants something else.
            self.end_stream(at, false);
            return Ok(());
        }
        let now = self.now();
        let watcher = &mut self.clients.watchers[at];
        let Some((_, session)) = &mut watcher.session else { return Ok(()) };
        if (40..60).contains(&fate) {
            let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
            session.handle(WatchRequest { request_union: Some(progress) });
        }
        if now >= watcher.ticks_at {
            watcher.ticks_at = now + session.progress_interval();
            session.tick();
        }
        self.see(at, SLICES_MAX)
    }

    /// Lets a watcher see what has come.
    fn see(&mut self, at: usize, slices_max: usize) -> Result<(), Failure> {
        let Some((member, session)) = &mut self.clients.watchers[at].session else {
            return Ok(());
        };
        for _ in 0..slices_max {
            let more = session.poll(Waker::noop());
            if !more.map_err(|error| Failure::Crash(format!("member {member}: {error}")))? {
                break;
            }
        }
        let responses = session.take_responses();
        self.take_responses(at, &responses)
    }

    fn open_stream(&mut self, at: usize) {
        let ids = self.ids();
        let id = *self.rng.pick(&ids);
        let newest = self.clients.newest.max(1);
        let drawn = draw(&mut self.rng, newest);
        if self.paused_until(id).is_some() {
            return;
        }
        let Some(shared) = self.member(id).map(|member| member.shared()) else { return };
        let progress_interval = Duration::from_millis(*self.rng.pick(&[100, 1_000]));
        let limits = limits(id, progress_interval);
        let mut session = Session::new(shared, limits, &mut self.rng);
        let now = self.now();
        let watcher = &mut self.clients.watchers[at];
        let create = watcher.create.clone().unwrap_or(drawn);
        session.handle(WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create.clone())),
        });
        watcher.ticks_at = now + session.progress_interval();
        watcher.session = Some((id, session));
        watcher.stream = self.history.streams.len();
        watcher.next = create.start_revision;
        watcher.create = Some(create.clone());
        self.coverage.add_if(watcher.resumes, Mark::WatchResumed);
        self.history.streams.push(Stream {
            client: watcher.id,
            member: id,
            create,
            resumes: watcher.resumes,
            responses: Vec::new(),
            complete_to: None,
        });
    }

    /// A stream ends; the watcher goes on where it was, or with something else.
    fn end_stream(&mut self, at: usize, resumes: bool) {
        let watcher = &mut self.clients.watchers[at];
        if watcher.session.is_none() {
            return;
        }
        watcher.close();
        let stream = &mut self.history.streams[watcher.stream];
        // A client sees the parts of a response when it has all of them.
        while stream.responses.last().is_some_and(|(_, last)| last.fragment) {
            stream.responses.pop();
        }
        // Without an answer there is nothing to go on from.
        let can_resume = resumes && watcher.next > 0 && !stream.responses.is_empty();
        watcher.resumes = can_resume;
        if can_resume {
            if let Some(create) = &mut watcher.create {
                create.start_revision = watcher.next;
            }
        } else {
            watcher.create = None;
        }
    }

    fn take_responses(&mut self, at: usize, responses: &[Response]) -> Result<(), Failure> {
        let now = self.now();
        for response in responses {
            let watcher = &mut self.clients.watchers[at];
            let Some((member, _)) = &watcher.session else { return Ok(()) };
            let response = travelled(*member, response)?;
            let header = response.header.as_ref().map_or(0, |header| header.revision);
            let last = response.events.last().and_then(|event| event.kv.as_ref());
            if let Some(last) = last {
                if !response.fragment {
                    watcher.next = last.mod_revision + 1;
                }
            } else if response.created {
                if watcher.next == 0 {
                    watcher.next = header + 1;
                }
            } else if !response.canceled {
                watcher.next = watcher.next.max(header + 1);
                self.coverage.add(Mark::WatchProgress);
            }
            let ended = response.canceled;
            self.coverage.add_if(response.compact_revision > 0, Mark::WatchCompacted);
            self.history.streams[watcher.stream].responses.push((now, response));
            if ended {
                self.end_stream(at, false);
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn watchers_lose(&mut self, member: MemberId) {
        for at in 0..self.clients.watchers.len() {
            let session = &self.clients.watchers[at].session;
            if session.as_ref().is_some_and(|(of, _)| *of == member) {
                self.end_stream(at, true);
            }
        }
    }

    /// Everything has come to rest: what is open must have everything up to the newest revision.
    pub(crate) fn complete_streams(&mut self) -> Result<(), Failure> {
        for at in 0..self.clients.watchers.len() {
            self.see(at, HISTORY_SLICES_MAX)?;
            let Some((member, _)) = &self.clients.watchers[at].session else { continue };
            let member = *member;
            let revision = self.member(member).map(|member| member.shared().revision());
            let stream = self.clients.watchers[at].stream;
            self.history.streams[stream].complete_to = revision;
        }
        Ok(())
    }
}
