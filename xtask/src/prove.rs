//! `cargo xtask prove NAME [SEED]`: checks at full size, too long for the gate, and the page that
//! tells what they found.
//!
//! *Invariants.* `docs/evidence/NAME.md` is written only if every command went well; it names the
//! commit, the seed and the commands, so that anybody can run the same again. Figures are the
//! lines that a command prints with `evidence: ` in them.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::job::{Counts, Job};

/// A check at full size.
struct Proof {
    name: &'static str,
    /// One sentence: what is shown if it passes.
    claim: &'static str,
    /// The commands, in order; `SEED` in a setting becomes the seed.
    commands: &'static [Line],
}

/// A command with its folder and the settings of its environment.
struct Line {
    folder: &'static str,
    environment: &'static [(&'static str, &'static str)],
    words: &'static [&'static str],
}

const fn line(
    folder: &'static str,
    environment: &'static [(&'static str, &'static str)],
    words: &'static [&'static str],
) -> Line {
    Line { folder, environment, words }
}

const BUILD: Line = line(".", &[], &["cargo", "build", "--release"]);

const PROOFS: [Proof; 5] = [
    Proof {
        name: "crashes",
        claim: "Fifty times killed under load, nothing acknowledged is missing, revisions do not \
                go back, and real etcd reads the same from the directory.",
        commands: &[
            BUILD,
            line(
                "compat",
                &[("COMPAT_CRASHES", "50"), ("COMPAT_SEED", "SEED")],
                &["go", "test", "-v", "-count=1", "-timeout=2h", "-run", "^TestCrash$", "."],
            ),
        ],
    },
    Proof {
        name: "power-loss",
        claim: "Two hundred directories as a power loss leaves them, taken between any two \
                operations of the disk, open in ours and in real etcd with everything that was \
                acknowledged.",
        commands: &[
            BUILD,
            line(
                "compat",
                &[("COMPAT_IMAGE_COUNT", "200"), ("COMPAT_SEED", "SEED")],
                &["go", "test", "-v", "-count=1", "-timeout=2h", "-run", "^TestPowerLoss$", "."],
            ),
        ],
    },
    Proof {
        name: "random-history",
        claim: "After twenty thousand random requests, with compactions in between, every answer, \
                the HashKV and the watch streams equal real etcd's, and each goes on with the \
                other's directory.",
        commands: &[
            BUILD,
            line(
                "compat",
                &[("COMPAT_OPS", "20000"), ("COMPAT_SEED", "SEED")],
                &[
                    "go",
                    "test",
                    "-v",
                    "-count=1",
                    "-timeout=2h",
                    "-run",
                    "^TestRandomHistory$",
                    ".",
                ],
            ),
        ],
    },
    Proof {
        name: "performance",
        claim: "Load beside real etcd in one run, three rounds in turn, medians; ratios below.",
        commands: &[BUILD, line(".", &[], &["cargo", "xtask", "perf", "3"])],
    },
    Proof {
        name: "tools",
        claim: "etcdctl prints the same against ours and real etcd, and so does `quorate ctl`.",
        commands: &[
            BUILD,
            line(
                "compat",
                &[],
                &["go", "test", "-v", "-count=1", "-run", "^(TestEtcdctl|TestCtl)$", "."],
            ),
        ],
    },
];

const SEED: &str = "1";

/// Runs the proof of that name and writes its page; without a name, lists the proofs.
pub(crate) fn run(root: &Path, words: &[&str]) -> Result<()> {
    let (name, seed) = match words {
        [] => {
            for proof in &PROOFS {
                println!("{:16} {}", proof.name, proof.claim);
            }
            return Ok(());
        }
        [name] => (*name, SEED),
        [name, seed] => (*name, *seed),
        _ => bail!("usage: cargo xtask prove [NAME [SEED]]"),
    };
    let proof = PROOFS
        .iter()
        .find(|proof| proof.name == name)
        .with_context(|| format!("no proof `{name}`; `cargo xtask prove` lists them"))?;
    let start = Instant::now();
    let mut counts = Counts::default();
    let mut shown = Vec::new();
    for line in proof.commands {
        let mut job = match line.words {
            ["cargo", words @ ..] => Job::cargo(words),
            [program, words @ ..] => Job::new(program, words),
            [] => bail!("a command without words"),
        };
        for (variable, value) in line.environment {
            job = job.env(variable, if *value == "SEED" { seed } else { value });
        }
        shown.push(match line.folder {
            "." => job.shown(),
            folder => format!("(cd {folder} && {})", job.shown()),
        });
        println!("$ {}", shown[shown.len() - 1]);
        counts.add(&job.run(&root.join(line.folder))?);
    }
    ensure!(counts.skipped.is_empty(), "skipped: {}", counts.skipped.join(", "));
    let took = start.elapsed().as_secs();
    let page = page(proof, seed, &commit(root)?, &shown, &counts, took);
    let path = root.join("docs/evidence").join(format!("{name}.md"));
    std::fs::create_dir_all(root.join("docs/evidence"))?;
    std::fs::write(&path, page).with_context(|| path.display().to_string())?;
    println!("{} passed, {} failed; docs/evidence/{name}.md", counts.passed, counts.failed);
    Ok(())
}

fn commit(root: &Path) -> Result<String> {
    let git = |words: &[&str]| -> Result<String> {
        let output = Command::new("git").args(words).current_dir(root).output()?;
        ensure!(output.status.success(), "git {}", words.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    let note = if changed { " with changes on top" } else { "" };
    Ok(git(&["rev-parse", "HEAD"])? + note)
}

fn page(
    proof: &Proof,
    seed: &str,
    commit: &str,
    commands: &[String],
    counts: &Counts,
    took_seconds: u64,
) -> String {
    let mut page = format!("# {}\n\n{}\n\n", proof.name, proof.claim);
    let _ = writeln!(page, "| | |\n|---|---|");
    let _ = writeln!(page, "| commit | `{commit}` |");
    let _ = writeln!(page, "| seed | {seed} |");
    let _ = writeln!(page, "| tests | {} passed, {} failed |", counts.passed, counts.failed);
    let _ = writeln!(page, "| time | {took_seconds} s |");
    let _ = writeln!(page, "| again | `cargo xtask prove {} {seed}` |", proof.name);
    let _ = writeln!(page, "\nIt runs\n\n```sh\n{}\n```", commands.join("\n"));
    if !counts.evidence.is_empty() {
        page.push_str("\nFigures:\n\n");
        for line in &counts.evidence {
            // Rows of a table stay what they are.
            let item = if line.starts_with('|') { "" } else { "- " };
            let _ = writeln!(page, "{item}{line}");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_how_to_run_it_again() {
        let counts =
            Counts { passed: 3, evidence: vec!["50 kills".to_owned()], ..Default::default() };
        let page = page(&PROOFS[0], "7", "abc", &["go test .".to_owned()], &counts, 9);
        for part in
            ["# crashes\n", "`abc`", "| seed | 7 |", "prove crashes 7", "go test .", "- 50 kills"]
        {
            assert!(page.contains(part), "{page}");
        }
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = PROOFS.iter().map(|proof| proof.name).collect();
        assert_eq!(names.len(), PROOFS.len());
    }
}
