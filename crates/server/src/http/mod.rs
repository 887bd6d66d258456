//! Serves plain HTTP on the client, metrics and peer ports.
//!
//! The JSON gateway (`/v3/`) is behind the same checks, in `crate::gateway`.
//!
//! *Contract.* `server/etcdserver/api/etcdhttp` and `server/embed/serve.go` of etcd v3.7.1.

mod access;
mod answer;
mod forwarded;
#[cfg(test)]
mod fuzz;
mod health;
mod peer;
mod pprof;
mod query;
mod vars;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::Request;
use hyper::body::Incoming;

use crate::api::{Api, VERSION};
use crate::gateway;
use crate::grpc::Body;
use crate::metrics;
pub(crate) use access::Access;
pub(crate) use peer::serve as serve_peer;
pub(crate) use pprof::begin_heap_profile;
use query::Query;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const JSON_UTF8: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const METRICS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");

/// What is there on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Everything: `--listen-client-urls`, `--listen-client-http-urls`.
    Client,
    /// Metrics and health: `--listen-metrics-urls`.
    Metrics,
}

/// Answers one HTTP request of a client.
pub(crate) async fn serve(
    api: Arc<Api>,
    access: Arc<Access>,
    offer: Offer,
    request: Request<Incoming>,
) -> Response<Body> {
    if offer == Offer::Metrics {
        return route(&api, offer, &request).await;
    }
    // With TLS the certificate has said whose name this is.
    if request.extensions().get::<net::PeerIdentity>().is_none()
        && let Some(refusal) = access.refuse(request.headers(), request.uri())
    {
        return refusal;
    }
    let mut response = if request.method() == Method::OPTIONS {
        Response::new(Body::Empty)
    } else if let Some(target) = gateway::target(&api, request.uri()) {
        let headers = request.headers().clone();
        // Boxed, because every request waits in as much memory as the largest kind needs.
        let mut response = Box::pin(gateway::serve(&api, target, request)).await;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            access.allow(&headers, response.headers_mut());
        }
        return response;
    } else {
        route(&api, offer, &request).await
    };
    access.allow(request.headers(), response.headers_mut());
    response
}

async fn route(api: &Arc<Api>, offer: Offer, request: &Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    let get_only = request.method() != Method::GET;
    let query = Query::of(request.uri().query());
    match path {
        "/metrics" => show_metrics(api).await,
        "/health" if get_only => answer::method_not_allowed("GET"),
        "/health" => health::health(api, &query).await,
        _ if health::is_check(path) && get_only => answer::method_not_allowed("GET"),
        _ if health::is_check(path) => health::check(api, path, &query).await,
        "/version" | "/debug/vars" if offer == Offer::Metrics => answer::not_found(),
        "/version" | "/debug/vars" if get_only => answer::method_not_allowed("GET"),
        "/version" => version(api),
        "/debug/vars" => vars::variables(api).await,
        _ if api.options.profiles && offer == Offer::Client && pprof::is_profile(path) => {
            pprof::serve(request).await
        }
        _ => answer::not_found(),
    }
}

/// `/metrics`.
async fn show_metrics(api: &Arc<Api>) -> Response<Body> {
    let Some(text) = metrics::answer(api).await else {
        return answer::error(StatusCode::SERVICE_UNAVAILABLE, "the server stops");
    };
    let mut response = Response::new(Body::Text(text));
    response.headers_mut().insert(header::CONTENT_TYPE, METRICS);
    response
}

/// `/version` on the client port.
fn version(api: &Api) -> Response<Body> {
    answer::with_type(JSON, version_text(api))
}

/// The versions of server, cluster and data directory.
fn version_text(api: &Api) -> String {
    let cluster = api.store.cluster_version().unwrap_or_else(|| "not_decided".to_owned());
    let storage = api.store.storage_version().unwrap_or_else(|| "unknown".to_owned());
    format!(
        "{{\"etcdserver\":\"{VERSION}\",\"etcdcluster\":\"{cluster}\",\"storage\":\"{storage}\"}}"
    )
}

/// Whether a path is a probe that is answered; for those who write manifests.
#[cfg(test)]
pub(crate) fn is_probe(path: &str) -> bool {
    health::is_check(path)
}

/// A header's value as text; nothing when it is absent or no text.
fn header_text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
