//! Turns files into typed durable structures: the write-ahead log, the database, snapshot files.
//!
//! Everything stands on one seam to the file system, [`disk`]; above it nothing names a path's
//! parent, a file descriptor or `std::fs`.

/// What an operator can do about damage: every line that tells of some ends with it.
pub const REMEDY: &str = "restore the member from a snapshot or a copy, or replace it";

pub mod bolt;
pub mod datadir;
pub mod disk;
pub mod snap;
pub mod wal;
