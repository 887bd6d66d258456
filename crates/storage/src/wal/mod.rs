//! The write-ahead log: raft's entries and hard states, in etcd's own format.
//!
//! ```text
//! member/wal/0000000000000000-0000000000000000.wal crc 0 | metadata | snapshot 0 | entries, states
//!            0000000000000001-00000000000004d2.wal crc c | metadata | state | entries, states
//!            0.tmp                                 the next segment, space reserved, empty
//! ```
//!
//! [`Wal::append`] and [`Wal::save_snapshot`] encode into memory (and write when that grows);
//! [`Wal::sync`] makes everything appended so far durable with one `fdatasync`. A segment that has
//! reached its size is cut at the end of an append: synced, closed to its length, and followed by
//! the segment that lies ready.
//!
//! *Invariants.*
//! 1. An entry is at most one after the last: the log has no gap.
//! 2. A segment gets its name only when its head is synced; all before it are then synced too.
//! 3. What [`Wal::open`] returns is durable, and so are the zeros after it, whoever wrote them.
//! 4. After a failed write or sync nothing is written any more.
//! 5. A log is read before anything of it is changed: see [`Locked`].
//!
//! *Absent.* Threads (etcd prepares segments in the background; reserving one takes a few
//! milliseconds and happens at open and after a cut), reading while writing, clocks, logging.
//!
//! *Contract.* `server/storage/wal` of etcd v3.7.1. Stricter where it can be: see `reader` for
//! the damage that etcd takes for a torn end, `replay` for that which it does not see.

mod error;
mod locked;
mod reader;
mod record;
mod repair;
mod replay;
mod segment;
mod survey;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::mutant::{Mutant, is_on};
use base::{LogIndex, Term};
use bytes::Bytes;
use proto::{raftpb, walpb};

pub use error::Error;
pub use locked::Locked;
pub use repair::Repair;
pub(crate) use segment::{hex, stranger};
pub use survey::{Salvaged, Survey, Surveyed, salvage, survey};

use crate::disk::{Disk, File, Lock, Open};
use error::Doing;
use record::{Encoder, Kind};
use replay::Collector;
use segment::{Name, Segment};

/// At which length etcd cuts a segment.
pub const SEGMENT_BYTES: u64 = 64_000_000;

/// Encoded bytes that may wait in memory for a sync before they are written.
const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// Segments that [`purge`] leaves, as etcd's `--max-wals` by default.
pub const SEGMENTS_KEPT: usize = 5;

/// How a log is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// At which length a segment is cut. It may be longer, by one append.
    pub segment_bytes: u64,
    /// Whether to sync at all: `--unsafe-no-fsync` turns it off.
    pub sync: bool,
}

/// A log that is open for appending. Holds the locks of its segments.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    /// The same bytes at the head of every segment.
    metadata: Bytes,
    /// The last state appended: repeated at the head of a segment.
    state: raftpb::HardState,
    /// The index of the last entry, or of a snapshot beyond it.
    last: LogIndex,
    /// Locked, not yet released, ascending; the last one is the tail, there always is one.
    segments: VecDeque<Segment>,
    /// Where in the tail the encoder's first byte goes.
    offset: u64,
    encoder: Encoder,
    /// Whether something was written to the tail since its last sync.
    unsynced: bool,
    /// The segment after the tail; `None` when there was no space for it.
    spare: Option<Spare>,
    /// Decides which of its two names a spare gets.
    spares: u64,
    /// A write or sync has failed.
    stopped: bool,
}

/// A segment without a name, its space reserved and zero.
struct Spare {
    path: PathBuf,
    file: Arc<dyn File>,
}

/// What a log held when it was opened.
pub struct Opened {
    /// The log, ready to append after its last record.
    pub wal: Wal,
    /// The bytes given at creation: `etcdserverpb.Metadata`.
    pub metadata: Bytes,
    /// The last hard state, or the default when there is none.
    pub hard_state: raftpb::HardState,
    /// The entries after the snapshot it was opened at, ascending, without a gap.
    pub entries: Vec<raftpb::Entry>,
    /// A torn end that was cut off, to be told to the operator.
    pub repaired: Option<Repair>,
}

/// Whether a log is there, which makes the member an existing one.
pub fn exists(disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
    Ok(!segment::list(disk, dir)?.is_empty())
}

/// The snapshots recorded in the log and covered by its last commit index, in the order they were
/// written. Needs no lock; a torn end is passed over.
pub fn snapshots(disk: &dyn Disk, dir: &Path) -> Result<Vec<walpb::Snapshot>, Error> {
    let names = segment::list(disk, dir).doing("list", dir)?;
    segment::check_sequence(&names, dir)?;
    let (mut found, mut state) = (Vec::new(), raftpb::HardState::default());
    replay::walk(dir, &segment::open_to_read(disk, dir, &names)?, |placed| {
        match placed.record.kind {
            Kind::Snapshot => found.push(placed.snapshot()?),
            Kind::State => state = placed.state(&state)?,
            Kind::Entry | Kind::Metadata | Kind::Crc => {}
        }
        Ok(())
    })?;
    found.retain(|snapshot: &walpb::Snapshot| snapshot.index() <= state.commit());
    Ok(found)
}

/// The locks of all segments of a log, shared with others that only read.
pub struct ReadLocks {
    _segments: Vec<Segment>,
}

/// Keeps whoever appends to a log, or removes segments of it, out of it until the locks are
/// dropped. A segment that cannot be opened is passed over: who reads it will say so.
pub fn lock_to_read(disk: &dyn Disk, dir: &Path) -> Result<ReadLocks, Error> {
    let names = segment::list(disk, dir).doing("list", dir)?;
    let mut locked = Vec::new();
    for name in &names {
        let Ok(mut opened) = segment::open_to_read(disk, dir, std::slice::from_ref(name)) else {
            continue;
        };
        for segment in &opened {
            segment::take_lock(&*segment.file, &segment.path, Lock::OfdShared)?;
        }
        locked.append(&mut opened);
    }
    Ok(ReadLocks { _segments: locked })
}

/// What a log holds after the recorded snapshot `at`.
pub struct Contents {
    /// The bytes given at creation: `etcdserverpb.Metadata`.
    pub metadata: Bytes,
    /// The last hard state, or the default when there is none.
    pub hard_state: raftpb::HardState,
    /// The entries, ascending, without a gap.
    pub entries: Vec<raftpb::Entry>,
    /// Where the last segment ends in a write that came to the disk in part, and why it is taken
    /// for that.
    pub torn: Option<(PathBuf, u64, &'static str)>,
}

/// Reads what [`Wal::open`] would, needs no lock, and changes nothing: a torn end is passed over.
pub fn read(disk: &dyn Disk, dir: &Path, at: &walpb::Snapshot) -> Result<Contents, Error> {
    let (index, term) = (LogIndex(at.index()), Term(at.term()));
    let names = segment::list(disk, dir).doing("list", dir)?;
    let names = segment::needed(names, dir, index)?;
    let segments = segment::open_to_read(disk, dir, &names)?;
    let mut read = Collector::new(at);
    let end = replay::walk(dir, &segments, |placed| read.take(placed))?;
    if !read.start_found {
        return Err(Error::SnapshotNotFound { dir: dir.to_owned(), index, term });
    }
    let tail = segments.last().map(|segment| segment.path.clone()).unwrap_or_default();
    Ok(Contents {
        metadata: end.metadata,
        hard_state: read.state,
        entries: read.entries,
        torn: end.torn.map(|reason| (tail, end.offset, reason)),
    })
}

/// Removes the oldest segments until `keep` are left or one is in use, and returns their paths.
pub fn purge(disk: &dyn Disk, dir: &Path, keep: usize) -> Result<Vec<PathBuf>, Error> {
    let names = segment::list(disk, dir).doing("list", dir)?;
    let mut removed = Vec::new();
    for name in &names[..names.len().saturating_sub(keep)] {
        let path = name.path(dir);
        let file = disk.open(&path, Open::Write).doing("open", &path)?;
        match segment::lock(&*file, &path) {
            Err(Error::Locked { .. }) => break,
            other => other?,
        }
        disk.remove(&path).doing("remove", &path)?;
        removed.push(path);
    }
    if !removed.is_empty() {
        disk.sync_dir(dir).doing("sync", dir)?;
    }
    Ok(removed)
}

impl Wal {
    /// Creates a log in `dir`, which appears whole or not at all: it is made as `<dir>.tmp`.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        metadata: Bytes,
        options: Options,
    ) -> Result<Self, Error> {
        if exists(&*disk, dir).doing("list", dir)? {
            return Err(Error::Exists { dir: dir.to_owned() });
        }
        check_own(&*disk, dir)?;
        let temporary = temporary_dir(dir);
        if disk.exists(&temporary).doing("find", &temporary)? {
            check_own(&*disk, &temporary)?;
            disk.remove_dir_all(&temporary).doing("remove", &temporary)?;
        }
        disk.create_dir_all(&temporary).doing("create", &temporary)?;
        let name = Name { sequence: 0, first: LogIndex(0) };
        let path = name.path(&temporary);
        let file = disk.open(&path, Open::Create).doing("create", &path)?;
        segment::lock(&*file, &path)?;
        file.allocate(options.segment_bytes).doing("reserve space for", &path)?;
        let mut wal = Self {
            disk,
            dir: dir.to_owned(),
            options,
            metadata,
            state: raftpb::HardState::default(),
            last: LogIndex(0),
            segments: VecDeque::from([Segment { name, path, file }]),
            offset: 0,
            encoder: Encoder::new(0),
            unsynced: true,
            spare: None,
            spares: 0,
            stopped: false,
        };
        wal.encoder.crc();
        wal.encoder.bytes(Kind::Metadata, &wal.metadata);
        let nothing = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None };
        wal.encoder.message(Kind::Snapshot, &nothing);
        wal.sync()?;
        wal.sync_dir(&temporary)?;
        wal.publish_dir(&temporary)?;
        wal.prepare_spare();
        Ok(wal)
    }

    /// Gives the directory made by [`Self::create`] its name.
    fn publish_dir(&mut self, temporary: &Path) -> Result<(), Error> {
        let dir = self.dir.clone();
        if self.disk.exists(&dir).doing("find", &dir)? {
            self.disk.remove_dir_all(&dir).doing("remove", &dir)?;
        }
        self.disk.rename(temporary, &dir).doing("rename to", &dir)?;
        if let Some(tail) = self.segments.back_mut() {
            tail.path = tail.name.path(&dir);
        }
        match dir.parent() {
            Some(parent) => self.sync_dir(parent),
            None => Ok(()),
        }
    }

    /// Opens the log of `dir` to read what follows the recorded snapshot `at`, and to append.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        at: &walpb::Snapshot,
        options: Options,
    ) -> Result<Opened, Error> {
        Locked::read(disk, dir, at)?.open(options)
    }

    /// Makes durable what was read. It may be in the page cache only, and the names too, when the
    /// process before was killed before its sync; raft will take it for stable.
    fn settle(&mut self) -> Result<(), Error> {
        self.sync()?;
        let dir = self.dir.clone();
        self.sync_dir(&dir)?;
        match dir.parent() {
            Some(parent) => self.sync_dir(parent),
            None => Ok(()),
        }
    }

    /// Appends entries, then the hard state. Durable after the next [`Self::sync`], or earlier:
    /// a segment that has reached its size is synced and cut here.
    ///
    /// An entry replaces the one of its index and all after it. Panics on a gap.
    pub fn append(
        &mut self,
        entries: &[raftpb::Entry],
        state: Option<&raftpb::HardState>,
    ) -> Result<(), Error> {
        self.check()?;
        for entry in entries {
            assert!(
                entry.index() > 0 && entry.index() <= self.last.next().0,
                "entry {} appended after entry {}",
                entry.index(),
                self.last
            );
            self.last = self.encoder.entry(entry);
            if self.encoder.frames().len() >= BUFFER_BYTES_MAX {
                self.flush()?;
            }
        }
        if let Some(state) = state.filter(|state| !is_empty(state)) {
            self.state = *state;
            match is_on(Mutant::ForgetVote) {
                true => {
                    let state = raftpb::HardState { vote: Some(0), ..*state };
                    self.encoder.message(Kind::State, &state);
                }
                false => self.encoder.message(Kind::State, state),
            }
        }
        if self.end() >= self.options.segment_bytes { self.cut() } else { Ok(()) }
    }

    /// Appends a snapshot record: after the next sync the log can be opened at it.
    pub fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), Error> {
        self.check()?;
        assert!(
            snapshot.index() == 0 || snapshot.conf_state.is_some(),
            "a snapshot record without its configuration"
        );
        self.encoder.message(Kind::Snapshot, snapshot);
        self.last = self.last.max(LogIndex(snapshot.index()));
        Ok(())
    }

    /// Makes everything appended so far durable, with one `fdatasync`.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.flush()?;
        if !self.unsynced || !self.options.sync {
            return Ok(());
        }
        let synced = self.tail().file.sync_data().doing("sync", &self.tail().path);
        self.stop_on_failure(synced)?;
        self.unsynced = false;
        Ok(())
    }

    /// Gives up the locks of the segments that hold nothing after `index`, so that [`purge`] may
    /// remove them. The snapshot at `index` must be recorded and synced.
    pub fn release_to(&mut self, index: LogIndex) -> Result<(), Error> {
        self.check()?;
        let beyond = self.segments.iter().position(|segment| segment.name.first >= index);
        let keep_from = match beyond {
            Some(beyond) if is_on(Mutant::ReleaseTooMuch) => beyond,
            _ => beyond.unwrap_or(self.segments.len()).saturating_sub(1),
        };
        self.segments.drain(..keep_from);
        Ok(())
    }

    /// Syncs, removes the segment that lies ready, and gives up the locks.
    pub fn close(mut self) -> Result<(), Error> {
        self.sync()?;
        match self.spare.take() {
            Some(spare) => self.disk.remove(&spare.path).doing("remove", &spare.path),
            None => Ok(()),
        }
    }

    /// The index of the last entry appended, or of a snapshot beyond it.
    pub const fn last_index(&self) -> LogIndex {
        self.last
    }

    /// The file that is being appended to.
    pub fn tail_path(&self) -> &Path {
        &self.tail().path
    }

    fn tail(&self) -> &Segment {
        &self.segments[self.segments.len() - 1]
    }

    /// Where in the tail the next record will begin.
    fn end(&self) -> u64 {
        self.offset + self.encoder.frames().len() as u64
    }

    fn check(&self) -> Result<(), Error> {
        if self.stopped { Err(Error::Stopped { dir: self.dir.clone() }) } else { Ok(()) }
    }

    fn stop_on_failure<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.stopped |= result.is_err();
        result
    }

    /// Writes what has been encoded.
    fn flush(&mut self) -> Result<(), Error> {
        self.check()?;
        if self.encoder.frames().is_empty() {
            return Ok(());
        }
        let tail = self.tail();
        let written = tail.file.write_all_at(self.encoder.frames(), self.offset);
        let written = written.doing("write", &tail.path);
        self.stop_on_failure(written)?;
        self.offset = self.end();
        self.encoder.clear(BUFFER_BYTES_MAX * 2);
        self.unsynced = true;
        Ok(())
    }

    /// Ends the tail where it stands, and goes on in a new segment.
    fn cut(&mut self) -> Result<(), Error> {
        self.flush()?;
        let cut = self.cut_to_spare();
        self.stop_on_failure(cut)?;
        self.prepare_spare();
        Ok(())
    }

    fn cut_to_spare(&mut self) -> Result<(), Error> {
        let tail = self.tail();
        tail.file.set_len(self.offset).doing("cut", &tail.path)?;
        let name = Name { sequence: tail.name.sequence + 1, first: self.last.next() };
        self.unsynced = true;
        self.sync()?;
        let spare = match self.spare.take() {
            Some(spare) => spare,
            None => self.new_spare()?,
        };
        self.encoder.crc();
        self.encoder.bytes(Kind::Metadata, &self.metadata);
        if !is_empty(&self.state) {
            self.encoder.message(Kind::State, &self.state);
        }
        let path = name.path(&self.dir);
        self.segments.push_back(Segment { name, path: spare.path.clone(), file: spare.file });
        self.offset = 0;
        self.sync()?;
        self.disk.rename(&spare.path, &path).doing("rename to", &path)?;
        if let Some(tail) = self.segments.back_mut() {
            tail.path = path;
        }
        let dir = self.dir.clone();
        self.sync_dir(&dir)
    }

    /// Lays the next segment ready. Without space there is none: the next cut tries again, and
    /// reports it.
    fn prepare_spare(&mut self) {
        self.spare = self.new_spare().ok();
    }

    fn new_spare(&mut self) -> Result<Spare, Error> {
        let path = spare_path(&self.dir, self.spares);
        let file = self.disk.open(&path, Open::Truncate).doing("create", &path)?;
        segment::lock(&*file, &path)?;
        if let Err(error) = file.allocate(self.options.segment_bytes) {
            // What was reserved of it would only keep a full disk full.
            self.disk.remove(&path).doing("remove", &path)?;
            return Err(error).doing("reserve space for", &path);
        }
        self.spares += 1;
        Ok(Spare { path, file })
    }

    fn remove_old_spares(&mut self) -> Result<(), Error> {
        for name in segment::SPARES {
            let path = self.dir.join(name);
            if self.disk.exists(&path).doing("find", &path)? {
                self.disk.remove(&path).doing("remove", &path)?;
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), Error> {
        if self.options.sync { self.disk.sync_dir(dir).doing("sync", dir) } else { Ok(()) }
    }
}

/// Refuses a directory that holds what the making of a log does not leave there: it would be
/// removed to make room for one, as etcd does with all that is in `--wal-dir`.
pub fn check_own(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    match stranger(disk, dir).doing("list", dir)? {
        Some(path) => Err(Error::Foreign { dir: dir.to_owned(), path }),
        None => Ok(()),
    }
}

/// Where a log is made before it gets its name.
pub fn temporary_dir(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(segment::SPARES[(number % 2) as usize])
}

/// A state that says nothing is not written.
fn is_empty(state: &raftpb::HardState) -> bool {
    (state.term(), state.vote(), state.commit()) == (0, 0, 0)
}
