//! `Maintenance.Snapshot`: the database file of one moment, and its digest.
//!
//! ```text
//!  image ─ read, digest, frame (a thread of the pool) ─► frames of 1 MiB ─► the connection
//! ```
//!
//! *Invariants.*
//! 1. One piece of the image is in memory, beside what waits for the connection.
//! 2. A snapshot pins the pages of its state until the last of them is read. It is ended when its
//!    receiver does not take a piece within [`Bounds::stall`], and when the pages that are kept for
//!    it, and for no earlier state, are more than [`Bounds::pinned_bytes`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::limits::{SNAPSHOT_BYTES_PER_SECOND, SNAPSHOT_PINNED_BYTES_MAX};
use bytes::Bytes;
use node::requests::Code;
use proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use sha2::{Digest, Sha256};
use storage::bolt::Image;

use super::status::Status;
use super::stream::Stream;
use super::wire;
use crate::log;

/// Bytes of one message, as etcd sends them.
const BLOB_BYTES: usize = 32 * 1024;

/// Bytes that are read from the disk at once.
const READ_BYTES: usize = 32 * BLOB_BYTES;

/// What a snapshot may cost others.
struct Bounds {
    /// How long the receiver may take for a piece.
    stall: Duration,
    /// How often the pages that are kept are looked at while it takes its time.
    look: Duration,
    /// How many bytes of them there may be.
    pinned_bytes: u64,
    /// The pace while others write, until half of that is kept: then time counts more.
    bytes_per_second: u64,
}

const BOUNDS: Bounds = Bounds {
    stall: Duration::from_secs(120),
    look: Duration::from_secs(1),
    pinned_bytes: SNAPSHOT_PINNED_BYTES_MAX,
    bytes_per_second: SNAPSHOT_BYTES_PER_SECOND,
};

/// Where the messages go.
trait Outlet: Send {
    /// Waits until a framed message can be sent.
    fn push(&mut self, framed: Bytes) -> impl Future<Output = Result<(), Status>> + Send;

    /// A number that changes whenever somebody writes.
    fn writes(&self) -> i64;
}

impl Outlet for Stream {
    fn push(&mut self, framed: Bytes) -> impl Future<Output = Result<(), Status>> + Send {
        Stream::push(self, framed)
    }

    fn writes(&self) -> i64 {
        self.call.api.store.revision().0
    }
}

pub(super) async fn send(stream: &mut Stream, message: Bytes) -> Result<(), Status> {
    let SnapshotRequest {} = wire::decode_streamed(&message)?;
    let api = Arc::clone(&stream.call.api);
    let began = Instant::now();
    let view = api.member.commit_now().await?;
    let version = api.store.storage_version().unwrap_or_default();
    let image = Arc::new(view.image());
    drop(view);
    let total = image.len();
    log::info("sending database snapshot to client").field("total-bytes", &total).emit();
    copy(image, &version, &BOUNDS, stream).await?;
    watched(None, &BOUNDS, stream.flush()).await?;
    api.metrics.snapshot_seconds.observe(began.elapsed());
    log::info("successfully sent database snapshot to client")
        .field("total-bytes", &total)
        .duration("took", began.elapsed())
        .emit();
    Ok(())
}

/// Sends an image, which is let go then, and its digest.
async fn copy(
    image: Arc<Image>,
    version: &str,
    bounds: &Bounds,
    outlet: &mut impl Outlet,
) -> Result<(), Status> {
    let total = image.len();
    let (mut digest, mut sent) = (Sha256::new(), 0);
    let mut pace = Pace::new(bounds.bytes_per_second, outlet.writes());
    while sent < total {
        let (reading, named) = (Arc::clone(&image), version.to_owned());
        let piece = super::blocking(move || Piece::read(&reading, sent, named, digest)).await??;
        sent += piece.len;
        digest = piece.digest;
        // What others write costs more the longer this takes.
        let hurries = image.pinned_bytes() > bounds.pinned_bytes / 2;
        let pushing = async {
            for frame in piece.frames {
                let bytes = frame.len();
                outlet.push(frame).await?;
                let next = pace.after(bytes, outlet.writes(), Instant::now());
                if let Some(next) = next.filter(|_| !hurries) {
                    tokio::time::sleep_until(next.into()).await;
                }
            }
            Ok(())
        };
        watched(Some(&image), bounds, pushing).await?;
    }
    drop(image);
    let blob = Bytes::copy_from_slice(&digest.finalize());
    let version = version.to_owned();
    let last = SnapshotResponse { blob, version, ..SnapshotResponse::default() };
    watched(None, bounds, outlet.push(wire::frame(&last))).await
}

/// When what comes next may be sent: in quiet at once, and while others write so that their
/// requests find the threads and the connection's lane free in between.
struct Pace {
    bytes_per_second: u64,
    writes: i64,
    busy_until: Option<Instant>,
    /// When what was sent may have been sent.
    due: Option<Instant>,
    /// Bytes since the last pause.
    sent: usize,
}

impl Pace {
    /// In smaller steps the client wakes more often, which costs more than the pauses spare.
    const BURST_BYTES: usize = READ_BYTES;
    /// For so long after a write more of them are expected.
    const BUSY: Duration = Duration::from_millis(100);
    /// What was late is made up for by so much, so that the timer's steps even out.
    const CREDIT: Duration = Duration::from_millis(2);

    fn new(bytes_per_second: u64, writes: i64) -> Self {
        Self { bytes_per_second, writes, busy_until: None, due: None, sent: 0 }
    }

    /// Counts what was sent, and tells until when to wait.
    fn after(&mut self, bytes: usize, writes: i64, now: Instant) -> Option<Instant> {
        if std::mem::replace(&mut self.writes, writes) != writes {
            self.busy_until = Some(now + Self::BUSY);
        }
        self.sent += bytes;
        if self.busy_until.is_none_or(|until| until <= now) {
            (self.due, self.sent) = (None, 0);
            return None;
        }
        if self.sent < Self::BURST_BYTES {
            return None;
        }
        let takes = self.sent as f64 / self.bytes_per_second as f64;
        let from = self.due.unwrap_or(now).max(now.checked_sub(Self::CREDIT).unwrap_or(now));
        let due = from + Duration::from_secs_f64(takes);
        (self.due, self.sent) = (Some(due), 0);
        (due > now).then_some(due)
    }
}

/// A piece of an image, framed.
struct Piece {
    len: u64,
    frames: Vec<Bytes>,
    /// Of everything up to its end.
    digest: Sha256,
}

impl Piece {
    fn read(image: &Image, at: u64, version: String, mut digest: Sha256) -> Result<Self, Status> {
        let total = image.len();
        let bytes = image
            .read_at(at, READ_BYTES)
            .map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
        if bytes.is_empty() {
            let text = format!("database snapshot ends at {at} of {total} bytes");
            return Err(Status::new(Code::DataLoss, text));
        }
        digest.update(&bytes);
        let mut frames = Vec::with_capacity(READ_BYTES / BLOB_BYTES);
        let mut left = total - at;
        for from in (0..bytes.len()).step_by(BLOB_BYTES) {
            let blob = bytes.slice(from..bytes.len().min(from + BLOB_BYTES));
            left -= blob.len() as u64;
            let version = version.clone();
            let remaining_bytes = left;
            let message =
                SnapshotResponse { remaining_bytes, blob, version, ..SnapshotResponse::default() };
            frames.push(wire::frame(&message));
        }
        Ok(Self { len: bytes.len() as u64, frames, digest })
    }
}

/// Waits for the receiver, and looks meanwhile at what an image costs that is not all read.
async fn watched(
    image: Option<&Image>,
    bounds: &Bounds,
    sending: impl Future<Output = Result<(), Status>>,
) -> Result<(), Status> {
    let costly = || {
        let most = bounds.pinned_bytes;
        let text = format!(
            "snapshot aborted: more than {most} bytes of the database changed while it was sent"
        );
        let pinned = image.map_or(0, Image::pinned_bytes);
        (pinned > most).then(|| Status::new(Code::ResourceExhausted, text))
    };
    let mut sending = std::pin::pin!(sending);
    let mut waited = Duration::ZERO;
    while waited < bounds.stall {
        if let Some(status) = costly() {
            return Err(status);
        }
        match tokio::time::timeout(bounds.look, &mut sending).await {
            Ok(sent) => return sent,
            Err(_) => waited += bounds.look,
        }
    }
    let text = format!(
        "snapshot aborted: its receiver took less than 1 MiB in {} s",
        bounds.stall.as_secs()
    );
    Err(Status::new(Code::DeadlineExceeded, text))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prost::Message as _;
    use storage::bolt::{Batch, Database, Options};
    use storage::disk::Faulty;

    use super::*;

    const ROWS: u32 = 20_000;

    /// Takes so many messages, and no more.
    struct Receiver {
        takes: usize,
        taken: Vec<Bytes>,
    }

    impl Outlet for Receiver {
        async fn push(&mut self, framed: Bytes) -> Result<(), Status> {
            if self.taken.len() == self.takes {
                std::future::pending::<()>().await;
            }
            self.taken.push(framed);
            Ok(())
        }

        fn writes(&self) -> i64 {
            self.taken.len() as i64
        }
    }

    fn batch(value: u8) -> Batch {
        let mut batch = Batch::default();
        batch.create_bucket(b"rows");
        for row in 0..ROWS {
            let key = Bytes::copy_from_slice(&row.to_be_bytes());
            batch.put(b"rows", key, Bytes::from(vec![value; 150]));
        }
        batch
    }

    fn database() -> Database {
        let mut database =
            Database::open(&Faulty::new(0), Path::new("/db"), Options::default()).unwrap();
        database.commit(batch(0)).unwrap();
        database
    }

    fn bounds() -> Bounds {
        let look = Duration::from_millis(1);
        let stall = Duration::from_millis(5);
        Bounds { stall, look, pinned_bytes: 1 << 40, bytes_per_second: 1 << 40 }
    }

    #[test]
    fn writes_slow_a_snapshot_down_and_quiet_lets_it_go() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let burst = Pace::BURST_BYTES;
        // A burst takes four milliseconds.
        let mut pace = Pace::new(burst as u64 * 250, 0);
        assert_eq!(pace.after(burst, 0, at(0)), None, "nobody writes");
        assert_eq!(pace.after(burst / 2, 1, at(1)), None, "half a burst");
        assert_eq!(pace.after(burst / 2, 1, at(1)), Some(at(5)));
        // Woken late: the next pause is shorter.
        assert_eq!(pace.after(burst, 1, at(7)), Some(at(9)));
        // Far too late: little of it is made up for.
        assert_eq!(pace.after(burst, 1, at(60)), Some(at(62)));
        assert_eq!(pace.after(burst, 1, at(60)), Some(at(66)));
        assert_eq!(pace.after(burst, 1, at(101)), None, "nobody writes any more");
        assert_eq!(pace.after(burst, 1, at(102)), None);
    }

    #[tokio::test]
    async fn a_snapshot_is_the_file_and_its_digest() {
        let database = database();
        let image = Arc::new(database.view().image());
        let mut receiver = Receiver { takes: usize::MAX, taken: Vec::new() };
        copy(Arc::clone(&image), "3.7.0", &bounds(), &mut receiver).await.unwrap();
        let mut all = Vec::new();
        let messages = receiver.taken.len();
        for (at, framed) in receiver.taken.iter().enumerate() {
            let message = SnapshotResponse::decode(&framed[wire::PREFIX..]).unwrap();
            assert_eq!(message.version, "3.7.0");
            let left = image.len().saturating_sub(all.len() as u64 + message.blob.len() as u64);
            assert_eq!(message.remaining_bytes, left);
            assert_eq!(message.blob.len() == 32, at + 1 == messages);
            all.extend_from_slice(&message.blob);
        }
        let file = all.split_off(image.len() as usize);
        assert_eq!(Sha256::digest(&all)[..], file[..]);
        assert!(image.read_at(0, all.len()).unwrap() == all);
        assert!(all.len() > 3 * READ_BYTES);
    }

    #[tokio::test]
    async fn a_receiver_without_progress_is_given_up_and_its_pages_are_used_again() {
        let mut database = database();
        let image = Arc::new(database.view().image());
        database.commit(batch(1)).unwrap();
        let view = database.commit(Batch::default()).unwrap();
        let live = view.in_use_bytes();
        drop(view);
        let mut receiver = Receiver { takes: 40, taken: Vec::new() };
        let ended = copy(Arc::clone(&image), "", &bounds(), &mut receiver).await.unwrap_err();
        assert_eq!(ended.code, Code::DeadlineExceeded);
        assert!(
            ended.message.starts_with("snapshot aborted: its receiver took less than 1 MiB in")
        );
        drop(image);
        // Every state takes the place of the one before the last.
        for value in 2..8 {
            database.commit(batch(value)).unwrap();
        }
        let view = database.view();
        assert!(view.size_bytes() < 3 * live, "{} of {live} bytes", view.size_bytes());
        assert_eq!(view.pinned_bytes(), 0);
    }

    /// Two states that share all pages but a few, and the bytes that are kept for the first.
    fn two_images(database: &mut Database) -> ([Arc<Image>; 2], u64) {
        let first = Arc::new(database.view().image());
        let mut little = Batch::default();
        little.put(b"rows", Bytes::from_static(b"\0\0\0\0"), Bytes::from_static(b"new"));
        database.commit(little).unwrap();
        let second = Arc::new(database.view().image());
        database.commit(batch(1)).unwrap();
        database.commit(batch(2)).unwrap();
        let kept = first.pinned_bytes();
        assert!(kept > 1 << 20, "{kept}");
        assert!(second.pinned_bytes() < kept / 10, "what both keep is counted once");
        ([first, second], kept)
    }

    #[tokio::test]
    async fn a_snapshot_that_is_aborted_ends_no_other() {
        let mut database = database();
        let ([first, second], kept) = two_images(&mut database);
        let bounds = Bounds { pinned_bytes: kept * 3 / 4, stall: Duration::MAX, ..bounds() };
        let mut receiver = Receiver { takes: 40, taken: Vec::new() };
        let ended = copy(first, "", &bounds, &mut receiver).await.unwrap_err();
        assert_eq!(ended.code, Code::ResourceExhausted);
        let text = format!(
            "snapshot aborted: more than {} bytes of the database changed while it was sent",
            bounds.pinned_bytes
        );
        assert_eq!(ended.message, text);
        let mut receiver = Receiver { takes: usize::MAX, taken: Vec::new() };
        copy(Arc::clone(&second), "", &bounds, &mut receiver).await.unwrap();
        // Nothing was written since.
        let again = Arc::new(database.view().image());
        let mut receiver = Receiver { takes: usize::MAX, taken: Vec::new() };
        copy(again, "", &bounds, &mut receiver).await.unwrap();
        // With the next commit the pages are kept for the one that is left.
        database.commit(batch(3)).unwrap();
        let mut receiver = Receiver { takes: 40, taken: Vec::new() };
        let ended = copy(second, "", &bounds, &mut receiver).await.unwrap_err();
        assert_eq!(ended.code, Code::ResourceExhausted);
        assert_eq!(database.view().pinned_bytes(), 0);
    }

    #[tokio::test]
    async fn a_snapshot_for_which_much_is_kept_does_not_wait_for_others() {
        let mut database = database();
        let ([first, _second], kept) = two_images(&mut database);
        // A pace at which it would take days.
        let bounds = Bounds { pinned_bytes: kept * 3 / 2, bytes_per_second: 1, ..bounds() };
        let bounds = Bounds { stall: Duration::MAX, ..bounds };
        let mut receiver = Receiver { takes: usize::MAX, taken: Vec::new() };
        let copied = copy(first, "", &bounds, &mut receiver);
        tokio::time::timeout(Duration::from_secs(60), copied).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn no_pages_are_kept_for_the_digest() {
        let mut database = database();
        let image = Arc::new(database.view().image());
        database.commit(batch(1)).unwrap();
        let frames = image.len().div_ceil(BLOB_BYTES as u64) as usize;
        let bounds = Bounds { stall: Duration::MAX, ..bounds() };
        let mut receiver = Receiver { takes: frames, taken: Vec::new() };
        let mut copied = std::pin::pin!(copy(image, "", &bounds, &mut receiver));
        // The digest is not taken.
        for _ in 0..10_000 {
            let step = tokio::time::timeout(Duration::from_millis(1), &mut copied);
            assert!(step.await.is_err());
            if database.view().open_views() == 1 {
                return;
            }
        }
        panic!("the image is kept");
    }
}
