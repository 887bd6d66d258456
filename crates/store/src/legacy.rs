//! Requests of the v2 API in the log of an etcd before 3.6.
//!
//! Such an etcd told its name and client URLs, and the version of its cluster, by writes to keys of
//! its own in the v2 store. etcd 3.7 has forgotten how to read them and panics where one is left to
//! be applied; here they mean what they meant, and a snapshot is made after them, so that the
//! directory can be given to 3.7 at once.
//!
//! *Absent.* Keys of users: a log with writes to them is refused, lest they be lost.
//!
//! *Contract.* `v2ToV3Request` in `server/etcdserver/apply_v2.go` of etcd v3.6.

use base::MemberId;
use bytes::Bytes;
use proto::etcdserverpb::{InternalRaftRequest, Request};
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use serde::Deserialize;

/// Tags of a request's first two fields, of which the second is in no request of v3.
const ID: u8 = 1 << 3;
const METHOD: u8 = (2 << 3) | 2;

/// The longest number in protobuf.
const VARINT_BYTES_MAX: usize = 10;

const VERSION_PATH: &str = "/0/version";

/// What the v2 store had of a member.
#[derive(Default, Deserialize)]
#[serde(default)]
struct MemberAttributes {
    name: String,
    #[serde(rename = "clientURLs")]
    client_urls: Option<Vec<String>>,
}

/// The request of v3 that says the same as such an entry; `None` for all others.
pub(crate) fn translated(data: &Bytes) -> Option<Result<InternalRaftRequest, String>> {
    is_legacy(data).then(|| translate(data.clone()))
}

fn is_legacy(data: &[u8]) -> bool {
    let mut rest = data;
    if let Some(number) = rest.strip_prefix(&[ID]) {
        let Some(end) = number.iter().take(VARINT_BYTES_MAX).position(|byte| byte & 0x80 == 0)
        else {
            return false;
        };
        rest = &number[end + 1..];
    }
    rest.first() == Some(&METHOD)
}

/// Its ID alone, where nothing is to be done. The error is a line for the operator.
fn translate(data: Bytes) -> Result<InternalRaftRequest, String> {
    let request: Request =
        proto::decode(data).map_err(|error| format!("not a request of the v2 API: {error}"))?;
    let (method, path) = (request.method(), request.path());
    let mut same = InternalRaftRequest { id: request.id(), ..Default::default() };
    match method {
        "PUT" if path == VERSION_PATH => {
            let ver = request.val().to_owned();
            same.cluster_version_set = Some(ClusterVersionSetRequest { ver });
        }
        "PUT" if member_of(path).is_some() => {
            let said: MemberAttributes = serde_json::from_str(request.val())
                .map_err(|error| format!("attributes in {path}: {error}"))?;
            same.cluster_member_attr_set = Some(ClusterMemberAttrSetRequest {
                member_id: member_of(path).unwrap_or(MemberId::NONE).0,
                member_attributes: Some(Attributes {
                    name: said.name,
                    client_urls: said.client_urls.unwrap_or_default(),
                }),
            });
        }
        // Leaders had keys expire; reads were put into the log.
        "SYNC" | "GET" | "QGET" => {}
        _ => {
            return Err(format!(
                "{} {path:?} by the v2 API, whose keys cannot be served: remove them with \
                 the etcd that wrote them, or keep that etcd",
                method.escape_debug()
            ));
        }
    }
    Ok(same)
}

/// The member that `/0/members/ID/attributes` is about.
fn member_of(path: &str) -> Option<MemberId> {
    let id = path.strip_prefix("/0/members/")?.strip_suffix("/attributes")?;
    u64::from_str_radix(id, 16).ok().map(MemberId)
}

#[cfg(test)]
mod tests {
    use super::{is_legacy, translate};
    use prost::Message as _;
    use proto::etcdserverpb::{InternalRaftRequest, PutRequest, Request, RequestHeader};

    fn request(method: &str, path: &str, val: &str) -> Vec<u8> {
        let request = Request {
            id: Some(u64::MAX),
            method: Some(method.to_owned()),
            path: Some(path.to_owned()),
            val: Some(val.to_owned()),
        };
        request.encode_to_vec()
    }

    #[test]
    fn requests_of_v2_and_v3_are_told_apart() {
        assert!(is_legacy(&request("PUT", "/0/version", "3.5.0")));
        let header = Some(RequestHeader { id: 7, ..Default::default() });
        let put = Some(PutRequest { key: "k".into(), ..Default::default() });
        for id in [0, 1, u64::MAX] {
            let request = InternalRaftRequest {
                id,
                header: header.clone(),
                put: put.clone(),
                ..Default::default()
            };
            assert!(!is_legacy(&request.encode_to_vec()));
        }
        for data in
            [&b""[..], b"\x08", b"\x08\xff", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert!(!is_legacy(data), "{data:?}");
        }
    }

    #[test]
    fn members_and_versions_are_translated_and_keys_of_users_refused() {
        let same = |method, path, val| translate(request(method, path, val).into());
        let told = same(
            "PUT",
            "/0/members/8e9e05c52164694d/attributes",
            r#"{"name":"m1","clientURLs":["http://a"]}"#,
        )
        .unwrap();
        let attributes = told.cluster_member_attr_set.unwrap();
        assert_eq!(attributes.member_id, 0x8e9e_05c5_2164_694d);
        assert_eq!(attributes.member_attributes.unwrap().client_urls, ["http://a"]);
        let told = same("PUT", "/0/version", "3.5.0").unwrap();
        assert_eq!(told.cluster_version_set.unwrap().ver, "3.5.0");
        assert_eq!(same("SYNC", "", "").unwrap().id, u64::MAX);
        for (method, path) in
            [("PUT", "/1/mine"), ("DELETE", "/0/members/1"), ("PUT", "/0/members/x/attributes")]
        {
            assert!(same(method, path, "{}").unwrap_err().contains(path));
        }
        let line = same("PU\nT", "/1/a\nb", "").unwrap_err();
        assert!(line.starts_with(r#"PU\nT "/1/a\nb" by the v2 API"#), "{line}");
    }
}
