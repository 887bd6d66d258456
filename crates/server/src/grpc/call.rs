//! One call: who made it, what all calls are checked for, and its place in the metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::MemberId;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use net::PeerAddress;
use node::requests::Rejected;
use proto::Shaped;

use super::method::{Kind, Method};
use super::status::Status;
use super::wire::decode;
use super::{early, stats};
use crate::api::Api;

/// The numbers of codes Canceled and DeadlineExceeded.
const CANCELED: usize = 1;
const DEADLINE_EXCEEDED: usize = 4;

const CLIENT_API_VERSION: HeaderName = HeaderName::from_static("client-api-version");
const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");

/// A call under way. When it is dropped unfinished, its client is gone, or its time is over.
pub(crate) struct Call {
    pub(crate) api: Arc<Api>,
    pub(crate) method: Method,
    peer: PeerAddress,
    headers: HeaderMap,
    request_bytes: usize,
    is_counted: bool,
    is_heard_out: bool,
    pub(super) began: Instant,
}

impl Call {
    pub(super) fn new(
        api: Arc<Api>,
        method: Method,
        peer: PeerAddress,
        headers: HeaderMap,
    ) -> Self {
        Self {
            api,
            method,
            peer,
            headers,
            request_bytes: 0,
            is_counted: false,
            is_heard_out: false,
            began: Instant::now(),
        }
    }

    /// Decodes a unary request, and checks what is checked of every call.
    pub(super) fn open<M: Shaped>(&mut self, message: Bytes) -> Result<M, Status> {
        self.open_if(message, |_| false)
    }

    /// The same where some requests are for learners, too.
    pub(super) fn open_if<M: Shaped>(
        &mut self,
        message: Bytes,
        is_for_learners: impl FnOnce(&M) -> bool,
    ) -> Result<M, Status> {
        let request = decode(&message)?;
        self.check(is_for_learners(&request))?;
        Ok(request)
    }

    /// Checks what is checked of every call before it is looked at.
    pub(super) fn check(&mut self, is_for_learners: bool) -> Result<(), Status> {
        let metrics = &self.api.metrics;
        metrics.method(self.method).started.increment();
        self.is_counted = true;
        if self.request_bytes > 0 {
            metrics.method(self.method).received.increment();
        }
        if !is_for_learners && self.api.member.is_learner() {
            return Err(Rejected::NotSupportedForLearner.into());
        }
        let version = match self.headers.get(CLIENT_API_VERSION) {
            Some(version) => std::str::from_utf8(version.as_bytes())
                .map_err(|_| Rejected::InvalidClientApiVersion)?,
            None => "unknown",
        };
        metrics.client_request(self.method.info().kind != Kind::Unary, version);
        if self.wants_leader() && !self.has_leader() {
            return Err(Rejected::NoLeader.into());
        }
        Ok(())
    }

    /// Whether the client asks for an error instead of silence when there is no leader.
    pub(super) fn wants_leader(&self) -> bool {
        self.headers.get(HAS_LEADER).is_some_and(|value| value == "true")
    }

    fn has_leader(&self) -> bool {
        self.api.member.status().leader != MemberId::NONE
    }

    /// Notes a message of the client.
    pub(super) fn received(&mut self, bytes: usize) {
        self.request_bytes += bytes.max(1);
        self.api.metrics.received_bytes.add(bytes as u64);
        if self.is_counted {
            self.api.metrics.method(self.method).received.increment();
        }
    }

    /// Notes a message to the client.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_many(1, bytes);
    }

    /// Notes a refusal, which counts as a message to the client.
    pub(super) fn refused(&mut self) {
        if self.is_counted {
            self.api.metrics.method(self.method).sent.increment();
        }
    }

    /// Notes that nothing more comes in the stream, which counts as a message, once.
    pub(super) fn received_end(&mut self) {
        if !std::mem::replace(&mut self.is_heard_out, true) {
            self.api.metrics.method(self.method).received.increment();
        }
    }

    /// Notes that the last message of the stream was none: that is its end already, and counts as
    /// if the client had taken the call back, whatever it is told.
    pub(super) fn received_nonsense(&mut self) {
        self.is_heard_out = true;
        self.finish(CANCELED);
    }

    /// Notes several messages to the client.
    pub(super) fn sent_many(&mut self, count: u64, bytes: usize) {
        self.api.metrics.sent_bytes.add(bytes as u64);
        self.api.metrics.method(self.method).sent.add(count);
    }

    /// Notes the end by the number of its code.
    pub(super) fn finish(&mut self, code: usize) {
        if std::mem::take(&mut self.is_counted) {
            let took = self.api.options.are_calls_timed.then(|| self.began.elapsed());
            self.api.metrics.handled(self.method, code, took);
        }
    }

    /// The time that the client gives.
    fn timeout(&self) -> Option<Duration> {
        early::parse(self.headers.get(early::GRPC_TIMEOUT)?.as_bytes()).ok()
    }

    /// Who made it.
    pub(super) fn peer(&self) -> &PeerAddress {
        &self.peer
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        let took = self.began.elapsed();
        if self.method.info().kind == Kind::Unary {
            stats::tell_abandoned(self, took);
        }
        // Which of the two it is depends, in etcd too, on who is faster: the client that goes when
        // its time is over, or this member that looks at the same time.
        let is_late = self.timeout().is_some_and(|timeout| took >= timeout);
        self.finish(if is_late { DEADLINE_EXCEEDED } else { CANCELED });
    }
}
