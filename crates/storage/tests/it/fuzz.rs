//! Every file of a member, almost right: the log, snapshots, the database. How to run these for
//! longer, and a failure again: see the crate `fuzz`.
//!
//! *Invariants.* Each property begins with files that the writers of this crate, or etcd, have
//! made. Checksums are made right again in half of the inputs, so that what stands behind them is
//! reached too: rot does not do that, but nothing of a file may end the process.

mod bolt;
mod snap;
mod wal;
