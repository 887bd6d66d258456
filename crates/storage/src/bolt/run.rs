//! The elements of neighbouring pages between being taken apart and put on new pages.
//!
//! ```text
//! old pages + changes --merge--> run of elements --plan--> page, page, page
//! ```
//!
//! *Invariants* of a plan.
//! 1. Every part is a page that fits, or a page with overflow for elements that do not.
//! 2. A part of a branch has at least two children: bbolt asserts that when it rebalances.
//! 3. A run at the end of its tree that grew there is packed full, the last part apart: rows that
//!    come in the order of their keys fill pages. Any other run is cut evenly, so that the next
//!    row between the others finds room.

use bytes::Bytes;

use super::page::{BUCKET, ELEMENT, ELEMENT_BUCKET, Elements, HEADER, Kind, Page, PageId};

/// One change to a tree.
pub(super) struct Op<'a> {
    pub(super) key: &'a Bytes,
    pub(super) change: Change<'a>,
}

/// What a change does.
#[derive(Clone, Copy)]
pub(super) enum Change<'a> {
    /// Writes a row.
    Put(&'a [u8]),
    /// Deletes a row.
    Delete,
    /// Writes a bucket: root page and sequence.
    Bucket([u8; BUCKET]),
}

impl Change<'_> {
    /// Bytes of the value.
    fn len(&self) -> usize {
        match self {
            Self::Put(value) => value.len(),
            Self::Delete => 0,
            Self::Bucket(_) => BUCKET,
        }
    }
}

/// A page that this commit made or kept, as its parent sees it.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) key: Bytes,
    pub(super) id: PageId,
}

#[derive(Debug, Clone, Copy)]
enum From {
    /// An element of a page of the run.
    Old { source: u32, index: u32 },
    /// A change, by its index among those of the tree.
    Op(u32),
    /// A page of this commit.
    Child(u32),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    from: From,
    /// Bytes on a page, with the element. Below 2^32: a value is shorter than 2^31, a key than
    /// 2^15.
    size: u32,
}

/// Elements of one level of a tree, ascending.
#[derive(Debug)]
pub(super) struct Run {
    kind: Kind,
    /// Pages that elements come from.
    sources: Vec<Page>,
    children: Vec<Child>,
    entries: Vec<Entry>,
    /// The sum of the entries' sizes.
    bytes: usize,
    /// Elements went away, so the pages may have become too empty.
    pub(super) shrunk: bool,
    /// The last element is new and the last of the tree.
    pub(super) append: bool,
    /// Of a branch without elements: its only child in the making, which has too few children
    /// itself to become a page, and nobody beside it to join.
    pub(super) below: Option<Box<Run>>,
}

impl Run {
    /// No elements yet.
    pub(super) const fn new(kind: Kind) -> Self {
        Self {
            kind,
            sources: Vec::new(),
            children: Vec::new(),
            entries: Vec::new(),
            bytes: 0,
            shrunk: false,
            append: false,
            below: None,
        }
    }

    /// Branch or leaf.
    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Elements.
    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all elements.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn push(&mut self, from: From, size: usize) {
        self.bytes += size;
        self.entries.push(Entry { from, size: u32::try_from(size).unwrap_or(u32::MAX) });
    }

    /// Notes a page whose elements are about to be pushed; the number to push them by.
    pub(super) fn source(&mut self, page: Page) -> u32 {
        self.sources.push(page);
        (self.sources.len() - 1) as u32
    }

    /// Pushes elements of a page noted before, unchanged.
    pub(super) fn keep(
        &mut self,
        source: u32,
        elements: Elements<'_>,
        range: std::ops::Range<usize>,
    ) {
        self.entries.reserve(range.len());
        for index in range {
            self.push(From::Old { source, index: index as u32 }, elements.size(index));
        }
    }

    /// Pushes the row or bucket that a change writes.
    pub(super) fn write(&mut self, index: usize, op: &Op<'_>) {
        self.push(From::Op(index as u32), ELEMENT + op.key.len() + op.change.len());
    }

    /// Pushes a page of this commit.
    pub(super) fn child(&mut self, child: Child) {
        let size = ELEMENT + child.key.len();
        self.children.push(child);
        self.push(From::Child((self.children.len() - 1) as u32), size);
    }

    /// Takes the last child off.
    pub(super) fn pop_child(&mut self) -> Option<PageId> {
        let entry = self.entries.pop()?;
        self.bytes -= entry.size as usize;
        self.child_of(entry)
    }

    /// Takes the first child off.
    pub(super) fn pop_first_child(&mut self) -> Option<PageId> {
        if self.entries.is_empty() {
            return None;
        }
        let entry = self.entries.remove(0);
        self.bytes -= entry.size as usize;
        self.child_of(entry)
    }

    /// The one page below, if there is just one.
    pub(super) fn only_child(&self) -> Option<PageId> {
        match self.entries[..] {
            [entry] => self.child_of(entry),
            _ => None,
        }
    }

    fn child_of(&self, entry: Entry) -> Option<PageId> {
        match (self.kind, entry.from) {
            (Kind::Branch, From::Old { source, index }) => {
                Some(self.sources[source as usize].child(index as usize))
            }
            (Kind::Branch, From::Child(at)) => Some(self.children[at as usize].id),
            _ => None,
        }
    }

    /// Puts the elements of `after` behind these.
    pub(super) fn join(&mut self, after: Self) {
        assert!(self.kind == after.kind, "runs of one level are of one kind");
        let (sources, children) = (self.sources.len() as u32, self.children.len() as u32);
        self.sources.extend(after.sources);
        self.children.extend(after.children);
        self.entries.extend(after.entries.into_iter().map(|entry| {
            let from = match entry.from {
                From::Old { source, index } => From::Old { source: source + sources, index },
                From::Child(at) => From::Child(at + children),
                From::Op(at) => From::Op(at),
            };
            Entry { from, ..entry }
        }));
        self.bytes += after.bytes;
        self.shrunk |= after.shrunk;
        self.append = after.append;
    }

    /// Whether the run should share pages with a neighbour rather than have its own.
    pub(super) fn is_thin(&self, page_size: usize) -> bool {
        let empty = self.shrunk && HEADER + self.bytes < page_size / 4;
        self.below.is_some() || (self.len() > 0 && (self.is_few() || empty))
    }

    /// Whether the elements may not become a page.
    pub(super) fn is_few(&self) -> bool {
        self.kind == Kind::Branch && self.len() < 2
    }

    /// Where to cut: the end of each part.
    pub(super) fn plan(&self, page_size: usize) -> Vec<usize> {
        if self.entries.is_empty() {
            return Vec::new();
        }
        let full = self.pack(page_size, usize::MAX);
        if self.append || full.len() == 1 {
            return full;
        }
        self.pack(page_size, self.bytes / full.len())
    }

    /// Cuts where the next element does not fit, or where a part has reached `target`.
    fn pack(&self, page_size: usize, target: usize) -> Vec<usize> {
        let least = if self.kind == Kind::Branch { 2 } else { 1 };
        let (mut ends, mut start, mut bytes) = (Vec::new(), 0, 0);
        for (index, entry) in self.entries.iter().enumerate() {
            let size = entry.size as usize;
            let enough = index - start >= least;
            let full = bytes >= target || !fits(HEADER + bytes, size, page_size);
            if enough && (full || index - start >= COUNT_MAX) {
                ends.push(index);
                start = index;
                bytes = 0;
            }
            bytes += size;
        }
        let count = self.entries.len();
        if count - start < least
            && let Some(last) = ends.last_mut()
        {
            // One child alone takes its neighbour along, or joins it.
            *last -= 1;
            let before = ends.iter().rev().nth(1).copied().unwrap_or(0);
            if ends.last().is_some_and(|last| last - before < least) {
                ends.pop();
            }
        }
        ends.push(count);
        ends
    }

    /// Pages that the elements of a part need.
    pub(super) fn pages(&self, part: std::ops::Range<usize>, page_size: usize) -> usize {
        let bytes: usize = self.entries[part].iter().map(|entry| entry.size as usize).sum();
        (HEADER + bytes).div_ceil(page_size)
    }

    /// Hands the rows of a part, in order, to `f`: flags, key, value.
    pub(super) fn rows(
        &self,
        part: std::ops::Range<usize>,
        ops: &[Op<'_>],
        mut f: impl FnMut(u32, &[u8], &[u8]),
    ) {
        for entry in &self.entries[part] {
            match entry.from {
                From::Old { source, index } => {
                    let elements = self.sources[source as usize].elements();
                    let index = index as usize;
                    let flags = if elements.is_bucket(index) { ELEMENT_BUCKET } else { 0 };
                    f(flags, elements.key(index), elements.value(index));
                }
                From::Op(at) => match &ops[at as usize] {
                    Op { key, change: Change::Put(value) } => f(0, key, value),
                    Op { key, change: Change::Bucket(value) } => f(ELEMENT_BUCKET, key, value),
                    Op { change: Change::Delete, .. } => unreachable!("a delete writes nothing"),
                },
                From::Child(_) => unreachable!("leaves have no children"),
            }
        }
    }

    /// Hands the children of a part, in order, to `f`: separator, page.
    pub(super) fn branches(&self, part: std::ops::Range<usize>, mut f: impl FnMut(&[u8], PageId)) {
        for entry in &self.entries[part] {
            match entry.from {
                From::Old { source, index } => {
                    let elements = self.sources[source as usize].elements();
                    f(elements.key(index as usize), elements.child(index as usize));
                }
                From::Child(at) => {
                    let child = &self.children[at as usize];
                    f(&child.key, child.id);
                }
                From::Op(_) => unreachable!("branches have no rows"),
            }
        }
    }
}

/// Elements of a page; its header counts them in 16 bits, and bbolt refuses the largest.
const COUNT_MAX: usize = 0xFFFE;
/// Rows larger than half a page are put together up to this many bytes, so that little of the
/// last page is wasted.
const LARGE_BYTES: usize = 16 << 10;

/// Whether an element of `size` may join `used` bytes (header included) on a page.
fn fits(used: usize, size: usize, page_size: usize) -> bool {
    if used + size <= page_size {
        return true;
    }
    let wasteful = used <= page_size / 2 || used > page_size;
    wasteful && used + size <= LARGE_BYTES.max(page_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, append: bool, sizes: &[usize], parts: &[usize]) {
        let mut run = Run::new(kind);
        run.append = append;
        for (index, size) in sizes.iter().enumerate() {
            run.push(From::Op(index as u32), *size);
        }
        let mut start = 0;
        let counts: Vec<usize> = run
            .plan(4096)
            .into_iter()
            .map(|end| end - std::mem::replace(&mut start, end))
            .collect();
        assert_eq!(counts, parts, "{kind:?} append={append} {sizes:?}");
    }

    #[test]
    fn appends_fill_pages_and_inserts_halve_them() {
        check(Kind::Leaf, true, &[290; 30], &[14, 14, 2]);
        check(Kind::Leaf, false, &[290; 15], &[8, 7]);
        check(Kind::Leaf, false, &[290; 30], &[10, 10, 10]);
        check(Kind::Leaf, false, &[], &[]);
    }

    #[test]
    fn large_rows_share_pages() {
        check(Kind::Leaf, true, &[5000; 7], &[3, 3, 1]);
        check(Kind::Leaf, true, &[100, 1_500_000, 100], &[1, 1, 1]);
        check(Kind::Leaf, true, &[100, 5000, 100, 100], &[4]);
    }

    #[test]
    fn a_branch_has_two_children_at_least() {
        check(Kind::Branch, true, &[40; 103], &[101, 2]);
        check(Kind::Branch, true, &[3000; 3], &[3]);
        check(Kind::Branch, true, &[3000; 4], &[4]);
        check(Kind::Branch, true, &[33_000; 5], &[2, 3]);
        check(Kind::Branch, false, &[40; 103], &[52, 51]);
    }
}
