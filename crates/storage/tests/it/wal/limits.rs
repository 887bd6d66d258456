//! The disk at its limits: full, failing, or not to be waited for.

use std::path::Path;
use std::sync::Arc;

use base::LogIndex;
use bytes::Bytes;
use storage::datadir::DataDir;
use storage::disk::{Disk, Faulty, Real};
use storage::wal::{self, Options, Wal};

use super::{OPTIONS, beginning, create, dir, entry, new_disk, open, snapshot, state};

#[test]
fn a_batch_costs_one_write_and_one_sync() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    let before = disk.operations();
    let batch: Vec<_> = (1..=10).map(|index| entry(1, index, b"value")).collect();
    wal.append(&batch, Some(&state(1, 1, 0))).unwrap();
    wal.append(&[], Some(&state(1, 1, 10))).unwrap();
    assert_eq!(disk.operations(), before);
    wal.sync().unwrap();
    assert_eq!(disk.operations(), before + 2);
    wal.sync().unwrap();
    assert_eq!(disk.operations(), before + 2, "there is nothing to sync");
}

#[test]
fn without_syncs_nothing_is_synced() {
    let disk = new_disk();
    disk.fail_sync_after(0);
    let options = Options { sync: false, ..OPTIONS };
    let metadata = Bytes::from_static(b"m");
    let mut wal = Wal::create(Arc::new(disk.clone()), dir(), metadata, options).unwrap();
    for index in 1..=30 {
        wal.append(&[entry(1, index, &[1; 300])], Some(&state(1, 1, index))).unwrap();
        wal.sync().unwrap();
    }
    drop(wal);
    let opened = Wal::open(Arc::new(disk), dir(), &beginning(), options).unwrap();
    assert_eq!(opened.entries.len(), 30);
}

#[test]
fn after_a_failed_sync_nothing_is_written() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    wal.append(&[entry(1, 1, b"a")], Some(&state(1, 1, 0))).unwrap();
    disk.fail_sync_after(0);
    let path = "/data/member/wal/0000000000000000-0000000000000000.wal";
    let failed = wal.sync().unwrap_err().to_string();
    assert!(failed.starts_with(&format!("{path}: cannot sync: ")), "{failed}");
    let stopped = "/data/member/wal: stopped after an earlier failure of a write or sync";
    assert_eq!(wal.sync().unwrap_err().to_string(), stopped);
    assert_eq!(wal.append(&[entry(1, 2, b"b")], None).unwrap_err().to_string(), stopped);
}

/// Appends and syncs until the disk is full; returns how many entries were synced.
fn fill(wal: &mut Wal, from: u64) -> u64 {
    for index in from..from + 1000 {
        let appended = wal.append(&[entry(1, index, &[1; 300])], Some(&state(1, 1, index - 1)));
        if let Err(error) = appended.and_then(|()| wal.sync()) {
            assert!(error.is_no_space(), "{error}");
            assert!(!error.to_string().contains('\n'));
            return index - 1;
        }
    }
    panic!("the disk was never full");
}

#[test]
fn a_full_disk_stops_the_log_and_loses_nothing() {
    for capacity in [4_000, 5_000, 9_000, 9_100, 12_345] {
        let disk = new_disk();
        let mut wal = create(&disk).unwrap();
        disk.set_capacity(Some(capacity));
        let synced = fill(&mut wal, 1);
        drop(wal);
        // Still full: it opens, or says that the copy of a torn end has no room.
        match open(&disk, &beginning()) {
            Ok(opened) => assert!(opened.entries.len() as u64 >= synced, "at {capacity}"),
            Err(error) => assert!(error.is_no_space(), "{error}"),
        }
        disk.set_capacity(None);
        let mut opened = open(&disk, &beginning()).unwrap();
        assert!(opened.entries.len() as u64 >= synced);
        let next = opened.entries.len() as u64 + 1;
        opened.wal.append(&[entry(1, next, &[1; 3000])], Some(&state(1, 1, next))).unwrap();
        opened.wal.sync().unwrap();
    }
}

/// A log of one segment of full size with a few records at its head, and where they end.
fn mostly_empty() -> (Faulty, std::path::PathBuf, u64) {
    let disk = new_disk();
    let options = Options { segment_bytes: wal::SEGMENT_BYTES, sync: true };
    let metadata = Bytes::from_static(b"m");
    let mut wal = Wal::create(Arc::new(disk.clone()), dir(), metadata, options).unwrap();
    for index in 1..=20 {
        wal.append(&[entry(1, index, &[9; 300])], Some(&state(1, 1, index))).unwrap();
    }
    let path = wal.tail_path().to_owned();
    wal.close().unwrap();
    let image = disk.live_image();
    let mut head = vec![0; 64 << 10];
    image.files[&path].read(&mut head, 0).unwrap();
    let end = head.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    (Faulty::from_image(&image, 0).unwrap(), path, end / 8 * 8 + 8)
}

fn open_whole(disk: &Faulty) -> Result<wal::Opened, wal::Error> {
    let options = Options { segment_bytes: wal::SEGMENT_BYTES, sync: true };
    Wal::open(Arc::new(disk.clone()), dir(), &beginning(), options)
}

/// What may be held of a log while it is read: far less than a segment.
const READ_MAX: usize = 256 << 10;

#[test]
fn the_space_reserved_at_the_end_is_not_held_in_memory() {
    let (disk, ..) = mostly_empty();
    wal::snapshots(&disk, dir()).unwrap();
    let opened = open_whole(&disk).unwrap();
    assert_eq!((opened.entries.len(), opened.repaired), (20, None));
    assert!(disk.largest_read() <= READ_MAX, "{} bytes at once", disk.largest_read());
}

/// However far from the last record: what follows it decides, as where the file is small.
#[test]
fn bytes_far_behind_the_end_are_seen() {
    for (far, torn) in [(0, false), (300, false), (512, true), (700_000, true), (60_000_000, true)]
    {
        let (disk, path, end) = mostly_empty();
        // The first byte that is not of the last record's sector, where `far` leaves the sector.
        let at = if torn { end / 512 * 512 + far } else { end + 8 + far % (504 - end % 512) };
        disk.corrupt(&path, at, 0x11).unwrap();
        let opened = open_whole(&disk);
        match opened {
            Ok(opened) => {
                let reason = opened.repaired.map(|repair| (repair.offset, repair.reason));
                assert_eq!(reason, Some((end, "a record is missing before others")), "at {at}");
                assert!(torn && opened.entries.len() == 20);
            }
            Err(error) => {
                let text = format!("damaged at byte {end}: a length of zero with data after it");
                assert!(!torn && error.to_string().contains(&text), "at {at}: {error}");
            }
        }
        assert!(disk.largest_read() <= READ_MAX, "{} bytes at once", disk.largest_read());
    }
}

/// A length that asks for most of the segment is seen through by the head of what it announces.
#[test]
fn a_length_that_means_nothing_is_not_read() {
    let (disk, path, end) = mostly_empty();
    // 32 MiB, a multiple of 8: well formed, and within the file.
    disk.corrupt(&path, end + 3, 0x02).unwrap();
    disk.corrupt(&path, end + 9, 0x77).unwrap();
    let repair = open_whole(&disk).unwrap().repaired.unwrap();
    assert_eq!((repair.offset, repair.reason), (end, "a record has no type"));
    assert!(disk.largest_read() <= READ_MAX, "{} bytes at once", disk.largest_read());
}

#[test]
fn a_closed_log_leaves_segments_only() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    assert_eq!(disk.list(dir()).unwrap(), ["0.tmp".into(), segment(0, 0)]);
    wal.append(&[entry(1, 1, &[1; 3000])], Some(&state(1, 1, 1))).unwrap();
    assert_eq!(disk.list(dir()).unwrap(), [segment(0, 0), segment(1, 2), "1.tmp".into()]);
    wal.close().unwrap();
    assert_eq!(disk.list(dir()).unwrap(), [segment(0, 0), segment(1, 2)]);
    // What a kill leaves is taken away.
    for name in ["0.tmp", "1.tmp"] {
        let file = disk.open(&dir().join(name), storage::disk::Open::Create).unwrap();
        file.write_all_at(b"left over", 0).unwrap();
    }
    let opened = open(&disk, &beginning()).unwrap();
    assert_eq!(disk.list(dir()).unwrap(), ["0.tmp".into(), segment(0, 0), segment(1, 2)]);
    assert!(disk.read(&dir().join("0.tmp")).unwrap().iter().all(|byte| *byte == 0));
    opened.wal.close().unwrap();
}

fn segment(sequence: u64, first: u64) -> std::path::PathBuf {
    Path::new(&format!("{sequence:016x}-{first:016x}.wal")).into()
}

#[test]
fn what_a_killed_process_wrote_is_durable_once_it_is_read() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    // Cut, so that everything but the last entry is synced; then written without a sync.
    wal.append(&[entry(1, 1, &[1; 3000])], Some(&state(1, 1, 1))).unwrap();
    wal.append(&[entry(1, 2, &[2; 1000])], Some(&state(1, 1, 1))).unwrap();
    let killed = kill_with_writes(disk, wal);
    let opened = open(&killed, &beginning()).unwrap();
    let read = opened.entries.clone();
    let mut rng = base::Rng::new(4);
    for _ in 0..20 {
        let image = killed.image(&mut rng);
        let again = open(&Faulty::from_image(&image, 0).unwrap(), &beginning()).unwrap();
        assert_eq!(again.entries, read);
    }
}

/// Lets the log write its buffer and fail at the sync, as a kill between the two would have it.
fn kill_with_writes(disk: Faulty, mut wal: Wal) -> Faulty {
    disk.crash_at(disk.operations() + 1);
    assert!(wal.sync().is_err() && disk.crashed());
    drop(wal);
    disk.restart();
    disk
}

#[test]
fn a_real_directory_keeps_the_log_and_its_locks() {
    let root = tempfile::tempdir().unwrap();
    let (disk, dir) = (Arc::new(Real), DataDir::new(root.path()));
    dir.create(&*disk).unwrap();
    let metadata = Bytes::from_static(b"m");
    let mut wal = Wal::create(disk.clone(), dir.wal(), metadata.clone(), OPTIONS).unwrap();
    let entries: Vec<_> = (1..=20).map(|index| entry(1, index, &[3; 400])).collect();
    for one in &entries {
        wal.append(std::slice::from_ref(one), Some(&state(1, 1, one.index()))).unwrap();
        wal.sync().unwrap();
    }
    wal.save_snapshot(&snapshot(15, 1)).unwrap();
    wal.sync().unwrap();
    wal.release_to(LogIndex(15)).unwrap();
    let locked = Wal::open(disk.clone(), dir.wal(), &snapshot(15, 1), OPTIONS).map(|_| ());
    assert!(matches!(locked, Err(wal::Error::Locked { .. })), "{locked:?}");
    let purged = wal::purge(&*disk, dir.wal(), 1).unwrap();
    assert!(purged.len() >= 2, "{purged:?}");
    drop(wal);
    assert_eq!(wal::snapshots(&*disk, dir.wal()).unwrap(), [snapshot(15, 1)]);
    let opened = Wal::open(disk, dir.wal(), &snapshot(15, 1), OPTIONS).unwrap();
    assert_eq!((opened.metadata, opened.entries), (metadata, entries[15..].to_vec()));
}
