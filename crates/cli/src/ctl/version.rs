//! `version`: says which etcdctl this one stands in for.

use super::command::{Command, Group};
use super::print::print;

pub(crate) static VERSION: Command = Command {
    name: "version",
    short: "Prints the version of etcdctl",
    group: Group::Utility,
    run: Some(|_| Box::pin(async { print(b"etcdctl version: 3.7.1\nAPI version: 3.7\n") })),
    ..Command::EMPTY
};
