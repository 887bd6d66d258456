//! What other members ask of a leader, and hashes: the rest of the peer port.
//!
//! *Contract.* `server/lease/leasehttp/http.go`, `server/etcdserver/corrupt.go`,
//! `server/etcdserver/api/etcdhttp/peer.go` of etcd v3.7.1: every code and text.

use std::sync::Arc;

use base::{LeaseId, MemberId, Revision};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use node::requests::Rejected;
use node::requests::lease;
use proto::etcdserverpb::{LeaseKeepAliveRequest, ResponseHeader};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};

use super::peer::{CLUSTER_ID, signed};
use super::{JSON, answer};
use crate::api::Api;
use crate::cluster::leases::{self, Renewed};
use crate::cluster::{members, wait_applied};
use crate::grpc::Body;
use crate::log;

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/protobuf");

/// Bytes of a question of another member.
const QUESTION_BYTES_MAX: usize = 64 * 1024;

const PROMOTE: &str = "/members/promote/";

type Answer = Response<Body>;

/// Answers one request of another member that [`super::peer`] does not know.
pub(super) async fn serve(api: &Arc<Api>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/leases" | "/leases/internal" if head.method != Method::POST => {
            answer::error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        }
        path @ ("/leases" | "/leases/internal") => match read(body).await {
            Err(refusal) => refusal,
            Ok(question) if path == "/leases" => renew(api, question).await,
            Ok(question) => time_to_live(api, question).await,
        },
        "/members/hashkv" if head.method != Method::GET => answer::method_not_allowed("GET"),
        "/members/hashkv" => match head.headers.get(CLUSTER_ID) {
            Some(id) if *id != *api.member.cluster_id().to_string() && !id.is_empty() => {
                answer::error(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch")
            }
            _ => match read(body).await {
                Err(_) => answer::error(StatusCode::BAD_REQUEST, "error reading body"),
                Ok(question) => hash_kv(api, &question).await,
            },
        },
        path if !path.starts_with(PROMOTE) => answer::not_found(),
        _ if head.method != Method::POST => answer::method_not_allowed("POST"),
        path => signed(api, promote(api, path).await),
    }
}

async fn read(body: Incoming) -> Result<Bytes, Answer> {
    match Limited::new(body, QUESTION_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(answer::error(StatusCode::PAYLOAD_TOO_LARGE, "request body too large"))
        }
        Err(_) => Err(answer::error(StatusCode::BAD_REQUEST, "error reading body")),
    }
}

fn unreadable() -> Answer {
    answer::error(StatusCode::BAD_REQUEST, "error unmarshalling request")
}

/// Waits for what is committed to be applied, or answers that it takes too long.
async fn catch_up(api: &Api) -> Result<(), Answer> {
    let text = "waiting for node to catch up its applied index has timed out";
    wait_applied(api).await.map_err(|_| answer::error(StatusCode::REQUEST_TIMEOUT, text))
}

fn protobuf(message: &impl prost::Message) -> Answer {
    let mut response = Response::new(Body::Plain(message.encode_to_vec().into()));
    response.headers_mut().insert(header::CONTENT_TYPE, PROTOBUF);
    response
}

fn no_lease() -> Answer {
    answer::error(StatusCode::NOT_FOUND, "lease not found")
}

async fn renew(api: &Api, question: Bytes) -> Answer {
    let Ok(question) = proto::decode::<LeaseKeepAliveRequest>(question) else {
        return unreadable();
    };
    if let Err(late) = catch_up(api).await {
        return late;
    }
    let id = LeaseId(question.id);
    match leases::renew_here(api, id).await {
        Ok(Renewed::Seconds(0)) => no_lease(),
        Ok(Renewed::Seconds(seconds)) => protobuf(&lease::kept_alive(id, seconds)),
        Ok(Renewed::NotPrimary) => {
            answer::error(StatusCode::BAD_REQUEST, &Rejected::NotPrimaryLessor.to_string())
        }
        Err(error) => answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn time_to_live(api: &Api, question: Bytes) -> Answer {
    let Ok(question) = proto::decode::<LeaseInternalRequest>(question) else { return unreadable() };
    let question = question.lease_time_to_live_request.unwrap_or_default();
    if let Err(late) = catch_up(api).await {
        return late;
    }
    match lease::time_to_live(api.store.lessor(), &question, api.now()) {
        Ok(told) if told.ttl == lease::NO_LEASE_TTL && told.granted_ttl == 0 => no_lease(),
        Ok(mut told) => {
            told.header = Some(ResponseHeader::default());
            protobuf(&LeaseInternalResponse { lease_time_to_live_response: Some(told) })
        }
        Err(_) => answer::error(
            StatusCode::INTERNAL_SERVER_ERROR,
            &Rejected::NotPrimaryLessor.to_string(),
        ),
    }
}

/// Reads `{"revision": N}` as Go does: what is absent or `null` is 0, other fields do not count.
pub(super) fn read_revision(question: &[u8]) -> Option<Revision> {
    let question: serde_json::Value = serde_json::from_slice(question).ok()?;
    let fields = match question {
        serde_json::Value::Null => return Some(Revision(0)),
        serde_json::Value::Object(fields) => fields,
        _ => return None,
    };
    let named = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("revision"));
    match named.map(|(_, value)| value) {
        None | Some(serde_json::Value::Null) => Some(Revision(0)),
        Some(value) => value.as_i64().map(Revision),
    }
}

async fn hash_kv(api: &Arc<Api>, question: &[u8]) -> Answer {
    let Some(at) = read_revision(question) else { return unreadable() };
    let (hash, revision) = match crate::trust::hash(api, at).await {
        Ok(hashed) => hashed,
        Err(refused) => {
            log::warn("failed to get hashKV")
                .field("requested-revision", &at.get())
                .text("error", &refused)
                .emit();
            let text = refused.to_string();
            let text = text.strip_prefix("etcdserver: ").unwrap_or(&text);
            return answer::error(StatusCode::BAD_REQUEST, text);
        }
    };
    // Go leaves out what is zero.
    let mut json = format!(r#"{{"header":{{"revision":{revision}}}"#);
    for (name, number) in [
        ("hash", i64::from(hash.hash)),
        ("compact_revision", hash.compact_revision.get()),
        ("hash_revision", hash.hash_revision.get()),
    ] {
        if number != 0 {
            json.push_str(&format!(r#","{name}":{number}"#));
        }
    }
    json.push('}');
    signed(api, answer::with_type(JSON, json))
}

async fn promote(api: &Api, path: &str) -> Answer {
    let id = path.strip_prefix(PROMOTE).unwrap_or_default();
    // Go reads digits alone.
    let number = id.parse::<u64>().ok().filter(|_| !id.starts_with('+'));
    let Some(id) = number.map(MemberId) else {
        let text = format!("member {id} not found in cluster");
        return answer::error(StatusCode::NOT_FOUND, &text);
    };
    let members = match members::promote(api, id).await {
        Ok(members) => members,
        Err(error) => {
            log::warn("failed to promote a member")
                .text("member-id", &id)
                .text("error", &error)
                .emit();
            return refused_promotion(&error);
        }
    };
    let members: Vec<_> = members.iter().map(store::Member::to_json).collect();
    answer::with_type(JSON, format!("[{}]\n", members.join(",")))
}

/// The other member tells these refusals apart by their texts.
fn refused_promotion(error: &Rejected) -> Answer {
    let text = members::told_to_members(error);
    match error {
        Rejected::MemberNotFound => answer::error(StatusCode::NOT_FOUND, &text),
        Rejected::MemberNotLearner | Rejected::LearnerNotReady => {
            answer::error(StatusCode::PRECONDITION_FAILED, &text)
        }
        _ => {
            let text = r#"{"message":"Internal Server Error"}"#.to_owned();
            let mut response = answer::with_type(JSON, text);
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_read_as_go_reads_them() {
        for (text, read) in [
            ("{}", Some(0)),
            ("null", Some(0)),
            (r#"{"revision":7}"#, Some(7)),
            (r#"{"Revision":-7,"other":[]}"#, Some(-7)),
            (r#"{"revision":null}"#, Some(0)),
            (r#"{"revision":"7"}"#, None),
            (r#"{"revision":1.5}"#, None),
            ("[]", None),
            ("7", None),
            ("", None),
        ] {
            assert_eq!(read_revision(text.as_bytes()).map(Revision::get), read, "{text}");
        }
    }
}
