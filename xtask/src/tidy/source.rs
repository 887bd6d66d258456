//! Splits Rust source into lines of code without their strings and comments, and marks tests.

/// One line of a source file.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The code; what stands in strings, characters and comments is blank.
    pub(super) code: String,
    /// The width, without what stands in strings: that is not rustfmt's to wrap.
    pub(super) columns: usize,
    /// The line belongs to something under `#[cfg(test)]` or `#[test]`.
    pub(super) is_test: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    Text,
    /// A raw string that ends with a quote and so many hashes.
    Raw(usize),
    /// Comments nest.
    Comment(usize),
}

/// Splits a file into lines.
pub(super) fn lines(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut state = State::Code;
    for line in text.lines() {
        let mut code = String::new();
        let mut columns = 0;
        let mut rest = line;
        while !rest.is_empty() {
            let (taken, shown, next) = step(state, rest, code.chars().last());
            let in_text = matches!(state, State::Text | State::Raw(_));
            if !in_text {
                columns += rest[..taken].chars().count();
            }
            code.push_str(&if shown { rest[..taken].to_owned() } else { " ".repeat(taken) });
            rest = &rest[taken..];
            state = next;
        }
        lines.push(Line { code, columns, is_test: false });
    }
    mark_tests(&mut lines);
    lines
}

/// Reads the next piece of a line: its length, whether it is code, and what comes after.
fn step(state: State, rest: &str, before: Option<char>) -> (usize, bool, State) {
    let first = rest.chars().next().map_or(0, char::len_utf8);
    match state {
        State::Code => {
            if rest.starts_with("//") {
                return (rest.len(), false, State::Code);
            }
            if rest.starts_with("/*") {
                return (2, false, State::Comment(1));
            }
            if rest.starts_with('"') {
                return (1, false, State::Text);
            }
            let in_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
            if !in_name && let Some((taken, hashes)) = raw_start(rest) {
                return (taken, false, State::Raw(hashes));
            }
            if rest.starts_with('\'')
                && let Some(taken) = character(rest)
            {
                return (taken, false, State::Code);
            }
            (first, true, State::Code)
        }
        State::Text if rest.starts_with('\\') => {
            let escaped = rest[1..].chars().next().map_or(0, char::len_utf8);
            (1 + escaped, false, State::Text)
        }
        State::Text if rest.starts_with('"') => (1, false, State::Code),
        State::Text => (first, false, State::Text),
        State::Raw(hashes) => {
            let end = format!("\"{}", "#".repeat(hashes));
            if rest.starts_with(&end) {
                (end.len(), false, State::Code)
            } else {
                (first, false, state)
            }
        }
        State::Comment(depth) => match () {
            () if rest.starts_with("*/") && depth == 1 => (2, false, State::Code),
            () if rest.starts_with("*/") => (2, false, State::Comment(depth - 1)),
            () if rest.starts_with("/*") => (2, false, State::Comment(depth + 1)),
            () => (first, false, state),
        },
    }
}

/// The length of `r##"` or `br"` at the start, and its hashes.
fn raw_start(rest: &str) -> Option<(usize, usize)> {
    let after = rest.strip_prefix("br").or(rest.strip_prefix("cr")).or(rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then(|| (rest.len() - after.len() + hashes + 1, hashes))
}

/// The length of the character literal at the start; none for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        chars.next()?;
        return chars.find(|(_, c)| *c == '\'').map(|(at, _)| at + 1);
    }
    chars.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1)
}

/// Marks each item that stands under `#[cfg(test)]` or `#[test]`, to its closing brace or
/// semicolon.
fn mark_tests(lines: &mut [Line]) {
    let mut at = 0;
    while at < lines.len() {
        let code = lines[at].code.trim();
        if !(code.contains("#[cfg(test)]") || code.contains("#[test]")) {
            at += 1;
            continue;
        }
        let mut depth = 0_usize;
        let mut opened = false;
        let mut over = false;
        while at < lines.len() && !over {
            lines[at].is_test = true;
            // Brackets count too, so that a semicolon in an array's type ends nothing.
            for c in lines[at].code.chars() {
                match c {
                    '{' | '(' | '[' => {
                        depth += 1;
                        opened |= c == '{';
                    }
                    '}' | ')' | ']' => {
                        depth = depth.saturating_sub(1);
                        over |= c == '}' && depth == 0 && opened;
                    }
                    ';' if depth == 0 => over = true,
                    _ => {}
                }
            }
            at += 1;
        }
    }
}
