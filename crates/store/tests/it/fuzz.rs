//! Rows of a database and entries of a log, almost right. How to run these for longer, and a
//! failure again: see the crate `fuzz`.
//!
//! *Invariants.* What is opened is used as well: read at several revisions, written to, compacted,
//! committed. Entries are applied to two stores, which must do the same.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::Path;

use base::{Moment, Revision};
use bytes::Bytes;
use fuzz::{Result, Unstructured, Verdict, fuzz, int, mutate, mutate_text};
use prost::Message as _;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, DeleteRangeRequest, InternalRaftRequest, LeaseCheckpoint,
    LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use proto::membershippb::{
    Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest,
};
use proto::mvccpb::KeyValue;
use proto::raftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use storage::bolt::{self, Batch, Database, Options};
use storage::disk::{Blob, Faulty, Image};
use store::{Member as Row, RevKey, Store, StoreOptions, Version, schema};

use crate::member::{Member, TERM};

/// Puts of one key beside everything else.
const MORE_PUTS: usize = 120;

/// Rows by bucket.
type Rows = Vec<(&'static [u8], Bytes, Bytes)>;

fn put(key: &'static str, lease: i64) -> PutRequest {
    PutRequest { key: key.into(), value: vec![7; 20].into(), lease, ..PutRequest::default() }
}

fn delete(key: &'static str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() }
}

fn txn(success: Vec<Request>) -> TxnRequest {
    let success = success.into_iter().map(|request| RequestOp { request: Some(request) });
    TxnRequest { success: success.collect(), ..TxnRequest::default() }
}

fn request(fill: impl FnOnce(&mut InternalRaftRequest)) -> InternalRaftRequest {
    let mut request = InternalRaftRequest { id: 5, ..InternalRaftRequest::default() };
    fill(&mut request);
    request
}

/// One request of every kind that is applied, in an order in which all go well.
fn requests() -> Vec<InternalRaftRequest> {
    let both = vec![
        Request::RequestPut(put("b", 0)),
        Request::RequestDeleteRange(delete("a")),
        Request::RequestRange(RangeRequest { key: "b".into(), ..RangeRequest::default() }),
        Request::RequestTxn(txn(vec![Request::RequestPut(put("c", 7))])),
    ];
    let checkpoint = LeaseCheckpoint { id: 7, remaining_ttl: 30 };
    let attributes = Attributes { name: "m".into(), client_urls: vec!["http://m:1".into()] };
    let attributes =
        ClusterMemberAttrSetRequest { member_id: 1, member_attributes: Some(attributes) };
    let downgrade = DowngradeInfoSetRequest { enabled: true, ver: "3.6.0".into() };
    vec![
        request(|r| r.cluster_version_set = Some(ClusterVersionSetRequest { ver: "3.7.0".into() })),
        request(|r| r.cluster_member_attr_set = Some(attributes)),
        request(|r| r.lease_grant = Some(LeaseGrantRequest { id: 7, ttl: 60 })),
        request(|r| r.lease_grant = Some(LeaseGrantRequest { id: 8, ttl: 60 })),
        request(|r| r.put = Some(put("a", 7))),
        request(|r| r.put = Some(put("d", 8))),
        request(|r| r.put = Some(put("a", 0))),
        request(|r| r.txn = Some(txn(both))),
        request(|r| r.delete_range = Some(delete("b"))),
        request(|r| {
            let checkpoints = vec![checkpoint];
            r.lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints });
        }),
        request(|r| r.lease_revoke = Some(LeaseRevokeRequest { id: 8 })),
        request(|r| r.alarm = Some(AlarmRequest { action: 1, member_id: 1, alarm: 5 })),
        request(|r| r.compaction = Some(CompactionRequest { revision: 3, physical: true })),
        request(|r| r.put = Some(put("e", 7))),
        request(|r| r.downgrade_info_set = Some(downgrade)),
    ]
}

fn change(kind: ConfChangeType, id: u64, context: &str) -> ConfChange {
    ConfChange {
        id: Some(9),
        r#type: Some(kind.into()),
        node_id: Some(id),
        context: Some(Bytes::copy_from_slice(context.as_bytes())),
    }
}

const MEMBER: &str = r#"{"id":2,"peerURLs":["http://b:2380"],"isLearner":true,"isPromote":false}"#;

fn changes() -> Vec<ConfChange> {
    vec![
        change(
            ConfChangeType::ConfChangeAddNode,
            1,
            r#"{"id":1,"peerURLs":["http://a:2380"],"name":"a"}"#,
        ),
        change(ConfChangeType::ConfChangeAddLearnerNode, 2, MEMBER),
        change(ConfChangeType::ConfChangeUpdateNode, 1, r#"{"id":1,"peerURLs":["http://c:2380"]}"#),
        change(ConfChangeType::ConfChangeAddNode, 2, r#"{"id":2,"isPromote":true}"#),
        change(ConfChangeType::ConfChangeAddNode, 3, r#"{"id":3,"peerURLs":["http://d:2380"]}"#),
        change(ConfChangeType::ConfChangeRemoveNode, 3, ""),
    ]
}

/// The rows of a store that has seen everything, with so many of bucket `key` that they take
/// several pages.
fn rows() -> Rows {
    let mut member = Member::new(StoreOptions::default());
    for change in changes() {
        let applied = member.change(&change).unwrap();
        assert_eq!(applied.conf_change.unwrap().refused, None);
    }
    for request in requests() {
        member.apply(request).result.unwrap();
    }
    for _ in 0..MORE_PUTS {
        member.apply(request(|r| r.put = Some(put("more", 0)))).result.unwrap();
    }
    member.flush();
    let view = member.view();
    let rows = |bucket: &'static [u8]| {
        let rows = view.database().scan(bucket, b"").map(Result::unwrap);
        rows.map(move |(key, value)| (bucket, key, value)).collect::<Rows>()
    };
    let rows: Rows = schema::BUCKETS.iter().flat_map(|bucket| rows(bucket)).collect();
    for bucket in [schema::KEY, schema::LEASE, schema::ALARM, schema::MEMBERS, schema::CLUSTER] {
        assert!(rows.iter().any(|(of, ..)| *of == bucket), "{}", bucket.escape_ascii());
    }
    rows
}

/// Makes a database of these rows, in memory.
fn database(rows: &Rows) -> Database {
    database_on(&Faulty::new(1), rows)
}

const OPTIONS: Options = Options { page_size: 4096, cache_bytes: 1 << 20, sync: false };

fn database_on(disk: &Faulty, rows: &Rows) -> Database {
    let mut database = Database::open(disk, Path::new("db"), OPTIONS).unwrap();
    let mut batch = Batch::default();
    for bucket in schema::BUCKETS {
        batch.create_bucket(bucket);
    }
    for (bucket, key, value) in rows {
        if !key.is_empty() {
            batch.put(bucket, key.clone(), value.clone());
        }
    }
    database.commit(batch).unwrap();
    database
}

/// The same rows with a page of the file in another one's place, or with bytes of it changed.
fn rotten(u: &mut Unstructured<'_>, rows: &Rows) -> Result<Option<Database>> {
    const PAGE: usize = 4096;
    let disk = Faulty::new(1);
    drop(database_on(&disk, rows));
    let mut file = disk.read(Path::new("db")).unwrap();
    for _ in 0..u.int_in_range(1..=2)? {
        let pages = file.len() / PAGE;
        let (from, to) = (u.int_in_range(2..=pages - 1)?, u.int_in_range(2..=pages - 1)?);
        if u.arbitrary()? {
            file.copy_within(from * PAGE..(from + 1) * PAGE, to * PAGE);
            file[to * PAGE..][..8].copy_from_slice(&(to as u64).to_le_bytes());
        } else {
            let at = to * PAGE + u.int_in_range(8..=PAGE - 1)?;
            file[at] ^= 1 << u.int_in_range(0..=7)?;
        }
    }
    let mut image = Image::default();
    image.files.insert("db".into(), Blob::new(&file));
    let disk = Faulty::from_image(&image, 1).unwrap();
    Ok(Database::open(&disk, Path::new("db"), OPTIONS).ok())
}

/// Reads, writes, compacts and commits. False when an error stopped it.
fn exercise(u: &mut Unstructured<'_>, store: &mut Store, database: &mut Database) -> Result<bool> {
    let (shared, now) = (store.handle(), Moment::default());
    let view = shared.view();
    for revision in [0, view.revision().0, u.int_in_range(0..=12)?] {
        let range = RangeRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            revision,
            sort_target: u.int_in_range(0..=4)?,
            sort_order: u.int_in_range(0..=2)?,
            ..RangeRequest::default()
        };
        // An error is an answer; a panic is not.
        drop(view.range(&range, &mut |_| {}));
        drop(view.hash_kv(Revision(revision)));
        drop(view.changes(Revision(revision.max(1)), 100, 1 << 20, &mut |_| {}));
    }
    drop(view.hash());
    let lessor = shared.lessor();
    lessor.promote(now, std::time::Duration::ZERO);
    for lease in lessor.leases() {
        lessor.time_to_live(lease, now);
        let _ = lessor.renew(lease, now);
    }
    lessor.expired(now, 100);
    for request in &requests()[4..] {
        if u.arbitrary()? {
            continue;
        }
        let next = store.applied().0.0 + 1;
        let entry = entry(next, EntryType::EntryNormal, request.encode_to_vec());
        if store.apply(&entry, now).is_err() {
            return Ok(false);
        }
    }
    for _ in 0..20 {
        match store.compact_slice() {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) => return Ok(false),
        }
    }
    if let Some(frozen) = store.freeze() {
        let Ok(view) = database.commit(frozen.batch) else { return Ok(false) };
        store.committed(view);
        assert!(store.freeze().is_none());
    }
    Ok(true)
}

fn entry(index: u64, kind: EntryType, data: Vec<u8>) -> Entry {
    let (r#type, term, index) = (Some(kind.into()), Some(TERM), Some(index));
    Entry { r#type, term, index, data: Some(data.into()) }
}

/// Another row of bucket `key`, or another name of this one.
fn change_key(u: &mut Unstructured<'_>, key: &mut Bytes, value: &mut Bytes) -> Result<()> {
    let number = |u: &mut Unstructured<'_>| {
        if u.ratio(2, 3)? { u.int_in_range(0..=9) } else { Ok(int(u)?.cast_signed()) }
    };
    let name = RevKey::new(Revision(number(u)?), number(u)?);
    let is_tombstone = u.ratio(1, 3)?;
    if u.arbitrary()? {
        *key = Bytes::copy_from_slice(name.encode(is_tombstone).as_ref());
    }
    let at = RevKey::decode(key).map_or(name.main.0, |(at, _)| at.main.0);
    if u.arbitrary()? {
        let row = KeyValue {
            key: if u.arbitrary()? { "a".into() } else { Bytes::new() },
            create_revision: number(u)?,
            mod_revision: if u.ratio(7, 8)? { at } else { number(u)? },
            version: number(u)?,
            value: Bytes::new(),
            lease: number(u)?,
        };
        *value = row.encode_to_vec().into();
    }
    Ok(())
}

fn change_row(u: &mut Unstructured<'_>, rows: &mut Rows) -> Result<()> {
    let at = u.choose_index(rows.len())?;
    if u.ratio(1, 4)? {
        // A row beside the one that is there.
        let row = rows[at].clone();
        rows.push(row);
    }
    let (bucket, key, value) = &mut rows[at];
    if *bucket == schema::KEY && u.ratio(2, 3)? {
        return change_key(u, key, value);
    }
    if u.ratio(1, 4)? {
        let mut bytes = key.to_vec();
        mutate(u, &mut bytes)?;
        bytes.truncate(100);
        *key = bytes.into();
        return Ok(());
    }
    let mut bytes = value.to_vec();
    match bytes.first_chunk::<8>() {
        // A counter, or the revision of a compaction.
        Some(_) if *bucket == schema::META && u.ratio(3, 4)? => {
            bytes[..8].copy_from_slice(&int(u)?.to_be_bytes());
        }
        _ => match std::str::from_utf8(&bytes) {
            Ok(text) => bytes = mutate_text(u, text)?.into_bytes(),
            Err(_) => mutate(u, &mut bytes)?,
        },
    }
    *value = bytes.into();
    Ok(())
}

/// The small forms: what is read can be written, and is the same when it is read again.
fn check_small(u: &mut Unstructured<'_>) -> Result<()> {
    let text = mutate_text(u, MEMBER)?;
    if let Ok(member) = Row::from_json(text.as_bytes()) {
        assert_eq!(Row::from_json(member.to_json().as_bytes()).unwrap(), member, "{text}");
    }
    let mut name = RevKey::new(Revision(7), 1).encode(u.arbitrary()?).as_ref().to_vec();
    mutate(u, &mut name)?;
    if let Some((at, is_tombstone)) = RevKey::decode(&name) {
        assert_eq!(at.encode(is_tombstone).as_ref(), name);
    }
    let text = mutate_text(u, "3.7.1-rc.0+x")?;
    if let Some(version) = Version::parse(&text) {
        assert_eq!(Version::parse(&version.to_string()), Some(version), "{text}");
    }
    if let Some(id) = schema::read_member(mutate_text(u, "1f")?.as_bytes()) {
        assert_eq!(schema::read_member(&schema::member(id)), Some(id));
    }
    Ok(())
}

fn open(database: &Database) -> std::result::Result<Store, store::OpenError> {
    let opened = Store::open(database.view(), StoreOptions::default(), Moment::default());
    if let Err(error) = &opened {
        let line = error.to_string();
        assert!(!line.contains('\n'), "{line}");
    }
    opened
}

#[test]
fn damaged_rows_are_refused_or_served() {
    let rows = rows();
    fuzz("rows", |u| {
        check_small(u)?;
        let mut rows = rows.clone();
        for _ in 0..u.int_in_range(0..=3)? {
            change_row(u, &mut rows)?;
        }
        let is_rotten = !u.ratio(2, 3)?;
        let Some(mut database) =
            (if is_rotten { rotten(u, &rows)? } else { Some(database(&rows)) })
        else {
            return Ok(Verdict::Refused);
        };
        match open(&database) {
            Ok(mut store) => {
                let is_sound = exercise(u, &mut store, &mut database)?;
                // What was committed can be opened.
                let again = open(&database).err();
                assert!(!is_sound || is_rotten || again.is_none(), "{again:?}");
                Ok(Verdict::Taken)
            }
            Err(_) => Ok(Verdict::Refused),
        }
    });
}

/// What a batch does, to be compared.
fn told(batch: &Batch) -> Vec<(Bytes, Option<Bytes>)> {
    let rows = schema::BUCKETS.iter().flat_map(|bucket| batch.rows_of(bucket));
    rows.map(|(key, value)| (key.clone(), value.cloned())).collect()
}

fn strange_entry(u: &mut Unstructured<'_>, index: u64, samples: &Samples) -> Result<Entry> {
    let (kind, mut data) = match u.int_in_range(0..=3)? {
        0 => {
            let mut change = u.choose(&samples.changes)?.clone();
            if u.arbitrary()? {
                let text = String::from_utf8_lossy(change.context()).into_owned();
                change.context = Some(mutate_text(u, &text)?.into());
            }
            (EntryType::EntryConfChange, change.encode_to_vec())
        }
        1 => {
            // Two requests as one message: fields of both.
            let mut data = u.choose(&samples.requests)?.encode_to_vec();
            data.extend(u.choose(&samples.requests)?.encode_to_vec());
            (EntryType::EntryNormal, data)
        }
        _ => (EntryType::EntryNormal, u.choose(&samples.requests)?.encode_to_vec()),
    };
    if u.ratio(2, 3)? {
        mutate(u, &mut data)?;
    }
    let mut entry = entry(index, kind, data);
    if u.ratio(1, 30)? {
        entry.r#type = Some(u.int_in_range(0..=4)?);
        entry.index = Some(int(u)?);
    }
    Ok(entry)
}

struct Samples {
    changes: Vec<ConfChange>,
    requests: Vec<InternalRaftRequest>,
}

#[test]
fn strange_entries_are_applied_alike_or_stop_the_member() {
    let (rows, samples) = (rows(), Samples { changes: changes(), requests: requests() });
    let base = database(&rows);
    let open =
        |view: bolt::View| Store::open(view, StoreOptions::default(), Moment::default()).unwrap();
    fuzz("entries", |u| {
        let mut stores = [open(base.view()), open(base.view())];
        let mut index = stores[0].applied().0.0;
        let mut verdict = Verdict::Taken;
        for _ in 0..u.int_in_range(1..=6)? {
            index += 1;
            let entry = strange_entry(u, index, &samples)?;
            let [one, other] = stores.each_mut().map(|store| {
                let applied = store.apply(&entry, Moment::default());
                applied.map_err(|error| error.to_string())
            });
            assert_eq!(format!("{one:?}"), format!("{other:?}"), "one entry, two outcomes");
            if let Err(line) = one {
                assert!(!line.contains('\n'), "{line}");
                verdict = Verdict::Refused;
                break;
            }
        }
        if verdict == Verdict::Taken {
            let [one, other] = stores.each_mut().map(|store| {
                while store.compact_slice().unwrap() {}
                store.freeze().map(|frozen| told(&frozen.batch))
            });
            assert_eq!(one, other, "one entry, two sets of rows");
        }
        Ok(verdict)
    });
}

/// Opens the rows of a store of everything with some of bucket `key` beside them.
fn refusal(more: &[(RevKey, bool)]) -> String {
    let mut rows = rows();
    for (at, is_tombstone) in more {
        let row = KeyValue {
            key: "a".into(),
            create_revision: 1,
            mod_revision: at.main.0,
            version: 1,
            ..KeyValue::default()
        };
        let name = Bytes::copy_from_slice(at.encode(*is_tombstone).as_ref());
        rows.push((schema::KEY, name, row.encode_to_vec().into()));
    }
    open(&database(&rows)).unwrap_err().to_string()
}

#[test]
fn a_put_and_a_delete_of_one_name_are_refused() {
    let at = RevKey::new(Revision(900), 0);
    let line = refusal(&[(at, false), (at, true)]);
    assert!(line.contains("row 900_0: the row does not come after"), "{line}");
}

/// Pages carry no checksum: one that was written to a wrong place may look sound.
#[test]
fn a_page_in_the_place_of_another_one_is_refused() {
    const PAGE: usize = 4096;
    let disk = Faulty::new(1);
    drop(database_on(&disk, &rows()));
    let file = disk.read(Path::new("db")).unwrap();
    // The leaves of bucket `key` are those with its rows.
    let is_leaf = |page: usize| {
        let bytes = &file[page * PAGE..(page + 1) * PAGE];
        bytes[8] == 2 && bytes.windows(4).any(|window| window == b"more")
    };
    let leaves: Vec<usize> = (2..file.len() / PAGE).filter(|page| is_leaf(*page)).collect();
    let [first, second, ..] = leaves[..] else { panic!("{leaves:?}") };
    for (from, to) in [(first, second), (second, first)] {
        let mut file = file.clone();
        file.copy_within(from * PAGE..(from + 1) * PAGE, to * PAGE);
        file[to * PAGE..][..8].copy_from_slice(&(to as u64).to_le_bytes());
        let mut image = Image::default();
        image.files.insert("db".into(), Blob::new(&file));
        let disk = Faulty::from_image(&image, 1).unwrap();
        let database = Database::open(&disk, Path::new("db"), OPTIONS).unwrap();
        let line = open(&database).unwrap_err().to_string();
        assert!(line.contains("the row does not come after the one before it"), "{line}");
    }
}

#[test]
fn revisions_without_another_one_after_them_are_refused() {
    for (main, sub) in [(-5, 0), (900, -1), (i64::MAX, 0), (900, i64::MAX)] {
        for is_tombstone in [false, true] {
            let line = refusal(&[(RevKey::new(Revision(main), sub), is_tombstone)]);
            assert!(line.contains("not named by a revision"), "{line}");
        }
    }
}

#[test]
fn an_index_without_another_one_after_it_is_refused() {
    for name in [schema::CONSISTENT_INDEX, schema::TERM] {
        let mut rows = rows();
        rows.push((schema::META, schema::name(name), schema::number(u64::MAX)));
        let line = open(&database(&rows)).unwrap_err().to_string();
        assert!(line.contains("more than can be counted"), "{line}");
    }
}

#[test]
fn groups_take_no_stack() {
    let groups = Bytes::from(vec![b'{'; 2 << 20]);
    let mut damaged = rows();
    damaged.push((schema::LEASE, Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 9]), groups.clone()));
    assert!(open(&database(&damaged)).unwrap_err().to_string().contains("nests deeper"));
    let database = database(&rows());
    for kind in [EntryType::EntryNormal, EntryType::EntryConfChange] {
        let mut store = open(&database).unwrap();
        let entry = entry(store.applied().0.0 + 1, kind, groups.to_vec());
        let fatal = store.apply(&entry, Moment::default()).unwrap_err().to_string();
        assert!(fatal.contains("nests deeper"), "{fatal}");
    }
}
