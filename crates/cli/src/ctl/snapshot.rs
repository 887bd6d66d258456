//! `snapshot save`: stores a member's database in a file.
//!
//! *Invariants.* The named file appears only when it is whole and synced; until then everything
//! is in `FILE.part`, which never stays behind.
//!
//! *Contract.* `client/v3/snapshot/v3_snapshot.go` of etcd v3.7.1.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::client::{Client, RequestError};
use super::command::{Call, Command, Group};
use super::failure::{self, Failure, Outcome};
use super::global::{Settings, log_line};
use super::print::print;
use crate::go;

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
const DIGEST_BYTES: u64 = 32;
const SECTOR_BYTES: u64 = 512;

pub(crate) static SNAPSHOT: Command = Command {
    name: "snapshot",
    short: "Manages etcd node snapshots",
    example: EXAMPLE,
    group: Group::Maintenance,
    commands: &[&SAVE],
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
    let mut part = path.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let saved = save(&settings, deadline, &path, &part).await;
    // Gone already if all went well.
    let _ = std::fs::remove_file(&part);
    let version = saved?;
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

/// Downloads to `part` and renames that to `path`; returns the server's version.
async fn save(
    settings: &Settings,
    deadline: Option<Instant>,
    path: &Path,
    part: &Path,
) -> Outcome<String> {
    let [endpoint] = settings.endpoints.as_slice() else {
        let list = settings.endpoints.join(" ");
        let reason =
            format!("snapshot must be requested to one selected node, not multiple [{list}]");
        return Err(interrupted(reason));
    };
    let (shown, shown_part) = (path.display().to_string(), part.display().to_string());
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(part).map_err(|error| {
        let error = go::os_error(&error);
        interrupted(format!("could not open {shown_part} (open {shown_part}: {error})"))
    })?;
    log(&log_line("info", "created temporary db file", &[("path", &shown_part)]));
    let start = Instant::now();
    let client =
        Client::connect_to(settings, &settings.endpoints, deadline).await?.map_err(interrupted)?;
    log(&log_line("info", "fetching snapshot", &[("endpoint", endpoint)]));
    let Download { bytes, version } = download(&client, &mut file).await?;
    if bytes % SECTOR_BYTES != DIGEST_BYTES {
        return Err(interrupted(format!("sha256 checksum not found [bytes: {bytes}]")));
    }
    file.sync_all()
        .map_err(|e| interrupted(format!("could not fsync snapshot: {}", go::os_error(&e))))?;
    let fields = [
        ("endpoint", endpoint.as_str()),
        ("size", &go::human_bytes(bytes)),
        ("took", &go::duration(start.elapsed())),
        ("etcd-version", &version),
    ];
    log(&log_line("info", "fetched snapshot", &fields));
    std::fs::rename(part, path).map_err(|error| {
        let error = go::os_error(&error);
        interrupted(format!("could not rename {shown_part} to {shown} ({error})"))
    })?;
    log(&log_line("info", "saved", &[("path", &shown)]));
    Ok(version)
}

struct Download {
    bytes: u64,
    version: String,
}

async fn download(client: &Client, file: &mut File) -> Outcome<Download> {
    let fail = |error: RequestError| interrupted(format!("could not write snapshot: {error}"));
    let send = async |r| client.maintenance().snapshot(r).await;
    let mut stream = client
        .ask(&pb::SnapshotRequest {}, send)
        .await
        // What goes wrong on a stream is told as it comes.
        .map_err(|error| interrupted(error.raw()))?;
    let mut download = Download { bytes: 0, version: String::new() };
    let mut remaining = 0;
    while let Some(piece) = client.next(&mut stream).await.map_err(fail)? {
        if !piece.version.is_empty() {
            download.version = piece.version;
        }
        file.write_all(&piece.blob).map_err(|error| {
            interrupted(format!("could not write snapshot: {}", go::os_error(&error)))
        })?;
        download.bytes += piece.blob.len() as u64;
        remaining = piece.remaining_bytes;
    }
    if remaining > 0 {
        let reason = format!("could not write snapshot: {remaining} bytes are missing");
        return Err(interrupted(reason));
    }
    Ok(download)
}
