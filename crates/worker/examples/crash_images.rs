//! Writes what crashes leave as real data directories, for real etcd to open.
//!
//! `crash_images OUT SEED COUNT` makes `OUT/0000/data` and so on, each with an `expect.json` that
//! says what a member must find there: the newest revision that a client was told, and the revision
//! and `HashKV` that the log amounts to.

#![allow(
    missing_docs,
    dead_code,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a tool, which shares its harness with the tests"
)]

use std::path::Path;

use base::Rng;
use storage::disk::{Faulty, Image};

#[path = "../tests/world/harness/mod.rs"]
mod harness;

use harness::HandClock;
use harness::life::{leave, one_life};
use harness::reference::Summary;
use harness::world::{End, Promised, World, check_order};

/// Lives before the one whose end is kept.
const LIVES_MAX: u64 = 5;

/// One image with what was promised and what it holds; `None` when nothing was promised.
fn image(seed: u64) -> Result<Option<(Image, Promised, Summary)>, End> {
    let mut rng = Rng::new(seed);
    let clock = HandClock::default();
    let (mut disk, mut promised) = (Faulty::new(seed), Promised::default());
    for _ in 0..=rng.below(LIVES_MAX) {
        promised = one_life(&mut rng, &disk, &clock, promised, 700)?;
        let image = leave(&mut rng, &disk);
        check_order(&image)?;
        disk =
            Faulty::from_image(&image, rng.next_u64()).map_err(|e| End::Failed(e.to_string()))?;
    }
    if promised.index.0 == 0 {
        return Ok(None);
    }
    // Everything on this disk is durable; what a member does to it is done to a copy.
    let image = disk.live_image();
    let copy = Faulty::from_image(&image, seed).map_err(|e| End::Failed(e.to_string()))?;
    let mut world = World::start(&copy, &clock, promised.clone())?;
    world.settle()?;
    let summary = world.check()?;
    Ok(Some((image, promised, summary)))
}

fn expectation(seed: u64, promised: &Promised, found: &Summary) -> String {
    format!(
        "{{\"seed\":{seed},\"acknowledged_index\":{},\"acknowledged_revision\":{},\"revision\":{},\
         \"compact_revision\":{},\"hash\":{},\"leases\":{}}}\n",
        promised.index,
        promised.revision,
        found.revision,
        found.compacted,
        found.hash,
        found.leases.len()
    )
}

fn write(out: &Path, first_seed: u64, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    let mut written = 0;
    for seed in first_seed.. {
        if written == count {
            return Ok(());
        }
        let image = image(seed).map_err(|end| format!("seed {seed}: {end:?}"))?;
        let Some((image, promised, found)) = image else { continue };
        let target = out.join(format!("{written:04}"));
        image.write_to(&target)?;
        std::fs::write(target.join("expect.json"), expectation(seed, &promised, &found))?;
        written += 1;
    }
    Ok(())
}

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match arguments.as_slice() {
        [out, seed, count] => seed.parse().ok().zip(count.parse().ok()).map(|n| (out, n)),
        _ => None,
    };
    let Some((out, (seed, count))) = parsed else {
        eprintln!("usage: crash_images OUT SEED COUNT");
        return std::process::ExitCode::from(2);
    };
    match write(Path::new(out), seed, count) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crash_images: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
