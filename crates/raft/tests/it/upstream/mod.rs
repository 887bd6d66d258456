//! The scripts of go.etcd.io/raft itself, read from its Go module, run against our core. Every line
//! that they expect must be what we do, but for the text of that library's logger.
//!
//! There is no exception list: every command of every script applies.

mod describe;
mod env;
mod file;
mod majorities;
mod ready;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use file::Directive;

/// Where the module is, as `RAFT_SCRIPTS` or else the Go tool says. `None` without the Go tool.
fn module() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("RAFT_SCRIPTS") {
        return Some(dir.into());
    }
    let compat = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../compat");
    let mut go = Command::new("go");
    go.args(["list", "-m", "-f", "{{.Dir}}", "go.etcd.io/raft/v3"]).current_dir(compat);
    let listed = match go.output() {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("go list: {error}"),
    };
    let error = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.success(), "go list: {error}");
    let dir = String::from_utf8(listed.stdout).unwrap().trim().to_owned();
    assert!(!dir.is_empty(), "the module go.etcd.io/raft/v3 is not here: go mod download");
    Some(dir.into())
}

/// The scripts below `folder` of the module: at least `count`. `None` without the Go tool.
fn scripts(folder: &str, count: usize) -> Option<Vec<PathBuf>> {
    let Some(module) = module() else {
        println!("skipped: the scripts of go.etcd.io/raft/v3 need the Go tool or RAFT_SCRIPTS");
        return None;
    };
    let dir = module.join(folder);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() >= count, "{}: only {} scripts", dir.display(), paths.len());
    Some(paths)
}

/// Whether the line is text of the library's logger.
fn is_log(line: &str) -> bool {
    let levels = ["DEBUG ", "INFO ", "WARN ", "ERROR ", "FATAL "];
    levels.iter().any(|level| line.trim_start().starts_with(level))
}

/// What is compared: the lines without log text. A command that has nothing to say says `ok`.
fn significant(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !is_log(line)).collect();
    if lines.is_empty() {
        lines.push("ok");
    }
    lines
}

/// What a run of a script showed.
#[derive(Default)]
struct Seen {
    /// Each command's expected and actual output.
    outputs: Vec<(String, String)>,
    /// The first lines of the commands whose output was not the expected one, with both.
    differences: String,
}

fn run(path: &Path, execute: impl FnMut(&Directive) -> String) -> Seen {
    run_changed(path, |_| {}, execute)
}

fn run_changed(
    path: &Path,
    change: impl Fn(&mut Directive),
    mut execute: impl FnMut(&Directive) -> String,
) -> Seen {
    let mut seen = Seen::default();
    for mut directive in file::read(path) {
        change(&mut directive);
        let actual = execute(&directive);
        if significant(&directive.expected) != significant(&actual) {
            let (at, line) = (&directive.position, &directive.line);
            let (expected, actual) =
                (significant(&directive.expected).join("\n"), significant(&actual).join("\n"));
            let _ = write!(
                seen.differences,
                "{at}: {line}\n--- expected\n{expected}\n--- actual\n{actual}\n\n"
            );
        }
        seen.outputs.push((directive.expected, actual));
    }
    seen
}

/// Runs every script of `folder`; fails with all differences of the first script that has any.
fn check<E: FnMut(&Directive) -> String>(
    folder: &str,
    count: usize,
    executor: impl Fn() -> E,
) -> Option<Vec<Seen>> {
    let runs = scripts(folder, count)?.into_iter().map(|path| {
        let seen = run(&path, executor());
        assert!(seen.differences.is_empty(), "{}", seen.differences);
        println!("{}: {} commands", path.display(), seen.outputs.len());
        seen
    });
    Some(runs.collect())
}

#[test]
fn interactions() {
    let runs = check("testdata", 28, || {
        let mut env = env::Env::default();
        move |directive: &Directive| env.handle(directive)
    });
    let Some(runs) = runs else { return };
    // The comparison is not so loose that it could not fail: each line counts, and so does its
    // absence.
    let mut lines = 0;
    for (expected, actual) in runs.iter().flat_map(|seen| &seen.outputs) {
        let whole: Vec<&str> = expected.lines().collect();
        for at in (0..whole.len()).filter(|&at| !is_log(whole[at])) {
            let altered = format!("{}!", whole[at]);
            let with = |line: &str| {
                let mut changed = whole.clone();
                changed[at] = line;
                changed.join("\n")
            };
            assert_ne!(significant(&with(&altered)), significant(actual), "{}", whole[at]);
            if whole[at] != "ok" {
                assert_ne!(significant(&with("")), significant(actual), "{}", whole[at]);
            }
            lines += 1;
        }
    }
    assert!(lines > 1_500, "only {lines} lines were compared");
}

/// Runs one script with something changed in each command; it must not pass.
fn check_fails(name: &str, change: impl Fn(&mut Directive), difference: &str) {
    let Some(paths) = scripts("testdata", 28) else { return };
    let path = paths.iter().find(|path| path.ends_with(name)).unwrap();
    let mut env = env::Env::default();
    let seen = run_changed(path, change, |directive| env.handle(directive));
    assert!(seen.differences.contains(difference), "{}", seen.differences);
}

#[test]
fn an_altered_expectation_is_noticed() {
    let change = |directive: &mut Directive| {
        directive.expected = directive.expected.replace("(Hint: 18)", "(Hint: 17)");
    };
    check_fails(
        "probe_and_replicate.txt",
        change,
        "5->1 MsgAppResp Term:8 Log:6/20 Rejected (Hint: 17)",
    );
}

#[test]
fn another_behaviour_is_noticed() {
    let change = |directive: &mut Directive| {
        for argument in &mut directive.arguments {
            if argument.key == "inflight" {
                argument.values = vec!["2".to_owned()];
            }
        }
    };
    check_fails("replicate_pause.txt", change, "paused inflight=2[full]");
}

#[test]
fn quorums() {
    check("quorum/testdata", 4, || majorities::handle);
}

#[test]
fn configuration_changes() {
    check("confchange/testdata", 9, || {
        let mut changer = majorities::Changer::default();
        move |directive: &Directive| changer.handle(directive)
    });
}
