//! What is refused is left as it was: newer rows, a log without its database or the other way
//! round, entries that only etcd can apply, a member that was removed.

use std::path::Path;
use std::sync::Arc;

use base::{LogIndex, Term};
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{AuthUserAddRequest, AuthUserListRequest, InternalRaftRequest};
use proto::raftpb::{ConfState, Entry, EntryType, HardState};
use proto::walpb;
use storage::bolt::{Batch, Database};
use storage::disk::{Disk, Faulty, Image, Open};
use storage::wal::{self, Wal};
use store::{StoreOptions, schema};
use worker::bootstrap::{self, Identity, Role, StartError};

use crate::begin::{directory, files, founders, open};

/// A member that has applied its first entries, and stopped.
pub(crate) fn member() -> Faulty {
    let disk = Faulty::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    bootstrap::create(&shared, &directory(), "b", &founders(), "t", &files()).unwrap();
    open(&shared).unwrap().wal.close().unwrap();
    database(&disk, &schema::applied(LogIndex(3), Term(1)), schema::META);
    disk
}

/// Puts rows into the database of a member that has stopped.
fn database(disk: &Faulty, rows: &[(Bytes, Bytes)], bucket: &[u8]) {
    let mut database = Database::open(disk, &directory().database(), files().database).unwrap();
    let mut batch = Batch::default();
    for (name, value) in rows {
        batch.put(bucket, name.clone(), value.clone());
    }
    database.commit(batch).unwrap();
}

/// Appends entries after the first three, and says that all are committed.
fn append(disk: &Faulty, requests: &[InternalRaftRequest]) {
    let start = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None };
    let dir = directory();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut wal = Wal::open(shared, dir.wal(), &start, files().wal).unwrap().wal;
    let entries: Vec<Entry> = (4..)
        .zip(requests)
        .map(|(index, request)| Entry {
            term: Some(1),
            index: Some(index),
            data: Some(request.encode_to_vec().into()),
            ..Entry::default()
        })
        .collect();
    let commit = Some(3 + entries.len() as u64);
    wal.append(&entries, Some(&HardState { term: Some(1), vote: Some(0), commit })).unwrap();
    wal.close().unwrap();
}

/// Ends the log in a write that came to the disk in part, and leaves what a defragmentation leaves.
fn tear(disk: &Faulty) {
    let dir = directory();
    let path = dir.wal().join("0000000000000000-0000000000000000.wal");
    let file = disk.open(&path, Open::Write).unwrap();
    let len = file.len().unwrap();
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 / 8 * 8 + 8;
    let mut torn = vec![0x10; usize::try_from(512 - end % 512).unwrap()];
    torn[..8].copy_from_slice(&3000_u64.to_le_bytes());
    file.write_all_at(&torn, end).unwrap();
    disk.open(&dir.snap().join("db.tmp1"), Open::Create).unwrap();
}

/// Fails to open, and compares the disk with what it was.
fn refused(disk: &Faulty) -> String {
    let before: Image = disk.live_image();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let error = open(&shared).map(|_| ()).unwrap_err();
    assert_eq!(disk.live_image(), before, "{error}");
    error.to_string()
}

#[test]
fn rows_of_a_newer_version_keep_a_torn_log_and_leftovers_as_they_are() {
    let disk = member();
    tear(&disk);
    let version = |text: &'static str| [(schema::name(schema::STORAGE_VERSION), text.into())];
    database(&disk, &version("3.8.0"), schema::META);
    let line = refused(&disk);
    assert_eq!(line, "storage version 3.8.0 in the database is higher than this server's 3.7");
    // What would have been repaired is.
    database(&disk, &version("3.7.0"), schema::META);
    let shared: Arc<dyn Disk> = Arc::new(disk);
    assert!(open(&shared).unwrap().repaired.is_some());
}

#[test]
fn a_database_that_is_missing_or_ahead_of_its_log_is_not_made() {
    let disk = member();
    database(&disk, &schema::applied(LogIndex(9), Term(1)), schema::META);
    tear(&disk);
    assert!(refused(&disk).contains("ends at entry 3, but the database has entry 9"));

    let disk = member();
    let start = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut wal = Wal::open(shared, directory().wal(), &start, files().wal).unwrap().wal;
    let conf_state = Some(ConfState { voters: vec![1], ..ConfState::default() });
    wal.save_snapshot(&walpb::Snapshot { index: Some(3), term: Some(1), conf_state }).unwrap();
    wal.close().unwrap();
    disk.remove(&directory().database()).unwrap();
    let line = refused(&disk);
    assert!(line.contains("has entry 0, the newest snapshot is at 3"), "{line}");
}

#[test]
fn a_new_user_in_the_log_is_told_before_the_start_and_a_question_is_passed_over() {
    let disk = member();
    let user = AuthUserAddRequest { name: "new".into(), ..Default::default() };
    let add = InternalRaftRequest { id: 8, auth_user_add: Some(user), ..Default::default() };
    let list = Some(AuthUserListRequest {});
    let ask = InternalRaftRequest { id: 7, auth_user_list: list, ..Default::default() };
    append(&disk, std::slice::from_ref(&ask));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut opened = open(&shared).unwrap();
    let entry = opened.restored.entries[3].clone();
    opened.store.apply(&entry, base::Moment::default()).unwrap();
    opened.wal.close().unwrap();
    drop((opened.database, opened.store));

    append(&disk, &[ask, add]);
    let line = refused(&disk);
    assert!(line.starts_with("write-ahead log: log entry 5: authentication request (user add)"));
    // Once etcd has put it into the database it is none of our business.
    database(&disk, &schema::applied(LogIndex(5), Term(1)), schema::META);
    open(&shared).unwrap();
}

#[test]
fn no_member_is_made_beside_the_data_of_another() {
    let make = |disk: &Faulty| {
        let before = disk.live_image();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let create = bootstrap::create(&shared, &directory(), "b", &founders(), "t", &files());
        let error = create.unwrap_err();
        assert_eq!(disk.live_image(), before, "{error}");
        let identity = Identity { member: base::MemberId(7), cluster: base::ClusterId(9) };
        bootstrap::join(&shared, &directory(), identity, &files()).unwrap_err();
        assert_eq!(disk.live_image(), before, "{error}");
        error
    };
    let disk = member();
    disk.remove_dir_all(directory().wal()).unwrap();
    assert!(matches!(make(&disk), StartError::LogMissing { .. }));
    // Without an entry it is what etcd makes first.
    database(&disk, &schema::applied(LogIndex(0), Term(0)), schema::META);
    let precious = directory().wal().join("precious");
    disk.create_dir_all(directory().wal()).unwrap();
    disk.open(&precious, Open::Create).unwrap();
    assert!(matches!(make(&disk), StartError::Log(wal::Error::Foreign { .. })));
    disk.remove(&precious).unwrap();
    let beside = wal::temporary_dir(directory().wal());
    disk.create_dir_all(&beside).unwrap();
    disk.open(&beside.join("precious"), Open::Create).unwrap();
    assert!(matches!(make(&disk), StartError::Log(wal::Error::Foreign { .. })));
    disk.remove(&beside.join("precious")).unwrap();
    let snap = Path::new("/m/member/snap/0000000000000002-0000000000000029.snap");
    disk.open(snap, Open::Create).unwrap();
    assert!(matches!(make(&disk), StartError::LogMissing { .. }));
    disk.remove(snap).unwrap();
    let shared: Arc<dyn Disk> = Arc::new(disk);
    bootstrap::create(&shared, &directory(), "b", &founders(), "t", &files()).unwrap();
    open(&shared).unwrap();
}

/// Fails to open as a member that leaves the others, and compares the disk with what it was.
fn refused_to_leave(disk: &Faulty) -> StartError {
    let before = disk.live_image();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = |own: Identity| StoreOptions { member: own.member, ..StoreOptions::default() };
    let now = base::Moment::default();
    let opened = bootstrap::open(&shared, &directory(), &files(), store, now, Role::Leaver);
    let error = opened.map(|_| ()).unwrap_err();
    assert_eq!(disk.live_image(), before, "{error}");
    error
}

#[test]
fn who_cannot_leave_the_others_is_told_before_the_start() {
    let disk = member();
    tear(&disk);
    let own = bootstrap::member_id(&founders()[1].peer_urls, "t");
    let mut database = Database::open(&disk, &directory().database(), files().database).unwrap();
    let mut batch = Batch::default();
    batch.create_bucket(schema::MEMBERS_REMOVED);
    let row = (schema::member(own), schema::name(schema::REMOVED));
    batch.put(schema::MEMBERS_REMOVED, row.0, row.1);
    database.commit(batch).unwrap();
    drop(database);
    assert!(matches!(refused_to_leave(&disk), StartError::Removed(id) if id == own));

    let disk = member();
    let start = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut wal = Wal::open(shared, directory().wal(), &start, files().wal).unwrap().wal;
    let change = Entry {
        r#type: Some(EntryType::EntryConfChange.into()),
        term: Some(1),
        index: Some(4),
        data: Some("no change".into()),
    };
    let state = HardState { term: Some(1), vote: Some(0), commit: Some(4) };
    wal.append(&[change], Some(&state)).unwrap();
    wal.close().unwrap();
    tear(&disk);
    assert!(matches!(refused_to_leave(&disk), StartError::ConfChange(_)));
}
