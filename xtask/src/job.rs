//! Runs a program, shows what it prints, and counts the tests that it reports.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Of a quiet program that failed, this many last lines are shown.
const TAIL_LINES_MAX: usize = 300;

/// A line with this in it is kept as evidence, from there on.
const EVIDENCE: &str = "evidence: ";

/// Tests as cargo and Go report them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Their names; Go alone has them.
    pub(crate) skipped: Vec<String>,
    /// What the program wants to be kept.
    pub(crate) evidence: Vec<String>,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped.iter().cloned());
        self.evidence.extend(other.evidence.iter().cloned());
    }

    /// Takes in one line of output; says whether a reader in a hurry wants to see it.
    fn take(&mut self, line: &str) -> bool {
        if let Some((_, kept)) = line.split_once(EVIDENCE) {
            self.evidence.push(kept.trim().to_owned());
            return true;
        }
        let line = line.trim_start();
        if let Some(rest) = line.strip_prefix("test result: ") {
            let number = |what: &str| {
                rest.split([';', '.'])
                    .filter_map(|part| part.trim().strip_suffix(what))
                    .find_map(|number| number.trim().parse::<usize>().ok())
                    .unwrap_or(0)
            };
            self.passed += number("passed");
            self.failed += number("failed");
            return true;
        }
        let Some(rest) = line.strip_prefix("--- ") else {
            return line.starts_with("ok ")
                || line.starts_with("FAIL")
                || line.starts_with("panic");
        };
        let (verdict, name) = rest.split_once(": ").unwrap_or((rest, ""));
        match verdict {
            "PASS" => self.passed += 1,
            "FAIL" => self.failed += 1,
            "SKIP" => self.skipped.push(name.split(' ').next().unwrap_or_default().to_owned()),
            _ => return false,
        }
        verdict != "PASS"
    }
}

/// A program with its arguments.
pub(crate) struct Job {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Everything goes there, and only what matters is shown.
    log: Option<PathBuf>,
}

impl Job {
    pub(crate) fn new(program: &str, arguments: &[&str]) -> Job {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        Job { program: program.to_owned(), arguments, environment: Vec::new(), log: None }
    }

    /// The cargo that runs this program.
    pub(crate) fn cargo(arguments: &[&str]) -> Job {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        Job::new(&cargo, arguments)
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Job {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn quietly(mut self, log: &Path) -> Job {
        self.log = Some(log.to_owned());
        self
    }

    fn command(&self, directory: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(directory).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The line that a person would type.
    pub(crate) fn shown(&self) -> String {
        let program = if self.program.ends_with("cargo") { "cargo" } else { &self.program };
        let mut words: Vec<String> =
            self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        words.push(program.to_owned());
        words.extend(self.arguments.iter().cloned());
        words.join(" ")
    }

    /// Whether the program is there and content.
    pub(crate) fn is_possible(&self, directory: &Path) -> bool {
        let mut command = self.command(directory);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Runs the program to its end, which must be a good one.
    pub(crate) fn run(&self, directory: &Path) -> Result<Counts> {
        let (status, counts) = self.run_to_any_end(directory)?;
        if status.success() && counts.failed == 0 {
            return Ok(counts);
        }
        if let Some(path) = &self.log {
            let text = std::fs::read(path)?;
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES_MAX)..];
            println!("{}", tail.join("\n"));
        }
        bail!("`{}`: {status}, {} tests failed", self.shown(), counts.failed)
    }

    /// Runs a program whose tests must fail, and say in a line of evidence how.
    pub(crate) fn run_to_failure(&self, directory: &Path) -> Result<Counts> {
        let (status, counts) = self.run_to_any_end(directory)?;
        ensure!(
            !status.success() && counts.failed > 0,
            "`{}` must fail, and does not",
            self.shown()
        );
        ensure!(!counts.evidence.is_empty(), "`{}` does not say why it fails", self.shown());
        let evidence = counts.evidence.iter().map(|line| format!("fails as it must: {line}"));
        Ok(Counts { passed: 1, evidence: evidence.collect(), ..Counts::default() })
    }

    fn run_to_any_end(&self, directory: &Path) -> Result<(ExitStatus, Counts)> {
        let shown = self.shown();
        let mut command = self.command(directory);
        let mut log = match &self.log {
            Some(path) => {
                let file = File::create(path).with_context(|| path.display().to_string())?;
                command.stderr(file.try_clone()?);
                Some(BufWriter::new(file))
            }
            None => None,
        };
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| shown.clone())?;
        let output = child.stdout.take().context("the program's output is a pipe")?;
        let mut counts = Counts::default();
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            let wanted = counts.take(&line);
            if let Some(log) = &mut log {
                writeln!(log, "{line}")?;
            }
            if wanted || log.is_none() {
                println!("{line}");
            }
        }
        if let Some(mut log) = log {
            log.flush()?;
        }
        Ok((child.wait()?, counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_counted() {
        let mut counts = Counts::default();
        for line in [
            "test result: ok. 27 passed; 0 failed; 1 ignored; 0 measured; finished in 0.00s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; finished in 1s",
            "--- PASS: TestA (0.00s)",
            "    --- FAIL: TestA/b (0.10s)",
            "--- SKIP: TestC (0.00s)",
            "    state_test.go:9: evidence: 12 crashes, seed 7",
            "some text",
        ] {
            counts.take(line);
        }
        let expected = Counts {
            passed: 31,
            failed: 3,
            skipped: vec!["TestC".to_owned()],
            evidence: vec!["12 crashes, seed 7".to_owned()],
        };
        assert_eq!(counts, expected);
    }
}
