//! An immutable state of the key space, shared by readers.
//!
//! *Invariants.* See [`crate::mvcc`]. A view holds the pages of its database view: use it for one
//! answer or one chunk, then let go.

use std::fmt;
use std::sync::Arc;

use base::Revision;
use base::mutant::{Mutant, is_on};
use bytes::Bytes;
use parking_lot::RwLock;

use super::hash::HashCache;
use super::index::Index;
use super::revision::RevKey;
use super::row::{self, Parts};
use crate::backend::Tables;
use crate::error::{Damage, ReadError};

/// What the views of one store share.
#[derive(Debug, Default)]
pub(crate) struct Core {
    pub(crate) index: RwLock<Index>,
    pub(crate) hashes: HashCache,
}

/// The key space at one revision, with its history.
#[derive(Clone)]
pub struct View {
    pub(super) core: Arc<Core>,
    pub(super) tables: Arc<Tables>,
    revision: Revision,
    compacted: Revision,
    /// The newest compaction whose rows are gone (or hidden until the next commit).
    swept: Revision,
}

/// One change, as watchers are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub at: RevKey,
    /// It deletes the key.
    pub tombstone: bool,
    /// The key; shares the memory of `row`.
    pub key: Bytes,
    /// The stored `mvccpb.KeyValue`; of a delete, only the key.
    pub row: Bytes,
    /// The put that it replaced or deleted. Known while the change is new; [`View::before`]
    /// finds it later.
    pub previous: Option<RevKey>,
}

impl Change {
    /// It is the put that its key began with; what was there before is no longer the same key.
    pub fn creates(&self) -> bool {
        let parts = if self.tombstone { None } else { Parts::read(&self.row) };
        parts.is_some_and(|parts| parts.create == self.at.main)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("revision", &self.revision)
            .field("compacted", &self.compacted)
            .finish_non_exhaustive()
    }
}

impl View {
    pub(crate) fn new(
        core: Arc<Core>,
        tables: Arc<Tables>,
        revision: Revision,
        compacted: Revision,
        swept: Revision,
    ) -> Self {
        assert!(
            swept <= compacted && compacted <= revision,
            "{swept} <= {compacted} <= {revision}"
        );
        Self { core, tables, revision, compacted, swept }
    }

    /// This view as a transaction at `revision` sees it while it writes.
    pub(crate) fn within(&self, revision: Revision) -> Self {
        Self { revision, ..self.clone() }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// The newest revision that is visible.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The newest compaction, [`Revision::NEVER`] before the first.
    pub fn compact_revision(&self) -> Revision {
        self.compacted
    }

    pub(super) fn swept(&self) -> Revision {
        self.swept
    }

    /// The revision a read asks for: 0 and less mean the newest.
    pub(super) fn read_at(&self, asked: i64) -> Result<Revision, ReadError> {
        let at = if asked <= 0 { self.revision } else { Revision(asked) };
        if at > self.revision {
            return Err(ReadError::FutureRevision);
        }
        if at < self.compacted {
            return Err(ReadError::Compacted);
        }
        Ok(if is_on(Mutant::OldReadSeesNewer) { self.revision } else { at })
    }

    /// The stored `mvccpb.KeyValue` of a put.
    pub fn row(&self, at: RevKey) -> Result<Option<Bytes>, ReadError> {
        Ok(self.tables.reader().row(at)?)
    }

    /// The stored row of `key` as it was just before the transaction `main`; `None` when it did
    /// not exist, or that is compacted.
    pub fn before(&self, key: &[u8], main: Revision) -> Result<Option<Bytes>, ReadError> {
        let at = Revision(main.0 - 1);
        let found = {
            let index = self.core.index.read();
            if at < index.compacted() {
                return Ok(None);
            }
            index.get(key, at)
        };
        match found {
            Some(found) => self.existing_row(found.modified).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn existing_row(&self, at: RevKey) -> Result<Bytes, ReadError> {
        self.row(at)?.ok_or_else(|| Damage::RowMissing(at).into())
    }

    /// Shows the changes from revision `from` on, whole revisions only: at least one, then until
    /// `max_revisions` or `max_bytes` are reached. Returns the revision to go on with;
    /// `self.revision().next()` when there is nothing after it.
    pub fn changes(
        &self,
        from: Revision,
        max_revisions: usize,
        max_bytes: usize,
        show: &mut dyn FnMut(&Change),
    ) -> Result<Revision, ReadError> {
        if from < self.core.index.read().compacted() {
            return Err(ReadError::Compacted);
        }
        let (mut current, mut revisions, mut bytes) = (None, 0, 0);
        for row in self.tables.scan(RevKey::first_of(from), self.revision) {
            let row = row?;
            if current != Some(row.at.main) {
                if revisions > 0 && (revisions >= max_revisions || bytes >= max_bytes) {
                    return Ok(row.at.main);
                }
                current = Some(row.at.main);
                revisions += 1;
            }
            bytes += row.bytes.len();
            if row.bytes.is_empty() {
                // The marker that a restore with a bumped revision leaves is no change.
                continue;
            }
            let key = row::key_of(&row.bytes).ok_or(Damage::RowMalformed(row.at))?;
            let (at, tombstone) = (row.at, row.tombstone);
            show(&Change { at, tombstone, key, row: row.bytes, previous: None });
        }
        // A compaction that began meanwhile may have taken rows out from under an older start.
        if from < self.core.index.read().compacted() {
            return Err(ReadError::Compacted);
        }
        Ok(self.revision.next())
    }
}

impl View {
    /// The database view beneath: sizes, and the pages for a snapshot.
    pub fn database(&self) -> &storage::bolt::View {
        &self.tables.database
    }
}
