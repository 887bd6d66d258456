//! `check perf`: whether a cluster takes puts at a rate, evenly.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::report::Report;
use super::{
    AUTO_COMPACT, AUTO_DEFRAG, CLEANUP_TIME_MAX, INTERRUPTED, Load, Puts, attend, begin, bounded,
    connect_all, failed, remove, say, settle, tell_errors, work,
};
use crate::command::{Call, Command, Flag};
use crate::ctl::bar::{Bar, Unit};
use crate::ctl::client::Client;
use crate::ctl::session::Interrupts;
use crate::failure::{Failure, Outcome};

/// How long puts are sent.
const SECONDS: u64 = 60;
const KEY_BYTES: usize = 256;
const VALUE_BYTES: usize = 1024;
/// A producer that is late by more than this, and by more than a put, does not catch up. Timers
/// are not finer than a millisecond, so that at high rates a few puts always come at once.
const LATENESS_MAX: Duration = Duration::from_millis(3);
/// How long puts may take that were under way when the time was over. What is later is an error.
const LAST_PUT_TIME_MAX: Duration = Duration::from_secs(10);

pub(super) static PERF: Command = Command {
    name: "perf",
    usage: "[options]",
    short: "Check the performance of the etcd cluster",
    flags: &[
        Flag::text(
            "load",
            "s",
            "The performance check's workload model. Accepted workloads: s(small), m(medium), \
             l(large), xl(xLarge). Different workload models use different configurations in \
             terms of number of clients and expected throughput.",
        )
        .one_of(&["small", "medium", "large", "xLarge"]),
        Flag::text(
            "prefix",
            "/etcdctl-check-perf/",
            "The prefix for writing the performance check's keys.",
        ),
        AUTO_COMPACT,
        AUTO_DEFRAG,
    ],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

/// Puts a second, and clients.
fn plan(load: Load) -> (u64, usize) {
    match load {
        Load::Small => (150, 50),
        Load::Medium => (1000, 200),
        Load::Large => (8000, 500),
        Load::ExtraLarge => (15_000, 1000),
    }
}

async fn run(call: &mut Call) -> Outcome {
    let (rate, clients) = plan(Load::of(call)?);
    let prefix = call.values.text("prefix").to_owned();
    let settings = Rc::new(call.settings()?);
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    // Only the question before the load shares its time limit.
    drop(begin(&settings, &prefix, Some(deadline), "'").await?);
    // What is left to do afterwards has time limits of its own.
    let last = Client::connect_unbounded(&settings).await?;
    let connected = connect_all(&settings, clients, Some(deadline + LAST_PUT_TIME_MAX)).await?;

    let bar = Rc::new(Bar::start(SECONDS, Unit::Pieces));
    let second = Rc::clone(&bar);
    let seconds = tokio::task::spawn_local(async move {
        for _ in 0..SECONDS {
            sleep(Duration::from_secs(1)).await;
            second.add(1);
        }
    });
    let mut interrupts = Interrupts::new()?;
    let (sender, queue) = mpsc::channel(clients);
    let puts = Puts::new(&prefix, KEY_BYTES, VALUE_BYTES);
    let producer = tokio::task::spawn_local(async move {
        // A full queue does not hold back the end.
        let _ = timeout_at(deadline, produce(puts, rate, sender)).await;
    });
    let work = work(connected, queue, None);
    let (report, is_interrupted) = attend(work, producer, &mut interrupts).await?;
    if is_interrupted {
        seconds.abort();
    }
    let _ = seconds.await;
    if let Some(bar) = Rc::into_inner(bar) {
        bar.finish();
    }
    // The first interrupt ended the load, and the next one ends what is left to do.
    tokio::select! {
        judged = conclude(call, &settings, &last, &prefix, &report, rate) => judged,
        () = interrupts.next() => Err(Failure::silent(INTERRUPTED)),
    }
}

/// Cleans up and gives the verdict.
async fn conclude(
    call: &Call,
    settings: &crate::ctl::global::Settings,
    client: &Client,
    prefix: &str,
    report: &Report,
    rate: u64,
) -> Outcome {
    let removed = bounded(CLEANUP_TIME_MAX, remove(client, prefix)).await;
    if let Err(error) = &removed {
        say(&format!("FAIL: Cleanup failed during key deletion: ERROR({error})"))?;
    }
    settle(call, settings, client, removed.ok()).await?;
    let erred = tell_errors(report)?;
    let (lines, well) = report.judge(rate);
    for line in lines {
        say(&line)?;
    }
    if erred || !well {
        say("FAIL")?;
        return Err(failed());
    }
    say("PASS")
}

/// Fills the queue at a rate.
async fn produce(mut puts: Puts, rate: u64, queue: mpsc::Sender<proto::etcdserverpb::PutRequest>) {
    let mut pace = Pace::new(Instant::now(), rate);
    loop {
        sleep_until(pace.due).await;
        while pace.take(Instant::now()) {
            if queue.send(puts.next()).await.is_err() {
                return;
            }
        }
    }
}

/// When the next put is due.
struct Pace {
    due: Instant,
    interval: Duration,
}

impl Pace {
    fn new(now: Instant, rate: u64) -> Pace {
        Pace { due: now, interval: Duration::from_nanos(1_000_000_000 / rate) }
    }

    /// Whether a put is due, and takes it if so.
    fn take(&mut self, now: Instant) -> bool {
        if self.due > now {
            return false;
        }
        let lateness = LATENESS_MAX.max(self.interval);
        self.due = self.due.max(now.checked_sub(lateness).unwrap_or(now)) + self.interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_and_not_made_up_for() {
        let start = Instant::now();
        let count = |pace: &mut Pace, millis: u64| {
            let now = start + Duration::from_millis(millis);
            std::iter::repeat_with(|| pace.take(now)).take_while(|due| *due).count()
        };
        let mut pace = Pace::new(start, 1000);
        // A millisecond is a put, and being late by two is made up for.
        assert_eq!([0, 1, 2, 5].map(|at| count(&mut pace, at)), [1, 1, 1, 3]);
        // A second is not.
        assert_eq!(count(&mut pace, 1005), 4);
        let mut fast = Pace::new(start, 15_000);
        let all: usize = (1..=1000).map(|at| count(&mut fast, at)).sum();
        assert!((14_990..=15_010).contains(&all), "{all}");
    }

    #[test]
    fn loads_are_those_of_etcd() {
        let all = [Load::Small, Load::Medium, Load::Large, Load::ExtraLarge].map(plan);
        assert_eq!(all, [(150, 50), (1000, 200), (8000, 500), (15_000, 1000)]);
    }
}
