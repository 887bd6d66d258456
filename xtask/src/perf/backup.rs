//! What a backup costs: a client downloads the whole database while others write.
//!
//! One member with a database of about 1 GiB; `etcdctl snapshot save` takes it, in quiet and while
//! writes come in at a steady rate. How fast the download is, how much memory the member takes for
//! it, and what the writes feel, beside what they feel in quiet. The client takes processor time
//! from the member and the load as well; so the same is measured with one that yields to both.
//!
//! The file that the client writes would compete with the member's log for the disk, so `prove`
//! keeps both in memory.
//!
//! *Absent.* Saturating load: it would measure how fast the machine is, not what a backup costs.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::snapshot::latencies;
use super::{Contestant, Server, Tools, benchmark, median_of};

/// How often everything is measured.
const ROUNDS: usize = 5;
/// What the database holds: 125,000 keys with values of 8 KiB.
const FILL: &str = "put --total=125000 --clients=64 --conns=16 --key-size=8 --val-size=8192 \
                    --sequential-keys --key-space-size=125000";
/// Eight seconds of writes.
const STEADY: &str = "put --total=8000 --rate=1000 --clients=64 --conns=16 --key-size=8 \
                      --val-size=256 --sequential-keys --key-space-size=1000";
/// Between the beginning of the writes and that of the first download.
const START_AFTER: Duration = Duration::from_millis(300);
const MIB: f64 = 1024.0 * 1024.0;

/// How a client is run.
#[derive(Clone, Copy)]
enum Client {
    /// As anybody runs it.
    Plain,
    /// It has the processors when nobody else wants them.
    Yielding,
}

/// What writes felt, in milliseconds.
#[derive(Clone, Copy)]
struct Felt {
    p50: f64,
    p99: f64,
}

impl Felt {
    fn of(output: &str) -> Result<Felt> {
        let (p50, p99) = latencies(output)?;
        Ok(Felt { p50, p99 })
    }
}

/// One round.
struct Round {
    /// MiB a second of a download in quiet.
    alone: f64,
    /// How much more memory was resident at most, in MiB.
    grew: f64,
    /// MiB a second of the downloads during the writes.
    meanwhile: f64,
    quiet: Felt,
    busy: Felt,
    /// With a client that yields.
    yielded: Felt,
}

/// Measures each contestant, and returns a table of medians.
pub(super) fn run(tools: &Tools, contestants: &[Contestant]) -> Result<String> {
    let mut report = String::from(
        "| server | database MiB | download MB/s | memory grew MiB | quiet p50 ms | p99 ms | \
         meanwhile MB/s | p50 ms | p99 ms | p99, meanwhile / quiet | client yields: p50 ms | \
         p99 ms | / quiet |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for contestant in contestants {
        let server = Server::start(&contestant.binary, 1)?;
        benchmark(tools, &server.endpoint, FILL)?;
        let measured: Result<Vec<Round>> = (0..ROUNDS).map(|_| round(tools, &server)).collect();
        let database = server.directory.path().join("data0/member/snap/db");
        let size = std::fs::metadata(database)?.len() / (1024 * 1024);
        server.stop()?;
        let measured = measured?;
        let of = |figure: fn(&Round) -> f64| median_of(measured.iter().map(figure).collect());
        let megabytes = |figure: fn(&Round) -> f64| of(figure) * MIB / 1e6;
        let line = format!(
            "| {} | {size} | {:.0} | {:.0} | {:.2} | {:.2} | {:.0} | {:.2} | {:.2} | x{:.2} | \
             {:.2} | {:.2} | x{:.2} |",
            contestant.name,
            megabytes(|r| r.alone),
            of(|r| r.grew),
            of(|r| r.quiet.p50),
            of(|r| r.quiet.p99),
            megabytes(|r| r.meanwhile),
            of(|r| r.busy.p50),
            of(|r| r.busy.p99),
            of(|r| r.busy.p99 / r.quiet.p99),
            of(|r| r.yielded.p50),
            of(|r| r.yielded.p99),
            of(|r| r.yielded.p99 / r.quiet.p99),
        );
        eprintln!("{line}");
        writeln!(report, "{line}")?;
    }
    Ok(report)
}

fn round(tools: &Tools, server: &Server) -> Result<Round> {
    // What was written before must not be on its way to the disk while latencies are taken.
    ensure!(Command::new("sync").status()?.success(), "the file system does not sync");
    let quiet = Felt::of(&benchmark(tools, &server.endpoint, STEADY)?)?;
    let before = server.memory_mib("VmRSS:")?;
    server.forget_peak()?;
    let alone = download(tools, server, Client::Plain)?;
    let grew = server.peak_mib()? - before;
    let (busy, rates) = during_downloads(tools, server, Client::Plain)?;
    let (yielded, _) = during_downloads(tools, server, Client::Yielding)?;
    Ok(Round { alone, grew, meanwhile: median_of(rates), quiet, busy, yielded })
}

/// What writes feel while one download follows the other, and how fast these are.
fn during_downloads(tools: &Tools, server: &Server, client: Client) -> Result<(Felt, Vec<f64>)> {
    let done = Arc::new(AtomicBool::new(false));
    let load = {
        let (tools, endpoint, done) = (tools.clone(), server.endpoint.clone(), Arc::clone(&done));
        spawn(move || {
            let output = benchmark(&tools, &endpoint, STEADY);
            done.store(true, Ordering::Release);
            output
        })
    };
    sleep(START_AFTER);
    let mut rates = Vec::new();
    // Ends with the load, which is bounded.
    while !done.load(Ordering::Acquire) {
        rates.push(download(tools, server, client)?);
    }
    let Ok(output) = load.join() else { bail!("the load generator's thread panicked") };
    ensure!(!rates.is_empty(), "no download fell into the writes");
    Ok((Felt::of(&output?)?, rates))
}

/// Saves a snapshot and removes it; MiB a second.
fn download(tools: &Tools, server: &Server, client: Client) -> Result<f64> {
    let file = server.directory.path().join("backup.db");
    let began = Instant::now();
    let mut command = match client {
        Client::Plain => Command::new(&tools.etcdctl),
        Client::Yielding => {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0"]).arg(&tools.etcdctl);
            command
        }
    };
    let status = command
        .args(["--endpoints", &server.endpoint, "--command-timeout=120s", "snapshot", "save"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("saving a snapshot")?;
    let took = began.elapsed().as_secs_f64();
    ensure!(status.success(), "saving a snapshot failed");
    let mib = std::fs::metadata(&file)?.len() as f64 / MIB;
    std::fs::remove_file(&file)?;
    Ok(mib / took)
}
