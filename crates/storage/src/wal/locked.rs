//! A log that was read under its locks, and that nothing has changed yet.
//!
//! Whoever wants to judge what is in it, beside what is in the database, does so now: opening cuts
//! a torn end off and lays segments ready, so that a log that cannot be used would not be what it
//! was.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{LogIndex, Term};
use bytes::Bytes;
use proto::{raftpb, walpb};

use super::error::{Doing, Error};
use super::record::Encoder;
use super::replay::{self, Collector, Tail};
use super::segment::{self, Segment};
use super::{Opened, Options, Wal, repair};
use crate::disk::Disk;

/// See the module.
pub struct Locked {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segments: Vec<Segment>,
    read: Collector,
    end: Tail,
    /// The last entry, or a snapshot beyond it.
    last: LogIndex,
}

impl Locked {
    /// Takes the locks of the segments of `dir` that hold what follows the recorded snapshot `at`,
    /// and reads them.
    pub fn read(disk: Arc<dyn Disk>, dir: &Path, at: &walpb::Snapshot) -> Result<Self, Error> {
        let (index, term) = (LogIndex(at.index()), Term(at.term()));
        let names = segment::list(&*disk, dir).doing("list", dir)?;
        let names = segment::needed(names, dir, index)?;
        let segments = segment::open_to_write(&*disk, dir, &names)?;
        let mut read = Collector::new(at);
        let end = replay::walk(dir, &segments, |placed| read.take(placed))?;
        if !read.start_found {
            return Err(Error::SnapshotNotFound { dir: dir.to_owned(), index, term });
        }
        let Some(tail) = segments.last() else {
            return Err(Error::NoSegment { dir: dir.to_owned(), index });
        };
        let last = read.last.max(index);
        if LogIndex(read.state.commit()) > last {
            let what = format!("commit index {} but the last entry is {last}", read.state.commit());
            return Err(Error::corrupt(&tail.path, end.offset, what));
        }
        Ok(Self { disk, dir: dir.to_owned(), segments, read, end, last })
    }

    /// The bytes given at creation: `etcdserverpb.Metadata`.
    pub fn metadata(&self) -> &Bytes {
        &self.end.metadata
    }

    /// The last hard state, or the default when there is none.
    pub const fn hard_state(&self) -> &raftpb::HardState {
        &self.read.state
    }

    /// The entries after the snapshot it was read at, ascending, without a gap.
    pub fn entries(&self) -> &[raftpb::Entry] {
        &self.read.entries
    }

    /// Makes it ready to be appended to: a torn end is cut off, and what was read is durable.
    pub fn open(self, options: Options) -> Result<Opened, Error> {
        let Self { disk, dir, segments, read, end, last } = self;
        let mut repaired = None;
        if let Some(tail) = segments.last() {
            if let Some(reason) = end.torn {
                repaired = Some(repair::cut_off(&*disk, &dir, tail, end.offset, reason)?);
            }
            repair::reserve_rest(tail, options.segment_bytes)?;
        }
        let mut wal = Wal {
            disk,
            dir,
            options,
            metadata: end.metadata.clone(),
            state: read.state,
            last,
            segments: segments.into(),
            offset: end.offset,
            encoder: Encoder::new(end.crc),
            unsynced: true,
            spare: None,
            spares: 0,
            stopped: false,
        };
        wal.remove_old_spares()?;
        wal.settle()?;
        wal.prepare_spare();
        let (metadata, hard_state) = (end.metadata, read.state);
        Ok(Opened { wal, metadata, hard_state, entries: read.entries, repaired })
    }
}
