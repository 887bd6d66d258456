//! Reports of whole and of damaged directories.

use std::path::Path;

use storage::disk::Faulty;

use super::*;
use crate::command::{self, Parsed};
use crate::utl::ROOT;
use crate::utl::tests::{OLD, REVISION, call, contents, database, snapshot};

/// The report about a path.
fn report(path: &Path) -> Report {
    let line = vec![b"inspect".to_vec(), path.to_str().unwrap().as_bytes().to_vec()];
    let (path_of, args) = command::find(&ROOT, line.clone()).unwrap();
    let Ok(Parsed::Call(call)) = command::parse(&path_of, line, args) else { panic!("not a call") };
    inspect(&call, path).unwrap()
}

/// A directory restored from a snapshot, in which there is everything.
fn restored(dir: &Path) -> PathBuf {
    let file = snapshot(&database(&Faulty::new(0), Path::new("/db")), dir);
    let data = dir.join("restored");
    let (file, to) = (file.to_str().unwrap(), data.to_str().unwrap());
    call(&["snapshot", "restore", file, "--data-dir", to]).unwrap();
    data
}

#[test]
fn everything_in_a_directory_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = restored(dir.path());
    let before = contents(dir.path());
    let found = report(&data);
    assert_eq!(found.damage, Vec::<String>::new());
    let log = found.log.as_ref().unwrap();
    assert_eq!(log.member.as_deref(), Some("8e9e05c52164694d"));
    assert_eq!(log.cluster.as_deref(), Some("cdf818194e3a8c32"));
    assert_eq!(
        (log.last_entry, log.commit, &log.recorded[..]),
        (Some(1), 1, &[(0, 0), (1, 1)][..])
    );
    assert_eq!(found.snapshots[0].voters, ["8e9e05c52164694d"]);
    let database = found.database.as_ref().unwrap();
    assert_eq!((database.revision, database.keys, database.consistent_index), (REVISION, 9, 1));
    assert_eq!(database.members[0].peer_urls, ["http://localhost:2380"]);
    assert_eq!(database.buckets.len(), 10);
    let text = render::text(&found);
    assert!(text.contains("  revision 41, never compacted, 9 keys\n"), "{text}");
    assert!(text.ends_with("\nno damage found\n"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&render::json(&found).unwrap()).unwrap();
    assert_eq!(json["database"]["revision"], REVISION);
    // Each part for itself, too.
    let snap = data.join("member/snap");
    assert!(report(&data.join("member")).database.is_some());
    assert!(report(&data.join("member/wal")).log.is_some());
    let segment = data.join("member/wal/0000000000000000-0000000000000000.wal");
    assert_eq!(report(&segment).log.unwrap().segments.len(), 1);
    assert_eq!(report(&snap.join("0000000000000001-0000000000000001.snap")).snapshots.len(), 1);
    let saved = report(&dir.path().join("snapshot")).database.unwrap();
    assert_eq!((saved.members[0].id.clone(), saved.removed), (OLD.to_string(), vec!["cd".into()]));
    assert!(contents(dir.path()) == before, "inspecting changed something");
}

#[test]
fn every_damage_is_told_and_the_rest_too() {
    let dir = tempfile::tempdir().unwrap();
    let data = restored(dir.path());
    let damage = |file: &str, at: usize| {
        let path = data.join("member").join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 0x40;
        std::fs::write(&path, bytes).unwrap();
    };
    damage("wal/0000000000000000-0000000000000000.wal", 150);
    damage("snap/0000000000000001-0000000000000001.snap", 100);
    let found = report(&data);
    assert!(found.damage.len() >= 2, "{:?}", found.damage);
    assert!(found.damage[0].contains(".wal: damaged at byte "), "{:?}", found.damage);
    assert!(found.damage[1].contains(".snap: its checksum is "), "{:?}", found.damage);
    assert!(found.database.is_some());
    let text = render::text(&found);
    assert_eq!(
        text.lines().filter(|line| line.starts_with("DAMAGE /")).count(),
        found.damage.len()
    );
    damage("snap/db", 3 * 4096 + 8);
    let found = report(&data);
    assert!(found.damage.iter().any(|line| line.contains("db: damaged at byte 12")));
    let failure = call(&["inspect", data.to_str().unwrap()]).unwrap_err();
    assert_eq!((failure.code, failure.text.as_str()), (1, ""));
}

#[test]
fn a_log_that_lost_its_end_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let data = restored(dir.path());
    let mut ahead = database(&storage::disk::Real, &dir.path().join("ahead"));
    ahead.commit(storage::bolt::Batch::default()).unwrap();
    drop(ahead);
    std::fs::rename(dir.path().join("ahead"), data.join("member/snap/db")).unwrap();
    let found = report(&data);
    assert_eq!(found.damage.len(), 1, "{:?}", found.damage);
    assert!(found.damage[0].ends_with(
        "it ends at entry 1, but the database has entry 50: the end of the log is lost"
    ));
}

#[test]
fn what_cannot_be_read_hides_nothing_of_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let data = restored(dir.path());
    let segment = "0000000000000001-0000000000000002.wal";
    std::fs::create_dir(data.join("member/wal").join(segment)).unwrap();
    let found = report(&data);
    assert!(found.damage.iter().any(|line| line.contains(segment)), "{:?}", found.damage);
    assert_eq!(found.log.unwrap().segments.len(), 2);
    assert!(found.database.is_some() && !found.snapshots.is_empty());
    // Nor does a log that cannot be listed.
    std::fs::remove_dir_all(data.join("member/wal")).unwrap();
    std::fs::write(data.join("member/wal"), "").unwrap();
    let found = report(&data);
    assert!(found.damage[0].contains("member/wal: "), "{:?}", found.damage);
    assert!(found.database.is_some() && found.log.is_none());
}
