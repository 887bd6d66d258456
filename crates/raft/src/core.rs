//! The core's face: what goes in by tick, proposal and receipt, and what comes out.

use base::{LogIndex, MemberId, Rng, Term};
use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{
    ConfChange, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot,
};
use thiserror::Error;

use crate::config::{Config, ConfigError, Restored};
use crate::duties::{Append, AppendReceipt, Duties, ReadState, SoftState};
use crate::log::{self, Log, Position};
use crate::message::{self, is_conf_change};
use crate::read::Reads;
use crate::tracker::{ConfChangeError, Tracker};

/// A member's part in its term.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// Takes entries from a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Proposes entries, and decides when they are committed.
    Leader,
}

/// Why a proposal went nowhere. It may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Nobody leads, as far as this member knows.
    #[error("no leader")]
    NoLeader,
    /// Leadership is being handed over.
    #[error("leadership is being transferred")]
    Transferring,
    /// This member has been removed.
    #[error("not a member of the configuration")]
    Removed,
}

/// What may be asked about the core at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The current term.
    pub term: Term,
    /// Whom this member voted for in it.
    pub vote: MemberId,
    /// The leader, or [`MemberId::NONE`].
    pub leader: MemberId,
    /// This member's part.
    pub role: Role,
    /// Up to where a quorum agreed.
    pub committed: LogIndex,
    /// Up to where the state has taken the entries in.
    pub applied: LogIndex,
    /// The last entry of the log.
    pub last: Position,
}

/// One member's consensus: a state machine without side effects.
#[derive(Debug)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) term: Term,
    pub(crate) vote: MemberId,
    pub(crate) role: Role,
    pub(crate) leader: MemberId,
    pub(crate) log: Log,
    pub(crate) tracker: Tracker,
    pub(crate) reads: Reads,
    /// To whom leadership is being handed.
    pub(crate) transferee: Option<MemberId>,
    /// No configuration change may be proposed before the state has reached this index.
    pub(crate) conf_change_until: LogIndex,
    /// Ticks since the leader was heard from, or since the last check of the quorum.
    pub(crate) election_elapsed: u32,
    pub(crate) heartbeat_elapsed: u32,
    /// Ticks at which this member starts an election: drawn anew for every term.
    pub(crate) election_timeout: u32,
    pub(crate) rng: Rng,
    /// To be sent at once.
    pub(crate) outbox: Vec<Message>,
    /// To be sent when the next append is durable.
    pub(crate) after_append: Vec<Message>,
    /// What the last duties said.
    told_hard: HardState,
    told_soft: SoftState,
}

impl Raft {
    /// A follower with what its disk held.
    pub fn new(config: Config, restored: Restored) -> Result<Self, ConfigError> {
        config.validate()?;
        let hard = restored.hard_state;
        let log = Log::restore(restored.base, restored.entries, &hard).map_err(ConfigError::Log)?;
        let tracker = Tracker::restore(&restored.conf_state, log.last().index)?;
        let role = Role::Follower;
        let mut raft = Self {
            rng: Rng::new(config.seed ^ config.id.0),
            config,
            term: Term(hard.term()),
            vote: MemberId(hard.vote()),
            role,
            leader: MemberId::NONE,
            log,
            tracker,
            reads: Reads::default(),
            transferee: None,
            conf_change_until: LogIndex(0),
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            election_timeout: 0,
            outbox: Vec::new(),
            after_append: Vec::new(),
            told_hard: hard,
            told_soft: SoftState { leader: MemberId::NONE, role },
        };
        raft.become_follower(raft.term, MemberId::NONE);
        raft.told_hard = raft.hard_state();
        Ok(raft)
    }

    // ---- what may be asked ----

    /// This member.
    pub fn id(&self) -> MemberId {
        self.config.id
    }

    /// Where the core stands.
    pub fn status(&self) -> Status {
        Status {
            term: self.term,
            vote: self.vote,
            leader: self.leader,
            role: self.role,
            committed: self.log.committed(),
            applied: self.log.applied(),
            last: self.log.last(),
        }
    }

    /// The log in memory.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The members and what is known of them.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Whether this member's vote alone decides.
    pub fn is_sole_voter(&self) -> bool {
        self.tracker.is_sole_voter(self.config.id)
    }

    /// Whether an election would start at all: not before committed changes of the configuration
    /// are applied, not without a vote, and not while a snapshot is being installed.
    pub fn can_campaign(&self) -> bool {
        self.role != Role::Leader && self.is_promotable() && !self.log.has_unapplied_conf_change()
    }

    pub(crate) fn is_promotable(&self) -> bool {
        self.tracker.progress(self.config.id).is_some_and(|own| !own.is_learner)
            && self.log.installing().is_none()
    }

    // ---- what goes in ----

    /// Time has passed: one heartbeat interval.
    pub fn tick(&mut self) {
        self.election_elapsed += 1;
        if self.role == Role::Leader {
            self.tick_leader();
        } else if self.is_promotable() && self.election_elapsed >= self.election_timeout {
            self.election_elapsed = 0;
            self.campaign();
        }
    }

    fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            if self.config.check_quorum {
                self.check_quorum();
            }
            // Whoever was to take over did not do so within an election timeout.
            self.transferee = None;
        }
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
        }
    }

    /// Steps down when no quorum was heard from since the last time.
    fn check_quorum(&mut self) {
        let id = self.config.id;
        if let Some(own) = self.tracker.progress_mut(id) {
            own.recent_active = true;
        }
        if !self.tracker.quorum_active() {
            self.become_follower(self.term, MemberId::NONE);
            return;
        }
        for (other, progress) in self.tracker.members_mut() {
            progress.recent_active = other == id;
        }
    }

    /// Starts an election now, if this member may.
    pub fn campaign(&mut self) {
        if self.can_campaign() {
            let kind = match self.config.pre_vote {
                true => MessageType::MsgPreVote,
                false => MessageType::MsgVote,
            };
            self.run_for_leader(kind, false);
        }
    }

    /// Proposes data. When this member leads, returns where in the log it stands; else the
    /// proposal is on its way to the leader.
    pub fn propose(&mut self, data: Bytes) -> Result<Option<Position>, ProposeError> {
        self.propose_entry(Entry { data: Some(data), ..Entry::default() })
    }

    /// Proposes a change of the configuration. While another one is not applied, an empty entry
    /// takes its place in the log.
    pub fn propose_conf_change(
        &mut self,
        change: &ConfChange,
    ) -> Result<Option<Position>, ProposeError> {
        self.propose_entry(Entry {
            r#type: Some(EntryType::EntryConfChange.into()),
            data: Some(change.encode_to_vec().into()),
            ..Entry::default()
        })
    }

    pub(crate) fn propose_entry(&mut self, entry: Entry) -> Result<Option<Position>, ProposeError> {
        if self.role != Role::Leader {
            if self.leader == MemberId::NONE || self.role != Role::Follower {
                return Err(ProposeError::NoLeader);
            }
            let forward =
                Message { entries: vec![entry], ..message::to(self.leader, MessageType::MsgProp) };
            self.send(forward);
            return Ok(None);
        }
        if self.tracker.progress(self.config.id).is_none() {
            return Err(ProposeError::Removed);
        }
        if self.transferee.is_some() {
            return Err(ProposeError::Transferring);
        }
        let mut entry = entry;
        let at = Position { index: self.log.last().index.next(), term: self.term };
        if is_conf_change(&entry) {
            if self.conf_change_until > self.log.applied() {
                entry = Entry::default();
            } else {
                self.conf_change_until = at.index;
            }
        }
        entry.term = Some(at.term.0);
        entry.index = Some(at.index.0);
        self.append_own(entry);
        Ok(Some(at))
    }

    /// Asks from which index on a read is linearizable. The answer comes as a [`ReadState`] with
    /// the same `context`; when nobody leads, none comes.
    pub fn read_index(&mut self, context: Bytes) {
        if self.role == Role::Leader {
            self.read_index_as_leader(context);
        } else if self.leader != MemberId::NONE {
            let request = Entry { data: Some(context), ..Entry::default() };
            let kind = MessageType::MsgReadIndex;
            let ask = Message { entries: vec![request], ..message::to(self.leader, kind) };
            self.send(ask);
        }
    }

    /// Hands leadership to `to`, which must be a voter; ignored by who does not lead. The
    /// transferee's log is brought up to date first, and given up after an election timeout.
    pub fn transfer_leader(&mut self, to: MemberId) {
        let eligible = self.tracker.progress(to).is_some_and(|progress| !progress.is_learner);
        if self.role != Role::Leader
            || !eligible
            || to == self.config.id
            || self.transferee == Some(to)
        {
            return;
        }
        self.election_elapsed = 0;
        self.transferee = Some(to);
        self.try_hand_over(to);
    }

    /// Tells the transferee to start its election as soon as it has the whole log.
    pub(crate) fn try_hand_over(&mut self, to: MemberId) {
        let last = self.log.last().index;
        if self.tracker.progress(to).is_some_and(|progress| progress.matched == last) {
            self.send(message::to(to, MessageType::MsgTimeoutNow));
        }
    }

    /// Puts a committed change of the configuration into force. A refused change is given with
    /// the member id 0, and changes nothing.
    pub fn apply_conf_change(&mut self, change: &ConfChange) -> Result<ConfState, ConfChangeError> {
        self.tracker.change(change, self.log.last().index)?;
        self.configuration_changed();
        Ok(self.tracker.configuration().conf_state())
    }

    /// What follows from another configuration: fewer voters may mean that more is committed.
    pub(crate) fn configuration_changed(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        if self.tracker.progress(self.config.id).is_some() {
            self.maybe_commit();
        }
        if let Some(to) = self.transferee
            && !self.tracker.configuration().voters.contains(to)
        {
            self.transferee = None;
        }
    }

    /// Reports that an append is done: everything handed out up to it is durable (but for a lone
    /// commit index). Step its `after` messages to this member before.
    pub fn appended(&mut self, receipt: &AppendReceipt) {
        assert!(receipt.term <= self.term, "a receipt from a term that has not begun");
        if receipt.term == self.term
            && let Some(last) = receipt.last
        {
            self.log.stable_to(last);
        }
        if let Some(at) = receipt.snapshot {
            self.log.installed(at);
        }
    }

    /// Reports that the state has taken in all entries up to `at`.
    pub fn applied(&mut self, at: LogIndex) {
        self.log.applied_to(at);
    }

    /// Drops entries from memory up to `at`, as far as they are applied.
    pub fn compact(&mut self, at: LogIndex) {
        self.log.compact(at);
    }

    // ---- what comes out ----

    /// Whether [`Self::duties`] would return something.
    pub fn has_duties(&self) -> bool {
        self.soft_state() != self.told_soft
            || self.hard_state() != self.told_hard
            || self.log.has_untaken()
            || !self.outbox.is_empty()
            || !self.after_append.is_empty()
            || self.reads.has_ready()
    }

    /// Takes everything that is to be done since the last call, committed entries apart.
    pub fn duties(&mut self) -> Duties {
        let soft = Some(self.soft_state()).filter(|soft| *soft != self.told_soft);
        self.told_soft = self.soft_state();
        Duties {
            soft,
            append: self.take_append(),
            messages: std::mem::take(&mut self.outbox),
            reads: self.reads.take_ready(),
        }
    }

    fn take_append(&mut self) -> Option<Append> {
        let hard = self.hard_state();
        let changed = hard != self.told_hard;
        if !changed && !self.log.has_untaken() && self.after_append.is_empty() {
            return None;
        }
        let ballot = |state: &HardState| (state.term(), state.vote());
        let ballot_changed = ballot(&hard) != ballot(&self.told_hard);
        self.told_hard = hard;
        let snapshot = self.log.take_snapshot();
        let entries = self.log.take_entries();
        let receipt = AppendReceipt {
            term: self.term,
            last: self.log.has_unstable_entries().then(|| self.log.last()),
            snapshot: snapshot.as_ref().map(snapshot_index),
        };
        Some(Append {
            must_sync: ballot_changed || snapshot.is_some() || !entries.is_empty(),
            snapshot,
            entries,
            hard_state: changed.then_some(hard),
            after: std::mem::take(&mut self.after_append),
            receipt,
        })
    }

    /// Whether [`Self::take_committed`] would return something.
    pub fn has_committed(&self) -> bool {
        self.log.has_committed()
    }

    /// Takes the next entries to be applied, in order: at least one if there is any, and no more
    /// than `max_bytes` of them beyond that.
    pub fn take_committed(&mut self, max_bytes: usize) -> Vec<Entry> {
        self.log.take_committed(max_bytes)
    }

    /// Term, vote and commit index as they are to be written.
    pub fn hard_state(&self) -> HardState {
        HardState {
            term: Some(self.term.0),
            vote: Some(self.vote.0),
            commit: Some(self.log.committed().0),
        }
    }

    fn soft_state(&self) -> SoftState {
        SoftState { leader: self.leader, role: self.role }
    }

    // ---- shared by the parts ----

    /// Puts a message where it belongs: what promises durability waits for the next append.
    pub(crate) fn send(&mut self, mut message: Message) {
        message.from = Some(self.config.id.0);
        let kind = message.r#type();
        let carries_no_term = matches!(kind, MessageType::MsgProp | MessageType::MsgReadIndex);
        if message.term.is_none() && !carries_no_term {
            message.term = Some(self.term.0);
        }
        if message::waits_for_disk(kind) {
            self.after_append.push(message);
        } else {
            assert_ne!(message.to(), self.config.id.0, "{kind:?} to oneself");
            self.outbox.push(message);
        }
    }

    /// Appends an entry as leader. Its own vote for it comes back when it is durable.
    pub(crate) fn append_own(&mut self, entry: Entry) {
        let last = self.log.extend([entry]);
        let own = self.config.id;
        // One acknowledgement for all entries of the next append is enough.
        if let Some(waiting) = self.after_append.last_mut()
            && waiting.r#type() == MessageType::MsgAppResp
            && waiting.to() == own.0
            && waiting.term() == self.term.0
        {
            waiting.index = Some(last.0);
            return;
        }
        let vote = message::to(own, MessageType::MsgAppResp);
        self.send(Message { index: Some(last.0), ..vote });
    }

    /// Raises the commit index to what a quorum holds, if that is an entry of this term.
    pub(crate) fn maybe_commit(&mut self) -> bool {
        let at = self.tracker.committed();
        if at <= self.log.committed() || self.log.term(at) != Some(self.term) {
            return false;
        }
        self.log.commit_to(at);
        true
    }

    /// Whether an entry of this term is committed: only then the leader knows the commit index.
    pub(crate) fn has_committed_in_term(&self) -> bool {
        self.log.term(self.log.committed()) == Some(self.term)
    }

    pub(crate) fn read_ready(&mut self, state: ReadState) {
        self.reads.push_ready(state);
    }

    /// The empty entry that a new leader begins its term with.
    pub(crate) fn append_empty(&mut self) {
        let at = Position { index: self.log.last().index.next(), term: self.term };
        self.append_own(log::entry(Bytes::new(), at));
    }
}

pub(crate) fn snapshot_index(snapshot: &Snapshot) -> LogIndex {
    LogIndex(snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index()))
}
