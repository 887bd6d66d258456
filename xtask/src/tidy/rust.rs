//! Rules for Rust files: shape, unfinished code.

use super::source::{Line, lines};
use super::{File, Finding, determinism};

/// A file is at most this long.
const LINES_MAX: usize = 1200;
/// A line is at most this wide.
const COLUMNS_MAX: usize = 100;

/// What must not stay in finished code, and what to do instead.
const UNFINISHED: [(&str, &str); 4] = [
    ("todo!", "finish it, or return an error that says what is missing"),
    ("unimplemented!", "finish it, or return an error that says what is missing"),
    ("dbg!", "remove it"),
    (".unwrap()", "return an error, or `expect` with the invariant that makes it impossible"),
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let lines = lines(&file.text);
    let mut findings = shape(file, &lines);
    let in_tests = is_test_file(&file.path);
    if !in_tests {
        findings.extend(determinism::check(file, &lines));
    }
    for (index, line) in lines.iter().enumerate() {
        if in_tests || line.is_test {
            continue;
        }
        for (word, instead) in UNFINISHED {
            if has_word(&line.code, word) {
                findings.push(file.finding(index + 1, format!("`{word}`: {instead}")));
            }
        }
    }
    findings
}

fn is_test_file(path: &str) -> bool {
    let path = format!("/{path}");
    path.ends_with("/tests.rs")
        || ["/tests/", "/benches/", "/examples/"].iter().any(|part| path.contains(part))
}

fn shape(file: &File, lines: &[Line]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if lines.len() > LINES_MAX {
        let advice = format!("longer than {LINES_MAX} lines: split the module by what it does");
        findings.push(file.finding(LINES_MAX + 1, advice));
    }
    if !file.text.starts_with("//!") {
        let advice = "no header: begin the file with `//!` and what it is for in one sentence";
        findings.push(file.finding(1, advice));
    }
    for (index, Line { columns, .. }) in lines.iter().enumerate() {
        if *columns > COLUMNS_MAX {
            let advice = format!("{columns} columns: wrap the line at {COLUMNS_MAX}");
            findings.push(file.finding(index + 1, advice));
        }
    }
    findings
}

/// Whether `word` stands in `code` and does not end a longer one.
pub(super) fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().last();
        word.starts_with('.') || !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}
