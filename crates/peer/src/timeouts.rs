//! How long the other end of a connection may stand still.
//!
//! *Invariants.* Both are never below [`limits::CONNECTION_TIMEOUT`]: other members say that they
//! live as often as that asks for. As in etcd they are the process's, set once before it speaks.
//!
//! *Contract.* `ConnReadTimeout` and `ConnWriteTimeout` of `rafthttp` of etcd v3.7.1.

use std::sync::OnceLock;
use std::time::Duration;

use crate::limits;

static READ: OnceLock<Duration> = OnceLock::new();
static WRITE: OnceLock<Duration> = OnceLock::new();

/// Sets how long a member may give nothing and take nothing, if that is longer than by default.
/// Only the first call counts.
pub fn set_connection_timeouts(read: Duration, write: Duration) {
    let _first = READ.set(read.max(limits::CONNECTION_TIMEOUT));
    let _first = WRITE.set(write.max(limits::CONNECTION_TIMEOUT));
}

/// How long a member may give nothing.
pub(crate) fn read() -> Duration {
    READ.get().copied().unwrap_or(limits::CONNECTION_TIMEOUT)
}

/// How long a member may take nothing.
pub(crate) fn write() -> Duration {
    WRITE.get().copied().unwrap_or(limits::CONNECTION_TIMEOUT)
}
