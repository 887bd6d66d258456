//! Hashes by which members are compared.
//!
//! *Invariants.* [`View::hash_kv`] of equal logs is equal on every member, ours or etcd's, at
//! every revision, however far each has come in removing what a compaction dropped.
//!
//! *Contract.* `server/storage/mvcc/hash.go` of etcd v3.7.1, its memory of compaction hashes
//! included; `Hash` of `server/storage/backend/backend.go`.

use std::collections::BTreeSet;

use base::Revision;
use crc32c::crc32c_append;
use parking_lot::Mutex;

use super::index;
use super::revision::RevKey;
use super::row::key_of;
use super::view::View;
use crate::backend::Row;
use crate::error::ReadError;
use crate::schema;

/// Hashes of compactions that are remembered.
const CACHED_MAX: usize = 10;

/// The hash of the key space up to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C.
    pub hash: u32,
    /// The newest compaction when it was computed; of a compaction's own hash, the one before.
    pub compact_revision: Revision,
    /// The revision up to which rows are counted.
    pub hash_revision: Revision,
}

/// The hashes of the newest compactions.
#[derive(Debug, Default)]
pub struct HashCache {
    hashes: Mutex<Vec<HashKv>>,
}

impl HashCache {
    fn get(&self, at: Revision) -> Option<HashKv> {
        self.hashes.lock().iter().find(|hash| hash.hash_revision == at).copied()
    }

    /// The hashes that are remembered, oldest first.
    pub fn all(&self) -> Vec<HashKv> {
        self.hashes.lock().clone()
    }

    pub(crate) fn store(&self, hash: HashKv) {
        let mut hashes = self.hashes.lock();
        hashes.push(hash);
        hashes.sort_by_key(|hash| hash.hash_revision);
        let old = hashes.len().saturating_sub(CACHED_MAX);
        hashes.drain(..old);
    }
}

/// The revisions a compaction keeps, up to its own; asked for in ascending order.
#[derive(Debug)]
pub(crate) struct KeepSet {
    sorted: std::iter::Peekable<std::vec::IntoIter<RevKey>>,
    empty: bool,
}

impl KeepSet {
    /// `empty` says that nothing is kept, above the bound of `kept` either.
    pub(crate) fn new(mut kept: Vec<RevKey>, empty: bool) -> Self {
        kept.sort_unstable();
        Self { sorted: kept.into_iter().peekable(), empty }
    }

    /// Whether no revision of any key is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty
    }

    pub(crate) fn holds(&mut self, at: RevKey) -> bool {
        while self.sorted.next_if(|kept| *kept < at).is_some() {}
        self.sorted.peek() == Some(&at)
    }
}

/// Feeds rows to the hash by etcd's rules.
#[derive(Debug)]
pub(crate) struct Hasher {
    crc: u32,
    compacted: Revision,
    upto: Revision,
}

impl Hasher {
    pub(crate) fn new(compacted: Revision, upto: Revision) -> Self {
        Self { crc: crc32c_append(0, schema::KEY), compacted, upto }
    }

    /// Feeds a row; `kept` says whether the keep set holds it, or the set is empty.
    pub(crate) fn row(&mut self, row: &Row, kept: bool) {
        let main = row.at.main;
        let dropped = main <= self.compacted && !kept;
        // Older etcds remove a delete at the compaction's revision, newer ones keep it.
        let ambiguous = main == self.compacted && row.tombstone;
        if main > self.upto || dropped || ambiguous {
            return;
        }
        self.crc = crc32c_append(self.crc, row.at.encode(row.tombstone).as_ref());
        self.crc = crc32c_append(self.crc, &row.bytes);
    }

    pub(crate) fn finish(self) -> HashKv {
        HashKv { hash: self.crc, compact_revision: self.compacted, hash_revision: self.upto }
    }
}

impl View {
    /// The hash of all changes up to `at`, 0 for the newest. A negative one hashes nothing.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] also when a compaction began meanwhile: a newer view may answer.
    pub fn hash_kv(&self, at: Revision) -> Result<HashKv, ReadError> {
        if let Some(cached) = self.core.hashes.get(at) {
            return Ok(cached);
        }
        let compacted = self.compact_revision();
        if at > Revision(0) {
            self.read_at(at.0)?;
        }
        let upto = if at == Revision(0) { self.revision() } else { at };
        let (mut kept, mut empty) = (Vec::new(), true);
        index::visit_kept(&self.core.index, upto, |keep| {
            if !keep.tombstone {
                empty = false;
                if keep.at.main <= compacted {
                    kept.push(keep.at);
                }
            }
        })?;
        let mut kept = KeepSet::new(kept, empty);
        let mut hasher = Hasher::new(compacted, upto);
        for row in self.tables.scan(RevKey::default(), upto) {
            let row = row?;
            let keep = if row.at.main > compacted {
                true
            } else if kept.is_empty() {
                self.still_there(&row)?
            } else {
                kept.holds(row.at)
            };
            hasher.row(&row, keep);
        }
        Ok(hasher.finish())
    }

    /// Where nothing is kept, etcd counts what its compaction left behind. Rows it removed may
    /// still stand in our database until the next commit.
    fn still_there(&self, row: &Row) -> Result<bool, ReadError> {
        if row.at.main > self.swept() {
            return Ok(true);
        }
        let key = key_of(&row.bytes).unwrap_or_default();
        let index = self.core.index.read();
        if index.compacted() > self.compact_revision() {
            // What the index retains is now another compaction's business.
            return Err(ReadError::Compacted);
        }
        Ok(index.key(&key).is_some_and(|index| index.retains(row.at)))
    }

    /// The hash over all buckets, for `Maintenance.Hash`: for tests, not comparable between
    /// members.
    pub fn hash(&self) -> Result<u32, ReadError> {
        let mut buckets: BTreeSet<Vec<u8>> =
            self.tables.database.buckets()?.into_iter().map(|bucket| bucket.to_vec()).collect();
        buckets.extend(schema::BUCKETS.iter().map(|bucket| bucket.to_vec()));
        let ignored = [schema::CONSISTENT_INDEX, schema::TERM, schema::STORAGE_VERSION];
        let removed = self.tables.removed();
        let mut crc = 0;
        for bucket in buckets {
            crc = crc32c_append(crc, &bucket);
            if bucket == schema::KEY {
                for row in self.tables.scan(RevKey::default(), self.revision()) {
                    let row = row?;
                    if !removed.contains(&row.at) {
                        crc = crc32c_append(crc, row.at.encode(row.tombstone).as_ref());
                        crc = crc32c_append(crc, &row.bytes);
                    }
                }
                continue;
            }
            let rows = match schema::BUCKETS.iter().find(|known| **known == bucket) {
                Some(known) => self.tables.plain_rows(known)?,
                None => self.tables.database.scan(&bucket, &[]).collect::<Result<_, _>>()?,
            };
            for (key, value) in rows {
                if bucket == schema::META && ignored.contains(&key.as_ref()) {
                    continue;
                }
                crc = crc32c_append(crc, &key);
                crc = crc32c_append(crc, &value);
            }
        }
        Ok(crc)
    }
}
