//! `rescue`: makes a cluster of one member of what is left of one that lost its quorum. Ours alone.
//!
//! ```text
//!  DIR... ─► Source ─► choose ─► the best database ─► copied to member.tmp/snap/db
//!           (locked,            and the best log ──► applied to it, members replaced
//!            read only)                                fresh log and snapshot ─► member/
//! ```
//!
//! *Invariants.*
//! 1. The directories are opened to read alone, and while nobody uses them.
//! 2. All or nothing: see [`super::snapshot::Directory`].
//! 3. The new cluster and its member have ids that the old cluster has never had.
//!
//! *Absent.* Mending a database that is damaged: another one, or the log from the first entry on,
//! takes its place. Whether a row that is whole is the one that was written: rows have no
//! checksums.

mod apply;
mod choose;
mod report;
mod source;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf, absolute};
use std::time::SystemTime;

use base::MemberId;
use bytes::Bytes;
use proto::etcdserverpb::AlarmMember;
use storage::bolt::{self, Database};
use storage::datadir::DataDir;
use storage::disk::{Faulty, Real};
use store::schema::{self, ConfStateRow};

use super::fail;
use super::files::{check_exists, damage, path};
use super::snapshot::{Cluster, Directory, damage_or};
use crate::command::{Call, Command, Flag, Kind, Running};
use crate::failure::{self, Failure, Outcome};
use crate::go;
use crate::output::{Format, print, unsupported};
use apply::{End, apply};
use choose::{Choice, choose};
use report::{Chosen, Made, Report};
use source::Source;

const LONG: &str = "\
Makes a new cluster of one member of what is left of a cluster that lost its quorum for good: of
one or more data directories of its members, whole or damaged. It takes the log that raft would
take (the highest term of the last entry, then the longest), on whatever database it goes on from,
and tells which revisions are certain, which may never have been acknowledged, and whether others
may be lost. Keys with their history, leases, alarms, users and roles stay; the members are replaced
by the new one. The old members must not run, and cannot join the new cluster: it has an id of its
own. Start it, then add members with `etcdctl member add`.

The directories are not changed; nothing is written with --dry-run. The formats are simple and
json. Where revisions may be lost and clients remember revisions, as Kubernetes does, give
--bump-revision 1000000000 --mark-compacted (see `snapshot restore --help`). (etcdutl does not have
this command.)";

pub(super) static RESCUE: Command = Command {
    name: "rescue",
    usage: "<data-dir>... --output-dir {new data dir} [options]",
    short: "Makes a cluster of one member of what is left of a cluster that lost its quorum",
    long: LONG,
    hidden: true,
    flags: &[
        Flag::text("output-dir", "", "Path to the data directory to make"),
        Flag::text(
            "wal-dir",
            "",
            "Path to the WAL directory to make (use --output-dir if none given)",
        ),
        Flag::new(
            "source-wal-dirs",
            Kind::Words,
            "",
            "Paths to the WAL directories of the data directories, in their order (an empty one: \
             in the data directory)",
        ),
        Flag::text("name", "default", "Human-readable name for the new member"),
        Flag::text(
            "initial-advertise-peer-urls",
            "http://localhost:2380",
            "List of the new member's peer URLs to advertise to the rest of the cluster",
        ),
        Flag::text(
            "initial-cluster-token",
            "",
            "Initial cluster token of the new cluster (one of its own if none given)",
        ),
        Flag::new(
            "bump-revision",
            Kind::Uint,
            "0",
            "How much to increase the latest revision after the rescue",
        ),
        Flag::bool(
            "mark-compacted",
            "Mark the latest revision after the rescue as the point of scheduled compaction \
             (required if --bump-revision > 0, disallowed otherwise)",
        ),
        Flag::bool("dry-run", "Tell what would be done, and write nothing"),
    ],
    run: Some(run),
    ..Command::EMPTY
};

fn run(call: &mut Call) -> Running<'_> {
    Box::pin(async {
        let format = call.format()?;
        let show = |report: &Report| {
            print(
                match format {
                    Format::Simple => report.text(),
                    Format::Json => report.json()?,
                    Format::Table => return Err(unsupported("table")),
                    Format::Fields => return Err(unsupported("fields")),
                    Format::Protobuf => return Err(unsupported("protobuf")),
                }
                .as_bytes(),
            )
        };
        // A format that is not supported is told before anything is done.
        if !matches!(format, Format::Simple | Format::Json) {
            return show(&Report::default());
        }
        let (report, ended) = rescue(call)?;
        show(&report)?;
        ended
    })
}

/// Does it, and tells what was found also where that does not suffice.
pub(super) fn rescue(call: &Call) -> Outcome<(Report, Outcome)> {
    let bad = |reason: &str| Failure::new(failure::BAD_ARGS, reason);
    let (values, dry) = (&call.values, call.values.bool("dry-run"));
    if call.args.is_empty() {
        return Err(bad("rescue requires at least one data directory"));
    }
    let bump = values.uint("bump-revision");
    if (bump > 0) != values.bool("mark-compacted") {
        return Err(bad("--mark-compacted required if --bump-revision > 0, disallowed otherwise"));
    }
    let root = PathBuf::from(values.text("output-dir"));
    if root.as_os_str().is_empty() && !dry {
        return Err(bad("required flag(s) \"output-dir\" not set"));
    }
    let wal = match values.text("wal-dir") {
        "" => root.join("member").join("wal"),
        given => PathBuf::from(given),
    };
    let dirs = directories(call)?;
    if !dry {
        check_free(&root, &wal, &dirs)?;
    }
    // What is wrong with the flags is told before the databases are read.
    new_cluster(call, &[])?;
    let mut sources =
        dirs.into_iter().map(|dir| Source::open(call, dir)).collect::<Outcome<Vec<Source>>>()?;
    let floor = choose::floor(&sources);
    for source in &mut sources {
        source.read_log(floor);
    }
    choose::check_cluster(&sources)?;
    let cluster = new_cluster(call, &sources)?;
    let mut report = Report::about(&sources);
    let Some(choice) = choose(&sources)? else {
        let reason = "nothing can be rescued: no database is whole, and no log has everything \
                      from the first entry on (that of a restored cluster has not)";
        return Ok((report, Err(fail(reason))));
    };
    let work = Work { choice: &choice, cluster: &cluster, bump };
    let mut chosen = Chosen::of(&choice, &sources);
    if dry {
        tell_end(&mut chosen, &work.rehearse(&sources)?, &choice, &sources);
    } else {
        let (end, revision) = work.make(&root, &wal, &sources)?;
        tell_end(&mut chosen, &end, &choice, &sources);
        let own = &cluster.members[0];
        report.made = Some(Made {
            path: root,
            member: cluster.own.to_string(),
            cluster: cluster.id.to_string(),
            name: own.name.clone(),
            peer_urls: own.peer_urls.clone(),
            revision,
        });
    }
    report.chosen = Some(chosen);
    Ok((report, Ok(())))
}

fn tell_end(chosen: &mut Chosen, end: &End, choice: &Choice<'_>, sources: &[Source]) {
    let (whole, farthest) = choose::whole_voters(sources, &end.members);
    let voters = end.members.iter().filter(|member| !member.is_learner).count();
    (chosen.revision, chosen.certain_revision) = (end.revision, end.certain);
    (chosen.voters, chosen.whole_voters) = (voters, whole);
    // Whatever was acknowledged stood in the logs of a majority, and stands in what is not behind
    // any of these.
    chosen.may_lack_acknowledged =
        whole <= voters / 2 || chosen.lost_entries.is_some() || choice.last < farthest;
    let alarm = |alarm: &AlarmMember| {
        format!("{} of member {:x}", alarm.alarm().as_str_name(), alarm.member_id)
    };
    chosen.alarms = end.alarms.iter().map(alarm).collect();
}

/// The directories that the arguments name.
fn directories(call: &Call) -> Outcome<Vec<DataDir>> {
    let logs = call.values.words("source-wal-dirs");
    if logs.len() > call.args.len() {
        let reason = "--source-wal-dirs names more directories than there are data directories";
        return Err(Failure::new(failure::BAD_ARGS, reason));
    }
    let mut seen = BTreeSet::new();
    let mut dirs = Vec::new();
    for (number, word) in call.args.iter().enumerate() {
        let at = path(word);
        check_exists(&at)?;
        let shown = at.display();
        let real = at
            .canonicalize()
            .map_err(|error| fail(format!("cannot find {shown}: {}", go::os_error(&error))))?;
        let root = if at.join("member").is_dir() {
            at.clone()
        } else if real.file_name().is_some_and(|name| name == "member") {
            real.parent().unwrap_or(Path::new("/")).to_owned()
        } else {
            return Err(fail(format!("{shown}: not a data directory: it has no directory member")));
        };
        if !seen.insert(root.canonicalize().unwrap_or(real)) {
            return Err(fail(format!("{shown} is named twice")));
        }
        let dir = DataDir::new(root);
        dirs.push(match logs.get(number).filter(|log| !log.is_empty()) {
            Some(log) => dir.with_wal(log),
            None => dir,
        });
    }
    Ok(dirs)
}

/// Fails unless the new directories can be made, and outside of those that are there.
fn check_free(root: &Path, wal: &Path, dirs: &[DataDir]) -> Outcome {
    let quoted = |path: &Path| go::quote(path.as_os_str().as_encoded_bytes());
    let is_empty = |path: &Path| path.read_dir().is_ok_and(|mut names| names.next().is_none());
    if root.symlink_metadata().is_ok() && !is_empty(root) {
        let root = quoted(root);
        return Err(fail(format!("output-dir {root} not empty or could not be read")));
    }
    if wal.symlink_metadata().is_ok() {
        return Err(fail(format!("wal-dir {} exists", quoted(wal))));
    }
    for (flag, path) in [("output-dir", root), ("wal-dir", wal)] {
        let place = absolute(path).map_err(fail)?;
        // The part of it that is there, without links.
        let there = place.ancestors().find_map(|place| place.canonicalize().ok());
        let inside = |dir: &Path| {
            let dir = dir.canonicalize().ok();
            dir.is_some_and(|dir| there.as_ref().is_some_and(|there| there.starts_with(dir)))
        };
        if let Some(dir) = dirs.iter().find(|dir| inside(dir.root()) || inside(dir.wal())) {
            let dir = dir.root().display();
            return Err(fail(format!("{flag} {} is inside of {dir}", quoted(path))));
        }
    }
    Ok(())
}

/// The new cluster, with ids that none of the directories knows.
fn new_cluster(call: &Call, sources: &[Source]) -> Outcome<Cluster> {
    let values = &call.values;
    let (name, urls) = (values.text("name"), values.text("initial-advertise-peer-urls"));
    let old = sources.iter().find_map(|source| source.identity).map(|(_, cluster)| cluster);
    let token = match values.text("initial-cluster-token") {
        "" => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            format!("rescued-{}-{:x}", old.unwrap_or_default(), now.as_nanos())
        }
        given => given.to_owned(),
    };
    let initial: Vec<String> = urls.split(',').map(|url| format!("{name}={url}")).collect();
    let cluster = Cluster::read(name, &initial.join(","), &token, urls).map_err(fail)?;
    let known: BTreeSet<MemberId> = sources
        .iter()
        .flat_map(|source| {
            let own = source.identity.map(|(member, _)| member);
            let rows = source.bases.iter().flat_map(|base| {
                base.members.iter().map(|member| member.id).chain(base.removed.iter().copied())
            });
            own.into_iter().chain(rows)
        })
        .collect();
    if Some(cluster.id) == old || known.contains(&cluster.own) {
        let token = go::quote(token.as_bytes());
        return Err(fail(format!(
            "--initial-cluster-token {token} gives the new cluster an id of the old one: give \
             another, or none"
        )));
    }
    Ok(cluster)
}

/// What is to be made of what.
struct Work<'a> {
    choice: &'a Choice<'a>,
    cluster: &'a Cluster,
    bump: u64,
}

impl Work<'_> {
    /// Applies the entries in memory.
    fn rehearse(&self, sources: &[Source]) -> Outcome<End> {
        if self.choice.tail.is_empty() {
            return Ok(self.as_it_is());
        }
        let view = match self.choice.base {
            Some((_, base)) => base.view.clone(),
            None => {
                // Of the disks there are, this one is in memory.
                let (disk, path) = (Faulty::new(0), Path::new("/db"));
                Database::open(&disk, path, bolt::Options::default()).map_err(damage)?.view()
            }
        };
        let end = apply(view, None, self.choice.tail, choose::certain(self.choice, sources));
        end.map_err(|failure| self.of_log(&failure))
    }

    /// The failure, told of the log whose entries are applied.
    fn of_log(&self, failure: &Failure) -> Failure {
        match self.choice.log {
            Some(source) => fail(format!("{}: {}", source.dir.wal().display(), failure.reason())),
            None => fail(failure.reason()),
        }
    }

    /// The state of the database alone, all of which was agreed on.
    fn as_it_is(&self) -> End {
        let base = self.choice.base.map(|(_, base)| base);
        let revision = base.map_or(0, |base| base.revision);
        let members = base.map(|base| base.members.clone()).unwrap_or_default();
        let alarms = base.map(|base| base.alarms.clone()).unwrap_or_default();
        End { revision, certain: revision, members, alarms }
    }

    /// Makes the new directory, and tells its newest revision.
    fn make(&self, root: &Path, wal: &Path, sources: &[Source]) -> Outcome<(End, i64)> {
        let directory = Directory::begin(root, wal)?;
        let file = directory.snap().join("db");
        if let Some((_, base)) = self.choice.base {
            base.view.rewrite(&Real, &file).map_err(damage)?;
        }
        let mut database =
            Database::open(&Real, &file, bolt::Options::default()).map_err(damage)?;
        let end = match self.choice.tail {
            [] => self.as_it_is(),
            tail => {
                let view = database.view();
                apply(view, Some(&mut database), tail, choose::certain(self.choice, sources))
                    .map_err(|failure| self.of_log(&failure))?
            }
        };
        let mut batch =
            self.cluster.batch(&database.view(), self.bump).map_err(damage_or(&file))?;
        let voters = vec![self.cluster.own.get()];
        let row = ConfStateRow { voters, ..ConfStateRow::default() };
        let row = serde_json::to_vec(&row).map_err(fail)?;
        batch.put(schema::META, schema::name(schema::CONF_STATE), Bytes::from(row));
        database.commit(batch).map_err(damage)?;
        drop(database);
        self.cluster.write_log(&directory)?;
        directory.publish()?;
        // The batch has been refused if that is too much.
        let bumped = end.revision.saturating_add_unsigned(self.bump);
        Ok((end, bumped))
    }
}
