//! Rules for documents and for all text: links resolve, named files exist, nothing names one
//! machine.

use super::{File, Finding};

/// Beginnings of paths that exist on one machine only. Put together here, so that this file does
/// not find itself.
const PLACES: [&str; 5] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/Us", "ers/"),
    concat!("file", ":///"),
];

/// The only source of crates.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Folders whose files documents name in backquotes.
const TREES: [&str; 6] = ["bench/", "compat/", "crates/", "docs/", "src/", "xtask/"];

/// Paths of one machine, and registries of one place.
pub(super) fn check_places(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        if PLACES.iter().any(|place| names(line, place)) {
            let advice =
                "a path of one machine: name it relative to the repository, or by a variable";
            findings.push(file.finding(index + 1, advice));
        }
        let registry = line.contains("registry+") && file.path.ends_with("Cargo.lock");
        if registry && !line.contains(REGISTRY) {
            let advice = "another registry: generate the lock file against crates.io";
            findings.push(file.finding(index + 1, advice));
        }
        if file.path.starts_with(".cargo/") && line.trim_start().starts_with("[source") {
            let advice = "another registry: keep mirrors in the configuration of the machine";
            findings.push(file.finding(index + 1, advice));
        }
    }
    findings
}

/// Whether a line has a path that begins so, rather than one that has it in its middle.
fn names(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().last();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '>'))
    })
}

/// Links to other files, and files named in backquotes.
pub(super) fn check_links(file: &File, paths: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_code = false;
    for (index, line) in file.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
            continue;
        }
        if in_code {
            continue;
        }
        for target in links(line) {
            let target = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if target.is_empty() || elsewhere {
                continue;
            }
            if !exists(&resolve(&file.path, target), paths) {
                let advice = format!("link to `{target}`, which is not there: mend or drop it");
                findings.push(file.finding(index + 1, advice));
            }
        }
        for named in line.split('`').skip(1).step_by(2) {
            if is_path(named) && !exists(named.trim_end_matches('/'), paths) {
                let advice = format!("`{named}` is not there: name the file that is meant now");
                findings.push(file.finding(index + 1, advice));
            }
        }
    }
    findings
}

/// What stands in the round brackets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?;
        // A title may follow.
        target.split_whitespace().next()
    })
}

/// A path of the repository, without patterns or placeholders.
fn is_path(text: &str) -> bool {
    TREES.iter().any(|tree| text.starts_with(tree))
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
        && text.contains('.')
}

/// The path that `target` means in a document at `from`.
fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    if target.starts_with('/') {
        parts.clear();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

fn exists(path: &str, paths: &[String]) -> bool {
    let folder = format!("{path}/");
    path.is_empty() || paths.iter().any(|known| known == path || known.starts_with(&folder))
}

/// Every proto file says what it is, and is compiled.
pub(super) fn check_protos(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let codegen = files.iter().find(|file| file.path == "xtask/src/codegen.rs");
    for file in files.iter().filter(|file| file.path.ends_with(".proto")) {
        if !file.text.starts_with("//") {
            let advice = "no header: begin with `//` and which of etcd's packages this describes";
            findings.push(file.finding(1, advice));
        }
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if codegen.is_some_and(|codegen| !codegen.text.contains(&format!("\"{name}\""))) {
            let advice = "not compiled: name it in xtask/src/codegen.rs, or remove it";
            findings.push(file.finding(1, advice));
        }
    }
    findings
}
