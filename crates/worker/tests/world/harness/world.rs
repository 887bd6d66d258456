//! The loop: which lane does its next effect, which receipt arrives, what is asked, when.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, LogIndex, MemberId, RequestId, RequestIds, Revision, Rng};
use node::{ApplyEffect, CommitEffect, Input, LogEffect, Node, NodeConfig, Started, Ticket};
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use proto::membershippb::Attributes;
use proto::raftpb::Entry;
use storage::bolt;
use storage::datadir::DataDir;
use storage::disk::{Disk, Faulty, Image};
use storage::wal;
use store::{ApplyError, Response, Shared, StoreOptions};
use worker::bootstrap::{self, FileOptions, InitialMember};
use worker::{ApplyWorker, CommitWorker, Fatal, Handoff, Listener, LogWorker, Place};

use super::HandClock;
use super::reference::{self, Summary};
use super::requests;

/// Small segments and few entries between snapshots, so that everything happens often.
const SEGMENT_BYTES: u64 = 24 << 10;
const SNAPSHOT_COUNT: u64 = 40;
const CATCHUP_ENTRIES: u64 = 50;

/// Requests under way at once.
const PENDING_MAX: usize = 24;

/// Why a member does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The disk crashed, as it was told to.
    Crash,
    /// A worker said what is wrong and stopped.
    Failed(String),
    /// Something that was promised does not hold.
    Broken(String),
}

macro_rules! promise {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(End::Broken(format!($($text)*)));
        }
    };
}

/// What was promised to clients, whatever happens to the machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promised {
    /// Every entry that was handed to the log, by index; later ones replace earlier ones.
    pub(crate) history: BTreeMap<LogIndex, Entry>,
    /// The last entry of which a client was told.
    pub(crate) index: LogIndex,
    /// The newest revision that a client was told.
    pub(crate) revision: Revision,
}

/// Who is answered.
#[derive(Default)]
struct Clients {
    answered: Vec<RequestId>,
}

impl Listener for Clients {
    fn answer(&mut self, id: RequestId, _: Result<Response, ApplyError>) {
        self.answered.push(id);
    }

    fn out_of_space(&mut self) {}
}

/// A running member.
pub(crate) struct World {
    pub(crate) disk: Faulty,
    clock: HandClock,
    node: Node,
    log: Option<LogWorker>,
    apply: ApplyWorker,
    commit: CommitWorker,
    shared: Arc<Shared>,
    ids: Arc<RequestIds>,
    log_lane: VecDeque<LogEffect>,
    apply_lane: VecDeque<ApplyEffect>,
    commit_lane: VecDeque<CommitEffect>,
    inputs: VecDeque<Input>,
    pending: BTreeMap<RequestId, ()>,
    index_of: BTreeMap<RequestId, LogIndex>,
    pub(crate) promised: Promised,
    stopped: bool,
}

/// Where the files are on the disk.
pub(crate) fn data_dir() -> DataDir {
    DataDir::new("/data")
}

fn files() -> FileOptions {
    FileOptions {
        wal: wal::Options { segment_bytes: SEGMENT_BYTES, sync: true },
        database: bolt::Options { page_size: 4096, cache_bytes: 1 << 20, sync: true },
    }
}

pub(crate) fn store_options(member: MemberId) -> StoreOptions {
    StoreOptions { member, compaction_batch: 7, ..StoreOptions::default() }
}

/// The number in a request's header.
fn request_id(entry: &Entry) -> Option<RequestId> {
    let request = InternalRaftRequest::decode(entry.data.clone()?).ok()?;
    request.header.map(|header| RequestId(header.id))
}

impl World {
    /// Starts a member on `disk`; makes its directory when there is none.
    pub(crate) fn start(disk: &Faulty, clock: &HandClock, promised: Promised) -> Result<Self, End> {
        let opened = Self::open(disk, clock).map_err(|error| match disk.crashed() {
            true => End::Crash,
            false => End::Failed(error.to_string()),
        })?;
        Self::on(disk, clock, opened, promised)
    }

    fn open(disk: &Faulty, clock: &HandClock) -> Result<bootstrap::Opened, bootstrap::StartError> {
        let any: Arc<dyn Disk> = Arc::new(disk.clone());
        let dir = data_dir();
        let initial = InitialMember {
            name: "default".into(),
            peer_urls: vec!["http://localhost:2380".into()],
        };
        bootstrap::create(&any, &dir, "default", &[initial], "etcd-cluster", &files())?;
        let options = |identity: bootstrap::Identity| store_options(identity.member);
        bootstrap::open(&any, &dir, &files(), options, clock.now())
    }

    fn on(
        disk: &Faulty,
        clock: &HandClock,
        opened: bootstrap::Opened,
        mut promised: Promised,
    ) -> Result<Self, End> {
        check_log(&opened.restored, &mut promised)?;
        let any: Arc<dyn Disk> = Arc::new(disk.clone());
        let member = opened.identity.member;
        let ids = Arc::new(RequestIds::new(member, clock.unix_ms()));
        let shared = opened.store.handle();
        let config = NodeConfig {
            member,
            attributes: Attributes {
                name: "default".into(),
                client_urls: vec!["http://localhost:2379".into()],
            },
            heartbeat: Duration::from_millis(100),
            election_ticks: 10,
            pre_vote: true,
            snapshot_count: SNAPSHOT_COUNT,
            catchup_entries: CATCHUP_ENTRIES,
            server_version: (3, 7),
            seed: 1,
        };
        let started = Started {
            restored: opened.restored,
            database: opened.store.applied().0,
            now: clock.now(),
        };
        let handoff = Arc::new(Handoff::default());
        let node = Node::new(config, started, Arc::clone(&ids), Box::new(Arc::clone(&shared)))
            .map_err(|error| End::Failed(error.to_string()))?;
        let (hand, wal_dir): (Arc<dyn Clock>, _) = (Arc::new(clock.clone()), data_dir());
        let wal_dir = wal_dir.wal().into();
        let place = Place { disk: Arc::clone(&any), dir: data_dir(), database: files().database };
        let log = LogWorker::new(opened.wal, opened.snapshots, any, wal_dir, (2, 2), hand);
        Ok(Self {
            disk: disk.clone(),
            clock: clock.clone(),
            node,
            log: Some(log),
            apply: ApplyWorker::new(opened.store, Arc::clone(&handoff), place),
            commit: CommitWorker::new(opened.database, handoff),
            shared,
            ids,
            log_lane: VecDeque::new(),
            apply_lane: VecDeque::new(),
            commit_lane: VecDeque::new(),
            inputs: VecDeque::new(),
            pending: BTreeMap::new(),
            index_of: BTreeMap::new(),
            promised,
            stopped: false,
        })
    }

    /// Does `steps` things at random.
    pub(crate) fn run(&mut self, rng: &mut Rng, steps: u64) -> Result<(), End> {
        for _ in 0..steps {
            let done = match rng.below(16) {
                0..=3 => {
                    self.request(rng);
                    Ok(())
                }
                4..=6 => self.log(1 + rng.below(4)),
                7..=9 => self.apply_one(),
                10 => self.commit_one(),
                11 => self.sweep(),
                12 => {
                    self.wait(Duration::from_millis(rng.below(150)));
                    Ok(())
                }
                _ => {
                    self.deliver();
                    Ok(())
                }
            };
            self.survives(done)?;
            self.take();
        }
        Ok(())
    }

    /// An error is the crash that was asked for, or a fault.
    fn survives(&self, done: Result<(), Fatal>) -> Result<(), End> {
        done.map_err(|error| match self.disk.crashed() {
            true => End::Crash,
            false => End::Failed(error.to_string()),
        })
    }

    fn request(&mut self, rng: &mut Rng) {
        if rng.one_in(40) {
            self.node.handle(Input::CommitDatabase { ticket: Ticket(rng.next_u64()) });
            return;
        }
        if self.pending.len() >= PENDING_MAX {
            return;
        }
        let id = self.ids.next();
        let mut request = requests::draw(rng, self.shared.revision());
        request.header = Some(RequestHeader { id: id.0, ..RequestHeader::default() });
        self.pending.insert(id, ());
        self.node.handle(Input::Propose { id, data: request.encode_to_vec().into() });
    }

    /// Lets the log worker do its next effects as one batch.
    fn log(&mut self, count: u64) -> Result<(), Fatal> {
        let count = usize::try_from(count).unwrap_or(1).min(self.log_lane.len());
        let batch: Vec<LogEffect> = self.log_lane.drain(..count).collect();
        for effect in &batch {
            if let LogEffect::Append { entries, .. } = effect {
                for entry in entries {
                    let index = LogIndex(entry.index());
                    self.promised.history.insert(index, entry.clone());
                    if let Some(id) = request_id(entry) {
                        self.index_of.insert(id, index);
                    }
                }
            }
        }
        let Some(worker) = &mut self.log else { return Ok(()) };
        let logged = worker.run(batch)?;
        self.inputs.extend(logged.receipts.into_iter().map(Input::Logged));
        Ok(())
    }

    fn apply_one(&mut self) -> Result<(), Fatal> {
        let Some(effect) = self.apply_lane.pop_front() else { return Ok(()) };
        let mut clients = Clients::default();
        let done = self.apply.run(effect, self.clock.now(), &mut clients);
        // Whoever was answered keeps the answer, also when the next entry fails.
        for id in clients.answered {
            self.pending.remove(&id);
            if let Some(&index) = self.index_of.get(&id) {
                self.promised.index = self.promised.index.max(index);
                self.promised.revision = self.shared.revision();
            }
        }
        self.inputs.push_back(Input::Applied(done?));
        Ok(())
    }

    fn commit_one(&mut self) -> Result<(), Fatal> {
        if let Some(effect) = self.commit_lane.pop_front() {
            let receipt = self.commit.run(effect)?;
            self.inputs.push_back(Input::Committed(receipt));
        }
        Ok(())
    }

    fn sweep(&mut self) -> Result<(), Fatal> {
        if self.apply.is_sweeping() {
            let receipt = self.apply.sweep()?;
            self.inputs.push_back(Input::Applied(receipt));
        }
        Ok(())
    }

    fn wait(&mut self, time: Duration) {
        self.clock.advance(time);
        self.node.handle(Input::Tick { now: self.clock.now() });
    }

    fn deliver(&mut self) {
        if let Some(input) = self.inputs.pop_front() {
            self.node.handle(input);
        }
    }

    fn take(&mut self) {
        let effects = self.node.take_effects();
        self.log_lane.extend(effects.log);
        self.apply_lane.extend(effects.apply);
        self.commit_lane.extend(effects.commit);
        for answer in effects.answers {
            match answer {
                node::Answer::Refused { id, .. } => {
                    self.pending.remove(&id);
                }
                node::Answer::Stopped => self.stopped = true,
                _ => {}
            }
        }
    }

    /// Lets everything that is under way come to its end.
    pub(crate) fn settle(&mut self) -> Result<(), End> {
        for _ in 0..10_000 {
            let done = self
                .log(u64::MAX)
                .and_then(|()| self.apply_one())
                .and_then(|()| self.commit_one())
                .and_then(|()| self.sweep());
            self.survives(done)?;
            while !self.inputs.is_empty() {
                self.deliver();
            }
            self.take();
            let status = self.node.status();
            let is_quiet = self.log_lane.is_empty()
                && self.apply_lane.is_empty()
                && self.commit_lane.is_empty()
                && self.inputs.is_empty()
                && !self.apply.is_sweeping();
            let has_all = status.leader != MemberId::NONE
                && status.applied == status.committed
                && status.database == status.applied;
            if self.stopped || (is_quiet && has_all && self.shared.cluster_version().is_some()) {
                return Ok(());
            }
            if is_quiet {
                self.wait(Duration::from_millis(100));
                self.take();
            }
        }
        Err(End::Broken(format!("a member does not come to rest: {:?}", self.node.status())))
    }

    /// Stops as an operator would.
    pub(crate) fn stop(&mut self) -> Result<(), End> {
        self.node.handle(Input::Stop { connected: Vec::new() });
        self.settle()?;
        promise!(self.stopped, "a member was told to stop and goes on");
        let closed = self.log.take().map_or(Ok(()), LogWorker::close);
        self.survives(closed)
    }

    /// The last entry that the database has.
    pub(crate) fn database(&self) -> LogIndex {
        self.node.status().database
    }

    /// Compares the state with the log's replay, and returns it.
    pub(crate) fn check(&self) -> Result<Summary, End> {
        let status = self.node.status();
        let found = Summary::of(&self.shared);
        let entries = self.promised.history.range(..=status.applied).map(|(_, entry)| entry);
        let (expected, last) = reference::replay(entries, &store_options(MemberId(1)));
        promise!(last == status.applied, "log ends at {last}, state at {}", status.applied);
        promise!(found == expected, "the state is {found:?}, the log says {expected:?}");
        let promised = self.promised.revision;
        promise!(found.revision >= promised, "revision {promised} went to {}", found.revision);
        Ok(found)
    }

    /// What readers see.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// What the disk held against what was promised; the history is cut to what the log has.
fn check_log(restored: &raft::Restored, promised: &mut Promised) -> Result<(), End> {
    let base = restored.base.index;
    for entry in &restored.entries {
        let index = LogIndex(entry.index());
        let known = promised.history.entry(index).or_insert_with(|| entry.clone());
        let same = (known.term(), known.data()) == (entry.term(), entry.data());
        promise!(same, "entry {index} is not the one that was written");
    }
    let last = restored.entries.last().map_or(base, |entry| LogIndex(entry.index()));
    let answered = promised.index;
    promise!(last >= answered, "entry {answered} was answered, but the log ends at {last}");
    promised.history.split_off(&last.next());
    Ok(())
}

/// The order on disk, as anyone can check it who opens the directory: the database is not ahead
/// of the log's commit index, nor behind the snapshot that the log is opened at.
pub(crate) fn check_order(image: &Image) -> Result<(), End> {
    let read = || -> Result<Option<[u64; 3]>, Box<dyn std::error::Error>> {
        let disk: Arc<dyn Disk> = Arc::new(Faulty::from_image(image, 0)?);
        let dir = data_dir();
        if !dir.is_initialized(&*disk)? || !disk.exists(&dir.database())? {
            return Ok(None);
        }
        let at = wal::snapshots(&*disk, dir.wal())?.pop().unwrap_or_default();
        let database = bolt::Database::open(&*disk, &dir.database(), files().database)?;
        let index = store::Store::consistent_index(&database.view())?;
        let opened = wal::Wal::open(Arc::clone(&disk), dir.wal(), &at, files().wal)?;
        Ok(Some([at.index(), index.0, opened.hard_state.commit()]))
    };
    match read() {
        Ok(None) => Ok(()),
        Ok(Some([snapshot, database, commit])) => {
            promise!(
                snapshot <= database && database <= commit,
                "snapshot at {snapshot}, database at {database}, commit index {commit}"
            );
            Ok(())
        }
        Err(error) => Err(End::Broken(format!("the directory cannot be read: {error}"))),
    }
}
