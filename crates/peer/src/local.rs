//! Who this member is, and the headers by which members know each other.
//!
//! *Contract.* `checkClusterCompatibilityFromHeader` in
//! `server/etcdserver/api/rafthttp/http.go` of etcd v3.7.1.

use base::{ClusterId, MemberId};
use http::{HeaderMap, HeaderName, HeaderValue};
use net::Url;

use crate::call::Call;
use crate::event::Event;
use crate::version::{Version, are_compatible};

pub(crate) const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
pub(crate) const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub(crate) const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
pub(crate) const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
pub(crate) const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");
pub(crate) const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");

pub(crate) const INCOMPATIBLE_VERSION: &str = "incompatible version";
pub(crate) const CLUSTER_MISMATCH: &str = "cluster ID mismatch";

/// This member.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(crate) id: MemberId,
    pub(crate) cluster: ClusterId,
    pub(crate) version: Version,
    pub(crate) min_cluster_version: Version,
    /// Where others reach it, joined by commas.
    pub(crate) urls: String,
}

impl Local {
    pub(crate) fn new(
        id: MemberId,
        cluster: ClusterId,
        versions: (Version, Version),
        urls: &[Url],
    ) -> Self {
        let urls = urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",");
        let (version, min_cluster_version) = versions;
        Self { id, cluster, version, min_cluster_version, urls }
    }

    /// Says who asks.
    pub(crate) fn sign(&self, call: Call) -> Call {
        let call = call
            .header(SERVER_FROM, &self.id.to_string())
            .header(SERVER_VERSION, &self.version.to_string())
            .header(MIN_CLUSTER_VERSION, &self.min_cluster_version.to_string())
            .header(CLUSTER_ID, &self.cluster.to_string());
        if self.urls.is_empty() { call } else { call.header(PEER_URLS, &self.urls) }
    }

    /// Fails, with etcd's text and a line for the log, unless whoever sent these headers may speak
    /// with this member.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Box<(&'static str, Event)>> {
        let version = Version::of_header(text(headers, &SERVER_VERSION));
        let oldest = Version::of_header(text(headers, &MIN_CLUSTER_VERSION));
        let describe = |what| {
            Event::warn(what)
                .text("local-member-id", self.id)
                .text("local-member-cluster-id", self.cluster)
                .text("local-member-server-version", self.version)
                .text("local-member-server-minimum-cluster-version", self.min_cluster_version)
                .text("remote-peer-server-name", text(headers, &SERVER_FROM).unwrap_or_default())
                .text(
                    "remote-peer-server-version",
                    text(headers, &SERVER_VERSION).unwrap_or_default(),
                )
                .text(
                    "remote-peer-server-minimum-cluster-version",
                    text(headers, &MIN_CLUSTER_VERSION).unwrap_or_default(),
                )
        };
        let local = (self.version, self.min_cluster_version);
        // Real members drop the connection for a version that is none; we say why.
        let is_compatible = version.zip(oldest).is_some_and(|remote| are_compatible(local, remote));
        if !is_compatible {
            let event = describe("failed version compatibility check")
                .text("error", self.incompatibility(version, text(headers, &SERVER_FROM)));
            return Err(Box::new((INCOMPATIBLE_VERSION, event)));
        }
        let cluster = text(headers, &CLUSTER_ID).unwrap_or_default();
        if cluster != self.cluster.to_string() {
            let event =
                describe("request cluster ID mismatch").text("remote-peer-cluster-id", cluster);
            return Err(Box::new((CLUSTER_MISMATCH, event)));
        }
        Ok(())
    }

    fn incompatibility(&self, version: Option<Version>, name: Option<&str>) -> String {
        let name = name.unwrap_or_default();
        let Some(remote) = version else {
            return format!("remote version is not in dotted-tri format: remote[{name}]");
        };
        let low = if remote.is_older_than(self.min_cluster_version) { "remote" } else { "local" };
        format!("{low} version is too low: remote[{name}]={remote}, local={}", self.version)
    }
}

/// A header's value, if it is text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A header with a text that is ours.
pub(crate) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// Reads an id as Go's `strconv.ParseUint(text, 16, 64)` does.
pub(crate) fn parse_id(text: &str) -> Option<u64> {
    let is_hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Local {
        let versions = (Version::ETCD, Version::MIN_CLUSTER);
        let urls = [Url::parse("http://127.0.0.1:1").expect("valid")];
        Local::new(MemberId(0xa1), ClusterId(0xc1), versions, &urls)
    }

    fn check(headers: &[(&HeaderName, &str)]) -> Result<(), &'static str> {
        let headers = headers
            .iter()
            .map(|(name, text)| ((*name).clone(), value(text)))
            .collect::<HeaderMap>();
        local().check(&headers).map_err(|refusal| refusal.0)
    }

    #[test]
    fn who_may_speak() {
        let cluster = (&CLUSTER_ID, "c1");
        let versions = [(&SERVER_VERSION, "3.7.1"), (&MIN_CLUSTER_VERSION, "3.0.0")];
        assert_eq!(check(&[versions[0], versions[1], cluster]), Ok(()));
        let newer = [(&SERVER_VERSION, "3.9.0"), (&MIN_CLUSTER_VERSION, "3.8.0"), cluster];
        assert_eq!(check(&newer), Err(INCOMPATIBLE_VERSION));
        // Members of 2.0 had no such headers.
        assert_eq!(check(&[cluster]), Err(INCOMPATIBLE_VERSION));
        assert_eq!(check(&[(&SERVER_VERSION, "nonsense"), cluster]), Err(INCOMPATIBLE_VERSION));
        // The version comes first.
        assert_eq!(check(&[(&CLUSTER_ID, "c2")]), Err(INCOMPATIBLE_VERSION));
        let other = (&CLUSTER_ID, "0c1");
        assert_eq!(check(&[versions[0], versions[1], other]), Err(CLUSTER_MISMATCH));
        assert_eq!(check(&versions), Err(CLUSTER_MISMATCH));
    }

    #[test]
    fn what_we_say_of_ourselves_passes() {
        let call = local().sign(Call::get("/"));
        assert_eq!(local().check(&call.headers).map_err(|refusal| refusal.0), Ok(()));
        assert_eq!(text(&call.headers, &PEER_URLS), Some("http://127.0.0.1:1"));
        assert_eq!(text(&call.headers, &SERVER_FROM), Some("a1"));
    }

    #[test]
    fn ids() {
        assert_eq!(parse_id("dfe2fcca6869183"), Some(0xdfe_2fcc_a686_9183));
        assert_eq!(parse_id("00FF"), Some(255));
        assert_eq!(parse_id(""), None);
        assert_eq!(parse_id("+1"), None);
        assert_eq!(parse_id("11111111111111111"), None);
    }
}
