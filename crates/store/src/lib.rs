//! Applies committed requests to the replicated state, deterministically.
//!
//! ```text
//!  entries ─► Store::apply ─► tables ─► freeze ─► (a batch for the database)
//!                 │
//!                 └─► Shared: views, leases, watchers, members, alarms ─► readers
//! ```
//!
//! *Invariants.* The same entries on the same state give the same rows, byte for byte, on every
//! member, ours or etcd's. Time is an argument; there is no randomness, no thread, no I/O beside
//! reads through a database view.

pub mod alarm;
pub mod apply;
mod backend;
pub mod error;
pub mod identity;
pub mod lease;
mod legacy;
mod load;
pub mod membership;
pub mod mvcc;
mod operation;
pub mod quota;
pub mod schema;
mod shared;
mod store;
mod version;
pub mod watch;

pub use apply::{Applied, ConfChanged, Response};
pub use error::{ApplyError, ConfChangeError, Damage, Fatal, OpenError, ReadError};
pub use load::history;
pub use membership::{Downgrade, Member};
pub use mvcc::{
    Change, HashKv, IndexSize, RangeChunk, RangeSummary, Resume, RevKey, Swept, TxnError, View,
    is_read_only, read_txn,
};
pub use operation::{Counts, Operation};
pub use shared::Shared;
pub use store::{Frozen, Store, StoreOptions};
pub use version::Version;
