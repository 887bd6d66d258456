//! What can go wrong with the database file, in one line each that names file and place.

use std::io;
use std::path::PathBuf;

/// A failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action} at byte {offset}: {source}", file.display())]
    Io {
        /// The database file.
        file: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Where in the file.
        offset: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// The bytes of the file are not a database, or not any more.
    #[error("{}: damaged at byte {offset}: {what}; {}", file.display(), crate::REMEDY)]
    Corrupt {
        /// The database file.
        file: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What stands there, and what should.
        what: String,
    },
    /// Another process holds the file.
    #[error("{}: the database is in use by another process", file.display())]
    Locked {
        /// The database file.
        file: PathBuf,
    },
    /// An earlier write or sync failed; what the file holds beyond the last commit is unknown.
    #[error(
        "{}: closed since a commit failed ({first}); restart to go on from the last durable one",
        file.display()
    )]
    Poisoned {
        /// The database file.
        file: PathBuf,
        /// The first failure.
        first: String,
    },
    /// A batch writes to a bucket that neither exists nor is created by it.
    #[error("bucket {bucket:?} does not exist")]
    NoBucket {
        /// The bucket's name.
        bucket: String,
    },
    /// A batch writes a row where a nested bucket is, or the other way round.
    #[error("key {key:?} is a nested bucket, not a row")]
    Incompatible {
        /// The key.
        key: String,
    },
    /// A key is empty or longer than the format allows.
    #[error("a key of {0} bytes is not between 1 and 32768")]
    KeyLength(usize),
    /// A value is longer than the format allows.
    #[error("a value of {0} bytes is longer than 2147483646")]
    ValueLength(usize),
}

impl Error {
    /// What is damaged and where, without what to do: nothing needs to be done about a meta page
    /// when the other one is whole.
    pub fn finding(&self) -> String {
        match self {
            Self::Corrupt { file, offset, what } => {
                format!("{}: damaged at byte {offset}: {what}", file.display())
            }
            other => other.to_string(),
        }
    }

    /// Whether the disk or the data is at fault, so that the process must stop; otherwise the
    /// batch was wrong and the database goes on unchanged.
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Corrupt { .. } | Self::Poisoned { .. })
    }
}
