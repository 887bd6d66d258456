//! What a node asks of the replicated state, and tells it, beside the lanes.

use std::sync::Arc;
use std::time::Duration;

use base::{LeaseId, Moment};

/// The part of the state that a leader has duties for. Reads what is applied; changes nothing
/// that is replicated.
pub trait State: Send {
    /// The version of the cluster: `major.minor.patch`.
    fn cluster_version(&self) -> Option<String>;
    /// The downgrade under way.
    fn downgrade(&self) -> store::Downgrade;
    /// Leases whose time is over, at most `max` of them. Each is named again only after a while.
    fn expired_leases(&self, now: Moment, max: usize) -> Vec<LeaseId>;
    /// This member leads: it watches over leases, all of which live at least `extend` more.
    fn promote(&self, now: Moment, extend: Duration);
    /// This member does not lead any more.
    fn demote(&self);
}

impl State for Arc<store::Shared> {
    fn cluster_version(&self) -> Option<String> {
        store::Shared::cluster_version(self)
    }

    fn downgrade(&self) -> store::Downgrade {
        store::Shared::downgrade(self)
    }

    fn expired_leases(&self, now: Moment, max: usize) -> Vec<LeaseId> {
        self.lessor().expired(now, max)
    }

    fn promote(&self, now: Moment, extend: Duration) {
        self.lessor().promote(now, extend);
    }

    fn demote(&self) {
        self.lessor().demote();
    }
}
