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
//! *Contract.* `applySnapshot` of `server/etcdserver/server.go` of etcd v3.7.1.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use base::mutant::{Mutant, is_on};
use base::{LogIndex, MemberId, Moment, Revision, Term};
use parking_lot::RwLock;
use storage::bolt;

use crate::backend::{Memtable, Tables};
use crate::error::{Fatal, OpenError};
use crate::lease::Lessor;
use crate::load::{self, Loaded};
use crate::mvcc::compact::{Compaction, Swept};
use crate::mvcc::{Change, Core, View};
use crate::operation::Counts;
use crate::schema;
use crate::shared::{NO_QUOTA, Shared};
use crate::version::Version;
use crate::watch::Hub;

/// What a store is told once.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Whose store it is.
    pub member: MemberId,
    /// The space quota at first ([`Shared::set_quota`]); `None` for none.
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
    core: Arc<Core>,
    pub(crate) tables: Arc<Tables>,
    pub(crate) view: Arc<View>,
    /// The last entry that has changed the state, and its term.
    pub(crate) applied: (LogIndex, Term),
    /// What the entry under way has done to the keys.
    pub(crate) counts: Counts,
    /// What the last slice of a removal did.
    last_slice: Swept,
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

impl Store {
    /// Takes up the state that a database holds; an empty one gets its first rows with the next
    /// commit.
    pub fn open(view: bolt::View, options: StoreOptions, now: Moment) -> Result<Self, OpenError> {
        let loaded = Loaded::read(view, options.server_version)?;
        let first = Arc::new(loaded.first_view());
        let lessor = Lessor::new(options.min_lease_ttl);
        loaded.fill(&lessor, now);
        let shared = Arc::new(Shared {
            view: RwLock::new(Arc::clone(&first)),
            lessor,
            hub: Hub::new(first.revision()),
            membership: RwLock::new(loaded.membership),
            alarms: RwLock::new(loaded.alarms),
            storage_version: RwLock::new(loaded.storage_version),
            quota_bytes: AtomicU64::new(options.quota_bytes.unwrap_or(NO_QUOTA)),
        });
        let mut applied = loaded.applied;
        if is_on(Mutant::ApplyTwice) {
            applied.0.0 = applied.0.0.saturating_sub(1);
        }
        let mut store = Self {
            options,
            shared,
            core: loaded.core,
            tables: loaded.tables,
            view: first,
            applied,
            frozen: loaded.applied.0,
            creates_buckets: loaded.creates_buckets,
            compacted: loaded.compacted,
            swept: loaded.swept,
            removing: None,
            waiting: None,
            counts: Counts::default(),
            last_slice: Swept::Nothing,
        };
        store.begin();
        Ok(store)
    }

    /// Takes up the state of another database, received from a leader, in place of this one: who
    /// shares this store sees it from now on. Watchers go on from its history. Views taken before
    /// stay as they are. When the other database cannot be served nothing changes.
    pub fn replace(&mut self, view: bolt::View, now: Moment) -> Result<(), OpenError> {
        let loaded = Loaded::read(view, self.options.server_version)?;
        let first = Arc::new(loaded.first_view());
        if first.revision() < self.view.revision() || loaded.applied.0 <= self.applied.0 {
            return Err(OpenError::Backwards {
                entry: loaded.applied.0,
                revision: first.revision(),
                own_entry: self.applied.0,
                own_revision: self.view.revision(),
            });
        }
        let shared = Arc::clone(&self.shared);
        for lease in shared.lessor.leases() {
            if is_on(Mutant::InstallKeepsLeases) {
                break;
            }
            shared.lessor.remove(lease);
        }
        loaded.fill(&shared.lessor, now);
        *shared.membership.write() = loaded.membership;
        *shared.alarms.write() = loaded.alarms;
        *shared.storage_version.write() = loaded.storage_version;
        *shared.view.write() = Arc::clone(&first);
        if !is_on(Mutant::InstallForgetsWatchers) {
            shared.hub.restart(first.revision());
        }
        (self.core, self.tables, self.view) = (loaded.core, loaded.tables, first);
        (self.applied, self.frozen) = (loaded.applied, loaded.applied.0);
        self.creates_buckets = loaded.creates_buckets;
        (self.compacted, self.swept) = (loaded.compacted, loaded.swept);
        (self.removing, self.waiting) = (None, None);
        self.begin();
        Ok(())
    }

    /// Whether a database received from a leader is one that [`Store::replace`] would take, and
    /// the last entry it has. Looks at a few rows only.
    pub fn inspect(view: &bolt::View, server_version: (u64, u64)) -> Result<LogIndex, OpenError> {
        load::inspect(view, server_version)
    }

    /// What a state that was just loaded needs before entries are applied to it.
    fn begin(&mut self) {
        self.follow_cluster_version();
        if self.compacted > self.swept {
            self.removing = Some(Compaction::new(self.compacted, self.swept, false));
        }
    }

    /// The last entry that a database has, without opening a store on it; 0 for none.
    pub fn consistent_index(view: &bolt::View) -> Result<LogIndex, OpenError> {
        load::consistent_index(view)
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
        let stored = if is_on(Mutant::IndexLagsBehind) { self.frozen } else { index };
        if index > LogIndex(0) {
            for (name, value) in schema::applied(stored, term) {
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
        let (core, tables) = (Arc::clone(&self.core), Arc::clone(&self.tables));
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
        self.core.index.write().set_compacted(at);
        let row = schema::compaction(at);
        if !is_on(Mutant::ForgetCompaction) {
            self.tables.active.put(schema::META, schema::name(schema::SCHEDULED_COMPACT), row);
        }
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

    /// What the last slice of a removal did.
    pub fn last_slice(&self) -> Swept {
        self.last_slice
    }

    /// Does one bounded slice of the removal that compactions left to do. False when nothing is
    /// left; what was removed is on disk after the next commit.
    pub fn compact_slice(&mut self) -> Result<bool, Fatal> {
        let Some(compaction) = &mut self.removing else { return Ok(false) };
        let batch = self.options.compaction_batch.max(1);
        let (core, tables) = (&self.core, &self.tables);
        let done = compaction.slice(core, tables, &tables.active, batch)?;
        self.last_slice = compaction.last;
        let Some((hash, is_whole)) = done else { return Ok(true) };
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

/// The active table, for those who apply.
impl Store {
    pub(crate) fn table(&self) -> &Memtable {
        &self.tables.active
    }
}
