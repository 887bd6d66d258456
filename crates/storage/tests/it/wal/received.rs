//! Snapshots that a leader sent: they stand behind a log that need not lead to them.

use proto::raftpb;

use super::{beginning, create, entry, new_disk, open, snapshot, state};

/// Entries that were in the log when the snapshot came, that snapshot, and what followed it.
fn check(before: &[(u64, u64)], at: (u64, u64), after: &[(u64, u64)], found: &[(u64, u64)]) {
    let entries = |places: &[(u64, u64)]| -> Vec<raftpb::Entry> {
        places.iter().map(|&(index, term)| entry(term, index, b"value")).collect()
    };
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    wal.append(&entries(before), Some(&state(1, 1, 1))).unwrap();
    wal.sync().unwrap();
    wal.save_snapshot(&snapshot(at.0, at.1)).unwrap();
    wal.append(&entries(after), Some(&state(9, 1, at.0))).unwrap();
    wal.sync().unwrap();
    wal.close().unwrap();
    let opened = open(&disk, &snapshot(at.0, at.1)).unwrap();
    assert_eq!(opened.entries, entries(found), "{before:?} {at:?} {after:?}");
    // And it can be gone on with.
    let next = found.last().map_or(at.0, |last| last.0) + 1;
    let mut wal = opened.wal;
    wal.append(&entries(&[(next, 9)]), None).unwrap();
    wal.close().unwrap();
    assert_eq!(open(&disk, &snapshot(at.0, at.1)).unwrap().entries.len(), found.len() + 1);
}

#[test]
fn a_snapshot_takes_the_place_of_a_log_that_does_not_lead_to_it() {
    // The log ends before it.
    check(&[(1, 1), (2, 1)], (10, 3), &[], &[]);
    check(&[(1, 1), (2, 1)], (10, 3), &[(11, 3)], &[(11, 3)]);
    // The log goes beyond it, with entries that another leader has overwritten.
    check(&[(1, 1), (2, 1), (3, 1), (4, 1)], (2, 3), &[], &[]);
    check(&[(1, 1), (2, 1), (3, 4), (4, 4)], (2, 3), &[(3, 5)], &[(3, 5)]);
    // The log has the entry it stands for: nothing is lost.
    check(&[(1, 1), (2, 1), (3, 1)], (2, 1), &[], &[(3, 1)]);
    check(&[(1, 1), (2, 1), (3, 1)], (2, 1), &[(3, 2)], &[(3, 2)]);
}

#[test]
fn a_record_that_nothing_commits_is_passed_over() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    wal.append(&[entry(1, 1, b"a"), entry(1, 2, b"b")], Some(&state(1, 1, 2))).unwrap();
    // The process is killed before the hard state with the snapshot's index.
    wal.save_snapshot(&snapshot(10, 3)).unwrap();
    wal.sync().unwrap();
    wal.close().unwrap();
    let dir = super::dir();
    let known = storage::wal::snapshots(&disk, dir).unwrap();
    assert_eq!(known.iter().map(|known| known.index()).collect::<Vec<_>>(), [0]);
    let mut wal = open(&disk, &beginning()).unwrap().wal;
    let more: Vec<_> = (3..=12).map(|index| entry(3, index, b"c")).collect();
    wal.append(&more, Some(&state(3, 1, 12))).unwrap();
    wal.sync().unwrap();
    wal.close().unwrap();
    // The log has grown to it by itself.
    let at = storage::wal::snapshots(&disk, dir).unwrap().pop().unwrap();
    assert_eq!(at.index(), 10);
    assert_eq!(open(&disk, &at).unwrap().entries.len(), 2);
}
