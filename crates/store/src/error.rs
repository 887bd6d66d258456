//! What can go wrong, by who must act.

use base::{LogIndex, Revision};
use bytes::Bytes;
use storage::bolt;
use thiserror::Error;

use crate::backend::ScanError;
use crate::mvcc::RevKey;
use crate::schema;

/// A deterministic outcome of a request: part of the replicated state, without an I/O cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("key not found")]
    KeyNotFound,
    /// A lease that does not exist.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A grant of a lease that exists.
    #[error("lease already exists")]
    LeaseExists,
    /// A grant of a lease that would live too long.
    #[error("too large lease TTL")]
    TtlTooLarge,
    /// A revision below the newest compaction.
    #[error("required revision has been compacted")]
    Compacted,
    /// A revision that is not written yet.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// An alarm, or the quota of this member, forbids what takes space.
    #[error("database space exceeded")]
    NoSpace,
    /// An alarm says that members disagree.
    #[error("corrupt cluster")]
    Corrupt,
    /// An alarm action that etcd does not know (and dies of).
    #[error("unknown alarm action")]
    InvalidAlarmAction,
}

/// Why a conf change had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConfChangeError {
    /// The member was removed once.
    #[error("membership: ID removed")]
    IdRemoved,
    /// The member is there.
    #[error("membership: ID exists")]
    IdExists,
    /// The member is not there.
    #[error("membership: ID not found")]
    IdNotFound,
    /// Another member has one of the peer URLs.
    #[error("membership: peerURL exists")]
    PeerUrlExists,
    /// The member to promote has a vote.
    #[error("membership: can only promote a learner member")]
    NotLearner,
    /// There would be more learners than this member allows.
    #[error("membership: too many learner members in cluster")]
    TooManyLearners,
    /// Nobody would be left to vote.
    #[error("membership: the last voter cannot be removed")]
    LastVoter,
}

/// A read cannot be answered.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The revision lies below the newest compaction.
    #[error("required revision has been compacted")]
    Compacted,
    /// The revision is not written yet.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// The database cannot be read, or does not hold what the index says: stop the process.
    #[error(transparent)]
    Damaged(#[from] Damage),
}

/// The database cannot be read or contradicts itself.
#[derive(Debug, Error)]
pub enum Damage {
    /// Reading failed.
    #[error(transparent)]
    Database(#[from] bolt::Error),
    /// A row key in bucket `key` is not a revision.
    #[error("bucket key holds a row that is not named by a revision: {0:?}")]
    RowName(Bytes),
    /// The index names a row that is not there.
    #[error("bucket key lacks row {0}, which the index names")]
    RowMissing(RevKey),
    /// A row is not a key-value message.
    #[error("bucket key, row {0}: not a key-value message")]
    RowMalformed(RevKey),
    /// A row says something else than a put or a delete at its revision says.
    #[error("bucket key, row {0}: the row is not of this revision, or has no key")]
    RowContradicts(RevKey),
    /// A row has the name of the one before it, or should stand before that.
    #[error("bucket key, row {0}: the row does not come after the one before it")]
    RowOrder(RevKey),
    /// Another row cannot be read.
    #[error("bucket {bucket}, row {}: {what}", row.escape_ascii())]
    Row {
        /// The bucket.
        bucket: String,
        /// The row's key.
        row: Bytes,
        /// What is wrong.
        what: String,
    },
}

impl Damage {
    pub(crate) fn row(bucket: &[u8], row: &[u8], what: impl Into<String>) -> Self {
        Self::Row {
            bucket: bucket.escape_ascii().to_string(),
            row: Bytes::copy_from_slice(row),
            what: what.into(),
        }
    }

    /// The same with the file and the place in it, where the row is still there.
    pub(crate) fn placed(self, database: &bolt::View) -> Self {
        let placed =
            |bucket: &[u8], row: &[u8]| database.damaged_row(bucket, row, self.to_string());
        let found = match &self {
            Self::RowName(name) => placed(schema::KEY, name),
            Self::RowMalformed(at) | Self::RowContradicts(at) | Self::RowOrder(at) => {
                match placed(schema::KEY, at.encode(false).as_ref()) {
                    Ok(None) => placed(schema::KEY, at.encode(true).as_ref()),
                    found => found,
                }
            }
            Self::Row { bucket, row, .. } => placed(bucket.as_bytes(), row),
            Self::Database(_) | Self::RowMissing(_) => Ok(None),
        };
        match found {
            Ok(Some(error)) | Err(error) => Self::Database(error),
            Ok(None) => self,
        }
    }
}

impl From<ScanError> for Damage {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Database(error) => Self::Database(error),
            ScanError::Name(name) => Self::RowName(name),
        }
    }
}

impl From<bolt::Error> for ReadError {
    fn from(error: bolt::Error) -> Self {
        Self::Damaged(error.into())
    }
}

impl From<ScanError> for ReadError {
    fn from(error: ScanError) -> Self {
        Self::Damaged(error.into())
    }
}

impl From<crate::mvcc::index::Compacted> for ReadError {
    fn from(_: crate::mvcc::index::Compacted) -> Self {
        Self::Compacted
    }
}

/// Applying cannot go on: say so and stop the process. One line.
#[derive(Debug, Error)]
pub enum Fatal {
    /// An entry of the log cannot be applied.
    #[error("log entry {index}: {what}")]
    Entry {
        /// Its position.
        index: LogIndex,
        /// What is wrong with it.
        what: String,
    },
    /// The database cannot be read or contradicts itself.
    #[error("database: {0}")]
    Damaged(#[from] Damage),
    /// A read that applying needs failed in a way that validation should have caught.
    #[error("log entry {index}: {source}")]
    Read {
        /// The entry.
        index: LogIndex,
        /// What failed.
        source: ReadError,
    },
}

/// The database cannot be served. One line.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Authentication is on, and not built yet.
    #[error(
        "the database has authentication enabled, which this version cannot serve; disable it \
         with etcd (etcdctl auth disable) first"
    )]
    AuthEnabled,
    /// The cluster, or the rows, are of a version that is not understood.
    #[error("{what} version {found} in the database is higher than this server's {own}")]
    Version {
        /// Which version.
        what: &'static str,
        /// What the database says.
        found: String,
        /// What the server is.
        own: String,
    },
    /// A database that was to take the place of a newer state.
    #[error(
        "the received database (entry {entry}, revision {revision}) is older than this member's \
         state (entry {own_entry}, revision {own_revision})"
    )]
    Backwards {
        /// The last entry it has.
        entry: LogIndex,
        /// Its newest revision.
        revision: Revision,
        /// The last entry that is applied.
        own_entry: LogIndex,
        /// The newest revision here.
        own_revision: Revision,
    },
    /// The database cannot be read or contradicts itself.
    #[error("database: {0}")]
    Damaged(#[from] Damage),
}

impl From<bolt::Error> for OpenError {
    fn from(error: bolt::Error) -> Self {
        Self::Damaged(error.into())
    }
}

impl From<ScanError> for OpenError {
    fn from(error: ScanError) -> Self {
        Self::Damaged(error.into())
    }
}
