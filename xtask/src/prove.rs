//! `cargo xtask prove NAME [SEED] [--small]`: checks at full size, too long for the gate, and the
//! page that tells what they found.
//!
//! *Invariants.* `docs/evidence/NAME.md` is written only if every command went well (one that must
//! fail, to show that a check can, has failed) and the sizes were the full ones; it names the
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
    /// The commands, in order; `SEED` in a setting becomes the seed, `200/4` a size: the full one,
    /// and the one of a trial.
    commands: &'static [Line],
}

/// A command with its folder and the settings of its environment.
struct Line {
    folder: &'static str,
    environment: &'static [(&'static str, &'static str)],
    words: &'static [&'static str],
    /// It is to fail.
    fails: bool,
}

const fn line(
    folder: &'static str,
    environment: &'static [(&'static str, &'static str)],
    words: &'static [&'static str],
) -> Line {
    Line { folder, environment, words, fails: false }
}

const fn failing(
    folder: &'static str,
    environment: &'static [(&'static str, &'static str)],
    words: &'static [&'static str],
) -> Line {
    Line { folder, environment, words, fails: true }
}

const BUILD: Line = line(".", &[], &["cargo", "build", "--release"]);

/// A whole member on the simulated disk, without other processes.
const CRASH_TESTS: &[&str] =
    &["cargo", "test", "--release", "-p", "worker", "--test", "it", "--", "--nocapture", "crash::"];
const CRASH_TEST: &[&str] = &[
    "cargo",
    "test",
    "--release",
    "-p",
    "worker",
    "--test",
    "it",
    "--",
    "--nocapture",
    "nothing_acknowledged_is_lost",
];

/// The simulator with these words.
macro_rules! sim {
    ($($words:literal),+) => {
        line(".", &[], &["cargo", "run", "--release", "-p", "sim", $($words),+])
    };
}

/// Tests of `compat/` by name, with two hours to run.
macro_rules! compat {
    ($names:literal, $environment:expr) => {
        line(
            "compat",
            $environment,
            &["go", "test", "-v", "-count=1", "-timeout=2h", "-run", $names, "."],
        )
    };
}

const PROOFS: &[Proof] = &[
    Proof {
        name: "crashes",
        claim: "Fifty times killed under load, nothing acknowledged is missing, revisions do not \
                go back, and real etcd reads the same from the directory.",
        commands: &[
            BUILD,
            compat!("^TestCrash$", &[("COMPAT_CRASHES", "50/2"), ("COMPAT_SEED", "SEED")]),
        ],
    },
    Proof {
        name: "power-loss",
        claim: "Two hundred directories as a power loss leaves them, taken between any two \
                operations of the disk, open in ours and in real etcd with everything that was \
                acknowledged; so do, in ours, those of five hundred histories, and of one cut off \
                before each of its operations. Without syncs the same test fails.",
        commands: &[
            BUILD,
            compat!("^TestPowerLoss$", &[("COMPAT_IMAGE_COUNT", "200/4"), ("COMPAT_SEED", "SEED")]),
            line(
                ".",
                &[("CRASH_SEED", "SEED"), ("CRASH_SEEDS", "500/20"), ("CRASH_EVERY", "1/50")],
                CRASH_TESTS,
            ),
            failing(
                ".",
                &[("CRASH_SEED", "SEED"), ("CRASH_SEEDS", "500/20"), ("CRASH_SYNC", "off")],
                CRASH_TEST,
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
            compat!("^TestRandomHistory$", &[("COMPAT_OPS", "20000/500"), ("COMPAT_SEED", "SEED")]),
        ],
    },
    Proof {
        name: "performance",
        claim: "Load on one member beside real etcd in one run, three rounds in turn, medians; \
                ratios below. At last what a million keys take in memory.",
        commands: &[
            BUILD,
            line(".", &[], &["cargo", "xtask", "perf", "3"]),
            line(".", &[], &["cargo", "xtask", "perf", "memory"]),
        ],
    },
    Proof {
        name: "performance-cluster",
        claim: "Load on three members beside three of real etcd, as above; CPU and memory are \
                those of all together.",
        commands: &[BUILD, line(".", &[], &["cargo", "xtask", "perf", "3", "3"])],
    },
    Proof {
        name: "performance-snapshot",
        claim: "The latency of writes while a member that lagged behind gets the database, beside \
                that in quiet; of three members, and of three of real etcd. All directories are in \
                memory: on one disk for all, that disk would be measured.",
        commands: &[
            BUILD,
            line(".", &[("TMPDIR", "/dev/shm")], &["cargo", "xtask", "perf", "snapshot"]),
        ],
    },
    Proof {
        name: "backup",
        claim: "In quiet a client downloads a database of 1 GiB at 200 MB/s or more, the member \
                takes less than 64 MiB of memory for it; while others write it is slower, so that \
                they feel little of it; real etcd is measured beside. Directories and files are in \
                memory: on one disk for all, that disk would be measured.",
        commands: &[
            BUILD,
            line(".", &[("TMPDIR", "/dev/shm")], &["cargo", "xtask", "perf", "backup"]),
        ],
    },
    Proof {
        name: "hostile",
        claim: "While somebody lets a log block, fills its disk, scrapes without reading, half \
                opens TLS connections, sends bodies a byte at a time or requests without a \
                message, writes go on with at most twice the p99 of quiet, and memory is bounded; \
                real etcd is measured beside.",
        commands: &[BUILD, compat!("^TestHostileClients$", &[("COMPAT_HOSTILE", "3/0")])],
    },
    Proof {
        name: "tools",
        claim: "etcdctl prints the same against ours and real etcd, and so does `quorate ctl`; \
                etcdutl and `quorate utl` print and leave the same, and refuse the same; a cluster is \
                made of what is left of one; what cannot be used is not touched.",
        commands: &[
            BUILD,
            line(
                "compat",
                &[],
                &[
                    "go",
                    "test",
                    "-v",
                    "-count=1",
                    "-run",
                    "^Test(Etcdctl|Ctl.*|Completion|Utl.*|Rescue|Untouched.*)$",
                    ".",
                ],
            ),
        ],
    },
    Proof {
        name: "doors",
        claim: "Every flag, variable and key of the configuration file, every certificate, every \
                route of the JSON gateway, every HTTP path, every metric and every kind of log \
                output beside real etcd; locks and elections; members that find each other by \
                DNS and by a discovery service; kubeadm's flags; every alert in its fault and in \
                quiet; directories of etcd 3.5 and 3.6.",
        commands: &[
            BUILD,
            compat!(
                "^(TestFlags.*|TestReload|TestKubeadm|TestBootstrap.*|TestTLS.*|TestGateway.*)$",
                &[]
            ),
            compat!(
                "^(TestLockCrowd|TestDoors|TestHealthStates|TestProfile|TestStalledDisk|TestListen)$",
                &[("COMPAT_CROWD", "3000/100")]
            ),
            compat!("^(TestMetrics.*|TestAlerts|TestLog.*|TestTracing.*)$", &[]),
            compat!("^TestOlderDirectories$", &[("COMPAT_OLDER_OPS", "3000/100")]),
        ],
    },
    Proof {
        name: "cluster",
        claim: "The leader of three members is killed under load, a hundred times: another one \
                leads after it, nothing acknowledged is lost, the application's watch is \
                unbroken, and HashKV and history are equal on all members. Beside it the same \
                of real etcd.",
        commands: &[
            BUILD,
            compat!(
                "^TestClusterKills$",
                &[
                    ("COMPAT_KILLS", "100/3"),
                    ("COMPAT_MIX", "QQQ,EEE,QQE/QQQ"),
                    ("COMPAT_SEED", "SEED")
                ]
            ),
        ],
    },
    Proof {
        name: "mixed",
        claim: "Members of Quorate, etcd 3.7 and etcd 3.6 are one cluster: bootstrapped together \
                or joined later, under a random workload with leases, transactions and \
                compactions, leadership handed around with etcdctl, HashKV and history are equal \
                on all. Who lags behind gets a snapshot, in every direction, and one product \
                finishes what was killed in the other.",
        commands: &[
            BUILD,
            compat!(
                "^TestClusterMixed$",
                &[
                    ("COMPAT_CLUSTER_OPS", "20000/900"),
                    ("COMPAT_MIX", "QQQ,QQE,QEE,EQQ,6QQ,66Q,6EQ,Q6E/QQE"),
                    ("COMPAT_SEED", "SEED"),
                ]
            ),
            // Where 3.6 takes part it must be there first: it joins no cluster of version 3.7.
            compat!(
                "^TestClusterJoined$",
                &[
                    ("COMPAT_CLUSTER_OPS", "10000/900"),
                    ("COMPAT_MIX", "QQQ,QQE,QEE,EQQ,6QQ,66Q,6EQ/QQE"),
                    ("COMPAT_SEED", "SEED"),
                ]
            ),
            compat!(
                "^TestClusterCatchUp$",
                &[("COMPAT_MIX", "QEQ,EQE,6QQ,Q66,6EQ/QEQ"), ("COMPAT_SEED", "SEED")]
            ),
            compat!(
                "^TestClusterInstallKilled$",
                &[
                    ("COMPAT_INSTALL_KILLS", "40/2"),
                    ("COMPAT_MIX", "QEQ,EEQ,QQQ,6QQ/QEQ"),
                    ("COMPAT_SEED", "SEED"),
                ]
            ),
        ],
    },
    Proof {
        name: "migration",
        claim: "Three members of real etcd become three of Quorate and go back, one after the \
                other, in place and by new members, under an application that notices nothing \
                but delays: no request fails in the end, no revision goes back, its watch misses \
                nothing.",
        commands: &[
            BUILD,
            compat!(
                "^TestMigration$",
                &[
                    ("COMPAT_MIGRATIONS", "10/1"),
                    ("COMPAT_MIX", "EQE,6Q6,6QE/EQE"),
                    ("COMPAT_SEED", "SEED"),
                ]
            ),
            line(".", &[], &["scripts/migrate-live.sh"]),
        ],
    },
    Proof {
        name: "membership",
        claim: "Thirty random changes of the membership in a row under load, pure and mixed: \
                members come, learn, vote, move, are killed and go, the leader among them. What \
                must be refused is refused in etcd's words.",
        commands: &[
            BUILD,
            compat!(
                "^TestMembershipChanges$",
                &[
                    ("COMPAT_CHANGES", "30/4"),
                    ("COMPAT_MIX", "QQQ,QQE,QEE,6QE/QQE"),
                    ("COMPAT_SEED", "SEED"),
                ]
            ),
            compat!("^TestMembershipChangesInARow$", &[("COMPAT_MIX", "QQQ,QQE,EQE/QQQ")]),
            compat!(
                "^(TestMembershipRefusals|TestStartRefusals)$",
                &[("COMPAT_MIX", "QQQ,QEE,EQQ/QQQ")]
            ),
        ],
    },
    Proof {
        name: "faults",
        claim: "The network between the members fails in every way - cut, silent, one way only, \
                slow, lossy - and members are killed at random: what clients were answered is \
                linearizable, and a connected majority serves. Bad frames, broken snapshots, \
                impostors and a peer that stops reading cost neither memory nor data.",
        commands: &[
            BUILD,
            compat!(
                "^TestClusterFaults$",
                &[
                    ("COMPAT_FAULTS", "60/4"),
                    ("COMPAT_MIX", "QQQ,QQE,QEE,6QQ/QQQ"),
                    ("COMPAT_SEED", "SEED"),
                ]
            ),
            compat!(
                "^TestClusterNemesis$",
                &[
                    ("COMPAT_STROKES", "300/8"),
                    ("COMPAT_MIX", "QQQ,QQE,QEE,QQQQQ/QQQ"),
                    ("COMPAT_SEED", "SEED"),
                ]
            ),
            compat!(
                "^TestPeer",
                &[
                    ("COMPAT_ABUSES", "20/1"),
                    ("COMPAT_STOPPED_MB", "300/20"),
                    ("COMPAT_MIX", "QQQ,QQE,EQE/QQE"),
                ]
            ),
        ],
    },
    Proof {
        name: "rounds",
        claim: "Directories of etcd 3.5, 3.6 and 3.7 with a million keys, values up to 1.4 MiB, \
                users, leases and alarms go from product to product, stopped and killed, down to \
                3.5 and up again, and hold the same at each hop; killed under load nothing \
                acknowledged is lost. Snapshots of all of them are restored by the tools of all \
                of them. What cannot be started on is refused and untouched; beside it, what etcd \
                does.",
        commands: &[
            BUILD,
            compat!(
                "^TestRounds$//killed=true",
                &[("COMPAT_ROUNDS_KEYS", "1000000/20000"), ("COMPAT_SEED", "SEED")]
            ),
            compat!("^TestRounds$//killed=false", &[("COMPAT_SEED", "SEED")]),
            compat!(
                "^TestRoundsKilled$",
                &[("COMPAT_ROUND_KILLS", "15/3"), ("COMPAT_SEED", "SEED")]
            ),
            compat!("^TestRoundsDown$", &[("COMPAT_SEED", "SEED")]),
            compat!(
                "^TestDowngradeRounds$",
                &[("COMPAT_MIX", "QQE,QEE,QQQ/QQE"), ("COMPAT_SEED", "SEED")]
            ),
            compat!(
                "^TestSnapshotRounds$",
                &[("COMPAT_ROUNDS_ALL", "1/0"), ("COMPAT_SEED", "SEED")]
            ),
            compat!("^TestUntouched", &[("COMPAT_ROUNDS_REAL", "1/")]),
        ],
    },
    Proof {
        name: "simulation",
        claim: "Twenty thousand clusters of one to seven members, each drawn from a seed with its \
                own network, disks, clocks, faults and clients, keep every promise while anything \
                may break, and go on when a majority is mended. So do the told runs, one for each \
                regression that etcd's users paid for.",
        commands: &[
            sim!("--", "scenario", "all"),
            sim!("--", "--seeds", "1..20001/1..301", "-j", "2"),
        ],
    },
    Proof {
        name: "mutants",
        claim: "Deliberate bugs, each built into the product behind a switch that only the \
                simulator has, are all found by the same checkers within a bounded number of \
                runs.",
        commands: &[sim!("--features", "mutants", "--", "mutants", "-j", "2")],
    },
    Proof {
        name: "fuzz",
        claim: "Files, messages of other members, requests and answers that are almost right are \
                refused or mean something, for every decoder: no panic, no hang, no memory that \
                a number in them asks for, and the same outcome in whatever pieces they come.",
        commands: &[line(
            ".",
            &[("FUZZ_SECONDS", "300/2"), ("FUZZ_SEED", "SEED")],
            &["cargo", "test", "--workspace", "fuzz::", "--", "--nocapture", "--test-threads=2"],
        )],
    },
];

const SEED: &str = "1";

/// Runs the proof of that name and writes its page; without a name, lists the proofs.
pub(crate) fn run(root: &Path, words: &[&str]) -> Result<()> {
    let (words, small) = match words {
        [words @ .., "--small"] => (words, true),
        words => (words, false),
    };
    let (name, seed) = match words {
        [] => {
            for proof in PROOFS {
                println!("{:16} {}", proof.name, proof.claim);
            }
            return Ok(());
        }
        [name] => (*name, SEED),
        [name, seed] => (*name, *seed),
        _ => bail!("usage: cargo xtask prove [NAME [SEED]] [--small]"),
    };
    let proof = PROOFS
        .iter()
        .find(|proof| proof.name == name)
        .with_context(|| format!("no proof `{name}`; `cargo xtask prove` lists them"))?;
    let start = Instant::now();
    let mut counts = Counts::default();
    let mut shown = Vec::new();
    for line in proof.commands {
        let sized: Vec<&str> = line.words.iter().map(|word| size(word, small)).collect();
        let mut job = match sized.as_slice() {
            ["cargo", words @ ..] => Job::cargo(words),
            [program, words @ ..] => Job::new(program, words),
            [] => bail!("a command without words"),
        };
        for (variable, value) in line.environment {
            job = job.env(variable, setting(value, seed, small));
        }
        let not = if line.fails { "! " } else { "" };
        shown.push(match line.folder {
            "." => format!("{not}{}", job.shown()),
            folder => format!("(cd {folder} && {not}{})", job.shown()),
        });
        println!("$ {}", shown[shown.len() - 1]);
        let folder = root.join(line.folder);
        counts.add(&if line.fails { job.run_to_failure(&folder)? } else { job.run(&folder)? });
    }
    ensure!(counts.skipped.is_empty(), "skipped: {}", counts.skipped.join(", "));
    if small {
        println!("{}", counts.evidence.join("\n"));
        println!("{} passed, {} failed; a trial leaves no page", counts.passed, counts.failed);
        return Ok(());
    }
    let took = start.elapsed().as_secs();
    let page = page(proof, seed, &commit(root)?, &shown, &counts, took);
    let path = root.join("docs/evidence").join(format!("{name}.md"));
    std::fs::create_dir_all(root.join("docs/evidence"))?;
    std::fs::write(&path, page).with_context(|| path.display().to_string())?;
    println!("{} passed, {} failed; docs/evidence/{name}.md", counts.passed, counts.failed);
    Ok(())
}

/// What a word comes to that gives numbers for a proof and for a trial.
fn size(word: &str, small: bool) -> &str {
    let is_sized = word.starts_with(|first: char| first.is_ascii_digit());
    if is_sized { setting(word, "", small) } else { word }
}

/// What a setting comes to.
fn setting<'a>(value: &'a str, seed: &'a str, small: bool) -> &'a str {
    match value.split_once('/') {
        // A path is not two sizes.
        Some(("", _)) => value,
        Some((_, trial)) if small => trial,
        Some((full, _)) => full,
        None if value == "SEED" => seed,
        None => value,
    }
}

fn commit(root: &Path) -> Result<String> {
    let git = |words: &[&str]| -> Result<String> {
        let output = Command::new("git").args(words).current_dir(root).output()?;
        ensure!(output.status.success(), "git {}", words.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // Pages of other proofs change nothing that is proven.
    let changed =
        !git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/evidence"])?
            .is_empty();
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
    fn settings_know_seed_and_size() {
        let of = |value, small| setting(value, "7", small);
        assert_eq!((of("SEED", false), of("off", true)), ("7", "off"));
        assert_eq!((of("200/4", false), of("200/4", true)), ("200", "4"));
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = PROOFS.iter().map(|proof| proof.name).collect();
        assert_eq!(names.len(), PROOFS.len());
    }
}
