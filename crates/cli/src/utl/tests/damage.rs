//! Every command with inputs that are damaged in every way that has a name: one clear line, an exit
//! code, and nothing is written.
//!
//! *Absent.* Values that are another value than was written: a row has no checksum, so that only
//! the digest of a snapshot tells.

use std::path::{Path, PathBuf};

use base::Revision;
use bytes::Bytes;
use storage::bolt::{Batch, Database, Options};
use storage::disk::Real;
use store::mvcc::Parts;
use store::{RevKey, schema};

use super::{call, database, refused, set_version};
use crate::utl::rescue::tests::{WHOLE, segments, traces};

const PAGE: usize = 4096;
/// Where a meta page has its magic, its freelist, its high-water mark and its checksum.
const MAGIC: usize = 16;
const FREELIST: usize = 48;
const HIGH_WATER: usize = 56;
const CHECKSUM: usize = 72;

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Makes the checksum of a meta page right again.
fn seal(bytes: &mut [u8], slot: usize) {
    let meta = &bytes[slot * PAGE + MAGIC..slot * PAGE + CHECKSUM];
    let sum = meta.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    bytes[slot * PAGE + CHECKSUM..slot * PAGE + CHECKSUM + 8].copy_from_slice(&sum.to_le_bytes());
}

/// A database with pages of every kind: branches, leaves, a long row, and a list of free pages as
/// bbolt writes it where etcd does not forbid it.
fn every_kind(dir: &Path) -> Vec<u8> {
    let path = dir.join("all");
    let mut all: Database = database(&Real, &path);
    let mut batch = Batch::default();
    for main in 100..400 {
        let value = vec![b'v'; if main == 250 { 3 * PAGE } else { 200 }];
        let parts = Parts {
            key: format!("k{main}").as_bytes(),
            create: Revision(main),
            modified: Revision(main),
            version: 1,
            value: &value,
            ..Parts::default()
        }
        .to_row();
        let name = RevKey::first_of(Revision(main)).encode(false);
        batch.put(schema::KEY, Bytes::copy_from_slice(name.as_ref()), parts);
    }
    all.commit(batch).unwrap();
    let image = all.view().image();
    let mut bytes = image.read_at(0, image.len() as usize).unwrap().to_vec();
    let page = u64_at(&bytes, HIGH_WATER);
    bytes.resize(bytes.len() + PAGE, 0);
    let at = page as usize * PAGE;
    bytes[at..at + 8].copy_from_slice(&page.to_le_bytes());
    bytes[at + 8] = 0x10;
    for slot in 0..2 {
        let meta = slot * PAGE;
        bytes[meta + FREELIST..meta + FREELIST + 8].copy_from_slice(&page.to_le_bytes());
        bytes[meta + HIGH_WATER..meta + HIGH_WATER + 8].copy_from_slice(&(page + 1).to_le_bytes());
        seal(&mut bytes, slot);
    }
    bytes
}

/// The first page of each kind that the newest state uses.
fn pages(bytes: &[u8]) -> Vec<(&'static str, usize)> {
    let of = |flags: u8, overflows: bool| {
        (2..bytes.len() / PAGE)
            .rfind(|page| {
                let header = &bytes[page * PAGE..page * PAGE + 16];
                u64_at(header, 0) == *page as u64
                    && header[8] == flags
                    && (header[12] > 0) == overflows
                    && used(bytes, *page)
            })
            .unwrap_or_else(|| panic!("no page with flags {flags}"))
    };
    vec![
        ("branch", of(1, false)),
        ("leaf", of(2, false)),
        ("overflow", of(2, true)),
        ("freelist", of(0x10, false)),
    ]
}

/// Whether a changed page is noticed: it belongs to the newest state.
fn used(bytes: &[u8], page: usize) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut changed = bytes.to_vec();
    changed[page * PAGE + 8] ^= 0x40;
    std::fs::write(&path, changed).unwrap();
    storage::bolt::View::open(&Real, &path, 1 << 20).is_err()
}

/// Everything that reads a database is called on one, alone and in a directory without a log.
fn refused_by_all(dir: &Path, bytes: &[u8], what: &str) {
    let data = dir.join("case");
    let file = data.join("member/snap/db");
    let _ = std::fs::remove_dir_all(&data);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let before = traces(dir);
    let new = dir.join("new").to_str().unwrap().to_owned();
    for line in [
        &["snapshot", "status", file][..],
        &["hashkv", file],
        &["snapshot", "restore", file, "--skip-hash-check", "--data-dir", &new],
        &["defrag", "--data-dir", data],
        &["migrate", "--data-dir", data, "--target-version=3.6"],
    ] {
        let failure = call(line).expect_err(what);
        assert!(failure.code != 0, "{what}: {line:?}");
        let told = failure.reason();
        assert!(told.contains(file), "{what}: {line:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{what}: {line:?}: {told}");
        assert!(traces(dir) == before, "{what}: {line:?} has changed something");
    }
    // These tell what they found on stdout as well.
    let failure = call(&["rescue", data, "--output-dir", &new]).expect_err(what);
    assert!(failure.reason().starts_with("nothing can be rescued"), "{}", failure.reason());
    let failure = call(&["inspect", data]).expect_err(what);
    assert_eq!((failure.code, failure.text.as_str()), (1, ""), "{what}");
    assert!(traces(dir) == before, "{what}: something was changed");
}

#[test]
fn a_bit_in_the_head_of_a_page_of_any_kind_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let whole = every_kind(dir.path());
    for (kind, page) in pages(&whole) {
        // Its number, its kind, how many rows, how long.
        for (at, bit) in [(0, 1), (8, 0x40), (13, 0x10)] {
            let mut bytes = whole.clone();
            bytes[page * PAGE + at] ^= bit;
            refused_by_all(dir.path(), &bytes, &format!("{kind} page {page}, byte {at}"));
        }
    }
    // Rows that lie outside of their page, or where others are.
    for (kind, page) in &pages(&whole)[..2] {
        let mut bytes = whole.clone();
        bytes[page * PAGE + 16 + if *kind == "branch" { 3 } else { 7 }] ^= 0x10;
        refused_by_all(dir.path(), &bytes, &format!("{kind} page {page}, a row outside"));
    }
}

#[test]
fn one_meta_page_may_be_lost_and_not_both() {
    let dir = tempfile::tempdir().unwrap();
    let whole = every_kind(dir.path());
    for (what, at) in [("magic", MAGIC), ("version", MAGIC + 4), ("checksum", CHECKSUM)] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        let file = dir.path().join("one");
        std::fs::write(&file, &bytes).unwrap();
        assert!(storage::bolt::View::open(&Real, &file, 1 << 20).is_ok(), "{what}");
        bytes[PAGE + at] ^= 0x20;
        refused_by_all(dir.path(), &bytes, what);
    }
    // A state of pages that are not there.
    let mut bytes = whole;
    for slot in 0..2 {
        bytes[slot * PAGE + HIGH_WATER + 1] ^= 0x10;
        seal(&mut bytes, slot);
    }
    refused_by_all(dir.path(), &bytes, "high-water mark");
}

#[test]
fn what_is_cut_or_no_database_of_etcds_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let whole = every_kind(dir.path());
    for len in [32, 100, PAGE, 2 * PAGE, whole.len() / 2, whole.len() - PAGE] {
        let what = format!("cut to {len} bytes");
        refused_by_all(dir.path(), &whole[..len], &what);
    }
    refused_by_all(dir.path(), &vec![0; whole.len()], "zeros");
    refused_by_all(dir.path(), &b"text\n".repeat(5000), "text");
}

#[test]
fn a_snapshot_with_a_wrong_digest_is_not_restored() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = every_kind(dir.path());
    bytes.extend_from_slice(&[7; 32]);
    let file = dir.path().join("file");
    std::fs::write(&file, bytes).unwrap();
    let (file, new) = (file.to_str().unwrap(), dir.path().join("new"));
    let before = traces(dir.path());
    let told = refused(&["snapshot", "restore", file, "--data-dir", new.to_str().unwrap()]);
    assert!(told.starts_with("expected sha256 [7 7 "), "{told}");
    assert!(traces(dir.path()) == before);
}

/// A directory that something is wrong with, and the commands that must say so.
struct Wrong {
    what: &'static str,
    make: fn(&Path),
    told: &'static [(&'static str, &'static str)],
}

fn set(data: &Path, version: &str) {
    let path = data.join("member/snap/db");
    let mut database = Database::open(&Real, &path, Options::default()).unwrap();
    let mut batch = Batch::default();
    set_version(&mut batch, version);
    database.commit(batch).unwrap();
}

#[test]
fn directories_that_are_wrong_are_told() {
    let cases = [
        Wrong {
            what: "rows of a version from the future",
            make: |data| set(data, "3.8.0"),
            told: &[
                ("migrate", "version \"3.8.0\" is not supported"),
                ("restore", "rows of version 3.8.0"),
                ("rescue", "rows of version 3.8.0"),
            ],
        },
        Wrong {
            what: "rows of another major version",
            make: |data| set(data, "4.0.0"),
            told: &[
                ("migrate", "changing major storage version is not supported"),
                ("restore", "rows of version 4.0.0"),
                ("rescue", "rows of version 4.0.0"),
            ],
        },
        Wrong {
            what: "a log of which the middle is missing",
            make: |data| {
                let dir = storage::datadir::DataDir::new(data);
                std::fs::remove_file(&segments(&dir)[1]).unwrap();
            },
            told: &[("migrate", "a segment is missing before this one"), ("inspect", "")],
        },
        Wrong {
            what: "no database",
            make: |data| std::fs::remove_file(data.join("member/snap/db")).unwrap(),
            told: &[
                ("migrate", "no such file or directory"),
                ("defrag", "no such file or directory"),
                ("restore", "no such file or directory"),
                ("status", "no such file or directory"),
                ("hashkv", "no such file or directory"),
                ("inspect", ""),
            ],
        },
        Wrong {
            what: "a directory in the place of the database",
            make: |data| {
                std::fs::remove_file(data.join("member/snap/db")).unwrap();
                std::fs::create_dir(data.join("member/snap/db")).unwrap();
            },
            told: &[
                ("migrate", "directory"),
                ("defrag", "directory"),
                ("restore", "directory"),
                ("status", "directory"),
                ("hashkv", "directory"),
                ("inspect", ""),
            ],
        },
        Wrong {
            what: "nothing of etcd's",
            make: |data| {
                std::fs::remove_dir_all(data.join("member")).unwrap();
                std::fs::write(data.join("file"), "something").unwrap();
            },
            told: &[
                ("rescue", "not a data directory"),
                ("inspect", "neither a data directory nor a log"),
                ("defrag", "no such file or directory"),
                ("migrate", "no such file or directory"),
            ],
        },
    ];
    for Wrong { what, make, told } in cases {
        let dir = tempfile::tempdir().unwrap();
        let data = WHOLE.make(&dir.path().join("data")).root().to_owned();
        make(&data);
        let (file, new) = (data.join("member/snap/db"), dir.path().join("new"));
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        let (file, new, data) = (text(&file), text(&new), text(&data));
        let before = traces(dir.path());
        for (command, expected) in told {
            let line = match *command {
                "migrate" => vec!["migrate", "--data-dir", &data, "--target-version=3.6"],
                "defrag" => vec!["defrag", "--data-dir", &data],
                "restore" => {
                    vec!["snapshot", "restore", &file, "--skip-hash-check", "--data-dir", &new]
                }
                "status" => vec!["snapshot", "status", &file],
                "hashkv" => vec!["hashkv", &file],
                "inspect" => vec!["inspect", &data],
                _ => vec!["rescue", &data, "--output-dir", &new],
            };
            let reason = refused(&line);
            assert!(reason.contains(expected), "{what}: {line:?}: {reason}");
            assert!(reason.lines().count() <= 1, "{what}: {line:?}: {reason}");
            assert!(traces(dir.path()) == before, "{what}: {line:?} has changed something");
        }
    }
}
