//! A member that is killed with a log that is only in the page cache, is started again, and loses
//! its power then.

use std::path::Path;
use std::sync::Arc;

use base::{LogIndex, Rng, Term};
use proto::raftpb::{ConfState, HardState};
use proto::walpb;
use storage::bolt::{Batch, Database};
use storage::disk::{Disk, Faulty};
use storage::wal::Wal;
use store::schema;
use worker::bootstrap::{self, Opened, StartError};

use crate::begin::{directory, files, founders, open};
use crate::untouched::member;

/// Power losses tried at each operation.
const DRAWS: u64 = 2;
/// The entry of the received snapshot.
const RECEIVED: LogIndex = LogIndex(9);

fn start(disk: &Faulty) -> Result<Opened, StartError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    bootstrap::create(&shared, &directory(), "b", &founders(), "t", &files())?;
    open(&shared)
}

/// What power losses leave of a start, at each of its operations on a disk that `make` gives.
fn after_power_losses(make: impl Fn() -> Faulty, mut check: impl FnMut(&Faulty, String)) {
    for operation in 0.. {
        let disk = make();
        disk.crash_at(disk.operations() + operation);
        drop(start(&disk));
        for draw in operation * DRAWS..(operation + 1) * DRAWS {
            let image = disk.image(&mut Rng::new(draw));
            let left = Faulty::from_image(&image, draw).unwrap();
            check(&left, format!("operation {operation}, draw {draw}"));
        }
        if !disk.crashed() {
            assert!(operation > 5, "the start has operations");
            return;
        }
    }
}

#[test]
fn a_founder_knows_its_members() {
    let whole = Faulty::new(1);
    let shared: Arc<dyn Disk> = Arc::new(whole.clone());
    bootstrap::create(&shared, &directory(), "b", &founders(), "t", &files()).unwrap();
    for killed_at in 0..whole.operations() {
        let killed = || {
            let disk = Faulty::new(1);
            disk.crash_at(killed_at);
            assert!(start(&disk).is_err());
            disk.restart();
            disk
        };
        after_power_losses(killed, |disk, when| {
            let opened = start(disk).unwrap_or_else(|error| panic!("{killed_at}, {when}: {error}"));
            assert_eq!(opened.restored.hard_state.commit(), 3, "{killed_at}, {when}");
        });
    }
}

/// A member with three entries that has received a database, and was killed before the record of
/// that was synced.
fn killed_before_the_record_is_synced() -> Faulty {
    let disk = member();
    let received = directory().received(RECEIVED);
    let mut database = Database::open(&disk, &received, files().database).unwrap();
    let mut batch = Batch::default();
    for bucket in schema::BUCKETS {
        batch.create_bucket(bucket);
    }
    for (name, value) in schema::applied(RECEIVED, Term(1)) {
        batch.put(schema::META, name, value);
    }
    drop(database.commit(batch).unwrap());
    drop(database);
    disk.sync_dir(Path::new("/m/member/snap")).unwrap();

    let start = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut wal = Wal::open(shared, directory().wal(), &start, files().wal).unwrap().wal;
    let conf_state = Some(ConfState { voters: vec![1], ..ConfState::default() });
    let record = walpb::Snapshot { index: Some(RECEIVED.0), term: Some(1), conf_state };
    wal.save_snapshot(&record).unwrap();
    let state = HardState { term: Some(1), vote: Some(0), commit: Some(RECEIVED.0) };
    wal.append(&[], Some(&state)).unwrap();
    // The write succeeds, the sync does not come to be.
    disk.crash_at(disk.operations() + 1);
    wal.sync().unwrap_err();
    drop(wal);
    disk.restart();
    disk
}

#[test]
fn a_received_database_is_not_ahead_of_its_log() {
    let mut seen = [0, 0];
    after_power_losses(killed_before_the_record_is_synced, |disk, when| {
        let opened = start(disk).unwrap_or_else(|error| panic!("{when}: {error}"));
        let applied = opened.store.applied().0;
        assert!([LogIndex(3), RECEIVED].contains(&applied), "{when}: {applied}");
        seen[usize::from(applied == RECEIVED)] += 1;
    });
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
}
