//! Load side by side: the same work on real etcd and on ours, interleaved in one run.
//!
//! The load generator is etcd's own `benchmark`. What counts is the ratio within one run: absolute
//! figures are noise on a shared machine. Servers run one at a time on loopback; every piece of
//! work is bounded in count.

mod backup;
mod memory;
mod snapshot;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a server may take to become healthy.
const READY_MAX: Duration = Duration::from_secs(30);
/// How long a server may take to stop.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Clock ticks a second in `/proc/PID/stat`; fixed at 100 on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// One piece of work: what is written before, and what is measured.
struct Work {
    name: &'static str,
    setup: Setup,
    operations: u64,
    arguments: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Setup {
    Nothing,
    OneKey,
    /// 20,000 keys of 1 KiB.
    List,
}

const WORKS: [Work; 7] = [
    Work {
        name: "put, 1 client",
        setup: Setup::Nothing,
        operations: 3_000,
        arguments: "put --total=3000 --clients=1 --conns=1 --key-size=8 --val-size=256 \
                    --sequential-keys --key-space-size=100000",
    },
    Work {
        name: "put, 256 clients",
        setup: Setup::Nothing,
        operations: 60_000,
        arguments: "put --total=60000 --clients=256 --conns=16 --key-size=8 --val-size=256 \
                    --sequential-keys --key-space-size=100000",
    },
    Work {
        name: "linearizable get, 256 clients",
        setup: Setup::OneKey,
        operations: 100_000,
        arguments: "range k --total=100000 --clients=256 --conns=16 --consistency=l",
    },
    Work {
        name: "serializable get, 256 clients",
        setup: Setup::OneKey,
        operations: 100_000,
        arguments: "range k --total=100000 --clients=256 --conns=16 --consistency=s",
    },
    Work {
        name: "list of 20k keys of 1 KiB",
        setup: Setup::List,
        operations: 100,
        arguments: "range a b --total=100 --clients=4 --conns=4 --consistency=l",
    },
    Work {
        name: "mixed txn, 128 clients",
        setup: Setup::Nothing,
        operations: 4_000,
        arguments: "txn-mixed k --total=4000 --clients=128 --conns=16 --key-space-size=10000 \
                    --rw-ratio=2 --val-size=256",
    },
    Work {
        name: "lease keepalive, 128 clients",
        setup: Setup::Nothing,
        operations: 60_000,
        arguments: "lease-keepalive --total=60000 --clients=128 --conns=16",
    },
];

/// A server to measure, by the name that the report gives it.
struct Contestant {
    name: &'static str,
    binary: PathBuf,
}

/// Where etcd's load generator and client are.
#[derive(Clone)]
struct Tools {
    benchmark: PathBuf,
    etcdctl: PathBuf,
}

#[derive(Clone, Copy)]
struct Figures {
    operations_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
    memory_mib: f64,
}

/// One member, or several that are a cluster.
struct Server {
    /// What starts each of them, and started it last.
    commands: Vec<Command>,
    members: Vec<Child>,
    /// Of all members, with commas between them.
    endpoint: String,
    directory: tempfile::TempDir,
}

impl Server {
    fn start(binary: &Path, members: usize) -> Result<Self> {
        Self::start_on(binary, members, tempfile::tempdir()?, &[])
    }

    /// Starts members on what earlier ones left, with these flags, too.
    fn start_on(
        binary: &Path,
        members: usize,
        directory: tempfile::TempDir,
        flags: &[&str],
    ) -> Result<Self> {
        let mut ports = Vec::new();
        for _ in 0..members {
            ports.push((free_port()?, free_port()?));
        }
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let initial: Vec<_> = ports
            .iter()
            .enumerate()
            .map(|(at, (_, peer))| format!("m{at}={}", url(*peer)))
            .collect();
        let initial = initial.join(",");
        let endpoints: Vec<_> =
            ports.iter().map(|(client, _)| format!("127.0.0.1:{client}")).collect();
        let endpoint = endpoints.join(",");
        let mut server = Self { commands: Vec::new(), members: Vec::new(), endpoint, directory };
        for (at, (client, peer)) in ports.iter().enumerate() {
            let path = |name: &str| server.directory.path().join(format!("{name}{at}"));
            let log = std::fs::File::create(path("log"))?;
            let mut command = Command::new(binary);
            command
                .arg(format!("--name=m{at}"))
                .arg(format!("--data-dir={}", path("data").display()))
                .arg(format!("--listen-client-urls={}", url(*client)))
                .arg(format!("--advertise-client-urls={}", url(*client)))
                .arg(format!("--listen-peer-urls={}", url(*peer)))
                .arg(format!("--initial-advertise-peer-urls={}", url(*peer)))
                .arg(format!("--initial-cluster={initial}"))
                .args(["--log-level=error", "--quota-backend-bytes=8000000000"])
                .args(flags)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            let child =
                command.spawn().with_context(|| format!("starting {}", binary.display()))?;
            server.members.push(child);
            server.commands.push(command);
        }
        let started = Instant::now();
        for endpoint in endpoints {
            while !healthy(&endpoint) {
                if started.elapsed() > READY_MAX {
                    server.stop()?;
                    bail!("{} is not healthy", binary.display());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(server)
    }

    /// Kills a member as a lost machine does.
    fn kill(&mut self, member: usize) -> Result<()> {
        self.members[member].kill()?;
        self.members[member].wait()?;
        Ok(())
    }

    /// Starts a member again that was killed.
    fn restart(&mut self, member: usize) -> Result<()> {
        self.members[member] = self.commands[member].spawn()?;
        Ok(())
    }

    /// A figure of every member's process, added up.
    fn sum(&self, of: impl Fn(u32) -> Result<f64>) -> Result<f64> {
        self.members.iter().map(|member| of(member.id())).sum()
    }

    /// CPU seconds that the processes have used.
    fn cpu_seconds(&self) -> Result<f64> {
        self.sum(|process| {
            let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
            let fields: Vec<&str> =
                text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks = |at: usize| -> Result<f64> {
                Ok(fields.get(at).context("a short stat line")?.parse::<f64>()?)
            };
            Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
        })
    }

    /// The most memory that was ever resident, in MiB.
    fn peak_mib(&self) -> Result<f64> {
        self.memory_mib("VmHWM:")
    }

    /// A line of the processes' status, in MiB.
    fn memory_mib(&self, name: &str) -> Result<f64> {
        self.sum(|process| {
            let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
            let line =
                text.lines().find(|line| line.starts_with(name)).context("no such figure")?;
            let kib: f64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
            Ok(kib / 1024.0)
        })
    }

    /// Sets the peak back to what is resident now (proc_pid_clear_refs(5)).
    fn forget_peak(&self) -> Result<()> {
        for member in &self.members {
            std::fs::write(format!("/proc/{}/clear_refs", member.id()), "5")?;
        }
        Ok(())
    }

    /// Ends the members, and returns their directory.
    fn stop(mut self) -> Result<tempfile::TempDir> {
        for member in &self.members {
            Command::new("kill").arg(member.id().to_string()).status()?;
        }
        let asked = Instant::now();
        for member in &mut self.members {
            while member.try_wait()?.is_none() {
                if asked.elapsed() > STOP_MAX {
                    member.kill()?;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(self.directory)
    }
}

fn healthy(endpoint: &str) -> bool {
    fetch(endpoint, "/health").is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

/// What a member answers to a GET, its head included.
fn fetch(endpoint: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(endpoint)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: m0\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn benchmark(tools: &Tools, endpoint: &str, arguments: &str) -> Result<String> {
    let output = Command::new(&tools.benchmark)
        .arg(format!("--endpoints={endpoint}"))
        .args(arguments.split_whitespace())
        .output()
        .context("running the load generator")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr))
}

/// Gives `etcdctl` one transaction that puts `rows`.
fn put_all(tools: &Tools, endpoint: &str, rows: &[(String, String)]) -> Result<()> {
    let mut child = Command::new(&tools.etcdctl)
        .args(["--endpoints", endpoint, "txn"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let mut script = String::from("\n");
    for (key, value) in rows {
        writeln!(script, "put {key} {value}")?;
    }
    script.push_str("\n\n");
    child.stdin.take().context("no input")?.write_all(script.as_bytes())?;
    ensure!(child.wait()?.success(), "filling the store failed");
    Ok(())
}

fn prepare(tools: &Tools, endpoint: &str, setup: Setup) -> Result<()> {
    match setup {
        Setup::Nothing => Ok(()),
        Setup::OneKey => put_all(tools, endpoint, &[("k".to_owned(), "v".repeat(256))]),
        Setup::List => {
            let rows: Vec<_> =
                (0..20_000).map(|row| (format!("a{row:06}"), "v".repeat(1024))).collect();
            rows.chunks(100).try_for_each(|rows| put_all(tools, endpoint, rows))
        }
    }
}

fn number_after(output: &str, before: &str) -> Option<f64> {
    let at = output.rfind(before)? + before.len();
    output[at..].split_whitespace().next()?.parse().ok()
}

fn measure(tools: &Tools, contestant: &Contestant, members: usize, work: &Work) -> Result<Figures> {
    let server = Server::start(&contestant.binary, members)?;
    prepare(tools, &server.endpoint, work.setup)?;
    let before = server.cpu_seconds()?;
    let output = benchmark(tools, &server.endpoint, work.arguments)?;
    let cpu = server.cpu_seconds()? - before;
    let memory_mib = server.peak_mib()?;
    server.stop()?;
    let Some(operations_per_second) = number_after(&output, "Requests/sec:") else {
        bail!("{} on {}: the load generator said: {output}", work.name, contestant.name);
    };
    let operations = work.operations as f64;
    Ok(Figures {
        operations_per_second,
        p50_ms: number_after(&output, "50% in ").unwrap_or(f64::NAN) * 1e3,
        p99_ms: number_after(&output, "99% in ").unwrap_or(f64::NAN) * 1e3,
        cpu_us: cpu * 1e6 / operations,
        memory_mib,
    })
}

fn median(rounds: &[Figures], of: impl Fn(&Figures) -> f64) -> f64 {
    median_of(rounds.iter().map(of).collect())
}

fn median_of(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Builds real etcd and its tools, loads it and ours, and prints the tables as evidence. CPU and
/// memory are those of all members together.
pub(crate) fn beside_etcd(root: &Path, rounds: usize, members: usize) -> Result<()> {
    ensure!(rounds > 0 && members > 0, "no rounds or no members, no figures");
    let (tools, contestants) = prepare_rivals(root)?;
    tell(&run(&tools, &contestants, members, rounds)?);
    Ok(())
}

/// What a million keys take in memory, real etcd and ours, as evidence.
pub(crate) fn memory_beside_etcd(root: &Path) -> Result<()> {
    let (tools, contestants) = prepare_rivals(root)?;
    tell(&memory::run(&tools, &contestants)?);
    Ok(())
}

/// What writes feel while a member gets a snapshot, real etcd and ours, as evidence.
pub(crate) fn snapshot_beside_etcd(root: &Path) -> Result<()> {
    let (tools, contestants) = prepare_rivals(root)?;
    tell(&snapshot::run(&tools, &contestants)?);
    Ok(())
}

/// What a backup costs, real etcd and ours, as evidence.
pub(crate) fn backup_beside_etcd(root: &Path) -> Result<()> {
    let (tools, contestants) = prepare_rivals(root)?;
    tell(&backup::run(&tools, &contestants)?);
    Ok(())
}

/// Prints a report as evidence.
fn tell(report: &str) {
    for line in report.lines() {
        println!("evidence: {line}");
    }
}

fn prepare_rivals(root: &Path) -> Result<(Tools, [Contestant; 2])> {
    let bin = root.join("compat/bin");
    std::fs::create_dir_all(&bin)?;
    let built = Command::new("go")
        .args(["build", "-o", "bin/", "./cmd/etcd", "./cmd/etcdctl", "./cmd/benchmark"])
        .current_dir(root.join("compat"))
        .status()
        .context("Go is needed to build real etcd")?;
    ensure!(built.success(), "building real etcd failed");
    let tools = Tools { benchmark: bin.join("benchmark"), etcdctl: bin.join("etcdctl") };
    let contestants = [
        Contestant { name: "etcd", binary: bin.join("etcd") },
        Contestant { name: "quorate", binary: root.join("target/release/quorate") },
    ];
    Ok((tools, contestants))
}

/// Runs all works `rounds` times, the contestants in turn, and returns the report as Markdown:
/// medians, then ratios of the others to the first contestant.
fn run(tools: &Tools, contestants: &[Contestant], members: usize, rounds: usize) -> Result<String> {
    let mut report = String::from(
        "| work | server | ops/s | p50 ms | p99 ms | server CPU us/op | peak memory MiB |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let mut ratios =
        String::from("\n| work | ops/s | p99 | CPU | memory |\n|---|---|---|---|---|\n");
    for work in &WORKS {
        let mut figures: Vec<Vec<Figures>> = contestants.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (contestant, figures) in contestants.iter().zip(&mut figures) {
                figures.push(measure(tools, contestant, members, work)?);
            }
        }
        let columns: Vec<[f64; 5]> = figures
            .iter()
            .map(|rounds| {
                [
                    median(rounds, |f| f.operations_per_second),
                    median(rounds, |f| f.p50_ms),
                    median(rounds, |f| f.p99_ms),
                    median(rounds, |f| f.cpu_us),
                    median(rounds, |f| f.memory_mib),
                ]
            })
            .collect();
        for (contestant, [ops, p50, p99, cpu, memory]) in contestants.iter().zip(&columns) {
            let line = format!(
                "| {} | {} | {ops:.0} | {p50:.2} | {p99:.2} | {cpu:.1} | {memory:.0} |",
                work.name, contestant.name
            );
            eprintln!("{line}");
            writeln!(report, "{line}")?;
        }
        for (contestant, ours) in contestants.iter().zip(&columns).skip(1) {
            let ratio = |at: usize| ours[at] / columns[0][at];
            writeln!(
                ratios,
                "| {} ({} / {}) | x{:.2} | x{:.2} | x{:.2} | x{:.2} |",
                work.name,
                contestant.name,
                contestants[0].name,
                ratio(0),
                ratio(2),
                ratio(3),
                ratio(4),
            )?;
        }
    }
    Ok(report + &ratios)
}
