//! Histories by hand and at random, for the tests of all checkers.
//!
//! *Invariants.* What a builder makes is correct: every request takes place at one moment between
//! its call and its return. Tests corrupt it afterwards.

use std::time::Duration;

use base::{LeaseId, LogIndex, MemberId, Moment, RequestId, Revision, Rng};
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use proto::raftpb::{Entry, EntryType};
use store::{ApplyError, Response};

use super::{Model, is_read, is_serializable};
use crate::history::{Call, ClientId, History, Operation, Outcome};

/// The members of every run here.
pub(crate) const MEMBERS: [MemberId; 3] = [MemberId(1), MemberId(2), MemberId(3)];

pub(crate) fn ms(millis: u64) -> Moment {
    Moment::from_nanos(millis * 1_000_000)
}

pub(crate) fn put(key: &str, value: &str) -> Call {
    Call::Put(put_request(key, value))
}

pub(crate) fn put_request(key: &str, value: &str) -> PutRequest {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    PutRequest { key, value, ..PutRequest::default() }
}

pub(crate) fn put_leased(key: &str, lease: i64) -> Call {
    Call::Put(PutRequest { lease, ..put_request(key, "leased") })
}

pub(crate) fn get(key: &str) -> Call {
    Call::Range(range_request(key, ""))
}

pub(crate) fn range_request(key: &str, end: &str) -> RangeRequest {
    let (key, range_end) = (Bytes::from(key.to_owned()), Bytes::from(end.to_owned()));
    RangeRequest { key, range_end, ..RangeRequest::default() }
}

pub(crate) fn get_stale(key: &str) -> Call {
    Call::Range(RangeRequest { serializable: true, ..range_request(key, "") })
}

pub(crate) fn delete(key: &str, end: &str) -> Call {
    let (key, range_end) = (Bytes::from(key.to_owned()), Bytes::from(end.to_owned()));
    Call::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: true })
}

pub(crate) fn compact(revision: i64) -> Call {
    Call::Compact(CompactionRequest { revision, physical: false })
}

pub(crate) fn grant(id: i64, ttl: i64) -> Call {
    Call::LeaseGrant(LeaseGrantRequest { ttl, id })
}

pub(crate) fn revoke(id: i64) -> Call {
    Call::LeaseRevoke(LeaseRevokeRequest { id })
}

pub(crate) fn txn(success: Vec<Request>) -> Call {
    Call::Txn(TxnRequest { success: ops(success), ..TxnRequest::default() })
}

pub(crate) fn ops(requests: Vec<Request>) -> Vec<RequestOp> {
    requests.into_iter().map(|request| RequestOp { request: Some(request) }).collect()
}

/// A history on its way.
#[derive(Default)]
pub(crate) struct Builder {
    pub(crate) history: History,
    pub(crate) model: Model,
    /// The state at each revision, the first at revision 1.
    pub(crate) states: Vec<Model>,
    pub(crate) term: u64,
    requests: u64,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { states: vec![Model::new()], term: 1, ..Self::default() }
    }

    /// Puts a request into the log, and applies it on every member at `at`.
    pub(crate) fn commit(&mut self, at: Moment, call: &Call) -> RequestId {
        self.requests += 1;
        let mut request = InternalRaftRequest { id: self.requests, ..<_>::default() };
        match call.clone() {
            Call::Put(put) => request.put = Some(put),
            Call::DeleteRange(delete) => request.delete_range = Some(delete),
            Call::Txn(txn) => request.txn = Some(txn),
            Call::Compact(compaction) => request.compaction = Some(compaction),
            Call::LeaseGrant(grant) => request.lease_grant = Some(grant),
            Call::LeaseRevoke(revoke) => request.lease_revoke = Some(revoke),
            Call::Range(range) => request.range = Some(range),
        }
        let index = LogIndex(self.history.log.entries.len() as u64 + 1);
        let entry = Entry {
            term: Some(self.term),
            index: Some(index.get()),
            r#type: Some(EntryType::EntryNormal as i32),
            data: Some(request.encode_to_vec().into()),
        };
        let id = RequestId(self.requests);
        let outcome = self.model.apply(call);
        if self.model.revision() > Revision(self.states.len() as i64) {
            self.states.push(self.model.clone());
        }
        let log = &mut self.history.log;
        log.entries.insert(index, entry);
        log.outcomes.insert(id, outcome);
        for member in MEMBERS {
            log.applied.insert((index, member), at);
        }
        id
    }

    /// What the log says of a request.
    pub(crate) fn outcome(&self, id: RequestId) -> Result<Response, ApplyError> {
        self.history.log.outcomes[&id].clone()
    }

    /// A call that takes place at `at` and is answered.
    pub(crate) fn call_at(&mut self, client: u32, times: (Moment, Moment, Moment), call: Call) {
        let (invoked, at, returned) = times;
        let (request, result) = if is_read(&call) {
            (None, self.model.clone().apply(&call))
        } else {
            let id = self.commit(at, &call);
            (Some(id), self.outcome(id))
        };
        let outcome = match result {
            Ok(response) => Outcome::Answered(response),
            Err(error) => Outcome::Failed(error),
        };
        self.record(client, (invoked, returned), call, outcome, request);
    }

    /// The same, in milliseconds, in the middle of its time.
    pub(crate) fn call(&mut self, client: u32, from: u64, to: u64, call: Call) -> &mut Self {
        self.call_at(client, (ms(from), ms(u64::midpoint(from, to)), ms(to)), call);
        self
    }

    pub(crate) fn record(
        &mut self,
        client: u32,
        (invoked, returned): (Moment, Moment),
        call: Call,
        outcome: Outcome,
        request: Option<RequestId>,
    ) {
        let (client, member) = (ClientId(client), MEMBERS[0]);
        let operation = Operation { client, member, invoked, returned, call, outcome, request };
        self.history.operations.push(operation);
    }

    /// The history, its calls in the order in which they were sent.
    pub(crate) fn finish(mut self) -> History {
        self.history.operations.sort_by_key(|operation| operation.invoked);
        self.history
    }
}

/// What random calls are about.
pub(crate) struct Space {
    pub(crate) keys: u64,
    pub(crate) leases: u64,
}

impl Space {
    fn key(&self, rng: &mut Rng) -> Bytes {
        format!("k{:02}", rng.below(self.keys)).into()
    }

    fn end(&self, rng: &mut Rng) -> Bytes {
        match rng.below(4) {
            0 => Bytes::from_static(b"\0"),
            1 => self.key(rng),
            _ => Bytes::new(),
        }
    }

    fn revision(rng: &mut Rng, model: &Model) -> i64 {
        let newest = model.revision().get();
        (newest + 1 - rng.below(12) as i64).max(0)
    }

    fn put(&self, rng: &mut Rng) -> PutRequest {
        let builds_on = rng.one_in(8);
        PutRequest {
            key: self.key(rng),
            value: if builds_on { Bytes::new() } else { rng.below(1000).to_string().into() },
            lease: if rng.one_in(4) { rng.below(self.leases) as i64 } else { 0 },
            prev_kv: rng.one_in(2),
            ignore_value: builds_on,
            ignore_lease: rng.one_in(20),
        }
    }

    fn range(&self, rng: &mut Rng, model: &Model) -> RangeRequest {
        let bound = |rng: &mut Rng| if rng.one_in(12) { Self::revision(rng, model) } else { 0 };
        RangeRequest {
            key: self.key(rng),
            range_end: self.end(rng),
            limit: if rng.one_in(3) { rng.below(4) as i64 } else { 0 },
            revision: if rng.one_in(4) { Self::revision(rng, model) } else { 0 },
            sort_order: rng.below(3) as i32,
            sort_target: rng.below(5) as i32,
            keys_only: rng.one_in(6),
            count_only: rng.one_in(8),
            serializable: false,
            min_mod_revision: bound(rng),
            max_mod_revision: bound(rng),
            min_create_revision: bound(rng),
            max_create_revision: bound(rng),
        }
    }

    fn txn(&self, rng: &mut Rng, model: &Model) -> TxnRequest {
        let (from, end) = (self.key(rng), Bytes::from_static(b"\0"));
        let compare = Compare {
            result: rng.below(4) as i32,
            target: 0,
            key: self.key(rng),
            target_union: Some(TargetUnion::Version(rng.below(3) as i64)),
            ..Compare::default()
        };
        let all = DeleteRangeRequest { key: from, range_end: end, prev_kv: true };
        let success = vec![
            Request::RequestPut(self.put(rng)),
            Request::RequestRange(self.range(rng, model)),
            Request::RequestTxn(TxnRequest {
                success: ops(vec![Request::RequestRange(self.range(rng, model))]),
                ..TxnRequest::default()
            }),
        ];
        let failure = if rng.one_in(8) { vec![Request::RequestDeleteRange(all)] } else { vec![] };
        TxnRequest { compare: vec![compare], success: ops(success), failure: ops(failure) }
    }

    /// Any call that a client may send.
    pub(crate) fn call(&self, rng: &mut Rng, model: &Model) -> Call {
        match rng.below(32) {
            0..=9 => Call::Put(self.put(rng)),
            10..=12 => Call::DeleteRange(DeleteRangeRequest {
                key: self.key(rng),
                range_end: if rng.one_in(12) { self.end(rng) } else { Bytes::new() },
                prev_kv: rng.one_in(2),
            }),
            13..=17 => Call::Txn(self.txn(rng, model)),
            18 => compact(Self::revision(rng, model) - 4),
            19 => grant(rng.below(self.leases) as i64 + 1, 5),
            20 => revoke(rng.below(self.leases) as i64 + 1),
            21..=23 => Call::Txn(TxnRequest {
                success: ops(vec![Request::RequestRange(self.range(rng, model))]),
                ..TxnRequest::default()
            }),
            24..=26 => Call::Range(RangeRequest { serializable: true, ..self.range(rng, model) }),
            _ => Call::Range(self.range(rng, model)),
        }
    }
}

/// A correct history of `calls` calls, and its builder's states.
pub(crate) fn random(seed: u64, calls: usize, clients: usize, keys: u64) -> Builder {
    let mut rng = Rng::new(seed);
    let space = Space { keys, leases: 4 };
    let mut builder = Builder::new();
    let draw = |rng: &mut Rng, from: u64| {
        let invoked = from + rng.below(4);
        let at = invoked + rng.below(20);
        (invoked, at, at + rng.below(20))
    };
    let mut next: Vec<_> = (0..clients).map(|_| draw(&mut rng, 0)).collect();
    for _ in 0..calls {
        let client = (0..clients).min_by_key(|client| next[*client].1).expect("a client");
        let (invoked, at, returned) = next[client];
        let times = (ms(invoked), ms(at), ms(returned));
        next[client] = draw(&mut rng, returned);
        let call = space.call(&mut rng, &builder.model);
        let name = client as u32;
        let told = (times.0, times.2);
        if rng.one_in(40) {
            // A member ends a lease by itself.
            let lease = builder.model.leases().next();
            if let Some(LeaseId(id)) = lease {
                builder.commit(times.1, &revoke(id));
            }
        }
        if is_serializable(&call) {
            let behind = rng.below(3) as usize;
            let state = builder.states.len().saturating_sub(1 + behind);
            let outcome = match builder.states[state].clone().apply(&call) {
                Ok(response) => Outcome::Answered(response),
                Err(error) => Outcome::Failed(error),
            };
            builder.record(name, told, call, outcome, None);
        } else if is_read(&call) || !rng.one_in(12) {
            builder.call_at(name, times, call);
        } else if rng.one_in(2) {
            let id = builder.commit(times.1, &call);
            builder.record(name, told, call, Outcome::Unknown, Some(id));
        } else {
            let fate = if rng.one_in(2) { Outcome::Unknown } else { Outcome::Refused };
            let id = RequestId(1_000_000 + builder.history.operations.len() as u64);
            builder.record(name, told, call, fate, Some(id));
        }
    }
    builder
}

/// So long.
pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
