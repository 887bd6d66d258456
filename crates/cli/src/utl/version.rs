//! `version`: says which etcdutl this one stands in for.

use crate::command::Command;
use crate::output::print;

pub(super) static VERSION: Command = Command {
    name: "version",
    short: "Prints the version of etcdutl",
    run: Some(|_| Box::pin(async { print(b"etcdutl version: 3.7.1\nAPI version: 3.7\n") })),
    ..Command::EMPTY
};
