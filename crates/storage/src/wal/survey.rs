//! Looks at every segment of a log, and goes on where one is damaged.
//!
//! *Invariants.* What [`salvage`] keeps are entries as [`super::Wal::open`] would return them, had
//! the log begun where each stretch of them begins: one that was replaced is not among them,
//! unless the record that replaced it is lost.

use std::path::{Path, PathBuf};

use base::{LogIndex, Term};
use bytes::Bytes;
use proto::{raftpb, walpb};

use super::error::{Doing, Error};
use super::record::{EntryView, Kind};
use super::replay::walk_segment;
use super::segment::{self, Name};
use crate::disk::Disk;

/// What one segment holds.
#[derive(Debug)]
pub struct Surveyed {
    /// The file.
    pub path: PathBuf,
    /// Its length, reserved space included.
    pub bytes: u64,
    /// Records that are whole, without those that begin the segment.
    pub records: u64,
    /// The first entry and the last, as they stand: later ones may replace earlier ones.
    pub entries: Option<(LogIndex, LogIndex)>,
    /// Where it ends in a write that came to the disk in part, and how that shows. The next start
    /// cuts it off.
    pub torn: Option<(u64, &'static str)>,
    /// What is damaged, and where, or why it cannot be read.
    pub damage: Option<Error>,
}

/// What a log holds.
#[derive(Debug, Default)]
pub struct Survey {
    /// Its segments, ascending.
    pub segments: Vec<Surveyed>,
    /// The bytes given at creation: `etcdserverpb.Metadata`.
    pub metadata: Option<Bytes>,
    /// All snapshots that are recorded, whether committed or not.
    pub snapshots: Vec<walpb::Snapshot>,
    /// The last hard state that can be read.
    pub hard_state: raftpb::HardState,
    /// Segments that are missing between others.
    pub gaps: Vec<Error>,
}

impl Survey {
    /// The last entry that was written, if there is one.
    pub fn last_entry(&self) -> Option<LogIndex> {
        self.segments.iter().rev().find_map(|segment| segment.entries).map(|(_, last)| last)
    }

    /// Everything that is wrong, each in one line with its place.
    pub fn damage(&self) -> impl Iterator<Item = &Error> {
        self.segments.iter().filter_map(|segment| segment.damage.as_ref()).chain(&self.gaps)
    }
}

/// What can still be read of a log that may be damaged.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// What its segments hold.
    pub survey: Survey,
    /// The last entry that can be read, whether it is kept or not.
    pub last: Option<(LogIndex, Term)>,
    /// The entries from the index on that was asked for, ascending. Where some are missing, lost
    /// or forgotten after a snapshot, indexes jump.
    pub entries: Vec<raftpb::Entry>,
}

impl Salvaged {
    /// The entries that follow `index` without a gap.
    pub fn after(&self, index: LogIndex) -> &[raftpb::Entry] {
        let from = self.entries.partition_point(|entry| entry.index() <= index.0);
        let rest = &self.entries[from..];
        let expected = index.0.saturating_add(1)..;
        let count =
            rest.iter().zip(expected).take_while(|(entry, at)| entry.index() == *at).count();
        &rest[..count]
    }

    /// The entry of that index, if it is kept.
    pub fn entry(&self, index: LogIndex) -> Option<&raftpb::Entry> {
        let at = self.entries.binary_search_by_key(&index.0, raftpb::Entry::index).ok()?;
        self.entries.get(at)
    }
}

/// Reads whatever can be read of the log in `dir`, as [`survey`] does, and keeps the entries from
/// `from` on.
pub fn salvage(disk: &dyn Disk, dir: &Path, from: LogIndex) -> Result<Salvaged, Error> {
    let mut salvaged = Salvaged::default();
    let Salvaged { last, entries, .. } = &mut salvaged;
    let survey = walk_all(disk, dir, &mut |entry: EntryView<'_>| {
        *last = Some((entry.index(), entry.term()));
        // It replaces those of its index and after.
        entries.truncate(entries.partition_point(|kept| kept.index() < entry.index().0));
        if entry.index() >= from {
            entries.push(entry.to_entry());
        }
    })?;
    salvaged.survey = survey;
    Ok(salvaged)
}

/// Reads all segments of `dir`, needs no lock, and changes nothing. The chain of checksums is begun
/// anew after a segment that is damaged, missing, or cannot be read.
pub fn survey(disk: &dyn Disk, dir: &Path) -> Result<Survey, Error> {
    walk_all(disk, dir, &mut |_| {})
}

/// A walk over all segments.
struct Walk<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    /// The chain of checksums; `None` where it begins anew.
    chain: Option<u32>,
    on_entry: &'a mut dyn FnMut(EntryView<'_>),
}

fn walk_all(
    disk: &dyn Disk,
    dir: &Path,
    on_entry: &mut dyn FnMut(EntryView<'_>),
) -> Result<Survey, Error> {
    let names = segment::list(disk, dir).doing("list", dir)?;
    let mut survey = Survey::default();
    let mut walk = Walk { disk, dir, chain: None, on_entry };
    let mut before: Option<&Name> = None;
    for (number, name) in names.iter().enumerate() {
        if let Some(before) = before
            && let Err(gap) = segment::check_sequence(&[before.clone(), name.clone()], dir)
        {
            survey.gaps.push(gap);
            walk.chain = None;
        }
        before = Some(name);
        survey.segment(&mut walk, name, number + 1 == names.len());
    }
    Ok(survey)
}

impl Survey {
    fn segment(&mut self, walk: &mut Walk<'_>, name: &Name, last: bool) {
        let path = name.path(walk.dir);
        let mut found =
            Surveyed { path, bytes: 0, records: 0, entries: None, torn: None, damage: None };
        if let Err(damage) = self.walk(walk, name, last, &mut found) {
            found.damage = Some(damage);
            walk.chain = None;
        }
        self.segments.push(found);
    }

    fn walk(
        &mut self,
        walk: &mut Walk<'_>,
        name: &Name,
        last: bool,
        found: &mut Surveyed,
    ) -> Result<(), Error> {
        let opened = segment::open_to_read(walk.disk, walk.dir, std::slice::from_ref(name))?;
        let Some(file) = opened.first() else { return Ok(()) };
        found.bytes = file.file.len().doing("measure", &file.path)?;
        let Self { metadata, snapshots, hard_state, .. } = self;
        let Walk { chain, on_entry, .. } = walk;
        let end = walk_segment(file, last, chain, metadata, &mut |placed| {
            match placed.record.kind {
                Kind::Entry => {
                    let entry = placed.entry()?;
                    let index = entry.index();
                    let first = found.entries.map_or(index, |(first, _)| first.min(index));
                    found.entries = Some((first, index));
                    on_entry(entry);
                }
                Kind::State => *hard_state = placed.state(hard_state)?,
                Kind::Snapshot => snapshots.push(placed.snapshot()?),
                Kind::Crc | Kind::Metadata => {}
            }
            found.records += 1;
            Ok(())
        })?;
        found.torn = end.and_then(|(at, why)| why.map(|why| (at, why)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::Faulty;
    use crate::wal::{Options, Wal};

    #[test]
    fn damage_in_one_segment_hides_nothing_of_the_others() {
        let disk = Faulty::new(0);
        let dir = Path::new("/wal");
        let options = Options { segment_bytes: 4096, sync: false };
        let metadata = Bytes::from_static(b"whose");
        let mut wal = Wal::create(Arc::new(disk.clone()), dir, metadata.clone(), options).unwrap();
        for index in 1..=60 {
            let data = Some(vec![b'x'; 200].into());
            let entry = raftpb::Entry { term: Some(2), index: Some(index), data, r#type: None };
            let state = raftpb::HardState { term: Some(2), vote: Some(1), commit: Some(index) };
            wal.append(&[entry], Some(&state)).unwrap();
        }
        wal.close().unwrap();
        let whole = survey(&disk, dir).unwrap();
        assert!(whole.segments.len() > 3 && whole.damage().next().is_none());
        assert_eq!((whole.last_entry(), whole.metadata), (Some(LogIndex(60)), Some(metadata)));
        // The snapshot at 0, and the state again at the head of every segment after the first.
        let records = 1 + 120 + whole.segments.len() as u64 - 1;
        assert_eq!(whole.segments.iter().map(|one| one.records).sum::<u64>(), records);
        assert_eq!(whole.hard_state.commit(), 60);

        disk.corrupt(&whole.segments[1].path, 1000, 1).unwrap();
        disk.remove(&whole.segments[2].path).unwrap();
        let found = survey(&disk, dir).unwrap();
        let damage: Vec<String> = found.damage().map(Error::to_string).collect();
        assert_eq!(damage.len(), 2, "{damage:?}");
        assert!(damage[0].starts_with("/wal/0000000000000001-"), "{}", damage[0]);
        assert!(damage[1].contains("a segment is missing before this one"), "{}", damage[1]);
        assert_eq!(found.last_entry(), Some(LogIndex(60)));

        // All that can be read is kept, and what does not follow is told apart.
        let salvaged = salvage(&disk, dir, LogIndex(5)).unwrap();
        assert_eq!(salvaged.last, Some((LogIndex(60), Term(2))));
        let kept: Vec<u64> = salvaged.entries.iter().map(raftpb::Entry::index).collect();
        assert!(kept.is_sorted() && kept[0] == 5 && kept.last() == Some(&60) && kept.len() < 56);
        let first_stretch = salvaged.after(LogIndex(7));
        assert_eq!(first_stretch[0].index(), 8);
        let end = first_stretch.last().unwrap().index();
        assert!(salvaged.entry(LogIndex(end)).is_some());
        assert!(salvaged.entry(LogIndex(end + 1)).is_none());
        assert!(
            salvaged.after(LogIndex(end)).is_empty() && salvaged.after(LogIndex(60)).is_empty()
        );
    }

    #[test]
    fn entries_that_were_replaced_are_not_salvaged() {
        let (disk, dir) = (Faulty::new(0), Path::new("/wal"));
        let options = Options { segment_bytes: 1 << 20, sync: false };
        let mut wal = Wal::create(Arc::new(disk.clone()), dir, Bytes::new(), options).unwrap();
        let entry = |term, index| raftpb::Entry {
            term: Some(term),
            index: Some(index),
            ..raftpb::Entry::default()
        };
        wal.append(&[entry(1, 1), entry(1, 2), entry(1, 3), entry(1, 4)], None).unwrap();
        wal.append(&[entry(2, 3)], None).unwrap();
        wal.close().unwrap();
        let salvaged = salvage(&disk, dir, LogIndex(2)).unwrap();
        let kept: Vec<(u64, u64)> =
            salvaged.entries.iter().map(|entry| (entry.term(), entry.index())).collect();
        assert_eq!(kept, [(1, 2), (2, 3)]);
    }
}
