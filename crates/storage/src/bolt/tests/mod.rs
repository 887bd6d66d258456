//! The database against a map, against power losses and against damage.

mod audit;
mod crash;
mod damage;
mod foreign;
mod model;

use std::collections::BTreeMap;
use std::path::Path;

use base::Rng;
use bytes::Bytes;

use super::{Batch, Database, Error, Options, View};
use crate::disk::Faulty;

const DB: &str = "/db";

/// Buckets of rows.
type Model = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

fn options(page_size: u32) -> Options {
    Options { page_size, cache_bytes: 1 << 20, sync: true }
}

fn open(disk: &Faulty, page_size: u32) -> Result<Database, Error> {
    Database::open(disk, Path::new(DB), options(page_size))
}

fn revision(main: u64) -> Vec<u8> {
    let mut key = main.to_be_bytes().to_vec();
    key.extend_from_slice(b"_\0\0\0\0\0\0\0\0");
    key
}

fn value(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(60) {
        0 => 20_000 + rng.below(80_000),
        1..=3 => 1_000 + rng.below(8_000),
        4..=8 => 0,
        _ => rng.below(300),
    };
    let mut bytes = vec![(rng.next_u64() & 0xff) as u8; len as usize];
    if let Some(first) = bytes.first_mut() {
        *first = 1;
    }
    bytes
}

/// A random key; each bucket has keys of its own kind.
fn key(rng: &mut Rng, bucket: u64) -> Vec<u8> {
    let number = rng.below(2_000);
    match bucket {
        0 => revision(number),
        // So long that a branch page holds one or two.
        1 => {
            let mut key = number.to_be_bytes().to_vec();
            key.resize(8 + (number as usize * 37) % 3_000, b'k');
            key
        }
        _ => format!("key-{number}").into_bytes(),
    }
}

/// One random batch, and what it does to the model.
fn random_batch(rng: &mut Rng, model: &mut Model, size: u64) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..1 + rng.below(3) {
        let bucket = if rng.one_in(20) { rng.below(60) } else { rng.below(4) };
        let name = format!("bucket-{bucket}").into_bytes();
        batch.create_bucket(&name);
        let rows = model.entry(name.clone()).or_default();
        let mut put = |rows: &mut BTreeMap<_, _>, key: Vec<u8>, value: Vec<u8>| {
            rows.insert(key.clone(), value.clone());
            batch.put(&name, key.into(), value.into());
        };
        let count = 1 + rng.below(size);
        match rng.below(8) {
            0..=2 => {
                let last = rows.keys().next_back().filter(|key| key.len() == 17);
                let mut next = [0; 8];
                next.copy_from_slice(last.map_or(&[0; 8], |key| &key[..8]));
                for step in 1..=count {
                    put(rows, revision(u64::from_be_bytes(next) + step), value(rng));
                }
            }
            3 | 4 => {
                for _ in 0..count {
                    put(rows, key(rng, bucket), value(rng));
                }
            }
            5 => {
                for _ in 0..count {
                    let key = key(rng, bucket);
                    rows.remove(&key);
                    batch.delete(&name, key.into());
                }
            }
            _ => {
                // Much of what is there, or all of it.
                let skip = rng.below(rows.len() as u64 + 1) as usize;
                let take = if rng.one_in(3) { rows.len() } else { count as usize * 4 };
                let every = 1 + rng.below(3) as usize;
                let keys: Vec<_> =
                    rows.keys().skip(skip / 2).step_by(every).take(take).cloned().collect();
                for key in keys {
                    rows.remove(&key);
                    batch.delete(&name, key.into());
                }
            }
        }
    }
    batch
}

/// Everything that a view shows.
fn dump(view: &View) -> Result<Model, Error> {
    let mut model = Model::new();
    for bucket in view.buckets()? {
        let mut rows = BTreeMap::new();
        let mut scan = view.scan(&bucket, b"");
        while let Some((key, value)) = scan.next_row()? {
            assert!(rows.insert(key.to_vec(), value.to_vec()).is_none());
        }
        model.insert(bucket.to_vec(), rows);
    }
    Ok(model)
}

fn rows(batch: &[(&str, &str)]) -> Batch {
    let mut made = Batch::default();
    made.create_bucket(b"rows");
    for (key, value) in batch {
        made.put(b"rows", Bytes::from(key.to_string()), Bytes::from(value.to_string()));
    }
    made
}
