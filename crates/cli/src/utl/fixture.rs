//! A small database, as a member leaves it, and calls of the tool, for tests.

use std::path::{Path, PathBuf};

use base::{LogIndex, MemberId, Revision, Term};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use storage::bolt::{Batch, Database, Options};
use storage::disk::{Disk, Real};
use store::mvcc::Parts;
use store::{Member, RevKey, schema};

use super::ROOT;
use crate::failure::Outcome;
use crate::tool;

/// The newest revision in the database.
pub(super) const REVISION: i64 = 41;
/// The member in the database.
pub(super) const OLD: MemberId = MemberId(0xab);

/// Calls the tool.
pub(super) fn call(words: &[&str]) -> Outcome {
    tool::dispatch(&ROOT, words.iter().map(|word| word.as_bytes().to_vec()).collect())
}

/// What a call that fails tells.
pub(super) fn refused(words: &[&str]) -> String {
    match call(words) {
        Err(failure) => failure.reason().to_owned(),
        Ok(()) => panic!("{words:?} succeeded"),
    }
}

/// Makes a database with ten keys in several revisions, a deleted one, and a member.
pub(super) fn database(disk: &dyn Disk, path: &Path) -> Database {
    let mut database = Database::open(disk, path, Options::default()).unwrap();
    let mut batch = Batch::default();
    for bucket in schema::BUCKETS {
        batch.create_bucket(bucket);
    }
    let row_key = |main, tombstone| {
        Bytes::copy_from_slice(RevKey::first_of(Revision(main)).encode(tombstone).as_ref())
    };
    for main in 2..REVISION {
        let create = main.min(2 + (main - 2) % 10);
        let (key, value) = (format!("key{create}"), vec![b'v'; 50 * main as usize]);
        let parts = Parts {
            key: key.as_bytes(),
            create: Revision(create),
            modified: Revision(main),
            version: 1 + (main - create) / 10,
            value: &value,
            ..Parts::default()
        };
        batch.put(schema::KEY, row_key(main, false), parts.to_row());
    }
    let gone = Parts { key: b"key3", ..Parts::default() };
    batch.put(schema::KEY, row_key(REVISION, true), gone.to_row());
    for (name, value) in schema::applied(LogIndex(50), Term(3)) {
        batch.put(schema::META, name, value);
    }
    set_version(&mut batch, "3.7.0");
    let member = Member { id: OLD, name: "old".into(), ..Member::default() };
    batch.put(schema::MEMBERS, schema::member(OLD), member.to_json().into());
    batch.put(schema::MEMBERS_REMOVED, schema::member(MemberId(0xcd)), Bytes::from("removed"));
    database.commit(batch).unwrap();
    database
}

/// Says of which version the rows are.
pub(super) fn set_version(batch: &mut Batch, version: &str) {
    let name = schema::name(schema::STORAGE_VERSION);
    batch.put(schema::META, name, Bytes::copy_from_slice(version.as_bytes()));
}

/// Writes what a member would send of a database as its snapshot, and says where.
pub(super) fn snapshot(database: &Database, dir: &Path) -> PathBuf {
    let image = database.view().image();
    let mut bytes = image.read_at(0, image.len() as usize).unwrap().to_vec();
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    let path = dir.join("snapshot");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The data directory of a member that has stopped, with a database.
pub(super) fn data_dir(dir: &Path) -> PathBuf {
    let data = dir.join("data");
    let snap = data.join("member/snap");
    Real.create_dir_all(&snap).unwrap();
    drop(database(&Real, &snap.join("db")));
    data
}

/// All files and directories below `dir`, with what is in them.
pub(super) fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut names: Vec<PathBuf> =
        dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        if path.is_dir() {
            all.push((path.clone(), Vec::new()));
            all.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            all.push((path, bytes));
        }
    }
    all
}
