//! `check`: puts load on a cluster and judges how it bears it.
//!
//! ```text
//!  producer -> queue -> clients, each on its own connection -> report -> PASS or FAIL
//! ```
//!
//! *Invariants.* Only keys under the prefix are written, the prefix had no keys before, and its
//! keys are removed in the end: a signal ends the load alone, and only a second one leaves keys
//! behind.
//!
//! *Contract.* `command/check.go` and `pkg/report` of etcd v3.7.1.

mod datascale;
mod perf;
mod report;

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use base::Rng;
use bytes::Bytes;
use proto::etcdserverpb as pb;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::bar::Bar;
use super::client::{Client, RequestError, bounded};
use super::command::{Call, Command, Flag, Group};
use super::failure::{self, Failure, Outcome};
use super::global::Settings;
use super::print::print;
use super::range::every_key;
use super::session::{Interrupts, fail};
use crate::go;
use report::Report;

/// How long the removal of keys, a compaction and a defragmentation may take each.
const CLEANUP_TIME_MAX: Duration = Duration::from_secs(30);
/// The exit code of a process that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

pub(crate) static CHECK: Command = Command {
    name: "check",
    usage: "<subcommand>",
    short: "commands for checking properties of the etcd cluster. Use `etcdctl check --help` to \
            see subcommands",
    long: "commands for checking properties of the etcd cluster",
    group: Group::Utility,
    commands: &[&perf::PERF, &datascale::DATASCALE],
    ..Command::EMPTY
};

// Flags of both checks.
const AUTO_COMPACT: Flag =
    Flag::bool("auto-compact", "Compact storage with last revision after test is finished.");
const AUTO_DEFRAG: Flag = Flag::bool("auto-defrag", "Defragment storage after test is finished.");

/// A size of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Small,
    Medium,
    Large,
    ExtraLarge,
}

impl Load {
    fn of(call: &Call) -> Outcome<Load> {
        Ok(match call.values.text("load") {
            "s" | "small" => Load::Small,
            "m" | "medium" => Load::Medium,
            "l" | "large" => Load::Large,
            "xl" | "xLarge" => Load::ExtraLarge,
            other => {
                let reason = format!("unknown load option {other}");
                return Err(Failure::new(failure::BAD_FEATURE, reason));
            }
        })
    }
}

/// What goes wrong with the cluster itself.
fn failed() -> Failure {
    Failure::silent(failure::ERROR)
}

fn say(line: &str) -> Outcome {
    print(format!("{line}\n").as_bytes())
}

/// Connects once for the questions, and refuses a prefix that is in use. `quotes` stand around
/// the advice.
async fn begin(
    settings: &Settings,
    prefix: &str,
    deadline: Option<Instant>,
    quotes: &str,
) -> Outcome<Rc<Client>> {
    let client = Client::connect_to(settings, &settings.endpoints, deadline).await?;
    let (key, range_end) = every_key(prefix.as_bytes());
    let request = pb::RangeRequest { key, range_end, limit: 1, ..Default::default() };
    let send = async |r| client.kv().range(r).await;
    let answer = client.ask_repeatable(&request, send).await.map_err(fail)?;
    if !answer.kvs.is_empty() {
        let quoted = go::quote(prefix.as_bytes());
        let reason = format!(
            "prefix {quoted} has keys. Delete with {quotes}etcdctl del --prefix {prefix}{quotes} \
             first"
        );
        return Err(Failure::new(failure::INVALID_INPUT, reason));
    }
    Ok(Rc::new(client))
}

/// Connects all clients at once. They begin at different endpoints.
async fn connect_all(
    settings: &Rc<Settings>,
    clients: usize,
    deadline: Option<Instant>,
) -> Outcome<Vec<Rc<Client>>> {
    allow_many_files();
    let mut connecting = Vec::with_capacity(clients);
    for index in 0..clients {
        let settings = Rc::clone(settings);
        connecting.push(tokio::task::spawn_local(async move {
            let mut endpoints = settings.endpoints.clone();
            let count = endpoints.len().max(1);
            endpoints.rotate_left(index % count);
            Client::connect_to(&settings, &endpoints, deadline).await
        }));
    }
    let mut connected = Vec::with_capacity(clients);
    for client in connecting {
        connected.push(Rc::new(client.await.map_err(fail)??));
    }
    Ok(connected)
}

/// Raises the limit of open files as far as this process may; a load of many clients does not fit
/// into the 1024 that are usual.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    // If that fails the connections tell what they lack.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Makes the puts of a check.
struct Puts {
    prefix: Vec<u8>,
    key_bytes: usize,
    value: Bytes,
    random: Rng,
}

impl Puts {
    fn new(prefix: &str, key_bytes: usize, value_bytes: usize) -> Puts {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed = now.as_nanos() as u64 ^ u64::from(std::process::id()) << 32;
        let (prefix, value) = (prefix.as_bytes().to_vec(), Bytes::from(vec![0; value_bytes]));
        Puts { prefix, key_bytes, value, random: Rng::new(seed) }
    }

    fn next(&mut self) -> pb::PutRequest {
        let mut key = self.prefix.clone();
        key.extend_from_slice(&self.random.next_u64().to_be_bytes());
        key.resize(self.prefix.len() + self.key_bytes, 0);
        pb::PutRequest { key: key.into(), value: self.value.clone(), ..Default::default() }
    }
}

/// Lets every client send what comes out of the queue, until that ends. Each answer moves the
/// bar, if one is given.
async fn work(
    clients: Vec<Rc<Client>>,
    queue: mpsc::Receiver<pb::PutRequest>,
    bar: Option<&Rc<Bar>>,
) -> Outcome<Report> {
    let start = Instant::now();
    let queue = Rc::new(Mutex::new(queue));
    let mut workers = Vec::with_capacity(clients.len());
    for client in clients {
        let (queue, bar) = (Rc::clone(&queue), bar.map(Rc::clone));
        workers.push(tokio::task::spawn_local(async move {
            let mut report = Report::default();
            loop {
                let request = queue.lock().await.recv().await;
                let Some(request) = request else { return report };
                let start = Instant::now();
                let answer = client.ask(&request, async |r| client.kv().put(r).await).await;
                report.add(answer.map(|_| start.elapsed()).map_err(|error| error.to_string()));
                if let Some(bar) = &bar {
                    bar.add(1);
                }
            }
        }));
    }
    let mut report = Report::default();
    for worker in workers {
        report.merge(worker.await.map_err(fail)?);
    }
    report.total = start.elapsed();
    Ok(report)
}

/// Waits for the clients' work. The first signal ends the producer, and with it soon the work; the
/// second ends the command. Says whether there was one.
async fn attend(
    work: impl Future<Output = Outcome<Report>>,
    producer: JoinHandle<()>,
    interrupts: &mut Interrupts,
) -> Outcome<(Report, bool)> {
    let mut work = pin!(work);
    tokio::select! {
        report = &mut work => {
            producer.await.map_err(fail)?;
            return Ok((report?, false));
        }
        () = interrupts.next() => producer.abort(),
    }
    tokio::select! {
        report = &mut work => Ok((report?, true)),
        () = interrupts.next() => Err(Failure::silent(INTERRUPTED)),
    }
}

/// Removes the keys of the check, and returns the revision at which they are gone.
async fn remove(client: &Client, prefix: &str) -> Result<i64, RequestError> {
    let (key, range_end) = every_key(prefix.as_bytes());
    let request = pb::DeleteRangeRequest { key, range_end, prev_kv: false };
    let answer = client.ask(&request, async |r| client.kv().delete_range(r).await).await?;
    Ok(answer.header.map_or(0, |header| header.revision))
}

/// Does what the flags ask for afterwards. `revision`: at which the keys are gone, if they are.
async fn settle(
    call: &Call,
    settings: &Settings,
    client: &Client,
    revision: Option<i64>,
) -> Outcome {
    if let Some(revision) = revision
        && call.values.bool("auto-compact")
    {
        compact(client, revision).await?;
    }
    if call.values.bool("auto-defrag") {
        defragment(settings).await?;
    }
    Ok(())
}

async fn compact(client: &Client, revision: i64) -> Outcome {
    say(&format!("Compacting with revision {revision}"))?;
    let request = pb::CompactionRequest { revision, physical: true };
    let send = async |r| client.kv().compact(r).await;
    bounded(CLEANUP_TIME_MAX, client.ask(&request, send)).await.map_err(fail)?;
    say(&format!("Compacted with revision {revision}"))
}

/// Defragments every endpoint, each asked itself.
async fn defragment(settings: &Settings) -> Outcome {
    for endpoint in &settings.endpoints {
        let quoted = go::quote(endpoint.as_bytes());
        say(&format!("Defragmenting {quoted}"))?;
        let deadline = Some(Instant::now() + CLEANUP_TIME_MAX);
        let one = std::slice::from_ref(endpoint);
        let client = Client::connect_to(settings, one, deadline).await?;
        let send = async |r| client.maintenance().defragment(r).await;
        client.ask(&pb::DefragmentRequest {}, send).await.map_err(fail)?;
        say(&format!("Defragmented {quoted}"))?;
    }
    Ok(())
}

/// Tells the errors that puts met; false if there were none.
fn tell_errors(report: &Report) -> Outcome<bool> {
    if report.errors.is_empty() {
        return Ok(false);
    }
    say("FAIL: too many errors")?;
    for (error, count) in &report.errors {
        say(&format!("FAIL: ERROR({error}) -> {count}"))?;
    }
    Ok(true)
}
