//! Pages kept in memory, bounded by bytes.
//!
//! Sharded by page number; each shard evicts by second chance. Only whole, checked pages that
//! some view can reach are held.
//!
//! *Invariant.* A page is dropped from the cache when its number becomes free for reuse
//! (`freelist::Reclaim`), so a number never answers with what stood there before. Readers put a
//! page in while they hold a view that pins it, which comes before that moment.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use parking_lot::Mutex;

use super::page::{Page, PageId};

const SHARDS: usize = 16;
/// What an entry costs beside its page: map, ring and the allocator.
const OVERHEAD_BYTES: usize = 160;

/// Spreads page numbers; the same in every process, which never shows.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// A map by page number.
// order: pages are looked up, put in and taken out by number; nothing goes over all of them.
pub(super) type IdMap<V> = HashMap<u64, V, BuildHasherDefault<IdHasher>>;

struct Entry {
    page: Page,
    /// Its index in the ring.
    place: usize,
    /// Asked for since the hand passed.
    used: bool,
}

#[derive(Default)]
struct Shard {
    entries: IdMap<Entry>,
    /// The pages of `entries` in the order in which the hand meets them.
    ring: Vec<PageId>,
    hand: usize,
    bytes: usize,
}

impl Shard {
    fn remove(&mut self, id: PageId) {
        let Some(entry) = self.entries.remove(&id.0) else { return };
        self.bytes -= cost(&entry.page);
        self.ring.swap_remove(entry.place);
        if let Some(moved) = self.ring.get(entry.place)
            && let Some(moved) = self.entries.get_mut(&moved.0)
        {
            moved.place = entry.place;
        }
    }

    fn evict(&mut self) {
        // Ends: a full turn of the hand clears every `used`.
        loop {
            if self.hand >= self.ring.len() {
                self.hand = 0;
            }
            let id = self.ring[self.hand];
            match self.entries.get_mut(&id.0) {
                Some(entry) if entry.used => entry.used = false,
                _ => return self.remove(id),
            }
            self.hand += 1;
        }
    }
}

fn cost(page: &Page) -> usize {
    page.bytes().len() + OVERHEAD_BYTES
}

/// The cache of one database.
pub(super) struct Cache {
    shards: Vec<Mutex<Shard>>,
    shard_bytes_max: usize,
}

impl Cache {
    /// A cache of at most `bytes_max`.
    pub(super) fn new(bytes_max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, shard_bytes_max: bytes_max / SHARDS }
    }

    fn shard(&self, id: PageId) -> &Mutex<Shard> {
        let mut hasher = IdHasher::default();
        hasher.write_u64(id.0);
        // The low bits choose the bucket inside the shard's map.
        &self.shards[(hasher.finish() >> 56) as usize % SHARDS]
    }

    /// The page, if it is here.
    pub(super) fn get(&self, id: PageId) -> Option<Page> {
        let mut shard = self.shard(id).lock();
        let entry = shard.entries.get_mut(&id.0)?;
        entry.used = true;
        Some(entry.page.clone())
    }

    /// Keeps a page. One that would push out most of a shard is not kept.
    pub(super) fn insert(&self, id: PageId, page: Page) {
        let bytes = cost(&page);
        if bytes > self.shard_bytes_max / 2 {
            return;
        }
        let mut shard = self.shard(id).lock();
        shard.remove(id);
        while shard.bytes + bytes > self.shard_bytes_max {
            shard.evict();
        }
        let place = shard.ring.len();
        shard.bytes += bytes;
        shard.ring.push(id);
        shard.entries.insert(id.0, Entry { page, place, used: false });
    }

    /// Forgets a page.
    pub(super) fn remove(&self, id: PageId) {
        self.shard(id).lock().remove(id);
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bolt::page::{Builder, Kind};

    #[test]
    fn the_bound_holds_and_hot_pages_stay() {
        let cache = Cache::new(16 * 20 * 4400);
        let page = |id| Builder::new(PageId(id), Kind::Leaf, 0, 1, 4096).finish();
        for id in 2..5000 {
            cache.insert(PageId(id), page(id));
            assert!(cache.get(PageId(2)).is_some(), "page 2 is asked for all the time");
            assert!(cache.bytes() <= 16 * 20 * 4400);
        }
        assert!(cache.get(PageId(3)).is_none());
        assert_eq!(cache.get(PageId(4999)).map(|page| page.id()), Some(PageId(4999)));
        cache.remove(PageId(4999));
        assert!(cache.get(PageId(4999)).is_none());
        cache.insert(PageId(9), Builder::new(PageId(9), Kind::Leaf, 0, 100, 4096).finish());
        assert!(cache.get(PageId(9)).is_none(), "too large to keep");
    }
}
