//! What may follow in a line that is not finished.

use std::io::Write as _;

use crate::command::{
    self, Arg, Args, Call, Command, Flag, HELP, Kind, Style, inherited, local, parse_flags,
};
use crate::failure::{Failure, Outcome};
use crate::output::print;
use crate::{help, tool};

/// Answers the scripts of shells that show descriptions.
pub(crate) static COMPLETE: Command = Command {
    name: "__complete",
    usage: "[command-line]",
    hides_flags: true,
    hidden: true,
    raw: true,
    run: Some(|call| Box::pin(async { run(call, true) })),
    ..Command::EMPTY
};

/// The same without descriptions.
pub(crate) static COMPLETE_NAMES: Command = Command {
    name: "__completeNoDesc",
    hidden: true,
    raw: true,
    run: Some(|call| Box::pin(async { run(call, false) })),
    ..Command::EMPTY
};

/// What the shell is to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directive {
    /// Complete files if there is no word.
    Default,
    /// Complete these words only.
    NoFiles,
}

/// One word that may follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    description: String,
}

impl Word {
    fn bare(text: &str) -> Word {
        Word { text: text.to_owned(), description: String::new() }
    }

    fn command(command: &Command) -> Word {
        Word { text: command.name.to_owned(), description: command.short.to_owned() }
    }

    /// One line, without what follows in others.
    fn line(&self, described: bool) -> String {
        let text = if described && !self.description.is_empty() {
            format!("{}\t{}", self.text, self.description)
        } else {
            self.text.clone()
        };
        text.lines().next().unwrap_or_default().trim().to_owned()
    }
}

fn run(call: &mut Call, described: bool) -> Outcome {
    if call.args.is_empty() {
        return Err(no_line(call.root));
    }
    let mut told = Vec::new();
    let (words, directive) = match complete(call.root, &call.args) {
        Ok(answer) => answer,
        Err(reason) => {
            told.extend(format!("[Debug] [Error] {reason}\n").into_bytes());
            (Vec::new(), Directive::Default)
        }
    };
    let (number, name) = match directive {
        Directive::Default => (0, "ShellCompDirectiveDefault"),
        Directive::NoFiles => (4, "ShellCompDirectiveNoFileComp"),
    };
    let mut out: String = words.iter().map(|word| word.line(described) + "\n").collect();
    out.push_str(&format!(":{number}\n"));
    told.extend(format!("Completion ended with directive: {name}\n").into_bytes());
    print(out.as_bytes())?;
    let _ = std::io::stderr().write_all(&told);
    Ok(())
}

/// The failure of a call without a line.
fn no_line(root: &'static Command) -> Failure {
    let usage = help::usage(&[root, &COMPLETE]).replacen(
        "\n\nFlags:",
        "\n\nAliases:\n  __complete, __completeNoDesc\n\nFlags:",
        1,
    );
    tool::misused(root, "requires at least 1 arg(s), only received 0", &usage)
}

/// Words in the way in which Go prints a list.
fn list(words: &[Arg]) -> String {
    let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
    format!("[{}]", words.join(" "))
}

/// The words that may stand in the place of the last of `line`. The error says why the words before
/// it make no sense.
pub(super) fn complete(
    root: &'static Command,
    line: &[Arg],
) -> Result<(Vec<Word>, Directive), String> {
    let Some((last, before)) = line.split_last() else {
        return Ok((Vec::new(), Directive::Default));
    };
    let (path, args) = command::find(root, before.to_vec())
        .map_err(|_| format!("unable to find a command for arguments: {}", list(before)))?;
    let place = Place::new(path);
    let value = place.value_of(&args, last);
    let args = match &value {
        // Its name stands there without a value.
        Ok(Some(_)) if !last.starts_with(b"-") => &args[..args.len() - 1],
        _ => &args[..],
    };
    let all: Vec<_> = place.above.iter().chain(&place.own).copied().collect();
    let (values, positional) = parse_flags(&all, args.to_vec()).map_err(|reason| {
        format!("Error while parsing flags from args {}: {reason}", list(args))
    })?;
    // Behind `--` nothing is a flag; one more is an argument there.
    let more = parse_flags(&all, [args, &[b"--".to_vec()]].concat());
    let flags_end = more.is_ok_and(|(_, more)| more.len() > positional.len());
    let value = match value {
        Ok(value) => value,
        Err(_) if flags_end => None,
        Err(reason) => return Err(reason),
    };
    if values.changed(HELP.name) {
        return Ok((Vec::new(), Directive::NoFiles));
    }
    let given = |flag: &Flag| values.changed(flag.name);
    if let Some(flag) = value {
        let words = if flags_end { &[] } else { flag.values };
        return Ok((words.iter().map(|word| Word::bare(word)).collect(), Directive::Default));
    }
    if last.starts_with(b"-") && !last.contains(&b'=') && !flags_end {
        let mut words = place.flags(last, |flag| flag.required && !given(flag));
        if words.is_empty() {
            words = place.flags(last, |flag| flag.kind == Kind::Words || !given(flag));
        }
        return Ok((words, Directive::NoFiles));
    }
    let local_given = place.command().flags.iter().any(given);
    let mut directive = Directive::Default;
    let mut words = Vec::new();
    if positional.is_empty() && !local_given {
        let commands = sorted(place.command());
        if !commands.is_empty() {
            directive = Directive::NoFiles;
        }
        words.extend(commands.into_iter().filter(|c| starts(c.name, last)).map(Word::command));
    }
    words.extend(place.flags(last, |flag| flag.required && !given(flag)));
    if let Args::OneOf(choices) = place.command().args
        && positional.is_empty()
    {
        words.extend(choices.iter().filter(|word| starts(word, last)).map(|word| Word::bare(word)));
        directive = Directive::NoFiles;
    }
    if tool::is_help(place.command()) {
        directive = Directive::NoFiles;
        if let Ok((path, _)) = command::find(root, positional) {
            let commands = sorted(path[path.len() - 1]);
            words.extend(commands.into_iter().filter(|c| starts(c.name, last)).map(Word::command));
        }
    }
    Ok((words, directive))
}

fn starts(word: &str, with: &[u8]) -> bool {
    word.as_bytes().starts_with(with)
}

/// The sub-commands that help shows, by name.
fn sorted(command: &Command) -> Vec<&'static Command> {
    let mut commands: Vec<_> =
        command.commands.iter().copied().filter(|command| !command.hidden).collect();
    commands.sort_by_key(|command| command.name);
    commands
}

/// Where in the tree of commands a line has come to, with the flags that may follow.
struct Place {
    path: Vec<&'static Command>,
    /// Those of the commands above, by name.
    above: Vec<&'static Flag>,
    /// Those of the command itself, by name.
    own: Vec<&'static Flag>,
}

impl Place {
    fn new(path: Vec<&'static Command>) -> Place {
        let (mut above, mut own) = (inherited(&path), local(&path));
        own.push(&HELP);
        above.sort_by_key(|flag| flag.name);
        own.sort_by_key(|flag| flag.name);
        Place { path, above, own }
    }

    fn command(&self) -> &'static Command {
        self.path[self.path.len() - 1]
    }

    /// The flag whose value `last` is, or None for a word that is no value. The error names a flag
    /// that the command does not have.
    fn value_of(&self, args: &[Arg], last: &[u8]) -> Result<Option<&'static Flag>, String> {
        let with_equal = last.starts_with(b"-").then(|| last.iter().position(|b| *b == b'='));
        let (name, with_equal) = match with_equal {
            Some(Some(at)) => (name(&last[..at]), true),
            // The name of a flag.
            Some(None) => return Ok(None),
            None => match args.last() {
                Some(flag) if is_flag(flag) && !flag.contains(&b'=') => (name(flag), false),
                _ => return Ok(None),
            },
        };
        if name.is_empty() {
            return Ok(None);
        }
        let mut all = self.own.iter().chain(&self.above);
        let found = all.find(|flag| match name {
            [short] => flag.short == Some(char::from(*short)),
            name => flag.name.as_bytes() == name,
        });
        match found {
            Some(flag) if flag.kind == Kind::Bool && !with_equal => Ok(None),
            Some(flag) => Ok(Some(flag)),
            None => Err(format!(
                "Subcommand '{}' does not support flag '{}'",
                self.command().name,
                String::from_utf8_lossy(name)
            )),
        }
    }

    /// The names of flags that begin with `last`, of those that are wanted.
    fn flags(&self, last: &[u8], wanted: impl Fn(&Flag) -> bool) -> Vec<Word> {
        let grouped = self.path[0].style == Style::Grouped;
        let root = self.path[0];
        // Where commands stand in groups, the root's flags are on a page of their own.
        let hidden = |flag: &Flag| {
            grouped
                && (root.inherited.iter().any(|global| std::ptr::eq(global, flag))
                    || (self.path.len() == 1 && flag.name == HELP.name))
        };
        let mut words = Vec::new();
        for flag in self.above.iter().chain(&self.own) {
            if hidden(flag) || !wanted(flag) {
                continue;
            }
            let description = if flag.name == HELP.name {
                format!("{}{}", flag.usage, self.command().name)
            } else {
                flag.usage.to_owned()
            };
            let short = flag.short.map(|short| format!("-{short}"));
            for text in [format!("--{}", flag.name)].into_iter().chain(short) {
                if starts(&text, last) {
                    words.push(Word { text, description: description.clone() });
                }
            }
        }
        words
    }
}

/// The name in a word that begins with dashes; of a cluster of short flags it is the last.
fn name(word: &[u8]) -> &[u8] {
    match word.strip_prefix(b"--") {
        Some(name) => name,
        None => &word[word.len() - 1..],
    }
}

fn is_flag(word: &[u8]) -> bool {
    match word {
        [b'-', b'-', rest @ ..] => !rest.is_empty(),
        [b'-', rest @ ..] => !rest.is_empty(),
        _ => false,
    }
}
