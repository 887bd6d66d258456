//! Answers to a range that may be too long to be held: the first rows are held, the others only
//! measured, and read again while the answer leaves.
//!
//! ```text
//!  hold HELD_BYTES_MAX ─► measure the rest ─► head, held rows ─► piece ─► piece … ─► more, count
//!                                                                each from a view of its own, as
//!                                                                fast as the client takes them
//! ```
//!
//! *Invariants.*
//! 1. Beside what is held, an answer has `PIECES_AHEAD` pieces in memory at most, however long it
//!    is and however slowly it is read, and no view for longer than one piece.
//! 2. As many bytes leave as the head has promised: the rows of a revision do not change. When a
//!    compaction overtakes the read, the call ends with etcd's error for that.

use std::collections::VecDeque;
use std::sync::Arc;

use base::Revision;
use bytes::Bytes;
use node::requests::Code;
use proto::etcdserverpb::RangeRequest;
use store::{RangeSummary, ReadError, Resume, View};
use tokio::sync::mpsc;

use super::body::Item;
use super::range::with_newest_view;
use super::reply::{Reply, Rows, framed_len};
use super::status::Status;
use crate::api::Api;

/// Encoded rows that are held; an answer that is not longer leaves as it is.
const HELD_BYTES_MAX: usize = 4 << 20;

/// Rows of one piece in bytes; a longer row makes it longer.
const PIECE_BYTES: usize = 256 * 1024;

/// Pieces that wait for the connection.
const PIECES_AHEAD: usize = 4;

/// What one read of everything has found.
struct Found {
    /// The rows up to the bound.
    held: Rows,
    /// The bytes of the rows after them.
    rest: usize,
    summary: RangeSummary,
    revision: Revision,
}

/// Answers a read in key order that is not short.
pub(super) async fn answer(api: &Arc<Api>, request: RangeRequest) -> Result<Reply, Status> {
    let (reading, asked) = (Arc::clone(api), request.clone());
    let found = super::blocking(move || with_newest_view(&reading, |view| find(view, &asked)));
    let Found { held, rest, summary, revision } = found.await??;
    let RangeSummary { count, more } = summary;
    let header = api.member.header(revision);
    if rest == 0 {
        return Ok(held.finish(Some(&header), more, count));
    }
    let mut request = request;
    if request.revision <= 0 {
        request.revision = revision.get();
    }
    let skipped = held.len();
    let (first, tail, bytes) = held.begin(&header, rest, more, count);
    let (items, others) = mpsc::channel(PIECES_AHEAD);
    let rows = Rest { api: Arc::clone(api), request, skipped, left: rest };
    tokio::spawn(rows.send(tail, items));
    Ok(Reply::Long { first, rest: others, bytes })
}

fn find(view: &View, request: &RangeRequest) -> Result<Found, ReadError> {
    let (mut held, mut rest) = (Rows::new(), 0);
    let summary = view.range(request, &mut |row| {
        if rest == 0 && held.bytes() < HELD_BYTES_MAX {
            held.push(row);
        } else {
            rest += framed_len(row);
        }
    })?;
    Ok(Found { held, rest, summary, revision: view.revision() })
}

/// The rows that are not held.
struct Rest {
    api: Arc<Api>,
    request: RangeRequest,
    /// Rows that leave with the head.
    skipped: usize,
    /// Bytes that are promised and have not left.
    left: usize,
}

impl Rest {
    async fn send(mut self, tail: Bytes, items: mpsc::Sender<Item>) {
        let ended = self.send_rows(tail, &items).await;
        // Nobody hears it when the client has gone.
        let _gone = items.send(Item::End(ended)).await;
    }

    async fn send_rows(&mut self, tail: Bytes, items: &mpsc::Sender<Item>) -> Result<(), Status> {
        let (mut resume, mut skip) = (None, self.skipped);
        loop {
            let (api, request) = (Arc::clone(&self.api), self.request.clone());
            let read = super::blocking(move || read_piece(&api, &request, resume.as_ref(), skip));
            let piece = read.await??;
            skip = 0;
            self.left = self.left.checked_sub(piece.bytes).ok_or_else(changed)?;
            for rows in piece.rows.into_iter().filter(|rows| !rows.is_empty()) {
                if items.send(Item::Message(rows)).await.is_err() {
                    return Ok(());
                }
            }
            resume = piece.resume;
            if resume.is_none() {
                break;
            }
        }
        if self.left > 0 {
            return Err(changed());
        }
        if !tail.is_empty() {
            let _gone = items.send(Item::Message(tail)).await;
        }
        Ok(())
    }
}

/// Other rows than those measured: that cannot be, and must not go unnoticed.
fn changed() -> Status {
    Status::new(Code::DataLoss, "the rows of a revision have changed while they were read")
}

struct Piece {
    rows: VecDeque<Bytes>,
    bytes: usize,
    resume: Option<Resume>,
}

/// Reads one piece, behind the rows that are to be skipped.
fn read_piece(
    api: &Api,
    request: &RangeRequest,
    resume: Option<&Resume>,
    skip: usize,
) -> Result<Piece, Status> {
    let view = api.store.view();
    let behind = match skip {
        0 => None,
        rows => view.range_chunk(request, None, rows, usize::MAX, &mut |_| {})?.resume,
    };
    let mut rows = Rows::continued();
    let at = behind.as_ref().or(resume);
    let chunk =
        view.range_chunk(request, at, usize::MAX, PIECE_BYTES, &mut |row| rows.push(row))?;
    Ok(Piece { bytes: rows.bytes(), rows: rows.into_pieces(), resume: chunk.resume })
}
