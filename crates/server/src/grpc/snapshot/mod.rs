//! `Maintenance.Snapshot`: the database file of one moment, and its digest.
//!
//! ```text
//!  image ─ read, digest, frame (a thread of its own) ─► one piece waits ─► the connection
//! ```
//!
//! *Invariants.*
//! 1. Three pieces of the image are in memory, beside what waits for the connection.
//! 2. A snapshot pins the pages of its state until the last of them is read. It is ended when its
//!    receiver does not take a piece within [`Bounds::stall`], and when the pages that are kept for
//!    it, and for no earlier state, are more than [`Bounds::pinned_bytes`].
//! 3. At most [`base::limits::SNAPSHOTS_SERVED_MAX`] are under way; others wait for their turn, and
//!    pin nothing.

mod producer;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use base::limits::{SNAPSHOT_BYTES_PER_SECOND, SNAPSHOT_PINNED_BYTES_MAX};
use bytes::Bytes;
use node::requests::Code;
use proto::etcdserverpb::SnapshotRequest;
use storage::bolt::Image;
use tokio::sync::{mpsc, oneshot};

use super::status::Status;
use super::stream::Stream;
use super::wire;
use crate::log;
use producer::{Piece, Producer};

/// Pieces that wait for the connection.
const PIECES_MAX: usize = 1;

/// What a snapshot may cost others.
#[derive(Clone, Copy)]
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
}

impl Outlet for Stream {
    fn push(&mut self, framed: Bytes) -> impl Future<Output = Result<(), Status>> + Send {
        Stream::push(self, framed)
    }
}

pub(super) async fn send(stream: &mut Stream, message: Bytes) -> Result<(), Status> {
    let SnapshotRequest {} = wire::decode_streamed(&message)?;
    let api = Arc::clone(&stream.call.api);
    let _turn = tokio::select! {
        biased;
        turn = api.snapshots.acquire() => turn,
        status = stream.interrupted() => return Err(status),
    };
    let began = Instant::now();
    let view = api.member.commit_now().await?;
    let version = api.store.storage_version().unwrap_or_default();
    let image = view.image();
    drop(view);
    let total = image.len();
    log::info("sending database snapshot to client").field("total-bytes", &total).emit();
    let store = api.store.clone();
    let writes = move || store.revision().0;
    copy(Arc::new(image), version, BOUNDS, writes, stream).await?;
    watched(&Weak::new(), &BOUNDS, stream.flush()).await?;
    api.metrics.snapshot_seconds.observe(began.elapsed());
    log::info("successfully sent database snapshot to client")
        .field("total-bytes", &total)
        .duration("took", began.elapsed())
        .emit();
    Ok(())
}

/// Sends an image, which is let go as soon as it is read or cannot be sent, and its digest.
/// `writes`: a number that changes whenever somebody writes.
async fn copy(
    image: Arc<Image>,
    version: String,
    bounds: Bounds,
    writes: impl Fn() -> i64 + Send + 'static,
    outlet: &mut impl Outlet,
) -> Result<(), Status> {
    let (sender, mut pieces) = mpsc::channel(PIECES_MAX);
    let (gone, image_gone) = oneshot::channel();
    let watch = Arc::downgrade(&image);
    Producer { image, version, bounds, writes, pieces: sender, gone }.start()?;
    let sent = pass_on(&mut pieces, &watch, &bounds, outlet).await;
    // Without a receiver the producer ends.
    drop(pieces);
    let Err(_) = image_gone.await;
    sent
}

async fn pass_on(
    pieces: &mut mpsc::Receiver<Result<Piece, Status>>,
    image: &Weak<Image>,
    bounds: &Bounds,
    outlet: &mut impl Outlet,
) -> Result<(), Status> {
    while let Some(piece) = pieces.recv().await {
        let piece = piece?;
        let pushing = async {
            for frame in piece.frames {
                outlet.push(frame).await?;
            }
            Ok(())
        };
        watched(image, bounds, pushing).await?;
    }
    Ok(())
}

/// Waits for the receiver, and looks meanwhile at what an image costs that is being read.
async fn watched(
    image: &Weak<Image>,
    bounds: &Bounds,
    sending: impl Future<Output = Result<(), Status>>,
) -> Result<(), Status> {
    let most = bounds.pinned_bytes;
    let is_costly = || image.upgrade().is_some_and(|image| image.pinned_bytes() > most);
    let mut sending = std::pin::pin!(sending);
    let mut waited = Duration::ZERO;
    while waited < bounds.stall {
        if is_costly() {
            let text = format!(
                "snapshot aborted: more than {most} bytes of the database changed while it was sent"
            );
            return Err(Status::new(Code::ResourceExhausted, text));
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

    use std::sync::atomic::{AtomicI64, Ordering};

    use prost::Message as _;
    use proto::etcdserverpb::SnapshotResponse;
    use sha2::{Digest, Sha256};
    use storage::bolt::{Batch, Database, Options};
    use storage::disk::Faulty;

    use super::producer::{BLOB_BYTES, READ_BYTES};
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
    }

    /// Somebody writes all the time.
    fn writes() -> impl Fn() -> i64 + Send + 'static {
        let writes = AtomicI64::new(0);
        move || writes.fetch_add(1, Ordering::Relaxed)
    }

    /// Copies an image to a receiver.
    async fn copied(
        image: Arc<Image>,
        bounds: Bounds,
        receiver: &mut Receiver,
    ) -> Result<(), Status> {
        copy(image, "3.7.0".to_owned(), bounds, writes(), receiver).await
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

    #[tokio::test]
    async fn a_snapshot_is_the_file_and_its_digest() {
        let database = database();
        let image = Arc::new(database.view().image());
        let mut receiver = Receiver { takes: usize::MAX, taken: Vec::new() };
        copied(Arc::clone(&image), bounds(), &mut receiver).await.unwrap();
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
        let ended = copied(Arc::clone(&image), bounds(), &mut receiver).await.unwrap_err();
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
        let ended = copied(first, bounds, &mut receiver).await.unwrap_err();
        assert_eq!(ended.code, Code::ResourceExhausted);
        let text = format!(
            "snapshot aborted: more than {} bytes of the database changed while it was sent",
            bounds.pinned_bytes
        );
        assert_eq!(ended.message, text);
        let mut receiver = Receiver { takes: usize::MAX, taken: Vec::new() };
        copied(Arc::clone(&second), bounds, &mut receiver).await.unwrap();
        // Nothing was written since.
        let again = Arc::new(database.view().image());
        let mut receiver = Receiver { takes: usize::MAX, taken: Vec::new() };
        copied(again, bounds, &mut receiver).await.unwrap();
        // With the next commit the pages are kept for the one that is left.
        database.commit(batch(3)).unwrap();
        let mut receiver = Receiver { takes: 40, taken: Vec::new() };
        let ended = copied(second, bounds, &mut receiver).await.unwrap_err();
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
        let copied = copied(first, bounds, &mut receiver);
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
        let mut copied = std::pin::pin!(copied(image, bounds, &mut receiver));
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
