//! `snapshot save`: stores a member's database in a file.
//!
//! *Invariants.* The named file appears only when it is whole, synced and equal to the digest at
//! its end; until then everything is in `FILE.part`, which is never gone on with, and which one run
//! at a time has.
//!
//! *Absent.* Going on in the middle of a download: a member makes its snapshot while it sends it,
//! and the next one is of another moment. A stream that breaks is begun again.
//!
//! *Contract.* `client/v3/snapshot/v3_snapshot.go` of etcd v3.7.1.

mod part;

use std::fs::File;
use std::io::{IsTerminal as _, Seek as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::etcdserverpb as pb;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tonic::Status;

use super::bar::{Bar, Unit};
use super::client::{Client, RequestError};
use super::command::{Call, Command, Group};
use super::failure::{self, Failure, Outcome};
use super::global::{Settings, log_line};
use super::print::print;
use super::snapshot_old::{RESTORE, STATUS};
use crate::go;
use part::Part;

const EXAMPLE: &str = "  # Save snapshot to a given file
  etcdctl snapshot save /backup/etcd-snapshot.db
  \n  # Get snapshot from given address and save it to file
  etcdctl snapshot save --endpoints=127.0.0.1:3000 /backup/etcd-snapshot.db
  \n  # Get snapshot from given address with certificates
  etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/etcd/ca.crt \
--cert=/etc/etcd/etcd.crt --key=/etc/etcd/etcd.key snapshot save /backup/etcd-snapshot.db
  \n  # Get snapshot with certain user and password
  etcdctl --user=root --password=password123 snapshot save /backup/etcd-snapshot.db
  \n  # Get snapshot from given address with timeout
  etcdctl --endpoints=https://127.0.0.1:2379 --dial-timeout=20s snapshot save \
/backup/etcd-snapshot.db
  \n  # Save snapshot with desirable time format
  etcdctl snapshot save /mnt/backup/etcd/backup_$(date +%Y%m%d_%H%M%S).db";

/// The file ends with a digest of this length; the database is a multiple of the sector before.
const DIGEST_BYTES: usize = 32;
const SECTOR_BYTES: u64 = 512;

/// How often a download is begun at most.
const ATTEMPTS_MAX: usize = 5;
/// Between a stream that broke and the next one.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) static SNAPSHOT: Command = Command {
    name: "snapshot",
    short: "Manages etcd node snapshots",
    example: EXAMPLE,
    group: Group::Maintenance,
    commands: &[&SAVE, &RESTORE, &STATUS],
    ..Command::EMPTY
};

static SAVE: Command = Command {
    name: "save",
    usage: "<filename>",
    short: "Stores an etcd node backend snapshot to a given file",
    example: EXAMPLE,
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

async fn run(call: &mut Call) -> Outcome {
    let [name] = call.args.as_slice() else {
        let reason = "snapshot save expects one argument <filename>";
        return Err(Failure::new(failure::BAD_ARGS, reason));
    };
    let path = PathBuf::from(std::ffi::OsString::from_vec(name.clone()));
    let settings = call.settings()?;
    // Only a time limit that was asked for ends a download.
    let deadline =
        call.values.changed("command-timeout").then(|| Instant::now() + settings.command_timeout);
    let version = save(&settings, deadline, &path).await?;
    print(format!("Snapshot saved at {}\n", path.display()).as_bytes())?;
    if !version.is_empty() {
        print(format!("Server version {version}\n").as_bytes())?;
    }
    Ok(())
}

fn interrupted(reason: impl std::fmt::Display) -> Failure {
    Failure::new(failure::INTERRUPTED, reason)
}

fn log(line: &str) {
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Downloads beside `path` and renames; returns the server's version.
async fn save(settings: &Settings, deadline: Option<Instant>, path: &Path) -> Outcome<String> {
    let [endpoint] = settings.endpoints.as_slice() else {
        let list = settings.endpoints.join(" ");
        let reason =
            format!("snapshot must be requested to one selected node, not multiple [{list}]");
        return Err(interrupted(reason));
    };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let mut part = Part::open(beside.into()).map_err(interrupted)?;
    let saved = fill(settings, deadline, endpoint, &mut part, path).await;
    // Gone already if all went well.
    part.remove();
    saved
}

/// Downloads, and gives the file its name when it is whole.
async fn fill(
    settings: &Settings,
    deadline: Option<Instant>,
    endpoint: &str,
    part: &mut Part,
    path: &Path,
) -> Outcome<String> {
    let (shown, shown_part) = (path.display().to_string(), part.path.display().to_string());
    log(&log_line("info", "created temporary db file", &[("path", &shown_part)]));
    let start = Instant::now();
    let Download { bytes, version } = fetch(settings, deadline, endpoint, part).await?;
    part.file
        .sync_all()
        .map_err(|e| interrupted(format!("could not fsync snapshot: {}", go::os_error(&e))))?;
    let fields = [
        ("endpoint", endpoint),
        ("size", &go::human_bytes(bytes)),
        ("took", &go::duration(start.elapsed())),
        ("etcd-version", &version),
    ];
    log(&log_line("info", "fetched snapshot", &fields));
    part.rename(path).map_err(|error| {
        let error = format!("rename {shown_part} {shown}: {}", go::os_error(&error));
        interrupted(format!("could not rename {shown_part} to {shown} ({error})"))
    })?;
    sync_directory(path)
        .map_err(|e| interrupted(format!("could not fsync directory: {}", go::os_error(&e))))?;
    log(&log_line("info", "saved", &[("path", &shown)]));
    Ok(version)
}

/// Makes the name of a file as durable as the file is.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Downloads, from the beginning again when the stream breaks: the member keeps no snapshot, so
/// that the rest of one cannot be asked for.
async fn fetch(
    settings: &Settings,
    deadline: Option<Instant>,
    endpoint: &str,
    part: &mut Part,
) -> Outcome<Download> {
    let bar = std::io::stderr().is_terminal().then(|| Bar::start(0, Unit::Bytes));
    let mut attempt = 1;
    let fetched = loop {
        let client = Client::connect_to(settings, &settings.endpoints, deadline).await?;
        if attempt == 1 {
            log(&log_line("info", "fetching snapshot", &[("endpoint", endpoint)]));
        }
        let error = match download(&client, part, bar.as_ref()).await {
            Err(Broken::Stream { error, .. }) if error.is_transient() && attempt < ATTEMPTS_MAX => {
                error.to_string()
            }
            Err(Broken::Stream { error, begun: true }) => {
                break Err(interrupted(format!("could not write snapshot: {error}")));
            }
            // What goes wrong on a stream is told as it comes.
            Err(Broken::Stream { error, .. }) => break Err(interrupted(error.raw())),
            Err(Broken::Failed(failure)) => break Err(failure),
            Ok(download) => break Ok(download),
        };
        attempt += 1;
        let fields = [("error", error.as_str()), ("attempt", &attempt.to_string())];
        log(&log_line("warn", "the snapshot stream broke, beginning again", &fields));
        if let Some(bar) = &bar {
            bar.restart();
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    };
    if let Some(bar) = bar {
        bar.finish();
    }
    fetched
}

struct Download {
    bytes: u64,
    version: String,
}

/// Why there is no whole snapshot.
enum Broken {
    /// The stream ended early, or did not begin.
    Stream { error: RequestError, begun: bool },
    /// Another attempt would end alike.
    Failed(Failure),
}

async fn download(client: &Client, part: &mut Part, bar: Option<&Bar>) -> Result<Download, Broken> {
    let failed = |reason: String| Broken::Failed(interrupted(reason));
    let Part { file, path } = part;
    let not_written = |error: std::io::Error| {
        let (part, error) = (path.display(), go::os_error(&error));
        failed(format!("could not write snapshot: write {part}: {error}"))
    };
    file.set_len(0).and_then(|()| file.rewind()).map_err(not_written)?;
    let send = async |r| client.maintenance().snapshot(r).await;
    let mut stream = client
        .ask(&pb::SnapshotRequest {}, send)
        .await
        .map_err(|error| Broken::Stream { error, begun: false })?;
    let mut download = Download { bytes: 0, version: String::new() };
    let mut digest = Digest::default();
    let mut remaining = 0;
    loop {
        let piece = client.next(&mut stream).await;
        let Some(piece) = piece.map_err(|error| Broken::Stream { error, begun: true })? else {
            break;
        };
        if !piece.version.is_empty() {
            download.version = piece.version;
        }
        file.write_all(&piece.blob).map_err(not_written)?;
        digest.add(&piece.blob);
        download.bytes += piece.blob.len() as u64;
        remaining = piece.remaining_bytes;
        if let Some(bar) = bar {
            bar.add(piece.blob.len() as u64);
            bar.set_total(download.bytes + remaining);
        }
    }
    let bytes = download.bytes;
    if remaining > 0 {
        let error = Status::unavailable(format!("{remaining} bytes are missing")).into();
        return Err(Broken::Stream { error, begun: true });
    }
    if bytes % SECTOR_BYTES != DIGEST_BYTES as u64 {
        return Err(failed(format!("sha256 checksum not found [bytes: {bytes}]")));
    }
    digest.check().map_err(failed)?;
    Ok(download)
}

/// Compares a snapshot with the digest at its end, as it comes in.
#[derive(Default)]
struct Digest {
    hash: Sha256,
    /// The end of what has come, which may be the digest.
    tail: Vec<u8>,
}

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        if bytes.len() >= DIGEST_BYTES {
            let (body, end) = bytes.split_at(bytes.len() - DIGEST_BYTES);
            self.hash.update(&self.tail);
            self.hash.update(body);
            self.tail.clear();
            self.tail.extend_from_slice(end);
        } else {
            self.tail.extend_from_slice(bytes);
            let surplus = self.tail.len().saturating_sub(DIGEST_BYTES);
            self.hash.update(&self.tail[..surplus]);
            self.tail.drain(..surplus);
        }
    }

    fn check(self) -> Result<(), String> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let found = self.hash.finalize();
        if *found == *self.tail {
            return Ok(());
        }
        let (expected, found) = (hex(&self.tail), hex(&found));
        Err(format!("the snapshot is damaged: expected sha256 {expected}, got {found}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_found_however_the_snapshot_is_cut() {
        let mut whole: Vec<u8> = (0..1000_u32).map(|n| n as u8).collect();
        let digest = Sha256::digest(&whole);
        whole.extend_from_slice(&digest);
        for piece in [1, 7, 31, 32, 33, 500, 2000] {
            let read = |bytes: &[u8]| {
                let mut digest = Digest::default();
                bytes.chunks(piece).for_each(|chunk| digest.add(chunk));
                digest.check()
            };
            assert_eq!(read(&whole), Ok(()), "{piece}");
            for at in [0, 999, 1000, 1031] {
                let mut damaged = whole.clone();
                damaged[at] ^= 1;
                assert!(read(&damaged).is_err(), "{piece} {at}");
            }
        }
    }
}
