//! Owns the database.
//!
//! *Invariants.* A commit is durable when its receipt is given; its view waits in the handoff for
//! whoever applies to publish it.

use std::sync::Arc;

use node::{CommitEffect, CommitReceipt};
use proto::raftpb::{Snapshot, SnapshotMetadata};
use storage::bolt::Database;
use storage::snap;

use crate::Fatal;
use crate::handoff::{Frozenness, Handoff};

/// Executes the commit lane.
pub struct CommitWorker {
    database: Database,
    handoff: Arc<Handoff>,
}

impl CommitWorker {
    /// A worker for an open database.
    pub fn new(database: Database, handoff: Arc<Handoff>) -> Self {
        Self { database, handoff }
    }

    /// Commits what was frozen, if anything was.
    pub fn run(&mut self, effect: CommitEffect) -> Result<CommitReceipt, Fatal> {
        let CommitEffect { upto, snapshot, views } = effect;
        if let Some(installed) = self.handoff.take_installed() {
            self.database = installed;
        }
        let handed = self.handoff.take_frozen();
        let Some(Frozenness { frozen, term, document, conf_state }) = handed else {
            return Ok(CommitReceipt { upto, snapshot: None });
        };
        if let Some(frozen) = frozen {
            assert!(frozen.upto == upto, "the commit is of other changes");
            let view = self.database.commit(frozen.batch)?;
            self.handoff.put_committed(view);
        }
        for _ in 0..views {
            self.handoff.put_snapshot_view(upto, self.database.view());
        }
        let snapshot = snapshot.then(|| {
            assert!(document.index == upto, "the members are of another point");
            Box::new(Snapshot {
                data: Some(snap::document(&document)),
                metadata: Some(SnapshotMetadata {
                    conf_state: Some(conf_state),
                    index: Some(upto.get()),
                    term: Some(term.get()),
                }),
            })
        });
        Ok(CommitReceipt { upto, snapshot })
    }

    /// The newest state of the database.
    pub fn view(&self) -> storage::bolt::View {
        self.database.view()
    }
}
