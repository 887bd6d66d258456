//! What a million keys take in memory: after they are written, while one answer holds all of them,
//! and after a restart.
//!
//! Peaks are those of the step named: the kernel's high-water mark is set back before each.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Contestant, Server, Tools, benchmark};

/// A million keys of 8 B with values of 128 B.
const WRITE: &str = "put --total=1000000 --clients=256 --conns=16 --key-size=8 --val-size=128 \
                     --sequential-keys --key-space-size=1000000";
const KEYS: &str = "1000000";

/// Measures each contestant, and returns a table.
pub(super) fn run(tools: &Tools, contestants: &[Contestant]) -> Result<String> {
    let mut report = String::from(
        "| server | 1 M keys, resident MiB | one range over all, peak MiB | after a restart, \
         resident MiB | start, peak MiB |\n|---|---|---|---|---|\n",
    );
    for contestant in contestants {
        let server = Server::start(&contestant.binary, 1)?;
        benchmark(tools, &server.endpoint, WRITE)?;
        ensure_all_there(tools, &server)?;
        let written = server.memory_mib("VmRSS:")?;
        server.forget_peak()?;
        range_over_all(tools, &server)?;
        let ranged = server.peak_mib()?;
        let directory = server.stop()?;
        let server = Server::start_on(&contestant.binary, 1, directory, &[])?;
        ensure_all_there(tools, &server)?;
        let (restarted, start) = (server.memory_mib("VmRSS:")?, server.peak_mib()?);
        server.stop()?;
        let name = contestant.name;
        let line = format!("| {name} | {written:.0} | {ranged:.0} | {restarted:.0} | {start:.0} |");
        eprintln!("{line}");
        writeln!(report, "{line}")?;
    }
    Ok(report)
}

fn etcdctl(tools: &Tools, server: &Server, words: &[&str]) -> Command {
    let mut command = Command::new(&tools.etcdctl);
    command.args(["--command-timeout=120s", "--endpoints", &server.endpoint]).args(words);
    command
}

fn ensure_all_there(tools: &Tools, server: &Server) -> Result<()> {
    let words = ["get", "", "--from-key", "--count-only", "-w", "fields"];
    let output = etcdctl(tools, server, &words).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let count = text.lines().find_map(|line| line.strip_prefix("\"Count\" : "));
    ensure!(count == Some(KEYS), "not all keys are there: {text}");
    Ok(())
}

fn range_over_all(tools: &Tools, server: &Server) -> Result<()> {
    let status = etcdctl(tools, server, &["get", "", "--from-key", "-w", "protobuf"])
        .stdout(Stdio::null())
        .status()
        .context("reading all keys")?;
    ensure!(status.success(), "reading all keys failed");
    Ok(())
}
