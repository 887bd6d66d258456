//! The database on etcd's load: rows appended by revision in batches of a thousand, random gets,
//! scans of 10,000 rows, the deletion of 90 %. Prints CPU and wall time an operation.
//!
//! `bolt_bench PATH [ROWS [CACHE_MIB]]`; PATH must not exist. `bench/engines` sets it beside
//! other engines.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use base::Rng;
use bytes::Bytes;
use storage::bolt::{Batch, Database, Options};
use storage::disk::Real;

const BATCH: u64 = 1000;
const VALUE_BYTES: usize = 256;

fn key(row: u64) -> Bytes {
    let mut key = [0; 17];
    key[..8].copy_from_slice(&row.to_be_bytes());
    key[8] = b'_';
    Bytes::copy_from_slice(&key)
}

/// User and system time of this process, in hundredths of a second.
fn cpu_ticks() -> Result<(u64, u64), Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let field = |at: usize| fields.get(at).unwrap_or(&"0").parse::<u64>();
    Ok((field(11)?, field(12)?))
}

fn measure(
    what: &str,
    operations: u64,
    work: &mut dyn FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let (start, (user, system)) = (Instant::now(), cpu_ticks()?);
    work()?;
    let (wall, (user_end, system_end)) = (start.elapsed(), cpu_ticks()?);
    let each = |ticks: u64| ticks as f64 * 10_000.0 / operations as f64;
    let (user, system) = (each(user_end - user), each(system_end - system));
    let wall = wall.as_secs_f64() * 1e6 / operations as f64;
    let mut out = std::io::stdout();
    let all = user + system;
    writeln!(
        out,
        "{what:<14} {all:6.3} us CPU ({user:.3} user, {system:.3} system), {wall:.3} us"
    )?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: bolt_bench PATH [ROWS [CACHE_MIB]]")?;
    let rows: u64 = args.next().map_or(Ok(2_000_000), |rows| rows.parse())?;
    let sync = std::env::var_os("NOSYNC").is_none();
    let cache = args.next().map_or(Ok(256), |mebibytes| mebibytes.parse::<usize>())?;
    let options = Options { page_size: 4096, cache_bytes: cache << 20, sync };
    let mut database = Database::open(&Real, Path::new(&path), options)?;
    let mut value = Vec::new();
    measure("append", rows, &mut || {
        for first in (0..rows).step_by(BATCH as usize) {
            let mut batch = Batch::default();
            batch.create_bucket(b"key");
            value = vec![(first / BATCH) as u8; VALUE_BYTES];
            for row in first..first + BATCH {
                batch.put(b"key", key(row), Bytes::copy_from_slice(&value));
            }
            database.commit(batch)?;
        }
        Ok(())
    })?;
    let view = database.view();
    writeln!(std::io::stdout(), "size {}, in use {}", view.size_bytes(), view.in_use_bytes())?;
    let (mut rng, gets, scans) = (Rng::new(1), 500_000, 200);
    measure("get", gets, &mut || {
        for _ in 0..gets {
            view.get(b"key", &key(rng.below(rows)))?.ok_or("a row is missing")?;
        }
        Ok(())
    })?;
    measure("lookup, near", gets, &mut || {
        let mut lookup = view.lookup(b"key");
        let first = rng.below(rows.saturating_sub(gets).max(1));
        for row in 0..gets {
            lookup.get(&key((first + row) % rows))?.ok_or("a row is missing")?;
        }
        Ok(())
    })?;
    measure("scan", scans * 10_000, &mut || {
        for _ in 0..scans {
            let from = key(rng.below(rows - 10_000));
            let found = view.scan(b"key", &from).take(10_000).filter(Result::is_ok).count();
            assert_eq!(found, 10_000);
        }
        Ok(())
    })?;
    measure("scan all, lent", rows, &mut || {
        let mut scan = view.scan(b"key", b"");
        let mut found = 0;
        while scan.next_row()?.is_some() {
            found += 1;
        }
        assert_eq!(found, rows);
        Ok(())
    })?;
    drop(view);
    drop(database);
    let mut database = None;
    measure("open", rows, &mut || {
        database = Some(Database::open(&Real, Path::new(&path), options)?);
        Ok(())
    })?;
    let mut database = database.ok_or("not open")?;
    measure("delete", rows / 10 * 9, &mut || {
        for first in (0..rows).step_by(BATCH as usize) {
            let mut batch = Batch::default();
            for row in (first..first + BATCH).filter(|row| row % 10 != 0) {
                batch.delete(b"key", key(row));
            }
            database.commit(batch)?;
        }
        Ok(())
    })?;
    let view = database.view();
    writeln!(std::io::stdout(), "size {}, in use {}", view.size_bytes(), view.in_use_bytes())?;
    Ok(())
}
