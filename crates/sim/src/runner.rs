//! Many runs, on a few threads, until there are enough or the time is over.
//!
//! *Invariants.* A run is the same whoever goes through it: threads share nothing but the number
//! of the next seed.
//!
//! *Absent.* Printing: the command's.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::run::{Report, run};

/// Which runs.
#[derive(Debug, Clone, Copy)]
pub struct Seeds {
    /// The first.
    pub first: u64,
    /// The one behind the last; `u64::MAX` for no end.
    pub end: u64,
    /// When to begin no other.
    pub within: Option<Duration>,
    /// How many at a time.
    pub jobs: usize,
    /// Whether the first that fails ends it.
    pub stops_at_failure: bool,
}

/// Goes through runs, and hands each report to `take`, in the order in which they end.
pub fn go(seeds: Seeds, mut take: impl FnMut(Report)) {
    let (next, stop, begun) = (AtomicU64::new(seeds.first), AtomicBool::new(false), Instant::now());
    let is_over = || seeds.within.is_some_and(|within| begun.elapsed() >= within);
    std::thread::scope(|scope| {
        let (send, reports) = mpsc::channel();
        for _ in 0..seeds.jobs.max(1) {
            let (send, next, stop) = (send.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && !is_over() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || send.send(run(seed, false)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for report in reports {
            if report.failure.is_some() && seeds.stops_at_failure {
                stop.store(true, Ordering::Relaxed);
            }
            take(report);
        }
    });
}

/// Does the same with each of `all`, `jobs` at a time. In their order.
pub fn each<T: Copy + Sync, R: Send>(
    all: &[T],
    jobs: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let mut done: Vec<(usize, R)> = Vec::new();
    std::thread::scope(|scope| {
        let (send, results) = mpsc::channel();
        for _ in 0..jobs.max(1) {
            let (send, next, work) = (send.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(at) else { return };
                    if send.send((at, work(*one))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        done.extend(results);
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
