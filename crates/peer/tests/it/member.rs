//! A member without raft: a transport that is served, and a handler that remembers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{ClusterId, MemberId};
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use peer::{
    BoxFuture, Event, Handler, ReceiveError, SnapshotBody, Transport, TransportConfig, Version,
    WriteDeadline,
};
use proto::raftpb::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::dial::PlainDial;

/// The cluster of all members but where a test says otherwise.
pub(crate) const CLUSTER: ClusterId = ClusterId(0xc1);

/// Beyond what anything here may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a member was told.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) messages: Vec<Message>,
    pub(crate) unreachable: Vec<MemberId>,
    pub(crate) snapshots_sent: Vec<(MemberId, bool)>,
    pub(crate) snapshots: Vec<(Message, Result<Vec<u8>, String>)>,
    pub(crate) events: Vec<Event>,
    pub(crate) removed: usize,
}

impl Seen {
    pub(crate) fn has_event(&self, message: &str) -> bool {
        self.events.iter().any(|event| event.message == message)
    }

    pub(crate) fn event(&self, message: &str) -> String {
        let found = self.events.iter().find(|event| event.message == message);
        found.map(ToString::to_string).unwrap_or_default()
    }
}

/// A handler that remembers.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    seen: Mutex<Seen>,
    changed: Notify,
    removed: Mutex<Vec<MemberId>>,
}

impl Recorder {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock());
        self.changed.notify_waiters();
    }

    /// Looks at what was told so far.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Seen) -> T) -> T {
        at(&self.seen.lock())
    }

    /// Waits until what was told suffices.
    pub(crate) async fn until(&self, what: &str, is_enough: impl Fn(&Seen) -> bool) {
        let waited = timeout(PATIENCE, async {
            loop {
                let changed = self.changed.notified();
                if is_enough(&self.seen.lock()) {
                    return;
                }
                changed.await;
            }
        });
        if waited.await.is_err() {
            let seen = self.seen.lock();
            let events: Vec<_> = seen.events.iter().map(ToString::to_string).collect();
            panic!(
                "waited for {what} in vain: {} messages, {:?}\n{}",
                seen.messages.len(),
                seen.snapshots_sent,
                events.join("\n")
            );
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        *self.seen.lock() = Seen::default();
    }

    /// Takes a member for removed.
    pub(crate) fn remove(&self, member: MemberId) {
        self.removed.lock().push(member);
    }
}

struct RecorderHandle(Arc<Recorder>);

impl Handler for RecorderHandle {
    fn message(&self, message: Message) {
        self.0.note(|seen| seen.messages.push(message));
    }

    fn unreachable(&self, member: MemberId) {
        self.0.note(|seen| seen.unreachable.push(member));
    }

    fn snapshot_sent(&self, member: MemberId, ok: bool) {
        self.0.note(|seen| seen.snapshots_sent.push((member, ok)));
    }

    fn is_removed(&self, member: MemberId) -> bool {
        self.0.removed.lock().contains(&member)
    }

    fn receive_snapshot(
        &self,
        message: Message,
        mut body: SnapshotBody,
    ) -> BoxFuture<'static, Result<(), ReceiveError>> {
        let recorder = Arc::clone(&self.0);
        Box::pin(async move {
            let mut bytes = Vec::new();
            let mut result = Ok(());
            while let Some(piece) = body.next().await {
                match piece {
                    Ok(piece) => bytes.extend_from_slice(&piece),
                    Err(error) => {
                        result = Err(error.to_string());
                        break;
                    }
                }
            }
            let received = result.clone().map(|()| bytes);
            recorder.note(|seen| seen.snapshots.push((message, received)));
            result.map_err(ReceiveError::Save)
        })
    }

    fn removed(&self) {
        self.0.note(|seen| seen.removed += 1);
    }

    fn event(&self, event: Event) {
        self.0.note(|seen| seen.events.push(event));
    }
}

/// A transport, its handler, and its peer port.
pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) transport: Transport,
    pub(crate) told: Arc<Recorder>,
    pub(crate) address: SocketAddr,
    port: Option<JoinSet<()>>,
}

impl Member {
    /// Starts one on a free port.
    pub(crate) async fn start(id: u64) -> Self {
        Self::start_in(CLUSTER, id).await
    }

    /// Starts one of some cluster.
    pub(crate) async fn start_in(cluster: ClusterId, id: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let id = MemberId(id);
        let told = Arc::new(Recorder::default());
        let config = TransportConfig {
            id,
            cluster,
            urls: vec![net::Url::parse(&format!("http://{address}")).expect("valid")],
            version: Version::ETCD,
            min_cluster_version: Version::MIN_CLUSTER,
            dial: Arc::new(PlainDial),
            dial_timeout: Duration::from_secs(2),
            runtime: Handle::current(),
        };
        let transport = Transport::new(config, Arc::new(RecorderHandle(Arc::clone(&told))));
        let mut member = Self { id, transport, told, address, port: None };
        member.serve(listener);
        member
    }

    fn serve(&mut self, listener: TcpListener) {
        let mut port = JoinSet::new();
        port.spawn(accept(listener, self.transport.clone()));
        self.port = Some(port);
    }

    /// Closes the port and all connections to it.
    pub(crate) fn close_port(&mut self) {
        self.port = None;
    }

    /// Opens the same port again.
    pub(crate) async fn open_port(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("our own port");
        self.serve(listener);
    }

    /// How others name it.
    pub(crate) fn entry(&self) -> (MemberId, Vec<String>) {
        (self.id, vec![format!("http://{}", self.address)])
    }
}

async fn accept(listener: TcpListener, transport: Transport) {
    // Ends with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, transport.clone()));
    }
}

async fn serve(stream: TcpStream, transport: Transport) {
    let limit = Duration::from_millis(500);
    let io = TokioIo::new(WriteDeadline::with_limit(stream, limit));
    let service = service_fn(move |request| {
        let transport = transport.clone();
        async move { Ok::<_, std::convert::Infallible>(transport.serve(request).await) }
    });
    // How a connection ends is its client's affair.
    drop(http1::Builder::new().serve_connection(io, service).await);
}

/// Members that know each other, with their streams up.
pub(crate) async fn pair() -> (Member, Member) {
    let (one, two) = (Member::start(1).await, Member::start(2).await);
    let members = [one.entry(), two.entry()];
    one.transport.set_members(&members);
    two.transport.set_members(&members);
    connected(&one, &two).await;
    (one, two)
}

/// Waits for what nobody tells.
pub(crate) async fn poll(what: &str, is_enough: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !is_enough() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited for {what} in vain");
}

/// Waits for all four streams between two members.
pub(crate) async fn connected(one: &Member, two: &Member) {
    let are_up = || one.transport.is_streaming(two.id) && two.transport.is_streaming(one.id);
    poll("streams", are_up).await;
}

/// A database in memory, which may fail.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) bytes: Bytes,
    /// From where on it cannot be read.
    pub(crate) broken_at: u64,
}

impl peer::SnapshotReader for Database {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&mut self, offset: u64, max: usize) -> std::io::Result<Bytes> {
        if offset >= self.broken_at {
            return Err(std::io::Error::other("page 7 is damaged"));
        }
        let from = usize::try_from(offset).expect("small");
        Ok(self.bytes.slice(from..(from + max).min(self.bytes.len())))
    }
}
