//! Decides by consensus, and performs nothing: a Raft core that is handed ticks, messages,
//! proposals and receipts, and hands out duties.
//!
//! ```text
//!            tick, step, propose, read_index            appended(receipt), applied(receipt)
//!                       │                                          ▲
//!                       ▼                                          │
//!                     Raft ── duties() ──► messages ──► peers      │
//!                       │                  append ────► own log ───┤ (may take its time)
//!                       └ take_committed() ──────────► state ──────┘
//! ```
//!
//! Storage is asynchronous: an [`Append`] is written some time later, and the messages that
//! promise its durability wait inside it. The member's own disk is one vote among others: the
//! leader counts its own log only when the receipt has come.
//!
//! *Invariants.*
//! 1. first - 1 = base <= applied <= applying <= committed <= last, and applying <= stable <=
//!    taken <= last (a snapshot that is being installed lifts base and committed first).
//! 2. An entry is handed out to be applied only when it is stable in the member's own log.
//! 3. The same inputs and the same seed give the same duties.
//!
//! *Absent.* Clocks, disks, sockets, threads.
//!
//! *Contract.* `raft.go`, `log.go`, `log_unstable.go`, `rawnode.go` of go.etcd.io/raft v3.7.0.

mod confchange;
mod config;
mod core;
mod duties;
mod election;
mod follow;
mod inflights;
mod log;
mod membership;
mod message;
mod progress;
mod propose;
pub mod quorum;
mod read;
mod replicate;
mod step;
mod tracker;
mod transfer;

pub use confchange::ConfChangeError;
pub use config::{Config, ConfigError, ReadMode, Restored};
pub use core::{Raft, Role, Status};
pub use duties::{Append, AppendReceipt, Duties, ReadState, SoftState};
pub use inflights::Inflights;
pub use log::{Log, Position};
pub use progress::{Progress, ProgressState};
pub use propose::ProposeError;
pub use step::StepError;
pub use tracker::{Configuration, Tracker};
