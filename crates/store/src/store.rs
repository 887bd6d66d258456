//! The writer's half of the store: opening a database, freezing what is applied for its commit,
//! publishing views, and removing what compactions drop.
//!
//! ```text
//!  apply(entry) ─► active table ─ freeze() ─► frozen table ─► batch ─► (committed elsewhere)
//!       │                                        ▲                          │
//!       └─► publish(view)                        └──── committed(view) ◄────┘
//! ```
//!
//! *Invariants.*
//! 1. A batch carries the index and term of the last entry whose changes it holds.
//! 2. `frozen <= applied`; one frozen table at most.
//! 3. `swept <= compacted <= revision`.
//!
//! *Absent.* Writing to disk: the batch goes to whoever owns the database.
//!
//! *Contract.* `restore` of `server/storage/mvcc/kvstore.go` of etcd v3.7.1.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{LeaseId, LogIndex, MemberId, Moment, Revision, Term};
use parking_lot::RwLock;
use prost::Message;
use proto::leasepb;
use storage::bolt;

use crate::alarm::Alarms;
use crate::backend::{Memtable, Tables};
use crate::error::{Damage, Fatal, OpenError};
use crate::lease::Lessor;
use crate::membership::{Membership, read_version};
use crate::mvcc::compact::Compaction;
use crate::mvcc::index::{Index, Restored};
use crate::mvcc::{Change, Core, Parts, RevKey, View};
use crate::operation::Counts;
use crate::schema;
use crate::shared::Shared;
use crate::version::Version;
use crate::watch::Hub;

/// What a store is told once.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Whose store it is.
    pub member: MemberId,
    /// The space quota; `None` for none.
    pub quota_bytes: Option<u64>,
    /// The shortest lease, in seconds.
    pub min_lease_ttl: i64,
    /// Rows that one slice of a compaction looks at.
    pub compaction_batch: usize,
    /// Learners that this member lets the cluster have.
    pub learners_max: usize,
    /// Major and minor of the version this server announces.
    pub server_version: (u64, u64),
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            member: MemberId::NONE,
            quota_bytes: Some(base::limits::QUOTA_DEFAULT_BYTES),
            min_lease_ttl: 2,
            compaction_batch: 1000,
            learners_max: 1,
            server_version: (3, 7),
        }
    }
}

/// Changes that are to be committed together.
#[derive(Debug)]
pub struct Frozen {
    /// For [`bolt::Database::commit`].
    pub batch: bolt::Batch,
    /// The last entry whose changes it holds: the log must have synced it, and a hard state that
    /// commits it, before the commit starts.
    pub upto: LogIndex,
}

/// The replicated state and the only hand that changes it.
pub struct Store {
    pub(crate) options: StoreOptions,
    pub(crate) shared: Arc<Shared>,
    pub(crate) tables: Arc<Tables>,
    pub(crate) view: Arc<View>,
    /// The last entry that has changed the state, and its term.
    pub(crate) applied: (LogIndex, Term),
    /// What the entry under way has done to the keys.
    pub(crate) counts: Counts,
    frozen: LogIndex,
    creates_buckets: bool,
    pub(crate) compacted: Revision,
    swept: Revision,
    removing: Option<Compaction>,
    /// Asked for while another is removing. A later one takes its place: it removes no less, and
    /// neither's hash would be remembered.
    waiting: Option<Revision>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("applied", &self.applied).field("view", &self.view).finish()
    }
}

/// What one scan of bucket `key` yields.
struct Scanned {
    index: Index,
    last: Revision,
    leased: BTreeMap<Box<[u8]>, LeaseId>,
}

impl Store {
    /// Takes up the state that a database holds; an empty one gets its first rows with the next
    /// commit.
    pub fn open(view: bolt::View, options: StoreOptions, now: Moment) -> Result<Self, OpenError> {
        Self::load(view.clone(), options, now).map_err(|error| match error {
            OpenError::Damaged(damage) => OpenError::Damaged(damage.placed(&view)),
            other => other,
        })
    }

    fn load(view: bolt::View, options: StoreOptions, now: Moment) -> Result<Self, OpenError> {
        let tables = Arc::new(Tables { active: Arc::default(), frozen: None, database: view });
        refuse_auth(&tables)?;
        let membership = Membership::load(&tables)?;
        let storage_version = read_version(&tables, schema::META, schema::STORAGE_VERSION)?;
        refuse_newer("cluster", membership.version(), options.server_version)?;
        refuse_newer("storage", storage_version.as_ref(), options.server_version)?;

        let applied = read_applied(&tables)?;
        let scheduled = read_compaction(&tables, schema::SCHEDULED_COMPACT)?;
        let finished = read_compaction(&tables, schema::FINISHED_COMPACT)?;
        let swept = finished.unwrap_or(Revision::NEVER);
        let compacted = scheduled.unwrap_or(Revision::NEVER).max(swept);
        let Scanned { mut index, last, leased } = scan(&tables)?;
        let revision = last.max(compacted);
        index.set_compacted(compacted);

        let lessor = Lessor::new(options.min_lease_ttl);
        lessor.restore(read_leases(&tables)?, now);
        for (key, lease) in leased {
            lessor.attach(lease, key.into_vec().into());
        }

        let core = Arc::new(Core { index: RwLock::new(index), ..Core::default() });
        let first =
            Arc::new(View::new(Arc::clone(&core), Arc::clone(&tables), revision, compacted, swept));
        let creates_buckets = {
            let there = tables.database.buckets()?;
            schema::BUCKETS.iter().any(|bucket| !there.iter().any(|there| there == bucket))
        };
        let shared = Arc::new(Shared {
            core,
            view: RwLock::new(Arc::clone(&first)),
            lessor,
            hub: Hub::new(revision),
            membership: RwLock::new(membership),
            alarms: RwLock::new(Alarms::load(&tables)?),
            storage_version: RwLock::new(storage_version),
            quota_bytes: options.quota_bytes,
        });
        if tables.plain(schema::AUTH, schema::AUTH_REVISION)?.is_none() {
            let name = schema::name(schema::AUTH_REVISION);
            tables.active.put(schema::AUTH, name, schema::number(1));
        }
        let mut store = Self {
            options,
            shared,
            tables,
            view: first,
            applied,
            frozen: applied.0,
            creates_buckets,
            compacted,
            swept,
            removing: None,
            waiting: None,
            counts: Counts::default(),
        };
        store.follow_cluster_version();
        if compacted > swept {
            store.removing = Some(Compaction::new(compacted, swept, false));
        }
        Ok(store)
    }

    /// The last entry that a database has, without opening a store on it; 0 for none.
    pub fn consistent_index(view: &bolt::View) -> Result<LogIndex, OpenError> {
        let tables = Tables { active: Arc::default(), frozen: None, database: view.clone() };
        Ok(read_applied(&tables)?.0)
    }

    /// The last entry that is in the state, and its term.
    pub fn applied(&self) -> (LogIndex, Term) {
        self.applied
    }

    /// What readers share.
    pub fn handle(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// How many changes wait to be frozen.
    pub fn changes_pending(&self) -> usize {
        let rows = self.tables.active.len();
        rows.max(usize::from(self.applied.0 > self.frozen || self.creates_buckets))
    }

    /// The memory that changes not yet committed take.
    pub fn bytes_pending(&self) -> usize {
        self.tables.active.bytes() + self.tables.frozen.as_ref().map_or(0, |table| table.bytes())
    }

    /// Whether a frozen table waits for its commit.
    pub fn is_committing(&self) -> bool {
        self.tables.frozen.is_some()
    }

    /// Closes the active table and hands it out to be committed. `None` when nothing is pending
    /// or the table before is not committed yet.
    pub fn freeze(&mut self) -> Option<Frozen> {
        if self.is_committing() || self.changes_pending() == 0 {
            return None;
        }
        let mut batch = bolt::Batch::default();
        if std::mem::take(&mut self.creates_buckets) {
            for bucket in schema::BUCKETS {
                batch.create_bucket(bucket);
            }
        }
        let frozen = Arc::clone(&self.tables.active);
        frozen.to_batch(&mut batch);
        let (index, term) = self.applied;
        if index > LogIndex(0) {
            for (name, value) in schema::applied(index, term) {
                batch.put(schema::META, name, value);
            }
        }
        self.frozen = index;
        let database = self.tables.database.clone();
        self.replace_tables(Tables { active: Arc::default(), frozen: Some(frozen), database });
        Some(Frozen { batch, upto: index })
    }

    /// The frozen table is on disk, and `view` holds it.
    pub fn committed(&mut self, view: bolt::View) {
        assert!(self.is_committing(), "nothing was frozen");
        let active = Arc::clone(&self.tables.active);
        self.replace_tables(Tables { active, frozen: None, database: view });
    }

    fn replace_tables(&mut self, tables: Tables) {
        self.tables = Arc::new(tables);
        self.publish(self.view.revision());
    }

    /// Shows readers the state at `revision`.
    pub(crate) fn publish(&mut self, revision: Revision) {
        assert!(revision >= self.view.revision(), "revisions do not go back");
        let (core, tables) = (Arc::clone(&self.shared.core), Arc::clone(&self.tables));
        self.view = Arc::new(View::new(core, tables, revision, self.compacted, self.swept));
        *self.shared.view.write() = Arc::clone(&self.view);
    }

    /// Shows readers the changes of an entry, then tells the watchers.
    pub(crate) fn publish_changes(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        self.publish(self.view.revision().next());
        self.shared.hub.publish(&self.view, changes);
    }

    /// Notes a compaction, which the caller has checked; its rows go in later slices.
    pub(crate) fn begin_compaction(&mut self, at: Revision) {
        let previous = std::mem::replace(&mut self.compacted, at);
        self.shared.core.index.write().set_compacted(at);
        let row = schema::compaction(at);
        self.tables.active.put(schema::META, schema::name(schema::SCHEDULED_COMPACT), row);
        if self.removing.is_some() {
            self.waiting = Some(at);
        } else {
            self.removing = Some(Compaction::new(at, previous, previous == self.swept));
        }
        self.publish(self.view.revision());
    }

    /// Whether a compaction has rows to remove.
    pub fn is_compacting(&self) -> bool {
        self.removing.is_some()
    }

    /// The newest compaction that has removed its rows. An answer to a physical compaction at or
    /// below it is due once what is pending now has been committed.
    pub fn swept(&self) -> Revision {
        self.swept
    }

    /// Does one bounded slice of the removal that compactions left to do. False when nothing is
    /// left; what was removed is on disk after the next commit.
    pub fn compact_slice(&mut self) -> Result<bool, Fatal> {
        let Some(compaction) = &mut self.removing else { return Ok(false) };
        let batch = self.options.compaction_batch.max(1);
        let (core, tables) = (&self.shared.core, &self.tables);
        let Some((hash, is_whole)) = compaction.slice(core, tables, &tables.active, batch)? else {
            return Ok(true);
        };
        let at = compaction.at;
        if is_whole {
            core.hashes.store(hash);
        }
        let row = schema::compaction(at);
        tables.active.put(schema::META, schema::name(schema::FINISHED_COMPACT), row);
        self.swept = at;
        self.removing = self.waiting.take().map(|next| Compaction::new(next, at, false));
        self.publish(self.view.revision());
        Ok(self.removing.is_some())
    }

    /// Gives the storage version the value that the cluster version asks for.
    pub(crate) fn follow_cluster_version(&mut self) {
        let cluster = self.shared.membership.read().version().map(Version::pair);
        let Some((major, minor)) = cluster else { return };
        let mut storage = self.shared.storage_version.write();
        let name = schema::name(schema::STORAGE_VERSION);
        if (major, minor) < FIRST_STORED_VERSION {
            if storage.take().is_some() {
                self.tables.active.delete(schema::META, name);
            }
        } else if storage.as_ref().map(Version::pair) != Some((major, minor)) {
            let version = Version::new(major, minor);
            self.tables.active.put(schema::META, name, version.to_string().into());
            *storage = Some(version);
        }
    }
}

/// Below it, databases do not say which version they have.
pub(crate) const FIRST_STORED_VERSION: (u64, u64) = (3, 6);

fn refuse_auth(tables: &Tables) -> Result<(), OpenError> {
    match tables.plain(schema::AUTH, schema::AUTH_ENABLED)? {
        Some(row) if row.as_ref() == [1] => Err(OpenError::AuthEnabled),
        _ => Ok(()),
    }
}

fn refuse_newer(
    what: &'static str,
    found: Option<&Version>,
    own: (u64, u64),
) -> Result<(), OpenError> {
    match found {
        Some(found) if found.pair() > own => Err(OpenError::Version {
            what,
            found: found.to_string(),
            own: format!("{}.{}", own.0, own.1),
        }),
        _ => Ok(()),
    }
}

fn read_applied(tables: &Tables) -> Result<(LogIndex, Term), Damage> {
    let read = |name: &'static [u8]| match tables.plain(schema::META, name)? {
        Some(row) => schema::read_number(&row)
            .ok_or_else(|| Damage::row(schema::META, name, "not eight bytes")),
        None => Ok(0),
    };
    Ok((LogIndex(read(schema::CONSISTENT_INDEX)?), Term(read(schema::TERM)?)))
}

fn read_compaction(tables: &Tables, name: &'static [u8]) -> Result<Option<Revision>, Damage> {
    let Some(row) = tables.plain(schema::META, name)? else { return Ok(None) };
    let at = schema::read_compaction(&row);
    at.map(Some).ok_or_else(|| Damage::row(schema::META, name, "not a revision"))
}

fn read_leases(tables: &Tables) -> Result<Vec<leasepb::Lease>, Damage> {
    let rows = tables.plain_rows(schema::LEASE)?;
    let read = |(key, row): (bytes::Bytes, bytes::Bytes)| {
        leasepb::Lease::decode(row)
            .map_err(|error| Damage::row(schema::LEASE, &key, error.to_string()))
    };
    rows.into_iter().map(read).collect()
}

/// Rebuilds the index from all rows, in the order of revisions.
fn scan(tables: &Tables) -> Result<Scanned, Damage> {
    let mut index = Index::default();
    let mut leased = BTreeMap::new();
    let mut last = RevKey::first_of(Revision(1));
    for row in tables.scan(last, Revision(i64::MAX)) {
        let row = row?;
        let parts = Parts::read(&row.bytes).ok_or(Damage::RowMalformed(row.at))?;
        if !parts.may_stand_at(row.at.main, row.tombstone) {
            return Err(Damage::RowContradicts(row.at));
        }
        let restored = if row.tombstone {
            Restored::Tombstone
        } else {
            Restored::Put { create: parts.create, version: parts.version }
        };
        index.restore(parts.key, row.at, restored);
        if !row.tombstone && parts.lease != LeaseId::default() {
            leased.insert(parts.key.into(), parts.lease);
        } else if !leased.is_empty() {
            leased.remove(parts.key);
        }
        last = row.at;
    }
    Ok(Scanned { index, last: last.main, leased })
}

/// The active table, for those who apply.
impl Store {
    pub(crate) fn table(&self) -> &Memtable {
        &self.tables.active
    }
}
