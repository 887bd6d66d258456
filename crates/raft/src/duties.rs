//! What the core wants done, and how the doing is reported.

use base::{LogIndex, MemberId, Term};
use bytes::Bytes;
use proto::raftpb::{Entry, HardState, Message, Snapshot};

use crate::core::Role;
use crate::log::Position;

/// Who leads, as far as this member knows, and its own part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftState {
    /// The leader, or [`MemberId::NONE`].
    pub leader: MemberId,
    /// This member's part.
    pub role: Role,
}

/// A read index was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadState {
    /// A read is linearizable once the state has reached this index.
    pub index: LogIndex,
    /// What the request was called.
    pub context: Bytes,
}

/// A write to the member's own log. Writes are done in the order in which they were handed out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Append {
    /// Replaces the log, before anything else.
    pub snapshot: Option<Snapshot>,
    /// Replace the log from the first one's index on.
    pub entries: Vec<Entry>,
    /// Term, vote and commit index, when they changed.
    pub hard_state: Option<HardState>,
    /// Whether it must be durable before the receipt; a commit index alone may wait.
    pub must_sync: bool,
    /// Leave after the write only: they promise it. Those to the member itself are stepped.
    pub after: Vec<Message>,
    /// To be given to [`crate::Raft::appended`] after the write, and after `after` was stepped.
    pub receipt: AppendReceipt,
}

/// Reports a write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AppendReceipt {
    /// The member's term when the write was handed out. A report from an earlier term says
    /// nothing about entries: others may have taken their place.
    pub term: Term,
    /// The last entry of the log at that time: all writes up to this one together made it stable.
    pub last: Option<Position>,
    /// The snapshot that was written.
    pub snapshot: Option<LogIndex>,
}

/// Everything to be done since the last call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Duties {
    /// Leader or role have changed.
    pub soft: Option<SoftState>,
    /// To be written to the log.
    pub append: Option<Append>,
    /// To be sent, at once.
    pub messages: Vec<Message>,
    /// Read requests that can be answered.
    pub reads: Vec<ReadState>,
}
