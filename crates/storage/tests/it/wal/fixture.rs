//! A directory that real etcd has left: read, gone on with, and read again.

use std::path::Path;
use std::sync::Arc;

use base::LogIndex;
use prost::Message;
use proto::{etcdserverpb, raftpb};
use storage::datadir::DataDir;
use storage::disk::{Disk, Faulty, Image};
use storage::snap::Snapshots;
use storage::wal::{self, Opened, Options, SEGMENT_BYTES, Wal};

use super::{beginning, entry, state};

const MEMBER: u64 = 0xc647_63c5_9328_5da3;

fn fixture() -> (Faulty, DataDir) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/etcd-3.7.1");
    (Faulty::from_image(&Image::read_from(&path).unwrap(), 0).unwrap(), DataDir::new("/"))
}

fn open(disk: &Faulty, dir: &DataDir, at: &proto::walpb::Snapshot) -> Opened {
    let options = Options { segment_bytes: SEGMENT_BYTES, sync: true };
    Wal::open(Arc::new(disk.clone()), dir.wal(), at, options).unwrap()
}

/// The key of a put; the entry says nothing else that is worth printing.
fn describe(entry: &raftpb::Entry) -> String {
    let data = entry.data.clone().unwrap_or_default();
    let kind = entry.r#type.unwrap_or_default();
    let what = match etcdserverpb::InternalRaftRequest::decode(data.clone()) {
        _ if kind == 1 => "conf change".to_owned(),
        _ if data.is_empty() => "empty".to_owned(),
        Ok(request) => match (request.put, request.delete_range, request.compaction) {
            (Some(put), ..) => format!("put {}", String::from_utf8_lossy(&put.key)),
            (_, Some(delete), _) => format!("delete {}", String::from_utf8_lossy(&delete.key)),
            (.., Some(compaction)) => format!("compact {}", compaction.revision),
            _ => "other".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    format!("{}/{} {what}", entry.term(), entry.index())
}

#[test]
fn the_log_of_real_etcd_is_read() {
    let (disk, dir) = fixture();
    let snapshots = wal::snapshots(&disk, dir.wal()).unwrap();
    let indexes: Vec<_> = snapshots.iter().map(|one| (one.term(), one.index())).collect();
    assert_eq!(indexes, [(0, 0), (2, 11)]);
    let opened = open(&disk, &dir, &beginning());
    let metadata = etcdserverpb::Metadata::decode(opened.metadata).unwrap();
    assert_eq!(metadata.node_id(), MEMBER);
    assert_eq!(metadata.cluster_id(), 0xe71d_93db_5108_6437);
    assert_eq!(opened.hard_state, state(2, MEMBER, 18));
    assert_eq!(opened.repaired, None);
    let lines: Vec<_> = opened.entries.iter().map(describe).collect();
    expect_test::expect![[r#"
        1/1 conf change
        2/2 empty
        2/3 other
        2/4 other
        2/5 put key1
        2/6 put key2
        2/7 put key3
        2/8 put key4
        2/9 put key5
        2/10 put key6
        2/11 put key7
        2/12 put key8
        2/13 put key9
        2/14 put key10
        2/15 put key11
        2/16 put key12
        2/17 delete key3
        2/18 put big
        2/19 compact 5"#]]
    .assert_eq(&lines.join("\n"));
    opened.wal.close().unwrap();
    assert_eq!(open(&disk, &dir, &snapshots[1]).entries, opened.entries[11..]);
}

#[test]
fn the_snapshot_of_real_etcd_is_loaded() {
    let (disk, dir) = fixture();
    let recorded = wal::snapshots(&disk, dir.wal()).unwrap();
    let files = Snapshots::new(Arc::new(disk), dir.snap());
    let loaded = files.load_newest(&recorded).unwrap();
    assert!(loaded.broken.is_empty());
    let metadata = loaded.snapshot.unwrap().metadata.unwrap();
    assert_eq!((metadata.index(), metadata.term()), (11, 2));
    assert_eq!(metadata.conf_state.unwrap().voters, [MEMBER]);
}

#[test]
fn the_log_of_real_etcd_goes_on() {
    let (disk, dir) = fixture();
    let mut opened = open(&disk, &dir, &beginning());
    let last = opened.wal.last_index().next();
    assert_eq!(last, LogIndex(20));
    opened.wal.append(&[entry(3, last.0, b"ours")], Some(&state(3, 1, 20))).unwrap();
    opened.wal.close().unwrap();
    let again = open(&disk, &dir, &beginning());
    assert_eq!(again.entries.len(), 20);
    assert_eq!(again.hard_state, state(3, 1, 20));
    assert_eq!(disk.list(dir.wal()).unwrap().len(), 2, "the segment is whole again, and a spare");
}
