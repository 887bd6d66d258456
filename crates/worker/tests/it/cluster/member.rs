//! One member of a cluster between two of its steps: node and workers, their lanes as queues.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, LogIndex, MemberId, RequestId, RequestIds, Revision, Rng, Term};
use node::{
    Answer, ApplyEffect, CommitEffect, Effects, Input, LogEffect, Node, NodeConfig, SendSnapshot,
    Started, Ticket,
};
use proto::membershippb::Attributes;
use proto::raftpb::Message;
use storage::bolt;
use storage::datadir::DataDir;
use storage::disk::{Disk, Faulty, Open};
use store::{ApplyError, Response, Shared};
use worker::bootstrap::{self, Opened};
use worker::{ApplyWorker, CommitWorker, Fatal, Handoff, Listener, LogWorker, Place};

use super::history::History;
use crate::driver::{ROOT, Settings, Time};

/// A message that leaves, with the pages of a snapshot.
pub(crate) enum Sent {
    Message(Message),
    Snapshot(Message, Vec<u8>),
}

/// What a client waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Waits {
    Read { acknowledged: Revision },
    Commit { applied: LogIndex },
    Transfer { to: MemberId },
}

/// How a step ended a member's life.
#[derive(Debug)]
pub(crate) enum End {
    /// A worker said what is wrong; the crash of the disk, if that has crashed.
    Fatal(String),
    Stopped,
    Removed,
}

/// A running member.
pub(crate) struct Member {
    pub(crate) id: MemberId,
    time: Arc<Time>,
    pub(crate) node: Node,
    pub(crate) ids: Arc<RequestIds>,
    log: LogWorker,
    apply: ApplyWorker,
    commit: CommitWorker,
    handoff: Arc<Handoff>,
    place: Place,
    log_lane: VecDeque<LogEffect>,
    apply_lane: VecDeque<ApplyEffect>,
    commit_lane: VecDeque<CommitEffect>,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) outbox: Vec<Sent>,
    tickets: BTreeMap<Ticket, Waits>,
    next_ticket: u64,
    /// Proposals of this life that nobody was told about yet.
    pub(crate) pending: BTreeMap<RequestId, ()>,
    /// The log worker does nothing until then: its disk stalls.
    pub(crate) stalled_until: base::Moment,
    ending: Option<End>,
    pub(crate) stopping: bool,
    pub(crate) installs: u64,
    pub(crate) reads: u64,
    pub(crate) transfers: u64,
}

/// Hears of what one member applies.
struct Applier<'a> {
    history: &'a mut History,
    pending: &'a mut BTreeMap<RequestId, ()>,
}

impl Listener for Applier<'_> {
    fn answer(&mut self, id: RequestId, result: Result<Response, ApplyError>) {
        let is_acknowledged = self.pending.remove(&id).is_some();
        self.history.answered(id, result, is_acknowledged);
    }

    fn out_of_space(&mut self) {
        panic!("there is no quota");
    }
}

pub(crate) fn place(disk: &Faulty, settings: &Settings) -> Place {
    let shared = Arc::new(disk.clone()) as Arc<dyn Disk>;
    Place { disk: shared, dir: DataDir::new(ROOT), database: settings.files().database }
}

impl Member {
    pub(crate) fn start(
        disk: &Faulty,
        settings: &Settings,
        time: &Arc<Time>,
        seed: u64,
    ) -> Result<Self, bootstrap::StartError> {
        let place = place(disk, settings);
        let now = time.now();
        let options = |identity: bootstrap::Identity| settings.store(identity.member);
        let opened = bootstrap::open(&place.disk, &place.dir, &settings.files(), options, now)?;
        Self::on(opened, place, settings, time, seed)
    }

    fn on(
        opened: Opened,
        place: Place,
        settings: &Settings,
        time: &Arc<Time>,
        seed: u64,
    ) -> Result<Self, bootstrap::StartError> {
        let id = opened.identity.member;
        let config = NodeConfig {
            member: id,
            attributes: Attributes {
                name: format!("m{id}"),
                client_urls: vec![format!("http://{id}:2379")],
            },
            heartbeat: Duration::from_millis(100),
            election_ticks: 10,
            pre_vote: true,
            snapshot_count: settings.snapshot_count,
            catchup_entries: settings.catchup_entries,
            server_version: (3, 7),
            seed,
        };
        let ids = Arc::new(RequestIds::new(id, time.unix_ms()));
        let handoff = Arc::new(Handoff::default());
        let shared = opened.store.handle();
        let database = opened.store.applied().0;
        let started = Started { restored: opened.restored, database, now: time.now() };
        let node = Node::new(config, started, Arc::clone(&ids), Box::new(shared))?;
        let clock: Arc<dyn Clock> = Arc::clone(time) as Arc<dyn Clock>;
        let (disk, wal_dir) = (Arc::clone(&place.disk), place.dir.wal().to_owned());
        let kept = settings.kept;
        Ok(Self {
            id,
            time: Arc::clone(time),
            node,
            ids,
            log: LogWorker::new(opened.wal, opened.snapshots, disk, wal_dir, kept, clock),
            apply: ApplyWorker::new(opened.store, Arc::clone(&handoff), place.clone()),
            commit: CommitWorker::new(opened.database, Arc::clone(&handoff)),
            handoff,
            place,
            log_lane: VecDeque::new(),
            apply_lane: VecDeque::new(),
            commit_lane: VecDeque::new(),
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            pending: BTreeMap::new(),
            stalled_until: base::Moment::default(),
            ending: None,
            stopping: false,
            installs: 0,
            reads: 0,
            transfers: 0,
        })
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.apply.shared()
    }

    pub(crate) fn leads(&self) -> bool {
        self.node.status().leader == self.id
    }

    /// Leads, and has applied an entry of its term: it can answer reads.
    pub(crate) fn serves(&self) -> bool {
        let status = self.node.status();
        self.leads() && self.node.raft().log().term(status.applied) == Some(status.term)
    }

    /// Whether nothing is under way inside.
    pub(crate) fn is_quiet(&self) -> bool {
        self.log_lane.is_empty()
            && self.apply_lane.is_empty()
            && self.commit_lane.is_empty()
            && self.inbox.is_empty()
            && !self.apply.is_sweeping()
    }

    fn ticket(&mut self, waits: Waits) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.tickets.insert(ticket, waits);
        ticket
    }

    pub(crate) fn read(&mut self, history: &History) {
        let ticket = self.ticket(Waits::Read { acknowledged: history.acknowledged });
        self.inbox.push_back(Input::ReadIndex { ticket });
    }

    pub(crate) fn commit_now(&mut self) {
        let applied = self.node.status().applied;
        let ticket = self.ticket(Waits::Commit { applied });
        self.inbox.push_back(Input::CommitDatabase { ticket });
    }

    pub(crate) fn transfer(&mut self, to: MemberId) {
        let ticket = self.ticket(Waits::Transfer { to });
        self.inbox.push_back(Input::TransferLeader { to, ticket });
    }

    /// One step of whoever the seed names.
    pub(crate) fn step(&mut self, rng: &mut Rng, history: &mut History) -> Result<(), End> {
        let fatal = |error: Fatal| End::Fatal(error.to_string());
        match rng.below(12) {
            0..5 => self.pump(rng, history),
            5..7 => self.run_log(rng).map_err(fatal)?,
            7..10 => self.run_apply(history).map_err(fatal)?,
            10 => self.run_commit().map_err(fatal)?,
            _ if self.apply.is_sweeping() => {
                let receipt = self.apply.sweep().map_err(fatal)?;
                self.inbox.push_back(Input::Applied(receipt));
            }
            _ => {}
        }
        self.ending.take().map_or(Ok(()), Err)
    }

    fn pump(&mut self, rng: &mut Rng, history: &mut History) {
        self.node.handle(Input::Tick { now: self.time.now() });
        let count = if rng.one_in(4) { rng.below(4) as usize } else { self.inbox.len() };
        for input in self.inbox.drain(..count.min(self.inbox.len())) {
            self.node.handle(input);
        }
        for _ in 0..1 + rng.below(3) {
            let effects = self.node.take_effects();
            self.dispatch(effects, history);
        }
        let status = self.node.status();
        if status.leader == self.id {
            history.leads(status.term, self.id);
        }
    }

    fn dispatch(&mut self, effects: Effects, history: &mut History) {
        self.log_lane.extend(effects.log);
        self.apply_lane.extend(effects.apply);
        self.commit_lane.extend(effects.commit);
        self.outbox.extend(effects.send.into_iter().map(Sent::Message));
        for SendSnapshot { message } in effects.snapshots {
            let metadata =
                message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
            let metadata = metadata.expect("a snapshot says where it stands");
            let index = LogIndex(metadata.index());
            let view = self.handoff.take_snapshot_view(index).expect("the view of that index");
            let file = bytes_of(&view);
            history.sends(index, Term(metadata.term()), metadata.conf_state.as_ref());
            self.outbox.push(Sent::Snapshot(message, file));
        }
        for answer in effects.answers {
            match answer {
                Answer::DatabaseCommitted(ticket) => {
                    let waits = self.tickets.remove(&ticket);
                    let Some(Waits::Commit { applied }) = waits else { panic!("{waits:?}") };
                    assert!(self.node.status().database >= applied);
                }
                Answer::ReadReady(ticket) => {
                    let waits = self.tickets.remove(&ticket);
                    let Some(Waits::Read { acknowledged }) = waits else { panic!("{waits:?}") };
                    let seen = self.shared().revision();
                    assert!(seen >= acknowledged, "a stale read: {seen} of {acknowledged}");
                    self.reads += 1;
                }
                Answer::Transferred(ticket) => {
                    let waits = self.tickets.remove(&ticket);
                    let Some(Waits::Transfer { to }) = waits else { panic!("{waits:?}") };
                    // One that led when it was asked for itself may have stepped down since, in
                    // the same round.
                    assert!(self.node.status().leader == to || to == self.id);
                    self.transfers += 1;
                }
                Answer::TicketRefused(ticket, _) => drop(self.tickets.remove(&ticket)),
                Answer::Refused { id, .. } => {
                    self.pending.remove(&id);
                    history.refused(id);
                }
                Answer::Published | Answer::Progress(..) => {}
                Answer::Removed => self.ending = Some(End::Removed),
                Answer::Stopped => self.ending = Some(End::Stopped),
            }
        }
    }

    fn run_log(&mut self, rng: &mut Rng) -> Result<(), Fatal> {
        if self.log_lane.is_empty() || self.time.now() < self.stalled_until {
            return Ok(());
        }
        let count = 1 + rng.below(self.log_lane.len() as u64) as usize;
        let batch: Vec<LogEffect> = self.log_lane.drain(..count).collect();
        let logged = self.log.run(batch)?;
        self.inbox.extend(logged.receipts.into_iter().map(Input::Logged));
        Ok(())
    }

    fn run_apply(&mut self, history: &mut History) -> Result<(), Fatal> {
        let Some(effect) = self.apply_lane.pop_front() else { return Ok(()) };
        match &effect {
            ApplyEffect::Entries(entries) => history.applies(entries),
            ApplyEffect::Install(_) => self.installs += 1,
            _ => {}
        }
        let mut applier = Applier { history, pending: &mut self.pending };
        let receipt = self.apply.run(effect, self.time.now(), &mut applier)?;
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
    pub(crate) fn close(self) -> Result<(), String> {
        self.log.close().map_err(|error| error.to_string())
    }

    /// Takes a snapshot in as the transport does. False when nothing came of it.
    pub(crate) fn receive(&mut self, message: Message, file: &[u8]) -> bool {
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let index = LogIndex(metadata.map_or(0, |metadata| metadata.index()));
        let verified = store_received(&self.place, index, file);
        if verified.is_ok() {
            let message = Box::new(message);
            self.inbox.push_back(Input::SnapshotReceived { message });
        }
        verified.is_ok()
    }
}

/// The database file that holds exactly what the view shows.
fn bytes_of(view: &bolt::View) -> Vec<u8> {
    let image = view.image();
    let mut file = Vec::new();
    while (file.len() as u64) < image.len() {
        file.extend_from_slice(&image.read_at(file.len() as u64, 1 << 16).unwrap());
    }
    file
}

/// A file, synced and verified, then its name; as it is when it is there already.
fn store_received(place: &Place, index: LogIndex, bytes: &[u8]) -> Result<(), String> {
    let (disk, path) = (&place.disk, place.dir.received(index));
    let temporary = place.dir.snap().join("tmp1");
    let write = || -> std::io::Result<bool> {
        if disk.exists(&path)? {
            return Ok(false);
        }
        let file = disk.open(&temporary, Open::Truncate)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        Ok(true)
    };
    if write().map_err(|error| error.to_string())? {
        worker::verify_received(place, &temporary, index, (3, 7)).map_err(|e| e.to_string())?;
        let named = disk.rename(&temporary, &path);
        let synced = named.and_then(|()| disk.sync_dir(&place.dir.snap()));
        synced.map_err(|error| error.to_string())?;
    }
    Ok(())
}
