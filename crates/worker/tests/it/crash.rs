//! Power losses and kills between any two operations of the disk.
//!
//! `CRASH_SEEDS` says how many histories are tried, `CRASH_SEED` with which one to begin;
//! `CRASH_EVERY=1` tries every operation of one history; with `CRASH_SYNC=off` the first test must
//! fail. Lines with `evidence: ` are what `cargo xtask prove power-loss` keeps.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::driver::Doing;
use crate::lives::Run;
use crate::workload::Kinds;

const SEEDS: u64 = 16;
const LIVES: u64 = 5;
const IMAGES: u64 = 3;

/// What the crashes came upon.
#[derive(Debug, Default)]
struct Seen {
    crashes: BTreeMap<Doing, usize>,
    images: usize,
    entries: usize,
    /// Entries that were in the log and that nobody had seen the effect of.
    unseen: usize,
    compacted: usize,
}

/// One life, its end, and every image of it.
fn crash(run: &mut Run, seen: &mut Seen) -> Result<(), String> {
    let doing = run.live()?;
    *seen.crashes.entry(doing).or_default() += 1;
    let mut images: Vec<_> = (0..IMAGES).map(|_| run.disk.image(&mut run.rng)).collect();
    images.push(run.disk.live_image());
    for (number, image) in images.iter().enumerate() {
        let found = run.judge.check(image, &run.history, &mut run.rng);
        let found = found.map_err(|what| format!("while {doing:?}, image {number}: {what}"))?;
        seen.images += 1;
        if let Some(found) = found {
            seen.compacted += usize::from(found.hash.compact_revision.get() > 0);
        }
    }
    let image = run.rng.pick(&images);
    run.resume(image)
}

fn run(seed: u64, lies: bool, seen: &mut Seen) -> Result<(), String> {
    let mut run = Run::new(seed, Kinds::ALL);
    for life in 0..LIVES {
        if lies {
            run.disk.lie_about_syncs();
        }
        let before = run.history.entries.len();
        crash(&mut run, seen).map_err(|what| format!("life {life}: {what}"))?;
        seen.entries += run.history.entries.len().saturating_sub(before);
    }
    seen.unseen += run.history.entries.len() - run.history.applied as usize;
    Ok(())
}

pub(crate) fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

#[test]
fn nothing_acknowledged_is_lost_whatever_the_power_interrupts() {
    let (first, seeds) = (number("CRASH_SEED", 1), number("CRASH_SEEDS", SEEDS));
    let mut seen = Seen::default();
    let mut losses = Vec::new();
    for seed in first..first + seeds {
        let ended = catch_unwind(AssertUnwindSafe(|| run(seed, false, &mut seen)));
        match ended.unwrap_or_else(|_| Err("a promise to the member is broken".into())) {
            Ok(()) => {}
            Err(what) => losses.push(format!("CRASH_SEED={seed} CRASH_SEEDS=1: {what}")),
        }
    }
    if let [first, ..] = losses.as_slice() {
        println!("evidence: {} of {seeds} histories lose something: {first}", losses.len());
        panic!("{first}");
    }
    println!(
        "evidence: {seeds} histories of {LIVES} lives from seed {first}: {} images of power losses \
         and kills opened, {} after a compaction; {} entries written; nothing acknowledged is \
         missing; interrupted while {:?}",
        seen.images, seen.compacted, seen.entries, seen.crashes,
    );
    if seeds >= SEEDS {
        let kinds = [
            Doing::Create,
            Doing::Open,
            Doing::Append,
            Doing::Cut,
            Doing::Snapshot,
            Doing::Commit,
            Doing::CommitWhileCompacting,
        ];
        for doing in kinds {
            assert!(seen.crashes.contains_key(&doing), "no crash while {doing:?}: {seen:?}");
        }
        assert!(seen.compacted * 2 > seen.images, "{seen:?}");
    }
}

/// One history, cut off between every two of its operations (or, in a short run, some of them).
#[test]
fn every_operation_may_be_the_last() {
    const OPERATIONS: u64 = 700;
    let every = number("CRASH_EVERY", 29);
    let mut images = 0;
    for last in (0..OPERATIONS).step_by(every as usize) {
        let mut run = Run::new(3, Kinds::ALL);
        let doing = run.live_for(last).unwrap();
        for image in [run.disk.image(&mut run.rng), run.disk.live_image()] {
            let found = run.judge.check(&image, &run.history, &mut run.rng);
            assert!(found.is_ok(), "operation {last}, {doing:?}: {}", found.unwrap_err());
            images += 1;
        }
    }
    println!(
        "evidence: one history of {OPERATIONS} operations of the disk, cut off before each (step \
         {every}): {images} images opened, nothing acknowledged is missing",
    );
}

/// Histories tried on a disk that lies, and how many of them must come out wrong.
const LIES: u64 = 20;
const LIES_FOUND_MIN: usize = 15;

#[test]
fn syncs_that_lie_are_found_out() {
    let lost = |seed: &u64| {
        let run = || run(*seed, true, &mut Seen::default());
        !matches!(catch_unwind(run), Ok(Ok(())))
    };
    let found = (1..=LIES).filter(lost).count();
    println!(
        "evidence: {found} of {LIES} histories on a disk that lies about syncs come out wrong"
    );
    assert!(
        found >= LIES_FOUND_MIN,
        "only {found} of {LIES} histories on a lying disk came out wrong"
    );
}
