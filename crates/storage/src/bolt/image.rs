//! The database file as of one view: what a snapshot is made of.
//!
//! Page 0 holds the state, page 1 the same one as of a commit earlier, as bbolt writes them; so
//! either may be lost. Pages that the state does not reach hold whatever the file has there.

use bytes::Bytes;

use super::error::Error;
use super::meta::{META_BYTES, Meta, Txid};
use super::view::View;

/// A readable file image. Keeps its view, and so the pages, until dropped.
#[derive(Debug, Clone)]
pub struct Image {
    view: View,
}

impl Image {
    /// The image of a view.
    pub(super) const fn new(view: View) -> Self {
        Self { view }
    }

    /// Bytes in the image: whole pages up to the high-water mark.
    pub fn len(&self) -> u64 {
        self.view.size_bytes()
    }

    /// Bytes of pages that are kept for this state, as of the last commit: those that no later
    /// state has, but for what an earlier one that is being read keeps anyway.
    pub fn pinned_bytes(&self) -> u64 {
        self.view.pager().kept_bytes(self.view.meta().txid)
    }

    /// Never: there are always two meta pages.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes from `offset` on, at most `max`; none at the end.
    pub fn read_at(&self, offset: u64, max: usize) -> Result<Bytes, Error> {
        let len = self.len().saturating_sub(offset).min(max as u64) as usize;
        let mut bytes = vec![0; len];
        if len > 0 {
            self.view.pager().read(&mut bytes, offset)?;
        }
        let meta = *self.view.meta();
        let page_size = self.view.pager().page_size as u64;
        for slot in 0..2 {
            let txid = Txid(meta.txid.0.saturating_sub(slot));
            let page = Meta { freelist: None, txid, ..meta }.encode(slot);
            overlay(&mut bytes, offset, &page, slot * page_size, page_size);
        }
        Ok(bytes.into())
    }
}

/// Replaces what `bytes` (read at `offset`) has of a meta page, whose rest is zero.
fn overlay(bytes: &mut [u8], offset: u64, page: &[u8; META_BYTES], at: u64, page_size: u64) {
    let end = offset + bytes.len() as u64;
    for position in at.max(offset)..end.min(at + page_size) {
        let byte = page.get((position - at) as usize).copied().unwrap_or(0);
        bytes[(position - offset) as usize] = byte;
    }
}
