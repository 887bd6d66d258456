//! Asks the etcd that serves as discovery service: connects to one of its members, logs in where a
//! user is given, and asks the next member after a failure.
//!
//! *Invariants.* A question ends within `--discovery-dial-timeout` and
//! `--discovery-request-timeout`; a watch ends when pings get no answer.
//!
//! *Contract.* `client/v3` of etcd v3.7.1, as far as discovery uses it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use rpc::etcdserverpb::auth_client::AuthClient;
use rpc::etcdserverpb::kv_client::KvClient;
use rpc::etcdserverpb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::secure::Secure;
use crate::config::Discovery;

/// The interval of pings is raised to this, as gRPC for Go does.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// What the service answers when nobody needs to log in.
const AUTH_NOT_ENABLED: &str = "etcdserver: authentication is not enabled";

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may come later.
    Unavailable(String),
    /// The user or the password is wrong: it will be so the next time, too.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unavailable(text) | Self::Refused(text)) = self;
        f.write_str(text)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Unavailable(text(&status))
    }
}

/// The service; a connection is kept from one question to the next.
pub(super) struct Service {
    settings: Discovery,
    /// The endpoint to connect to next.
    next: usize,
    session: Option<Session>,
}

#[derive(Clone)]
struct Session {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Session {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

impl Service {
    pub(super) fn new(settings: &Discovery) -> Self {
        Self { settings: settings.clone(), next: 0, session: None }
    }

    /// The value of a key.
    pub(super) async fn get(&mut self, key: &str) -> Result<Option<Bytes>, Failure> {
        let asked = pb::RangeRequest { key: key.to_owned().into(), ..pb::RangeRequest::default() };
        let answer = self.range(asked).await?;
        Ok(answer.kvs.into_iter().next().map(|found| found.value))
    }

    /// The keys that begin so, the oldest first, and the revision they are of.
    pub(super) async fn list(
        &mut self,
        prefix: &str,
        max: usize,
    ) -> Result<(Vec<KeyValue>, i64), Failure> {
        let asked = pb::RangeRequest {
            key: prefix.to_owned().into(),
            range_end: end_of(prefix),
            limit: i64::try_from(max).unwrap_or(i64::MAX),
            sort_order: pb::range_request::SortOrder::Ascend.into(),
            sort_target: pb::range_request::SortTarget::Create.into(),
            ..pb::RangeRequest::default()
        };
        let answer = self.range(asked).await?;
        Ok((answer.kvs, answer.header.unwrap_or_default().revision))
    }

    async fn range(&mut self, asked: pb::RangeRequest) -> Result<pb::RangeResponse, Failure> {
        let session = self.session().await?;
        let mut client = KvClient::new(session.channel.clone());
        let answer = self.timed(client.range(session.request(asked))).await?;
        Ok(answer.into_inner())
    }

    /// Sets a key.
    pub(super) async fn put(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        let asked = pb::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..pb::PutRequest::default()
        };
        let session = self.session().await?;
        let mut client = KvClient::new(session.channel.clone());
        self.timed(client.put(session.request(asked))).await?;
        Ok(())
    }

    /// Watches the keys that begin so, from this revision on.
    pub(super) async fn watch(&mut self, prefix: &str, from: i64) -> Result<Watch, Failure> {
        let create = pb::WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: end_of(prefix),
            start_revision: from,
            ..pb::WatchCreateRequest::default()
        };
        let asked = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        };
        let session = self.session().await?;
        let mut client = WatchClient::new(session.channel.clone());
        // The stream of questions must stay open as long as answers are wanted.
        let (questions, queue) = mpsc::channel(1);
        let full = |_| Failure::Unavailable("the watch is closed".to_owned());
        questions.send(asked).await.map_err(full)?;
        let answers = self.timed(client.watch(session.request(ReceiverStream::new(queue)))).await?;
        Ok(Watch { _questions: questions, answers: answers.into_inner() })
    }

    /// Gives a question its time; after a failure the next one goes to the next endpoint.
    async fn timed<T>(
        &mut self,
        question: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Failure> {
        let answer = match tokio::time::timeout(self.settings.request_timeout, question).await {
            Ok(answer) => answer.map_err(Failure::from),
            Err(_) => Err(deadline()),
        };
        if answer.is_err() {
            self.session = None;
        }
        answer
    }

    /// A connection to the first endpoint that takes one.
    async fn session(&mut self) -> Result<Session, Failure> {
        if let Some(session) = &self.session {
            return Ok(session.clone());
        }
        let mut last = deadline();
        for _ in 0..self.settings.endpoints.len() {
            let endpoint = &self.settings.endpoints[self.next % self.settings.endpoints.len()];
            self.next += 1;
            match connect(&self.settings, endpoint).await {
                Ok(session) => {
                    self.session = Some(session.clone());
                    return Ok(session);
                }
                Err(Failure::Refused(text)) => return Err(Failure::Refused(text)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// What the members add from now on.
pub(super) struct Watch {
    _questions: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Watch {
    /// The next changes.
    pub(super) async fn next(&mut self) -> Result<Vec<KeyValue>, Failure> {
        let ended = || Failure::Unavailable("the watch has ended".to_owned());
        let answer = self.answers.message().await?.ok_or_else(ended)?;
        if answer.canceled {
            let reason = &answer.cancel_reason;
            return Err(Failure::Unavailable(format!("the watch was cancelled: {reason}")));
        }
        Ok(answer.events.into_iter().filter_map(|event| event.kv).collect())
    }
}

async fn connect(settings: &Discovery, endpoint: &str) -> Result<Session, Failure> {
    let unavailable = |error: tonic::transport::Error| {
        Failure::Unavailable(format!("{endpoint}: {}", root(&error)))
    };
    let secure = Secure::of(settings, endpoint)?;
    let target = Endpoint::from_shared(target(endpoint))
        .map_err(|error| Failure::Unavailable(format!("{endpoint}: {error}")))?
        .connect_timeout(settings.dial_timeout)
        .http2_keep_alive_interval(settings.keepalive_time.max(PING_INTERVAL_MIN))
        .keep_alive_timeout(settings.keepalive_timeout)
        .tcp_nodelay(true);
    let dialed = async {
        match secure {
            Some(secure) => target.connect_with_connector(secure).await,
            None => target.connect().await,
        }
    };
    let dialed = tokio::time::timeout(settings.dial_timeout, dialed).await;
    let channel = dialed.map_err(|_| deadline())?.map_err(unavailable)?;
    let Some((name, password)) = credentials(settings) else {
        return Ok(Session { channel, token: None });
    };
    let asked = pb::AuthenticateRequest { name, password };
    let mut client = AuthClient::new(channel.clone());
    let asked = tokio::time::timeout(settings.request_timeout, client.authenticate(asked)).await;
    match asked.map_err(|_| deadline())? {
        Ok(answer) => {
            let token = answer.into_inner().token;
            let token = MetadataValue::try_from(token)
                .map_err(|_| Failure::Refused("the token cannot be sent".to_owned()))?;
            Ok(Session { channel, token: Some(token) })
        }
        Err(status) if status.message() == AUTH_NOT_ENABLED => Ok(Session { channel, token: None }),
        // What the service itself says, and not the way to it.
        Err(status) if status.code() == tonic::Code::InvalidArgument => {
            Err(Failure::Refused(text(&status)))
        }
        Err(status) => Err(status.into()),
    }
}

/// User and password, where both are given; `USER:PASSWORD` is taken apart, as the flag's help in
/// etcd promises.
fn credentials(settings: &Discovery) -> Option<(String, String)> {
    let (user, password) = match settings.user.split_once(':') {
        Some((user, password)) if settings.password.is_empty() => (user, password),
        _ => (settings.user.as_str(), settings.password.as_str()),
    };
    let is_complete = !user.is_empty() && !password.is_empty();
    is_complete.then(|| (user.to_owned(), password.to_owned()))
}

/// The address of an endpoint in tonic's form.
fn target(endpoint: &str) -> String {
    if endpoint.starts_with("unixs:") {
        // The connector knows the way.
        "https://localhost".to_owned()
    } else if let Some(path) = endpoint.strip_prefix("unix://").or(endpoint.strip_prefix("unix:")) {
        format!("unix:{path}")
    } else if endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        format!("http://{endpoint}")
    }
}

/// The end of the keys that begin so. The last byte of a path is never the highest one.
fn end_of(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// What lies under an error of a connection: the words above it say only that there is one.
fn root(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

fn deadline() -> Failure {
    Failure::Unavailable("context deadline exceeded".to_owned())
}

/// A status as the Go client words it.
fn text(status: &Status) -> String {
    if status.message().starts_with("etcdserver: ") {
        return status.message().to_owned();
    }
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_stand_beside_the_user() {
        let given = |user: &str, password: &str| {
            let (user, password) = (user.to_owned(), password.to_owned());
            credentials(&Discovery { user, password, ..Discovery::default() })
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(given("root", "pass"), pair("root", "pass"));
        assert_eq!(given("root:pass", ""), pair("root", "pass"));
        assert_eq!(given("root:x", "pass"), pair("root:x", "pass"));
        assert_eq!([given("", "pass"), given("root", ""), given("root:", "")], [None, None, None]);
    }

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        assert_eq!(end_of("/members"), Bytes::from_static(b"/membert"));
    }
}
