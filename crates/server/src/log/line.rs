//! A line, while it is made.

use std::backtrace::Backtrace;
use std::fmt::{self, Write as _};
use std::io::Write;
use std::panic::Location;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base::calendar::DateTime;
use bytes::Bytes;
use serde::Serialize;

use super::outlet::{self, Entry};
use super::{Format, Level, encode, is_enabled, sample, zone};

/// Frames of a panic's stack that are told.
const FRAMES_MAX: usize = 64;

/// A line that is being made. Nothing is written until [`Line::emit`].
#[must_use]
pub(crate) struct Line {
    level: Level,
    format: Format,
    /// Empty when the line is not written.
    bytes: Vec<u8>,
    has_fields: bool,
    /// The directory in `caller`.
    package: String,
    stack: String,
}

/// A line of some level.
#[track_caller]
pub(crate) fn line(level: Level, msg: &str) -> Line {
    Line::new(level, msg, Location::caller())
}

/// A line of level debug.
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
    let mut line = Line::new(Level::Panic, msg, at);
    if !line.bytes.is_empty() {
        let frames = frames(&Backtrace::force_capture().to_string());
        if !frames.is_empty() {
            line.stack = frames;
        }
    }
    line
}

impl Line {
    pub(super) fn new(level: Level, msg: &str, at: &Location<'_>) -> Self {
        if !is_enabled(level) || !sample::admits(level, msg) {
            return Self::begin(Format::Json, level, None, msg, at);
        }
        Self::begin(Format::now(), level, Some(SystemTime::now()), msg, at)
    }

    /// A line of that time; without one, nothing.
    pub(super) fn begin(
        format: Format,
        level: Level,
        now: Option<SystemTime>,
        msg: &str,
        at: &Location<'_>,
    ) -> Self {
        let (bytes, package, stack) = Default::default();
        let mut line = Self { level, format, bytes, has_fields: false, package, stack };
        let Some(now) = now else { return line };
        line.bytes.reserve(256);
        let place = place(at.file());
        let (time, level, number) = (Timestamp(now), level.text(), at.line());
        let to = &mut line.bytes;
        // Writing to memory cannot fail.
        drop(match format {
            Format::Json => {
                write!(
                    to,
                    "{{\"level\":\"{level}\",\"ts\":\"{time}\",\"caller\":\"{place}:{number}\""
                )
            }
            Format::Console => write!(to, "{time}\t{level}\t{place}:{number}\t{msg}"),
        });
        if format == Format::Json {
            to.extend_from_slice(b",\"msg\":");
            encode::put(to, msg, false);
        }
        if line.level >= Level::Error {
            let module = place.trim_end_matches(".rs").replace('/', "::");
            line.stack = format!("{module}\n\t{}:{number}", at.file());
        }
        line.package = place.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned();
        line
    }

    /// Adds a field.
    pub(crate) fn field<T: Serialize + ?Sized>(mut self, name: &str, value: &T) -> Self {
        if self.bytes.is_empty() {
            return self;
        }
        let is_first = !std::mem::replace(&mut self.has_fields, true);
        let is_spaced = self.format == Format::Console;
        let separator: &[u8] = match (self.format, is_first) {
            (Format::Json, _) => b",",
            (Format::Console, true) => b"\t{",
            (Format::Console, false) => b", ",
        };
        self.bytes.extend_from_slice(separator);
        encode::put(&mut self.bytes, name, is_spaced);
        self.bytes.extend_from_slice(if is_spaced { b": " } else { b":" });
        encode::put(&mut self.bytes, value, is_spaced);
        self
    }

    /// Adds a field that is shown by its text.
    pub(crate) fn text(self, name: &str, value: &dyn fmt::Display) -> Self {
        if self.bytes.is_empty() { self } else { self.field(name, &value.to_string()) }
    }

    /// Adds a duration, as Go prints it.
    pub(crate) fn duration(self, name: &str, value: Duration) -> Self {
        if self.bytes.is_empty() {
            return self;
        }
        self.field(name, &crate::config::show_duration(value))
    }

    /// Adds a time.
    pub(crate) fn time(self, name: &str, value: SystemTime) -> Self {
        self.text(name, &Timestamp(value))
    }

    /// Adds a list of texts.
    pub(crate) fn texts<T: fmt::Display>(self, name: &str, values: &[T]) -> Self {
        let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
        self.field(name, &texts)
    }

    /// The line as it is written; nothing when it is not.
    pub(super) fn finish(mut self) -> Option<Entry> {
        if self.bytes.is_empty() {
            return None;
        }
        match self.format {
            Format::Json => {
                if !self.stack.is_empty() {
                    self.bytes.extend_from_slice(b",\"stacktrace\":");
                    encode::put(&mut self.bytes, &self.stack, false);
                }
                self.bytes.push(b'}');
            }
            Format::Console => {
                if self.has_fields {
                    self.bytes.push(b'}');
                }
                if !self.stack.is_empty() {
                    self.bytes.push(b'\n');
                    self.bytes.extend_from_slice(self.stack.as_bytes());
                }
            }
        }
        self.bytes.push(b'\n');
        let (level, package) = (self.level, self.package);
        Some(Entry { level, package: package.into(), bytes: Bytes::from(self.bytes) })
    }

    /// Hands the line to the outputs.
    pub(crate) fn emit(self) {
        if let Some(entry) = self.finish() {
            outlet::emit(&entry);
        }
    }
}

/// `2006-01-02T15:04:05.999999Z`, or with `+0200` where the machine is not in UTC.
struct Timestamp(SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (local, offset) = zone::local(since.as_secs());
        write!(to, "{}.{:06}", DateTime(local), since.subsec_micros())?;
        if offset == 0 {
            return to.write_char('Z');
        }
        let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.unsigned_abs() / 60);
        write!(to, "{sign}{:02}{:02}", minutes / 60, minutes % 60)
    }
}

/// The last directory and the file: `crates/server/src/grpc/kv.rs` is told as `grpc/kv.rs`, and
/// `crates/server/src/run.rs` as `server/run.rs`.
fn place(file: &str) -> String {
    let file = file.replace("/src/", "/");
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    file[start..].to_owned()
}

/// The frames of our own code in a printed stack, as Go prints them: a function, and on the next
/// line where it is.
fn frames(printed: &str) -> String {
    let mut told: Vec<String> = Vec::new();
    let mut function = "";
    for line in printed.lines().map(str::trim) {
        match line.strip_prefix("at ") {
            Some(at) if at.contains("crates/") && !at.contains("/src/log/") => {
                let place = at.rsplit_once(':').map_or(at, |(place, _column)| place);
                told.push(format!("{function}\n\t{place}"));
            }
            Some(_) => {}
            None => function = line.split_once(": ").map_or(line, |(_number, name)| name),
        }
    }
    told.truncate(FRAMES_MAX);
    told.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_a_directory_and_a_file() {
        for (file, told) in [
            ("crates/server/src/grpc/kv.rs", "grpc/kv.rs"),
            ("crates/server/src/run.rs", "server/run.rs"),
            ("/rustc/abc/library/core/src/cell.rs", "core/cell.rs"),
            ("x.rs", "x.rs"),
        ] {
            assert_eq!(place(file), told);
        }
    }

    #[test]
    fn a_stack_has_our_own_frames() {
        let printed = "   0: server::log::line::panic\n             at ./crates/server/src/log/line.rs:7:5\n   \
                       1: server::run::serve\n             at ./crates/server/src/run.rs:30:9\n   \
                       2: core::ops::call\n             at /rustc/x/core/ops.rs:2:1\n   3: _start\n";
        assert_eq!(frames(printed), "server::run::serve\n\t./crates/server/src/run.rs:30");
    }
}
