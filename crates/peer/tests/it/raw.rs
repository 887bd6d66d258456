//! Bytes on a socket, without a library between: what anyone may send, and any answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The headers of member 2 of the usual cluster.
pub(crate) const SIGNED: &str = "X-Server-From: 2\r\nX-Server-Version: 3.7.1\r\n\
     X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: c1\r\n";

/// A request with its length.
pub(crate) fn request(line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// What is answered to some bytes, all of it, when the connection is closed or the answer whole.
pub(crate) async fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a listener");
    stream.write_all(request).await.expect("written");
    stream.shutdown().await.expect("half closed");
    let mut answer = Vec::new();
    // A connection may be reset once all is said.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Someone on a port who gives every connection the same bytes, whatever it asks, and then waits
/// for its end.
pub(crate) struct Canned {
    pub(crate) address: SocketAddr,
    count: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Canned {
    pub(crate) async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let count = Arc::new(AtomicUsize::new(0));
        let (counter, answer) = (Arc::clone(&count), answer.into());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let answer = answer.clone();
                connections.spawn(async move {
                    let mut buffer = [0; 4_096];
                    let _ = stream.read(&mut buffer).await;
                    let _ = stream.write_all(&answer).await;
                    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
                });
            }
        });
        Self { address, count, _task: task }
    }

    /// How often someone came so far.
    pub(crate) fn visits(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// An answer with its length.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// The beginning of an endless answer, with one piece of it.
pub(crate) fn stream(version: &str, piece: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nX-Server-Version: {version}\r\nX-Etcd-Cluster-Id: c1\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        piece.len()
    );
    [head.as_bytes(), piece, b"\r\n"].concat()
}
