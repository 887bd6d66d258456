//! Whole clusters in one thread, from one seed.
//!
//! `CLUSTER_SEEDS` says how many are tried, `CLUSTER_SEED` with which one to begin,
//! `CLUSTER_STEPS` how long each works before everything is mended.

mod history;
mod member;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use base::Rng;
use world::{Faults, Seen, World};

use crate::crash::number;

const SEEDS: u64 = 24;
const STEPS: u64 = 12_000;

fn run(seed: u64, steps: u64) -> Seen {
    let faults = Faults::draw(&mut Rng::new(seed ^ 0xfa17));
    let mut world = World::new(seed, 3, faults);
    world.run(steps);
    world.settle();
    world.check();
    world.seen
}

/// Runs a seed; says which one it was when it fails.
fn named<T>(seed: u64, run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        println!("CLUSTER_SEED={seed} CLUSTER_SEEDS=1");
        resume_unwind(panic)
    })
}

#[test]
fn members_agree_whatever_happens_to_them() {
    let (first, seeds) = (number("CLUSTER_SEED", 1), number("CLUSTER_SEEDS", SEEDS));
    let steps = number("CLUSTER_STEPS", STEPS);
    let mut seen = Seen::default();
    for seed in first..first + seeds {
        seen.add(&named(seed, || run(seed, steps)));
    }
    println!("{seen:#?}");
}
