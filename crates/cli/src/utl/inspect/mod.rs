//! `inspect`: what stands in the files of a member, and what of it is damaged. Ours alone.
//!
//! *Invariants.* Nothing is written. What can be read is told, however much else is damaged; every
//! damage is told in one line that names file and place, and makes the exit code 1.
//!
//! *Absent.* Keys and values: who looks for them asks a member.

mod database;
mod render;
mod report;

use std::path::{Path, PathBuf};

use storage::datadir::DataDir;

use super::fail;
use super::files::{check_exists, path};
use crate::command::{Args, Call, Command, Flag, Running};
use crate::failure::{self, Failure, Outcome};
use crate::output::{Format, print, unsupported};
use report::Report;

pub(super) static INSPECT: Command = Command {
    name: "inspect",
    usage: "<data-dir, or a file of one>",
    short: "Tells what a data directory, a log, a snapshot or a database holds",
    long: "Tells what stands in a data directory, in a log (a directory of .wal files, or one of \
           them),\nin a .snap file, in a database or in a snapshot that was saved, and what of it \
           is damaged.\nThe formats are simple and json. The exit code is 1 if anything is damaged. \
           Nothing is written;\nthe member must not run. (etcdutl does not have this command.)",
    hidden: true,
    args: Args::Exactly(1),
    flags: &[Flag::text(
        "wal-dir",
        "",
        "Path to the WAL directory (use the data dir if none given)",
    )],
    run: Some(run),
    ..Command::EMPTY
};

/// What a path is.
#[derive(Debug, PartialEq, Eq)]
enum What {
    DataDir(DataDir),
    Log(PathBuf),
    Segment(PathBuf),
    Snapshot(PathBuf),
    Database(PathBuf),
}

fn run(call: &mut Call) -> Running<'_> {
    Box::pin(async {
        let format = call.format()?;
        let at = path(&call.args[0]);
        check_exists(&at)?;
        let report = inspect(call, &at)?;
        let text = match format {
            Format::Simple => render::text(&report),
            Format::Json => render::json(&report)?,
            Format::Table => return Err(unsupported("table")),
            Format::Fields => return Err(unsupported("fields")),
            Format::Protobuf => return Err(unsupported("protobuf")),
        };
        print(text.as_bytes())?;
        if report.damage.is_empty() { Ok(()) } else { Err(Failure::silent(failure::ERROR)) }
    })
}

/// Looks at everything that a path leads to.
pub(super) fn inspect(call: &Call, at: &Path) -> Outcome<Report> {
    let mut report = Report::new(at);
    match what(at)? {
        What::DataDir(dir) => {
            let dir = match call.values.text("wal-dir") {
                "" => dir,
                wal => dir.with_wal(wal),
            };
            // What cannot even be listed hides nothing of the rest.
            for read in [report.log(dir.wal(), None), report.snapshots(&dir.snap())] {
                if let Err(failure) = read {
                    report.damage.push(failure.reason().to_owned());
                }
            }
            let file = dir.database();
            if file.exists() {
                database::add(&mut report, call, &file);
            } else {
                report.damage.push(format!("{}: there is no database", file.display()));
            }
            report.compare();
        }
        What::Log(dir) => report.log(&dir, None)?,
        What::Segment(file) => {
            report.log(file.parent().unwrap_or(Path::new(".")), Some(&file))?;
        }
        What::Snapshot(file) => report.snapshot(&file)?,
        What::Database(file) => database::add(&mut report, call, &file),
    }
    Ok(report)
}

/// Tells what a path is by what is in it, or by its name.
fn what(at: &Path) -> Outcome<What> {
    let has_segments = |dir: &Path| {
        dir.read_dir().is_ok_and(|names| {
            names.flatten().any(|entry| entry.path().extension().is_some_and(|end| end == "wal"))
        })
    };
    if at.is_dir() {
        return if at.join("member").is_dir() {
            Ok(What::DataDir(DataDir::new(at)))
        } else if has_segments(at) {
            Ok(What::Log(at.to_owned()))
        } else if at.file_name().is_some_and(|name| name == "member") {
            Ok(What::DataDir(DataDir::new(at.parent().unwrap_or(Path::new("/")))))
        } else {
            Err(fail(format!("{}: neither a data directory nor a log", at.display())))
        };
    }
    Ok(match at.extension().and_then(std::ffi::OsStr::to_str) {
        Some("wal") => What::Segment(at.to_owned()),
        Some("snap") => What::Snapshot(at.to_owned()),
        _ => What::Database(at.to_owned()),
    })
}

#[cfg(test)]
mod tests;
