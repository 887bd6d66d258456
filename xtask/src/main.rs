//! Repository automation: `cargo xtask <task>`.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod ci;
mod cluster;
mod codegen;
mod job;
mod jsontable;
mod perf;
mod prove;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo xtask TASK
  ci                   everything that must hold before a change lands
  tidy                 house rules that a program can check
  cluster [MEMBERS]    three members on 2379, 22379 and 32379, until ctrl-c
  codegen              the Rust code of the wire messages, from crates/proto/proto
  perf [ROUNDS [MEMBERS]]  load beside real etcd; needs Go and a release build
  perf memory          what a million keys take, beside real etcd
  perf snapshot        what writes feel while a member gets a snapshot, beside real etcd
  perf backup          how fast a client gets a snapshot, and what that costs, beside real etcd
  prove [NAME [SEED]]  a check at full size, told in docs/evidence/NAME.md; --small for a trial";

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").into()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        ["ci"] => ci::run(&root()),
        ["tidy"] => tidy::run(&root()),
        ["cluster"] => cluster::run(&root(), "3"),
        ["cluster", members] => cluster::run(&root(), members),
        ["codegen"] => codegen::write(),
        ["perf", "memory"] => perf::memory_beside_etcd(&root()),
        ["perf", "snapshot"] => perf::snapshot_beside_etcd(&root()),
        ["perf", "backup"] => perf::backup_beside_etcd(&root()),
        ["perf"] => perf::beside_etcd(&root(), 1, 1),
        ["perf", rounds] => perf::beside_etcd(&root(), rounds.parse()?, 1),
        ["perf", rounds, members] => perf::beside_etcd(&root(), rounds.parse()?, members.parse()?),
        ["prove", words @ ..] => prove::run(&root(), words),
        _ => bail!("{USAGE}"),
    }
}
