//! What a disk holds after the power is gone: files as values, cheap to copy and to compare.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, Open, Real};

const PAGE: usize = 4096;
const PAGE_BYTES: u64 = PAGE as u64;

/// The bytes of a file. Pages never written are zero and cost nothing; clones share pages.
#[derive(Debug, Clone, Default)]
pub struct Blob {
    len: u64,
    /// By page number. A page beyond `len` does not exist; bytes beyond `len` in the last are 0.
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl Blob {
    /// A file of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        let mut blob = Self::default();
        blob.write(bytes, 0);
        blob
    }

    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(usize::MAX)];
        self.read(&mut bytes, 0).unwrap_or(());
        bytes
    }

    /// Fills `buffer` from `offset`; `UnexpectedEof` when the file ends before.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = buffer;
        let mut at = offset;
        while !rest.is_empty() {
            let (number, start) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let (part, next) = rest.split_at_mut(rest.len().min(PAGE - start));
            match self.pages.get(&number) {
                Some(page) => part.copy_from_slice(&page[start..start + part.len()]),
                None => part.fill(0),
            }
            at += part.len() as u64;
            rest = next;
        }
        Ok(())
    }

    /// The first stretch from `offset` on whose pages have not been written; empty, at the end,
    /// when there is none.
    pub fn unwritten(&self, offset: u64) -> Range<u64> {
        let mut at = offset;
        for number in self.pages.range(offset / PAGE_BYTES..).map(|(number, _)| *number) {
            if number * PAGE_BYTES > at {
                return at..number * PAGE_BYTES;
            }
            at = (number + 1) * PAGE_BYTES;
        }
        at.min(self.len)..self.len
    }

    /// Writes `bytes` at `offset`, growing when needed.
    pub fn write(&mut self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let (number, start) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let (part, next) = rest.split_at(rest.len().min(PAGE - start));
            let page = self.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[start..start + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            rest = next;
        }
        self.len = self.len.max(at);
    }

    /// Cuts, or extends with zeros.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE_BYTES));
            if let Some(page) = self.pages.get_mut(&(len / PAGE_BYTES)) {
                Arc::make_mut(page)[(len % PAGE_BYTES) as usize..].fill(0);
            }
        }
        self.len = len;
    }

    /// Changes the bits of `mask` in the byte at `offset`, if there is one.
    pub fn flip(&mut self, offset: u64, mask: u8) {
        let mut byte = [0];
        if self.read(&mut byte, offset).is_ok() {
            self.write(&[byte[0] ^ mask], offset);
        }
    }
}

impl PartialEq for Blob {
    /// By bytes: a page of zeros equals one that was never written.
    fn eq(&self, other: &Self) -> bool {
        let covered = |one: &Self, two: &Self| {
            one.pages.iter().all(|(number, page)| match two.pages.get(number) {
                Some(same) => page == same,
                None => page.iter().all(|byte| *byte == 0),
            })
        };
        self.len == other.len && covered(self, other) && covered(other, self)
    }
}

impl Eq for Blob {}

/// A whole tree of directories and files, by path from the root of the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Every directory but the root; a parent stands before what it holds.
    pub directories: Vec<PathBuf>,
    /// Every file; its directory is among `directories`.
    pub files: BTreeMap<PathBuf, Blob>,
}

/// Bytes read or written by one call when an image is copied to or from a real directory.
const COPY_BYTES: u64 = 1 << 20;

impl Image {
    /// Writes everything below the real directory `target`, which is created when missing.
    pub fn write_to(&self, target: &Path) -> io::Result<()> {
        Real.create_dir_all(target)?;
        for directory in &self.directories {
            Real.create_dir_all(&target.join(below_root(directory)))?;
        }
        for (path, blob) in &self.files {
            let file = Real.open(&target.join(below_root(path)), Open::Truncate)?;
            file.set_len(blob.len())?;
            for (number, page) in &blob.pages {
                let at = number * PAGE_BYTES;
                let used = (blob.len() - at).min(PAGE_BYTES) as usize;
                file.write_all_at(&page[..used], at)?;
            }
        }
        Ok(())
    }

    /// Reads everything below the real directory `source`. Links and devices are an error.
    pub fn read_from(source: &Path) -> io::Result<Self> {
        let mut image = Self::default();
        let mut pending = vec![PathBuf::new()];
        while let Some(directory) = pending.pop() {
            for name in Real.list(&source.join(&directory))? {
                let path = directory.join(name);
                let kind = std::fs::symlink_metadata(source.join(&path))?.file_type();
                let inside = Path::new("/").join(&path);
                if kind.is_dir() {
                    image.directories.push(inside);
                    pending.push(path);
                } else if kind.is_file() {
                    image.files.insert(inside, read_blob(&source.join(&path))?);
                } else {
                    return Err(io::ErrorKind::Unsupported.into());
                }
            }
        }
        image.directories.sort_unstable();
        Ok(image)
    }
}

fn read_blob(path: &Path) -> io::Result<Blob> {
    let file = Real.open(path, Open::Read)?;
    let (len, mut blob, mut at) = (file.len()?, Blob::default(), 0);
    while at < len {
        let mut bytes = vec![0; (len - at).min(COPY_BYTES) as usize];
        file.read_exact_at(&mut bytes, at)?;
        for (number, page) in bytes.chunks(PAGE).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                blob.write(page, at + (number * PAGE) as u64);
            }
        }
        at += bytes.len() as u64;
    }
    blob.set_len(len);
    Ok(blob)
}

fn below_root(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_a_vector_of_bytes() {
        arbtest::arbtest(|u| {
            let (mut blob, mut model) = (Blob::default(), Vec::new());
            for _ in 0..u.int_in_range(0..=12)? {
                let at: usize = u.int_in_range(0..=3 * PAGE)?;
                if u.arbitrary()? {
                    let bytes = vec![u.arbitrary::<u8>()?; u.int_in_range(0..=2 * PAGE)?];
                    if !bytes.is_empty() {
                        model.resize(model.len().max(at + bytes.len()), 0);
                        model[at..at + bytes.len()].copy_from_slice(&bytes);
                    }
                    blob.write(&bytes, at as u64);
                } else {
                    blob.set_len(at as u64);
                    model.resize(at, 0);
                }
                assert_eq!(blob.to_vec(), model);
                assert_eq!(blob.len(), model.len() as u64);
                let from = u.int_in_range(0..=model.len())?;
                let hole = blob.unwritten(from as u64);
                let hole = hole.start as usize..hole.end as usize;
                assert!(from <= hole.start && hole.end <= model.len());
                assert!(model[hole].iter().all(|byte| *byte == 0));
            }
            Ok(())
        });
    }

    #[test]
    fn an_image_survives_a_real_directory() {
        let directories = vec!["/a".into(), "/a/b".into(), "/c".into()];
        let mut image = Image { directories, ..Image::default() };
        let mut sparse = Blob::new(b"head");
        sparse.set_len(100_000);
        sparse.write(b"tail", 70_000);
        image.files.insert("/a/b/sparse".into(), sparse);
        image.files.insert("/empty".into(), Blob::default());
        let dir = tempfile::tempdir().unwrap();
        image.write_to(&dir.path().join("deep")).unwrap();
        assert_eq!(Image::read_from(&dir.path().join("deep")).unwrap(), image);
    }
}
