//! Help and usage texts, laid out as cobra lays them out.
//!
//! *Contract.* cobra v1.10.2 `command.go` (templates), pflag v1.0.10 `FlagUsages`.

use std::fmt::Write as _;

use crate::command::{Arg, Command, Flag, Group, HELP, Kind, Style, inherited, local, names};
use crate::go;

const GROUPS: &[(Group, &str)] = &[
    (Group::KeyValue, "Key-value commands"),
    (Group::Maintenance, "Cluster maintenance commands"),
    (Group::Concurrency, "Concurrency commands"),
    (Group::Authentication, "Authentication commands"),
    (Group::Utility, "Utility commands"),
];

/// The last line of every help of the grouped style.
const OPTIONS_HINT: &str = "Use \"etcdctl options\" for a list of global command-line options \
    (applies to all commands).\n";

/// Names are padded to this width at least.
const NAME_WIDTH_MIN: usize = 11;

/// The full help of the command at the end of `path`.
pub(crate) fn help(path: &[&'static Command]) -> String {
    let command = path[path.len() - 1];
    let usage = usage(path);
    match path[0].style {
        Style::Plain if command.long.is_empty() => usage,
        Style::Plain => format!("{}\n\n{usage}", command.long.trim_end()),
        Style::Grouped => {
            let long = if command.long.is_empty() { command.short } else { command.long };
            format!("{}\n\n{usage}{OPTIONS_HINT}", long.trim_end())
        }
    }
}

/// The usage of the command at the end of `path`.
pub(crate) fn usage(path: &[&'static Command]) -> String {
    usage_with(path, true)
}

/// The same; `help` says whether the command knows `--help` already, which it does when it was
/// called.
pub(crate) fn usage_with(path: &[&'static Command], help: bool) -> String {
    let command = path[path.len() - 1];
    let name = names(path).join(" ");
    let grouped = path[0].style == Style::Grouped;
    let mut out = String::from("Usage:");
    if command.run.is_some() {
        let _ = write!(out, "\n  {name}");
        if !command.usage.is_empty() {
            let _ = write!(out, " {}", command.usage);
        }
        if !command.hides_flags {
            out.push_str(" [flags]");
        }
    }
    if !command.commands.is_empty() {
        let _ = write!(out, "\n  {name} [command]");
    }
    if !command.example.is_empty() {
        let _ = write!(out, "\n\nExamples:\n{}", command.example);
    }
    if !command.commands.is_empty() {
        commands(&mut out, command, grouped && path.len() == 1);
    }
    // The root's own flags are global, and those are hidden where commands stand in groups.
    if path.len() > 1 || !grouped {
        let mut flags: Vec<(&Flag, String)> =
            local(path).into_iter().map(|flag| (flag, flag.usage.to_owned())).collect();
        if help {
            flags.push((&HELP, format!("{}{}", HELP.usage, command.name)));
        }
        let _ = write!(out, "\n\nFlags:\n{}", flag_usages(flags).trim_end());
        let above = inherited(if grouped { &path[1..] } else { path });
        if !above.is_empty() {
            let above = above.into_iter().map(|flag| (flag, flag.usage.to_owned())).collect();
            let _ = write!(out, "\n\nGlobal Flags:\n{}", flag_usages(above).trim_end());
        }
    }
    if !command.commands.is_empty() {
        let _ = write!(
            out,
            "\n\nUse \"{name} [command] --help\" for more information about a command."
        );
    }
    out.push('\n');
    out
}

fn commands(out: &mut String, command: &Command, grouped: bool) {
    let mut sorted = command.commands.to_vec();
    sorted.retain(|command| !command.hidden);
    sorted.sort_by_key(|command| command.name);
    let width = sorted.iter().map(|c| c.name.len()).max().unwrap_or(0).max(NAME_WIDTH_MIN);
    let mut list = |title: &str, group: Option<Group>| {
        let _ = write!(out, "\n\n{title}");
        for command in sorted.iter().filter(|c| group.is_none_or(|group| c.group == group)) {
            let _ = write!(out, "\n  {:width$} {}", command.name, command.short);
        }
    };
    if grouped {
        for (group, title) in GROUPS {
            list(title, Some(*group));
        }
    } else {
        list("Available Commands:", None);
    }
}

/// The lines that describe flags, sorted by name.
fn flag_usages(mut flags: Vec<(&Flag, String)>) -> String {
    flags.sort_by_key(|(flag, _)| flag.name);
    let heads: Vec<String> = flags
        .iter()
        .map(|(flag, _)| {
            let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
            let kind = flag.kind.name();
            let gap = if kind.is_empty() { "" } else { " " };
            format!("  {short}--{}{gap}{kind}", flag.name)
        })
        .collect();
    let width = heads.iter().map(String::len).max().unwrap_or(0);
    let mut out = String::new();
    for ((flag, usage), head) in flags.iter().zip(heads) {
        let _ = write!(out, "{head:width$}   {usage}");
        let zero = match flag.kind {
            Kind::Bool => flag.default == "false",
            Kind::Int | Kind::Uint | Kind::Duration => flag.default == "0",
            Kind::Text | Kind::Words => flag.default.is_empty(),
        };
        if !zero {
            let _ = match flag.kind {
                Kind::Text => write!(out, " (default {})", go::quote(flag.default.as_bytes())),
                Kind::Words => write!(out, " (default [{}])", flag.default),
                _ => write!(out, " (default {})", flag.default),
            };
        }
        out.push('\n');
    }
    out
}

/// What `etcdctl options` prints.
pub(crate) fn options(root: &Command) -> String {
    let flags = root.inherited.iter().map(|flag| (flag, flag.usage.to_owned())).collect();
    format!("The following options can be passed to any command:\n\n{}", flag_usages(flags))
}

/// The error of a first word that names no command.
pub(crate) fn unknown_command(root: &Command, word: &Arg) -> String {
    let mut out = format!("unknown command {} for \"{}\"", go::quote(word), root.name);
    let lower = word.to_ascii_lowercase();
    let near: Vec<&str> = root
        .commands
        .iter()
        .filter(|command| !command.hidden)
        .map(|command| command.name)
        .filter(|name| {
            // Nobody means help when they mean something else.
            *name != "help"
                && (distance(&lower, name.as_bytes()) <= 2 || name.as_bytes().starts_with(&lower))
        })
        .collect();
    if !near.is_empty() {
        out.push_str("\n\nDid you mean this?\n");
        for name in near {
            let _ = writeln!(out, "\t{name}");
        }
    }
    out
}

/// The Levenshtein distance.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal } else { diagonal.min(above).min(row[j]) + 1 };
            diagonal = above;
        }
    }
    row[b.len()]
}
