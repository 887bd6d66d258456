//! Calls with one answer.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use net::PeerAddress;
use proto::json::{self, Form, Method, Writer};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer::{self, Failure, Messages, Part};
use super::headers::Call;
use super::input::Input;
use super::{PIECE_BYTES, PIECES_AHEAD};
use crate::api::Api;
use crate::grpc::{self, Body, Item, PREFIX, Source};

/// What is longer is sent in chunks, as Go's server does.
const WHOLE_BYTES_MAX: usize = 2048;

/// How a call with one answer went.
enum Outcome {
    /// Its answer, as a whole.
    Whole(Vec<u8>),
    /// Its answer has begun, and is long.
    Long(Box<Long>),
    Failed(Failure),
    /// It failed before there was a call.
    Refused(Failure),
}

/// Answers a call with one message each way.
pub(super) async fn answer(
    api: &Arc<Api>,
    method: &'static Method,
    call: Call,
    peer: PeerAddress,
    input: Input,
) -> Response<Body> {
    let (deadline, takes_trailers) = (call.deadline, call.takes_trailers);
    let outcome = match request(api, method, call.metadata, input).await {
        Err(failure) => Outcome::Refused(failure),
        Ok(request) => {
            let asked = ask(api, method, peer, request);
            before(deadline, asked).await.unwrap_or(Outcome::Failed(Failure::DEADLINE))
        }
    };
    match outcome {
        Outcome::Whole(text) if takes_trailers => {
            answer::success(Body::Trailed(Some(text.into()), HeaderMap::new()))
        }
        Outcome::Whole(text) => answer::success(Body::Plain(text.into())),
        Outcome::Long(long) => answer::success(long.into_body(deadline)),
        Outcome::Failed(failure) if takes_trailers => {
            answer::failure_with_trailers(&failure, failure != Failure::DEADLINE)
        }
        Outcome::Refused(failure) if takes_trailers => {
            answer::failure_with_trailers(&failure, false)
        }
        Outcome::Failed(failure) | Outcome::Refused(failure) => answer::failure(&failure),
    }
}

/// Reads a body with one message, and makes the gRPC request of it.
pub(super) async fn request(
    api: &Api,
    method: &'static Method,
    metadata: HeaderMap,
    mut input: Input,
) -> Result<Request<Source>, Failure> {
    let message = match input.value(api).await? {
        None => Vec::new(),
        Some(value) => json::decode(method.request, &value)
            .map_err(|error| Failure::invalid(error.to_string()))?,
    };
    Ok(grpc_request(method, metadata, Source::Whole(framed(&message))))
}

/// A message with its prefix.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + message.len());
    bytes.put_u8(0);
    // Bodies are bounded far below 4 GiB.
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.extend_from_slice(message);
    bytes.freeze()
}

/// The request as a gRPC client would send it.
pub(super) fn grpc_request(
    method: &'static Method,
    metadata: HeaderMap,
    body: Source,
) -> Request<Source> {
    let mut request = Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = http::Uri::from_static(method.path);
    *request.headers_mut() = metadata;
    let kind = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert(header::CONTENT_TYPE, kind);
    request
}

/// What comes of it before the deadline; nothing when that is over.
pub(super) async fn before<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = T>,
) -> Option<T> {
    match deadline {
        None => Some(work.await),
        // What is over before it begins is not begun.
        Some(deadline) if deadline <= Instant::now() => None,
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.ok(),
    }
}

async fn ask(
    api: &Arc<Api>,
    method: &'static Method,
    peer: PeerAddress,
    request: Request<Source>,
) -> Outcome {
    let response = grpc::serve(Arc::clone(api), peer, request).await;
    let mut messages = match Messages::of(response) {
        Ok(messages) => messages,
        Err(failure) => return Outcome::Failed(failure),
    };
    let mut out = Vec::new();
    let mut writer = Writer::new(method.response, Form::Plain, &mut out);
    loop {
        match messages.next().await {
            Part::Piece(piece) => {
                if writer.push(&piece, &mut out).is_err() {
                    return Outcome::Failed(Failure::CUT);
                }
                if out.len() > WHOLE_BYTES_MAX {
                    return Outcome::Long(Box::new(Long { messages, writer, out }));
                }
            }
            Part::MessageEnd => {}
            Part::End(Err(failure)) => return Outcome::Failed(failure),
            Part::End(Ok(())) => {
                return match writer.end(&mut out) {
                    Ok(()) => Outcome::Whole(out),
                    Err(_) => Outcome::Failed(Failure::CUT),
                };
            }
        }
    }
}

/// An answer that is mapped while it leaves.
struct Long {
    messages: Messages,
    writer: Writer,
    out: Vec<u8>,
}

impl Long {
    fn into_body(self, deadline: Option<Instant>) -> Body {
        let (pieces, body) = mpsc::channel(PIECES_AHEAD);
        tokio::spawn(async move {
            // The status has left: what ends too early is no JSON, so nobody takes it for whole.
            let _ended = before(deadline, self.send(&pieces)).await;
        });
        Body::Stream(body)
    }

    /// Sends everything; nothing when it could not.
    async fn send(mut self, pieces: &mpsc::Sender<Item>) -> Option<()> {
        loop {
            match self.messages.next().await {
                Part::Piece(piece) => self.writer.push(&piece, &mut self.out).ok()?,
                Part::MessageEnd => {}
                Part::End(ended) => {
                    ended.ok()?;
                    self.writer.end(&mut self.out).ok()?;
                    return pieces.send(Item::Message(self.out.into())).await.ok();
                }
            }
            if self.out.len() >= PIECE_BYTES {
                let piece = std::mem::take(&mut self.out);
                pieces.send(Item::Message(piece.into())).await.ok()?;
            }
        }
    }
}
