//! The database as of one commit.

use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use super::image::Image;
use super::meta::Meta;
use super::page::{BUCKET, DEPTH_MAX, Fault, Page, PageId};
use super::pager::Pager;
use super::reach::Root;
use super::scan::Scan;

/// An immutable state. Clones are cheap; the pages it reaches stay until the last is dropped, and
/// so does the lock of the file.
#[derive(Clone)]
pub struct View(Arc<Pinned>);

struct Pinned {
    pager: Arc<Pager>,
    meta: Meta,
    /// Pages that this state uses, meta pages included.
    live_pages: u64,
    /// The first page of the tree of buckets.
    root: Page,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.pager.unpin(self.meta.txid);
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("txid", &self.0.meta.txid.0).finish_non_exhaustive()
    }
}

impl View {
    /// A view of a state whose root page is known.
    pub(super) fn new(pager: Arc<Pager>, meta: Meta, live_pages: u64, root: Page) -> Self {
        pager.pin(meta.txid);
        Self(Arc::new(Pinned { pager, meta, live_pages, root }))
    }

    /// The value of a row. A missing bucket is an empty one.
    pub fn get(&self, bucket: &[u8], key: &[u8]) -> Result<Option<Bytes>, Error> {
        let Some(mut page) = self.bucket_page(bucket)? else { return Ok(None) };
        for _ in 0..DEPTH_MAX {
            let elements = page.elements();
            if page.is_leaf() {
                let found = elements.search(key).ok().filter(|at| !elements.is_bucket(*at));
                return Ok(found.map(|at| page.value(at)));
            }
            let child = elements.child(elements.child_for(key));
            page = self.page(child)?;
        }
        Err(self.0.pager.misshapen(page.id()))
    }

    /// Damage in a row, told with its place in the file; nothing when there is no such row.
    pub fn damaged_row(
        &self,
        bucket: &[u8],
        key: &[u8],
        what: impl Into<String>,
    ) -> Result<Option<Error>, Error> {
        let mut rows = self.scan(bucket, key);
        if !rows.advance()? || rows.row().0 != key {
            return Ok(None);
        }
        let Some((page, at)) = rows.place() else { return Ok(None) };
        let fault = Fault { at, what: what.into() };
        let page_size = self.0.pager.page_size;
        if page != PageId::INLINE {
            return Ok(Some(self.0.pager.corrupt(page.offset(page_size), fault)));
        }
        let Some((page, index)) = self.bucket_element(self.0.root.clone(), bucket)? else {
            return Ok(None);
        };
        let value = page.elements().value_at(index) + BUCKET;
        Ok(Some(self.0.pager.corrupt(page.id().offset(page_size) + value as u64, fault)))
    }

    /// The rows of a bucket from `from` on, ascending.
    pub fn scan(&self, bucket: &[u8], from: &[u8]) -> Scan {
        self.scan_nested(&[bucket], from)
    }

    /// The same for a bucket inside buckets, by its path.
    pub fn scan_nested(&self, path: &[&[u8]], from: &[u8]) -> Scan {
        Scan::new(self.clone(), self.find(path), from)
    }

    /// Gets of one bucket that share the work of finding their leaf.
    pub fn lookup(&self, bucket: &[u8]) -> Lookup {
        Lookup { view: self.clone(), bucket: Bytes::copy_from_slice(bucket), path: Vec::new() }
    }

    /// The names of the buckets, ascending.
    pub fn buckets(&self) -> Result<Vec<Bytes>, Error> {
        self.buckets_nested(&[])
    }

    /// The names of the buckets inside a bucket.
    pub fn buckets_nested(&self, path: &[&[u8]]) -> Result<Vec<Bytes>, Error> {
        let mut names = Vec::new();
        let mut scan = Scan::new(self.clone(), self.find(path), &[]);
        while scan.advance()? {
            if scan.is_bucket() {
                names.push(scan.row().0);
            }
        }
        Ok(names)
    }

    /// The size of the database as etcd counts it: all pages ever used, free ones included.
    pub fn size_bytes(&self) -> u64 {
        self.0.meta.high_water * self.0.pager.page_size as u64
    }

    /// Bytes of the pages that this state uses.
    pub fn in_use_bytes(&self) -> u64 {
        self.0.live_pages * self.0.pager.page_size as u64
    }

    /// Bytes of the pages that the database keeps in memory, for all views together.
    pub fn cached_bytes(&self) -> usize {
        self.0.pager.cache.bytes()
    }

    /// How many states of the database are being read, this one included.
    pub fn open_views(&self) -> usize {
        self.0.pager.views()
    }

    /// Bytes of pages that are kept for views of earlier states alone, as of the last commit.
    pub fn pinned_bytes(&self) -> u64 {
        self.0.pager.all_kept_bytes()
    }

    /// The database file that holds exactly this state.
    pub fn image(&self) -> Image {
        Image::new(self.clone())
    }

    /// The value of a bucket's element in the tree that begins at `page`.
    fn bucket_in(&self, page: Page, name: &[u8]) -> Result<Option<(Root, u64)>, Error> {
        let Some((page, at)) = self.bucket_element(page, name)? else { return Ok(None) };
        let parsed = Root::parse(page.value(at), self.0.meta.high_water);
        parsed.map(Some).map_err(|mut fault| {
            fault.at += page.elements().value_at(at);
            self.0.pager.corrupt(page.id().offset(self.0.pager.page_size), fault)
        })
    }

    /// The leaf with a bucket's element in the tree that begins at `page`, and which it is there.
    fn bucket_element(&self, mut page: Page, name: &[u8]) -> Result<Option<(Page, usize)>, Error> {
        for _ in 0..DEPTH_MAX {
            let elements = page.elements();
            if page.is_leaf() {
                let found = elements.search(name).ok().filter(|at| elements.is_bucket(*at));
                return Ok(found.map(|at| (page.clone(), at)));
            }
            let child = elements.child(elements.child_for(name));
            page = self.page(child)?;
        }
        Err(self.0.pager.misshapen(page.id()))
    }

    /// The first page of a bucket.
    fn bucket_page(&self, name: &[u8]) -> Result<Option<Page>, Error> {
        match self.bucket_in(self.0.root.clone(), name)? {
            Some((root, _)) => self.root_page(root).map(Some),
            None => Ok(None),
        }
    }

    /// The first page of a bucket inside buckets; of the top for an empty path.
    fn find(&self, path: &[&[u8]]) -> Result<Option<Page>, Error> {
        let mut page = self.0.root.clone();
        for name in path {
            match self.bucket_in(page, name)? {
                Some((root, _)) => page = self.root_page(root)?,
                None => return Ok(None),
            }
        }
        Ok(Some(page))
    }

    fn root_page(&self, root: Root) -> Result<Page, Error> {
        match root {
            Root::Page(id) => self.page(id),
            Root::Inline(page) => Ok(page),
        }
    }

    /// Root and sequence of a bucket.
    pub(super) fn bucket(&self, name: &[u8]) -> Result<Option<(Root, u64)>, Error> {
        self.bucket_in(self.0.root.clone(), name)
    }

    /// A page that this state reaches.
    pub(super) fn page(&self, id: PageId) -> Result<Page, Error> {
        self.0.pager.page(id, self.0.meta.high_water)
    }

    /// The file.
    pub(super) fn pager(&self) -> &Pager {
        &self.0.pager
    }

    /// The state.
    pub(super) fn meta(&self) -> &Meta {
        &self.0.meta
    }

    /// Pages in use.
    pub(super) fn live_pages(&self) -> u64 {
        self.0.live_pages
    }
}

/// Finds rows of one bucket, and starts each search where the last one ended: nearly free while
/// keys stay on a leaf, and cheap while they stay near it.
#[derive(Debug)]
pub struct Lookup {
    view: View,
    bucket: Bytes,
    /// From the first page of the bucket to the leaf that was looked at last; empty before.
    path: Vec<Page>,
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page {}", self.id())
    }
}

impl Lookup {
    /// The value of a row.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if let Some(leaf) = self.path.last()
            && leaf.is_leaf()
            && covers(leaf, key)
        {
            return Ok(value(leaf, key));
        }
        if self.path.is_empty() {
            match self.view.bucket_page(&self.bucket)? {
                Some(page) => self.path.push(page),
                None => return Ok(None),
            }
        }
        for depth in 0..DEPTH_MAX {
            let page = &self.path[depth];
            if page.is_leaf() {
                let found = value(page, key);
                self.path.truncate(depth + 1);
                return Ok(found);
            }
            let elements = page.elements();
            let child = elements.child(elements.child_for(key));
            if self.path.get(depth + 1).is_none_or(|below| below.id() != child) {
                self.path.truncate(depth + 1);
                self.path.push(self.view.page(child)?);
            }
        }
        Err(self.view.pager().misshapen(self.path[0].id()))
    }
}

/// Whether `key`, if it exists, is on this leaf.
fn covers(leaf: &Page, key: &[u8]) -> bool {
    let elements = leaf.elements();
    leaf.len() > 0 && elements.key(0) <= key && key <= elements.key(leaf.len() - 1)
}

fn value(leaf: &Page, key: &[u8]) -> Option<Bytes> {
    let elements = leaf.elements();
    let found = elements.search(key).ok().filter(|at| !elements.is_bucket(*at));
    found.map(|at| leaf.value(at))
}
