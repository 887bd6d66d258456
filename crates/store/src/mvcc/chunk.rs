//! Some neighbouring keys of the index, in two blocks of memory.
//!
//! *Invariants.* `slots` are in the order of keys; `keys` holds the bytes of each, and, between
//! an insertion and the next split or compaction, of no others.

use super::key_index::KeyIndex;

/// Slots by which a chunk grows.
const CHUNK_STEP: usize = 8;
/// What a key takes beside its bytes and any further revisions.
pub(super) const SLOT_BYTES: usize = size_of::<Slot>();

/// A key's place in its chunk, and its revisions.
#[derive(Debug)]
pub(super) struct Slot {
    start: u32,
    len: u32,
    pub(super) index: KeyIndex,
}

#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// In the order of keys.
    pub(super) slots: Vec<Slot>,
    /// Their bytes, in the order of arrival.
    pub(super) keys: Vec<u8>,
}

impl Chunk {
    pub(super) fn key(&self, slot: &Slot) -> &[u8] {
        &self.keys[slot.start as usize..][..slot.len as usize]
    }

    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.slots.binary_search_by(|slot| self.key(slot).cmp(key))
    }

    pub(super) fn insert(&mut self, position: usize, key: &[u8], index: KeyIndex) {
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(CHUNK_STEP);
        }
        if self.keys.capacity() - self.keys.len() < key.len() {
            self.keys.reserve_exact(key.len() * CHUNK_STEP);
        }
        assert!(self.keys.len() + key.len() <= u32::MAX as usize, "two keys of a request fit");
        let (start, len) = (self.keys.len() as u32, key.len() as u32);
        self.keys.extend_from_slice(key);
        self.slots.insert(position, Slot { start, len, index });
    }

    /// A chunk of `slots`, whose keys stand in `keys`, without the bytes of any other.
    fn packed(slots: impl ExactSizeIterator<Item = Slot>, keys: &[u8]) -> Self {
        let mut packed = Self::default();
        packed.slots.reserve_exact(slots.len() + CHUNK_STEP);
        for slot in slots {
            let start = packed.keys.len() as u32;
            let key = &keys[slot.start as usize..][..slot.len as usize];
            packed.keys.extend_from_slice(key);
            packed.slots.push(Slot { start, ..slot });
        }
        packed.keys.shrink_to_fit();
        packed
    }

    /// Takes out the slots from `cut` on.
    pub(super) fn split(&mut self, cut: usize) -> Self {
        let right = Self::packed(self.slots.drain(cut..), &self.keys);
        self.repack();
        right
    }

    /// Gives back the memory of keys that are gone.
    pub(super) fn repack(&mut self) {
        let Self { slots, keys } = std::mem::take(self);
        *self = Self::packed(slots.into_iter(), &keys);
    }

    pub(super) fn append(&mut self, other: Self) {
        let shift = self.keys.len() as u32;
        self.keys.extend_from_slice(&other.keys);
        let shifted = |slot: Slot| Slot { start: slot.start + shift, ..slot };
        self.slots.extend(other.slots.into_iter().map(shifted));
    }

    /// Memory of the chunk beside itself.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let revisions: usize = self.slots.iter().map(|slot| slot.index.heap_bytes()).sum();
        self.slots.capacity() * SLOT_BYTES + self.keys.capacity() + revisions
    }
}

impl Slot {
    /// The length of the key.
    pub(super) fn key_bytes(&self) -> usize {
        self.len as usize
    }
}
