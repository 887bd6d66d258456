//! Keys with all their revisions: the index in memory, the rows in tables and the database, and
//! views of both that do not change.
//!
//! ```text
//!  writer ── put, delete ──► index (revisions by key) ──┐
//!    │                       tables (rows by revision) ─┼─► View { revision, compacted } ──► reads
//!    └── whole entry done: publish the next View ───────┘
//! ```
//!
//! *Invariants.*
//! 1. `compacted <= revision`; a read at `r` is answered for `compacted <= r <= revision`.
//! 2. A view is published after a whole entry: no reader sees half a transaction.
//! 3. What a view of revision `r` shows does not change while it lives; when a compaction above
//!    `r` has begun, reads through the index say so instead of answering.
//!
//! *Contract.* `server/storage/mvcc` and `server/etcdserver/txn` of etcd v3.7.1.

pub mod revision;

mod chunk;
pub(crate) mod compact;
mod hash;
pub(crate) mod index;
pub(crate) mod key_index;
mod range;
pub(crate) mod row;
pub(crate) mod txn;
mod view;
pub(crate) mod write;

pub use compact::Swept;
pub use hash::{HashCache, HashKv};
pub use index::IndexSize;
pub use range::{RangeChunk, RangeSummary, Resume};
pub use revision::RevKey;
pub use row::Parts;
pub use txn::{TxnError, is_read_only, read_txn};
pub use view::{Change, View};

pub(crate) use view::Core;
