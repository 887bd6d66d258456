//! Watches keys for commands that act on what they see instead of printing it.
//!
//! *Invariants.* [`Follower`] gives every event from its start revision on exactly once, over as
//! many streams as that takes. When it cannot, it says that history is missing or why it ended.
//!
//! *Absent.* Many watches on one stream, and printing: see `watch`.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::client::{Client, RequestError};
use super::global::Settings;

/// Between a stream that broke and the next one.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// What etcd says when the history that is asked for is gone.
pub(super) const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// Why no more events come.
#[derive(Debug)]
pub(super) enum Ended {
    /// The revisions to begin at are not kept any more.
    Compacted,
    /// The member does not allow the watch, for this reason.
    Refused(String),
    /// The stream broke.
    Broken(RequestError),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Compacted => f.write_str(COMPACTED),
            Ended::Refused(reason) => f.write_str(reason),
            Ended::Broken(error) => write!(f, "{error}"),
        }
    }
}

/// One watch on one stream.
pub(super) struct Events {
    client: Rc<Client>,
    /// Held, since a stream whose requests have ended is ended by the member.
    _requests: mpsc::Sender<pb::WatchRequest>,
    answers: tonic::Streaming<pb::WatchResponse>,
}

impl Events {
    /// Asks for a watch; whether it is granted shows in the first call of [`Events::next`].
    pub(super) async fn open(
        client: Rc<Client>,
        request: pb::WatchCreateRequest,
    ) -> Result<Events, RequestError> {
        let (requests, queue) = mpsc::channel(1);
        let create = RequestUnion::CreateRequest(request);
        let create = pb::WatchRequest { request_union: Some(create) };
        requests.try_send(create).expect("a new channel has room for one");
        let request = client.request_with_leader(ReceiverStream::new(queue));
        let answers = client.watch().watch(request).await?.into_inner();
        Ok(Events { client, _requests: requests, answers })
    }

    /// The next events, or none with the revision up to which there are none.
    pub(super) async fn next(&mut self) -> Result<pb::WatchResponse, Ended> {
        loop {
            let answer = self.client.next(&mut self.answers).await.map_err(Ended::Broken)?;
            let Some(answer) = answer else {
                let status = Status::unavailable("the watch stream has ended");
                return Err(Ended::Broken(status.into()));
            };
            if answer.compact_revision != 0 {
                return Err(Ended::Compacted);
            }
            if answer.canceled {
                return Err(Ended::Refused(answer.cancel_reason));
            }
            if !answer.created {
                return Ok(answer);
            }
        }
    }
}

/// A watch that goes on over another stream when one breaks.
pub(super) struct Follower {
    settings: Rc<Settings>,
    /// Its start revision moves on with what has been given out.
    request: pb::WatchCreateRequest,
    events: Option<Events>,
}

impl Follower {
    /// Watches a range of keys from a revision on.
    pub(super) fn new(
        settings: Rc<Settings>,
        (key, range_end): (Bytes, Bytes),
        start_revision: i64,
    ) -> Follower {
        let request =
            pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
        Follower { settings, request, events: None }
    }

    /// The next answer that has events.
    pub(super) async fn next(&mut self) -> Result<pb::WatchResponse, Ended> {
        loop {
            match self.try_next().await {
                Ok(answer) => {
                    let last = answer.events.last().and_then(|event| event.kv.as_ref());
                    if let Some(last) = last {
                        let next = last.mod_revision + 1;
                        self.request.start_revision = self.request.start_revision.max(next);
                        return Ok(answer);
                    }
                }
                Err(Ended::Broken(error)) if error.is_transient() => {
                    self.events = None;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(ended) => return Err(ended),
            }
        }
    }

    async fn try_next(&mut self) -> Result<pb::WatchResponse, Ended> {
        let events = match &mut self.events {
            Some(events) => events,
            None => {
                let client = connect(&self.settings).await.map_err(Ended::Broken)?;
                let opened = Events::open(Rc::new(client), self.request.clone()).await;
                self.events.insert(opened.map_err(Ended::Broken)?)
            }
        };
        events.next().await
    }
}

/// Connects and logs in for as long as it takes, for a command that has been under way already.
/// That the member knows the user no more is an error like any other then.
pub(super) async fn connect(settings: &Settings) -> Result<Client, RequestError> {
    let client = Client::begin(settings, &settings.endpoints, None)
        .map_err(|failure| Status::failed_precondition(failure.reason().to_owned()))?;
    client.log_in_again().await?;
    Ok(client)
}
