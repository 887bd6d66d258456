//! One member: the same node and workers as in a server, their lanes as queues.
//!
//! ```text
//!  inbox ─► pump: Node ─┬─► log lane ────► LogWorker ────┐
//!    ▲                  ├─► apply lane ──► ApplyWorker ──┤ receipts
//!    │                  ├─► commit lane ─► CommitWorker ─┤
//!    └──────────────────┼─────────────────────────────────┘
//!                       └─► outbox, told                      (the world takes them)
//! ```
//!
//! *Invariants.* Nothing happens between calls: the world decides which lane works when.
//!
//! *Absent.* When anything happens, and what is lost: the world's.

mod receive;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, LogIndex, MemberId, Moment, RequestId, RequestIds, Rng};
use node::requests::Rejected;
use node::{
    Answer, ApplyEffect, CommitEffect, Effects, Input, LogEffect, Node, NodeConfig, SendSnapshot,
    Started, Status, Ticket,
};
use proto::membershippb::Attributes;
use proto::raftpb::{Entry, Message};
use storage::bolt;
use storage::datadir::DataDir;
use storage::disk::{Disk, Faulty};
use store::lease::Checkpoints;
use store::{Applied, ApplyError, ConfChangeError, Response, Shared};
use worker::bootstrap::{self, Opened, Role, StartError};
use worker::{ApplyWorker, CommitWorker, Fatal, Handoff, Listener, LogWorker, Place};

use crate::clock::Skewed;
use crate::plan::{HEARTBEAT, Pace, Settings};

/// Where a member lives on its disk.
pub(crate) const ROOT: &str = "/default.etcd";

/// Rounds in which effects may follow from effects; each consumes what it acts on.
const ROUNDS_MAX: usize = 64;

/// A part of a member that works by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The node takes in what has come.
    Pump,
    /// The log is written.
    Log,
    /// Entries are applied.
    Apply,
    /// The database is committed.
    Commit,
    /// Rows that a compaction left are removed.
    Sweep,
}

/// Something that leaves for another member.
#[derive(Debug)]
pub enum Sent {
    /// A message.
    Message(Message),
    /// A message with the pages of a snapshot.
    Snapshot(Message, Vec<u8>),
}

/// What a member tells those who wait.
#[derive(Debug)]
pub enum Told {
    /// A request was applied.
    Applied(RequestId, Result<Response, ApplyError>),
    /// A request was applied whose answer comes later, if it comes.
    Decided(RequestId, Result<Response, ApplyError>),
    /// A change of the members was applied, or refused by the state.
    Changed(RequestId, Result<(), ConfChangeError>),
    /// A proposal is not in the log, and will not be.
    Refused(RequestId, Rejected),
    /// What the ticket was for can be done, or is done.
    Ready(Ticket),
    /// It cannot.
    NotReady(Ticket),
    /// This member was removed.
    Removed,
    /// This member has ended as it was told to.
    Stopped,
}

/// What the onlooker sees of a step.
#[derive(Debug)]
pub enum Shown {
    /// Entries were handed to the log, not yet written.
    Logging(Vec<Entry>),
    /// Something was written to the log; whether it is on disk.
    Logged(LogEffect, bool),
    /// Entries were applied, and readers see them.
    Applied(Vec<Entry>),
    /// A snapshot took the place of all state.
    Installed(LogIndex),
}

/// What a member is started with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its parts.
    pub settings: Settings,
    /// How fast they are.
    pub pace: Pace,
    /// Its clock.
    pub clock: Arc<Skewed>,
    /// Ticks without a leader before an election.
    pub election_ticks: u32,
    /// Whether it asks before it is a candidate.
    pub pre_vote: bool,
}

/// A running member.
pub struct Member {
    /// Who it is.
    pub id: MemberId,
    /// The decisions.
    pub node: Node,
    /// Ids for its requests.
    pub ids: Arc<RequestIds>,
    clock: Arc<Skewed>,
    log: LogWorker,
    apply: ApplyWorker,
    commit: CommitWorker,
    handoff: Arc<Handoff>,
    pub(crate) place: Place,
    log_lane: VecDeque<LogEffect>,
    apply_lane: VecDeque<ApplyEffect>,
    commit_lane: VecDeque<CommitEffect>,
    /// What has come and was not taken in.
    pub inbox: VecDeque<Input>,
    /// What leaves.
    pub outbox: Vec<Sent>,
    /// What it tells.
    pub told: Vec<Told>,
    /// What the onlooker sees.
    pub shown: Vec<Shown>,
    next_ticket: u64,
    /// Where it stood when the pump went round last: requests see no more.
    pub status: Status,
    /// When the pump went round last, by the member's clock.
    pub pumped: Moment,
    /// It was told to stop.
    pub stopping: bool,
    received: u64,
}

/// Hears of what is applied.
struct Applier<'a> {
    told: &'a mut Vec<Told>,
}

impl Listener for Applier<'_> {
    fn answer(&mut self, id: RequestId, result: Result<Response, ApplyError>) {
        self.told.push(Told::Applied(id, result));
    }

    fn applied(&mut self, applied: &Applied, _entry: &Entry) {
        // Its answer waits until rows are removed, and is lost with the process.
        if let Some(id) = applied.request.filter(|_| applied.physical_compaction) {
            self.told.push(Told::Decided(id, applied.result.clone()));
        }
    }

    fn conf_changed(&mut self, id: RequestId, result: Result<Vec<store::Member>, ConfChangeError>) {
        self.told.push(Told::Changed(id, result.map(drop)));
    }

    fn out_of_space(&mut self) {
        panic!("there is no quota");
    }
}

/// What a disk holds, opened: it can be looked at before the member starts.
pub struct Found {
    opened: Opened,
    place: Place,
}

impl Found {
    /// Opens what a disk holds.
    pub fn open(disk: &Faulty, setup: &Setup) -> Result<Self, StartError> {
        let settings = &setup.settings;
        let shared = Arc::new(disk.clone()) as Arc<dyn Disk>;
        let database = settings.files().database;
        let place = Place { disk: shared, dir: DataDir::new(ROOT), database };
        let options = |identity: bootstrap::Identity| settings.store(identity.member);
        let (files, now) = (settings.files(), setup.clock.now());
        let opened = bootstrap::open(&place.disk, &place.dir, &files, options, now, Role::Member)?;
        Ok(Self { opened, place })
    }

    /// What the consensus starts from.
    pub fn restored(&self) -> &raft::Restored {
        &self.opened.restored
    }

    /// The last entry that the database has.
    pub fn database(&self) -> LogIndex {
        self.opened.store.applied().0
    }
}

impl Member {
    /// Starts on what was found.
    pub fn start(found: Found, setup: &Setup, seed: u64) -> Result<Self, StartError> {
        let Found { opened, place } = found;
        let clock = Arc::clone(&setup.clock);
        let id = opened.identity.member;
        let config = NodeConfig {
            member: id,
            attributes: Attributes {
                name: format!("m{id}"),
                client_urls: vec![format!("http://{id}:2379")],
            },
            heartbeat: HEARTBEAT,
            election_ticks: setup.election_ticks,
            pre_vote: setup.pre_vote,
            snapshot_count: setup.settings.snapshot_count,
            catchup_entries: setup.settings.catchup_entries,
            commit_pace: node::CommitPace::default(),
            server_version: (3, 7),
            seed,
        };
        let ids = Arc::new(RequestIds::new(id, clock.unix_ms()));
        let handoff = Arc::new(Handoff::default());
        let shared = opened.store.handle();
        if setup.settings.checkpoints {
            shared.lessor().set_checkpoints(Checkpoints::Kept);
        }
        let database = opened.store.applied().0;
        let now = clock.now();
        let started = Started { restored: opened.restored, database, now };
        let node = Node::new(config, started, Arc::clone(&ids), Box::new(shared))?;
        let (disk, wal_dir) = (Arc::clone(&place.disk), place.dir.wal().to_owned());
        let log_clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let kept = setup.settings.kept;
        let status = node.status();
        Ok(Self {
            id,
            node,
            ids,
            clock,
            log: LogWorker::new(opened.wal, opened.snapshots, disk, wal_dir, kept, log_clock),
            apply: ApplyWorker::new(opened.store, Arc::clone(&handoff), place.clone()),
            commit: CommitWorker::new(opened.database, Arc::clone(&handoff)),
            handoff,
            place,
            log_lane: VecDeque::new(),
            apply_lane: VecDeque::new(),
            commit_lane: VecDeque::new(),
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            told: Vec::new(),
            shown: Vec::new(),
            next_ticket: 0,
            status: Status { is_alone: false, ..status },
            pumped: now,
            stopping: false,
            received: 0,
        })
    }

    /// The replicated state, for readers.
    pub fn shared(&self) -> Arc<Shared> {
        self.apply.shared()
    }

    /// What its clock shows.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Whether it believes that it leads.
    pub fn leads(&self) -> bool {
        self.node.status().leader == self.id
    }

    /// Leads, and has applied an entry of its term: it can answer reads.
    pub fn serves(&self) -> bool {
        let status = self.node.status();
        self.leads() && self.node.raft().log().term(status.applied) == Some(status.term)
    }

    /// Whether nothing is under way inside.
    pub fn is_quiet(&self) -> bool {
        self.log_lane.is_empty()
            && self.apply_lane.is_empty()
            && self.commit_lane.is_empty()
            && self.inbox.is_empty()
            && !self.apply.is_sweeping()
    }

    /// Whether a lane has something to do.
    pub fn has_work(&self, lane: Lane) -> bool {
        match lane {
            Lane::Pump => !self.inbox.is_empty(),
            Lane::Log => !self.log_lane.is_empty(),
            Lane::Apply => !self.apply_lane.is_empty(),
            Lane::Commit => !self.commit_lane.is_empty(),
            Lane::Sweep => self.apply.is_sweeping(),
        }
    }

    /// How many things wait: in the inbox, and in the lanes of log, state and database.
    pub fn waiting(&self) -> [usize; 4] {
        [self.inbox.len(), self.log_lane.len(), self.apply_lane.len(), self.commit_lane.len()]
    }

    /// A name for a question to the node.
    pub fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Lets one lane work.
    pub fn work(&mut self, lane: Lane, rng: &mut Rng) -> Result<(), Fatal> {
        match lane {
            Lane::Pump => {
                self.pump(rng);
                Ok(())
            }
            Lane::Log => self.run_log(rng),
            Lane::Apply => self.run_apply(),
            Lane::Commit => self.run_commit(),
            Lane::Sweep if self.apply.is_sweeping() => {
                let receipt = self.apply.sweep()?;
                self.inbox.push_back(Input::Applied(receipt));
                Ok(())
            }
            Lane::Sweep => Ok(()),
        }
    }

    fn pump(&mut self, rng: &mut Rng) {
        self.pumped = self.clock.now();
        self.node.handle(Input::Tick { now: self.pumped });
        // What comes later is taken in the next round, as when it had come later.
        let all = self.inbox.len() as u64;
        let count = if rng.one_in(8) { rng.below(all + 1) } else { all };
        for input in self.inbox.drain(..usize::try_from(count).unwrap_or(0)) {
            self.node.handle(input);
        }
        for _ in 0..ROUNDS_MAX {
            let effects = self.node.take_effects();
            if effects.is_empty() {
                break;
            }
            // Before anybody is answered, who may then ask for the index of that very write.
            self.status = self.node.status();
            self.dispatch(effects);
        }
        self.status = self.node.status();
    }

    fn dispatch(&mut self, effects: Effects) {
        for effect in &effects.log {
            if let LogEffect::Append { entries, .. } = effect
                && !entries.is_empty()
            {
                self.shown.push(Shown::Logging(entries.clone()));
            }
        }
        self.log_lane.extend(effects.log);
        self.apply_lane.extend(effects.apply);
        self.commit_lane.extend(effects.commit);
        self.outbox.extend(effects.send.into_iter().map(Sent::Message));
        for SendSnapshot { message } in effects.snapshots {
            let index = receive::index_of(&message);
            match self.handoff.take_snapshot_view(index) {
                Some(view) => self.outbox.push(Sent::Snapshot(message, bytes_of(&view))),
                None => panic!("no view of entry {index} for a snapshot"),
            }
        }
        for answer in effects.answers {
            self.told.extend(match answer {
                Answer::DatabaseCommitted(ticket)
                | Answer::ReadReady(ticket)
                | Answer::Transferred(ticket) => Some(Told::Ready(ticket)),
                Answer::TicketRefused(ticket, _) => Some(Told::NotReady(ticket)),
                Answer::Refused { id, reason } => Some(Told::Refused(id, reason)),
                Answer::Published | Answer::Progress(..) => None,
                Answer::Removed => Some(Told::Removed),
                Answer::Stopped => Some(Told::Stopped),
            });
        }
    }

    fn run_log(&mut self, rng: &mut Rng) -> Result<(), Fatal> {
        let all = self.log_lane.len() as u64;
        if all == 0 {
            return Ok(());
        }
        let count = if rng.one_in(4) { 1 + rng.below(all) } else { all };
        let batch: Vec<LogEffect> =
            self.log_lane.drain(..usize::try_from(count).unwrap_or(1)).collect();
        let logged = self.log.run(batch.clone())?;
        let mut receipts = logged.receipts.iter();
        for effect in batch {
            let synced = match effect {
                LogEffect::Append { .. } => {
                    let receipt = receipts.next();
                    matches!(receipt, Some(node::LogReceipt::Appended { synced: true }))
                }
                LogEffect::Sync | LogEffect::Snapshot(_) => receipts.next().is_some(),
                LogEffect::Release(_) | LogEffect::Discard(_) | LogEffect::Purge => continue,
            };
            self.shown.push(Shown::Logged(effect, synced));
        }
        self.inbox.extend(logged.receipts.into_iter().map(Input::Logged));
        Ok(())
    }

    fn run_apply(&mut self) -> Result<(), Fatal> {
        let Some(effect) = self.apply_lane.pop_front() else { return Ok(()) };
        let shown = match &effect {
            ApplyEffect::Entries(entries) => Some(Shown::Applied(entries.clone())),
            ApplyEffect::Install(snapshot) => {
                let index = snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index());
                Some(Shown::Installed(LogIndex(index)))
            }
            ApplyEffect::Freeze | ApplyEffect::Publish => None,
        };
        let mut applier = Applier { told: &mut self.told };
        let receipt = self.apply.run(effect, self.clock.now(), &mut applier)?;
        self.shown.extend(shown);
        self.inbox.push_back(Input::Applied(receipt));
        Ok(())
    }

    fn run_commit(&mut self) -> Result<(), Fatal> {
        let Some(effect) = self.commit_lane.pop_front() else { return Ok(()) };
        let receipt = self.commit.run(effect)?;
        self.inbox.push_back(Input::Committed(receipt));
        Ok(())
    }

    /// Closes the log, after the node has stopped.
    pub fn close(self) -> Result<(), Fatal> {
        self.log.close()
    }

    /// When the pump is to go round at the latest, by the run's time.
    pub fn deadline(&self) -> Moment {
        self.clock.when(self.node.deadline())
    }

    /// How long ago the pump went round.
    pub fn since_pump(&self) -> Duration {
        self.clock.now() - self.pumped
    }
}

/// The database file that holds exactly what the view shows.
fn bytes_of(view: &bolt::View) -> Vec<u8> {
    let image = view.image();
    let mut file = Vec::new();
    while (file.len() as u64) < image.len() {
        match image.read_at(file.len() as u64, 1 << 16) {
            Ok(bytes) => file.extend_from_slice(&bytes),
            // A sender whose disk has stopped sends no more: the receiver finds half a file.
            Err(_) => return file,
        }
    }
    file
}
