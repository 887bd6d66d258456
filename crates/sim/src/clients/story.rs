//! What scenarios do as clients: calls, a load of many of them, renewals, and watchers that look
//! when the scenario says so.
//!
//! *Invariants.* What happens here is in the history like everything else, but for streams with
//! more than one watcher: the history knows one a stream.

use std::task::Waker;
use std::time::Duration;

use base::{LeaseId, MemberId, Revision};
use bytes::Bytes;
use node::requests::watch::Session;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    PutRequest, RangeRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use proto::mvccpb::KeyValue;
use store::Response;

use super::watch::{limits, travelled};
use super::{Clients, OperationId, calls};
use crate::history::{Call, ClientId, Outcome, Stream};
use crate::world::{Failure, World};

/// How long a scenario's client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(7);

/// How often a scenario's client tries what must be done.
const TRIES_MAX: usize = 40;

/// The pause between two of its tries.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A watch stream of a scenario.
pub struct Watching {
    /// Who was asked.
    pub member: MemberId,
    /// What came, in order.
    pub responses: Vec<WatchResponse>,
    session: Session,
    /// Its place in the history, when it has one.
    stream: Option<usize>,
}

impl Watching {
    /// The revisions of the events that came for a watcher, in order.
    pub fn revisions(&self, watch: i64) -> Vec<i64> {
        let own = self.responses.iter().filter(|response| response.watch_id == watch);
        let events = own.flat_map(|response| &response.events);
        events.filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).collect()
    }

    /// The revision of the compaction that ended a watcher, if one did.
    pub fn compacted(&self, watch: i64) -> Option<i64> {
        let own = self.responses.iter().filter(|response| response.watch_id == watch);
        let mut ended = own.filter(|response| response.canceled);
        ended.next().map(|response| response.compact_revision)
    }

    /// The revisions up to which everything was said to have come, in order.
    pub fn progress(&self) -> Vec<i64> {
        let told = self.responses.iter().filter(|response| is_progress(response));
        told.map(revision_of).collect()
    }

    /// The first thing that came after it was said that nothing so old would come.
    pub fn travels_back(&self) -> Option<String> {
        let (mut told, mut seen) = (0, 0);
        for response in &self.responses {
            for kv in response.events.iter().filter_map(|event| event.kv.as_ref()) {
                let at = kv.mod_revision;
                if at <= told || at < seen {
                    return Some(format!("revision {at} comes after {seen}, and {told} was told"));
                }
                seen = at;
            }
            if is_progress(response) {
                let at = revision_of(response);
                if at < told.max(seen) {
                    return Some(format!("progress {at} is told after {told} and {seen}"));
                }
                told = at;
            }
        }
        None
    }
}

fn is_progress(response: &WatchResponse) -> bool {
    response.events.is_empty() && !response.created && !response.canceled
}

fn revision_of(response: &WatchResponse) -> i64 {
    response.header.as_ref().map_or(0, |header| header.revision)
}

impl Clients {
    /// What scenarios begin with: nothing is lost between clients and members.
    pub(crate) fn is_told(&mut self) {
        self.is_over = true;
        self.is_fast = false;
    }
}

impl World {
    /// Lets the callers of the plan make so many calls of every kind.
    pub fn load(&mut self, calls: u64) {
        self.clients.calls_left = calls;
        let ids: Vec<ClientId> = self.clients.callers.keys().copied().collect();
        for id in ids {
            self.plan_act(id, Duration::from_millis(20));
        }
    }

    /// Lets the run go on until all calls of the load have an outcome.
    pub fn until_idle(&mut self) -> Result<(), Failure> {
        self.until("the end of the load", |world| world.clients.is_idle())
    }

    /// Sends a call on its way, and goes on. Its place in the history.
    pub fn send_call(&mut self, member: MemberId, call: Call) -> OperationId {
        // A client has one call under way at a time: this is another client each time.
        let number = u32::try_from(self.history.operations.len()).unwrap_or(0);
        self.call(ClientId(1 << 30 | number), member, call, TIMEOUT)
    }

    /// Lets the run go on until a call has an outcome; what it is.
    pub fn outcome_of(&mut self, operation: OperationId) -> Result<Outcome, Failure> {
        while self.is_open(operation) && self.step()? {}
        Ok(self.history.operations[operation].outcome.clone())
    }

    /// Makes a call again and again until the state has answered it, wherever that is.
    pub fn insist(&mut self, call: &Call) -> Result<Outcome, Failure> {
        for _ in 0..TRIES_MAX {
            let leader = self.until_led()?;
            let outcome = self.ask(leader, call.clone())?;
            if matches!(outcome, Outcome::Answered(_) | Outcome::Failed(_)) {
                return Ok(outcome);
            }
            self.run_for(RETRY_INTERVAL)?;
        }
        Err(Failure::Liveness(format!("nobody answers {call:?}")))
    }

    /// The revision of an answered write.
    pub fn revision_of(outcome: &Outcome) -> Result<i64, Failure> {
        match outcome {
            Outcome::Answered(response) => Ok(calls::revision_of(response)),
            other => Err(Failure::Liveness(format!("there is no answer but {other:?}"))),
        }
    }

    /// Writes a key, wherever that is possible. Its revision.
    pub fn put(&mut self, key: &str, value: &str) -> Result<i64, Failure> {
        let outcome = self.insist(&put(key, value))?;
        Self::revision_of(&outcome)
    }

    /// Writes so many keys at once, some at a time. The revision of the last.
    pub fn put_many(&mut self, count: usize, value: &str) -> Result<i64, Failure> {
        let mut left = count;
        while left > 0 {
            let leader = self.until_led()?;
            let keys = (0..left.min(32)).map(|at| format!("many/{at:02}"));
            let sent: Vec<_> = keys.map(|key| self.send_call(leader, put(&key, value))).collect();
            for operation in sent {
                if matches!(self.outcome_of(operation)?, Outcome::Answered(_)) {
                    left -= 1;
                }
            }
        }
        let leader = self.until_led()?;
        Ok(self.revision(leader).get())
    }

    /// Reads a key linearizably from a member.
    pub fn get(&mut self, member: MemberId, key: &str) -> Result<Option<KeyValue>, Failure> {
        for _ in 0..TRIES_MAX {
            if let Outcome::Answered(Response::Range(range)) = self.ask(member, get(key))? {
                return Ok(range.kvs.into_iter().next());
            }
            self.run_for(RETRY_INTERVAL)?;
        }
        Err(Failure::Liveness(format!("{member} does not answer a read")))
    }

    /// The revision of a member's state.
    pub fn revision(&mut self, member: MemberId) -> Revision {
        self.member(member).map_or(Revision(0), |member| member.shared().revision())
    }

    // ---- leases ----

    /// Sends a renewal on its way, and goes on. Whose answer in the history it is.
    pub fn send_keep_alive(&mut self, member: MemberId, lease: i64) -> ClientId {
        self.ask_renewal(member, LeaseId(lease))
    }

    /// Renews a lease at a member. What it has left, when that was answered.
    pub fn keep_alive(&mut self, member: MemberId, lease: i64) -> Result<Option<i64>, Failure> {
        let (known, until) = (self.history.keep_alives.len(), self.now() + TIMEOUT);
        let keeper = self.ask_renewal(member, LeaseId(lease));
        while self.now() < until {
            let mut answers = self.history.keep_alives[known..].iter();
            if let Some(answer) = answers.find(|answer| answer.client == keeper) {
                return Ok(Some(answer.ttl));
            }
            if !self.step()? {
                break;
            }
        }
        Ok(None)
    }

    // ---- watchers ----

    /// Opens a stream with one watcher.
    pub fn watch(
        &mut self,
        member: MemberId,
        create: WatchCreateRequest,
    ) -> Result<Watching, Failure> {
        let stream = self.history.streams.len();
        self.history.streams.push(Stream {
            client: ClientId(1 << 31 | u32::try_from(stream).unwrap_or(0)),
            member,
            create: create.clone(),
            resumes: false,
            responses: Vec::new(),
            complete_to: None,
        });
        let mut watching = self.watch_together(member, [create])?;
        watching.stream = Some(stream);
        self.take(&mut watching)?;
        Ok(watching)
    }

    /// Opens a stream with many watchers, whose ids count from 0.
    pub fn watch_together(
        &mut self,
        member: MemberId,
        creates: impl IntoIterator<Item = WatchCreateRequest>,
    ) -> Result<Watching, Failure> {
        let shared = self.member(member).map(|member| member.shared());
        let shared = shared.ok_or_else(|| Failure::Liveness(format!("{member} does not run")))?;
        let limits = limits(member, Duration::from_millis(100));
        let mut session = Session::new(shared, limits, &mut self.rng);
        for create in creates {
            let create = RequestUnion::CreateRequest(create);
            session.handle(WatchRequest { request_union: Some(create) });
        }
        Ok(Watching { member, responses: Vec::new(), session, stream: None })
    }

    /// Takes what has come, and reads one slice of history for those who lag. Whether there is
    /// more at once.
    pub fn look(&mut self, watching: &mut Watching) -> Result<bool, Failure> {
        let more = watching.session.poll(Waker::noop());
        let who = watching.member;
        let more = more.map_err(|error| Failure::Crash(format!("member {who}: {error}")))?;
        self.take(watching)?;
        Ok(more)
    }

    /// Takes everything there is.
    pub fn look_through(&mut self, watching: &mut Watching) -> Result<(), Failure> {
        while self.look(watching)? {}
        Ok(())
    }

    /// Asks how far the stream is.
    pub fn ask_progress(&mut self, watching: &mut Watching) -> Result<(), Failure> {
        let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
        watching.session.handle(WatchRequest { request_union: Some(progress) });
        self.take(watching)
    }

    /// The time has come to tell idle watchers of their progress.
    pub fn tick_watch(&mut self, watching: &mut Watching) -> Result<(), Failure> {
        watching.session.tick();
        self.take(watching)
    }

    /// The scenario has looked through, at a member that has everything: nothing may be missing.
    pub fn complete(&mut self, watching: &mut Watching) -> Result<(), Failure> {
        self.look_through(watching)?;
        let revision = self.revision(watching.member);
        if let Some(stream) = watching.stream
            && watching.compacted(0).is_none()
        {
            self.history.streams[stream].complete_to = Some(revision);
        }
        Ok(())
    }

    fn take(&mut self, watching: &mut Watching) -> Result<(), Failure> {
        for response in watching.session.take_responses() {
            let response = travelled(watching.member, &response)?;
            let now = self.now();
            if let Some(stream) = watching.stream {
                self.history.streams[stream].responses.push((now, response.clone()));
            }
            watching.responses.push(response);
        }
        Ok(())
    }
}

/// A put.
pub(crate) fn put(key: &str, value: &str) -> Call {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    Call::Put(PutRequest { key, value, ..PutRequest::default() })
}

/// A linearizable read of one key.
pub(crate) fn get(key: &str) -> Call {
    Call::Range(RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() })
}

/// A watcher of everything, from a revision on.
pub(crate) fn watch_all(start_revision: i64) -> WatchCreateRequest {
    let all = Bytes::from_static(b"\0");
    WatchCreateRequest { key: all.clone(), range_end: all, start_revision, ..Default::default() }
}
