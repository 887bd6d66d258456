//! Writes random histories to a database file, for other readers of the format to check.
//!
//! ```text
//! bolt_history PATH SEED ROUNDS   commits ROUNDS random batches, reopening now and then
//! bolt_history PATH               prints a line a bucket: its path, its rows, their hash
//! bolt_history crash DIR SEED     writes DIR/N/db for power losses all along a history
//! bolt_history image PATH TO      copies the newest state
//! bolt_history rewrite PATH SEED  takes random rows out and puts them back: the same content
//! ```
//!
//! The hash is FNV-1a, 64 bits, over key, value and their lengths (u32, little endian) of all
//! rows in order. A history ends by printing its content in the second form.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use base::Rng;
use bytes::Bytes;
use storage::bolt::{Batch, Database, Options, View};
use storage::disk::{Disk, Faulty, Open, Real};

type Outcome = Result<(), Box<dyn Error>>;

fn options() -> Options {
    let page_size = std::env::var("PAGE_SIZE").ok().and_then(|size| size.parse().ok());
    Options { page_size: page_size.unwrap_or(4096), cache_bytes: 4 << 20, sync: true }
}

fn key(rng: &mut Rng, kind: u64) -> Bytes {
    let number = rng.below(20_000);
    match kind {
        0 => [&number.to_be_bytes()[..], b"_\0\0\0\0\0\0\0\0"].concat().into(),
        1 => {
            let mut key = number.to_be_bytes().to_vec();
            key.resize(8 + (number as usize * 37) % 2_000, b'k');
            key.into()
        }
        _ => format!("/registry/pods/{number}").into(),
    }
}

fn value(rng: &mut Rng) -> Bytes {
    let len = match rng.below(100) {
        0 => 20_000 + rng.below(200_000),
        1..=4 => 1_000 + rng.below(8_000),
        _ => rng.below(400),
    };
    vec![(rng.next_u64() & 0xff) as u8; len as usize].into()
}

/// A random change of the state that a view shows.
fn batch(rng: &mut Rng, view: &View, rows: u64) -> Result<Batch, Box<dyn Error>> {
    let mut batch = Batch::default();
    for _ in 0..1 + rng.below(3) {
        let bucket = if rng.one_in(10) { 4 + rng.below(40) } else { rng.below(4) };
        let name = format!("bucket-{bucket}");
        let name = name.as_bytes();
        batch.create_bucket(name);
        let count = 1 + rng.below(rows);
        match rng.below(8) {
            0..=2 => {
                let first = rng.next_u64() >> 1;
                for step in 0..count {
                    let key = [&(first + step).to_be_bytes()[..], b"_\0\0\0\0\0\0\0\0"].concat();
                    batch.put(name, key.into(), value(rng));
                }
            }
            3 | 4 => {
                for _ in 0..count {
                    batch.put(name, key(rng, bucket), value(rng));
                }
            }
            5 => {
                for _ in 0..count {
                    batch.delete(name, key(rng, bucket));
                }
            }
            _ => {
                let all = if rng.one_in(3) { usize::MAX } else { count as usize * 4 };
                for row in view.scan(name, &key(rng, bucket)).take(all) {
                    batch.delete(name, row?.0);
                }
            }
        }
    }
    Ok(batch)
}

fn history(path: &Path, seed: u64, rounds: u64) -> Outcome {
    let mut rng = Rng::new(seed);
    let mut database = Database::open(&Real, path, options())?;
    let mut held = Vec::new();
    for _ in 0..rounds {
        let batch = batch(&mut rng, &database.view(), 300)?;
        held.push(database.commit(batch)?);
        if held.len() > 4 {
            held.swap_remove(rng.below(4) as usize);
        }
        if rng.one_in(20) {
            held.clear();
            drop(database);
            database = Database::open(&Real, path, options())?;
        }
    }
    print(&database.view(), &mut Vec::new())
}

fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn print(view: &View, path: &mut Vec<Bytes>) -> Outcome {
    let names: Vec<&[u8]> = path.iter().map(|name| &name[..]).collect();
    let mut scan = view.scan_nested(&names, b"");
    let (mut rows, mut hash) = (0u64, 0xcbf2_9ce4_8422_2325);
    while let Some((key, value)) = scan.next_row()? {
        rows += 1;
        for part in [key, value] {
            hash = fnv1a(fnv1a(hash, &(part.len() as u32).to_le_bytes()), part);
        }
    }
    let shown = String::from_utf8_lossy(&names.join(&b"/"[..])).into_owned();
    writeln!(std::io::stdout(), "/{shown} {rows} {hash:016x}")?;
    for name in view.buckets_nested(&names)? {
        path.push(name);
        print(view, path)?;
        path.pop();
    }
    Ok(())
}

fn crash(directory: &Path, seed: u64) -> Outcome {
    let run = |disk: &Faulty| -> Outcome {
        let mut rng = Rng::new(seed);
        let mut database = Database::open(disk, Path::new("/db"), options())?;
        for _ in 0..30 {
            let batch = batch(&mut rng, &database.view(), 60)?;
            database.commit(batch)?;
        }
        Ok(())
    };
    let whole = Faulty::new(seed);
    run(&whole)?;
    for operation in 0..whole.operations() {
        let disk = Faulty::new(seed);
        disk.crash_at(operation);
        if run(&disk).is_ok() {
            continue;
        }
        for draw in 0..3 {
            let image = disk.image(&mut Rng::new(draw));
            image.write_to(&directory.join(format!("{operation}-{draw}")))?;
        }
    }
    Ok(())
}

fn image(path: &Path, to: &Path) -> Outcome {
    let image = Database::open(&Real, path, options())?.view().image();
    let file = Real.open(to, Open::Truncate)?;
    let mut offset = 0;
    while offset < image.len() {
        let bytes = image.read_at(offset, 1 << 20)?;
        file.write_all_at(&bytes, offset)?;
        offset += bytes.len() as u64;
    }
    Ok(())
}

fn rewrite(path: &Path, seed: u64) -> Outcome {
    let mut rng = Rng::new(seed);
    let mut database = Database::open(&Real, path, options())?;
    for bucket in database.view().buckets()? {
        for _ in 0..20 {
            let view = database.view();
            let mut without = Batch::default();
            let mut back = Batch::default();
            let share = 1 + rng.below(10);
            for row in view.scan(&bucket, b"") {
                let (key, value) = row?;
                if rng.one_in(share) {
                    without.delete(&bucket, key.clone());
                    back.put(&bucket, key, value);
                }
            }
            database.commit(without)?;
            database.commit(back)?;
        }
    }
    Ok(())
}

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(|arg| &arg[..]).collect();
    match args[..] {
        ["crash", directory, seed] => crash(Path::new(directory), seed.parse()?),
        ["image", path, to] => image(Path::new(path), Path::new(to)),
        ["rewrite", path, seed] => rewrite(Path::new(path), seed.parse()?),
        [path, seed, rounds] => history(Path::new(path), seed.parse()?, rounds.parse()?),
        [path] => {
            let database = Database::open(&Real, Path::new(path), options())?;
            print(&database.view(), &mut Vec::new())
        }
        _ => Err("usage: bolt_history PATH [SEED ROUNDS] | crash DIR SEED | image .. | rewrite .."
            .into()),
    }
}
