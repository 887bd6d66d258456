//! `quorate ctl`: asks and steers a member from the command line, in etcdctl's words.
//!
//! ```text
//!  words -> command::find -> command::parse -> the command's module -> client -> member
//!                 |               |                     |
//!               help            help                  print (simple, json, fields, table)
//! ```
//!
//! Each command is one `Command` in a module of its own: its help, its flags, its
//! effect.
//!
//! *Invariants.* stdout, stderr and exit codes are etcdctl's, byte for byte; what differs is
//! listed in COMPAT.md.
//!
//! *Absent.* The log lines that the Go client writes when it retries, and those of gRPC under
//! `--debug`.
//!
//! *Contract.* `etcdctl/` of etcd v3.7.1.

mod alarm;
mod auth;
mod bar;
mod check;
mod child;
mod client;
mod compaction;
mod defrag;
mod del;
mod discover;
mod downgrade;
mod elect;
mod endpoint;
mod events;
#[cfg(test)]
mod fuzz;
mod get;
mod global;
mod lease;
mod lock;
mod member;
mod mirror;
mod move_leader;
mod password;
mod pool;
mod print;
mod put;
mod range;
mod role;
mod secret;
mod secure;
mod session;
mod snapshot;
mod snapshot_old;
mod target;
mod txn;
mod user;
mod version;
mod watch;
mod watch_args;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use crate::command::{Command, Group};
use crate::{command, completion, failure, help, tool};
use print::print;

pub(crate) static ROOT: Command = Command {
    name: "etcdctl",
    short: "A simple command line client for etcd3.",
    inherited: &global::FLAGS,
    commands: &[
        &get::GET,
        &put::PUT,
        &del::DEL,
        &txn::TXN,
        &compaction::COMPACTION,
        &alarm::ALARM,
        &auth::AUTH,
        &defrag::DEFRAG,
        &downgrade::DOWNGRADE,
        &endpoint::ENDPOINT,
        &watch::WATCH,
        &version::VERSION,
        &lease::LEASE,
        &member::MEMBER,
        &move_leader::MOVE_LEADER,
        &snapshot::SNAPSHOT,
        &user::USER,
        &role::ROLE,
        &lock::LOCK,
        &elect::ELECT,
        &mirror::MAKE_MIRROR,
        &check::CHECK,
        &OPTIONS,
        &completion::COMPLETION,
        &tool::HELP,
        &completion::COMPLETE,
        &completion::COMPLETE_NAMES,
    ],
    ..Command::EMPTY
};

static OPTIONS: Command = Command {
    name: "options",
    short: "Show the global command-line flags",
    group: Group::Utility,
    run: Some(|_| Box::pin(async { print(help::options(&ROOT).as_bytes()) })),
    ..Command::EMPTY
};

/// Runs the command that `args` (without the program's name) mean, and says how to exit.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    if std::env::var_os("ETCDCTL_API").is_some_and(|api| api == "2") {
        // Of an old script: etcdctl itself would only warn of an unknown variable.
        let line = "ETCDCTL_API=2: the v2 API is not supported yet; this is etcdctl's v3 API\n";
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    tool::main(&ROOT, args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Arg, Parsed};

    fn words(text: &str) -> Vec<Arg> {
        text.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
    }

    /// The path of names and the words left over, or the unknown word.
    fn found(text: &str) -> String {
        match command::find(&ROOT, words(text)) {
            Ok((path, rest)) => {
                let names: Vec<&str> = path.iter().map(|command| command.name).collect();
                let rest: Vec<_> = rest.iter().map(|w| String::from_utf8_lossy(w)).collect();
                format!("{} | {}", names.join(" "), rest.join(" "))
            }
            Err(word) => format!("unknown {}", String::from_utf8_lossy(&word)),
        }
    }

    #[test]
    fn commands_are_found_among_flags_and_by_prefix() {
        for (line, path) in [
            ("-w json lease grant 100", "etcdctl lease grant | -w json 100"),
            ("lease --endpoints x li", "etcdctl lease list | --endpoints x"),
            ("compact 5", "etcdctl compaction | 5"),
            ("mem li --hex", "etcdctl member list | --hex"),
            ("put get v", "etcdctl put | get v"),
            ("lease nosuch", "etcdctl lease | nosuch"),
            ("nosuch", "unknown nosuch"),
            ("--nosuch get b", "unknown b"),
            ("-- get a", "etcdctl | -- get a"),
            ("", "etcdctl | "),
        ] {
            assert_eq!(found(line), path, "{line}");
        }
    }

    #[test]
    fn every_command_has_valid_defaults_and_help() {
        fn visit(path: &[&'static Command]) {
            let command = path[path.len() - 1];
            let args = match command.args {
                command::Args::OneOf(choices) => words(choices[0]),
                _ => Vec::new(),
            };
            assert!(matches!(command::parse(path, vec![], args), Ok(Parsed::Call(_))));
            let text = help::help(path);
            assert!(text.contains("Usage:\n") && text.ends_with(".\n"), "{text}");
            assert!(command.run.is_some() == command.commands.is_empty());
            for child in command.commands {
                visit(&[path, &[*child]].concat());
            }
        }
        visit(&[&ROOT]);
    }

    #[test]
    fn help_is_laid_out_as_cobra_does() {
        let (path, _) = command::find(&ROOT, words("endpoint hashkv")).unwrap();
        assert_eq!(
            help::help(&path),
            "Prints the KV history hash for each endpoint in --endpoints\n\n\
             Usage:\n  etcdctl endpoint hashkv [flags]\n\n\
             Flags:\n  -h, --help      help for hashkv\n      \
             --rev int   maximum revision to hash (default: latest revision)\n\n\
             Global Flags:\n      --cluster   use all endpoints from the cluster member list\n\
             Use \"etcdctl options\" for a list of global command-line options \
             (applies to all commands).\n"
        );
        assert_eq!(
            help::unknown_command(&ROOT, &b"pit".to_vec()),
            "unknown command \"pit\" for \"etcdctl\"\n\nDid you mean this?\n\tget\n\tput\n"
        );
    }
}
