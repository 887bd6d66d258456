//! Writes log lines in the shape of etcd's: zap's JSON, or its console form.
//!
//! ```text
//!  line ─► level ─► sample ─► encoded once ─┬─► outlet: queue ─► thread ─► stderr
//!                                           ├─► outlet: queue ─► thread ─► a file, rotated
//!                                           └─► outlet: queue ─► thread ─► the journal
//!                                        full: dropped and counted; the count is told later
//! ```
//!
//! *Invariants.* 1. A JSON line is an object with non-empty `level`, `ts`, `caller` and `msg`, in
//! this order, then the fields, then `stacktrace` from level error on. 2. No line makes its caller
//! wait for a disk, a pipe or a terminal, but for the last line of a process, which waits for
//! [`outlet::FLUSH_MAX`] at most. 3. An output that blocks or fails holds up no other output, and
//! never ends the member.
//!
//! *Absent.* Stacks of several frames below level panic: taking them costs more than the line.
//!
//! *Contract.* `client/pkg/logutil` and `server/embed/config_logging.go` of etcd v3.7.1, zap v1.27
//! and lumberjack v2.2: what they write, not how.

mod encode;
mod gojson;
mod journal;
mod line;
mod outlet;
mod rotation;
mod sample;
mod setup;
mod sink;
#[cfg(test)]
mod tests;
mod zone;

use std::sync::atomic::{AtomicU8, Ordering};

pub(crate) use line::{Line, debug, error, fatal, info, line, panic, warn};
pub(crate) use outlet::{flush, start};
pub(crate) use setup::{check, configure};

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Dpanic,
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
            "dpanic" => Self::Dpanic,
            "panic" => Self::Panic,
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
            Self::Dpanic => "dpanic",
            Self::Panic => "panic",
            Self::Fatal => "fatal",
        }
    }
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Console,
}

impl Format {
    /// Reads the value of `--log-format`.
    fn parse(text: &str) -> Option<Self> {
        match text {
            "json" | "" => Some(Self::Json),
            "console" => Some(Self::Console),
            _ => None,
        }
    }

    fn now() -> Self {
        if FORMAT.load(Ordering::Relaxed) == Self::Console as u8 {
            Self::Console
        } else {
            Self::Json
        }
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static FORMAT: AtomicU8 = AtomicU8::new(Format::Json as u8);

/// From now on lines below `level` are not written.
pub(crate) fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether lines of `level` are written.
pub(crate) fn is_enabled(level: Level) -> bool {
    level as u8 >= LEVEL.load(Ordering::Relaxed)
}
