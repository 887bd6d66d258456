//! `cargo xtask tidy`: house rules that a program can check.
//!
//! *Invariants.* Every finding names a file and a line, and says what to do instead. Only files
//! that git tracks (or would track) are looked at, so that the result depends on nothing else.
//!
//! *Absent.* What rustfmt, clippy, rustdoc and cargo-deny check: formatting, the length of
//! functions, missing documentation, licenses.

mod crates;
mod determinism;
mod rust;
mod source;
mod text;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// One violation of a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    file: String,
    /// Counted from 1.
    line: usize,
    /// What is wrong, and what to do instead.
    advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.advice)
    }
}

/// A tracked file.
pub(crate) struct File {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    fn finding(&self, line: usize, advice: impl Into<String>) -> Finding {
        Finding { file: self.path.clone(), line, advice: advice.into() }
    }

    fn is_generated(&self) -> bool {
        self.path.contains("/generated/")
    }
}

/// Checks every rule; prints the findings and fails if there are any.
pub(crate) fn run(root: &Path) -> Result<()> {
    let (files, paths) = tracked(root)?;
    let mut findings = check(&files, &paths);
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    ensure!(findings.is_empty(), "tidy: {} findings", findings.len());
    println!("tidy: {} files, no findings", files.len());
    Ok(())
}

fn check(files: &[File], paths: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        if file.path.ends_with(".rs") && !file.is_generated() {
            findings.extend(rust::check(file));
        }
        if file.path.ends_with(".md") {
            findings.extend(text::check_links(file, paths));
        }
        findings.extend(text::check_places(file));
    }
    findings.extend(crates::check(files));
    findings.extend(crates::check_reasons(files));
    findings.extend(text::check_protos(files));
    findings
}

/// All text files that git tracks or would add, and the paths of all of them.
fn tracked(root: &Path) -> Result<(Vec<File>, Vec<String>)> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output()
        .context("running git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    let mut paths: Vec<String> = listed
        .split_terminator('\0')
        .filter(|path| root.join(path).is_file())
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    let mut files = Vec::new();
    for path in &paths {
        let bytes = std::fs::read(root.join(PathBuf::from(path))).with_context(|| path.clone())?;
        // What is not UTF-8 is a fixture of bytes.
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(File { path: path.clone(), text });
        }
    }
    Ok((files, paths))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn findings(path: &str, text: &str) -> Vec<String> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        let known = ["README.md", "docs/formats.md", "crates/base/src/lib.rs"];
        let mut paths: Vec<String> = known.iter().map(|path| (*path).to_owned()).collect();
        paths.push(path.to_owned());
        let mut found = check(&[file], &paths);
        found.sort();
        found.iter().map(Finding::to_string).collect()
    }

    /// The findings begin with these, in order.
    pub(super) fn expect(path: &str, text: &str, expected: &[&str]) {
        let found = findings(path, text);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found}\ndoes not say\n{expected}");
        }
    }

    #[test]
    fn tidy_code_has_no_findings() {
        let text = "//! Purpose.\n\nuse std::collections::BTreeMap;\n\nfn f() {}\n";
        expect("crates/raft/src/a.rs", text, &[]);
    }

    #[test]
    fn shape() {
        let wide = format!(
            "//! Purpose.\n// {}\nconst A: &str = r#\"\n{}\n\"#;\n",
            "é".repeat(98),
            "x".repeat(200)
        );
        expect("crates/cli/src/a.rs", &wide, &["a.rs:2: 101 columns"]);
        let long = format!("//! Purpose.\n{}", "//\n".repeat(1200));
        expect("crates/cli/src/a.rs", &long, &["a.rs:1201: longer than 1200 lines"]);
        expect("crates/cli/src/a.rs", "use x;\n", &["a.rs:1: no header"]);
    }

    #[test]
    fn unfinished_code() {
        let text = "//! Purpose.\nfn f() {\n    todo!(\"x\");\n    a.unwrap();\n    // dbg!()\n    \
                    \"todo!()\";\n}\n#[cfg(test)]\nmod tests {\n    fn g() { a.unwrap(); }\n}\n\
                    fn h() { dbg!(1) }\n";
        expect(
            "crates/cli/src/a.rs",
            text,
            &["a.rs:3: `todo!`", "a.rs:4: `.unwrap()`", "a.rs:12: `dbg!`"],
        );
        expect(
            "crates/cli/src/tests.rs",
            &text.replace("todo!(\"x\");", "").replace("dbg!(1)", ""),
            &[],
        );
    }

    #[test]
    fn arrows() {
        let manifest = "[package]\nname = \"raft\"\n\n[dependencies]\nbase.workspace = true\n\
                        store = { path = \"../store\" }\ntokio.workspace = true\n\n\
                        [dev-dependencies]\ntokio.workspace = true\n";
        let expected = [
            "Cargo.toml:6: `raft` must not use `store`",
            "Cargo.toml:7: `raft` must not use `tokio`",
        ];
        expect("crates/raft/Cargo.toml", manifest, &expected);
        expect(
            "crates/new/Cargo.toml",
            "[package]\nname = \"new\"\n",
            &["Cargo.toml:1: crate `new`"],
        );
    }

    #[test]
    fn links_and_paths() {
        let text = "[a](README.md) [b](nosuch.md#x) [c](https://x/y) [d](#e)\n```\n[f](no.md)\n```\n\
                    see `crates/base/src/lib.rs` and `crates/base/src/no.rs`\n";
        expect(
            "GUIDE.md",
            text,
            &["GUIDE.md:1: link to `nosuch.md`", "GUIDE.md:5: `crates/base/src/no.rs`"],
        );
        expect("docs/GUIDE.md", "[a](../README.md) [b](formats.md)\n", &[]);
    }

    #[test]
    fn places() {
        let text = format!("one\ncp {}me/x y\n", concat!("/ho", "me/"));
        expect("a.sh", &text, &["a.sh:2: a path of one machine"]);
        let lock = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n\
                    source = \"registry+https://mirror.example/index\"\n";
        expect("Cargo.lock", lock, &["Cargo.lock:2: another registry"]);
    }
}
