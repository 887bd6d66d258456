//! Decides what a member does next: takes an [`Input`], yields [`Effects`].
//!
//! ```text
//!   proposals, reads, ticks ──► Node::handle ──► Raft          receipts ◄──────────┐
//!                                    │                                             │
//!                         Node::take_effects ──► log ────► LogWorker    ───────────┤
//!                                           ├──► apply ──► ApplyWorker  ───────────┤
//!                                           ├──► commit ─► CommitWorker ───────────┘
//!                                           ├──► send ───► peers
//!                                           └──► answers ► whoever waits
//! ```
//!
//! A lane is first in, first out; lanes interleave freely. A dependency across lanes is an effect
//! that is withheld here until the receipt of another has come, and nothing else.
//!
//! *Invariants.* See [`node`] for the order on disk.
//!
//! *Absent.* Clocks, threads, files, sockets: time is an argument, receipts come when they come.

mod commits;
mod effect;
mod handover;
mod held;
mod input;
mod leader;
pub mod node;
mod reads;
pub mod requests;
mod state;

pub use commits::CommitPace;
pub use effect::{Answer, ApplyEffect, CommitEffect, Effects, LogEffect, SendSnapshot};
pub use input::{ApplyReceipt, CommitReceipt, Input, LogReceipt, Pending, Ticket};
pub use leader::VERSIONS_INTERVAL;
pub use node::{Node, NodeConfig, Progress, Sent, Started, Status};
pub use state::State;
