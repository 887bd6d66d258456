//! Calls with many answers, and with many messages to them: one line for each.
//!
//! *Invariants.* One task has the call: when the client goes, in either direction, it ends, and
//! the call with it. The status is that of the first line, so it waits for it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, header};
use net::PeerAddress;
use proto::json::{self, Form, Method, Values, Writer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::answer::{self, Failure, Messages, Part};
use super::headers::Call;
use super::input::{self, Broken, Input};
use super::unary::{before, framed, grpc_request, request};
use super::{PIECE_BYTES, PIECES_AHEAD};
use crate::api::Api;
use crate::grpc::{self, Body, Item, Source};

/// Messages of the client that wait for the call.
const MESSAGES_AHEAD: usize = 4;

/// What the status line says.
enum Head {
    /// A first message is there.
    Message,
    /// There is none, and none is to come.
    Nothing,
    Failed(Failure),
}

/// A stream of answers on its way to a client.
struct Outlet {
    head: Option<oneshot::Sender<Head>>,
    pieces: mpsc::Sender<Item>,
    out: Vec<u8>,
}

impl Outlet {
    /// Says what the status is, if that has not been said.
    fn say(&mut self, head: Head) {
        if let Some(sender) = self.head.take() {
            // Nobody hears it when the client has gone.
            drop(sender.send(head));
        }
    }

    /// Sends what was written; false when the client has gone.
    async fn flush(&mut self) -> bool {
        let piece = Bytes::from(std::mem::take(&mut self.out));
        piece.is_empty() || self.pieces.send(Item::Message(piece)).await.is_ok()
    }

    /// Ends with a failure.
    async fn fail(mut self, failure: Failure) {
        self.out.extend_from_slice(b"{\"error\":");
        failure.write(Form::Html, &mut self.out);
        self.out.extend_from_slice(b"}\n");
        self.say(Head::Failed(failure));
        self.flush().await;
    }
}

/// Answers a call with a stream.
pub(super) async fn answer(
    api: &Arc<Api>,
    method: &'static Method,
    call: Call,
    peer: PeerAddress,
    input: Input,
) -> Response<Body> {
    let Call { metadata, deadline, takes_trailers } = call;
    let (request, feeding) = if method.is_client_stream {
        let (sender, messages) = mpsc::channel(MESSAGES_AHEAD);
        let request = grpc_request(method, metadata, Source::Messages(messages));
        (request, Some(feed(input, method, input::bytes_max(api), sender)))
    } else {
        match request(api, method, metadata, input).await {
            Ok(request) => (request, None),
            Err(failure) if takes_trailers => {
                return answer::failure_with_trailers(&failure, false);
            }
            Err(failure) => return answer::failure(&failure),
        }
    };
    let (head, told) = oneshot::channel();
    let (pieces, body) = mpsc::channel(PIECES_AHEAD);
    let outlet = Outlet { head: Some(head), pieces, out: Vec::new() };
    let called = grpc::serve(Arc::clone(api), peer, request);
    tokio::spawn(async move {
        let gone = outlet.pieces.clone();
        let feeding = async {
            if let Some(feeding) = feeding {
                feeding.await?;
            }
            // A body that has ended leaves the answers to go on.
            std::future::pending::<Result<(), Broken>>().await
        };
        tokio::select! {
            _broken = feeding => {}
            () = gone.closed() => {}
            () = Box::pin(send(called, method, deadline, outlet)) => {}
        }
    });
    let body = Body::Stream(body);
    match told.await {
        Ok(Head::Message) => answer::success(body),
        Ok(Head::Failed(failure)) => {
            let mut response = Response::new(body);
            *response.status_mut() = failure.http_status();
            response.headers_mut().insert(header::CONTENT_TYPE, answer::JSON);
            response
        }
        Ok(Head::Nothing) | Err(_) => {
            let mut response = Response::new(body);
            *response.headers_mut() = HeaderMap::new();
            response
        }
    }
}

/// Sends the answers to their end.
async fn send(
    called: impl Future<Output = Response<Body>>,
    method: &'static Method,
    deadline: Option<Instant>,
    mut outlet: Outlet,
) {
    let sent = before(deadline, send_all(called, method, &mut outlet)).await;
    match sent.unwrap_or(Err(Failure::DEADLINE)) {
        Ok(()) => outlet.say(Head::Nothing),
        Err(failure) => {
            // A line that is begun cannot be ended; what is not sent of it never will be.
            outlet.out.clear();
            outlet.fail(failure).await;
        }
    }
}

async fn send_all(
    called: impl Future<Output = Response<Body>>,
    method: &'static Method,
    outlet: &mut Outlet,
) -> Result<(), Failure> {
    let mut messages = Messages::of(called.await)?;
    let mut writer: Option<Writer> = None;
    loop {
        let part = messages.next().await;
        if let Part::End(ended) = part {
            return ended;
        }
        let mut current = match writer.take() {
            Some(writer) => writer,
            None => {
                outlet.out.extend_from_slice(b"{\"result\":");
                Writer::new(method.response, Form::Html, &mut outlet.out)
            }
        };
        let is_whole = matches!(part, Part::MessageEnd);
        if let Part::Piece(piece) = part {
            current.push(&piece, &mut outlet.out).map_err(|_| Failure::CUT)?;
            writer = Some(current);
        } else {
            current.end(&mut outlet.out).map_err(|_| Failure::CUT)?;
            outlet.out.extend_from_slice(b"}\n");
        }
        if is_whole || outlet.out.len() >= PIECE_BYTES {
            outlet.say(Head::Message);
            if !outlet.flush().await {
                return Ok(());
            }
        }
    }
}

/// Hands the messages of a body on, each as it comes. A body that cannot be read any more ends as
/// one that is over, as in etcd.
async fn feed(
    mut input: Input,
    method: &'static Method,
    bytes_max: usize,
    sender: mpsc::Sender<Bytes>,
) -> Result<(), Broken> {
    let mut values = Values::new();
    loop {
        let value = match values.next_value() {
            Ok(Some(value)) => value,
            Ok(None) if values.waiting() <= bytes_max => match input.next().await? {
                Some(bytes) => {
                    values.push(&bytes);
                    continue;
                }
                None => break,
            },
            _ => return rest(input, sender).await,
        };
        let Ok(message) = json::decode(method.request, &value) else {
            return rest(input, sender).await;
        };
        if sender.send(framed(&message)).await.is_err() {
            return Ok(());
        }
    }
    if let Ok(Some(value)) = values.end()
        && let Ok(message) = json::decode(method.request, &value)
    {
        // Nobody takes it when the call is over.
        drop(sender.send(framed(&message)).await);
    }
    Ok(())
}

/// Ends the messages, and waits for the end of the body: that is how a client that goes is seen.
async fn rest(mut input: Input, sender: mpsc::Sender<Bytes>) -> Result<(), Broken> {
    drop(sender);
    while input.next().await?.is_some() {}
    Ok(())
}
