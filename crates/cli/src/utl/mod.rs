//! `quorate utl`: works on the files of members that do not run, in etcdutl's words.
//!
//! ```text
//!  snapshot status FILE ──┐
//!  hashkv FILE ───────────┴─► bolt::View          read, with a shared lock; nothing is written
//!  snapshot restore FILE ───► member.tmp/ ─► member/      renamed when all of it is durable
//!  defrag ──────────────────► db.tmp.defrag ─► db         the same
//!  migrate ─────────────────► one commit of the database
//!  inspect PATH ────────────► what stands there, and what is damaged (ours alone)
//!  rescue DIR... ───────────► member.tmp/ ─► member/      of what a cluster left (ours alone)
//! ```
//!
//! *Invariants.*
//! 1. stdout, stderr and exit codes are etcdutl's, byte for byte; what differs is listed in
//!    COMPAT.md.
//! 2. A command that fails has changed nothing, and leaves nothing behind.
//! 3. A command that succeeds has synced what it wrote.
//!
//! *Absent.* The log lines in which bbolt tells how it opens a file, and stack traces.
//!
//! *Contract.* `etcdutl/` of etcd v3.7.1.

mod defrag;
mod files;
mod hashkv;
mod inspect;
mod log;
mod migrate;
mod rescue;
mod snapshot;
mod version;

pub(crate) use snapshot::{old_status, restore};

use std::ffi::OsString;
use std::process::ExitCode;

use crate::command::{Call, Command, Flag, Kind, Style};
use crate::failure::{self, Failure, Outcome};
use crate::output::{FORMATS, Format};
use crate::{completion, tool};

static FLAGS: [Flag; 2] = [
    Flag::new(
        "timeout",
        Kind::Duration,
        "10s",
        "time to wait to obtain a file lock on db file, 0 to block indefinitely",
    ),
    Flag::text(
        "write-out",
        "simple",
        "set the output format (fields, json, protobuf, simple, table)",
    )
    .short('w')
    .one_of(&FORMATS),
];

pub(crate) static ROOT: Command = Command {
    name: "etcdutl",
    short: "An administrative command line tool for etcd3.",
    style: Style::Plain,
    inherited: &FLAGS,
    commands: &[
        &defrag::DEFRAG,
        &snapshot::SNAPSHOT,
        &hashkv::HASHKV,
        &version::VERSION,
        &completion::PLAIN_COMPLETION,
        &migrate::MIGRATE,
        &inspect::INSPECT,
        &rescue::RESCUE,
        &tool::PLAIN_HELP,
        &completion::COMPLETE,
        &completion::COMPLETE_NAMES,
    ],
    ..Command::EMPTY
};

/// Runs the command that `args` (without the program's name) mean, and says how to exit.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    tool::main(&ROOT, args)
}

impl Call {
    /// The format that `--write-out` names.
    fn format(&self) -> Outcome<Format> {
        Format::parse(self.values.text("write-out"))
            .ok_or_else(|| Failure::new(failure::BAD_FEATURE, "unsupported output format"))
    }
}

/// A failure without a code of its own.
fn fail(reason: impl std::fmt::Display) -> Failure {
    Failure::new(failure::ERROR, reason)
}

#[cfg(test)]
mod tests;
