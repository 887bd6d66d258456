//! The leader's side of replication: entries, commit indexes, heartbeats and snapshots to each
//! member, as its progress allows, and what their answers say.
//!
//! *Invariants.*
//! 1. An append continues at the member's `next`; a stream is never sent an entry twice without a
//!    sign that something was lost.
//! 2. A heartbeat never tells a commit index beyond what is known to match.
//!
//! *Contract.* `raft.go` of go.etcd.io/raft v3.7.0.

use base::mutant::{Mutant, is_on};
use base::{LogIndex, MemberId, Term};
use bytes::Bytes;
use proto::raftpb::{ConfState, Message, MessageType, Snapshot, SnapshotMetadata};

use crate::core::{Raft, Role, snapshot_position};
use crate::log::Position;
use crate::message;
use crate::progress::ProgressState;

impl Raft {
    // ---- sending ----

    /// Sends whatever each member can take, and the commit index to whom it is news.
    pub(crate) fn broadcast_append(&mut self) {
        if self.config.gather {
            self.append_due = self.tracker.has_other_than(self.config.id);
            return;
        }
        self.each_other(|raft, id| {
            raft.maybe_send_append(id, true);
        });
    }

    /// Tells everyone that this member leads, and asks to confirm the reads that wait for that.
    pub(crate) fn broadcast_heartbeat(&mut self) {
        let context = self.reads.heartbeat_context();
        self.each_other(|raft, id| raft.send_heartbeat(id, context.clone()));
    }

    /// Sends what was gathered since the last time.
    pub(crate) fn send_gathered(&mut self) {
        if std::mem::take(&mut self.heartbeat_due) {
            self.broadcast_heartbeat();
        }
        if std::mem::take(&mut self.append_due) {
            let committed = self.log.committed();
            self.each_other(|raft, id| {
                let is_news = raft
                    .tracker
                    .progress(id)
                    .is_some_and(|progress| progress.can_learn_commit(committed));
                raft.maybe_send_append(id, is_news);
                raft.send_appends(id);
            });
        }
    }

    pub(crate) fn each_other(&mut self, mut act: impl FnMut(&mut Self, MemberId)) {
        let mut id = MemberId::NONE;
        while let Some(next) = self.tracker.member_after(id) {
            id = next;
            if id != self.config.id {
                act(self, id);
            }
        }
    }

    /// Sends as many appends with entries as the member can take.
    pub(crate) fn send_appends(&mut self, to: MemberId) {
        // Each one moves `next`, or holds or fills the window; the log ends.
        while self.maybe_send_append(to, false) {}
    }

    /// Sends one append, or the snapshot that must come before it. Without entries only
    /// `if_empty`. False when nothing was sent.
    pub(crate) fn maybe_send_append(&mut self, to: MemberId, if_empty: bool) -> bool {
        let Some(progress) = self.tracker.progress_mut(to) else { return false };
        if progress.is_paused() {
            return false;
        }
        let before = LogIndex(progress.next.0 - 1);
        let Some(before_term) = self.log.term(before) else {
            return self.maybe_send_snapshot(to);
        };
        let entries = if progress.takes_entries() {
            self.log.entries_after(before, self.config.message_bytes_max)
        } else {
            Vec::new()
        };
        if entries.is_empty() && !if_empty {
            return false;
        }
        let bytes = entries.iter().map(|entry| entry.data().len() as u64).sum();
        let commit = self.log.committed();
        progress.sent(entries.len(), bytes, commit);
        self.send(Message {
            index: Some(before.0),
            log_term: Some(before_term.0),
            entries,
            commit: Some(commit.0),
            ..message::to(to, MessageType::MsgApp)
        });
        true
    }

    /// Sends the newest snapshot, to a member that is there to take it.
    fn maybe_send_snapshot(&mut self, to: MemberId) -> bool {
        if !self.tracker.progress(to).is_some_and(|progress| progress.recent_active) {
            return false;
        }
        let snapshot = self.newest_snapshot();
        let at = snapshot_position(&snapshot).index;
        if let Some(progress) = self.tracker.progress_mut(to) {
            progress.await_snapshot(at);
        }
        let kind = MessageType::MsgSnap;
        self.send(Message { snapshot: Some(snapshot), ..message::to(to, kind) });
        true
    }

    /// The snapshot that was made last; or one that only says where the state stands, when the
    /// log was cut behind that one.
    fn newest_snapshot(&self) -> Snapshot {
        let base = self.log.base().index;
        let kept = self.snapshot.as_ref();
        if let Some(snapshot) = kept.filter(|kept| snapshot_position(kept).index >= base) {
            return snapshot.clone();
        }
        let index = self.log.applied().max(base);
        let term = self.log.term(index).unwrap_or_default();
        let conf_state = self.tracker.configuration().conf_state();
        described_snapshot(Position { index, term }, conf_state, None)
    }

    /// Keeps a snapshot of the own state at `at`, to be sent to who needs what was compacted.
    /// Returns where it stands; `None`, and nothing changes, when there is a newer one already,
    /// or when `at` is compacted or not committed yet.
    pub fn create_snapshot(
        &mut self,
        at: LogIndex,
        conf_state: ConfState,
        data: Bytes,
    ) -> Option<Position> {
        let newest =
            self.snapshot.as_ref().map_or(LogIndex(0), |kept| snapshot_position(kept).index);
        if at <= newest || at > self.log.committed() {
            return None;
        }
        let position = Position { index: at, term: self.log.term(at)? };
        self.snapshot = Some(described_snapshot(position, conf_state, Some(data)));
        Some(position)
    }

    fn send_heartbeat(&mut self, to: MemberId, context: Option<Bytes>) {
        let Some(progress) = self.tracker.progress_mut(to) else { return };
        let committed = self.log.committed();
        let tells_all = is_on(Mutant::HeartbeatTellsAll);
        let commit = if tells_all { committed } else { progress.matched.min(committed) };
        progress.sent_commit = commit;
        let kind = MessageType::MsgHeartbeat;
        self.send(Message { commit: Some(commit.0), context, ..message::to(to, kind) });
    }

    // ---- what comes back ----

    /// A member, this one included, has made entries durable, or has refused them.
    pub(crate) fn step_append_response(&mut self, message: &Message, from: MemberId) {
        let last = self.log.last().index;
        let index = LogIndex(message.index());
        let Some(progress) = self.tracker.progress_mut(from) else { return };
        progress.recent_active = true;
        if message.reject() {
            self.step_refusal(message, from);
            return;
        }
        let was_probed = progress.state == ProgressState::Probe && progress.matched == index;
        // Nobody has entries of this term that their leader has not.
        if index > last || !(progress.acknowledged(index) || was_probed) {
            return;
        }
        match progress.state {
            ProgressState::Probe => progress.replicate(),
            ProgressState::Replicate => progress.inflights.free_to(index),
            // At whatever index a snapshot was installed, what follows it is there to be sent.
            ProgressState::Snapshot(_) if progress.matched >= self.log.base().index => {
                progress.probe();
                progress.replicate();
            }
            ProgressState::Snapshot(_) => {}
        }
        let told = progress.can_learn_commit(self.log.committed());
        let is_own = from == self.config.id;
        if self.maybe_commit() {
            self.release_reads();
            self.broadcast_append();
        } else if !is_own && told {
            self.maybe_send_append(from, true);
        }
        if !is_own {
            // There may be room for more than one message now.
            self.send_appends(from);
        }
        if self.transferee == Some(from) {
            self.try_hand_over(from);
        }
    }

    /// A member does not have the entry that an append was to continue.
    fn step_refusal(&mut self, message: &Message, from: MemberId) {
        let mut hint = LogIndex(message.reject_hint());
        if message.log_term() > 0 {
            // Where our terms are above the member's, the logs cannot agree.
            (hint, _) = self.log.conflict_hint(hint, Term(message.log_term()));
        }
        let Some(progress) = self.tracker.progress_mut(from) else { return };
        if !progress.refused(LogIndex(message.index()), hint) {
            return;
        }
        if progress.state == ProgressState::Replicate {
            progress.probe();
        }
        self.maybe_send_append(from, true);
    }

    /// A member has answered a heartbeat: it may have lost what was sent before.
    pub(crate) fn step_heartbeat_response(&mut self, message: &Message, from: MemberId) {
        let last = self.log.last().index;
        let Some(progress) = self.tracker.progress_mut(from) else { return };
        progress.recent_active = true;
        progress.is_held = false;
        if progress.matched < last || progress.state == ProgressState::Probe {
            self.maybe_send_append(from, true);
        }
        self.confirm_reads(from, message.context());
    }

    /// Reports that something that was sent to `member` did not arrive.
    pub fn report_unreachable(&mut self, member: MemberId) {
        if self.role == Role::Leader
            && let Some(progress) = self.tracker.progress_mut(member)
            && progress.state == ProgressState::Replicate
        {
            progress.probe();
        }
    }

    /// Reports how the transmission of a snapshot to `member` ended.
    pub fn report_snapshot(&mut self, member: MemberId, ok: bool) {
        if self.role == Role::Leader
            && let Some(progress) = self.tracker.progress_mut(member)
        {
            progress.snapshot_sent(ok);
        }
    }
}

fn described_snapshot(at: Position, conf_state: ConfState, data: Option<Bytes>) -> Snapshot {
    let (index, term) = (Some(at.index.0), Some(at.term.0));
    let metadata = SnapshotMetadata { conf_state: Some(conf_state), index, term };
    Snapshot { data, metadata: Some(metadata) }
}
