//! `get`: reads a key or a range of keys.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::client::{Client, RequestError};
use super::command::{Arg, Call, Command, Flag, Group, Values};
use super::failure::{self, Failure, Outcome};
use super::print::{Answer, Format};
use super::range::widen;

pub(crate) static GET: Command = Command {
    name: "get",
    usage: "[options] <key> [range_end]",
    short: "Gets the key or a range of keys",
    group: Group::KeyValue,
    flags: &[
        Flag::text("consistency", "l", "Linearizable(l) or Serializable(s)").one_of(&["l", "s"]),
        Flag::text("order", "", "Order of results; ASCEND or DESCEND (ASCEND by default)")
            .one_of(&["ASCEND", "DESCEND"]),
        Flag::text("sort-by", "", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION")
            .one_of(&["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"]),
        Flag::int("limit", "Maximum number of results"),
        Flag::bool("prefix", "Get keys with matching prefix"),
        Flag::bool(
            "from-key",
            "Get keys that are greater than or equal to the given key using byte compare",
        ),
        Flag::int("rev", "Specify the kv revision"),
        Flag::bool("keys-only", "Get only the keys"),
        Flag::bool("count-only", "Get only the count"),
        Flag::bool("print-value-only", "Only write values when using the \"simple\" output format"),
        Flag::int("min-create-rev", "Minimum create revision"),
        Flag::int("max-create-rev", "Maximum create revision"),
        Flag::int("min-mod-rev", "Minimum modification revision"),
        Flag::int("max-mod-rev", "Maximum modification revision"),
        Flag::bool("stream", "Use the RangeStream RPC"),
    ],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

async fn run(call: &mut Call) -> Outcome {
    let request = request(&call.values, &call.args)?;
    let settings = call.settings()?;
    let client = Client::connect(&settings).await?;
    let answer = if call.values.bool("stream") {
        stream(&client, &request).await
    } else {
        client.ask_repeatable(&request, async |r| client.kv().range(r).await).await
    };
    let answer = answer.map_err(RequestError::fail)?;
    let mut printer = call.printer();
    if call.values.bool("count-only") && printer.format != Format::Fields {
        let reason = "--count-only is only for `--write-out=fields`";
        return Err(Failure::new(failure::BAD_ARGS, reason));
    }
    if call.values.bool("print-value-only") {
        if printer.format != Format::Simple {
            let reason = "print-value-only is only for `--write-out=simple`";
            return Err(Failure::new(failure::BAD_ARGS, reason));
        }
        printer.value_only = true;
    }
    printer.print(&Answer::Get(answer))
}

/// Reads by `RangeStream`, and puts the pieces together.
async fn stream(
    client: &Client,
    request: &pb::RangeRequest,
) -> Result<pb::RangeResponse, RequestError> {
    let send = async |r| client.kv().range_stream(r).await;
    let mut stream = client.ask(request, send).await?;
    let mut whole = pb::RangeResponse::default();
    while let Some(piece) = client.next(&mut stream).await? {
        let piece = piece.range_response.unwrap_or_default();
        if let Some(header) = piece.header {
            whole.header = Some(header);
        }
        whole.kvs.extend(piece.kvs);
        whole.more |= piece.more;
        if piece.count != 0 {
            whole.count = piece.count;
        }
    }
    Ok(whole)
}

/// Whether a value of `--consistency` means a serializable read.
pub(crate) fn is_serializable(values: &Values, shown: &str) -> Outcome<bool> {
    match values.text("consistency") {
        "s" => Ok(true),
        "l" => Ok(false),
        _ => {
            let reason = format!("unknown consistency flag \"{shown}\"");
            Err(Failure::new(failure::BAD_FEATURE, reason))
        }
    }
}

/// The request that the flags and arguments of `get` mean.
pub(crate) fn request(values: &Values, args: &[Arg]) -> Outcome<pb::RangeRequest> {
    let bad_args = |reason: &str| Err(Failure::new(failure::BAD_ARGS, reason));
    let Some(key) = args.first() else {
        return bad_args(
            "get command needs one argument as key and an optional argument as range_end",
        );
    };
    let (prefix, from_key) = (values.bool("prefix"), values.bool("from-key"));
    let (keys_only, count_only) = (values.bool("keys-only"), values.bool("count-only"));
    if prefix && from_key {
        return bad_args("`--prefix` and `--from-key` cannot be set at the same time, choose one");
    }
    if keys_only && count_only {
        return bad_args(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        );
    }
    let serializable = is_serializable(values, values.text("consistency"))?;
    if args.len() > 1 && (prefix || from_key) {
        return bad_args(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        );
    }
    let (target, order) = sorting(values)?;
    let (key, mut range_end) = widen(key.clone(), prefix, from_key);
    if let Some(end) = args.get(1) {
        range_end.clone_from(end);
    }
    let (min_create_revision, max_create_revision) = revisions(values, "create", "Create")?;
    let (min_mod_revision, max_mod_revision) = revisions(values, "mod", "Mod")?;
    Ok(pb::RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: values.int("limit"),
        revision: values.int("rev").max(0),
        sort_order: order as i32,
        sort_target: target as i32,
        serializable,
        keys_only,
        count_only,
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
    })
}

fn sorting(values: &Values) -> Outcome<(SortTarget, SortOrder)> {
    let order = values.text("order");
    let sort_by = values.text("sort-by");
    let bad = |what, text| Failure::new(failure::BAD_FEATURE, format!("bad sort {what} {text}"));
    let order = match order.to_uppercase().as_str() {
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        "" => SortOrder::None,
        _ => return Err(bad("order", order)),
    };
    let target = match sort_by.to_uppercase().as_str() {
        "CREATE" => SortTarget::Create,
        "KEY" | "" => SortTarget::Key,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(bad("target", sort_by)),
    };
    // Keys come in ascending order anyhow, and the server need not read all to sort them.
    let sorted = target == SortTarget::Key && order == SortOrder::Ascend;
    Ok((target, if sorted { SortOrder::None } else { order }))
}

/// The bounds `--min-X-rev` and `--max-X-rev`.
fn revisions(values: &Values, name: &str, shown: &str) -> Outcome<(i64, i64)> {
    let min = values.int(&format!("min-{name}-rev"));
    let max = values.int(&format!("max-{name}-rev"));
    if max > 0 && min > max {
        let reason = format!("getMin{shown}Rev(={min}) > getMax{shown}Rev(={max})");
        return Err(Failure::new(failure::BAD_FEATURE, reason));
    }
    Ok((min.max(0), max.max(0)))
}
