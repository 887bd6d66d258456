//! Scripts that drive one core and a disk that writes when told to, those of go.etcd.io/raft
//! itself, whole groups by seed, and noise.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by it, and says more")]

mod noise;
mod script;
mod sim;
mod upstream;

#[test]
fn scripts() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let mut paths: Vec<_> = walk(&dir);
    paths.sort();
    assert!(paths.len() > 8, "scripts are missing");
    for path in paths {
        println!("{}", path.display());
        goldenscript::run(&mut script::Runner::default(), &path).unwrap();
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
