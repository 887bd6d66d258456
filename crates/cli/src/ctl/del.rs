//! `del`: removes a key or a range of keys.

use std::io::Write as _;
use std::time::Duration;

use proto::etcdserverpb as pb;

use super::client::{Client, RequestError};
use super::command::{Arg, Call, Command, Flag, Group, Values};
use super::failure::{self, Failure, Outcome};
use super::print::Answer;
use super::range::widen;
use crate::go;

/// How long a range may still be thought better of.
const WARNING_TIME: Duration = Duration::from_secs(2);

pub(crate) static DEL: Command = Command {
    name: "del",
    usage: "[options] <key> [range_end]",
    short: "Removes the specified key or range of keys [key, range_end)",
    group: Group::KeyValue,
    flags: &[
        Flag::bool("prefix", "delete keys with matching prefix"),
        Flag::bool("prev-kv", "return deleted key-value pairs"),
        Flag::bool(
            "from-key",
            "delete keys that are greater than or equal to the given key using byte compare",
        ),
        Flag::bool("range", "delete range of keys"),
    ],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

async fn run(call: &mut Call) -> Outcome {
    let request = request(&call.values, &call.args).await?;
    let settings = call.settings()?;
    let client = Client::connect(&settings).await?;
    let answer = client.ask(&request, async |r| client.kv().delete_range(r).await).await;
    call.printer().print(&Answer::Del(answer.map_err(RequestError::fail)?))
}

/// The request that the flags and arguments of `del` mean. A range that is given by two keys
/// without `--range` is announced, and time given to interrupt.
pub(crate) async fn request(values: &Values, args: &[Arg]) -> Outcome<pb::DeleteRangeRequest> {
    let bad_args = |reason: &str| Err(Failure::new(failure::BAD_ARGS, reason));
    let [key, rest @ ..] = args else { return bad_args(USAGE) };
    if rest.len() > 1 {
        return bad_args(USAGE);
    }
    let (prefix, from_key) = (values.bool("prefix"), values.bool("from-key"));
    if prefix && from_key {
        return bad_args("`--prefix` and `--from-key` cannot be set at the same time, choose one");
    }
    let (first, mut range_end) = widen(key.clone(), prefix, from_key);
    if let Some(end) = rest.first() {
        if prefix || from_key {
            return bad_args(
                "too many arguments, only accept one argument when `--prefix` or `--from-key` \
                 is set",
            );
        }
        range_end.clone_from(end);
        if !values.bool("range") {
            let warning = format!(
                "Warning: Keys between {} and {} will be deleted. Please interrupt the command \
                 within next {} seconds to cancel. You can provide `--range` flag to avoid the \
                 delay.\n",
                go::quote(key),
                go::quote(end),
                WARNING_TIME.as_secs()
            );
            let _ = std::io::stderr().write_all(warning.as_bytes());
            tokio::time::sleep(WARNING_TIME).await;
        }
    }
    Ok(pb::DeleteRangeRequest {
        key: first.into(),
        range_end: range_end.into(),
        prev_kv: values.bool("prev-kv"),
    })
}

const USAGE: &str = "del command needs one argument as key and an optional argument as range_end";
