//! The lines of slow requests, with where their time went.
//!
//! *Contract.* The messages and fields of `server/etcdserver/txn/util.go` and
//! `api/v3rpc/interceptor.go` of etcd v3.7.1; `queue`, `sync`, `quorum`, `apply` and `send` are
//! ours.

use std::time::{Duration, Instant, SystemTime};

use base::Moment;
use prost::Message;
use proto::Shaped;
use proto::etcdserverpb::{
    DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, TxnRequest, TxnResponse,
};
use proto::raftpb::Entry;
use store::{Applied, Response};

use super::course::Course;
use super::told;
use crate::api::Api;
use crate::log::{self, Level, Line};

/// The message of both kinds of applying: from the log, and by reading alone.
const APPLY: &str = "apply request took too long";

/// Fields of [`APPLY`].
fn apply(took: Duration, expected: Duration, prefix: &str, request: &str, response: &str) -> Line {
    log::warn(APPLY)
        .duration("took", took)
        .duration("expected-duration", expected)
        .field("prefix", prefix)
        .field("request", request)
        .field("response", response)
}

/// An entry of the log took long to apply.
pub(crate) fn log_apply(applied: &Applied, entry: &Entry, took: Duration, expected: Duration) {
    let size = |message: &dyn Fn() -> usize| format!("size:{}", message());
    let response = match &applied.result {
        Ok(Response::Put(response)) => size(&|| response.encoded_len()),
        Ok(Response::Range(response)) => size(&|| response.encoded_len()),
        Ok(Response::DeleteRange(response)) => size(&|| response.encoded_len()),
        Ok(Response::Txn(response)) => size(&|| response.encoded_len()),
        Ok(Response::Compaction(response)) => size(&|| response.encoded_len()),
        Ok(Response::LeaseGrant(response)) => size(&|| response.encoded_len()),
        Ok(Response::LeaseRevoke(response)) => size(&|| response.encoded_len()),
        Ok(Response::Alarm(response)) => size(&|| response.encoded_len()),
        Ok(Response::LeaseCheckpoint | Response::Empty) | Err(_) => String::new(),
    };
    // A change of the members is told by its index alone.
    let data = entry.data.clone().unwrap_or_default();
    let request = InternalRaftRequest::decode(data)
        .map_or_else(|_| format!("index:{}", applied.index.get()), |request| told::entry(&request));
    let line = apply(took, expected, "", &request, &response);
    match &applied.result {
        Ok(_) => line.emit(),
        Err(error) => line.text("error", error).emit(),
    }
}

/// A range took long, with all that it waited for.
pub(crate) fn log_range(
    api: &Api,
    request: &RangeRequest,
    took: Duration,
    answer: Result<(i64, usize), &str>,
) {
    let response = answer.map_or_else(
        |_| String::new(),
        |(rows, size)| format!("range_response_count:{rows} size:{size}"),
    );
    let expected = api.options.live.slow_apply();
    let line = apply(took, expected, "read-only range ", &told::range(request), &response);
    api.metrics.slow_applies.increment();
    match answer {
        Ok(_) => line.emit(),
        Err(error) => line.field("error", bare(error)).emit(),
    }
}

/// What the store says, without what is put before it on the way to a client.
fn bare(error: &str) -> &str {
    let bare = error.strip_prefix("etcdserver: ").filter(|bare| bare.starts_with("mvcc:"));
    bare.unwrap_or(error)
}

/// A transaction that only reads took long, with all that it waited for.
pub(crate) fn log_read_txn(
    api: &Api,
    request: &TxnRequest,
    took: Duration,
    answer: Result<&TxnResponse, &str>,
) {
    use proto::etcdserverpb::response_op::Response::ResponseRange;
    let response = answer.map_or_else(
        |_| String::new(),
        |answer| {
            let count = |part: &proto::etcdserverpb::ResponseOp| match &part.response {
                Some(ResponseRange(range)) => format!("range_response_count:{}", range.kvs.len()),
                _ => "range_response:nil".to_owned(),
            };
            let parts: Vec<_> = answer.responses.iter().map(count).collect();
            format!("responses:<{}> size:{}", parts.join(" "), answer.encoded_len())
        },
    );
    let expected = api.options.live.slow_apply();
    let line = apply(took, expected, "read-only txn ", &told::txn(request), &response);
    api.metrics.slow_applies.increment();
    match answer {
        Ok(_) => line.emit(),
        Err(error) => line.field("error", bare(error)).emit(),
    }
}

/// Whether a request that took so long is told.
pub(crate) fn is_due(api: &Api, took: Duration) -> bool {
    took > api.options.live.slow_request() || log::is_enabled(Level::Debug)
}

/// What a request was, and what came of it; -1 where etcd does not count.
struct Counts {
    request: (i64, i64),
    response: (i64, i64),
    content: String,
}

/// A unary request as it is told.
pub(crate) struct Request<'a> {
    pub(crate) path: &'static str,
    pub(crate) remote: &'a dyn std::fmt::Display,
    /// Nothing when it is not there any more: then nothing is told of what it was.
    pub(crate) message: Option<&'a bytes::Bytes>,
    /// What was counted in the answer (keys found, or deleted), and its bytes.
    pub(crate) answer: Option<(i64, usize)>,
    /// For a transaction: whether it took the branch of success.
    pub(crate) succeeded: bool,
    pub(crate) took: Duration,
    pub(crate) course: Course,
}

impl Request<'_> {
    /// Tells of it, at level debug when that is enabled, as etcd does.
    pub(crate) fn log(&self, api: &Api) {
        let counts = self.counts().unwrap_or_else(|| Counts {
            request: (-1, -1),
            response: (-1, -1),
            content: String::new(),
        });
        let level = if log::is_enabled(Level::Debug) { Level::Debug } else { Level::Warn };
        let line = log::line(level, "request stats")
            .time("start time", SystemTime::now() - self.took)
            .duration("time spent", self.took)
            .text("remote", self.remote)
            .field("response type", self.path)
            .field("request count", &counts.request.0)
            .field("request size", &counts.request.1)
            .field("response count", &counts.response.0)
            .field("response size", &counts.response.1)
            .field("request content", &counts.content);
        self.steps(api, line).emit();
    }

    /// Adds where the time went.
    fn steps(&self, api: &Api, line: Line) -> Line {
        let add = |line: Line, (name, took): (&str, Option<Duration>)| match took {
            Some(took) => line.duration(name, took),
            None => line,
        };
        let Course { proposal, confirmed } = self.course;
        let Some(proposal) = proposal else {
            let read = confirmed.map(|confirmed| self.took.saturating_sub(confirmed));
            return [("quorum", confirmed), ("read", read)].into_iter().fold(line, add);
        };
        let now = api.now();
        let offered = now - Moment::default();
        let offered = offered.saturating_sub(Instant::now() - proposal.offered);
        let offered = Moment::default() + offered;
        let spent = api.member.spent(offered, proposal.steps, now);
        let steps = [
            ("queue", spent.queue),
            ("sync", spent.sync),
            ("quorum", spent.quorum),
            ("apply", spent.apply),
            ("send", spent.send),
        ];
        steps.into_iter().fold(line, add)
    }

    fn counts(&self) -> Option<Counts> {
        fn decoded<M: Shaped>(message: &bytes::Bytes) -> Option<M> {
            proto::decode(message.clone()).ok()
        }
        let long = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
        let message = self.message?;
        let size = long(message.len());
        let (counted, bytes) = self.answer.unwrap_or_default();
        let bytes = long(bytes);
        Some(match self.path {
            "/etcdserverpb.KV/Range" => {
                let request: RangeRequest = decoded(message)?;
                let content = told::range(&request);
                Counts { request: (0, size), response: (counted, bytes), content }
            }
            "/etcdserverpb.KV/Put" => {
                let request: PutRequest = decoded(message)?;
                let content = told::put(&request);
                Counts { request: (1, size), response: (0, bytes), content }
            }
            "/etcdserverpb.KV/DeleteRange" => {
                let request: DeleteRangeRequest = decoded(message)?;
                let content = told::delete_range(&request);
                Counts { request: (0, size), response: (counted, bytes), content }
            }
            "/etcdserverpb.KV/Txn" => {
                let request: TxnRequest = decoded(message)?;
                let content = told::txn(&request);
                if self.answer.is_none() {
                    return Some(Counts { request: (0, 0), response: (0, 0), content });
                }
                let taken = if self.succeeded { &request.success } else { &request.failure };
                let size = taken.iter().map(Message::encoded_len).sum();
                let request = (long(taken.len()), long(size));
                Counts { request, response: (0, bytes), content }
            }
            _ => return None,
        })
    }
}
