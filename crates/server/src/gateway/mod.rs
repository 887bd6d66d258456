//! Serves the API as JSON over HTTP/1.1 and over websockets: `/v3/...`.
//!
//! ```text
//!  request ─► path ─► routes ─► headers ─► unary, stream ─► grpc::serve, as from a connection
//!     ▲                                      │    ▲               │
//!  socket (a websocket's messages)          JSON ─┘ ◄── answer ◄──┘
//! ```
//!
//! *Invariants.*
//! 1. A request means what the same gRPC request means: it takes the same way through
//!    [`grpc::serve`], with the metadata that etcd's gateway gives it.
//! 2. An answer is mapped while it passes: beside what gRPC holds of it, [`PIECES_AHEAD`] pieces of
//!    [`PIECE_BYTES`] and one row are in memory, in either form.
//! 3. A body has a bound in bytes ([`JSON_BYTES_PER_BYTE`]) and, where it must be whole before the
//!    call begins, in time ([`BODY_TIME_MAX`]).
//!
//! *Absent.* The refusal of client certificates that name a user, which belongs to authentication.
//!
//! *Contract.* grpc-gateway v2.29 with etcd v3.7.1's options, behind grpc-websocket-proxy and Go's
//! `net/http`.

mod answer;
#[cfg(test)]
mod fuzz;
mod headers;
mod input;
mod path;
mod routes;
mod socket;
mod stream;
mod unary;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, Uri, header};
use hyper::body::Incoming;
use net::PeerAddress;

use crate::api::Api;
use crate::grpc::Body;
use answer::Failure;
use input::Input;
pub(crate) use path::Target;
pub(crate) use socket::Sockets;

/// Bytes of JSON that are read for each byte that a message may have: base64 takes four for three.
const JSON_BYTES_PER_BYTE: usize = 2;

/// How long the body of a call with one message may take.
const BODY_TIME_MAX: Duration = Duration::from_secs(300);

/// Bytes of JSON that leave together.
const PIECE_BYTES: usize = 64 * 1024;

/// Pieces that wait for the connection.
const PIECES_AHEAD: usize = 4;

const FORM: &str = "application/x-www-form-urlencoded";

/// Who sends a request, and where a websocket of the connection is left.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) peer: PeerAddress,
    pub(crate) sockets: Sockets,
}

/// What is asked for, without its body.
struct Question {
    method: Method,
    /// Without escapes.
    path: String,
    headers: HeaderMap,
    host: Option<String>,
    peer: PeerAddress,
}

/// Where in the gateway a request belongs, if it does.
pub(crate) fn target(api: &Api, uri: &Uri) -> Option<Target> {
    if api.options.enable_grpc_gateway { path::target(uri) } else { None }
}

/// Answers a request to what [`target`] has found for it.
pub(crate) async fn serve(
    api: &Arc<Api>,
    target: Target,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = match target {
        Target::Here(path) => path,
        Target::Elsewhere(location) => return path::redirect(request.method(), &location),
    };
    let caller = request.extensions().get::<Caller>().cloned();
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(request.uri().authority().map(http::uri::Authority::as_str));
    let question = Question {
        method: request.method().clone(),
        path,
        headers: request.headers().clone(),
        host: host.map(str::to_owned),
        peer: caller.as_ref().map_or(PeerAddress::Unix, |caller| caller.peer),
    };
    if let Some(Caller { sockets, .. }) = caller
        && socket::is_asked_for(request.headers())
    {
        return socket::upgrade(api, question, request, &sockets);
    }
    respond(api, question, Input::Connection(request.into_body())).await
}

/// Answers a question.
async fn respond(api: &Arc<Api>, question: Question, mut input: Input) -> Response<Body> {
    let mut method = question.method;
    if let Some(other) = overridden(&method, &question.headers) {
        // Reading the form has taken the body.
        input.drain().await;
        method = other;
    }
    let Some(route) = routes::find(&question.path) else {
        return answer::failure(&Failure::NOT_FOUND);
    };
    if method != Method::POST {
        return answer::failure(&Failure::WRONG_METHOD);
    }
    let host = question.host.as_deref();
    let call = match headers::read(&question.headers, host, question.peer) {
        Ok(call) => call,
        Err(failure) => return answer::failure(&failure),
    };
    match route.is_client_stream || route.is_server_stream {
        false => unary::answer(api, route, call, question.peer, input).await,
        true => stream::answer(api, route, call, question.peer, input).await,
    }
}

/// The method that a form asks for instead of its own.
fn overridden(method: &Method, headers: &HeaderMap) -> Option<Method> {
    let is_form = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == FORM);
    if *method != Method::POST || !is_form {
        return None;
    }
    let name = headers.get("x-http-method-override")?.as_bytes().to_ascii_uppercase();
    (!name.is_empty()).then(|| Method::from_bytes(&name).ok())?
}
