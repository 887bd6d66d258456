//! Owns the write-ahead log and the snapshot files.
//!
//! *Invariants.* A batch of effects costs one sync at most, but for snapshots, which have two
//! files to make durable in order: the snapshot, then its record in the log.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::mutant::{Mutant, is_on};
use base::{Clock, LogIndex};
use node::{LogEffect, LogReceipt};
use proto::{raftpb, walpb};
use storage::disk::Disk;
use storage::snap::Snapshots;
use storage::wal::{self, Wal};

use crate::Fatal;

/// What became of a batch of effects.
#[derive(Debug, Default)]
pub struct Logged {
    /// For the node, in the order of the effects.
    pub receipts: Vec<LogReceipt>,
    /// How long each sync took.
    pub syncs: Vec<Duration>,
    /// Snapshot files that were written.
    pub snapshots: Vec<Saved>,
    /// Files that were removed.
    pub purged: Vec<PathBuf>,
}

/// A snapshot file that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// The last entry it stands for.
    pub index: LogIndex,
    /// How long it took to make its bytes.
    pub marshalled: Duration,
    /// How long that took together with the write and the sync.
    pub took: Duration,
}

/// Executes the log lane.
pub struct LogWorker {
    wal: Wal,
    snapshots: Snapshots,
    disk: Arc<dyn Disk>,
    wal_dir: PathBuf,
    segments_kept: usize,
    snapshots_kept: usize,
    clock: Arc<dyn Clock>,
}

impl LogWorker {
    /// A worker for an open log. Of the files that are not needed any more it keeps so many
    /// (`--max-wals`, `--max-snapshots`; 0 is no bound).
    pub fn new(
        wal: Wal,
        snapshots: Snapshots,
        disk: Arc<dyn Disk>,
        wal_dir: PathBuf,
        kept: (usize, usize),
        clock: Arc<dyn Clock>,
    ) -> Self {
        let unbounded = |kept| if kept == 0 { usize::MAX } else { kept };
        let (segments_kept, snapshots_kept) = (unbounded(kept.0), unbounded(kept.1));
        Self { wal, snapshots, disk, wal_dir, segments_kept, snapshots_kept, clock }
    }

    /// Does everything in order, with one sync for the appends.
    pub fn run(&mut self, effects: Vec<LogEffect>) -> Result<Logged, Fatal> {
        let mut logged = Logged::default();
        // Receipts of appends wait for the sync that covers them; it comes with the next effect
        // that needs one, at the end at the latest.
        let mut must_sync = false;
        let mut since_sync = 0;
        for effect in effects {
            match effect {
                LogEffect::Append { snapshot, entries, hard_state, must_sync: must } => {
                    if let Some(snapshot) = snapshot {
                        self.save_snapshot(&snapshot, hard_state.as_ref(), &mut logged)?;
                        mark_synced(&mut logged.receipts[since_sync..]);
                        since_sync = logged.receipts.len();
                        must_sync = false;
                    }
                    self.wal.append(&entries, hard_state.as_ref())?;
                    must_sync |= must;
                    logged.receipts.push(LogReceipt::Appended { synced: false });
                }
                LogEffect::Sync => {
                    must_sync = true;
                    logged.receipts.push(LogReceipt::Synced);
                }
                LogEffect::Snapshot(snapshot) => {
                    self.save_snapshot(&snapshot, None, &mut logged)?;
                    mark_synced(&mut logged.receipts[since_sync..]);
                    must_sync = false;
                    logged.receipts.push(LogReceipt::Snapshotted);
                    since_sync = logged.receipts.len();
                }
                LogEffect::Release(index) => {
                    self.wal.release_to(index)?;
                    logged.purged.extend(self.snapshots.release_received(index)?);
                }
                LogEffect::Discard(index) => {
                    logged.purged.extend(self.snapshots.discard_received(index)?);
                }
                LogEffect::Purge => self.purge(&mut logged)?,
            }
        }
        if must_sync {
            if !is_on(Mutant::ReportBeforeSync) {
                self.sync(&mut logged)?;
            }
            mark_synced(&mut logged.receipts[since_sync..]);
        }
        Ok(logged)
    }

    /// Syncs, and closes the log.
    pub fn close(self) -> Result<(), Fatal> {
        Ok(self.wal.close()?)
    }

    fn sync(&mut self, logged: &mut Logged) -> Result<(), Fatal> {
        let begun = self.clock.now();
        self.wal.sync()?;
        logged.syncs.push(self.clock.now() - begun);
        Ok(())
    }

    /// Writes the file, then the record, and makes both durable. With the hard state that comes
    /// with a received snapshot also that it is committed: entries that follow it may stand in
    /// the log only when everyone who reads that finds the snapshot (etcd writes them first).
    fn save_snapshot(
        &mut self,
        snapshot: &raftpb::Snapshot,
        hard_state: Option<&raftpb::HardState>,
        logged: &mut Logged,
    ) -> Result<(), Fatal> {
        let begun = self.clock.now();
        let bytes = storage::snap::marshal(snapshot);
        let marshalled = self.clock.now() - begun;
        self.snapshots.save_marshalled(&bytes)?;
        let took = self.clock.now() - begun;
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        self.wal.save_snapshot(&walpb::Snapshot {
            index: metadata.index,
            term: metadata.term,
            conf_state: metadata.conf_state.clone(),
        })?;
        if let Some(state) = hard_state {
            let commit = Some(state.commit().min(metadata.index()));
            self.wal.append(&[], Some(&raftpb::HardState { commit, ..*state }))?;
        }
        self.sync(logged)?;
        let index = LogIndex(metadata.index());
        logged.snapshots.push(Saved { index, marshalled, took });
        Ok(())
    }

    fn purge(&mut self, logged: &mut Logged) -> Result<(), Fatal> {
        logged.purged.extend(wal::purge(&*self.disk, &self.wal_dir, self.segments_kept)?);
        logged.purged.extend(self.snapshots.purge(self.snapshots_kept)?);
        Ok(())
    }
}

fn mark_synced(receipts: &mut [LogReceipt]) {
    for receipt in receipts {
        if let LogReceipt::Appended { synced } = receipt {
            *synced = true;
        }
    }
}
