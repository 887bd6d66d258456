//! A connection that ends politely when its client pings too often, and at once when its client
//! never says what it speaks.
//!
//! ```text
//!  open ─► neither HTTP/1 nor the whole preface of HTTP/2 in HEAD_TIMEOUT ─► an error
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

use super::HEAD_TIMEOUT;
use super::pings::Pings;

/// How long the client has to close the connection itself.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Bytes that are read at once to be thrown away.
const DISCARD_BYTES: usize = 4096;

/// What a client of HTTP/2 sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream and what watches it.
pub(super) struct Guarded {
    stream: Stream,
    pings: Pings,
    /// Until the client has said what it speaks. Neither hyper's reading of the version nor its
    /// HTTP/2 has a bound of time for it.
    opening: Option<Opening>,
    ending: Option<Ending>,
}

struct Ending {
    farewell: Farewell,
    deadline: Pin<Box<Sleep>>,
}

struct Opening {
    /// Bytes of the preface that have come.
    seen: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Opening {
    /// Whether it is known what the client speaks, now that these bytes have come.
    fn is_over(&mut self, bytes: &[u8]) -> bool {
        let expected = &PREFACE[self.seen..];
        if !expected.starts_with(&bytes[..bytes.len().min(expected.len())]) {
            return true;
        }
        self.seen += bytes.len().min(expected.len());
        self.seen == PREFACE.len()
    }
}

enum Farewell {
    Due,
    /// These bytes have still to leave.
    Leaving(Vec<u8>),
    Said,
}

impl Guarded {
    pub(super) fn new(stream: Stream, pings: Pings) -> Self {
        Self::with_head_timeout(stream, pings, HEAD_TIMEOUT)
    }

    fn with_head_timeout(stream: Stream, pings: Pings, limit: Duration) -> Self {
        let deadline = Box::pin(tokio::time::sleep(limit));
        Self { stream, pings, opening: Some(Opening { seen: 0, deadline }), ending: None }
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
        match (Pin::new(&mut this.stream).poll_read(context, buffer), &mut this.opening) {
            (Poll::Ready(read), _) => read?,
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(opening)) => {
                ready!(opening.deadline.as_mut().poll(context));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        let read = &buffer.filled()[before..];
        this.opening.take_if(|opening| opening.is_over(read));
        if this.pings.received(read, Instant::now) {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_client_that_does_not_say_what_it_speaks_loses_its_connection() {
        for (sent, is_bounded) in [
            (&b""[..], true),
            (b"PRI * HTTP", true),
            (&PREFACE[..23], true),
            (PREFACE, false),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", false),
            (b"PUT /", false),
            (b"x", false),
        ] {
            let (near, mut far) = UnixStream::pair().expect("a pair");
            let stream = Stream::Unix(near);
            let mut guarded = Guarded::with_head_timeout(stream, Pings::unwatched(), LIMIT);
            let send = async {
                // Byte by byte, so that a bound of the pause between two would not help.
                for byte in sent {
                    far.write_all(&[*byte]).await.expect("sent");
                }
            };
            let mut received = vec![0; sent.len()];
            let (_, received) = tokio::join!(send, guarded.read_exact(&mut received));
            received.expect("read");
            let wait = tokio::time::timeout(4 * LIMIT, guarded.read_u8()).await;
            let ended = wait.map(|read| read.expect_err("nothing was sent").kind());
            let expected = is_bounded.then_some(io::ErrorKind::TimedOut);
            assert_eq!(ended.ok(), expected, "{}", sent.escape_ascii());
        }
    }
}
