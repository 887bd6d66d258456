//! A running member: the node and its workers on threads, and the face that requests see.
//!
//! ```text
//!  handlers ─► Inbox ─► pump: Node ─┬─► Inbox ─► log thread ────┐
//!      ▲        ▲        ▲          ├─► Inbox ─► apply thread ──┤ receipts
//!      │        │        │          ├─► Inbox ─► commit thread ─┤
//!      │        │        └──────────┼───────────────────────────┘
//!      │        └─ other members ◄──┴─► transport
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

mod busy;
mod config;
mod heartbeats;
mod inbox;
mod network;
mod threads;
mod timeline;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{Clock, ClusterId, MemberId, Moment, RequestId, RequestIds, Revision};
use bytes::Bytes;
use node::requests::Rejected;
use node::{Input, Progress, Status, Ticket};
use parking_lot::Mutex;
use peer::{Transport, TransportConfig};
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, RequestHeader, ResponseHeader};
use proto::raftpb::ConfChange;
use storage::bolt;
use storage::disk::Disk;
use store::{Response, Shared};
use tokio::sync::{oneshot, watch};
use worker::Place;
use worker::bootstrap::{self, Identity, StartError};

use busy::Busy;
pub use config::{Beginning, MemberConfig, Observer};
use inbox::Inbox;
pub use network::Network;
use network::{Mailbox, Outlet, Received};
use timeline::Timeline;
pub use timeline::{Spent, Steps};
use waiters::Waiters;

/// Major and minor of the etcd version that this server is.
const SERVER_VERSION: (u64, u64) = (3, 7);

/// What is added to the election timeout for reaching another member.
const DIAL_EXTRA: Duration = peer::limits::DIAL_TIMEOUT_EXTRA;

/// Requests that may wait for the pump; more are refused with "too many requests".
const INBOX_MAX: usize = 65_536;

impl Links {
    fn new(opened: &bootstrap::Opened) -> Self {
        Self {
            inbox: Inbox::default(),
            proposals: Waiters::default(),
            conf_changes: Waiters::default(),
            progress: Waiters::default(),
            tickets: Waiters::default(),
            status: Mutex::new(Status {
                leader: MemberId::NONE,
                term: opened.restored.term(),
                vote: MemberId::NONE,
                role: raft::Role::Follower,
                transferee: MemberId::NONE,
                committed: opened.restored.applied(),
                applied: opened.restored.applied(),
                database: opened.store.applied().0,
                is_learner: false,
                is_alone: false,
            }),
            is_learner: AtomicBool::new(false),
            is_alone: AtomicBool::new(false),
            term: AtomicU64::new(opened.restored.term().get()),
            committed: Mutex::new(opened.database.view()),
            ticked: AtomicU64::new(0),
            logging: Busy::default(),
            committing: Busy::default(),
            received: Received::default(),
            timeline: Timeline::default(),
            elected: Mutex::default(),
            published: watch::Sender::new(false),
            removed: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
            fatal: watch::Sender::new(None),
        }
    }
}

/// An applied request.
#[derive(Debug)]
pub struct Answer {
    /// Its outcome; the header has the revision only.
    pub response: Response,
    /// When it was committed and applied.
    pub steps: Steps,
}

/// A handle on a running member. Clones are cheap.
#[derive(Clone)]
pub struct Member(Arc<Inner>);

struct Inner {
    id: MemberId,
    cluster: ClusterId,
    store: Arc<Shared>,
    transport: Option<Transport>,
    ids: Arc<RequestIds>,
    request_bytes_max: usize,
    request_timeout: Duration,
    election: Duration,
    tickets: AtomicU64,
    links: Arc<Links>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Links {
    /// Tells where the node stands.
    fn show(&self, status: Status) {
        self.term.store(status.term.get(), Ordering::Relaxed);
        self.is_alone.store(status.is_alone, Ordering::Release);
        self.is_learner.store(status.is_learner, Ordering::Relaxed);
        *self.status.lock() = status;
    }
}

/// What the threads and the handles share.
struct Links {
    inbox: Inbox<Input>,
    proposals: Waiters<Result<Answer, Rejected>>,
    conf_changes: Waiters<Result<Vec<store::Member>, Rejected>>,
    tickets: Waiters<Result<(), Rejected>>,
    progress: Waiters<Option<Progress>>,
    status: Mutex<Status>,
    /// Of the status, for every call.
    is_learner: AtomicBool,
    term: AtomicU64,
    /// Reads need no index: see [`Status::is_alone`].
    is_alone: AtomicBool,
    /// The database as of its last commit.
    committed: Mutex<bolt::View>,
    /// When the pump went round last, in nanoseconds of the clock.
    ticked: AtomicU64,
    /// The log and the database, while they are written.
    logging: Busy,
    committing: Busy,
    /// What other members have waiting in the inbox.
    received: Received,
    timeline: Timeline,
    /// When this member was elected last.
    elected: Mutex<Option<Instant>>,
    published: watch::Sender<bool>,
    /// This member was removed from the cluster.
    removed: watch::Sender<bool>,
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
        let opened = config.open(&disk, &*clock, &*observer)?;
        let Identity { member: id, cluster } = opened.identity;
        let ids = Arc::new(RequestIds::new(id, clock.unix_ms()));
        let store = opened.store.handle();
        let node = config.node(id, &*clock);
        let links = Arc::new(Links::new(&opened));
        let place = Place {
            disk: Arc::clone(&disk),
            dir: config.dir.clone(),
            database: config.files.database,
        };
        let transport = config.network.clone().map(|network| {
            let mailbox = Mailbox {
                links: Arc::clone(&links),
                store: Arc::clone(&store),
                place: place.clone(),
                observer: Arc::clone(&observer),
                receiving: Arc::default(),
                told: Mutex::default(),
            };
            let transport = TransportConfig {
                id,
                cluster,
                urls: network.urls,
                version: network.version,
                min_cluster_version: peer::Version::MIN_CLUSTER,
                dial: network.dial,
                dial_timeout: config.election() + DIAL_EXTRA,
                runtime: network.runtime,
            };
            Transport::new(transport, Arc::new(mailbox))
        });
        let known = config.network.as_ref().map_or_else(Vec::new, |network| network.known.clone());
        let outlet = Outlet { transport: transport.clone(), known };
        outlet.set_members(&store);
        let election = config.election();
        let request_timeout = node::node::request_timeout(election);
        let request_bytes_max = config.request_bytes_max;
        let parts = threads::Parts { config, node, opened, place, outlet, clock, observer };
        let threads = threads::spawn(parts, Arc::clone(&ids), &links)?;
        Ok(Self(Arc::new(Inner {
            id,
            cluster,
            store,
            transport,
            ids,
            request_bytes_max,
            request_timeout,
            election,
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

    /// Whether it has no vote.
    pub fn is_learner(&self) -> bool {
        self.0.links.is_learner.load(Ordering::Relaxed)
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

    /// The connections with other members; `None` for a member without a network.
    pub fn transport(&self) -> Option<&Transport> {
        self.0.transport.as_ref()
    }

    /// Asks other members what is not said by raft.
    pub fn peers(&self) -> Option<peer::Client> {
        self.0.transport.as_ref().map(Transport::client)
    }

    /// Tells the node what other members say their versions are.
    pub fn tell_versions(&self, versions: Vec<(MemberId, Option<String>)>) {
        self.0.links.inbox.push(Input::MemberVersions { versions });
    }

    /// Tells the node that enough members are connected for an election.
    pub fn tell_connected(&self) {
        self.0.links.inbox.push(Input::Connected);
    }

    /// Messages of other members that did not fit in.
    pub fn messages_dropped(&self) -> u64 {
        self.0.links.received.dropped()
    }

    /// How much waits for the pump.
    pub fn inbox_depth(&self) -> usize {
        self.0.links.inbox.len()
    }

    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        self.0.request_timeout
    }

    /// Where the time of a proposal went that was offered then, and has ended now.
    pub fn spent(&self, offered: Moment, steps: Option<Steps>, now: Moment) -> Spent {
        self.0.links.timeline.spent(offered, steps, now)
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
        let mut waiting = links.proposals.watch(id.get());
        self.send(Input::Propose { id, data })?;
        match tokio::time::timeout(self.0.request_timeout, answer).await {
            Ok(Ok(result)) => {
                waiting.answered();
                result
            }
            Ok(Err(_)) => Err(Rejected::Stopped),
            Err(_) => {
                // etcd's proposal waits for a leader in a place that knows no better text.
                let has_leader = self.status().leader != MemberId::NONE;
                // Not kept through the wait, which is to stay small.
                let (now, waited) = (Instant::now(), self.0.request_timeout);
                let begun = now.checked_sub(waited).unwrap_or(now);
                Err(if has_leader { self.timeout(begun) } else { Rejected::DeadlineExceeded })
            }
        }
    }

    /// Why a proposal that was made then may have come to nothing.
    fn timeout(&self, begun: Instant) -> Rejected {
        let lost = |elected: Instant| elected.checked_sub(2 * self.0.election).unwrap_or(elected);
        let elected = *self.0.links.elected.lock();
        if elected.is_some_and(|elected| lost(elected) < begun && begun < elected) {
            return Rejected::TimeoutLeaderFail;
        }
        let Some(transport) = &self.0.transport else { return Rejected::Timeout };
        let is_connected =
            |id: MemberId| transport.active_since(id).is_some_and(|since| since < begun);
        let leader = self.status().leader;
        let is_fine = if leader == self.0.id {
            let members = self.0.store.members();
            let others = members.iter().filter(|member| member.id != self.0.id);
            let connected = others.filter(|member| is_connected(member.id)).count() + 1;
            connected > members.len() / 2
        } else {
            leader == MemberId::NONE || is_connected(leader)
        };
        if is_fine { Rejected::Timeout } else { Rejected::TimeoutConnectionLost }
    }

    /// Puts a change of the members into the log, with an id of its own, waits until it is applied
    /// here, and returns the members after it.
    pub async fn propose_conf_change(
        &self,
        mut change: ConfChange,
    ) -> Result<Vec<store::Member>, Rejected> {
        let id = self.0.ids.next();
        change.id = Some(id.get());
        let waiters = &self.0.links.conf_changes;
        let begun = Instant::now();
        let answer = waiters.wait(id.get());
        let mut waiting = waiters.watch(id.get());
        self.send(Input::ProposeConfChange { id, change })?;
        match tokio::time::timeout(self.0.request_timeout, answer).await {
            Ok(Ok(result)) => {
                waiting.answered();
                result
            }
            Ok(Err(_)) => Err(Rejected::Stopped),
            Err(_) => Err(self.timeout(begun)),
        }
    }

    /// Hands leadership to that member, and waits until it leads. Only the leader can.
    pub async fn transfer_leader(&self, to: MemberId) -> Result<(), Rejected> {
        match self.ask(|ticket| Input::TransferLeader { to, ticket }).await {
            Err(Rejected::Timeout) => Err(Rejected::LeaderTransferTimeout),
            result => result,
        }
    }

    /// How far each member has come; `None` when this member does not lead.
    pub async fn progress(&self) -> Result<Option<Progress>, Rejected> {
        let ticket = self.0.tickets.fetch_add(1, Ordering::Relaxed);
        let waiters = &self.0.links.progress;
        let answer = waiters.wait(ticket);
        let mut waiting = waiters.watch(ticket);
        self.send(Input::Progress { ticket: Ticket(ticket) })?;
        let progress = answer.await.map_err(|_| Rejected::Stopped)?;
        waiting.answered();
        Ok(progress)
    }

    /// How long ago the pump went round: long when the process was stopped for a while.
    pub fn since_tick(&self, now: Moment) -> Duration {
        now.since(Moment::from_nanos(self.0.links.ticked.load(Ordering::Relaxed)))
    }

    /// How long the disk has owed an answer: the longer one of a write of the log and a commit of
    /// the database that are under way.
    pub fn disk_busy(&self, now: Moment) -> Duration {
        let links = &self.0.links;
        links.logging.so_far(now).max(links.committing.so_far(now))
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.status().leader == self.0.id
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
        let mut waiting = links.tickets.watch(ticket);
        self.send(input(Ticket(ticket)))?;
        match tokio::time::timeout(self.0.request_timeout, answer).await {
            Ok(Ok(result)) => {
                waiting.answered();
                result
            }
            Ok(Err(_)) => Err(Rejected::Stopped),
            Err(_) => Err(Rejected::Timeout),
        }
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

    /// Waits until this member is told that it was removed from the cluster.
    pub async fn removed(&self) {
        let mut removed = self.0.links.removed.subscribe();
        if removed.wait_for(|removed| *removed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Hands leadership to the member that has been connected for the longest time, if this one
    /// leads, and waits for an election's time at most.
    pub async fn hand_over(&self) {
        if !self.is_leader() {
            return;
        }
        let is_voter =
            |id: MemberId| self.0.store.member(id).is_some_and(|member| !member.is_learner);
        let voter = self.connected().into_iter().find(|(id, _)| is_voter(*id));
        let Some((to, _)) = voter else { return };
        // Without success the others elect somebody.
        let transfer = self.transfer_leader(to);
        drop(tokio::time::timeout(self.0.election, transfer).await);
    }

    /// Hands leadership to another member if it can, takes nothing new, brings everything into the
    /// database and closes the files.
    pub async fn stop(&self) {
        let connected = self.connected().into_iter().map(|(id, _)| id).collect();
        self.0.links.inbox.push(Input::Stop { connected });
        let mut stopped = self.0.links.stopped.subscribe();
        let _ended = stopped.wait_for(|stopped| *stopped).await;
        if let Some(transport) = &self.0.transport {
            transport.stop();
        }
        let threads = std::mem::take(&mut *self.0.threads.lock());
        let join = move || {
            for thread in threads {
                // A thread that panicked has said so already.
                let _panicked = thread.join();
            }
        };
        // Only the end of the process keeps it from that.
        let _ended = tokio::task::spawn_blocking(join).await;
    }

    /// The other members that answer, and since when; those that have for the longest time first.
    pub fn connected(&self) -> Vec<(MemberId, Instant)> {
        let Some(transport) = &self.0.transport else { return Vec::new() };
        let others = self.0.store.members().into_iter().filter(|member| member.id != self.0.id);
        let since = |member: store::Member| Some((member.id, transport.active_since(member.id)?));
        let mut connected: Vec<_> = others.filter_map(since).collect();
        connected.sort_by_key(|(_, since)| *since);
        connected
    }
}
