//! Executes effects on log, state and database: plain synchronous objects, one for each lane.
//!
//! ```text
//!  log lane ────► LogWorker     Wal, snapshot files
//!  apply lane ──► ApplyWorker   Store            ─┐ Handoff: frozen changes there,
//!  commit lane ─► CommitWorker  bolt::Database   ─┘          the new view back
//!                                                             views for snapshots to send
//!                                                             a received database
//! ```
//!
//! A server gives each a thread and a bounded channel; a simulator calls the same objects with
//! delays and crashes between any two operations of the disk.
//!
//! *Invariants.* An error is fatal: the worker's object must not be used after it, and the process
//! says the error's one line and stops.
//!
//! *Absent.* Decisions about order (crate `node`), threads, channels.

mod apply;
pub mod bootstrap;
mod commit;
mod found;
mod handoff;
mod install;
mod log;

use thiserror::Error;

pub use apply::{ApplyWorker, Listener};
pub use commit::CommitWorker;
pub use handoff::Handoff;
pub use install::{Place, ReceivedError, verify_received};
pub use log::{LogWorker, Logged, Saved};

/// The disk or the data is broken: say so and stop the process. One line.
#[derive(Debug, Error)]
pub enum Fatal {
    /// The log cannot be written.
    #[error("write-ahead log: {0}")]
    Log(#[from] storage::wal::Error),
    /// A snapshot file cannot be written.
    #[error("snapshot: {0}")]
    Snapshot(#[from] storage::snap::Error),
    /// The database cannot be written.
    #[error("database: {0}")]
    Database(#[from] storage::bolt::Error),
    /// An entry cannot be applied.
    #[error(transparent)]
    Apply(#[from] store::Fatal),
    /// A snapshot from the leader cannot be installed.
    #[error(transparent)]
    Install(#[from] ReceivedError),
}
