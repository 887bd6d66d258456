//! `cargo xtask ci`: the gate. One step after another; the first that fails ends it.
//!
//! *Invariants.* A tool that is missing is said, never passed over in silence; a comparison that
//! could run and did not (a skipped test) is a failure.
//!
//! *Absent.* Parallel steps: on two cores they would only take turns.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::job::{Counts, Job};
use crate::tidy;

/// What a step comes to.
enum Outcome {
    /// It went well, with so many tests.
    Done(Counts),
    /// It could not run here, for this reason.
    Skipped(&'static str),
}

type Step = (&'static str, fn(&Path) -> Result<Outcome>);

const STEPS: [Step; 9] = [
    ("test", test),
    ("fuzz", fuzz),
    ("sim", sim),
    ("fmt", fmt),
    ("clippy", clippy),
    ("doc", doc),
    ("tidy", check_tidy),
    ("deny", deny),
    ("compat", compat),
];

/// How long each decoder is fed.
const FUZZ_SECONDS: &str = "3";

/// How the simulator and the binary that is compared are built.
const PROFILE: &str = "gate";

/// For how long whole clusters are simulated.
const SIM_TIME: &str = "45s";

/// How long the comparison with real etcd may take.
const COMPAT_MAX: &str = "-timeout=15m";

/// Runs all steps.
pub(crate) fn run(root: &Path) -> Result<()> {
    let start = Instant::now();
    let mut total = Counts::default();
    let mut times = Vec::new();
    let mut failure = None;
    for (name, step) in STEPS {
        println!("== {name}");
        let begun = Instant::now();
        let outcome = step(root);
        let took = seconds(begun.elapsed());
        let told = match &outcome {
            Ok(Outcome::Done(counts)) => {
                total.add(counts);
                format!("ok, {took}")
            }
            Ok(Outcome::Skipped(why)) => format!("skipped: {why}"),
            Err(error) => {
                // A step without tests of its own counts as one thing that failed.
                total.failed += 1;
                format!("FAILED, {took}: {error:#}")
            }
        };
        println!("-- {name}: {told}");
        times.push(format!("{name:8} {told}"));
        if outcome.is_err() {
            failure = Some(name);
            break;
        }
    }
    println!("\n{}\nall in {}", times.join("\n"), seconds(start.elapsed()));
    println!("{} passed, {} failed", total.passed, total.failed);
    match failure {
        Some(name) => bail!("step {name} failed"),
        None => Ok(()),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn test(root: &Path) -> Result<Outcome> {
    let counts = Job::cargo(&["test", "--workspace"]).run(root)?;
    Ok(Outcome::Done(counts))
}

/// What the step before has built, for longer.
fn fuzz(root: &Path) -> Result<Outcome> {
    let words = ["test", "--workspace", "fuzz::", "--", "--nocapture", "--test-threads=2"];
    let job = Job::cargo(&words).env("FUZZ_SECONDS", FUZZ_SECONDS);
    Ok(Outcome::Done(job.run(root)?))
}

/// Drawn runs from fresh seeds, and deliberate bugs that must be found. One build serves both: the
/// bugs are switched off in the first. The told runs are tests.
fn sim(root: &Path) -> Result<Outcome> {
    let mut counts = Counts::default();
    let run = ["run", "--profile", PROFILE, "-p", "sim", "--features", "mutants", "--"];
    for words in [["--for", SIM_TIME, "-j", "2"], ["mutants", "--sample", "-j", "2"]] {
        counts.add(&Job::cargo(&[&run[..], &words].concat()).run(root)?);
    }
    Ok(Outcome::Done(counts))
}

fn fmt(root: &Path) -> Result<Outcome> {
    Ok(Outcome::Done(Job::cargo(&["fmt", "--all", "--", "--check"]).run(root)?))
}

fn clippy(root: &Path) -> Result<Outcome> {
    let words = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    Ok(Outcome::Done(Job::cargo(&words).run(root)?))
}

fn doc(root: &Path) -> Result<Outcome> {
    let job = Job::cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    Ok(Outcome::Done(job.run(root)?))
}

fn check_tidy(root: &Path) -> Result<Outcome> {
    tidy::run(root)?;
    Ok(Outcome::Done(Counts::default()))
}

fn deny(root: &Path) -> Result<Outcome> {
    if !Job::cargo(&["deny", "--version"]).is_possible(root) {
        return Ok(Outcome::Skipped("cargo-deny is not installed"));
    }
    let words = ["deny", "check", "bans", "licenses", "sources"];
    Ok(Outcome::Done(Job::cargo(&words).run(root)?))
}

fn compat(root: &Path) -> Result<Outcome> {
    if !Job::new("go", &["version"]).is_possible(root) {
        return Ok(Outcome::Skipped("Go is not installed"));
    }
    Job::cargo(&["build", "--profile", PROFILE]).run(root)?;
    let module = root.join("compat");
    Job::new("go", &["vet", "./..."]).run(&module)?;
    let binary = root.join("target").join(PROFILE).join("quorate");
    let counts = Job::new("go", &["test", "-v", "-count=1", "-parallel=4", COMPAT_MAX, "./..."])
        .env("QUORATE_BIN", &binary.to_string_lossy())
        .quietly(&root.join("target/compat.log"))
        .run(&module)?;
    if let Some(name) = counts.skipped.first() {
        bail!("{} tests were skipped though Go is there, first {name}", counts.skipped.len());
    }
    Ok(Outcome::Done(counts))
}
