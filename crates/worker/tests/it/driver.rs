//! One member in one thread: the same node and workers as in a server, their lanes as queues, and
//! a seed that decides who runs next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::{Clock, LogIndex, MemberId, Moment, RequestId, RequestIds, Revision, Rng};
use node::{
    Answer, ApplyEffect, CommitEffect, Effects, Input, LogEffect, Node, NodeConfig, Started, Ticket,
};
use prost::Message;
use proto::etcdserverpb::RequestHeader;
use proto::membershippb::Attributes;
use proto::raftpb::Entry;
use storage::bolt;
use storage::datadir::DataDir;
use storage::disk::{Disk, Faulty};
use storage::wal;
use store::{ApplyError, HashKv, Response, Shared, StoreOptions};
use worker::bootstrap::{self, FileOptions, InitialMember, Role, StartError};
use worker::{ApplyWorker, CommitWorker, Fatal, Handoff, Listener, LogWorker, Place};

use crate::oracle::Answers;
use crate::workload::{Proposal, Workload};

/// Where the member lives on its disk.
pub(crate) const ROOT: &str = "/default.etcd";

/// The longest time that passes between two steps of a member at work.
const PAUSE: Duration = Duration::from_millis(60);

/// Proposals that may wait to be applied.
const OUTSTANDING_MAX: usize = 120;

/// After how many steps a member that has nothing to do but to start must have done it.
const SETTLE_STEPS_MAX: usize = 60_000;

/// How a member runs: small, so that everything happens often.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) segment_bytes: u64,
    pub(crate) snapshot_count: u64,
    pub(crate) catchup_entries: u64,
    pub(crate) kept: (usize, usize),
    pub(crate) compaction_batch: usize,
    /// `CRASH_SYNC=off` turns syncs off, as `--unsafe-no-fsync` does: to see the tests fail.
    pub(crate) sync: bool,
}

impl Settings {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        Self {
            segment_bytes: *rng.pick(&[16 << 10, 32 << 10, 64 << 10]),
            snapshot_count: 15 + rng.below(100),
            catchup_entries: 5 + rng.below(50),
            kept: (1 + rng.below(3) as usize, 1 + rng.below(3) as usize),
            compaction_batch: 3 + rng.below(60) as usize,
            sync: std::env::var("CRASH_SYNC").map_or(true, |how| how != "off"),
        }
    }

    pub(crate) fn files(&self) -> FileOptions {
        FileOptions {
            wal: wal::Options { segment_bytes: self.segment_bytes, sync: self.sync },
            database: bolt::Options {
                cache_bytes: 1 << 20,
                sync: self.sync,
                ..bolt::Options::default()
            },
        }
    }

    pub(crate) fn store(&self, member: MemberId) -> StoreOptions {
        StoreOptions {
            member,
            quota_bytes: None,
            compaction_batch: self.compaction_batch,
            learners_max: 1,
            ..StoreOptions::default()
        }
    }
}

/// The members that a cluster begins with, as etcd's own defaults name them.
pub(crate) fn initial() -> InitialMember {
    InitialMember { name: "default".into(), peer_urls: vec!["http://localhost:2380".into()] }
}

pub(crate) fn own_id() -> MemberId {
    bootstrap::member_id(&initial().peer_urls, TOKEN)
}

const TOKEN: &str = "etcd-cluster";

/// Time that passes when told to.
#[derive(Debug, Default)]
pub(crate) struct Time(AtomicU64);

impl Time {
    pub(crate) fn pass(&self, duration: Duration) {
        self.0.fetch_add(duration.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for Time {
    fn now(&self) -> Moment {
        Moment::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.load(Ordering::Relaxed) / 1_000_000
    }
}

/// What the outside has seen of a member, through all its lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// Everything that went to the log, from the entry with index 1 on.
    pub(crate) entries: Vec<Entry>,
    /// Everything that was acknowledged, and how.
    pub(crate) answers: Answers,
    /// The last entry that a reader may have seen.
    pub(crate) applied: u64,
    /// The last entry that the database was said to have.
    pub(crate) database: u64,
    /// The newest revision in an acknowledgement.
    pub(crate) acknowledged: Revision,
}

impl History {
    fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.entries.truncate(entry.index() as usize - 1);
            assert_eq!(self.entries.len() as u64, entry.index() - 1, "a gap in the log");
            self.entries.push(entry.clone());
        }
    }

    fn answer(&mut self, id: RequestId, result: Result<Response, ApplyError>) {
        if let Some(revision) = result.as_ref().ok().and_then(revision_of) {
            self.acknowledged = self.acknowledged.max(revision);
        }
        let before = self.answers.insert(id, result);
        let again = &self.answers[&id];
        assert!(before.is_none_or(|before| before == *again), "{id} was answered differently");
    }

    /// Takes what a disk still has of the log.
    fn recover(&mut self, base: u64, found: &[Entry]) -> Result<(), String> {
        let (base, last) = (base as usize, base as usize + found.len());
        if self.entries.is_empty() && base == 0 {
            // Those that the cluster begins with.
            self.entries = found.to_vec();
        }
        if last > self.entries.len() || self.entries[base..last] != *found {
            return Err(format!("the log holds entries that were never written after {base}"));
        }
        if (last as u64) < self.applied {
            return Err(format!("entry {} was applied, the log ends at {last}", self.applied));
        }
        self.entries.truncate(last);
        Ok(())
    }
}

pub(crate) fn revision_of(response: &Response) -> Option<Revision> {
    let header = match response {
        Response::Put(answer) => &answer.header,
        Response::DeleteRange(answer) => &answer.header,
        Response::Txn(answer) => &answer.header,
        Response::Compaction(answer) => &answer.header,
        Response::LeaseGrant(answer) => &answer.header,
        Response::LeaseRevoke(answer) => &answer.header,
        _ => return None,
    };
    header.as_ref().map(|header| Revision(header.revision))
}

impl Listener for History {
    fn answer(&mut self, id: RequestId, result: Result<Response, ApplyError>) {
        Self::answer(self, id, result);
    }

    fn out_of_space(&mut self) {
        panic!("there is no quota");
    }
}

/// What a member was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doing {
    Create,
    Open,
    Append,
    Cut,
    Snapshot,
    Purge,
    Commit,
    CommitWhileCompacting,
    Other,
}

/// Why a member cannot start.
#[derive(Debug)]
pub(crate) enum NoStart {
    Refused(StartError),
    /// It would start, and something is missing.
    Wrong(String),
}

/// A member between two of its operations.
pub(crate) struct Member {
    disk: Faulty,
    time: Arc<Time>,
    node: Node,
    ids: Arc<RequestIds>,
    log: LogWorker,
    apply: ApplyWorker,
    commit: CommitWorker,
    log_lane: VecDeque<LogEffect>,
    apply_lane: VecDeque<ApplyEffect>,
    commit_lane: VecDeque<CommitEffect>,
    inbox: VecDeque<Input>,
    tickets: BTreeMap<Ticket, (u64, Revision)>,
    next_ticket: u64,
    stopped: bool,
    /// The last entry found on the disk at the start.
    pub(crate) recovered: u64,
    pub(crate) doing: Doing,
}

/// Makes a member's directory.
pub(crate) fn create(disk: &Faulty, settings: &Settings) -> Result<(), StartError> {
    let (disk, dir) = (Arc::new(disk.clone()) as Arc<dyn Disk>, DataDir::new(ROOT));
    let initial = initial();
    bootstrap::create(&disk, &dir, &initial.name.clone(), &[initial], TOKEN, &settings.files())
}

impl Member {
    /// Starts on what the disk holds, and compares that with what it must hold.
    pub(crate) fn open(
        faulty: &Faulty,
        settings: &Settings,
        time: &Arc<Time>,
        history: &mut History,
        seed: u64,
    ) -> Result<Self, NoStart> {
        let (disk, dir) = (Arc::new(faulty.clone()) as Arc<dyn Disk>, DataDir::new(ROOT));
        time.pass(Duration::from_secs(1));
        let now = time.now();
        let options = |identity: bootstrap::Identity| settings.store(identity.member);
        let opened = bootstrap::open(&disk, &dir, &settings.files(), options, now, Role::Member)
            .map_err(NoStart::Refused)?;
        let restored = &opened.restored;
        history.recover(restored.base.index.get(), &restored.entries).map_err(NoStart::Wrong)?;
        let database = opened.store.applied().0;
        if database.get() < history.database {
            let promised = history.database;
            return Err(NoStart::Wrong(format!("the database has {database}, not {promised}")));
        }
        let member = opened.identity.member;
        let config = NodeConfig {
            member,
            attributes: Attributes {
                name: initial().name,
                client_urls: vec!["http://localhost:2379".into()],
            },
            heartbeat: Duration::from_millis(100),
            election_ticks: 10,
            pre_vote: true,
            snapshot_count: settings.snapshot_count,
            catchup_entries: settings.catchup_entries,
            commit_pace: node::CommitPace::default(),
            server_version: (3, 7),
            seed,
        };
        let ids = Arc::new(RequestIds::new(member, time.unix_ms()));
        let handoff = Arc::new(Handoff::default());
        let shared = opened.store.handle();
        let started = Started { restored: opened.restored, database, now };
        let node = Node::new(config, started, Arc::clone(&ids), Box::new(shared))
            .map_err(|error| NoStart::Refused(error.into()))?;
        let clock: Arc<dyn Clock> = Arc::clone(time) as Arc<dyn Clock>;
        let wal_dir = dir.wal().to_owned();
        let database = settings.files().database;
        let place = Place { disk: Arc::clone(&disk), dir: dir.clone(), database };
        Ok(Self {
            disk: faulty.clone(),
            time: Arc::clone(time),
            node,
            ids,
            log: LogWorker::new(opened.wal, opened.snapshots, disk, wal_dir, settings.kept, clock),
            apply: ApplyWorker::new(opened.store, Arc::clone(&handoff), place),
            commit: CommitWorker::new(opened.database, handoff),
            log_lane: VecDeque::new(),
            apply_lane: VecDeque::new(),
            commit_lane: VecDeque::new(),
            inbox: VecDeque::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            stopped: false,
            recovered: history.entries.len() as u64,
            doing: Doing::Other,
        })
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.apply.shared()
    }

    /// One step of whoever the seed names.
    pub(crate) fn step(
        &mut self,
        rng: &mut Rng,
        history: &mut History,
        workload: Option<&mut Workload>,
    ) -> Result<(), Fatal> {
        self.doing = Doing::Other;
        match rng.below(16) {
            0..4 => self.pump(rng, history),
            4..7 => self.run_log(rng)?,
            7..10 => self.run_apply(history)?,
            10 | 11 => self.run_commit()?,
            12 if self.apply.is_sweeping() => {
                let receipt = self.apply.sweep()?;
                self.inbox.push_back(Input::Applied(receipt));
            }
            13 | 14 => {
                if let Some(workload) = workload {
                    self.propose(rng, history, workload);
                }
            }
            _ if workload.is_some() => self.pass_time(rng),
            _ => self.time.pass(Duration::from_micros(rng.below(1500))),
        }
        Ok(())
    }

    fn pass_time(&self, rng: &mut Rng) {
        // Now and then so long that files are purged and leases end.
        let pause = match rng.below(100) {
            0 => Duration::from_secs(31),
            1..4 => Duration::from_secs(2),
            _ => Duration::from_micros(rng.below(PAUSE.as_micros() as u64)),
        };
        self.time.pass(pause);
    }

    fn propose(&mut self, rng: &mut Rng, history: &mut History, workload: &mut Workload) {
        let waiting = history.entries.len().saturating_sub(history.applied as usize);
        if waiting > OUTSTANDING_MAX {
            return;
        }
        if rng.one_in(12) {
            let ticket = Ticket(self.next_ticket);
            self.next_ticket += 1;
            let applied = self.node.status().applied.get();
            self.tickets.insert(ticket, (applied, history.acknowledged));
            self.inbox.push_back(if rng.one_in(2) {
                Input::CommitDatabase { ticket }
            } else {
                Input::ReadIndex { ticket }
            });
        }
        let revision = self.shared().revision().get();
        for _ in 0..1 + rng.below(6) {
            let id = self.ids.next();
            self.inbox.push_back(match workload.next(revision) {
                Proposal::Request(mut request) => {
                    request.header = Some(RequestHeader { id: id.get(), ..Default::default() });
                    Input::Propose { id, data: request.encode_to_vec().into() }
                }
                Proposal::Members(mut change) => {
                    change.id = Some(id.get());
                    Input::ProposeConfChange { id, change }
                }
            });
        }
    }

    fn pump(&mut self, rng: &mut Rng, history: &mut History) {
        self.node.handle(Input::Tick { now: self.time.now() });
        let count = if rng.one_in(2) { self.inbox.len() } else { rng.below(4) as usize };
        for input in self.inbox.drain(..count.min(self.inbox.len())) {
            self.node.handle(input);
        }
        for _ in 0..1 + rng.below(3) {
            let effects = self.node.take_effects();
            self.dispatch(effects, history);
        }
    }

    fn dispatch(&mut self, effects: Effects, history: &mut History) {
        for effect in &effects.log {
            if let LogEffect::Append { entries, .. } = effect {
                history.append(entries);
            }
        }
        self.log_lane.extend(effects.log);
        self.apply_lane.extend(effects.apply);
        self.commit_lane.extend(effects.commit);
        for answer in effects.answers {
            match answer {
                Answer::DatabaseCommitted(ticket) => {
                    let (applied, _) = self.tickets[&ticket];
                    history.database = history.database.max(applied);
                }
                Answer::ReadReady(ticket) => {
                    let (_, acknowledged) = self.tickets[&ticket];
                    assert!(self.shared().revision() >= acknowledged, "a stale read");
                }
                Answer::Refused { .. } | Answer::TicketRefused(..) | Answer::Progress(..) => {}
                Answer::Published | Answer::Transferred(_) | Answer::Removed => {}
                Answer::Stopped => self.stopped = true,
            }
        }
    }

    fn run_log(&mut self, rng: &mut Rng) -> Result<(), Fatal> {
        if self.log_lane.is_empty() {
            return Ok(());
        }
        let count = 1 + rng.below(self.log_lane.len() as u64) as usize;
        let batch: Vec<LogEffect> = self.log_lane.drain(..count).collect();
        let has = |kind: fn(&LogEffect) -> bool| batch.iter().any(kind);
        let (snapshot, purge) = (
            has(|effect| matches!(effect, LogEffect::Snapshot(_))),
            has(|effect| matches!(effect, LogEffect::Purge)),
        );
        let before = self.disk.operations();
        let logged = self.log.run(batch);
        self.doing = match self.disk.operations() - before {
            _ if snapshot => Doing::Snapshot,
            _ if purge => Doing::Purge,
            // A write and a sync, otherwise.
            3.. => Doing::Cut,
            _ => Doing::Append,
        };
        self.inbox.extend(logged?.receipts.into_iter().map(Input::Logged));
        Ok(())
    }

    fn run_apply(&mut self, history: &mut History) -> Result<(), Fatal> {
        let Some(effect) = self.apply_lane.pop_front() else { return Ok(()) };
        if let ApplyEffect::Entries(entries) = &effect
            && let Some(last) = entries.last()
        {
            history.applied = history.applied.max(last.index());
        }
        let receipt = self.apply.run(effect, self.time.now(), history)?;
        self.inbox.push_back(Input::Applied(receipt));
        Ok(())
    }

    fn run_commit(&mut self) -> Result<(), Fatal> {
        let Some(effect) = self.commit_lane.pop_front() else { return Ok(()) };
        let compacting = self.apply.is_sweeping();
        self.doing = if compacting { Doing::CommitWhileCompacting } else { Doing::Commit };
        let receipt = self.commit.run(effect)?;
        self.inbox.push_back(Input::Committed(receipt));
        Ok(())
    }

    /// Leads, and has applied everything that was found at the start.
    fn has_replayed(&self) -> bool {
        let status = self.node.status();
        status.leader == own_id() && status.applied >= LogIndex(self.recovered)
    }

    /// Ends as an operator would have it: everything is in the database.
    pub(crate) fn stop(mut self, rng: &mut Rng, history: &mut History) -> Result<(), String> {
        self.node.handle(Input::Stop { connected: Vec::new() });
        for _ in 0..SETTLE_STEPS_MAX {
            if self.stopped {
                return self.log.close().map_err(|error| error.to_string());
            }
            self.step(rng, history, None).map_err(|error| error.to_string())?;
        }
        Err(format!("it never stopped: {:?}", self.node.status()))
    }

    /// Runs, without new requests, until it leads and has replayed its log, then until compactions
    /// have removed their rows. All hashes on the way must be the same: they are returned.
    pub(crate) fn settle(
        &mut self,
        rng: &mut Rng,
        history: &mut History,
    ) -> Result<Vec<HashKv>, String> {
        let mut hashes = Vec::new();
        for _ in 0..SETTLE_STEPS_MAX {
            if self.has_replayed() {
                let hash = self.shared().view().hash_kv(Revision(0));
                hashes.push(hash.map_err(|error| format!("hash: {error}"))?);
                if !self.apply.is_sweeping() {
                    return Ok(hashes);
                }
            }
            self.step(rng, history, None).map_err(|error| error.to_string())?;
        }
        Err(format!("it never came to lead: {:?}", self.node.status()))
    }
}

/// Whether the directory of a member is there.
pub(crate) fn is_made(disk: &Faulty) -> bool {
    DataDir::new(ROOT).is_initialized(disk).unwrap_or(false)
}

/// What etcd verifies when it starts: snapshot <= database <= commit. And that the snapshot has its
/// file.
pub(crate) fn verify_order(disk: &Faulty) -> Result<(), String> {
    let dir = DataDir::new(ROOT);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let snapshots = wal::snapshots(disk, dir.wal()).map_err(|error| error.to_string())?;
    let at = snapshots.last().cloned().unwrap_or_default();
    let options = wal::Options { segment_bytes: 4096, sync: false };
    let opened = wal::Wal::open(Arc::clone(&shared), dir.wal(), &at, options)
        .map_err(|error| error.to_string())?;
    let mut index = 0;
    if disk.exists(&dir.database()).unwrap_or(false) {
        let database = bolt::Database::open(disk, &dir.database(), bolt::Options::default())
            .map_err(|error| error.to_string())?;
        index = store::Store::consistent_index(&database.view())
            .map_err(|error| error.to_string())?
            .get();
    }
    let commit = opened.hard_state.commit();
    if at.index() > index || index > commit {
        return Err(format!("not {} (snapshot) <= {index} (database) <= {commit}", at.index()));
    }
    let files = storage::snap::Snapshots::new(shared, dir.snap());
    let loaded = files.load_newest(&snapshots).map_err(|error| error.to_string())?;
    let found = loaded.snapshot.and_then(|snapshot| snapshot.metadata);
    let found = found.map_or(0, |metadata| metadata.index());
    if found != at.index() {
        return Err(format!("the snapshot at {} has no file, that at {found} has", at.index()));
    }
    Ok(())
}
