//! What goes back on a connection: a whole answer, an answer in chunks, or a stream of messages.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use super::status::{Status, ok_trailers};
use crate::metrics::Text;

/// A response body.
pub(crate) enum Body {
    /// Nothing; all is said in the headers.
    Empty,
    /// The body of a plain HTTP answer.
    Plain(Bytes),
    /// The same, and trailers behind it: it has no length in front.
    Trailed(Option<Bytes>, HeaderMap),
    /// A text of `/metrics`, as long as it is not taken away.
    Text(Text),
    /// One gRPC message in one piece, then success.
    Message(Bytes),
    /// The pieces of one gRPC message, then success.
    Chunks(VecDeque<Bytes>),
    /// The first pieces of a gRPC message, then the others as they come.
    Long(VecDeque<Bytes>, mpsc::Receiver<Item>),
    /// Success has still to be said.
    Trailers,
    /// Messages as they come.
    Stream(mpsc::Receiver<Item>),
}

/// What a stream sends.
#[derive(Debug)]
pub(crate) enum Item {
    /// A gRPC message with its prefix, or a piece of one.
    Message(Bytes),
    /// The end.
    End(Result<(), Status>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let (frame, next) = match std::mem::replace(this, Self::Empty) {
            Self::Empty => return Poll::Ready(None),
            Self::Plain(bytes) => (Frame::data(bytes), Self::Empty),
            Self::Trailed(Some(bytes), rest) => (Frame::data(bytes), Self::Trailed(None, rest)),
            Self::Trailed(None, rest) if rest.is_empty() => return Poll::Ready(None),
            Self::Trailed(None, rest) => (Frame::trailers(rest), Self::Empty),
            Self::Text(mut text) => match text.next() {
                Some(piece) => (Frame::data(piece), Self::Text(text)),
                None => return Poll::Ready(None),
            },
            Self::Message(bytes) => (Frame::data(bytes), Self::Trailers),
            Self::Chunks(mut chunks) => match chunks.pop_front() {
                Some(chunk) => (Frame::data(chunk), Self::Chunks(chunks)),
                None => (Frame::trailers(ok_trailers()), Self::Empty),
            },
            Self::Long(mut first, rest) => match first.pop_front() {
                Some(piece) => (Frame::data(piece), Self::Long(first, rest)),
                None => {
                    *this = Self::Stream(rest);
                    return Pin::new(this).poll_frame(context);
                }
            },
            Self::Trailers => (Frame::trailers(ok_trailers()), Self::Empty),
            Self::Stream(mut items) => {
                let Poll::Ready(item) = items.poll_recv(context) else {
                    *this = Self::Stream(items);
                    return Poll::Pending;
                };
                match item {
                    Some(Item::Message(bytes)) => (Frame::data(bytes), Self::Stream(items)),
                    Some(Item::End(Ok(()))) => (Frame::trailers(ok_trailers()), Self::Empty),
                    Some(Item::End(Err(status))) => {
                        let mut trailers = HeaderMap::with_capacity(2);
                        status.put(&mut trailers);
                        (Frame::trailers(trailers), Self::Empty)
                    }
                    // The task is gone without a word: the stream is cut, as the connection is.
                    None => return Poll::Ready(None),
                }
            }
        };
        *this = next;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Plain(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Text(text) => SizeHint::with_exact(text.left() as u64),
            _ => SizeHint::default(),
        }
    }
}
