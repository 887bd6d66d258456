//! Dependencies: the arrows between our crates, of which nothing points up, and the foreign ones,
//! which each have a reason.
//!
//! *Contract.* The table of crates in ARCHITECTURE.md, the list in deny.toml.

use super::{File, Finding};

/// Each crate, bottom up, with those of ours that it may use.
const ARROWS: [(&str, &[&str]); 14] = [
    ("base", &[]),
    ("fuzz", &["base"]),
    ("proto", &[]),
    ("raft", &["base", "proto"]),
    ("storage", &["base", "proto"]),
    ("store", &["base", "proto", "storage"]),
    ("node", &["base", "proto", "raft", "store"]),
    ("worker", &["base", "proto", "raft", "storage", "store", "node"]),
    ("net", &["base"]),
    ("peer", &["base", "proto", "net"]),
    ("rpc", &["proto"]),
    (
        "server",
        &["base", "proto", "raft", "storage", "store", "node", "worker", "net", "peer", "rpc"],
    ),
    ("cli", &["base", "proto", "rpc", "net", "storage", "store"]),
    ("sim", &["base", "proto", "raft", "storage", "store", "node", "worker", "peer"]),
];

/// Crates that know no sockets, threads or clocks, and so none of the libraries that bring them.
const PURE: [&str; 7] = ["base", "proto", "raft", "storage", "store", "node", "worker"];
const IMPURE: [&str; 12] = [
    "axum",
    "chrono",
    "futures",
    "http",
    "hyper",
    "hyper-util",
    "rand",
    "rustls",
    "time",
    "tokio",
    "tonic",
    "tower",
];

/// The crates in `bench/` and the root package are nobody's dependency, and may use anything.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let Some(name) =
            file.path.strip_prefix("crates/").and_then(|path| path.strip_suffix("/Cargo.toml"))
        else {
            continue;
        };
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            let advice = format!(
                "crate `{name}` is not in the table: add it to ARCHITECTURE.md with one sentence, \
                 and to xtask/src/tidy/crates.rs with its arrows"
            );
            findings.push(file.finding(1, advice));
            continue;
        };
        for (line, used) in dependencies(&file.text) {
            let ours = ARROWS.iter().any(|(known, _)| *known == used);
            if ours && !allowed.contains(&used) {
                let advice = format!(
                    "`{name}` must not use `{used}`: it may use {allowed:?} only; move the code \
                     down, or hand the thing in as an argument"
                );
                findings.push(file.finding(line, advice));
            }
            if PURE.contains(&name) && IMPURE.contains(&used) {
                let advice = format!(
                    "`{name}` must not use `{used}`: it knows no sockets, threads or clocks; do \
                     that in `net`, `rpc` or `server`"
                );
                findings.push(file.finding(line, advice));
            }
        }
    }
    findings
}

/// Each foreign crate in the workspace's list is used, and has its reason in deny.toml.
pub(super) fn check_reasons(files: &[File]) -> Vec<Finding> {
    let text = |path: &str| files.iter().find(|file| file.path == path);
    let (Some(root), Some(deny)) = (text("Cargo.toml"), text("deny.toml")) else {
        return Vec::new();
    };
    let ours = |name: &str| ARROWS.iter().any(|(known, _)| *known == name);
    let mut findings = Vec::new();
    for (line, name) in section(&root.text, "[workspace.dependencies]") {
        if ours(name) {
            continue;
        }
        if !deny.text.lines().any(|line| line.starts_with(&format!("#   {name}: "))) {
            let advice = format!("`{name}` has no reason: give it a sentence in deny.toml");
            findings.push(root.finding(line, advice));
        }
        let used = files.iter().filter(|file| file.path.ends_with("Cargo.toml")).any(|file| {
            let wanted = format!("{name}.workspace");
            file.text.lines().any(|line| line.trim_start().starts_with(&wanted))
        });
        if !used {
            let advice = format!("nothing uses `{name}`: remove it here and from deny.toml");
            findings.push(root.finding(line, advice));
        }
    }
    findings
}

/// The names under `[dependencies]`, with their lines.
fn dependencies(manifest: &str) -> impl Iterator<Item = (usize, &str)> {
    section(manifest, "[dependencies]")
}

/// The names under a heading of a manifest, with their lines.
fn section<'a>(manifest: &'a str, heading: &str) -> impl Iterator<Item = (usize, &'a str)> {
    let mut inside = false;
    manifest.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == heading;
            return None;
        }
        let name = line.split(['.', '=', ' ']).next()?;
        (inside && !name.is_empty() && !name.starts_with('#')).then_some((index + 1, name))
    })
}
