//! The four threads of a member, and nothing that decides.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base::{Clock, MemberId, Moment, RequestId, RequestIds, Revision};
use node::requests::Rejected;
use node::{
    Answer, ApplyEffect, ApplyReceipt, CommitEffect, Effects, Input, LogEffect, Node, NodeConfig,
    Started,
};
use prost::Message;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, AlarmType, InternalRaftRequest, RequestHeader};
use proto::membershippb::Attributes;
use proto::raftpb::{Entry, Snapshot};
use store::{Applied, ApplyError, ConfChangeError, Response, Shared};
use worker::bootstrap::{Opened, StartError};
use worker::{ApplyWorker, CommitWorker, Fatal, Handoff, Listener, LogWorker, Place};

use super::heartbeats::Heartbeats;
use super::inbox::Inbox;
use super::network::Outlet;
use super::{Links, MemberConfig, Observer, Steps};

/// Rounds in which effects may follow from effects; each consumes what it acts on.
const ROUNDS_MAX: usize = 64;

/// After raising the alarm for want of space, how long to wait before raising it again.
const ALARM_RETRY: Duration = Duration::from_secs(5);

/// What the threads are made of.
pub(super) struct Parts {
    pub(super) config: MemberConfig,
    pub(super) node: NodeConfig,
    pub(super) opened: Opened,
    pub(super) place: Place,
    pub(super) outlet: Outlet,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn Observer>,
}

struct Lanes {
    log: Inbox<LogEffect>,
    /// Each with the moment when it was handed over.
    apply: Inbox<(Moment, ApplyEffect)>,
    commit: Inbox<CommitEffect>,
}

impl Lanes {
    /// The workers end when they have done what is there.
    fn close(&self) {
        self.log.close();
        self.apply.close();
        self.commit.close();
    }
}

/// Starts the threads. They end after [`Input::Stop`], or after a fatal error.
pub(super) fn spawn(
    parts: Parts,
    ids: Arc<RequestIds>,
    links: &Arc<Links>,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let Parts { config, node, opened, place, outlet, clock, observer } = parts;
    let lanes = Arc::new(Lanes {
        log: Inbox::default(),
        apply: Inbox::default(),
        commit: Inbox::default(),
    });
    let handoff = Arc::new(Handoff::default());
    let shared = opened.store.handle();
    let started =
        Started { restored: opened.restored, database: opened.store.applied().0, now: clock.now() };
    let wal_dir: PathBuf = config.dir.wal().into();
    let log = LogWorker::new(
        opened.wal,
        opened.snapshots,
        Arc::clone(&place.disk),
        wal_dir,
        config.kept,
        Arc::clone(&clock),
    );
    let apply = Apply {
        worker: ApplyWorker::new(opened.store, Arc::clone(&handoff), place),
        answers: Answers {
            links: Arc::clone(links),
            ids: Arc::clone(&ids),
            shared: Arc::clone(&shared),
            clock: Arc::clone(&clock),
            member: node.member,
            observer: Arc::clone(&observer),
            begun: clock.now(),
            committed: clock.now(),
            alarmed: None,
            changed: Vec::new(),
        },
        attributes: node.attributes.clone(),
        pause: config.compaction_pause,
        sweeping: None,
        outlet: outlet.clone(),
        clock: Arc::clone(&clock),
        observer: Arc::clone(&observer),
    };
    let commit = CommitWorker::new(opened.database, Arc::clone(&handoff));
    let (member, heartbeat) = (node.member, node.heartbeat);
    let node = Node::new(node, started, ids, Box::new(shared))?;

    let mut threads = Vec::new();
    let mut start = |name: &str, run: Run| {
        let thread = start(name, run, Arc::clone(links), Arc::clone(&lanes));
        threads.push(thread.map_err(|source| StartError::Directory {
            path: config.dir.root().to_owned(),
            action: "start the member's threads for",
            source,
        })?);
        Ok::<(), StartError>(())
    };

    let (of, ol, oc) = (Arc::clone(links), Arc::clone(&lanes), Arc::clone(&observer));
    let log_clock = Arc::clone(&clock);
    start("log", Box::new(move || run_log(log, &of, &ol.log, &*log_clock, &*oc)))?;
    let (of, ol) = (Arc::clone(links), Arc::clone(&lanes));
    start("apply", Box::new(move || apply.run(&of, &ol.apply)))?;
    let (of, ol, oc) = (Arc::clone(links), Arc::clone(&lanes), Arc::clone(&clock));
    let commit_observer = Arc::clone(&observer);
    start(
        "commit",
        Box::new(move || run_commit(commit, &of, &ol.commit, &*oc, &*commit_observer)),
    )?;
    let (of, ol) = (Arc::clone(links), Arc::clone(&lanes));
    let out = Out { member, heartbeat, outlet, handoff };
    start("pump", Box::new(move || pump(node, &of, &ol, &out, &*clock, &*observer)))?;
    Ok(threads)
}

/// What a thread does until it ends.
type Run = Box<dyn FnOnce() -> Result<(), Fatal> + Send>;

/// Starts one thread; an error in which it ends is told, and ends the others.
fn start(name: &str, run: Run, links: Arc<Links>, lanes: Arc<Lanes>) -> io::Result<JoinHandle<()>> {
    let body = move || {
        if let Err(error) = run() {
            // The first line counts: what fails after it is a consequence.
            links.fatal.send_if_modified(|line| {
                let is_first = line.is_none();
                if is_first {
                    *line = Some(error.to_string());
                }
                is_first
            });
            links.is_alone.store(false, Ordering::Release);
            lanes.close();
            links.inbox.close();
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Where the pump sends what is for other members.
struct Out {
    member: MemberId,
    heartbeat: Duration,
    outlet: Outlet,
    handoff: Arc<Handoff>,
}

/// Takes in everything that has arrived, and hands out what follows.
fn pump(
    mut node: Node,
    links: &Links,
    lanes: &Lanes,
    out: &Out,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<(), Fatal> {
    let mut leader = MemberId::NONE;
    let mut heartbeats = Heartbeats::new(out.heartbeat);
    let mut disk_stalls = 0;
    let mut shown = None;
    let mut is_stopped = false;
    node.handle(Input::Tick { now: clock.now() });
    while !is_stopped {
        for _ in 0..ROUNDS_MAX {
            let effects = node.take_effects();
            if effects.is_empty() {
                break;
            }
            // Before anything is sent to a new member, which could then answer writes, too; and
            // before anybody is answered, who may then ask for the index of that very write.
            let status = node.status();
            if shown != Some(status) {
                links.show(status);
                shown = Some(status);
            }
            let (late, exceeded) = heartbeats.leave(&effects.send, clock.now());
            if late > 0 {
                observer.heartbeats_late(late, exceeded);
            }
            is_stopped |= dispatch(effects, links, lanes, out, clock);
        }
        let status = node.status();
        if shown != Some(status) {
            links.show(status);
            shown = Some(status);
        }
        if status.leader != leader {
            leader = status.leader;
            heartbeats.forget();
            if leader == out.member {
                *links.elected.lock() = Some(Instant::now());
            }
            observer.leader_changed(leader, status.term.get());
        }
        if node.disk_stalls() != disk_stalls {
            disk_stalls = node.disk_stalls();
            observer.disk_stalled();
        }
        for (operation, took) in node.take_own_done() {
            observer.own_request(operation, took);
        }
        let timeout = node.deadline() - clock.now();
        let Some(inputs) = links.inbox.take(Some(timeout)) else { break };
        let now = clock.now();
        node.handle(Input::Tick { now });
        links.ticked.store(now.as_nanos(), Ordering::Relaxed);
        links.timeline.note_taken(now);
        for input in inputs {
            if let Input::Message(message) = &input {
                links.received.taken(message);
            }
            node.handle(input);
        }
    }
    links.is_alone.store(false, Ordering::Release);
    lanes.close();
    links.inbox.close();
    links.proposals.clear();
    links.conf_changes.clear();
    links.tickets.clear();
    links.progress.clear();
    Ok(())
}

/// True when the node has stopped.
fn dispatch(effects: Effects, links: &Links, lanes: &Lanes, out: &Out, clock: &dyn Clock) -> bool {
    // First of all: they travel while the own log is written.
    out.outlet.send(effects.send);
    for snapshot in effects.snapshots {
        out.outlet.send_snapshot(snapshot, &out.handoff, links);
    }
    for effect in effects.log {
        lanes.log.push(effect);
    }
    if !effects.apply.is_empty() {
        let now = clock.now();
        for effect in effects.apply {
            lanes.apply.push((now, effect));
        }
    }
    for effect in effects.commit {
        lanes.commit.push(effect);
    }
    let mut is_stopped = false;
    for answer in effects.answers {
        match answer {
            Answer::Refused { id, reason } => {
                links.conf_changes.answer(id.get(), Err(reason.clone()));
                links.proposals.answer(id.get(), Err(reason));
            }
            Answer::ReadReady(ticket)
            | Answer::DatabaseCommitted(ticket)
            | Answer::Transferred(ticket) => {
                links.tickets.answer(ticket.0, Ok(()));
            }
            Answer::TicketRefused(ticket, reason) => links.tickets.answer(ticket.0, Err(reason)),
            Answer::Progress(ticket, progress) => links.progress.answer(ticket.0, progress),
            Answer::Published => {
                links.published.send_replace(true);
            }
            Answer::Removed => {
                links.removed.send_replace(true);
            }
            Answer::Stopped => is_stopped = true,
        }
    }
    is_stopped
}

/// Writes the log: one sync for everything that waits.
fn run_log(
    mut worker: LogWorker,
    links: &Links,
    lane: &Inbox<LogEffect>,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<(), Fatal> {
    while let Some(effects) = lane.take(None) {
        if effects.is_empty() {
            continue;
        }
        let begun = clock.now();
        links.logging.begin(begun);
        let logged = worker.run(effects)?;
        links.logging.end();
        links.timeline.note_logged(begun, clock.now());
        for took in logged.syncs {
            observer.wal_synced(took);
        }
        for saved in logged.snapshots {
            observer.snapshot_saved(saved);
        }
        for receipt in logged.receipts {
            links.inbox.push(Input::Logged(receipt));
        }
    }
    worker.close()?;
    links.stopped.send_replace(true);
    Ok(())
}

fn run_commit(
    mut worker: CommitWorker,
    links: &Links,
    lane: &Inbox<CommitEffect>,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<(), Fatal> {
    while let Some(effects) = lane.take(None) {
        for effect in effects {
            let begun = clock.now();
            links.committing.begin(begun);
            let receipt = worker.run(effect)?;
            links.committing.end();
            *links.committed.lock() = worker.view();
            observer.database_committed(clock.now() - begun);
            links.inbox.push(Input::Committed(receipt));
        }
    }
    Ok(())
}

/// A compaction whose rows are being removed.
struct Sweep {
    revision: Revision,
    begun: Moment,
    next: Moment,
}

struct Apply {
    worker: ApplyWorker,
    answers: Answers,
    pause: Duration,
    sweeping: Option<Sweep>,
    outlet: Outlet,
    /// What the cluster is to know about this member.
    attributes: Attributes,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
}

impl Apply {
    fn run(mut self, links: &Links, lane: &Inbox<(Moment, ApplyEffect)>) -> Result<(), Fatal> {
        loop {
            let now = self.clock.now();
            let timeout = self.sweeping.as_ref().map(|sweep| sweep.next - now);
            let Some(effects) = lane.take(timeout) else { return Ok(()) };
            for (committed, effect) in effects {
                let begun = self.clock.now();
                let installing = match &effect {
                    ApplyEffect::Install(snapshot) => Some(position(snapshot)),
                    _ => None,
                };
                if let Some((index, term)) = installing {
                    self.observer.installing(index, term);
                }
                (self.answers.begun, self.answers.committed) = (begun, committed);
                let receipt = self.worker.run(effect, begun, &mut self.answers)?;
                if let Some((index, term)) = installing {
                    self.installed(links);
                    self.observer.installed(index, term, self.clock.now() - begun);
                }
                // Before the consensus hears of a new member, and sends to it.
                if changes_members(&receipt) {
                    self.outlet.set_members(&self.answers.shared);
                }
                links.inbox.push(Input::Applied(receipt));
                // After the consensus has the change: while it has not, it refuses the next one.
                self.answers.tell_changed();
                self.sweep_if_due(links)?;
            }
            self.sweep_if_due(links)?;
        }
    }

    /// The state that was received may know this member already: then the entry that told of it is
    /// in there, and nobody will hear of it any more.
    fn installed(&self, links: &Links) {
        let own = self.answers.shared.member(self.answers.member);
        let is_known = own.is_some_and(|own| {
            (own.name.as_str(), own.client_urls.as_slice())
                == (self.attributes.name.as_str(), self.attributes.client_urls.as_slice())
        });
        if is_known {
            links.published.send_replace(true);
        }
    }

    fn sweep_if_due(&mut self, links: &Links) -> Result<(), Fatal> {
        if self.sweeping.is_none() && !self.worker.is_sweeping() {
            return Ok(());
        }
        let now = self.clock.now();
        if self.sweeping.is_none() {
            let revision = self.answers.shared.view().compact_revision();
            self.sweeping = Some(Sweep { revision, begun: now, next: now });
        }
        let Some(sweep) = &mut self.sweeping else { return Ok(()) };
        if now < sweep.next {
            return Ok(());
        }
        let receipt = self.worker.sweep()?;
        self.observer.slice_swept(self.worker.last_slice(), self.clock.now() - now);
        links.inbox.push(Input::Applied(receipt));
        sweep.next = self.clock.now() + self.pause;
        if !self.worker.is_sweeping() {
            let took = self.clock.now() - sweep.begun;
            self.observer.compaction_finished(sweep.revision.get(), took);
            self.sweeping = None;
        }
        Ok(())
    }
}

/// Index and term of a snapshot.
fn position(snapshot: &Snapshot) -> (u64, u64) {
    let metadata = snapshot.metadata.as_ref();
    metadata.map_or((0, 0), |metadata| (metadata.index(), metadata.term()))
}

fn changes_members(receipt: &ApplyReceipt) -> bool {
    match receipt {
        ApplyReceipt::Entries { conf_changes, .. } => !conf_changes.is_empty(),
        ApplyReceipt::Installed { .. } => true,
        ApplyReceipt::Frozen { .. } | ApplyReceipt::Changed { .. } => false,
    }
}

/// Wakes those who wait, from the apply thread itself.
struct Answers {
    links: Arc<Links>,
    ids: Arc<RequestIds>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    member: MemberId,
    observer: Arc<dyn Observer>,
    /// When the entry under way was taken up.
    begun: Moment,
    /// When it was handed over.
    committed: Moment,
    /// When the alarm for want of space was raised last.
    alarmed: Option<Moment>,
    /// Changes of members that are applied, and not told yet.
    changed: Vec<(RequestId, Result<Vec<store::Member>, ConfChangeError>)>,
}

impl Answers {
    fn tell_changed(&mut self) {
        for (id, result) in self.changed.drain(..) {
            self.links.conf_changes.answer(id.get(), result.map_err(Rejected::from));
        }
    }
}

impl Listener for Answers {
    fn applied(&mut self, applied: &Applied, entry: &Entry) {
        let now = self.clock.now();
        self.observer.applied(applied, entry, now - self.begun);
        self.begun = now;
    }

    fn answer(&mut self, id: RequestId, result: Result<Response, ApplyError>) {
        // Noted just before, when the entry was applied.
        let steps = Steps { committed: self.committed, applied: self.begun };
        let answer = result.map(|response| super::Answer { response, steps });
        self.links.proposals.answer(id.get(), answer.map_err(Rejected::from));
    }

    fn conf_changed(&mut self, id: RequestId, result: Result<Vec<store::Member>, ConfChangeError>) {
        self.changed.push((id, result));
    }

    fn out_of_space(&mut self) {
        let now = self.clock.now();
        let is_fresh = self.alarmed.is_some_and(|at| now.since(at) < ALARM_RETRY);
        if is_fresh || self.shared.is_raised(AlarmType::Nospace) {
            return;
        }
        self.alarmed = Some(now);
        let id = self.ids.next();
        let request = InternalRaftRequest {
            header: Some(RequestHeader { id: id.get(), ..RequestHeader::default() }),
            alarm: Some(AlarmRequest {
                action: AlarmAction::Activate.into(),
                member_id: self.member.get(),
                alarm: AlarmType::Nospace.into(),
            }),
            ..InternalRaftRequest::default()
        };
        let data = request.encode_to_vec().into();
        self.links.inbox.push(Input::Propose { id, data });
    }
}
