//! The report as text, for people and for programs.

use std::fmt::Write as _;

use super::report::{Database, Log, Report, Snapshot};
use crate::failure::Outcome;
use crate::go;
use crate::utl::fail;

pub(super) fn json(report: &Report) -> Outcome<String> {
    Ok(serde_json::to_string(report).map_err(fail)? + "\n")
}

pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    if let Some(found) = &report.log {
        let _ = log(&mut out, found);
    }
    for found in &report.snapshots {
        let _ = snapshot(&mut out, found);
    }
    if let Some(found) = &report.database {
        let _ = database(&mut out, found);
    }
    if report.damage.is_empty() {
        out.push_str("no damage found\n");
    }
    for line in &report.damage {
        let _ = writeln!(out, "DAMAGE {line}");
    }
    out
}

fn log(out: &mut String, log: &Log) -> std::fmt::Result {
    writeln!(out, "log {}", log.path.display())?;
    if let (Some(member), Some(cluster)) = (&log.member, &log.cluster) {
        writeln!(out, "  of member {member} of cluster {cluster}")?;
    }
    let last = log.last_entry.map_or("none".to_owned(), |last| last.to_string());
    let Log { term, vote, commit, .. } = log;
    writeln!(out, "  term {term}, vote {vote}, commit {commit}, last entry {last}")?;
    let recorded: Vec<String> =
        log.recorded.iter().map(|(index, term)| format!("{index} (term {term})")).collect();
    writeln!(out, "  snapshots recorded at {}", recorded.join(", "))?;
    for segment in &log.segments {
        let entries = match segment.entries {
            Some((first, last)) => format!("entries {first} to {last}"),
            None => "no entries".to_owned(),
        };
        let (file, size) = (&segment.file, go::human_bytes(segment.bytes));
        write!(out, "  {file}: {size}, {} records, {entries}", segment.records)?;
        if let Some(torn) = &segment.torn {
            write!(out, "; {torn} (cut off at the next start)")?;
        }
        out.push('\n');
    }
    Ok(())
}

fn snapshot(out: &mut String, found: &Snapshot) -> std::fmt::Result {
    let Snapshot { file, index, term, document_bytes, .. } = found;
    write!(
        out,
        "snapshot {file}: entry {index} of term {term}, voters {}",
        found.voters.join(" ")
    )?;
    if !found.learners.is_empty() {
        write!(out, ", learners {}", found.learners.join(" "))?;
    }
    writeln!(out, ", {document_bytes} bytes about members")
}

fn database(out: &mut String, found: &Database) -> std::fmt::Result {
    let (size, used) = (go::human_bytes(found.bytes), go::human_bytes(found.in_use_bytes));
    writeln!(out, "database {}: {size}, {used} in use", found.path.display())?;
    let version = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    let (storage, cluster) = (version(&found.storage_version), version(&found.cluster_version));
    writeln!(out, "  storage version {storage}, cluster version {cluster}")?;
    let Database { consistent_index, term, revision, compacted, keys, hash, .. } = found;
    writeln!(out, "  entry {consistent_index} of term {term}")?;
    let compacted = match compacted {
        -1 => "never compacted".to_owned(),
        at => format!("compacted at {at}"),
    };
    let hash_kv = found.hash_kv.map_or("none".to_owned(), |hash| hash.to_string());
    writeln!(out, "  revision {revision}, {compacted}, {keys} keys")?;
    writeln!(out, "  hash of all rows {hash:x}, of keys {hash_kv}")?;
    for member in &found.members {
        let learner = if member.is_learner { " (learner)" } else { "" };
        let (id, name, peers) = (&member.id, &member.name, member.peer_urls.join(","));
        writeln!(out, "  member {id} {name}{learner} at {peers}")?;
    }
    for id in &found.removed {
        writeln!(out, "  member {id} removed")?;
    }
    for bucket in &found.buckets {
        let size = go::human_bytes(bucket.bytes);
        writeln!(out, "  bucket {}: {} rows, {size}", bucket.name, bucket.rows)?;
    }
    Ok(())
}
