//! What a node wants done, by lane.

use base::{LogIndex, RequestId};
use proto::raftpb::{Entry, HardState, Message, Snapshot};

use crate::input::Ticket;
use crate::node::Progress;
use crate::requests::Rejected;

/// To be done in the order in which it stands in the log lane.
#[derive(Debug, Clone, PartialEq)]
pub enum LogEffect {
    /// Append to the log; the receipt is [`crate::LogReceipt::Appended`].
    Append {
        /// A snapshot that takes the place of everything before: its file is written first, then
        /// its record.
        snapshot: Option<Box<Snapshot>>,
        /// They replace what stands from the first one's index on.
        entries: Vec<Entry>,
        /// Term, vote and commit index, when they changed.
        hard_state: Option<HardState>,
        /// It must be durable before the receipt.
        must_sync: bool,
    },
    /// Make everything before durable; the receipt is [`crate::LogReceipt::Synced`].
    Sync,
    /// Write the snapshot file, then its record in the log, and make both durable; the receipt is
    /// [`crate::LogReceipt::Snapshotted`].
    Snapshot(Box<Snapshot>),
    /// Give up the segments that hold nothing after this index. Comes after the snapshot.
    Release(LogIndex),
    /// Remove a received database that is not to be installed.
    Discard(LogIndex),
    /// Remove the oldest files of those that are not needed.
    Purge,
}

/// To be done in the order in which it stands in the apply lane.
#[derive(Debug, Clone, PartialEq)]
pub enum ApplyEffect {
    /// Apply entries and answer those who wait for them; the receipt is
    /// [`crate::ApplyReceipt::Entries`].
    Entries(Vec<Entry>),
    /// Hand the changes so far over to the commit worker; the receipt is
    /// [`crate::ApplyReceipt::Frozen`].
    Freeze,
    /// Put the received database of that snapshot into the place of all state; the receipt is
    /// [`crate::ApplyReceipt::Installed`]. Nothing is in the commit lane meanwhile.
    Install(Box<Snapshot>),
    /// Show readers the database after its commit, and forget the changes that it holds; the
    /// receipt is [`crate::ApplyReceipt::Changed`].
    Publish,
}

/// To be done by the commit worker: commit what was frozen, if anything was; the receipt is
/// [`crate::CommitReceipt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitEffect {
    /// The last entry whose changes are in it. The log has it, and a hard state that commits it.
    pub upto: LogIndex,
    /// Say who the members are at that point, for a snapshot.
    pub snapshot: bool,
    /// Views of exactly that state to put into the handoff, for [`SendSnapshot`]s.
    pub views: usize,
}

/// To be sent with the pages of the view that the handoff holds for its index (see
/// `worker::Handoff::take_snapshot_view`), and answered by [`crate::Input::SnapshotSent`].
#[derive(Debug, Clone, PartialEq)]
pub struct SendSnapshot {
    /// `MsgSnap` with index, term, configuration and members as of that view.
    pub message: Message,
}

/// To whoever waits.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// A proposal is not in the log, and will not be.
    Refused {
        /// Which one.
        id: RequestId,
        /// Why.
        reason: Rejected,
    },
    /// A read may be answered from the view that is published now.
    ReadReady(Ticket),
    /// A read cannot be confirmed, or a commit cannot be had.
    TicketRefused(Ticket, Rejected),
    /// The database has everything that was applied when it was asked for.
    DatabaseCommitted(Ticket),
    /// The member that was asked for leads.
    Transferred(Ticket),
    /// How far each member has come; `None` when this member does not lead, and cannot know.
    Progress(Ticket, Option<Progress>),
    /// The cluster knows this member's name and addresses: it can serve.
    Published,
    /// A committed change has removed this member, and others have had time to hear of it: the
    /// process says so and ends.
    Removed,
    /// Everything is done; the log may be closed.
    Stopped,
}

/// Everything to be done since the last call.
#[derive(Debug, Default, PartialEq)]
pub struct Effects {
    /// For the log worker.
    pub log: Vec<LogEffect>,
    /// For the apply worker.
    pub apply: Vec<ApplyEffect>,
    /// For the commit worker.
    pub commit: Vec<CommitEffect>,
    /// For other members.
    pub send: Vec<Message>,
    /// For other members, with a database each.
    pub snapshots: Vec<SendSnapshot>,
    /// For those who wait.
    pub answers: Vec<Answer>,
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
            && self.apply.is_empty()
            && self.commit.is_empty()
            && self.send.is_empty()
            && self.snapshots.is_empty()
            && self.answers.is_empty()
    }
}
