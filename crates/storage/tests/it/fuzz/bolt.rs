//! The database: pages of all kinds changed, of files that we and bbolt have written.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use fuzz::{Result, Unstructured, Verdict, fuzz, int, mutate};
use storage::REMEDY;
use storage::bolt::{Batch, Database, Error, Options, View};
use storage::disk::{Blob, Faulty, Image};

const DB: &str = "/db";
const PAGE: usize = 4096;
const HEADER: usize = 16;
/// Buckets below each other that are looked into.
const DEPTH_MAX: usize = 4;
/// Where a meta page has its checksum, which covers what is between the header and it.
const CHECKSUM: usize = HEADER + 56;

fn open(disk: &Faulty) -> std::result::Result<Database, Error> {
    let options = Options { page_size: 4096, cache_bytes: 1 << 20, sync: true };
    Database::open(disk, Path::new(DB), options)
}

fn disk_of(bytes: &[u8]) -> Faulty {
    let mut image = Image::default();
    image.files.insert(DB.into(), Blob::new(bytes));
    Faulty::from_image(&image, 0).unwrap()
}

/// A file of ours: branches, leaves, a page with overflow, free pages in between.
fn ours() -> Vec<u8> {
    let disk = Faulty::new(0);
    let mut database = open(&disk).unwrap();
    for round in 0..4_u32 {
        let mut batch = Batch::default();
        for bucket in [&b"key"[..], b"meta", b"lease"] {
            batch.create_bucket(bucket);
        }
        for row in 0..120_u32 {
            let key = [&u64::from(round * 100 + row).to_be_bytes()[..], b"_"].concat();
            batch.put(b"key", key.into(), vec![row as u8; 40].into());
        }
        batch.put(b"meta", format!("row-{round}").into(), vec![1; 5000].into());
        if round > 1 {
            batch.delete(b"meta", format!("row-{}", round - 1).into());
        }
        // Keys so long that a branch has few children.
        for row in 0..6_u8 {
            batch.put(b"lease", vec![row + round as u8; 1200].into(), Bytes::new());
        }
        database.commit(batch).unwrap();
    }
    disk.read(Path::new(DB)).unwrap()
}

/// bbolt's: inline and nested buckets, a freelist.
fn foreign() -> Vec<u8> {
    include_bytes!("../../../testdata/bolt/bbolt.db").to_vec()
}

/// One line that names the file, a place in it, and what to do.
fn check_error(error: &Error) {
    let text = error.to_string();
    let rest = text.strip_prefix("/db: damaged at byte ").unwrap_or_else(|| panic!("{text}"));
    let (offset, _) = rest.split_once(": ").unwrap();
    assert!(offset.parse::<u64>().is_ok() && text.ends_with(REMEDY) && !text.contains('\n'));
}

/// What a scan of everything shows.
#[derive(PartialEq)]
struct Rows {
    /// Depth, bucket, key and value, in the order of the scan.
    all: Vec<(usize, Bytes, Bytes, Bytes)>,
    /// The keys of every bucket ascend: no page stands where the keys of another one belong.
    ascend: bool,
}

/// Reads everything: all buckets, and those inside them.
fn read(view: &View, path: &mut Vec<Bytes>, rows: &mut Rows) -> std::result::Result<(), Error> {
    let borrowed: Vec<&[u8]> = path.iter().map(|name| &name[..]).collect();
    let mut last = Bytes::new();
    for row in view.scan_nested(&borrowed, b"") {
        let (key, value) = row?;
        rows.ascend &= last < key;
        last = key.clone();
        rows.all.push((path.len(), path.last().cloned().unwrap_or_default(), key, value));
    }
    if path.len() == DEPTH_MAX {
        return Ok(());
    }
    for name in view.buckets_nested(&borrowed)? {
        path.push(name);
        read(view, path, rows)?;
        path.pop();
    }
    Ok(())
}

fn batch(u: &mut Unstructured<'_>, buckets: &[Bytes]) -> Result<Batch> {
    let mut batch = Batch::default();
    for _ in 0..u.int_in_range(1..=3)? {
        let bucket = if buckets.is_empty() || u.ratio(1, 5)? {
            batch.create_bucket(b"new");
            Bytes::from_static(b"new")
        } else {
            u.choose(buckets)?.clone()
        };
        for _ in 0..u.int_in_range(1..=30)? {
            let key = match u.int_in_range(0..=3)? {
                0 => Bytes::from(vec![u.arbitrary::<u8>()?; 1200]),
                1 => Bytes::from("inner"),
                _ => Bytes::from([&u.int_in_range(0..=500_u64)?.to_be_bytes()[..], b"_"].concat()),
            };
            match u.int_in_range(0..=3)? {
                0 => batch.put(&bucket, key, vec![9; u.int_in_range(0..=9_000)?].into()),
                _ => batch.delete(&bucket, key),
            }
        }
    }
    Ok(batch)
}

/// Opens a file, reads all of it and writes to it: each step goes well, or ends with an error.
fn exercise(u: &mut Unstructured<'_>, bytes: &[u8]) -> Result<Verdict> {
    let disk = disk_of(bytes);
    let step = |result: std::result::Result<(), Error>| match result {
        Err(Error::Incompatible { .. }) | Ok(()) => Verdict::Taken,
        Err(error) => {
            check_error(&error);
            Verdict::Refused
        }
    };
    let mut database = match open(&disk) {
        Ok(database) => database,
        Err(error) => return Ok(step(Err(error))),
    };
    let view = database.view();
    let mut rows = Rows { all: Vec::new(), ascend: true };
    if step(read(&view, &mut Vec::new(), &mut rows)) == Verdict::Refused {
        return Ok(Verdict::Refused);
    }
    // A row that a scan of a top bucket shows is found by its key, unless another page is in its
    // way.
    let buckets = view.buckets().unwrap_or_default();
    let mut lookups: BTreeMap<_, _> = buckets.iter().map(|b| (b.clone(), view.lookup(b))).collect();
    for (depth, bucket, key, value) in rows.all.iter().filter(|_| rows.ascend) {
        let Some(lookup) = lookups.get_mut(bucket).filter(|_| *depth == 1) else { continue };
        if let Some(found) = lookup.get(key).unwrap() {
            assert_eq!(found, *value, "another value by lookup");
        }
    }
    for _ in 0..u.int_in_range(0..=2)? {
        let batch = batch(u, &buckets)?;
        if step(database.commit(batch).map(drop)) == Verdict::Refused {
            return Ok(Verdict::Refused);
        }
    }
    // Who holds a view is not disturbed by later commits.
    let mut again = Rows { all: Vec::new(), ascend: true };
    assert!(read(&view, &mut Vec::new(), &mut again).is_ok() && again == rows, "a view changed");
    let image = view.image();
    let copied = image.read_at(0, usize::MAX).unwrap();
    assert_eq!(copied.len() as u64, image.len());
    Ok(Verdict::Taken)
}

fn seal(bytes: &mut [u8], slot: usize) {
    let Some(meta) = bytes.get_mut(slot * PAGE..slot * PAGE + CHECKSUM + 8) else { return };
    let sum = meta[HEADER..CHECKSUM].iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    meta[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
}

/// Writes a number over a field of a header or of an element.
fn change_field(u: &mut Unstructured<'_>, bytes: &mut [u8]) -> Result<()> {
    let pages = bytes.len() / PAGE;
    let page = u.choose_index(pages)? * PAGE;
    let field = if u.ratio(1, 3)? {
        8 + 2 * u.int_in_range(0..=3)?
    } else {
        HEADER + 4 * u.int_in_range(0..=80)?
    };
    // Numbers of pages and small lengths are those that lead on.
    let number = if u.ratio(3, 4)? { u.int_in_range(0..=pages as u64 + 1)? } else { int(u)? };
    let width = *u.choose(&[1, 2, 4, 8])?;
    bytes[page + field..page + field + width].copy_from_slice(&number.to_le_bytes()[..width]);
    Ok(())
}

/// Puts a page where another one is, so that it calls itself by the place's number.
fn move_page(u: &mut Unstructured<'_>, bytes: &mut [u8]) -> Result<()> {
    let pages = bytes.len() / PAGE;
    let (from, to) = (u.choose_index(pages)?, u.choose_index(pages)?);
    bytes.copy_within(from * PAGE..(from + 1) * PAGE, to * PAGE);
    bytes[to * PAGE..][..8].copy_from_slice(&(to as u64).to_le_bytes());
    Ok(())
}

#[test]
fn damaged_databases_are_refused_or_served() {
    let samples = [ours(), foreign()];
    fuzz("bolt", |u| {
        let mut bytes = u.choose(&samples)?.clone();
        for _ in 0..u.int_in_range(1..=5)? {
            match u.int_in_range(0..=5)? {
                0..=2 => change_field(u, &mut bytes)?,
                3 => move_page(u, &mut bytes)?,
                4 => {
                    let at = u.choose_index(bytes.len())?;
                    bytes[at] ^= 1 << u.int_in_range(0..=7)?;
                }
                _ => {
                    // One page's bytes, which may grow or shrink and shift what follows.
                    let page = u.choose_index(bytes.len() / PAGE)? * PAGE;
                    let mut inside = bytes[page..page + PAGE].to_vec();
                    mutate(u, &mut inside)?;
                    if u.ratio(7, 8)? {
                        inside.resize(PAGE, 0);
                    }
                    bytes.splice(page..page + PAGE, inside);
                    bytes.resize(bytes.len().next_multiple_of(PAGE).max(PAGE), 0);
                }
            }
        }
        if u.ratio(3, 4)? {
            seal(&mut bytes, 0);
            seal(&mut bytes, 1);
        }
        if u.ratio(1, 16)? {
            bytes.truncate(u.choose_index(bytes.len())?.max(1));
        }
        exercise(u, &bytes)
    });
}

/// A file whose only bucket holds one bucket inside the other in one page with its overflow.
fn nested_inline(levels: usize) -> Vec<u8> {
    let element = |flags: u32, key: usize, value: usize| {
        let words = [flags, 16, key as u32, value as u32];
        words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
    };
    let leaf = |id: u64, count: u16, overflow: u32| {
        let mut header = id.to_le_bytes().to_vec();
        header.extend([2, 0]);
        header.extend(count.to_le_bytes());
        header.extend(overflow.to_le_bytes());
        header
    };
    // From the outside in: a page is all that is before its value, and the value.
    let level = leaf(0, 1, 0).len() + element(1, 1, 0).len() + 1 + 16;
    let mut inner = leaf(0, 0, 0).len();
    let mut lengths = vec![inner];
    for _ in 0..levels {
        inner += level;
        lengths.push(inner);
    }
    let size = (2 * PAGE + inner).next_multiple_of(PAGE);
    let pages = size / PAGE;
    let mut bytes = Vec::with_capacity(size);
    let mut file = ours();
    file.truncate(2 * PAGE);
    bytes.append(&mut file);
    for at in (0..levels).rev() {
        let outermost = at + 1 == levels;
        let (id, overflow) = if outermost { (2, pages as u32 - 3) } else { (0, 0) };
        bytes.extend(leaf(id, 1, overflow));
        bytes.extend(element(1, 1, 16 + lengths[at]));
        bytes.push(b'k');
        bytes.extend([0; 16]);
    }
    bytes.extend(leaf(0, 0, 0));
    bytes.resize(size, 0);
    for slot in 0..2 {
        let meta = &mut bytes[slot * PAGE..];
        meta[HEADER + 16..HEADER + 24].copy_from_slice(&2_u64.to_le_bytes());
        meta[HEADER + 40..HEADER + 48].copy_from_slice(&(pages as u64).to_le_bytes());
        seal(&mut bytes, slot);
    }
    bytes
}

/// bbolt has none inside each other; each level would take stack, and be read once more.
#[test]
fn inline_buckets_inside_each_other_take_no_stack() {
    let database = open(&disk_of(&nested_inline(3))).unwrap();
    assert_eq!(database.view().buckets_nested(&[b"k", b"k"]).unwrap(), ["k"]);
    let error = open(&disk_of(&nested_inline(40_000))).map(drop).unwrap_err();
    check_error(&error);
    assert!(error.to_string().contains("inline buckets inside each other"), "{error}");
}

/// The number of a commit comes from the file.
#[test]
fn a_database_at_the_last_commit_is_refused() {
    for last in [u64::MAX, u64::MAX - 1] {
        let mut bytes = ours();
        for slot in 0..2 {
            let at = slot * PAGE + HEADER + 48;
            bytes[at..at + 8].copy_from_slice(&last.to_le_bytes());
            seal(&mut bytes, slot);
        }
        check_error(&open(&disk_of(&bytes)).map(drop).unwrap_err());
    }
}
