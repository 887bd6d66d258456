//! What `watch` is asked to do: by its arguments, by the environment, or by a line of stdin.
//!
//! ```text
//!  watch [options] [key] [range_end] [-- command arg ...]
//! ```
//!
//! *Contract.* `parseWatchArgs` in `etcdctl/ctlv3/command/watch_command.go` of etcd v3.7.1, but
//! for a command whose words repeat (`-- echo echo`), where etcdctl takes one of them for a key.

use proto::etcdserverpb as pb;

use super::command::{Arg, Flag, Values, parse_flags};
use super::range::prefix_end;

/// The flags of `watch`, which a line of stdin may have too.
pub(crate) static FLAGS: [Flag; 5] = [
    Flag::bool("interactive", "Interactive mode").short('i'),
    Flag::bool("prefix", "Watch on a prefix if prefix is set"),
    Flag::int("rev", "Revision to start watching"),
    Flag::bool("prev-kv", "get the previous key-value pair before the event happens"),
    Flag::bool("progress-notify", "get periodic watch progress notification from server"),
];

const NUMBER: &str = "bad number of arguments";
const CONFLICT: &str = "bad number of arguments (found conflicting environment key)";
const SEPARATOR: &str = "bad number of arguments (found separator --, but no commands)";
const EXCLUSIVE: &str = "`range_end` and `--prefix` are mutually exclusive";

/// Key and range end from the environment, which stand in for the arguments.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    pub(crate) key: Arg,
    pub(crate) range_end: Arg,
}

/// Keys and command as they were given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    keys: Vec<Arg>,
    /// Run for every event; may be empty.
    pub(crate) command: Vec<Arg>,
}

/// Reads the arguments of `watch`: `line` are all words after the program's name, `positional`
/// those that are no flags.
pub(crate) fn from_arguments(
    line: &[Arg],
    positional: &[Arg],
    environment: &Environment,
) -> Result<Plan, &'static str> {
    let after_name = line.iter().position(|word| word == b"watch").map(|at| &line[at + 1..]);
    let separator = after_name.unwrap_or(line).iter().position(|word| word == b"--");
    let words = after_name.unwrap_or(line);
    let bare = after_name.is_some_and(<[Arg]>::is_empty);
    let command = match separator {
        Some(at) if at + 1 == words.len() => return Err(SEPARATOR),
        Some(at) => words[at + 1..].to_vec(),
        None if bare && environment.key.is_empty() => return Err(NUMBER),
        None => Vec::new(),
    };
    let keys = positional[..positional.len() - command.len()].to_vec();
    plan(keys, command, environment)
}

/// Reads a line of the interactive mode, without the word `watch`.
pub(crate) fn from_line(
    words: &[Arg],
    environment: &Environment,
) -> Result<(Plan, Values), String> {
    let separator = words.iter().position(|word| word == b"--");
    let (words, command) = match separator {
        Some(at) if at + 1 == words.len() => return Err(SEPARATOR.to_owned()),
        Some(at) => (&words[..at], words[at + 1..].to_vec()),
        None => (words, Vec::new()),
    };
    let flags: Vec<&'static Flag> = FLAGS.iter().collect();
    let (values, keys) = parse_flags(&flags, words.to_vec())?;
    if command.is_empty() && keys.is_empty() && environment.key.is_empty() {
        return Err(NUMBER.to_owned());
    }
    Ok((plan(keys, command, environment)?, values))
}

fn plan(
    mut keys: Vec<Arg>,
    command: Vec<Arg>,
    environment: &Environment,
) -> Result<Plan, &'static str> {
    if !environment.key.is_empty() {
        if !keys.is_empty() {
            return Err(CONFLICT);
        }
        keys.push(environment.key.clone());
        if !environment.range_end.is_empty() {
            keys.push(environment.range_end.clone());
        }
    }
    Ok(Plan { keys, command })
}

impl Plan {
    /// The request for the server.
    pub(crate) fn request(&self, values: &Values) -> Result<pb::WatchCreateRequest, &'static str> {
        let key = self.keys.first().ok_or(NUMBER)?;
        let prefix = values.bool("prefix");
        let range_end = match self.keys.as_slice() {
            [_, _] if prefix => return Err(EXCLUSIVE),
            [_, end] => end.clone(),
            _ if prefix && key.is_empty() => vec![0],
            _ if prefix => prefix_end(key),
            _ => Vec::new(),
        };
        // The server takes no empty key, and no key is empty.
        let key = if key.is_empty() { vec![0] } else { key.clone() };
        Ok(pb::WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: values.int("rev"),
            progress_notify: values.bool("progress-notify"),
            prev_kv: values.bool("prev-kv"),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Arg> {
        text.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
    }

    fn environment(text: &str) -> Environment {
        let mut words = words(text).into_iter();
        let mut next = || words.next().unwrap_or_default();
        Environment { key: next(), range_end: next() }
    }

    /// `keys | command`, or the error.
    fn shown(plan: Result<Plan, String>) -> String {
        let join = |words: Vec<Arg>| String::from_utf8_lossy(&words.join(&b' ')).into_owned();
        plan.map_or_else(|error| error, |p| format!("{} | {}", join(p.keys), join(p.command)))
    }

    #[test]
    fn arguments() {
        for (env, line, expected) in [
            ("", "watch foo bar", "foo bar | "),
            ("", "watch --rev 1 foo -- echo echo", "foo | echo echo"),
            ("", "-w json watch foo -- echo -- x", "foo | echo -- x"),
            ("", "watch", NUMBER),
            ("", "watch foo --", SEPARATOR),
            ("a b", "watch -- echo", "a b | echo"),
            ("a", "watch", "a | "),
            ("a", "watch b", CONFLICT),
            ("a", "watch b -- echo", CONFLICT),
        ] {
            let line = words(line);
            let flags: Vec<&'static Flag> = FLAGS.iter().collect();
            let known = line.iter().filter(|w| *w != b"-w" && *w != b"json").cloned().collect();
            let (_, mut positional) = parse_flags(&flags, known).unwrap();
            positional.remove(0);
            let plan = from_arguments(&line, &positional, &environment(env));
            assert_eq!(shown(plan.map_err(str::to_owned)), expected, "{line:?}");
        }
    }

    #[test]
    fn lines() {
        for (env, line, expected) in [
            ("", "foo --rev 1 bar -- echo --prefix", "foo bar | echo --prefix"),
            ("", "--rev 1", NUMBER),
            ("", "a --", SEPARATOR),
            ("", "--nosuch a", "unknown flag: --nosuch"),
            ("a", "-- echo", "a | echo"),
            ("a", "b", CONFLICT),
        ] {
            let plan = from_line(&words(line), &environment(env)).map(|(plan, _)| plan);
            assert_eq!(shown(plan), expected, "{line:?}");
        }
    }

    #[test]
    fn requests() {
        let request = |line: &str| {
            let (plan, values) = from_line(&words(line), &Environment::default()).unwrap();
            plan.request(&values).map(|request| (request.key, request.range_end))
        };
        assert_eq!(request("foo --prefix"), Ok(("foo".into(), "fop".into())));
        assert_eq!(request("a b"), Ok(("a".into(), "b".into())));
        assert_eq!(request("a b --prefix"), Err(EXCLUSIVE));
        assert_eq!(request("a b c --prefix"), Ok(("a".into(), "b".into())));
    }
}
