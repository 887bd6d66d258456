//! The file as checked pages, shared by the writer and all views.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::cache::Cache;
use super::error::Error;
use super::meta::Txid;
use super::page::{FLAG_FREELIST, Fault, HEADER, Header, Page, PageId};
use crate::disk::File;

/// The open file of a database.
pub(super) struct Pager {
    pub(super) file: Arc<dyn File>,
    pub(super) path: PathBuf,
    pub(super) page_size: usize,
    pub(super) cache: Cache,
    /// Live views by txid.
    pins: Mutex<BTreeMap<Txid, Pin>>,
}

/// The live views of one state.
#[derive(Debug, Default)]
struct Pin {
    views: usize,
    /// Pages that no later state reaches and no view of an earlier one, as of the last commit.
    kept: u64,
}

impl Pager {
    /// The pages of a file.
    pub(super) fn new(
        file: Arc<dyn File>,
        path: PathBuf,
        page_size: usize,
        cache_bytes: usize,
    ) -> Self {
        let cache = Cache::new(cache_bytes);
        Self { file, path, page_size, cache, pins: Mutex::default() }
    }

    /// A page of a tree of a state with that high-water mark.
    pub(super) fn page(&self, id: PageId, high_water: u64) -> Result<Page, Error> {
        if let Some(page) = self.cache.get(id) {
            return Ok(page);
        }
        let page = self.read_page(id, high_water)?;
        self.cache.insert(id, page.clone());
        Ok(page)
    }

    /// The same, from the disk.
    pub(super) fn read_page(&self, id: PageId, high_water: u64) -> Result<Page, Error> {
        let offset = id.offset(self.page_size);
        let mut bytes = vec![0; self.page_size];
        self.read(&mut bytes, offset)?;
        let header = Header::read(&bytes);
        let pages = header.check(id, high_water).map_err(|fault| self.corrupt(offset, fault))?;
        if pages > 1 {
            let rest = offset + bytes.len() as u64;
            bytes.resize(pages as usize * self.page_size, 0);
            self.read(&mut bytes[self.page_size..], rest)?;
        }
        Page::parse(Bytes::from(bytes), high_water).map_err(|fault| self.corrupt(offset, fault))
    }

    /// The page at the start of `bytes`, which were read from its place and may hold more, or
    /// less: then there is no answer.
    pub(super) fn cut_page(
        &self,
        id: PageId,
        bytes: &[u8],
        high_water: u64,
    ) -> Result<Option<Page>, Error> {
        if bytes.len() < HEADER {
            return Ok(None);
        }
        let offset = id.offset(self.page_size);
        let header = Header::read(bytes);
        let pages = header.check(id, high_water).map_err(|fault| self.corrupt(offset, fault))?;
        let Some(bytes) = bytes.get(..pages as usize * self.page_size) else { return Ok(None) };
        // Copied, so that a row that is kept does not keep its neighbours' pages.
        let page = Page::parse(Bytes::copy_from_slice(bytes), high_water);
        page.map(Some).map_err(|fault| self.corrupt(offset, fault))
    }

    /// A page that lists free pages, with its overflow.
    pub(super) fn read_freelist(&self, id: PageId, high_water: u64) -> Result<Vec<u8>, Error> {
        let offset = id.offset(self.page_size);
        let mut bytes = vec![0; self.page_size];
        self.read(&mut bytes, offset)?;
        let header = Header::read(&bytes);
        let pages = u64::from(header.overflow) + 1;
        if header.id != id.0 || header.flags != FLAG_FREELIST || id.0 + pages > high_water {
            let what = format!("page {id} is not a freelist (flags {:#x})", header.flags);
            return Err(self.corrupt(offset, Fault { at: 0, what }));
        }
        bytes.resize(pages as usize * self.page_size, 0);
        self.read(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Raw bytes.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        self.file.read_exact_at(buffer, offset).map_err(|source| self.io("read", offset, source))
    }

    /// Pages of a tree, given by ascending numbers: hands each one's bytes (overflow included)
    /// to `f`. Reads what lies close together at once.
    pub(super) fn for_each(
        &self,
        ids: &[PageId],
        high_water: u64,
        mut f: impl FnMut(PageId, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut buffer = Vec::new();
        let mut rest = ids;
        while let Some(&first) = rest.first() {
            let count = self.stretch(rest);
            let (group, next) = rest.split_at(count);
            let last = group.last().copied().unwrap_or(first);
            buffer.resize((last.0 - first.0 + 1) as usize * self.page_size, 0);
            self.read(&mut buffer, first.offset(self.page_size))?;
            for &id in group {
                let start = (id.0 - first.0) as usize * self.page_size;
                let offset = id.offset(self.page_size);
                let pages = Header::read(&buffer[start..])
                    .check(id, high_water)
                    .map_err(|fault| self.corrupt(offset, fault))?;
                let end = start + pages as usize * self.page_size;
                match buffer.get(start..end) {
                    Some(bytes) => f(id, bytes)?,
                    None => f(id, self.read_page(id, high_water)?.bytes())?,
                }
            }
            rest = next;
        }
        Ok(())
    }

    /// How many of these pages are worth one read: ascending, close together, not too many.
    pub(super) fn stretch(&self, ids: &[PageId]) -> usize {
        let span_max = (READ_BYTES_MAX / self.page_size) as u64;
        let Some(first) = ids.first() else { return 0 };
        let mut previous = first.0;
        let fits = |id: &&PageId| {
            let near =
                id.0 >= previous && id.0 - previous <= GAP_PAGES_MAX && id.0 - first.0 < span_max;
            previous = id.0;
            near
        };
        ids.iter().take_while(fits).count()
    }

    /// Damage in the page that begins at `offset`.
    pub(super) fn corrupt(&self, offset: u64, fault: Fault) -> Error {
        Error::Corrupt {
            file: self.path.clone(),
            offset: offset + fault.at as u64,
            what: fault.what,
        }
    }

    /// A tree that loops, or mixes branches and leaves.
    pub(super) fn misshapen(&self, id: PageId) -> Error {
        let what = format!("the tree through page {id} is misshapen");
        self.corrupt(id.offset(self.page_size), Fault { at: 0, what })
    }

    /// The system's refusal.
    pub(super) fn io(&self, action: &'static str, offset: u64, source: io::Error) -> Error {
        Error::Io { file: self.path.clone(), action, offset, source }
    }

    /// Notes a live view.
    pub(super) fn pin(&self, txid: Txid) {
        self.pins.lock().entry(txid).or_default().views += 1;
    }

    /// Notes that a view is gone.
    pub(super) fn unpin(&self, txid: Txid) {
        let mut pins = self.pins.lock();
        if let Some(pin) = pins.get_mut(&txid) {
            pin.views -= 1;
            if pin.views == 0 {
                pins.remove(&txid);
            }
        }
    }

    /// How many views are alive.
    pub(super) fn views(&self) -> usize {
        self.pins.lock().values().map(|pin| pin.views).sum()
    }

    /// Notes how many pages wait for the views of which state.
    pub(super) fn note_kept(&self, kept: &BTreeMap<Txid, u64>) {
        for (txid, pin) in self.pins.lock().iter_mut() {
            pin.kept = kept.get(txid).copied().unwrap_or(0);
        }
    }

    /// Bytes of pages that wait for the views of this state.
    pub(super) fn kept_bytes(&self, txid: Txid) -> u64 {
        self.pins.lock().get(&txid).map_or(0, |pin| pin.kept) * self.page_size as u64
    }

    /// The same for all states together.
    pub(super) fn all_kept_bytes(&self) -> u64 {
        self.pins.lock().values().map(|pin| pin.kept).sum::<u64>() * self.page_size as u64
    }

    /// The live views, ascending.
    pub(super) fn live(&self) -> Vec<Txid> {
        self.pins.lock().keys().copied().collect()
    }
}

/// Bytes read or written by one call.
pub(super) const READ_BYTES_MAX: usize = 256 << 10;
/// Unwanted pages between two wanted ones that are read along rather than skipped.
const GAP_PAGES_MAX: u64 = 8;
