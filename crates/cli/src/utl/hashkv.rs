//! `hashkv`: the hash of the keys and their history in a database file.
//!
//! *Invariants.* The file is only read. (etcdutl opens it for writing, and a snapshot that it has
//! hashed cannot be restored any more.)
//!
//! *Contract.* `etcdutl/etcdutl/hashkv_command.go` of etcd v3.7.1.

use base::Revision;
use store::{HashKv, ReadError, history};

use super::fail;
use super::files::{check_exists, open_to_read, path};
use crate::command::{Args, Call, Command, Flag, Running};
use crate::failure::Outcome;
use crate::output::{Format, print, unsupported};
use crate::table::table;

pub(super) static HASHKV: Command = Command {
    name: "hashkv",
    usage: "<filename>",
    short: "Prints the KV history hash of a given file",
    args: Args::Exactly(1),
    flags: &[Flag::int("rev", "maximum revision to hash (default: latest revision)")],
    run: Some(run),
    ..Command::EMPTY
};

fn run(call: &mut Call) -> Running<'_> {
    Box::pin(async {
        let format = call.format()?;
        let file = path(&call.args[0]);
        check_exists(&file)?;
        let keys = history(open_to_read(call, &file)?).map_err(fail)?;
        let hash = keys.hash_kv(Revision(call.values.int("rev"))).map_err(|error| match error {
            ReadError::Compacted | ReadError::FutureRevision => fail(format!("mvcc: {error}")),
            other => fail(other),
        })?;
        print(render(format, &hash)?.as_bytes())
    })
}

fn render(format: Format, found: &HashKv) -> Outcome<String> {
    let HashKv { hash, compact_revision, hash_revision } = found;
    Ok(match format {
        Format::Simple => format!("{hash}, {hash_revision}, {compact_revision}\n"),
        Format::Json => format!(
            "{{\"hash\":{hash},\"hashRevision\":{hash_revision},\
             \"compactRevision\":{compact_revision}}}\n"
        ),
        Format::Fields => format!(
            "\"Hash\" : {hash}\n\"Hash revision\" : {hash_revision}\n\
             \"Compact revision\" : {compact_revision}\n"
        ),
        Format::Table => table(
            &["HASH", "HASH REVISION", "COMPACT REVISION"],
            &[vec![hash.to_string(), hash_revision.to_string(), compact_revision.to_string()]],
        ),
        Format::Protobuf => return Err(unsupported("protobuf")),
    })
}
