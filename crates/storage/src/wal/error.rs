//! What can go wrong, each in one line that names the file, the offset and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use base::{LogIndex, Term};

/// Why the log cannot be read or written. All of them are fatal to a running member.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// Bytes that no crash explains.
    #[error("{}: damaged at byte {offset}: {what}; {}", path.display(), crate::REMEDY)]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where the damaged record begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// Another process has the log open.
    #[error("{}: locked: another process uses this data directory", path.display())]
    Locked {
        /// The first segment whose lock is held.
        path: PathBuf,
    },
    /// A log is there already.
    #[error("{}: holds a log already", dir.display())]
    Exists {
        /// The directory of the log.
        dir: PathBuf,
    },
    /// A log is to be made where other files are.
    #[error(
        "{}: a log cannot be made here, where {} is: name a directory that is empty or not there",
        dir.display(),
        path.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The first thing in it that is not of a log.
        path: PathBuf,
    },
    /// The segments needed are not there.
    #[error(
        "{}: no segment holds the entry after snapshot index {index}; {}",
        dir.display(),
        crate::REMEDY
    )]
    NoSegment {
        /// The directory of the log.
        dir: PathBuf,
        /// The snapshot asked for.
        index: LogIndex,
    },
    /// A segment in the middle is missing.
    #[error(
        "{}: a segment is missing before this one, number {expected:016x}; {}",
        path.display(),
        crate::REMEDY
    )]
    MissingSegment {
        /// The segment after the missing one.
        path: PathBuf,
        /// The number of the missing one.
        expected: u64,
    },
    /// The snapshot to start from was never recorded.
    #[error(
        "{}: no record of the snapshot at index {index}, term {term}; {}",
        dir.display(),
        crate::REMEDY
    )]
    SnapshotNotFound {
        /// The directory of the log.
        dir: PathBuf,
        /// The index asked for.
        index: LogIndex,
        /// The term asked for.
        term: Term,
    },
    /// An earlier write or sync failed: what the file holds is unknown until it is read again.
    #[error("{}: stopped after an earlier failure of a write or sync", dir.display())]
    Stopped {
        /// The directory of the log.
        dir: PathBuf,
    },
}

impl Error {
    /// Whether the disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    pub(super) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, what: what.into() }
    }
}

/// Names the path and the action in an error of the system.
pub(super) trait Doing<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { path: path.to_owned(), action, source })
    }
}
