//! Logs and counts what happens on the member's threads.

use std::sync::Arc;
use std::time::Duration;

use base::MemberId;
use peer::{Event, Value};
use proto::raftpb::Entry;
use store::{Applied, Operation, Swept};
use worker::Saved;
use worker::bootstrap::{Forced, Identity};

use crate::live::Live;
use crate::log;
use crate::member::Observer;
use crate::metrics::Metrics;
use crate::trace::slow;

/// Syncs and commits that take longer are told, as in etcd.
const SLOW_DISK: Duration = Duration::from_secs(1);

/// What the member's threads tell.
pub(crate) struct Watcher {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) live: Arc<Live>,
}

impl Observer for Watcher {
    fn wal_synced(&self, took: Duration) {
        if took > SLOW_DISK {
            log::warn("slow fdatasync")
                .duration("took", took)
                .duration("expected-duration", SLOW_DISK)
                .emit();
        }
    }

    fn database_committed(&self, took: Duration) {
        self.metrics.committed(took);
    }

    fn applied(&self, applied: &Applied, entry: &Entry, took: Duration) {
        self.metrics.applied(applied, took);
        let expected = self.live.slow_apply();
        if took > expected {
            self.metrics.slow_applies.increment();
            slow::log_apply(applied, entry, took, expected);
        }
    }

    fn snapshot_saved(&self, saved: Saved) {
        self.metrics.snapshot_saved(saved.marshalled, saved.took);
        log::info("saved snapshot to disk").field("snapshot-index", &saved.index.get()).emit();
    }

    fn database_received(&self, took: Duration) {
        self.metrics.received_save_seconds.observe(took);
    }

    fn slice_swept(&self, swept: Swept, took: Duration) {
        self.metrics.slice_swept(swept, took);
    }

    fn own_request(&self, operation: Operation, took: Duration) {
        self.metrics.requested(operation, true, took);
        if operation == Operation::LeaseRevoke {
            self.metrics.leases_expired.increment();
        }
    }

    fn heartbeats_late(&self, count: u64, exceeded: Duration) {
        self.metrics.heartbeats_late.add(count);
        log::warn(
            "leader failed to send out heartbeat on time; leader is overloaded likely from \
                   slow disk",
        )
        .duration("exceeded-duration", exceeded)
        .emit();
    }

    fn compaction_finished(&self, revision: i64, took: Duration) {
        self.metrics.compacted(took);
        log::info("finished scheduled compaction")
            .field("compact-revision", &revision)
            .duration("took", took)
            .emit();
    }

    fn leader_changed(&self, leader: MemberId, term: u64) {
        if leader == MemberId::NONE {
            log::info("lost leader").field("term", &term).emit();
            return;
        }
        self.metrics.leader_changes.increment();
        log::info("elected leader").text("leader", &leader).field("term", &term).emit();
    }

    fn disk_stalled(&self) {
        self.metrics.disk_stalls.increment();
        log::warn("the disk has not answered for an election timeout; leadership is handed over")
            .emit();
    }

    fn meta_page_damaged(&self, what: &str) {
        log::warn("used the other meta page of the database").field("damage", what).emit();
    }

    fn wal_repaired(&self, what: &str) {
        log::warn("repaired the end of the write-ahead log").field("repair", what).emit();
    }

    fn installing(&self, index: u64, term: u64) {
        self.metrics.installing.rise();
        log::info("applying snapshot")
            .field("incoming-leader-snapshot-index", &index)
            .field("incoming-leader-snapshot-term", &term)
            .emit();
    }

    fn installed(&self, index: u64, term: u64, took: Duration) {
        self.metrics.installing.fall();
        log::info("applySnapshot: opened snapshot backend").emit();
        log::info("applied snapshot")
            .field("incoming-leader-snapshot-index", &index)
            .field("incoming-leader-snapshot-term", &term)
            .duration("took", took)
            .emit();
    }

    fn recovered(&self, before: u64, snapshot: u64) {
        log::info("Recovering from snapshot backend")
            .field("consistent-index", &before)
            .field("snapshot-index", &snapshot)
            .emit();
    }

    fn forced(&self, identity: Identity, what: Forced) {
        let Forced { commit_in_log, commit, discarded } = what;
        if discarded > 0 {
            log::info("discarding uncommitted WAL entries")
                .field("commit-index-from-wal", &commit_in_log.get())
                .field("number-of-discarded-entries", &discarded)
                .emit();
        }
        log::info("forcing restart member")
            .text("cluster-id", &identity.cluster)
            .text("local-member-id", &identity.member)
            .field("wal-commit-index", &commit_in_log.get())
            .field("commit-index", &commit.get())
            .emit();
    }

    fn peer_event(&self, event: &Event) {
        let line = log::line(level(event.level), event.message);
        let add = |line: log::Line, (name, value): &(&'static str, Value)| match value {
            Value::Text(text) => line.field(name, text),
            Value::Texts(texts) => line.field(name, texts),
            Value::Number(number) => line.field(name, number),
            Value::Flag(flag) => line.field(name, flag),
            Value::Duration(duration) => line.duration(name, *duration),
        };
        event.fields.iter().fold(line, add).emit();
    }

    fn messages_dropped(&self, count: u64) {
        log::warn(
            "dropped internal Raft message since receiving buffer is full (overloaded network)",
        )
        .field("dropped-messages", &count)
        .emit();
    }

    fn wants_peer_events(&self, of: peer::Level) -> bool {
        log::is_enabled(level(of))
    }
}

fn level(of: peer::Level) -> log::Level {
    match of {
        peer::Level::Debug => log::Level::Debug,
        peer::Level::Info => log::Level::Info,
        peer::Level::Warn => log::Level::Warn,
        peer::Level::Error => log::Level::Error,
    }
}
