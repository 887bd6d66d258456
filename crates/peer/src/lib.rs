//! Speaks rafthttp with other members; its codec and connection state are sans-I/O, the sockets
//! are a thin shell.
//!
//! ```text
//!            send ──► outlet ──► body of an answer ──► other member       (it dials, we write)
//!                ├──► pipeline ──► POST /raft ───────► other member       (no stream yet)
//!                └──► snapshot ──► POST /raft/snapshot
//!
//!  Handler ◄── reader ◄── codec ◄── body of an answer ◄── other member    (we dial, it writes)
//!          ◄── serve  ◄── POST /raft, POST /raft/snapshot
//! ```
//!
//! *Invariants.* 1. Nothing here waits for another member with a caller in hand: `send` returns at
//! once, and what does not fit is dropped and told to raft. 2. Every queue, buffer and wait has
//! its bound in [`limits`]. 3. Bytes of others are parsed; none can crash or bloat this process.
//!
//! *Absent.* The rules of TLS (`net`'s; see [`net::Dialer`]), log lines (see [`Event`]), files (see
//! [`SnapshotBody`]), and what members ask of each other beside raft on the serving side: that is
//! `server`'s.
//!
//! *Contract.* `server/etcdserver/api/rafthttp` of etcd v3.7.1.

pub mod client;
pub mod codec;
mod dial;
mod event;
#[cfg(test)]
mod fuzz;
mod handler;
pub mod limits;
mod serve;
mod snapshot;
mod status;
mod timeouts;
mod transport;
mod version;

mod call;
mod core;
mod local;
mod outlet;
mod peer;
mod pipeline;
mod probing;
mod reader;
mod sending;
mod writer;

pub use client::Client;
pub use dial::{BoxFuture, Connection, Dial, WriteDeadline};
pub use event::{Event, Level, Value};
pub use handler::{Handler, ReceiveError, SnapshotReader};
pub use serve::Body;
pub use snapshot::SnapshotBody;
pub use status::{Histogram, PeerFigures};
pub use timeouts::set_connection_timeouts;
pub use transport::{Transport, TransportConfig};
pub use version::{Version, VersionError};
