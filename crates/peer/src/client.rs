//! Asks other members what is not said by raft: members, versions, hashes, leases.
//!
//! *Invariants.* Every request ends within the time it is given, and takes no more than its bound
//! in memory. Redirects are not followed.
//!
//! *Absent.* Which address to ask, how often again, and what to log: that is for who asks.
//!
//! *Contract.* `cluster_util.go`, `corrupt.go` in `server/etcdserver` and
//! `server/lease/leasehttp/http.go` of etcd v3.7.1.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base::{ClusterId, LeaseId, MemberId, Revision};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use net::Url;
use prost::Message as _;
use proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

pub use crate::call::CallError;
use crate::call::{Answer, Call, Caller, OutBody};
use crate::codec;
use crate::dial::Dial;
use crate::limits;
use crate::local::{CLUSTER_ID, parse_id};

/// How long a joining member waits for the list of members (etcd: `GetClusterFromRemotePeers`).
pub const MEMBERS_TIMEOUT: Duration = Duration::from_secs(10);

/// A member did not give what was asked for.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There was no answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It refused; its text.
    #[error("unknown error: {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The body, without a newline at its end.
        text: String,
    },
    /// Its answer cannot be read.
    #[error("failed to unmarshal response: {0}")]
    Answer(String),
}

/// A learner was not promoted.
#[derive(Debug, Error)]
pub enum PromoteError {
    /// No such member (etcd: `ErrIDNotFound`).
    #[error("membership: ID not found")]
    NotFound,
    /// It has a vote already (etcd: `ErrMemberNotLearner`).
    #[error("membership: can only promote a learner member")]
    NotLearner,
    /// It lags (etcd: `ErrLearnerNotReady`).
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    NotReady,
    /// The other member waited too long.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// Anything else.
    #[error("member promote: {0}")]
    Other(ClientError),
}

/// A member has no hash of a revision.
#[derive(Debug, Error)]
pub enum HashError {
    /// The revision is compacted there.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// The revision is not there yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    Future,
    /// The member is of another cluster.
    #[error("etcdserver: cluster ID mismatch")]
    ClusterMismatch,
    /// Anything else.
    #[error(transparent)]
    Other(#[from] ClientError),
}

/// A lease was not renewed or shown.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// There is no such lease.
    #[error("lease not found")]
    NotFound,
    /// The leader has not applied its own log in time.
    #[error("waiting for node to catch up its applied index has timed out")]
    Behind,
    /// Anything else; also that the member is no leader.
    #[error("lease: {0}")]
    Other(ClientError),
}

/// A member as `/members` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Never changes.
    #[serde(deserialize_with = "member_id")]
    pub id: MemberId,
    /// Where other members reach it.
    #[serde(rename = "peerURLs", default, deserialize_with = "or_default")]
    pub peer_urls: Vec<String>,
    /// It has no vote.
    #[serde(rename = "isLearner", default, deserialize_with = "or_default")]
    pub is_learner: bool,
    /// Empty until it has started.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Where clients reach it.
    #[serde(rename = "clientURLs", default, deserialize_with = "or_default")]
    pub client_urls: Vec<String>,
}

/// A cluster as one of its members knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Its members.
    pub members: Vec<Member>,
}

/// What `/version` says. Texts, because they may be no versions: `not_decided`, `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Versions {
    /// Of the program.
    #[serde(rename = "etcdserver", default, deserialize_with = "or_default")]
    pub server: String,
    /// Of the cluster.
    #[serde(rename = "etcdcluster", default, deserialize_with = "or_default")]
    pub cluster: String,
    /// Of the data directory; empty in a member before 3.6.
    #[serde(default, deserialize_with = "or_default")]
    pub storage: String,
    /// What a member of ours can do beyond etcd; 0 in any other.
    #[serde(default, deserialize_with = "or_default")]
    pub quorate: u64,
}

/// A hash of the key space (`HashKVResponse`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    /// The newest revision of the member.
    pub revision: Revision,
    /// The hash.
    pub hash: u32,
    /// What was compacted when it was taken.
    pub compact_revision: Revision,
    /// The revision it is of.
    pub hash_revision: Revision,
}

/// Asks other members. Cheap to clone.
#[derive(Clone)]
pub struct Client(Caller);

impl Client {
    /// Asks over connections of `dial`, each opened within `dial_timeout`.
    pub fn new(dial: Arc<dyn Dial>, dial_timeout: Duration) -> Self {
        Self(Caller { dial, dial_timeout })
    }

    pub(crate) fn of(caller: Caller) -> Self {
        Self(caller)
    }

    /// `GET /members`: the cluster as that member knows it.
    pub async fn members(&self, url: &Url, within: Duration) -> Result<Cluster, ClientError> {
        let call = Call::get("/members");
        let answer = succeed(self.0.ask(url, call, limits::ANSWER_BYTES_MAX, within).await?)?;
        let members = json(&answer.body)?;
        let id = answer.header(CLUSTER_ID.as_str()).and_then(parse_id);
        let id = id.ok_or_else(|| ClientError::Answer("no cluster ID".to_owned()))?;
        Ok(Cluster { id: ClusterId(id), members })
    }

    /// `GET /version`.
    pub async fn version(&self, url: &Url, within: Duration) -> Result<Versions, ClientError> {
        let call = Call::get("/version");
        let answer = succeed(self.0.ask(url, call, limits::ANSWER_BYTES_MAX, within).await?)?;
        json(&answer.body)
    }

    /// `POST /members/promote/ID` to the leader, in the name of whoever has `token`.
    pub async fn promote(
        &self,
        url: &Url,
        id: MemberId,
        token: Option<&str>,
        within: Duration,
    ) -> Result<Vec<Member>, PromoteError> {
        let path = format!("/members/promote/{}", id.get());
        let mut call = Call::new(Method::POST, path, None, OutBody::of(Bytes::new()));
        if let Some(token) = token {
            call = call.header(header::AUTHORIZATION, token);
        }
        let asked = self.0.ask(url, call, limits::ANSWER_BYTES_MAX, within).await;
        let answer = asked.map_err(|error| PromoteError::Other(error.into()))?;
        let text = answer.text();
        match StatusCode::from_u16(answer.status) {
            Ok(StatusCode::REQUEST_TIMEOUT) => return Err(PromoteError::Timeout),
            Ok(StatusCode::NOT_FOUND) => return Err(PromoteError::NotFound),
            Ok(StatusCode::PRECONDITION_FAILED) if text.contains("in sync with leader") => {
                return Err(PromoteError::NotReady);
            }
            Ok(StatusCode::PRECONDITION_FAILED) if text.contains("only promote a learner") => {
                return Err(PromoteError::NotLearner);
            }
            _ => {}
        }
        let answer = succeed(answer).map_err(PromoteError::Other)?;
        json(&answer.body).map_err(PromoteError::Other)
    }

    /// `GET /members/hashkv`: the hash of a revision, of the newest one for 0.
    pub async fn hashkv(
        &self,
        url: &Url,
        cluster: ClusterId,
        revision: Revision,
        within: Duration,
    ) -> Result<HashKv, HashError> {
        // A field that is zero is left out, as Go does.
        let body = match revision.get() {
            0 => "{}".to_owned(),
            revision => format!("{{\"revision\":{revision}}}"),
        };
        let kind = Some("application/json");
        let call = Call::new(Method::GET, "/members/hashkv", kind, OutBody::of(body.into()))
            .header(CLUSTER_ID, &cluster.to_string());
        let asked = self.0.ask(url, call, limits::ANSWER_BYTES_MAX, within).await;
        let answer = asked.map_err(ClientError::from)?;
        let text = answer.text();
        match answer.status {
            400 if text.contains("required revision has been compacted") => {
                return Err(HashError::Compacted);
            }
            400 if text.contains("required revision is a future revision") => {
                return Err(HashError::Future);
            }
            412 if text.contains("cluster ID mismatch") => return Err(HashError::ClusterMismatch),
            _ => {}
        }
        Ok(read_hash(&succeed(answer)?.body)?)
    }

    /// `POST /leases` to the leader: renews a lease and says what it has, in seconds.
    pub async fn lease_renew(
        &self,
        url: &Url,
        id: LeaseId,
        within: Duration,
    ) -> Result<i64, LeaseError> {
        let request = LeaseKeepAliveRequest { id: id.get() }.encode_to_vec();
        let body = self.lease(url, "/leases", request, within).await?;
        read_renewal(body, id)
    }

    /// `POST /leases/internal` to the leader: what a lease has left, and its keys.
    pub async fn lease_ttl(
        &self,
        url: &Url,
        id: LeaseId,
        keys: bool,
        within: Duration,
    ) -> Result<LeaseTimeToLiveResponse, LeaseError> {
        let request = LeaseTimeToLiveRequest { id: id.get(), keys };
        let request = LeaseInternalRequest { lease_time_to_live_request: Some(request) };
        let body = self.lease(url, "/leases/internal", request.encode_to_vec(), within).await?;
        read_time_to_live(body, id)
    }

    async fn lease(
        &self,
        url: &Url,
        path: &str,
        request: Vec<u8>,
        within: Duration,
    ) -> Result<Bytes, LeaseError> {
        let call = Call::post(path, "application/protobuf", OutBody::of(request.into()));
        let asked = self.0.ask(url, call, limits::LEASE_ANSWER_BYTES_MAX, within).await;
        let answer = asked.map_err(|error| LeaseError::Other(error.into()))?;
        match answer.status {
            404 => Err(LeaseError::NotFound),
            408 => Err(LeaseError::Behind),
            _ => Ok(succeed(answer).map_err(LeaseError::Other)?.body),
        }
    }

    /// `GET /downgrade/enabled`: whether the cluster is being downgraded. The other member answers
    /// after a linearizable read.
    pub async fn downgrade_enabled(
        &self,
        url: &Url,
        within: Duration,
    ) -> Result<bool, ClientError> {
        let call = Call::get("/downgrade/enabled");
        let answer = succeed(self.0.ask(url, call, limits::ANSWER_BYTES_MAX, within).await?)?;
        match answer.text().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            text => Err(ClientError::Answer(format!("neither true nor false: {text:?}"))),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HashAnswer {
    header: HashHeader,
    hash: u32,
    compact_revision: i64,
    hash_revision: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HashHeader {
    revision: i64,
}

fn succeed(answer: Answer) -> Result<Answer, ClientError> {
    match answer.status {
        200 => Ok(answer),
        status => Err(ClientError::Refused { status, text: answer.text() }),
    }
}

/// The answer to `hashkv`.
pub(crate) fn read_hash(body: &[u8]) -> Result<HashKv, ClientError> {
    let told: HashAnswer = json(body)?;
    Ok(HashKv {
        revision: Revision(told.header.revision),
        hash: told.hash,
        compact_revision: Revision(told.compact_revision),
        hash_revision: Revision(told.hash_revision),
    })
}

/// The answer to the renewal of a lease: its seconds.
pub(crate) fn read_renewal(body: Bytes, id: LeaseId) -> Result<i64, LeaseError> {
    codec::check_renewal(&body).map_err(unreadable)?;
    let answer = LeaseKeepAliveResponse::decode(body).map_err(unreadable)?;
    if answer.id == id.get() { Ok(answer.ttl) } else { Err(unreadable("renew id mismatch")) }
}

/// The answer to what a lease has left.
pub(crate) fn read_time_to_live(
    body: Bytes,
    id: LeaseId,
) -> Result<LeaseTimeToLiveResponse, LeaseError> {
    codec::check_lease(&body).map_err(unreadable)?;
    let answer = LeaseInternalResponse::decode(body).map_err(unreadable)?;
    let answer = answer.lease_time_to_live_response.filter(|answer| answer.id == id.get());
    answer.ok_or_else(|| unreadable("TTL id mismatch"))
}

/// The answers that are JSON.
pub(crate) fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Answer(error.to_string()))
}

fn unreadable(why: impl fmt::Display) -> LeaseError {
    LeaseError::Other(ClientError::Answer(why.to_string()))
}

fn member_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MemberId, D::Error> {
    u64::deserialize(deserializer).map(MemberId)
}

/// Go takes `null` for a value that is zero.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
