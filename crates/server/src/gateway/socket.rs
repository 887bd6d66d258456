//! Websockets: every message of the client is a piece of the body, every line of the answer is a
//! message to it.
//!
//! *Invariants.*
//! 1. A websocket is one task, and its connection is over when that is ([`Sockets::end`]).
//! 2. What a client sends is read only as fast as the call takes it.
//!
//! *Absent.* Pings of our own, and a closing frame when the call is over: the connection ends, as
//! etcd ends it.
//!
//! *Contract.* grpc-websocket-proxy, and gorilla/websocket v1.5 under it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proto::json::{put_base64, read_base64};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::input::{self, Input};
use super::{PIECES_AHEAD, Question};
use crate::api::{Api, Phase};
use crate::grpc::Body;

/// What RFC 6455 has a server add to a client's key.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of a key, when it is decoded.
const KEY_BYTES: usize = 16;

/// Bytes that are read at once.
const READ_BYTES: usize = 4096;

/// How long a websocket may take to end when the process stops.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

const BEARER: &str = "Bearer";
const TOKEN_COOKIE: &str = "token";

/// The websocket that a connection has become, if it has.
#[derive(Clone, Default)]
pub(crate) struct Sockets(Arc<Mutex<Option<JoinHandle<()>>>>);

impl Sockets {
    /// Waits until it is over.
    pub(crate) async fn end(&self) {
        let socket = self.0.lock().take();
        if let Some(socket) = socket {
            // A panic has ended the process.
            drop(socket.await);
        }
    }
}

/// Whether a request asks for a websocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    has_word(headers, header::CONNECTION, "upgrade")
        && has_word(headers, header::UPGRADE, "websocket")
}

fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|given| given.trim().eq_ignore_ascii_case(word))
}

/// Makes a connection a websocket, and answers what comes on it.
pub(super) fn upgrade(
    api: &Arc<Api>,
    question: Question,
    mut request: Request<Incoming>,
    sockets: &Sockets,
) -> Response<Body> {
    let key = match check(&question) {
        Ok(key) => key,
        Err(status) => return refusal(status),
    };
    let is_bearer = protocol(&question.headers).is_some_and(|given| given.starts_with(BEARER));
    let question =
        Question { method: Method::POST, headers: forwarded(&question.headers), ..question };
    let upgraded = hyper::upgrade::on(&mut request);
    let task = tokio::spawn(run(Arc::clone(api), question, upgraded));
    *sockets.0.lock() = Some(task);
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept(&key));
    if is_bearer {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BEARER));
    }
    response
}

/// The client's key, when its handshake is right.
fn check(question: &Question) -> Result<String, StatusCode> {
    if question.method != Method::GET {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !has_word(&question.headers, header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(StatusCode::BAD_REQUEST);
    }
    let key = question.headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    key.filter(|key| read_base64(key).is_some_and(|key| key.len() == KEY_BYTES))
        .map(str::to_owned)
        .ok_or(StatusCode::BAD_REQUEST)
}

fn refusal(status: StatusCode) -> Response<Body> {
    let text = format!("{}\n", status.canonical_reason().unwrap_or_default());
    let mut response = Response::new(Body::Plain(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// What shows the client that its key was read.
fn accept(key: &str) -> HeaderValue {
    let mut text = Vec::new();
    put_base64(&mut text, &Sha1::digest([key, KEY_SUFFIX].concat()));
    // Base64 is printable.
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn protocol(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()
}

/// The headers of the call: a browser can set few, so the token comes in another place.
fn forwarded(given: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in [header::ORIGIN, header::REFERER] {
        if let Some(value) = given.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let mut authorization = None;
    if let Some(protocol) = protocol(given) {
        let token = protocol.split_once("Bearer,").map(|(_, token)| token.trim_matches(' '));
        authorization = token.map(|token| format!("Bearer {token}"));
    }
    let cookies = given.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|it| it.split_once('='));
    if let Some((_, token)) = pairs.find(|(name, _)| name.trim() == TOKEN_COOKIE) {
        authorization = Some(format!("Bearer {}", token.trim().trim_matches('"')));
    }
    if let Some(value) = authorization.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(header::AUTHORIZATION, value);
    }
    headers
}

/// What the frames are read from and written to.
#[derive(Default)]
struct Pipe {
    received: BytesMut,
    leaving: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = buffer.len().min(self.received.len());
        self.received.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.leaving.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The frames of one websocket.
struct Frames {
    context: WebSocketContext,
    pipe: Pipe,
    /// Whether a message to the client has begun and not ended.
    is_begun: bool,
}

impl Frames {
    fn new(message_bytes_max: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let context = WebSocketContext::new(Role::Server, Some(config));
        Self { context, pipe: Pipe::default(), is_begun: false }
    }

    /// The messages that are whole; false when no more are to come.
    fn received(&mut self, messages: &mut VecDeque<Bytes>) -> bool {
        loop {
            match self.context.read(&mut self.pipe) {
                Ok(Message::Text(text)) => messages.push_back(line(text.as_bytes())),
                Ok(Message::Binary(bytes)) => messages.push_back(line(&bytes)),
                Ok(Message::Close(_)) => return false,
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }

    /// Writes a part of the answer: each line is a message. False when the client has closed.
    fn send(&mut self, mut part: Bytes) -> bool {
        while !part.is_empty() {
            let end = part.iter().position(|byte| *byte == b'\n');
            let text = part.split_to(end.unwrap_or(part.len()));
            if end.is_some() {
                part.advance(1);
            }
            let is_empty_line = text.is_empty() && !self.is_begun;
            if !is_empty_line && !self.frame(text, end.is_some()) {
                return false;
            }
        }
        true
    }

    /// Ends the message that is begun.
    fn finish(&mut self) -> bool {
        !self.is_begun || self.frame(Bytes::new(), true)
    }

    fn frame(&mut self, text: Bytes, is_last: bool) -> bool {
        let data = if self.is_begun { Data::Continue } else { Data::Text };
        self.is_begun = !is_last;
        let frame = Frame::message(text, OpCode::Data(data), is_last);
        self.context.write(&mut self.pipe, Message::Frame(frame)).is_ok()
    }

    /// What is to be written to the connection: frames, and answers to pings.
    fn leaving(&mut self) -> Vec<u8> {
        // It cannot fail to write to memory; a closed context has nothing to write.
        drop(self.context.flush(&mut self.pipe));
        std::mem::take(&mut self.pipe.leaving)
    }
}

/// A message as a piece of a body.
fn line(message: &[u8]) -> Bytes {
    Bytes::from([message, b"\n"].concat())
}

async fn run(api: Arc<Api>, question: Question, upgraded: OnUpgrade) {
    let Ok(upgraded) = upgraded.await else { return };
    let mut phase = api.phase.clone();
    let frames = Frames::new(input::bytes_max(&api));
    let (sender, messages) = mpsc::channel(1);
    let (parts, lines) = mpsc::channel(PIECES_AHEAD);
    let answering = async move {
        let response = super::respond(&api, question, Input::Socket(messages)).await;
        let mut body = response.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data()
                && parts.send(data).await.is_err()
            {
                return;
            }
        }
    };
    let mut talk = pin!(async {
        // It ends with the lines, so with the answer; or without one, with the client.
        let answering = async {
            Box::pin(answering).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = talk(TokioIo::new(upgraded), frames, sender, lines) => {}
            () = answering => {}
        }
    });
    tokio::select! {
        () = talk.as_mut() => return,
        _stopping = phase.wait_for(|phase| *phase == Phase::Stopping) => {}
    }
    // A stream ends by itself now; what waits for its client does not.
    let _cut = timeout(FAREWELL_MAX, talk).await;
}

/// What the talk goes on with.
enum Next {
    Read(io::Result<usize>),
    Part(Option<Bytes>),
    Taken(bool),
}

/// Carries messages one way and lines the other, until either side ends.
async fn talk(
    mut io: TokioIo<Upgraded>,
    mut frames: Frames,
    sender: mpsc::Sender<Bytes>,
    mut lines: mpsc::Receiver<Bytes>,
) {
    let mut waiting = VecDeque::new();
    loop {
        frames.pipe.received.reserve(READ_BYTES);
        let next = tokio::select! {
            part = lines.recv() => Next::Part(part),
            permit = sender.reserve(), if !waiting.is_empty() => Next::Taken(
                permit.map(|permit| waiting.pop_front().map(|it| permit.send(it))).is_ok(),
            ),
            read = io.read_buf(&mut frames.pipe.received), if waiting.is_empty() => {
                Next::Read(read)
            }
        };
        let goes_on = match next {
            Next::Part(Some(part)) => frames.send(part),
            Next::Part(None) => {
                frames.finish();
                false
            }
            // The call takes no more: its answer goes on.
            Next::Taken(is_taken) => {
                if !is_taken {
                    waiting.clear();
                }
                true
            }
            Next::Read(Ok(1..)) => frames.received(&mut waiting),
            Next::Read(_) => false,
        };
        let is_written = io.write_all(&frames.leaving()).await.is_ok() && io.flush().await.is_ok();
        if !goes_on || !is_written {
            break;
        }
    }
    // The client may be gone.
    drop(io.shutdown().await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_standard_says() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_token_comes_by_protocol_or_cookie() {
        let token = |pairs: &[(header::HeaderName, &'static str)]| {
            let pair = |(name, value): &(header::HeaderName, &'static str)| {
                (name.clone(), HeaderValue::from_static(value))
            };
            let headers = forwarded(&pairs.iter().map(pair).collect());
            headers.get(header::AUTHORIZATION).map(|it| it.to_str().unwrap_or("").to_owned())
        };
        let (protocol, cookie) = (header::SEC_WEBSOCKET_PROTOCOL, header::COOKIE);
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(token(&[(protocol.clone(), "Bearer, t")]), is("Bearer t"));
        assert_eq!(token(&[(protocol.clone(), "Bearer,t")]), is("Bearer t"));
        assert_eq!(token(&[(protocol.clone(), "chat")]), None);
        let both = [(protocol, "Bearer, t"), (cookie, "a=b; token=c; d=e")];
        assert_eq!(token(&both), is("Bearer c"));
        // What the client says itself is not passed on.
        assert_eq!(token(&[(header::AUTHORIZATION, "Bearer x")]), None);
    }

    #[test]
    fn lines_are_messages_whatever_they_come_in() {
        let mut frames = Frames::new(1 << 20);
        for part in ["{\"a\":", "1}\n{}", "\n\n\n[", "]"] {
            assert!(frames.send(Bytes::from(part)));
        }
        assert!(frames.finish());
        let bytes = frames.leaving();
        let mut client = WebSocketContext::new(Role::Client, None);
        let mut pipe = Pipe { received: BytesMut::from(&bytes[..]), leaving: Vec::new() };
        let mut seen = Vec::new();
        while let Ok(Message::Text(text)) = client.read(&mut pipe) {
            seen.push(text.as_str().to_owned());
        }
        assert_eq!(seen, ["{\"a\":1}", "{}", "[]"]);
    }
}
