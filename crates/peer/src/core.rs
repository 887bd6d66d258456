//! What all parts of a transport share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::MemberId;
use parking_lot::Mutex;
use proto::raftpb::{Message, MessageType};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::call::Caller;
use crate::event::Event;
use crate::handler::Handler;
use crate::limits;
use crate::local::Local;

/// Who this member is, how it reaches others, and whom it tells.
pub(crate) struct Core {
    pub(crate) local: Local,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) caller: Caller,
    pub(crate) runtime: Handle,
    throttle: Mutex<BTreeMap<Topic, Told>>,
}

/// A text, and whom it is about.
type Topic = (&'static str, MemberId);

/// When a line was told last, and how often not since.
struct Told {
    at: Instant,
    kept_back: u64,
}

/// Whom lines are remembered of; beyond it they are forgotten, so that one more is told.
const TOPICS_MAX: usize = 1_024;

/// Why a message of another member is not for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Its sender was removed.
    Removed,
    /// It is for someone else.
    Mismatch,
    /// Members do not send such messages, or not this way.
    Kind,
}

impl Core {
    pub(crate) fn new(
        local: Local,
        handler: Arc<dyn Handler>,
        caller: Caller,
        runtime: Handle,
    ) -> Self {
        Self { local, handler, caller, runtime, throttle: Mutex::default() }
    }

    pub(crate) fn event(&self, event: Event) {
        self.handler.event(event);
    }

    /// Tells what may happen with every message, at most once a second about a member.
    pub(crate) fn event_rarely(&self, about: MemberId, event: Event) {
        self.event_rarely_with(about, event, |event| event);
    }

    /// The same, for what may happen so often that its fields are only made when it is told.
    pub(crate) fn event_rarely_with(
        &self,
        about: MemberId,
        event: Event,
        fields: impl FnOnce(Event) -> Event,
    ) {
        if !self.handler.wants(event.level) {
            return;
        }
        let now = Instant::now();
        let mut throttle = self.throttle.lock();
        if throttle.len() >= TOPICS_MAX {
            throttle.clear();
        }
        let mut kept_back = 0;
        if let Some(told) = throttle.get_mut(&(event.message, about)) {
            if now.duration_since(told.at) < limits::REPORT_INTERVAL {
                told.kept_back += 1;
                return;
            }
            kept_back = told.kept_back;
        }
        throttle.insert((event.message, about), Told { at: now, kept_back: 0 });
        drop(throttle);
        let event = fields(event);
        let event = if kept_back == 0 { event } else { event.number("suppressed", kept_back) };
        self.handler.event(event);
    }

    /// Checks whether a message that came in is for raft here.
    pub(crate) fn admit(&self, message: &Message, with_database: bool) -> Result<(), Unfit> {
        let from = MemberId(message.from());
        if self.handler.is_removed(from) {
            let event = Event::warn("rejected Raft message from removed member")
                .text("local-member-id", self.local.id)
                .text("removed-member-id", from);
            self.event_rarely(from, event);
            return Err(Unfit::Removed);
        }
        let to = MemberId(message.to());
        if to != self.local.id {
            let event = Event::warn("rejected Raft message to mismatch member")
                .text("local-member-id", self.local.id)
                .text("mismatch-member-id", to);
            self.event_rarely(from, event);
            return Err(Unfit::Mismatch);
        }
        let is_snapshot = message.r#type == Some(MessageType::MsgSnap.into());
        if is_snapshot != with_database || !is_sent_by_members(message) {
            let event = Event::warn("ignored Raft message of an unexpected type")
                .text("local-member-id", self.local.id)
                .text("remote-peer-id", from)
                .text("message-type", kind_name(message));
            self.event_rarely(from, event);
            return Err(Unfit::Kind);
        }
        Ok(())
    }
}

/// One of a bounded number of places; free again when this goes.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    /// Takes one of `max` places, if one is free.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::AcqRel);
        let place = Self(Arc::clone(taken));
        (before < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The other kinds are between a member and itself; raft ignores them from others.
fn is_sent_by_members(message: &Message) -> bool {
    let kind = message.r#type.and_then(|kind| MessageType::try_from(kind).ok());
    kind.is_some_and(|kind| {
        use MessageType as T;
        match kind {
            T::MsgProp
            | T::MsgApp
            | T::MsgAppResp
            | T::MsgVote
            | T::MsgVoteResp
            | T::MsgSnap
            | T::MsgHeartbeat
            | T::MsgHeartbeatResp
            | T::MsgTransferLeader
            | T::MsgTimeoutNow
            | T::MsgReadIndex
            | T::MsgReadIndexResp
            | T::MsgPreVote
            | T::MsgPreVoteResp => true,
            T::MsgHup
            | T::MsgBeat
            | T::MsgUnreachable
            | T::MsgSnapStatus
            | T::MsgCheckQuorum
            | T::MsgStorageAppend
            | T::MsgStorageAppendResp
            | T::MsgStorageApply
            | T::MsgStorageApplyResp
            | T::MsgForgetLeader => false,
        }
    })
}

/// The name of a message's kind, for the log.
pub(crate) fn kind_name(message: &Message) -> &'static str {
    MessageType::try_from(message.r#type.unwrap_or_default())
        .map_or("unknown", |kind| kind.as_str_name())
}
