//! A connection that ends politely when its client pings too often.
//!
//! ```text
//!  open ─► too many pings ─► what was written is flushed ─► GOAWAY ─► read to its end, or FAREWELL
//! ```
//!
//! *Invariants.* The farewell follows a whole frame, and nothing follows it. What the client sends
//! meanwhile is read, so that closing does not destroy the farewell on its way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use net::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::pings::Pings;

/// How long the client has to close the connection itself.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Bytes that are read at once to be thrown away.
const DISCARD_BYTES: usize = 4096;

/// A stream and what watches it.
pub(super) struct Guarded {
    stream: Stream,
    pings: Pings,
    ending: Option<Ending>,
}

struct Ending {
    farewell: Farewell,
    deadline: Pin<Box<Sleep>>,
}

enum Farewell {
    Due,
    /// These bytes have still to leave.
    Leaving(Vec<u8>),
    Said,
}

impl Guarded {
    pub(super) fn new(stream: Stream, pings: Pings) -> Self {
        Self { stream, pings, ending: None }
    }

    /// Whether nothing may be written any more.
    fn is_mute(&self) -> bool {
        let said = |ending: &Ending| !matches!(ending.farewell, Farewell::Due);
        self.ending.as_ref().is_some_and(said)
    }

    /// Writes the farewell if it is due and possible.
    fn poll_farewell(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(Ending { farewell, .. }) = &mut self.ending else { return Poll::Ready(Ok(())) };
        if let Farewell::Due = farewell {
            let Some(frame) = self.pings.farewell() else { return Poll::Ready(Ok(())) };
            *farewell = Farewell::Leaving(frame);
        }
        if let Farewell::Leaving(frame) = farewell {
            while !frame.is_empty() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(context, frame))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                frame.drain(..written);
            }
            *farewell = Farewell::Said;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what the client still sends; ready when it has closed or its time is over.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; DISCARD_BYTES];
        loop {
            let mut discarded = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(context, &mut discarded) {
                Poll::Ready(Ok(())) if !discarded.filled().is_empty() => {}
                Poll::Ready(ended) => return Poll::Ready(ended),
                Poll::Pending => break,
            }
        }
        match &mut self.ending {
            Some(Ending { deadline, .. }) => deadline.as_mut().poll(context).map(Ok),
            None => Poll::Pending,
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ending.is_some() {
            return this.poll_end(context);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        if this.pings.received(&buffer.filled()[before..], Instant::now) {
            let deadline = Box::pin(tokio::time::sleep(FAREWELL_MAX));
            this.ending = Some(Ending { farewell: Farewell::Due, deadline });
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_mute() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write(context, bytes))?;
        this.pings.sent(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_mute() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(context, slices))?;
        let mut left = written;
        for slice in slices {
            let taken = left.min(slice.len());
            this.pings.sent(&slice[..taken]);
            left -= taken;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever flushes has written all it had: the answer to the last ping, too.
        ready!(this.poll_farewell(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
