//! Writes etcd-shaped log lines: one JSON object a line.
//!
//! ```text
//!  Line::emit ─► queue of LINES_MAX ─► writer thread ─► stderr, stdout, files
//!                  full: the line is dropped and counted, and the count is told later
//! ```
//!
//! *Invariants.* 1. A line is a JSON object with non-empty `level`, `ts`, `caller` and `msg`, in
//! this order, then the fields. 2. No line makes its caller wait for the disk or the terminal,
//! but for the last line of a process ([`flush`]).
//!
//! *Contract.* `client/pkg/logutil/zap.go` of etcd v3.7.1.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::panic::Location;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base::calendar::DateTime;
use serde::Serialize;

/// Lines that may wait for the writer.
const LINES_MAX: usize = 8_192;

/// How long the end of a process waits for its last lines.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

impl Level {
    /// Reads the value of `--log-level`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "debug" => Self::Debug,
            "info" | "" => Self::Info,
            "warn" => Self::Warn,
            "error" => Self::Error,
            "dpanic" | "panic" => Self::Panic,
            "fatal" => Self::Fatal,
            _ => return None,
        })
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Fatal => "fatal",
        }
    }
}

struct Writer {
    queue: SyncSender<Order>,
    dropped: AtomicU64,
}

enum Order {
    Line(Vec<u8>),
    Outputs(Vec<Box<dyn Write + Send>>),
    Flush(SyncSender<()>),
}

static WRITER: OnceLock<Writer> = OnceLock::new();
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Starts the writer; until then lines go straight to stderr. Called once, first of all.
pub(crate) fn start() {
    let (queue, orders) = sync_channel(LINES_MAX);
    let thread = std::thread::Builder::new().name("log".to_owned());
    if thread.spawn(move || write_lines(&orders)).is_ok() {
        // A second start would end its own writer at once, by dropping its queue.
        drop(WRITER.set(Writer { queue, dropped: AtomicU64::new(0) }));
    }
}

/// Sets the level and the outputs that the operator asked for.
pub(crate) fn configure(level: Level, outputs: &[String]) -> io::Result<()> {
    LEVEL.store(level as u8, Ordering::Relaxed);
    let mut sinks: Vec<Box<dyn Write + Send>> = Vec::new();
    for output in outputs {
        sinks.push(match output.as_str() {
            "default" | "stderr" => Box::new(io::stderr()),
            "stdout" => Box::new(io::stdout()),
            path => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        });
    }
    if let Some(writer) = WRITER.get() {
        // The writer lives as long as the process.
        drop(writer.queue.send(Order::Outputs(sinks)));
    }
    Ok(())
}

/// From now on lines of this level, and of worse ones, are written.
pub(crate) fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Waits until everything emitted so far is written.
pub(crate) fn flush() {
    if let Some(writer) = WRITER.get() {
        let (done, wait) = sync_channel(1);
        if writer.queue.send(Order::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_MAX);
        }
    }
}

/// Whether lines of `level` are written.
pub(crate) fn is_enabled(level: Level) -> bool {
    level as u8 >= LEVEL.load(Ordering::Relaxed)
}

fn write_lines(orders: &Receiver<Order>) {
    let mut outputs: Vec<Box<dyn Write + Send>> = vec![Box::new(io::stderr())];
    while let Ok(order) = orders.recv() {
        match order {
            Order::Line(line) => {
                for output in &mut outputs {
                    // A log that cannot be written has nowhere to complain.
                    drop(output.write_all(&line));
                }
            }
            Order::Outputs(asked) => outputs = asked,
            Order::Flush(done) => {
                for output in &mut outputs {
                    drop(output.flush());
                }
                let _ = done.send(());
            }
        }
        let dropped = WRITER.get().map_or(0, |writer| writer.dropped.swap(0, Ordering::Relaxed));
        if dropped > 0 {
            let line = Line::new(Level::Warn, "log lines were dropped", Location::caller());
            let line = line.field("count", &dropped).finish();
            for output in &mut outputs {
                drop(output.write_all(&line));
            }
        }
    }
}

/// A line that is being made. Nothing is written until [`Line::emit`].
#[must_use]
pub(crate) struct Line {
    level: Level,
    /// Empty when the level is not enabled.
    bytes: Vec<u8>,
}

/// A line of some level.
#[track_caller]
pub(crate) fn line(level: Level, msg: &str) -> Line {
    Line::new(level, msg, Location::caller())
}

/// A line of level debug.
#[cfg(test)]
#[track_caller]
pub(crate) fn debug(msg: &str) -> Line {
    Line::new(Level::Debug, msg, Location::caller())
}

/// A line of level info.
#[track_caller]
pub(crate) fn info(msg: &str) -> Line {
    Line::new(Level::Info, msg, Location::caller())
}

/// A line of level warn.
#[track_caller]
pub(crate) fn warn(msg: &str) -> Line {
    Line::new(Level::Warn, msg, Location::caller())
}

/// A line of level error.
#[track_caller]
pub(crate) fn error(msg: &str) -> Line {
    Line::new(Level::Error, msg, Location::caller())
}

/// The last line of a process that cannot go on; the caller ends it.
#[track_caller]
pub(crate) fn fatal(msg: &str) -> Line {
    Line::new(Level::Fatal, msg, Location::caller())
}

/// The line of a panic, which says itself where it happened.
pub(crate) fn panic(msg: &str, at: &Location<'_>) -> Line {
    Line::new(Level::Panic, msg, at)
}

impl Line {
    fn new(level: Level, msg: &str, at: &Location<'_>) -> Self {
        if !is_enabled(level) {
            return Self { level, bytes: Vec::new() };
        }
        let mut bytes = Vec::with_capacity(256);
        // Writing to memory cannot fail.
        drop(write!(bytes, "{{\"level\":\"{}\",\"ts\":\"", level.text()));
        put_timestamp(&mut bytes, SystemTime::now());
        drop(write!(bytes, "\",\"caller\":\"{}:{}\"", place(at.file()), at.line()));
        Self { level, bytes }.field("msg", msg)
    }

    /// Adds a field.
    pub(crate) fn field<T: Serialize + ?Sized>(mut self, name: &str, value: &T) -> Self {
        if self.bytes.is_empty() {
            return self;
        }
        self.bytes.push(b',');
        if serde_json::to_writer(&mut self.bytes, name).is_ok() {
            self.bytes.push(b':');
            if serde_json::to_writer(&mut self.bytes, value).is_err() {
                self.bytes.extend_from_slice(b"null");
            }
        }
        self
    }

    /// Adds a field that is shown by its text.
    pub(crate) fn text(self, name: &str, value: &dyn fmt::Display) -> Self {
        if self.bytes.is_empty() { self } else { self.field(name, &value.to_string()) }
    }

    /// Adds a duration, as Go prints it.
    pub(crate) fn duration(self, name: &str, value: Duration) -> Self {
        self.field(name, &crate::config::show_duration(value))
    }

    /// Adds a list of texts.
    pub(crate) fn texts<T: fmt::Display>(self, name: &str, values: &[T]) -> Self {
        let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
        self.field(name, &texts)
    }

    fn finish(mut self) -> Vec<u8> {
        if !self.bytes.is_empty() {
            self.bytes.extend_from_slice(b"}\n");
        }
        self.bytes
    }

    /// Hands the line to the writer.
    pub(crate) fn emit(self) {
        let level = self.level;
        let bytes = self.finish();
        if bytes.is_empty() {
            return;
        }
        let Some(writer) = WRITER.get() else {
            drop(io::stderr().write_all(&bytes));
            return;
        };
        if level >= Level::Panic {
            drop(writer.queue.send(Order::Line(bytes)));
            flush();
        } else if let Err(TrySendError::Full(_)) = writer.queue.try_send(Order::Line(bytes)) {
            writer.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// `crates/server/src/grpc/kv.rs` is told as `server/grpc/kv.rs`.
fn place(file: &str) -> String {
    file.rsplit_once("crates/").map_or(file, |(_, rest)| rest).replacen("/src/", "/", 1)
}

/// `2006-01-02T15:04:05.999999Z` in UTC.
fn put_timestamp(bytes: &mut Vec<u8>, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    drop(write!(bytes, "{}.{:06}Z", DateTime(since.as_secs()), since.subsec_micros()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_in_etcds_order() {
        let line = Line::new(Level::Warn, "a \"b\"\n", Location::caller())
            .field("n", &7)
            .texts("urls", &["x", "y"])
            .duration("took", Duration::from_millis(100));
        let text = String::from_utf8(line.finish()).expect("text");
        assert!(text.starts_with("{\"level\":\"warn\",\"ts\":\"20"), "{text}");
        let caller = text.find("\"caller\":\"server/log.rs:").expect("caller");
        let msg = text.find(
            ",\"msg\":\"a \\\"b\\\"\\n\",\"n\":7,\"urls\":[\"x\",\"y\"],\"took\":\"100ms\"}\n",
        );
        assert!(msg.expect("fields") > caller);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }

    #[test]
    fn timestamps_are_utc_with_microseconds() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_790_000_000, "2026-09-21T14:13:20.000000Z"),
        ] {
            let mut bytes = Vec::new();
            put_timestamp(&mut bytes, UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(bytes, text.as_bytes());
        }
    }

    #[test]
    fn lines_below_the_level_cost_nothing() {
        assert!(debug("unseen").field("a", &1).bytes.is_empty());
    }
}
