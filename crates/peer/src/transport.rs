//! All connections with other members.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use base::{ClusterId, MemberId};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use net::Url;
use proto::raftpb::Message;
use tokio::runtime::Handle;

use crate::call::Caller;
use crate::client::Client;
use crate::dial::Dial;
use crate::handler::{Handler, SnapshotReader};
use crate::local::Local;
use crate::version::Version;

/// What a transport must know.
pub struct TransportConfig {
    /// This member.
    pub id: MemberId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Where others reach it (`--initial-advertise-peer-urls`).
    pub urls: Vec<Url>,
    /// What it announces: [`Version::ETCD`].
    pub version: Version,
    /// The oldest version it works with: [`Version::MIN_CLUSTER`].
    pub min_cluster_version: Version,
    /// How others are reached.
    pub dial: Arc<dyn Dial>,
    /// How long reaching one may take (etcd: the election timeout and a second).
    pub dial_timeout: Duration,
    /// Where the tasks of the transport run.
    pub runtime: Handle,
}

/// All connections with other members. Cheap to clone.
#[derive(Clone)]
pub struct Transport(Arc<Shared>);

struct Shared {
    local: Local,
    handler: Arc<dyn Handler>,
    caller: Caller,
    runtime: Handle,
}

impl Transport {
    /// A transport without peers. It does nothing before it has some.
    pub fn new(config: TransportConfig, handler: Arc<dyn Handler>) -> Self {
        let versions = (config.version, config.min_cluster_version);
        let local = Local::new(config.id, config.cluster, versions, &config.urls);
        let caller = Caller { dial: config.dial, dial_timeout: config.dial_timeout };
        Self(Arc::new(Shared { local, handler, caller, runtime: config.runtime }))
    }

    /// Makes these the peers: adds, updates and removes. This member itself is skipped.
    pub fn set_members(&self, _members: &[(MemberId, Vec<String>)]) {}

    /// Adds a member that is not (yet) known to be one, so that it can be answered.
    pub fn add_remote(&self, _id: MemberId, _urls: &[String]) {}

    /// Sends messages, each to its receiver. Never waits: what does not fit is dropped, and the
    /// receiver reported as unreachable. What is for nobody known is dropped.
    pub fn send(&self, _messages: Vec<Message>) {}

    /// Sends a `MsgSnap` with its database. [`Handler::snapshot_sent`] tells the end of it.
    pub fn send_snapshot(&self, _message: Message, _database: Box<dyn SnapshotReader>) {}

    /// Since when a peer has answered; `None` while it does not.
    pub fn active_since(&self, _id: MemberId) -> Option<Instant> {
        None
    }

    /// How many peers answer.
    pub fn active_peers(&self) -> usize {
        0
    }

    /// Asks other members over the same dial.
    pub fn client(&self) -> Client {
        Client::of(self.0.caller.clone())
    }

    /// Drops everything to and from all peers, for tests.
    pub fn pause(&self) {}

    /// Ends [`Self::pause`].
    pub fn resume(&self) {}

    /// Drops everything to and from one peer, for tests.
    pub fn cut(&self, _id: MemberId) {}

    /// Ends [`Self::cut`].
    pub fn mend(&self, _id: MemberId) {}

    /// Closes all connections for good. Answers under way end.
    pub fn stop(&self) {}

    /// Whether a path of the peer port is this crate's: `/raft` and all below.
    pub fn serves(path: &str) -> bool {
        path == "/raft" || path.starts_with("/raft/")
    }

    /// Answers a request on the peer port for which [`Self::serves`].
    pub async fn serve(&self, _request: Request<Incoming>) -> Response<Body> {
        Response::new(Body)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("id", &self.0.local.id).finish_non_exhaustive()
    }
}

/// What goes back to another member.
#[derive(Debug)]
pub struct Body;

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}
