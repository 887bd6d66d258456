//! Tells of every leader of an election, and of everything it proclaims.
//!
//! ```text
//!        ┌──────────── its key is deleted ◄────────────┐
//!        ▼                                             │
//!  look for the oldest key ── there is one ──► follow that key ─► each put
//!        │ none                                        ▲
//!        └──► wait for a put under the name ───────────┘
//! ```

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;

use base::Revision;
use bytes::Bytes;
use node::requests::watch::{Limits, Session};
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};
use proto::v3electionpb::{LeaderRequest, LeaderResponse};

use super::line::Line;
use super::refused;
use crate::api::Api;
use crate::grpc::{self, Status};
use crate::metrics::Metrics;

/// What the observer is told when it cannot be told everything any more.
const CLOSED: &str = "election: observe closed early";

/// A watch of some keys from a revision on, event by event.
struct Feed {
    session: Session,
    metrics: Arc<Metrics>,
    /// Each with the revision that its answer tells.
    events: VecDeque<(Event, Revision)>,
}

impl Feed {
    fn new(api: &Arc<Api>, key: Bytes, range_end: Bytes, from: Revision) -> Self {
        let limits: Limits = api.options.watch;
        let mut session = Session::new(Arc::clone(&api.store), limits, &mut api.rng());
        let start_revision = from.get();
        let create =
            WatchCreateRequest { key, range_end, start_revision, ..WatchCreateRequest::default() };
        let request_union = Some(RequestUnion::CreateRequest(create));
        session.handle(WatchRequest { request_union });
        let metrics = Arc::clone(&api.metrics);
        metrics.watchers.increment();
        Self { session, metrics, events: VecDeque::new() }
    }

    async fn next(&mut self) -> Result<(Event, Revision), Status> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let session = &mut self.session;
            let responses = poll_fn(|context| session.poll_responses(context.waker()));
            for response in responses.await? {
                if response.canceled {
                    return Err(refused(CLOSED));
                }
                for event in &response.events {
                    self.events.push_back((grpc::wire::decode(event)?, response.revision));
                }
            }
            // Who catches up must not keep the lane for itself.
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.metrics.watchers_ended.increment();
    }
}

enum State {
    Looking,
    /// Nobody leads.
    Waiting(Feed),
    /// Of the leader's key.
    Following(Feed),
}

/// One observer of one election.
pub(crate) struct Observer {
    api: Arc<Api>,
    line: Line,
    state: State,
}

impl Observer {
    pub(crate) fn new(api: Arc<Api>, request: &LeaderRequest) -> Self {
        Self { api, line: Line::of(&request.name), state: State::Looking }
    }

    /// Waits for what is next to be told.
    pub(crate) async fn next(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            match &mut self.state {
                State::Looking => {
                    self.api.read_index().await.map_err(|_| refused(CLOSED))?;
                    let (view, first) = self.line.first(&self.api).await?;
                    let next = view.revision().next();
                    if let Some(leader) = first {
                        let told = view.revision();
                        return Ok(self.follow(leader, told, next));
                    }
                    let Line { prefix, end } = self.line.clone();
                    self.state = State::Waiting(Feed::new(&self.api, prefix, end, next));
                }
                State::Waiting(feed) => {
                    let (event, _) = feed.next().await?;
                    if event.r#type == EventType::Put as i32
                        && let Some(leader) = event.kv
                    {
                        let told = Revision(leader.mod_revision);
                        return Ok(self.follow(leader, told, told.next()));
                    }
                }
                State::Following(feed) => {
                    let (event, revision) = feed.next().await?;
                    if event.r#type == EventType::Put as i32 {
                        let header = Some(self.api.member.header(revision));
                        return Ok(LeaderResponse { header, kv: event.kv });
                    }
                    self.state = State::Looking;
                }
            }
        }
    }

    fn follow(&mut self, leader: KeyValue, told: Revision, from: Revision) -> LeaderResponse {
        let key = leader.key.clone();
        self.state = State::Following(Feed::new(&self.api, key, Bytes::new(), from));
        LeaderResponse { header: Some(self.api.member.header(told)), kv: Some(leader) }
    }
}
