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
//! 5. database <= applied <= committed; applied + [`limits::APPLY_BACKLOG_MAX`] bounds what is
//!    taken in.
//!
//! *Absent.* Sending snapshots and receiving them: with the second member.
//!
//! *Contract.* `server/etcdserver/raft.go` and `server.go` of etcd v3.7.1.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base::{LogIndex, MemberId, Moment, RequestId, RequestIds, Term, limits};
use bytes::Bytes;
use proto::membershippb::Attributes;
use proto::raftpb::{ConfChange, Message, MessageType};
use raft::{AppendReceipt, ProposeError, Raft, Role};

use crate::commits::Commits;
use crate::effect::{Answer, ApplyEffect, Effects, LogEffect};
use crate::input::{ApplyReceipt, CommitReceipt, Input, LogReceipt, Pending, Ticket};
use crate::leader::{Duties, Own, Standing};
use crate::reads::Reads;
use crate::requests::Rejected;
use crate::state::State;

/// Entries handed out to be applied at once, in encoded bytes; etcd's `MaxSizePerMsg`.
const APPLY_BYTES_MAX: usize = 1 << 20;

/// Portions of entries that the apply lane may hold: enough to keep it busy, few enough for the
/// next portion to be large under load.
const APPLYING_MAX: usize = 3;

/// Data of entries not applied yet, beyond which proposals are refused.
const UNAPPLIED_BYTES_MAX: usize = 256 << 20;

/// Data of applied entries that is kept for followers that lag, whatever the count says.
const CATCHUP_BYTES_MAX: usize = 64 << 20;

/// Applied entries between two compactions of the log in memory.
const COMPACT_EVERY: u64 = 100;

/// Proposals that may wait for a leader.
const HELD_MAX: usize = 4_096;

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
    /// The largest commit index in hard states that the log worker has written.
    written_commit: LogIndex,
    /// The largest one that is on disk. `synced_commit <= written_commit`.
    synced_commit: LogIndex,
    /// A sync is under way for the sake of a database commit.
    syncing: bool,
    applying: VecDeque<Applying>,
    /// Data of entries that are proposed and not applied.
    unapplied_bytes: usize,
    /// Where the log in memory was cut last: applied then.
    compacted_at: LogIndex,
    /// Proposals without a leader.
    held: VecDeque<(RequestId, Bytes)>,
    stopping: bool,
    stopped: bool,
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
            ids,
            timeout: request_timeout(election),
            extend: election,
        };
        Ok(Self {
            commits: Commits::new(database, snapshot, config.snapshot_count),
            duties: Duties::new(own),
            unapplied_bytes: raft.log().bytes(),
            raft,
            state,
            reads: Reads::default(),
            now,
            next_tick: now + config.heartbeat,
            next_purge: now + PURGE_INTERVAL,
            logging: VecDeque::new(),
            written_commit: synced_commit,
            synced_commit,
            syncing: false,
            applying: VecDeque::new(),
            compacted_at: snapshot,
            held: VecDeque::new(),
            stopping: false,
            stopped: false,
            answers: Vec::new(),
            effects: Effects::default(),
            config,
        })
    }

    // ---- what may be asked ----

    /// When [`Input::Tick`] is due at the latest.
    pub fn deadline(&self) -> Moment {
        let others = [self.commits.deadline(), self.duties.deadline()];
        others.into_iter().flatten().fold(self.next_tick, Moment::min)
    }

    /// Where the node stands.
    pub fn status(&self) -> Status {
        let raft = self.raft.status();
        let own = self.raft.tracker().progress(self.config.member);
        Status {
            leader: raft.leader,
            term: raft.term,
            committed: raft.committed,
            applied: raft.applied,
            database: self.commits.database(),
            is_learner: own.is_some_and(|own| own.is_learner),
            is_alone: self.is_alone() && self.leads() && !self.stopping,
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

    /// The consensus core, to look at.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    // ---- what goes in ----

    /// Takes an input in. What follows from it comes with [`Self::take_effects`].
    pub fn handle(&mut self, input: Input) {
        match input {
            Input::Tick { now } => self.tick(now),
            Input::Propose { id, data } => self.propose(id, data),
            Input::ProposeConfChange { id, change } => self.propose_conf_change(id, &change),
            Input::ReadIndex { ticket } => self.read_index(ticket),
            Input::CommitDatabase { ticket } => {
                if self.stopped || !self.commits.want(ticket) {
                    self.answers.push(Answer::TicketRefused(ticket, self.refusal()));
                }
            }
            Input::TransferLeader { ticket, .. } => {
                self.answers.push(Answer::TicketRefused(ticket, Rejected::NotLeader));
            }
            Input::Message(message) => self.step(*message),
            Input::SnapshotReceived { .. }
            | Input::Unreachable { .. }
            | Input::SnapshotSent { .. }
            | Input::MemberVersions { .. }
            | Input::Connected => {}
            Input::Logged(receipt) => self.logged(receipt),
            Input::Applied(receipt) => self.applied(receipt),
            Input::Committed(CommitReceipt { upto, snapshot }) => {
                if snapshot.is_some() {
                    self.logging.push_back(Logging::Snapshot);
                }
                self.commits.committed(upto, snapshot, &mut self.effects);
            }
            Input::Stop { .. } => self.stop(),
        }
    }

    fn refusal(&self) -> Rejected {
        if self.stopping { Rejected::Stopped } else { Rejected::TooManyRequests }
    }

    fn tick(&mut self, now: Moment) {
        self.now = self.now.max(now);
        if self.now >= self.next_tick {
            // Ticks that a stalled process missed are not made up for: time without a leader is
            // counted only while this member could have heard from one.
            self.next_tick = self.now + self.config.heartbeat;
            self.raft.tick();
        }
        if self.now >= self.next_purge {
            self.next_purge = self.now + PURGE_INTERVAL;
            self.effects.log.push(LogEffect::Purge);
        }
    }

    fn propose(&mut self, id: RequestId, data: Bytes) {
        if let Some(reason) = self.cannot_take_in() {
            self.answers.push(Answer::Refused { id, reason });
            return;
        }
        let bytes = data.len();
        match self.raft.propose(data.clone()) {
            Ok(Some(_)) => self.unapplied_bytes += bytes,
            // On its way to the leader, who counts it.
            Ok(None) => {}
            Err(ProposeError::NoLeader | ProposeError::Transferring)
                if self.held.len() < HELD_MAX =>
            {
                self.held.push_back((id, data));
            }
            Err(_) => {
                self.answers.push(Answer::Refused { id, reason: Rejected::TooManyRequests });
            }
        }
    }

    fn propose_conf_change(&mut self, id: RequestId, change: &ConfChange) {
        let reason = self.cannot_take_in().or_else(|| {
            let proposed = self.raft.propose_conf_change(change);
            proposed.is_err().then_some(Rejected::NoLeader)
        });
        if let Some(reason) = reason {
            self.answers.push(Answer::Refused { id, reason });
        }
    }

    fn cannot_take_in(&self) -> Option<Rejected> {
        let status = self.raft.status();
        let backlog = status.committed.0.saturating_sub(status.applied.0);
        if self.stopping {
            Some(Rejected::Stopped)
        } else if backlog > limits::APPLY_BACKLOG_MAX || self.unapplied_bytes > UNAPPLIED_BYTES_MAX
        {
            Some(Rejected::TooManyRequests)
        } else {
            None
        }
    }

    fn read_index(&mut self, ticket: Ticket) {
        if self.stopping || !self.reads.push(ticket) {
            self.answers.push(Answer::TicketRefused(ticket, self.refusal()));
        }
    }

    fn step(&mut self, message: Message) {
        // Installing a snapshot is not built yet; without it a leader tries again later.
        if message.r#type() != MessageType::MsgSnap {
            // A message that makes no sense here is dropped, as if the network had lost it.
            let _dropped = self.raft.step(message);
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.commits.drain();
        let reason = Rejected::Stopped;
        let held = self.held.drain(..);
        self.answers.extend(held.map(|(id, _)| Answer::Refused { id, reason: reason.clone() }));
    }

    fn logged(&mut self, receipt: LogReceipt) {
        let Some(logging) = self.logging.pop_front() else {
            panic!("a log receipt that nobody waits for");
        };
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
                        self.step(message);
                    } else {
                        self.effects.send.push(message);
                    }
                }
                self.raft.appended(&done);
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
                self.unapplied_bytes = self.unapplied_bytes.saturating_sub(applying.bytes);
                for change in conf_changes {
                    // A change that contradicts the configuration has been refused by the state.
                    if let Err(error) = self.raft.apply_conf_change(&change) {
                        panic!("applied configuration change {change:?}: {error}");
                    }
                }
                self.raft.applied(index);
                for id in finished {
                    if self.duties.finished(id) {
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
            ApplyReceipt::Changed { pending } | ApplyReceipt::Installed { pending, .. } => {
                self.set_pending(pending);
            }
        }
    }

    fn set_pending(&mut self, pending: Pending) {
        self.commits.set_pending(pending, self.now);
    }

    /// Cuts the log in memory behind the applied index, as far as lagging followers allow.
    fn compact_log(&mut self, applied: LogIndex) {
        if applied.0 - self.compacted_at.0 <= COMPACT_EVERY {
            return;
        }
        self.compacted_at = applied;
        let mut keep = self.config.catchup_entries;
        let held = self.raft.log().bytes().saturating_sub(self.unapplied_bytes);
        if held > CATCHUP_BYTES_MAX {
            // Large entries: keep the share of them that fits.
            let share = CATCHUP_BYTES_MAX as u64 * 100 / held as u64;
            let count = applied.0.saturating_sub(self.raft.log().base().index.0);
            keep = keep.min(count * share / 100);
        }
        self.raft.compact(LogIndex(applied.0.saturating_sub(keep).max(1)));
    }

    // ---- what comes out ----

    /// Takes everything that is to be done since the last call.
    pub fn take_effects(&mut self) -> Effects {
        // Some steps make others possible (a sole voter's read, say); the loop ends because each
        // step consumes what it acts on.
        self.campaign_alone();
        self.release_held();
        self.propose_own();
        self.ask_reads();
        self.take_duties();
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
        {
            self.raft.campaign();
        }
    }

    /// Proposes what waited for a leader.
    fn release_held(&mut self) {
        if self.raft.status().leader == MemberId::NONE {
            return;
        }
        for (id, data) in std::mem::take(&mut self.held) {
            self.propose(id, data);
        }
    }

    fn propose_own(&mut self) {
        if self.stopping {
            return;
        }
        let standing = Standing {
            has_leader: self.raft.status().leader != MemberId::NONE,
            leads: self.leads(),
            is_alone: self.is_alone(),
        };
        let mut proposals = Vec::new();
        self.duties.due(self.now, standing, &*self.state, &mut proposals);
        for (_, data) in proposals {
            // One that goes nowhere is made again after its timeout.
            let bytes = data.len();
            if let Ok(Some(_)) = self.raft.propose(data) {
                self.unapplied_bytes += bytes;
            }
        }
    }

    fn ask_reads(&mut self) {
        if self.reads.is_waiting()
            && self.raft.status().leader != MemberId::NONE
            && let Some(context) = self.reads.ask(self.now)
        {
            self.raft.read_index(context);
        }
    }

    fn take_duties(&mut self) {
        if !self.raft.has_duties() {
            return;
        }
        let duties = self.raft.duties();
        self.effects.send.extend(duties.messages);
        for read in duties.reads {
            self.reads.found(&read.context, read.index);
        }
        let Some(append) = duties.append else { return };
        assert!(append.snapshot.is_none(), "snapshots are dropped before they get here");
        self.logging.push_back(Logging::Append {
            commit: append.hard_state.map(|state| LogIndex(state.commit())),
            must_sync: append.must_sync,
            after: append.after,
            done: append.receipt,
        });
        self.effects.log.push(LogEffect::Append {
            snapshot: append.snapshot.map(Box::new),
            entries: append.entries,
            hard_state: append.hard_state,
            must_sync: append.must_sync,
        });
    }

    /// Hands out committed entries, as long as the apply lane and the memory for changes have
    /// room.
    fn hand_out_entries(&mut self) {
        while self.applying.len() < APPLYING_MAX && !self.commits.is_full() {
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
        let reached = (self.raft.log().applied(), self.raft.log().last().index);
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

    /// When stopping: ends as soon as everything committed is applied and in the database.
    fn finish_stopping(&mut self) {
        if !self.stopping || self.stopped {
            return;
        }
        let status = self.raft.status();
        let is_quiet = self.logging.is_empty()
            && self.applying.is_empty()
            && status.applied == status.committed
            && !self.raft.has_duties()
            && self.commits.is_idle();
        if !is_quiet {
            return;
        }
        // Else the last commit is on its way.
        if self.commits.is_drained(status.applied) {
            self.stopped = true;
            self.answers.push(Answer::Stopped);
        }
    }
}

/// After which time a request is given up.
pub fn request_timeout(election: Duration) -> Duration {
    Duration::from_secs(5) + 2 * election
}
