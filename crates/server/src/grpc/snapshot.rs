//! `Maintenance.Snapshot`: the database file of one moment, and its digest.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use node::requests::Code;
use proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use sha2::{Digest, Sha256};

use super::status::Status;
use super::stream::Stream;
use super::wire;
use crate::log;

/// Bytes of one message, as etcd sends them.
const BLOB_BYTES: usize = 32 * 1024;

/// Bytes that are read from the disk at once.
const READ_BYTES: usize = 32 * BLOB_BYTES;

/// A client that takes nothing for this long is given up: the snapshot pins its pages.
const STALL_MAX: Duration = Duration::from_secs(120);

pub(super) async fn send(stream: &mut Stream, message: Bytes) -> Result<(), Status> {
    let SnapshotRequest {} = wire::decode_streamed(&message)?;
    let api = Arc::clone(&stream.call.api);
    let began = std::time::Instant::now();
    let view = api.member.commit_now().await?;
    let version = api.store.storage_version().unwrap_or_default();
    let image = Arc::new(view.image());
    drop(view);
    let total = image.len();
    log::info("sending database snapshot to client").field("total-bytes", &total).emit();
    let mut digest = Sha256::new();
    let mut sent = 0;
    while sent < total {
        let reading = Arc::clone(&image);
        let bytes = super::blocking(move || reading.read_at(sent, READ_BYTES))
            .await?
            .map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
        if bytes.is_empty() {
            let text = format!("database snapshot ends at {sent} of {total} bytes");
            return Err(Status::new(Code::DataLoss, text));
        }
        digest.update(&bytes);
        for at in (0..bytes.len()).step_by(BLOB_BYTES) {
            let blob = bytes.slice(at..bytes.len().min(at + BLOB_BYTES));
            sent += blob.len() as u64;
            let remaining_bytes = total - sent;
            let version = version.clone();
            let message =
                SnapshotResponse { remaining_bytes, blob, version, ..SnapshotResponse::default() };
            progress(stream.push(wire::frame(&message))).await?;
        }
    }
    let blob = Bytes::copy_from_slice(&digest.finalize());
    let last = SnapshotResponse { blob, version, ..SnapshotResponse::default() };
    progress(stream.message(&last)).await?;
    api.metrics.snapshot_seconds.observe(began.elapsed());
    log::info("successfully sent database snapshot to client")
        .field("total-bytes", &total)
        .duration("took", began.elapsed())
        .emit();
    Ok(())
}

async fn progress(sending: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
    tokio::time::timeout(STALL_MAX, sending).await.unwrap_or_else(|_| {
        let text = "snapshot aborted: its receiver made no progress for 2m0s";
        Err(Status::new(Code::DeadlineExceeded, text))
    })
}
