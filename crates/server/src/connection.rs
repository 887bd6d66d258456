//! Serves one connection: tells the protocol by its first bytes, and hands requests on.

#[cfg(test)]
mod fuzz;
mod guarded;
mod pings;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, Version, header};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use net::{PeerAddress, PeerIdentity, Stream};
use tokio::sync::watch;

use crate::api::{Api, Phase};
use crate::config::Config;
use crate::gateway::{Caller, Sockets};
use crate::grpc::{self, Body};
use crate::http::{self as plain, Access, Offer};
use guarded::Guarded;
use pings::Pings;

/// How long the head of an HTTP/1 request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes of the head of an HTTP/1 request, and of an answer that wait for a client that does not
/// read them.
const HTTP1_BUFFER: usize = 128 * 1024;

/// Windows of HTTP/2: bytes that a client may send before they are read.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Bytes of the headers of a request.
const HEADERS_BYTES_MAX: u32 = 1 << 20;

/// Requests that a client may take back before they are looked at, and those that we end: beyond
/// it the connection is an attack (CVE-2023-44487). A Go client whose deadline passes takes back
/// everything it has open at once.
const RESETS_PENDING_MAX: usize = 4_096;
const RESETS_LOCAL_MAX: usize = 16_384;

/// Bytes of an answer that may wait in a stream for its client.
const SEND_BUFFER: usize = 512 * 1024;

/// grpc-go's pings to clients, which etcd leaves in force where a flag says 0.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(2 * 60 * 60), Duration::from_secs(20));

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// gRPC and HTTP, told apart by the first bytes.
    Client,
    /// gRPC alone: HTTP has a port of its own.
    Grpc,
    /// HTTP alone.
    Http,
    /// Metrics and health.
    Metrics,
}

/// Waits for the end of a connection, and hastens it when the process stops. The types of
/// connections have no trait in common that says so.
macro_rules! end {
    ($service:expr, $connection:expr) => {{
        let mut connection = pin!($connection);
        let mut phase: watch::Receiver<Phase> = $service.api.phase.clone();
        let is_over = tokio::select! {
            // How a connection ends is its client's affair.
            _ended = connection.as_mut() => true,
            _stopping = phase.wait_for(|phase| *phase == Phase::Stopping) => false,
        };
        if !is_over {
            connection.as_mut().graceful_shutdown();
            let _ended = connection.await;
        }
    }};
}

/// How connections are served; the same for all.
pub(crate) struct Service {
    pub(crate) api: Arc<Api>,
    pub(crate) access: Arc<Access>,
    builder: Builder<TokioExecutor>,
    ping_interval_min: Duration,
}

impl Service {
    pub(crate) fn new(api: Arc<Api>, config: &Config) -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HTTP1_BUFFER);
        let asked = (config.grpc_keepalive_interval, config.grpc_keepalive_timeout);
        let is_asked = !asked.0.is_zero() && !asked.1.is_zero();
        let (interval, timeout) = if is_asked { asked } else { KEEPALIVE };
        let mut http2 = builder.http2();
        http2
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(config.max_concurrent_streams)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(RESETS_LOCAL_MAX)
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout);
        let ping_interval_min = config.grpc_keepalive_min_time;
        Self { api, access: Arc::new(Access::of(config)), builder, ping_interval_min }
    }

    /// Serves a connection to its end.
    pub(crate) async fn serve(
        &self,
        stream: Stream,
        (peer, identity): (PeerAddress, Option<PeerIdentity>),
        port: Port,
    ) {
        let is_tls = identity.is_some();
        let sockets = Sockets::default();
        let caller = Caller { peer, sockets: sockets.clone() };
        let service = service_fn(|mut request| {
            if let Some(identity) = &identity {
                // Whoever authorizes a request finds there who makes it.
                request.extensions_mut().insert(identity.clone());
            }
            self.answer(request, &caller, port)
        });
        let builder = self.builder.clone();
        let watched = || Pings::new(self.ping_interval_min);
        let (builder, pings) = match port {
            Port::Client => (builder, watched()),
            Port::Grpc => (builder.http2_only(), watched()),
            // A handshake may have settled on HTTP/2, without gRPC.
            Port::Metrics if !is_tls => (builder.http1_only(), Pings::unwatched()),
            Port::Http | Port::Metrics => (builder, Pings::unwatched()),
        };
        let io = TokioIo::new(Guarded::new(stream, pings));
        match port {
            // The builder for both protocols would forget, for upgrades, that it is for one.
            Port::Http if !is_tls => {
                let mut http1 = http1::Builder::new();
                http1
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .max_buf_size(HTTP1_BUFFER);
                end!(self, http1.serve_connection(io, service).with_upgrades());
            }
            Port::Client | Port::Http => {
                end!(self, builder.serve_connection_with_upgrades(io, service));
            }
            Port::Grpc | Port::Metrics => end!(self, builder.serve_connection(io, service)),
        }
        sockets.end().await;
    }

    fn answer(
        &self,
        mut request: Request<Incoming>,
        caller: &Caller,
        port: Port,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static {
        let (api, access) = (Arc::clone(&self.api), Arc::clone(&self.access));
        let peer = caller.peer;
        if request.version() != Version::HTTP_2 {
            request.extensions_mut().insert(caller.clone());
        }
        async move {
            Ok(match port {
                Port::Metrics => plain::serve(api, access, Offer::Metrics, request).await,
                Port::Client | Port::Grpc if is_for_grpc(&request, port) => {
                    grpc::serve(api, peer, request).await
                }
                _ => plain::serve(api, access, Offer::Client, request).await,
            })
        }
    }
}

/// Whether gRPC answers. Without TLS it has all of HTTP/2; with it, browsers speak that, too.
fn is_for_grpc(request: &Request<Incoming>, port: Port) -> bool {
    if request.version() != Version::HTTP_2 {
        return false;
    }
    if port == Port::Grpc || request.extensions().get::<PeerIdentity>().is_none() {
        return true;
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.contains("application/grpc"))
}
