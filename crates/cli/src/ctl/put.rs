//! `put`: writes a key.

use std::io::Read as _;

use proto::etcdserverpb as pb;

use super::client::{Client, RequestError};
use super::command::{Arg, Call, Command, Flag, Group, Values};
use super::failure::{self, Failure, Outcome};
use super::print::Answer;
use crate::go;

pub(crate) static PUT: Command = Command {
    name: "put",
    usage: "[options] <key> <value> (<value> can also be given from stdin)",
    short: "Puts the given key into the store",
    long: "
Puts the given key into the store.

When <value> begins with '-', <value> is interpreted as a flag.
Insert '--' for workaround:

$ put <key> -- <value>
$ put -- <key> <value>

If <value> isn't given as a command line argument and '--ignore-value' is not specified,
this command tries to read the value from standard input.

If <lease> isn't given as a command line argument and '--ignore-lease' is not specified,
this command tries to read the value from standard input.

For example,
$ cat file | put <key>
will store the content of the file to <key>.
",
    group: Group::KeyValue,
    flags: &[
        Flag::text("lease", "0", "lease ID (in hexadecimal) to attach to the key"),
        Flag::bool("prev-kv", "return the previous key-value pair before modification"),
        Flag::bool("ignore-value", "updates the key using its current value"),
        Flag::bool("ignore-lease", "updates the key using its current lease"),
    ],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

async fn run(call: &mut Call) -> Outcome {
    let request = request(&call.values, &call.args, read_stdin)?;
    let settings = call.settings()?;
    let client = Client::connect(&settings).await?;
    let answer = client.ask(&request, async |r| client.kv().put(r).await).await;
    call.printer().print(&Answer::Put(answer.map_err(RequestError::fail)?))
}

/// All of stdin; nothing if it cannot be read.
fn read_stdin() -> Arg {
    let mut value = Vec::new();
    match std::io::stdin().read_to_end(&mut value) {
        Ok(_) => value,
        Err(_) => Vec::new(),
    }
}

/// The request that the flags and arguments of `put` mean; `stdin` yields a value that is not
/// among the arguments.
pub(crate) fn request(
    values: &Values,
    args: &[Arg],
    stdin: impl FnOnce() -> Arg,
) -> Outcome<pb::PutRequest> {
    const USAGE: &str = "put command needs 1 argument and input from stdin or 2 arguments";
    let bad_args = |reason: &str| Failure::new(failure::BAD_ARGS, reason);
    let key = args.first().ok_or_else(|| bad_args(USAGE))?;
    let ignore_value = values.bool("ignore-value");
    let value = match args.get(1) {
        Some(_) if ignore_value => {
            return Err(bad_args("put command needs only 1 argument when 'ignore-value' is set"));
        }
        Some(value) => value.clone(),
        None if ignore_value => Vec::new(),
        None => {
            let value = stdin();
            if value.is_empty() {
                return Err(bad_args(USAGE));
            }
            value
        }
    };
    let lease = go::parse_int(values.text("lease"), 16)
        .map_err(|error| bad_args(&format!("bad lease ID ({error}), expecting ID in Hex")))?;
    Ok(pb::PutRequest {
        key: key.clone().into(),
        value: value.into(),
        lease,
        prev_kv: values.bool("prev-kv"),
        ignore_value,
        ignore_lease: values.bool("ignore-lease"),
    })
}
