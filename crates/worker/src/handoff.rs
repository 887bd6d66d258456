//! What passes between those who apply and those who commit, beside the effects.
//!
//! *Invariants.* The node allows one commit at a time: a place is empty when something is put.

use base::Term;
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

/// The two places.
#[derive(Debug, Default)]
pub struct Handoff {
    frozen: Mutex<Option<Frozenness>>,
    committed: Mutex<Option<bolt::View>>,
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
}
