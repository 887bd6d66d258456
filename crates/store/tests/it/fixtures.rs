//! What real etcd left behind (see `tests/fixtures/make.py`), opened and replayed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Moment, Revision};
use bytes::Bytes;
use prost::Message;
use proto::raftpb::Entry;
use storage::bolt::{self, Database, Options};
use storage::disk::{Disk, Faulty, Open};
use store::{OpenError, Store, StoreOptions};

use crate::member::Member;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).expect("a fixture")
}

/// The fixture's database on a disk in memory.
fn disk(name: &str) -> Arc<dyn Disk> {
    let disk = Faulty::new(1);
    let file = disk.open(Path::new("db"), Open::Create).expect("empty");
    file.write_all_at(&read(&format!("{name}/db")), 0).expect("fits");
    file.sync_data().expect("in memory");
    Arc::new(disk)
}

fn entries(name: &str) -> Vec<Entry> {
    let bytes = read(&format!("{name}/entries.bin"));
    let (mut rest, mut entries) = (bytes.as_slice(), vec![]);
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (entry, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
        entries.push(Entry::decode(Bytes::copy_from_slice(entry)).expect("an entry"));
        rest = tail;
    }
    entries
}

/// (asked, hash, compact revision, hash revision)
fn hashes(name: &str) -> Vec<(i64, u32, i64, i64)> {
    serde_json::from_slice(&read(name)).expect("hashes")
}

fn check_hashes(member: &Member, name: &str) {
    let view = member.view();
    let theirs = hashes(name);
    let ours = theirs.iter().map(|&(at, ..)| {
        let hash = view.hash_kv(Revision(at)).expect("etcd answered");
        (at, hash.hash, hash.compact_revision.0, hash.hash_revision.0)
    });
    assert_eq!(ours.collect::<Vec<_>>(), theirs, "{name}");
    // And what etcd refused, we refuse.
    let known = theirs.iter().map(|&(at, ..)| at).collect::<Vec<_>>();
    for at in 1..=view.revision().0 {
        assert_eq!(view.hash_kv(Revision(at)).is_ok(), known.contains(&at), "at {at}");
    }
}

/// All rows of all buckets.
fn rows(view: &bolt::View) -> BTreeMap<Bytes, Vec<(Bytes, Bytes)>> {
    let buckets = view.buckets().expect("readable");
    let rows = |bucket: &Bytes| view.scan(bucket, b"").map(|row| row.expect("readable")).collect();
    buckets.into_iter().map(|bucket| (bucket.clone(), rows(&bucket))).collect()
}

/// A member that has applied the history's log, with every compaction finished before the next
/// entry, as the history's requests waited for.
fn replayed() -> Member {
    let mut member = Member::new(StoreOptions { compaction_batch: 20, ..StoreOptions::default() });
    for entry in entries("history") {
        member.store().apply(&entry, Moment::default()).expect("etcd applied it");
        member.sweep();
        member.next = entry.index() + 1;
        if member.next.is_multiple_of(37) {
            member.flush();
        }
    }
    member
}

#[test]
fn a_database_that_etcd_left_has_its_hashes() {
    let member = Member::on(disk("history"), StoreOptions::default());
    check_hashes(&member, "history/restarted.json");
}

#[test]
fn the_hash_of_the_whole_database_is_etcds() {
    let theirs: u32 = serde_json::from_slice(&read("history/whole.json")).expect("a hash");
    let member = Member::on(disk("history"), StoreOptions::default());
    assert_eq!(member.view().hash().expect("readable"), theirs);
    // The same from rows that are not all committed yet.
    let mut member = replayed();
    assert_eq!(member.view().hash().expect("readable"), theirs);
    member.freeze();
    assert_eq!(member.view().hash().expect("readable"), theirs);
}

#[test]
fn the_log_of_etcd_gives_its_hashes() {
    let mut member = replayed();
    check_hashes(&member, "history/live.json");
    member.flush();
    check_hashes(&member, "history/live.json");
    member.crash();
    check_hashes(&member, "history/restarted.json");
}

#[test]
fn the_log_of_etcd_gives_its_database_row_by_row() {
    let mut member = replayed();
    member.flush();
    let theirs = Database::open(&*disk("history"), Path::new("db"), Options::default());
    let theirs = rows(&theirs.expect("opens").view());
    let ours = rows(member.view().database());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (bucket, theirs) in &theirs {
        assert_eq!(&ours[bucket], theirs, "bucket {bucket:?}");
    }
}

#[test]
fn the_marker_of_a_bumped_revision_is_lived_with() {
    let mut member = Member::on(disk("bumped"), StoreOptions::default());
    let before = member.revision();
    assert!(member.store().is_compacting(), "the restore has asked for it");
    member.sweep();
    // The started member's own log: only what changes keys matters for its hashes.
    let put = proto::etcdserverpb::PutRequest {
        key: "after".into(),
        value: "bump".into(),
        ..Default::default()
    };
    let no_space = proto::etcdserverpb::AlarmRequest { action: 2, member_id: 7, alarm: 1 };
    let delete = proto::etcdserverpb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
    let request = proto::etcdserverpb::InternalRaftRequest::default;
    type Request = proto::etcdserverpb::InternalRaftRequest;
    member.apply(Request { alarm: Some(no_space), ..request() }).result.expect("cleared");
    member.apply(Request { put: Some(put), ..request() }).result.expect("put");
    member.apply(Request { delete_range: Some(delete), ..request() }).result.expect("deleted");
    let view = member.view();
    let theirs = hashes("bumped/live.json");
    assert_eq!(view.revision().0, theirs.last().map_or(0, |&(at, ..)| at));
    assert!(before.0 > 1000);
    for (at, hash, compacted, _) in theirs {
        let ours = view.hash_kv(Revision(at)).expect("not compacted");
        assert_eq!((ours.hash, ours.compact_revision.0), (hash, compacted), "at {at}");
    }
    // Watchers that catch up over the marker are not told of it.
    let mut keys = vec![];
    let next = view.changes(before, 10, 1 << 20, &mut |change| keys.push(change.key.clone()));
    assert_eq!(next.expect("not compacted"), view.revision().next());
    assert_eq!(keys, ["after", "a"]);
}

#[test]
fn a_database_with_authentication_is_refused_in_one_line() {
    let database = Database::open(&*disk("auth"), Path::new("db"), Options::default());
    let opened =
        Store::open(database.expect("opens").view(), StoreOptions::default(), Moment::default());
    let error = opened.expect_err("refused");
    assert!(matches!(error, OpenError::AuthEnabled));
    assert!(!error.to_string().contains('\n'));
}

#[test]
fn a_log_with_authentication_is_refused_in_one_line() {
    let mut member = Member::new(StoreOptions::default());
    let refused = entries("auth")
        .iter()
        .find_map(|entry| member.store().apply(entry, Moment::default()).err());
    let line = refused.expect("refused").to_string();
    assert!(line.contains("user add") && !line.contains('\n'), "{line}");
}
