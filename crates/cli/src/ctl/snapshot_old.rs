//! `snapshot status` and `snapshot restore` as etcdctl 3.4 had them, which are etcdutl's now.
//!
//! etcdctl 3.7 prints help for these lines, and succeeds: a script of before would take that for a
//! restored member. So they do what they did, say that they have moved, and stand in no help.
//!
//! *Absent.* What they have learned in etcdutl since: other flags, other counts.
//!
//! *Contract.* stdout and exit codes of etcdctl v3.4 and v3.5, and the line in which the latter
//! says that they have moved.

use std::io::Write as _;

use super::command::{Arg, Call, Command, Flag};
use super::failure::Outcome;
use super::print::print;
use crate::utl::restore as flags;
use crate::{tool, utl};

pub(crate) static STATUS: Command = Command {
    name: "status",
    usage: "<filename>",
    short: "[deprecated] Gets backend snapshot status of a given file",
    long: "The items in the list are hash, revision, total keys, total size.\n\n\
           Moved to 'etcdutl snapshot status ...'\n",
    hidden: true,
    run: Some(|call| Box::pin(async { status(call) })),
    ..Command::EMPTY
};

pub(crate) static RESTORE: Command = Command {
    name: "restore",
    usage: "<filename> [options]",
    short: "[deprecated] Restores an etcd member snapshot to an etcd directory",
    long: "Moved to 'etcdutl snapshot restore ...', which can bump revisions, too\n",
    hidden: true,
    flags: &[
        Flag::text("data-dir", "", "Path to the data directory"),
        flags::WAL_DIR,
        flags::INITIAL_CLUSTER,
        flags::INITIAL_CLUSTER_TOKEN,
        flags::PEER_URLS,
        flags::NAME,
        flags::SKIP_HASH_CHECK,
    ],
    run: Some(|call| Box::pin(restore(call))),
    ..Command::EMPTY
};

fn moved(name: &str) {
    let line = format!("Deprecated: Use `etcdutl snapshot {name}` instead.\n\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The line of etcdutl that means the same, with those of the flags that were given.
fn line(call: &Call, name: &str, flags: &[&str]) -> Vec<Arg> {
    let mut line: Vec<Arg> = vec![b"snapshot".to_vec(), name.as_bytes().to_vec()];
    for flag in flags.iter().filter(|flag| call.values.changed(flag)) {
        line.push(format!("--{flag}={}", call.values.show(flag)).into_bytes());
    }
    line.push(b"--".to_vec());
    line.extend(call.args.iter().cloned());
    line
}

fn status(call: &mut Call) -> Outcome {
    call.take_environment()?;
    moved("status");
    let (_, inner) = tool::resolve(&utl::ROOT, line(call, "status", &["write-out"]))?;
    print(utl::old_status(&inner)?.as_bytes())
}

async fn restore(call: &mut Call) -> Outcome {
    call.take_environment()?;
    moved("restore");
    let flags: Vec<&str> = RESTORE.flags.iter().map(|flag| flag.name).collect();
    let (run, mut inner) = tool::resolve(&utl::ROOT, line(call, "restore", &flags))?;
    run(&mut inner).await
}
