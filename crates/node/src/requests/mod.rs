//! What every request means before and after consensus: how it is checked, what it is refused
//! with, how a stream of watchers or keepalives behaves.
//!
//! Whoever speaks to clients (gRPC, gateway, simulator) decodes, calls these, and encodes; it adds
//! no semantics.
//!
//! *Absent.* Sockets, threads, clocks, and the order of effects (`crate::node`).

pub mod check;
pub mod compactor;
pub mod corrupt;
pub mod error;
pub mod lease;
pub mod membership;
pub mod versions;
pub mod watch;

pub use error::{Code, Rejected};
