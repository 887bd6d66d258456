//! Questions to other members, against answers as etcd gives them.

use std::sync::Arc;
use std::time::Duration;

use base::{ClusterId, LeaseId, MemberId, Revision};
use net::Url;
use peer::client::{
    CallError, Client, ClientError, HashError, HashKv, LeaseError, Member, PromoteError,
};
use peer::limits;

use crate::dial::PlainDial;
use crate::raw::{Canned, answer};

const WITHIN: Duration = Duration::from_secs(5);

/// A client, and a member that answers this.
async fn asking(text: impl Into<Vec<u8>>) -> (Client, Url, Canned) {
    let canned = Canned::start(text).await;
    let client = Client::new(Arc::new(PlainDial), Duration::from_secs(1));
    let url = Url::parse(&canned.url()).expect("valid");
    (client, url, canned)
}

#[tokio::test]
async fn members() {
    let body = "[{\"id\":14287498043084791203,\"peerURLs\":[\"http://a:1\"],\"name\":\"m0\",\
                \"clientURLs\":[\"http://a:2\"]},{\"id\":7,\"peerURLs\":null,\"isLearner\":true}]\n";
    let headers = "X-Etcd-Cluster-Id: e71d93db51086437\r\n";
    let (client, url, _canned) = asking(answer("200 OK", headers, body)).await;
    let cluster = client.members(&url, WITHIN).await.expect("an answer");
    assert_eq!(cluster.id, ClusterId(0xe71d_93db_5108_6437));
    let member = |id, name: &str| Member {
        id: MemberId(id),
        peer_urls: Vec::new(),
        is_learner: false,
        name: name.to_owned(),
        client_urls: Vec::new(),
    };
    let first = Member {
        peer_urls: vec!["http://a:1".to_owned()],
        client_urls: vec!["http://a:2".to_owned()],
        ..member(14_287_498_043_084_791_203, "m0")
    };
    assert_eq!(cluster.members, [first, Member { is_learner: true, ..member(7, "") }]);

    let (client, url, _canned) = asking(answer("200 OK", "", body)).await;
    let error = client.members(&url, WITHIN).await.expect_err("no cluster");
    assert!(matches!(error, ClientError::Answer(_)), "{error}");
    let (client, url, _canned) = asking(answer("200 OK", headers, "[{\"id\":\"x\"}]")).await;
    assert!(client.members(&url, WITHIN).await.is_err());
}

#[tokio::test]
async fn versions() {
    let body = "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"not_decided\",\"storage\":\"unknown\"}";
    let (client, url, _canned) = asking(answer("200 OK", "", body)).await;
    let versions = client.version(&url, WITHIN).await.expect("an answer");
    assert_eq!(
        (&*versions.server, &*versions.cluster, &*versions.storage, versions.quorate),
        ("3.7.1", "not_decided", "unknown", 0)
    );
    // An older member has no storage, and ours have a number more.
    let body = "{\"etcdserver\":\"3.5.9\",\"etcdcluster\":\"3.5.0\",\"quorate\":1}";
    let (client, url, _canned) = asking(answer("200 OK", "", body)).await;
    let versions = client.version(&url, WITHIN).await.expect("an answer");
    assert_eq!((&*versions.storage, versions.quorate), ("", 1));
}

#[tokio::test]
async fn promotions() {
    for (status, body, expected) in [
        ("404 Not Found", "membership: ID not found\n", "membership: ID not found"),
        (
            "412 Precondition Failed",
            "membership: can only promote a learner member\n",
            "membership: can only promote a learner member",
        ),
        (
            "412 Precondition Failed",
            "etcdserver: can only promote a learner member which is in sync with leader\n",
            "etcdserver: can only promote a learner member which is in sync with leader",
        ),
        ("408 Request Timeout", "", "etcdserver: request timed out"),
        (
            "500 Internal Server Error",
            "{\"message\":\"Internal Server Error\"}",
            "member promote: unknown error: {\"message\":\"Internal Server Error\"}",
        ),
    ] {
        let (client, url, _canned) = asking(answer(status, "", body)).await;
        let error: PromoteError =
            client.promote(&url, MemberId(1), Some("token"), WITHIN).await.expect_err(status);
        assert_eq!(error.to_string(), expected);
    }
    let (client, url, _canned) = asking(answer("200 OK", "", "[{\"id\":1}]\n")).await;
    let members = client.promote(&url, MemberId(1), None, WITHIN).await.expect("promoted");
    assert_eq!(members[0].id, MemberId(1));
}

#[tokio::test]
async fn hashes() {
    let body = "{\"header\":{\"revision\":9},\"hash\":1084519789,\"compact_revision\":-1,\
                \"hash_revision\":8}";
    let (client, url, _canned) = asking(answer("200 OK", "", body)).await;
    let told = client.hashkv(&url, ClusterId(1), Revision(8), WITHIN).await.expect("an answer");
    let expected = HashKv {
        revision: Revision(9),
        hash: 1_084_519_789,
        compact_revision: Revision::NEVER,
        hash_revision: Revision(8),
    };
    assert_eq!(told, expected);
    for (status, body, expected) in [
        (
            "400 Bad Request",
            "mvcc: required revision has been compacted\n",
            "etcdserver: mvcc: required revision has been compacted",
        ),
        (
            "400 Bad Request",
            "mvcc: required revision is a future revision\n",
            "etcdserver: mvcc: required revision is a future revision",
        ),
        ("412 Precondition Failed", "cluster ID mismatch\n", "etcdserver: cluster ID mismatch"),
        ("400 Bad Request", "error reading body\n", "unknown error: error reading body"),
    ] {
        let (client, url, _canned) = asking(answer(status, "", body)).await;
        let asked = client.hashkv(&url, ClusterId(1), Revision(0), WITHIN).await;
        let error: HashError = asked.expect_err(body);
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn leases() {
    let renewed = "\x10\x07\x18\x3c";
    let (client, url, _canned) = asking(answer("200 OK", "", renewed)).await;
    assert_eq!(client.lease_renew(&url, LeaseId(7), WITHIN).await.expect("renewed"), 60);
    let error = client.lease_renew(&url, LeaseId(8), WITHIN).await.expect_err("another lease");
    assert_eq!(error.to_string(), "lease: failed to unmarshal response: renew id mismatch");

    let shown = "\x0a\x0b\x0a\x00\x10\x07\x18\x3b\x20\x3c\x2a\x01k";
    let (client, url, _canned) = asking(answer("200 OK", "", shown)).await;
    let lease = client.lease_ttl(&url, LeaseId(7), true, WITHIN).await.expect("shown");
    assert_eq!((lease.ttl, lease.granted_ttl, &lease.keys[0][..]), (59, 60, &b"k"[..]));

    for (status, body, expected) in [
        ("404 Not Found", "lease not found\n", "lease not found"),
        (
            "408 Request Timeout",
            "x",
            "waiting for node to catch up its applied index has timed out",
        ),
        ("400 Bad Request", "not a primary lessor\n", "lease: unknown error: not a primary lessor"),
    ] {
        let (client, url, _canned) = asking(answer(status, "", body)).await;
        let error: LeaseError =
            client.lease_renew(&url, LeaseId(7), WITHIN).await.expect_err(status);
        assert_eq!(error.to_string(), expected);
        let error = client.lease_ttl(&url, LeaseId(7), false, WITHIN).await.expect_err(status);
        assert_eq!(error.to_string(), expected);
    }
    // Groups in groups, which would take the decoder's stack.
    let (client, url, _canned) = asking(answer("200 OK", "", &"\x0b".repeat(100_000))).await;
    assert!(client.lease_renew(&url, LeaseId(7), WITHIN).await.is_err());
    assert!(client.lease_ttl(&url, LeaseId(7), false, WITHIN).await.is_err());
}

#[tokio::test]
async fn downgrades() {
    for (body, expected) in [("true", Some(true)), ("false", Some(false)), ("maybe", None)] {
        let (client, url, _canned) = asking(answer("200 OK", "", body)).await;
        assert_eq!(client.downgrade_enabled(&url, WITHIN).await.ok(), expected);
    }
    let (client, url, _canned) = asking(answer("500 X", "", "failed linearized read: x\n")).await;
    let error = client.downgrade_enabled(&url, WITHIN).await.expect_err("a refusal");
    assert_eq!(error.to_string(), "unknown error: failed linearized read: x");
}

#[tokio::test]
async fn every_question_ends() {
    // Nobody there.
    let client = Client::new(Arc::new(PlainDial), Duration::from_secs(1));
    let url = Url::parse("http://127.0.0.1:1").expect("valid");
    let error = client.version(&url, WITHIN).await.expect_err("nobody");
    assert!(error.to_string().starts_with("dial http://127.0.0.1:1: "), "{error}");
    // No answer.
    let (client, url, _canned) = asking("").await;
    let within = Duration::from_millis(50);
    let error = client.version(&url, within).await.expect_err("silence");
    assert!(matches!(error, ClientError::Call(CallError::Timeout(_))), "{error}");
    // No end of an answer.
    let long = limits::ANSWER_BYTES_MAX as usize + 1;
    let (client, url, _canned) = asking(answer("200 OK", "", &"x".repeat(long))).await;
    let error = client.version(&url, WITHIN).await.expect_err("too much");
    assert!(matches!(error, ClientError::Call(CallError::TooLong(_))), "{error}");
    // TLS is for another day.
    let url = Url::parse("https://127.0.0.1:1").expect("valid");
    let error = client.version(&url, WITHIN).await.expect_err("no TLS");
    assert!(error.to_string().contains("not configured"), "{error}");
}
