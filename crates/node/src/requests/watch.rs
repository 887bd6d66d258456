//! One watch stream: requests in, responses out, without a socket or a task.
//!
//! ```text
//!  requests ──► handle ──► responses
//!  hub ─► queue ──► poll ──► responses      (and slices of history, for watchers that lag)
//!  clock ──► tick ──► progress
//! ```
//!
//! The stream's task calls [`Session::handle`] for each request, [`Session::tick`] in the interval
//! of [`Session::progress_interval`], and [`Session::poll`] after either of them, whenever the
//! waker it gave was called, and as long as the last poll said that there is more.
//!
//! *Invariants.*
//! 1. A watcher's `created` comes before its events; nothing comes after its `canceled`.
//! 2. Between two polls, every watcher is subscribed or has a revision from which it reads on.
//! 3. A poll reads one bounded slice of history at most.
//! 4. `held_bytes < HELD_BYTES_MAX` between two polls.
//! 5. After an answer about progress at revision `r`, every event is newer than `r`.
//!
//! *Absent.* Permissions (no authentication yet), the encoding of events (`store::watch`).
//!
//! *Contract.* `server/etcdserver/api/v3rpc/watch.go` and `server/storage/mvcc/watcher.go` of etcd
//! v3.7.1.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use base::mutant::{Mutant, is_on};
use base::{ClusterId, MemberId, Revision, Rng, Term, WatchId};
use bytes::Bytes;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use store::watch::{Batch, Drained, Filter, Lagging, Queue, SubscriptionId, Watched, encode_event};
use store::{Change, ReadError, Shared, View};

mod response;

use response::encoded_event_len;

pub use response::Response;

/// Revisions in one response of a watcher that catches up (`watchBatchMaxRevs` of etcd).
const CATCH_UP_REVISIONS_MAX: usize = 1000;
/// Revisions that one slice of history may hold.
const SLICE_REVISIONS_MAX: usize = 1000;
/// Bytes of rows that one slice of history may hold, whole revisions apart.
const SLICE_BYTES_MAX: usize = 1 << 20;
/// Bytes of events that wait for a response to be full: above it, responses are cut earlier than
/// etcd would cut them.
const HELD_BYTES_MAX: usize = 8 << 20;
/// The id of what concerns no watcher.
const NO_WATCH: WatchId = WatchId(-1);

const RANGE_EMPTY: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// How a watcher gets its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The hub queues them.
    Subscribed(SubscriptionId),
    /// It reads history from this revision on.
    CatchingUp(Revision),
}

struct Watcher {
    watched: Watched,
    state: State,
    /// What it reads of history and is not sent yet.
    held: Held,
    /// The first revision it asked for, 0 for whatever comes.
    start: Revision,
    progress_notify: bool,
    fragment: bool,
    /// It was sent an event since the last tick.
    was_busy: bool,
}

/// The response that a watcher's slices of history fill.
#[derive(Default)]
struct Held {
    events: Vec<Bytes>,
    /// Revisions that concern its keys, filtered out or not; the last of them.
    revisions: usize,
    last: Revision,
}

/// A change that concerns the keys of a watcher; `None` when its filter leaves it out.
type Found = (WatchId, Revision, Option<Bytes>);

/// What a stream is told once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `--watch-progress-notify-interval`.
    pub progress_interval: Duration,
    /// The encoded size from which a response is split, for watchers that allow it.
    pub fragment_bytes: usize,
    /// Who answers: the header counts to the size of a response.
    pub header: (ClusterId, MemberId, Term),
}

/// The state of one stream.
pub struct Session {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    watchers: BTreeMap<WatchId, Watcher>,
    /// Those that read history.
    catching_up: BTreeSet<WatchId>,
    /// What the events that watchers hold take; events that they share count once.
    held_bytes: usize,
    next_id: i64,
    limits: Limits,
    progress_interval: Duration,
    out: Vec<Response>,
}

impl Session {
    /// A stream without watchers.
    pub fn new(shared: Arc<Shared>, limits: Limits, rng: &mut Rng) -> Self {
        let millis = u64::try_from(limits.progress_interval.as_millis()).unwrap_or(u64::MAX);
        // Streams that begin together must not all be told of their progress at once.
        let jitter = Duration::from_millis(rng.below(millis / 10 + 1));
        let queue = shared.hub().queue();
        Self {
            shared,
            queue,
            watchers: BTreeMap::new(),
            catching_up: BTreeSet::new(),
            held_bytes: 0,
            next_id: 0,
            limits,
            progress_interval: limits.progress_interval + jitter,
            out: Vec::new(),
        }
    }

    /// How often [`Session::tick`] is to be called.
    pub const fn progress_interval(&self) -> Duration {
        self.progress_interval
    }

    /// How many watchers the stream has.
    pub fn watchers(&self) -> usize {
        self.watchers.len()
    }

    /// Takes the responses that are due, in order.
    pub fn take_responses(&mut self) -> Vec<Response> {
        std::mem::take(&mut self.out)
    }

    /// Handles one request of the client.
    pub fn handle(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(WatchId(cancel.watch_id)),
            Some(RequestUnion::ProgressRequest(_)) => self.progress(),
            None => {}
        }
    }

    fn create(&mut self, request: WatchCreateRequest) {
        let view = self.shared.view();
        let current = view.revision();
        // Copied: a watcher lives long, and its key may be a slice of a large buffer.
        let key = if request.key.is_empty() { &[0] } else { &request.key[..] };
        let key = Bytes::copy_from_slice(key);
        let is_empty = !request.range_end.is_empty()
            && request.range_end[..] != [0]
            && key >= request.range_end;
        let refusal = if request.start_revision < 0 {
            Some(COMPACTED)
        } else if is_empty {
            Some(RANGE_EMPTY)
        } else if request.watch_id != 0 && self.watchers.contains_key(&WatchId(request.watch_id)) {
            Some(DUPLICATE_ID)
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.out.push(Response {
                created: true,
                canceled: true,
                cancel_reason: reason.into(),
                ..Response::new(NO_WATCH, current)
            });
            return;
        }
        let id = self.choose_id(request.watch_id);
        let start = Revision(request.start_revision);
        let from = if start == Revision(0) { current.next() } else { start };
        let has = |filter: FilterType| request.filters.contains(&(filter as i32));
        let watched = Watched {
            key,
            range_end: Bytes::copy_from_slice(&request.range_end),
            filter: Filter { no_put: has(FilterType::Noput), no_delete: has(FilterType::Nodelete) },
            prev_kv: request.prev_kv,
        };
        let watcher = Watcher {
            watched,
            state: State::CatchingUp(from),
            held: Held::default(),
            start,
            progress_notify: request.progress_notify,
            fragment: request.fragment,
            was_busy: false,
        };
        self.watchers.insert(id, watcher);
        self.catching_up.insert(id);
        self.out.push(Response { created: true, ..Response::new(id, current) });
        self.try_subscribe(id, from, current);
    }

    /// The id that the client named, or the next one that nobody has.
    fn choose_id(&mut self, asked: i64) -> WatchId {
        if asked != 0 {
            return WatchId(asked);
        }
        while self.watchers.contains_key(&WatchId(self.next_id)) {
            self.next_id += 1;
        }
        let id = WatchId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Lets the hub feed a watcher that has seen everything below `from`, if that is all there is.
    fn try_subscribe(&mut self, id: WatchId, from: Revision, current: Revision) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        if from <= current {
            return;
        }
        let from = if is_on(Mutant::WatchSubscribesLate) { from.next() } else { from };
        let subscribed = self.shared.hub().subscribe(&self.queue, id, &watcher.watched, from);
        if let Ok(subscription) = subscribed {
            watcher.state = State::Subscribed(subscription);
            self.catching_up.remove(&id);
        }
    }

    fn cancel(&mut self, id: WatchId) {
        if self.remove(id) {
            let revision = self.shared.revision();
            self.out.push(Response { canceled: true, ..Response::new(id, revision) });
        }
    }

    fn remove(&mut self, id: WatchId) -> bool {
        self.catching_up.remove(&id);
        match self.watchers.remove(&id) {
            Some(Watcher { state: State::Subscribed(subscription), .. }) => {
                self.shared.hub().unsubscribe(subscription);
                true
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Takes what waits, and tells up to which revision nothing else will come.
    fn settle(&mut self) -> Revision {
        let shared = Arc::clone(&self.shared);
        let (settled, drained) = shared.hub().settle(&self.queue);
        self.deliver_all(drained);
        settled
    }

    /// Answers a request for progress, if every watcher has been told of all there is.
    fn progress(&mut self) {
        let settled = self.settle();
        let mut watchers = self.watchers.values();
        if !self.watchers.is_empty() && watchers.all(|watcher| watcher.is_settled(settled)) {
            self.out.push(Response::new(NO_WATCH, settled));
        }
    }

    /// Tells idle watchers that asked for it how far they are.
    pub fn tick(&mut self) {
        let settled = self.settle();
        for (id, watcher) in &mut self.watchers {
            let was_busy = std::mem::take(&mut watcher.was_busy);
            if watcher.progress_notify && !was_busy && watcher.is_settled(settled) {
                self.out.push(Response::new(*id, settled));
            }
        }
    }

    /// Takes what the hub has queued, and reads one slice of history for the watchers that lag.
    /// True when there is more to read at once; otherwise `waker` is called when there is.
    pub fn poll(&mut self, waker: &Waker) -> Result<bool, ReadError> {
        let drained = self.queue.drain(waker);
        self.deliver_all(drained);
        if self.catching_up.is_empty() {
            return Ok(false);
        }
        self.catch_up()?;
        Ok(!self.catching_up.is_empty())
    }

    /// Polls as [`Session::poll`] does until there are responses, or more to read at once, and
    /// takes them.
    pub fn poll_responses(&mut self, waker: &Waker) -> Poll<Result<Vec<Response>, ReadError>> {
        let polled = self.poll(waker);
        let responses = self.take_responses();
        match polled {
            Err(error) => Poll::Ready(Err(error)),
            Ok(more) if more || !responses.is_empty() => Poll::Ready(Ok(responses)),
            Ok(_) => Poll::Pending,
        }
    }

    fn deliver_all(&mut self, drained: Drained) {
        for batch in drained.batches {
            self.deliver(batch);
        }
        for Lagging { watch, subscription, from } in drained.lagging {
            if let Some(watcher) = self.watchers.get_mut(&watch)
                && watcher.state == State::Subscribed(subscription)
            {
                watcher.state = State::CatchingUp(from);
                self.catching_up.insert(watch);
            }
        }
    }

    fn deliver(&mut self, batch: Batch) {
        let Some(watcher) = self.watchers.get_mut(&batch.watch) else { return };
        if watcher.state != State::Subscribed(batch.subscription) {
            return;
        }
        let is_dropped = is_on(Mutant::WatchDropsAtCompaction)
            && batch.revision <= self.shared.view().compact_revision();
        if is_dropped {
            return;
        }
        watcher.was_busy = true;
        let response = Response {
            events: batch.events.to_vec(),
            ..Response::new(batch.watch, batch.revision)
        };
        push(&mut self.out, response, watcher.fragment, &self.limits);
    }

    /// Reads one slice of history for all who lag behind its end.
    fn catch_up(&mut self) -> Result<(), ReadError> {
        let view = self.shared.view();
        let (current, compacted) = (view.revision(), view.compact_revision());
        let lagging: Vec<WatchId> = self.catching_up.iter().copied().collect();
        let mut first = current.next();
        for id in lagging {
            let Some(Watcher { state: State::CatchingUp(from), .. }) = self.watchers.get(&id)
            else {
                continue;
            };
            let from = match is_on(Mutant::WatchSkipsCompacted) {
                true => compacted.max(*from),
                false => *from,
            };
            if from < compacted {
                self.send_held(id, current);
                self.cancel_compacted(id, compacted);
            } else {
                first = first.min(from);
            }
        }
        let mut next = first;
        if first <= current {
            let (found, end) = self.read_slice(&view, first)?;
            next = end;
            for found in found {
                self.hold(found, current);
            }
        }
        let must_send = self.held_bytes >= HELD_BYTES_MAX;
        for id in self.catching_up.iter().copied().collect::<Vec<_>>() {
            let Some(watcher) = self.watchers.get_mut(&id) else { continue };
            let State::CatchingUp(from) = watcher.state else { continue };
            let from = from.max(next);
            watcher.state = State::CatchingUp(from);
            if must_send || from > current {
                self.send_held(id, current);
            }
            self.try_subscribe(id, from, current);
        }
        if must_send || self.catching_up.is_empty() {
            self.held_bytes = 0;
        }
        Ok(())
    }

    /// What the watchers that lag want of the slice that begins at `first`, in order, and where
    /// the next one begins.
    fn read_slice(
        &mut self,
        view: &View,
        first: Revision,
    ) -> Result<(Vec<Found>, Revision), ReadError> {
        let (mut found, mut bytes, mut failure) = (Vec::new(), 0, None);
        let (watchers, catching_up) = (&self.watchers, &self.catching_up);
        let mut show = |change: &Change| {
            let mut encoded = [None, None];
            for id in catching_up {
                let watcher = &watchers[id];
                let State::CatchingUp(from) = watcher.state else { continue };
                if change.at.main < from || !watcher.watched.covers(&change.key) {
                    continue;
                }
                let Watched { filter, prev_kv, .. } = watcher.watched;
                let event = filter.lets_through(change.tombstone).then(|| {
                    let event = encoded[usize::from(prev_kv)].get_or_insert_with(|| {
                        let event = encode(view, change, prev_kv, &mut failure);
                        bytes += event.len();
                        event
                    });
                    event.clone()
                });
                found.push((*id, change.at.main, event));
            }
        };
        let end = match view.changes(first, SLICE_REVISIONS_MAX, SLICE_BYTES_MAX, &mut show) {
            // A compaction began while we read: the next slice finds out whom it concerns.
            Err(ReadError::Compacted) => return Ok((Vec::new(), first)),
            end => end?,
        };
        if let Some(error) = failure {
            return Err(error);
        }
        self.held_bytes += bytes;
        Ok((found, end))
    }

    /// Keeps a change for the watcher's next response, which goes out when it is full.
    fn hold(&mut self, (id, revision, event): Found, current: Revision) {
        let Some(Watcher { held, .. }) = self.watchers.get(&id) else { return };
        if revision > held.last && held.revisions >= CATCH_UP_REVISIONS_MAX {
            self.send_held(id, current);
        }
        let Some(Watcher { held, .. }) = self.watchers.get_mut(&id) else { return };
        if revision > held.last {
            held.revisions += 1;
            held.last = revision;
        }
        held.events.extend(event);
    }

    fn send_held(&mut self, id: WatchId, current: Revision) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        let Held { events, .. } = std::mem::take(&mut watcher.held);
        if !events.is_empty() {
            watcher.was_busy = true;
            let response = Response { events, ..Response::new(id, current) };
            push(&mut self.out, response, watcher.fragment, &self.limits);
        }
    }

    fn cancel_compacted(&mut self, id: WatchId, compacted: Revision) {
        self.remove(id);
        self.out.push(Response {
            canceled: true,
            compact_revision: compacted,
            ..Response::new(id, Revision(0))
        });
    }
}

impl Watcher {
    /// Whether it was told of everything up to `settled`, and wants to be told of it.
    fn is_settled(&self, settled: Revision) -> bool {
        let is_fed = matches!(self.state, State::Subscribed(_));
        (is_fed || is_on(Mutant::WatchProgressEarly)) && self.start <= settled
    }
}

/// The event of a change, with the row before it when that is wanted and not compacted.
fn encode(view: &View, change: &Change, prev_kv: bool, failure: &mut Option<ReadError>) -> Bytes {
    let before = if prev_kv && !change.creates() {
        view.before(&change.key, change.at.main)
    } else {
        Ok(None)
    };
    let before = before.unwrap_or_else(|error| {
        *failure = Some(error);
        None
    });
    encode_event(change, before.as_ref())
}

impl Drop for Session {
    fn drop(&mut self) {
        let ids: Vec<WatchId> = self.watchers.keys().copied().collect();
        for id in ids {
            self.remove(id);
        }
    }
}

/// Adds a response, in parts when it is large and its watcher allows that: as many events as stay
/// below the limit together with everything else in the response, but one at least.
fn push(out: &mut Vec<Response>, mut response: Response, fragment: bool, limits: &Limits) {
    let is_small = |response: &Response| {
        response.events.len() < 2 || response.encoded_len(limits.header) < limits.fragment_bytes
    };
    if !fragment || is_small(&response) {
        out.push(response);
        return;
    }
    let events = std::mem::take(&mut response.events);
    let mut part = Response { fragment: true, ..response };
    let empty = part.encoded_len(limits.header);
    let mut size = empty;
    for event in events {
        let more = encoded_event_len(&event);
        if !part.events.is_empty() && size + more >= limits.fragment_bytes {
            let events = std::mem::take(&mut part.events);
            out.push(Response { events, ..part.clone() });
            size = empty;
        }
        size += more;
        part.events.push(event);
    }
    out.push(Response { fragment: false, ..part });
}
