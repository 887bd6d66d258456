//! The core's face: where it stands, which receipts it takes, and what comes out.

use base::mutant::{Mutant, is_on};
use base::{LogIndex, MemberId, Rng, Term};
use proto::raftpb::{Entry, HardState, Message, MessageType, Snapshot};

use crate::config::{Config, ConfigError, Restored};
use crate::duties::{Append, AppendReceipt, Duties, SoftState};
use crate::log::{Log, Position};
use crate::message;
use crate::read::Reads;
use crate::tracker::Tracker;

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
    /// Who is to lead next.
    pub transferee: Option<MemberId>,
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
    /// Of the own state, as it was made last: for members that need what was compacted.
    pub(crate) snapshot: Option<Snapshot>,
    /// To whom leadership is being handed.
    pub(crate) transferee: Option<MemberId>,
    /// No configuration change may be proposed before the state has reached this index.
    pub(crate) conf_change_until: LogIndex,
    /// The data that was proposed in this term and not applied yet. At most an estimate from
    /// below.
    pub(crate) uncommitted_bytes: u64,
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
    /// Entries or a commit index are to be sent with the next duties.
    pub(crate) append_due: bool,
    /// Reads wait for a heartbeat that is to be sent with the next duties.
    pub(crate) heartbeat_due: bool,
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
        let mut tracker = Tracker::new(config.inflight_messages_max, config.inflight_bytes_max);
        tracker.restore(&restored.conf_state, log.last().index)?;
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
            snapshot: None,
            transferee: None,
            conf_change_until: LogIndex(0),
            uncommitted_bytes: 0,
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            election_timeout: 0,
            outbox: Vec::new(),
            after_append: Vec::new(),
            append_due: false,
            heartbeat_due: false,
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
            transferee: self.transferee,
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
            && !self.log.is_installing()
    }

    // ---- what is reported ----

    /// Reports that an append is done: everything handed out up to it is durable (but for a lone
    /// commit index). Step its `after` messages to this member before. After a snapshot, report
    /// its state with [`Self::applied`] when that is in place.
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
        if self.uncommitted_bytes > 0 {
            let bytes = self.log.data_bytes(self.log.applied(), at);
            self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(bytes);
        }
        self.log.applied_to(at);
        self.maybe_leave_joint();
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
            || self.append_due
            || self.heartbeat_due
            || self.reads.has_ready()
    }

    /// Takes everything that is to be done since the last call, committed entries apart.
    pub fn duties(&mut self) -> Duties {
        self.send_gathered();
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
            snapshot: snapshot.as_ref().map(|snapshot| snapshot_position(snapshot).index),
        };
        Some(Append {
            must_sync: (ballot_changed && !is_on(Mutant::VoteBeforeSync))
                || snapshot.is_some()
                || (!entries.is_empty() && !is_on(Mutant::EntriesWithoutSync)),
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
        if message.from() == 0 {
            message.from = Some(self.config.id.0);
        }
        let kind = message.r#type();
        let carries_no_term = matches!(kind, MessageType::MsgProp | MessageType::MsgReadIndex);
        if message.term.is_none() && !carries_no_term {
            message.term = Some(self.term.0);
        }
        let is_early = is_on(Mutant::AnswerBeforeDisk)
            && kind == MessageType::MsgAppResp
            && message.to() != self.config.id.0;
        if !message::waits_for_disk(kind) || is_early {
            assert_ne!(message.to(), self.config.id.0, "{kind:?} to oneself");
            self.outbox.push(message);
        } else if !self.config.gather || !self.joins_last_promise(&message) {
            self.after_append.push(message);
        }
    }

    /// An acknowledgement says all that an earlier one to the same leader says: both become one.
    fn joins_last_promise(&mut self, message: &Message) -> bool {
        let Some(last) = self.after_append.last_mut() else { return false };
        let whose = |it: &Message| (it.r#type, it.to, it.from, it.term);
        let joins = message.r#type() == MessageType::MsgAppResp
            && whose(last) == whose(message)
            && !last.reject()
            && !message.reject();
        if joins {
            last.index = last.index.max(message.index);
        }
        joins
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
}

/// The last entry that a snapshot stands for.
pub(crate) fn snapshot_position(snapshot: &Snapshot) -> Position {
    let metadata = snapshot.metadata.as_ref();
    Position {
        index: LogIndex(metadata.map_or(0, |metadata| metadata.index())),
        term: Term(metadata.map_or(0, |metadata| metadata.term())),
    }
}
