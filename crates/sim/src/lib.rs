//! Runs whole clusters in one thread from one seed, and believes nothing.
//!
//! ```text
//!  seed ─► Plan ─► World ─► members (node, workers, store, storage on faulty disks)
//!                    │  ├─► links (the peer codec on a network that fails)
//!                    │  └─► clients (callers, watchers, keepers, through node::requests)
//!                    └────► History ─► checkers ─► Report
//! ```
//!
//! *Invariants.* 1. The same seed gives the same run, event for event. 2. Members run the code that
//! the server runs; what differs is who calls it, and when.
//!
//! *Absent.* Sockets, threads, the wall clock (but for the runner, which stops in time), gRPC and
//! HTTP: `compat/` has those.

mod agenda;
pub mod checkers;
mod clients;
mod clock;
pub mod coverage;
mod digest;
pub mod history;
mod links;
mod member;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod plan;
pub mod run;
pub mod runner;
pub mod scenarios;
pub mod tally;
pub mod world;
