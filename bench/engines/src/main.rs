//! Quorate's database engine beside LMDB, on etcd's load: rows of 256 bytes appended by revision
//! in batches of 1000 (each batch durable), random gets, scans of 10,000 rows, and the deletion
//! of 90 % of the rows. Prints CPU microseconds an operation.
//!
//! usage: `cargo run --release -- [ROWS]`; `bbolt/` beside it does the same for bbolt in Go.

use std::ops::Bound;
use std::path::Path;

use base::Rng;
use bytes::Bytes;
use heed::types::Bytes as Raw;
use storage::bolt::{Batch, Database, Options, View};
use storage::disk::Real;

const BATCH: u64 = 1000;
const GETS: u64 = 500_000;
const SCAN: usize = 10_000;
const SCANS: u64 = 100;
const VALUE_BYTES: usize = 256;

type Failure = Box<dyn std::error::Error>;

/// What the load needs of an engine.
trait Engine {
    /// Writes (`Some`) or deletes (`None`) rows, durably.
    fn commit(&mut self, rows: &[(u64, Option<Bytes>)]) -> Result<(), Failure>;
    /// The length of one row's value.
    fn get(&mut self, row: u64) -> Result<usize, Failure>;
    /// The bytes of `SCAN` values from `row` on.
    fn scan(&mut self, row: u64) -> Result<usize, Failure>;
}

fn key(row: u64) -> [u8; 17] {
    let mut key = [0; 17];
    key[..8].copy_from_slice(&row.to_be_bytes());
    key[8] = b'_';
    key
}

struct Bolt {
    database: Database,
    view: View,
}

impl Engine for Bolt {
    fn commit(&mut self, rows: &[(u64, Option<Bytes>)]) -> Result<(), Failure> {
        let mut batch = Batch::default();
        batch.create_bucket(b"key");
        for (row, value) in rows {
            let key = Bytes::copy_from_slice(&key(*row));
            match value {
                Some(value) => batch.put(b"key", key, value.clone()),
                None => batch.delete(b"key", key),
            }
        }
        self.view = self.database.commit(batch)?;
        Ok(())
    }

    fn get(&mut self, row: u64) -> Result<usize, Failure> {
        Ok(self.view.get(b"key", &key(row))?.map_or(0, |value| value.len()))
    }

    fn scan(&mut self, row: u64) -> Result<usize, Failure> {
        let mut sum = 0;
        for found in self.view.scan(b"key", &key(row)).take(SCAN) {
            sum += found?.1.len();
        }
        Ok(sum)
    }
}

struct Lmdb {
    env: heed::Env,
    rows: heed::Database<Raw, Raw>,
}

impl Engine for Lmdb {
    fn commit(&mut self, rows: &[(u64, Option<Bytes>)]) -> Result<(), Failure> {
        let mut txn = self.env.write_txn()?;
        for (row, value) in rows {
            match value {
                Some(value) => self.rows.put(&mut txn, &key(*row), value)?,
                None => {
                    self.rows.delete(&mut txn, &key(*row))?;
                }
            }
        }
        txn.commit()?;
        Ok(())
    }

    fn get(&mut self, row: u64) -> Result<usize, Failure> {
        let txn = self.env.read_txn()?;
        Ok(self.rows.get(&txn, &key(row))?.map_or(0, <[u8]>::len))
    }

    fn scan(&mut self, row: u64) -> Result<usize, Failure> {
        let txn = self.env.read_txn()?;
        let mut sum = 0;
        let from = key(row);
        let range = (Bound::Included(&from[..]), Bound::Unbounded);
        for found in self.rows.range(&txn, &range)?.take(SCAN) {
            sum += found?.1.len();
        }
        Ok(sum)
    }
}

/// CPU time of this process, user and system, in microseconds.
fn cpu_us() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    spent.tv_sec as f64 * 1e6 + spent.tv_nsec as f64 / 1e3
}

fn measure(what: &str, operations: u64, work: &mut dyn FnMut() -> Result<(), Failure>) {
    let (wall, cpu) = (std::time::Instant::now(), cpu_us());
    if let Err(error) = work() {
        eprintln!("{what}: {error}");
        std::process::exit(1);
    }
    let (cpu, wall) = (cpu_us() - cpu, wall.elapsed().as_secs_f64());
    println!("  {what:<8} {:7.2} us CPU an operation   {wall:6.2} s wall", cpu / operations as f64);
}

fn load(name: &str, rows: u64, file: &Path, engine: &mut dyn Engine) {
    println!("{name}");
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    measure("append", rows, &mut || {
        for first in (0..rows).step_by(BATCH as usize) {
            let batch: Vec<_> =
                (first..first + BATCH).map(|row| (row, Some(value.clone()))).collect();
            engine.commit(&batch)?;
        }
        Ok(())
    });
    let mut rng = Rng::new(1);
    measure("get", GETS, &mut || {
        for _ in 0..GETS {
            assert_eq!(engine.get(rng.below(rows))?, VALUE_BYTES);
        }
        Ok(())
    });
    measure("scan row", SCANS * SCAN as u64, &mut || {
        for _ in 0..SCANS {
            assert_eq!(engine.scan(rng.below(rows - SCAN as u64))?, SCAN * VALUE_BYTES);
        }
        Ok(())
    });
    measure("delete", rows * 9 / 10, &mut || {
        for first in (0..rows).step_by(BATCH as usize) {
            let batch: Vec<_> =
                (first..first + BATCH).filter(|row| row % 10 != 0).map(|row| (row, None)).collect();
            engine.commit(&batch)?;
        }
        Ok(())
    });
    println!("  file     {:7.1} MiB", file.metadata().map_or(0, |data| data.len()) as f64 / 1048576.0);
}

fn main() -> Result<(), Failure> {
    let rows = std::env::args().nth(1).map_or(Ok(2_000_000), |text| text.parse())?;
    let scratch = tempfile::tempdir()?;

    let file = scratch.path().join("db");
    let options = Options { page_size: 4096, cache_bytes: 256 << 20, sync: true };
    let database = Database::open(&Real, &file, options)?;
    let view = database.view();
    load("quorate storage/bolt", rows, &file, &mut Bolt { database, view });

    let directory = scratch.path().join("lmdb");
    std::fs::create_dir(&directory)?;
    // SAFETY: nobody else opens this fresh directory.
    let env = unsafe { heed::EnvOpenOptions::new().map_size(8 << 30).max_dbs(1).open(&directory)? };
    let mut txn = env.write_txn()?;
    let table = env.create_database(&mut txn, Some("key"))?;
    txn.commit()?;
    load("LMDB", rows, &directory.join("data.mdb"), &mut Lmdb { env, rows: table });
    Ok(())
}
