//! Reads what a database holds into memory: the index, leases, members, alarms.
//!
//! *Contract.* `restore` of `server/storage/mvcc/kvstore.go` of etcd v3.7.1.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::mutant::{Mutant, is_on};
use base::{LeaseId, LogIndex, Moment, Revision, Term};
use bytes::Bytes;
use parking_lot::RwLock;
use proto::leasepb;
use storage::bolt;

use crate::alarm::Alarms;
use crate::backend::Tables;
use crate::error::{Damage, OpenError};
use crate::lease::Lessor;
use crate::membership::{Membership, read_version};
use crate::mvcc::index::{Index, Restored};
use crate::mvcc::{Core, Parts, RevKey, View};
use crate::schema;
use crate::version::Version;

/// The highest index or term of an entry that is read: others can follow, and no log gets there.
const COUNT_MAX: u64 = 1 << 62;

/// Everything that a store begins with.
pub(crate) struct Loaded {
    pub(crate) core: Arc<Core>,
    pub(crate) tables: Arc<Tables>,
    pub(crate) membership: Membership,
    pub(crate) storage_version: Option<Version>,
    pub(crate) alarms: Alarms,
    leases: Vec<leasepb::Lease>,
    /// Which keys are attached to a lease.
    leased: BTreeMap<Box<[u8]>, LeaseId>,
    /// The last entry, and its term.
    pub(crate) applied: (LogIndex, Term),
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) swept: Revision,
    pub(crate) creates_buckets: bool,
}

/// What the rows of keys and compactions yield.
struct History {
    core: Arc<Core>,
    leased: BTreeMap<Box<[u8]>, LeaseId>,
    revision: Revision,
    compacted: Revision,
    swept: Revision,
}

impl History {
    fn read(tables: &Tables) -> Result<Self, Damage> {
        let scheduled = read_compaction(tables, schema::SCHEDULED_COMPACT)?;
        let finished = read_compaction(tables, schema::FINISHED_COMPACT)?;
        let swept = finished.unwrap_or(Revision::NEVER);
        let compacted = scheduled.unwrap_or(Revision::NEVER).max(swept);
        let Scanned { mut index, last, leased } = scan(tables)?;
        let revision = last.max(compacted);
        index.set_compacted(compacted);
        let core = Arc::new(Core { index: RwLock::new(index), ..Core::default() });
        Ok(Self { core, leased, revision, compacted, swept })
    }
}

/// The keys and their history in a database, whatever else it holds: for tools that only read.
pub fn history(view: bolt::View) -> Result<View, Damage> {
    let tables = Arc::new(over(&view));
    let read = History::read(&tables).map_err(|damage| damage.placed(&view))?;
    Ok(View::new(read.core, tables, read.revision, read.compacted, read.swept))
}

/// What one scan of bucket `key` yields.
struct Scanned {
    index: Index,
    last: Revision,
    leased: BTreeMap<Box<[u8]>, LeaseId>,
}

impl Loaded {
    /// Reads all of it; refuses what a server of that version (major, minor) cannot serve.
    pub(crate) fn read(view: bolt::View, server_version: (u64, u64)) -> Result<Self, OpenError> {
        Self::read_tables(view.clone(), server_version).map_err(|error| match error {
            OpenError::Damaged(damage) => OpenError::Damaged(damage.placed(&view)),
            other => other,
        })
    }

    fn read_tables(view: bolt::View, server_version: (u64, u64)) -> Result<Self, OpenError> {
        let tables = Arc::new(Tables { active: Arc::default(), frozen: None, database: view });
        let (membership, storage_version) = read_versions(&tables, server_version)?;
        let applied = read_applied(&tables)?;
        let History { core, leased, revision, compacted, swept } = History::read(&tables)?;
        let creates_buckets = {
            let there = tables.database.buckets()?;
            schema::BUCKETS.iter().any(|bucket| !there.iter().any(|there| there == bucket))
        };
        if tables.plain(schema::AUTH, schema::AUTH_REVISION)?.is_none() {
            let name = schema::name(schema::AUTH_REVISION);
            tables.active.put(schema::AUTH, name, schema::number(1));
        }
        Ok(Self {
            core,
            membership,
            storage_version,
            alarms: Alarms::load(&tables)?,
            leases: read_leases(&tables)?,
            leased,
            applied,
            revision,
            compacted,
            swept,
            creates_buckets,
            tables,
        })
    }

    /// Gives the leases, and the keys attached to them, to a lessor that has none.
    pub(crate) fn fill(&self, lessor: &Lessor, now: Moment) {
        lessor.restore(self.leases.clone(), now);
        for (key, lease) in &self.leased {
            if is_on(Mutant::StartForgetsKeysOfLeases) {
                break;
            }
            lessor.attach(*lease, Bytes::copy_from_slice(key));
        }
    }

    /// What readers see first.
    pub(crate) fn first_view(&self) -> View {
        let (core, tables) = (Arc::clone(&self.core), Arc::clone(&self.tables));
        View::new(core, tables, self.revision, self.compacted, self.swept)
    }
}

/// The last entry that a database has; 0 for none.
pub(crate) fn consistent_index(view: &bolt::View) -> Result<LogIndex, OpenError> {
    Ok(read_applied(&over(view))?.0)
}

/// The same of one that a server of that version can serve, as far as a few rows tell.
pub(crate) fn inspect(
    view: &bolt::View,
    server_version: (u64, u64),
) -> Result<LogIndex, OpenError> {
    let tables = over(view);
    read_versions(&tables, server_version)?;
    Ok(read_applied(&tables)?.0)
}

fn over(view: &bolt::View) -> Tables {
    Tables { active: Arc::default(), frozen: None, database: view.clone() }
}

fn read_versions(
    tables: &Tables,
    own: (u64, u64),
) -> Result<(Membership, Option<Version>), OpenError> {
    refuse_auth(tables)?;
    let membership = Membership::load(tables)?;
    let storage_version = read_version(tables, schema::META, schema::STORAGE_VERSION)?;
    refuse_newer("cluster", membership.version(), own)?;
    refuse_newer("storage", storage_version.as_ref(), own)?;
    Ok((membership, storage_version))
}

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
        Some(row) => match schema::read_number(&row) {
            None => Err(Damage::row(schema::META, name, "not eight bytes")),
            Some(number) if number > COUNT_MAX => {
                Err(Damage::row(schema::META, name, "more than can be counted"))
            }
            Some(number) => Ok(number),
        },
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
    let read = |(key, row): (Bytes, Bytes)| {
        proto::decode(row).map_err(|error| Damage::row(schema::LEASE, &key, error.to_string()))
    };
    rows.into_iter().map(read).collect()
}

/// Rebuilds the index from all rows, in the order of revisions.
fn scan(tables: &Tables) -> Result<Scanned, Damage> {
    let mut index = Index::default();
    let mut leased = BTreeMap::new();
    let (first, mut before) = (RevKey::first_of(Revision(1)), None);
    for row in tables.scan(first, Revision(i64::MAX)) {
        let row = row?;
        // Two pages may be in each other's way, and a put and a delete may have the same name.
        if before.replace(row.at) >= Some(row.at) {
            return Err(Damage::RowOrder(row.at));
        }
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
    }
    Ok(Scanned { index, last: before.unwrap_or(first).main, leased })
}
