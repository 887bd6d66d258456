//! Serves etcd's gRPC API.
//!
//! ```text
//!  request ─► early (headers) ─► Method ─► wire::Messages ─► Call::open (checks of every call)
//!                                                               │
//!  response ◄── Body ◄── Reply (framed once) ◄── kv, lease, … ◄─┘
//! ```
//!
//! The frames are made here, on hyper, and not by a gRPC library: etcd's clients match on texts
//! and codes that such a library chooses itself, long answers leave in bounded pieces without a
//! second copy, and a put costs no more than HTTP/2 does.
//!
//! *Invariants.* A handler decodes, asks, encodes; whatever a request means is decided in
//! `node::requests` and `store`.
//!
//! *Contract.* `server/etcdserver/api/v3rpc` of etcd v3.7.1, and grpc-go v1.82 under it.

mod auth;
mod body;
mod call;
mod cluster;
mod early;
#[cfg(test)]
mod fuzz;
mod health;
pub(crate) mod kv;
pub(crate) mod lease;
mod locks;
mod long;
mod maintenance;
pub(crate) mod method;
mod range;
mod reply;
mod snapshot;
mod source;
mod stats;
mod status;
mod stream;
pub(crate) mod txn;
mod watch;
pub(crate) mod wire;

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use net::PeerAddress;
use node::requests::{Code, Rejected};

use crate::api::Api;
use crate::trace::course::{self, Course};
use crate::trace::span::{self, Followed};
pub(crate) use body::{Body, Item};
use call::Call;
use method::{Kind, Method};
use reply::Reply;
pub(crate) use source::Source;
pub(crate) use status::Status;
use stream::Stream;
pub(crate) use wire::PREFIX;
use wire::{Encoding, Messages};

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Answers one HTTP/2 request, or one that the gateway makes.
pub(crate) async fn serve<B: Into<Source>>(
    api: Arc<Api>,
    peer: PeerAddress,
    request: Request<B>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let early::Head { timeout, content_type } = match early::check(&head) {
        Ok(head) => head,
        Err(refusal) => return *refusal,
    };
    let Some(method) = Method::find(head.uri.path()) else {
        let text = method::unknown(head.uri.path());
        return failure(&Status::new(Code::Unimplemented, text));
    };
    let encoding = match Encoding::of(head.headers.get(GRPC_ENCODING)) {
        Ok(encoding) => encoding,
        Err(status) => return failure(&status),
    };
    let messages = Messages::new(body.into(), encoding, api.options.receive_bytes_max);
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    let followed = span::begin(&head.headers, authority, method.info().path);
    let call = Call::new(api, method, peer, head.headers);
    let mut answer = pin!(async {
        match method.info().kind {
            Kind::Unary => unary(call, messages, encoding, followed).await,
            _ => Box::pin(streaming(call, messages, encoding, followed)).await,
        }
    });
    let mut response = match timeout {
        None => answer.await,
        Some(timeout) => tokio::time::timeout(timeout, answer.as_mut())
            .await
            .unwrap_or_else(|_| failure(&Rejected::DeadlineExceeded.into())),
    };
    if content_type != CONTENT_TYPE {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    response
}

async fn unary(
    mut call: Call,
    mut messages: Messages,
    encoding: Encoding,
    followed: Option<Box<Followed>>,
) -> Response<Body> {
    let (answer, course, message) = match messages.only().await {
        Ok(received) => {
            call.received(received.len());
            // Shares the bytes: for those who ask afterwards what it was. Nobody asks that of the
            // calls that wait for other clients, and they may wait for long.
            let message = match call.method {
                Method::Lock | Method::Campaign => Bytes::new(),
                _ => received.clone(),
            };
            let mut asked = pin!(course::follow(answer(&mut call, received, encoding)));
            let answer = asked.as_mut().await.and_then(Reply::within_bounds);
            (answer, asked.take_value().map_or_else(Course::default, Cell::into_inner), message)
        }
        Err(status) => (Err(status), Course::default(), Bytes::new()),
    };
    let took = call.began.elapsed();
    stats::tell(
        &call,
        followed,
        &stats::Finished { message: &message, answer: &answer, took, course },
    );
    match answer {
        Ok(reply) => {
            call.sent(reply.len());
            call.finish(0);
            success(reply.into_body(encoding), encoding)
        }
        Err(status) => {
            call.refused();
            call.finish(status.number());
            failure(&status)
        }
    }
}

/// The answer to a unary request.
async fn answer(call: &mut Call, message: Bytes, encoding: Encoding) -> Result<Reply, Status> {
    let api = Arc::clone(&call.api);
    match call.method {
        Method::Range => {
            let request = call.open_if(message, range::is_for_learners)?;
            range::range(&api, &request, encoding == Encoding::Identity).await
        }
        Method::Put => kv::put(&api, call.open(message)?).await,
        Method::DeleteRange => {
            kv::delete_range(&api, call.open(message)?).await.map(|told| Reply::of(&told))
        }
        Method::Txn => {
            txn::check_depth(&message)?;
            txn::txn(&api, call.open(message)?).await.map(|told| Reply::of(&told))
        }
        // A wait is as large as the largest of its parts: the frequent ones stay small.
        _ => Box::pin(rare(call, message)).await,
    }
}

/// The answer to a unary request of a kind that is not frequent.
async fn rare(call: &mut Call, message: Bytes) -> Result<Reply, Status> {
    let api = Arc::clone(&call.api);
    match call.method {
        Method::Compact => kv::compact(&api, call.open(message)?).await,
        Method::LeaseGrant => {
            lease::grant(&api, call.open(message)?).await.map(|told| Reply::of(&told))
        }
        Method::LeaseRevoke => lease::revoke(&api, call.open(message)?).await,
        Method::LeaseTimeToLive => lease::time_to_live(&api, &call.open(message)?).await,
        Method::LeaseLeases => lease::list(&api, &call.open(message)?),
        Method::MemberAdd => cluster::add(&api, call.open(message)?).await,
        Method::MemberRemove => cluster::remove(&api, call.open(message)?).await,
        Method::MemberUpdate => cluster::update(&api, call.open(message)?).await,
        Method::MemberList => cluster::list(&api, &call.open(message)?).await,
        Method::MemberPromote => cluster::promote(&api, call.open(message)?).await,
        Method::Alarm => maintenance::alarm(&api, call.open(message)?).await,
        Method::Status => {
            let request = call.open_if(message, |_| true)?;
            Ok(maintenance::status(&api, &request))
        }
        Method::Defragment => maintenance::defragment(&api, &call.open(message)?).await,
        Method::Hash => maintenance::hash(&api, &call.open(message)?).await,
        Method::HashKv => maintenance::hash_kv(&api, &call.open(message)?).await,
        Method::MoveLeader => maintenance::move_leader(&api, &call.open(message)?).await,
        Method::Downgrade => maintenance::downgrade(&api, &call.open(message)?).await,
        Method::HealthCheck => health::check(&call.open(message)?),
        Method::HealthList => health::list(&call.open(message)?),
        Method::Lock
        | Method::Unlock
        | Method::Campaign
        | Method::Proclaim
        | Method::Leader
        | Method::Resign => locks::answer(call, message).await,
        _ => auth::answer(call, message),
    }
}

/// Begins a stream of answers; it goes on in a task of its own, on the same thread.
async fn streaming(
    mut call: Call,
    mut messages: Messages,
    encoding: Encoding,
    followed: Option<Box<Followed>>,
) -> Response<Body> {
    let method = call.method;
    if let Err(status) = call.check(method == Method::Snapshot) {
        call.finish(status.number());
        stats::tell_stream(followed, &Bytes::new(), Err(&status));
        return failure(&status);
    }
    // A stream that is asked for with one message is refused before it begins.
    let request = match method.info().kind {
        Kind::ServerStream => match messages.only().await {
            Ok(message) => {
                call.received(message.len());
                message
            }
            Err(status) => {
                call.finish(status.number());
                stats::tell_stream(followed, &Bytes::new(), Err(&status));
                return failure(&status);
            }
        },
        _ => Bytes::new(),
    };
    let (mut stream, items) = Stream::new(call, encoding);
    tokio::spawn(async move {
        // An observer waits for other clients, and may do so for long.
        let message = if method == Method::Observe { Bytes::new() } else { request.clone() };
        let ended = match method {
            Method::Watch => watch::run(&mut stream, messages).await,
            Method::LeaseKeepAlive => lease::keep_alive(&mut stream, messages).await,
            Method::RangeStream => range::stream(&mut stream, request).await,
            Method::Snapshot => snapshot::send(&mut stream, request).await,
            Method::Observe => locks::observe(&mut stream, request).await,
            _ => health::watch(&mut stream, request).await,
        };
        if method.info().kind == Kind::BidiStream {
            stream.call.received_end();
        }
        stats::tell_stream(followed, &message, ended.as_ref().copied());
        stream.end(ended).await;
    });
    success(Body::Stream(items), encoding)
}

fn headers(encoding: Encoding) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    if encoding == Encoding::Gzip {
        headers.insert(GRPC_ENCODING, GZIP);
    }
    headers
}

fn success(body: Body, encoding: Encoding) -> Response<Body> {
    let mut response = Response::new(body);
    *response.headers_mut() = headers(encoding);
    response
}

/// A call that fails before its first message: headers alone.
fn failure(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = headers(Encoding::Identity);
    status.put(response.headers_mut());
    response
}

/// Waits for work that occupies a thread: it goes to the lane's pool, so that other connections
/// of the lane do not wait with it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let done: Result<T, _> = tokio::task::spawn_blocking(work).await;
    // Only a stop of the process takes the work away; a panic has ended the process.
    done.map_err(|_| Rejected::Stopped.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of what `begin` would return.
    fn size_of_wait<A, B, C, F>(_begin: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_wait_stays_small() {
        // It is moved three times in its life, for every request.
        let bytes = size_of_wait(serve::<hyper::body::Incoming>);
        assert!(bytes <= 2_688, "{bytes} bytes");
    }
}
