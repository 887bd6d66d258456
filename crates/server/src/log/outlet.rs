//! A queue in front of every output, and the thread that empties it.
//!
//! *Invariants.* 1. A line that does not fit in is dropped and counted, and so is one that the
//! output does not take; when it takes lines again, one line says how many are missing. 2. Whoever
//! waits for the queues waits for [`FLUSH_MAX`] in all.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};

use super::line::Line;
use super::sink::{self, Sink};
use super::{Format, Level};

/// Lines that may wait for an output, and their bytes.
pub(super) const LINES_MAX: usize = 8_192;
pub(super) const BYTES_MAX: usize = 8 << 20;

/// How long the last line of a process, and its end, wait for the outputs.
pub(super) const FLUSH_MAX: Duration = Duration::from_secs(2);

/// How often missing lines are told while lines keep coming faster than they are written.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// What says how many lines are missing.
const LOST: &str = "log lines were dropped";

/// A finished line.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) level: Level,
    /// The directory in `caller`.
    pub(super) package: Arc<str>,
    pub(super) bytes: Bytes,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Lines that are missing and not told of.
    lost: u64,
    is_writing: bool,
    is_closed: bool,
}

/// The queue of one output.
#[derive(Default)]
pub(super) struct Outlet {
    state: Mutex<State>,
    arrived: Condvar,
    written: Condvar,
}

/// The outputs; none before [`start`].
static OUTLETS: RwLock<Vec<Arc<Outlet>>> = RwLock::new(Vec::new());

/// Starts to write to stderr, until the configuration names the outputs. Called first of all.
pub(crate) fn start() {
    if let Ok(stderr) = sink::stderr() {
        replace(vec![stderr]);
    }
}

/// From now on lines go to these outputs, after those before have what came before.
pub(super) fn replace(sinks: Vec<Box<dyn Sink>>) {
    flush();
    let outlets = sinks.into_iter().filter_map(Outlet::start).collect();
    let before = std::mem::replace(&mut *OUTLETS.write(), outlets);
    for outlet in before {
        outlet.close();
    }
}

/// Hands a line to all outputs.
pub(super) fn emit(entry: &Entry) {
    let outlets = OUTLETS.read();
    if outlets.is_empty() {
        // Nobody is left to tell.
        drop(io::stderr().write_all(&entry.bytes));
        return;
    }
    for outlet in outlets.iter() {
        outlet.push(entry.clone());
    }
    drop(outlets);
    if entry.level >= Level::Panic {
        flush();
    }
}

/// Waits until everything emitted so far is written, but not for long.
pub(crate) fn flush() {
    let deadline = Instant::now() + FLUSH_MAX;
    let outlets = OUTLETS.read().clone();
    for outlet in outlets {
        outlet.flush(deadline);
    }
}

impl Outlet {
    /// Starts the thread of an output.
    pub(super) fn start(sink: Box<dyn Sink>) -> Option<Arc<Self>> {
        let outlet = Arc::new(Self::default());
        let writer = Arc::clone(&outlet);
        let thread = std::thread::Builder::new().name("log-writer".to_owned());
        // Without threads the member cannot start either, and says so on stderr.
        thread.spawn(move || writer.run(sink)).ok()?;
        Some(outlet)
    }

    /// Queues a line. Never waits.
    pub(super) fn push(&self, entry: Entry) {
        let mut state = self.state.lock();
        let is_full =
            state.entries.len() >= LINES_MAX || state.bytes + entry.bytes.len() > BYTES_MAX;
        // Of the last lines of a process there are few.
        if is_full && entry.level < Level::Panic {
            state.lost += 1;
            return;
        }
        state.bytes += entry.bytes.len();
        state.entries.push_back(entry);
        if !state.is_writing {
            self.arrived.notify_one();
        }
    }

    /// The thread ends when it has written what is there.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.arrived.notify_one();
    }

    /// Waits until everything is written, or until then.
    pub(super) fn flush(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while state.is_writing || !state.entries.is_empty() {
            if self.written.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    fn run(&self, mut sink: Box<dyn Sink>) {
        let mut told: Option<Instant> = None;
        while let Some(entry) = self.next() {
            let is_written = sink.write(&entry).is_ok();
            let missing = {
                let mut state = self.state.lock();
                state.bytes -= entry.bytes.len();
                state.lost += u64::from(!is_written);
                let is_due = state.entries.is_empty()
                    || told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL);
                if is_written && is_due { state.lost } else { 0 }
            };
            if missing > 0 && sink.write(&missing_lines(missing)).is_ok() {
                told = Some(Instant::now());
                self.state.lock().lost -= missing;
            }
            let mut state = self.state.lock();
            state.is_writing = false;
            if state.entries.is_empty() {
                self.written.notify_all();
            }
        }
        self.written.notify_all();
    }

    /// The next line, when there is one; `None` at the end.
    fn next(&self) -> Option<Entry> {
        let mut state = self.state.lock();
        loop {
            if let Some(entry) = state.entries.pop_front() {
                state.is_writing = true;
                return Some(entry);
            }
            if state.is_closed {
                return None;
            }
            self.arrived.wait(&mut state);
        }
    }
}

/// The line that tells how many are missing. It is not sampled, and told at every level.
fn missing_lines(count: u64) -> Entry {
    let (now, at) = (Some(SystemTime::now()), Location::caller());
    let line = Line::begin(Format::now(), Level::Warn, now, LOST, at).field("count", &count);
    line.finish().expect("a line with a time has bytes")
}
