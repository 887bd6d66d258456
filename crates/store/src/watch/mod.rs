//! Distributes changes to watchers.
//!
//! ```text
//!              ┌────────── synced: the hub matches and queues ◄──── subscribe() ───┐
//!  publish ──► Hub                                                                 │
//!              └── queue full ──► lagging, from revision r ──► reads history ──────┘
//!                                 (the stream's own task, in bounded slices)
//! ```
//!
//! *Invariants.*
//! 1. A subscription gets every matching change of a revision at or above its start, once, in the
//!    order of revisions, and all of one revision in one batch.
//! 2. A watcher is either subscribed or reads history; there is no third state. What a full queue
//!    could not take is named by its revision and read again.
//! 3. An event is encoded once, whoever watches.
//! 4. Publishing never waits for a watcher.
//!
//! *Absent.* Watch ids, responses, progress (crate `node`), tasks and sockets.
//!
//! *Contract.* `server/storage/mvcc/watchable_store.go` of etcd v3.7.1.

mod event;
mod hub;
mod intervals;
mod queue;

pub use event::{Filter, encode_event};
pub use hub::{Behind, Hub, SubscriptionId, Watched};
pub use queue::{Batch, Drained, Lagging, Queue};
