//! What a store makes of the database it is given, and of entries that no member sends.

use std::path::Path;

use base::{LogIndex, Moment};
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{InternalRaftRequest, PutRequest, RequestOp, TxnRequest};
use proto::raftpb::EntryType;
use storage::REMEDY;
use storage::bolt::{Batch, Database, Options};
use storage::disk::Faulty;
use store::{OpenError, Store, StoreOptions, schema};

use crate::member::Member;

/// Opens a database that holds one row.
fn open_with(bucket: &'static [u8], key: &[u8], value: &[u8]) -> Result<Store, OpenError> {
    open_on(&Faulty::new(1), bucket, key, value)
}

fn open_on(
    disk: &Faulty,
    bucket: &'static [u8],
    key: &[u8],
    value: &[u8],
) -> Result<Store, OpenError> {
    let mut database =
        Database::open(disk, Path::new("db"), Options::default()).expect("a database");
    let mut batch = Batch::default();
    for bucket in schema::BUCKETS {
        batch.create_bucket(bucket);
    }
    batch.put(bucket, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    let view = database.commit(batch).expect("commits");
    Store::open(view, StoreOptions::default(), Moment::default())
}

fn refusal(bucket: &'static [u8], key: &[u8], value: &[u8]) -> String {
    let line = open_with(bucket, key, value).expect_err("refused").to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

/// The same for a row that cannot be read: the line ends in what to do, and names the file and
/// the byte where the row begins.
fn damage(bucket: &'static [u8], key: &[u8], value: &[u8]) -> String {
    let disk = Faulty::new(1);
    let line = open_on(&disk, bucket, key, value).expect_err("refused").to_string();
    let rest = line.strip_prefix("database: db: damaged at byte ").expect(&line);
    let rest = rest.strip_suffix(&format!("; {REMEDY}")).expect(&line);
    let (offset, what) = rest.split_once(": ").expect(&line);
    let file = disk.read(Path::new("db")).expect("there");
    assert!(file[offset.parse().expect(&line)..].starts_with(key), "{line}");
    what.to_owned()
}

#[test]
fn the_first_commit_makes_what_etcd_makes() {
    let mut member = Member::new(StoreOptions::default());
    assert_eq!(member.store().applied().0, LogIndex(0));
    assert_eq!(member.store().changes_pending(), 1);
    member.flush();
    assert_eq!(member.store().changes_pending(), 0);
    let view = member.view();
    assert_eq!(view.database().buckets().expect("readable"), schema::BUCKETS);
    let rows = |bucket| view.database().scan(bucket, b"").count();
    assert_eq!(schema::BUCKETS.map(rows).iter().sum::<usize>(), 1);
    let revision = view.database().get(schema::AUTH, schema::AUTH_REVISION).expect("readable");
    assert_eq!(revision.as_deref(), Some(&1u64.to_be_bytes()[..]));
    drop(view);
    // Opened again, nothing is left to do.
    member.crash();
    assert_eq!(member.store().changes_pending(), 0);
}

#[test]
fn newer_versions_are_refused() {
    for (bucket, name) in
        [(schema::CLUSTER, schema::CLUSTER_VERSION), (schema::META, schema::STORAGE_VERSION)]
    {
        for version in ["3.8.0", "4.0.0", "10.0.0"] {
            assert!(refusal(bucket, name, version.as_bytes()).contains(version));
        }
        assert!(open_with(bucket, name, b"3.7.0").is_ok());
        assert!(open_with(bucket, name, b"3.5.0").is_ok());
        assert!(refusal(bucket, name, b"new").contains("not a version"));
    }
}

#[test]
fn damaged_rows_are_named() {
    let line = damage(schema::META, schema::CONSISTENT_INDEX, b"123");
    assert_eq!(line, "bucket meta, row consistent_index: not eight bytes");
    let line = damage(schema::META, schema::SCHEDULED_COMPACT, b"123");
    assert_eq!(line, "bucket meta, row scheduledCompactRev: not a revision");
    assert!(damage(schema::MEMBERS, b"xyz", b"{}").contains("members"));
    assert!(damage(schema::MEMBERS, b"1f", b"{").contains("row 1f"));
    assert!(damage(schema::LEASE, b"12345678", b"\xff").contains("bucket lease"));
    assert!(damage(schema::ALARM, b"\xff", b"").contains("bucket alarm"));
    assert!(damage(schema::KEY, b"12345678_", b"").contains("not named by a revision"));
    let row = [&7u64.to_be_bytes()[..], b"_", &[0; 8]].concat();
    assert!(damage(schema::KEY, &row, b"\xff\xff").contains("row 7_0: not a key-value"));
    // Key, create and mod revision, version.
    let put = |create, modified, version| [10, 1, b'k', 16, create, 24, modified, 32, version];
    assert!(open_with(schema::KEY, &row, &put(7, 7, 1)).is_ok());
    assert!(open_with(schema::KEY, &row, &put(3, 7, 2)).is_ok());
    assert!(open_with(schema::KEY, &row, b"").is_ok(), "the marker of a bumped revision");
    for wrong in [put(7, 6, 1), put(8, 7, 1), put(0, 7, 1), put(7, 7, 0)] {
        assert!(damage(schema::KEY, &row, &wrong).contains("row 7_0: the row is not of this"));
    }
    assert!(damage(schema::KEY, &row, &put(7, 7, 1)[3..]).contains("or has no key"));
}

#[test]
fn hostile_nesting_does_not_reach_the_decoder() {
    let mut member = Member::new(StoreOptions::default());
    let nest = |levels: usize| {
        let put = PutRequest { key: "k".into(), ..PutRequest::default() };
        let mut op = RequestOp { request: Some(Request::RequestPut(put)) };
        let mut txn = TxnRequest::default();
        for _ in 0..levels {
            txn = TxnRequest { success: vec![op], ..TxnRequest::default() };
            op = RequestOp { request: Some(Request::RequestTxn(txn.clone())) };
        }
        txn
    };
    // What etcd lets pass, passes.
    let request = InternalRaftRequest { txn: Some(nest(127)), ..Default::default() };
    assert!(member.apply(request).result.is_ok());
    assert_eq!(member.revision().0, 2);
    let request = InternalRaftRequest { id: 1, txn: Some(nest(600)), ..Default::default() };
    let entry = member.entry(EntryType::EntryNormal, request.encode_to_vec());
    let fatal = member.store().apply(&entry, Moment::default()).expect_err("too deep");
    assert!(fatal.to_string().contains("nests deeper"), "{fatal}");
}

#[test]
fn a_gap_in_the_log_stops_the_member() {
    let mut member = Member::new(StoreOptions::default());
    member.next = 5;
    let entry = member.entry(EntryType::EntryNormal, vec![]);
    let fatal = member.store().apply(&entry, Moment::default()).expect_err("a gap");
    assert_eq!(fatal.to_string(), "log entry 5: does not follow entry 0");
}

#[test]
fn entries_that_the_database_holds_change_nothing() {
    let mut member = Member::new(StoreOptions::default());
    let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
    let request = InternalRaftRequest { put: Some(put), ..Default::default() };
    member.apply(request);
    let entry = member.log[0].clone();
    member.flush();
    let applied = member.store().apply(&entry, Moment::default()).expect("again");
    assert!(applied.replayed);
    assert_eq!(member.revision().0, 2);
    assert_eq!(member.store().changes_pending(), 0);
}
