//! The two meta pages: which tree is the database.
//!
//! ```text
//! at 16 | magic u32 | version u32 | page size u32 | flags u32 | root u64 | sequence u64 |
//!       | freelist u64 | high water u64 | txid u64 | checksum u64 |
//! ```
//!
//! The checksum is FNV-1a, 64 bits, over the 56 bytes before it. The state with the higher txid
//! counts; a page that a crash tore does not check, and the other one, older by a commit, counts.
//!
//! *Contract.* go.etcd.io/bbolt v1.5.0, `internal/common/meta.go`, `db.go`.

use std::path::Path;

use super::error::Error;
use super::page::{FIRST, FLAG_META, Fault, HEADER, Header, PageId, u32_at, u64_at};
use crate::disk::File;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// The freelist's page number that says there is none.
const NO_FREELIST: u64 = u64::MAX;
const CHECKSUM: usize = HEADER + 56;
/// Bytes of header and meta.
pub(super) const META_BYTES: usize = HEADER + 64;
/// The smallest page.
pub(super) const PAGE_SIZE_MIN: u32 = 4 << 10;
/// The largest page.
pub(super) const PAGE_SIZE_MAX: u32 = 64 << 10;

/// The number of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Txid(pub(super) u64);

/// Beyond any number of commits, and far enough from the end of the numbers to go on counting.
const TXID_MAX: Txid = Txid(1 << 62);

/// One state of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) page_size: u32,
    /// The tree of buckets. `FIRST <= root < high_water`.
    pub(super) root: PageId,
    /// bbolt's counter of the top bucket: kept, never used.
    pub(super) sequence: u64,
    /// The page that lists free pages, if this state has one. Ours never do.
    pub(super) freelist: Option<PageId>,
    /// The first page that was never allocated.
    pub(super) high_water: u64,
    pub(super) txid: Txid,
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Meta {
    /// Reads the meta page that stands at page number `slot`.
    pub(super) fn read(bytes: &[u8], slot: u64) -> Result<Self, Fault> {
        let fault = |at: usize, what: String| Err(Fault { at, what });
        if bytes.len() < META_BYTES {
            return fault(0, "the meta page is cut short".into());
        }
        if u32_at(bytes, HEADER) != MAGIC {
            return fault(HEADER, "not a database (magic number missing)".into());
        }
        if u32_at(bytes, HEADER + 4) != VERSION {
            let version = u32_at(bytes, HEADER + 4);
            return fault(HEADER + 4, format!("format version {version}, not {VERSION}"));
        }
        if u64_at(bytes, CHECKSUM) != fnv1a(&bytes[HEADER..CHECKSUM]) {
            return fault(CHECKSUM, "the checksum of the meta page does not match".into());
        }
        let header = Header::read(bytes);
        if header.id != slot || header.flags != FLAG_META {
            let what = format!("page {slot} is not a meta page (flags {:#x})", header.flags);
            return fault(0, what);
        }
        let freelist = u64_at(bytes, HEADER + 32);
        let meta = Self {
            page_size: u32_at(bytes, HEADER + 8),
            root: PageId(u64_at(bytes, HEADER + 16)),
            sequence: u64_at(bytes, HEADER + 24),
            freelist: (freelist != NO_FREELIST).then_some(PageId(freelist)),
            high_water: u64_at(bytes, HEADER + 40),
            txid: Txid(u64_at(bytes, HEADER + 48)),
        };
        meta.check()
    }

    fn check(self) -> Result<Self, Fault> {
        let fault = |at: usize, what: String| Err(Fault { at: HEADER + at, what });
        if !(PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&self.page_size)
            || !self.page_size.is_power_of_two()
        {
            let what = format!("a page size of {} is not 4, 8, 16, 32 or 64 KiB", self.page_size);
            return fault(8, what);
        }
        if !(FIRST..self.high_water).contains(&self.root.0) {
            return fault(16, format!("the root is page {} of {}", self.root, self.high_water));
        }
        if self.freelist.is_some_and(|page| !(FIRST..self.high_water).contains(&page.0)) {
            return fault(32, "the freelist lies outside the file".into());
        }
        if self.txid > TXID_MAX {
            return fault(48, format!("commit {} is more than can be counted", self.txid.0));
        }
        Ok(self)
    }

    /// The meta page at page number `slot`, without the zeros that fill it.
    pub(super) fn encode(&self, slot: u64) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        Header { id: slot, flags: FLAG_META, count: 0, overflow: 0 }.write(&mut bytes);
        let freelist = self.freelist.map_or(NO_FREELIST, |page| page.0);
        let words = [self.root.0, self.sequence, freelist, self.high_water, self.txid.0];
        for (at, word) in [MAGIC, VERSION, self.page_size, 0].into_iter().enumerate() {
            bytes[HEADER + at * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
        for (at, word) in words.into_iter().enumerate() {
            bytes[HEADER + 16 + at * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        let sum = fnv1a(&bytes[HEADER..CHECKSUM]);
        bytes[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// The state that counts.
pub(super) struct Chosen {
    pub(super) meta: Meta,
    /// Where it stands: 0 or 1.
    pub(super) slot: u64,
    /// What is wrong with the other one, if anything is.
    pub(super) damaged: Option<Error>,
}

/// Reads both meta pages of a file of `len` bytes.
pub(super) fn choose(file: &dyn File, path: &Path, len: u64) -> Result<Chosen, Error> {
    let first = read_at(file, path, 0, 0, len)?;
    let second = match &first {
        Ok(meta) => read_at(file, path, u64::from(meta.page_size), 1, len)?.and_then(|second| {
            if second.page_size == meta.page_size {
                return Ok(second);
            }
            Err(corrupt(path, u64::from(meta.page_size), "the meta pages differ in page size"))
        }),
        Err(_) => search_second(file, path, len)?,
    };
    match (first, second) {
        (Ok(meta), Ok(other)) if other.txid > meta.txid => {
            Ok(Chosen { meta: other, slot: 1, damaged: None })
        }
        (Ok(meta), other) => Ok(Chosen { meta, slot: 0, damaged: other.err() }),
        (Err(damaged), Ok(meta)) => Ok(Chosen { meta, slot: 1, damaged: Some(damaged) }),
        (Err(first), Err(_)) => Err(first),
    }
}

/// Without the first meta page the page size is unknown: the second is where it checks.
fn search_second(file: &dyn File, path: &Path, len: u64) -> Result<Result<Meta, Error>, Error> {
    let mut page_size = PAGE_SIZE_MIN;
    while page_size <= PAGE_SIZE_MAX {
        if let Ok(meta) = read_at(file, path, u64::from(page_size), 1, len)?
            && meta.page_size == page_size
        {
            return Ok(Ok(meta));
        }
        page_size *= 2;
    }
    Ok(Err(corrupt(path, u64::from(PAGE_SIZE_MIN), "the second meta page is damaged too")))
}

/// The outer error is the disk's, the inner one the page's.
fn read_at(
    file: &dyn File,
    path: &Path,
    offset: u64,
    slot: u64,
    len: u64,
) -> Result<Result<Meta, Error>, Error> {
    if offset + META_BYTES as u64 > len {
        return Ok(Err(corrupt(path, len, "the file ends before its meta pages")));
    }
    let mut bytes = [0; META_BYTES];
    file.read_exact_at(&mut bytes, offset).map_err(|source| Error::Io {
        file: path.into(),
        action: "read a meta page",
        offset,
        source,
    })?;
    Ok(Meta::read(&bytes, slot)
        .map_err(|fault| corrupt(path, offset + fault.at as u64, fault.what)))
}

fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> Error {
    Error::Corrupt { file: path.into(), offset, what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_meta_page_is_seen() {
        let meta = Meta {
            page_size: 4096,
            root: PageId(7),
            sequence: 3,
            freelist: None,
            high_water: 9,
            txid: Txid(41),
        };
        let bytes = meta.encode(1);
        assert_eq!(Meta::read(&bytes, 1).ok(), Some(meta));
        assert!(Meta::read(&bytes, 0).is_err());
        for bit in 0..META_BYTES * 8 {
            let at = bit / 8;
            if (10..16).contains(&at) {
                continue; // Count and overflow of the header mean nothing on a meta page.
            }
            let mut broken = bytes;
            broken[at] ^= 1 << (bit % 8);
            assert!(Meta::read(&broken, 1).is_err(), "bit {bit}");
        }
    }
}
