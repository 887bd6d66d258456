//! A member without threads: node and workers in one loop, over a disk that crashes when told to.
//!
//! ```text
//!  seed ─► World: request | log | apply | commit | sweep | time   (one step at a time, drawn)
//!             │ crash between any two operations of the disk
//!             ▼
//!          image ─► reopen ─► replay the log on a reference store ─► equal? nothing lost?
//! ```
//!
//! *Invariants checked after every reopening.* Entries that were answered are in the log; the
//! database is not ahead of the log, nor behind its snapshot; the state equals that of a store to
//! which the log was applied from its first entry; revisions do not go back.

pub(crate) mod life;
pub(crate) mod reference;
pub(crate) mod requests;
pub(crate) mod world;

use std::sync::Arc;

use base::{Clock, Moment};
use parking_lot::Mutex;

/// A clock that stands still until it is moved.
#[derive(Clone, Default)]
pub(crate) struct HandClock(Arc<Mutex<Moment>>);

impl HandClock {
    pub(crate) fn advance(&self, by: std::time::Duration) {
        let mut now = self.0.lock();
        *now = *now + by;
    }
}

impl Clock for HandClock {
    fn now(&self) -> Moment {
        *self.0.lock()
    }

    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.now().as_nanos() / 1_000_000
    }
}
