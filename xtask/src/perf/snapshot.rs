//! What writes feel while a member that lagged behind gets the whole database.
//!
//! A follower of three members is killed, and starts again when the log has forgotten what it
//! needs, while writes come in at a steady rate through the other two: their latency then, beside
//! their latency when one is down and nothing happens. That a snapshot was installed is seen from
//! outside, by a database file that is another one than before.
//!
//! Members that share a disk would measure how it is shared, so `prove` keeps their directories in
//! memory.
//!
//! *Absent.* Saturating load: it would measure how fast the machine is, not what a snapshot costs.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Contestant, Server, Tools, benchmark, fetch, median_of, number_after};

/// How often a member gets a snapshot.
const ROUNDS: usize = 3;
/// What the database holds: 300,000 keys with values of 1 KiB.
const FILL: &str = "put --total=300000 --clients=128 --conns=16 --key-size=8 --val-size=1024 \
                    --sequential-keys --key-space-size=300000";
/// More entries than a member keeps for one that lags behind.
const FORGET: &str = "put --total=12000 --clients=128 --conns=16 --key-size=8 --val-size=256 \
                      --sequential-keys --key-space-size=1000";
/// Six seconds of writes.
const STEADY: &str = "put --total=9000 --rate=1500 --clients=64 --conns=16 --key-size=8 \
                      --val-size=256 --sequential-keys --key-space-size=1000";
/// When, after the writes began, the member starts again.
const START_AFTER: Duration = Duration::from_millis(500);
/// A leader that has sent a snapshot forgets nothing for so long (`releaseDelayAfterSnapshot` of
/// etcd's server.go), so that the next snapshot needs more time between.
const RELEASE: Duration = Duration::from_secs(31);
/// How long the snapshot may take.
const INSTALL_MAX: Duration = Duration::from_secs(60);
/// Members keep 5,000 entries behind a snapshot, and take one this often.
const FLAGS: [&str; 1] = ["--snapshot-count=1000"];

/// One round: latencies in milliseconds, in quiet and while the snapshot was on its way.
struct Round {
    quiet_p50: f64,
    quiet_p99: f64,
    sent_p50: f64,
    sent_p99: f64,
    /// From the member's start to its new database, in seconds.
    install: f64,
}

/// Measures each contestant, and returns a table of medians.
pub(super) fn run(tools: &Tools, contestants: &[Contestant]) -> Result<String> {
    let mut report = String::from(
        "| server | database MiB | installed after s | quiet p50 ms | p99 ms | meanwhile p50 ms | \
         p99 ms | p99, meanwhile / quiet |\n|---|---|---|---|---|---|---|---|\n",
    );
    for contestant in contestants {
        let mut server = Server::start_on(&contestant.binary, 3, tempfile::tempdir()?, &FLAGS)?;
        benchmark(tools, &server.endpoint, FILL)?;
        let measured: Result<Vec<Round>> = (0..ROUNDS).map(|_| round(tools, &mut server)).collect();
        let size = std::fs::metadata(database(&server, 0))?.len() / (1024 * 1024);
        server.stop()?;
        let measured = measured?;
        let of = |figure: fn(&Round) -> f64| median_of(measured.iter().map(figure).collect());
        let line = format!(
            "| {} | {size} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} | x{:.2} |",
            contestant.name,
            of(|r| r.install),
            of(|r| r.quiet_p50),
            of(|r| r.quiet_p99),
            of(|r| r.sent_p50),
            of(|r| r.sent_p99),
            of(|r| r.sent_p99 / r.quiet_p99),
        );
        eprintln!("{line}");
        writeln!(report, "{line}")?;
    }
    Ok(report)
}

fn round(tools: &Tools, server: &mut Server) -> Result<Round> {
    let endpoints: Vec<String> = server.endpoint.split(',').map(str::to_owned).collect();
    let victim = follower(&endpoints)?;
    let others: Vec<&str> =
        (0..endpoints.len()).filter(|at| *at != victim).map(|at| endpoints[at].as_str()).collect();
    let others = others.join(",");
    server.kill(victim)?;
    benchmark(tools, &others, FORGET)?;
    // What was written before must not be on its way to the disk while latencies are taken.
    ensure!(Command::new("sync").status()?.success(), "the file system does not sync");
    let (quiet_p50, quiet_p99) = latencies(&benchmark(tools, &others, STEADY)?)?;

    let old = std::fs::metadata(database(server, victim))?.ino();
    let load = {
        let tools = tools.clone();
        spawn(move || benchmark(&tools, &others, STEADY))
    };
    sleep(START_AFTER);
    server.restart(victim)?;
    let started = Instant::now();
    while std::fs::metadata(database(server, victim)).map_or(old, |file| file.ino()) == old {
        ensure!(started.elapsed() < INSTALL_MAX, "the member that lagged behind gets no snapshot");
        sleep(Duration::from_millis(5));
    }
    let install = started.elapsed().as_secs_f64();
    sleep(RELEASE);
    let Ok(output) = load.join() else { bail!("the load generator's thread panicked") };
    let (sent_p50, sent_p99) = latencies(&output?)?;
    Ok(Round { quiet_p50, quiet_p99, sent_p50, sent_p99, install })
}

fn database(server: &Server, member: usize) -> std::path::PathBuf {
    server.directory.path().join(format!("data{member}/member/snap/db"))
}

/// A member that does not lead.
fn follower(endpoints: &[String]) -> Result<usize> {
    for (at, endpoint) in endpoints.iter().enumerate() {
        if fetch(endpoint, "/metrics")?.contains("\netcd_server_is_leader 0") {
            return Ok(at);
        }
    }
    bail!("no member follows")
}

/// The median and the 99th percentile, in milliseconds.
pub(super) fn latencies(output: &str) -> Result<(f64, f64)> {
    let of = |name: &str| {
        number_after(output, name)
            .map(|seconds| seconds * 1e3)
            .with_context(|| format!("the load generator said: {output}"))
    };
    Ok((of("50% in ")?, of("99% in ")?))
}
