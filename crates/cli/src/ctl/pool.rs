//! Connections to all endpoints of a command, and which of them carries the next request.
//!
//! ```text
//!  endpoint 0 ─► task: dial ─► greeting ─► ready ─┐
//!  endpoint 1 ─► task: dial, pause, dial ...      ├─► round robin ─► request
//!  endpoint 2 ─► task: dial ─► greeting ─► ready ─┘
//! ```
//!
//! *Invariants.* A request is given to a connection only when the server has greeted on it, and to
//! another one only if the first has certainly not sent it. While no connection is ready requests
//! wait; whoever asks bounds the time. While nobody has ever been reached, a log line tells once
//! for each endpoint why.
//!
//! *Contract.* The `round_robin` policy of gRPC for Go with `WaitForReady`, as `client/v3` of etcd
//! v3.7.1 asks for it. The pauses between two dials are shorter.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use net::{Dialer, Stream, connect};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use super::global::log_line;
use super::target::Target;
use crate::go;

/// How long a connection may take until the server has greeted.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// After a connection that failed or ended; it doubles while nothing is reached.
const CONNECT_INTERVAL: Duration = Duration::from_millis(100);
/// The longest pause between two dials of one endpoint.
const CONNECT_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// The endpoints about which the user has been told, by any client of this process.
static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Pings on a connection that has requests under way.
#[derive(Clone, Copy)]
pub(crate) struct Pings {
    /// None: there are no pings.
    pub(crate) interval: Option<Duration>,
    pub(crate) timeout: Duration,
}

/// The connections of one client.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    /// Ended with the pool.
    _tasks: JoinSet<()>,
}

struct Shared {
    targets: Vec<(Target, Option<Dialer>)>,
    pings: Pings,
    /// The connection to each target, while it is ready.
    ready: Mutex<Vec<Option<SendRequest<Body>>>>,
    changed: Notify,
    /// Where to look for the next connection.
    next: AtomicUsize,
    /// From now on the user wants to know why nobody is reached.
    patient_until: Instant,
    /// Somebody has been reached.
    is_reached: AtomicBool,
    /// Why each target was not reached when it was last tried.
    causes: Mutex<Vec<Option<String>>>,
}

impl Pool {
    /// Begins to connect to all targets, with TLS where there is a dialer. If that takes longer
    /// than `patience`, the user is told why.
    pub(crate) fn new(
        targets: Vec<Target>,
        dialer: Option<&Dialer>,
        pings: Pings,
        patience: Duration,
    ) -> Pool {
        let count = targets.len();
        let shared = Arc::new(Shared {
            targets: targets.into_iter().map(|target| (target, dialer.cloned())).collect(),
            pings,
            ready: Mutex::new(vec![None; count]),
            changed: Notify::new(),
            next: AtomicUsize::new(0),
            patient_until: Instant::now() + patience,
            is_reached: AtomicBool::new(false),
            causes: Mutex::new(vec![None; count]),
        });
        let mut tasks = JoinSet::new();
        for index in 0..count {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move { shared.keep(index).await });
        }
        Pool(Arc::new(Owner { shared, _tasks: tasks }))
    }

    /// Tells on stderr why nobody has been reached, if that is so.
    pub(crate) fn tell_why_unreached(&self) {
        self.0.shared.tell_why_unreached();
    }
}

impl Shared {
    /// Connects to one target again and again.
    async fn keep(&self, index: usize) {
        let mut pause = CONNECT_INTERVAL;
        loop {
            match self.hold(index).await {
                Ok(()) => pause = CONNECT_INTERVAL,
                Err(error) => {
                    self.fail(index, &error);
                    pause = (2 * pause).min(CONNECT_INTERVAL_MAX);
                }
            }
            sleep(pause).await;
        }
    }

    /// Connects once, and holds the connection as long as it lasts.
    async fn hold(&self, index: usize) -> io::Result<()> {
        let (target, dialer) = &self.targets[index];
        let Some(url) = &target.url else {
            // It is waited for like a server that is down.
            return Err(io::Error::other("the endpoint is no address"));
        };
        let opened = async {
            let stream = match dialer {
                Some(dialer) => dialer.dial_as(url, &target.host).await?,
                None => connect(url, None).await?,
            };
            let (greeted, greeting) = oneshot::channel();
            let stream = TokioIo::new(Greeted { stream, greeted: Some(greeted) });
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .keep_alive_interval(self.pings.interval)
                .keep_alive_timeout(self.pings.timeout);
            let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
            let mut connection = Box::pin(connection);
            tokio::select! {
                // What is no HTTP/2 ends it at once.
                biased;
                ended = &mut connection => return Err(unwelcome(ended)),
                greeted = greeting => greeted.map_err(io::Error::other)?,
            }
            Ok((sender, connection))
        };
        let (sender, connection) = timeout(CONNECT_TIMEOUT, opened).await??;
        self.set(index, Some(sender));
        let _ = connection.await;
        self.set(index, None);
        Ok(())
    }

    /// Keeps why a target is not reached.
    fn fail(&self, index: usize, error: &io::Error) {
        let cause = go::os_error(error);
        self.causes.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(cause);
        if Instant::now() >= self.patient_until {
            self.tell_why_unreached();
        }
    }

    fn tell_why_unreached(&self) {
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        for (endpoint, cause) in self.why_unreached() {
            if told.insert(endpoint.clone()) {
                let fields = [("endpoint", endpoint.as_str()), ("error", cause.as_str())];
                let line = log_line("warn", "cannot connect to the endpoint", &fields);
                let _ = io::stderr().write_all(line.as_bytes());
            }
        }
    }

    /// The endpoints that were tried with the causes; none as soon as one has been reached.
    fn why_unreached(&self) -> Vec<(String, String)> {
        if self.is_reached.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.targets.iter().map(|(target, _)| target.endpoint.clone());
        names.zip(causes.iter()).filter_map(|(name, cause)| Some((name, cause.clone()?))).collect()
    }

    fn set(&self, index: usize, sender: Option<SendRequest<Body>>) {
        if sender.is_some() {
            self.is_reached.store(true, Ordering::Relaxed);
        }
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)[index] = sender;
        self.changed.notify_waiters();
    }

    /// The ready connection whose turn it is.
    fn pick(&self) -> Option<(usize, SendRequest<Body>)> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..ready.len()).map(|step| first.wrapping_add(step) % ready.len()).find_map(|index| {
            ready[index].clone().filter(|sender| !sender.is_closed()).map(|sender| (index, sender))
        })
    }

    async fn wait_for_ready(&self) -> (usize, SendRequest<Body>) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = self.pick() {
                return found;
            }
            // A connection that is closed but still listed goes away without a word from it.
            let _ = timeout(CONNECT_INTERVAL, changed).await;
        }
    }

    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let mut request = request;
        loop {
            let (index, mut sender) = self.wait_for_ready().await;
            let address = self.address(index, request.uri())?;
            *request.uri_mut() = address;
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok(answer.map(|body| Body::new(body.map_err(broken)))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(broken(error.into_error())),
                },
            }
        }
    }

    /// The address of a request to one target.
    fn address(&self, index: usize, uri: &http::Uri) -> Result<http::Uri, Status> {
        let (target, dialer) = &self.targets[index];
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        http::Uri::builder()
            .scheme(if dialer.is_some() { "https" } else { "http" })
            .authority(target.authority())
            .path_and_query(path)
            .build()
            .map_err(|error| Status::unavailable(error.to_string()))
    }
}

/// Why a connection ended before the server had greeted.
fn unwelcome(ended: Result<(), hyper::Error>) -> io::Error {
    match ended {
        Ok(()) => io::Error::other("the server has closed the connection"),
        Err(error) => match std::error::Error::source(&error) {
            Some(source) => io::Error::other(format!("{error}: {source}")),
            None => io::Error::other(error),
        },
    }
}

/// How a request ended that was sent and not answered.
fn broken(error: hyper::Error) -> Status {
    let status = Status::from_error(Box::new(error));
    match status.code() {
        // The connection itself has gone.
        tonic::Code::Unknown => Status::unavailable("error reading from server: EOF"),
        _ => status,
    }
}

impl Service<http::Request<Body>> for Pool {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let pool = self.clone();
        Box::pin(async move { pool.0.shared.send(request).await })
    }
}

/// A connection that tells when the server has begun to speak.
struct Greeted {
    stream: Stream,
    greeted: Option<oneshot::Sender<()>>,
}

impl AsyncRead for Greeted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(context, buffer);
        if buffer.filled().len() > before
            && let Some(greeted) = this.greeted.take()
        {
            let _ = greeted.send(());
        }
        result
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use tokio::net::TcpListener;
    use tonic::codegen::Bytes;

    use super::*;

    const PINGS: Pings = Pings { interval: None, timeout: Duration::from_secs(1) };

    fn pool(targets: Vec<Target>) -> Pool {
        Pool::new(targets, None, PINGS, Duration::from_secs(60))
    }

    async fn listener() -> (TcpListener, Target) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::of(&listener.local_addr().unwrap().to_string(), false);
        (listener, target)
    }

    /// A server of one connection after the other that counts requests, and ends the first
    /// connection after `requests_max` of them.
    fn serve(listener: TcpListener, served: Arc<AtomicUsize>, requests_max: usize) {
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let last = Arc::new(Notify::new());
                let (served, told) = (Arc::clone(&served), Arc::clone(&last));
                let answer = hyper::service::service_fn(move |_| {
                    if served.fetch_add(1, Ordering::SeqCst) + 1 == requests_max {
                        told.notify_one();
                    }
                    async { Ok::<_, io::Error>(http::Response::new(Empty::<Bytes>::new())) }
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer);
                tokio::select! {
                    _ = connection => {}
                    () = last.notified() => {}
                }
            }
        });
    }

    async fn ask(pool: &mut Pool) -> Result<(), Status> {
        let request = http::Request::builder().uri("/a/b").body(Body::empty()).unwrap();
        let answer = timeout(Duration::from_secs(20), pool.call(request)).await;
        answer.expect("some member is ready").map(|_| ())
    }

    #[tokio::test]
    async fn requests_go_round_the_members_that_live() {
        let (first, second) = (listener().await, listener().await);
        let dead = listener().await.1;
        let counts = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
        serve(first.0, Arc::clone(&counts[0]), usize::MAX);
        serve(second.0, Arc::clone(&counts[1]), usize::MAX);
        let mut pool = pool(vec![dead, first.1, second.1]);
        // One of them is connected before the other.
        for _ in 0..1000 {
            ask(&mut pool).await.unwrap();
        }
        assert!(counts.iter().all(|count| count.load(Ordering::SeqCst) > 100), "{counts:?}");
    }

    #[tokio::test]
    async fn causes_are_known_until_somebody_is_reached() {
        let dead = listener().await.1;
        let endpoint = dead.endpoint.clone();
        let pool_of_dead = pool(vec![dead.clone(), Target::of("nonsense", false)]);
        let causes = async |pool: &Pool, count: usize| loop {
            let found = pool.0.shared.why_unreached();
            if found.len() == count {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        };
        let found = timeout(Duration::from_secs(20), causes(&pool_of_dead, 2)).await.unwrap();
        assert_eq!(found[0], (endpoint, "connection refused".to_owned()));
        assert_eq!(found[1], ("nonsense".to_owned(), "the endpoint is no address".to_owned()));
        let (listener, target) = listener().await;
        serve(listener, Arc::new(AtomicUsize::new(0)), usize::MAX);
        let mut reached = pool(vec![dead, target]);
        ask(&mut reached).await.unwrap();
        assert_eq!(reached.0.shared.why_unreached(), []);
    }

    #[tokio::test]
    async fn a_connection_that_ends_is_opened_again() {
        let (listener, target) = listener().await;
        let served = Arc::new(AtomicUsize::new(0));
        serve(listener, Arc::clone(&served), 3);
        let mut pool = pool(vec![target]);
        while served.load(Ordering::SeqCst) < 6 {
            if let Err(status) = ask(&mut pool).await {
                // The request that was under way; it may have been served.
                assert_eq!(status.message(), "error reading from server: EOF");
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_before_the_server_has_greeted() {
        let (odd, odd_target) = listener().await;
        let (good, good_target) = listener().await;
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                // A port with TLS waits for a client to begin with that.
                held.push(odd.accept().await.unwrap());
            }
        });
        let served = Arc::new(AtomicUsize::new(0));
        serve(good, Arc::clone(&served), usize::MAX);
        let mut pool = pool(vec![odd_target, good_target]);
        for _ in 0..2000 {
            ask(&mut pool).await.unwrap();
        }
        assert_eq!(served.load(Ordering::SeqCst), 2000);
    }
}
