//! The Lock and Election services.

use std::sync::Arc;

use bytes::Bytes;

use super::call::Call;
use super::method::Method;
use super::reply::Reply;
use super::status::Status;
use super::stream::Stream;
use super::wire;
use crate::concurrency::{Observer, election, lock, told};

/// Answers a unary request of them.
pub(super) async fn answer(call: &mut Call, message: Bytes) -> Result<Reply, Status> {
    let api = Arc::clone(&call.api);
    let reply = match call.method {
        Method::Lock => lock::lock(&api, call.open(message)?).await.map(|told| Reply::of(&told)),
        Method::Unlock => {
            lock::unlock(&api, call.open(message)?).await.map(|told| Reply::of(&told))
        }
        Method::Campaign => {
            election::campaign(&api, call.open(message)?).await.map(|told| Reply::of(&told))
        }
        Method::Proclaim => {
            election::proclaim(&api, call.open(message)?).await.map(|told| Reply::of(&told))
        }
        Method::Leader => {
            election::leader(&api, call.open(message)?).await.map(|told| Reply::of(&told))
        }
        _ => election::resign(&api, call.open(message)?).await.map(|told| Reply::of(&told)),
    };
    reply.map_err(told)
}

/// Tells an observer of every leader until it goes.
pub(super) async fn observe(stream: &mut Stream, message: Bytes) -> Result<(), Status> {
    let request = wire::decode_streamed(&message)?;
    let mut observer = Observer::new(Arc::clone(&stream.call.api), &request);
    drop((request, message));
    loop {
        let leader = tokio::select! {
            biased;
            status = stream.interrupted() => return Err(status),
            leader = observer.next() => leader.map_err(told)?,
        };
        stream.message(&leader).await?;
    }
}
