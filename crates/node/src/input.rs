//! What a node is told.

use base::{LogIndex, MemberId, Moment, RequestId};
use bytes::Bytes;
use proto::raftpb::{ConfChange, Message, Snapshot};

/// Names a request that waits for an answer which is not an entry's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Everything that can happen to a node.
#[derive(Debug)]
pub enum Input {
    /// Time has passed. Due at [`crate::Node::deadline`], welcome at any time.
    Tick {
        /// The time now.
        now: Moment,
    },
    /// An encoded request is to go into the log. Refused by [`crate::Answer::Refused`]; answered
    /// by whoever applies it otherwise.
    Propose {
        /// The id that stands in the request.
        id: RequestId,
        /// The request.
        data: Bytes,
    },
    /// A change of the members is to go into the log. Answered like a proposal.
    ProposeConfChange {
        /// The id that stands in the change.
        id: RequestId,
        /// The change.
        change: ConfChange,
    },
    /// From when on may a read be answered? [`crate::Answer::ReadReady`].
    ReadIndex {
        /// Who asks.
        ticket: Ticket,
    },
    /// All that is applied now is to be in the database: [`crate::Answer::DatabaseCommitted`].
    CommitDatabase {
        /// Who asks.
        ticket: Ticket,
    },
    /// Leadership is to go to that member: [`crate::Answer::Transferred`].
    TransferLeader {
        /// Who is to lead.
        to: MemberId,
        /// Who asks.
        ticket: Ticket,
    },
    /// How far has each member come? [`crate::Answer::Progress`].
    Progress {
        /// Who asks.
        ticket: Ticket,
    },
    /// Another member sent something. Not a snapshot: see [`Input::SnapshotReceived`].
    Message(Box<Message>),
    /// Something for that member was lost on the way.
    Unreachable {
        /// Who was to get it.
        member: MemberId,
    },
    /// What became of a [`crate::SendSnapshot`]: one report for each.
    SnapshotSent {
        /// Who was to get it.
        member: MemberId,
        /// It has the whole.
        ok: bool,
    },
    /// A leader sent a snapshot, and the database that belongs to it is on disk, synced, verified
    /// (see `worker::verify_received`), and then named `%016x.snap.db`.
    SnapshotReceived {
        /// The `MsgSnap`.
        message: Box<Message>,
    },
    /// What the members of the cluster, as far as they were asked, say that their servers are.
    /// Wanted while this member leads: at once, and every [`crate::VERSIONS_INTERVAL`].
    MemberVersions {
        /// `major.minor.patch` each; `None` for who did not answer. This member need not be there.
        versions: Vec<(MemberId, Option<String>)>,
    },
    /// Enough other members are connected for an election: this member, when it has just started,
    /// need not wait a whole election timeout for one.
    Connected,
    /// The log worker reports.
    Logged(LogReceipt),
    /// The apply worker reports.
    Applied(ApplyReceipt),
    /// The commit worker reports.
    Committed(CommitReceipt),
    /// The member is to end: it hands leadership over if it can, takes nothing new, applies what is
    /// committed and brings it into the database; then comes [`crate::Answer::Stopped`].
    Stop {
        /// The members that are connected, those that have been for the longest time first.
        connected: Vec<MemberId>,
    },
}

/// Reports of the log lane, one for each effect but those that remove files, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogReceipt {
    /// [`crate::LogEffect::Append`] is written.
    Appended {
        /// It, and all before it, is durable.
        synced: bool,
    },
    /// [`crate::LogEffect::Sync`] is done.
    Synced,
    /// [`crate::LogEffect::Snapshot`] is durable and recorded.
    Snapshotted,
}

/// What waits for a commit of the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// Rows and other changes not frozen yet.
    pub changes: usize,
    /// Memory of the changes not committed yet, frozen ones included.
    pub bytes: usize,
}

/// Reports of the apply lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyReceipt {
    /// [`crate::ApplyEffect::Entries`] are applied, and the view that readers see has them.
    Entries {
        /// The last one of them.
        index: LogIndex,
        /// What raft is to put into force.
        conf_changes: Vec<ConfChange>,
        /// Requests that nobody but a node proposes, and leases that went: the node knows its own.
        finished: Vec<RequestId>,
        /// A snapshot is to be written whatever the count says.
        force_snapshot: bool,
        /// What waits for a commit now.
        pending: Pending,
    },
    /// [`crate::ApplyEffect::Freeze`] is done.
    Frozen {
        /// The last entry whose changes are handed over. `None` when nothing was pending: then
        /// the database has everything that was applied.
        upto: Option<LogIndex>,
        /// What waits for a commit now.
        pending: Pending,
    },
    /// [`crate::ApplyEffect::Install`] is done, and readers see the state that was received.
    Installed {
        /// The last entry that it has.
        index: LogIndex,
        /// What waits for a commit now.
        pending: Pending,
    },
    /// [`crate::ApplyEffect::Publish`] is done, or the sweeping after a compaction made changes.
    Changed {
        /// What waits for a commit now.
        pending: Pending,
    },
}

/// Reports of the commit lane.
#[derive(Debug, Clone, PartialEq)]
pub struct CommitReceipt {
    /// The last entry that the database has.
    pub upto: LogIndex,
    /// The snapshot that was asked for.
    pub snapshot: Option<Box<Snapshot>>,
}
