//! Rescues of whole and of damaged directories of several kinds.
//!
//! The cluster of these tests has members 1, 2 and 3. A directory has a log from some entry on and
//! a database up to another; the same entries are the same everywhere.

mod evidence;

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use base::{ClusterId, LogIndex, Moment, Revision, Term};
use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, InternalRaftRequest, LeaseGrantRequest, Metadata, PutRequest,
    RequestHeader,
};
use proto::raftpb::{ConfState, Entry, HardState};
use proto::walpb;
use serde_json::Value;
use storage::bolt::View;
use storage::disk::{Disk, Open};
use storage::wal::{self, Wal};
use store::identity::first_entries;
use store::{Member, Store, StoreOptions, history};

use super::*;
use crate::command::{self, Parsed};
use crate::utl::ROOT;
use crate::utl::tests::{contents, refused, set_version};

const CLUSTER: ClusterId = ClusterId(0xc1);

fn members() -> Vec<Member> {
    let member = |id: u64| Member {
        id: MemberId(id),
        peer_urls: vec![format!("http://10.0.0.{id}:2380")],
        name: format!("m{id}"),
        ..Member::default()
    };
    (1..=3).map(member).collect()
}

/// What was asked for at an index: three members come, a lease and an alarm, then puts.
fn entry(index: u64, term: u64) -> Entry {
    if index <= 3 {
        return first_entries(&members())[index as usize - 1].clone();
    }
    let mut request = InternalRaftRequest {
        header: Some(RequestHeader { id: index, ..RequestHeader::default() }),
        ..InternalRaftRequest::default()
    };
    match index {
        4 => request.lease_grant = Some(LeaseGrantRequest { id: 77, ttl: 1000 }),
        5 => {
            let alarm = AlarmType::Nospace.into();
            request.alarm = Some(AlarmRequest { action: 1, member_id: 2, alarm });
        }
        6 => {
            let alarm = AlarmType::Nospace.into();
            request.alarm = Some(AlarmRequest { action: 2, member_id: 2, alarm });
        }
        _ => {
            request.put = Some(PutRequest {
                key: Bytes::from(format!("key{}", index % 7)),
                value: Bytes::from(format!("value {index} of term {term}").repeat(20)),
                lease: if index == 7 { 77 } else { 0 },
                ..PutRequest::default()
            });
        }
    }
    let data = Some(request.encode_to_vec().into());
    Entry { term: Some(term), index: Some(index), data, ..Entry::default() }
}

/// The revision after an entry.
fn revision(index: u64) -> i64 {
    (index as i64 - 5).max(1)
}

/// The term of an entry: the leader changes every hundred.
fn term(index: u64) -> u64 {
    if index <= 3 { 1 } else { 2 + index / 100 }
}

/// What a member has left.
#[derive(Clone)]
pub(in crate::utl) struct Left {
    pub(in crate::utl) member: u64,
    pub(in crate::utl) cluster: ClusterId,
    /// The last entry of the log.
    pub(in crate::utl) log: u64,
    pub(in crate::utl) commit: u64,
    /// The last entry of the database; 0 for none.
    pub(in crate::utl) database: u64,
    /// The log begins after a snapshot.
    pub(in crate::utl) snapshot: u64,
    /// From here on the entries are of another term.
    pub(in crate::utl) apart: Option<(u64, u64)>,
}

/// A directory in which nothing is missing.
pub(in crate::utl) const WHOLE: Left = Left {
    member: 1,
    cluster: CLUSTER,
    log: 250,
    commit: 240,
    database: 200,
    snapshot: 0,
    apart: None,
};

impl Left {
    fn entry(&self, index: u64) -> Entry {
        match self.apart {
            Some((from, term)) if index >= from => entry(index, term),
            _ => entry(index, term(index)),
        }
    }

    /// Makes the directory.
    pub(in crate::utl) fn make(&self, root: &Path) -> DataDir {
        let disk: Arc<dyn Disk> = Arc::new(Real);
        let dir = DataDir::new(root);
        dir.create(&Real).unwrap();
        if self.database > 0 {
            let options = bolt::Options { sync: false, ..bolt::Options::default() };
            let mut database = Database::open(&Real, &dir.database(), options).unwrap();
            let options = StoreOptions { quota_bytes: None, ..StoreOptions::default() };
            let now = Moment::from_nanos(0);
            let mut store = Store::open(database.view(), options, now).unwrap();
            for index in 1..=self.database {
                store.apply(&self.entry(index), now).unwrap();
            }
            database.commit(store.freeze().unwrap().batch).unwrap();
        }
        let metadata =
            Metadata { node_id: Some(self.member), cluster_id: Some(self.cluster.get()) };
        let options = wal::Options { segment_bytes: 1 << 14, sync: false };
        let metadata = Bytes::from(metadata.encode_to_vec());
        let mut wal = Wal::create(disk, dir.wal(), metadata, options).unwrap();
        let state = |commit: u64, last: u64| HardState {
            term: Some(self.entry(last).term()),
            vote: Some(self.member),
            commit: Some(commit.min(last)),
        };
        if self.snapshot > 0 {
            let record = walpb::Snapshot {
                index: Some(self.snapshot),
                term: self.entry(self.snapshot).term,
                conf_state: Some(ConfState { voters: vec![1, 2, 3], ..ConfState::default() }),
            };
            wal.save_snapshot(&record).unwrap();
            wal.append(&[], Some(&state(self.snapshot, self.snapshot))).unwrap();
        }
        for index in self.snapshot + 1..=self.log {
            wal.append(&[self.entry(index)], Some(&state(self.commit, index))).unwrap();
        }
        wal.close().unwrap();
        dir
    }
}

/// Damages a byte of a file.
fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

/// The segments of a log.
pub(in crate::utl) fn segments(dir: &DataDir) -> Vec<PathBuf> {
    let mut names = Real.list(dir.wal()).unwrap();
    names.retain(|name| name.extension().is_some_and(|end| end == "wal"));
    names.iter().map(|name| dir.wal().join(name)).collect()
}

/// Everything that must stay of a file: bytes, and when they were written.
pub(in crate::utl) type Trace = (PathBuf, Vec<u8>, i64, i64);

/// The files and directories below `dir`.
pub(in crate::utl) fn traces(dir: &Path) -> Vec<Trace> {
    let all = contents(dir).into_iter();
    all.map(|(path, bytes)| {
        let found = std::fs::metadata(&path).unwrap();
        (path, bytes, found.mtime(), found.mtime_nsec())
    })
    .collect()
}

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn make(&self, name: &str, left: &Left) -> DataDir {
        left.make(&self.0.path().join("old").join(name))
    }

    fn new_dir(&self) -> PathBuf {
        self.0.path().join("new")
    }

    fn words<'a>(&'a self, dirs: &'a [DataDir], flags: &[&'a str]) -> Vec<String> {
        let dirs = dirs.iter().map(|dir| dir.root().to_str().unwrap().to_owned());
        let output = format!("--output-dir={}", self.new_dir().display());
        let flags = flags.iter().map(|flag| (*flag).to_owned());
        std::iter::once("rescue".to_owned()).chain(dirs).chain(flags).chain([output]).collect()
    }

    /// Rescues, and tells what was found; the sources stay as they are.
    fn rescue(&self, dirs: &[DataDir], flags: &[&str]) -> Value {
        let line: Vec<Vec<u8>> =
            self.words(dirs, flags).into_iter().map(String::into_bytes).collect();
        let before = traces(&self.0.path().join("old"));
        let (path_of, args) = command::find(&ROOT, line.clone()).unwrap();
        let Ok(Parsed::Call(call)) = command::parse(&path_of, line, args) else {
            panic!("not a call")
        };
        let (report, ended) = rescue(&call).unwrap();
        ended.unwrap();
        assert!(traces(&self.0.path().join("old")) == before, "a source has changed");
        assert!(report.text().lines().all(|line| line.len() < 1000));
        serde_json::from_str(&report.json().unwrap()).unwrap()
    }

    /// A rescue that is refused, and leaves everything as it is.
    fn refused(&self, dirs: &[DataDir], flags: &[&str]) -> String {
        let words = self.words(dirs, flags);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let before = traces(&self.0.path().join("old"));
        let told = refused(&words);
        assert!(traces(&self.0.path().join("old")) == before, "a source has changed");
        assert!(!self.new_dir().exists(), "{told}: something was left");
        assert_eq!(told.lines().count(), 1, "{told}");
        told
    }

    /// The state in the new directory is that after an entry.
    fn check(&self, index: u64, left: &Left) {
        let view = View::open(&Real, &self.new_dir().join("member/snap/db"), 1 << 20).unwrap();
        let Bench(dir) = Bench::new();
        let whole =
            Left { database: index, log: index, commit: index, snapshot: 0, ..left.clone() };
        let expected = whole.make(&dir.path().join("expected")).database();
        let expected = View::open(&Real, &expected, 1 << 20).unwrap();
        for bucket in [schema::KEY, schema::LEASE, schema::ALARM, schema::AUTH] {
            let rows = |view: &View| view.scan(bucket, &[]).map(Result::unwrap).collect::<Vec<_>>();
            assert!(rows(&view) == rows(&expected), "bucket {}", bucket.escape_ascii());
        }
        let keys = history(view.clone()).unwrap();
        assert_eq!(keys.revision(), Revision(revision(index)));
        assert_eq!(Store::consistent_index(&view).unwrap(), LogIndex(1));
        assert_eq!(view.scan(schema::MEMBERS, &[]).count(), 1);
    }
}

#[test]
fn one_directory_is_made_a_cluster_with_all_that_is_in_its_log() {
    let bench = Bench::new();
    let dirs = [bench.make("a", &WHOLE)];
    let report = bench.rescue(&dirs, &["--name=n"]);
    bench.check(250, &WHOLE);
    let chosen = &report["chosen"];
    assert_eq!((&chosen["entry"], &chosen["term"]), (&250.into(), &4.into()));
    assert_eq!(chosen["revision"], revision(250));
    assert_eq!(chosen["certainRevision"], revision(240));
    assert_eq!((&chosen["voters"], &chosen["wholeVoters"]), (&3.into(), &1.into()));
    assert_eq!(chosen["mayLackAcknowledged"], true);
    assert_eq!(report["made"]["name"], "n");
    assert_ne!(report["made"]["cluster"], CLUSTER.to_string());
    // The log of the new one is that of a member of its own.
    let wal = bench.new_dir().join("member/wal");
    let at = wal::snapshots(&Real, &wal).unwrap().pop().unwrap();
    assert_eq!((at.index(), at.term()), (1, 1));
    let view = View::open(&Real, &bench.new_dir().join("member/snap/db"), 1 << 20).unwrap();
    let conf_state = view.get(schema::META, schema::CONF_STATE).unwrap().unwrap();
    let row: ConfStateRow = serde_json::from_slice(&conf_state).unwrap();
    assert_eq!(format!("{:x}", row.voters[0]), report["made"]["member"].as_str().unwrap());
}

#[test]
fn a_dry_run_tells_the_same_and_writes_nothing() {
    let bench = Bench::new();
    let dirs = [bench.make("a", &WHOLE)];
    let dry = bench.rescue(&dirs, &["--dry-run"]);
    assert!(!bench.new_dir().exists() && dry["made"].is_null());
    let made = bench.rescue(&dirs, &[]);
    assert_eq!((&dry["chosen"], &dry["directories"]), (&made["chosen"], &made["directories"]));
}

#[test]
fn the_highest_term_wins_and_then_the_longest_log() {
    let longer = Left { member: 2, log: 260, ..WHOLE };
    // It was leader of a later term, with fewer entries; what is longer was never agreed on.
    let later = Left { member: 3, log: 245, apart: Some((242, 9)), ..WHOLE };
    for (others, entry, term, expected) in [
        (vec![&longer], 260, 4, &longer),
        (vec![&longer, &later], 245, 9, &later),
        (vec![&later, &longer], 245, 9, &later),
    ] {
        let bench = Bench::new();
        let mut dirs = vec![bench.make("a", &WHOLE)];
        for (at, left) in others.iter().enumerate() {
            dirs.push(bench.make(&format!("b{at}"), left));
        }
        let report = bench.rescue(&dirs, &[]);
        bench.check(entry, expected);
        assert_eq!(
            (&report["chosen"]["entry"], &report["chosen"]["term"]),
            (&entry.into(), &term.into())
        );
        assert_eq!(report["chosen"]["certainRevision"], revision(240));
        // Two of three have everything.
        assert_eq!(report["chosen"]["mayLackAcknowledged"], false);
    }
}

#[test]
fn a_database_that_is_broken_does_not_win_but_its_log_does() {
    let bench = Bench::new();
    let (best, old) = (
        Left { log: 300, ..WHOLE },
        Left { member: 2, log: 150, commit: 140, database: 120, ..WHOLE },
    );
    let dirs = [bench.make("a", &best), bench.make("b", &old)];
    flip(&dirs[0].database(), 3 * 4096 + 8);
    let report = bench.rescue(&dirs, &[]);
    bench.check(300, &best);
    let chosen = &report["chosen"];
    assert!(chosen["database"].as_str().unwrap().contains("/b/"), "{chosen}");
    assert!(chosen["log"].as_str().unwrap().contains("/a/"), "{chosen}");
    assert!(report["directories"][0]["damage"][0].as_str().unwrap().contains("damaged at byte"));
    // Alone, the log has everything as well.
    std::fs::remove_dir_all(bench.new_dir()).unwrap();
    let report = bench.rescue(&dirs[..1], &[]);
    bench.check(300, &best);
    assert!(report["chosen"]["database"].is_null());
}

#[test]
fn a_log_that_is_damaged_loses_but_its_database_may_win() {
    let bench = Bench::new();
    let ahead = Left { database: 230, ..WHOLE };
    let behind = Left { member: 2, log: 180, commit: 180, database: 150, ..WHOLE };
    let dirs = [bench.make("a", &ahead), bench.make("b", &behind)];
    let log = segments(&dirs[0]);
    assert!(log.len() > 3);
    flip(&log[1], 300);
    std::fs::remove_file(log.last().unwrap()).unwrap();
    for path in &log[2..log.len() - 1] {
        flip(path, 20);
    }
    let report = bench.rescue(&dirs, &[]);
    bench.check(230, &ahead);
    let chosen = &report["chosen"];
    assert!(chosen["log"].is_null() && chosen["database"].as_str().unwrap().contains("/a/"));
    assert_eq!(chosen["certainRevision"], revision(230));
    assert_eq!(chosen["mayLackAcknowledged"], true);
}

#[test]
fn a_log_that_was_cut_is_used_as_far_as_it_goes() {
    let bench = Bench::new();
    let dirs = [bench.make("a", &WHOLE)];
    let last = segments(&dirs[0]).pop().unwrap();
    let file = std::fs::File::options().write(true).open(&last).unwrap();
    file.set_len(900).unwrap();
    drop(file);
    let report = bench.rescue(&dirs, &[]);
    let entry = report["chosen"]["entry"].as_u64().unwrap();
    assert!((200..250).contains(&entry), "{entry}");
    bench.check(entry, &WHOLE);
    assert!(report["directories"][0]["damage"].to_string().contains("torn at byte"));
}

#[test]
fn what_was_agreed_on_and_is_nowhere_is_told_as_lost() {
    let bench = Bench::new();
    let dirs = [bench.make("a", &WHOLE)];
    let log = segments(&dirs[0]);
    // A segment in the middle: the states after it tell of entries that are gone.
    flip(&log[log.len() - 2], 400);
    std::fs::remove_file(dirs[0].database()).unwrap();
    let report = bench.rescue(&dirs, &[]);
    let chosen = &report["chosen"];
    let entry = chosen["entry"].as_u64().unwrap();
    assert!(entry < 240, "{chosen}");
    bench.check(entry, &WHOLE);
    assert_eq!(chosen["lostEntries"], serde_json::json!([entry + 1, 240]));
    assert_eq!(chosen["certainRevision"], chosen["revision"]);
}

#[test]
fn a_log_after_a_snapshot_goes_on_from_the_database_of_another() {
    let bench = Bench::new();
    let after = Left { snapshot: 150, database: 0, ..WHOLE };
    let other = Left { member: 2, log: 160, commit: 155, database: 152, ..WHOLE };
    let dirs = [bench.make("a", &after), bench.make("b", &other)];
    bench.rescue(&dirs, &[]);
    bench.check(250, &WHOLE);
    // Without it there is nothing to go on from.
    std::fs::remove_dir_all(bench.new_dir()).unwrap();
    let told = bench.refused(&dirs[..1], &[]);
    assert!(told.starts_with("nothing can be rescued: no database is whole"), "{told}");
}

#[test]
fn a_database_that_was_received_and_not_installed_counts() {
    let bench = Bench::new();
    let (before, after) = (Left { database: 100, ..WHOLE }, Left { database: 220, ..WHOLE });
    let dirs = [bench.make("a", &Left { snapshot: 220, log: 220, commit: 220, ..before })];
    let received = after.make(&bench.0.path().join("leader")).database();
    std::fs::rename(received, dirs[0].received(LogIndex(220))).unwrap();
    let report = bench.rescue(&dirs, &[]);
    bench.check(220, &WHOLE);
    assert!(report["chosen"]["database"].as_str().unwrap().ends_with(".snap.db"));
}

#[test]
fn directories_that_do_not_belong_together_are_refused() {
    let bench = Bench::new();
    let a = bench.make("a", &WHOLE);
    let other = bench.make("b", &Left { cluster: ClusterId(0xc2), member: 2, ..WHOLE });
    let told = bench.refused(&[a.clone(), other], &[]);
    assert!(
        told.contains("/b is of cluster c2, and ") && told.ends_with("of cluster c1"),
        "{told}"
    );
    // The same cluster, but of two minds about what was agreed on.
    let apart = bench.make("c", &Left { member: 3, apart: Some((230, 8)), ..WHOLE });
    let told = bench.refused(&[a.clone(), apart], &[]);
    assert!(told.contains("have different entries 230"), "{told}");
    // Without a log nothing tells whose a database is, unless it knows the members.
    let foreign = bench.make("d", &Left { member: 2, ..WHOLE });
    std::fs::remove_dir_all(foreign.wal()).unwrap();
    let mut database =
        Database::open(&Real, &foreign.database(), bolt::Options::default()).unwrap();
    let report = bench.rescue(std::slice::from_ref(&a), &["--dry-run"]);
    assert_eq!(report["directories"][0]["member"], "1");
    let mut batch = bolt::Batch::default();
    for member in members() {
        batch.delete(schema::MEMBERS, schema::member(member.id));
    }
    database.commit(batch).unwrap();
    drop(database);
    let told = bench.refused(&[a, foreign], &[]);
    assert!(told.contains("nothing in it tells that it is of cluster c1"), "{told}");
}

#[test]
fn what_cannot_be_rescued_is_refused_in_one_line() {
    let bench = Bench::new();
    let a = bench.make("a", &WHOLE);
    let root = bench.0.path();
    let (nothing, text) = (root.join("old/nothing"), root.join("old/text"));
    std::fs::create_dir(&nothing).unwrap();
    std::fs::write(&text, "text").unwrap();
    let dir = |path: &Path| DataDir::new(path);
    for (dirs, flags, reason) in [
        (vec![dir(&nothing)], &[][..], "nothing: not a data directory: it has no directory member"),
        (vec![dir(&text)], &[], "text: not a data directory"),
        (vec![dir(&root.join("none"))], &[], "none: no such file or directory"),
        (vec![a.clone(), a.clone()], &[], "is named twice"),
        (vec![], &[], "rescue requires at least one data directory"),
        (vec![a.clone()], &["--bump-revision=5"], "--mark-compacted required if"),
        (vec![a.clone()], &["--initial-advertise-peer-urls=x"], "URL scheme must be"),
        (vec![a.clone()], &["--source-wal-dirs=a,b"], "names more directories than"),
        (
            vec![a.clone()],
            &["--bump-revision=9223372036854775800", "--mark-compacted"],
            "--bump-revision is too large",
        ),
    ] {
        let told = bench.refused(&dirs, flags);
        assert!(told.contains(reason), "{told}");
    }
    // A new directory inside of an old one would change that.
    for place in ["new", "member/new", "member/wal/new"] {
        let inside = format!("--output-dir={}", a.root().join(place).display());
        let before = traces(root);
        let told = refused(&["rescue", a.root().to_str().unwrap(), &inside]);
        assert!(told.contains("is inside of"), "{told}");
        assert!(traces(root) == before);
    }
}

#[test]
fn a_directory_in_use_is_refused() {
    let bench = Bench::new();
    let dirs = [bench.make("a", &WHOLE)];
    let database = Real.open(&dirs[0].database(), Open::Write).unwrap();
    database.try_lock(storage::disk::Lock::Flock).unwrap();
    let told = bench.refused(&dirs, &["--timeout=1ms"]);
    assert!(told.ends_with("the database is in use by another process"), "{told}");
    drop(database);
    // Nor one whose log is written while its database is not there.
    std::fs::remove_file(dirs[0].database()).unwrap();
    let segment = Real.open(segments(&dirs[0]).last().unwrap(), Open::Write).unwrap();
    segment.try_lock(storage::disk::Lock::Ofd).unwrap();
    let told = bench.refused(&dirs, &["--timeout=1ms"]);
    assert!(told.ends_with("locked: another process uses this data directory"), "{told}");
    drop(segment);
    bench.rescue(&dirs, &[]);
}

#[test]
fn rows_of_a_version_from_the_future_are_refused() {
    let bench = Bench::new();
    let dirs = [bench.make("a", &WHOLE), bench.make("b", &Left { member: 2, ..WHOLE })];
    let open = || Database::open(&Real, &dirs[1].database(), bolt::Options::default()).unwrap();
    let mut batch = bolt::Batch::default();
    set_version(&mut batch, "3.8.0");
    open().commit(batch).unwrap();
    let told = bench.refused(&dirs, &[]);
    assert!(told.contains("/b/member/snap/db: it has rows of version 3.8.0"), "{told}");
    let mut batch = bolt::Batch::default();
    set_version(&mut batch, "3.7.0");
    batch.put(schema::CLUSTER, schema::name(schema::CLUSTER_VERSION), Bytes::from("4.0.0"));
    open().commit(batch).unwrap();
    let told = bench.refused(&dirs, &[]);
    assert!(told.contains("it has a cluster of version 4.0.0"), "{told}");
}

#[test]
fn the_new_cluster_has_ids_of_its_own() {
    let bench = Bench::new();
    // A cluster that began as one member, at the place where the new one is to be.
    let urls = vec!["http://10.0.0.1:2380".to_owned()];
    let own = store::identity::member_id(&urls, "tok");
    let cluster = store::identity::cluster_id(&[own]);
    let dirs = [bench.make("a", &Left { member: own.get(), cluster, ..WHOLE })];
    let url = "--initial-advertise-peer-urls=http://10.0.0.1:2380";
    let told = bench.refused(&dirs, &[url, "--initial-cluster-token=tok"]);
    assert!(told.contains("\"tok\" gives the new cluster an id of the old one"), "{told}");
    let report = bench.rescue(&dirs, &[url]);
    assert_ne!(report["made"]["cluster"], cluster.to_string());
    assert_ne!(report["made"]["member"], own.to_string());
}

#[test]
fn revisions_may_jump() {
    let bench = Bench::new();
    let dirs = [bench.make("a", &WHOLE)];
    let report = bench.rescue(&dirs, &["--bump-revision=1000", "--mark-compacted"]);
    assert_eq!(report["made"]["revision"], revision(250) + 1000);
    let view = View::open(&Real, &bench.new_dir().join("member/snap/db"), 1 << 20).unwrap();
    let keys = history(view).unwrap();
    assert_eq!((keys.revision(), keys.compact_revision()), (Revision(1245), Revision(1245)));
}

#[test]
fn a_rescue_that_fails_late_leaves_nothing() {
    let bench = Bench::new();
    let dir = bench.make("a", &Left { log: 200, commit: 200, ..WHOLE });
    // An entry that no member of this version can apply.
    let at = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None };
    let options = wal::Options { segment_bytes: 1 << 14, sync: false };
    let mut wal = Wal::open(Arc::new(Real), dir.wal(), &at, options).unwrap().wal;
    let strange = Entry {
        term: Some(Term(5).0),
        index: Some(201),
        data: Some(Bytes::from_static(b"\xff\xff")),
        ..Entry::default()
    };
    wal.append(&[strange], None).unwrap();
    wal.close().unwrap();
    let told = bench.refused(&[dir], &[]);
    assert!(told.contains("/old/a/member/wal: log entry 201: not a request"), "{told}");
}
