//! `txn`: one atomic transaction, read from stdin in three blocks that end with an empty line.
//!
//! ```text
//!  mod("key1") > "0"          comparisons: version, create, mod, value, lease
//!                             (empty line)
//!  put key1 "new"             requests if all hold: put, get, del with their flags
//!
//!  get key1 --prefix          requests otherwise
//!
//! ```

use std::io::BufRead;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;

use super::client::{Client, RequestError};
use super::command::{Arg, Call, Command, Flag, Group, Parsed, find, parse};
use super::failure::{self, Failure, Outcome};
use super::print::{Answer, print};
use super::{del, get, help, put};
use crate::go;

pub(crate) static TXN: Command = Command {
    name: "txn",
    usage: "[options]",
    short: "Txn processes all the requests in one transaction",
    long: "Txn reads multiple etcd requests from standard input and applies them as a single \
atomic transaction.

A transaction consists of three components:
1) a list of conditions,
2) a list of requests to apply if all the conditions are true,
3) a list of requests to apply if any condition is false.

Example interactive stdin usage:

---
etcdctl txn -i
# compares:
mod(\"key1\") > \"0\"

# success requests (get, put, delete):
put key1 \"overwrote-key1\"

# failure requests (get, put, delete):
put key1 \"created-key1\"
put key2 \"some extra key\"
---

Refer to https://github.com/etcd-io/etcd/blob/main/etcdctl/README.md#txn-options.",
    group: Group::KeyValue,
    flags: &[Flag::bool("interactive", "Input transaction in interactive mode").short('i')],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

/// What may stand in a block of requests.
static OPERATIONS: Command =
    Command { commands: &[&put::PUT, &get::GET, &del::DEL], ..Command::EMPTY };

async fn run(call: &mut Call) -> Outcome {
    if !call.args.is_empty() {
        return Err(Failure::new(failure::BAD_ARGS, "txn command does not accept argument"));
    }
    let settings = call.settings()?;
    let prompts = call.values.bool("interactive");
    let request = read(&mut std::io::stdin().lock(), prompts).await?;
    let client = Client::connect_unbounded(&settings).await?;
    let answer = client.ask(&request, async |r| client.kv().txn(r).await).await;
    call.printer().print(&Answer::Txn(answer.map_err(RequestError::fail)?))
}

fn invalid(reason: impl std::fmt::Display) -> Failure {
    Failure::new(failure::INVALID_INPUT, reason)
}

/// Reads the three blocks.
pub(super) async fn read(input: &mut impl BufRead, prompts: bool) -> Outcome<pb::TxnRequest> {
    let prompt = |text: &[u8]| if prompts { print(text) } else { Ok(()) };
    let mut request = pb::TxnRequest::default();
    prompt(b"compares:\n")?;
    while let Some(line) = line(input)? {
        request.compare.push(comparison(&line)?);
    }
    prompt(b"success requests (get, put, del):\n")?;
    while let Some(line) = line(input)? {
        request.success.push(operation(&line).await?);
    }
    prompt(b"failure requests (get, put, del):\n")?;
    while let Some(line) = line(input)? {
        request.failure.push(operation(&line).await?);
    }
    Ok(request)
}

/// The next line without the blanks around it; none at the end of a block.
fn line(input: &mut impl BufRead) -> Outcome<Option<Arg>> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line).map_err(|error| invalid(go::os_error(&error)))?;
    if line.last() != Some(&b'\n') {
        return Err(invalid("EOF"));
    }
    let line = line.trim_ascii();
    Ok(if line.is_empty() { None } else { Some(line.to_vec()) })
}

/// Reads `put ...`, `get ...` or `del ...`.
async fn operation(line: &[u8]) -> Outcome<pb::RequestOp> {
    let shown = String::from_utf8_lossy(line);
    let unknown = || invalid(format!("invalid txn request: {shown}"));
    let words = split_words(line).map_err(invalid)?;
    if words.len() < 2 {
        return Err(invalid(format!("invalid txn compare request: {shown}")));
    }
    let (path, args) = find(&OPERATIONS, words).map_err(|_| unknown())?;
    let call = match parse(&path, Vec::new(), args) {
        Ok(Parsed::Call(call)) => call,
        Ok(Parsed::Help) => return Err(unknown()),
        Err(_) => {
            let Failure { code, text } = unknown();
            return Err(Failure { code, text: format!("{}\n{text}", help::usage(&path)) });
        }
    };
    let request = match path[path.len() - 1].name {
        // A value cannot come from stdin, which is the transaction's.
        "put" => Request::RequestPut(put::request(&call.values, &call.args, Vec::new)?),
        "get" => Request::RequestRange(get::request(&call.values, &call.args)?),
        "del" => Request::RequestDeleteRange(del::request(&call.values, &call.args).await?),
        _ => return Err(unknown()),
    };
    Ok(pb::RequestOp { request: Some(request) })
}

/// Splits a line into words: `"..."` with Go's escapes, `'...'` as it is, else up to a blank.
pub(crate) fn split_words(line: &[u8]) -> Result<Vec<Arg>, &'static str> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.first() {
        let taken = match first {
            b'"' => double_quoted(rest),
            b'\'' => rest[1..].iter().position(|b| *b == b'\'').map(|end| end + 2),
            b if b.is_ascii_whitespace() => None,
            _ => Some(rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len())),
        };
        // A quote that nothing closes is passed over.
        let Some(taken) = taken else {
            rest = &rest[1..];
            continue;
        };
        let (word, after) = rest.split_at(taken);
        words.push(match first {
            b'"' => go::scan_quoted(word)?.0,
            b'\'' => word[1..taken - 1].to_vec(),
            _ => word.to_vec(),
        });
        rest = after;
    }
    Ok(words)
}

/// The length of the double quoted word at the start of `text`, if it is closed.
fn double_quoted(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Reads `target("key") operator "value"`.
fn comparison(line: &[u8]) -> Outcome<pb::Compare> {
    let shown = String::from_utf8_lossy(line);
    let malformed = |why: String| invalid(format!("malformed comparison: {shown}{why}"));
    let open = line.iter().position(|b| *b == b'(').ok_or_else(|| malformed(String::new()))?;
    let target = String::from_utf8_lossy(&line[..open]).into_owned();
    let Parts { key, operator, value } = Parts::scan(&line[open + 1..]);
    let Some(value) = value else {
        let key = go::quote(&key.unwrap_or_default());
        let operator = operator.unwrap_or_default();
        return Err(malformed(format!("; got {target}({key}) {operator} \"\"")));
    };
    let number = |base| {
        go::parse_int(&String::from_utf8_lossy(&value), base)
            .map_err(|_| invalid(format!("invalid txn compare request: {shown}")))
    };
    let (target, union) = match target.as_str() {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => return Err(malformed(format!(" (unknown target {target})"))),
    };
    let operator = operator.unwrap_or_default();
    let result = match operator.as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => return Err(malformed(format!(" (unknown operator {operator})"))),
    };
    Ok(pb::Compare {
        result: result as i32,
        target: target as i32,
        key: key.unwrap_or_default().into(),
        range_end: Default::default(),
        target_union: Some(union),
    })
}

/// What Go's `Sscanf("%q) %s %q")` finds; the first that is missing ends the scan.
#[derive(Default)]
struct Parts {
    key: Option<Arg>,
    operator: Option<String>,
    value: Option<Arg>,
}

impl Parts {
    fn scan(text: &[u8]) -> Parts {
        let mut parts = Parts::default();
        let text = text.trim_ascii_start();
        let Ok((key, taken)) = go::scan_quoted(text) else { return parts };
        parts.key = Some(key);
        let Some(text) = text[taken..].strip_prefix(b")") else { return parts };
        let spaced = text.trim_ascii_start();
        if spaced.len() == text.len() {
            return parts;
        }
        let text = spaced;
        let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
        if end == 0 {
            return parts;
        }
        parts.operator = Some(String::from_utf8_lossy(&text[..end]).into_owned());
        parts.value = go::scan_quoted(text[end..].trim_ascii_start()).ok().map(|(value, _)| value);
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Outcome<pb::TxnRequest> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read(&mut text.as_bytes(), false))
    }

    #[test]
    fn words_are_split_as_by_a_shell() {
        for (line, words) in [
            ("put k \"a \\\"b\\n\"", vec!["put", "k", "a \"b\n"]),
            ("put k2 'x \\y'", vec!["put", "k2", "x \\y"]),
            ("  a\tb\"c d", vec!["a", "b\"c", "d"]),
            ("\"open x", vec!["open", "x"]),
            ("\"\" ''", vec!["", ""]),
        ] {
            let expected: Vec<Arg> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(split_words(line.as_bytes()), Ok(expected), "{line}");
        }
        assert_eq!(split_words(b"put \"a\\zb\""), Err("invalid syntax"));
    }

    #[test]
    fn a_transaction_is_read() {
        let request = parsed(
            "  mod(\"k\")   >   \"5\" rest\nlease(`l`) = \"1f\"\nval(\"v\") != \"x y\"\n\n\
             put k \"v\\x41\" --lease 1f --prev-kv\nget \"\" --prefix --limit 3\nd k\n\n\n",
        )
        .unwrap();
        assert_eq!(request.compare.len(), 3);
        assert_eq!(request.compare[0].result, CompareResult::Greater as i32);
        assert_eq!(request.compare[0].target_union, Some(TargetUnion::ModRevision(5)));
        assert_eq!(request.compare[1].key, "l");
        assert_eq!(request.compare[1].target_union, Some(TargetUnion::Lease(0x1f)));
        assert_eq!(request.compare[2].result, CompareResult::NotEqual as i32);
        let [put, get, del] = request.success.as_slice() else { panic!("{request:?}") };
        let Some(Request::RequestPut(put)) = &put.request else { panic!("{put:?}") };
        assert_eq!((&put.value[..], put.lease, put.prev_kv), (&b"vA"[..], 0x1f, true));
        let Some(Request::RequestRange(get)) = &get.request else { panic!("{get:?}") };
        assert_eq!((&get.key[..], &get.range_end[..], get.limit), (&b"\0"[..], &b"\0"[..], 3));
        assert!(matches!(del.request, Some(Request::RequestDeleteRange(_))));
        assert!(request.failure.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_told_as_etcdctl_tells_it() {
        for (input, code, error) in [
            ("", 3, "EOF"),
            ("bad\n", 3, "malformed comparison: bad"),
            (
                "mod(\"k\")>\"0\"\n",
                3,
                "malformed comparison: mod(\"k\")>\"0\"; got mod(\"k\")  \"\"",
            ),
            ("mod(\"k\") > 0\n", 3, "malformed comparison: mod(\"k\") > 0; got mod(\"k\") > \"\""),
            (
                "val('k') > \"0\"\n",
                3,
                "malformed comparison: val('k') > \"0\"; got val(\"\")  \"\"",
            ),
            (
                "foo(\"k\") = \"x\"\n",
                3,
                "malformed comparison: foo(\"k\") = \"x\" (unknown target foo)",
            ),
            ("mod(\"k\") > \"x\"\n", 3, "invalid txn compare request: mod(\"k\") > \"x\""),
            ("\nput\n", 3, "invalid txn compare request: put"),
            ("\nblah x\n", 3, "invalid txn request: blah x"),
            ("\nput a\n", 128, "put command needs 1 argument and input from stdin or 2 arguments"),
            ("\n\nget k\n", 3, "EOF"),
        ] {
            let expected = Failure::new(code, error);
            assert_eq!(parsed(input).err(), Some(expected), "{input:?}");
        }
    }
}
