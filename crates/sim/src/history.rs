//! What happened: as clients saw it, and as an onlooker who sees the logs of all members did.
//!
//! *Invariants.* 1. Clients' parts hold nothing that a real client could not know, but for the
//! request's id, by which the onlooker finds it in the log. 2. Moments are those of the
//! simulation's own clock, not of a member's.
//!
//! *Absent.* Any judgement: see `checkers`.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{LeaseId, LogIndex, MemberId, Moment, RequestId, Revision};
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, TxnRequest, WatchCreateRequest, WatchResponse,
};
use proto::raftpb::Entry;
use store::{ApplyError, Response};

/// Names a client of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

/// What a client asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// A range, linearizable or (by its own field) serializable.
    Range(RangeRequest),
    /// A put.
    Put(PutRequest),
    /// A delete.
    DeleteRange(DeleteRangeRequest),
    /// A transaction; one that only reads does not go through the log.
    Txn(TxnRequest),
    /// A compaction.
    Compact(CompactionRequest),
    /// A lease.
    LeaseGrant(LeaseGrantRequest),
    /// The end of a lease.
    LeaseRevoke(LeaseRevokeRequest),
}

/// What a client knows of the fate of its call.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was answered. Of headers, only the revision is filled in.
    Answered(Response),
    /// The state refused it: it had its place in the order, and no effect.
    Failed(ApplyError),
    /// It was told that the call has no effect, now and in the future.
    Refused,
    /// It was told nothing, or gave up: the call may have an effect, even later.
    Unknown,
}

/// One call of one client. A client has one call under way at a time.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Whose.
    pub client: ClientId,
    /// Who was asked.
    pub member: MemberId,
    /// When it was sent.
    pub invoked: Moment,
    /// When the client knew its outcome, or gave up.
    pub returned: Moment,
    /// What was asked.
    pub call: Call,
    /// What came of it.
    pub outcome: Outcome,
    /// By which id it stands in the log, if it does. `None` for what does not go through the log.
    pub request: Option<RequestId>,
}

/// One watcher on a stream of its own, from its creation until its stream or its member ended.
/// Whoever resumes opens another stream.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Whose.
    pub client: ClientId,
    /// Who was asked.
    pub member: MemberId,
    /// What was asked.
    pub create: WatchCreateRequest,
    /// Whether it goes on after the stream before it of the same client: then its start is that
    /// one's last revision and one more, and the two must fit without a gap.
    pub resumes: bool,
    /// What came, and when; fragments as they came.
    pub responses: Vec<(Moment, WatchResponse)>,
    /// Up to which revision everything must have come: the stream was alive at the end of a run,
    /// after a time in which nothing failed.
    pub complete_to: Option<Revision>,
}

/// One answered keepalive.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// Whose.
    pub client: ClientId,
    /// Whose lessor answered.
    pub answered_by: MemberId,
    /// Which lease.
    pub lease: LeaseId,
    /// When it was sent.
    pub invoked: Moment,
    /// When the answer was there.
    pub returned: Moment,
    /// Seconds; 0 when there is no such lease.
    pub ttl: i64,
    /// The feature gate `FastLeaseKeepAlive` is on: the answering member need not have applied
    /// everything that is committed.
    pub is_fast: bool,
}

/// What the onlooker knows.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// Every entry that any member has applied: all apply the same.
    pub entries: BTreeMap<LogIndex, Entry>,
    /// The outcome of every request that was applied: the same on all members.
    pub outcomes: BTreeMap<RequestId, Result<Response, ApplyError>>,
    /// When which member had applied an entry.
    pub applied: BTreeMap<(LogIndex, MemberId), Moment>,
}

/// How wrong the members' clocks may be.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClockBounds {
    /// Parts in a million by which a second of a member may be shorter or longer.
    pub drift_ppm: u64,
    /// The sum of all jumps ahead, of all members.
    pub jumps: Duration,
}

/// Everything that is known of a run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Calls, in the order in which they were sent.
    pub operations: Vec<Operation>,
    /// Watchers, in the order of their creation; those of one client one after another.
    pub streams: Vec<Stream>,
    /// Keepalives, in the order of their answers.
    pub keep_alives: Vec<KeepAlive>,
    /// The onlooker's part.
    pub log: Log,
    /// How wrong clocks may be.
    pub clocks: ClockBounds,
}
