//! Directories and files that are almost right. How to run these for longer, and a failure again:
//! see the crate `fuzz`.

use std::path::{Path, PathBuf};

use fuzz::{Result, Unstructured, Verdict, fuzz, int, mutate};

use super::{call, contents};
use crate::command::{self, Call, Parsed};
use crate::failure::Failure;
use crate::utl::rescue::tests::{Left, Trace, WHOLE, traces};
use crate::utl::{ROOT, inspect, rescue};

const PAGE: usize = 4096;

/// A call of a command, which is not run.
fn parsed(words: &[&str]) -> Call {
    let line: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let (path, args) = command::find(&ROOT, line.clone()).unwrap();
    let Ok(Parsed::Call(call)) = command::parse(&path, line, args) else { panic!("not a call") };
    call
}

/// What is refused is told in one line.
fn check(failure: &Failure, what: &str) {
    assert!(failure.text.starts_with("Error: "), "{what}: {}", failure.text);
    assert_eq!(failure.text.lines().count(), 1, "{what}: {}", failure.text);
}

/// Damages one file of a directory: a byte here and there, or within one page.
fn damage(u: &mut Unstructured<'_>, files: &[(PathBuf, Vec<u8>)]) -> Result<PathBuf> {
    let (path, whole) = &files[u.choose_index(files.len())?];
    let mut bytes = whole.clone();
    let pages = bytes.len() / PAGE;
    match u.int_in_range(0..=3)? {
        0 => mutate(u, &mut bytes)?,
        1 => bytes.truncate(int(u)? as usize % (whole.len() + 1)),
        _ if pages > 0 => {
            let at = int(u)? as usize % pages * PAGE;
            let mut page = bytes[at..at + PAGE].to_vec();
            mutate(u, &mut page)?;
            page.resize(PAGE, 0);
            bytes[at..at + PAGE].copy_from_slice(&page);
        }
        _ => mutate(u, &mut bytes)?,
    }
    std::fs::write(path, bytes).unwrap();
    Ok(path.clone())
}

/// A directory that was whole, with its files.
fn source(dir: &Path) -> (PathBuf, Vec<(PathBuf, Vec<u8>)>) {
    // The log goes on from the database, and from nothing else.
    let left = Left { log: 70, commit: 65, database: 50, snapshot: 45, ..WHOLE };
    let made = left.make(&dir.join("old"));
    let files = contents(made.root()).into_iter().filter(|(path, _)| path.is_file());
    (made.root().to_owned(), files.collect())
}

/// Whatever is damaged is told, and nothing is written where it was found.
#[test]
fn damaged_directories_are_told_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (old, files) = source(dir.path());
    let new = dir.path().join("new");
    let (old, output) = (old.to_str().unwrap(), format!("--output-dir={}", new.display()));
    let inspecting = parsed(&["inspect", old]);
    let rescuing = [
        parsed(&["rescue", old, &output]),
        // Most of them, since making a directory takes time.
        parsed(&["rescue", old, "--dry-run"]),
    ];
    let database = Path::new(old).join("member/snap/db");
    let database = database.to_str().unwrap();
    fuzz("directories of utl", |u| {
        let mut changed = damage(u, &files)?;
        if u.arbitrary()? {
            // The database and the log may go together: then nothing is left.
            changed = damage(u, &files)?;
        }
        let before = traces(Path::new(old));
        match inspect::inspect(&inspecting, Path::new(old)) {
            Ok(report) => {
                assert!(report.damage.iter().all(|line| line.lines().count() == 1));
            }
            Err(failure) => check(&failure, "inspect"),
        }
        let dry = u.ratio(5, 6)?;
        let verdict = match rescue::rescue(&rescuing[usize::from(dry)]) {
            Ok((report, ended)) => {
                assert!(report.text().is_ascii());
                if let Err(failure) = &ended {
                    check(failure, "rescue");
                }
                assert_eq!(ended.is_ok() && !dry, new.exists());
                Verdict::of(&ended)
            }
            Err(failure) => {
                check(&failure, "rescue");
                assert!(!new.exists());
                Verdict::Refused
            }
        };
        if new.exists() {
            // What was made is whole.
            let report = inspect::inspect(&inspecting, &new).unwrap();
            assert_eq!(report.damage, Vec::<String>::new());
            std::fs::remove_dir_all(&new).unwrap();
        }
        assert!(traces(Path::new(old)) == before, "{} was changed", changed.display());
        let restored = format!("--data-dir={}", new.display());
        let line = match u.int_in_range(0..=11)? {
            0 => &["migrate", "--data-dir", old, "--target-version=3.6"][..],
            1 => &["defrag", "--data-dir", old],
            2 => &["snapshot", "restore", database, "--skip-hash-check", &restored],
            _ => &[],
        };
        if let [command, ..] = line {
            if let Err(failure) = call(line) {
                check(&failure, command);
                assert!(!new.exists());
                // A file beside the database has come and gone.
                let files = |mut all: Vec<Trace>| {
                    all.retain(|(path, ..)| path.is_file());
                    all
                };
                let after = files(traces(Path::new(old)));
                assert!(after == files(before), "{line:?} has left something");
            } else if new.exists() {
                std::fs::remove_dir_all(&new).unwrap();
            }
        }
        for (path, bytes) in &files {
            std::fs::write(path, bytes).unwrap();
        }
        Ok(verdict)
    });
}
