//! Reads an image and makes its messages, on a thread of its own.
//!
//! *Invariants.* The thread holds the image until the last of it is read, and ends when nobody
//! takes its pieces any more. It is the first to wait when processors are scarce.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use node::requests::Code;
use proto::etcdserverpb::SnapshotResponse;
use sha2::{Digest, Sha256};
use storage::bolt::Image;
use tokio::sync::{mpsc, oneshot};

use super::super::status::Status;
use super::super::wire;
use super::Bounds;

/// Bytes of one message, as etcd sends them.
pub(super) const BLOB_BYTES: usize = 32 * 1024;

/// Bytes that are read from the disk at once while nobody writes.
pub(super) const READ_BYTES: usize = 32 * BLOB_BYTES;

/// How nice the thread is, of 19: with more of it, others that saturate the processors could hold
/// a snapshot up until too much is kept for it.
const NICENESS: i32 = 10;

/// What makes the pieces of an image.
pub(super) struct Producer<W> {
    pub(super) image: Arc<Image>,
    pub(super) version: String,
    pub(super) bounds: Bounds,
    /// A number that changes whenever somebody writes.
    pub(super) writes: W,
    pub(super) pieces: mpsc::Sender<Result<Piece, Status>>,
    /// Dropped when the image has been.
    pub(super) gone: oneshot::Sender<Infallible>,
}

impl<W: Fn() -> i64 + Send + 'static> Producer<W> {
    pub(super) fn start(self) -> Result<(), Status> {
        let thread = std::thread::Builder::new().name("snapshot".to_owned());
        let body = move || {
            yield_to_others();
            self.run();
        };
        // It ends with its pieces.
        thread.spawn(body).map(drop).map_err(|error| {
            Status::new(Code::ResourceExhausted, format!("snapshot: starting a thread: {error}"))
        })
    }

    fn run(self) {
        let Self { image, version, bounds, writes, pieces, gone } = self;
        let digest = pass(&image, &version, &bounds, writes, &pieces);
        drop(image);
        // Who waits for it need not wait for the digest.
        drop(gone);
        let Some(digest) = digest else { return };
        let blob = Bytes::copy_from_slice(&digest.finalize());
        let last = SnapshotResponse { blob, version, ..SnapshotResponse::default() };
        let last = Piece { bytes: 0, frames: vec![wire::frame(&last)] };
        // Nobody may wait for it any more.
        let _unheard = pieces.blocking_send(Ok(last));
    }
}

/// Hands on the pieces of an image. Returns its digest, or nothing if nobody waits for more.
fn pass(
    image: &Image,
    version: &str,
    bounds: &Bounds,
    writes: impl Fn() -> i64,
    pieces: &mpsc::Sender<Result<Piece, Status>>,
) -> Option<Sha256> {
    let (mut digest, mut left) = (Sha256::new(), image.len());
    let mut pace = Pace::new(bounds.bytes_per_second, writes());
    while left > 0 {
        let piece = Piece::read(image, left, pace.step(), version, &mut digest);
        let bytes = piece.as_ref().map(|piece| piece.bytes).ok();
        pieces.blocking_send(piece).ok()?;
        // An error was the last to be said.
        let bytes = bytes?;
        left -= bytes;
        let now = Instant::now();
        let pause = pace.after(bytes, writes(), now);
        // What others write costs more the longer this takes.
        let hurries = image.pinned_bytes() > bounds.pinned_bytes / 2;
        if let Some(until) = pause.filter(|_| !hurries) {
            std::thread::sleep(until - now);
        }
    }
    Some(digest)
}

/// Lets other threads run first. A system that forbids it has a snapshot that is less polite.
fn yield_to_others() {
    #[cfg(target_os = "linux")]
    let _forbidden = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
}

/// When what comes next may be sent: in quiet at once, and while others write so that their
/// requests find the threads and the connection's lane free in between.
struct Pace {
    bytes_per_second: u64,
    writes: i64,
    busy_until: Option<Instant>,
    /// When what was sent may have been sent.
    due: Option<Instant>,
}

impl Pace {
    /// For so long after a write more of them are expected.
    const BUSY: Duration = Duration::from_millis(100);
    /// What was late is made up for by so much, so that the timer's steps even out.
    const CREDIT: Duration = Duration::from_millis(2);

    fn new(bytes_per_second: u64, writes: i64) -> Self {
        Self { bytes_per_second, writes, busy_until: None, due: None }
    }

    /// How many bytes are to be read next: while others write one message, so that the client,
    /// often on the same machine, has little to do at once.
    fn step(&self) -> usize {
        if self.busy_until.is_some() { BLOB_BYTES } else { READ_BYTES }
    }

    /// Counts what was read, and tells until when to wait.
    fn after(&mut self, bytes: u64, writes: i64, now: Instant) -> Option<Instant> {
        if std::mem::replace(&mut self.writes, writes) != writes {
            self.busy_until = Some(now + Self::BUSY);
        }
        self.busy_until = self.busy_until.filter(|until| *until > now);
        if self.busy_until.is_none() {
            self.due = None;
            return None;
        }
        let takes = bytes as f64 / self.bytes_per_second as f64;
        let from = self.due.unwrap_or(now).max(now.checked_sub(Self::CREDIT).unwrap_or(now));
        let due = from + Duration::from_secs_f64(takes);
        self.due = Some(due);
        (due > now).then_some(due)
    }
}

/// A piece of an image, framed.
pub(super) struct Piece {
    /// Of the image.
    pub(super) bytes: u64,
    pub(super) frames: Vec<Bytes>,
}

impl Piece {
    /// Reads what begins so many bytes before the end, and adds it to the digest.
    fn read(
        image: &Image,
        mut left: u64,
        max: usize,
        version: &str,
        digest: &mut Sha256,
    ) -> Result<Self, Status> {
        let total = image.len();
        let at = total - left;
        let bytes = image
            .read_at(at, max)
            .map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
        if bytes.is_empty() {
            let text = format!("database snapshot ends at {at} of {total} bytes");
            return Err(Status::new(Code::DataLoss, text));
        }
        digest.update(&bytes);
        let mut frames = Vec::with_capacity(bytes.len().div_ceil(BLOB_BYTES));
        for from in (0..bytes.len()).step_by(BLOB_BYTES) {
            let blob = bytes.slice(from..bytes.len().min(from + BLOB_BYTES));
            left -= blob.len() as u64;
            let (version, remaining_bytes) = (version.to_owned(), left);
            let message =
                SnapshotResponse { remaining_bytes, blob, version, ..SnapshotResponse::default() };
            frames.push(wire::frame(&message));
        }
        Ok(Self { bytes: bytes.len() as u64, frames })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_slow_a_snapshot_down_and_quiet_lets_it_go() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let piece = READ_BYTES as u64;
        // A piece takes four milliseconds.
        let mut pace = Pace::new(piece * 250, 0);
        assert_eq!(pace.after(piece, 0, at(0)), None, "nobody writes");
        assert_eq!(pace.step(), READ_BYTES);
        assert_eq!(pace.after(piece, 1, at(1)), Some(at(5)));
        assert_eq!(pace.step(), BLOB_BYTES);
        // Woken late: the next pause is shorter.
        assert_eq!(pace.after(piece, 1, at(7)), Some(at(9)));
        assert_eq!(pace.after(piece / 2, 1, at(9)), Some(at(11)));
        // Far too late: little of it is made up for.
        assert_eq!(pace.after(piece, 1, at(60)), Some(at(62)));
        assert_eq!(pace.after(piece, 1, at(60)), Some(at(66)));
        assert_eq!(pace.after(piece, 1, at(101)), None, "nobody writes any more");
        assert_eq!(pace.step(), READ_BYTES);
        assert_eq!(pace.after(piece, 1, at(102)), None);
    }
}
