//! Asks a member: connects, bounds every request by its deadline, and puts errors in the words
//! in which the Go client puts them.
//!
//! *Invariants.* A request that changes something is sent again only after an answer that says
//! that nothing was done (the token is outdated, the member is a learner); one that may be
//! performed twice is sent again while members are unavailable; both at most [`ATTEMPTS_MAX`]
//! times and not past the deadline.
//!
//! *Absent.* Which endpoint is asked: that is the pool's.
//!
//! *Contract.* `client/v3/client.go`, `retry.go` and `retry_interceptor.go` of etcd v3.7.1.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use proto::etcdserverpb as pb;
use rpc::etcdserverpb as services;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};

use super::failure::{self, Failure, Outcome};
use super::global::{Credentials, Settings};
use super::pool::{Pings, Pool};
use super::target::Target;

/// How often a request is sent at most.
const ATTEMPTS_MAX: usize = 100;
/// Between two rounds over the endpoints.
const RETRY_INTERVAL: Duration = Duration::from_millis(25);
/// Between two attempts to log in while nobody answers.
const LOGIN_INTERVAL: Duration = Duration::from_millis(100);
/// The interval of pings is raised to this, as gRPC for Go does.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// A message longer than this is not sent, unless `--max-request-bytes` says otherwise.
const SEND_BYTES_MAX: usize = 2 << 20;
/// A message longer than this is not taken, unless `--max-recv-bytes` says otherwise.
const RECEIVE_BYTES_MAX: usize = i32::MAX as usize;

/// What a member answers when nobody needs to log in.
const AUTH_NOT_ENABLED: &str = "etcdserver: authentication is not enabled";
/// What a learner answers; another endpoint may be a voter.
const LEARNER: &str = "etcdserver: rpc not supported for learner";
/// What a member answers that cannot do it now. That its time was over, or that it gave up, it
/// says where there is no leader to ask.
const PASSING: [Code; 3] = [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled];
/// Refusals that a new token may mend.
const OUTDATED_TOKEN: [&str; 3] = [
    "etcdserver: user name is empty",
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
];

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The command's time is over.
    Deadline,
    /// The member, or the connection to it, said no.
    Status(Box<Status>),
}

impl From<Status> for RequestError {
    fn from(status: Status) -> RequestError {
        RequestError::Status(Box::new(too_large(&status).unwrap_or(status)))
    }
}

/// An answer above the limit, in the words of gRPC for Go.
fn too_large(status: &Status) -> Option<Status> {
    let rest = status.message().strip_prefix("Error, decoded message length too large: found ")?;
    let (found, rest) = rest.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    let reason = format!("grpc: received message larger than max ({found} vs. {limit})");
    Some(Status::resource_exhausted(reason))
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Deadline => f.write_str("context deadline exceeded"),
            // etcd's own errors are known by their text alone.
            RequestError::Status(status) if status.message().starts_with("etcdserver: ") => {
                f.write_str(status.message())
            }
            RequestError::Status(_) => f.write_str(&self.raw()),
        }
    }
}

impl RequestError {
    /// Whether asking again, perhaps another member, may help.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, RequestError::Status(s)
            if matches!(s.code(), Code::Unavailable | Code::Internal | Code::Unknown))
    }

    /// Whether there is nobody who could answer.
    pub(crate) fn is_unavailable(&self) -> bool {
        match self {
            RequestError::Deadline => true,
            RequestError::Status(status) => status.code() == Code::Unavailable,
        }
    }

    /// The error as gRPC tells it, also where it is one of etcd's own.
    pub(crate) fn raw(&self) -> String {
        match self {
            RequestError::Deadline => self.to_string(),
            RequestError::Status(status) => {
                format!(
                    "rpc error: code = {} desc = {}",
                    code_name(status.code()),
                    status.message()
                )
            }
        }
    }

    /// The end of a command that met this error.
    pub(crate) fn fail(self) -> Failure {
        Failure::new(failure::ERROR, self)
    }
}

/// The name that Go prints for a status code.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Connections to the members, with the deadline of the command that uses them.
pub(crate) struct Client {
    pool: Pool,
    /// How many endpoints there are to choose from.
    endpoints: usize,
    credentials: Option<Credentials>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
    dial_timeout: Duration,
    deadline: Option<Instant>,
    send_bytes_max: usize,
    receive_bytes_max: usize,
}

macro_rules! service {
    ($name:ident, $client:ident, $type:ident) => {
        /// The client of one service.
        pub(crate) fn $name(&self) -> services::$client::$type<Pool> {
            services::$client::$type::new(self.pool.clone())
                .max_decoding_message_size(self.receive_bytes_max)
        }
    };
}

impl Client {
    /// Connects for a short command, which ends when `--command-timeout` is over.
    pub(crate) async fn connect(settings: &Settings) -> Outcome<Client> {
        let deadline = Instant::now() + settings.command_timeout;
        Client::connect_to(settings, &settings.endpoints, Some(deadline)).await
    }

    /// Connects for a command that has no end of its own.
    pub(crate) async fn connect_unbounded(settings: &Settings) -> Outcome<Client> {
        Client::connect_to(settings, &settings.endpoints, None).await
    }

    /// Begins to connect to all `endpoints`, and logs in if a user was given. Not being let in ends
    /// the command; who goes on without it takes [`Client::begin`].
    pub(crate) async fn connect_to(
        settings: &Settings,
        endpoints: &[String],
        deadline: Option<Instant>,
    ) -> Outcome<Client> {
        let client = Client::begin(settings, endpoints, deadline)?;
        client.log_in().await.map_err(|error| Failure::new(failure::BAD_CONNECTION, error))?;
        Ok(client)
    }

    /// Begins to connect to all `endpoints`, and does not log in. What fails is a mistake in the
    /// settings.
    pub(crate) fn begin(
        settings: &Settings,
        endpoints: &[String],
        deadline: Option<Instant>,
    ) -> Outcome<Client> {
        let dialer = settings.secure.dialer(endpoints)?;
        let refused = |reason: &str| Failure::new(failure::BAD_CONNECTION, reason);
        if endpoints.is_empty() {
            return Err(refused("etcdclient: no available endpoints"));
        }
        if let (Some(send), Some(receive)) = (settings.send_bytes_max, settings.receive_bytes_max)
            && send > receive
        {
            return Err(refused(&format!(
                "gRPC message recv limit ({receive} bytes) must be greater than send limit \
                 ({send} bytes)"
            )));
        }
        let targets = endpoints.iter().map(|e| Target::of(e, dialer.is_some())).collect();
        let is_pinged = !settings.keepalive_time.is_zero();
        let pings = Pings {
            interval: is_pinged.then(|| settings.keepalive_time.max(PING_INTERVAL_MIN)),
            timeout: settings.keepalive_timeout,
        };
        Ok(Client {
            pool: Pool::new(targets, dialer.as_ref(), pings, settings.dial_timeout),
            endpoints: endpoints.len(),
            credentials: settings.credentials.clone(),
            token: Mutex::new(None),
            dial_timeout: settings.dial_timeout,
            deadline,
            send_bytes_max: settings.send_bytes_max.unwrap_or(SEND_BYTES_MAX),
            receive_bytes_max: settings.receive_bytes_max.unwrap_or(RECEIVE_BYTES_MAX),
        })
    }

    /// Gets the token that all requests carry, if a user was given. It lasts only for a while: who
    /// opens a stream again asks for another first.
    pub(crate) async fn log_in(&self) -> Result<(), RequestError> {
        let token = match &self.credentials {
            None => return Ok(()),
            Some(Credentials::Token(token)) => token.clone(),
            // etcd's client takes an empty password for none.
            Some(Credentials::Password { user, password })
                if user.is_empty() || password.is_empty() =>
            {
                return Ok(());
            }
            Some(Credentials::Password { user, password }) => {
                let request =
                    pb::AuthenticateRequest { name: user.clone(), password: password.clone() };
                let deadline =
                    (!self.dial_timeout.is_zero()).then(|| Instant::now() + self.dial_timeout);
                let send = async |r| self.auth().authenticate(r).await;
                match self.ask_until(deadline, &request, send).await {
                    Ok(answer) => answer.token,
                    Err(RequestError::Status(status)) if status.message() == AUTH_NOT_ENABLED => {
                        String::new()
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let mut value = None;
        if !token.is_empty() {
            value = Some(token.parse().map_err(|_| {
                Status::internal("the token has characters that no header may have")
            })?);
        }
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = value;
        Ok(())
    }

    /// Logs in as one who has been under way: that nobody can answer is no reason to end.
    pub(crate) async fn log_in_again(&self) -> Result<(), RequestError> {
        loop {
            match self.log_in().await {
                Err(error) if error.is_unavailable() => tokio::time::sleep(LOGIN_INTERVAL).await,
                result => return result,
            }
        }
    }

    service!(auth, auth_client, AuthClient);
    service!(cluster, cluster_client, ClusterClient);
    service!(kv, kv_client, KvClient);
    service!(lease, lease_client, LeaseClient);
    service!(maintenance, maintenance_client, MaintenanceClient);
    service!(watch, watch_client, WatchClient);

    /// Wraps a message with what every request carries.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("client-api-version", MetadataValue::from_static("3.7"));
        if let Some(token) = &*self.token.lock().unwrap_or_else(PoisonError::into_inner) {
            metadata.insert("token", token.clone());
        }
        request
    }

    /// The same, for a stream that must not outlive its member's contact with a leader.
    pub(crate) fn request_with_leader<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        request
    }

    /// Sends a request that may change something: again only if it has changed nothing.
    pub(crate) async fn ask<Q: Message + Clone, A>(
        &self,
        message: &Q,
        send: impl AsyncFn(Request<Q>) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, RequestError> {
        self.repeat(message, send, false).await
    }

    /// Sends a request that does no harm when it is performed twice (it reads; or it grants a
    /// lease, the other of which ends by itself; or it revokes one): again while members are
    /// unavailable, to one after the other.
    pub(crate) async fn ask_repeatable<Q: Message + Clone, A>(
        &self,
        message: &Q,
        send: impl AsyncFn(Request<Q>) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, RequestError> {
        self.repeat(message, send, true).await
    }

    async fn repeat<Q: Message + Clone, A>(
        &self,
        message: &Q,
        send: impl AsyncFn(Request<Q>) -> Result<tonic::Response<A>, Status>,
        is_repeatable: bool,
    ) -> Result<A, RequestError> {
        // Between two pauses a majority of the endpoints is asked.
        let majority = self.endpoints / 2 + 1;
        for attempt in 1.. {
            let error = match self.ask_until(self.deadline, message, &send).await {
                Err(RequestError::Status(status)) if attempt < ATTEMPTS_MAX => status,
                result => return result,
            };
            if self.is_about_token(&error) {
                self.log_in().await?;
            } else if !(is_repeatable && PASSING.contains(&error.code())
                || error.message() == LEARNER && self.endpoints > 1)
            {
                return Err(RequestError::Status(error));
            }
            if attempt % majority == 0 {
                let pause = async {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                    Ok(())
                };
                within(self.deadline, pause).await?;
            }
        }
        Err(RequestError::Deadline)
    }

    /// Whether another token may help.
    fn is_about_token(&self, status: &Status) -> bool {
        matches!(self.credentials, Some(Credentials::Password { .. }))
            && OUTDATED_TOKEN.contains(&status.message())
    }

    /// Sends a request once.
    async fn ask_until<Q: Message + Clone, A>(
        &self,
        deadline: Option<Instant>,
        message: &Q,
        send: impl AsyncFnOnce(Request<Q>) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, RequestError> {
        self.check_size(message)?;
        let answer = async { Ok(send(self.request(message.clone())).await?.into_inner()) };
        let answer = within(deadline, answer).await;
        if let Err(RequestError::Deadline) = answer {
            self.pool.tell_why_unreached();
        }
        answer
    }

    /// Waits for the next message of a stream, not past the deadline.
    pub(crate) async fn next<T>(
        &self,
        stream: &mut tonic::Streaming<T>,
    ) -> Result<Option<T>, RequestError> {
        within(self.deadline, async { Ok(stream.message().await?) }).await
    }

    fn check_size(&self, message: &impl Message) -> Result<(), RequestError> {
        let (size, max) = (message.encoded_len(), self.send_bytes_max);
        if size > max {
            let reason = format!("trying to send message larger than max ({size} vs. {max})");
            return Err(Status::resource_exhausted(reason).into());
        }
        Ok(())
    }
}

/// Runs until the deadline. An answer that says that time is over counts as this side's.
async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, RequestError>>,
) -> Result<T, RequestError> {
    match deadline {
        // What is late before it begins is not sent.
        Some(deadline) if deadline <= Instant::now() => Err(RequestError::Deadline),
        Some(deadline) => {
            tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(RequestError::Deadline))
        }
        None => work.await,
    }
}

/// Bounds a request that has no bound by its connection.
pub(crate) async fn bounded<T>(
    time_max: Duration,
    request: impl Future<Output = Result<T, RequestError>>,
) -> Result<T, RequestError> {
    within(Some(Instant::now() + time_max), request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_the_go_client_words_them() {
        for (error, text) in [
            (RequestError::Deadline, "context deadline exceeded"),
            (Status::not_found("etcdserver: key not found").into(), "etcdserver: key not found"),
            (Status::cancelled("x").into(), "rpc error: code = Canceled desc = x"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
