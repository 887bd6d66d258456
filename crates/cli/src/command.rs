//! Finds the command that a line of arguments means, and reads its flags.
//!
//! ```text
//!  etcdctl -w json lease grant --x=1 100
//!     find() -> [etcdctl, lease, grant]      the words that name commands are taken out
//!    parse() -> {write-out: json, x: 1}      flags may stand anywhere before `--`
//!               ["100"]                      the rest are positional
//! ```
//!
//! *Invariants.* A flag's default parses (a test builds every command's values), so that
//! [`Values`] holds a value of the declared kind for every flag of the command.
//!
//! *Absent.* lexopt or a like parser: the texts of errors and the way command names are looked
//! for among flags are cobra's own, and users of etcdctl compare them.
//!
//! *Contract.* cobra v1.10.2 `command.go`, pflag v1.0.10 `flag.go`.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::failure::Outcome;
use crate::go;

/// One word of the command line; keys and values need not be UTF-8.
pub(crate) type Arg = Vec<u8>;

/// A command under way.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// How a tool's texts are laid out; that of the root counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Commands in groups, global flags on a page of their own, descriptions above the usage.
    Grouped,
    /// Help is the usage alone, and errors of usage are told before and after it.
    Plain,
}

/// How many positional arguments a command takes.
#[derive(Clone, Copy)]
pub(crate) enum Args {
    /// The command itself says what it does not like.
    Any,
    /// As many as this.
    Exactly(usize),
    /// One of these words.
    OneOf(&'static [&'static str]),
}

impl Args {
    fn check(self, path: &[&'static Command], args: &[Arg]) -> Result<(), String> {
        let count = match self {
            Args::Any => return Ok(()),
            Args::Exactly(count) => count,
            Args::OneOf(_) => 1,
        };
        if args.len() != count {
            return Err(format!("accepts {count} arg(s), received {}", args.len()));
        }
        match self {
            Args::OneOf(words) if !words.iter().any(|word| word.as_bytes() == args[0]) => {
                let name = names(path).join(" ");
                Err(format!("invalid argument {} for \"{name}\"", go::quote(&args[0])))
            }
            _ => Ok(()),
        }
    }
}

/// The names of the commands of a path.
pub(crate) fn names(path: &[&'static Command]) -> Vec<&'static str> {
    path.iter().map(|command| command.name).collect()
}

/// The heading under which a command stands in the help of the root.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// Only sub-commands and the root itself.
    None,
    KeyValue,
    Maintenance,
    Concurrency,
    Authentication,
    Utility,
}

/// One command: its help, its flags and its effect.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// What follows the name in the usage line.
    pub(crate) usage: &'static str,
    pub(crate) short: &'static str,
    /// Printed instead of `short` in the command's own help, if not empty.
    pub(crate) long: &'static str,
    pub(crate) example: &'static str,
    pub(crate) style: Style,
    pub(crate) group: Group,
    /// Whether help of the command above leaves it out, because etcd does not have it.
    pub(crate) hidden: bool,
    /// Whether the words behind the name are no flags of this command, whatever they look like.
    pub(crate) raw: bool,
    /// Whether the usage line leaves out that there are flags.
    pub(crate) hides_flags: bool,
    pub(crate) args: Args,
    pub(crate) flags: &'static [Flag],
    /// Flags that the sub-commands take too.
    pub(crate) inherited: &'static [Flag],
    pub(crate) commands: &'static [&'static Command],
    /// None: a group, which prints its help.
    pub(crate) run: Option<for<'a> fn(&'a mut Call) -> Running<'a>>,
}

impl Command {
    /// A command without anything, to be filled by struct update.
    pub(crate) const EMPTY: Command = Command {
        name: "",
        usage: "",
        short: "",
        long: "",
        example: "",
        style: Style::Grouped,
        group: Group::None,
        hidden: false,
        raw: false,
        hides_flags: false,
        args: Args::Any,
        flags: &[],
        inherited: &[],
        commands: &[],
        run: None,
    };
}

/// What kind of value a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int,
    Uint,
    Text,
    Words,
    Duration,
}

impl Kind {
    /// The name of the kind in help; empty for booleans, which take no value.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Bool => "",
            Kind::Int => "int",
            Kind::Uint => "uint",
            Kind::Text => "string",
            Kind::Words => "strings",
            Kind::Duration => "duration",
        }
    }

    fn parse(self, text: &str) -> Result<Value, String> {
        Ok(match self {
            Kind::Bool => Value::Bool(go::parse_bool(text)?),
            Kind::Int => Value::Int(go::parse_int(text, 0)?),
            Kind::Uint => Value::Uint(go::parse_uint(text)?),
            Kind::Text => Value::Text(text.to_owned()),
            Kind::Words => Value::Words(go::split_csv(text)),
            Kind::Duration => Value::Duration(go::parse_duration(text)?),
        })
    }
}

/// One flag of a command.
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) kind: Kind,
    pub(crate) default: &'static str,
    pub(crate) usage: &'static str,
    /// Whether the command does nothing without it.
    pub(crate) required: bool,
    /// What shells complete its value to.
    pub(crate) values: &'static [&'static str],
}

impl Flag {
    pub(crate) const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        usage: &'static str,
    ) -> Flag {
        Flag { name, short: None, kind, default, usage, required: false, values: &[] }
    }

    /// A boolean that is false unless given.
    pub(crate) const fn bool(name: &'static str, usage: &'static str) -> Flag {
        Flag::new(name, Kind::Bool, "false", usage)
    }

    /// A number that is zero unless given.
    pub(crate) const fn int(name: &'static str, usage: &'static str) -> Flag {
        Flag::new(name, Kind::Int, "0", usage)
    }

    pub(crate) const fn text(
        name: &'static str,
        default: &'static str,
        usage: &'static str,
    ) -> Flag {
        Flag::new(name, Kind::Text, default, usage)
    }

    pub(crate) const fn short(mut self, short: char) -> Flag {
        self.short = Some(short);
        self
    }

    pub(crate) const fn required(mut self) -> Flag {
        self.required = true;
        self
    }

    pub(crate) const fn one_of(mut self, values: &'static [&'static str]) -> Flag {
        self.values = values;
        self
    }

    /// The flag as error texts name it.
    fn display(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.name),
            None => format!("--{}", self.name),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(String),
    Words(Vec<String>),
    Duration(Duration),
}

struct Slot {
    flag: &'static Flag,
    value: Value,
    /// Given on the command line or by the environment.
    changed: bool,
}

/// The values of all flags of a command, given or default.
pub(crate) struct Values {
    slots: BTreeMap<&'static str, Slot>,
}

impl Values {
    fn new(flags: impl Iterator<Item = &'static Flag>) -> Values {
        let slots = flags.map(|flag| {
            let value = flag.kind.parse(flag.default).expect("a flag's default is valid");
            (flag.name, Slot { flag, value, changed: false })
        });
        Values { slots: slots.collect() }
    }

    fn slot(&self, name: &str) -> &Slot {
        self.slots.get(name).expect("a command asks only for flags that it declares")
    }

    /// Sets a flag from text; the error is the reason alone.
    pub(crate) fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let slot = self.slots.get_mut(name).expect("only declared flags are set");
        let value = slot.flag.kind.parse(text)?;
        match (&mut slot.value, value) {
            (Value::Words(words), Value::Words(more)) if slot.changed => words.extend(more),
            (held, value) => *held = value,
        }
        slot.changed = true;
        Ok(())
    }

    pub(crate) fn changed(&self, name: &str) -> bool {
        self.slot(name).changed
    }

    pub(crate) fn bool(&self, name: &str) -> bool {
        matches!(self.slot(name).value, Value::Bool(true))
    }

    pub(crate) fn int(&self, name: &str) -> i64 {
        match self.slot(name).value {
            Value::Int(value) => value,
            _ => unreachable!("--{name} is declared as a number"),
        }
    }

    pub(crate) fn uint(&self, name: &str) -> u64 {
        match self.slot(name).value {
            Value::Uint(value) => value,
            _ => unreachable!("--{name} is declared as a number without a sign"),
        }
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        match &self.slot(name).value {
            Value::Text(value) => value,
            _ => unreachable!("--{name} is declared as text"),
        }
    }

    pub(crate) fn words(&self, name: &str) -> &[String] {
        match &self.slot(name).value {
            Value::Words(value) => value,
            _ => unreachable!("--{name} is declared as words"),
        }
    }

    pub(crate) fn duration(&self, name: &str) -> Duration {
        match self.slot(name).value {
            Value::Duration(value) => value,
            _ => unreachable!("--{name} is declared as a duration"),
        }
    }

    /// A flag's value as `--debug` shows it.
    pub(crate) fn show(&self, name: &str) -> String {
        match &self.slot(name).value {
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Uint(value) => value.to_string(),
            Value::Text(value) => value.clone(),
            Value::Words(words) => format!("[{}]", words.join(",")),
            Value::Duration(value) => go::duration(*value),
        }
    }
}

/// A command with what was given to it.
pub(crate) struct Call {
    /// The tool that was called.
    pub(crate) root: &'static Command,
    pub(crate) command: &'static Command,
    pub(crate) values: Values,
    /// The positional arguments.
    pub(crate) args: Vec<Arg>,
    /// The whole line, flags and `--` included.
    pub(crate) line: Vec<Arg>,
    /// The flags that come from above the command, which the environment may set.
    pub(crate) inherited: Vec<&'static Flag>,
}

/// The flags that a command inherits, its own inheritable ones not included.
pub(crate) fn inherited(path: &[&'static Command]) -> Vec<&'static Flag> {
    path[..path.len() - 1].iter().flat_map(|command| command.inherited).collect()
}

/// The flags that stand under "Flags" in a command's help.
pub(crate) fn local(path: &[&'static Command]) -> Vec<&'static Flag> {
    let command = path[path.len() - 1];
    command.flags.iter().chain(command.inherited).collect()
}

/// The flag that every command has.
pub(crate) static HELP: Flag = Flag::bool("help", "help for ").short('h');

fn flags_of(path: &[&'static Command]) -> Vec<&'static Flag> {
    let mut flags = local(path);
    flags.extend(inherited(path));
    // While a command is looked for, only the root knows `--help`.
    if path.len() == 1 {
        flags.push(&HELP);
    }
    flags
}

/// Whether the flag at `arg` takes the next word as its value.
fn takes_next(arg: &[u8], flags: &[&'static Flag]) -> bool {
    if arg.contains(&b'=') {
        return false;
    }
    let found = if let Some(name) = arg.strip_prefix(b"--") {
        flags.iter().find(|flag| flag.name.as_bytes() == name)
    } else if let [b'-', short] = arg {
        flags.iter().find(|flag| flag.short == Some(char::from(*short)))
    } else {
        return false;
    };
    !found.is_some_and(|flag| flag.kind == Kind::Bool)
}

/// The words of `args` that are neither flags nor values of flags, with their places.
fn words(args: &[Arg], flags: &[&'static Flag]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < args.len() {
        let arg = &args[at];
        at += 1;
        if arg == b"--" {
            break;
        }
        if takes_next(arg, flags) {
            if args.len() - at <= 1 {
                break;
            }
            at += 1;
        } else if !arg.is_empty() && !arg.starts_with(b"-") {
            found.push(at - 1);
        }
    }
    found
}

fn next(command: &'static Command, word: &[u8]) -> Option<&'static Command> {
    let all = command.commands.iter().copied();
    if let Some(found) = all.clone().find(|command| command.name.as_bytes() == word) {
        return Some(found);
    }
    let mut matches = all.filter(|command| command.name.as_bytes().starts_with(word));
    matches.next().filter(|_| matches.next().is_none())
}

/// Follows the words that name commands from the root down, and takes them out of `args`. The
/// error is the word that names no command of the root.
pub(crate) fn find(
    root: &'static Command,
    mut args: Vec<Arg>,
) -> Result<(Vec<&'static Command>, Vec<Arg>), Arg> {
    let mut path = vec![root];
    loop {
        let command = path[path.len() - 1];
        let places = words(&args, &flags_of(&path));
        let Some(first) = places.first().copied() else { break };
        match next(command, &args[first]) {
            Some(found) => {
                path.push(found);
                args.remove(first);
            }
            None if path.len() == 1 => return Err(args.remove(first)),
            None => break,
        }
    }
    Ok((path, args))
}

/// The outcome of reading a command's flags.
pub(crate) enum Parsed {
    Help,
    Call(Call),
}

/// Reads the flags of the command at the end of `path`. The error is the text without `Error: `.
pub(crate) fn parse(
    path: &[&'static Command],
    line: Vec<Arg>,
    args: Vec<Arg>,
) -> Result<Parsed, String> {
    let inherited = inherited(path);
    let mut all = local(path);
    all.extend(inherited.iter().copied());
    all.push(&HELP);
    let (values, args) = if path[path.len() - 1].raw {
        (Values::new(all.iter().copied()), args)
    } else {
        parse_flags(&all, args)?
    };
    if values.bool(HELP.name) {
        return Ok(Parsed::Help);
    }
    path[path.len() - 1].args.check(path, &args)?;
    let mut missing: Vec<&str> = all
        .iter()
        .filter(|flag| flag.required && !values.changed(flag.name))
        .map(|flag| flag.name)
        .collect();
    if !missing.is_empty() {
        missing.sort_unstable();
        return Err(format!("required flag(s) \"{}\" not set", missing.join("\", \"")));
    }
    let command = path[path.len() - 1];
    Ok(Parsed::Call(Call { root: path[0], command, values, args, line, inherited }))
}

/// Reads flags until `--`; what is no flag is positional.
pub(crate) fn parse_flags(
    flags: &[&'static Flag],
    args: Vec<Arg>,
) -> Result<(Values, Vec<Arg>), String> {
    let mut values = Values::new(flags.iter().copied());
    let mut positional = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == b"--" {
            positional.extend(args);
            break;
        }
        if let Some(name) = arg.strip_prefix(b"--") {
            parse_long(flags, &mut values, word(name)?, &mut args)?;
        } else if arg.len() > 1 && arg[0] == b'-' {
            parse_short(flags, &mut values, word(&arg[1..])?, &mut args)?;
        } else {
            positional.push(arg);
        }
    }
    Ok((values, positional))
}

/// A flag or its value. Another text in its place would name another file.
fn word(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", go::quote(bytes)))
}

fn parse_long(
    flags: &[&'static Flag],
    values: &mut Values,
    text: &str,
    args: &mut impl Iterator<Item = Arg>,
) -> Result<(), String> {
    if text.is_empty() || text.starts_with(['-', '=']) {
        return Err(format!("bad flag syntax: --{text}"));
    }
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let flag = flags
        .iter()
        .find(|flag| flag.name == name)
        .ok_or_else(|| format!("unknown flag: --{name}"))?;
    let value = match value {
        Some(value) => value,
        None if flag.kind == Kind::Bool => "true".to_owned(),
        None => {
            let next = args.next().ok_or_else(|| format!("flag needs an argument: --{name}"))?;
            word(&next)?.to_owned()
        }
    };
    set(values, flag, &value)
}

fn parse_short(
    flags: &[&'static Flag],
    values: &mut Values,
    cluster: &str,
    args: &mut impl Iterator<Item = Arg>,
) -> Result<(), String> {
    let mut rest = cluster;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let quoted = go::quote_rune(c);
        let flag = flags
            .iter()
            .find(|flag| flag.short == Some(c))
            .ok_or_else(|| format!("unknown shorthand flag: {quoted} in -{rest}"))?;
        let (value, remaining) = if let Some(value) = after.strip_prefix('=') {
            // A lone `=` is the value itself, as for pflag.
            (if value.is_empty() { "=" } else { value }.to_owned(), "")
        } else if flag.kind == Kind::Bool {
            ("true".to_owned(), after)
        } else if !after.is_empty() {
            (after.to_owned(), "")
        } else {
            let next = args
                .next()
                .ok_or_else(|| format!("flag needs an argument: {quoted} in -{rest}"))?;
            (word(&next)?.to_owned(), "")
        };
        set(values, flag, &value)?;
        rest = remaining;
    }
    Ok(())
}

fn set(values: &mut Values, flag: &Flag, value: &str) -> Result<(), String> {
    values.set(flag.name, value).map_err(|reason| {
        let value = go::quote(value.as_bytes());
        let name = go::quote(flag.display().as_bytes());
        format!("invalid argument {value} for {name} flag: {reason}")
    })
}

#[cfg(test)]
mod tests;
