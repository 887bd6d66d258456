//! Looks at every segment of a log, and goes on where one is damaged.
//!
//! *Invariants.* What [`salvage`] keeps are entries as [`super::Wal::open`] would return them, had
//! the log begun where each stretch of them begins: one that was replaced, by another entry or by
//! the snapshot of a leader, is not among them, unless the record that replaced it is lost. So a
//! commit index proves nothing of entries that stand before what is lost between the two.

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
    /// The last entry that can be read and was not replaced, whether it is kept or not. None stands
    /// before the snapshot that a leader sent, until others follow that.
    pub last: Option<(LogIndex, Term)>,
    /// The entries from the index on that was asked for, ascending. Where some are missing, lost
    /// or forgotten after a snapshot, indexes jump.
    pub entries: Vec<raftpb::Entry>,
    /// What was read without a gap, by the first entry of each, ascending.
    stretches: Vec<Stretch>,
}

/// The entries from one on, up to where the next stretch begins.
#[derive(Debug)]
struct Stretch {
    first: LogIndex,
    /// The commit index at its end.
    commit: LogIndex,
}

impl Salvaged {
    /// Whether the log proves that the cluster had agreed on the entry that it has there: none has
    /// replaced it between itself and the commit index.
    pub fn agreed(&self, index: LogIndex) -> bool {
        let count = self.stretches.partition_point(|stretch| stretch.first <= index);
        self.stretches[..count].last().is_some_and(|stretch| index <= stretch.commit)
    }

    /// Whether the entry follows the one before it only by its index: what stood between the two is
    /// lost, and may have replaced that one. A leader's entries follow each other in any case.
    pub fn is_doubtful(&self, index: LogIndex) -> bool {
        let term = |index| self.entry(index).map(raftpb::Entry::term);
        let before = index.0.checked_sub(1).and_then(|before| term(LogIndex(before)));
        self.stretches.iter().any(|stretch| stretch.first == index) && before != term(index)
    }

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
    let mut gathered = Gathered::default();
    let survey = walk_all(disk, dir, &mut |found| gathered.take(from, &found))?;
    gathered.settle(|_| false);
    let Gathered { last, entries, stretches, .. } = gathered;
    Ok(Salvaged { survey, last, entries, stretches })
}

/// What of a record decides over entries.
enum Found<'a> {
    /// What comes does not go on from what came: something between is lost, or nothing came.
    Gap,
    Entry(EntryView<'a>),
    Snapshot(LogIndex, Term),
    /// The commit index.
    State(LogIndex),
}

/// The entries that a log stands for, up to where it was read.
#[derive(Default)]
struct Gathered {
    commit: LogIndex,
    last: Option<(LogIndex, Term)>,
    entries: Vec<raftpb::Entry>,
    stretches: Vec<Stretch>,
    /// The next entry begins a stretch.
    is_gap: bool,
    /// What stood before the record of a snapshot from a leader, of which the next record tells
    /// whether it came to be: a member that is killed in between goes on from what it had.
    replaced: Option<Replaced>,
}

struct Replaced {
    /// The index of the snapshot.
    by: LogIndex,
    last: Option<(LogIndex, Term)>,
    entries: Vec<raftpb::Entry>,
}

impl Gathered {
    fn take(&mut self, from: LogIndex, found: &Found<'_>) {
        match *found {
            Found::Gap => self.is_gap = true,
            Found::Entry(entry) => {
                let index = entry.index();
                self.settle(|by| index > by);
                self.stretch(index);
                self.last = Some((index, entry.term()));
                // It replaces those of its index and after.
                self.entries.truncate(self.entries.partition_point(|kept| kept.index() < index.0));
                if index >= from {
                    self.entries.push(entry.to_entry());
                }
            }
            Found::State(commit) => {
                self.settle(|by| commit >= by);
                self.commit = commit;
                if let Some(stretch) = self.stretches.last_mut()
                    && !self.is_gap
                {
                    stretch.commit = commit;
                }
            }
            Found::Snapshot(index, term) => {
                self.settle(|_| false);
                // A member makes a snapshot of what is committed only, and a leader sends one only
                // to a member that has not the entry it stands for.
                if index > self.commit && !self.has(index, term) {
                    let (last, entries) = (self.last.take(), std::mem::take(&mut self.entries));
                    self.replaced = Some(Replaced { by: index, last, entries });
                }
            }
        }
    }

    /// Counts an entry to its stretch.
    fn stretch(&mut self, index: LogIndex) {
        let own = if self.is_gap { None } else { self.stretches.pop() };
        let first = own.map_or(index, |own| own.first.min(index));
        // Those of which an entry leaves nothing.
        self.stretches.truncate(self.stretches.partition_point(|before| before.first < first));
        self.stretches.push(Stretch { first, commit: self.commit });
        self.is_gap = false;
    }

    /// Decides over a snapshot: what comes next may follow it, or it never came to be.
    fn settle(&mut self, follows: impl FnOnce(LogIndex) -> bool) {
        if let Some(replaced) = self.replaced.take()
            && !follows(replaced.by)
        {
            (self.last, self.entries) = (replaced.last, replaced.entries);
        }
    }

    fn has(&self, index: LogIndex, term: Term) -> bool {
        let at = self.entries.binary_search_by_key(&index.0, raftpb::Entry::index);
        let kept = at.ok().and_then(|at| self.entries.get(at));
        self.last == Some((index, term)) || kept.is_some_and(|kept| kept.term() == term.0)
    }
}

/// Reads all segments of `dir`, needs no lock, and changes nothing. The chain of checksums is begun
/// anew after a segment that is damaged, missing, or cannot be read, or that has lost its end.
pub fn survey(disk: &dyn Disk, dir: &Path) -> Result<Survey, Error> {
    walk_all(disk, dir, &mut |_| {})
}

/// A walk over all segments.
struct Walk<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    /// The chain of checksums; `None` where it begins anew.
    chain: Option<u32>,
    /// Where the segment before ends.
    end: u64,
    on_found: &'a mut dyn FnMut(Found<'_>),
}

fn walk_all(
    disk: &dyn Disk,
    dir: &Path,
    on_found: &mut dyn FnMut(Found<'_>),
) -> Result<Survey, Error> {
    let names = segment::list(disk, dir).doing("list", dir)?;
    let mut survey = Survey::default();
    let mut walk = Walk { disk, dir, chain: None, end: 0, on_found };
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
        let empty =
            |path| Surveyed { path, bytes: 0, records: 0, entries: None, torn: None, damage: None };
        let (chained, end) = (walk.chain.is_some(), walk.end);
        let mut found = empty(path.clone());
        let mut walked = self.walk(walk, name, last, &mut found);
        if chained && matches!(&walked, Err(Error::Corrupt { offset: 0, .. })) {
            // It does not go on from the one before. If it has a beginning of its own, then it is
            // that one which has lost its end.
            walk.chain = None;
            let mut again = empty(path);
            let walked_again = self.walk(walk, name, last, &mut again);
            if walked_again.is_ok() || again.records > 0 {
                (found, walked) = (again, walked_again);
                if let Some(before) = self.segments.last_mut() {
                    let what = "records are missing: the next segment does not go on from here";
                    before.damage = Some(Error::corrupt(&before.path, end, what));
                }
            }
        }
        if let Err(damage) = walked {
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
        let Walk { chain, on_found, .. } = walk;
        if chain.is_none() {
            on_found(Found::Gap);
        }
        let end = walk_segment(file, last, chain, metadata, &mut |placed| {
            match placed.record.kind {
                Kind::Entry => {
                    let entry = placed.entry()?;
                    let index = entry.index();
                    let first = found.entries.map_or(index, |(first, _)| first.min(index));
                    found.entries = Some((first, index));
                    on_found(Found::Entry(entry));
                }
                Kind::State => {
                    *hard_state = placed.state(hard_state)?;
                    on_found(Found::State(LogIndex(hard_state.commit())));
                }
                Kind::Snapshot => {
                    let found = placed.snapshot()?;
                    on_found(Found::Snapshot(LogIndex(found.index()), Term(found.term())));
                    snapshots.push(found);
                }
                Kind::Crc | Kind::Metadata => {}
            }
            found.records += 1;
            Ok(())
        })?;
        walk.end = end.map_or(0, |(at, _)| at);
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

    #[test]
    fn a_commit_index_proves_nothing_of_what_stands_before_a_gap() {
        for term in [1, 2] {
            let (disk, dir) = (Faulty::new(0), Path::new("/wal"));
            let options = Options { segment_bytes: 4096, sync: false };
            let mut wal = Wal::create(Arc::new(disk.clone()), dir, Bytes::new(), options).unwrap();
            let entries = |term, from: u64, to: u64| {
                (from..=to).map(|index| place(term, index)).collect::<Vec<_>>()
            };
            wal.append(&entries(1, 1, 10), Some(&state(1, 10))).unwrap();
            // Each fills the rest of a segment.
            for term in [1, term] {
                let count = survey(&disk, dir).unwrap().segments.len();
                while survey(&disk, dir).unwrap().segments.len() == count {
                    wal.append(&entries(term, 11, 20), None).unwrap();
                }
            }
            wal.append(&entries(term, 21, 30), Some(&state(term, 28))).unwrap();
            wal.close().unwrap();
            let whole = salvage(&disk, dir, LogIndex(1)).unwrap();
            assert!((1..=28).all(|index| whole.agreed(LogIndex(index))));
            assert!(!(1..=30).any(|index| whole.is_doubtful(LogIndex(index)) && index > 1));
            let segments = whole.survey.segments;
            disk.remove(&segments[segments.len() - 2].path).unwrap();
            let left = salvage(&disk, dir, LogIndex(1)).unwrap();
            assert_eq!(left.after(LogIndex(0)).len(), 30);
            for index in 1..=30 {
                let agreed = index <= 10 || (21..=28).contains(&index);
                assert_eq!(left.agreed(LogIndex(index)), agreed, "{index} of term {term}");
            }
            assert_eq!(left.is_doubtful(LogIndex(21)), term == 2);
            assert!(!left.is_doubtful(LogIndex(20)) && !left.is_doubtful(LogIndex(22)));
        }
    }

    fn place(term: u64, index: u64) -> raftpb::Entry {
        raftpb::Entry { term: Some(term), index: Some(index), ..raftpb::Entry::default() }
    }

    fn state(term: u64, commit: u64) -> raftpb::HardState {
        raftpb::HardState { term: Some(term), vote: Some(1), commit: Some(commit) }
    }

    fn record(term: u64, index: u64) -> walpb::Snapshot {
        let conf_state = Some(raftpb::ConfState::default());
        walpb::Snapshot { index: Some(index), term: Some(term), conf_state }
    }

    /// A term and an index.
    type Place = (u64, u64);

    /// What is salvaged from an index on of a log that `write` has written: the entries, the last.
    fn written(from: u64, write: impl FnOnce(&mut Wal)) -> (Vec<Place>, Option<Place>) {
        let (disk, dir) = (Faulty::new(0), Path::new("/wal"));
        let options = Options { segment_bytes: 1 << 20, sync: false };
        let mut wal = Wal::create(Arc::new(disk.clone()), dir, Bytes::new(), options).unwrap();
        write(&mut wal);
        wal.close().unwrap();
        let salvaged = salvage(&disk, dir, LogIndex(from)).unwrap();
        let kept = salvaged.entries.iter().map(|entry| (entry.term(), entry.index())).collect();
        (kept, salvaged.last.map(|(index, term)| (term.0, index.0)))
    }

    #[test]
    fn entries_that_a_received_snapshot_replaced_are_not_salvaged() {
        let stale: Vec<raftpb::Entry> = (1..=9).map(|index| place(1, index)).collect();
        for from in [1, 8] {
            // It stands beyond the log, or for an entry that is another one there.
            for at in [20, 6] {
                let (kept, last) = written(from, |wal| {
                    wal.append(&stale, Some(&state(1, 4))).unwrap();
                    wal.save_snapshot(&record(3, at)).unwrap();
                    wal.append(&[], Some(&state(3, at))).unwrap();
                });
                assert_eq!((kept, last), (vec![], None), "from {from} at {at}");
                // etcd writes what follows before the hard state.
                let (kept, last) = written(from, |wal| {
                    wal.append(&stale, Some(&state(1, 4))).unwrap();
                    wal.save_snapshot(&record(3, at)).unwrap();
                    wal.append(&[place(3, at + 1)], Some(&state(3, at))).unwrap();
                });
                let after = if at + 1 >= from { vec![(3, at + 1)] } else { vec![] };
                assert_eq!((kept, last), (after, Some((3, at + 1))), "from {from} at {at}");
            }
        }
    }

    #[test]
    fn entries_that_a_snapshot_did_not_replace_are_salvaged() {
        let entries: Vec<raftpb::Entry> = (1..=9).map(|index| place(1, index)).collect();
        let all = |from: u64, to: u64| (from..=to).map(|index| (1, index)).collect::<Vec<_>>();
        for from in [1, 6] {
            // The member's own, in the middle of what it has.
            let own = written(from, |wal| {
                wal.append(&entries, Some(&state(1, 7))).unwrap();
                wal.save_snapshot(&record(1, 5)).unwrap();
                wal.append(&[], Some(&state(1, 8))).unwrap();
            });
            assert_eq!(own, (all(from, 9), Some((1, 9))), "from {from}");
            // It was killed before the snapshot counted, and has gone on without it.
            let killed = written(from, |wal| {
                wal.append(&entries, Some(&state(1, 7))).unwrap();
                wal.save_snapshot(&record(1, 12)).unwrap();
            });
            assert_eq!(killed, (all(from, 9), Some((1, 9))), "from {from}");
            let grown = written(from, |wal| {
                wal.append(&entries, Some(&state(1, 7))).unwrap();
                wal.save_snapshot(&record(1, 12)).unwrap();
                wal.append(&[], Some(&state(1, 8))).unwrap();
                let more: Vec<raftpb::Entry> = (10..=14).map(|index| place(1, index)).collect();
                wal.append(&more, Some(&state(1, 13))).unwrap();
            });
            assert_eq!(grown, (all(from, 14), Some((1, 14))), "from {from}");
        }
    }

    /// Where the frames of a segment begin.
    fn frames(bytes: &[u8]) -> Vec<usize> {
        let (mut frames, mut at) = (Vec::new(), 0);
        while let Some(length) = bytes.get(at..at + 8) {
            let length = u64::from_le_bytes(length.try_into().unwrap()) & ((1 << 56) - 1);
            if length == 0 {
                break;
            }
            frames.push(at);
            at += 8 + length.next_multiple_of(8) as usize;
        }
        frames
    }

    #[test]
    fn a_segment_that_lost_its_end_does_not_hide_the_next_one() {
        let (disk, dir) = (Faulty::new(0), Path::new("/wal"));
        let options = Options { segment_bytes: 4096, sync: false };
        let mut wal = Wal::create(Arc::new(disk.clone()), dir, Bytes::new(), options).unwrap();
        for index in 1..=60 {
            let data = Some(vec![b'x'; 200].into());
            let entry = raftpb::Entry { data, ..place(2, index) };
            wal.append(&[entry], Some(&state(2, index))).unwrap();
        }
        wal.close().unwrap();
        let whole = survey(&disk, dir).unwrap();
        let path = |at: usize| whole.segments[at].path.clone();
        // A segment that is damaged in its beginning is that, and no other.
        disk.corrupt(&path(2), 8 + 3, 1).unwrap();
        let found = survey(&disk, dir).unwrap();
        assert!(found.segments[1].damage.is_none() && found.segments[2].damage.is_some());
        disk.corrupt(&path(2), 8 + 3, 1).unwrap();

        // It was copied before its last entry and state were written.
        let bytes = disk.read(&path(1)).unwrap();
        let frames = frames(&bytes);
        let cut = frames[frames.len() - 2];
        let file = disk.open(&path(1), crate::disk::Open::Write).unwrap();
        file.set_len(cut as u64).unwrap();
        file.set_len(4096 * 2).unwrap();
        drop(file);
        let salvaged = salvage(&disk, dir, LogIndex(1)).unwrap();
        let damage: Vec<String> = salvaged.survey.damage().map(Error::to_string).collect();
        let told = format!("{}: damaged at byte {cut}: records are missing", path(1).display());
        assert!(damage.len() == 1 && damage[0].starts_with(&told), "{damage:?}");
        let lost = whole.segments[1].entries.unwrap().1;
        let kept: Vec<u64> = salvaged.entries.iter().map(raftpb::Entry::index).collect();
        assert_eq!(kept, (1..=60).filter(|index| *index != lost.0).collect::<Vec<_>>());
        for (found, whole) in salvaged.survey.segments[2..].iter().zip(&whole.segments[2..]) {
            assert_eq!((found.records, found.entries), (whole.records, whole.entries));
        }
    }
}
