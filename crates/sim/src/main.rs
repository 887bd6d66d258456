//! The simulator's command.
//!
//! Exit codes: 0 when every run ended well, 2 for words that it does not know, 3 when a member
//! crashed, 4 when a promise was broken, 5 when a healthy cluster made no progress, 6 when too
//! little was met on the way.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sim::coverage::Coverage;
use sim::run::{Report, run};
use sim::runner::{self, Seeds};
use sim::scenarios;
use sim::tally::Tally;
use sim::world::Failure;

const USAGE: &str = "usage: sim SEED [--story]          one run; --story tells what happens in it
       sim --seeds A..B [-j N]     those runs, N at a time
       sim --for 60s [-j N]        runs from fresh seeds for a time
       sim scenario NAME|ISSUE|all told runs instead of drawn ones
       sim scenarios               their names
       sim mutants [--sample]      deliberate bugs, to be found (built with --features mutants)";

/// What was asked for.
enum Command {
    One { seed: u64, with_story: bool },
    Many { seeds: Seeds, demands_coverage: bool },
    Scenario(String),
    Scenarios,
    Mutants { is_sample: bool, jobs: usize },
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = match parse(&words) {
        Ok(command) => command,
        Err(what) => {
            eprintln!("sim: {what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A panic of a member is a result, and told as one.
    std::panic::set_hook(Box::new(|_| {}));
    match command {
        Command::One { seed, with_story } => one(seed, with_story),
        Command::Many { seeds, demands_coverage } => many(seeds, demands_coverage),
        Command::Scenario(name) => scenario(&name),
        Command::Scenarios => {
            for scenario in scenarios::all() {
                println!("{:32} {}", scenario.name, scenario.about);
            }
            ExitCode::SUCCESS
        }
        Command::Mutants { is_sample, jobs } => mutants(is_sample, jobs),
    }
}

fn parse(words: &[String]) -> Result<Command, String> {
    let mut words = words.iter().map(String::as_str);
    let (mut seed, mut range, mut within, mut with_story) = (None, None, None, false);
    let (mut jobs, mut is_hunt, mut is_sample) = (1, false, false);
    while let Some(word) = words.next() {
        let mut value = |what: &str| words.next().ok_or(format!("{word} wants {what}"));
        match word {
            "scenarios" => return Ok(Command::Scenarios),
            "scenario" => return Ok(Command::Scenario(value("a name")?.to_owned())),
            "mutants" => is_hunt = true,
            "--sample" => is_sample = true,
            "--seeds" => range = Some(range_of(value("A..B")?)?),
            "--for" => within = Some(seconds_of(value("a time, as in 60s")?)?),
            "-j" => jobs = number_of(value("a number")?)?,
            "--story" => with_story = true,
            number => seed = Some(number_of(number)?),
        }
    }
    let jobs = usize::try_from(jobs).map_err(|_| "-j is too large".to_owned())?;
    if is_hunt {
        return Ok(Command::Mutants { is_sample, jobs });
    }
    if let Some(seed) = seed {
        return Ok(Command::One { seed, with_story });
    }
    let (first, end) = match (range, within) {
        (Some(range), _) => range,
        (None, Some(_)) => (fresh_seed(), u64::MAX),
        (None, None) => return Err("which seed?".to_owned()),
    };
    let seeds = Seeds { first, end, within, jobs, stops_at_failure: within.is_some() };
    Ok(Command::Many { seeds, demands_coverage: true })
}

fn number_of(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word:?} is not a number"))
}

fn range_of(word: &str) -> Result<(u64, u64), String> {
    let (first, end) = word.split_once("..").ok_or(format!("{word:?} is not A..B"))?;
    let (first, end) = (number_of(first)?, number_of(end)?);
    if first < end { Ok((first, end)) } else { Err(format!("{word:?} is empty")) }
}

fn seconds_of(word: &str) -> Result<Duration, String> {
    let (number, unit) = match word.split_at_checked(word.len().saturating_sub(1)) {
        Some((number, "s")) => (number, 1),
        Some((number, "m")) => (number, 60),
        Some((number, "h")) => (number, 3600),
        _ => (word, 1),
    };
    Ok(Duration::from_secs(number_of(number)? * unit))
}

/// The one draw that is not repeatable: it is printed.
fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_secs() * 1_000_000)
}

fn code_of(failure: &Failure) -> ExitCode {
    ExitCode::from(match failure {
        Failure::Crash(_) => 3,
        Failure::Safety(_) => 4,
        Failure::Liveness(_) => 5,
    })
}

fn one(seed: u64, with_story: bool) -> ExitCode {
    println!("cargo run --release -p sim -- {seed}");
    let report = run(seed, with_story);
    for line in &report.story {
        println!("{line}");
    }
    tell(&report);
    print!("{}", report.coverage);
    report.failure.as_ref().map_or(ExitCode::SUCCESS, code_of)
}

fn tell(report: &Report) {
    println!(
        "seed {}: {} calls acknowledged, {:.1} s simulated, {} events, digest {:016x}",
        report.seed,
        report.acknowledged,
        report.simulated.as_secs_f64(),
        report.events,
        report.digest,
    );
    if let Some(failure) = &report.failure {
        println!("seed {} fails: {failure}", report.seed);
    }
}

fn many(seeds: Seeds, demands_coverage: bool) -> ExitCode {
    let Seeds { first, end, within, jobs, .. } = seeds;
    match within {
        None => println!("cargo run --release -p sim -- --seeds {first}..{end} -j {jobs}"),
        Some(_) => println!("from seed {first} on; again, one: cargo run --release -p sim -- SEED"),
    }
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut code = None;
    runner::go(seeds, |report| {
        if let Some(failure) = &report.failure {
            code.get_or_insert(code_of(failure));
            tell(&report);
        }
        tally.add(&report);
    });
    print!("{}", tally.table());
    println!("{}", tally.sentence(begun.elapsed(), jobs));
    if let Some(code) = code {
        return code;
    }
    let missing = if demands_coverage { tally.missing() } else { Vec::new() };
    for line in &missing {
        println!("too little was met: {line}");
    }
    if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(6) }
}

fn scenario(name: &str) -> ExitCode {
    let is_meant = |one: &&scenarios::Scenario| {
        let is_issue = one.issue.is_some_and(|issue| issue.to_string() == name);
        name == "all" || one.name == name || is_issue
    };
    let chosen: Vec<_> = scenarios::all().filter(is_meant).collect();
    if chosen.is_empty() {
        eprintln!("sim: there is no scenario {name:?}; `sim scenarios` tells all");
        return ExitCode::from(2);
    }
    let mut code = ExitCode::SUCCESS;
    let mut coverage = Coverage::default();
    for scenario in chosen {
        println!("cargo run --release -p sim -- scenario {}", scenario.name);
        let report = (scenario.run)(1);
        coverage.merge(&report.coverage);
        if let Some(failure) = &report.failure {
            println!("{} fails: {failure}", scenario.name);
            code = code_of(failure);
        }
    }
    code
}

/// Runs that each bug is given when only a sample is wanted. Half of the bugs must be found in as
/// many.
#[cfg(feature = "mutants")]
const SAMPLE_SEEDS: u64 = 20;

#[cfg(feature = "mutants")]
fn mutants(is_sample: bool, jobs: usize) -> ExitCode {
    let seeds_max = if is_sample { SAMPLE_SEEDS } else { u64::MAX };
    let hunted = sim::mutants::hunt_all(seeds_max, jobs);
    for one in &hunted {
        let name = one.mutant.name();
        match &one.found {
            Some((seed, failure)) => {
                let tried = seed - sim::mutants::FIRST_SEED + 1;
                let how: String = failure.to_string().chars().take(160).collect();
                println!("evidence: {name}: found by run {tried} of {}: {how}", one.seeds_max);
            }
            None if one.is_missed() => println!("{name}: NOT FOUND by {} runs", one.seeds),
            None => println!("{name}: not found by a sample of {} runs", one.seeds),
        }
    }
    let found = hunted.iter().filter(|one| one.found.is_some()).count();
    println!("evidence: {found} of {} deliberate bugs found", hunted.len());
    let is_missed = hunted.iter().any(sim::mutants::Hunted::is_missed);
    if is_missed { ExitCode::from(4) } else { ExitCode::SUCCESS }
}

#[cfg(not(feature = "mutants"))]
fn mutants(_: bool, _: usize) -> ExitCode {
    eprintln!("sim: there are no mutants here; build with --features mutants");
    ExitCode::from(2)
}
