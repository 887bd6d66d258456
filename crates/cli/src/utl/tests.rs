//! A small database, as a member leaves it, and calls of the tool, for the tests of all commands;
//! and what every command has in common.

mod damage;
mod fuzz;

use std::path::{Path, PathBuf};

use base::{LogIndex, MemberId, Revision, Term};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use storage::bolt::{Batch, Database, Options};
use storage::disk::{Disk, Real};
use store::mvcc::Parts;
use store::{Member, RevKey, schema};

use super::ROOT;
use crate::command::{self, Args, Command, Parsed};
use crate::failure::Outcome;
use crate::{help, tool};

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

fn words(text: &str) -> Vec<command::Arg> {
    text.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn every_command_has_valid_defaults_and_help() {
    fn visit(path: &[&'static Command]) {
        let command = path[path.len() - 1];
        let parsed = command::parse(path, vec![], vec![]);
        let needs =
            command.flags.iter().any(|flag| flag.required) || !matches!(command.args, Args::Any);
        assert_eq!(matches!(parsed, Ok(Parsed::Call(_))), !needs, "{}", command.name);
        let text = help::help(path);
        assert!(text.contains("Usage:\n  etcdutl") && text.ends_with('\n'), "{text}");
        assert!(command.run.is_some() == command.commands.is_empty());
        for child in command.commands {
            visit(&[path, &[*child]].concat());
        }
    }
    visit(&[&ROOT]);
}

#[test]
fn arguments_and_flags_that_are_missing_are_told() {
    for (line, error) in [
        ("hashkv", "accepts 1 arg(s), received 0"),
        ("hashkv a b", "accepts 1 arg(s), received 2"),
        ("completion", "accepts 1 arg(s), received 0"),
        ("completion csh", "invalid argument \"csh\" for \"etcdutl completion\""),
        ("defrag", "required flag(s) \"data-dir\" not set"),
        ("migrate", "required flag(s) \"data-dir\", \"target-version\" not set"),
        (
            "snapshot restore a --bump-revision -3",
            "invalid argument \"-3\" for \"--bump-revision\" flag: \
             strconv.ParseUint: parsing \"-3\": invalid syntax",
        ),
    ] {
        let (path, args) = command::find(&ROOT, words(line)).expect(line);
        let parsed = command::parse(&path, words(line), args);
        assert_eq!(parsed.err().as_deref(), Some(error), "{line}");
    }
}

#[test]
fn the_root_is_laid_out_as_etcdutl_does() {
    let expected = "Usage:\n  etcdutl [command]\n\nAvailable Commands:\n  \
        completion  Generate completion script\n  \
        defrag      Defragments the storage of the etcd\n  \
        hashkv      Prints the KV history hash of a given file\n  \
        help        Help about any command\n  \
        migrate     Migrates schema of etcd data dir files to make them compatible with \
        different etcd version\n  \
        snapshot    Manages etcd node snapshots\n  \
        version     Prints the version of etcdutl\n\nFlags:\n  \
        -h, --help               help for etcdutl\n      \
        --timeout duration   time to wait to obtain a file lock on db file, 0 to block \
        indefinitely (default 10s)\n  \
        -w, --write-out string   set the output format (fields, json, protobuf, simple, \
        table) (default \"simple\")\n\n\
        Use \"etcdutl [command] --help\" for more information about a command.\n";
    assert_eq!(help::help(&[&ROOT]), expected);
}

#[test]
fn a_value_that_is_no_text_is_refused_by_name() {
    for line in [&[&b"--data-dir=/a\xff"[..]][..], &[b"--data-dir", b"/a\xff"]] {
        let line = [&[&b"defrag"[..]], line].concat().iter().map(|word| word.to_vec()).collect();
        let failure = tool::dispatch(&ROOT, line).unwrap_err();
        assert_eq!(failure.code, 1);
        assert!(failure.text.contains("/a\\xff\" is not UTF-8\n"), "{}", failure.text);
    }
}
