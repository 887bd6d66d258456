//! Copies a state into a file of its own, without the free pages.

use std::path::Path;

use bytes::Bytes;

use super::batch::Batch;
use super::db::{Database, Options};
use super::error::Error;
use super::page::Fault;
use super::view::View;
use crate::disk::Disk;

/// A commit of the copy holds so many rows, or so many bytes and one row.
const ROWS_MAX: usize = 10_000;
const BYTES_MAX: usize = 16 << 20;

impl View {
    /// Writes the rows of this state to a new database at `path`, page after page, and makes it
    /// durable; its name is the caller's to make so. Refuses buckets inside buckets, which etcd
    /// does not have.
    ///
    /// The database is locked until it is dropped. What is there after an error is of no use.
    pub fn rewrite(&self, disk: &dyn Disk, path: &Path) -> Result<Database, Error> {
        let page_size = self.meta().page_size;
        let options = Options { page_size, sync: false, ..Options::default() };
        let mut copy = Database::open(disk, path, options)?;
        for bucket in self.buckets()? {
            if let Some(nested) = self.buckets_nested(&[&bucket])?.first() {
                let key = String::from_utf8_lossy(nested).into_owned();
                return Err(Error::Incompatible { key });
            }
            let mut batch = Batch::default();
            batch.create_bucket(&bucket);
            let mut before = Bytes::new();
            for row in self.scan(&bucket, &[]) {
                let (key, value) = row?;
                // Sorting them anew would hide that pages are in each other's place.
                if key <= before {
                    let (bucket, key) = (bucket.escape_ascii(), key.escape_ascii());
                    let what = format!(
                        "bucket {bucket}, row {key}: it does not come after the one before it"
                    );
                    return Err(self.pager().corrupt(0, Fault { at: 0, what }));
                }
                before = key.clone();
                batch.put(&bucket, key, value);
                if batch.len() >= ROWS_MAX || batch.bytes() >= BYTES_MAX {
                    copy.commit(std::mem::take(&mut batch))?;
                    batch.create_bucket(&bucket);
                }
            }
            copy.commit(batch)?;
        }
        copy.settle()?;
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Faulty, Open};

    fn key(number: u32) -> Bytes {
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    #[test]
    fn a_copy_has_the_rows_and_not_the_free_pages() {
        let disk = Faulty::new(0);
        disk.create_dir_all(Path::new("/d")).unwrap();
        let path = Path::new("/d/db");
        let mut database = Database::open(&disk, path, Options::default()).unwrap();
        let mut batch = Batch::default();
        batch.create_bucket(b"empty");
        batch.create_bucket(b"rows");
        for number in 0..20_000 {
            batch.put(b"rows", key(number), Bytes::from(vec![7; 100]));
        }
        database.commit(batch).unwrap();
        let mut batch = Batch::default();
        for number in (0..20_000).filter(|number| number % 10 != 0) {
            batch.delete(b"rows", key(number));
        }
        let view = database.commit(batch).unwrap();
        let copied = view.rewrite(&disk, Path::new("/d/copy")).unwrap();
        let copy = copied.view();
        assert_eq!(copy.buckets().unwrap(), [&b"empty"[..], b"rows"]);
        let rows = |view: &View| view.scan(b"rows", &[]).map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(rows(&copy), rows(&view));
        assert_eq!(rows(&copy).len(), 2000);
        assert!(copy.size_bytes() * 4 < view.size_bytes(), "{}", copy.size_bytes());
        let file = disk.open(Path::new("/d/copy"), Open::Read).unwrap();
        assert_eq!(file.len().unwrap(), copy.size_bytes());
        drop((copied, copy));
        // It may be opened as any other, by readers and by a writer.
        let read = View::open(&disk, Path::new("/d/copy"), 1 << 20).unwrap();
        assert_eq!(rows(&read).len(), 2000);
        drop(read);
        Database::open(&disk, Path::new("/d/copy"), Options::default()).unwrap();
    }

    #[test]
    fn pages_in_each_others_place_are_not_sorted_anew() {
        let disk = Faulty::new(0);
        disk.create_dir_all(Path::new("/d")).unwrap();
        let path = Path::new("/d/db");
        let mut database = Database::open(&disk, path, Options::default()).unwrap();
        let mut batch = Batch::default();
        batch.create_bucket(b"rows");
        for number in 0..200 {
            batch.put(b"rows", key(number), Bytes::from(vec![7; 100]));
        }
        drop(database.commit(batch).unwrap());
        drop(database);
        let mut bytes = disk.read(path).unwrap();
        let rows =
            |page: &usize| u16::from_le_bytes([bytes[page * 4096 + 10], bytes[page * 4096 + 11]]);
        let leaves: Vec<usize> = (2..8).filter(|page| rows(page) > 20).collect();
        for at in 8..4096 {
            bytes.swap(leaves[0] * 4096 + at, leaves[1] * 4096 + at);
        }
        disk.open(path, Open::Write).unwrap().write_all_at(&bytes, 0).unwrap();
        let view = View::open(&disk, path, 1 << 20).unwrap();
        let error = view.rewrite(&disk, Path::new("/d/copy")).map(drop).unwrap_err().finding();
        assert!(error.ends_with("it does not come after the one before it"), "{error}");
    }

    #[test]
    fn reading_changes_nothing_and_keeps_writers_out() {
        let disk = Faulty::new(0);
        disk.create_dir_all(Path::new("/d")).unwrap();
        let path = Path::new("/d/db");
        drop(Database::open(&disk, path, Options::default()).unwrap());
        let before = disk.read(path).unwrap();
        let view = View::open(&disk, path, 1 << 20).unwrap();
        let locked = Database::open(&disk, path, Options::default()).unwrap_err();
        assert!(matches!(locked, Error::Locked { .. }), "{locked}");
        drop(view);
        assert_eq!(disk.read(path).unwrap(), before);
        // An empty file is a new database only to a writer.
        disk.open(Path::new("/d/empty"), Open::Create).unwrap();
        assert!(View::open(&disk, Path::new("/d/empty"), 1 << 20).is_err());
        assert!(disk.read(Path::new("/d/empty")).unwrap().is_empty());
    }
}
