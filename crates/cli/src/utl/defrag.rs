//! `defrag`: rewrites the database of a member that does not run, without its free pages.
//!
//! *Invariants.* The database is replaced by one rename, after its successor is whole and synced;
//! both are locked until then. Its owner and mode stay.
//!
//! *Contract.* `etcdutl/etcdutl/defrag_command.go` and `server/storage/backend` of etcd v3.7.1.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::time::Instant;

use storage::bolt::{self, View};
use storage::datadir::DataDir;
use storage::disk::{Disk as _, Real};

use super::fail;
use super::files::{check_exists, open_to_write};
use super::log::{Field, info};
use crate::command::{Call, Command, Flag, Running};
use crate::failure::Outcome;
use crate::go;

pub(super) static DEFRAG: Command = Command {
    name: "defrag",
    short: "Defragments the storage of the etcd",
    flags: &[Flag::text(
        "data-dir",
        "",
        "Required. Defragments a data directory not in use by etcd.",
    )
    .required()],
    run: Some(run),
    ..Command::EMPTY
};

fn run(call: &mut Call) -> Running<'_> {
    Box::pin(async {
        let dir = call.values.text("data-dir");
        defragment(call, &DataDir::new(dir).database()).map_err(|failure| {
            let reason = failure.reason();
            fail(format!("Failed to defragment etcd data[{dir}] ({reason})"))
        })
    })
}

fn defragment(call: &Call, path: &Path) -> Outcome {
    check_exists(path)?;
    let start = Instant::now();
    let database = open_to_write(call, path).map_err(fail)?;
    let before = database.view();
    info("defragmenting", &sizes(path, &before).each());
    let new = path.with_file_name("db.tmp.defrag");
    let after = replace(&before, path, &new).inspect_err(|_| {
        // Only what this call made: nobody else may, while the database is locked.
        let _ = std::fs::remove_file(&new);
        let _ = std::fs::remove_file(path.with_file_name("db.tmp.defrag.tmp.new"));
    })?;
    let (old, new) = (sizes(path, &before), sizes(path, &after));
    let took = go::duration(start.elapsed());
    let [path, size, human_size, used, human_used] = new.each();
    info(
        "finished defragmenting directory",
        &[
            path,
            ("current-db-size-bytes-diff", Field::Number(new.size - old.size)),
            size,
            human_size,
            ("current-db-size-in-use-bytes-diff", Field::Number(new.used - old.used)),
            used,
            human_used,
            ("took", Field::Text(&took)),
        ],
    );
    Ok(())
}

/// Writes the successor and gives it the database's name; returns what it holds.
fn replace(view: &View, path: &Path, new: &Path) -> Outcome<View> {
    // What a call left that was killed.
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let copy = view.rewrite(&Real, new).map_err(|error: bolt::Error| fail(error.finding()))?;
    let after = copy.view();
    keep_access(path, new).map_err(|error| {
        let (path, error) = (path.display(), go::os_error(&error));
        fail(format!("cannot give {} the owner and mode of {path}: {error}", new.display()))
    })?;
    let renamed = Real.rename(new, path).and_then(|()| match path.parent() {
        Some(parent) => Real.sync_dir(parent),
        None => Ok(()),
    });
    renamed.map_err(|error| {
        fail(format!("cannot put {} in its place: {}", new.display(), go::os_error(&error)))
    })?;
    Ok(after)
}

/// Gives a file owner and mode of another: who could open that one, can open this one.
fn keep_access(from: &Path, to: &Path) -> std::io::Result<()> {
    let (wanted, found) = (std::fs::metadata(from)?, std::fs::metadata(to)?);
    let (user, group) = (wanted.uid(), wanted.gid());
    if (user, group) != (found.uid(), found.gid()) {
        chown(to, Some(user), Some(group))?;
    }
    // After the owner, with whom some bits of the mode go.
    std::fs::set_permissions(to, wanted.permissions())
}

struct Sizes {
    path: String,
    size: i128,
    used: i128,
    human_size: String,
    human_used: String,
}

fn sizes(path: &Path, view: &View) -> Sizes {
    let (size, used) = (view.size_bytes(), view.in_use_bytes());
    Sizes {
        path: path.display().to_string(),
        size: size.into(),
        used: used.into(),
        human_size: go::human_bytes(size),
        human_used: go::human_bytes(used),
    }
}

impl Sizes {
    fn each(&self) -> [(&'static str, Field<'_>); 5] {
        [
            ("path", Field::Text(&self.path)),
            ("current-db-size-bytes", Field::Number(self.size)),
            ("current-db-size", Field::Text(&self.human_size)),
            ("current-db-size-in-use-bytes", Field::Number(self.used)),
            ("current-db-size-in-use", Field::Text(&self.human_used)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use base::Revision;
    use storage::bolt::{Batch, Database, Options};
    use store::{history, schema};

    use super::*;
    use crate::utl::tests::{call, contents, data_dir, refused};

    #[test]
    fn the_database_is_replaced_by_a_smaller_one_with_the_same_rows() {
        let dir = tempfile::tempdir().unwrap();
        let data = data_dir(dir.path());
        let path = data.join("member/snap/db");
        let mut database = Database::open(&Real, &path, Options::default()).unwrap();
        let mut batch = Batch::default();
        let name = |number: u32| bytes::Bytes::copy_from_slice(&number.to_be_bytes());
        for number in 0..5000 {
            batch.put(schema::LEASE, name(number), vec![7; 100].into());
        }
        database.commit(batch).unwrap();
        let mut batch = Batch::default();
        for number in 0..5000 {
            batch.delete(schema::LEASE, name(number));
        }
        let view = database.commit(batch).unwrap();
        let (size, hash) =
            (view.size_bytes(), history(view.clone()).unwrap().hash_kv(Revision(0)).unwrap());
        let data = data.to_str().unwrap();
        // While it is in use nothing happens.
        let before = contents(dir.path());
        let told = refused(&["defrag", "--data-dir", data, "--timeout=1ms"]);
        let expected = format!(
            "Failed to defragment etcd data[{data}] ({}: the database is in use by another process)",
            path.display()
        );
        assert_eq!(told, expected);
        assert!(contents(dir.path()) == before);
        drop((database, view));
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, mode(0o640)).unwrap();
        let access = || {
            let found = std::fs::metadata(&path).unwrap();
            (found.uid(), found.gid(), found.mode())
        };
        // Who may, gives the file to somebody else.
        let _ = chown(&path, Some(65_534), Some(65_534));
        let before = access();
        // What a call left that was killed is no hindrance.
        std::fs::write(path.with_file_name("db.tmp.defrag"), "half").unwrap();
        call(&["defrag", "--data-dir", data]).unwrap();
        let after = View::open(&Real, &path, 1 << 20).unwrap();
        assert!(after.size_bytes() * 4 < size, "{} of {size}", after.size_bytes());
        assert_eq!(history(after).unwrap().hash_kv(Revision(0)).unwrap(), hash);
        assert_eq!(access(), before);
        let names = Real.list(path.parent().unwrap()).unwrap();
        assert_eq!(names, [std::path::PathBuf::from("db")]);
    }

    #[test]
    fn a_damaged_database_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let data = data_dir(dir.path());
        let path = data.join("member/snap/db");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3 * 4096 + 8] ^= 0x40;
        std::fs::write(&path, bytes).unwrap();
        let before = contents(dir.path());
        let told = refused(&["defrag", "--data-dir", data.to_str().unwrap()]);
        assert!(told.contains("db: damaged at byte 12"), "{told}");
        assert_eq!(told.lines().count(), 1);
        assert!(contents(dir.path()) == before);
        std::fs::write(&path, []).unwrap();
        let told = refused(&["defrag", "--data-dir", data.to_str().unwrap()]);
        assert!(told.contains("db: damaged at byte 0: the file is empty"), "{told}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }
}
