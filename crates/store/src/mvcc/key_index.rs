//! The revisions of one key, in generations: a generation begins with the put that creates the
//! key and ends with its delete.
//!
//! ```text
//!  put 2, put 5, delete 7, put 9      closed: [2 5 7t]      open: [9]
//! ```
//!
//! *Invariants.*
//! 1. Revisions ascend within a generation and from one to the next.
//! 2. The last revision of a closed generation is a delete, no other one is.
//! 3. A key with one revision, alive, takes no memory beside its slot in the index.
//!
//! *Contract.* `server/storage/mvcc/key_index.go` of etcd v3.7.1.

use base::Revision;

use super::revision::RevKey;

/// What the index knows of a key at some revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// The put that is visible.
    pub(crate) modified: RevKey,
    /// The put that created the key.
    pub(crate) create: Revision,
    /// How many puts since creation.
    pub(crate) version: i64,
}

/// The revisions of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyIndex {
    /// One put that is not deleted: nearly every key after a compaction.
    One {
        /// The revision of the put.
        main: i64,
        /// The revision of the key's creation.
        create: i64,
        /// How many puts since creation.
        version: i64,
        /// The put's position in its transaction.
        sub: u32,
    },
    /// Anything else.
    Many(Box<Generations>),
}

/// Closed generations, oldest first, and the open one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Generations {
    closed: Vec<Generation>,
    /// Empty while the key is deleted.
    open: Generation,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Generation {
    create: i64,
    /// The version after the last revision; a delete counts as one.
    version: i64,
    revs: Vec<RevKey>,
}

/// The revision a compaction keeps of a key, and whether it is the delete that ends a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The newest revision at or below the compaction's.
    pub(crate) at: RevKey,
    /// It is a delete.
    pub(crate) tombstone: bool,
}

impl Generation {
    fn push(&mut self, at: RevKey) {
        if self.revs.len() == self.revs.capacity() {
            // A quarter more, not twice as much: the index may hold millions of these.
            self.revs.reserve_exact(self.revs.len() / 4 + 1);
        }
        self.revs.push(at);
        self.version += 1;
    }

    fn first(&self) -> Option<i64> {
        self.revs.first().map(|rev| rev.main.0)
    }

    fn last(&self) -> Option<RevKey> {
        self.revs.last().copied()
    }

    /// The position of the newest revision at or below `at`.
    fn newest(&self, at: Revision) -> Option<usize> {
        self.revs.partition_point(|rev| rev.main <= at).checked_sub(1)
    }

    fn found(&self, at: Revision) -> Option<Found> {
        let position = self.newest(at)?;
        let after = (self.revs.len() - 1 - position) as i64;
        Some(Found {
            modified: self.revs[position],
            create: Revision(self.create),
            version: self.version - after,
        })
    }
}

impl KeyIndex {
    /// A key that first appears with a put.
    pub(crate) fn created(at: RevKey) -> Self {
        Self::restored(at, at.main, 1)
    }

    /// A key whose first row in the database is a put with this creation and version.
    pub(crate) fn restored(at: RevKey, create: Revision, version: i64) -> Self {
        match u32::try_from(at.sub) {
            Ok(sub) => Self::One { main: at.main.0, create: create.0, version, sub },
            Err(_) => Self::Many(Box::new(Generations {
                closed: Vec::new(),
                open: Generation { create: create.0, version, revs: vec![at] },
            })),
        }
    }

    /// A key whose first row in the database is a delete: its creation was compacted.
    pub(crate) fn restored_tombstone(at: RevKey) -> Self {
        Self::Many(Box::new(Generations {
            closed: vec![Generation { create: 0, version: 1, revs: vec![at] }],
            open: Generation::default(),
        }))
    }

    /// How many revisions are retained.
    pub(crate) fn revisions(&self) -> usize {
        match self {
            Self::One { .. } => 1,
            Self::Many(many) => {
                many.closed.iter().map(|closed| closed.revs.len()).sum::<usize>()
                    + many.open.revs.len()
            }
        }
    }

    /// Whether the newest change is a put.
    pub(crate) fn is_alive(&self) -> bool {
        match self {
            Self::One { .. } => true,
            Self::Many(many) => !many.open.revs.is_empty(),
        }
    }

    #[cfg(test)]
    /// Heap memory beside the slot in the index.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::One { .. } => 0,
            Self::Many(many) => {
                let revs =
                    |generation: &Generation| generation.revs.capacity() * size_of::<RevKey>();
                size_of::<Generations>()
                    + many.closed.capacity() * size_of::<Generation>()
                    + many.closed.iter().map(revs).sum::<usize>()
                    + revs(&many.open)
            }
        }
    }

    fn many(&mut self) -> &mut Generations {
        if let Self::One { main, create, version, sub } = *self {
            let at = RevKey::new(Revision(main), i64::from(sub));
            let mut revs = Vec::with_capacity(2);
            revs.push(at);
            let open = Generation { create, version, revs };
            *self = Self::Many(Box::new(Generations { closed: Vec::new(), open }));
        }
        match self {
            Self::Many(many) => many,
            Self::One { .. } => unreachable!("was made many"),
        }
    }

    fn newest(&self) -> Option<RevKey> {
        match self {
            Self::One { main, sub, .. } => Some(RevKey::new(Revision(*main), i64::from(*sub))),
            Self::Many(many) => many.open.last().or_else(|| many.closed.last()?.last()),
        }
    }

    /// Adds a put.
    pub(crate) fn put(&mut self, at: RevKey) {
        assert!(self.newest().is_none_or(|newest| newest < at), "revisions of a key ascend");
        let open = &mut self.many().open;
        if open.revs.is_empty() {
            open.create = at.main.0;
        }
        open.push(at);
    }

    /// Adds a delete. False, and nothing happens, when the key is already deleted.
    pub(crate) fn delete(&mut self, at: RevKey) -> bool {
        assert!(self.newest().is_none_or(|newest| newest < at), "revisions of a key ascend");
        if !self.is_alive() {
            return false;
        }
        let many = self.many();
        many.open.push(at);
        many.closed.reserve_exact(1);
        many.closed.push(std::mem::take(&mut many.open));
        true
    }

    /// What a reader at `at` sees; `None` when the key does not exist there.
    pub(crate) fn get(&self, at: Revision) -> Option<Found> {
        match self {
            Self::One { main, create, version, sub } => (*main <= at.0).then(|| Found {
                modified: RevKey::new(Revision(*main), i64::from(*sub)),
                create: Revision(*create),
                version: *version,
            }),
            Self::Many(many) => {
                if many.open.first().is_some_and(|first| first <= at.0) {
                    return many.open.found(at);
                }
                for closed in many.closed.iter().rev() {
                    if closed.last().is_some_and(|last| last.main <= at) {
                        return None;
                    }
                    if closed.first().is_some_and(|first| first <= at.0) {
                        return closed.found(at);
                    }
                }
                None
            }
        }
    }

    /// Whether the change `at` is retained.
    pub(crate) fn retains(&self, at: RevKey) -> bool {
        match self {
            Self::One { .. } => self.newest() == Some(at),
            Self::Many(many) => many
                .closed
                .iter()
                .chain([&many.open])
                .any(|generation| generation.revs.binary_search(&at).is_ok()),
        }
    }

    /// What a compaction at `at` keeps of the revisions up to `at`.
    pub(crate) fn kept(&self, at: Revision) -> Option<Kept> {
        self.kept_of(at, Generations::chosen)
    }

    /// What a hash at `at` takes for kept: of a key that was deleted and put again at `at` the
    /// delete, as in etcd (`keep` of `server/storage/mvcc/key_index.go`).
    pub(crate) fn kept_by_hash(&self, at: Revision) -> Option<Kept> {
        self.kept_of(at, Generations::ending)
    }

    fn kept_of(
        &self,
        at: Revision,
        choose: impl Fn(&Generations, Revision) -> usize,
    ) -> Option<Kept> {
        match self {
            Self::One { main, sub, .. } => (*main <= at.0).then(|| Kept {
                at: RevKey::new(Revision(*main), i64::from(*sub)),
                tombstone: false,
            }),
            Self::Many(many) => {
                let chosen = choose(many, at);
                let generation = many.closed.get(chosen).unwrap_or(&many.open);
                let position = generation.newest(at)?;
                let tombstone = chosen < many.closed.len() && position + 1 == generation.revs.len();
                Some(Kept { at: generation.revs[position], tombstone })
            }
        }
    }

    /// Drops what a compaction at `at` does not keep. False when nothing is left of the key.
    pub(crate) fn compact(&mut self, at: Revision) -> bool {
        let Self::Many(many) = self else { return true };
        let chosen = many.chosen(at);
        many.closed.drain(..chosen);
        let generation = match many.closed.first_mut() {
            Some(first) => first,
            None => &mut many.open,
        };
        if let Some(position) = generation.newest(at)
            && position > 0
        {
            generation.revs.drain(..position);
            generation.revs.shrink_to_fit();
        }
        if many.closed.is_empty() {
            many.closed = Vec::new();
            match (many.open.revs.as_slice(), many.open.create, many.open.version) {
                ([], ..) => return false,
                ([one], create, version) => {
                    *self = Self::restored(*one, Revision(create), version);
                }
                _ => {}
            }
        }
        true
    }
}

impl Generations {
    /// The first generation that ends at or after `at`; the open one (its position is the number
    /// of closed ones) when none does.
    fn ending(&self, at: Revision) -> usize {
        let ends_before = |closed: &Generation| closed.last().is_some_and(|last| last.main < at);
        self.closed.partition_point(ends_before)
    }

    /// The same for a compaction. A transaction may delete a key and put it again: then that of
    /// the put. (etcd chooses the other, and loses a row that its index names.)
    fn chosen(&self, at: Revision) -> usize {
        let mut chosen = self.ending(at);
        while self.closed.get(chosen).and_then(Generation::last).is_some_and(|l| l.main == at)
            && self.closed.get(chosen + 1).unwrap_or(&self.open).first() == Some(at.0)
        {
            chosen += 1;
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(main: i64) -> RevKey {
        RevKey::first_of(Revision(main))
    }

    /// put 1, put 2, delete 3, put 4, delete 5.
    fn twice_deleted() -> KeyIndex {
        let mut key = KeyIndex::created(at(1));
        key.put(at(2));
        assert!(key.delete(at(3)));
        assert!(!key.delete(at(4)));
        key.put(at(4));
        assert!(key.delete(at(5)));
        key
    }

    #[test]
    fn a_slot_is_small() {
        assert_eq!(size_of::<KeyIndex>(), 32);
        assert_eq!(size_of::<Generations>(), 64);
    }

    #[test]
    fn every_revision_is_answered() {
        let key = twice_deleted();
        let seen =
            |main| key.get(Revision(main)).map(|f| (f.modified.main.0, f.create.0, f.version));
        assert_eq!(seen(0), None);
        assert_eq!(seen(1), Some((1, 1, 1)));
        assert_eq!(seen(2), Some((2, 1, 2)));
        assert_eq!(seen(3), None);
        assert_eq!(seen(4), Some((4, 4, 1)));
        assert_eq!(seen(5), None);
        assert_eq!(seen(9), None);
        assert_eq!(key.revisions(), 5);
    }

    #[test]
    fn a_compaction_keeps_the_newest_and_a_tombstone_at_its_revision() {
        let kept = |main| {
            let mut key = twice_deleted();
            let kept = key.kept(Revision(main)).map(|kept| (kept.at.main.0, kept.tombstone));
            let alive = key.compact(Revision(main));
            (kept, alive, if alive { key.revisions() } else { 0 })
        };
        assert_eq!(kept(0), (None, true, 5));
        assert_eq!(kept(1), (Some((1, false)), true, 5));
        assert_eq!(kept(2), (Some((2, false)), true, 4));
        assert_eq!(kept(3), (Some((3, true)), true, 3));
        assert_eq!(kept(4), (Some((4, false)), true, 2));
        assert_eq!(kept(5), (Some((5, true)), true, 1));
        assert_eq!(kept(6), (None, false, 0));
    }

    #[test]
    fn a_put_after_a_delete_in_one_transaction_is_kept() {
        let mut key = KeyIndex::created(at(1));
        assert!(key.delete(at(2)));
        let put = RevKey::new(Revision(2), 1);
        key.put(put);
        assert_eq!(key.kept(Revision(2)), Some(Kept { at: put, tombstone: false }));
        assert_eq!(key.kept_by_hash(Revision(2)), Some(Kept { at: at(2), tombstone: true }));
        assert_eq!(key.kept_by_hash(Revision(3)), Some(Kept { at: put, tombstone: false }));
        assert!(key.compact(Revision(2)));
        assert_eq!(key.revisions(), 1);
        assert_eq!(key.get(Revision(2)).map(|found| found.modified), Some(put));
    }

    #[test]
    fn compaction_gives_memory_back() {
        let mut key = KeyIndex::created(at(1));
        for main in 2..100 {
            key.put(at(main));
        }
        assert!(key.heap_bytes() > 98 * 16);
        assert!(key.compact(Revision(99)));
        assert_eq!(key, KeyIndex::One { main: 99, create: 1, version: 99, sub: 0 });
    }
}
