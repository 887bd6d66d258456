//! Makes a data directory for a new member, and opens one that is there: ours or etcd's.
//!
//! ```text
//!  create: metadata, one conf change a member ─► wal      (which makes the member an existing one)
//!  join:   metadata alone ─► wal                          (the cluster's leader sends the rest)
//!  open:   wal snapshots ─► all is read and judged ─► wal, durable ─► database (or a received one
//!          in its place) ─► store
//!  alone:  uncommitted entries dropped, the other members removed ─► wal
//! ```
//!
//! *Invariants.*
//! 1. Every first member writes the same entries, byte for byte, without having talked to another.
//! 2. The database is never behind the snapshot at which the log is opened.
//! 3. What cannot be opened is left as it was: everything is read and judged before the first
//!    change.
//! 4. A database gets its place only when the log that goes with it is durable: what was read of
//!    it may be in the page cache only.
//!
//! *Absent.* Asking the members of a running cluster who this one is (crate `server`); threads.
//!
//! *Contract.* `server/etcdserver/bootstrap.go`, `server/storage/util.go` and
//! `server/etcdserver/api/membership/member.go` of etcd v3.7.1.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use base::{ClusterId, LogIndex, MemberId, Moment, Term};
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::Metadata;
use proto::raftpb::{ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState};
use proto::walpb;
use storage::bolt::{self, Database};
use storage::datadir::DataDir;
use storage::disk::Disk;
use storage::snap::Snapshots;
use storage::wal::{self, Locked, Wal};
use store::identity::{FIRST_TERM, first_entries};
pub use store::identity::{cluster_id, member_id};
use store::{Member, Store, StoreOptions};
use thiserror::Error;

pub use crate::found::check_new;
use crate::found::{Found, judge_log, last_entry};

/// Why a member cannot start. One line.
#[derive(Debug, Error)]
pub enum StartError {
    /// The directory cannot be made or read.
    #[error("{}: cannot {action}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The log cannot be opened.
    #[error("write-ahead log: {0}")]
    Log(#[from] wal::Error),
    /// The database cannot be opened.
    #[error("database: {0}")]
    Database(#[from] bolt::Error),
    /// A snapshot file cannot be removed.
    #[error("snapshots: {0}")]
    Snapshots(#[from] storage::snap::Error),
    /// The state in it cannot be served.
    #[error(transparent)]
    State(#[from] store::OpenError),
    /// A change of the members in the log cannot be read.
    #[error("write-ahead log: a change of the members is not etcd's: {0}")]
    ConfChange(proto::DecodeError),
    /// The log's head does not say whose it is.
    #[error("write-ahead log: the metadata record is not etcd's: {0}")]
    Metadata(proto::DecodeError),
    /// The database is older than the snapshot that the log begins with, and what was to replace
    /// it is not there.
    #[error(
        "failed to find database snapshot file (snap: snapshot file doesn't exist): the database \
         has entry {database}, the newest snapshot is at {snapshot}"
    )]
    DatabaseBehind {
        /// The last entry that the database has.
        database: LogIndex,
        /// Where the log begins.
        snapshot: LogIndex,
    },
    /// The database has entries that the log does not have any more. New entries would get their
    /// numbers, and be taken for done: etcd goes on like that, and forgets writes.
    #[error(
        "write-ahead log: {}: it ends at entry {last}, but the database has entry {database}: the \
         end of the log is lost; {REMEDY}",
        dir.display(),
        REMEDY = storage::REMEDY
    )]
    LogBehind {
        /// Where the log is.
        dir: PathBuf,
        /// Its last entry, or the snapshot that it begins with.
        last: LogIndex,
        /// The last entry that the database has.
        database: LogIndex,
    },
    /// The log needs what is not here.
    #[error("write-ahead log: {0}")]
    Entry(#[from] store::Fatal),
    /// There is the data of a member, but no log.
    #[error(
        "write-ahead log: {}: there is none, but {found} is there: the directory was copied in \
         part, or the log is elsewhere (--wal-dir); {REMEDY}",
        dir.display(),
        REMEDY = storage::REMEDY
    )]
    LogMissing {
        /// Where it should be.
        dir: PathBuf,
        /// What a member has left.
        found: String,
    },
    /// The initial members do not name this one.
    #[error("couldn't find local name \"{0}\" in the initial cluster configuration")]
    NotAMember(String),
    /// Two initial members would have the same id.
    #[error("initial cluster names two members with the same peer URLs")]
    DuplicateMember,
    /// The log of a new member ends before its first entries.
    #[error("the log has no entries and the database no members: the directory was left half made")]
    HalfMade,
    /// A member that was removed cannot be the one that remains.
    #[error(
        "member {0} was removed from its cluster: --force-new-cluster cannot make a cluster of it"
    )]
    Removed(MemberId),
    /// The consensus refuses what the disk holds.
    #[error("{0}")]
    Consensus(#[from] raft::ConfigError),
}

/// Who a member is; fixed when its directory is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The member.
    pub member: MemberId,
    /// The cluster.
    pub cluster: ClusterId,
}

impl Identity {
    /// The record at the head of the log.
    fn metadata(self) -> Bytes {
        let metadata =
            Metadata { node_id: Some(self.member.get()), cluster_id: Some(self.cluster.get()) };
        Bytes::from(metadata.encode_to_vec())
    }
}

/// A member of a new cluster, as its operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialMember {
    /// Its name.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
}

/// How files are written.
#[derive(Debug, Clone, Copy)]
pub struct FileOptions {
    /// The log.
    pub wal: wal::Options,
    /// The database.
    pub database: bolt::Options,
}

/// Everything that a member's disk holds, opened and locked.
pub struct Opened {
    /// Who it is.
    pub identity: Identity,
    /// The log, to append to.
    pub wal: Wal,
    /// The snapshot files.
    pub snapshots: Snapshots,
    /// The database.
    pub database: Database,
    /// The state in it.
    pub store: Store,
    /// What the consensus starts from.
    pub restored: raft::Restored,
    /// A torn end that was cut off the log.
    pub repaired: Option<wal::Repair>,
    /// The last entry that the database had before one that was received took its place: the
    /// member had ended in between.
    pub recovered: Option<LogIndex>,
    /// What the last hard state in the log says. The database may have more.
    commit_in_log: u64,
}

pub(crate) fn directory(
    path: impl Into<PathBuf>,
    action: &'static str,
) -> impl FnOnce(io::Error) -> StartError {
    let path = path.into();
    move |source| StartError::Directory { path, action, source }
}

/// Makes the directory of a new cluster's member `name`. Does nothing when a member is there.
pub fn create(
    disk: &Arc<dyn Disk>,
    dir: &DataDir,
    name: &str,
    members: &[InitialMember],
    token: &str,
    options: &FileOptions,
) -> Result<(), StartError> {
    let half_made = match dir.is_initialized(&**disk).map_err(directory(dir.wal(), "read"))? {
        true => match read_half_made(disk, dir, options)? {
            None => return Ok(()),
            half_made => half_made,
        },
        false => {
            check_new(&**disk, dir, options)?;
            None
        }
    };
    let founding = first_members(name, members, token);
    if let Some(HalfMade { log, is_opened }) = &half_made {
        let is_ours =
            founding.as_ref().is_ok_and(|(_, identity)| identity.metadata() == *log.metadata());
        if *is_opened && !is_ours {
            // It was added to a cluster, and waits for the leader.
            return Ok(());
        }
        if members.is_empty() {
            // Who asked a service for the members the first time does not know them any more.
            return Err(StartError::HalfMade);
        }
    }
    let (all, identity) = founding?;
    let metadata = identity.metadata();
    dir.create(&**disk).map_err(directory(dir.root(), "create the data directory"))?;
    let mut wal = match half_made {
        // The operator may have named the members differently this time.
        Some(HalfMade { log, .. }) if *log.metadata() == metadata => log.open(options.wal)?.wal,
        Some(_) => return Err(StartError::HalfMade),
        None => Wal::create(Arc::clone(disk), dir.wal(), metadata, options.wal)?,
    };
    // All of them are committed: the cluster agreed before it met.
    let entries = first_entries(&all);
    let commit = Some(entries.len() as u64);
    let state = HardState { term: Some(FIRST_TERM.0), vote: Some(0), commit };
    wal.append(&entries, Some(&state))?;
    wal.sync()?;
    wal.close()?;
    Ok(())
}

/// The members of a new cluster, by their ids, and which of them is this one.
fn first_members(
    name: &str,
    members: &[InitialMember],
    token: &str,
) -> Result<(Vec<Member>, Identity), StartError> {
    let mut all: Vec<Member> = members
        .iter()
        .map(|member| Member {
            id: member_id(&member.peer_urls, token),
            peer_urls: member.peer_urls.clone(),
            name: member.name.clone(),
            ..Member::default()
        })
        .collect();
    all.sort_by_key(|member| member.id);
    if all.windows(2).any(|pair| pair[0].id == pair[1].id) {
        return Err(StartError::DuplicateMember);
    }
    let own = all.iter().find(|member| member.name == name);
    let own = own.ok_or_else(|| StartError::NotAMember(name.to_owned()))?;
    let ids: Vec<MemberId> = all.iter().map(|member| member.id).collect();
    let identity = Identity { member: own.id, cluster: cluster_id(&ids) };
    Ok((all, identity))
}

/// Makes the directory of a member that was added to a cluster which runs: its log says who it is,
/// and nothing else. Does nothing when a member is there.
pub fn join(
    disk: &Arc<dyn Disk>,
    dir: &DataDir,
    identity: Identity,
    options: &FileOptions,
) -> Result<(), StartError> {
    if dir.is_initialized(&**disk).map_err(directory(dir.wal(), "read"))? {
        return Ok(());
    }
    check_new(&**disk, dir, options)?;
    dir.create(&**disk).map_err(directory(dir.root(), "create the data directory"))?;
    let wal = Wal::create(Arc::clone(disk), dir.wal(), identity.metadata(), options.wal)?;
    wal.close()?;
    Ok(())
}

/// A directory whose making was interrupted before its first entries were durable, or that of a
/// member which waits for the leader of the cluster that it was added to.
struct HalfMade {
    log: Locked,
    /// Whether there is a database: then the member has been started, or etcd, which makes that
    /// before the log, was interrupted.
    is_opened: bool,
}

/// Reads it, where no entry is in the database (see [`check_new`]) and none committed in the log.
fn read_half_made(
    disk: &Arc<dyn Disk>,
    dir: &DataDir,
    options: &FileOptions,
) -> Result<Option<HalfMade>, StartError> {
    let entry = last_entry(&**disk, dir, options)?;
    if entry.is_some_and(|entry| entry > LogIndex(0)) {
        return Ok(None);
    }
    let start = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None };
    if !wal::snapshots(&**disk, dir.wal())?.iter().all(|found| found.index() == 0) {
        return Ok(None);
    }
    let log = Locked::read(Arc::clone(disk), dir.wal(), &start)?;
    // Entries may be there without the state after them that commits them.
    let is_opened = entry.is_some();
    Ok((log.hard_state().commit() == 0).then_some(HalfMade { log, is_opened }))
}

/// What a member is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To take part in its cluster.
    Member,
    /// To leave the others behind: what [`Opened::leave_others`] would refuse is refused before the
    /// first change.
    Leaver,
}

/// Opens the directory of a member.
pub fn open(
    disk: &Arc<dyn Disk>,
    dir: &DataDir,
    options: &FileOptions,
    store: impl FnOnce(Identity) -> StoreOptions,
    now: Moment,
    role: Role,
) -> Result<Opened, StartError> {
    let at = wal::snapshots(&**disk, dir.wal())?.pop().unwrap_or_default();
    let found = Found::look(disk, dir, options, LogIndex(at.index()))?;
    let log = Locked::read(Arc::clone(disk), dir.wal(), &at)?;
    let identity = judge_log(dir, &log, &at, found.index())?;
    let store = store(identity);
    let judged = found.view().map(|view| Store::open(view, store.clone(), now)).transpose()?;
    if role == Role::Leaver {
        let commit = log.hard_state().commit();
        let entries = log.entries().iter().take_while(|entry| entry.index() <= commit);
        members_to_leave(identity.member, judged.as_ref(), entries)?;
    }
    // What refuses the directory is behind us; what follows changes it.
    let recovered = found.replaces();
    // One that was received is read again under its own name.
    let judged = judged.filter(|_| recovered.is_none());
    let wal::Opened { wal, hard_state, entries, repaired, .. } = log.open(options.wal)?;
    let mut database = found.take(disk, dir, options)?;
    let mut store = match judged {
        Some(store) => store,
        None => Store::open(database.view(), store, now)?,
    };
    dir.remove_leftovers(&**disk).map_err(directory(dir.snap(), "remove leftovers"))?;
    // etcd's tools take a database without its buckets for a broken one.
    if database.view().buckets()?.is_empty()
        && let Some(frozen) = store.freeze()
    {
        store.committed(database.commit(frozen.batch)?);
    }
    // Without any voter the member waits for a leader that knows it: it was added to a cluster.
    let row = store.handle().conf_state();
    let commit_in_log = hard_state.commit();
    let restored = restore(&at, store.applied().0, row, hard_state, entries);
    let snapshots = Snapshots::new(Arc::clone(disk), dir.snap());
    snapshots.remove_unrecorded(LogIndex(at.index()))?;
    Ok(Opened {
        identity,
        wal,
        snapshots,
        database,
        store,
        restored,
        repaired,
        recovered,
        commit_in_log,
    })
}

/// The consensus starts behind the snapshot. Whatever the database has of the entries after it
/// was committed, also where the log's last hard state does not say so: a commit index alone is
/// not synced.
fn restore(
    at: &walpb::Snapshot,
    database: LogIndex,
    members: store::schema::ConfStateRow,
    mut hard_state: HardState,
    entries: Vec<Entry>,
) -> raft::Restored {
    let last = entries.last().map_or(at.index(), Entry::index);
    let commit = hard_state.commit().max(database.get().min(last)).max(at.index());
    hard_state.commit = Some(commit);
    raft::Restored {
        base: raft::Position { index: LogIndex(at.index()), term: Term(at.term()) },
        conf_state: ConfState {
            voters: members.voters,
            learners: members.learners,
            ..ConfState::default()
        },
        hard_state,
        entries,
    }
}

/// What [`Opened::leave_others`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forced {
    /// The commit index that the log told.
    pub commit_in_log: LogIndex,
    /// The commit index now.
    pub commit: LogIndex,
    /// Entries after the former one, which nobody has agreed on as far as is known.
    pub discarded: usize,
}

impl Opened {
    /// Makes this member a cluster of its own with everything that is in it
    /// (`--force-new-cluster`): drops the entries that are not committed, and commits the removal
    /// of every other member.
    pub fn leave_others(&mut self) -> Result<Forced, StartError> {
        let member = self.identity.member;
        let restored = &mut self.restored;
        // At least what the database has: see `restore`.
        let commit = restored.hard_state.commit();
        let kept = restored.entries.iter().take_while(|entry| entry.index() <= commit).count();
        let others = members_to_leave(member, Some(&self.store), &restored.entries[..kept])?;
        let discarded = restored.entries.len() - kept;
        restored.entries.truncate(kept);
        let term = restored.hard_state.term();
        let entries = lone_entries(member, &others, term, commit);
        let last = commit + entries.len() as u64;
        let commit_in_log = LogIndex(self.commit_in_log);
        let state = HardState { commit: Some(last), ..restored.hard_state };
        self.wal.append(&entries, Some(&state))?;
        self.wal.sync()?;
        restored.entries.extend(entries);
        restored.hard_state = state;
        Ok(Forced { commit_in_log, commit: LogIndex(last), discarded })
    }
}

/// Who belongs to the cluster of `own`, which is to leave it, when these entries are applied. There
/// is no state before the first entry is.
fn members_to_leave<'a>(
    own: MemberId,
    state: Option<&Store>,
    entries: impl IntoIterator<Item = &'a Entry>,
) -> Result<BTreeSet<MemberId>, StartError> {
    let (mut members, mut applied) = (BTreeSet::new(), LogIndex(0));
    if let Some(store) = state {
        let shared = store.handle();
        if shared.removed_members().contains(&own) {
            return Err(StartError::Removed(own));
        }
        members.extend(shared.members().into_iter().map(|member| member.id));
        applied = store.applied().0;
    }
    let changes = entries.into_iter().filter(|entry| {
        entry.index() > applied.get() && entry.r#type() == EntryType::EntryConfChange
    });
    for entry in changes {
        let change: ConfChange = proto::decode(entry.data()).map_err(StartError::ConfChange)?;
        let id = MemberId(change.node_id());
        match change.r#type() {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                members.insert(id);
            }
            ConfChangeType::ConfChangeRemoveNode => {
                members.remove(&id);
            }
            ConfChangeType::ConfChangeUpdateNode => {}
        }
    }
    Ok(members)
}

/// Entries that leave `own` alone. It is added first where it is missing: a cluster without any
/// voter cannot be.
fn lone_entries(own: MemberId, members: &BTreeSet<MemberId>, term: u64, commit: u64) -> Vec<Entry> {
    let added = (!members.contains(&own)).then(|| {
        // etcd's own words: the operator updates the address later.
        let peer_urls = vec!["http://localhost:2380".to_owned()];
        let member = Member { id: own, peer_urls, ..Member::default() };
        (ConfChangeType::ConfChangeAddNode, own, Some(member.to_json().into()))
    });
    let others = members.iter().filter(|id| **id != own);
    let removed = others.map(|id| (ConfChangeType::ConfChangeRemoveNode, *id, None));
    let change = |(at, (kind, id, context)): (usize, (ConfChangeType, MemberId, Option<Bytes>))| {
        let change = ConfChange {
            r#type: Some(kind.into()),
            node_id: Some(id.get()),
            context,
            ..ConfChange::default()
        };
        Entry {
            r#type: Some(EntryType::EntryConfChange.into()),
            term: Some(term),
            index: Some(commit + 1 + at as u64),
            data: Some(change.encode_to_vec().into()),
        }
    };
    added.into_iter().chain(removed).enumerate().map(change).collect()
}
