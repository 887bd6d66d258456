//! Restores and looks at snapshots, whole ones and others.

use std::path::Path;

use base::Revision;
use fuzz::{Verdict, fuzz, int, mutate};
use proto::etcdserverpb::Metadata;
use proto::raftpb::{ConfChange, ConfState};
use proto::walpb;
use storage::bolt::{Batch, View};
use storage::disk::{Disk as _, Faulty, Open, Real};
use storage::snap::Snapshots;
use storage::wal;
use store::{Member, RevKey, history, schema};

use super::status::status;
use crate::utl::tests::{
    OLD, REVISION, call, contents, data_dir, database, refused, set_version, snapshot,
};

/// The peer URL of a member of the new cluster, and the flag that names all of them.
const URL: &str = "http://10.0.0.2:2380";
const CLUSTER: &str = "--initial-cluster=a=http://10.0.0.1:2380,b=http://10.0.0.2:2380";

fn open(path: &Path) -> View {
    View::open(&Real, path, 1 << 20).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_restored_member_has_the_rows_and_is_of_a_new_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let file = snapshot(&database(&Faulty::new(0), Path::new("/db")), dir.path());
    let data = dir.path().join("x/data");
    let urls = format!("--initial-advertise-peer-urls={URL}");
    let to = format!("--data-dir={}", data.display());
    call(&["snapshot", "restore", text(&file), &to, "--name=b", CLUSTER, &urls]).unwrap();

    let (snap, log) = (data.join("member/snap"), data.join("member/wal"));
    let view = open(&snap.join("db"));
    let source = open(&file);
    assert_eq!(
        history(view.clone()).unwrap().hash_kv(Revision(0)).unwrap(),
        history(source).unwrap().hash_kv(Revision(0)).unwrap()
    );
    let rows: Vec<_> = view.scan(schema::MEMBERS, &[]).map(Result::unwrap).collect();
    let members: Vec<Member> =
        rows.iter().map(|(_, row)| Member::from_json(row).unwrap()).collect();
    let mut names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(view.scan(schema::MEMBERS_REMOVED, &[]).count(), 0);
    let index = view.get(schema::META, schema::CONSISTENT_INDEX).unwrap().unwrap();
    assert_eq!(schema::read_number(&index), Some(2));

    // The log leads to the same members, and begins with the snapshot.
    let records = wal::snapshots(&Real, &log).unwrap();
    let at = records.last().unwrap();
    assert_eq!((at.index(), at.term()), (2, 1));
    let start = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None };
    let whole = wal::read(&Real, &log, &start).unwrap();
    let metadata: Metadata = proto::decode(whole.metadata).unwrap();
    let own = members.iter().find(|member| member.name == "b").unwrap();
    assert_eq!(metadata.node_id(), own.id.get());
    let ids: Vec<u64> = whole
        .entries
        .iter()
        .map(|entry| proto::decode::<ConfChange>(entry.data()).unwrap().node_id())
        .collect();
    assert!(ids.is_sorted() && ids.len() == 2);
    assert_eq!((whole.hard_state.commit(), whole.hard_state.vote()), (2, ids[0]));
    let files = Snapshots::new(std::sync::Arc::new(Real), &snap);
    let found = files.load_newest(&records).unwrap().snapshot.unwrap();
    let voters = ConfState { voters: ids, ..ConfState::default() };
    assert_eq!(found.metadata.unwrap().conf_state, Some(voters));
    assert!(!data.join("member.tmp").exists());
}

#[test]
fn the_log_may_be_elsewhere_and_revisions_may_jump() {
    let dir = tempfile::tempdir().unwrap();
    let file = snapshot(&database(&Faulty::new(0), Path::new("/db")), dir.path());
    let (data, log) = (dir.path().join("data"), dir.path().join("y/log"));
    let bump = ["--bump-revision=1000", "--mark-compacted"];
    let line = ["snapshot", "restore", text(&file), "--data-dir", text(&data), "--wal-dir"];
    call(&[&line[..], &[text(&log)], &bump].concat()).unwrap();
    assert_eq!(wal::snapshots(&Real, &log).unwrap().len(), 2);
    assert!(!data.join("member/wal").exists());
    let view = open(&data.join("member/snap/db"));
    let (key, row) = view.scan(schema::KEY, &[]).last().unwrap().unwrap();
    let at = Revision(REVISION + 1000);
    assert_eq!((RevKey::decode(&key), row.len()), (Some((RevKey::first_of(at), false)), 0));
    let scheduled = view.get(schema::META, schema::SCHEDULED_COMPACT).unwrap().unwrap();
    assert_eq!(schema::read_compaction(&scheduled), Some(at));
    let keys = history(view).unwrap();
    assert_eq!((keys.revision(), keys.compact_revision()), (at, at));
}

#[test]
fn the_log_may_be_anywhere_but_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let file = snapshot(&database(&Faulty::new(0), Path::new("/db")), dir.path());
    for (place, fits) in [
        ("member/log", true),
        ("member/a/b", true),
        ("log", true),
        ("member/snap", false),
        ("member", false),
    ] {
        let data = dir.path().join("data");
        let log = data.join(place);
        let line = ["snapshot", "restore", text(&file), "--data-dir", text(&data), "--wal-dir"];
        let line = [&line[..], &[text(&log)]].concat();
        if fits {
            call(&line).unwrap();
            assert_eq!(wal::snapshots(&Real, &log).unwrap().len(), 2, "{place}");
            open(&data.join("member/snap/db"));
            std::fs::remove_dir_all(&data).unwrap();
        } else {
            assert!(refused(&line).ends_with("is where the database is to be"));
            assert!(!data.exists());
        }
    }
}

#[test]
fn a_restore_that_fails_leaves_nothing_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Faulty::new(0);
    let mut source = database(&disk, Path::new("/db"));
    let file = snapshot(&source, dir.path());
    let whole = std::fs::read(&file).unwrap();
    let name = |name: &str| dir.path().join(name);
    let write = |to: &str, bytes: &[u8]| std::fs::write(name(to), bytes).unwrap();
    let mut flipped = whole.clone();
    flipped[5 * 4096 + 16] ^= 0x40;
    write("flipped", &flipped);
    write("cut", &whole[..whole.len() - 512]);
    write("bare", &whole[..whole.len() - 32]);
    write("short", &whole[..20]);
    write("text", &[b'x'; 8192]);
    write("empty", &[]);
    let mut batch = Batch::default();
    set_version(&mut batch, "3.8.0");
    source.commit(batch).unwrap();
    std::fs::create_dir(name("later")).unwrap();
    let newer = snapshot(&source, &name("later"));
    drop(data_dir(dir.path()));
    let before = contents(dir.path());
    let skip = "--skip-hash-check";
    let (bump, mark) = ("--bump-revision=9223372036854775800", "--mark-compacted");
    for (file, flags, reason) in [
        ("flipped", &[][..], "expected sha256 ["),
        ("flipped", &[skip], "flipped: damaged at byte 20"),
        ("cut", &[], "expected sha256 ["),
        ("cut", &[skip], "cut: damaged at byte "),
        ("bare", &[], "snapshot missing hash but --skip-hash-check=false"),
        ("short", &[skip], "invalid argument"),
        ("empty", &[skip], "invalid argument"),
        ("text", &[skip], "text: damaged at byte 16: not a database"),
        ("data", &[skip], "is a directory"),
        ("nosuch", &[], "nosuch: no such file or directory"),
        (text(&newer), &[], "the snapshot has rows of version 3.8.0, which members of 3.7 do not"),
        (text(&file), &[bump, mark], "--bump-revision is too large"),
        (text(&file), &["--name=x"], "couldn't find local name \"x\""),
    ] {
        let (file, data, log) = (name(file), name("a/b/new"), name("c/log"));
        let line = ["snapshot", "restore", text(&file), "--data-dir", text(&data), "--wal-dir"];
        let told = refused(&[&line[..], &[text(&log)], flags].concat());
        assert!(told.contains(reason) && told.lines().count() == 1, "{told}");
        assert!(contents(dir.path()) == before, "{file:?} {flags:?}");
    }
    for (flag, target, reason) in [
        ("--data-dir", "data", "data\" not empty or could not be read"),
        ("--data-dir", "empty", "empty\" not empty or could not be read"),
        ("--wal-dir", "data", "data\" exists"),
    ] {
        let other = if flag == "--wal-dir" { "--data-dir" } else { "--wal-dir" };
        let (new, target) = (name("new"), name(target));
        let line = ["snapshot", "restore", text(&file), flag, text(&target), other, text(&new)];
        let told = refused(&line);
        assert!(told.contains(reason), "{told}");
        assert!(contents(dir.path()) == before, "{line:?}");
    }
}

#[test]
fn a_snapshot_is_not_taken_from_a_database_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let data = data_dir(dir.path());
    let file = data.join("member/snap/db");
    let writer = storage::bolt::Database::open(&Real, &file, Default::default()).unwrap();
    let new = dir.path().join("new");
    let line = ["snapshot", "restore", text(&file), "--skip-hash-check", "--timeout=1ms"];
    let told = refused(&[&line[..], &["--data-dir", text(&new)]].concat());
    assert!(told.ends_with("the database is in use by another process"), "{told}");
    let told = refused(&["snapshot", "status", text(&file), "--timeout=1ms"]);
    assert!(told.ends_with("the database is in use by another process"), "{told}");
    assert!(!new.exists());
    drop(writer);
    call(&[&line[..], &["--data-dir", text(&new)]].concat()).unwrap();
}

#[test]
fn a_source_that_is_written_is_not_copied_until_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = snapshot(&database(&Faulty::new(0), Path::new("/db")), dir.path());
    let whole = std::fs::read(&file).unwrap();
    let mut half = whole.clone();
    half[5 * 4096 + 16] ^= 0x40;
    std::fs::write(&file, half).unwrap();
    let writer = std::fs::File::options().write(true).open(&file).unwrap();
    writer.lock().unwrap();
    let new = dir.path().join("new");
    let line = ["snapshot", "restore", text(&file), "--data-dir", text(&new)];
    let told = refused(&[&line[..], &["--timeout=1ms"]].concat());
    assert!(told.ends_with("the database is in use by another process"), "{told}");
    assert!(!new.exists());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            std::fs::write(&file, &whole).unwrap();
            drop(writer);
        });
        call(&line).unwrap();
    });
}

/// Damage is told in one line, or does not matter; the file stays as it is.
#[test]
fn damaged_snapshots_are_refused_or_read() {
    let disk = Faulty::new(0);
    let image = database(&disk, Path::new("/db")).view().image();
    let image = image.read_at(0, image.len() as usize).unwrap().to_vec();
    fuzz("snapshot files of utl", |u| {
        let mut bytes = image.clone();
        match u.ratio(1, 3)? {
            true => mutate(u, &mut bytes)?,
            // Within one page, so that most of the file is as it was.
            false => {
                let pages = bytes.len() / 4096;
                let at = int(u)? as usize % pages * 4096;
                let mut page = bytes[at..at + 4096].to_vec();
                mutate(u, &mut page)?;
                page.resize(4096, 0);
                bytes[at..at + 4096].copy_from_slice(&page);
            }
        }
        let disk = Faulty::new(0);
        let path = Path::new("/file");
        disk.open(path, Open::Create).unwrap().write_all_at(&bytes, 0).unwrap();
        let read = View::open(&disk, path, 1 << 20);
        let verdict = Verdict::of(&read);
        if let Ok(view) = read {
            let told = status(&view, path);
            if let Err(failure) = told {
                assert!(failure.text.starts_with("Error: /file: "), "{}", failure.text);
                assert_eq!(failure.text.lines().count(), 1, "{}", failure.text);
            }
            if let Ok(keys) = history(view) {
                drop(keys.hash_kv(Revision(0)));
            }
        } else if let Err(error) = read {
            let line = error.finding();
            assert!(line.starts_with("/file: damaged at byte "), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
        assert!(disk.read(path).unwrap() == bytes, "the file was written");
        Ok(verdict)
    });
}

#[test]
fn pages_in_each_others_place_are_noticed() {
    let disk = Faulty::new(0);
    let image = database(&disk, Path::new("/db")).view().image();
    let mut bytes = image.read_at(0, image.len() as usize).unwrap().to_vec();
    // The leaves that hold rows of revisions, by their first row.
    let leaf = |page: usize| {
        let page = &bytes[page * 4096..];
        let (flags, row) = (page[8], 16 + usize::from(page[20]) + usize::from(page[21]) * 256);
        (flags == 2).then(|| RevKey::decode(page.get(row..row + 17)?)).flatten()
    };
    let leaves: Vec<usize> = (2..bytes.len() / 4096).filter(|page| leaf(*page).is_some()).collect();
    let (one, other) = (leaves[0] * 4096, leaves[1] * 4096);
    for at in 8..4096 {
        bytes.swap(one + at, other + at);
    }
    let (disk, path) = (Faulty::new(0), Path::new("/file"));
    disk.open(path, Open::Create).unwrap().write_all_at(&bytes, 0).unwrap();
    let told = match View::open(&disk, path, 1 << 20) {
        Ok(view) => status(&view, path).unwrap_err().text,
        Err(error) => error.finding(),
    };
    assert!(told.contains("/file: "), "{told}");
    let dir = tempfile::tempdir().unwrap();
    let (file, new) = (dir.path().join("file"), dir.path().join("new"));
    std::fs::write(&file, bytes).unwrap();
    let line = ["snapshot", "restore", text(&file), "--skip-hash-check", "--data-dir", text(&new)];
    assert!(refused(&line).ends_with("it does not come after the one before it"));
    assert!(!new.exists());
}

#[test]
fn a_member_of_before_is_gone_from_its_database() {
    let dir = tempfile::tempdir().unwrap();
    let file = snapshot(&database(&Faulty::new(0), Path::new("/db")), dir.path());
    let data = dir.path().join("data");
    call(&["snapshot", "restore", text(&file), "--data-dir", text(&data)]).unwrap();
    let view = open(&data.join("member/snap/db"));
    assert_eq!(view.get(schema::MEMBERS, &schema::member(OLD)).unwrap(), None);
    assert_eq!(view.scan(schema::MEMBERS, &[]).count(), 1);
}
