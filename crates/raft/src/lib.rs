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
//! A follower that needs what was compacted is sent a `MsgSnap` that says where the newest snapshot
//! stands; its state is for the caller to add, who may as well replace it by a newer one, and who
//! reports how the transmission ended. A snapshot from the leader comes as [`Append::snapshot`];
//! after its receipt the caller puts the state in place, and says so as for entries.
//!
//! *Invariants.*
//! 1. first - 1 = base <= applied <= applying <= committed <= last, and applying <= stable <=
//!    taken <= last. A snapshot from the leader lifts base, committed and stable first, applying
//!    when it is on disk, applied when its state is in place.
//! 2. An entry is handed out to be applied only when it is stable in the member's own log.
//! 3. The same inputs and the same seed give the same duties.
//! 4. No message brings a member down: what contradicts itself is refused.
//!
//! *Absent.* Clocks, disks, sockets, threads.
//!
//! *Contract.* go.etcd.io/raft v3.7.0, whose own scripts are run against this crate. We differ
//! where it is unsafe or gets stuck: a sole voter answers reads only after its first commit, a
//! leader that stepped down forgets the reads that waited, a proposal refused for its size leaves
//! no trace, and a change of the configuration that could not be applied is replaced by an empty
//! entry.

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
