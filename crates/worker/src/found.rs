//! What is in a data directory, looked at and judged before anything of it is changed.
//!
//! *Invariants.*
//! 1. Nothing here writes, but for [`Found::take`], which is called when all has been judged.
//! 2. A member is made only where no member has been.
//!
//! *Contract.* Stricter than `bootstrap` of `server/etcdserver/bootstrap.go` of etcd v3.7.1, which
//! makes a log beside whatever database it finds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{ClusterId, LogIndex, MemberId};
use proto::etcdserverpb::Metadata;
use proto::raftpb::Entry;
use proto::walpb;
use storage::bolt::{self, Database};
use storage::datadir::DataDir;
use storage::disk::{Disk, Open};
use storage::wal::{self, Locked};
use store::Store;

use crate::bootstrap::{FileOptions, Identity, StartError, directory};

/// The database that a member begins with.
pub(crate) enum Found {
    /// It is in its place, with the last entry it has.
    There(Box<Database>, LogIndex),
    /// There is none: the log has everything.
    Missing,
    /// One that was received with the snapshot at which the log begins is to take the place of
    /// what has less.
    Received { path: PathBuf, view: bolt::View, index: LogIndex, replaces: LogIndex },
}

impl Found {
    /// Looks for it, and changes nothing.
    pub(crate) fn look(
        disk: &Arc<dyn Disk>,
        dir: &DataDir,
        options: &FileOptions,
        snapshot: LogIndex,
    ) -> Result<Self, StartError> {
        let path = dir.database();
        let mut replaces = LogIndex(0);
        if has_bytes(&**disk, &path)? {
            let database = Database::open(&**disk, &path, options.database)?;
            replaces = Store::consistent_index(&database.view())?;
            if replaces >= snapshot {
                return Ok(Self::There(Box::new(database), replaces));
            }
        } else if snapshot == LogIndex(0) {
            return Ok(Self::Missing);
        }
        let path = dir.received(snapshot);
        let behind = |database| StartError::DatabaseBehind { database, snapshot };
        if !disk.exists(&path).map_err(directory(&path, "read"))? {
            return Err(behind(replaces));
        }
        let view = bolt::View::open(&**disk, &path, options.database.cache_bytes)?;
        let index = Store::consistent_index(&view)?;
        if index < snapshot {
            return Err(behind(index));
        }
        Ok(Self::Received { path, view, index, replaces })
    }

    /// The last entry that the database has.
    pub(crate) const fn index(&self) -> LogIndex {
        match self {
            Self::There(_, index) | Self::Received { index, .. } => *index,
            Self::Missing => LogIndex(0),
        }
    }

    /// What is in it, to be judged.
    pub(crate) fn view(&self) -> Option<bolt::View> {
        match self {
            Self::There(database, _) => Some(database.view()),
            Self::Received { view, .. } => Some(view.clone()),
            Self::Missing => None,
        }
    }

    /// The last entry of the one that loses its place.
    pub(crate) const fn replaces(&self) -> Option<LogIndex> {
        match self {
            Self::Received { replaces, .. } => Some(*replaces),
            Self::There(..) | Self::Missing => None,
        }
    }

    /// Opens it in its place, when the log that it goes with is durable and no view of it is left.
    pub(crate) fn take(
        self,
        disk: &Arc<dyn Disk>,
        dir: &DataDir,
        options: &FileOptions,
    ) -> Result<Database, StartError> {
        match self {
            Self::There(database, _) => return Ok(*database),
            Self::Missing => {
                dir.create(&**disk).map_err(directory(dir.root(), "create the data directory"))?;
            }
            Self::Received { path, view, .. } => {
                drop(view);
                let renamed = disk.rename(&path, &dir.database());
                renamed.map_err(directory(&path, "rename"))?;
                disk.sync_dir(&dir.snap()).map_err(directory(dir.snap(), "sync"))?;
            }
        }
        Ok(Database::open(&**disk, &dir.database(), options.database)?)
    }
}

/// Whether there is a file with something in it. An empty one is what a creation left.
fn has_bytes(disk: &dyn Disk, path: &Path) -> Result<bool, StartError> {
    if !disk.exists(path).map_err(directory(path, "read"))? {
        return Ok(false);
    }
    let file = disk.open(path, Open::Read).map_err(directory(path, "open"))?;
    Ok(file.len().map_err(directory(path, "measure"))? > 0)
}

/// Says whose log it is, and refuses one that does not go with a database that has the entries up
/// to `database`, or that only etcd can apply.
pub(crate) fn judge_log(
    dir: &DataDir,
    log: &Locked,
    at: &walpb::Snapshot,
    database: LogIndex,
) -> Result<Identity, StartError> {
    let metadata: Metadata = proto::decode(log.metadata().clone()).map_err(StartError::Metadata)?;
    let last = LogIndex(log.entries().last().map_or(at.index(), Entry::index));
    if database > last {
        return Err(StartError::LogBehind { dir: dir.wal().into(), last, database });
    }
    let commit = log.hard_state().commit();
    for entry in log.entries().iter().take_while(|entry| entry.index() <= commit) {
        Store::check(entry, database)?;
    }
    Ok(Identity { member: MemberId(metadata.node_id()), cluster: ClusterId(metadata.cluster_id()) })
}

/// The last entry that the database has, if there is one with something in it. Not all of it is
/// read.
pub(crate) fn last_entry(
    disk: &dyn Disk,
    dir: &DataDir,
    options: &FileOptions,
) -> Result<Option<LogIndex>, StartError> {
    let database = dir.database();
    if !has_bytes(disk, &database)? {
        return Ok(None);
    }
    let view = bolt::View::glance(disk, &database, options.database.cache_bytes)?;
    Ok(Some(Store::consistent_index(&view)?))
}

/// Refuses to make a member where the data of one is, whose log was lost or is elsewhere: the new
/// log would begin at the first entry, and give other entries the numbers of those in the database.
/// (etcd does, and serves the old data as the new cluster's.) etcd makes the database before the
/// log, so one that no entry has changed is none.
pub fn check_new(disk: &dyn Disk, dir: &DataDir, options: &FileOptions) -> Result<(), StartError> {
    wal::check_own(disk, dir.wal())?;
    wal::check_own(disk, &wal::temporary_dir(dir.wal()))?;
    let missing = |found| StartError::LogMissing { dir: dir.wal().into(), found };
    let database = dir.database();
    match last_entry(disk, dir, options)? {
        None => {}
        // It is opened as soon as the log is made, so it must be whole.
        Some(LogIndex(0)) => {
            bolt::View::open(disk, &database, options.database.cache_bytes)?;
        }
        Some(index) => {
            return Err(missing(format!("{} with entry {index}", database.display())));
        }
    }
    match dir.some_snapshot(disk).map_err(directory(dir.snap(), "read"))? {
        Some(path) => Err(missing(path.display().to_string())),
        None => Ok(()),
    }
}
