//! Pages of the file, read in place.
//!
//! ```text
//! page    | id u64 | flags u16 | count u16 | overflow u32 | elements.. | data..        |
//! leaf    | flags u32 | pos u32 | ksize u32 | vsize u32 |   value follows key
//! branch  | pos u32 | ksize u32 | child u64 |               key = first key below the child
//! ```
//!
//! *Invariants.*
//! 1. A [`Page`] has been checked: its number is its position, its kind is known, every element
//!    lies inside it, its keys ascend strictly. Accessors therefore cannot leave the page.
//! 2. Everything little endian; `pos` counts from the start of its element.
//!
//! *Contract.* go.etcd.io/bbolt v1.5.0, `internal/common/page.go`.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;

/// Bytes of a page's header.
pub(super) const HEADER: usize = 16;
/// Bytes of an element beside its key and value, on leaves and branches alike.
pub(super) const ELEMENT: usize = 16;
/// Bytes before the inline page in the value of a bucket: root page and sequence.
pub(super) const BUCKET: usize = 16;
/// The first page that is not a meta page.
pub(super) const FIRST: u64 = 2;
/// Pages below each other from a root to a leaf; more means a loop.
pub(super) const DEPTH_MAX: usize = 64;

const FLAG_BRANCH: u16 = 0x01;
const FLAG_LEAF: u16 = 0x02;
/// The flag of a meta page.
pub(super) const FLAG_META: u16 = 0x04;
/// The flag of a page that lists free pages.
pub(super) const FLAG_FREELIST: u16 = 0x10;
/// The flag of a leaf element whose value is a bucket.
pub(super) const ELEMENT_BUCKET: u32 = 1;

/// The number of a page: its position in the file, counted in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PageId(pub(super) u64);

impl PageId {
    /// What the page of an inline bucket calls itself: it lies in the value of its bucket.
    pub(super) const INLINE: Self = Self(0);

    /// Where the page begins in the file.
    pub(super) const fn offset(self, page_size: usize) -> u64 {
        self.0 * page_size as u64
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a page of a tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Separators and children.
    Branch,
    /// Rows.
    Leaf,
}

/// Damage found in a page.
#[derive(Debug)]
pub(super) struct Fault {
    /// Where, counted from the start of the page.
    pub(super) at: usize,
    /// What is wrong.
    pub(super) what: String,
}

impl Fault {
    fn new<T>(at: usize, what: impl Into<String>) -> Result<T, Self> {
        Err(Self { at, what: what.into() })
    }
}

/// The little-endian number in the four bytes at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// The little-endian number in the eight bytes at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// The order of keys. Most, revisions above all, differ in the first eight bytes: no call then.
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    match (one.first_chunk(), other.first_chunk()) {
        (Some(first), Some(second)) if first != second => {
            u64::from_be_bytes(*first).cmp(&u64::from_be_bytes(*second))
        }
        _ => one.cmp(other),
    }
}

/// The first 16 bytes of a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) id: u64,
    pub(super) flags: u16,
    pub(super) count: u16,
    /// Pages that follow this one and belong to it.
    pub(super) overflow: u32,
}

impl Header {
    /// Reads the header; `bytes` holds at least [`HEADER`] of them.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let low = u32_at(bytes, 8);
        Self {
            id: u64_at(bytes, 0),
            flags: (low & 0xffff) as u16,
            count: (low >> 16) as u16,
            overflow: u32_at(bytes, 12),
        }
    }

    /// Writes the header.
    pub(super) fn write(self, bytes: &mut [u8]) {
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.overflow.to_le_bytes());
    }

    /// The pages that the page at `id` fills, when it is a page of a tree of a file of
    /// `high_water` pages.
    pub(super) fn check(self, id: PageId, high_water: u64) -> Result<u64, Fault> {
        if self.id != id.0 {
            return Fault::new(0, format!("page {id} calls itself page {}", self.id));
        }
        if self.flags != FLAG_BRANCH && self.flags != FLAG_LEAF {
            let what = format!("page {id} is neither branch nor leaf (flags {:#x})", self.flags);
            return Fault::new(8, what);
        }
        let pages = u64::from(self.overflow) + 1;
        if id.0.saturating_add(pages) > high_water {
            let what = format!("page {id} of {pages} pages ends beyond page {high_water}");
            return Fault::new(12, what);
        }
        Ok(pages)
    }
}

/// The elements of a page, borrowed.
#[derive(Clone, Copy)]
pub(super) struct Elements<'a> {
    bytes: &'a [u8],
    kind: Kind,
    count: usize,
}

impl<'a> Elements<'a> {
    /// Checks every element of the page that is exactly `bytes`. Children must lie in
    /// `FIRST..high_water`. The header has been checked by the caller.
    pub(super) fn parse(bytes: &'a [u8], high_water: u64) -> Result<Self, Fault> {
        let header = Header::read(bytes);
        let kind = if header.flags == FLAG_BRANCH { Kind::Branch } else { Kind::Leaf };
        let elements = Self { bytes, kind, count: usize::from(header.count) };
        let table = HEADER + elements.count * ELEMENT;
        if table > bytes.len() {
            return Fault::new(10, format!("{} elements do not fit the page", elements.count));
        }
        if kind == Kind::Branch && elements.count == 0 {
            return Fault::new(10, "a branch without children");
        }
        if elements.count == 0 && bytes[HEADER..].iter().any(|byte| *byte != 0) {
            return Fault::new(10, "a page without elements is not empty");
        }
        let mut previous: &[u8] = &[];
        let mut end = table as u64;
        for index in 0..elements.count {
            let at = HEADER + index * ELEMENT;
            end = elements.check(index, end, high_water)?;
            let key = elements.key(index);
            if compare(previous, key).is_ge() {
                return Fault::new(at, format!("the key of element {index} is out of order"));
            }
            previous = key;
        }
        Ok(elements)
    }

    /// Checks that an element begins where the one before it ended, as every writer of the
    /// format lays them out, and ends inside the page; where it ends.
    fn check(&self, index: usize, begin: u64, high_water: u64) -> Result<u64, Fault> {
        let at = HEADER + index * ELEMENT;
        let (position, key, value) = match self.kind {
            Kind::Leaf => {
                if u32_at(self.bytes, at) > ELEMENT_BUCKET {
                    return Fault::new(at, format!("element {index} has unknown flags"));
                }
                (at + 4, u32_at(self.bytes, at + 8), u32_at(self.bytes, at + 12))
            }
            Kind::Branch => {
                let child = u64_at(self.bytes, at + 8);
                if !(FIRST..high_water).contains(&child) {
                    return Fault::new(at + 8, format!("element {index} points to page {child}"));
                }
                (at, u32_at(self.bytes, at + 4), 0)
            }
        };
        let start = at as u64 + u64::from(u32_at(self.bytes, position));
        let end = start + u64::from(key) + u64::from(value);
        if key == 0 || start != begin || end > self.bytes.len() as u64 {
            return Fault::new(at, format!("element {index} is not where it should be"));
        }
        Ok(end)
    }

    /// Branch or leaf.
    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Elements.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Where key and value of a row lie: start, end of key, end of value.
    fn row(&self, index: usize) -> (usize, usize, usize) {
        let at = HEADER + index * ELEMENT;
        let element = &self.bytes[at..at + ELEMENT];
        let start = at + u32_at(element, 4) as usize;
        let middle = start + u32_at(element, 8) as usize;
        (start, middle, middle + u32_at(element, 12) as usize)
    }

    fn separator(&self, index: usize) -> (usize, usize) {
        let at = HEADER + index * ELEMENT;
        let element = &self.bytes[at..at + ELEMENT];
        let start = at + u32_at(element, 0) as usize;
        (start, start + u32_at(element, 4) as usize)
    }

    /// The key of an element.
    pub(super) fn key(&self, index: usize) -> &'a [u8] {
        let (start, end) = match self.kind {
            Kind::Leaf => {
                let (start, middle, _) = self.row(index);
                (start, middle)
            }
            Kind::Branch => self.separator(index),
        };
        &self.bytes[start..end]
    }

    /// The value of a row.
    pub(super) fn value(&self, index: usize) -> &'a [u8] {
        let (_, middle, end) = self.row(index);
        &self.bytes[middle..end]
    }

    /// Where the key of a row begins on the page.
    pub(super) fn key_at(&self, index: usize) -> usize {
        self.row(index).0
    }

    /// Where the value of a row begins on the page.
    pub(super) fn value_at(&self, index: usize) -> usize {
        self.row(index).1
    }

    /// Whether a row's value is a bucket.
    pub(super) fn is_bucket(&self, index: usize) -> bool {
        u32_at(self.bytes, HEADER + index * ELEMENT) & ELEMENT_BUCKET != 0
    }

    /// The page below an element of a branch.
    pub(super) fn child(&self, index: usize) -> PageId {
        PageId(u64_at(self.bytes, HEADER + index * ELEMENT + 8))
    }

    /// Bytes that an element takes on any page.
    pub(super) fn size(&self, index: usize) -> usize {
        match self.kind {
            Kind::Leaf => {
                let (start, _, end) = self.row(index);
                ELEMENT + end - start
            }
            Kind::Branch => {
                let (start, end) = self.separator(index);
                ELEMENT + end - start
            }
        }
    }

    /// Where `key` is, or the first element after it.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            match compare(self.key(middle), key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The element of a branch below which `key` would be.
    pub(super) fn child_for(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(index) => index,
            Err(index) => index.saturating_sub(1),
        }
    }
}

/// A checked page of a tree. Clones share the bytes.
#[derive(Clone)]
pub(super) struct Page {
    bytes: Bytes,
    kind: Kind,
    count: usize,
}

impl Page {
    /// Checks the elements; the header has been checked.
    pub(super) fn parse(bytes: Bytes, high_water: u64) -> Result<Self, Fault> {
        let elements = Elements::parse(&bytes, high_water)?;
        let (kind, count) = (elements.kind, elements.count);
        Ok(Self { bytes, kind, count })
    }

    /// The page that stands in the value of a bucket without a page of its own.
    pub(super) fn parse_inline(bytes: Bytes, high_water: u64) -> Result<Self, Fault> {
        if bytes.len() < HEADER {
            return Fault::new(0, "an inline bucket is cut short");
        }
        let header = Header::read(&bytes);
        if header.flags != FLAG_LEAF || header.overflow != 0 {
            return Fault::new(8, format!("an inline bucket has flags {:#x}", header.flags));
        }
        Self::parse(bytes, high_water)
    }

    /// A leaf without rows, of no place.
    pub(super) const fn empty() -> Self {
        const BYTES: [u8; HEADER] = [0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        Self { bytes: Bytes::from_static(&BYTES), kind: Kind::Leaf, count: 0 }
    }

    /// A page as the builder made it.
    fn built(bytes: Vec<u8>) -> Self {
        let header = Header::read(&bytes);
        let kind = if header.flags == FLAG_BRANCH { Kind::Branch } else { Kind::Leaf };
        Self { bytes: Bytes::from(bytes), kind, count: usize::from(header.count) }
    }

    /// The elements.
    pub(super) fn elements(&self) -> Elements<'_> {
        Elements { bytes: &self.bytes, kind: self.kind, count: self.count }
    }

    /// Whether it holds rows.
    pub(super) const fn is_leaf(&self) -> bool {
        matches!(self.kind, Kind::Leaf)
    }

    /// Elements.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Its number; 0 for an inline page.
    pub(super) fn id(&self) -> PageId {
        PageId(u64_at(&self.bytes, 0))
    }

    /// All bytes, overflow included.
    pub(super) const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// An element's key, sharing the page's bytes.
    pub(super) fn key(&self, index: usize) -> Bytes {
        self.bytes.slice_ref(self.elements().key(index))
    }

    /// A row's value, sharing the page's bytes.
    pub(super) fn value(&self, index: usize) -> Bytes {
        let (_, middle, end) = self.elements().row(index);
        self.bytes.slice(middle..end)
    }

    /// A row, sharing the page's bytes.
    pub(super) fn row(&self, index: usize) -> (Bytes, Bytes) {
        let (start, middle, end) = self.elements().row(index);
        (self.bytes.slice(start..middle), self.bytes.slice(middle..end))
    }

    /// The page below an element of a branch.
    pub(super) fn child(&self, index: usize) -> PageId {
        self.elements().child(index)
    }
}

/// Puts elements on a page, one after the other.
pub(super) struct Builder {
    bytes: Vec<u8>,
    kind: Kind,
    count: usize,
    capacity: usize,
    data: usize,
}

impl Builder {
    /// A page for `count` elements, of `pages` pages of `page_size` bytes.
    pub(super) fn new(
        id: PageId,
        kind: Kind,
        count: usize,
        pages: usize,
        page_size: usize,
    ) -> Self {
        let mut bytes = vec![0; pages * page_size];
        let flags = if kind == Kind::Branch { FLAG_BRANCH } else { FLAG_LEAF };
        let count_field = u16::try_from(count).unwrap_or(u16::MAX);
        assert!(count < usize::from(u16::MAX), "a page of {count} elements cannot be counted");
        let overflow = u32::try_from(pages - 1).unwrap_or(u32::MAX);
        Header { id: id.0, flags, count: count_field, overflow }.write(&mut bytes);
        Self { bytes, kind, count: 0, capacity: count, data: HEADER + count * ELEMENT }
    }

    fn element(&mut self) -> (usize, u32) {
        assert!(self.count < self.capacity, "more elements than the page was made for");
        let at = HEADER + self.count * ELEMENT;
        self.count += 1;
        (at, u32::try_from(self.data - at).unwrap_or(u32::MAX))
    }

    fn append(&mut self, data: &[u8]) {
        self.bytes[self.data..self.data + data.len()].copy_from_slice(data);
        self.data += data.len();
    }

    /// Adds a row. Lengths have been checked by the batch or the page that they come from.
    pub(super) fn row(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        assert!(self.kind == Kind::Leaf, "rows belong on leaves");
        let (at, position) = self.element();
        let element = &mut self.bytes[at..at + ELEMENT];
        element[..4].copy_from_slice(&flags.to_le_bytes());
        element[4..8].copy_from_slice(&position.to_le_bytes());
        element[8..12].copy_from_slice(&(key.len() as u32).to_le_bytes());
        element[12..].copy_from_slice(&(value.len() as u32).to_le_bytes());
        self.append(key);
        self.append(value);
    }

    /// Adds a child.
    pub(super) fn child(&mut self, key: &[u8], child: PageId) {
        assert!(self.kind == Kind::Branch, "children belong on branches");
        let (at, position) = self.element();
        let element = &mut self.bytes[at..at + ELEMENT];
        element[..4].copy_from_slice(&position.to_le_bytes());
        element[4..8].copy_from_slice(&(key.len() as u32).to_le_bytes());
        element[8..].copy_from_slice(&child.0.to_le_bytes());
        self.append(key);
    }

    /// The page.
    pub(super) fn finish(self) -> Page {
        assert!(self.count == self.capacity, "fewer elements than the page was made for");
        Page::built(self.bytes)
    }
}

/// The numbers on a page that lists free pages, in either of its two forms.
pub(super) fn parse_freelist(bytes: &[u8]) -> Result<Vec<PageId>, Fault> {
    let header = Header::read(bytes);
    let (start, count) = if header.count == u16::MAX {
        (HEADER + 8, u64_at(bytes, HEADER))
    } else {
        (HEADER, u64::from(header.count))
    };
    let room = (bytes.len() - start) as u64 / 8;
    if count > room {
        return Fault::new(10, format!("{count} free pages do not fit the page that lists them"));
    }
    let end = start + count as usize * 8;
    Ok(bytes[start..end].chunks_exact(8).map(|number| PageId(u64_at(number, 0))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_freelist_are_read() {
        let mut bytes = vec![0; 4096];
        let ids = [3u64, 4, 9];
        Header { id: 2, flags: FLAG_FREELIST, count: 3, overflow: 0 }.write(&mut bytes);
        for (at, id) in ids.iter().enumerate() {
            bytes[HEADER + 8 * at..][..8].copy_from_slice(&id.to_le_bytes());
        }
        let expected = ids.map(PageId);
        assert_eq!(parse_freelist(&bytes).unwrap(), expected);

        // More than 65534: the first word counts.
        Header { id: 2, flags: FLAG_FREELIST, count: u16::MAX, overflow: 0 }.write(&mut bytes);
        bytes[HEADER..][..8].copy_from_slice(&3u64.to_le_bytes());
        for (at, id) in ids.iter().enumerate() {
            bytes[HEADER + 8 + 8 * at..][..8].copy_from_slice(&id.to_le_bytes());
        }
        assert_eq!(parse_freelist(&bytes).unwrap(), expected);
        bytes[HEADER + 7] = 0xff;
        assert!(parse_freelist(&bytes).is_err());
    }
}
