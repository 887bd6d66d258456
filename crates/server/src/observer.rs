//! Logs and counts what happens on the member's threads.

use std::sync::Arc;
use std::time::Duration;

use base::MemberId;
use store::Applied;

use crate::log;
use crate::member::Observer;
use crate::metrics::Metrics;

/// Syncs and commits that take longer are told, as in etcd.
const SLOW_DISK: Duration = Duration::from_secs(1);

/// What the member's threads tell.
pub(crate) struct Watcher {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) slow_apply: Duration,
}

impl Observer for Watcher {
    fn wal_synced(&self, took: Duration) {
        self.metrics.wal_sync_seconds.observe(took);
        if took > SLOW_DISK {
            log::warn("slow fdatasync")
                .duration("took", took)
                .duration("expected-duration", SLOW_DISK)
                .emit();
        }
    }

    fn database_committed(&self, took: Duration) {
        self.metrics.commit_seconds.observe(took);
    }

    fn applied(&self, applied: &Applied, took: Duration) {
        self.metrics.applied(applied, took);
        if took > self.slow_apply {
            self.metrics.slow_applies.increment();
            log::warn("apply request took too long")
                .duration("took", took)
                .duration("expected-duration", self.slow_apply)
                .emit();
        }
    }

    fn snapshot_saved(&self, index: u64) {
        log::info("saved snapshot to disk").field("snapshot-index", &index).emit();
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

    fn meta_page_damaged(&self, what: &str) {
        log::warn("used the other meta page of the database").field("damage", what).emit();
    }

    fn wal_repaired(&self, what: &str) {
        log::warn("repaired the end of the write-ahead log").field("repair", what).emit();
    }
}
