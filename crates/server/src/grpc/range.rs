//! Reads of keys, short and long.
//!
//! ```text
//!  short:  one slice on the lane's thread      ─► one piece
//!  longer: on the lane's pool                  ─► pieces, each row copied once
//!  long:   measured, then read while it leaves ─► `long`
//! ```
//!
//! *Invariants.* A lane's thread reads one slice of `SLICE_ROWS` and `SLICE_BYTES` at most for a
//! request; what is longer goes to the pool.

use std::sync::Arc;
use std::time::Instant;

use base::Revision;
use bytes::Bytes;
use node::requests::Rejected;
use node::requests::check::{check_range, check_range_stream};
use proto::etcdserverpb::RangeRequest;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use store::{RangeSummary, ReadError, View};

use super::long;
use super::reply::{Reply, Rows};
use super::stats::Counted;
use super::status::Status;
use super::stream::Stream;
use crate::api::Api;
use crate::trace::slow;

/// What a lane reads for one request before the pool takes over.
const SLICE_ROWS: usize = 1_000;
const SLICE_BYTES: usize = 256 * 1024;

/// How often a read of the newest revision is tried again when a compaction overtakes its view.
pub(super) const NEWER_VIEWS_MAX: usize = 8;

/// Rows of the first answer of a stream.
const STREAM_ROWS_FIRST: i64 = 10;

/// Field number of `RangeStreamResponse.range_response`.
const RANGE_RESPONSE: u32 = 1;

/// Learners answer only what they have themselves.
pub(super) fn is_for_learners(request: &RangeRequest) -> bool {
    request.serializable
}

/// Reads from the newest view; again from a newer one when a compaction overtook it.
pub(super) fn with_newest_view<T, E>(
    api: &Api,
    mut read: impl FnMut(&View) -> Result<T, E>,
) -> Result<T, Status>
where
    E: Into<Status>,
{
    let compacted: Status = Rejected::Compacted.into();
    let mut tries = 0;
    loop {
        let view = api.store.view();
        let status: Status = match read(&view) {
            Ok(answer) => return Ok(answer),
            Err(error) => error.into(),
        };
        tries += 1;
        let overtaken =
            status == compacted && api.store.view().compact_revision() > view.compact_revision();
        if !overtaken || tries > NEWER_VIEWS_MAX {
            return Err(status);
        }
    }
}

/// Answers a range. `is_plain`: the answer is not compressed.
pub(super) async fn range(
    api: &Arc<Api>,
    request: &RangeRequest,
    is_plain: bool,
) -> Result<Reply, Status> {
    check_range(request)?;
    let asked = Instant::now();
    let answer = range_checked(api, request, is_plain).await;
    let took = asked.elapsed();
    api.metrics.read_seconds.observe(answer.is_ok(), took);
    if took > api.options.live.slow_apply() {
        let told = answer.as_ref().map_err(|status| &*status.message).map(|reply| {
            let counted = Counted::of(reply).unwrap_or_default();
            (counted.rows, reply.len() - counted.identity)
        });
        slow::log_range(api, request, took, told);
    }
    answer
}

async fn range_checked(
    api: &Arc<Api>,
    request: &RangeRequest,
    is_plain: bool,
) -> Result<Reply, Status> {
    if !request.serializable {
        api.read_index().await?;
    }
    let began = Instant::now();
    let answer = read(api, request, is_plain).await;
    api.metrics.ranged(answer.is_ok(), began.elapsed());
    answer
}

async fn read(api: &Arc<Api>, request: &RangeRequest, is_plain: bool) -> Result<Reply, Status> {
    if request.range_end.is_empty() {
        return with_newest_view(api, |view| whole(api, view, request));
    }
    if in_key_order(request) {
        let slice = with_newest_view(api, |view| first_slice(api, view, request))?;
        if let Some(reply) = slice {
            return Ok(reply);
        }
        if is_plain {
            return Box::pin(long::answer(api, request.clone())).await;
        }
    }
    let (api, request) = (Arc::clone(api), request.clone());
    super::blocking(move || with_newest_view(&api, |view| whole(&api, view, &request))).await?
}

/// The whole answer.
fn whole(api: &Api, view: &View, request: &RangeRequest) -> Result<Reply, ReadError> {
    let mut rows = Rows::new();
    let RangeSummary { count, more } = view.range(request, &mut |row| rows.push(row))?;
    let header = api.member.header(view.revision());
    Ok(rows.finish(Some(&header), more, count))
}

/// Whether the answer can be read from front to back.
fn in_key_order(request: &RangeRequest) -> bool {
    let by_key = request.sort_target == SortTarget::Key as i32
        && request.sort_order != SortOrder::Descend as i32;
    let is_filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    by_key && !is_filtered && !request.count_only
}

/// The answer of a read in key order, if it is short.
fn first_slice(api: &Api, view: &View, request: &RangeRequest) -> Result<Option<Reply>, ReadError> {
    let mut rows = Rows::new();
    let chunk =
        view.range_chunk(request, None, SLICE_ROWS, SLICE_BYTES, &mut |row| rows.push(row))?;
    if chunk.resume.is_some() || chunk.more {
        return Ok(None);
    }
    let header = api.member.header(view.revision());
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    Ok(Some(rows.finish(Some(&header), false, count)))
}

/// Answers a range with a stream.
pub(super) async fn stream(stream: &mut Stream, message: Bytes) -> Result<(), Status> {
    let mut request: RangeRequest = super::wire::decode_streamed(&message)?;
    check_range_stream(&request)?;
    let api = Arc::clone(&stream.call.api);
    if !request.serializable {
        api.read_index().await?;
    }
    if request.count_only {
        let reading = Arc::clone(&api);
        let reply = super::blocking(move || {
            let began = Instant::now();
            let answer = with_newest_view(&reading, |view| {
                let RangeSummary { count, .. } = view.range(&request, &mut |_| {})?;
                let header = reading.member.header(view.revision());
                Ok::<_, ReadError>(Rows::new().finish_within(
                    RANGE_RESPONSE,
                    Some(&header),
                    false,
                    count,
                ))
            });
            reading.metrics.ranged(answer.is_ok(), began.elapsed());
            answer
        });
        return stream.reply(reply.await??).await;
    }
    let limit = if request.limit == 0 { i64::MAX } else { request.limit };
    request.limit = STREAM_ROWS_FIRST.min(limit);
    let (mut answered, mut pinned) = (0, None);
    loop {
        let reading = Arc::clone(&api);
        let chunk = super::blocking(move || chunk(&reading, request, pinned, answered, limit));
        let chunk = chunk.await??;
        let Some(next) = chunk.next else {
            return stream.reply(chunk.reply).await;
        };
        stream.reply(chunk.reply).await?;
        answered += chunk.rows;
        pinned = Some(chunk.revision);
        request = next;
        let size = chunk.bytes;
        request.limit = adjusted(request.limit, size, api.options.request_bytes_max);
        // A negative limit is none in etcd, and one answer holds everything then.
        request.limit = request.limit.min(limit - answered);
    }
}

/// One answer of a stream.
struct Chunk {
    reply: Reply,
    rows: i64,
    bytes: usize,
    /// The revision of the state when the stream began.
    revision: Revision,
    /// What to ask next; nothing at the end.
    next: Option<RangeRequest>,
}

fn chunk(
    api: &Api,
    request: RangeRequest,
    pinned: Option<Revision>,
    answered: i64,
    limit: i64,
) -> Result<Chunk, Status> {
    let mut rows = Rows::new();
    let mut last = Bytes::new();
    let began = Instant::now();
    let read = with_newest_view(api, |view| {
        rows.clear();
        let mut last_row = Vec::new();
        let summary = view.range(&request, &mut |row| {
            rows.push(row);
            last_row.clear();
            last_row.extend_from_slice(row);
        })?;
        last = last_row.into();
        Ok::<_, ReadError>((summary, view.revision()))
    });
    api.metrics.ranged(read.is_ok(), began.elapsed());
    let (summary, view_revision) = read?;
    let revision = pinned.unwrap_or(view_revision);
    let (count, bytes) = (i64::try_from(rows.len()).unwrap_or(i64::MAX), rows.bytes());
    if summary.more && answered + count != limit {
        let mut next = request;
        let key = super::wire::decode::<proto::mvccpb::KeyValue>(&last)?.key;
        next.key = [&key[..], &[0]].concat().into();
        if next.revision == 0 {
            next.revision = revision.get();
        }
        let reply = rows.finish_within(RANGE_RESPONSE, None, false, 0);
        return Ok(Chunk { reply, rows: count, bytes, revision, next: Some(next) });
    }
    // Of the last answer, `count` says how many keys there are from its first one on.
    let total = answered + summary.count;
    let header = api.member.header(revision);
    let reply = rows.finish_within(RANGE_RESPONSE, Some(&header), summary.more, total);
    Ok(Chunk { reply, rows: count, bytes, revision, next: None })
}

/// Twice as many rows after a small answer, half as many after a large one.
fn adjusted(limit: i64, bytes: usize, request_bytes_max: usize) -> i64 {
    if bytes < request_bytes_max / 2 {
        limit.saturating_mul(2)
    } else if bytes > 2 * request_bytes_max {
        (limit / 2).max(1)
    } else {
        limit
    }
}
