//! Walks over all records of a log, and turns their data into messages.
//!
//! *Invariants.*
//! 1. Every segment begins with a checksum that continues the chain, then the metadata, which is
//!    the same in all of them.
//! 2. Only the last segment may be torn.
//!
//! The kind of a record is outside its checksum. So the messages are checked as well: no hard
//! state passes for an entry, and no entry for a hard state, because raft never writes an entry
//! of term 0, a change of configuration without data, or a hard state with a vote but no term.

use std::path::Path;

use base::mutant::{Mutant, is_on};
use base::{LogIndex, Term};
use bytes::Bytes;
use proto::{Shaped, raftpb, walpb};

use super::error::{Doing, Error};
use super::reader::{Ending, Frame, Reader};
use super::record::{EntryView, Kind, Record};
use super::segment::Segment;

/// Where a log ends.
pub(super) struct Tail {
    /// Where in the last segment the next record goes.
    pub(super) offset: u64,
    /// The chain of checksums there.
    pub(super) crc: u32,
    /// Why the end is not clean, if it is not.
    pub(super) torn: Option<&'static str>,
    /// The metadata of all segments.
    pub(super) metadata: Bytes,
}

/// A record and where it stands, for errors.
#[derive(Clone, Copy)]
pub(super) struct Placed<'a> {
    pub(super) path: &'a Path,
    pub(super) offset: u64,
    pub(super) record: Record<'a>,
}

/// Calls `visit` for every record but those that begin a segment.
pub(super) fn walk(
    dir: &Path,
    segments: &[Segment],
    mut visit: impl FnMut(Placed<'_>) -> Result<(), Error>,
) -> Result<Tail, Error> {
    let mut chain = None;
    let mut metadata = None;
    let mut tail = None;
    for (number, segment) in segments.iter().enumerate() {
        let last = number + 1 == segments.len();
        tail = walk_segment(segment, last, &mut chain, &mut metadata, &mut visit)?;
    }
    match (tail, chain, metadata) {
        (Some((offset, torn)), Some(crc), Some(metadata)) => {
            Ok(Tail { offset, crc, torn, metadata })
        }
        _ => Err(Error::NoSegment { dir: dir.to_owned(), index: LogIndex(0) }),
    }
}

/// Walks one segment; of the last one, returns where it ends and why it is torn, if it is.
pub(super) fn walk_segment(
    segment: &Segment,
    last: bool,
    chain: &mut Option<u32>,
    metadata: &mut Option<Bytes>,
    visit: &mut impl FnMut(Placed<'_>) -> Result<(), Error>,
) -> Result<Option<(u64, Option<&'static str>)>, Error> {
    let path = &segment.path;
    let mut reader = Reader::new(segment).doing("read", path)?;
    let mut count = 0_u64;
    let broken = loop {
        let (offset, record) = match reader.next(*chain).doing("read", path)? {
            Frame::Record { offset, record } => (offset, record),
            Frame::End => break None,
            Frame::Broken(what) => break Some(what),
        };
        *chain = Some(record.crc);
        count += 1;
        let expected = match count {
            1 => record.kind == Kind::Crc,
            2 => record.kind == Kind::Metadata,
            _ => true,
        };
        if !expected {
            return Err(Error::corrupt(path, offset, "the head of a segment is not one"));
        }
        match record.kind {
            Kind::Crc => {}
            Kind::Metadata => match &metadata {
                None => *metadata = Some(Bytes::copy_from_slice(record.data)),
                Some(first) if first == record.data => {}
                Some(_) => {
                    return Err(Error::corrupt(path, offset, "conflicting metadata"));
                }
            },
            Kind::Entry | Kind::State | Kind::Snapshot => visit(Placed { path, offset, record })?,
        }
    };
    let offset = reader.position();
    let (Some(crc), 2..) = (*chain, count) else {
        let what = broken.unwrap_or("a segment without metadata");
        return Err(Error::corrupt(path, offset, what));
    };
    let ending = match broken {
        _ if last => reader.judge(broken, crc).doing("read", path)?,
        Some(what) => Ending::Damaged(what),
        None if reader.rest_is_zero().doing("read", path)? => Ending::Clean,
        None => Ending::Damaged("a length of zero with data after it"),
    };
    match ending {
        Ending::Clean => Ok(Some((offset, None))),
        Ending::Torn(what) => Ok(Some((offset, Some(what)))),
        Ending::Damaged(what) if last && is_on(Mutant::CutOffDamage) => {
            Ok(Some((offset, Some(what))))
        }
        Ending::Damaged(what) => Err(Error::corrupt(path, offset, what)),
    }
}

impl<'a> Placed<'a> {
    fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(self.path, self.offset, what)
    }

    /// The data as a message, which must have no fields that we do not know.
    fn message<M: Shaped>(&self, name: &str) -> Result<M, Error> {
        let message: M = proto::decode(self.record.data)
            .map_err(|error| self.corrupt(format!("not {name}: {error}")))?;
        if message.encoded_len() == self.record.data.len() {
            Ok(message)
        } else {
            Err(self.corrupt(format!("not {name}: it has unknown fields")))
        }
    }

    /// The data as an entry.
    pub(super) fn entry(&self) -> Result<EntryView<'a>, Error> {
        let entry = EntryView::parse(self.record.data).map_err(|what| self.corrupt(what))?;
        self.check_index(entry.index())?;
        Ok(entry)
    }

    /// Another entry must be able to follow.
    fn check_index(&self, index: LogIndex) -> Result<(), Error> {
        match index.0 {
            u64::MAX => Err(self.corrupt("no index is left after this one")),
            _ => Ok(()),
        }
    }

    /// The data as a hard state that may follow `before`.
    pub(super) fn state(&self, before: &raftpb::HardState) -> Result<raftpb::HardState, Error> {
        let state: raftpb::HardState = self.message("a hard state")?;
        if state.term() == 0 || state.term() < before.term() {
            return Err(self.corrupt(format!(
                "a hard state of term {} after one of term {}",
                state.term(),
                before.term()
            )));
        }
        Ok(state)
    }

    /// The data as a snapshot record.
    pub(super) fn snapshot(&self) -> Result<walpb::Snapshot, Error> {
        let snapshot: walpb::Snapshot = self.message("a snapshot record")?;
        self.check_index(LogIndex(snapshot.index()))?;
        Ok(snapshot)
    }
}

/// Gathers what [`super::Wal::open`] returns.
pub(super) struct Collector {
    /// Where reading starts: entries up to here are passed over.
    start: (LogIndex, Term),
    pub(super) state: raftpb::HardState,
    /// Entries after the start, without a gap.
    pub(super) entries: Vec<raftpb::Entry>,
    /// The index of the last entry or snapshot record written.
    pub(super) last: LogIndex,
    /// Whether the start has been recorded.
    pub(super) start_found: bool,
    /// Whether the log had the entry that the start stands for, when it was last looked at.
    start_is_entry: bool,
}

impl Collector {
    pub(super) fn new(start: &walpb::Snapshot) -> Self {
        Self {
            start: (LogIndex(start.index()), Term(start.term())),
            state: raftpb::HardState::default(),
            entries: Vec::new(),
            last: LogIndex(0),
            start_found: false,
            start_is_entry: false,
        }
    }

    pub(super) fn take(&mut self, placed: Placed<'_>) -> Result<(), Error> {
        match placed.record.kind {
            Kind::Entry => self.take_entry(&placed),
            Kind::State => {
                self.state = placed.state(&self.state)?;
                Ok(())
            }
            Kind::Snapshot => self.take_snapshot(&placed),
            Kind::Crc | Kind::Metadata => Ok(()),
        }
    }

    /// An entry replaces those of its index and after; one at or before the start, all of them.
    /// (etcd passes over the latter, and may give raft overwritten entries after a snapshot.)
    fn take_entry(&mut self, placed: &Placed<'_>) -> Result<(), Error> {
        let entry = placed.entry()?;
        self.last = entry.index();
        if entry.index() <= self.start.0 {
            self.entries.clear();
            self.start_is_entry = (entry.index(), entry.term()) == self.start;
            return Ok(());
        }
        match usize::try_from(entry.index().0 - self.start.0.0 - 1) {
            Ok(at) if at <= self.entries.len() => {
                self.entries.truncate(at);
                self.entries.push(entry.to_entry());
                Ok(())
            }
            _ => Err(placed.corrupt(format!(
                "entry {} follows entry {}",
                entry.index(),
                self.start.0.0 + self.entries.len() as u64
            ))),
        }
    }

    fn take_snapshot(&mut self, placed: &Placed<'_>) -> Result<(), Error> {
        let snapshot = placed.snapshot()?;
        let (index, term) = (LogIndex(snapshot.index()), Term(snapshot.term()));
        self.last = self.last.max(index);
        if index != self.start.0 {
            return Ok(());
        }
        if term != self.start.1 {
            return Err(placed.corrupt(format!(
                "the snapshot at index {index} has term {term}, not {}",
                self.start.1
            )));
        }
        self.start_found = true;
        if !self.start_is_entry {
            // It came from a leader, and took the place of a log that did not lead to it: what
            // stands after its index belongs to that log. (etcd gives it to raft.)
            self.entries.clear();
        }
        Ok(())
    }
}
