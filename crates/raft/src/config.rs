//! What a member of the consensus is told when it starts.

use base::{LogIndex, MemberId, Term};
use proto::raftpb;
use thiserror::Error;

use crate::log::Position;

/// The parameters of the algorithm, fixed for the life of a process.
#[derive(Debug, Clone)]
pub struct Config {
    /// This member. Not [`MemberId::NONE`].
    pub id: MemberId,
    /// Ticks without a leader after which an election starts; the actual number is drawn from
    /// `election_ticks..2 * election_ticks`.
    pub election_ticks: u32,
    /// Ticks between two heartbeats of a leader. Below `election_ticks`.
    pub heartbeat_ticks: u32,
    /// Whether a candidate first asks if it could win, without disturbing the term.
    pub pre_vote: bool,
    /// Whether a leader steps down when it has not heard from a quorum.
    pub check_quorum: bool,
    /// How much an append carries: entries beyond the first only while they fit together.
    pub message_bytes_max: u64,
    /// Appends on their way to a follower that streams. At least 1.
    pub inflight_messages_max: usize,
    /// The data in them, give or take one message; 0 for no bound. Not below
    /// `message_bytes_max`.
    pub inflight_bytes_max: u64,
    /// The data of entries that a leader has proposed and not applied, beyond which it takes no
    /// more; 0 for no bound.
    pub uncommitted_bytes_max: u64,
    /// How a leader makes sure of its leadership before a read.
    pub read_mode: ReadMode,
    /// Whether a follower refuses proposals, instead of handing them to the leader.
    pub disable_proposal_forwarding: bool,
    /// Whether changes of the configuration enter the log however they fit the present one.
    pub disable_conf_change_validation: bool,
    /// Whether a leader that is removed or becomes a learner steps down at once.
    pub step_down_on_removal: bool,
    /// Whether what is sent between two calls of [`crate::Raft::duties`] is gathered: entries in
    /// as few appends as they fit in, one heartbeat for all reads, one acknowledgement for all
    /// appends. Else each leaves by itself, as in go.etcd.io/raft. Members cannot tell.
    pub gather: bool,
    /// Decides the election timeouts.
    pub seed: u64,
}

/// How a leader makes sure that no other one has been elected, before it answers a read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// A quorum answers a heartbeat.
    #[default]
    Safe,
    /// It was heard from lately, and clocks are trusted. Needs `check_quorum`.
    Lease,
}

/// The parameters make no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The id that stands for nobody.
    #[error("a member needs an id other than 0")]
    NoId,
    /// An election would start before a heartbeat could come.
    #[error("election ticks must be more than heartbeat ticks, and those more than 0")]
    Ticks,
    /// No append could ever be sent.
    #[error("at least one message must be allowed on its way, and as many bytes as it may have")]
    Inflight,
    /// A leader would never notice that it lost its lease.
    #[error("reads by lease need the quorum to be checked")]
    Lease,
    /// The restored log contradicts itself.
    #[error("restored log is inconsistent: {0}")]
    Log(String),
    /// The restored configuration contradicts itself.
    #[error("restored configuration is inconsistent: {0}")]
    Configuration(#[from] crate::confchange::ConfChangeError),
}

impl Config {
    /// Fails when the parameters contradict each other.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.id == MemberId::NONE {
            return Err(ConfigError::NoId);
        }
        if self.heartbeat_ticks == 0 || self.election_ticks <= self.heartbeat_ticks {
            return Err(ConfigError::Ticks);
        }
        let bytes = self.inflight_bytes_max;
        if self.inflight_messages_max == 0 || (bytes != 0 && bytes < self.message_bytes_max) {
            return Err(ConfigError::Inflight);
        }
        if self.read_mode == ReadMode::Lease && !self.check_quorum {
            return Err(ConfigError::Lease);
        }
        Ok(())
    }
}

/// What the member's own disk held when it started.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// The last entry before `entries`: that of the snapshot, or 0.
    pub base: Position,
    /// Who votes and who learns.
    pub conf_state: raftpb::ConfState,
    /// Term, vote and commit index as last written.
    pub hard_state: raftpb::HardState,
    /// The entries after `base`, without a gap. All of them are on disk.
    pub entries: Vec<raftpb::Entry>,
}

impl Restored {
    /// The first entry that the state has not seen yet is the one after this.
    pub fn applied(&self) -> LogIndex {
        self.base.index
    }

    /// The term of the hard state.
    pub fn term(&self) -> Term {
        Term(self.hard_state.term())
    }
}
