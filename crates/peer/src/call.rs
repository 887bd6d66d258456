//! One request to another member, and its answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use net::Url;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::dial::Dial;
use crate::limits;

/// A request got no answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// Nobody answers there.
    #[error("dial {url}: {source}")]
    Dial {
        /// Where.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers there in time.
    #[error("dial {0}: i/o timeout")]
    DialTimeout(String),
    /// The answer did not come in time.
    #[error("request timed out ({0:?})")]
    Timeout(Duration),
    /// The connection broke, or what came is no HTTP.
    #[error("{}", show(.0))]
    Http(#[from] hyper::Error),
    /// The answer is longer than it may be.
    #[error("response body exceeds {0} bytes limit")]
    TooLong(u64),
}

/// hyper says what it did; its source says what happened.
fn show(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// How a body broke off, in Go's words where the other end went away in the middle.
pub(crate) fn body_error(error: &hyper::Error) -> io::Error {
    let cause = std::error::Error::source(error).and_then(|error| error.downcast_ref());
    match cause.map(io::Error::kind) {
        Some(io::ErrorKind::UnexpectedEof) => {}
        Some(kind) => return io::Error::new(kind, show(error)),
        None if error.is_incomplete_message() => {}
        None => return io::Error::other(show(error)),
    }
    io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF")
}

/// What is sent with a request.
#[derive(Debug)]
pub(crate) enum OutBody {
    /// All at once.
    Whole(Option<Bytes>),
    /// As it is read, `left` bytes; `taken` counts those that have gone. A sender that goes away
    /// before cuts the request.
    Pieces { left: u64, pieces: mpsc::Receiver<io::Result<Bytes>>, taken: Arc<AtomicU64> },
}

impl OutBody {
    pub(crate) fn of(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces { left: 0, .. } => Poll::Ready(None),
            Self::Pieces { left, pieces, taken } => {
                let Poll::Ready(piece) = pieces.poll_recv(context) else { return Poll::Pending };
                let gone = || Err(io::Error::other("the source of the body is gone"));
                let piece = piece.unwrap_or_else(gone).and_then(|bytes| {
                    *left = left
                        .checked_sub(bytes.len() as u64)
                        .ok_or_else(|| io::Error::other("the body is longer than announced"))?;
                    taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    Ok(Frame::data(bytes))
                });
                Poll::Ready(Some(piece))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None) | Self::Pieces { left: 0, .. })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::Pieces { left, .. } => *left,
        })
    }
}

/// A request without its address.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: OutBody,
}

impl Call {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, None, OutBody::Whole(None))
    }

    pub(crate) fn post(path: impl Into<String>, kind: &'static str, body: OutBody) -> Self {
        Self::new(Method::POST, path, Some(kind), body)
    }

    pub(crate) fn new(
        method: Method,
        path: impl Into<String>,
        kind: Option<&'static str>,
        body: OutBody,
    ) -> Self {
        let mut headers = HeaderMap::new();
        if let Some(kind) = kind {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        Self { method, path: path.into(), headers, body }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// An answer that has come whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as text, without the newline of Go's errors.
    pub(crate) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        text.strip_suffix('\n').unwrap_or(&text).to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A connection to a member, closed when this goes.
#[derive(Debug)]
pub(crate) struct Link {
    sender: SendRequest<OutBody>,
    task: AbortHandle,
    host: HeaderValue,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Sends a request; its answer's body lives as long as the link.
    pub(crate) async fn send(&mut self, call: Call) -> Result<Response<Incoming>, CallError> {
        let mut request = Request::new(call.body);
        *request.method_mut() = call.method;
        // Paths are ours, and ids in them are hexadecimal.
        *request.uri_mut() = call.path.parse().unwrap_or_default();
        *request.headers_mut() = call.headers;
        request.headers_mut().insert(header::HOST, self.host.clone());
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request and takes the whole answer, of `max` bytes at most.
    pub(crate) async fn ask(&mut self, call: Call, max: u64) -> Result<Answer, CallError> {
        let response = self.send(call).await?;
        let (head, body) = response.into_parts();
        let body = collect(body, max).await?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// Whether another request can go over it.
    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

/// A whole body of `max` bytes at most.
pub(crate) async fn collect(mut body: Incoming, max: u64) -> Result<Bytes, CallError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes.len() as u64 + data.len() as u64 > max {
            return Err(CallError::TooLong(max));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}

/// Opens connections in bounded time.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) dial_timeout: Duration,
}

impl Caller {
    /// Opens a connection.
    pub(crate) async fn connect(&self, url: &Url) -> Result<Link, CallError> {
        let connection = timeout(self.dial_timeout, self.dial.dial(url))
            .await
            .map_err(|_| CallError::DialTimeout(url.to_string()))?
            .map_err(|source| CallError::Dial { url: url.to_string(), source })?;
        let host = if url.scheme().is_unix() { "localhost" } else { url.authority() };
        let host = HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("localhost"));
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(limits::ANSWER_HEADERS_BYTES_MAX)
            .handshake(TokioIo::new(connection))
            .await?;
        // What breaks a connection is told to whoever waits for its answer.
        let task = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Link { sender, task, host })
    }

    /// Asks on a connection of its own.
    pub(crate) async fn ask(
        &self,
        url: &Url,
        call: Call,
        max: u64,
        within: Duration,
    ) -> Result<Answer, CallError> {
        let asked = async { self.connect(url).await?.ask(call, max).await };
        timeout(within, asked).await.unwrap_or(Err(CallError::Timeout(within)))
    }
}

/// A connection that is kept for the next request.
#[derive(Debug, Default)]
pub(crate) struct Kept(Option<(Link, String, Instant)>);

impl Kept {
    /// The kept connection, if it is still good for `url`.
    pub(crate) fn take(&mut self, url: &Url) -> Option<Link> {
        let (link, to, since) = self.0.take()?;
        let is_good = link.is_open() && since.elapsed() < limits::IDLE_MAX && to == url.to_string();
        is_good.then_some(link)
    }

    /// Keeps a connection whose answer has come whole.
    pub(crate) fn put(&mut self, link: Link, url: &Url) {
        self.0 = Some((link, url.to_string(), Instant::now()));
    }
}
