//! Posts messages one by one, while there is no stream.
//!
//! *Contract.* `pipeline.go` in `server/etcdserver/api/rafthttp` of etcd v3.7.1.

use std::collections::VecDeque;
use std::sync::Arc;

use base::MemberId;
use bytes::Bytes;
use net::Url;
use parking_lot::Mutex;
use prost::Message as _;
use proto::raftpb::Message;
use thiserror::Error;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::call::{Answer, Call, CallError, Kept, OutBody};
use crate::core::{Core, kind_name};
use crate::event::{Event, Level};
use crate::limits;
use crate::local::{CLUSTER_ID, CLUSTER_MISMATCH, INCOMPATIBLE_VERSION};
use crate::status::{Picker, Status, count};
use crate::writer::dropped;

/// What waits to be posted to one member, and who posts it.
pub(crate) struct Pipeline {
    id: MemberId,
    core: Arc<Core>,
    status: Arc<Status>,
    picker: Arc<Picker>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// At most `PIPELINE_MESSAGES_MAX`.
    queue: VecDeque<Message>,
    /// Tasks that post until the queue is empty: `active <= PIPELINE_POSTS_MAX`, and above 0
    /// while messages wait.
    active: usize,
    /// Of these tasks, and of some that have just ended.
    workers: Vec<AbortHandle>,
    /// Connections of workers that have ended, not more than those.
    kept: Vec<Kept>,
    is_stopped: bool,
}

/// Why a member did not take a post.
#[derive(Debug, Error)]
pub(crate) enum PostError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("member has no address that can be dialed")]
    NoAddress,
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("{}", INCOMPATIBLE_VERSION)]
    Version,
    #[error("{}", CLUSTER_MISMATCH)]
    Cluster,
    #[error("unhandled error {0:?} when precondition failed")]
    Precondition(String),
    #[error("peer refused the message: {0}")]
    Forbidden(String),
    #[error("unexpected http status {0}: {1}")]
    Status(u16, String),
    /// Nothing was taken for this long.
    #[error("receiver takes nothing")]
    Stalled,
}

impl Pipeline {
    pub(crate) fn new(
        id: MemberId,
        core: Arc<Core>,
        status: Arc<Status>,
        picker: Arc<Picker>,
    ) -> Arc<Self> {
        let event = Event::info("started HTTP pipelining with remote peer");
        let pipeline = Self { id, core, status, picker, state: Mutex::default() };
        pipeline.core.event(pipeline.describe(event));
        Arc::new(pipeline)
    }

    /// Takes a message, or drops it when there is no room.
    pub(crate) fn push(self: &Arc<Self>, message: Message) {
        let mut state = self.state.lock();
        if state.is_stopped {
            return;
        }
        if state.queue.len() >= limits::PIPELINE_MESSAGES_MAX {
            drop(state);
            dropped(&self.core, &self.status, self.id, kind_name(&message), "pipeline");
            return;
        }
        state.queue.push_back(message);
        state.workers.retain(|worker| !worker.is_finished());
        if state.active < limits::PIPELINE_POSTS_MAX {
            state.active += 1;
            let work = Arc::clone(self).work();
            state.workers.push(self.core.runtime.spawn(work).abort_handle());
        }
    }

    async fn work(self: Arc<Self>) {
        let mut kept = self.state.lock().kept.pop().unwrap_or_default();
        loop {
            let message = {
                let mut state = self.state.lock();
                match state.queue.pop_front() {
                    Some(message) => message,
                    None => {
                        state.active -= 1;
                        if state.kept.len() < limits::PIPELINE_POSTS_MAX {
                            state.kept.push(kept);
                        }
                        return;
                    }
                }
            };
            let bytes = Bytes::from(message.encode_to_vec());
            let length = bytes.len() as u64;
            match self.post(bytes, &mut kept).await {
                Ok(()) => {
                    self.status.activate();
                    count(&self.status.counters.sent_bytes, length);
                }
                Err(error) => {
                    self.status.deactivate("write", "pipeline", &error.to_string());
                    count(&self.status.counters.sent_failures, 1);
                    if matches!(error, PostError::Removed) {
                        self.core.handler.removed();
                    }
                    self.core.handler.unreachable(self.id);
                }
            }
        }
    }

    async fn post(&self, message: Bytes, kept: &mut Kept) -> Result<(), PostError> {
        let url = self.picker.pick().ok_or(PostError::NoAddress)?;
        let posted = self.post_to(&url, message, kept).await;
        if posted.is_err() {
            self.picker.unreachable(&url);
        }
        posted
    }

    async fn post_to(&self, url: &Url, message: Bytes, kept: &mut Kept) -> Result<(), PostError> {
        let call = || {
            let body = OutBody::of(message.clone());
            self.core.local.sign(Call::post("/raft", "application/protobuf", body))
        };
        // A kept connection may have been closed meanwhile; raft takes a message twice.
        if let Some(mut link) = kept.take(url) {
            let asked = link.ask(call(), limits::REFUSAL_BYTES_MAX);
            if let Ok(Ok(answer)) = timeout(limits::POST_TIMEOUT, asked).await {
                kept.put(link, url);
                return judge_post(&self.core, self.id, &answer);
            }
        }
        let mut link = self.core.caller.connect(url).await?;
        let asked = link.ask(call(), limits::REFUSAL_BYTES_MAX);
        let within = limits::POST_TIMEOUT;
        let answer = timeout(within, asked).await.map_err(|_| CallError::Timeout(within))??;
        kept.put(link, url);
        judge_post(&self.core, self.id, &answer)
    }

    /// Ends all posts; what waits is dropped.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        for worker in &state.workers {
            worker.abort();
        }
        *state = State { is_stopped: true, ..State::default() };
        drop(state);
        let event = Event::info("stopped HTTP pipelining with remote peer");
        self.core.event(self.describe(event));
    }

    fn describe(&self, event: Event) -> Event {
        event.text("local-member-id", self.core.local.id).text("remote-peer-id", self.id)
    }
}

/// What the answer to a post means; tells what an operator must know.
pub(crate) fn judge_post(core: &Core, id: MemberId, answer: &Answer) -> Result<(), PostError> {
    let text = answer.text();
    match (answer.status, text.as_str()) {
        (204, _) => Ok(()),
        (412, INCOMPATIBLE_VERSION) => {
            let event = Event::new(Level::Error, "request sent was ignored by peer")
                .text("remote-peer-id", id);
            core.event_rarely(id, event);
            Err(PostError::Version)
        }
        (412, CLUSTER_MISMATCH) => {
            let what = "request sent was ignored due to cluster ID mismatch";
            let theirs = answer.header(CLUSTER_ID.as_str()).unwrap_or_default();
            let event = Event::new(Level::Error, what)
                .text("remote-peer-id", id)
                .text("remote-peer-cluster-id", theirs)
                .text("local-member-cluster-id", core.local.cluster);
            core.event_rarely(id, event);
            Err(PostError::Cluster)
        }
        (412, _) => Err(PostError::Precondition(text)),
        // A real member says the same to whoever has the wrong id for it, which is no removal.
        (403, text) if text.contains("mismatch member") => {
            let event = Event::warn("request sent was ignored by peer with another ID")
                .text("remote-peer-id", id);
            core.event_rarely(id, event);
            Err(PostError::Forbidden(text.to_owned()))
        }
        (403, _) => Err(PostError::Removed),
        (status, _) => Err(PostError::Status(status, text)),
    }
}
