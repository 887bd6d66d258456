//! Which pages may be written: the free ones, and those that only old views still read.
//!
//! ```text
//!  free --allocate--> live (born in a commit) --retire--> retired (freed in a later one)
//!    ^                                                      |
//!    +-------- no live view v with born <= v < freed -------+
//! ```
//!
//! *Invariants.*
//! 1. Every page below the high-water mark and not a meta page is exactly one of: free, live,
//!    retired. (`audit` in the tests, after every commit.)
//! 2. A page that a live view, or the newest durable state, can reach is never free.
//! 3. Runs in [`Free`] are not empty, do not touch and do not overlap.
//!
//! *Absent.* The list on disk: a state written by us says that there is none, and whoever opens
//! the file finds free pages by walking the trees.

use std::collections::{BTreeMap, BTreeSet};

use super::cache::IdMap;
use super::meta::Txid;
use super::page::PageId;

/// Free pages, as runs.
#[derive(Debug, Default)]
pub(super) struct Free {
    /// Start to length.
    runs: BTreeMap<u64, u64>,
    /// (length, start) of the same runs.
    sizes: BTreeSet<(u64, u64)>,
    /// The run being cut up: start and end. Not among `runs`.
    cut: (u64, u64),
    pages: u64,
}

impl Free {
    /// Pages in all runs.
    #[cfg(test)]
    pub(super) const fn pages(&self) -> u64 {
        self.pages
    }

    /// Takes `pages` neighbouring pages: from the lowest run for a single one, so that a commit's
    /// pages lie together, else from the smallest run that is long enough.
    pub(super) fn allocate(&mut self, pages: u64) -> Option<PageId> {
        if self.cut.1 - self.cut.0 < pages {
            let start = if pages == 1 {
                *self.runs.first_key_value()?.0
            } else {
                self.sizes.range((pages, 0)..).next()?.1
            };
            let len = self.runs.remove(&start)?;
            self.sizes.remove(&(len, start));
            let (rest, end) = std::mem::replace(&mut self.cut, (start, start + len));
            self.insert(rest, end - rest);
        }
        let start = self.cut.0;
        self.cut.0 += pages;
        self.pages -= pages;
        Some(PageId(start))
    }

    /// Gives pages back.
    pub(super) fn release(&mut self, id: PageId, pages: u64) {
        self.insert(id.0, pages);
        self.pages += pages;
    }

    /// Puts the rest of the run being cut up back among the others.
    pub(super) fn settle(&mut self) {
        let (start, end) = std::mem::take(&mut self.cut);
        self.insert(start, end - start);
    }

    fn insert(&mut self, mut start: u64, mut len: u64) {
        if len == 0 {
            return;
        }
        if let Some((&before, &length)) = self.runs.range(..start).next_back() {
            assert!(before + length <= start, "page {start} is freed twice");
            if before + length == start {
                self.runs.remove(&before);
                self.sizes.remove(&(length, before));
                start = before;
                len += length;
            }
        }
        if let Some((&after, &length)) = self.runs.range(start..).next() {
            assert!(start + len <= after, "page {after} is freed twice");
            if start + len == after {
                self.runs.remove(&after);
                self.sizes.remove(&(length, after));
                len += length;
            }
        }
        self.runs.insert(start, len);
        self.sizes.insert((len, start));
    }

    /// The runs, ascending.
    #[cfg(test)]
    pub(super) fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        assert_eq!(self.cut.0, self.cut.1, "settled");
        self.runs.iter().map(|(start, len)| (*start, *len))
    }
}

/// A page that no later state reaches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retired {
    pub(super) id: PageId,
    /// With its overflow.
    pub(super) pages: u64,
    /// Views at and after this txid, and before `freed`, reach it.
    pub(super) born: Txid,
    pub(super) freed: Txid,
}

/// Retired pages and the views they wait for.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    /// Not looked at yet.
    fresh: Vec<Retired>,
    /// By the earliest live view that reaches them; looked at again when it is gone.
    blocked: BTreeMap<Txid, Vec<Retired>>,
    /// When a page was born, if after the oldest live view; some that were born before it, too.
    /// Any other page was there for all live views.
    births: IdMap<Txid>,
    /// So many more pages are made before births are looked for that are needed no more.
    look_after: usize,
}

impl Reclaim {
    /// No fewer pages are made between two looks, and no fewer than there were births after the
    /// last one: looks then cost no more than what is written.
    const LOOK_PAGES: usize = 1024;

    /// Hands every retired page that no view in `live` (ascending) reaches to `free`.
    pub(super) fn settle(&mut self, live: &[Txid], mut free: impl FnMut(&Retired)) {
        let mut again = std::mem::take(&mut self.fresh);
        let gone: Vec<Txid> =
            self.blocked.keys().filter(|view| live.binary_search(view).is_err()).copied().collect();
        for view in gone {
            again.extend(self.blocked.remove(&view).unwrap_or_default());
        }
        for page in again {
            let first = live.partition_point(|view| *view < page.born);
            match live.get(first) {
                Some(view) if *view < page.freed => {
                    self.blocked.entry(*view).or_default().push(page);
                }
                _ => free(&page),
            }
        }
        if self.look_after == 0 {
            let oldest = live.first().copied().unwrap_or(Txid(u64::MAX));
            self.births.retain(|_, born| *born > oldest);
            self.look_after = self.births.len().max(Self::LOOK_PAGES);
        }
    }

    /// How many pages wait for the views of which state.
    pub(super) fn kept(&self) -> BTreeMap<Txid, u64> {
        let pages = |retired: &Vec<Retired>| retired.iter().map(|page| page.pages).sum();
        self.blocked.iter().map(|(view, retired)| (*view, pages(retired))).collect()
    }

    /// Notes the pages of a commit that is durable: those it made, those it no longer reaches.
    pub(super) fn committed(
        &mut self,
        txid: Txid,
        made: impl Iterator<Item = PageId>,
        dropped: impl Iterator<Item = (PageId, u64)>,
    ) {
        for (id, pages) in dropped {
            let born = self.births.get(&id.0).copied().unwrap_or(Txid(0));
            self.fresh.push(Retired { id, pages, born, freed: txid });
        }
        for id in made {
            self.births.insert(id.0, txid);
            self.look_after = self.look_after.saturating_sub(1);
        }
    }

    /// Everything that waits.
    #[cfg(test)]
    pub(super) fn retired(&self) -> impl Iterator<Item = &Retired> {
        self.fresh.iter().chain(self.blocked.values().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_and_are_cut_from_the_lowest() {
        let mut free = Free::default();
        for (start, pages) in [(10, 2), (20, 5), (12, 3), (40, 1)] {
            free.release(PageId(start), pages);
        }
        assert_eq!(free.allocate(1), Some(PageId(10)));
        assert_eq!(free.allocate(5), Some(PageId(20)));
        assert_eq!(free.allocate(5), None);
        assert_eq!(free.allocate(1), Some(PageId(11)));
        free.release(PageId(10), 1);
        free.settle();
        assert_eq!(free.runs().collect::<Vec<_>>(), [(10, 1), (12, 3), (40, 1)]);
        assert_eq!(free.pages(), 5);
    }

    #[test]
    fn a_view_keeps_its_own_pages_and_no_others() {
        let mut reclaim = Reclaim::default();
        let free = |reclaim: &mut Reclaim, live: &[u64]| {
            let live: Vec<Txid> = live.iter().map(|txid| Txid(*txid)).collect();
            let mut freed = Vec::new();
            reclaim.settle(&live, |page| freed.push(page.id.0));
            freed.sort_unstable();
            freed
        };
        // Page 5 is there from the start, 6 is born in 11; both are dropped in 12.
        reclaim.committed(Txid(11), [PageId(6)].into_iter(), [].into_iter());
        assert!(free(&mut reclaim, &[10, 11]).is_empty());
        reclaim.committed(Txid(12), [].into_iter(), [(PageId(5), 1), (PageId(6), 1)].into_iter());
        // View 10 holds 5, and not 6; view 12 holds neither.
        assert_eq!(free(&mut reclaim, &[10, 12]), [6]);
        assert_eq!(reclaim.kept(), BTreeMap::from([(Txid(10), 1)]));
        assert_eq!(free(&mut reclaim, &[12, 13]), [5]);
        assert_eq!(reclaim.kept(), BTreeMap::new());
    }

    #[test]
    fn births_are_forgotten_when_the_oldest_view_is_gone() {
        let mut reclaim = Reclaim::default();
        let pages = |txid: u64| (0..100).map(move |at| PageId(100 * (txid % 50) + at));
        for txid in 11..1000 {
            reclaim.committed(Txid(txid), pages(txid), [].into_iter());
            reclaim.settle(&[Txid(10), Txid(txid)], |_| ());
            assert!(reclaim.births.len() <= 5000);
        }
        // All of them are younger than the view.
        assert_eq!(reclaim.births.len(), 5000);
        let tenth = PageId(100 * (990 % 50));
        reclaim.settle(&[Txid(990), Txid(999)], |_| ());
        reclaim.committed(
            Txid(1000),
            [].into_iter(),
            [(tenth, 1), (PageId(tenth.0 + 100), 1)].into_iter(),
        );
        // View 990 reaches what was born in it, and not what was born after it.
        let mut freed = Vec::new();
        reclaim.settle(&[Txid(990), Txid(1000)], |page| freed.push(page.id));
        assert_eq!(freed, [PageId(tenth.0 + 100)]);
        for txid in 1001..1060 {
            reclaim.committed(Txid(txid), pages(txid), [].into_iter());
            reclaim.settle(&[Txid(txid)], |_| ());
        }
        assert!(reclaim.births.len() <= Reclaim::LOOK_PAGES + 100);
    }
}
