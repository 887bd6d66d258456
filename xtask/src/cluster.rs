//! A cluster on this machine, for whoever wants to try one: as many members as asked for, on the
//! ports of etcd's own Procfile, until ctrl-c.
//!
//! Members have process groups of their own, so that ctrl-c reaches this program alone, which then
//! ends them in order. A member that ends by itself is told and left alone: that is what a cluster
//! is for.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::job::Job;

/// More would run out of ports: the n-th member listens on n * 10,000 and some.
const MEMBERS_MAX: u16 = 6;

/// How often members are looked at.
const POLL: Duration = Duration::from_millis(100);

/// How long members have to end; then they are killed.
const STOP_MAX: Duration = Duration::from_secs(15);

/// One member, and whether its end was told.
struct Member {
    name: String,
    child: Child,
    is_over: bool,
}

/// The port of etcd's Procfile with that number at its end: the first member has 2379 for clients.
fn client_port(number: u16) -> u16 {
    if number == 1 { 2_379 } else { number * 10_000 + 2_379 }
}

fn peer_port(number: u16) -> u16 {
    number * 10_000 + 2_380
}

/// Runs `count` members until ctrl-c.
pub(crate) fn run(root: &Path, count: &str) -> Result<()> {
    let count: u16 = count.parse().with_context(|| format!("{count:?} is no number of members"))?;
    ensure!((1..=MEMBERS_MAX).contains(&count), "1 to {MEMBERS_MAX} members can be started");
    Job::cargo(&["build", "--release"]).run(root)?;
    let asked_to_stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&asked_to_stop))?;
    }
    let directory = root.join("target").join("cluster");
    fs::create_dir_all(&directory)?;
    let initial: Vec<_> = (1..=count)
        .map(|number| format!("infra{number}=http://127.0.0.1:{}", peer_port(number)))
        .collect();
    let mut members = Vec::new();
    for number in 1..=count {
        match start(root, &directory, number, &initial.join(",")) {
            Ok(member) => members.push(member),
            Err(error) => {
                stop(&mut members);
                return Err(error);
            }
        }
    }
    let endpoints: Vec<_> =
        (1..=count).map(|number| format!("127.0.0.1:{}", client_port(number))).collect();
    println!(
        "\n{count} members, with their data in {}; ctrl-c stops them\n\n  \
         target/release/quorate ctl --endpoints {} endpoint status -w table\n",
        directory.display(),
        endpoints.join(",")
    );
    watch(&mut members, &asked_to_stop)?;
    stop(&mut members);
    Ok(())
}

fn start(root: &Path, directory: &Path, number: u16, initial: &str) -> Result<Member> {
    let name = format!("infra{number}");
    let client = format!("http://127.0.0.1:{}", client_port(number));
    let peer = format!("http://127.0.0.1:{}", peer_port(number));
    let mut command = Command::new(root.join("target/release/quorate"));
    command
        .args(["--name", &name])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster-token", "etcd-cluster-1", "--initial-cluster", initial])
        .args(["--initial-cluster-state", "new", "--log-outputs", "stderr"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    if let Some(lines) = child.stderr.take() {
        let name = name.clone();
        std::thread::spawn(move || copy(&name, lines));
    }
    Ok(Member { name, child, is_over: false })
}

/// Shows what a member logs, as goreman does: whose line it is comes first.
fn copy(name: &str, lines: ChildStderr) {
    for line in BufReader::new(lines).lines() {
        let Ok(line) = line else { return };
        println!("{name} | {line}");
    }
}

/// Returns when the operator asks for the end, or when no member is left.
fn watch(members: &mut [Member], asked_to_stop: &AtomicBool) -> Result<()> {
    while !asked_to_stop.load(Ordering::Relaxed) {
        std::thread::sleep(POLL);
        for member in members.iter_mut().filter(|member| !member.is_over) {
            if let Some(status) = member.child.try_wait()? {
                println!("{} | ended: {status}", member.name);
                member.is_over = true;
            }
        }
        if members.iter().all(|member| member.is_over) {
            bail!("every member has ended");
        }
    }
    Ok(())
}

/// Ends all members, kindly at first.
fn stop(members: &mut [Member]) {
    for member in members.iter().filter(|member| !member.is_over) {
        // Whoever is gone already needs no signal.
        let _gone = kill_process(Pid::from_child(&member.child), Signal::TERM);
    }
    let until = Instant::now() + STOP_MAX;
    for member in members.iter_mut() {
        while matches!(member.child.try_wait(), Ok(None)) {
            if Instant::now() >= until {
                println!("{} | does not end, and is killed", member.name);
                drop(member.child.kill());
            }
            std::thread::sleep(POLL);
        }
    }
}
