//! Turns files into typed durable structures: the write-ahead log, the database, snapshot files.
//!
//! Everything stands on one seam to the file system, [`disk`]; above it nothing names a path's
//! parent, a file descriptor or `std::fs`.

pub mod bolt;
pub mod datadir;
pub mod disk;
pub mod snap;
pub mod wal;
