//! The writing end of a stream: another member dialed us, and our answer never ends.
//!
//! The body of the answer takes messages from the [`Outlet`] when hyper has room for them, so a
//! member that does not read stops the body, the outlet fills, and what comes then is dropped.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use base::MemberId;
use bytes::BytesMut;
use http_body::Frame;
use parking_lot::Mutex;
use proto::raftpb::Message;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::codec::{AppEncoder, MessageEncoder, link_heartbeat};
use crate::core::{Core, kind_name};
use crate::event::Event;
use crate::limits;
use crate::outlet::{Generation, Lost, Outlet, Pushed};
use crate::status::{Status, count};

/// The two kinds of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// Every message but snapshots.
    Message,
    /// Appends alone.
    App,
}

impl StreamKind {
    /// The kind of a path's part between `/raft/stream/` and the id.
    pub(crate) fn of_path(part: &str) -> Option<Self> {
        match part {
            "message" => Some(Self::Message),
            "msgapp" => Some(Self::App),
            _ => None,
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Message => "/raft/stream/message",
            Self::App => "/raft/stream/msgapp",
        }
    }

    /// How etcd's log calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Message => "stream Message",
            Self::App => "stream MsgApp v2",
        }
    }

    /// How etcd's log calls the queue of it.
    fn queue_name(self) -> &'static str {
        match self {
            Self::Message => "streamMsg",
            Self::App => "streamMsgAppV2",
        }
    }
}

/// The writing end of one stream to one member, over all its connections.
pub(crate) struct Writer {
    kind: StreamKind,
    id: MemberId,
    core: Arc<Core>,
    status: Arc<Status>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outlet: Outlet,
    /// Of the body that waits for a message.
    waker: Option<Waker>,
}

impl Writer {
    pub(crate) fn new(
        kind: StreamKind,
        id: MemberId,
        core: Arc<Core>,
        status: Arc<Status>,
    ) -> Arc<Self> {
        let event = Event::info("started stream writer with remote peer")
            .text("local-member-id", core.local.id)
            .text("remote-peer-id", id);
        core.event(event);
        Arc::new(Self { kind, id, core, status, state: Mutex::default() })
    }

    /// Takes a message; gives it back when there is no stream.
    pub(crate) fn push(&self, message: Message) -> Option<Message> {
        let kind = kind_name(&message);
        let mut state = self.state.lock();
        let pushed = state.outlet.push(message);
        let waker = if pushed == Pushed::Queued { state.waker.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        match pushed {
            Pushed::Queued => None,
            Pushed::Detached(message) => Some(message),
            Pushed::Full => {
                dropped(&self.core, &self.status, self.id, kind, self.kind.queue_name());
                None
            }
        }
    }

    /// Whether another member reads the stream.
    pub(crate) fn is_attached(&self) -> bool {
        self.state.lock().outlet.is_attached()
    }

    /// Another member dialed: the body of its answer.
    pub(crate) fn attach(self: &Arc<Self>) -> StreamBody {
        let mut state = self.state.lock();
        let (generation, lost) = state.outlet.attach();
        let waker = state.waker.take();
        drop(state);
        let event = Event::info("set message encoder")
            .text("from", self.core.local.id)
            .text("to", self.id)
            .text("stream-type", self.kind.name());
        self.core.event(event);
        self.status.activate();
        if let Some(lost) = lost {
            self.closed(lost);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        self.core.event(
            self.describe(Event::info("established TCP streaming connection with remote peer")),
        );
        StreamBody::new(Arc::clone(self), generation)
    }

    /// Ends the stream.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        let lost = state.outlet.close();
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(lost) = lost {
            self.closed(lost);
        }
        self.core
            .event(self.describe(Event::info("stopped TCP streaming connection with remote peer")));
    }

    fn closed(&self, lost: Lost) {
        if lost.had_messages {
            self.core.handler.unreachable(self.id);
        }
        let event = Event::warn("closed TCP streaming connection with remote peer");
        self.core.event(self.describe(event));
    }

    /// The connection of a body broke.
    fn broke(&self, generation: Generation) {
        let Some(lost) = self.state.lock().outlet.detach(generation) else { return };
        self.status.deactivate("write", self.kind.name(), "connection is closed");
        if lost.had_messages {
            count(&self.status.counters.sent_failures, 1);
        }
        let event = Event::warn("lost TCP streaming connection with remote peer");
        self.core.event(self.describe(event));
        // What hyper had taken may be lost too.
        self.core.handler.unreachable(self.id);
    }

    fn describe(&self, event: Event) -> Event {
        event
            .text("stream-writer-type", self.kind.name())
            .text("local-member-id", self.core.local.id)
            .text("remote-peer-id", self.id)
    }
}

/// Tells that a message found no room.
pub(crate) fn dropped(
    core: &Core,
    status: &Status,
    id: MemberId,
    kind: &'static str,
    queue: &'static str,
) {
    count(&status.counters.sent_failures, 1);
    core.handler.unreachable(id);
    let event = Event::warn("dropped internal Raft message since sending buffer is full");
    core.event_rarely_with(id, event, |event| {
        event
            .text("message-type", kind)
            .text("local-member-id", core.local.id)
            .text("from", core.local.id)
            .text("remote-peer-id", id)
            .text("remote-peer-name", queue)
            .flag("remote-peer-active", status.is_active())
    });
}

enum Encoder {
    Message(MessageEncoder),
    App(AppEncoder),
}

impl Encoder {
    fn encode(&mut self, message: &Message, to: &mut BytesMut) {
        match self {
            Self::Message(encoder) => encoder.encode(message, to),
            Self::App(encoder) => encoder.encode(message, to),
        }
    }
}

/// The endless answer to a member that dialed a stream.
pub(crate) struct StreamBody {
    writer: Arc<Writer>,
    generation: Generation,
    encoder: Encoder,
    heartbeat: Pin<Box<Sleep>>,
    batch: Vec<Message>,
    buffer: BytesMut,
}

impl StreamBody {
    fn new(writer: Arc<Writer>, generation: Generation) -> Self {
        let encoder = match writer.kind {
            StreamKind::Message => Encoder::Message(MessageEncoder),
            StreamKind::App => Encoder::App(AppEncoder::new()),
        };
        let heartbeat = Box::pin(sleep_until(Instant::now() + limits::LINK_HEARTBEAT_INTERVAL));
        let (batch, buffer) = (Vec::new(), BytesMut::new());
        Self { writer, generation, encoder, heartbeat, batch, buffer }
    }

    /// The next piece; `None` at the end.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Infallible>>> {
        let mut state = self.writer.state.lock();
        if !state.outlet.is_current(self.generation) {
            return Poll::Ready(None);
        }
        state.outlet.take(self.generation, &mut self.batch);
        if self.batch.is_empty() {
            state.waker = Some(context.waker().clone());
        }
        drop(state);
        if self.heartbeat.as_mut().poll(context).is_ready() {
            let next = Instant::now() + limits::LINK_HEARTBEAT_INTERVAL;
            self.heartbeat.as_mut().reset(next);
            self.encoder.encode(&link_heartbeat(), &mut self.buffer);
            if self.batch.is_empty() {
                // The reset timer must be polled to wake us.
                let _armed = self.heartbeat.as_mut().poll(context);
            }
        }
        for message in self.batch.drain(..) {
            self.encoder.encode(&message, &mut self.buffer);
        }
        if self.buffer.is_empty() {
            return Poll::Pending;
        }
        count(&self.writer.status.counters.sent_bytes, self.buffer.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(self.buffer.split().freeze()))))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.writer.broke(self.generation);
    }
}

impl fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamBody").field("to", &self.writer.id).finish_non_exhaustive()
    }
}
