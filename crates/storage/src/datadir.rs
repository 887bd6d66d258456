//! Where a member keeps its files, exactly as etcd does.
//!
//! ```text
//! <data-dir>/member/wal/%016x-%016x.wal        segments of the log: number, first index
//!                       0.tmp, 1.tmp           the next segment
//!                       *.broken               copies of torn segments
//!            member/wal.tmp/                   a log being created
//!            member/snap/db                    the database
//!                        %016x-%016x.snap      snapshots of raft: term, index
//!                        %016x.snap.db         a database received: index
//!                        db.tmp*, tmp*         left over from a defragmentation or a transfer
//! ```
//!
//! *Contract.* `server/storage/datadir` of etcd v3.7.1.

use std::io;
use std::path::{Path, PathBuf};

use base::LogIndex;

use crate::disk::Disk;
use crate::wal;

/// The paths of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir {
    root: PathBuf,
    wal: PathBuf,
}

impl DataDir {
    /// The layout below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let wal = root.join("member").join("wal");
        Self { root, wal }
    }

    /// The same, with the log elsewhere (`--wal-dir`).
    pub fn with_wal(self, wal: impl Into<PathBuf>) -> Self {
        Self { wal: wal.into(), ..self }
    }

    /// The directory that the operator named.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Everything of a member but a log elsewhere.
    pub fn member(&self) -> PathBuf {
        self.root.join("member")
    }

    /// The segments of the log.
    pub fn wal(&self) -> &Path {
        &self.wal
    }

    /// The database and the snapshots.
    pub fn snap(&self) -> PathBuf {
        self.member().join("snap")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.snap().join("db")
    }

    /// A database received with the snapshot at `index`, to become the database.
    pub fn received(&self, index: LogIndex) -> PathBuf {
        self.snap().join(format!("{:016x}.snap.db", index.0))
    }

    /// Whether a member has been here: there is a log.
    pub fn is_initialized(&self, disk: &dyn Disk) -> io::Result<bool> {
        wal::exists(disk, &self.wal)
    }

    /// A snapshot, or a database received with one: nobody has them who has no log.
    pub fn some_snapshot(&self, disk: &dyn Disk) -> io::Result<Option<PathBuf>> {
        let snap = self.snap();
        if !disk.exists(&snap)? {
            return Ok(None);
        }
        let is_one = |name: &PathBuf| {
            let text = name.to_string_lossy();
            text.ends_with(".snap") || text.ends_with(".snap.db")
        };
        Ok(disk.list(&snap)?.into_iter().find(is_one).map(|name| snap.join(name)))
    }

    /// Creates what is missing of the directories, but not that of the log, and makes their names
    /// durable: before there is a log also those that were there, since a process that was killed
    /// may have made them just before.
    pub fn create(&self, disk: &dyn Disk) -> io::Result<()> {
        let is_new = !self.is_initialized(disk)?;
        create_durably(disk, &self.snap(), is_new)?;
        match self.wal.parent() {
            Some(parent) => create_durably(disk, parent, is_new),
            None => Ok(()),
        }
    }

    /// Removes what an interrupted creation, defragmentation or transfer left, and returns it. What
    /// has the name of an unfinished log and holds something else stays.
    pub fn remove_leftovers(&self, disk: &dyn Disk) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        let unfinished = wal::temporary_dir(&self.wal);
        // Beside a log elsewhere the name may be another's.
        if disk.exists(&unfinished)? && wal::stranger(disk, &unfinished)?.is_none() {
            disk.remove_dir_all(&unfinished)?;
            removed.push(unfinished);
        }
        let snap = self.snap();
        if disk.exists(&snap)? {
            for name in disk.list(&snap)? {
                let text = name.to_string_lossy();
                if text.starts_with("db.tmp") || text.starts_with("tmp") {
                    let path = snap.join(&name);
                    disk.remove(&path)?;
                    removed.push(path);
                }
            }
        }
        Ok(removed)
    }
}

/// Creates a directory with its parents; the name of each new one is durable on return, and with
/// `all` that of each that was there, as far as this process may see to it.
fn create_durably(disk: &dyn Disk, path: &Path, all: bool) -> io::Result<()> {
    let mut names = Vec::new();
    for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        let is_there = disk.exists(ancestor)?;
        if is_there && !all {
            break;
        }
        names.push((ancestor, is_there));
    }
    disk.create_dir_all(path)?;
    for (name, was_there) in names.into_iter().rev() {
        let synced = match name.parent() {
            Some(parent) if parent.as_os_str().is_empty() => disk.sync_dir(Path::new(".")),
            Some(parent) => disk.sync_dir(parent),
            None => Ok(()),
        };
        match synced {
            // The parent may be another's, and closed to us; then so was the making of the name.
            Err(error) if was_there && error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base::Rng;

    use super::*;
    use crate::disk::{Faulty, Open};

    #[test]
    fn paths_are_etcds() {
        let dir = DataDir::new("/d");
        assert_eq!(dir.wal(), Path::new("/d/member/wal"));
        assert_eq!(dir.database(), Path::new("/d/member/snap/db"));
        let received = dir.received(LogIndex(0x1f));
        assert_eq!(received, Path::new("/d/member/snap/000000000000001f.snap.db"));
        assert_eq!(dir.with_wal("/w").wal(), Path::new("/w"));
    }

    #[test]
    fn directories_are_durable_when_made() {
        let disk = Faulty::new(0);
        let dir = DataDir::new("/a/b").with_wal("/elsewhere/wal");
        dir.create(&disk).unwrap();
        let image = disk.image(&mut Rng::new(0));
        let expected = ["/a", "/a/b", "/a/b/member", "/a/b/member/snap", "/elsewhere"];
        assert_eq!(image.directories, expected.map(PathBuf::from));
        assert!(!dir.is_initialized(&disk).unwrap());
        dir.create(&disk).unwrap();
    }

    #[test]
    fn directories_that_a_killed_process_made_become_durable() {
        let dir = DataDir::new("/a/b");
        let expected = ["/a", "/a/b", "/a/b/member", "/a/b/member/snap"];
        for killed_at in 0..8 {
            let disk = Faulty::new(0);
            disk.crash_at(killed_at);
            assert!(dir.create(&disk).is_err());
            disk.restart();
            dir.create(&disk).unwrap();
            for draw in 0..8 {
                let image = disk.image(&mut Rng::new(draw));
                assert_eq!(image.directories, expected.map(PathBuf::from), "{killed_at} {draw}");
            }
        }
    }

    #[test]
    fn leftovers_go_and_the_rest_stays() {
        let disk = Faulty::new(0);
        let dir = DataDir::new("/a");
        dir.create(&disk).unwrap();
        disk.create_dir_all(Path::new("/a/member/wal.tmp")).unwrap();
        for name in ["db", "db.tmp.123", "tmp9", "0000000000000001.snap.db"] {
            disk.open(&dir.snap().join(name), Open::Create).unwrap();
        }
        let removed = dir.remove_leftovers(&disk).unwrap();
        let expected = ["/a/member/wal.tmp", "/a/member/snap/db.tmp.123", "/a/member/snap/tmp9"];
        assert_eq!(removed, expected.map(PathBuf::from));
        assert_eq!(disk.list(&dir.snap()).unwrap().len(), 2);
    }

    #[test]
    fn what_is_named_like_an_unfinished_log_and_is_none_stays() {
        let disk = Faulty::new(0);
        let dir = DataDir::new("/a").with_wal("/x/log");
        dir.create(&disk).unwrap();
        let other = Path::new("/x/log.tmp");
        disk.create_dir_all(other).unwrap();
        let files = ["0000000000000000-0000000000000000.wal", "0.tmp", "precious"];
        for name in files {
            disk.open(&other.join(name), Open::Create).unwrap();
        }
        assert!(dir.remove_leftovers(&disk).unwrap().is_empty());
        assert_eq!(disk.list(other).unwrap().len(), files.len());
        disk.remove(&other.join("precious")).unwrap();
        assert_eq!(dir.remove_leftovers(&disk).unwrap(), [other.to_owned()]);
    }
}
