//! Measures what the disk does, at the one seam through which all files are written.
//!
//! *Invariants.* Nothing is changed: every call goes through as it came, and so does its answer.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use storage::datadir::DataDir;
use storage::disk::{Disk, File, Lock, Open};

use super::Metrics;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A segment of the write-ahead log, or the one that lies ready.
    Log,
    Database,
    /// A snapshot file of raft.
    Snapshot,
    /// A database that another member sends.
    Received,
    Other,
}

/// Since when a write or a sync is under way.
#[derive(Debug)]
pub(crate) struct Underway {
    origin: Instant,
    /// Nanoseconds after `origin`, plus one; 0 when nothing is under way. One thread writes each
    /// of them: the log's and the database's.
    log: AtomicU64,
    database: AtomicU64,
}

impl Default for Underway {
    fn default() -> Self {
        let (log, database) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { origin: Instant::now(), log, database }
    }
}

impl Underway {
    /// How long the write or sync that has been under way for the longest time has lasted.
    pub(crate) fn longest(&self) -> Duration {
        let now = self.nanos();
        let lasted = |since: &AtomicU64| match since.load(Ordering::Relaxed) {
            0 => 0,
            since => now.saturating_sub(since),
        };
        Duration::from_nanos(lasted(&self.log).max(lasted(&self.database)))
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn of(&self, what: Use) -> Option<&AtomicU64> {
        match what {
            Use::Log => Some(&self.log),
            Use::Database => Some(&self.database),
            Use::Snapshot | Use::Received | Use::Other => None,
        }
    }

    /// Does `work`, and how long it took.
    fn time<T>(&self, what: Use, work: impl FnOnce() -> T) -> (T, Duration) {
        let begun = self.nanos();
        let since = self.of(what);
        if let Some(since) = since {
            since.store(begun, Ordering::Relaxed);
        }
        let done = work();
        if let Some(since) = since {
            since.store(0, Ordering::Relaxed);
        }
        (done, Duration::from_nanos(self.nanos() - begun))
    }
}

/// A disk whose writes and syncs are measured.
pub(crate) struct Measured {
    inner: Arc<dyn Disk>,
    wal: PathBuf,
    /// Where the log is made before it gets its name.
    wal_new: PathBuf,
    snap: PathBuf,
    metrics: Arc<Metrics>,
}

impl Measured {
    /// Measures what is done to the files of that directory.
    pub(crate) fn new(inner: Arc<dyn Disk>, dir: &DataDir, metrics: Arc<Metrics>) -> Self {
        let wal = dir.wal().to_owned();
        Self { inner, wal_new: storage::wal::temporary_dir(&wal), wal, snap: dir.snap(), metrics }
    }

    fn use_of(&self, path: &Path) -> Use {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if [Some(&*self.wal), Some(&*self.wal_new)].contains(&path.parent()) {
            return Use::Log;
        }
        if path.parent() != Some(&self.snap) {
            return Use::Other;
        }
        match &*name {
            // A new one is made beside its place, and keeps its descriptor when it gets its name.
            "db" | "db.tmp.new" => Use::Database,
            name if name.starts_with("tmp") || name.ends_with(".snap.db") => Use::Received,
            name if name.ends_with(".snap") => Use::Snapshot,
            _ => Use::Other,
        }
    }
}

impl Disk for Measured {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let (inner, what) = (self.inner.open(path, how)?, self.use_of(path));
        if what == Use::Other {
            return Ok(inner);
        }
        Ok(Arc::new(MeasuredFile { inner, what, metrics: Arc::clone(&self.metrics) }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
}

struct MeasuredFile {
    inner: Arc<dyn File>,
    what: Use,
    metrics: Arc<Metrics>,
}

impl MeasuredFile {
    fn time<T>(&self, work: impl FnOnce() -> T) -> (T, Duration) {
        self.metrics.disk.time(self.what, work)
    }
}

impl File for MeasuredFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buffer, offset)
    }

    fn unwritten(&self, offset: u64) -> io::Result<Range<u64>> {
        self.inner.unwritten(offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (written, took) = self.time(|| self.inner.write_all_at(bytes, offset));
        match self.what {
            Use::Log => {
                self.metrics.wal_write_seconds.observe(took);
                self.metrics.wal_write_bytes.add(bytes.len() as u64);
            }
            Use::Database => self.metrics.database_written(took),
            Use::Snapshot | Use::Received | Use::Other => {}
        }
        written
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (synced, took) = self.time(|| self.inner.sync_data());
        match self.what {
            Use::Log => self.metrics.wal_sync_seconds.observe(took),
            Use::Database => self.metrics.database_written(took),
            Use::Snapshot => self.metrics.snap_sync_seconds.observe(took),
            Use::Received => self.metrics.received_sync_seconds.observe(took),
            Use::Other => {}
        }
        synced
    }

    fn try_lock(&self, lock: Lock) -> io::Result<()> {
        self.inner.try_lock(lock)
    }
}

#[cfg(test)]
mod tests {
    use storage::disk::Faulty;

    use super::*;

    fn measured() -> (Measured, Arc<Metrics>) {
        let (disk, metrics) = (Faulty::new(1), Arc::new(Metrics::default()));
        let dir = DataDir::new("/data");
        for path in [dir.wal().to_owned(), dir.snap()] {
            disk.create_dir_all(&path).expect("a directory");
        }
        (Measured::new(Arc::new(disk), &dir, Arc::clone(&metrics)), metrics)
    }

    #[test]
    fn each_file_is_measured_by_what_it_is_for() {
        let (disk, _) = measured();
        for (path, what) in [
            ("/data/member/wal/0000000000000000-0000000000000000.wal", Use::Log),
            ("/data/member/wal/0.tmp", Use::Log),
            ("/data/member/snap/db", Use::Database),
            ("/data/member/snap/0000000000000002-0000000000000009.snap", Use::Snapshot),
            ("/data/member/snap/tmp0000000000000009-1", Use::Received),
            ("/data/member/snap/0000000000000009.snap.db", Use::Received),
            ("/data/member/wal.tmp/0000000000000000-0000000000000000.wal", Use::Log),
            ("/data/member/snap/db.tmp.new", Use::Database),
            ("/data/member/snap/db.tmp.7", Use::Other),
            ("/elsewhere/db", Use::Other),
        ] {
            assert_eq!(disk.use_of(Path::new(path)), what, "{path}");
        }
    }

    #[test]
    fn writes_and_syncs_of_the_log_are_counted() {
        let (disk, metrics) = measured();
        let file = disk.open(Path::new("/data/member/wal/a.wal"), Open::Create).expect("a file");
        file.write_all_at(b"twelve bytes", 0).expect("written");
        file.sync_data().expect("synced");
        assert_eq!(metrics.wal_write_bytes.get(), 12);
        assert_eq!(metrics.wal_write_seconds.counted().buckets.iter().sum::<u64>(), 1);
        assert_eq!(metrics.wal_sync_seconds.counted().buckets.iter().sum::<u64>(), 1);
        assert_eq!(metrics.disk.longest(), Duration::ZERO);
    }

    #[test]
    fn what_is_under_way_is_seen_while_it_lasts() {
        let underway = Underway::default();
        let ((), took) = underway.time(Use::Database, || {
            std::thread::sleep(Duration::from_millis(2));
            assert!(underway.longest() >= Duration::from_millis(2));
        });
        assert!(took >= Duration::from_millis(2));
        assert_eq!(underway.longest(), Duration::ZERO);
    }
}
