//! What one member has left: its log, as far as it can be read, and its databases, as far as they
//! are whole.
//!
//! *Invariants.* Nothing is written. While a [`Source`] lives nobody writes to its files. A member
//! that runs, and rows of a version that is not known, end the call; damage does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{ClusterId, LogIndex, MemberId, Term};
use proto::etcdserverpb::{AlarmMember, Metadata};
use storage::bolt::{self, View};
use storage::datadir::DataDir;
use storage::disk::{Disk as _, Real};
use storage::snap::Snapshots;
use storage::wal::{self, ReadLocks, Salvaged};
use store::{Member, Store, Version, history, schema};

use crate::command::Call;
use crate::failure::{Failure, Outcome};
use crate::go;
use crate::utl::fail;
use crate::utl::files::{damage, try_to_read};
use crate::utl::snapshot::{VERSION_MAX, status, storage_version};

/// A place in the log: what raft compares logs by. The term comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) term: Term,
    pub(super) index: LogIndex,
}

/// A database that is whole.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) path: PathBuf,
    pub(super) view: View,
    /// The last entry in it. Its term is 0 where an old version has not written it down.
    pub(super) at: Position,
    pub(super) revision: i64,
    pub(super) members: Vec<Member>,
    /// Ids that were removed from the cluster.
    pub(super) removed: Vec<MemberId>,
    /// The alarms that are raised.
    pub(super) alarms: Vec<AlarmMember>,
}

/// What a member has left.
pub(super) struct Source {
    pub(super) dir: DataDir,
    /// Whose it is, where the log tells.
    pub(super) identity: Option<(MemberId, ClusterId)>,
    pub(super) log: Salvaged,
    /// Whole databases: its own, and those received in its place.
    pub(super) bases: Vec<Base>,
    /// The newest snapshot file that is whole.
    pub(super) snapshot: Position,
    /// What is wrong, each in one line.
    pub(super) damage: Vec<String>,
    _locks: Option<ReadLocks>,
}

impl Source {
    /// Locks what there is, and reads the databases; the log is read by [`Source::read_log`].
    pub(super) fn open(call: &Call, dir: DataDir) -> Outcome<Self> {
        let mut this = Self {
            dir,
            identity: None,
            log: Salvaged::default(),
            bases: Vec::new(),
            snapshot: Position::default(),
            damage: Vec::new(),
            _locks: None,
        };
        match wal::lock_to_read(&Real, this.dir.wal()) {
            Ok(locks) => this._locks = Some(locks),
            Err(error @ wal::Error::Locked { .. }) => return Err(fail(error)),
            // Whoever reads it says the same again.
            Err(_) => {}
        }
        this.read_databases(call)?;
        this.read_snapshots();
        Ok(this)
    }

    fn read_databases(&mut self, call: &Call) -> Outcome {
        let own = self.dir.database();
        match own.symlink_metadata() {
            Ok(_) => self.read_database(call, &own)?,
            Err(error) => {
                let (own, error) = (own.display(), go::os_error(&error));
                self.damage.push(format!("{own}: there is no database: {error}"));
            }
        }
        let received = Real.list(&self.dir.snap()).unwrap_or_default();
        let received = received.iter().filter(|name| name.to_string_lossy().ends_with(".snap.db"));
        for name in received {
            self.read_database(call, &self.dir.snap().join(name))?;
        }
        Ok(())
    }

    fn read_database(&mut self, call: &Call, path: &Path) -> Outcome {
        let view = match try_to_read(call, path) {
            Ok(view) => view,
            Err(error @ bolt::Error::Locked { .. }) => return Err(damage(error)),
            Err(error) => {
                self.damage.push(damage(error).reason().to_owned());
                return Ok(());
            }
        };
        refuse_newer(&view, path)?;
        match look_into(view, path) {
            Ok(base) => self.bases.push(base),
            Err(failure) => self.damage.push(failure.reason().to_owned()),
        }
        Ok(())
    }

    fn read_snapshots(&mut self) {
        let dir = self.dir.snap();
        if !dir.is_dir() {
            return;
        }
        match Snapshots::new(Arc::new(Real), &dir).read_all() {
            Ok(files) => {
                for (path, read) in files {
                    match read {
                        Ok(found) => {
                            let metadata = found.metadata.unwrap_or_default();
                            let (term, index) = (metadata.term(), metadata.index());
                            let at = Position { term: Term(term), index: LogIndex(index) };
                            self.snapshot = self.snapshot.max(at);
                        }
                        Err(why) => self.damage.push(format!("{}: {why}", path.display())),
                    }
                }
            }
            Err(error) => self.damage.push(error.to_string()),
        }
    }

    /// Reads the log, and keeps its entries from `from` on.
    pub(super) fn read_log(&mut self, from: LogIndex) {
        match wal::salvage(&Real, self.dir.wal(), from) {
            Ok(log) => self.log = log,
            Err(error) => self.damage.push(finding(&error)),
        }
        let survey = &self.log.survey;
        let wal = self.dir.wal().display();
        if survey.segments.is_empty() {
            self.damage.push(format!("{wal}: there is no log"));
        }
        self.damage.extend(survey.damage().map(finding));
        for segment in &survey.segments {
            if let Some((at, why)) = segment.torn {
                let path = segment.path.display();
                self.damage.push(format!("{path}: torn at byte {at}: {why}"));
            }
        }
        match survey.metadata.as_ref().map(|bytes| proto::decode::<Metadata>(&bytes[..])) {
            Some(Ok(found)) => {
                self.identity = Some((MemberId(found.node_id()), ClusterId(found.cluster_id())));
            }
            Some(Err(error)) => {
                self.damage.push(format!("{wal}: the metadata is not etcd's: {error}"));
            }
            None => {}
        }
        let (end, known) = (self.log_end().index, self.committed());
        if !survey.segments.is_empty() && end < known {
            let line = format!("{wal}: it ends at entry {end}, but entry {known} was committed");
            self.damage.push(line);
        }
    }

    /// The last entry of the log, or the snapshot that it goes on from.
    pub(super) fn log_end(&self) -> Position {
        let last = self.log.last.map(|(index, term)| Position { term, index });
        last.into_iter().chain(self.recorded()).max().unwrap_or_default()
    }

    /// The snapshots that the log tells of, and that were committed.
    pub(super) fn recorded(&self) -> impl Iterator<Item = Position> {
        let commit = self.commit().get();
        let recorded =
            self.log.survey.snapshots.iter().filter(move |found| found.index() <= commit);
        recorded.map(|found| Position { term: Term(found.term()), index: LogIndex(found.index()) })
    }

    /// The last entry of which the log says that the cluster had agreed on it.
    pub(super) fn commit(&self) -> LogIndex {
        LogIndex(self.log.survey.hard_state.commit())
    }

    /// The last entry of which this directory proves that the cluster had agreed on it.
    pub(super) fn committed(&self) -> LogIndex {
        let bases = self.bases.iter().map(|base| base.at.index);
        bases.chain([self.commit(), self.snapshot.index]).max().unwrap_or_default()
    }

    /// Whether no segment of the log is damaged or missing. An end that is torn may still hide
    /// entries.
    pub(super) fn is_undamaged(&self) -> bool {
        self.log.survey.damage().next().is_none()
    }

    /// Whether nothing of the log is missing, so that it has every entry that the member has said
    /// to have.
    pub(super) fn log_is_whole(&self) -> bool {
        let survey = &self.log.survey;
        self.identity.is_some()
            && self.is_undamaged()
            && survey.segments.iter().all(|segment| segment.torn.is_none())
            && self.log_end().index >= self.committed()
    }
}

/// What to do is not said of each damage.
fn finding(error: &wal::Error) -> String {
    let text = error.to_string();
    text.strip_suffix(&format!("; {}", storage::REMEDY)).map_or(text.clone(), str::to_owned)
}

/// Refuses rows that this version may misunderstand.
fn refuse_newer(view: &View, path: &Path) -> Outcome {
    let cluster = view.get(schema::CLUSTER, schema::CLUSTER_VERSION).ok().flatten();
    let cluster = cluster.map(|row| String::from_utf8_lossy(&row).into_owned());
    // What is damaged is told later.
    let storage = storage_version(view, path).unwrap_or_default();
    for (what, version) in [("rows", Some(storage)), ("a cluster", cluster)] {
        if let Some(found) = version.as_deref().and_then(Version::parse)
            && found.pair() > VERSION_MAX
        {
            let (path, (major, minor)) = (path.display(), VERSION_MAX);
            return Err(fail(format!(
                "{path}: it has {what} of version {found}, and no version above {major}.{minor} is \
                 known"
            )));
        }
    }
    Ok(())
}

/// Reads all of a database whose structure is whole.
fn look_into(view: View, path: &Path) -> Outcome<Base> {
    let shown = path.display();
    let buckets = view.buckets().map_err(damage)?;
    for needed in [schema::META, schema::KEY] {
        if !buckets.iter().any(|bucket| bucket == needed) {
            let needed = needed.escape_ascii();
            return Err(fail(format!("{shown}: it is not etcd's: there is no bucket {needed}")));
        }
    }
    status(&view, path)?;
    let keys = history(view.clone()).map_err(|error| told_of(path, &error))?;
    let index = Store::consistent_index(&view).map_err(|error| told_of(path, &error))?;
    let term = view.get(schema::META, schema::TERM).map_err(damage)?;
    let term = term.and_then(|row| schema::read_number(&row)).unwrap_or(0);
    let mut members = Vec::new();
    for row in view.scan(schema::MEMBERS, &[]) {
        let (id, row) = row.map_err(damage)?;
        members.push(Member::from_json(&row).map_err(|error| {
            fail(format!("{shown}: bucket members, row {}: {error}", id.escape_ascii()))
        })?);
    }
    let mut removed = Vec::new();
    for row in view.scan(schema::MEMBERS_REMOVED, &[]) {
        removed.extend(schema::read_member(&row.map_err(damage)?.0));
    }
    let mut alarms = Vec::new();
    for row in view.scan(schema::ALARM, &[]) {
        alarms.extend(proto::decode::<AlarmMember>(row.map_err(damage)?.0));
    }
    Ok(Base {
        alarms,
        path: path.to_owned(),
        at: Position { term: Term(term), index },
        revision: keys.revision().0,
        members,
        removed,
        view,
    })
}

/// Damage in a database, told of the file once.
fn told_of(path: &Path, error: &impl std::fmt::Display) -> Failure {
    let (path, error) = (path.display().to_string(), error.to_string());
    let error = error.strip_suffix(&format!("; {}", storage::REMEDY)).unwrap_or(&error);
    fail(if error.starts_with(&path) { error.to_owned() } else { format!("{path}: {error}") })
}
