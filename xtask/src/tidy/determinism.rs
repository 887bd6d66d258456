//! The code that must do the same with the same inputs, always: it names no clock, no socket, no
//! thread, no randomness of the process, and no map whose order comes from it.
//!
//! *Invariants.* What is looked for are names, not meanings: a clock that is handed in under
//! another name passes. So the names themselves are banned, however they are imported.
//!
//! A map or set with hashes may stay where its order cannot show, with a fixed hasher and with the
//! reason on the line above: `// order: only looked up by number`.

use super::rust::has_word;
use super::source::Line;
use super::{File, Finding};

/// Where it holds.
const TREES: [&str; 8] = [
    "crates/base/src/",
    "crates/node/src/",
    "crates/peer/src/codec/",
    "crates/raft/src/",
    "crates/sim/src/",
    "crates/storage/src/",
    "crates/store/src/",
    "crates/worker/src/",
];

/// The simulator's own process: it may look at the clock, use threads and write files.
const RUNNERS: [&str; 2] = ["crates/sim/src/main.rs", "crates/sim/src/runner.rs"];

/// The files that reach the file system: the real disk, and what writes a simulated disk out as a
/// real directory.
const REAL_DISK: [&str; 2] =
    ["crates/storage/src/disk/real.rs", "crates/storage/src/disk/image.rs"];

/// What makes a difference from run to run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Clock,
    Thread,
    Socket,
    Files,
    Chance,
}

impl Kind {
    const fn instead(self) -> &'static str {
        match self {
            Self::Clock => "take a `Moment` as an argument",
            Self::Thread => "threads are made in `server`; take turns by being called",
            Self::Socket => "sockets belong to `net`, `peer` and `server`",
            Self::Files => "go through `storage::disk::Disk`",
            Self::Chance => "take a `base::Rng`",
        }
    }

    fn is_allowed(self, path: &str) -> bool {
        match self {
            Self::Clock | Self::Thread => RUNNERS.contains(&path),
            Self::Files => RUNNERS.contains(&path) || REAL_DISK.contains(&path),
            Self::Socket | Self::Chance => false,
        }
    }
}

/// Modules and crates; everything in them is meant.
const MODULES: [(&str, Kind); 16] = [
    ("std::thread", Kind::Thread),
    ("std::net", Kind::Socket),
    ("std::os::unix::net", Kind::Socket),
    ("std::fs", Kind::Files),
    ("tokio", Kind::Thread),
    ("hyper", Kind::Socket),
    ("tonic", Kind::Socket),
    ("rand", Kind::Chance),
    ("rand_core", Kind::Chance),
    ("fastrand", Kind::Chance),
    ("getrandom", Kind::Chance),
    ("chrono", Kind::Clock),
    ("time", Kind::Clock),
    ("crossbeam", Kind::Thread),
    ("rayon", Kind::Thread),
    ("mio", Kind::Socket),
];

/// Names that are banned wherever they come from.
const NAMES: [(&str, Kind); 13] = [
    ("Instant", Kind::Clock),
    ("SystemTime", Kind::Clock),
    ("UNIX_EPOCH", Kind::Clock),
    ("JoinHandle", Kind::Thread),
    ("thread::spawn", Kind::Thread),
    ("thread::sleep", Kind::Thread),
    ("TcpStream", Kind::Socket),
    ("TcpListener", Kind::Socket),
    ("UdpSocket", Kind::Socket),
    ("UnixStream", Kind::Socket),
    ("UnixListener", Kind::Socket),
    ("thread_rng", Kind::Chance),
    ("RandomState", Kind::Chance),
];

/// Collections whose order comes from hashes, and the parameters they take to name a hasher.
const HASHED: [(&str, usize); 2] = [("HashMap", 3), ("HashSet", 2)];

/// What begins the reason why an order cannot show.
const REASON: &str = "// order:";

/// Checks a file that is no test, if the rule holds for it.
pub(super) fn check(file: &File, lines: &[Line]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !TREES.iter().any(|tree| file.path.starts_with(tree)) {
        return findings;
    }
    for (at, path) in imports(lines) {
        // `use std::{fs, thread}`: said in full nowhere else.
        for (module, kind) in MODULES {
            let inside = path.strip_prefix(module).is_some_and(|rest| {
                rest.is_empty() || rest.starts_with("::") || rest.starts_with(" as ")
            });
            if inside && !kind.is_allowed(&file.path) {
                findings.push(file.finding(at + 1, varies(module, kind)));
            }
        }
        for (name, _) in HASHED {
            if path.contains(&format!("{name} as ")) {
                let advice = format!("`{name}` under another name: use it under its own");
                findings.push(file.finding(at + 1, advice));
            }
        }
    }
    let raw: Vec<&str> = file.text.lines().collect();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_test) {
        let code = &line.code;
        for (module, kind) in MODULES {
            if in_full(code, module) && !kind.is_allowed(&file.path) {
                findings.push(file.finding(at + 1, varies(module, kind)));
            }
        }
        for (name, kind) in NAMES {
            if has_name(code, name) && !kind.is_allowed(&file.path) {
                findings.push(file.finding(at + 1, varies(name, kind)));
            }
        }
        let before = at.checked_sub(1).and_then(|before| raw.get(before)).copied();
        for (name, parameters) in HASHED {
            findings.extend(
                hashed(code, before.unwrap_or_default(), name, parameters)
                    .map(|advice| file.finding(at + 1, advice)),
            );
        }
    }
    findings
}

fn varies(name: &str, kind: Kind) -> String {
    format!("`{name}` differs from run to run: {}", kind.instead())
}

/// What is wrong with a line that names a collection with hashes.
fn hashed(code: &str, before: &str, name: &str, parameters: usize) -> Option<String> {
    if default_hasher(code, name, parameters) {
        return Some(format!(
            "`{name}` with the default hasher differs from run to run: use a `BTreeMap` or a \
             fixed hasher"
        ));
    }
    if !has_name(code, name) || code.trim_start().starts_with("use ") {
        return None;
    }
    match before.trim().strip_prefix(REASON).map(str::trim) {
        Some(reason) if reason.contains(' ') => None,
        Some(_) => Some(format!("`{REASON}` without a reason: say why the order cannot show")),
        None => Some(format!(
            "`{name}` has an order that says nothing: use a `BTreeMap`, or say on the line above \
             why its order cannot show (`{REASON} ...`)"
        )),
    }
}

/// Whether a name stands in `code` by itself.
fn has_name(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().last();
        ends(&code[at + name.len()..]) && !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// Whether a line names something of a module in full.
fn in_full(code: &str, module: &str) -> bool {
    has_word(code, &format!("{module}::"))
        && code.match_indices(module).any(|(at, _)| {
            // A longer path that ends alike is another one: `base::time::`.
            !code[..at].ends_with("::") && code[at + module.len()..].starts_with("::")
        })
}

fn ends(after: &str) -> bool {
    !after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Every path that is imported outside tests, in full, with the line on which it ends.
fn imports(lines: &[Line]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut statement: Option<Statement> = None;
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_test) {
        let code = line.code.trim();
        let mut rest = code;
        if statement.is_none() {
            let Some(begun) = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "]
                .iter()
                .find_map(|begin| code.strip_prefix(begin))
            else {
                continue;
            };
            statement = Some(Statement::default());
            rest = begun;
        }
        let Some(open) = &mut statement else { continue };
        if open.take(at, rest, &mut found) {
            statement = None;
        }
    }
    found
}

/// An import that is being read.
#[derive(Default)]
struct Statement {
    /// What stands before each brace that is open.
    prefixes: Vec<String>,
    /// The path since the last brace or comma.
    path: String,
}

impl Statement {
    /// Takes in a line, and says whether the statement ends on it.
    fn take(&mut self, at: usize, line: &str, found: &mut Vec<(usize, String)>) -> bool {
        for c in line.chars() {
            match c {
                '{' => self.prefixes.push(std::mem::take(&mut self.path)),
                ',' | '}' | ';' => {
                    let last = std::mem::take(&mut self.path);
                    let last = last.trim();
                    if !last.is_empty() {
                        let path = self.prefixes.concat() + last;
                        found.push((at, path.trim_end_matches("::self").to_owned()));
                    }
                    if c == '}' {
                        self.prefixes.pop();
                    }
                    if c == ';' {
                        return true;
                    }
                }
                c if c.is_whitespace() && self.path.is_empty() => {}
                c => self.path.push(c),
            }
        }
        // The next line goes on after a space, if it goes on at all.
        if !self.path.is_empty() {
            self.path.push(' ');
        }
        false
    }
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

#[cfg(test)]
mod tests {
    use crate::tidy::tests::expect;

    fn expect_in(path: &str, code: &str, expected: &[&str]) {
        expect(path, &format!("//! Purpose.\n{code}"), expected);
    }

    #[test]
    fn clocks_threads_sockets_and_chance_are_found_in_any_form() {
        for (code, name) in [
            ("use std::time::Instant;\n", "Instant"),
            ("use std::time::{Duration, Instant};\n", "Instant"),
            ("use std::{fmt, time::{Duration, SystemTime}};\n", "SystemTime"),
            ("fn f() { std::time::Instant::now(); }\n", "Instant"),
            ("use std::thread;\n", "std::thread"),
            ("use std::{fmt, thread};\n", "std::thread"),
            ("use std::thread as t;\n", "std::thread"),
            ("use std::thread::{self, Builder};\n", "std::thread"),
            ("fn f() { std::net::lookup(); }\n", "std::net"),
            ("use std::fs::File;\n", "std::fs"),
            ("use std::os::unix::net::SocketAddr;\n", "std::os::unix::net"),
            ("pub(crate) use tokio::sync::mpsc;\n", "tokio"),
            ("use tokio;\n", "tokio"),
            ("fn f() { rand::random(); }\n", "rand"),
            ("fn f() { getrandom::fill(&mut seed); }\n", "getrandom"),
            ("fn f(a: RandomState) {}\n", "RandomState"),
        ] {
            let expected = format!("a.rs:2: `{name}` differs");
            let text = format!("//! Purpose.\n{code}");
            let found = crate::tidy::tests::findings("crates/node/src/a.rs", &text);
            assert!(found.iter().any(|found| found.contains(&expected)), "{code}: {found:?}");
            expect_in("crates/server/src/a.rs", code, &[]);
            expect_in("crates/node/tests/it/a.rs", code, &[]);
        }
    }

    #[test]
    fn imports_over_several_lines_are_read() {
        let code = "use std::{\n    fmt,\n    net::{\n        IpAddr,\n    },\n    thread,\n};\n";
        expect_in("crates/raft/src/a.rs", code, &["a.rs:5: `std::net`", "a.rs:7: `std::thread`"]);
    }

    #[test]
    fn names_that_only_look_alike_pass() {
        let code = "use std::time::Duration;\nuse base::{Moment, Rng};\nuse base::time::X;\n\
                    use crate::threads::Thread;\nfn operand(rand: Rng, instant: u8) {}\n\
                    // std::thread, Instant and HashMap in a comment\n\
                    const A: &str = \"std::net\";\n\
                    #[cfg(test)]\nmod tests {\n    use std::thread;\n    \
                    fn f(a: HashMap<u8, u8>) {}\n}\n";
        expect_in("crates/worker/src/a.rs", code, &[]);
    }

    #[test]
    fn maps_with_hashes_need_a_fixed_hasher_and_a_reason() {
        let of = |code: &str, expected: &[&str]| expect_in("crates/store/src/a.rs", code, expected);
        of("use std::collections::HashMap;\n", &[]);
        of("fn f(a: HashMap<u8, u8>) {}\n", &["a.rs:2: `HashMap` with the default"]);
        of("fn f() { HashSet::new() }\n", &["a.rs:2: `HashSet` with the default"]);
        of("// order: looked up only\nfn f(a: HashMap<u8, u8>) {}\n", &["a.rs:3: `HashMap` with"]);
        of("type A = HashMap<u8, u8, Fixed>;\n", &["a.rs:2: `HashMap` has an order"]);
        of("// order: looked up only\ntype A = HashMap<u8, u8, Fixed>;\n", &[]);
        of("// order:\ntype A = HashSet<u8, Fixed>;\n", &["a.rs:3: `// order:` without"]);
        of("// order: no\ntype A = HashSet<u8, Fixed>;\n", &["a.rs:3: `// order:` without"]);
        of("use std::collections::HashMap as Map;\n", &["a.rs:2: `HashMap` under another name"]);
        of("fn f() -> HashMapper { a() }\n", &[]);
    }

    #[test]
    fn the_places_are_these() {
        let clock = "use std::time::Instant;\n";
        let thread = "use std::thread;\n";
        let found = &["a.rs:2: `Instant`"];
        for tree in ["base", "node", "raft", "sim", "storage", "store", "worker", "peer/src/codec"]
        {
            let src = if tree.contains('/') { "" } else { "src/" };
            expect_in(&format!("crates/{tree}/{src}a.rs"), clock, found);
        }
        for free in ["peer", "net", "server", "cli", "fuzz"] {
            expect_in(&format!("crates/{free}/src/a.rs"), clock, &[]);
        }
        for runner in ["crates/sim/src/main.rs", "crates/sim/src/runner.rs"] {
            expect_in(runner, clock, &[]);
            expect_in(runner, thread, &[]);
            expect_in(runner, "fn f() { rand::random(); }\n", &["`rand`"]);
            expect_in(runner, "fn f(a: HashSet<u8>) {}\n", &["`HashSet`"]);
        }
        expect_in("crates/sim/src/lib.rs", thread, &["lib.rs:2: `std::thread`"]);
        let disk = "crates/storage/src/disk/real.rs";
        expect_in(disk, "use std::fs;\n", &[]);
        expect_in(disk, clock, &["real.rs:2: `Instant`"]);
    }
}
