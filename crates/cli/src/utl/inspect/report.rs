//! What an inspection finds: one structure for people and for programs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::etcdserverpb::Metadata;
use proto::raftpb;
use serde::Serialize;
use storage::disk::Real;
use storage::snap::Snapshots;
use storage::wal;

use crate::failure::Outcome;
use crate::utl::fail;

/// Everything that was found at a path.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::utl) struct Report {
    pub(super) path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) log: Option<Log>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) snapshots: Vec<Snapshot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) database: Option<Database>,
    /// Each in one line with its place.
    pub(in crate::utl) damage: Vec<String>,
}

/// A write-ahead log.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Log {
    pub(super) path: PathBuf,
    /// In hexadecimal digits, as etcd shows ids.
    pub(super) member: Option<String>,
    pub(super) cluster: Option<String>,
    pub(super) term: u64,
    pub(super) vote: String,
    pub(super) commit: u64,
    pub(super) last_entry: Option<u64>,
    /// The snapshots that are recorded: index and term.
    pub(super) recorded: Vec<(u64, u64)>,
    pub(super) segments: Vec<Segment>,
}

/// A file of a log.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Segment {
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) records: u64,
    /// The first entry and the last.
    pub(super) entries: Option<(u64, u64)>,
    /// An unfinished write at its end, which the next start cuts off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) torn: Option<String>,
}

/// A `.snap` file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Snapshot {
    pub(super) file: String,
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) voters: Vec<String>,
    pub(super) learners: Vec<String>,
    pub(super) document_bytes: usize,
}

/// A database, or a snapshot that was saved.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) in_use_bytes: u64,
    pub(super) consistent_index: u64,
    pub(super) term: u64,
    /// Empty before 3.6.
    pub(super) storage_version: String,
    pub(super) cluster_version: String,
    pub(super) revision: i64,
    /// -1 before the first.
    pub(super) compacted: i64,
    /// Keys that are not deleted.
    pub(super) keys: usize,
    /// Of all rows, as `snapshot status` shows it in hexadecimal digits.
    pub(super) hash: u32,
    /// Of keys and their history, as `hashkv` shows it.
    pub(super) hash_kv: Option<u32>,
    pub(super) members: Vec<Member>,
    pub(super) removed: Vec<String>,
    pub(super) buckets: Vec<Bucket>,
}

/// A member of the cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(rename = "peerURLs")]
    pub(super) peer_urls: Vec<String>,
    #[serde(rename = "clientURLs")]
    pub(super) client_urls: Vec<String>,
    pub(super) is_learner: bool,
}

/// A bucket of the database.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bucket {
    pub(super) name: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn hex(ids: &[u64]) -> Vec<String> {
    ids.iter().map(|id| format!("{id:x}")).collect()
}

/// What to do is not said of each damage.
fn finding(error: &wal::Error) -> String {
    let text = error.to_string();
    text.strip_suffix(&format!("; {}", storage::REMEDY)).map_or(text.clone(), str::to_owned)
}

impl Report {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), ..Self::default() }
    }

    /// Adds a log, or of it what one segment holds.
    pub(super) fn log(&mut self, dir: &Path, only: Option<&Path>) -> Outcome {
        let mut survey = wal::survey(&Real, dir).map_err(fail)?;
        if survey.segments.is_empty() {
            self.damage.push(format!("{}: there is no log", dir.display()));
            return Ok(());
        }
        if let Some(only) = only {
            survey.segments.retain(|segment| segment.path.file_name() == only.file_name());
            survey.gaps.clear();
            if survey.segments.is_empty() {
                return Err(fail(format!("{}: not named as a segment is", only.display())));
            }
        }
        self.damage.extend(survey.damage().map(finding));
        let mut log = Log {
            path: dir.to_owned(),
            term: survey.hard_state.term(),
            vote: format!("{:x}", survey.hard_state.vote()),
            commit: survey.hard_state.commit(),
            last_entry: survey.last_entry().map(|index| index.0),
            ..Log::default()
        };
        match survey.metadata.as_ref().map(|metadata| proto::decode::<Metadata>(&metadata[..])) {
            Some(Ok(metadata)) => {
                log.member = Some(format!("{:x}", metadata.node_id()));
                log.cluster = Some(format!("{:x}", metadata.cluster_id()));
            }
            Some(Err(error)) => {
                self.damage.push(format!("{}: the metadata is not etcd's: {error}", dir.display()));
            }
            None => {}
        }
        log.recorded = survey.snapshots.iter().map(|found| (found.index(), found.term())).collect();
        log.segments = survey
            .segments
            .iter()
            .map(|segment| Segment {
                file: name_of(&segment.path),
                bytes: segment.bytes,
                records: segment.records,
                entries: segment.entries.map(|(first, last)| (first.0, last.0)),
                torn: segment.torn.map(|(at, why)| format!("torn at byte {at}: {why}")),
            })
            .collect();
        self.log = Some(log);
        Ok(())
    }

    /// Adds the `.snap` files of a directory.
    pub(super) fn snapshots(&mut self, dir: &Path) -> Outcome {
        if !dir.is_dir() {
            return Ok(());
        }
        let files = Snapshots::new(Arc::new(Real), dir).read_all().map_err(fail)?;
        for (path, read) in files {
            self.add_snapshot(&path, read);
        }
        Ok(())
    }

    /// Adds one `.snap` file.
    pub(super) fn snapshot(&mut self, file: &Path) -> Outcome {
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let files = Snapshots::new(Arc::new(Real), dir).read_all().map_err(fail)?;
        match files.into_iter().find(|(path, _)| path.file_name() == file.file_name()) {
            Some((_, read)) => {
                self.add_snapshot(file, read);
                Ok(())
            }
            None => Err(fail(format!("{}: not named as a snapshot is", file.display()))),
        }
    }

    fn add_snapshot(&mut self, path: &Path, read: Result<raftpb::Snapshot, String>) {
        match read {
            Ok(snapshot) => {
                let metadata = snapshot.metadata.clone().unwrap_or_default();
                let conf_state = metadata.conf_state.clone().unwrap_or_default();
                self.snapshots.push(Snapshot {
                    file: name_of(path),
                    index: metadata.index(),
                    term: metadata.term(),
                    voters: hex(&conf_state.voters),
                    learners: hex(&conf_state.learners),
                    document_bytes: snapshot.data().len(),
                });
            }
            Err(reason) => self.damage.push(format!("{}: {reason}", path.display())),
        }
    }

    /// Holds log and database against each other.
    pub(super) fn compare(&mut self) {
        let (Some(log), Some(database)) = (&self.log, &self.database) else { return };
        let index = database.consistent_index;
        let committed = log.recorded.iter().rfind(|(at, _)| *at <= log.commit);
        let (begin, path) = (committed.map_or(0, |(at, _)| *at), database.path.display());
        let received = database.path.with_file_name(format!("{begin:016x}.snap.db"));
        if index < begin && !received.exists() {
            self.damage.push(format!(
                "{path}: it has entry {index}, but the log begins after the snapshot at {begin}"
            ));
        }
        let last = log.last_entry.unwrap_or(0).max(begin);
        if index > last {
            let log = log.path.display();
            self.damage.push(format!(
                "{log}: it ends at entry {last}, but the database has entry {index}: the end of \
                 the log is lost"
            ));
        }
    }
}
