//! Every key with its revisions, in memory, ordered by key.
//!
//! ```text
//!  first keys:   ""            "k/300"           "pods/7"        a B-tree of chunks
//!                │                │                 │
//!  chunks:     [k/1 .. k/299]  [k/300 .. pods/6]  [pods/7 ..]    sorted, CHUNK_MAX keys each
//! ```
//!
//! A key costs its slot (40 bytes) and its bytes, which stand together with those of its
//! neighbours; chunks grow in small steps, so that little is reserved and not used.
//!
//! *Invariants.*
//! 1. A chunk's first key bounds its keys from below, the next chunk's from above; the first
//!    chunk's is empty.
//! 2. Readers hold the lock for [`VISIT_MAX`] keys at most and go on after the last one they saw.
//!    What they see at a revision does not change meanwhile: later writes have later revisions,
//!    and a compaction above their revision shows in [`Index::compacted`].
//!
//! *Contract.* `server/storage/mvcc/index.go` of etcd v3.7.1.

use std::collections::BTreeMap;
use std::ops::Bound;

use base::Revision;
use parking_lot::RwLock;

use super::chunk::{Chunk, SLOT_BYTES};
use super::key_index::{Found, Kept, KeyIndex};
use super::revision::RevKey;

/// Keys of a chunk before it is split.
const CHUNK_MAX: usize = 128;
/// Bytes of keys in a chunk before it is split, if it holds more than one.
const CHUNK_KEY_BYTES_MAX: usize = 1 << 20;
/// Two neighbours that hold no more than this together are merged by a compaction.
const CHUNK_MERGE: usize = CHUNK_MAX / 2;
/// Keys that are visited under one hold of the lock.
pub(crate) const VISIT_MAX: usize = 1024;

/// Where an interval of keys ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End<'a> {
    /// It holds one key only.
    Single,
    /// Before this key.
    Before(&'a [u8]),
    /// It has no end.
    Unbounded,
}

impl<'a> End<'a> {
    /// Reads the `range_end` of a request.
    pub(crate) fn of(range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Self::Single,
            [0] => Self::Unbounded,
            end => Self::Before(end),
        }
    }

    pub(super) fn covers(self, key: &[u8]) -> bool {
        match self {
            Self::Single => false,
            Self::Before(end) => key < end,
            Self::Unbounded => true,
        }
    }
}

/// What [`Index::compact_chunk`] does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Go on at this chunk.
    More(Box<[u8]>),
    /// Every key has been compacted.
    Done,
}

/// All keys.
#[derive(Debug)]
pub(crate) struct Index {
    chunks: BTreeMap<Box<[u8]>, Chunk>,
    size: IndexSize,
    compacted: Revision,
}

/// What the index holds, and about how much memory that takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexSize {
    /// Keys with a revision retained, deleted ones included.
    pub keys: usize,
    /// Those of them that exist.
    pub live: usize,
    /// The bytes of all of them.
    pub key_bytes: usize,
    /// Revisions retained.
    pub revisions: usize,
}

impl IndexSize {
    /// An estimate of the memory in use.
    pub fn bytes(&self) -> usize {
        // A slot, and its share of what is not filled.
        const SLOT: usize = SLOT_BYTES + 8;
        self.keys * SLOT + self.key_bytes + (self.revisions - self.keys) * size_of::<RevKey>()
    }
}

impl Default for Index {
    fn default() -> Self {
        let chunks = BTreeMap::from([(Box::default(), Chunk::default())]);
        Self { chunks, size: IndexSize::default(), compacted: Revision::NEVER }
    }
}

impl Index {
    /// The revision of the newest compaction; what was replaced or deleted below it may be gone.
    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// From now on no reader may ask for what was visible only below `at`.
    pub(crate) fn set_compacted(&mut self, at: Revision) {
        self.compacted = at;
    }

    /// How much the index holds.
    pub(crate) fn size(&self) -> IndexSize {
        self.size
    }

    fn chunk(&self, key: &[u8]) -> &Chunk {
        let (_, chunk) = self
            .chunks
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .expect("the first chunk's lower bound is empty");
        chunk
    }

    /// The revisions of `key`.
    pub(crate) fn key(&self, key: &[u8]) -> Option<&KeyIndex> {
        let chunk = self.chunk(key);
        chunk.find(key).ok().map(|at| &chunk.slots[at].index)
    }

    /// What is visible of `key` at `at`.
    pub(crate) fn get(&self, key: &[u8], at: Revision) -> Option<Found> {
        self.key(key)?.get(at)
    }

    /// Adds a put; tells what was visible before.
    pub(crate) fn put(&mut self, key: &[u8], at: RevKey) -> Option<Found> {
        let mut before = None;
        self.update(key, |index| match index {
            Some(index) => {
                before = index.get(at.main);
                index.put(at);
                None
            }
            None => Some(KeyIndex::created(at)),
        });
        before
    }

    /// Adds a delete; tells what was visible before, `None` when there was nothing to delete.
    pub(crate) fn delete(&mut self, key: &[u8], at: RevKey) -> Option<Found> {
        let mut before = None;
        self.update(key, |index| {
            if let Some(index) = index {
                before = index.get(at.main);
                index.delete(at);
            }
            None
        });
        before
    }

    /// Takes in a row of the database, in the order of revisions.
    pub(crate) fn restore(&mut self, key: &[u8], at: RevKey, row: Restored) {
        self.update(key, |index| match (index, row) {
            (Some(index), Restored::Tombstone) => {
                // A delete of what is deleted says nothing; etcd passes over it too.
                index.delete(at);
                None
            }
            (Some(index), Restored::Put { .. }) => {
                index.put(at);
                None
            }
            (None, Restored::Tombstone) => Some(KeyIndex::restored_tombstone(at)),
            (None, Restored::Put { create, version }) => {
                Some(KeyIndex::restored(at, create, version))
            }
        });
    }

    /// Changes the slot of `key`, or adds the one that `change` returns when there is none.
    fn update(
        &mut self,
        key: &[u8],
        change: impl FnOnce(Option<&mut KeyIndex>) -> Option<KeyIndex>,
    ) {
        let (_, chunk) = self
            .chunks
            .range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .expect("the first chunk's lower bound is empty");
        let position = match chunk.find(key) {
            Ok(position) => {
                let revisions = chunk.slots[position].index.revisions();
                let was_alive = chunk.slots[position].index.is_alive();
                let none = change(Some(&mut chunk.slots[position].index));
                assert!(none.is_none(), "a slot that exists is changed in place");
                let index = &chunk.slots[position].index;
                self.size.revisions += index.revisions() - revisions;
                self.size.live += usize::from(index.is_alive());
                self.size.live -= usize::from(was_alive);
                return;
            }
            Err(position) => position,
        };
        let Some(index) = change(None) else { return };
        self.size.keys += 1;
        self.size.live += usize::from(index.is_alive());
        self.size.key_bytes += key.len();
        self.size.revisions += index.revisions();
        let len = chunk.slots.len();
        let bytes = chunk.keys.len() + key.len();
        if len < 2 || (len < CHUNK_MAX && bytes <= CHUNK_KEY_BYTES_MAX) {
            chunk.insert(position, key, index);
            return;
        }
        // Full. Keys that arrive in order leave full chunks behind; others leave halves.
        let cut = if position == len { len } else { len / 2 };
        let mut right = chunk.split(cut);
        if position < cut {
            chunk.insert(position, key, index);
        } else {
            right.insert(position - cut, key, index);
        }
        let first = Box::from(right.key(&right.slots[0]));
        self.chunks.insert(first, right);
    }

    /// Shows up to `max` slots from `from` on, in key order. The key to go on with, when the
    /// interval is not exhausted.
    fn slots(
        &self,
        from: &[u8],
        end: End<'_>,
        max: usize,
        mut show: impl FnMut(&[u8], &KeyIndex) -> bool,
    ) -> Option<Box<[u8]>> {
        let start = self
            .chunks
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(from)))
            .next_back()
            .map_or(&[][..], |(first, _)| first.as_ref());
        let mut left = max;
        for (first, chunk) in
            self.chunks.range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
        {
            let skip = if first.as_ref() <= from {
                chunk.find(from).unwrap_or_else(|position| position)
            } else {
                0
            };
            for slot in &chunk.slots[skip..] {
                let key = chunk.key(slot);
                if !end.covers(key) {
                    return None;
                }
                if left == 0 {
                    return Some(key.into());
                }
                left -= 1;
                if !show(key, &slot.index) {
                    return None;
                }
            }
        }
        None
    }

    /// Compacts one chunk of keys at `at`, reporting what is kept; `from` is what the last call
    /// returned, empty at first.
    pub(crate) fn compact_chunk(
        &mut self,
        from: &[u8],
        at: Revision,
        mut keep: impl FnMut(Kept),
    ) -> Progress {
        let Some((first, chunk)) =
            self.chunks.range_mut::<[u8], _>((Bound::Included(from), Bound::Unbounded)).next()
        else {
            return Progress::Done;
        };
        let size = &mut self.size;
        let before = chunk.slots.len();
        chunk.slots.retain_mut(|slot| {
            if let Some(kept) = slot.index.kept(at) {
                keep(kept);
            }
            size.revisions -= slot.index.revisions();
            if slot.index.compact(at) {
                size.revisions += slot.index.revisions();
                return true;
            }
            size.keys -= 1;
            size.key_bytes -= slot.key_bytes();
            false
        });
        if chunk.slots.len() < before {
            chunk.repack();
        }
        let first = first.clone();
        self.merge_back(&first);
        self.chunks
            .range::<[u8], _>((Bound::Excluded(first.as_ref()), Bound::Unbounded))
            .next()
            .map_or(Progress::Done, |(next, _)| Progress::More(next.clone()))
    }

    /// Joins the chunk at `first` to the one before it when both are nearly empty.
    fn merge_back(&mut self, first: &[u8]) {
        let mut before =
            self.chunks.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(first)));
        let (Some((_, chunk)), Some((_, left))) = (before.next_back(), before.next_back()) else {
            return;
        };
        let bytes = left.keys.len() + chunk.keys.len();
        let slots = left.slots.len() + chunk.slots.len();
        if slots <= CHUNK_MERGE && bytes <= CHUNK_KEY_BYTES_MAX {
            left.append(std::mem::take(chunk));
            self.chunks.remove(first);
        }
    }

    #[cfg(test)]
    /// Memory of the index, the allocator's own share left out.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.chunks
            .iter()
            .map(|(first, chunk)| {
                first.len() + size_of::<(Box<[u8]>, Chunk)>() + chunk.heap_bytes()
            })
            .sum()
    }
}

/// What a row of the database says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restored {
    /// It deletes it.
    Tombstone,
    /// It sets it.
    Put {
        /// The revision of the key's creation.
        create: Revision,
        /// How many puts since.
        version: i64,
    },
}

/// The revision asked for lies below a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compacted;

/// Shows every key of `[from, end)` that exists at `at`, in key order, until `show` returns
/// false. The lock is held for [`VISIT_MAX`] keys at a time, and `pause` is called, without the
/// lock, after each hold.
pub(crate) fn visit(
    index: &RwLock<Index>,
    from: &[u8],
    end: End<'_>,
    at: Revision,
    mut show: impl FnMut(&[u8], Found) -> bool,
) -> Result<(), Compacted> {
    if end == End::Single {
        let index = index.read();
        if at < index.compacted {
            return Err(Compacted);
        }
        if let Some(found) = index.get(from, at) {
            show(from, found);
        }
        return Ok(());
    }
    let mut next: Option<Box<[u8]>> = None;
    loop {
        let index = index.read();
        if at < index.compacted {
            return Err(Compacted);
        }
        let from = next.as_deref().unwrap_or(from);
        let more = index.slots(from, end, VISIT_MAX, |key, slot| match slot.get(at) {
            Some(found) => show(key, found),
            None => true,
        });
        match more {
            Some(key) => next = Some(key),
            None => return Ok(()),
        }
    }
}

/// As [`visit`], but stops after one hold of the lock; the key to go on with, if any.
pub(crate) fn visit_once(
    index: &RwLock<Index>,
    from: &[u8],
    end: End<'_>,
    at: Revision,
    mut show: impl FnMut(&[u8], Found),
) -> Result<Option<Box<[u8]>>, Compacted> {
    let index = index.read();
    if at < index.compacted {
        return Err(Compacted);
    }
    Ok(index.slots(from, end, VISIT_MAX, |key, slot| {
        if let Some(found) = slot.get(at) {
            show(key, found);
        }
        true
    }))
}

/// Shows what a hash at `at` takes for kept of every key.
pub(crate) fn visit_kept(
    index: &RwLock<Index>,
    at: Revision,
    mut show: impl FnMut(Kept),
) -> Result<(), Compacted> {
    let mut next: Box<[u8]> = Box::default();
    loop {
        let index = index.read();
        if Revision(0) < at && at < index.compacted {
            return Err(Compacted);
        }
        let more = index.slots(&next, End::Unbounded, VISIT_MAX, |_, slot| {
            if let Some(kept) = slot.kept_by_hash(at) {
                show(kept);
            }
            true
        });
        match more {
            Some(key) => next = key,
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use arbtest::arbtest;

    use super::*;

    fn all(index: &RwLock<Index>, at: i64) -> Vec<(Vec<u8>, i64)> {
        let mut seen = Vec::new();
        visit(index, b"", End::Unbounded, Revision(at), |key, found| {
            seen.push((key.to_vec(), found.modified.main.0));
            true
        })
        .expect("not compacted");
        seen
    }

    #[test]
    fn chunks_split_and_merge_without_losing_order() {
        arbtest(|u| {
            let index = RwLock::new(Index::default());
            let mut model = BTreeMap::new();
            let mut main = 1;
            for _ in 0..u.int_in_range(0..=1500)? {
                main += 1;
                let key = match u.int_in_range(0..=20)? {
                    0 => vec![b'x'; 100_000 + u.int_in_range(0..=9)?],
                    1..=7 => format!("{:05}", main).into_bytes(),
                    8..=15 => format!("{:03}", u.int_in_range(0..=999)?).into_bytes(),
                    _ => u.arbitrary::<[u8; 2]>()?.to_vec(),
                };
                index.write().put(&key, RevKey::first_of(Revision(main)));
                model.insert(key, main);
            }
            assert_eq!(all(&index, main), model.clone().into_iter().collect::<Vec<_>>());
            // Delete most, compact, and look again.
            let doomed: Vec<_> =
                model.keys().filter(|key| key.last() != Some(&b'7')).cloned().collect();
            for key in doomed {
                main += 1;
                assert!(index.write().delete(&key, RevKey::first_of(Revision(main))).is_some());
                model.remove(&key);
            }
            main += 1;
            let (mut from, mut kept) = (Box::default(), 0);
            index.write().set_compacted(Revision(main));
            while let Progress::More(next) =
                index.write().compact_chunk(&from, Revision(main), |_| kept += 1)
            {
                from = next;
            }
            assert_eq!(kept, model.len());
            assert_eq!(index.read().size().keys, model.len());
            assert_eq!(all(&index, main), model.into_iter().collect::<Vec<_>>());
            Ok(())
        })
        .budget_ms(500);
    }

    #[test]
    fn intervals_follow_range_end() {
        let index = RwLock::new(Index::default());
        for (at, key) in [&b"a"[..], b"b", b"b\0", b"c"].into_iter().enumerate() {
            index.write().put(key, RevKey::first_of(Revision(at as i64 + 2)));
        }
        let keys = |from: &[u8], end: &[u8]| {
            let mut keys = Vec::new();
            visit(&index, from, End::of(end), Revision(9), |key, _| {
                keys.push(String::from_utf8_lossy(key).into_owned());
                true
            })
            .expect("not compacted");
            keys
        };
        assert_eq!(keys(b"b", b""), ["b"]);
        assert_eq!(keys(b"b", b"c"), ["b", "b\0"]);
        assert_eq!(keys(b"b", b"\0"), ["b", "b\0", "c"]);
        assert_eq!(keys(b"\0", b"\0"), ["a", "b", "b\0", "c"]);
        assert_eq!(keys(b"c", b"a"), [""; 0]);
        assert_eq!(keys(b"x", b""), [""; 0]);
    }

    #[test]
    fn a_key_with_one_revision_is_cheap() {
        let mut index = Index::default();
        let mut rng = base::Rng::new(1);
        for main in 2..100_002 {
            let key = format!("/registry/pods/{:016x}", rng.next_u64());
            index.put(key.as_bytes(), RevKey::first_of(Revision(main)));
        }
        let size = index.size();
        let per_key = (index.heap_bytes() - size.key_bytes) / size.keys;
        assert!(per_key <= 56, "{per_key} bytes a key");
        let estimate = size.bytes() * 100 / index.heap_bytes();
        assert!((90..=110).contains(&estimate), "the estimate is {estimate} % of what is used");
    }
}
