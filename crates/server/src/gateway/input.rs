//! The body of a request: of HTTP, or the messages of a websocket.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use proto::json::Values;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::answer::Failure;
use super::{BODY_TIME_MAX, JSON_BYTES_PER_BYTE};
use crate::api::Api;

/// Where a body comes from.
pub(super) enum Input {
    Connection(Incoming),
    Socket(mpsc::Receiver<Bytes>),
}

/// The client is gone before its body has ended.
#[derive(Debug)]
pub(super) struct Broken;

impl Input {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            match self {
                Self::Socket(messages) => return Ok(messages.recv().await),
                Self::Connection(body) => match body.frame().await {
                    None => return Ok(None),
                    Some(Err(_)) => return Err(Broken),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return Ok(Some(data));
                        }
                    }
                },
            }
        }
    }

    /// Reads to the end, for [`BODY_TIME_MAX`] at most, and throws away.
    pub(super) async fn drain(&mut self) {
        let reading = async { while let Ok(Some(_)) = self.next().await {} };
        let _late = timeout(BODY_TIME_MAX, reading).await;
    }

    /// The first JSON value of a body, after all of it has come; nothing when there is none.
    pub(super) async fn value(&mut self, api: &Api) -> Result<Option<Bytes>, Failure> {
        match timeout(BODY_TIME_MAX, self.first(api)).await {
            Ok(value) => value,
            Err(_) => Err(Failure::LATE),
        }
    }

    async fn first(&mut self, api: &Api) -> Result<Option<Bytes>, Failure> {
        let bytes_max = bytes_max(api);
        let (mut values, mut first, mut is_over) = (Values::new(), None, false);
        while let Some(bytes) = self.next().await.map_err(|Broken| Failure::GONE)? {
            if first.is_some() || is_over {
                // etcd reads what it does not look at, and so its client can write it.
                continue;
            }
            values.push(&bytes);
            first = match values.next_value() {
                Ok(value) => value.map(Ok),
                Err(error) => Some(Err(error)),
            };
            if values.waiting() > bytes_max {
                is_over = true;
                values = Values::new();
            }
        }
        if is_over {
            return Err(too_long(api));
        }
        let value = match first {
            Some(value) => value.map(Some),
            None => values.end(),
        };
        value.map_err(|error| Failure::invalid(error.to_string()))
    }
}

/// Bytes that one JSON value may have.
pub(super) fn bytes_max(api: &Api) -> usize {
    api.options.receive_bytes_max.saturating_mul(JSON_BYTES_PER_BYTE)
}

/// The refusal of a value that is longer.
pub(super) fn too_long(api: &Api) -> Failure {
    let (json, max) = (bytes_max(api), api.options.receive_bytes_max);
    Failure::exhausted(format!(
        "grpc: received message larger than max (more than {json} bytes of JSON vs. {max})"
    ))
}
