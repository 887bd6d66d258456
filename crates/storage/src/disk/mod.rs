//! The one seam to the file system: bytes of named files, and the moments at which they are safe.
//!
//! Production uses [`Real`]; tests and the simulator use [`Faulty`], which keeps files in memory,
//! knows what has been synced, and can lose, tear or refuse the rest.
//!
//! *Invariants.*
//! 1. Bytes written are durable only after `sync_data` of the file; a created, renamed or removed
//!    name only after `sync_dir` of its directory.
//! 2. After a failed `sync_data` the file's unsynced bytes are undefined: the caller stops.
//!
//! *Absent.* Memory mapping, buffering, asynchronous I/O.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod faulty;
mod image;
mod real;

pub use faulty::Faulty;
pub use image::{Blob, Image};
pub use real::Real;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// For reading; the file must exist.
    Read,
    /// For reading and writing; the file must exist.
    Write,
    /// For reading and writing; the file is created when missing, kept when there (mode 0600).
    Create,
    /// For reading and writing; the file is created, or emptied when there (mode 0600).
    Truncate,
}

/// Which of etcd's two lock kinds guards a file. On Linux they do not exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lock {
    /// Open-file-description record lock over the whole file: WAL segments.
    Ofd,
    /// The same, shared with others that only read; the file need not be open for writing.
    OfdShared,
    /// `flock`: the database.
    Flock,
    /// The same, shared with others that only read.
    FlockShared,
}

/// A directory tree of files.
pub trait Disk: Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Creates a directory and its missing parents (mode 0700). Existing ones are kept.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted bytewise.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Whether a file or directory of that name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Renames a file or directory; an existing file of the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all it holds.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// An open file. Positioned reads and writes only; clones of the `Arc` share the descriptor.
pub trait File: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads at `offset` until `buffer` is full; `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// The first stretch from `offset` on that is known to have never been written, so that it is
    /// zero; empty, at the end of the file, when there is none or the file system cannot tell.
    fn unwritten(&self, offset: u64) -> io::Result<Range<u64>>;
    /// Writes all of `bytes` at `offset`, growing the file when needed.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros) to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves and extends to `len` bytes, so that writes below it cannot run out of space.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Makes written bytes and the length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Takes the lock; `WouldBlock` when another holder has it. Released with the last
    /// `Arc`.
    fn try_lock(&self, lock: Lock) -> io::Result<()>;
}
