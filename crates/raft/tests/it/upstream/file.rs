//! The form of the scripts: a command line, its input, a line of dashes, the expected output up to
//! a blank line (or between doubled dashes, if it has blank lines itself).

use std::path::Path;

/// A command with what follows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directive {
    /// File and line.
    pub(crate) position: String,
    /// As it is written.
    pub(crate) line: String,
    pub(crate) command: String,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) input: String,
    pub(crate) expected: String,
}

/// `key`, `key=value` or `key=(value,value)`.
#[derive(Debug, Clone)]
pub(crate) struct Argument {
    pub(crate) key: String,
    pub(crate) values: Vec<String>,
}

impl Directive {
    /// The arguments without values, as numbers.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let plain = self.arguments.iter().filter(|argument| argument.values.is_empty());
        plain.map(|argument| argument.key.parse().unwrap()).collect()
    }

    /// The first argument, a number.
    pub(crate) fn first(&self) -> u64 {
        self.arguments[0].key.parse().unwrap()
    }

    /// The values of `key`.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        let found = self.arguments.iter().find(|argument| argument.key == key);
        found.map_or(&[], |argument| &argument.values)
    }

    /// The only value of `key`.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        match self.values(key) {
            [] => None,
            [value] => Some(value),
            more => panic!("{}: {key} has {} values", self.position, more.len()),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.value(key).map(|value| value.parse().unwrap())
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| value.parse().unwrap())
    }
}

fn arguments(line: &str) -> Vec<Argument> {
    let mut arguments = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let mut values = Vec::new();
        rest = after;
        if let Some(value) = after.strip_prefix('=') {
            if let Some(list) = value.strip_prefix('(') {
                let (list, after) = list.split_once(')').expect("a list has an end");
                values.extend(list.split(',').map(|value| value.trim().to_owned()));
                rest = after;
            } else {
                let end = value.find(' ').unwrap_or(value.len());
                values.push(value[..end].to_owned());
                rest = &value[end..];
            }
        }
        arguments.push(Argument { key: key.to_owned(), values });
        rest = rest.trim_start();
    }
    arguments
}

fn expected<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) -> String {
    let mut found = Vec::new();
    let first = lines.next().map_or("", |(_, line)| line);
    if first == "----" {
        while let Some((_, line)) = lines.next() {
            if line == "----" {
                let (_, doubled) = lines.next().expect("an end of doubled dashes");
                if doubled == "----" {
                    break;
                }
            }
            found.push(line);
        }
    } else if !first.trim().is_empty() {
        found.push(first);
        found.extend(lines.map(|(_, line)| line).take_while(|line| !line.trim().is_empty()));
    }
    found.join("\n")
}

/// All directives of a script.
pub(crate) fn read(path: &Path) -> Vec<Directive> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines().enumerate();
    let mut directives = Vec::new();
    while let Some((number, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        assert!(!line.ends_with('\\'), "{}:{}: continued", path.display(), number + 1);
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let input: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|&line| line != "----").collect();
        directives.push(Directive {
            position: format!("{}:{}", path.display(), number + 1),
            line: line.to_owned(),
            command: command.to_owned(),
            arguments: arguments(rest),
            input: input.join("\n").trim().to_owned(),
            expected: expected(&mut lines),
        });
    }
    directives
}
