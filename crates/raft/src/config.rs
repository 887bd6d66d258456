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
    /// Decides the election timeouts.
    pub seed: u64,
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
    /// The restored log contradicts itself.
    #[error("restored log is inconsistent: {0}")]
    Log(String),
    /// The restored configuration contradicts itself.
    #[error("restored configuration is inconsistent: {0}")]
    Configuration(#[from] crate::tracker::ConfChangeError),
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
