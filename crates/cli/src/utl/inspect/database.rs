//! Looks into a database: its state, its members, its buckets.

use std::path::Path;

use base::Revision;
use storage::bolt::View;
use store::{Member, history, schema};

use super::report::{self, Bucket, Database, Report};
use crate::command::Call;
use crate::failure::Outcome;
use crate::utl::files::{damage, open_to_read};
use crate::utl::snapshot::status;

/// Adds the database in a file to the report, as far as it can be read.
pub(super) fn add(report: &mut Report, call: &Call, file: &Path) {
    let view = match open_to_read(call, file) {
        Ok(view) => view,
        Err(failure) => {
            report.damage.push(failure.reason().to_owned());
            return;
        }
    };
    let mut found = Database {
        path: file.to_owned(),
        bytes: view.size_bytes(),
        in_use_bytes: view.in_use_bytes(),
        ..Database::default()
    };
    let mut note = |read: Outcome| {
        if let Err(failure) = read {
            let reason = failure.reason().to_owned();
            if !report.damage.contains(&reason) {
                report.damage.push(reason);
            }
        }
    };
    note(single_rows(&mut found, &view));
    note(members(&mut found, &view, file));
    note(buckets(&mut found, &view));
    note(status(&view, file).map(|status| {
        (found.hash, found.keys, found.revision) = (status.hash, status.keys, status.revision);
    }));
    match history(view) {
        Ok(keys) => {
            found.revision = keys.revision().0;
            found.compacted = keys.compact_revision().0;
            found.hash_kv = keys.hash_kv(Revision(0)).ok().map(|hash| hash.hash);
        }
        Err(error) => note(Err(crate::utl::fail(error))),
    }
    report.database = Some(found);
}

/// The counters and versions.
fn single_rows(found: &mut Database, view: &View) -> Outcome {
    let row = |bucket, name| view.get(bucket, name).map_err(damage);
    let number = |name| {
        let row = row(schema::META, name)?;
        Ok(row.and_then(|row| schema::read_number(&row)).unwrap_or(0))
    };
    let text = |bucket, name| {
        let row = row(bucket, name)?;
        Ok(row.map(|row| String::from_utf8_lossy(&row).into_owned()).unwrap_or_default())
    };
    found.consistent_index = number(schema::CONSISTENT_INDEX)?;
    found.term = number(schema::TERM)?;
    found.storage_version = text(schema::META, schema::STORAGE_VERSION)?;
    found.cluster_version = text(schema::CLUSTER, schema::CLUSTER_VERSION)?;
    Ok(())
}

fn members(found: &mut Database, view: &View, file: &Path) -> Outcome {
    for row in view.scan(schema::MEMBERS, &[]) {
        let (id, row) = row.map_err(damage)?;
        let member = Member::from_json(&row).map_err(|error| {
            let (file, id) = (file.display(), id.escape_ascii());
            crate::utl::fail(format!("{file}: bucket members, row {id}: {error}"))
        })?;
        found.members.push(report::Member {
            id: member.id.to_string(),
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            is_learner: member.is_learner,
        });
    }
    for row in view.scan(schema::MEMBERS_REMOVED, &[]) {
        let (id, _) = row.map_err(damage)?;
        found.removed.push(id.escape_ascii().to_string());
    }
    Ok(())
}

fn buckets(found: &mut Database, view: &View) -> Outcome {
    for name in view.buckets().map_err(damage)? {
        let mut bucket = Bucket { name: name.escape_ascii().to_string(), rows: 0, bytes: 0 };
        let mut rows = view.scan(&name, &[]);
        while let Some((key, value)) = rows.next_row().map_err(damage)? {
            bucket.rows += 1;
            bucket.bytes += (key.len() + value.len()) as u64;
        }
        found.buckets.push(bucket);
    }
    Ok(())
}
