//! How members begin, and how one leaves its cluster behind, as their logs tell it.

use std::sync::Arc;

use base::{ClusterId, LogIndex, MemberId};
use prost::Message;
use proto::raftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use storage::bolt::Database;
use storage::datadir::DataDir;
use storage::disk::{Disk, Faulty, Open};
use storage::{bolt, wal};
use store::StoreOptions;
use worker::bootstrap::{
    self, FileOptions, Forced, Identity, InitialMember, Opened, Role, StartError,
};

pub(crate) fn files() -> FileOptions {
    FileOptions {
        wal: wal::Options { segment_bytes: 1 << 16, sync: true },
        database: bolt::Options { cache_bytes: 1 << 20, ..bolt::Options::default() },
    }
}

pub(crate) fn directory() -> DataDir {
    DataDir::new("/m")
}

pub(crate) fn open(disk: &Arc<dyn Disk>) -> Result<Opened, StartError> {
    let store =
        |identity: Identity| StoreOptions { member: identity.member, ..StoreOptions::default() };
    bootstrap::open(disk, &directory(), &files(), store, base::Moment::default(), Role::Member)
}

pub(crate) fn founders() -> Vec<InitialMember> {
    let member = |name: &str| InitialMember {
        name: name.into(),
        peer_urls: vec![format!("http://{name}:2380")],
    };
    ["a", "b", "c"].map(member).into()
}

fn found() -> Arc<dyn Disk> {
    let disk: Arc<dyn Disk> = Arc::new(Faulty::new(1));
    bootstrap::create(&disk, &directory(), "b", &founders(), "t", &files()).unwrap();
    disk
}

/// The conf changes among entries: index, kind, member.
fn changes(entries: &[Entry]) -> Vec<(u64, ConfChangeType, u64)> {
    let changes = entries.iter().filter(|entry| entry.r#type() == EntryType::EntryConfChange);
    let read = |entry: &Entry| {
        let change = ConfChange::decode(entry.data.clone().unwrap_or_default()).unwrap();
        (entry.index(), change.r#type(), change.node_id())
    };
    changes.map(read).collect()
}

#[test]
fn founders_write_the_same_entries_without_having_met() {
    let opened = open(&found()).unwrap();
    let mut ids: Vec<MemberId> =
        founders().iter().map(|member| bootstrap::member_id(&member.peer_urls, "t")).collect();
    assert_eq!(opened.identity.member, ids[1]);
    ids.sort_unstable();
    assert_eq!(opened.identity.cluster, bootstrap::cluster_id(&ids));
    let expected: Vec<_> =
        (1..).zip(&ids).map(|(at, id)| (at, ConfChangeType::ConfChangeAddNode, id.get())).collect();
    assert_eq!(changes(&opened.restored.entries), expected);
    let state = opened.restored.hard_state;
    assert_eq!((state.term(), state.vote(), state.commit()), (1, 0, 3));
}

#[test]
fn a_member_that_joins_knows_who_it_is_and_nothing_else() {
    let disk: Arc<dyn Disk> = Arc::new(Faulty::new(1));
    let identity = Identity { member: MemberId(7), cluster: ClusterId(9) };
    bootstrap::join(&disk, &directory(), identity, &files()).unwrap();
    for _ in 0..2 {
        let opened = open(&disk).unwrap();
        assert_eq!(opened.identity, identity);
        assert!(opened.restored.entries.is_empty());
        assert!(opened.restored.conf_state.voters.is_empty());
        assert_eq!(opened.restored.hard_state.commit(), 0);
        opened.wal.close().unwrap();
        // Another identity than the log's is not looked at.
        let other = Identity { member: MemberId(8), ..identity };
        bootstrap::join(&disk, &directory(), other, &files()).unwrap();
    }
}

#[test]
fn what_is_not_committed_goes_with_the_members_that_are_left_behind() {
    let disk = found();
    let mut opened = open(&disk).unwrap();
    let own = opened.identity.member;
    let entry = |index: u64| Entry {
        term: Some(4),
        index: Some(index),
        data: Some("never agreed on".into()),
        ..Entry::default()
    };
    let state = proto::raftpb::HardState { term: Some(4), vote: Some(1), commit: Some(3) };
    opened.wal.append(&[entry(4), entry(5), entry(6)], Some(&state)).unwrap();
    opened.wal.close().unwrap();
    drop((opened.database, opened.store));

    let mut opened = open(&disk).unwrap();
    assert_eq!(opened.restored.entries.len(), 6);
    let forced = opened.leave_others().unwrap();
    let expected = Forced { commit_in_log: LogIndex(3), commit: LogIndex(5), discarded: 3 };
    assert_eq!(forced, expected);
    opened.wal.close().unwrap();
    drop((opened.database, opened.store));

    // The log tells the same to whoever opens it next.
    let restored = open(&disk).unwrap().restored;
    let state = restored.hard_state;
    assert_eq!((state.term(), state.vote(), state.commit()), (4, 1, 5));
    let all = changes(&restored.entries);
    assert_eq!((restored.entries.len(), all.len()), (5, 5));
    for (at, (index, kind, id)) in all[3..].iter().enumerate() {
        assert_eq!((*index, *kind), (at as u64 + 4, ConfChangeType::ConfChangeRemoveNode));
        assert_ne!(*id, own.get());
    }
    assert!(restored.entries[3..].iter().all(|entry| entry.term() == 4));
}

#[test]
fn a_member_that_is_alone_already_has_nothing_to_leave() {
    let disk: Arc<dyn Disk> = Arc::new(Faulty::new(1));
    let alone = &founders()[..1];
    bootstrap::create(&disk, &directory(), "a", alone, "t", &files()).unwrap();
    let mut opened = open(&disk).unwrap();
    let forced = opened.leave_others().unwrap();
    let expected = Forced { commit_in_log: LogIndex(1), commit: LogIndex(1), discarded: 0 };
    assert_eq!(forced, expected);
    assert_eq!(opened.restored.entries.len(), 1);
}

/// Who the second founder is.
fn identity_of_b() -> Identity {
    let mut ids: Vec<MemberId> =
        founders().iter().map(|member| bootstrap::member_id(&member.peer_urls, "t")).collect();
    let member = ids[1];
    ids.sort_unstable();
    Identity { member, cluster: bootstrap::cluster_id(&ids) }
}

#[test]
fn a_log_without_entries_is_completed_by_those_who_know_the_members_alone() {
    let disk: Arc<dyn Disk> = Arc::new(Faulty::new(1));
    let identity = identity_of_b();
    // As far as a founder comes that is killed at once.
    bootstrap::join(&disk, &directory(), identity, &files()).unwrap();
    let create =
        |members: &[_]| bootstrap::create(&disk, &directory(), "b", members, "t", &files());
    assert!(matches!(create(&[]), Err(StartError::HalfMade)));
    create(&founders()).unwrap();
    // Now the log says it.
    create(&[]).unwrap();
    assert_eq!(changes(&open(&disk).unwrap().restored.entries).len(), 3);
}

#[test]
fn a_log_without_entries_is_completed_beside_a_database_without_any() {
    let database = directory().database();
    for is_empty_file in [true, false] {
        let disk: Arc<dyn Disk> = Arc::new(Faulty::new(1));
        bootstrap::join(&disk, &directory(), identity_of_b(), &files()).unwrap();
        match is_empty_file {
            true => drop(disk.open(&database, Open::Create).unwrap()),
            false => drop(Database::open(&*disk, &database, files().database).unwrap()),
        }
        bootstrap::create(&disk, &directory(), "b", &founders(), "t", &files()).unwrap();
        let restored = open(&disk).unwrap().restored;
        assert_eq!((changes(&restored.entries).len(), restored.hard_state.commit()), (3, 3));
    }
}

#[test]
fn who_waits_for_a_leader_is_not_taken_for_a_founder() {
    let disk: Arc<dyn Disk> = Arc::new(Faulty::new(1));
    let identity = Identity { member: MemberId(7), cluster: ClusterId(9) };
    bootstrap::join(&disk, &directory(), identity, &files()).unwrap();
    let opened = open(&disk).unwrap();
    opened.wal.close().unwrap();
    drop((opened.database, opened.store));
    // Flags that nobody changed after the first start, or none.
    for members in [&founders()[..], &[]] {
        bootstrap::create(&disk, &directory(), "b", members, "t", &files()).unwrap();
    }
    let opened = open(&disk).unwrap();
    assert_eq!((opened.identity, opened.restored.entries.len()), (identity, 0));
}
