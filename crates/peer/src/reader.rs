//! The reading end of a stream: we dial, and another member's answer never ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::MemberId;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use net::Url;
use proto::raftpb::Message;
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout};

use crate::call::{Answer, Call, CallError, Link, body_error, collect};
use crate::codec::{AppDecoder, DecodeError, MessageDecoder, is_link_heartbeat};
use crate::core::Core;
use crate::event::{Event, Level};
use crate::limits;
use crate::local::{CLUSTER_ID, CLUSTER_MISMATCH, INCOMPATIBLE_VERSION, RAFT_TO, SERVER_VERSION};
use crate::status::{Picker, Status, count};
use crate::timeouts;
use crate::version::Version;
use crate::writer::StreamKind;

/// Reads one stream of one member, over all its connections.
pub(crate) struct Reader {
    pub(crate) kind: StreamKind,
    pub(crate) id: MemberId,
    pub(crate) core: Arc<Core>,
    pub(crate) status: Arc<Status>,
    pub(crate) picker: Arc<Picker>,
    /// What comes is dropped.
    pub(crate) is_cut: Arc<AtomicBool>,
}

/// Why there is no stream.
#[derive(Debug, Error)]
enum DialError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("member has no address that can be dialed")]
    NoAddress,
    /// The member is too old to have streams.
    #[error("unsupported stream type")]
    Unsupported,
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("peer {peer} failed to find local node {local}")]
    Unknown { peer: MemberId, local: MemberId },
    #[error("{}", INCOMPATIBLE_VERSION)]
    Version,
    #[error("{}", CLUSTER_MISMATCH)]
    Cluster { theirs: String },
    #[error("unhandled error {0:?} when precondition failed")]
    Precondition(String),
    #[error("unhandled http status {0}")]
    Status(u16),
}

/// How a stream ended.
#[derive(Debug, Error)]
enum ReadError {
    #[error("EOF")]
    End,
    #[error("i/o timeout")]
    Timeout,
    #[error(transparent)]
    Network(io::Error),
    #[error(transparent)]
    Bytes(#[from] DecodeError),
}

impl Reader {
    /// Dials and reads until the task is ended.
    pub(crate) async fn run(self) {
        let event = Event::info("started stream reader with remote peer");
        self.core.event(self.describe(event));
        let _stopped = Stopped(&self);
        loop {
            // A stream that lived long may be dialed again at once.
            let next = Instant::now() + limits::DIAL_INTERVAL;
            match self.dial().await {
                Ok((link, body)) => self.read(link, body).await,
                Err(DialError::Unsupported) => {}
                Err(error) => {
                    self.status.deactivate("dial", self.kind.name(), &error.to_string());
                    self.tell(&error);
                }
            }
            sleep_until(next).await;
        }
    }

    fn tell(&self, error: &DialError) {
        let local = &self.core.local;
        let event = match error {
            DialError::Removed => return self.core.handler.removed(),
            DialError::Version => Event::warn(
                "request sent was ignored by remote peer due to server version incompatibility",
            )
            .text("local-member-id", local.id)
            .text("remote-peer-id", self.id),
            DialError::Cluster { theirs } => {
                Event::warn("request sent was ignored by remote peer due to cluster ID mismatch")
                    .text("remote-peer-id", self.id)
                    .text("remote-peer-cluster-id", theirs)
                    .text("local-member-id", local.id)
                    .text("local-member-cluster-id", local.cluster)
            }
            _ => return,
        };
        self.core.event_rarely(self.id, event.text("error", error));
    }

    async fn dial(&self) -> Result<(Link, Incoming), DialError> {
        let url = self.picker.pick().ok_or(DialError::NoAddress)?;
        let dialed = self.dial_at(&url).await;
        if dialed.is_err() {
            self.picker.unreachable(&url);
        }
        dialed
    }

    async fn dial_at(&self, url: &Url) -> Result<(Link, Incoming), DialError> {
        let local = &self.core.local;
        if self.core.handler.wants(Level::Debug) {
            let event = Event::new(Level::Debug, "dial stream reader")
                .text("from", local.id)
                .text("to", self.id)
                .text("address", format!("{url}{}/{}", self.kind.path(), local.id));
            self.core.event(event);
        }
        let call = Call::get(format!("{}/{}", self.kind.path(), local.id));
        let call = local.sign(call).header(RAFT_TO, &self.id.to_string());
        let mut link = self.core.caller.connect(url).await?;
        let within = timeouts::read();
        let answered = timeout(within, link.send(call)).await;
        let (head, body) = answered.map_err(|_| CallError::Timeout(within))??.into_parts();
        let version = head.headers.get(SERVER_VERSION).and_then(|text| text.to_str().ok());
        // A version that is none would crash a real member; we take it for one without streams.
        let serves = Version::of_header(version)
            .is_some_and(|version| version.serves_streams(local.version));
        if !serves {
            return Err(DialError::Unsupported);
        }
        if head.status.as_u16() == 200 {
            return Ok((link, body));
        }
        let text = collect(body, limits::REFUSAL_BYTES_MAX);
        let body = timeout(within, text).await.map_err(|_| CallError::Timeout(within))??;
        let answer = Answer { status: head.status.as_u16(), headers: head.headers, body };
        Err(self.judge(&answer))
    }

    /// What a refusal means.
    fn judge(&self, answer: &Answer) -> DialError {
        match (answer.status, answer.text().as_str()) {
            (410, _) => DialError::Removed,
            (404, _) => DialError::Unknown { peer: self.id, local: self.core.local.id },
            (412, INCOMPATIBLE_VERSION) => DialError::Version,
            (412, CLUSTER_MISMATCH) => {
                let theirs = answer.header(CLUSTER_ID.as_str()).unwrap_or_default().to_owned();
                DialError::Cluster { theirs }
            }
            (412, text) => DialError::Precondition(text.to_owned()),
            (status, _) => DialError::Status(status),
        }
    }

    async fn read(&self, link: Link, body: Incoming) {
        self.status.activate();
        let event = Event::info("established TCP streaming connection with remote peer");
        self.core.event(self.describe(event));
        let error = self.read_all(body).await;
        drop(link);
        let event = Event::warn("lost TCP streaming connection with remote peer");
        self.core.event(self.describe(event).text("error", &error));
        // An end is how the other member closes a stream; another follows.
        if !matches!(error, ReadError::End) {
            self.status.deactivate("read", self.kind.name(), &error.to_string());
        }
    }

    async fn read_all(&self, mut body: Incoming) -> ReadError {
        let mut decoder = match self.kind {
            StreamKind::Message => Decoder::Message(MessageDecoder::new()),
            StreamKind::App => Decoder::App(AppDecoder::new(self.core.local.id, self.id)),
        };
        loop {
            let frame = match timeout(timeouts::read(), body.frame()).await {
                Err(_) => return ReadError::Timeout,
                Ok(None) => return ReadError::End,
                Ok(Some(Err(error))) => return ReadError::Network(body_error(&error)),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            count(&self.status.counters.received_bytes, data.len() as u64);
            let mut input = &data[..];
            loop {
                match decoder.decode(&mut input) {
                    Ok(Some(message)) => self.take(message),
                    Ok(None) => break,
                    Err(error) => {
                        count(&self.status.counters.received_failures, 1);
                        return error.into();
                    }
                }
            }
        }
    }

    fn take(&self, message: Message) {
        let is_cut = self.is_cut.load(Ordering::Relaxed);
        if is_cut || is_link_heartbeat(&message) {
            return;
        }
        if self.core.admit(&message, false).is_ok() {
            self.core.handler.message(message);
        } else {
            count(&self.status.counters.received_failures, 1);
        }
    }

    fn describe(&self, event: Event) -> Event {
        event
            .text("stream-reader-type", self.kind.name())
            .text("local-member-id", self.core.local.id)
            .text("remote-peer-id", self.id)
    }
}

enum Decoder {
    Message(MessageDecoder),
    App(AppDecoder),
}

impl Decoder {
    fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Message>, DecodeError> {
        match self {
            Self::Message(decoder) => decoder.decode(input),
            Self::App(decoder) => decoder.decode(input),
        }
    }
}

/// Tells when the task of a reader is ended.
struct Stopped<'a>(&'a Reader);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let event = Event::info("stopped stream reader with remote peer");
        self.0.core.event(self.0.describe(event));
    }
}
