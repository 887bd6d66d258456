//! What passes between those who apply and those who commit, beside the effects.
//!
//! *Invariants.* The node allows one commit at a time: a place is empty when something is put.

use base::{LogIndex, Term};
use parking_lot::Mutex;
use proto::raftpb::ConfState;
use storage::bolt;
use storage::snap::Document;
use store::Frozen;

/// The state of the consensus at the point where changes were frozen.
#[derive(Debug)]
pub(crate) struct Frozenness {
    /// The changes; `None` when the database has everything.
    pub(crate) frozen: Option<Frozen>,
    /// The term of the last entry applied.
    pub(crate) term: Term,
    /// Who the members are, for a snapshot.
    pub(crate) document: Document,
    /// Who votes.
    pub(crate) conf_state: ConfState,
}

/// The places.
#[derive(Debug, Default)]
pub struct Handoff {
    frozen: Mutex<Option<Frozenness>>,
    committed: Mutex<Option<bolt::View>>,
    /// For snapshots to be sent; as many as the node has asked for.
    snapshots: Mutex<Vec<(LogIndex, bolt::View)>>,
    /// A received database, in place of the one that the commit worker has.
    installed: Mutex<Option<bolt::Database>>,
}

impl Handoff {
    pub(crate) fn put_frozen(&self, frozen: Frozenness) {
        let before = self.frozen.lock().replace(frozen);
        assert!(before.is_none_or(|before| before.frozen.is_none()), "changes were lost");
    }

    pub(crate) fn take_frozen(&self) -> Option<Frozenness> {
        self.frozen.lock().take()
    }

    pub(crate) fn put_committed(&self, view: bolt::View) {
        let before = self.committed.lock().replace(view);
        assert!(before.is_none(), "a committed view was never published");
    }

    pub(crate) fn take_committed(&self) -> Option<bolt::View> {
        self.committed.lock().take()
    }

    pub(crate) fn put_snapshot_view(&self, index: LogIndex, view: bolt::View) {
        self.snapshots.lock().push((index, view));
    }

    /// The state of the database at exactly that entry, for one [`node::SendSnapshot`] of it. It
    /// is there once for each; whoever does not take it keeps its pages from being reused.
    pub fn take_snapshot_view(&self, index: LogIndex) -> Option<bolt::View> {
        let mut snapshots = self.snapshots.lock();
        let at = snapshots.iter().position(|(of, _)| *of == index)?;
        Some(snapshots.swap_remove(at).1)
    }

    pub(crate) fn put_installed(&self, database: bolt::Database) {
        // Another may be there when nothing was committed between two snapshots.
        self.installed.lock().replace(database);
        // What was frozen before, and not wanted any more, belongs to the state before.
        self.frozen.lock().take();
    }

    pub(crate) fn take_installed(&self) -> Option<bolt::Database> {
        self.installed.lock().take()
    }
}
