//! Whole groups by seed: a network that loses, doubles, delays and reorders, members that crash and
//! lose what was not written, changes of the configuration, transfers, compaction and snapshots.
//! What the paper promises is checked after every event; at the end everything is healed, and the
//! group must get on.

mod checks;
mod group;
mod machine;

use group::Group;

/// How many groups are tried. Each one is repeated by its number alone.
const SEEDS: u64 = 250;

#[test]
fn groups_agree_and_recover() {
    let mut sums = group::Counts::default();
    for seed in 0..SEEDS {
        let counts = Group::new(seed).run();
        sums.add(&counts);
    }
    println!("{SEEDS} groups: {sums:?}");
    // The faults and changes do take place.
    for (what, count, at_least) in [
        ("elections", sums.elections, 3 * SEEDS),
        ("committed entries", sums.committed, 40 * SEEDS),
        ("reads", sums.reads, 5 * SEEDS),
        ("crashes", sums.crashes, SEEDS),
        ("lost writes", sums.lost_writes, SEEDS / 4),
        ("installed snapshots", sums.installs, SEEDS / 4),
        ("changes of the configuration", sums.changes, SEEDS),
        ("joint configurations", sums.joints, SEEDS / 4),
        ("transfers", sums.transfers, SEEDS / 4),
        ("refused appends", sums.refusals, SEEDS),
    ] {
        assert!(count >= at_least, "only {count} {what} in {SEEDS} groups");
    }
}

#[test]
fn a_seed_says_everything() {
    for seed in [3, 77] {
        assert_eq!(Group::new(seed).run(), Group::new(seed).run());
    }
}

/// For one seed of a failure: `RAFT_SEED=n cargo test -p raft one_group`.
#[test]
fn one_group() {
    let seed = std::env::var("RAFT_SEED").map_or(0, |seed| seed.parse().unwrap());
    let counts = Group::new(seed).run();
    assert!(counts.committed > 0, "{counts:?}");
}
