//! The spans of one call: the call itself, and inside it what the member was asked.
//!
//! *Contract.* Names, attributes and events as etcd v3.7.1 exports them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use proto::Shaped;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest,
};
use proto::otlp::any_value::Value;
use proto::otlp::span::{Event, SpanKind};
use proto::otlp::status::StatusCode;
use proto::otlp::{KeyValue, Span, Status};

use super::context::Caller;
use super::course::Course;
use super::export::{Scope, attribute};
use super::{TRACER, Tracer};

/// Bits of a span's flags: sampled; it is known whether the parent is another process; it is.
const SAMPLED: u32 = 1;
const HAS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

const CANCELED: usize = 1;
const OUT_OF_RANGE: usize = 11;

/// Bytes that a text of a span may have: spans wait in a queue, and keys may be large.
const ATTRIBUTE_MAX: usize = 1024;

/// The names of gRPC's codes, by their numbers.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Codes that make a span one of an error: the server's fault, and not the client's.
const FAULTS: [usize; 6] = [2, 4, 12, 13, 14, 15];

/// A call that is followed. When it is dropped unfinished, its client is gone.
pub(crate) struct Followed {
    tracer: &'static Tracer,
    trace: [u8; 16],
    span: [u8; 8],
    /// Empty when the trace begins here.
    parent: Vec<u8>,
    state: String,
    path: &'static str,
    authority: String,
    begun: Instant,
    is_finished: bool,
}

/// Begins to follow a call, if it is to be followed.
pub(crate) fn begin(
    headers: &HeaderMap,
    authority: &str,
    path: &'static str,
) -> Option<Box<Followed>> {
    let tracer = TRACER.get()?;
    let caller = Caller::of(headers);
    let is_sampled = caller.as_ref().map(|caller| caller.is_sampled);
    if is_sampled == Some(false) {
        return None;
    }
    let trace = caller.as_ref().map_or_else(|| tracer.trace_id(), |caller| caller.trace);
    if is_sampled.is_none() && !tracer.is_sampled(trace) {
        return None;
    }
    let (parent, state) =
        caller.map_or_else(Default::default, |caller| (caller.span.to_vec(), caller.state));
    Some(Box::new(Followed {
        tracer,
        trace,
        span: tracer.span_id(),
        parent,
        state,
        path,
        authority: cut(authority.as_bytes()),
        begun: Instant::now(),
        is_finished: false,
    }))
}

/// How a call ended.
pub(crate) struct Ended<'a> {
    pub(crate) message: &'a Bytes,
    pub(crate) course: Course,
    pub(crate) code: usize,
    pub(crate) reason: &'a str,
}

impl Followed {
    /// The call has ended: its spans are sent.
    pub(crate) fn finish(mut self, ended: &Ended<'_>) {
        let Ended { message, course, code, reason } = ended;
        // What is refused before the member is asked has no span of its own inside.
        let is_asked = *code == 0
            || *code == OUT_OF_RANGE
            || course.proposal.is_some()
            || course.confirmed.is_some();
        if is_asked && let Some((name, attributes)) = inside(self.path, message) {
            let events = course.proposal.iter().flat_map(|proposal| {
                [
                    ("Send raft proposal", proposal.offered),
                    ("Receive raft result", proposal.answered),
                ]
            });
            let events =
                events.map(|(name, at)| Event { time_unix_nano: nanos(at), name: name.into() });
            let inner = Span {
                span_id: self.tracer.span_id().to_vec().into(),
                parent_span_id: self.span.to_vec().into(),
                flags: SAMPLED | HAS_REMOTE,
                name: name.to_owned(),
                kind: SpanKind::Internal as i32,
                attributes,
                events: events.collect(),
                ..self.bare()
            };
            self.tracer.exporter.send(Scope::Member, inner);
        }
        self.end(*code, reason);
    }

    fn end(&mut self, code: usize, reason: &str) {
        self.is_finished = true;
        let method = self.path.trim_start_matches('/');
        let text = |text: &str| Value::StringValue(cut(text.as_bytes()));
        let mut attributes =
            vec![attribute("rpc.method", text(method)), attribute("rpc.system.name", text("grpc"))];
        match self.authority.rsplit_once(':') {
            Some((host, port)) => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                attributes.push(attribute("server.address", text(host)));
                if let Ok(port) = port.parse() {
                    attributes.push(attribute("server.port", Value::IntValue(port)));
                }
            }
            None => attributes.push(attribute("server.address", text(&self.authority))),
        }
        let name = CODES.get(code).copied().unwrap_or("UNKNOWN");
        attributes.push(attribute("rpc.response.status_code", text(name)));
        let status = if FAULTS.contains(&code) {
            Status { code: StatusCode::Error as i32, message: cut(reason.as_bytes()) }
        } else {
            Status::default()
        };
        let span = Span {
            span_id: self.span.to_vec().into(),
            parent_span_id: self.parent.clone().into(),
            // So it is in etcd, also where there is no parent.
            flags: SAMPLED | HAS_REMOTE | IS_REMOTE,
            name: method.to_owned(),
            kind: SpanKind::Server as i32,
            attributes,
            status: Some(status),
            ..self.bare()
        };
        self.tracer.exporter.send(Scope::Call, span);
    }

    /// What both spans have.
    fn bare(&self) -> Span {
        Span {
            trace_id: self.trace.to_vec().into(),
            trace_state: self.state.clone(),
            start_time_unix_nano: nanos(self.begun),
            end_time_unix_nano: nanos(Instant::now()),
            status: Some(Status::default()),
            ..Span::default()
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if !self.is_finished {
            self.end(CANCELED, "");
        }
    }
}

/// That moment on the wall clock.
fn nanos(at: Instant) -> u64 {
    let ago: Duration = at.elapsed();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.saturating_sub(ago).as_nanos()).unwrap_or(u64::MAX)
}

/// The beginning of a text, as much of it as a span may have.
fn cut(bytes: &[u8]) -> String {
    let mut end = bytes.len().min(ATTRIBUTE_MAX);
    // Not within a character, if it is one.
    while end < bytes.len() && end + 3 > ATTRIBUTE_MAX && bytes[end] & 0xC0 == 0x80 {
        end -= 1;
    }
    let mut text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    text.truncate(text.floor_char_boundary(ATTRIBUTE_MAX));
    text
}

fn text(name: &str, bytes: &[u8]) -> KeyValue {
    attribute(name, Value::StringValue(cut(bytes)))
}

/// The span inside the call: its name and its attributes.
fn inside(path: &str, message: &Bytes) -> Option<(&'static str, Vec<KeyValue>)> {
    fn read<M: Shaped>(message: &Bytes) -> Option<M> {
        proto::decode(message.clone()).ok()
    }
    let number = |name: &str, number: i64| attribute(name, Value::IntValue(number));
    let flag = |name: &str, flag: bool| attribute(name, Value::BoolValue(flag));
    Some(match path {
        "/etcdserverpb.KV/Range" | "/etcdserverpb.KV/RangeStream" => {
            let request: RangeRequest = read(message)?;
            let mut attributes = vec![
                text("range_begin", &request.key),
                text("range_end", &request.range_end),
                number("rev", request.revision),
                number("limit", request.limit),
                flag("count_only", request.count_only),
            ];
            if path.ends_with("Stream") {
                return Some(("range_streaming", attributes));
            }
            attributes.push(flag("keys_only", request.keys_only));
            ("range", attributes)
        }
        "/etcdserverpb.KV/Put" => {
            let request: PutRequest = read(message)?;
            ("put", vec![text("key", &request.key)])
        }
        "/etcdserverpb.KV/DeleteRange" => {
            let request: DeleteRangeRequest = read(message)?;
            let attributes =
                vec![text("range_begin", &request.key), text("range_end", &request.range_end)];
            ("delete_range", attributes)
        }
        "/etcdserverpb.KV/Txn" => ("txn", txn(&read(message)?)),
        "/etcdserverpb.KV/Compact" => {
            let request: CompactionRequest = read(message)?;
            let attributes =
                vec![flag("is_physical", request.physical), number("rev", request.revision)];
            ("compact", attributes)
        }
        "/etcdserverpb.Lease/LeaseGrant" => {
            let request: LeaseGrantRequest = read(message)?;
            ("lease_grant", vec![number("id", request.id), number("ttl", request.ttl)])
        }
        "/etcdserverpb.Lease/LeaseRevoke" => {
            let request: LeaseRevokeRequest = read(message)?;
            ("lease_revoke", vec![number("id", request.id)])
        }
        _ => return None,
    })
}

fn txn(request: &TxnRequest) -> Vec<KeyValue> {
    let number = |name: &str, number: i64| attribute(name, Value::IntValue(number));
    let count = |name: &str, count: usize| number(name, i64::try_from(count).unwrap_or(i64::MAX));
    let compared = request.compare.iter().map(|compare| &compare.key).find(|key| !key.is_empty());
    let key = |operation: &'_ RequestOp| match &operation.request {
        Some(Request::RequestPut(put)) => put.key.clone(),
        Some(Request::RequestRange(range)) => range.key.clone(),
        Some(Request::RequestDeleteRange(delete)) => delete.key.clone(),
        _ => Bytes::new(),
    };
    let first_key = request.success.iter().map(key).find(|key| !key.is_empty());
    let kind = |operation: &RequestOp| {
        Some(match operation.request.as_ref()? {
            Request::RequestPut(_) => "put",
            Request::RequestRange(_) => "range",
            Request::RequestDeleteRange(_) => "delete_range",
            Request::RequestTxn(_) => "txn",
        })
    };
    let first_kind = request.success.iter().find_map(kind);
    let lease = |operation: &RequestOp| match &operation.request {
        Some(Request::RequestPut(put)) => Some(put.lease),
        _ => None,
    };
    vec![
        text("compare_first_key", compared.map_or(&[], |key| &key[..])),
        text("success_first_key", &first_key.unwrap_or_default()),
        text("success_first_type", first_kind.unwrap_or_default().as_bytes()),
        number("success_first_lease", request.success.iter().find_map(lease).unwrap_or(-1)),
        count("compare_len", request.compare.len()),
        count("success_len", request.success.len()),
        count("failure_len", request.failure.len()),
        flag_read_only(request),
    ]
}

fn flag_read_only(request: &TxnRequest) -> KeyValue {
    attribute("read_only", Value::BoolValue(node::requests::check::is_read_only(request)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_span_is_large() {
        assert_eq!(cut(b"key"), "key");
        assert_eq!(cut(&[b'a'; ATTRIBUTE_MAX]).len(), ATTRIBUTE_MAX);
        assert_eq!(cut(&[b'a'; 5_000]).len(), ATTRIBUTE_MAX);
        // Bytes that are no text, which get longer by being shown.
        let told = cut(&[0xff; 5_000]);
        assert!(told.len() <= ATTRIBUTE_MAX && told.len() + 3 > ATTRIBUTE_MAX);
        let told = cut("a\u{20ac}".repeat(1_000).as_bytes());
        assert!(told.len() <= ATTRIBUTE_MAX && !told.contains('\u{fffd}'), "{told}");

        let request = PutRequest { key: vec![b'k'; 1 << 20].into(), ..PutRequest::default() };
        let message = prost::Message::encode_to_vec(&request).into();
        let (_, attributes) = inside("/etcdserverpb.KV/Put", &message).unwrap();
        let size = |attribute: &KeyValue| format!("{attribute:?}").len();
        assert!(attributes.iter().map(size).sum::<usize>() < 2 * ATTRIBUTE_MAX);
    }
}
