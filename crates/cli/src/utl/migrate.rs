//! `migrate`: makes the rows of a database those of another version of etcd.
//!
//! Since 3.5 versions differ in one row, the version itself, which 3.6 was the first to have. What
//! may forbid to go down is the log, if it has requests that the older version does not know.
//!
//! *Contract.* `etcdutl/etcdutl/migrate_command.go`, `server/storage/schema` and
//! `server/storage/wal/version.go` of etcd v3.7.1.

use std::path::Path;

use bytes::Bytes;
use proto::etcdserverpb::InternalRaftRequest;
use proto::raftpb::EntryType;
use storage::bolt::{Batch, Database};
use storage::datadir::DataDir;
use storage::disk::Real;
use storage::wal;
use store::{Version, schema};

use super::fail;
use super::files::{check_exists, damage, open_to_write};
use super::log::{Field, info, log};
use crate::command::{Call, Command, Flag};
use crate::failure::{self, Failure, Outcome};
use crate::go;

pub(super) static MIGRATE: Command = Command {
    name: "migrate",
    short: "Migrates schema of etcd data dir files to make them compatible with different etcd \
            version",
    flags: &[
        Flag::text("data-dir", "", "Path to the etcd data dir").required(),
        Flag::text(
            "target-version",
            "",
            "Target etcd version to migrate contents of data dir. Minimal value 3.5. Format \
             \"X.Y\" for example 3.6.",
        )
        .required(),
        Flag::bool(
            "force",
            "Ignore migration failure and forcefully override storage version. Not recommended.",
        ),
    ],
    run: Some(|call| {
        Box::pin(async {
            let target = target(call.values.text("target-version"))
                .map_err(|reason| Failure::new(failure::BAD_ARGS, reason))?;
            migrate(call, target)
        })
    }),
    ..Command::EMPTY
};

/// Major and minor number of a version of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Layout(u64, u64);

/// The oldest one that is known.
const FIRST: Layout = Layout(3, 5);
/// The first one that is written down.
const FIRST_NAMED: Layout = Layout(3, 6);
/// The newest one that is known.
const LAST: Layout = Layout(3, 7);

impl Layout {
    /// As it stands in the database, and in log lines about steps.
    fn full(self) -> String {
        format!("{}.{}.0", self.0, self.1)
    }

    fn short(self) -> String {
        format!("{}.{}", self.0, self.1)
    }
}

/// Reads `--target-version`.
fn target(text: &str) -> Result<Layout, String> {
    if text.matches('.').count() != 1 {
        let text = go::quote(text.as_bytes());
        return Err(format!("wrong target version format, expected \"X.Y\", got {text}"));
    }
    let (major, minor) = text.split_once('.').unwrap_or((text, ""));
    let number = |part: &str| go::parse_int(part, 10);
    let read = number(major).and_then(|major| Ok((major, number(minor)?)));
    let (major, minor) = read.map_err(|why| format!("failed to parse target version: {why}"))?;
    let layout = match (u64::try_from(major), u64::try_from(minor)) {
        (Ok(major), Ok(minor)) => Layout(major, minor),
        _ => Layout(0, 0),
    };
    if layout < FIRST {
        return Err(format!("target version \"{major}.{minor}\" not supported. Minimal \"3.5\""));
    }
    Ok(layout)
}

fn migrate(call: &Call, target: Layout) -> Outcome {
    let dir = DataDir::new(call.values.text("data-dir"));
    let path = dir.database();
    check_exists(&path)?;
    let mut database = open_to_write(call, &path).map_err(damage)?;
    let current = detect(&database).inspect_err(|_| {
        let message = "failed to detect storage version. Please make sure you are using data dir \
                       from etcd v3.5 and older";
        log("error", message, &[]);
    })?;
    if current == target {
        let version = current.short();
        info("storage version up-to-date", &[("storage-version", Field::Text(&version))]);
        return Ok(());
    }
    let needed = needed_by_log(dir.wal()).inspect_err(|failure| {
        let field = Field::Text(failure.reason());
        log("error", "Failed to finalize config", &[("error", field)]);
    })?;
    match plan(current, target, needed) {
        Ok(steps) => {
            set_version(&mut database, target)?;
            for step in steps {
                let version = step.full();
                let field = Field::Text(&version);
                info("updated storage version", &[("new-storage-version", field)]);
            }
            Ok(())
        }
        Err(reason) if call.values.bool("force") => {
            let field = Field::Text(&reason);
            info("normal migrate failed, trying with force", &[("error", field)]);
            set_version(&mut database, target)?;
            if target < FIRST_NAMED {
                log("warn", "forcefully cleared storage version", &[]);
            } else {
                let version = target.short();
                let field = Field::Text(&version);
                log("warn", "forcefully set storage version", &[("storage-version", field)]);
            }
            Ok(())
        }
        Err(reason) => Err(fail(reason)),
    }
}

/// The version of the rows.
fn detect(database: &Database) -> Outcome<Layout> {
    let view = database.view();
    let row = |name| view.get(schema::META, name).map_err(damage);
    if let Some(row) = row(schema::STORAGE_VERSION)? {
        let version = std::str::from_utf8(&row).ok().and_then(Version::parse);
        return match version.map(|version| version.pair()) {
            Some((major, minor)) => Ok(Layout(major, minor)),
            None => Err(fail(format!("the storage version {row:?} is not a version"))),
        };
    }
    let term = row(schema::TERM)?.and_then(|row| schema::read_number(&row)).unwrap_or(0);
    if term == 0 {
        return Err(fail("missing term information"));
    }
    Ok(FIRST)
}

/// The oldest version that understands the log after its last snapshot, if it asks for any.
fn needed_by_log(dir: &Path) -> Outcome<Option<Layout>> {
    if let Err(error) = std::fs::read_dir(dir) {
        let (dir, error) = (dir.display(), go::os_error(&error));
        return Err(fail(format!(
            "failed to get the lastest snapshot: [readWALNames] fileutil.ReadDir failed: open \
             {dir}: {error}"
        )));
    }
    let at = wal::snapshots(&Real, dir)
        .map_err(|error| fail(format!("failed to get the lastest snapshot: {error}")))?;
    let at = at.last().cloned().unwrap_or_default();
    let log =
        wal::read(&Real, dir, &at).map_err(|error| fail(format!("failed to read wal: {error}")))?;
    let mut needed = None;
    for entry in &log.entries {
        if entry.r#type() != EntryType::EntryNormal {
            continue;
        }
        // What is no request of the third API is one of the second, which every version knows.
        let Ok(request) = proto::decode::<InternalRaftRequest>(entry.data()) else { continue };
        // The one request that 3.5 does not know; it names the version that it stands for.
        if let Some(test) = request.downgrade_version_test {
            let named = Version::parse(&test.ver).map_or(FIRST_NAMED, |version| {
                let (major, minor) = version.pair();
                Layout(major, minor)
            });
            needed = needed.max(Some(named.max(FIRST_NAMED)));
        }
    }
    Ok(needed)
}

/// The versions to go through, or why that cannot be.
fn plan(current: Layout, target: Layout, needed: Option<Layout>) -> Result<Vec<Layout>, String> {
    if current.0 != target.0 {
        let (from, to) = (current.full(), target.full());
        let fields =
            [("storage-version", Field::Text(&from)), ("target-storage-version", Field::Text(&to))];
        log("error", "Changing major storage version is not supported", &fields);
        let reason =
            "cannot create migration plan: changing major storage version is not supported";
        return Err(reason.to_owned());
    }
    let mut steps = Vec::new();
    let mut at = current;
    // Ends: every step is within the few versions that are known.
    while at != target {
        let up = at < target;
        // What differs between two versions is known by the higher one.
        let higher = if up { Layout(at.0, at.1 + 1) } else { at };
        if !(FIRST_NAMED..=LAST).contains(&higher) {
            let version = higher.full();
            return Err(format!(
                "cannot create migration plan: version \"{version}\" is not supported"
            ));
        }
        at = if up { higher } else { Layout(at.0, at.1 - 1) };
        steps.push(at);
    }
    match needed {
        Some(needed) if target < current && target < needed => Err(format!(
            "cannot downgrade storage, WAL contains newer entries, as the target version ({}) is \
             lower than the version ({}) detected from WAL logs",
            target.full(),
            needed.full()
        )),
        _ => Ok(steps),
    }
}

/// Writes the version down, or forgets it where that is the older form.
fn set_version(database: &mut Database, target: Layout) -> Outcome {
    let mut batch = Batch::default();
    let name = schema::name(schema::STORAGE_VERSION);
    if target < FIRST_NAMED {
        batch.delete(schema::META, name);
    } else {
        batch.put(schema::META, name, Bytes::from(target.full()));
    }
    database.commit(batch).map_err(fail)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message as _;
    use proto::etcdserverpb::DowngradeVersionTestRequest;
    use proto::raftpb::{Entry, HardState};
    use storage::bolt::View;
    use storage::disk::Disk;

    use super::*;
    use crate::utl::tests::{call, data_dir, refused};

    #[test]
    fn targets_are_read_as_etcdutl_reads_them() {
        assert_eq!(target("3.6"), Ok(Layout(3, 6)));
        assert_eq!(target("4.0"), Ok(Layout(4, 0)));
        for (text, error) in [
            ("3", "wrong target version format, expected \"X.Y\", got \"3\""),
            ("3.6.1", "wrong target version format, expected \"X.Y\", got \"3.6.1\""),
            (
                "a.b",
                "failed to parse target version: strconv.ParseInt: parsing \"a\": invalid syntax",
            ),
            (
                "3.",
                "failed to parse target version: strconv.ParseInt: parsing \"\": invalid syntax",
            ),
            ("3.4", "target version \"3.4\" not supported. Minimal \"3.5\""),
        ] {
            assert_eq!(target(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn one_step_a_version_and_none_beyond_those_known() {
        let plan = |from, to, needed| {
            let steps = plan(Layout(3, from), Layout(3, to), needed)?;
            Ok::<_, String>(steps.into_iter().map(Layout::full).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(plan(5, 7, None).as_deref(), Ok("3.6.0 3.7.0"));
        assert_eq!(plan(7, 5, Some(Layout(3, 5))).as_deref(), Ok("3.6.0 3.5.0"));
        assert_eq!(plan(5, 7, Some(Layout(3, 9))).as_deref(), Ok("3.6.0 3.7.0"));
        let unknown = |version| {
            format!("cannot create migration plan: version \"{version}\" is not supported")
        };
        assert_eq!(plan(7, 9, None), Err(unknown("3.8.0")));
        assert_eq!(plan(9, 7, None), Err(unknown("3.9.0")));
        assert!(plan(7, 5, Some(Layout(3, 6))).unwrap_err().contains("WAL contains newer entries"));
    }

    /// A member's directory whose log has one request.
    fn directory(dir: &Path, request: InternalRaftRequest) -> std::path::PathBuf {
        let data = data_dir(dir);
        let options = wal::Options { segment_bytes: 1 << 16, sync: false };
        let disk: Arc<dyn Disk> = Arc::new(Real);
        let log = data.join("member/wal");
        let mut wal = wal::Wal::create(disk, &log, Bytes::from("metadata"), options).unwrap();
        let entry = Entry {
            term: Some(1),
            index: Some(1),
            data: Some(request.encode_to_vec().into()),
            ..Entry::default()
        };
        let state = HardState { term: Some(1), vote: Some(1), commit: Some(1) };
        wal.append(&[entry], Some(&state)).unwrap();
        wal.close().unwrap();
        data
    }

    fn version(data: &Path) -> Option<Bytes> {
        let view = View::open(&Real, &data.join("member/snap/db"), 1 << 20).unwrap();
        view.get(schema::META, schema::STORAGE_VERSION).unwrap()
    }

    #[test]
    fn rows_go_to_every_version_that_is_known_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let data = directory(dir.path(), InternalRaftRequest::default());
        let to =
            |target| ["migrate", "--data-dir", data.to_str().unwrap(), "--target-version", target];
        for (target, expected) in
            [("3.7", Some("3.7.0")), ("3.5", None), ("3.7", Some("3.7.0")), ("3.6", Some("3.6.0"))]
        {
            call(&to(target)).unwrap();
            assert_eq!(version(&data).as_deref(), expected.map(str::as_bytes), "{target}");
        }
        let reason = "cannot create migration plan: version \"3.8.0\" is not supported";
        assert_eq!(refused(&to("3.8")), reason);
        assert_eq!(version(&data).as_deref(), Some(&b"3.6.0"[..]));
        call(&[&to("3.8")[..], &["--force"]].concat()).unwrap();
        assert_eq!(version(&data).as_deref(), Some(&b"3.8.0"[..]));
    }

    #[test]
    fn a_log_with_newer_requests_keeps_rows_from_going_down() {
        let dir = tempfile::tempdir().unwrap();
        let test = DowngradeVersionTestRequest { ver: "3.7.0".into() };
        let request =
            InternalRaftRequest { downgrade_version_test: Some(test), ..Default::default() };
        let data = directory(dir.path(), request);
        let to =
            |target| ["migrate", "--data-dir", data.to_str().unwrap(), "--target-version", target];
        let reason = "cannot downgrade storage, WAL contains newer entries, as the target version \
                      (3.6.0) is lower than the version (3.7.0) detected from WAL logs";
        assert_eq!(refused(&to("3.6")), reason);
        assert_eq!(version(&data).as_deref(), Some(&b"3.7.0"[..]));
        call(&[&to("3.6")[..], &["--force"]].concat()).unwrap();
        assert_eq!(version(&data).as_deref(), Some(&b"3.6.0"[..]));
    }
}
