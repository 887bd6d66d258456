//! What a member gives to the transport: where messages go, and what is asked.

use std::io;

use base::MemberId;
use bytes::Bytes;
use proto::raftpb::Message;
use thiserror::Error;

use crate::dial::BoxFuture;
use crate::event::{Event, Level};
use crate::snapshot::SnapshotBody;

/// The member behind a transport. Every call must return at once, and must not call the
/// transport: it is made where sockets are served, and while locks are held.
pub trait Handler: Send + Sync + 'static {
    /// Takes a message of another member. Drops it when its queue is full, which raft expects.
    ///
    /// It is for this member, its sender was not removed, and it is of a kind that members send;
    /// a `MsgSnap` never comes this way.
    fn message(&self, message: Message);

    /// What was sent to a member may be lost.
    fn unreachable(&self, member: MemberId);

    /// A snapshot was taken by a member, or failed to be.
    fn snapshot_sent(&self, member: MemberId, ok: bool);

    /// Whether a member was removed from the cluster.
    fn is_removed(&self, member: MemberId) -> bool;

    /// Puts the database part of a snapshot on disk, synced and under its name, then hands the
    /// message on. When this returns the sender is told.
    fn receive_snapshot(
        &self,
        message: Message,
        body: SnapshotBody,
    ) -> BoxFuture<'static, Result<(), ReceiveError>>;

    /// Another member says that this one was removed from the cluster: the process must stop.
    /// May be called many times.
    fn removed(&self);

    /// Something happened that is worth a line of log.
    fn event(&self, event: Event);

    /// Whether events of a level are looked at; others are not built.
    fn wants(&self, level: Level) -> bool {
        level > Level::Debug
    }
}

/// Why a snapshot was not taken.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// It is not on disk.
    #[error("failed to save KV snapshot ({0})")]
    Save(String),
    /// It is on disk, and the member did not take the message.
    #[error("failed to process raft message ({0})")]
    Process(String),
}

/// The database part of a snapshot, as the sender reads it.
pub trait SnapshotReader: Send + 'static {
    /// Bytes in all.
    fn size(&self) -> u64;

    /// At least one and at most `max` bytes at `offset`, which is below the size. May block.
    fn read_at(&mut self, offset: u64, max: usize) -> io::Result<Bytes>;
}
