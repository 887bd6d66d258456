//! The rows of a bucket in order, reading ahead.

use std::collections::VecDeque;

use bytes::Bytes;

use super::error::Error;
use super::page::{DEPTH_MAX, Page, PageId};
use super::pager::READ_BYTES_MAX;
use super::view::View;

/// Reads that go through the cache one by one before reading ahead begins, and the cache is left
/// alone: a scan that is long must not push out what others need.
const CACHED_READS: u32 = 4;

/// Key and value.
pub type LentRow<'a> = (&'a [u8], &'a [u8]);

/// Rows of one bucket, ascending.
///
/// As an iterator it yields rows that share their page's bytes; [`Scan::next_row`] lends them,
/// which is cheaper.
#[derive(Debug)]
pub struct Scan {
    view: View,
    /// From the first page of the bucket down to the leaf of the current row.
    frames: Vec<Frame>,
    start: Start,
    /// Pages that were not in the cache, up to a bound that matters.
    reads: u32,
}

#[derive(Debug)]
enum Start {
    /// Nothing has been read but the first page.
    Before { from: Bytes },
    /// Finding the first page failed.
    Failed(Error),
    /// On a row, or at the end.
    Running,
}

#[derive(Debug)]
struct Frame {
    page: Page,
    /// The current element.
    index: usize,
    /// Children of this page that were read ahead, ascending.
    ahead: VecDeque<Page>,
}

impl Scan {
    /// The rows from `from` on of the tree whose first page was looked for.
    pub(super) fn new(view: View, first: Result<Option<Page>, Error>, from: &[u8]) -> Self {
        let mut frames = Vec::new();
        let start = match first {
            Ok(Some(page)) => {
                frames.push(Frame { page, index: 0, ahead: VecDeque::new() });
                Start::Before { from: Bytes::copy_from_slice(from) }
            }
            Ok(None) => Start::Running,
            Err(error) => Start::Failed(error),
        };
        Self { view, frames, start, reads: 0 }
    }

    /// The next row, lent until the one after it is asked for.
    pub fn next_row(&mut self) -> Result<Option<LentRow<'_>>, Error> {
        if !self.advance_row()? {
            return Ok(None);
        }
        Ok(self.frames.last().map(|frame| {
            let elements = frame.page.elements();
            (elements.key(frame.index), elements.value(frame.index))
        }))
    }

    /// Goes to the next row that is not a bucket.
    fn advance_row(&mut self) -> Result<bool, Error> {
        while self.advance()? {
            if !self.is_bucket() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes to the next element of the bucket; false at its end. After an error the scan is over.
    pub(super) fn advance(&mut self) -> Result<bool, Error> {
        let result = self.step();
        if result.is_err() {
            self.frames.clear();
        }
        result
    }

    fn step(&mut self) -> Result<bool, Error> {
        match std::mem::replace(&mut self.start, Start::Running) {
            Start::Before { from } => self.descend(Some(&from))?,
            Start::Failed(error) => return Err(error),
            Start::Running => {
                if let Some(leaf) = self.frames.last_mut() {
                    leaf.index += 1;
                }
            }
        }
        loop {
            // Up past pages that are done, then down to the leaf beside.
            while let Some(frame) = self.frames.last() {
                if frame.index < frame.page.len() {
                    break;
                }
                self.frames.pop();
                if let Some(above) = self.frames.last_mut() {
                    above.index += 1;
                }
            }
            match self.frames.last() {
                None => return Ok(false),
                Some(frame) if frame.page.is_leaf() => return Ok(true),
                Some(_) => self.descend(None)?,
            }
        }
    }

    /// Opens pages from the last frame down to a leaf: to the place of `from`, or to the first.
    fn descend(&mut self, from: Option<&[u8]>) -> Result<(), Error> {
        while let Some(frame) = self.frames.last_mut() {
            let elements = frame.page.elements();
            if frame.page.is_leaf() {
                frame.index = from.map_or(0, |key| elements.search(key).unwrap_or_else(|at| at));
                return Ok(());
            }
            if let Some(key) = from {
                frame.index = elements.child_for(key);
            }
            if self.frames.len() > DEPTH_MAX {
                return Err(self.view.pager().misshapen(self.frames[0].page.id()));
            }
            let page = self.child()?;
            self.frames.push(Frame { page, index: 0, ahead: VecDeque::new() });
        }
        Ok(())
    }

    /// The page below the current element of the last frame.
    fn child(&mut self) -> Result<Page, Error> {
        let Some(frame) = self.frames.last_mut() else {
            unreachable!("a scan descends from a frame");
        };
        let id = frame.page.child(frame.index);
        while let Some(page) = frame.ahead.pop_front() {
            if page.id() == id {
                return Ok(page);
            }
        }
        let pager = self.view.pager();
        if let Some(page) = pager.cache.get(id) {
            return Ok(page);
        }
        self.reads += 1;
        if self.reads <= CACHED_READS {
            return self.view.page(id);
        }
        let count_max = (READ_BYTES_MAX / pager.page_size) >> (8u32.saturating_sub(self.reads));
        let ids: Vec<PageId> = (frame.index..frame.page.len())
            .take(count_max.max(1))
            .map(|index| frame.page.child(index))
            .collect();
        frame.ahead = read_ahead(&self.view, &ids)?;
        match frame.ahead.pop_front() {
            Some(page) => Ok(page),
            None => pager.read_page(id, self.view.meta().high_water),
        }
    }

    /// Whether the current element is a bucket.
    pub(super) fn is_bucket(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.page.elements().is_bucket(frame.index))
    }

    /// The page of the current element, and where on it the key begins.
    pub(super) fn place(&self) -> Option<(PageId, usize)> {
        let frame = self.frames.last()?;
        Some((frame.page.id(), frame.page.elements().key_at(frame.index)))
    }

    /// The current element; empty bytes at the end.
    pub(super) fn row(&self) -> (Bytes, Bytes) {
        self.frames.last().map_or_else(Default::default, |frame| frame.page.row(frame.index))
    }
}

/// Reads as many of these pages as one read covers. Only pages of the view are looked at: what
/// lies between them may be changing. Damage in one but the first is left for its turn.
fn read_ahead(view: &View, ids: &[PageId]) -> Result<VecDeque<Page>, Error> {
    let pager = view.pager();
    let high_water = view.meta().high_water;
    let ids = &ids[..pager.stretch(ids)];
    let mut pages = VecDeque::with_capacity(ids.len());
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(pages) };
    let mut buffer = vec![0; (last.0 - first.0 + 1) as usize * pager.page_size];
    pager.read(&mut buffer, first.offset(pager.page_size))?;
    for id in ids {
        let at = (id.0 - first.0) as usize * pager.page_size;
        match pager.cut_page(*id, &buffer[at..], high_water) {
            Ok(Some(page)) => pages.push_back(page),
            Ok(None) | Err(_) => break,
        }
    }
    Ok(pages)
}

impl Iterator for Scan {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance_row() {
            Ok(true) => Some(Ok(self.row())),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}
