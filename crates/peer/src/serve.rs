//! Answers other members on the peer port: `/raft` and all below.
//!
//! *Contract.* `http.go` in `server/etcdserver/api/rafthttp` of etcd v3.7.1. One answer differs: a
//! message for another member gets 412 and not 403, because a real member that is told 403 takes
//! itself for removed and ends.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::SystemTime;

use base::MemberId;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use prost::Message as _;
use proto::raftpb::Message;
use tokio::time::Instant;

use crate::codec::{MessageDecoder, decode};
use crate::core::{Core, Place, Unfit, kind_name};
use crate::event::{Event, humane};
use crate::handler::ReceiveError;
use crate::limits;
use crate::local::{
    CLUSTER_ID, PEER_URLS, RAFT_TO, SERVER_FROM, SERVER_VERSION, parse_id, text, value,
};
use crate::probing;
use crate::snapshot::{SnapshotBody, next_data};
use crate::status::{Inflight, Status, count};
use crate::transport::Transport;
use crate::writer::{StreamBody, StreamKind};

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// What goes back to another member.
#[derive(Debug)]
pub struct Body(Content);

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    Stream(Box<StreamBody>),
}

impl Body {
    fn of(bytes: impl Into<Bytes>) -> Self {
        Self(Content::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty())))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Stream(stream) => stream.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer that is an error: its text and a newline, in the shape of Go's `net/http`.
fn error(status: StatusCode, what: &str) -> Response<Body> {
    let mut response = Response::new(Body::of(format!("{what}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, PLAIN);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

fn method_not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::of(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn told(status: StatusCode, what: &str) -> Response<Body> {
    let mut response = Response::new(Body::of(format!("{{\"message\":\"{what}\"}}")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// What is said of a message that is not for raft here.
fn unfit(unfit: Unfit) -> Response<Body> {
    match unfit {
        Unfit::Removed => told(StatusCode::FORBIDDEN, "cannot process message from removed member"),
        Unfit::Mismatch => {
            let what = "cannot process message to mismatch member";
            told(StatusCode::PRECONDITION_FAILED, what)
        }
        // As when raft has looked at it and passed over it.
        Unfit::Kind => no_content(),
    }
}

impl Transport {
    /// Whether a path of the peer port is this crate's: `/raft` and all below.
    pub fn serves(path: &str) -> bool {
        path == "/raft" || path.starts_with("/raft/")
    }

    /// Answers a request on the peer port for which [`Self::serves`]. The connection must be in a
    /// [`crate::WriteDeadline`], and speak HTTP/1.1.
    pub async fn serve(&self, request: Request<Incoming>) -> Response<Body> {
        let (allowed, headers): (_, &[HeaderName]) = match request.uri().path() {
            "/raft/probing" => {
                let text = probing::answer(SystemTime::now());
                let mut response = Response::new(Body::of(text));
                response.headers_mut().insert(header::CONTENT_TYPE, PLAIN);
                return response;
            }
            "/raft" | "/raft/snapshot" => (Method::POST, &[CLUSTER_ID]),
            path if path.starts_with("/raft/stream/") => {
                (Method::GET, &[CLUSTER_ID, SERVER_VERSION])
            }
            _ => return error(StatusCode::NOT_FOUND, "404 page not found"),
        };
        if request.method() != allowed {
            return method_not_allowed(if allowed == Method::GET { "GET" } else { "POST" });
        }
        let local = &self.0.core.local;
        let mut response = match local.check(request.headers()) {
            Ok(()) => self.serve_member(request).await,
            Err(refusal) => {
                let (what, event) = *refusal;
                let from = text(request.headers(), &SERVER_FROM).and_then(parse_id);
                self.0.core.event_rarely(MemberId(from.unwrap_or_default()), event);
                error(StatusCode::PRECONDITION_FAILED, what)
            }
        };
        for name in headers {
            let text = if *name == CLUSTER_ID {
                local.cluster.to_string()
            } else {
                local.version.to_string()
            };
            response.headers_mut().insert(name, value(&text));
        }
        response
    }

    /// Answers a request of a member of this cluster.
    async fn serve_member(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        match head.uri.path() {
            "/raft" => {
                self.learn(&head.headers);
                self.message(body).await
            }
            "/raft/snapshot" => {
                self.learn(&head.headers);
                self.snapshot(body).await
            }
            path => self.stream(path, &head.headers),
        }
    }

    /// Learns where the sender of a request can be answered.
    fn learn(&self, headers: &HeaderMap) {
        if let Some(from) = text(headers, &SERVER_FROM).and_then(parse_id) {
            self.learn_of(MemberId(from), headers);
        }
    }

    fn learn_of(&self, from: MemberId, headers: &HeaderMap) {
        let urls = text(headers, &PEER_URLS).filter(|urls| !urls.is_empty());
        let is_unknown = || self.peer(from).is_none() && !self.0.core.handler.is_removed(from);
        if let Some(urls) = urls
            && is_unknown()
        {
            let urls: Vec<_> = urls.split(',').take(limits::URLS_MAX).map(str::to_owned).collect();
            self.add_remote(from, &urls);
        }
    }

    fn is_cut(&self, message: &Message) -> bool {
        self.peer(MemberId(message.from())).is_some_and(|peer| peer.is_cut())
    }

    /// `POST /raft`.
    async fn message(&self, body: Incoming) -> Response<Body> {
        let core = &self.0.core;
        let failed = |what: &'static str, why: String, answer| {
            let event = Event::warn(what).text("local-member-id", core.local.id).text("error", why);
            core.event_rarely(MemberId::NONE, event);
            error(StatusCode::BAD_REQUEST, answer)
        };
        let bytes = match read_post(body, &self.0.posts_bytes).await {
            Ok(bytes) => bytes,
            Err(why) => {
                return failed("failed to read Raft message", why, "error reading raft message");
            }
        };
        let length = bytes.len() as u64;
        let message = match decode(bytes) {
            Ok(message) => message,
            Err(error) => {
                let what = "failed to unmarshal Raft message";
                return failed(what, error.to_string(), "error unmarshalling raft message");
            }
        };
        if let Some(peer) = self.peer(MemberId(message.from())) {
            count(&peer.status.counters.received_bytes, length);
        }
        match core.admit(&message, false) {
            Err(why) => unfit(why),
            Ok(()) => {
                if !self.is_cut(&message) {
                    core.handler.message(message);
                }
                no_content()
            }
        }
    }

    /// `POST /raft/snapshot`.
    async fn snapshot(&self, mut body: Incoming) -> Response<Body> {
        let core = &self.0.core;
        let (message, rest) = match read_snapshot_message(&mut body).await {
            Ok(read) => read,
            Err(why) => {
                let event = Event::warn("failed to decode Raft message")
                    .text("local-member-id", core.local.id)
                    .text("error", &why);
                core.event_rarely(MemberId::NONE, event);
                let what = format!("failed to decode raft message ({why})");
                return error(StatusCode::BAD_REQUEST, &what);
            }
        };
        let from = MemberId(message.from());
        let has_metadata =
            message.snapshot.as_ref().is_some_and(|snapshot| snapshot.metadata.is_some());
        match core.admit(&message, true) {
            Ok(()) if has_metadata => {}
            Ok(()) | Err(Unfit::Kind) => {
                let event = Event::warn("unexpected Raft message type")
                    .text("local-member-id", core.local.id)
                    .text("remote-snapshot-sender-id", from)
                    .text("message-type", kind_name(&message));
                core.event_rarely(from, event);
                return error(StatusCode::BAD_REQUEST, "wrong raft message type");
            }
            Err(why) => return unfit(why),
        }
        let place = Place::take(&self.0.receiving, limits::SNAPSHOTS_RECEIVING_MAX);
        let Some(place) = place.filter(|_| !self.is_cut(&message)) else {
            let what = "failed to save KV snapshot (too many snapshots are coming in)";
            return error(StatusCode::INTERNAL_SERVER_ERROR, what);
        };
        // A connection that breaks drops this answer, but not what the handler does: it sees the
        // break as the end of the body, and can clean up.
        let receiving = receive(Arc::clone(core), message, SnapshotBody::new(rest, body));
        let status = self.peer(from).map(|peer| Arc::clone(&peer.status));
        let received = tokio::spawn(async move {
            let _place = place;
            match status {
                Some(status) => measure(&status, receiving).await,
                // A member that is not known yet is not shown.
                None => receiving.await,
            }
        });
        match received.await {
            Ok(Ok(_)) => no_content(),
            Ok(Err(why)) => error(StatusCode::INTERNAL_SERVER_ERROR, &why.to_string()),
            Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "failed to save KV snapshot ()"),
        }
    }

    /// `GET /raft/stream/KIND/ID`.
    fn stream(&self, path: &str, headers: &HeaderMap) -> Response<Body> {
        let core = &self.0.core;
        let local = core.local.id;
        let describe = |what| {
            Event::warn(what)
                .text("local-member-id", local)
                .text("remote-peer-id-stream-handler", local)
        };
        let parts = path.strip_prefix("/raft/stream/").and_then(|rest| rest.rsplit_once('/'));
        let Some((kind, from)) =
            parts.and_then(|(kind, from)| Some((StreamKind::of_path(kind)?, from)))
        else {
            return error(StatusCode::NOT_FOUND, "invalid path");
        };
        let Some(from) = parse_id(from).map(MemberId) else {
            let event = describe("failed to parse path into ID").text("path", from);
            core.event_rarely(MemberId::NONE, event);
            return error(StatusCode::NOT_FOUND, "invalid from");
        };
        let describe = |what| describe(what).text("remote-peer-id-from", from);
        if core.handler.is_removed(from) {
            let what = "rejected stream from remote peer because it was removed";
            core.event_rarely(from, describe(what));
            return error(StatusCode::GONE, "removed member");
        }
        let Some(peer) = self.peer(from) else {
            // It may have joined after what this member has applied.
            self.learn_of(from, headers);
            let event = describe("failed to find remote peer in cluster")
                .text("cluster-id", core.local.cluster);
            core.event_rarely(from, event);
            return error(StatusCode::NOT_FOUND, "error sender not found");
        };
        let to = text(headers, &RAFT_TO).unwrap_or_default();
        if to != local.to_string() {
            let event = describe("ignored streaming request; ID mismatch")
                .text("remote-peer-id-header", to)
                .text("cluster-id", core.local.cluster);
            core.event_rarely(from, event);
            return error(StatusCode::PRECONDITION_FAILED, "to field mismatch");
        }
        Response::new(Body(Content::Stream(Box::new(peer.attach(kind)))))
    }
}

/// Bytes that count against what all posts may hold.
struct Held<'a> {
    all: &'a AtomicU64,
    bytes: u64,
}

impl Held<'_> {
    fn more(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        self.all.fetch_add(bytes, Ordering::AcqRel) + bytes <= limits::POSTS_BYTES_MAX
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The whole body of a posted message.
async fn read_post(mut body: Incoming, all: &AtomicU64) -> Result<Bytes, String> {
    let mut held = Held { all, bytes: 0 };
    let mut bytes = Vec::new();
    while let Some(data) = next_data(&mut body).await {
        let data = data.map_err(|error| error.to_string())?;
        if !held.more(data.len() as u64) {
            return Err("too many bytes of messages are being read".to_owned());
        }
        bytes.extend_from_slice(&data);
    }
    bytes.shrink_to_fit();
    Ok(bytes.into())
}

/// Counts a snapshot that comes in.
async fn measure(
    status: &Status,
    receiving: impl Future<Output = Result<u64, ReceiveError>>,
) -> Result<u64, ReceiveError> {
    let counters = &status.counters;
    let (begun, _receiving) = (Instant::now(), Inflight::begin(&counters.snapshots_receiving));
    let received = receiving.await;
    match &received {
        Ok(size) => {
            count(&counters.received_bytes, *size);
            counters.snapshot_receipts.lock().observe(begun.elapsed());
        }
        Err(_) => count(&counters.snapshot_receive_failures, 1),
    }
    received
}

/// Has a snapshot saved, with the lines around it; how many bytes it had.
async fn receive(
    core: Arc<Core>,
    message: Message,
    body: SnapshotBody,
) -> Result<u64, ReceiveError> {
    let started = Instant::now();
    let from = MemberId(message.from());
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    let index = metadata.map_or(0, |metadata| metadata.index());
    let describe = |event: Event| {
        event
            .text("local-member-id", core.local.id)
            .text("remote-snapshot-sender-id", from)
            .number("incoming-snapshot-index", index)
    };
    let length = message.encoded_len() as u64;
    let event = describe(Event::info("receiving database snapshot"))
        .number("incoming-snapshot-message-size-bytes", length)
        .text("incoming-snapshot-message-size", humane(length));
    core.event(event);
    let received = body.counter();
    if let Err(why) = core.handler.receive_snapshot(message, body).await {
        let event = describe(Event::warn(match why {
            ReceiveError::Save(_) => "failed to save incoming database snapshot",
            ReceiveError::Process(_) => "failed to process Raft message",
        }));
        core.event(event.text("error", &why));
        return Err(why);
    }
    let size = received.load(Ordering::Relaxed);
    let event = describe(Event::info("received and saved database snapshot"))
        .number("incoming-snapshot-size-bytes", size)
        .text("incoming-snapshot-size", humane(size))
        .duration("download-took", started.elapsed());
    core.event(event);
    Ok(size)
}

/// The message in front of a database, and what came of the database with it.
async fn read_snapshot_message(body: &mut Incoming) -> Result<(Message, Bytes), String> {
    let mut decoder = MessageDecoder::of_snapshot();
    while let Some(data) = next_data(body).await {
        let data = data.map_err(|error| error.to_string())?;
        let mut input = &data[..];
        let read = decoder.decode(&mut input).map_err(|error| error.to_string())?;
        if let Some(message) = read {
            let rest = data.slice(data.len() - input.len()..);
            return Ok((message, rest));
        }
    }
    Err("unexpected EOF".to_owned())
}
