//! Looks at every segment of a log, and goes on where one is damaged.

use std::path::{Path, PathBuf};

use base::LogIndex;
use bytes::Bytes;
use proto::{raftpb, walpb};

use super::error::{Doing, Error};
use super::record::Kind;
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

/// Reads all segments of `dir`, needs no lock, and changes nothing. The chain of checksums is begun
/// anew after a segment that is damaged, missing, or cannot be read.
pub fn survey(disk: &dyn Disk, dir: &Path) -> Result<Survey, Error> {
    let names = segment::list(disk, dir).doing("list", dir)?;
    let mut survey = Survey::default();
    let (mut chain, mut before): (_, Option<&Name>) = (None, None);
    for (number, name) in names.iter().enumerate() {
        if let Some(before) = before
            && let Err(gap) = segment::check_sequence(&[before.clone(), name.clone()], dir)
        {
            survey.gaps.push(gap);
            chain = None;
        }
        before = Some(name);
        let last = number + 1 == names.len();
        survey.segment(disk, dir, name, last, &mut chain);
    }
    Ok(survey)
}

impl Survey {
    fn segment(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        name: &Name,
        last: bool,
        chain: &mut Option<u32>,
    ) {
        let path = name.path(dir);
        let mut found =
            Surveyed { path, bytes: 0, records: 0, entries: None, torn: None, damage: None };
        if let Err(damage) = self.walk(disk, dir, name, last, chain, &mut found) {
            found.damage = Some(damage);
            *chain = None;
        }
        self.segments.push(found);
    }

    fn walk(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        name: &Name,
        last: bool,
        chain: &mut Option<u32>,
        found: &mut Surveyed,
    ) -> Result<(), Error> {
        let opened = segment::open_to_read(disk, dir, std::slice::from_ref(name))?;
        let Some(file) = opened.first() else { return Ok(()) };
        found.bytes = file.file.len().doing("measure", &file.path)?;
        let Self { metadata, snapshots, hard_state, .. } = self;
        let end = walk_segment(file, last, chain, metadata, &mut |placed| {
            match placed.record.kind {
                Kind::Entry => {
                    let index = placed.entry()?.index();
                    let first = found.entries.map_or(index, |(first, _)| first.min(index));
                    found.entries = Some((first, index));
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
    }
}
