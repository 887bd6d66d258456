//! The database part of a snapshot, in and out.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::call::body_error;
use crate::timeouts;

/// The database part of a snapshot while it comes in. Its end is an error unless all has come.
pub struct SnapshotBody {
    /// What came in one piece with the message.
    first: Option<Bytes>,
    source: Source,
    received: Arc<AtomicU64>,
}

enum Source {
    Network(Incoming),
    Pieces(VecDeque<io::Result<Bytes>>),
}

impl SnapshotBody {
    pub(crate) fn new(first: Bytes, body: Incoming) -> Self {
        Self::of(Some(first).filter(|first| !first.is_empty()), Source::Network(body))
    }

    /// A snapshot that is here already, for tests of who receives one.
    pub fn from_pieces(pieces: impl IntoIterator<Item = io::Result<Bytes>>) -> Self {
        Self::of(None, Source::Pieces(pieces.into_iter().collect()))
    }

    fn of(first: Option<Bytes>, source: Source) -> Self {
        Self { first, source, received: Arc::default() }
    }

    /// Counts what [`Self::next`] has returned.
    pub(crate) fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// How many bytes are still to come, when the sender has said it.
    pub fn remaining(&self) -> Option<u64> {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        let rest = match &self.source {
            Source::Network(body) => body.size_hint().exact()?,
            Source::Pieces(_) => return None,
        };
        Some(first + rest)
    }

    /// The next piece; `None` at the end. After an error nothing more comes.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let piece = match self.first.take() {
            Some(first) => Ok(first),
            None => match &mut self.source {
                Source::Pieces(pieces) => pieces.pop_front()?,
                Source::Network(body) => next_data(body).await?,
            },
        };
        if let Ok(bytes) = &piece {
            self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Some(piece)
    }
}

/// The next bytes of a body, if its sender does not stand still.
pub(crate) async fn next_data(body: &mut Incoming) -> Option<io::Result<Bytes>> {
    loop {
        let frame = match timeout(timeouts::read(), body.frame()).await {
            Err(_) => return Some(Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"))),
            Ok(None) => return None,
            Ok(Some(Err(error))) => return Some(Err(body_error(&error))),
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers say nothing here.
        if let Ok(data) = frame.into_data() {
            return Some(Ok(data));
        }
    }
}

impl fmt::Debug for SnapshotBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotBody").field("remaining", &self.remaining()).finish()
    }
}
