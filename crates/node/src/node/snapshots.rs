//! Snapshots to other members and from the leader, and the entries that are kept for those that
//! lag.
//!
//! ```text
//!   raft: MsgSnap ─► the next commit of the database ─► SendSnapshot ─► SnapshotSent
//!   SnapshotReceived ─► raft ─► log lane: file, record, sync ─► nothing under way? ─► Install
//! ```
//!
//! *Contract.* `createMergedSnapshotMessage`, `applySnapshot`, `compactRaftLog` of
//! `server/etcdserver` of etcd v3.7.1.

use std::time::Duration;

use base::{LogIndex, MemberId, limits};
use proto::raftpb::{Message, Snapshot};

use super::Node;
use crate::effect::{ApplyEffect, LogEffect};

/// Data of applied entries that is kept for followers that lag, whatever the count says.
const CATCHUP_BYTES_MAX: usize = 64 << 20;

/// Applied entries between two compactions of the log in memory.
const COMPACT_EVERY: u64 = 100;

/// Data of entries in the log beyond which it is cut although a snapshot is on its way, whose
/// receiver needs what follows it. Then that one gets another snapshot.
const SENDING_BYTES_MAX: usize = 256 << 20;

/// How long the log is kept after a snapshot has arrived, so that its receiver, which has yet to
/// install it, finds what follows (`releaseDelayAfterSnapshot` of etcd).
const SENT_INTERVAL: Duration = Duration::from_secs(30);

/// A snapshot from a leader, on its way into the place of all state.
pub(super) struct Install {
    pub(super) snapshot: Box<Snapshot>,
    pub(super) index: LogIndex,
    /// The log has it: it will be installed, if not by this process then by the next.
    pub(super) is_logged: bool,
}

impl Node {
    /// Gives a snapshot to raft, which takes it or does not; then its database may go.
    pub(super) fn snapshot_received(&mut self, message: Message) {
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let index = LogIndex(metadata.map_or(0, |metadata| metadata.index()));
        let before = self.raft.log().base().index;
        if message.to() == self.config.member.0 && !self.is_deaf() {
            let _dropped = self.raft.step(message);
        }
        let base = self.raft.log().base().index;
        let is_taken = base == index && base > before;
        let is_in_use = self.installing == Some(index)
            || self.install.as_ref().is_some_and(|install| install.index == index);
        // The log may tell of one that is ahead of the database and was never installed: it might
        // still be needed, and goes with the next snapshot on disk.
        if !is_taken && !is_in_use && index <= self.commits.database() {
            self.effects.log.push(LogEffect::Discard(index));
        }
    }

    pub(super) fn snapshot_sent(&mut self, member: MemberId, ok: bool) {
        self.raft.report_snapshot(member, ok);
        if ok {
            self.sending.insert(member, Some(self.now + SENT_INTERVAL));
        } else {
            self.sending.remove(&member);
        }
    }

    /// The log has a snapshot: it will be installed, and what came before it is not needed.
    pub(super) fn snapshot_logged(&mut self, at: LogIndex) {
        if let Some(install) = self.install.as_mut().filter(|install| install.index == at) {
            install.is_logged = true;
        }
        // The database of the one that is being put in place is released after that.
        if self.installing.is_some() {
            self.release_at = Some(at);
        } else {
            self.effects.log.push(LogEffect::Release(at));
        }
    }

    /// A snapshot is in place: what was needed for it is not any more.
    pub(super) fn snapshot_installed(&mut self) {
        self.effects.log.extend(self.release_at.take().map(LogEffect::Release));
    }

    /// A snapshot leaves with the state of the next commit, unless too many are on their way.
    pub(super) fn want_snapshot(&mut self, message: Message) {
        let to = MemberId(message.to());
        let under_way = self.sending.values().filter(|until| until.is_none()).count();
        let is_sent = self.sending.get(&to).is_some_and(Option::is_none);
        if is_sent || under_way >= limits::SNAPSHOTS_SENDING_MAX || self.is_stopping() {
            self.raft.report_snapshot(to, false);
            return;
        }
        self.sending.insert(to, None);
        self.commits.want_snapshot(message);
    }

    /// Hands out a snapshot to be installed as soon as nothing else is under way.
    pub(super) fn advance_install(&mut self) {
        self.commits.hold(self.install.is_some() || self.installing.is_some());
        let is_free = self.installing.is_none() && self.commits.is_quiet();
        let Some(install) = self.install.take_if(|install| install.is_logged && is_free) else {
            return;
        };
        self.installing = Some(install.index);
        self.effects.apply.push(ApplyEffect::Install(install.snapshot));
    }

    /// Cuts the log in memory behind the applied index, as far as lagging followers allow.
    pub(super) fn compact_log(&mut self, applied: LogIndex) {
        if applied.0.saturating_sub(self.compacted_at.0) <= COMPACT_EVERY {
            return;
        }
        let held = self.raft.log().bytes().saturating_sub(self.unapplied.0 + self.proposed_bytes);
        if !self.sending.is_empty() && held <= SENDING_BYTES_MAX {
            // Who gets a snapshot needs what follows it.
            return;
        }
        self.compacted_at = applied;
        let mut keep = self.config.catchup_entries;
        if held > CATCHUP_BYTES_MAX {
            // Large entries: keep the share of them that fits.
            let share = CATCHUP_BYTES_MAX as u64 * 100 / held as u64;
            let count = applied.0.saturating_sub(self.raft.log().base().index.0);
            keep = keep.min(count * share / 100);
        }
        self.raft.compact(LogIndex(applied.0.saturating_sub(keep).max(1)));
    }
}
