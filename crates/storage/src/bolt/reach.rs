//! Finds every page that a state reaches, checking each on the way.
//!
//! Level by level over all trees at once, each level in the order of the file, so that opening a
//! large database is a few nearly sequential passes.

use bytes::Bytes;

use super::error::Error;
use super::meta::Meta;
use super::page::{BUCKET, Elements, FIRST, Fault, Kind, Page, PageId, parse_freelist, u64_at};
use super::pager::Pager;

/// Inline buckets inside each other, each read once more for every one around it.
const INLINE_DEPTH_MAX: usize = 16;

/// A set of pages, a bit each.
pub(super) struct PageSet {
    words: Vec<u64>,
    count: u64,
}

impl PageSet {
    fn new(pages: u64) -> Self {
        Self { words: vec![0; pages.div_ceil(64) as usize], count: 0 }
    }

    /// False when the page was there already.
    fn insert(&mut self, id: u64) -> bool {
        let (word, bit) = ((id / 64) as usize, 1 << (id % 64));
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(new);
        new
    }

    /// Whether the page is there.
    pub(super) fn contains(&self, id: u64) -> bool {
        self.words[(id / 64) as usize] & (1 << (id % 64)) != 0
    }

    /// Pages in the set.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }
}

/// What a state consists of.
pub(super) struct Reached {
    /// The pages of its trees, and its freelist's.
    pub(super) pages: PageSet,
    /// The pages that list its free pages, if it has any: first, and how many.
    pub(super) freelist: Option<(PageId, u64)>,
}

/// Walks a state.
pub(super) fn walk(pager: &Pager, meta: &Meta) -> Result<Reached, Error> {
    let mut reached = Reached { pages: PageSet::new(meta.high_water), freelist: None };
    let mut level = vec![meta.root];
    // Ends: a page is walked once.
    while !level.is_empty() {
        level.sort_unstable();
        let mut next = Vec::new();
        pager.for_each(&level, meta.high_water, |id, bytes| {
            let offset = id.offset(pager.page_size);
            mark(&mut reached.pages, id, (bytes.len() / pager.page_size) as u64)
                .and_then(|()| Elements::parse(bytes, meta.high_water))
                .and_then(|elements| children(elements, meta.high_water, &mut next, 0))
                .map_err(|fault| pager.corrupt(offset, fault))
        })?;
        level = next;
    }
    if let Some(id) = meta.freelist {
        reached.freelist = Some((id, freelist(pager, meta, id, &mut reached.pages)?));
    }
    Ok(reached)
}

fn mark(pages: &mut PageSet, id: PageId, count: u64) -> Result<(), Fault> {
    for page in id.0..id.0 + count {
        if !pages.insert(page) {
            return Err(Fault { at: 0, what: format!("page {page} belongs to two others") });
        }
    }
    Ok(())
}

/// The pages below a page: children of a branch, roots of the buckets on a leaf, which stands
/// inside so many others.
fn children(
    elements: Elements<'_>,
    high_water: u64,
    next: &mut Vec<PageId>,
    depth: usize,
) -> Result<(), Fault> {
    if depth > INLINE_DEPTH_MAX {
        return Err(Fault { at: 0, what: "too many inline buckets inside each other".into() });
    }
    for index in 0..elements.len() {
        if elements.kind() == Kind::Branch {
            next.push(elements.child(index));
        } else if elements.is_bucket(index) {
            let value = Bytes::copy_from_slice(elements.value(index));
            let inside = |fault: Fault| Fault { at: elements.value_at(index) + fault.at, ..fault };
            match Root::parse(value, high_water).map_err(inside)? {
                (Root::Page(id), _) => next.push(id),
                // bbolt keeps no bucket inline that holds another; whoever does, is followed.
                (Root::Inline(page), _) => {
                    children(page.elements(), high_water, next, depth + 1).map_err(inside)?;
                }
            }
        }
    }
    Ok(())
}

/// Where the tree of a bucket begins.
#[derive(Clone)]
pub(super) enum Root {
    /// On a page of its own.
    Page(PageId),
    /// In the value of the bucket.
    Inline(Page),
}

impl Root {
    /// Reads the value of a bucket: its root, and its sequence.
    pub(super) fn parse(value: Bytes, high_water: u64) -> Result<(Self, u64), Fault> {
        if value.len() < BUCKET {
            return Err(Fault { at: 0, what: "the value of a bucket is cut short".into() });
        }
        let (id, sequence) = (u64_at(&value, 0), u64_at(&value, 8));
        if id == 0 {
            let page = Page::parse_inline(value.slice(BUCKET..), high_water)?;
            return Ok((Self::Inline(page), sequence));
        }
        if !(FIRST..high_water).contains(&id) {
            return Err(Fault { at: 0, what: format!("a bucket has its root at page {id}") });
        }
        Ok((Self::Page(PageId(id)), sequence))
    }
}

/// Checks the list of free pages that bbolt left, and marks its own pages.
fn freelist(pager: &Pager, meta: &Meta, id: PageId, pages: &mut PageSet) -> Result<u64, Error> {
    let offset = id.offset(pager.page_size);
    let bytes = pager.read_freelist(id, meta.high_water)?;
    let count = (bytes.len() / pager.page_size) as u64;
    let fault = |fault| pager.corrupt(offset, fault);
    mark(pages, id, count).map_err(fault)?;
    for listed in parse_freelist(&bytes).map_err(fault)? {
        if !(FIRST..meta.high_water).contains(&listed.0) || pages.contains(listed.0) {
            let what = format!("page {listed} is listed as free, and is not");
            return Err(fault(Fault { at: 0, what }));
        }
    }
    Ok(count)
}
