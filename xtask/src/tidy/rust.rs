//! Rules for Rust files: shape, unfinished code, determinism.

use super::source::{Line, lines};
use super::{File, Finding};

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

/// Crates in which the same inputs must give the same outputs, always.
const DETERMINISTIC: [&str; 6] = ["base", "raft", "storage", "store", "node", "worker"];

/// The files that reach the file system: the real disk, and what writes a simulated disk out as a
/// real directory.
const REAL_DISK: [&str; 2] =
    ["crates/storage/src/disk/real.rs", "crates/storage/src/disk/image.rs"];

/// A path that a deterministic crate must not use: the crate or module, the name in it (empty:
/// all of it), and what to use instead.
const BANNED: [(&str, &str, &str); 6] = [
    ("std::time", "Instant", "take a `Moment` as an argument"),
    ("std::time", "SystemTime", "take a `Moment` as an argument"),
    ("std::thread", "", "threads are made in `server`; take turns by being called"),
    ("std::net", "", "sockets belong to `net` and `server`"),
    ("std::fs", "", "go through `storage::disk::Disk`"),
    ("rand", "", "take a `base::Rng`"),
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let lines = lines(&file.text);
    let mut findings = shape(file, &lines);
    let in_tests = is_test_file(&file.path);
    let deterministic =
        DETERMINISTIC.iter().any(|name| file.path.starts_with(&format!("crates/{name}/src/")));
    for (index, line) in lines.iter().enumerate() {
        if in_tests || line.is_test {
            continue;
        }
        for (word, instead) in UNFINISHED {
            if has_word(&line.code, word) {
                findings.push(file.finding(index + 1, format!("`{word}`: {instead}")));
            }
        }
        if deterministic {
            for advice in nondeterminism(&file.path, &line.code) {
                findings.push(file.finding(index + 1, advice));
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

/// Whether `word` stands in `code` by itself.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().last();
        word.starts_with('.') || !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn nondeterminism(path: &str, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (module, name, instead) in BANNED {
        if module == "std::fs" && REAL_DISK.contains(&path) {
            continue;
        }
        if uses(code, module, name) {
            let whole = if name.is_empty() { module } else { &format!("{module}::{name}") };
            found.push(format!("`{whole}` differs from run to run: {instead}"));
        }
    }
    for (name, parameters) in [("HashMap", 3), ("HashSet", 2)] {
        if default_hasher(code, name, parameters) {
            found.push(format!(
                "`{name}` with the default hasher differs from run to run: use a `BTreeMap` or a \
                 fixed hasher"
            ));
        }
    }
    found
}

/// Whether a line names `module::name` in full, or imports it from the module in braces.
fn uses(code: &str, module: &str, name: &str) -> bool {
    if name.is_empty() {
        if let Some((outer, inner)) = module.split_once("::")
            && imported(code, outer).any(|imported| imported == inner)
        {
            return true;
        }
        return code.match_indices(module).any(|(at, _)| {
            let before = code[..at].chars().last();
            let after = &code[at + module.len()..];
            let boundary = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
            // `rand` alone may be a name of ours; `rand::` is the crate.
            boundary && (after.starts_with("::") || (module.contains("::") && ends(after)))
        });
    }
    has_word(code, &format!("{module}::{name}")) || imported(code, module).any(|it| it == name)
}

fn ends(after: &str) -> bool {
    !after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// The names in `use module::{a, b::c}`, each up to its first `::`.
fn imported<'a>(code: &'a str, module: &str) -> impl Iterator<Item = &'a str> {
    let list = code.split_once(&format!("use {module}::{{")).map_or("", |(_, list)| list);
    list.split([',', '}', ';']).map(|name| name.trim().split("::").next().unwrap_or_default())
}

/// Whether a line has the type with fewer parameters than it takes to name a hasher, or makes one
/// with the default hasher.
fn default_hasher(code: &str, name: &str, parameters: usize) -> bool {
    let mut from = 0;
    while let Some(found) = code[from..].find(name) {
        let at = from + found;
        from = at + name.len();
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let after = &code[from..];
        if after.starts_with("::new(") || after.starts_with("::with_capacity(") {
            return true;
        }
        if let Some(list) = after.strip_prefix('<')
            && arguments(list).is_some_and(|count| count < parameters)
        {
            return true;
        }
    }
    false
}

/// How many arguments a list that has been opened by `<` holds; none if it goes on in another
/// line.
fn arguments(list: &str) -> Option<usize> {
    let mut depth = 1;
    let mut count = 1;
    for c in list.chars() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 1 => count += 1,
            _ => {}
        }
        if depth == 0 {
            return Some(count);
        }
    }
    None
}
