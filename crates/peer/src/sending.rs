//! Posts a snapshot: its message, then the pages of the database.
//!
//! ```text
//!  SnapshotReader ──(a thread of its own)──► channel of SNAPSHOT_PIECES_MAX ──► body ──► member
//! ```
//!
//! *Invariants.* 1. Memory is bounded by the channel, whatever the size of the database. 2. The
//! end is told to the handler exactly once, whatever ends the task. 3. A receiver that takes
//! nothing ends the post, and with it the reader.
//!
//! *Contract.* `snapshot_sender.go` in `server/etcdserver/api/rafthttp` of etcd v3.7.1.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::MemberId;
use bytes::BytesMut;
use proto::raftpb::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::call::{Answer, Call, CallError, Link, OutBody};
use crate::codec::MessageEncoder;
use crate::core::Core;
use crate::event::{Event, humane};
use crate::handler::{Handler, SnapshotReader};
use crate::limits;
use crate::pipeline::{PostError, judge_post};
use crate::status::{Inflight, Picker, Status, count};

/// A snapshot on its way to one member.
pub(crate) struct Sending {
    pub(crate) id: MemberId,
    pub(crate) core: Arc<Core>,
    pub(crate) status: Arc<Status>,
    pub(crate) picker: Arc<Picker>,
    pub(crate) end: End,
}

/// Tells the end of a snapshot: what it is told, or a failure when it just goes.
pub(crate) struct End {
    id: MemberId,
    handler: Arc<dyn Handler>,
    is_told: bool,
}

impl End {
    pub(crate) fn of(id: MemberId, handler: Arc<dyn Handler>) -> Self {
        Self { id, handler, is_told: false }
    }

    fn tell(&mut self, ok: bool) {
        self.is_told = true;
        self.handler.snapshot_sent(self.id, ok);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell(false);
        }
    }
}

/// How far a body has been taken.
struct Progress {
    taken: Arc<AtomicU64>,
    size: u64,
}

impl Sending {
    /// Sends it, and tells the end.
    pub(crate) async fn run(mut self, message: Message, database: Box<dyn SnapshotReader>) {
        let started = Instant::now();
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let index = metadata.map_or(0, |metadata| metadata.index());
        let size = database.size();
        let describe = |event: Event| {
            event
                .number("snapshot-index", index)
                .text("remote-peer-id", self.id)
                .number("bytes", size)
                .text("size", humane(size))
        };
        self.core.event(describe(Event::info("sending database snapshot")));
        let counters = &self.status.counters;
        let _sending = Inflight::begin(&counters.snapshots_sending);
        match self.post(message, database).await {
            Ok(()) => {
                self.status.activate();
                self.end.tell(true);
                self.core.event(describe(Event::info("sent database snapshot")));
                count(&counters.sent_bytes, size);
                counters.snapshot_sends.lock().observe(started.elapsed());
            }
            Err(error) => {
                let event = describe(Event::warn("failed to send database snapshot"));
                self.core.event(event.text("error", &error));
                if matches!(error, PostError::Removed) {
                    self.core.handler.removed();
                }
                self.status.deactivate("post", "sendMsgSnap", &error.to_string());
                count(&counters.sent_failures, 1);
                count(&counters.snapshot_send_failures, 1);
                self.core.handler.unreachable(self.id);
                self.end.tell(false);
            }
        }
    }

    async fn post(
        &self,
        message: Message,
        database: Box<dyn SnapshotReader>,
    ) -> Result<(), PostError> {
        let url = self.picker.pick().ok_or(PostError::NoAddress)?;
        let posted = async {
            let mut link = self.core.caller.connect(&url).await?;
            let (body, progress) = open(&message, database);
            let call = Call::post("/raft/snapshot", "application/octet-stream", body);
            let answer = ask(&mut link, self.core.local.sign(call), &progress).await?;
            judge_post(&self.core, self.id, &answer)
        };
        let posted = posted.await;
        if posted.is_err() {
            self.picker.unreachable(&url);
        }
        posted
    }
}

/// Starts to read the database.
fn open(message: &Message, mut database: Box<dyn SnapshotReader>) -> (OutBody, Progress) {
    let mut first = BytesMut::new();
    MessageEncoder.encode(message, &mut first);
    let size = database.size();
    let left = first.len() as u64 + size;
    let (send, pieces) = mpsc::channel(limits::SNAPSHOT_PIECES_MAX);
    let taken = Arc::new(AtomicU64::new(0));
    // Ends when the body is gone, or with the database.
    drop(tokio::task::spawn_blocking(move || {
        if send.blocking_send(Ok(first.freeze())).is_err() {
            return;
        }
        let mut offset = 0;
        while offset < size {
            let piece = database.read_at(offset, limits::SNAPSHOT_PIECE_BYTES).and_then(|piece| {
                let is_good = !piece.is_empty() && piece.len() as u64 <= size - offset;
                let bad = || io::Error::other("the database is not as long as it was");
                if is_good { Ok(piece) } else { Err(bad()) }
            });
            offset += piece.as_ref().map_or(size, |piece| piece.len() as u64);
            if send.blocking_send(piece).is_err() {
                return;
            }
        }
    }));
    let progress = Progress { taken: Arc::clone(&taken), size: left };
    (OutBody::Pieces { left, pieces, taken }, progress)
}

/// Waits for the answer as long as the receiver goes on.
async fn ask(link: &mut Link, call: Call, progress: &Progress) -> Result<Answer, PostError> {
    let mut asked = std::pin::pin!(link.ask(call, limits::REFUSAL_BYTES_MAX));
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        tokio::select! {
            answer = &mut asked => return Ok(answer?),
            () = sleep(limits::SNAPSHOT_LOOK_INTERVAL) => {}
        }
        let taken = progress.taken.load(Ordering::Relaxed);
        if taken != seen {
            (seen, since) = (taken, Instant::now());
        } else if seen < progress.size && since.elapsed() > limits::SNAPSHOT_STALL_MAX {
            return Err(PostError::Stalled);
        } else if since.elapsed() > limits::SNAPSHOT_ANSWER_TIMEOUT {
            return Err(CallError::Timeout(limits::SNAPSHOT_ANSWER_TIMEOUT).into());
        }
    }
}
