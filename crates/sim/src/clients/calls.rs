//! Calls: made, served, answered, given up.
//!
//! *Contract.* What a server does around `node::requests`: `server::grpc::{kv, range, txn, lease}`.

use std::time::Duration;

use base::{MemberId, Moment, RequestId, Revision};
use node::requests::{Rejected, check};
use node::{Input, Ticket};
use prost::Message as _;
use proto::etcdserverpb::{InternalRaftRequest, RangeRequest, RangeResponse, ResponseHeader};
use proto::mvccpb::KeyValue;
use store::{ApplyError, Counts, ReadError, Response, Shared, read_txn};

use super::workload::TXN_OPS_MAX;
use super::{Event, OperationId, WAY_MAX, Waiter, Waits, propose};
use crate::checkers::model::header_revision;
use crate::coverage::Mark;
use crate::history::{Call, ClientId, Operation, Outcome};
use crate::world::{self, Failure, World, within};

/// One answer in so many is lost on its way.
const ANSWERS_LOST_ONE_IN: u64 = 150;

/// How long a caller that was refused waits before it tries another member.
const RETRY_MAX: Duration = Duration::from_millis(60);

/// What can be done with a call at once.
enum Served {
    Done(Outcome),
    /// It is in the hands of the node.
    Waits(Waits),
}

impl World {
    /// Plans what clients do first.
    pub(crate) fn plan_clients(&mut self) {
        let callers = self.clients.callers.keys().chain(self.clients.keepers.keys());
        for id in callers.copied().collect::<Vec<_>>() {
            self.plan_act(id, Duration::from_millis(50));
        }
        for at in 0..self.clients.watchers.len() {
            self.plan_poll(at, Duration::from_millis(100));
        }
    }

    pub(super) fn plan_act(&mut self, id: ClientId, most: Duration) {
        let at = self.now() + within(&mut self.rng, most);
        self.plan_client(at, Event::Act(id));
    }

    pub(crate) fn client(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Act(id) if self.clients.keepers.contains_key(&id) => self.keeper_acts(id),
            Event::Act(id) => self.caller_acts(id),
            Event::Arrive(operation) => return self.call_arrives(operation),
            Event::Answer(operation, outcome) => self.finish_call(operation, *outcome),
            Event::GiveUp(operation) => self.finish_call(operation, Outcome::Unknown),
            Event::Poll(watcher) => return self.poll_watcher(watcher),
            Event::Renew(renewal) => return self.renew(renewal),
            Event::Renewed(renewal, ttl) => self.renewed(&renewal, ttl),
        }
        Ok(())
    }

    fn caller_acts(&mut self, id: ClientId) {
        let ids = self.ids();
        let somebody = *self.rng.pick(&ids);
        let moves_on = self.rng.one_in(20);
        let Some(caller) = self.clients.callers.get_mut(&id) else { return };
        if self.clients.calls_left == 0 || caller.busy.is_some() {
            return;
        }
        let member = match caller.member {
            Some(member) if !moves_on && ids.contains(&member) => member,
            _ => somebody,
        };
        caller.member = Some(member);
        let timeout = caller.timeout;
        self.clients.calls_left -= 1;
        let revision = self.clients.newest.max(1);
        let call = self.clients.workload.next(&mut self.rng, revision);
        let operation = self.call(id, member, call, timeout);
        if let Some(caller) = self.clients.callers.get_mut(&id) {
            caller.busy = Some(operation);
        }
    }

    /// Sends a call on its way.
    pub(crate) fn call(
        &mut self,
        client: ClientId,
        member: MemberId,
        call: Call,
        timeout: Duration,
    ) -> OperationId {
        let now = self.now();
        let operation = self.history.operations.len();
        self.history.operations.push(Operation {
            client,
            member,
            invoked: now,
            returned: Moment::from_nanos(u64::MAX),
            call,
            outcome: Outcome::Unknown,
            request: None,
        });
        let arrives = now + within(&mut self.rng, WAY_MAX);
        self.plan_client(arrives, Event::Arrive(operation));
        self.plan_client(now + timeout, Event::GiveUp(operation));
        operation
    }

    /// Whether the client still waits.
    pub(crate) fn is_open(&self, operation: OperationId) -> bool {
        let never = Moment::from_nanos(u64::MAX);
        self.history.operations.get(operation).is_some_and(|one| one.returned == never)
    }

    fn call_arrives(&mut self, operation: OperationId) -> Result<(), Failure> {
        let to = self.history.operations[operation].member;
        if let Some(until) = self.paused_until(to) {
            self.plan_client(until, Event::Arrive(operation));
            return Ok(());
        }
        let call = self.history.operations[operation].call.clone();
        let Some(member) = self.member(to) else {
            // Nobody listens.
            self.answer(operation, Outcome::Refused);
            return Ok(());
        };
        let is_alone =
            member.status.is_alone && matches!(&call, Call::Range(range) if !range.serializable);
        let served = serve(member, &call);
        self.coverage.add_if(is_alone, Mark::ReadAlone);
        match served.map_err(|line| Failure::Crash(format!("member {to}: {line}")))? {
            Served::Done(outcome) => self.answer(operation, outcome),
            Served::Waits(waits) => {
                if let Waits::Request(id) = waits {
                    self.history.operations[operation].request = Some(id);
                }
                self.clients.waiting.insert((to, waits), Waiter::Call(operation));
            }
        }
        self.after(to)
    }

    /// Sends an answer on its way.
    fn answer(&mut self, operation: OperationId, outcome: Outcome) {
        if self.rng.one_in(ANSWERS_LOST_ONE_IN) && !self.clients.is_over {
            return;
        }
        let at = self.now() + within(&mut self.rng, WAY_MAX);
        self.plan_client(at, Event::Answer(operation, Box::new(outcome)));
    }

    fn finish_call(&mut self, operation: OperationId, outcome: Outcome) {
        if !self.is_open(operation) {
            return;
        }
        let now = self.now();
        let done = &mut self.history.operations[operation];
        done.returned = now;
        done.outcome = outcome;
        let (client, member) = (done.client, done.member);
        if let Outcome::Answered(response) = &done.outcome {
            self.clients.newest = self.clients.newest.max(revision_of(response));
        }
        let marks = match &done.outcome {
            Outcome::Answered(_) | Outcome::Failed(_) => Mark::Acknowledged,
            Outcome::Refused => Mark::Refused,
            Outcome::Unknown => Mark::Unknown,
        };
        let is_bad = matches!(done.outcome, Outcome::Refused | Outcome::Unknown);
        self.coverage.add(marks);
        self.note(operation);
        let think = if is_bad { RETRY_MAX } else { self.clients.think };
        if let Some(caller) = self.clients.callers.get_mut(&client) {
            caller.busy = None;
            if is_bad && caller.member == Some(member) {
                caller.member = None;
            }
            self.plan_act(client, think);
        } else if self.clients.keepers.contains_key(&client) {
            self.keeper_finished(client, operation);
        }
    }

    /// Counts what an answered call was.
    fn note(&mut self, operation: OperationId) {
        let done = &self.history.operations[operation];
        if !matches!(done.outcome, Outcome::Answered(_)) {
            return;
        }
        let mark = match &done.call {
            Call::Range(range) if range.serializable => Mark::ReadSerializable,
            Call::Range(_) => Mark::ReadAnswered,
            Call::Compact(_) => {
                let watches = self.clients.watchers.iter().any(|watcher| watcher.is_open());
                self.coverage.add_if(watches, Mark::CompactedUnderWatch);
                Mark::Compacted
            }
            _ => return,
        };
        self.coverage.add(mark);
    }

    // ---- what members tell ----

    pub(crate) fn client_applied(
        &mut self,
        member: MemberId,
        request: RequestId,
        result: Result<Response, ApplyError>,
    ) {
        let outcome = match result {
            Ok(response) => Outcome::Answered(response),
            Err(error) => Outcome::Failed(error),
        };
        self.answer_waiter(member, Waits::Request(request), outcome);
    }

    pub(crate) fn client_refused(&mut self, member: MemberId, request: RequestId, _: &Rejected) {
        self.clients.changes.remove(&(member, request));
        self.answer_waiter(member, Waits::Request(request), Outcome::Refused);
    }

    fn answer_waiter(&mut self, member: MemberId, waits: Waits, outcome: Outcome) {
        match self.clients.waiting.remove(&(member, waits)) {
            Some(Waiter::Call(operation)) => self.answer(operation, outcome),
            Some(Waiter::Renewal(renewal)) => self.plan_renewal(renewal, Duration::ZERO),
            None => {}
        }
    }

    pub(crate) fn client_ready(
        &mut self,
        id: MemberId,
        ticket: Ticket,
        is_ready: bool,
    ) -> Result<(), Failure> {
        let waiter = self.clients.waiting.remove(&(id, Waits::Ticket(ticket)));
        let operation = match waiter {
            Some(Waiter::Call(operation)) => operation,
            Some(Waiter::Renewal(renewal)) => {
                self.confirmed(renewal, is_ready);
                return Ok(());
            }
            None => return Ok(()),
        };
        let call = self.history.operations[operation].call.clone();
        let outcome = match (self.member(id), is_ready) {
            (Some(member), true) => read(&member.shared(), &call)
                .map_err(|line| Failure::Crash(format!("member {id}: {line}")))?,
            _ => Outcome::Refused,
        };
        self.answer(operation, outcome);
        Ok(())
    }

    /// A member has ended: whoever waits for it hears nothing.
    pub(crate) fn clients_lose(&mut self, member: MemberId) {
        let lost = self.clients.waiting.extract_if(.., |(of, _), _| *of == member);
        let lost: Vec<Waiter> = lost.map(|(_, waiter)| waiter).collect();
        self.clients.changes.retain(|(of, _), _| *of != member);
        for waiter in lost {
            if let Waiter::Call(operation) = waiter {
                let at = self.now() + within(&mut self.rng, WAY_MAX);
                self.plan_client(at, Event::Answer(operation, Box::new(Outcome::Unknown)));
            }
        }
        self.watchers_lose(member);
    }
}

/// The revision in the header of an answer; 0 where there is none.
pub(super) fn revision_of(response: &Response) -> i64 {
    header_revision(response).map_or(0, Revision::get)
}

/// Does what a server does with a request. An error is one that ends the process.
fn serve(member: &mut crate::member::Member, call: &Call) -> Result<Served, String> {
    let refused = Ok(Served::Done(Outcome::Refused));
    let request = InternalRaftRequest::default();
    let (is_learner, is_alone) = (member.status.is_learner, member.status.is_alone);
    let is_serializable = match call {
        Call::Range(range) => range.serializable,
        Call::Txn(txn) => check::is_read_only(txn) && check::is_serializable(txn),
        _ => false,
    };
    if is_learner && !matches!(call, Call::Range(range) if range.serializable) {
        return refused;
    }
    let request = match call {
        Call::Range(range) if check::check_range(range).is_err() => return refused,
        Call::Txn(txn) if check::check_txn(txn, TXN_OPS_MAX).is_err() => return refused,
        Call::Range(_) if is_serializable || is_alone => return read_now(member, call),
        Call::Txn(txn) if check::is_read_only(txn) && (is_serializable || is_alone) => {
            return read_now(member, call);
        }
        Call::Range(_) => return Ok(Served::Waits(ask_index(member))),
        Call::Txn(txn) if check::is_read_only(txn) => {
            return Ok(Served::Waits(ask_index(member)));
        }
        Call::Put(put) if check::check_put(put).is_err() => return refused,
        Call::DeleteRange(delete) if check::check_delete_range(delete).is_err() => return refused,
        Call::Put(put) => InternalRaftRequest { put: Some(put.clone()), ..request },
        Call::DeleteRange(delete) => {
            InternalRaftRequest { delete_range: Some(delete.clone()), ..request }
        }
        Call::Txn(txn) => InternalRaftRequest { txn: Some(txn.clone()), ..request },
        Call::Compact(at) => InternalRaftRequest { compaction: Some(*at), ..request },
        Call::LeaseGrant(grant) => InternalRaftRequest { lease_grant: Some(*grant), ..request },
        Call::LeaseRevoke(revoke) => InternalRaftRequest { lease_revoke: Some(*revoke), ..request },
    };
    Ok(Served::Waits(Waits::Request(propose(member, request))))
}

fn ask_index(member: &mut crate::member::Member) -> Waits {
    let ticket = member.ticket();
    member.inbox.push_back(Input::ReadIndex { ticket });
    Waits::Ticket(ticket)
}

fn read_now(member: &crate::member::Member, call: &Call) -> Result<Served, String> {
    read(&member.shared(), call).map(Served::Done)
}

/// Answers a read from the newest view.
fn read(shared: &Shared, call: &Call) -> Result<Outcome, String> {
    let view = shared.view();
    let refused = |error: ReadError| match error {
        ReadError::Compacted => Ok(Outcome::Failed(ApplyError::Compacted)),
        ReadError::FutureRevision => Ok(Outcome::Failed(ApplyError::FutureRevision)),
        ReadError::Damaged(damage) => Err(damage.to_string()),
    };
    match call {
        Call::Range(range) => match range_of(&view, range) {
            Ok(response) => Ok(Outcome::Answered(Response::Range(response))),
            Err(error) => refused(error),
        },
        Call::Txn(txn) => match read_txn(&view, txn, &mut Counts::default()) {
            Ok(response) => Ok(Outcome::Answered(Response::Txn(response))),
            Err(store::TxnError::Refused(error)) => Ok(Outcome::Failed(error)),
            Err(store::TxnError::Read(error)) => refused(error),
        },
        _ => Err("a write was to be read".to_owned()),
    }
}

fn range_of(view: &store::View, range: &RangeRequest) -> Result<RangeResponse, ReadError> {
    let mut rows: Vec<Vec<u8>> = Vec::new();
    let summary = view.range(range, &mut |row| rows.push(row.to_vec()))?;
    let kvs = rows
        .iter()
        .map(|row| KeyValue::decode(&row[..]).expect("a row that a view shows is a KeyValue"));
    let header = ResponseHeader { revision: view.revision().get(), ..ResponseHeader::default() };
    Ok(RangeResponse {
        header: Some(header),
        kvs: kvs.collect(),
        more: summary.more,
        count: summary.count,
    })
}

/// Where a caller of a scenario can find what it asked for.
impl World {
    /// Makes a call and lets the run go on until it is answered or given up.
    pub fn ask(&mut self, member: MemberId, call: Call) -> Result<Outcome, Failure> {
        let client = world::story::CLIENT;
        let operation = self.call(client, member, call, Duration::from_secs(7));
        while self.is_open(operation) && self.step()? {}
        Ok(self.history.operations[operation].outcome.clone())
    }
}
