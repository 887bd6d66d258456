//! The open database, and how a commit becomes durable.
//!
//! A commit costs two syncs. The first makes the new pages durable, the second the meta page that
//! names them. One sync would not do: the disk may reorder what lies between two syncs, so the
//! meta page could become durable before a page it names, and pages carry no checksum that would
//! show it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::mutant::{Mutant, is_on};
use bytes::Bytes;

use super::batch::Batch;
use super::error::Error;
use super::freelist::{Free, Reclaim};
use super::meta::{self, Meta, PAGE_SIZE_MAX, PAGE_SIZE_MIN, Txid};
use super::page::{BUCKET, Builder, FIRST, Kind, Page, PageId};
use super::pager::Pager;
use super::reach;
use super::run::{Change, Op};
use super::view::View;
use super::write::{Built, Writer};
use crate::disk::{Disk, File, Lock, Open};

/// The format's bound on keys.
const KEY_BYTES_MAX: usize = 32768;
/// The format's bound on values.
const VALUE_BYTES_MAX: usize = (1 << 31) - 2;
/// Neighbouring pages are written by one call up to this size.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// The file grows by an eighth, but by no less and no more than this at a time.
const GROW_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=16 << 20;

/// How a database is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The page size of a file that is created: a power of two from 4096 to 65536. An existing
    /// file has its own.
    pub page_size: u32,
    /// Bytes of pages kept in memory.
    pub cache_bytes: usize,
    /// Whether commits are synced. Without it a power loss destroys the database.
    pub sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { page_size: 4096, cache_bytes: 64 << 20, sync: true }
    }
}

/// The database's one writer. Holds the lock of the file.
pub struct Database {
    pub(super) pager: Arc<Pager>,
    /// The newest durable state.
    view: View,
    /// The meta page it stands on.
    pub(super) slot: u64,
    /// Bytes of the file; at least what `view` covers.
    len: u64,
    pub(super) free: Free,
    pub(super) reclaim: Reclaim,
    /// The pages of a freelist that bbolt left: not needed after the first commit.
    freelist: Option<(PageId, u64)>,
    sync: bool,
    damaged: Option<Error>,
    /// The failure after which nothing is committed any more.
    poisoned: Option<String>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.pager.path).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the database, and creates it when missing. Walks all of it, so that damage to its
    /// structure is found now, and to find the free pages.
    pub fn open(disk: &dyn Disk, path: &Path, options: Options) -> Result<Self, Error> {
        let io = |action, source| Error::Io { file: path.into(), action, offset: 0, source };
        let there = disk.exists(path).map_err(|source| io("look for", source))?;
        let mut opened = None;
        if there {
            let file = disk.open(path, Open::Write).map_err(|source| io("open", source))?;
            lock(&*file, path)?;
            let len = file.len().map_err(|source| io("measure", source))?;
            opened = (len > 0).then_some((file, len));
        }
        let (file, len) = match opened {
            Some(opened) => opened,
            None => create(disk, path, options)?,
        };
        let chosen = choose(&*file, path, len)?;
        let meta = chosen.meta;
        let page_size = meta.page_size as usize;
        if options.sync {
            // What is read may not be durable: a process that was killed between the write and
            // the sync of a meta page leaves it in the system's cache. The commit after it must
            // not write over pages of the state before it until it is.
            file.sync_data().map_err(|source| io("sync", source))?;
        }
        let pager = Arc::new(Pager::new(file, path.into(), page_size, options.cache_bytes));
        let reached = reach::walk(&pager, &meta)?;
        let free = unreached(&reached.pages, meta.high_water);
        let view = first_view(&pager, meta, &reached)?;
        Ok(Self {
            pager,
            view,
            slot: chosen.slot,
            len,
            free,
            reclaim: Reclaim::default(),
            freelist: reached.freelist,
            sync: options.sync,
            damaged: chosen.damaged,
            poisoned: None,
        })
    }

    /// What was wrong with one of the two meta pages when the database was opened. The other one
    /// was used; after a power loss during a commit that is as it should be.
    pub const fn damaged_meta(&self) -> Option<&Error> {
        self.damaged.as_ref()
    }

    /// The newest state.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Makes a batch durable and returns the state after it. A batch that changes nothing writes
    /// nothing.
    ///
    /// When the disk fails while pages are written, every later commit fails too; restarting
    /// finds the state before or after this one. Any other error leaves all as it was.
    pub fn commit(&mut self, batch: Batch) -> Result<View, Error> {
        if let Some(first) = &self.poisoned {
            return Err(Error::Poisoned { file: self.pager.path.clone(), first: first.clone() });
        }
        check(&batch)?;
        let live = self.pager.live();
        self.reclaim.settle(&live, |page| {
            self.pager.cache.remove(page.id);
            self.free.release(page.id, page.pages);
        });
        self.pager.note_kept(&self.reclaim.kept());
        let old = *self.view.meta();
        let mut writer = Writer::new(&self.pager, &mut self.free, old.high_water);
        let root = match merge(&mut writer, &self.view, &batch) {
            Ok(Some(root)) => root,
            Ok(None) => {
                writer.abort();
                return Ok(self.view.clone());
            }
            Err(error) => {
                writer.abort();
                return Err(error);
            }
        };
        if let Some((id, pages)) = self.freelist {
            writer.drop_pages(id, pages);
        }
        let ready = writer
            .load(root)
            .and_then(|page| Ok((page, grow(&self.pager, self.len, writer.high_water())?)));
        let (root_page, len) = match ready {
            Ok(ready) => ready,
            Err(error) => {
                writer.abort();
                return Err(error);
            }
        };
        self.len = len;
        let built = writer.finish();
        let mut txid = Txid(old.txid.0 + 1);
        if txid.0 % 2 == self.slot {
            // In an image the newest state may stand on either page: never write over it.
            txid.0 += 1;
        }
        let meta = Meta { root, freelist: None, high_water: built.high_water, txid, ..old };
        if let Err(error) = self.write(&built, &meta) {
            self.poisoned = Some(error.to_string());
            return Err(error);
        }
        self.slot = txid.0 % 2;
        self.freelist = None;
        self.publish(built, meta, root_page);
        Ok(self.view.clone())
    }

    /// Writes the pages and then the meta page that names them.
    fn write(&self, built: &Built, meta: &Meta) -> Result<(), Error> {
        self.write_pages(&built.pages)?;
        if !is_on(Mutant::MetaBeforePages) {
            self.sync(PageId(0))?;
        }
        let slot = meta.txid.0 % 2;
        let offset = PageId(slot).offset(self.pager.page_size);
        let mut page = vec![0; self.pager.page_size];
        let encoded = meta.encode(slot);
        page[..encoded.len()].copy_from_slice(&encoded);
        self.write_at(&page, offset)?;
        self.sync(PageId(slot))
    }

    /// Writes pages in the order of the file, neighbours together.
    fn write_pages(&self, pages: &BTreeMap<u64, Page>) -> Result<(), Error> {
        let mut buffer: Vec<u8> = Vec::new();
        let mut start = 0;
        for (id, page) in pages {
            let offset = PageId(*id).offset(self.pager.page_size);
            let bytes = page.bytes();
            let next = start + buffer.len() as u64;
            if offset != next || buffer.len() + bytes.len() > WRITE_BYTES_MAX {
                self.write_at(&buffer, start)?;
                buffer.clear();
                start = offset;
            }
            if bytes.len() >= WRITE_BYTES_MAX {
                self.write_at(bytes, offset)?;
                start = offset + bytes.len() as u64;
            } else {
                buffer.extend_from_slice(bytes);
            }
        }
        self.write_at(&buffer, start)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let written = self.pager.file.write_all_at(bytes, offset);
        written.map_err(|source| self.pager.io("write", offset, source))
    }

    fn sync(&self, page: PageId) -> Result<(), Error> {
        if !self.sync {
            return Ok(());
        }
        let synced = self.pager.file.sync_data();
        synced.map_err(|source| self.pager.io("sync", page.offset(self.pager.page_size), source))
    }

    /// Ends the file after the last page in use, and makes all of it durable.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let end = self.view.size_bytes();
        let pager = &self.pager;
        pager.file.set_len(end).map_err(|source| pager.io("cut", end, source))?;
        pager.file.sync_data().map_err(|source| pager.io("sync", end, source))?;
        self.len = end;
        Ok(())
    }

    /// Takes over what is durable now; so nothing here may fail.
    fn publish(&mut self, built: Built, meta: Meta, root: Page) {
        let page_size = self.pager.page_size;
        let dropped: u64 = built.dropped.iter().map(|(_, pages)| pages).sum();
        let made: usize = built.pages.values().map(|page| page.bytes().len() / page_size).sum();
        let ids = built.pages.keys().map(|id| PageId(*id));
        self.reclaim.committed(meta.txid, ids, built.dropped.into_iter());
        for (id, page) in built.pages {
            self.pager.cache.insert(PageId(id), page);
        }
        let live_pages = self.view.live_pages() + made as u64 - dropped;
        self.view = View::new(self.pager.clone(), meta, live_pages, root);
    }
}

/// The state of a file of `len` bytes that counts, which must be all there.
fn choose(file: &dyn File, path: &Path, len: u64) -> Result<meta::Chosen, Error> {
    let chosen = meta::choose(file, path, len)?;
    let meta = chosen.meta;
    if meta.high_water.saturating_mul(u64::from(meta.page_size)) > len {
        let what = format!("the file ends before page {}", meta.high_water - 1);
        return Err(Error::Corrupt { file: path.into(), offset: len, what });
    }
    Ok(chosen)
}

fn first_view(pager: &Arc<Pager>, meta: Meta, reached: &reach::Reached) -> Result<View, Error> {
    let root = pager.page(meta.root, meta.high_water)?;
    Ok(View::new(Arc::clone(pager), meta, reached.pages.count() + FIRST, root))
}

impl View {
    /// Opens the newest state of a database to read it: nothing is written, whatever the file
    /// holds, and while it is read nobody may write. Walks all of it, as [`Database::open`] does.
    pub fn open(disk: &dyn Disk, path: &Path, cache_bytes: usize) -> Result<Self, Error> {
        Self::open_copy(disk, path, path, cache_bytes)
    }

    /// The same with the copy of a database, whose errors name the file that it is a copy of.
    pub fn open_copy(
        disk: &dyn Disk,
        path: &Path,
        of: &Path,
        cache_bytes: usize,
    ) -> Result<Self, Error> {
        let (pager, meta) = open_to_read(disk, path, of, cache_bytes)?;
        let reached = reach::walk(&pager, &meta)?;
        first_view(&pager, meta, &reached)
    }

    /// The same for whoever wants a row or two, without the walk: damage is found only on the way
    /// to them, and all pages count as used.
    pub fn glance(disk: &dyn Disk, path: &Path, cache_bytes: usize) -> Result<Self, Error> {
        let (pager, meta) = open_to_read(disk, path, path, cache_bytes)?;
        let root = pager.page(meta.root, meta.high_water)?;
        Ok(Self::new(pager, meta, meta.high_water, root))
    }
}

/// The file at `path`, locked with others that only read, and its newest state.
fn open_to_read(
    disk: &dyn Disk,
    path: &Path,
    of: &Path,
    cache_bytes: usize,
) -> Result<(Arc<Pager>, Meta), Error> {
    let io = |action, source| Error::Io { file: of.into(), action, offset: 0, source };
    let file = disk.open(path, Open::Read).map_err(|source| io("open", source))?;
    take_lock(&*file, of, Lock::FlockShared)?;
    let len = file.len().map_err(|source| io("measure", source))?;
    let meta = choose(&*file, of, len)?.meta;
    let pager = Pager::new(file, of.into(), meta.page_size as usize, cache_bytes);
    Ok((Arc::new(pager), meta))
}

/// The pages below the high-water mark that are not in a set.
fn unreached(pages: &reach::PageSet, high_water: u64) -> Free {
    let mut free = Free::default();
    let mut start = FIRST;
    for id in FIRST..=high_water {
        if id == high_water || pages.contains(id) {
            if start < id {
                free.release(PageId(start), id - start);
            }
            start = id + 1;
        }
    }
    free
}

fn lock(file: &dyn File, path: &Path) -> Result<(), Error> {
    take_lock(file, path, Lock::Flock)
}

fn take_lock(file: &dyn File, path: &Path, lock: Lock) -> Result<(), Error> {
    file.try_lock(lock).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => Error::Locked { file: path.into() },
        _ => Error::Io { file: path.into(), action: "lock", offset: 0, source },
    })
}

/// Makes an empty database beside its place and moves it there, so that a crash leaves either
/// none or a whole one. (etcd removes `db.tmp*` at its start.)
fn create(disk: &dyn Disk, path: &Path, options: Options) -> Result<(Arc<dyn File>, u64), Error> {
    let mut name = OsString::from(path);
    name.push(".tmp.new");
    let new = PathBuf::from(name);
    let io = |action| move |source| Error::Io { file: path.into(), action, offset: 0, source };
    let size = options.page_size;
    if !(PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&size) || !size.is_power_of_two() {
        let what = format!("a page size of {size} is not 4, 8, 16, 32 or 64 KiB");
        return Err(io("create")(io::Error::new(io::ErrorKind::InvalidInput, what)));
    }
    let file = disk.open(&new, Open::Create).map_err(io("create"))?;
    lock(&*file, path)?;
    if disk.exists(path).map_err(io("look for"))? {
        // Whoever made it meanwhile renamed it with its lock.
        let there = disk.open(path, Open::Write).map_err(io("open"))?;
        lock(&*there, path)?;
        let len = there.len().map_err(io("measure"))?;
        if len > 0 {
            return Ok((there, len));
        }
    }
    let page_size = size as usize;
    let root = PageId(FIRST);
    let mut bytes = vec![0; FIRST as usize * page_size];
    for slot in 0..FIRST {
        let meta = Meta {
            page_size: size,
            root,
            sequence: 0,
            freelist: None,
            high_water: FIRST + 1,
            txid: Txid(slot),
        };
        let encoded = meta.encode(slot);
        bytes[slot as usize * page_size..][..encoded.len()].copy_from_slice(&encoded);
    }
    bytes.extend_from_slice(Builder::new(root, Kind::Leaf, 0, 1, page_size).finish().bytes());
    file.set_len(0).map_err(io("create"))?;
    file.write_all_at(&bytes, 0).map_err(io("create"))?;
    if options.sync {
        file.sync_data().map_err(io("create"))?;
    }
    disk.rename(&new, path).map_err(io("create"))?;
    if options.sync {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        disk.sync_dir(parent.unwrap_or(Path::new("."))).map_err(io("create"))?;
    }
    Ok((file, bytes.len() as u64))
}

/// Refuses rows that the format cannot hold.
fn check(batch: &Batch) -> Result<(), Error> {
    for (name, rows) in batch.buckets() {
        let names = rows.iter().map(|(key, _)| key.len());
        if let Some(len) = names.chain([name.len()]).find(|len| !(1..=KEY_BYTES_MAX).contains(len))
        {
            return Err(Error::KeyLength(len));
        }
        let values = rows.iter().filter_map(|(_, value)| value.map(Bytes::len));
        if let Some(len) = values.max().filter(|len| *len > VALUE_BYTES_MAX) {
            return Err(Error::ValueLength(len));
        }
    }
    Ok(())
}

/// Merges a batch into the buckets, and their new roots into the top tree. The new root of that,
/// or nothing when nothing changes.
fn merge(writer: &mut Writer<'_>, view: &View, batch: &Batch) -> Result<Option<PageId>, Error> {
    let mut buckets: Vec<(&Bytes, [u8; BUCKET])> = Vec::new();
    for (name, rows) in batch.buckets() {
        let there = view.bucket(name)?;
        if there.is_none() && !rows.create {
            let bucket = String::from_utf8_lossy(name).into_owned();
            return Err(Error::NoBucket { bucket });
        }
        let (root, sequence) = there.map_or((None, 0), |(root, sequence)| (Some(root), sequence));
        let mut ops = Vec::with_capacity(rows.len());
        ops.extend(rows.iter().map(|(key, value)| Op {
            key,
            change: value.map_or(Change::Delete, |value| Change::Put(value)),
        }));
        if let Some(root) = writer.merge_tree(root, &ops)? {
            let mut value = [0; BUCKET];
            value[..8].copy_from_slice(&root.0.to_le_bytes());
            value[8..].copy_from_slice(&sequence.to_le_bytes());
            buckets.push((name, value));
        }
    }
    if buckets.is_empty() {
        return Ok(None);
    }
    let ops: Vec<Op<'_>> = buckets
        .iter()
        .map(|(name, value)| Op { key: name, change: Change::Bucket(*value) })
        .collect();
    writer.merge_tree(Some(reach::Root::Page(view.meta().root)), &ops)
}

/// Makes room for all pages below the high-water mark; the new length. Space that the system
/// reserves now cannot be missing when pages are written.
fn grow(pager: &Pager, len: u64, high_water: u64) -> Result<u64, Error> {
    let needed = high_water * pager.page_size as u64;
    if needed <= len {
        return Ok(len);
    }
    let step = (needed / 8).clamp(*GROW_BYTES.start(), *GROW_BYTES.end()).next_power_of_two();
    let new = needed.next_multiple_of(step);
    pager.file.allocate(new).map_err(|source| pager.io("grow", len, source))?;
    Ok(new)
}
