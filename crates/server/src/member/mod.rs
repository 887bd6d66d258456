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

mod inbox;
mod network;
mod threads;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{Clock, ClusterId, MemberId, Moment, RequestId, RequestIds, Revision};
use bytes::Bytes;
use node::requests::Rejected;
use node::{Input, NodeConfig, Progress, Status, Ticket};
use parking_lot::Mutex;
use peer::{Transport, TransportConfig};
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, RequestHeader, ResponseHeader};
use proto::membershippb::Attributes;
use proto::raftpb::ConfChange;
use storage::bolt;
use storage::datadir::DataDir;
use storage::disk::Disk;
use store::{Applied, Response, Shared, StoreOptions};
use tokio::sync::{oneshot, watch};
use worker::Place;
use worker::bootstrap::{self, FileOptions, Forced, Identity, InitialMember, StartError};

use inbox::Inbox;
pub use network::Network;
use network::{Mailbox, Outlet, Received};
use waiters::Waiters;

/// Major and minor of the etcd version that this server is.
const SERVER_VERSION: (u64, u64) = (3, 7);

/// What is added to the election timeout for reaching another member.
const DIAL_EXTRA: Duration = peer::limits::DIAL_TIMEOUT_EXTRA;

/// Requests that may wait for the pump; more are refused with "too many requests".
const INBOX_MAX: usize = 65_536;

/// How a member begins whose directory has no log. Not looked at when there is one.
#[derive(Debug, Clone)]
pub enum Beginning {
    /// It founds a cluster, alone or with others.
    Found {
        /// All founding members.
        members: Vec<InitialMember>,
        /// What keeps clusters with equal URLs apart.
        token: String,
    },
    /// It was added to a cluster that runs.
    Join(Identity),
    /// There is a log.
    Resume,
}

/// What a member is told once.
#[derive(Debug, Clone)]
pub struct MemberConfig {
    /// Where its files are.
    pub dir: DataDir,
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// How it begins when its directory is new.
    pub beginning: Beginning,
    /// Whether it is to be a cluster of its own from now on, whoever the other members are.
    pub force_new_cluster: bool,
    /// How other members are reached; `None` for a member that has none.
    pub network: Option<Network>,
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

    /// Opens the directory, and makes it before where it is new.
    fn open(
        &self,
        disk: &Arc<dyn Disk>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<bootstrap::Opened, StartError> {
        let (dir, files) = (&self.dir, &self.files);
        match &self.beginning {
            Beginning::Found { members, token } => {
                bootstrap::create(disk, dir, &self.name, members, token, files)?;
            }
            Beginning::Join(identity) => bootstrap::join(disk, dir, *identity, files)?,
            Beginning::Resume => {}
        }
        let options = |identity: Identity| StoreOptions {
            member: identity.member,
            quota_bytes: self.quota_bytes,
            min_lease_ttl: self.min_lease_ttl(),
            compaction_batch: self.compaction_batch,
            learners_max: self.learners_max,
            server_version: SERVER_VERSION,
        };
        let mut opened = bootstrap::open(disk, dir, files, options, clock.now())?;
        if let Some(repair) = &opened.repaired {
            observer.wal_repaired(&repair.to_string());
        }
        if let Some(damage) = opened.database.damaged_meta() {
            observer.meta_page_damaged(&damage.finding());
        }
        if let Some(before) = opened.recovered {
            observer.recovered(before.get(), opened.restored.base.index.get());
        }
        if self.force_new_cluster {
            let forced = opened.leave_others()?;
            observer.forced(opened.identity, forced);
        }
        Ok(opened)
    }

    fn node(&self, member: MemberId, clock: &dyn Clock) -> NodeConfig {
        let attributes =
            Attributes { name: self.name.clone(), client_urls: self.client_urls.clone() };
        NodeConfig {
            member,
            attributes,
            heartbeat: self.heartbeat,
            election_ticks: self.election_ticks,
            pre_vote: self.pre_vote,
            snapshot_count: self.snapshot_count,
            catchup_entries: self.catchup_entries,
            server_version: SERVER_VERSION,
            seed: member.get() ^ clock.unix_ms(),
        }
    }
}

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
                committed: opened.restored.applied(),
                applied: opened.restored.applied(),
                database: opened.store.applied().0,
                is_learner: false,
                is_alone: false,
            }),
            is_alone: AtomicBool::new(false),
            term: AtomicU64::new(opened.restored.term().get()),
            committed: Mutex::new(opened.database.view()),
            ticked: AtomicU64::new(0),
            received: Received::default(),
            elected: Mutex::default(),
            published: watch::Sender::new(false),
            removed: watch::Sender::new(false),
            stopped: watch::Sender::new(false),
            fatal: watch::Sender::new(None),
        }
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
    /// A snapshot takes the place of all state.
    fn installing(&self, _index: u64, _term: u64) {}
    /// It has.
    fn installed(&self, _index: u64, _term: u64, _took: Duration) {}
    /// A database that was received before the last end is in its place only now.
    fn recovered(&self, _before: u64, _snapshot: u64) {}
    /// The member was made a cluster of its own.
    fn forced(&self, _identity: Identity, _what: Forced) {}
    /// Something happened between this member and another.
    fn peer_event(&self, _event: &peer::Event) {}
    /// Whether events of that level are looked at.
    fn wants_peer_events(&self, _level: peer::Level) -> bool {
        false
    }
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
    transport: Option<Transport>,
    ids: Arc<RequestIds>,
    request_bytes_max: usize,
    request_timeout: Duration,
    election: Duration,
    tickets: AtomicU64,
    links: Arc<Links>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// What the threads and the handles share.
struct Links {
    inbox: Inbox<Input>,
    proposals: Waiters<Result<Response, Rejected>>,
    conf_changes: Waiters<Result<Vec<store::Member>, Rejected>>,
    tickets: Waiters<Result<(), Rejected>>,
    progress: Waiters<Option<Progress>>,
    status: Mutex<Status>,
    term: AtomicU64,
    /// Reads need no index: see [`Status::is_alone`].
    is_alone: AtomicBool,
    /// The database as of its last commit.
    committed: Mutex<bolt::View>,
    /// When the pump went round last, in nanoseconds of the clock.
    ticked: AtomicU64,
    /// What other members have waiting in the inbox.
    received: Received,
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

    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        self.0.request_timeout
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
        let begun = Instant::now();
        let answer = links.proposals.wait(id.get());
        self.send(Input::Propose { id, data }).inspect_err(|_| self.forget(id))?;
        match tokio::time::timeout(self.0.request_timeout, answer).await {
            Ok(Ok(result)) => result.map(|response| Answer { response }),
            Ok(Err(_)) => Err(Rejected::Stopped),
            Err(_) => {
                self.forget(id);
                // etcd's proposal waits for a leader in a place that knows no better text.
                let has_leader = self.status().leader != MemberId::NONE;
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
        let sent = self.send(Input::ProposeConfChange { id, change });
        let result = match sent {
            Err(refusal) => Err(refusal),
            Ok(()) => match tokio::time::timeout(self.0.request_timeout, answer).await {
                Ok(Ok(result)) => return result,
                Ok(Err(_)) => Err(Rejected::Stopped),
                Err(_) => Err(self.timeout(begun)),
            },
        };
        waiters.forget(id.get());
        result
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
        let answer = self.0.links.progress.wait(ticket);
        let sent = self.send(Input::Progress { ticket: Ticket(ticket) });
        let progress = match sent {
            Ok(()) => answer.await.map_err(|_| Rejected::Stopped),
            Err(refusal) => Err(refusal),
        };
        self.0.links.progress.forget(ticket);
        progress
    }

    /// How long ago the pump went round: long when the process was stopped for a while.
    pub fn since_tick(&self, now: Moment) -> Duration {
        now.since(Moment::from_nanos(self.0.links.ticked.load(Ordering::Relaxed)))
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.status().leader == self.0.id
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

    /// Waits until this member is told that it was removed from the cluster.
    pub async fn removed(&self) {
        let mut removed = self.0.links.removed.subscribe();
        if removed.wait_for(|removed| *removed).await.is_err() {
            std::future::pending::<()>().await;
        }
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
        for thread in self.0.threads.lock().drain(..) {
            // A thread that panicked has said so already.
            let _panicked = thread.join();
        }
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
