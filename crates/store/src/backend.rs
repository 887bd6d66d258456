//! What readers read from: rows that are applied and not yet committed, over a view of the
//! database.
//!
//! ```text
//!            revisions, ascending ──►
//!  ┌─────────────── database view ───────────────┐┌── frozen ──┐┌── active ──► appended to
//!  │ rows of bucket "key", on disk               ││ in commit  ││ by the writer
//! ```
//!
//! *Invariants.*
//! 1. Rows of `key` stand in exactly one of the three, ascending from the database to the active
//!    table. So merging them is putting one behind the other.
//! 2. A row is never changed or removed in a table. What a compaction removes goes when the
//!    table's batch is committed, and is hidden until then by those who count every row (hashes).
//! 3. One frozen table at most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use base::Revision;
use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use storage::bolt;

use crate::mvcc::RevKey;
use crate::mvcc::revision::{PUT_LEN, TOMBSTONE_LEN};
use crate::schema;

/// Rows that one look into a table copies out under its lock.
const COPY_MAX: usize = 256;

/// A change of a bucket other than `key`: a value, or `None` for a removal.
type Plain = BTreeMap<(&'static [u8], Bytes), Option<Bytes>>;

/// One stored change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its name.
    pub(crate) at: RevKey,
    /// It deletes its key.
    pub(crate) tombstone: bool,
    /// The encoded `mvccpb.KeyValue`.
    pub(crate) bytes: Bytes,
}

/// Rows applied since the last freeze.
#[derive(Debug)]
pub(crate) struct Memtable {
    rows: RwLock<Vec<Row>>,
    removed: Mutex<Vec<(RevKey, bool)>>,
    plain: Mutex<Plain>,
    /// The first row's revision, or the maximum while there is none.
    first: AtomicI64,
    changes: AtomicUsize,
    bytes: AtomicUsize,
}

impl Default for Memtable {
    fn default() -> Self {
        Self {
            rows: RwLock::default(),
            removed: Mutex::default(),
            plain: Mutex::default(),
            first: AtomicI64::new(i64::MAX),
            changes: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }
}

impl Memtable {
    /// Appends a row of bucket `key`.
    pub(crate) fn push(&self, row: Row) {
        self.count(row.bytes.len() + size_of::<Row>());
        let mut rows = self.rows.write();
        match rows.last() {
            Some(last) => assert!(last.at < row.at, "rows are appended in the order of revisions"),
            None => self.first.store(row.at.main.0, Ordering::Release),
        }
        rows.push(row);
    }

    /// Removes a row of bucket `key`, wherever it stands, at the next commit.
    pub(crate) fn remove(&self, at: RevKey, tombstone: bool) {
        self.count(size_of::<(RevKey, bool)>());
        self.removed.lock().push((at, tombstone));
    }

    /// Sets a row of another bucket.
    pub(crate) fn put(&self, bucket: &'static [u8], key: Bytes, value: Bytes) {
        self.count(key.len() + value.len());
        self.plain.lock().insert((bucket, key), Some(value));
    }

    /// Removes a row of another bucket.
    pub(crate) fn delete(&self, bucket: &'static [u8], key: Bytes) {
        self.count(key.len());
        self.plain.lock().insert((bucket, key), None);
    }

    /// How many changes the table holds.
    pub(crate) fn len(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: usize) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The memory that its rows take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn may_hold(&self, at: RevKey) -> bool {
        self.first.load(Ordering::Acquire) <= at.main.0
    }

    fn row(&self, at: RevKey) -> Option<Bytes> {
        if !self.may_hold(at) {
            return None;
        }
        let rows = self.rows.read();
        let position = rows.binary_search_by_key(&at, |row| row.at).ok()?;
        Some(rows[position].bytes.clone())
    }

    /// Up to `max` rows from `from` on.
    fn rows_from(&self, from: RevKey, max: usize) -> Vec<Row> {
        let rows = self.rows.read();
        let start = rows.partition_point(|row| row.at < from);
        rows[start..].iter().take(max).cloned().collect()
    }

    /// The table as a batch for the database.
    pub(crate) fn to_batch(&self, batch: &mut bolt::Batch) {
        let rows = self.rows.read();
        let removed = self.removed.lock();
        // One allocation for all keys; each is a slice of it.
        let mut keys = BytesMut::with_capacity((rows.len() + removed.len()) * TOMBSTONE_LEN);
        let mut encode = |at: RevKey, tombstone: bool| {
            keys.extend_from_slice(at.encode(tombstone).as_ref());
            keys.split_to(if tombstone { TOMBSTONE_LEN } else { PUT_LEN }).freeze()
        };
        // Ascending as far as may be (that is cheap), but a row that is appended and removed
        // within the table must end removed.
        let first = rows.first().map_or(RevKey::default(), |row| row.at);
        for &(at, tombstone) in removed.iter().filter(|(at, _)| *at < first) {
            batch.delete(schema::KEY, encode(at, tombstone));
        }
        for row in rows.iter() {
            batch.put(schema::KEY, encode(row.at, row.tombstone), row.bytes.clone());
        }
        for &(at, tombstone) in removed.iter().filter(|(at, _)| *at >= first) {
            batch.delete(schema::KEY, encode(at, tombstone));
        }
        for ((bucket, key), value) in self.plain.lock().iter() {
            match value {
                Some(value) => batch.put(bucket, key.clone(), value.clone()),
                None => batch.delete(bucket, key.clone()),
            }
        }
    }
}

/// The three places a row can stand in. Cheap to replace, shared by all views of one commit.
pub(crate) struct Tables {
    /// Appended to by the writer.
    pub(crate) active: Arc<Memtable>,
    /// Being committed.
    pub(crate) frozen: Option<Arc<Memtable>>,
    /// What is on disk.
    pub(crate) database: bolt::View,
}

impl Tables {
    /// The value of a row in a bucket other than `key`.
    pub(crate) fn plain(
        &self,
        bucket: &'static [u8],
        key: &[u8],
    ) -> Result<Option<Bytes>, bolt::Error> {
        let name = (bucket, Bytes::copy_from_slice(key));
        for table in [Some(&self.active), self.frozen.as_ref()].into_iter().flatten() {
            if let Some(value) = table.plain.lock().get(&name) {
                return Ok(value.clone());
            }
        }
        self.database.get(bucket, key)
    }

    /// All rows of a bucket other than `key`, ascending.
    pub(crate) fn plain_rows(
        &self,
        bucket: &'static [u8],
    ) -> Result<BTreeMap<Bytes, Bytes>, bolt::Error> {
        let mut rows = self.database.scan(bucket, &[]).collect::<Result<BTreeMap<_, _>, _>>()?;
        for table in [self.frozen.as_ref(), Some(&self.active)].into_iter().flatten() {
            for ((_, key), value) in table.plain.lock().iter().filter(|((of, _), _)| *of == bucket)
            {
                match value {
                    Some(value) => rows.insert(key.clone(), value.clone()),
                    None => rows.remove(key),
                };
            }
        }
        Ok(rows)
    }

    /// Single rows of bucket `key`.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { tables: self, database: self.database.lookup(schema::KEY) }
    }

    /// All rows of bucket `key` from `from` up to the revision `upto`, ascending.
    pub(crate) fn scan(&self, from: RevKey, upto: Revision) -> Scan<'_> {
        let database = self.database.scan(schema::KEY, from.encode(false).as_ref());
        Scan { tables: self, from, upto, database: Some(database), copied: Vec::new().into_iter() }
    }

    /// The rows that compactions have removed and no commit has taken out yet.
    pub(crate) fn removed(&self) -> BTreeSet<RevKey> {
        let tables = [self.frozen.as_ref(), Some(&self.active)];
        tables.into_iter().flatten().flat_map(|table| removed_of(table)).collect()
    }
}

fn removed_of(table: &Memtable) -> Vec<RevKey> {
    table.removed.lock().iter().map(|&(at, _)| at).collect()
}

/// Reads rows one by one; remembers where it was in the database.
pub(crate) struct Reader<'a> {
    tables: &'a Tables,
    database: bolt::Lookup,
}

impl Reader<'_> {
    /// The put named `at`.
    pub(crate) fn row(&mut self, at: RevKey) -> Result<Option<Bytes>, bolt::Error> {
        let tables = [Some(&self.tables.active), self.tables.frozen.as_ref()];
        for table in tables.into_iter().flatten() {
            if let Some(row) = table.row(at) {
                return Ok(Some(row));
            }
        }
        self.database.get(at.encode(false).as_ref())
    }
}

/// Iterates over the rows of bucket `key`.
pub(crate) struct Scan<'a> {
    tables: &'a Tables,
    from: RevKey,
    upto: Revision,
    database: Option<bolt::Scan>,
    copied: std::vec::IntoIter<Row>,
}

/// A scan cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    /// The database cannot be read.
    #[error(transparent)]
    Database(#[from] bolt::Error),
    /// A row key is not a revision.
    #[error("bucket key holds a row that is not named by a revision: {0:?}")]
    Name(Bytes),
}

impl Iterator for Scan<'_> {
    type Item = Result<Row, ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row()?;
        Some(match row {
            Ok(row) if row.at.main > self.upto => return None,
            Ok(row) => {
                self.from = row.at.next();
                Ok(row)
            }
            Err(error) => Err(error),
        })
    }
}

impl Scan<'_> {
    fn next_row(&mut self) -> Option<Result<Row, ScanError>> {
        if let Some(database) = &mut self.database {
            match database.next() {
                Some(Ok((key, bytes))) => {
                    return Some(match RevKey::decode(&key) {
                        Some((at, tombstone)) => Ok(Row { at, tombstone, bytes }),
                        None => Err(ScanError::Name(key)),
                    });
                }
                Some(Err(error)) => return Some(Err(error.into())),
                None => self.database = None,
            }
        }
        if let Some(row) = self.copied.next() {
            return Some(Ok(row));
        }
        for table in [self.tables.frozen.as_ref(), Some(&self.tables.active)].into_iter().flatten()
        {
            let rows = table.rows_from(self.from, COPY_MAX);
            if !rows.is_empty() {
                self.copied = rows.into_iter();
                return self.copied.next().map(Ok);
            }
        }
        None
    }
}
