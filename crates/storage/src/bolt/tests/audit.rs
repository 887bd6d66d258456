//! An independent reading of the file: which pages a state reaches, and whether its trees are
//! well formed, from the raw bytes.

use std::collections::BTreeSet;

use super::{DB, Database};
use crate::disk::Faulty;

struct Audit<'a> {
    bytes: &'a [u8],
    page_size: usize,
    reached: BTreeSet<u64>,
    /// Depth of the leaves of the tree under way.
    leaves: Option<usize>,
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Audit<'_> {
    /// Walks a tree; its keys lie in `low..high`.
    fn walk(&mut self, id: u64, low: &[u8], high: Option<&[u8]>, depth: usize) {
        let at = id as usize * self.page_size;
        let page = &self.bytes[at..];
        assert_eq!(number(page, 0, 8), id);
        let (flags, count) = (number(page, 8, 2), number(page, 10, 2) as usize);
        for page in id..=id + number(page, 12, 4) {
            assert!(self.reached.insert(page), "page {page} is reached twice");
        }
        let mut previous = low.to_vec();
        let mut ended = 16 + 16 * count;
        for index in 0..count {
            let element = 16 + 16 * index;
            let field = |at, len| number(page, element + at, len) as usize;
            let (start, key_len, value_len) = if flags == 2 {
                (element + field(4, 4), field(8, 4), field(12, 4))
            } else {
                (element + field(0, 4), field(4, 4), 0)
            };
            assert_eq!(start, ended);
            ended = start + key_len + value_len;
            let key = &page[start..start + key_len];
            assert!(if index == 0 { previous[..] <= *key } else { previous[..] < *key });
            assert!(high.is_none_or(|high| key < high), "page {id} holds a key of its neighbour");
            previous = key.to_vec();
            if flags == 1 {
                let next = if index + 1 < count {
                    let element = element + 16;
                    let start = element + number(page, element, 4) as usize;
                    Some(&page[start..start + number(page, element + 4, 4) as usize])
                } else {
                    high
                };
                self.walk(field(8, 8) as u64, key, next, depth + 1);
            } else if field(0, 4) == 1 {
                let root = number(page, start + key_len, 8);
                if root != 0 {
                    let leaves = self.leaves.take();
                    self.walk(root, b"", None, 0);
                    self.leaves = leaves;
                }
            }
        }
        if flags == 1 {
            assert!(count >= 2, "branch {id} has {count} children");
        } else {
            assert_eq!(flags, 2);
            assert!(count > 0 || depth == 0, "leaf {id} is empty");
            assert_eq!(*self.leaves.get_or_insert(depth), depth, "leaf {id} is not level");
        }
    }
}

/// Compares what the database believes about its pages with the file.
pub(super) fn audit(disk: &Faulty, database: &Database) {
    let bytes = disk.read(DB.as_ref()).unwrap();
    let view = database.view();
    let meta = view.meta();
    let page_size = database.pager.page_size;
    assert!(bytes.len() as u64 >= view.size_bytes());
    let mut audit =
        Audit { bytes: &bytes, page_size, reached: BTreeSet::from([0, 1]), leaves: None };
    audit.walk(meta.root.0, b"", None, 0);
    assert_eq!(view.in_use_bytes(), audit.reached.len() as u64 * page_size as u64);

    // Free, retired and reached pages are all pages, once each.
    let mut seen = audit.reached;
    let mut free = 0;
    for (start, pages) in database.free.runs() {
        free += pages;
        for page in start..start + pages {
            assert!(seen.insert(page), "page {page} is free and in use");
        }
    }
    assert_eq!(free, database.free.pages());
    for retired in database.reclaim.retired() {
        for page in retired.id.0..retired.id.0 + retired.pages {
            assert!(seen.insert(page), "page {page} is retired and in use or free");
        }
    }
    let leaked: Vec<u64> = (0..meta.high_water).filter(|page| !seen.contains(page)).collect();
    assert_eq!(leaked, [0; 0], "pages that nobody knows");
    assert_eq!(seen.len() as u64, meta.high_water);
}
