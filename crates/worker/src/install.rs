//! A database received from a leader: looked at before the consensus hears of it, and put into the
//! place of the one that was there.
//!
//! ```text
//!  tmp* ─► verify_received ─► %016x.snap.db ─► raft ─► log: .snap, record, hard state, sync
//!   (synced)                                                            └─► put_in_place = db
//! ```
//!
//! *Invariants.*
//! 1. A received database takes the place of the other only when the log says so: a member that
//!    is stopped in between finds the one or the other when it starts (see [`crate::bootstrap`]).
//! 2. What was verified is what is installed: nobody writes to the file in between, or opens it
//!    under the name that will be moved.
//!
//! *Contract.* `OpenSnapshotBackend`, `RecoverSnapshotBackend` of `server/storage/backend.go` of
//! etcd v3.7.1, which verifies less.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::LogIndex;
use storage::bolt::{self, Database};
use storage::datadir::DataDir;
use storage::disk::Disk;
use store::Store;
use thiserror::Error;

/// Where a member's database is.
#[derive(Clone)]
pub struct Place {
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// The member's directory.
    pub dir: DataDir,
    /// How the database is opened.
    pub database: bolt::Options,
}

/// A received database cannot be used. One line.
#[derive(Debug, Error)]
pub enum ReceivedError {
    /// It is not there, cannot be read, or is damaged.
    #[error("received database: {0}")]
    Database(#[from] bolt::Error),
    /// It holds what this version cannot serve: refuse, and say so loudly.
    #[error("received database: {0}")]
    State(#[from] store::OpenError),
    /// It is of another point than its message says.
    #[error("received database: it has entry {found}, the snapshot is at {expected}")]
    Index {
        /// The last entry it has.
        found: LogIndex,
        /// The snapshot's index.
        expected: LogIndex,
    },
    /// It cannot be moved.
    #[error("received database: cannot {action} {}: {source}", path.display())]
    Move {
        /// Which file.
        path: PathBuf,
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

/// Memory for pages while a database is only looked at.
const VERIFY_CACHE_BYTES: usize = 4 << 20;

/// Walks over all of the database at `path`, received with the snapshot at `index` and not named
/// after it yet, and says whether it is whole, belongs to it, and can be served by a server of
/// that version. To be called before it gets its name, and that before
/// [`node::Input::SnapshotReceived`]: afterwards there is no way back. Takes as long as reading
/// the file.
pub fn verify_received(
    place: &Place,
    path: &Path,
    index: LogIndex,
    server_version: (u64, u64),
) -> Result<(), ReceivedError> {
    let failed = |action, source| ReceivedError::Move { path: path.to_owned(), action, source };
    match place.disk.exists(path) {
        Ok(true) => {}
        Ok(false) => return Err(failed("find", io::ErrorKind::NotFound.into())),
        Err(error) => return Err(failed("find", error)),
    }
    let options = bolt::Options { cache_bytes: VERIFY_CACHE_BYTES, ..place.database };
    let database = Database::open(&*place.disk, path, options)?;
    let found = Store::inspect(&database.view(), server_version)?;
    if found == index { Ok(()) } else { Err(ReceivedError::Index { found, expected: index }) }
}

/// Moves the database received with the snapshot at `index` into its place, durably, and opens it.
pub(crate) fn put_in_place(place: &Place, index: LogIndex) -> Result<Database, ReceivedError> {
    let (received, path) = (place.dir.received(index), place.dir.database());
    let failed = |path, action, source| ReceivedError::Move { path, action, source };
    let renamed = place.disk.rename(&received, &path);
    renamed.map_err(|source| failed(received, "rename", source))?;
    let snap = place.dir.snap();
    place.disk.sync_dir(&snap).map_err(|source| failed(snap, "sync", source))?;
    let database = Database::open(&*place.disk, &path, place.database)?;
    let found = Store::consistent_index(&database.view())?;
    if found == index { Ok(database) } else { Err(ReceivedError::Index { found, expected: index }) }
}
