//! What members ask of each other beside raft.
//!
//! *Contract.* `server/etcdserver/api/etcdhttp/peer.go` and `version.go`, and
//! `DowngradeEnabledHandler` of `server/etcdserver/server.go` of etcd v3.7.1.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use hyper::Request;
use hyper::body::Incoming;

use super::{JSON, answer, version_text};
use crate::api::Api;
use crate::grpc::Body;

pub(super) const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain");

/// What members of ours can do for each other beyond etcd; see the key `quorate` of `/version`.
const CAPABILITY: u64 = 1;

/// Answers one request on the peer port that is not raft's.
pub(crate) async fn serve(api: &Arc<Api>, request: Request<Incoming>) -> Response<Body> {
    let get_only = request.method() != Method::GET;
    match request.uri().path() {
        "/members" | "/version" | "/downgrade/enabled" if get_only => {
            answer::method_not_allowed("GET")
        }
        "/members" => signed(api, members(api)),
        "/version" => version(api),
        "/downgrade/enabled" => signed(api, downgrade_enabled(api).await),
        _ => super::forwarded::serve(api, request).await,
    }
}

/// Says whose answer it is.
pub(super) fn signed(api: &Api, mut response: Response<Body>) -> Response<Body> {
    // An id is printable.
    if let Ok(id) = HeaderValue::from_str(&api.member.cluster_id().to_string()) {
        response.headers_mut().insert(CLUSTER_ID, id);
    }
    response
}

fn members(api: &Api) -> Response<Body> {
    let members: Vec<_> = api.store.members().iter().map(store::Member::to_json).collect();
    answer::with_type(JSON, format!("[{}]\n", members.join(",")))
}

/// etcd ignores the key that it does not know; members of ours know each other by it.
fn version(api: &Api) -> Response<Body> {
    let text = version_text(api);
    let text = text.strip_suffix('}').unwrap_or(&text);
    answer::with_type(JSON, format!("{text},\"quorate\":{CAPABILITY}}}"))
}

async fn downgrade_enabled(api: &Api) -> Response<Body> {
    match api.read_index().await {
        Ok(()) => answer::with_type(PLAIN, api.store.downgrade().enabled.to_string()),
        Err(error) => {
            let text = format!("failed linearized read: {error}");
            answer::error(StatusCode::INTERNAL_SERVER_ERROR, &text)
        }
    }
}
