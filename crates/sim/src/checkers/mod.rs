//! What must be true of every run, one file each.
//!
//! Some checkers look on while the run goes ([`raft`], [`promises`], [`state`], [`bounds`]); the
//! others judge the whole [`crate::history::History`] when it is over.
//!
//! *Invariants.* 1. A checker knows the API's meaning from its own model ([`model`]), not from the
//! code that it checks. 2. The same checkers, with the same bounds, judge runs of mutated code.
//!
//! *Absent.* Liveness: the world demands progress itself.

pub mod bounds;
pub mod leases;
pub mod linearizable;
pub mod model;
pub mod promises;
pub mod raft;
pub mod revisions;
pub mod state;
pub mod watch;

use std::fmt;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which checker found it.
    pub checker: &'static str,
    /// What is wrong, in one line.
    pub what: String,
}

impl Violation {
    /// A violation of what `checker` checks.
    pub fn new(checker: &'static str, what: impl Into<String>) -> Self {
        Self { checker, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.what)
    }
}
