//! `quorate utl`: works on the files of members that do not run, in etcdutl's words.
//!
//! ```text
//!  snapshot status FILE ──┐
//!  hashkv FILE ───────────┴─► bolt::View          read, with a shared lock; nothing is written
//!  snapshot restore FILE ───► member.tmp/ ─► member/      renamed when all of it is durable
//!  defrag ──────────────────► db.tmp.defrag ─► db         the same
//!  migrate ─────────────────► one commit of the database
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

mod completion;
mod defrag;
mod files;
#[cfg(test)]
mod fixture;
mod hashkv;
mod log;
mod migrate;
mod snapshot;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::command::{Call, Command, Flag, Kind, Style};
use crate::failure::{self, Failure, Outcome};
use crate::output::Format;
use crate::tool;

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
    .short('w'),
];

static ROOT: Command = Command {
    name: "etcdutl",
    short: "An administrative command line tool for etcd3.",
    style: Style::Plain,
    inherited: &FLAGS,
    commands: &[
        &defrag::DEFRAG,
        &snapshot::SNAPSHOT,
        &hashkv::HASHKV,
        &version::VERSION,
        &completion::COMPLETION,
        &migrate::MIGRATE,
        &tool::PLAIN_HELP,
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
mod tests {
    use super::*;
    use crate::command::{self, Args, Parsed};
    use crate::help;

    fn words(text: &str) -> Vec<command::Arg> {
        text.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn every_command_has_valid_defaults_and_help() {
        fn visit(path: &[&'static Command]) {
            let command = path[path.len() - 1];
            let parsed = command::parse(path, vec![], vec![]);
            let needs = command.flags.iter().any(|flag| flag.required)
                || !matches!(command.args, Args::Any);
            assert_eq!(matches!(parsed, Ok(Parsed::Call(_))), !needs, "{}", command.name);
            let text = help::help(path);
            assert!(text.contains("Usage:\n  etcdutl") && text.ends_with('\n'), "{text}");
            assert!(command.run.is_some() == command.commands.is_empty());
            for child in command.commands {
                visit(&[path, &[*child]].concat());
            }
        }
        visit(&[&ROOT]);
    }

    #[test]
    fn arguments_and_flags_that_are_missing_are_told() {
        for (line, error) in [
            ("hashkv", "accepts 1 arg(s), received 0"),
            ("hashkv a b", "accepts 1 arg(s), received 2"),
            ("completion", "accepts 1 arg(s), received 0"),
            ("completion csh", "invalid argument \"csh\" for \"etcdutl completion\""),
            ("defrag", "required flag(s) \"data-dir\" not set"),
            ("migrate", "required flag(s) \"data-dir\", \"target-version\" not set"),
            (
                "snapshot restore a --bump-revision -3",
                "invalid argument \"-3\" for \"--bump-revision\" flag: \
                 strconv.ParseUint: parsing \"-3\": invalid syntax",
            ),
        ] {
            let (path, args) = command::find(&ROOT, words(line)).ok().expect(line);
            let parsed = command::parse(&path, words(line), args);
            assert_eq!(parsed.err().as_deref(), Some(error), "{line}");
        }
    }

    #[test]
    fn the_root_is_laid_out_as_etcdutl_does() {
        let expected = "Usage:\n  etcdutl [command]\n\nAvailable Commands:\n  \
            completion  Generate completion script\n  \
            defrag      Defragments the storage of the etcd\n  \
            hashkv      Prints the KV history hash of a given file\n  \
            help        Help about any command\n  \
            migrate     Migrates schema of etcd data dir files to make them compatible with \
            different etcd version\n  \
            snapshot    Manages etcd node snapshots\n  \
            version     Prints the version of etcdutl\n\nFlags:\n  \
            -h, --help               help for etcdutl\n      \
            --timeout duration   time to wait to obtain a file lock on db file, 0 to block \
            indefinitely (default 10s)\n  \
            -w, --write-out string   set the output format (fields, json, protobuf, simple, \
            table) (default \"simple\")\n\n\
            Use \"etcdutl [command] --help\" for more information about a command.\n";
        assert_eq!(help::help(&[&ROOT]), expected);
    }
}
