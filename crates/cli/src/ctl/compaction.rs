//! `compaction`: forgets history up to a revision.

use proto::etcdserverpb as pb;

use super::client::{Client, RequestError};
use super::command::{Call, Command, Flag, Group};
use super::failure::{self, Failure, Outcome};
use super::print::print;
use crate::go;

pub(crate) static COMPACTION: Command = Command {
    name: "compaction",
    usage: "[options] <revision>",
    short: "Compacts the event history in etcd",
    group: Group::KeyValue,
    flags: &[Flag::bool(
        "physical",
        "'true' to wait for compaction to physically remove all old revisions",
    )],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

async fn run(call: &mut Call) -> Outcome {
    let [revision] = call.args.as_slice() else {
        return Err(Failure::new(failure::BAD_ARGS, "compaction command needs 1 argument"));
    };
    let revision = go::parse_int(&String::from_utf8_lossy(revision), 10)
        .map_err(|error| Failure::new(failure::ERROR, error))?;
    let request = pb::CompactionRequest { revision, physical: call.values.bool("physical") };
    let settings = call.settings()?;
    let client = Client::connect(&settings).await?;
    let answer = client.ask(&request, async |r| client.kv().compact(r).await).await;
    answer.map_err(RequestError::fail)?;
    print(format!("compacted revision {revision}\n").as_bytes())
}
