//! What the peer port says before members speak to each other.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Method, Response};
use hyper::Request;
use hyper::body::Incoming;

use super::{JSON, answer, version};
use crate::api::Api;
use crate::grpc::Body;
use crate::log;

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// Answers one request on the peer port.
pub(crate) async fn serve(api: Arc<Api>, request: Request<Incoming>) -> Response<Body> {
    let get_only = request.method() != Method::GET;
    match request.uri().path() {
        "/members" | "/version" if get_only => answer::method_not_allowed("GET"),
        "/members" => members(&api),
        "/version" => version(&api),
        "/raft/probing" => {
            let now = log::timestamp(SystemTime::now());
            answer::with_type(answer::PLAIN, format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n"))
        }
        _ => answer::not_found(),
    }
}

fn members(api: &Api) -> Response<Body> {
    let members: Vec<_> = api.store.members().iter().map(store::Member::to_json).collect();
    let mut response = answer::with_type(JSON, format!("[{}]\n", members.join(",")));
    // An id is printable.
    if let Ok(id) = HeaderValue::from_str(&api.member.cluster_id().to_string()) {
        response.headers_mut().insert(CLUSTER_ID, id);
    }
    response
}
