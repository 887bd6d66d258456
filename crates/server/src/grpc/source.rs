//! Where the messages of a call come from: a connection, or this process itself.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

/// The body of a request.
pub(crate) enum Source {
    /// Of a client's connection.
    Connection(Incoming),
    /// One framed message, of the gateway.
    Whole(Bytes),
    /// Framed messages as they come, of the gateway.
    Messages(mpsc::Receiver<Bytes>),
}

/// The client has reset the stream, or the connection is gone.
pub(super) struct Reset;

impl Source {
    /// The next bytes; `None` when the client has sent its last. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Reset> {
        match self {
            Self::Connection(body) => loop {
                let Some(frame) = body.frame().await else { return Ok(None) };
                if let Ok(data) = frame.map_err(|_| Reset)?.into_data() {
                    return Ok(Some(data));
                }
            },
            Self::Whole(bytes) => Ok(Some(std::mem::take(bytes)).filter(|left| !left.is_empty())),
            Self::Messages(messages) => Ok(messages.recv().await),
        }
    }
}

impl From<Incoming> for Source {
    fn from(body: Incoming) -> Self {
        Self::Connection(body)
    }
}
