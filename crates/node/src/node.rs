//! The node: every ordering rule between log, state and database, and every duty of a member
//! that is not a request's.
//!
//! *Invariants* (the order on disk; each is asserted where the effect is made).
//! 1. A message that promises durability, and the own vote, leave when the receipt of the append
//!    before them says *synced*.
//! 2. Only entries that are stable in the own log are applied (raft hands out no others).
//! 3. A database commit up to *i* starts when the log has synced *i* and a hard state with a
//!    commit index of at least *i*.
//! 4. A snapshot record follows the database commit that covers it, and the release of segments
//!    follows the record.
//! 5. database <= applied <= committed; applied + `limits::APPLY_BACKLOG_MAX` bounds what is
//!    taken in.
//! 6. A received snapshot is installed when the log has synced it, everything handed out before is
//!    applied, and no commit of the database is under way; nothing after it is handed out before.
//!
//! *Absent.* The state itself, the disk, the network.
//!
//! *Contract.* `server/etcdserver/raft.go` and `server.go` of etcd v3.7.1.

mod ending;
mod proposals;
mod snapshots;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::{LogIndex, MemberId, Moment, RequestIds, Term};
use proto::membershippb::Attributes;
use proto::raftpb::{ConfChange, ConfChangeType, Message, MessageType};
use raft::{AppendReceipt, ProgressState, Raft, Role};

use crate::commits::{CommitPace, Commits};
use crate::effect::{Answer, ApplyEffect, Effects, LogEffect};
use crate::handover::{Stall, Transfers};
use crate::held::{Held, Proposal};
use crate::input::{ApplyReceipt, CommitReceipt, Input, LogReceipt, Pending, Ticket};
use crate::leader::{Duties, Own};
use crate::reads::Reads;
use crate::requests::Rejected;
use crate::state::State;
use ending::Ending;
use proposals::Postponed;
use snapshots::Install;

/// Entries handed out to be applied at once, in encoded bytes; etcd's `MaxSizePerMsg`.
const APPLY_BYTES_MAX: usize = 1 << 20;

/// Portions of entries that the apply lane may hold: enough to keep it busy, few enough for the
/// next portion to be large under load.
const APPLYING_MAX: usize = 3;

/// How long a member that was removed goes on, so that others hear of it (`stopWithDelay` of etcd).
const REMOVED_INTERVAL: Duration = Duration::from_secs(1);

/// How often files that are not needed any more are removed.
const PURGE_INTERVAL: Duration = Duration::from_secs(30);

/// Entries in one append to a follower, as in etcd (`server/etcdserver/raft.go`).
const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// Appends that a follower may leave unacknowledged, as in etcd.
const INFLIGHT_MESSAGES_MAX: usize = 512;

/// What a node is told once.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// This member.
    pub member: MemberId,
    /// What the cluster is to know about it.
    pub attributes: Attributes,
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
    /// When changes of the database are committed.
    pub commit_pace: CommitPace,
    /// Major and minor of the version that this server announces.
    pub server_version: (u64, u64),
    /// Decides the election timeouts.
    pub seed: u64,
}

/// What the disk held when the node started.
#[derive(Debug)]
pub struct Started {
    /// The log since its last snapshot, and who the members are (as the database says).
    pub restored: raft::Restored,
    /// The last entry that the database has.
    pub database: LogIndex,
    /// The time now.
    pub now: Moment,
}

/// Where a node stands, for whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The leader, or [`MemberId::NONE`].
    pub leader: MemberId,
    /// The term.
    pub term: Term,
    /// Whom this member voted for in it.
    pub vote: MemberId,
    /// This member's part.
    pub role: Role,
    /// Who is to lead next, or [`MemberId::NONE`].
    pub transferee: MemberId,
    /// Up to where a quorum agreed.
    pub committed: LogIndex,
    /// Up to where the state has taken the entries in.
    pub applied: LogIndex,
    /// Up to where the database has.
    pub database: LogIndex,
    /// Whether this member only learns.
    pub is_learner: bool,
    /// This member leads, has applied an entry of its term, and there is no other: whatever was
    /// acknowledged to any client is in the view that it publishes, so that a read needs no index.
    pub is_alone: bool,
}

/// Up to where the log of each member is known to be the leader's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Who leads.
    pub leader: MemberId,
    /// Every member, the leader included.
    pub members: Vec<(MemberId, Sent)>,
}

/// What the leader knows of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Up to where its log is known to be the leader's.
    pub matched: LogIndex,
    /// The entry that is sent next.
    pub next: LogIndex,
    /// How the leader sends.
    pub state: ProgressState,
}

impl Progress {
    /// That of one member; `None` when it is unknown.
    pub fn of(&self, id: MemberId) -> Option<LogIndex> {
        self.members.iter().find(|(member, _)| *member == id).map(|(_, sent)| sent.matched)
    }
}

/// What the log lane owes a receipt for.
enum Logging {
    Append { commit: Option<LogIndex>, must_sync: bool, after: Vec<Message>, done: AppendReceipt },
    Sync,
    Snapshot,
}

/// What the apply lane owes a receipt for: entries up to an index, with the size of their data.
struct Applying {
    upto: LogIndex,
    bytes: usize,
}

/// One member's decisions.
pub struct Node {
    config: NodeConfig,
    raft: Raft,
    state: Box<dyn State>,
    reads: Reads,
    commits: Commits,
    duties: Duties,
    now: Moment,
    next_tick: Moment,
    next_purge: Moment,
    logging: VecDeque<Logging>,
    /// Reports of the log lane so far.
    logged: u64,
    stall: Stall,
    /// The largest commit index in hard states that the log worker has written.
    written_commit: LogIndex,
    /// The largest one that is on disk. `synced_commit <= written_commit`.
    synced_commit: LogIndex,
    /// A sync is under way for the sake of a database commit.
    syncing: bool,
    applying: VecDeque<Applying>,
    /// The next snapshot to be installed.
    install: Option<Install>,
    /// The apply worker installs the snapshot at this index.
    installing: Option<LogIndex>,
    /// Up to where the log is released when that is done.
    release_at: Option<LogIndex>,
    /// The newest snapshot that raft has put in the place of its log: its configuration is in
    /// force although entries before it may still be on their way through the apply lane.
    restored: LogIndex,
    /// Data of entries that the log has been given and the state has not, and up to where.
    unapplied: (usize, LogIndex),
    /// Data that this leader has proposed and not given to the log.
    proposed_bytes: usize,
    /// Where the log in memory was cut last: applied then.
    compacted_at: LogIndex,
    /// Snapshots on their way to other members (`None`), and those that arrived not long ago.
    sending: BTreeMap<MemberId, Option<Moment>>,
    /// Proposals without a leader.
    held: Held,
    /// Changes of the members that came while one before them was not applied.
    changes: VecDeque<Postponed>,
    transfers: Transfers,
    leader: MemberId,
    /// When this member came to lead last.
    elected: Option<Moment>,
    /// Since when this member is not one any more, until that is said.
    removed: Option<Moment>,
    ending: Ending,
    answers: Vec<Answer>,
    effects: Effects,
}

impl Node {
    /// A node on what its disk held.
    pub fn new(
        config: NodeConfig,
        started: Started,
        ids: Arc<RequestIds>,
        state: Box<dyn State>,
    ) -> Result<Self, raft::ConfigError> {
        let Started { restored, database, now } = started;
        let election = config.heartbeat * config.election_ticks;
        let synced_commit = LogIndex(restored.hard_state.commit()).max(restored.base.index);
        let snapshot = restored.base.index;
        let raft = Raft::new(
            raft::Config {
                id: config.member,
                election_ticks: config.election_ticks,
                heartbeat_ticks: 1,
                pre_vote: config.pre_vote,
                check_quorum: true,
                message_bytes_max: MESSAGE_BYTES_MAX,
                inflight_messages_max: INFLIGHT_MESSAGES_MAX,
                inflight_bytes_max: 0,
                uncommitted_bytes_max: 0,
                read_mode: raft::ReadMode::Safe,
                disable_proposal_forwarding: false,
                disable_conf_change_validation: false,
                step_down_on_removal: false,
                gather: true,
                seed: config.seed,
            },
            restored,
        )?;
        let own = Own {
            member: config.member,
            attributes: config.attributes.clone(),
            server_version: config.server_version,
            ids: Arc::clone(&ids),
            timeout: request_timeout(election),
            extend: election,
        };
        Ok(Self {
            commits: Commits::new(database, snapshot, config.snapshot_count, config.commit_pace),
            duties: Duties::new(own),
            unapplied: (raft.log().bytes(), raft.log().last().index),
            proposed_bytes: 0,
            raft,
            state,
            reads: Reads::new(ids, request_timeout(election)),
            now,
            next_tick: now + config.heartbeat,
            next_purge: now + PURGE_INTERVAL,
            logging: VecDeque::new(),
            logged: 0,
            stall: Stall::default(),
            written_commit: synced_commit,
            synced_commit,
            syncing: false,
            applying: VecDeque::new(),
            install: None,
            installing: None,
            release_at: None,
            restored: snapshot,
            compacted_at: snapshot,
            sending: BTreeMap::new(),
            held: Held::default(),
            changes: VecDeque::new(),
            transfers: Transfers::new(election),
            leader: MemberId::NONE,
            elected: None,
            removed: None,
            ending: Ending::None,
            answers: Vec::new(),
            effects: Effects::default(),
            config,
        })
    }

    // ---- what may be asked ----

    /// When [`Input::Tick`] is due at the latest.
    pub fn deadline(&self) -> Moment {
        let handing_over = match self.ending {
            Ending::HandingOver(until) => Some(until),
            _ => None,
        };
        let removed = self.removed.map(|since| since + REMOVED_INTERVAL);
        // A member that ends has no duties: what would be due stays so until it has ended.
        let duties = self.duties.deadline().filter(|_| !self.is_stopping());
        let commits = self.commits.deadline();
        let (reads, held) = (self.reads.deadline(), self.held.deadline());
        let others =
            [commits, duties, reads, held, self.transfers.deadline(), handing_over, removed];
        others.into_iter().flatten().fold(self.next_tick, Moment::min)
    }

    /// Where the node stands.
    pub fn status(&self) -> Status {
        let raft = self.raft.status();
        let own = self.raft.tracker().progress(self.config.member);
        Status {
            leader: raft.leader,
            term: raft.term,
            vote: raft.vote,
            role: raft.role,
            transferee: raft.transferee.unwrap_or(MemberId::NONE),
            committed: raft.committed,
            applied: raft.applied,
            database: self.commits.database(),
            is_learner: own.is_some_and(|own| own.is_learner),
            is_alone: self.is_alone() && self.leads() && !self.is_stopping(),
        }
    }

    fn is_alone(&self) -> bool {
        self.raft.is_sole_voter() && self.raft.tracker().members().count() == 1
    }

    /// Whether this member leads and has applied an entry of its own term.
    fn leads(&self) -> bool {
        let raft = self.raft.status();
        raft.role == Role::Leader && self.raft.log().term(raft.applied) == Some(raft.term)
    }

    /// How far each member has come, as the leader knows.
    fn progress(&self) -> Option<Progress> {
        let status = self.raft.status();
        let members = self.raft.tracker().members();
        let sent = |progress: &raft::Progress| Sent {
            matched: progress.matched,
            next: progress.next,
            state: progress.state,
        };
        (status.role == Role::Leader).then(|| Progress {
            leader: self.config.member,
            members: members.map(|(id, progress)| (id, sent(progress))).collect(),
        })
    }

    /// When this member came to lead last; `None` when it never did.
    pub fn elected(&self) -> Option<Moment> {
        self.elected
    }

    /// Takes out which requests that this member made by itself are done, and how long each took.
    pub fn take_own_done(&mut self) -> Vec<(store::Operation, Duration)> {
        self.duties.take_done()
    }

    /// How often this member handed leadership over because its disk did not answer.
    pub fn disk_stalls(&self) -> u64 {
        self.stall.handed_over
    }

    /// The consensus core, to look at.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    // ---- what goes in ----

    /// Takes an input in. What follows from it comes with [`Self::take_effects`].
    pub fn handle(&mut self, input: Input) {
        match input {
            Input::Tick { now } => self.tick(now),
            Input::Propose { id, data } => self.propose(id, Proposal::Request(data)),
            Input::ProposeConfChange { id, change } => {
                self.propose(id, Proposal::Change(Box::new(change)));
            }
            Input::ReadIndex { ticket } => self.read_index(ticket),
            Input::CommitDatabase { ticket } => {
                if self.ending == Ending::Stopped || !self.commits.want(ticket) {
                    self.answers.push(Answer::TicketRefused(ticket, self.refusal()));
                }
            }
            Input::Progress { ticket } => {
                let progress = self.progress();
                self.answers.push(Answer::Progress(ticket, progress));
            }
            Input::TransferLeader { to, ticket } => self.transfer_leader(to, ticket),
            Input::Message(message) => self.step(*message),
            Input::Unreachable { member } => self.raft.report_unreachable(member),
            Input::SnapshotSent { member, ok } => self.snapshot_sent(member, ok),
            Input::SnapshotReceived { message } => self.snapshot_received(*message),
            Input::MemberVersions { versions } => self.duties.hear_versions(versions),
            Input::Connected => self.hasten_election(),
            Input::Logged(receipt) => self.logged(receipt),
            Input::Applied(receipt) => self.applied(receipt),
            Input::Committed(CommitReceipt { upto, snapshot }) => {
                if self.commits.committed(upto, snapshot, &mut self.effects) {
                    self.logging.push_back(Logging::Snapshot);
                }
            }
            Input::Stop { connected } => self.stop(&connected),
        }
    }

    fn refusal(&self) -> Rejected {
        if self.is_stopping() { Rejected::Stopped } else { Rejected::TooManyRequests }
    }

    fn tick(&mut self, now: Moment) {
        self.now = self.now.max(now);
        if self.now >= self.next_tick {
            // Ticks that a stalled process missed are not made up for: time without a leader is
            // counted only while this member could have heard from one.
            self.next_tick = self.now + self.config.heartbeat;
            self.tick_raft();
        }
        if self.now >= self.next_purge {
            self.next_purge = self.now + PURGE_INTERVAL;
            self.effects.log.push(LogEffect::Purge);
        }
        let now = self.now;
        self.held.expire(now, &mut self.answers);
        self.reads.expire(now, &mut self.answers);
        self.sending.retain(|_, until| until.is_none_or(|until| until > now));
        if self.removed.take_if(|since| now >= *since + REMOVED_INTERVAL).is_some() {
            self.answers.push(Answer::Removed);
        }
        if matches!(self.ending, Ending::HandingOver(until) if until <= now) {
            self.drain();
        }
    }

    fn tick_raft(&mut self) {
        if matches!(self.ending, Ending::Draining | Ending::Stopped) {
            return;
        }
        let ticks = self.config.election_ticks;
        self.stall.tick(&mut self.raft, self.logged, !self.logging.is_empty(), ticks);
        self.raft.tick();
    }

    /// Others are there: an election, if nobody leads, need not wait for its whole timeout.
    fn hasten_election(&mut self) {
        let status = self.raft.status();
        if status.role == Role::Follower && status.leader == MemberId::NONE {
            for _ in 2..self.config.election_ticks {
                self.raft.tick();
            }
        }
    }

    fn election(&self) -> Duration {
        self.config.heartbeat * self.config.election_ticks
    }

    fn read_index(&mut self, ticket: Ticket) {
        if self.is_stopping() || !self.reads.push(ticket) {
            self.answers.push(Answer::TicketRefused(ticket, self.refusal()));
        }
    }

    fn step(&mut self, message: Message) {
        let is_ours = message.to() == self.config.member.0;
        // A snapshot needs its database: it comes by another way.
        if is_ours && !self.is_deaf() && message.r#type() != MessageType::MsgSnap {
            if self.must_wait(&message) {
                self.postpone(Postponed::Forwarded(Box::new(message)));
                return;
            }
            // A message that makes no sense here is dropped, as if the network had lost it.
            let _dropped = self.raft.step(message);
        }
    }

    fn logged(&mut self, receipt: LogReceipt) {
        let Some(logging) = self.logging.pop_front() else {
            panic!("a log receipt that nobody waits for");
        };
        self.logged += 1;
        match (logging, receipt) {
            (
                Logging::Append { commit, must_sync, after, done },
                LogReceipt::Appended { synced },
            ) => {
                assert!(synced || !must_sync, "a promise was to leave before its sync");
                self.written_commit = self.written_commit.max(commit.unwrap_or_default());
                if synced {
                    self.synced_commit = self.written_commit;
                }
                for message in after {
                    if message.to() == self.config.member.0 {
                        let _dropped = self.raft.step(message);
                    } else {
                        self.effects.send.push(message);
                    }
                }
                self.raft.appended(&done);
                if let Some(at) = done.snapshot {
                    self.snapshot_logged(at);
                }
            }
            (Logging::Sync, LogReceipt::Synced) => {
                self.synced_commit = self.written_commit;
                self.syncing = false;
            }
            (Logging::Snapshot, LogReceipt::Snapshotted) => {
                self.synced_commit = self.written_commit;
            }
            (_, receipt) => panic!("log receipt {receipt:?} out of order"),
        }
    }

    fn applied(&mut self, receipt: ApplyReceipt) {
        match receipt {
            ApplyReceipt::Entries { index, conf_changes, finished, force_snapshot, pending } => {
                let Some(applying) = self.applying.pop_front() else {
                    panic!("an apply receipt that nobody waits for");
                };
                assert_eq!(applying.upto, index, "an apply receipt out of order");
                self.unapplied.0 = self.unapplied.0.saturating_sub(applying.bytes);
                // The configuration of a snapshot that is on its way has these changes.
                if index > self.restored {
                    self.change_configuration(&conf_changes);
                }
                self.raft.applied(index);
                for id in finished {
                    if self.duties.finished(id, self.now) {
                        self.answers.push(Answer::Published);
                    }
                }
                if force_snapshot {
                    self.commits.force_snapshot();
                }
                self.set_pending(pending);
                self.compact_log(index);
            }
            ApplyReceipt::Frozen { upto, pending } => {
                self.commits.frozen(upto);
                self.set_pending(pending);
            }
            ApplyReceipt::Installed { index, pending } => {
                assert_eq!(self.installing.take(), Some(index), "an install out of order");
                self.raft.applied(index);
                self.commits.installed(index);
                self.set_pending(pending);
                self.compacted_at = index;
                self.snapshot_installed();
            }
            ApplyReceipt::Changed { pending } => self.set_pending(pending),
        }
    }

    fn change_configuration(&mut self, changes: &[ConfChange]) {
        for change in changes {
            // A change that contradicts the configuration has been refused by the state.
            if let Err(error) = self.raft.apply_conf_change(change) {
                panic!("applied configuration change {change:?}: {error}");
            }
            let removes = change.r#type() == ConfChangeType::ConfChangeRemoveNode;
            if removes && change.node_id() == self.config.member.0 {
                self.removed = Some(self.now);
            }
        }
    }

    fn set_pending(&mut self, pending: Pending) {
        self.commits.set_pending(pending, self.now);
    }

    // ---- what comes out ----

    /// Takes everything that is to be done since the last call.
    pub fn take_effects(&mut self) -> Effects {
        // Some steps make others possible (a sole voter's read, say); the loop ends because each
        // step consumes what it acts on.
        self.campaign_alone();
        self.follow_leader();
        self.release_held();
        self.release_changes();
        self.propose_own();
        self.ask_reads();
        self.take_duties();
        self.advance_install();
        self.hand_out_entries();
        self.advance_commits();
        self.reads.release(self.raft.log().applied(), &mut self.answers);
        self.finish_stopping();
        self.effects.answers.append(&mut self.answers);
        std::mem::take(&mut self.effects)
    }

    /// A sole voter need not wait for an election timeout: nobody else could lead.
    fn campaign_alone(&mut self) {
        let status = self.raft.status();
        if status.role == Role::Follower
            && status.leader == MemberId::NONE
            && self.raft.is_sole_voter()
            && !self.is_deaf()
        {
            self.raft.campaign();
        }
    }

    fn ask_reads(&mut self) {
        if self.reads.is_empty() {
            return;
        }
        let has_leader = self.raft.status().leader != MemberId::NONE;
        if let Some(context) = self.reads.ask(self.now, has_leader) {
            self.raft.read_index(context);
        }
    }

    /// Notes who leads now.
    fn follow_leader(&mut self) {
        let status = self.raft.status();
        if status.leader != self.leader {
            self.leader = status.leader;
            if self.leader == self.config.member {
                self.elected = Some(self.now);
            }
            self.reads.leader_changed();
        }
        self.transfers.answer(self.leader, self.now, &mut self.answers);
        if status.role == Role::Leader {
            return;
        }
        // Nobody takes snapshots from who does not lead.
        for message in self.commits.abandon_snapshots() {
            self.snapshot_sent(MemberId(message.to()), false);
        }
        if matches!(self.ending, Ending::HandingOver(_)) {
            self.drain();
        }
    }

    fn take_duties(&mut self) {
        if !self.raft.has_duties() {
            return;
        }
        let duties = self.raft.duties();
        for message in duties.messages {
            match message.r#type() {
                MessageType::MsgSnap => self.want_snapshot(message),
                _ => self.effects.send.push(message),
            }
        }
        for read in duties.reads {
            self.reads.found(&read.context, read.index);
        }
        let Some(append) = duties.append else { return };
        let snapshot = append.snapshot.map(Box::new);
        if let (Some(snapshot), Some(index)) = (&snapshot, append.receipt.snapshot) {
            // One before it that is not being installed yet need not be.
            let snapshot = snapshot.clone();
            self.install = Some(Install { snapshot, index, is_logged: false });
            self.restored = index;
            self.unapplied = (0, index);
        }
        self.count_appended(&append.entries);
        self.logging.push_back(Logging::Append {
            commit: append.hard_state.map(|state| LogIndex(state.commit())),
            must_sync: append.must_sync,
            after: append.after,
            done: append.receipt,
        });
        self.effects.log.push(LogEffect::Append {
            snapshot,
            entries: append.entries,
            hard_state: append.hard_state,
            must_sync: append.must_sync,
        });
    }

    /// Hands out committed entries, as long as the apply lane and the memory for changes have
    /// room.
    fn hand_out_entries(&mut self) {
        while self.applying.len() < APPLYING_MAX
            && !self.commits.is_full()
            && self.install.is_none()
        {
            let entries = self.raft.take_committed(APPLY_BYTES_MAX);
            let Some(last) = entries.last() else { return };
            let upto = LogIndex(last.index());
            assert!(upto <= self.raft.log().stable(), "an entry was to be applied before its sync");
            let bytes = entries.iter().map(|entry| entry.data().len()).sum();
            self.applying.push_back(Applying { upto, bytes });
            self.effects.apply.push(ApplyEffect::Entries(entries));
        }
    }

    fn advance_commits(&mut self) {
        let (log, is_sole) = (self.raft.log(), self.raft.is_sole_voter());
        // Whoever needs others for a commit does not wait for it when it ends.
        let last = if is_sole { log.last().index } else { log.committed() };
        let reached = (log.applied(), last);
        let (now, synced) = (self.now, self.synced_commit);
        let before = self.effects.commit.len();
        let lacks_sync = self.commits.advance(now, reached, synced, &mut self.effects);
        if lacks_sync && !self.syncing {
            self.syncing = true;
            self.logging.push_back(Logging::Sync);
            self.effects.log.push(LogEffect::Sync);
        }
        for effect in &self.effects.commit[before..] {
            let log = self.raft.log();
            assert!(
                effect.upto <= self.synced_commit && effect.upto <= log.stable(),
                "the database was to get ahead of the log"
            );
        }
    }
}

/// After which time a request is given up.
pub fn request_timeout(election: Duration) -> Duration {
    Duration::from_secs(5) + 2 * election
}
