//! `snapshot status`: what a snapshot file, or the database of a member that does not run, holds.
//!
//! *Invariants.* The file is only read, all of it: what is damaged in its structure is found.
//!
//! *Contract.* `Status` of `etcdutl/snapshot/v3_snapshot.go` of etcd v3.7.1.

use std::collections::HashSet;
use std::path::Path;

use storage::bolt::View;
use store::mvcc::Parts;
use store::{RevKey, Version, schema};

use crate::command::{Call, Command, Running};
use crate::failure::{self, Failure, Outcome};
use crate::go;
use crate::output::{Format, print, unsupported};
use crate::table::{ascii_table, table};
use crate::utl::fail;
use crate::utl::files::{check_exists, damage, open_to_read, path};

pub(super) static STATUS: Command = Command {
    name: "status",
    usage: "<filename>",
    short: "Gets backend snapshot status of a given file",
    run: Some(run),
    ..Command::EMPTY
};

fn run(call: &mut Call) -> Running<'_> {
    Box::pin(async {
        let (status, format) = read(call)?;
        print(status.render(format)?.as_bytes())
    })
}

/// What the file holds that is the only argument, and the format in which to tell.
fn read(call: &Call) -> Outcome<(Status, Format)> {
    let [file] = call.args.as_slice() else {
        let reason = "snapshot status requires exactly one argument";
        return Err(Failure::new(failure::BAD_ARGS, reason));
    };
    let file = path(file);
    check_exists(&file)?;
    let format = call.format()?;
    Ok((status(&open_to_read(call, &file)?, &file)?, format))
}

/// The same in the form that etcdctl had up to 3.5: the keys are all rows of all buckets, and there
/// is no version.
pub(crate) fn old_status(call: &Call) -> Outcome<String> {
    let (status, format) = read(call)?;
    status.render_old(format)
}

/// What there is to say about a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::utl) struct Status {
    /// CRC-32C of all rows.
    pub(in crate::utl) hash: u32,
    pub(in crate::utl) revision: i64,
    /// Keys that are not deleted.
    pub(in crate::utl) keys: usize,
    /// Rows of all buckets.
    rows: usize,
    bytes: u64,
    /// The version of the rows; empty before 3.6.
    version: String,
}

/// Reads all rows of a file.
pub(in crate::utl) fn status(view: &View, file: &Path) -> Outcome<Status> {
    let mut status = Status {
        hash: 0,
        revision: 0,
        keys: 0,
        rows: 0,
        bytes: view.size_bytes(),
        version: storage_version(view, file)?,
    };
    let mut keys: HashSet<Vec<u8>> = HashSet::new();
    for bucket in view.buckets().map_err(damage)? {
        status.hash = crc32c::crc32c_append(status.hash, &bucket);
        let mut rows = view.scan(&bucket, &[]);
        let mut before = Vec::new();
        while let Some((name, row)) = rows.next_row().map_err(damage)? {
            let wrong = |what| {
                let (bucket, name) = (bucket.escape_ascii(), name.escape_ascii());
                fail(format!("{}: bucket {bucket}, row {name}: {what}", file.display()))
            };
            // Pages may be whole, and in each other's place.
            if name <= before.as_slice() {
                return Err(wrong("it does not come after the one before it"));
            }
            before.clear();
            before.extend_from_slice(name);
            status.rows += 1;
            status.hash = crc32c::crc32c_append(status.hash, name);
            status.hash = crc32c::crc32c_append(status.hash, row);
            if bucket == schema::KEY {
                let (at, tombstone) =
                    RevKey::decode(name).ok_or_else(|| wrong("not a revision"))?;
                let parts = Parts::read(row).ok_or_else(|| wrong("not a key-value message"))?;
                status.revision = at.main.0;
                if tombstone {
                    keys.remove(parts.key);
                } else if !keys.contains(parts.key) {
                    keys.insert(parts.key.to_vec());
                }
            }
        }
    }
    status.keys = keys.len();
    Ok(status)
}

/// The version that the rows say they have, or nothing.
pub(in crate::utl) fn storage_version(view: &View, file: &Path) -> Outcome<String> {
    let row = view.get(schema::META, schema::STORAGE_VERSION).map_err(damage)?;
    let Some(row) = row else { return Ok(String::new()) };
    match std::str::from_utf8(&row).ok().and_then(Version::parse) {
        Some(version) => Ok(version.to_string()),
        None => {
            let file = file.display();
            Err(fail(format!("{file}: bucket meta, row storageVersion: {row:?} is not a version")))
        }
    }
}

impl Status {
    fn render(&self, format: Format) -> Outcome<String> {
        let Self { hash, revision, keys, bytes, version, .. } = self;
        let row = || {
            let size = go::human_bytes(*bytes);
            vec![format!("{hash:x}"), revision.to_string(), keys.to_string(), size]
        };
        Ok(match format {
            Format::Simple => format!("{}, {version}\n", row().join(", ")),
            Format::Json => {
                let mut out = format!(
                    "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\
                     \"totalSize\":{bytes},\"version\":"
                );
                go::json_string(&mut out, version);
                out + "}\n"
            }
            Format::Fields => format!(
                "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {keys}\n\
                 \"Size\" : {bytes}\n\"Version\" : {version}\n"
            ),
            Format::Table => {
                let mut row = row();
                row.push(version.clone());
                table(&["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"], &[row])
            }
            Format::Protobuf => return Err(unsupported("protobuf")),
        })
    }

    fn render_old(&self, format: Format) -> Outcome<String> {
        let Self { hash, revision, rows, bytes, .. } = self;
        let size = go::human_bytes(*bytes);
        let row = vec![format!("{hash:x}"), revision.to_string(), rows.to_string(), size];
        Ok(match format {
            Format::Simple => row.join(", ") + "\n",
            Format::Json => format!(
                "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{rows},\
                 \"totalSize\":{bytes}}}\n"
            ),
            Format::Fields => format!(
                "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {rows}\n\
                 \"Size\" : {bytes}\n"
            ),
            Format::Table => ascii_table(&["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE"], &[row]),
            Format::Protobuf => return Err(unsupported("protobuf")),
        })
    }
}
