//! The log against a vector of entries: random appends, overwrites, snapshots and re-openings.

use arbtest::arbitrary::{Result, Unstructured};
use base::LogIndex;
use proto::{raftpb, walpb};
use storage::REMEDY;
use storage::disk::Disk;
use storage::wal::{self, Wal};

use super::{METADATA, beginning, create, dir, entry, new_disk, open, snapshot, state};

/// What the log must give back.
struct Model {
    /// All entries since the beginning; the one at position `i` has index `i + 1`.
    entries: Vec<raftpb::Entry>,
    state: raftpb::HardState,
    /// Recorded snapshots, the beginning included.
    snapshots: Vec<walpb::Snapshot>,
}

impl Model {
    fn term(&self) -> u64 {
        self.state.term().max(1)
    }

    fn commit(&self) -> u64 {
        self.state.commit()
    }
}

fn append(u: &mut Unstructured<'_>, model: &mut Model, wal: &mut Wal) -> Result<()> {
    let last = model.entries.len() as u64;
    // A new leader overwrites what is not committed.
    let overwrite = u.ratio(1, 5)?;
    let term = model.term() + u64::from(overwrite);
    let first = if overwrite { u.int_in_range(model.commit() + 1..=last + 1)? } else { last + 1 };
    let mut batch = Vec::new();
    for index in first..first + u.int_in_range(u64::from(overwrite)..=4)? {
        let data = vec![u.arbitrary()?; u.int_in_range(0..=400)?];
        batch.push(entry(term, index, &data));
    }
    model.entries.truncate(first as usize - 1);
    model.entries.extend_from_slice(&batch);
    let commit = u.int_in_range(model.commit()..=model.entries.len() as u64)?;
    model.state = state(term, 7, commit);
    wal.append(&batch, Some(&model.state)).unwrap();
    Ok(())
}

fn check(model: &Model, disk: &storage::disk::Faulty, at: &walpb::Snapshot) -> Wal {
    let opened = open(disk, at).unwrap();
    assert_eq!(opened.metadata, METADATA);
    assert_eq!(opened.repaired, None);
    assert_eq!(opened.hard_state, model.state);
    assert_eq!(opened.entries, model.entries[at.index() as usize..]);
    opened.wal
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    let mut model =
        Model { entries: Vec::new(), state: Default::default(), snapshots: vec![beginning()] };
    for _ in 0..u.int_in_range(0..=40)? {
        match u.int_in_range(0..=9)? {
            0..=6 => append(u, &mut model, &mut wal)?,
            7 if model.commit() > 0 => {
                let index = u.int_in_range(1..=model.commit())?;
                let record = snapshot(index, model.entries[index as usize - 1].term());
                if model.snapshots.iter().all(|old| old.index() < index) {
                    wal.save_snapshot(&record).unwrap();
                    model.snapshots.push(record);
                }
            }
            8 => wal.sync().unwrap(),
            _ => {
                wal.close().unwrap();
                assert_eq!(wal::snapshots(&disk, dir()).unwrap(), model.snapshots);
                let at = u.choose(&model.snapshots)?.clone();
                wal = check(&model, &disk, &at);
            }
        }
    }
    wal.close().unwrap();
    let newest = model.snapshots[model.snapshots.len() - 1].clone();
    let mut wal = check(&model, &disk, &newest);
    wal.release_to(LogIndex(newest.index())).unwrap();
    wal::purge(&disk, dir(), 0).unwrap();
    drop(wal);
    // What the newest snapshot needs is still there.
    drop(check(&model, &disk, &newest));
    Ok(())
}

#[test]
fn the_log_gives_back_what_was_appended() {
    arbtest::arbtest(run).size_min(2_000).size_max(20_000).budget_ms(3_000);
}

#[test]
fn a_log_is_locked_once_and_made_once() {
    let disk = new_disk();
    let wal = create(&disk).unwrap();
    let locked = open(&disk, &beginning()).map(|_| ()).unwrap_err();
    assert_eq!(
        locked.to_string(),
        "/data/member/wal/0000000000000000-0000000000000000.wal: locked: another process uses \
         this data directory",
    );
    assert!(wal::exists(&disk, dir()).unwrap());
    let exists = create(&disk).map(|_| ()).unwrap_err();
    assert_eq!(exists.to_string(), "/data/member/wal: holds a log already");
    wal.close().unwrap();
    drop(open(&disk, &beginning()).unwrap());
    let missing = open(&disk, &snapshot(3, 1)).map(|_| ()).unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!("/data/member/wal: no record of the snapshot at index 3, term 1; {REMEDY}"),
    );
}

#[test]
fn released_segments_are_purged_from_the_oldest() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    for index in 1..=40 {
        wal.append(&[entry(1, index, &[9; 300])], Some(&state(1, 1, index))).unwrap();
    }
    wal.save_snapshot(&snapshot(30, 1)).unwrap();
    wal.sync().unwrap();
    assert_eq!(wal::purge(&disk, dir(), 2).unwrap().len(), 0, "all are locked");
    wal.release_to(LogIndex(30)).unwrap();
    let count = disk.list(dir()).unwrap().len();
    let removed = wal::purge(&disk, dir(), 2).unwrap();
    assert!(removed.len() >= 4 && removed.is_sorted(), "{removed:?}");
    assert_eq!(disk.list(dir()).unwrap().len(), count - removed.len());
    drop(wal);
    let opened = open(&disk, &snapshot(30, 1)).unwrap();
    assert_eq!(opened.entries.len(), 10);
    let gone = open(&disk, &beginning()).map(|_| ()).unwrap_err();
    assert_eq!(
        gone.to_string(),
        format!("/data/member/wal: no segment holds the entry after snapshot index 0; {REMEDY}")
    );
}
