//! Scripts that drive a node and tell it what its workers report.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod script;

use std::path::{Path, PathBuf};

#[test]
fn scripts() {
    let mut paths = walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/node"));
    paths.sort();
    assert!(paths.len() > 6, "scripts are missing");
    for path in paths {
        println!("{}", path.display());
        goldenscript::run(&mut script::Runner::default(), &path).unwrap();
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
