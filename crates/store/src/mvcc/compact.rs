//! Removal of what a compaction drops, in slices between entries.
//!
//! ```text
//!  begin ──► Keys: one chunk of the index a step ──► Rows: a batch of rows a step ──► done
//!              (collects what is kept)                 (removes the rest, hashes all)
//! ```
//!
//! *Invariants.*
//! 1. The compaction's revision is in the same batch as its first removal or an earlier one.
//! 2. A slice touches a bounded number of keys or rows, so that no entry waits for longer.
//! 3. Writes that come in between have later revisions and are not looked at.
//!
//! *Contract.* `server/storage/mvcc/kvstore_compaction.go` of etcd v3.7.1.

use base::Revision;
use base::mutant::{Mutant, is_on};

use super::hash::{HashKv, Hasher, KeepSet};
use super::index::Progress;
use super::revision::RevKey;
use super::view::Core;
use crate::backend::{Memtable, Tables};
use crate::error::Damage;

/// Chunks of the index that one slice compacts.
const CHUNKS_PER_SLICE: usize = 8;

/// What one slice of a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Swept {
    /// There was nothing to do.
    #[default]
    Nothing,
    /// It went through keys of the index.
    Index,
    /// It went through rows.
    Rows {
        /// How many it has removed.
        removed: u64,
    },
}

/// A compaction that is removing.
#[derive(Debug)]
pub(crate) struct Compaction {
    pub(crate) at: Revision,
    /// What the last slice did.
    pub(crate) last: Swept,
    /// Its hash counts everything since the one before, which had finished.
    hash_is_whole: bool,
    hasher: Option<Hasher>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Keys { from: Box<[u8]>, kept: Vec<RevKey> },
    Rows { from: RevKey, kept: KeepSet },
}

impl Compaction {
    /// The compaction at `at`, after one at `previous`.
    pub(crate) fn new(at: Revision, previous: Revision, hash_is_whole: bool) -> Self {
        Self {
            at,
            last: Swept::Nothing,
            hash_is_whole,
            hasher: Some(Hasher::new(previous, at)),
            phase: Phase::Keys { from: Box::default(), kept: Vec::new() },
        }
    }

    /// Does one slice. At the end, returns the hash and whether it may be remembered.
    pub(crate) fn slice(
        &mut self,
        core: &Core,
        tables: &Tables,
        table: &Memtable,
        batch: usize,
    ) -> Result<Option<(HashKv, bool)>, Damage> {
        match &mut self.phase {
            Phase::Keys { from, kept } => {
                self.last = Swept::Index;
                for _ in 0..CHUNKS_PER_SLICE {
                    // The lock is taken anew for each chunk: readers get in between.
                    let progress =
                        core.index.write().compact_chunk(from, self.at, |keep| kept.push(keep.at));
                    match progress {
                        Progress::More(next) => *from = next,
                        Progress::Done => {
                            let empty = kept.is_empty();
                            let kept = KeepSet::new(std::mem::take(kept), empty);
                            self.phase = Phase::Rows { from: RevKey::default(), kept };
                            return Ok(None);
                        }
                    }
                }
                Ok(None)
            }
            Phase::Rows { from, kept } => {
                let Some(hasher) = &mut self.hasher else { return Ok(None) };
                let (mut rows, mut removed) = (0, 0);
                for row in tables.scan(*from, self.at).take(batch) {
                    let row = row?;
                    rows += 1;
                    let is_lost = is_on(Mutant::CompactionRemovesNewest) && row.at.main == self.at;
                    let keep = kept.holds(row.at) && !is_lost;
                    if !keep {
                        table.remove(row.at, row.tombstone);
                        removed += 1;
                    }
                    hasher.row(&row, keep || kept.is_empty());
                    *from = row.at.next();
                }
                self.last = Swept::Rows { removed };
                if rows == batch {
                    return Ok(None);
                }
                let hasher = self.hasher.take();
                Ok(hasher.map(|hasher| (hasher.finish(), self.hash_is_whole)))
            }
        }
    }
}
