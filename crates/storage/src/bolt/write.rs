//! Merges sorted changes into trees, copying only the pages they touch.
//!
//! ```text
//!          [ branch ]            every touched page is taken apart into a run, neighbours' runs
//!         /    |     \           are joined, a run that became too small takes in a neighbour
//!     [leaf] [leaf] [leaf]       page, and what results is written to new pages; the runs of
//!       |  changes  |            children then form the run of their parent, up to the root
//! ```
//!
//! *Invariants.*
//! 1. No page of an existing state is written: new pages come from [`Free`] or from beyond the
//!    high-water mark.
//! 2. Until [`Writer::finish`] nothing outside the writer has changed but `Free`, and
//!    [`Writer::abort`] restores it.
//! 3. Leaves of a tree are all equally deep, branches have two children or more (but for those
//!    that another program left so), no leaf but a root is empty.
//!
//! *Contract.* The files are go.etcd.io/bbolt v1.5.0's; how they are written is our own.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::error::Error;
use super::freelist::Free;
use super::page::{Builder, DEPTH_MAX, Kind, Page, PageId};
use super::pager::Pager;
use super::reach::Root;
use super::run::{Change, Child, Op, Run};

/// A run is written once it fills this many pages and its neighbours go on: a bound on memory.
const RUN_PAGES_MAX: usize = 64;

/// One commit in the making.
pub(super) struct Writer<'a> {
    pager: &'a Pager,
    free: &'a mut Free,
    /// The high-water mark of the state that is the base.
    base: u64,
    high_water: u64,
    /// New pages by number.
    built: BTreeMap<u64, Page>,
    /// Everything taken, in order: first page and length.
    taken: Vec<(PageId, u64)>,
    /// New pages that turned out to be needed differently.
    undone: Vec<(PageId, u64)>,
    /// Pages of the base that the new state does not reach.
    dropped: Vec<(PageId, u64)>,
}

/// What a commit writes.
pub(super) struct Built {
    pub(super) high_water: u64,
    /// By number.
    pub(super) pages: BTreeMap<u64, Page>,
    /// First page and length.
    pub(super) dropped: Vec<(PageId, u64)>,
}

impl<'a> Writer<'a> {
    /// Begins on a state of that high-water mark.
    pub(super) const fn new(pager: &'a Pager, free: &'a mut Free, high_water: u64) -> Self {
        Self {
            pager,
            free,
            base: high_water,
            high_water,
            built: BTreeMap::new(),
            taken: Vec::new(),
            undone: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// The new pages. `Free` is as it will be when they are durable.
    pub(super) fn finish(self) -> Built {
        for (id, pages) in self.undone {
            self.free.release(id, pages);
        }
        self.free.settle();
        Built { high_water: self.high_water, pages: self.built, dropped: self.dropped }
    }

    /// Gives everything back.
    pub(super) fn abort(self) {
        for (id, pages) in self.taken {
            if id.0 < self.base {
                self.free.release(id, pages);
            }
        }
        self.free.settle();
    }

    /// The first page beyond all that are used.
    pub(super) const fn high_water(&self) -> u64 {
        self.high_water
    }

    /// Says that pages of the base are not needed any more.
    pub(super) fn drop_pages(&mut self, id: PageId, pages: u64) {
        self.dropped.push((id, pages));
    }

    /// Merges `ops` (ascending, each key once) into a tree. The new root, or nothing when the
    /// tree stays as it is. Without a root there is no tree yet.
    pub(super) fn merge_tree(
        &mut self,
        root: Option<Root>,
        ops: &[Op<'_>],
    ) -> Result<Option<PageId>, Error> {
        let new = root.is_none();
        let (page, on_page) = match root {
            Some(Root::Page(id)) => (self.load(id)?, true),
            Some(Root::Inline(page)) => (page, false),
            None => (Page::empty(), false),
        };
        let mut run = match self.merge(&page, ops, 0..ops.len(), true, 0)? {
            Some(run) => run,
            None if new => Run::new(Kind::Leaf),
            None => return Ok(None),
        };
        if on_page {
            self.drop_page(&page);
        }
        // Ends: each round is a level nearer to the root, or has less than half the elements.
        loop {
            if let Some(below) = run.below.take() {
                run = *below;
            } else if let Some(root) = run.only_child() {
                return Ok(Some(root));
            } else if run.len() == 0 {
                return Ok(Some(self.build(&Run::new(Kind::Leaf), 0..0, ops)?.id));
            } else {
                let mut above = Run::new(Kind::Branch);
                above.append = run.append;
                self.flush(&run, &mut above, ops)?;
                run = above;
            }
        }
    }

    /// The elements of `page` after the changes `range` of `ops`, which belong on it or below;
    /// nothing when they change nothing. `last` says that the page ends its tree.
    fn merge(
        &mut self,
        page: &Page,
        ops: &[Op<'_>],
        range: Range<usize>,
        last: bool,
        depth: usize,
    ) -> Result<Option<Run>, Error> {
        if depth > DEPTH_MAX {
            return Err(self.pager.misshapen(page.id()));
        }
        if page.is_leaf() {
            merge_leaf(page, ops, range, last)
        } else {
            self.merge_branch(page, ops, range, last, depth)
        }
    }

    fn merge_branch(
        &mut self,
        page: &Page,
        ops: &[Op<'_>],
        range: Range<usize>,
        last: bool,
        depth: usize,
    ) -> Result<Option<Run>, Error> {
        let elements = page.elements();
        let count = elements.len();
        let mut out = Out { run: Run::new(Kind::Branch), source: 0, pending: None };
        out.source = out.run.source(page.clone());
        let (mut index, mut at, mut changed) = (0, range.start, false);
        while index < count {
            // Children without changes stay, but for those that a thin neighbour takes in.
            let next =
                if at < range.end { elements.child_for(ops[at].key).max(index) } else { count };
            while index < next {
                if self.settle(&mut out, page, index, ops)? {
                    index += 1;
                } else {
                    out.run.keep(out.source, elements, index..next);
                    index = next;
                }
            }
            if index == count {
                break;
            }
            let end = if index + 1 < count {
                let separator = elements.key(index + 1);
                at + ops[at..range.end].partition_point(|op| &op.key[..] < separator)
            } else {
                range.end
            };
            let child = self.load(elements.child(index))?;
            match self.merge(&child, ops, at..end, last && index + 1 == count, depth + 1)? {
                Some(run) => {
                    changed = true;
                    self.drop_page(&child);
                    self.join(&mut out, run, ops)?;
                }
                None => {
                    if !self.settle(&mut out, page, index, ops)? {
                        out.run.keep(out.source, elements, index..index + 1);
                    }
                }
            }
            (at, index) = (end, index + 1);
        }
        if !changed {
            return Ok(None);
        }
        self.finish_branch(&mut out, ops)?;
        out.run.shrunk = out.run.len() < count;
        Ok(Some(out.run))
    }

    /// Before child `index` of `page` is kept: what is pending is written, or, when it is thin,
    /// takes the child in (true).
    fn settle(
        &mut self,
        out: &mut Out,
        page: &Page,
        index: usize,
        ops: &[Op<'_>],
    ) -> Result<bool, Error> {
        let Some(pending) = out.pending.take() else { return Ok(false) };
        if !pending.is_thin(self.pager.page_size) {
            self.flush(&pending, &mut out.run, ops)?;
            return Ok(false);
        }
        let sibling = self.take(page.child(index), pending.kind())?;
        out.pending = Some(self.unite(pending, sibling, ops)?);
        Ok(true)
    }

    /// Adds the run of a changed child to what is pending.
    fn join(&mut self, out: &mut Out, run: Run, ops: &[Op<'_>]) -> Result<(), Error> {
        out.pending = Some(match out.pending.take() {
            None => run,
            Some(pending) if pending.bytes() > RUN_PAGES_MAX * self.pager.page_size => {
                self.flush(&pending, &mut out.run, ops)?;
                run
            }
            Some(pending) => self.unite(pending, run, ops)?,
        });
        Ok(())
    }

    /// Writes what is pending after the last child; when it is thin, with the pages before it.
    fn finish_branch(&mut self, out: &mut Out, ops: &[Op<'_>]) -> Result<(), Error> {
        let Some(mut pending) = out.pending.take() else { return Ok(()) };
        let append = pending.append;
        while pending.is_thin(self.pager.page_size) {
            let Some(before) = out.run.pop_child() else { break };
            let before = self.take(before, pending.kind())?;
            pending = self.unite(before, pending, ops)?;
        }
        self.put_below(pending, &mut out.run, ops)?;
        out.run.append = append;
        Ok(())
    }

    /// Two neighbouring runs of one level as one.
    fn unite(&mut self, mut left: Run, mut right: Run, ops: &[Op<'_>]) -> Result<Run, Error> {
        if left.kind() != right.kind() {
            return Err(self.pager.misshapen(PageId(0)));
        }
        let page_size = self.pager.page_size;
        let below = match (left.below.take(), right.below.take()) {
            (None, None) => {
                left.join(right);
                return Ok(left);
            }
            (Some(below), Some(after)) => self.unite(*below, *after, ops)?,
            (Some(below), None) => {
                let mut below = *below;
                while below.is_thin(page_size) {
                    let Some(after) = right.pop_first_child() else { break };
                    let after = self.take(after, below.kind())?;
                    below = self.unite(below, after, ops)?;
                }
                below
            }
            (None, Some(below)) => {
                let mut below = *below;
                while below.is_thin(page_size) {
                    let Some(before) = left.pop_child() else { break };
                    let before = self.take(before, below.kind())?;
                    below = self.unite(before, below, ops)?;
                }
                below
            }
        };
        self.put_below(below, &mut left, ops)?;
        left.join(right);
        left.shrunk = true;
        Ok(left)
    }

    /// Writes a run below a run of branches, unless it is a branch of one child without anybody
    /// beside it: then it waits for the neighbours of its parent.
    fn put_below(&mut self, run: Run, above: &mut Run, ops: &[Op<'_>]) -> Result<(), Error> {
        if run.below.is_some() || (run.len() > 0 && run.is_few()) {
            assert!(above.len() == 0, "a thin run takes its neighbours in");
            above.below = Some(Box::new(run));
            return Ok(());
        }
        self.flush(&run, above, ops)
    }

    /// Writes a run to new pages and adds them to the run of their parent.
    fn flush(&mut self, run: &Run, above: &mut Run, ops: &[Op<'_>]) -> Result<(), Error> {
        let mut start = 0;
        for end in run.plan(self.pager.page_size) {
            above.child(self.build(run, start..end, ops)?);
            start = end;
        }
        Ok(())
    }

    fn build(&mut self, run: &Run, part: Range<usize>, ops: &[Op<'_>]) -> Result<Child, Error> {
        let page_size = self.pager.page_size;
        let pages = run.pages(part.clone(), page_size);
        let id = self.allocate(pages as u64);
        let mut builder = Builder::new(id, run.kind(), part.len(), pages, page_size);
        match run.kind() {
            Kind::Leaf => run.rows(part, ops, |flags, key, value| builder.row(flags, key, value)),
            Kind::Branch => run.branches(part, |key, child| builder.child(key, child)),
        }
        let page = builder.finish();
        let key = if page.len() > 0 { page.key(0) } else { Bytes::new() };
        self.built.insert(id.0, page);
        Ok(Child { key, id })
    }

    fn allocate(&mut self, pages: u64) -> PageId {
        let id = self.free.allocate(pages).unwrap_or_else(|| {
            let id = PageId(self.high_water);
            self.high_water += pages;
            id
        });
        self.taken.push((id, pages));
        id
    }

    /// A page of the base or of this commit.
    pub(super) fn load(&self, id: PageId) -> Result<Page, Error> {
        match self.built.get(&id.0) {
            Some(page) => Ok(page.clone()),
            None => self.pager.page(id, self.base),
        }
    }

    /// The elements of such a page, which is to be replaced.
    fn take(&mut self, id: PageId, kind: Kind) -> Result<Run, Error> {
        let page = self.load(id)?;
        let elements = page.elements();
        if elements.kind() != kind {
            return Err(self.pager.misshapen(id));
        }
        self.drop_page(&page);
        let mut run = Run::new(kind);
        let source = run.source(page.clone());
        run.keep(source, elements, 0..elements.len());
        // Whoever takes a page in does so because something became too small.
        run.shrunk = true;
        Ok(run)
    }

    /// The new state does not reach this page.
    fn drop_page(&mut self, page: &Page) {
        let id = page.id();
        let pages = (page.bytes().len() / self.pager.page_size) as u64;
        if self.built.remove(&id.0).is_some() {
            self.undone.push((id, pages));
        } else {
            self.dropped.push((id, pages));
        }
    }
}

/// The new elements of a branch, and those of the level below that are not on pages yet.
struct Out {
    run: Run,
    /// The number of the old branch page in `run`.
    source: u32,
    pending: Option<Run>,
}

fn merge_leaf(
    page: &Page,
    ops: &[Op<'_>],
    range: Range<usize>,
    last: bool,
) -> Result<Option<Run>, Error> {
    let elements = page.elements();
    let mut run = Run::new(Kind::Leaf);
    let source = run.source(page.clone());
    let (mut kept, mut changed) = (0, false);
    for at in range {
        let op = &ops[at];
        let found = if kept == page.len() { Err(kept) } else { elements.search(op.key) };
        let place = found.unwrap_or_else(|place| place);
        run.keep(source, elements, kept..place);
        kept = place;
        if found.is_ok() {
            let is_bucket = matches!(op.change, Change::Bucket(_));
            if elements.is_bucket(place) != is_bucket {
                let key = String::from_utf8_lossy(op.key).into_owned();
                return Err(Error::Incompatible { key });
            }
            kept += 1;
            changed = true;
        }
        match op.change {
            Change::Delete => run.shrunk |= found.is_ok(),
            Change::Put(_) | Change::Bucket(_) => {
                run.write(at, op);
                changed = true;
                run.append = last && kept == page.len() && found.is_err();
            }
        }
    }
    run.keep(source, elements, kept..page.len());
    Ok(changed.then_some(run))
}
