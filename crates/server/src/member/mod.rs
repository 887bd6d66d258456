//! A running member: the node and its workers on threads, and the face that requests see.
//!
//! ```text
//!  handlers ─► Inbox ─► pump: Node ─┬─► Inbox ─► log thread ────┐
//!      ▲                 ▲          ├─► Inbox ─► apply thread ──┤ receipts
//!      │                 │          └─► Inbox ─► commit thread ─┤
//!      │                 └──────────────────────────────────────┘
//!      └── Waiters ◄── answers (apply thread: entries; pump: the rest)
//! ```
//!
//! *Invariants.*
//! 1. Everything that waits in an inbox when a thread comes to it is taken at once: so one sync
//!    serves all who came while the one before was under way.
//! 2. Handlers never block: a full inbox refuses.
//! 3. After a fatal error nothing is answered any more; the process says the line and ends.
//!
//! *Absent.* Any decision: the node's. Any protocol: the handlers'.

mod inbox;
mod threads;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base::{Clock, ClusterId, MemberId, RequestId, RequestIds, Revision};
use bytes::Bytes;
use node::requests::Rejected;
use node::{Input, NodeConfig, Status, Ticket};
use parking_lot::Mutex;
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, RequestHeader, ResponseHeader};
use proto::membershippb::Attributes;
use storage::bolt;
use storage::datadir::DataDir;
use storage::disk::Disk;
use store::{Applied, Response, Shared, StoreOptions};
use tokio::sync::{oneshot, watch};
use worker::bootstrap::{self, FileOptions, InitialMember, StartError};

use inbox::Inbox;
use waiters::Waiters;

/// Major and minor of the etcd version that this server is.
const SERVER_VERSION: (u64, u64) = (3, 7);

/// Requests that may wait for the pump; more are refused with "too many requests".
const INBOX_MAX: usize = 65_536;

/// What a member is told once.
#[derive(Debug, Clone)]
pub struct MemberConfig {
    /// Where its files are.
    pub dir: DataDir,
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// The members of a new cluster; not looked at when the directory is there.
    pub initial: Vec<InitialMember>,
    /// The token of a new cluster.
    pub token: String,
    /// How files are written.
    pub files: FileOptions,
    /// The length of a tick.
    pub heartbeat: Duration,
    /// Ticks without a leader before an election.
    pub election_ticks: u32,
    /// Whether candidates ask first.
    pub pre_vote: bool,
    /// Applied entries between two snapshots on disk.
    pub snapshot_count: u64,
    /// Applied entries kept in memory.
    pub catchup_entries: u64,
    /// The space quota; `None` for none.
    pub quota_bytes: Option<u64>,
    /// The largest encoded request.
    pub request_bytes_max: usize,
    /// Rows that one slice of a compaction looks at.
    pub compaction_batch: usize,
    /// The pause between two slices.
    pub compaction_pause: Duration,
    /// Files kept that are not needed: log segments and snapshots; 0 is no bound.
    pub kept: (usize, usize),
    /// Learners that the cluster may have.
    pub learners_max: usize,
}

impl MemberConfig {
    /// The shortest lease, in seconds: one and a half election timeouts, rounded up.
    fn min_lease_ttl(&self) -> i64 {
        let ticks = 3 * self.election_ticks / 2;
        let millis = (self.heartbeat * ticks).as_millis();
        i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
    }

    fn election(&self) -> Duration {
        self.heartbeat * self.election_ticks
    }
}

/// Hears what happens on the member's threads, for logs and metrics. Must be quick.
pub trait Observer: Send + Sync {
    /// The log was synced.
    fn wal_synced(&self, took: Duration);
    /// The database was committed.
    fn database_committed(&self, took: Duration);
    /// An entry is applied.
    fn applied(&self, applied: &Applied, took: Duration);
    /// A snapshot is on disk.
    fn snapshot_saved(&self, index: u64);
    /// A compaction has removed its rows.
    fn compaction_finished(&self, revision: i64, took: Duration);
    /// Another member leads, or none.
    fn leader_changed(&self, leader: MemberId, term: u64);
    /// A torn end was cut off the log.
    fn wal_repaired(&self, what: &str);
    /// One of the two meta pages of the database is damaged; the other was used.
    fn meta_page_damaged(&self, what: &str);
}

/// An applied request.
#[derive(Debug)]
pub struct Answer {
    /// Its outcome; the header has the revision only.
    pub response: Response,
}

/// A handle on a running member. Clones are cheap.
#[derive(Clone)]
pub struct Member(Arc<Inner>);

struct Inner {
    id: MemberId,
    cluster: ClusterId,
    store: Arc<Shared>,
    ids: Arc<RequestIds>,
    request_bytes_max: usize,
    request_timeout: Duration,
    tickets: AtomicU64,
    links: Arc<Links>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// What the threads and the handles share.
struct Links {
    inbox: Inbox<Input>,
    proposals: Waiters<Result<Response, Rejected>>,
    tickets: Waiters<Result<(), Rejected>>,
    status: Mutex<Status>,
    term: AtomicU64,
    /// Reads need no index: see [`Status::is_alone`].
    is_alone: AtomicBool,
    /// The database as of its last commit.
    committed: Mutex<bolt::View>,
    published: watch::Sender<bool>,
    stopped: watch::Sender<bool>,
    fatal: watch::Sender<Option<String>>,
}

impl Member {
    /// Opens the directory, or makes it, and starts the threads.
    pub fn start(
        config: MemberConfig,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        let MemberConfig { dir, name, initial, token, files, .. } = &config;
        bootstrap::create(&disk, dir, name, initial, token, files)?;
        let now = clock.now();
        let options = |identity: bootstrap::Identity| StoreOptions {
            member: identity.member,
            quota_bytes: config.quota_bytes,
            min_lease_ttl: config.min_lease_ttl(),
            compaction_batch: config.compaction_batch,
            learners_max: config.learners_max,
            server_version: SERVER_VERSION,
        };
        let opened = bootstrap::open(&disk, dir, files, options, now)?;
        if let Some(repair) = &opened.repaired {
            observer.wal_repaired(&repair.to_string());
        }
        if let Some(damage) = opened.database.damaged_meta() {
            observer.meta_page_damaged(&damage.finding());
        }
        let bootstrap::Identity { member: id, cluster } = opened.identity;
        let ids = Arc::new(RequestIds::new(id, clock.unix_ms()));
        let store = opened.store.handle();
        let node = NodeConfig {
            member: id,
            attributes: Attributes { name: name.clone(), client_urls: config.client_urls.clone() },
            heartbeat: config.heartbeat,
            election_ticks: config.election_ticks,
            pre_vote: config.pre_vote,
            snapshot_count: config.snapshot_count,
            catchup_entries: config.catchup_entries,
            server_version: SERVER_VERSION,
            seed: id.get() ^ clock.unix_ms(),
        };
        let links = Arc::new(Links {
            inbox: Inbox::default(),
            proposals: Waiters::default(),
            tickets: Waiters::default(),
            status: Mutex::new(Status {
                leader: MemberId::NONE,
                term: opened.restored.term(),
                committed: opened.restored.applied(),
                applied: opened.restored.applied(),
                database: opened.store.applied().0,
                is_learner: false,
                is_alone: false,
            }),
            is_alone: AtomicBool::new(false),
            term: AtomicU64::new(opened.restored.term().get()),
            committed: Mutex::new(opened.database.view()),
            published: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
            fatal: watch::Sender::new(None),
        });
        let request_timeout = node::node::request_timeout(config.election());
        let request_bytes_max = config.request_bytes_max;
        let parts = threads::Parts { config, node, opened, disk, clock, observer };
        let threads = threads::spawn(parts, Arc::clone(&ids), &links)?;
        Ok(Self(Arc::new(Inner {
            id,
            cluster,
            store,
            ids,
            request_bytes_max,
            request_timeout,
            tickets: AtomicU64::new(0),
            links,
            threads: Mutex::new(threads),
        })))
    }

    /// Who it is.
    pub fn id(&self) -> MemberId {
        self.0.id
    }

    /// Its cluster.
    pub fn cluster_id(&self) -> ClusterId {
        self.0.cluster
    }

    /// The replicated state, for readers.
    pub fn store(&self) -> &Shared {
        &self.0.store
    }

    /// The same, to keep.
    pub fn store_arc(&self) -> Arc<Shared> {
        Arc::clone(&self.0.store)
    }

    /// Where the consensus stands.
    pub fn status(&self) -> Status {
        *self.0.links.status.lock()
    }

    /// The header of an answer.
    pub fn header(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.0.cluster.get(),
            member_id: self.0.id.get(),
            revision: revision.get(),
            raft_term: self.0.links.term.load(Ordering::Relaxed),
        }
    }

    /// How many proposals wait for their answer.
    pub fn proposals_pending(&self) -> usize {
        self.0.links.proposals.len()
    }

    /// Puts a request into the log and waits until it is applied here. Encodes before it waits,
    /// so that the wait does not carry the request around.
    pub fn propose(
        &self,
        mut request: InternalRaftRequest,
    ) -> impl Future<Output = Result<Answer, Rejected>> + Send + '_ {
        let id = self.0.ids.next();
        request.header = Some(RequestHeader { id: id.get(), ..RequestHeader::default() });
        let data = Bytes::from(request.encode_to_vec());
        self.propose_encoded(id, data)
    }

    async fn propose_encoded(&self, id: RequestId, data: Bytes) -> Result<Answer, Rejected> {
        if data.len() > self.0.request_bytes_max {
            return Err(Rejected::RequestTooLarge);
        }
        let links = &self.0.links;
        let answer = links.proposals.wait(id.get());
        self.send(Input::Propose { id, data }).inspect_err(|_| self.forget(id))?;
        match tokio::time::timeout(self.0.request_timeout, answer).await {
            Ok(Ok(result)) => result.map(|response| Answer { response }),
            Ok(Err(_)) => Err(Rejected::Stopped),
            Err(_) => {
                self.forget(id);
                // etcd's proposal waits for a leader in a place that knows no better text.
                let has_leader = self.status().leader != MemberId::NONE;
                Err(if has_leader { Rejected::Timeout } else { Rejected::DeadlineExceeded })
            }
        }
    }

    fn forget(&self, id: RequestId) {
        self.0.links.proposals.forget(id.get());
    }

    fn send(&self, input: Input) -> Result<(), Rejected> {
        match self.0.links.inbox.offer(input, INBOX_MAX) {
            inbox::Offered::Taken => Ok(()),
            inbox::Offered::Full => Err(Rejected::TooManyRequests),
            inbox::Offered::Closed => Err(Rejected::Stopped),
        }
    }

    async fn ask(&self, input: impl FnOnce(Ticket) -> Input) -> Result<(), Rejected> {
        let ticket = self.0.tickets.fetch_add(1, Ordering::Relaxed);
        let links = &self.0.links;
        let answer: oneshot::Receiver<_> = links.tickets.wait(ticket);
        let sent = self.send(input(Ticket(ticket)));
        let result = match sent {
            Err(refusal) => Err(refusal),
            Ok(()) => match tokio::time::timeout(self.0.request_timeout, answer).await {
                Ok(Ok(result)) => return result,
                Ok(Err(_)) => Err(Rejected::Stopped),
                Err(_) => Err(Rejected::Timeout),
            },
        };
        links.tickets.forget(ticket);
        result
    }

    /// Waits until the published view is at least as new as the cluster was at the call.
    pub async fn read_index(&self) -> Result<(), Rejected> {
        // An answer leaves after the view that has its write is published. While nobody else
        // could have answered, the view has everything.
        if self.0.links.is_alone.load(Ordering::Acquire) {
            return Ok(());
        }
        self.ask(|ticket| Input::ReadIndex { ticket }).await
    }

    /// Brings everything that is applied into the database, and returns its state.
    pub async fn commit_now(&self) -> Result<bolt::View, Rejected> {
        self.ask(|ticket| Input::CommitDatabase { ticket }).await?;
        Ok(self.0.links.committed.lock().clone())
    }

    /// Waits until the cluster knows this member's name and addresses: it can serve.
    pub async fn published(&self) {
        let mut published = self.0.links.published.subscribe();
        // Fails only when the threads are gone: then `fatal` or `stop` tells.
        let _ended = published.wait_for(|published| *published).await;
    }

    /// Waits for an error after which the process must not go on, and returns its line.
    pub async fn fatal(&self) -> String {
        let mut fatal = self.0.links.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(line) => line.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes nothing new, brings everything into the database and closes the files.
    pub async fn stop(&self) {
        self.0.links.inbox.push(Input::Stop);
        let mut stopped = self.0.links.stopped.subscribe();
        let _ended = stopped.wait_for(|stopped| *stopped).await;
        for thread in self.0.threads.lock().drain(..) {
            // A thread that panicked has said so already.
            let _panicked = thread.join();
        }
    }
}
