//! Every scenario with one seed, or what the environment asks for: `SCENARIO_SEED` says with which
//! seed to begin, `SCENARIO_SEEDS` how many are tried, `SCENARIO` a part of the names.

#![allow(clippy::print_stdout, reason = "the test harness keeps what passes to itself")]

use std::time::{Duration, Instant};

use sim::scenarios::{self, Scenario};

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

/// What is wrong with one.
fn judge(scenario: &Scenario, seed: u64) -> Option<String> {
    let begun = Instant::now();
    let report = (scenario.run)(seed);
    let Scenario { name, about, .. } = scenario;
    let took = begun.elapsed();
    println!("{took:>8.2?} {:>8} events {:>5.0?} {name}", report.events, report.simulated);
    if std::env::var_os("STORY").is_some() {
        println!("{}", report.story.join("\n"));
    }
    let failure = report.failure?;
    Some(format!("SCENARIO_SEED={seed} SCENARIO=\"{name}\": {failure}\n  ({about})"))
}

#[test]
fn every_scenario_comes_to_what_users_want() {
    let (first, count) = (number("SCENARIO_SEED", 1), number("SCENARIO_SEEDS", 1));
    let part = std::env::var("SCENARIO").unwrap_or_default();
    let mut failures = Vec::new();
    for seed in first..first + count {
        let wanted = scenarios::all().filter(|scenario| scenario.name.contains(&part));
        failures.extend(wanted.filter_map(|scenario| judge(scenario, seed)));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 4] {
        let run = || {
            let report = sim::run::run(seed, false);
            (report.digest, report.events, report.simulated, report.failure)
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
    // And another one is another.
    let digests = [1, 2].map(|seed| sim::run::run(seed, false).digest);
    assert_ne!(digests[0], digests[1]);
}

#[test]
fn scenarios_repeat_as_well() {
    for scenario in scenarios::all().take(1) {
        let run = || {
            let report = (scenario.run)(3);
            (report.digest, report.events, report.simulated)
        };
        assert_eq!(run(), run(), "{}", scenario.name);
        assert!(run().1 > 0 && run().2 > Duration::ZERO);
    }
}

#[test]
fn names_and_sentences_are_told_apart() {
    let mut names: Vec<&str> = scenarios::all().map(|scenario| scenario.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(scenarios::all().all(|scenario| scenario.about.ends_with('.')));
}
