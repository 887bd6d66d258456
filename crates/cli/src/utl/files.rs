//! Opens what a command works on, and says in one line why that is not possible.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use storage::bolt::{self, Database, View};
use storage::disk::Real;

use super::fail;
use crate::command::{Arg, Call};
use crate::failure::{Failure, Outcome};
use crate::go;

/// How often a lock that another process holds is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Pages of a file that is read through once.
const CACHE_BYTES: usize = 16 << 20;

/// An argument or the value of a flag as a path.
pub(super) fn path(word: &Arg) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    PathBuf::from(std::ffi::OsString::from_vec(word.clone()))
}

/// Fails in Go's words unless there is such a file or directory.
pub(super) fn check_exists(path: &Path) -> Outcome {
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(fail(format!("stat {}: {}", path.display(), go::os_error(&error)))),
    }
}

/// Opens a database to read it. A file that is damaged is told as that, and nothing more: what to
/// do depends on where else there is a copy.
pub(super) fn open_to_read(call: &Call, path: &Path) -> Outcome<View> {
    try_to_read(call, path).map_err(damage)
}

/// The same for a caller to whom it matters why that is not possible.
pub(super) fn try_to_read(call: &Call, path: &Path) -> Result<View, bolt::Error> {
    with_lock(call, || View::open(&Real, path, CACHE_BYTES))
}

/// Opens the copy of a database to read it. What is damaged is told of the file it is a copy of.
pub(super) fn open_copy(path: &Path, of: &Path) -> Outcome<View> {
    View::open_copy(&Real, path, of, CACHE_BYTES).map_err(damage)
}

/// Takes the lock with which a file is read: until it is closed nobody writes it.
pub(super) fn lock_to_read(call: &Call, file: &File, path: &Path) -> Outcome {
    let lock = || match file.try_lock_shared() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(bolt::Error::Locked { file: path.into() }),
        Err(TryLockError::Error(source)) => {
            Err(bolt::Error::Io { file: path.into(), action: "lock", offset: 0, source })
        }
    };
    with_lock(call, lock).map_err(damage)
}

/// Opens a database to change it. One without bytes is none: a member may make one of it.
pub(super) fn open_to_write(call: &Call, path: &Path) -> Result<Database, bolt::Error> {
    if std::fs::metadata(path).is_ok_and(|found| found.len() == 0) {
        let what = "the file is empty".to_owned();
        return Err(bolt::Error::Corrupt { file: path.into(), offset: 0, what });
    }
    with_lock(call, || Database::open(&Real, path, bolt::Options::default()))
}

/// What the database says, as a failure.
pub(super) fn damage(error: bolt::Error) -> Failure {
    fail(error.finding())
}

/// Tries until nobody else has the lock, or `--timeout` is over.
fn with_lock<T>(call: &Call, open: impl Fn() -> Result<T, bolt::Error>) -> Result<T, bolt::Error> {
    let patience = call.values.duration("timeout");
    let start = Instant::now();
    loop {
        match open() {
            Err(bolt::Error::Locked { .. }) if patience.is_zero() || start.elapsed() < patience => {
                std::thread::sleep(LOCK_RETRY);
            }
            opened => return opened,
        }
    }
}
