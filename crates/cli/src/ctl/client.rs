//! Asks a member: connects, bounds every request by its deadline, and puts errors in the words
//! in which the Go client puts them.
//!
//! *Invariants.* A request that changes something is sent once; one that only reads is sent
//! again while the member is unavailable, at most [`ATTEMPTS_MAX`] times and not past the
//! deadline.
//!
//! *Absent.* Balancing: the first endpoint that can be connected to serves the whole command.
//!
//! *Contract.* `client/v3/client.go`, `retry.go` and `retry_interceptor.go` of etcd v3.7.1.

use std::fmt;
use std::time::Duration;

use prost::Message;
use proto::etcdserverpb as pb;
use rpc::etcdserverpb as services;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::failure::{self, Failure, Outcome};
use super::global::{Credentials, Settings};

/// How often a read is sent at most.
const ATTEMPTS_MAX: usize = 100;
/// Between two attempts of a read.
const RETRY_INTERVAL: Duration = Duration::from_millis(25);
/// Between two rounds over all endpoints while none can be connected to.
const CONNECT_INTERVAL: Duration = Duration::from_millis(100);
/// The interval of pings is raised to this, as gRPC for Go does.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(10);

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
        RequestError::Status(Box::new(status))
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Deadline => f.write_str("context deadline exceeded"),
            // etcd's own errors are known by their text alone.
            RequestError::Status(status) if status.message().starts_with("etcdserver: ") => {
                f.write_str(status.message())
            }
            RequestError::Status(status) => {
                let code = code_name(status.code());
                write!(f, "rpc error: code = {code} desc = {}", status.message())
            }
        }
    }
}

impl RequestError {
    /// Whether asking again, perhaps another member, may help.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, RequestError::Status(s)
            if matches!(s.code(), Code::Unavailable | Code::Internal | Code::Unknown))
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

/// A connection to one member, with the deadline of the command that uses it.
pub(crate) struct Client {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    deadline: Option<Instant>,
    send_bytes_max: usize,
    receive_bytes_max: usize,
}

macro_rules! service {
    ($name:ident, $client:ident, $type:ident) => {
        /// The client of one service.
        pub(crate) fn $name(&self) -> services::$client::$type<Channel> {
            services::$client::$type::new(self.channel.clone())
                .max_decoding_message_size(self.receive_bytes_max)
        }
    };
}

impl Client {
    /// Connects for a short command, which ends when `--command-timeout` is over.
    pub(crate) async fn connect(settings: &Settings) -> Outcome<Result<Client, RequestError>> {
        let deadline = Instant::now() + settings.command_timeout;
        Client::connect_to(settings, &settings.endpoints, Some(deadline)).await
    }

    /// Connects for a command that has no end of its own.
    pub(crate) async fn connect_unbounded(
        settings: &Settings,
    ) -> Outcome<Result<Client, RequestError>> {
        Client::connect_to(settings, &settings.endpoints, None).await
    }

    /// Connects to the first of `endpoints` that answers. The outer failure ends the command;
    /// the inner error is one that the command words itself.
    pub(crate) async fn connect_to(
        settings: &Settings,
        endpoints: &[String],
        deadline: Option<Instant>,
    ) -> Outcome<Result<Client, RequestError>> {
        if endpoints.is_empty() {
            let reason = "etcdclient: no available endpoints";
            return Err(Failure::new(failure::BAD_CONNECTION, reason));
        }
        let channel = match within(deadline, dial(settings, endpoints)).await {
            Ok(channel) => channel,
            Err(error) => return Ok(Err(error)),
        };
        let mut client = Client {
            channel,
            token: None,
            deadline,
            send_bytes_max: settings.send_bytes_max,
            receive_bytes_max: settings.receive_bytes_max,
        };
        if let Some(credentials) = &settings.credentials {
            client.authenticate(credentials).await?;
        }
        Ok(Ok(client))
    }

    async fn authenticate(&mut self, credentials: &Credentials) -> Outcome {
        let token = match credentials {
            Credentials::Token(token) => token.clone(),
            Credentials::Password { user, password } => {
                let request =
                    pb::AuthenticateRequest { name: user.clone(), password: password.clone() };
                let answer = self.ask(&request, async |r| self.auth().authenticate(r).await).await;
                match answer {
                    Ok(answer) => answer.token,
                    Err(RequestError::Status(status))
                        if status.message() == "etcdserver: authentication is not enabled" =>
                    {
                        return Ok(());
                    }
                    Err(error) => return Err(Failure::new(failure::BAD_CONNECTION, error)),
                }
            }
        };
        let token = token
            .parse()
            .map_err(|_| Failure::new(failure::BAD_ARGS, "the token has characters it must not"))?;
        self.token = Some(token);
        Ok(())
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
        if let Some(token) = &self.token {
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

    /// Sends a request once.
    pub(crate) async fn ask<Q: Message + Clone, A>(
        &self,
        message: &Q,
        send: impl AsyncFnOnce(Request<Q>) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, RequestError> {
        self.check_size(message)?;
        let answer = async { Ok(send(self.request(message.clone())).await?.into_inner()) };
        within(self.deadline, answer).await
    }

    /// Sends a request that changes nothing, again while the member is unavailable.
    pub(crate) async fn read<Q: Message + Clone, A>(
        &self,
        message: &Q,
        send: impl AsyncFn(Request<Q>) -> Result<tonic::Response<A>, Status>,
    ) -> Result<A, RequestError> {
        let mut attempt = 1;
        loop {
            match self.ask(message, &send).await {
                Err(RequestError::Status(status))
                    if status.code() == Code::Unavailable && attempt < ATTEMPTS_MAX =>
                {
                    attempt += 1;
                    let pause = async {
                        tokio::time::sleep(RETRY_INTERVAL).await;
                        Ok(())
                    };
                    within(self.deadline, pause).await?;
                }
                result => return result,
            }
        }
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
        Some(deadline) => {
            tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(RequestError::Deadline))
        }
        None => work.await,
    }
}

/// Tries the endpoints in turn until one can be connected to.
async fn dial(settings: &Settings, endpoints: &[String]) -> Result<Channel, RequestError> {
    loop {
        for endpoint in endpoints {
            // What is no address cannot be connected to, and is waited for like a dead one.
            let Ok(target) = Endpoint::from_shared(target(endpoint)) else { continue };
            let target = target
                .connect_timeout(settings.dial_timeout)
                .http2_keep_alive_interval(settings.keepalive_time.max(PING_INTERVAL_MIN))
                .keep_alive_timeout(settings.keepalive_timeout)
                .tcp_nodelay(true);
            if let Ok(channel) = target.connect().await {
                return Ok(channel);
            }
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
}

/// The address of an endpoint in tonic's form.
fn target(endpoint: &str) -> String {
    if let Some(path) = endpoint.strip_prefix("unix://").or(endpoint.strip_prefix("unix:")) {
        format!("unix:{path}")
    } else if endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        format!("http://{endpoint}")
    }
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

    #[test]
    fn endpoints_take_every_form() {
        for (endpoint, address) in [
            ("127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("http://host:1", "http://host:1"),
            ("unix://localhost:20000", "unix:localhost:20000"),
            ("unix:///run/etcd.sock", "unix:/run/etcd.sock"),
        ] {
            assert_eq!(target(endpoint), address);
        }
    }
}
