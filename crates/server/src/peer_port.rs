//! Serves the peer port: raft's own traffic, and what members ask of each other beside it.
//!
//! ```text
//!  accept ─► Shared ─┬─ not begun ─► 503
//!                    ├─ /raft… ────► peer::Transport
//!                    └─ others ────► http::serve_peer
//! ```
//!
//! *Invariants.* 1. Connections live on a runtime of their own, where no client's request runs:
//! heartbeats must not wait behind them. 2. A member that does not read loses its connection.
//!
//! *Contract.* `server/embed/etcd.go` and `server/etcdserver/api/etcdhttp/peer.go` of etcd v3.7.1.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use net::{Gate, Lane, Listener, Stream};
use peer::{Transport, WriteDeadline};

use crate::api::Api;
use crate::grpc;
use crate::http as plain;
use crate::log;
use crate::tls::{self, Endpoint};

/// How long the head of a request may take, and a connection may be without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes that one request's head may have.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What all connections share.
#[derive(Default)]
pub(crate) struct PeerPort {
    member: OnceLock<Arc<Api>>,
}

impl PeerPort {
    /// From now on there is a member that answers.
    pub(crate) fn open(&self, api: Arc<Api>) {
        // A second one would be another process's.
        drop(self.member.set(api));
    }

    /// Accepts until the process ends. Before [`Self::open`] everything is refused, so that other
    /// members need not wait for an answer while this one asks them.
    pub(crate) fn accept(
        self: &Arc<Self>,
        listener: Listener,
        gate: Gate,
        lane: Lane,
        failed: tokio::sync::mpsc::Sender<String>,
    ) {
        let port = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let permit = gate.enter().await;
                let (accepted, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        let address = listener.address();
                        // Only the first one ends the process.
                        drop(failed.try_send(format!("accept on {address}: {error}")));
                        return;
                    }
                };
                let port = Arc::clone(&port);
                lane.spawn(async move {
                    match accepted.open().await {
                        Ok((stream, _)) => port.serve(stream).await,
                        Err(refused) => tls::log_refused(Endpoint::Peer, peer, &refused),
                    }
                    drop(permit);
                });
            }
        });
    }

    async fn serve(self: Arc<Self>, stream: Stream) {
        let service = service_fn(|request| {
            let port = Arc::clone(&self);
            async move { Ok::<_, Infallible>(port.answer(request).await) }
        });
        let io = TokioIo::new(WriteDeadline::new(stream));
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX);
        // How a connection ends is the other member's affair.
        drop(builder.serve_connection(io, service).await);
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(api) = self.member.get() else {
            let mut refusal = Response::new(Body::Plain(grpc::Body::Empty));
            *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return refusal;
        };
        match api.member.transport() {
            Some(transport) if Transport::serves(request.uri().path()) => {
                transport.serve(request).await.map(Body::Raft)
            }
            _ => plain::serve_peer(api, request).await.map(Body::Plain),
        }
    }
}

/// What goes back to another member.
pub(crate) enum Body {
    /// Raft's.
    Raft(peer::Body),
    /// Anything else.
    Plain(grpc::Body),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Raft(body) => Pin::new(body).poll_frame(context),
            Self::Plain(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Raft(body) => body.is_end_stream(),
            Self::Plain(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Raft(body) => body.size_hint(),
            Self::Plain(body) => body.size_hint(),
        }
    }
}

/// The peer ports are served.
pub(crate) fn log_serving(addresses: &[String]) {
    for address in addresses {
        log::info("serving peer traffic").field("address", address).emit();
    }
}
