//! Snapshot files: what is not one is put aside, whatever it is.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fuzz::{Verdict, fuzz, mutate};
use prost::Message as _;
use proto::{raftpb, snappb, walpb};
use storage::disk::{Disk, Faulty, Open};
use storage::snap::{Document, DocumentMember, Snapshots, document};

const DIR: &str = "/snap";

fn snapshot(index: u64) -> raftpb::Snapshot {
    let members = vec![DocumentMember { name: "m".to_owned(), ..Default::default() }];
    let data = document(&Document { members, ..Default::default() });
    let conf_state = Some(raftpb::ConfState { voters: vec![1, 2, 3], ..Default::default() });
    let metadata = raftpb::SnapshotMetadata { conf_state, index: Some(index), term: Some(2) };
    raftpb::Snapshot { data: Some(data), metadata: Some(metadata) }
}

fn recorded() -> Vec<walpb::Snapshot> {
    let record = |index| walpb::Snapshot { index: Some(index), term: Some(2), conf_state: None };
    [10, 20].map(record).to_vec()
}

/// Two snapshots, the newer one of these bytes.
fn files(newer: &[u8]) -> (Faulty, Snapshots) {
    let disk = Faulty::new(0);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let files = Snapshots::new(Arc::new(disk.clone()), DIR);
    files.save(&snapshot(10)).unwrap();
    let path = files.save(&snapshot(20)).unwrap();
    disk.open(&path, Open::Truncate).unwrap().write_all_at(newer, 0).unwrap();
    (disk, files)
}

fn enveloped(data: Vec<u8>) -> Vec<u8> {
    let crc = Some(crc32c::crc32c(&data));
    snappb::Snapshot { crc, data: Some(Bytes::from(data)) }.encode_to_vec()
}

/// Loads the newest one: a damaged one is put aside once, and the older one taken.
fn load(newer: &[u8]) -> (Verdict, raftpb::Snapshot) {
    let (disk, files) = files(newer);
    let loaded = files.load_newest(&recorded()).unwrap();
    let index = |found: &raftpb::Snapshot| found.metadata.as_ref().unwrap().index();
    let found = loaded.snapshot.as_ref().map(index);
    assert!(matches!(found, Some(10 | 20)), "{found:?}");
    for broken in &loaded.broken {
        assert!(disk.exists(&broken.path).unwrap(), "the operator finds it");
        assert!(broken.path.to_string_lossy().ends_with("14.snap.broken"));
        assert!(!broken.reason.is_empty() && !broken.reason.contains('\n'));
        assert_eq!(found, Some(10));
    }
    let again = files.load_newest(&recorded()).unwrap();
    assert_eq!((&again.snapshot, again.broken), (&loaded.snapshot, vec![]));
    let verdict = if loaded.broken.is_empty() { Verdict::Taken } else { Verdict::Refused };
    (verdict, loaded.snapshot.unwrap())
}

#[test]
fn damaged_snapshot_files_are_put_aside() {
    let inner = snapshot(20).encode_to_vec();
    let whole = enveloped(inner.clone());
    assert_eq!(load(&whole).0, Verdict::Taken);
    fuzz("snap", |u| {
        if u.arbitrary()? {
            // What stands behind the checksum.
            let mut inner = inner.clone();
            mutate(u, &mut inner)?;
            return Ok(load(&enveloped(inner)).0);
        }
        let mut bytes = whole.clone();
        mutate(u, &mut bytes)?;
        let (verdict, loaded) = load(&bytes);
        if verdict == Verdict::Taken {
            assert_eq!(loaded, snapshot(20), "the checksum did not see a change");
        }
        Ok(verdict)
    });
}

/// A file of nothing but `{` is groups in groups to a decoder of protobuf.
#[test]
fn groups_take_no_stack() {
    assert_eq!(load(&vec![b'{'; 4 << 20]).0, Verdict::Refused);
    assert_eq!(load(&enveloped(vec![b'{'; 4 << 20])).0, Verdict::Refused);
    // In the metadata, and in the configuration there.
    let inside = |field: u8, body: Vec<u8>| {
        let mut bytes = vec![field << 3 | 2];
        prost::encoding::encode_varint(body.len() as u64, &mut bytes);
        bytes.extend(body);
        bytes
    };
    let groups = vec![b'{'; 4 << 20];
    assert_eq!(load(&enveloped(inside(2, groups.clone()))).0, Verdict::Refused);
    assert_eq!(load(&enveloped(inside(2, inside(1, groups)))).0, Verdict::Refused);
}
