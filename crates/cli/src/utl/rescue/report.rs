//! What a rescue found, chose and made: one structure for people and for programs.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::choose::{self, Choice};
use super::source::Source;
use crate::failure::Outcome;
use crate::utl::fail;

/// Everything that there is to say.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::utl) struct Report {
    pub(super) directories: Vec<Found>,
    /// Nothing if nothing can be used.
    pub(super) chosen: Option<Chosen>,
    /// The new cluster; nothing after a dry run.
    pub(super) made: Option<Made>,
}

/// What is in a directory.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// In hexadecimal digits, as etcd shows ids.
    pub(super) member: Option<String>,
    pub(super) cluster: Option<String>,
    /// The first entry of its log and the last, as far as it can be read.
    pub(super) entries: Option<(u64, u64)>,
    /// The term of the last one.
    pub(super) term: Option<u64>,
    /// The last entry of which it proves that the cluster had agreed on it.
    pub(super) committed: u64,
    pub(super) databases: Vec<Database>,
    /// Each in one line with its place.
    pub(super) damage: Vec<String>,
}

/// A whole database.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) entry: u64,
    pub(super) term: u64,
    pub(super) revision: i64,
}

/// What the new cluster is made of, and what of it is certain.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Chosen {
    /// Nothing if the log has everything from the first entry on.
    pub(super) database: Option<PathBuf>,
    /// Nothing if no log goes on from the database.
    pub(super) log: Option<PathBuf>,
    pub(super) entry: u64,
    pub(super) term: u64,
    pub(super) revision: i64,
    /// The last entry of which any directory proves that the cluster had agreed on it.
    pub(super) committed: u64,
    /// Up to here the cluster had agreed on everything.
    pub(super) certain_revision: i64,
    /// The first entry and the last that were agreed on and that nothing chosen leads up to.
    pub(super) lost_entries: Option<(u64, u64)>,
    /// How many members had a vote.
    pub(super) voters: usize,
    /// Of these, how many have left a log in which nothing is missing.
    pub(super) whole_voters: usize,
    /// Whether others may have acknowledged what is in none of the directories.
    pub(super) may_lack_acknowledged: bool,
    /// Alarms that stay raised.
    pub(super) alarms: Vec<String>,
}

/// The new cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) member: String,
    pub(super) cluster: String,
    pub(super) name: String,
    #[serde(rename = "peerURLs")]
    pub(super) peer_urls: Vec<String>,
    pub(super) revision: i64,
}

impl Report {
    pub(super) fn about(sources: &[Source]) -> Self {
        let directories = sources.iter().map(|source| Found {
            path: source.dir.root().to_owned(),
            member: source.identity.map(|(member, _)| member.to_string()),
            cluster: source.identity.map(|(_, cluster)| cluster.to_string()),
            entries: choose::extent(&source.log).map(|(first, last)| (first.0, last.0)),
            term: source.log.last.map(|(_, term)| term.0),
            committed: source.committed().0,
            databases: source
                .bases
                .iter()
                .map(|base| Database {
                    path: base.path.clone(),
                    entry: base.at.index.0,
                    term: base.at.term.0,
                    revision: base.revision,
                })
                .collect(),
            damage: source.damage.clone(),
        });
        Self { directories: directories.collect(), ..Self::default() }
    }

    pub(super) fn json(&self) -> Outcome<String> {
        Ok(serde_json::to_string(self).map_err(fail)? + "\n")
    }

    pub(in crate::utl) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        for found in &self.directories {
            let _ = found.write(&mut out);
        }
        if let Some(chosen) = &self.chosen {
            let _ = chosen.write(&mut out);
        }
        if let Some(made) = &self.made {
            let Made { path, member, cluster, name, peer_urls, revision } = made;
            let (path, urls) = (path.display(), peer_urls.join(","));
            let _ = writeln!(
                out,
                "made {path}: member {member} {name} at {urls}, alone in cluster {cluster}, \
                 revision {revision}"
            );
        }
        out
    }
}

impl Found {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "directory {}", self.path.display())?;
        if let (Some(member), Some(cluster)) = (&self.member, &self.cluster) {
            writeln!(out, "  of member {member} of cluster {cluster}")?;
        }
        match (self.entries, self.term) {
            (Some((first, last)), Some(term)) => {
                writeln!(out, "  log: entries {first} to {last}, the last one of term {term}")?;
            }
            _ => writeln!(out, "  log: no entries")?,
        }
        for Database { path, entry, term, revision } in &self.databases {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            writeln!(out, "  {name}: entry {entry} of term {term}, revision {revision}")?;
        }
        writeln!(out, "  committed for certain: up to entry {}", self.committed)?;
        for line in &self.damage {
            writeln!(out, "  DAMAGE {line}")?;
        }
        Ok(())
    }
}

impl Chosen {
    /// The choice, before its entries are applied.
    pub(super) fn of(choice: &Choice<'_>, sources: &[Source]) -> Self {
        let (committed, last) = (choose::committed(sources), choice.last.index);
        Self {
            database: choice.base.map(|(_, base)| base.path.clone()),
            log: choice.log.map(|source| source.dir.wal().to_owned()),
            entry: last.0,
            term: choice.last.term.0,
            committed: committed.0,
            lost_entries: (committed > last).then(|| (last.0 + 1, committed.0)),
            ..Self::default()
        }
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let Self { entry, term, voters, whole_voters, .. } = self;
        let Self { revision, certain_revision: certain, .. } = self;
        match (shown(&self.database), shown(&self.log)) {
            (Some(database), Some(log)) => {
                write!(out, "chosen: {database} and what follows in {log}")?
            }
            (Some(database), None) => write!(out, "chosen: {database} alone")?,
            (None, log) => write!(out, "chosen: all of {}", log.unwrap_or_default())?,
        }
        writeln!(out, ", up to entry {entry} of term {term}")?;
        writeln!(out, "certain: revisions up to {certain}")?;
        if certain < revision {
            writeln!(
                out,
                "not certain: revisions {} to {revision}: nothing here tells that the cluster had \
                 agreed on them, so they may never have been acknowledged",
                certain + 1
            )?;
        }
        if let Some((first, last)) = self.lost_entries {
            writeln!(
                out,
                "LOST: entries {first} to {last} were agreed on, and nothing whole leads up to them"
            )?;
        }
        let of = format!("{whole_voters} of {voters} voting members have left a whole log");
        if self.may_lack_acknowledged {
            writeln!(out, "may be lost: what others acknowledged after revision {revision}: {of}")?;
        } else {
            writeln!(out, "nothing that was acknowledged is lost: {of}")?;
        }
        for alarm in &self.alarms {
            writeln!(out, "alarm {alarm} stays raised: etcdctl alarm disarm")?;
        }
        Ok(())
    }
}
