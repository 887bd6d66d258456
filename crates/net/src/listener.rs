//! Binds addresses and accepts connections, up to a limit.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use base::go::error_text;
use rustix::net::sockopt::{set_tcp_keepidle, set_tcp_keepintvl};
use rustix::process::{Resource, getrlimit};
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::stream::{PeerAddress, Stream};
use crate::tls::{self, PeerIdentity, Refused};
use crate::url::Url;

/// Connections the kernel may hold for us before they are accepted.
const BACKLOG: u32 = 4096;

/// File descriptors that are never given to clients: two thirds of them are for the connections
/// of other members, and the others for the member's own files and its way to other members.
const RESERVED_DESCRIPTORS: u64 = 150;

/// Connections to the peer ports, out of the reserve: clients cannot keep other members out.
pub const PEER_CONNECTIONS_MAX: usize = 100;

/// The pause after an accept that failed for a reason which may pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The kernel asks a connection that is silent for so long whether its other end is there, and
/// again after so long, as etcd has it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// How an address is bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct BindOptions {
    /// Several processes may listen on one port (`SO_REUSEPORT`).
    pub reuse_port: bool,
}

/// An address could not be bound.
#[derive(Debug, Error)]
#[error("listen {network} {address}: {reason}")]
pub struct BindError {
    network: &'static str,
    address: String,
    reason: String,
}

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: String,
    tls: Option<Arc<tls::Server>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds `url`. Must be called inside a runtime.
    pub fn bind(url: &Url) -> Result<Self, BindError> {
        Self::bind_with(url, BindOptions::default())
    }

    /// Binds `url` with these options. Must be called inside a runtime.
    pub fn bind_with(url: &Url, options: BindOptions) -> Result<Self, BindError> {
        if url.scheme().is_unix() { Self::bind_unix(url) } else { Self::bind_tcp(url, options) }
    }

    fn bind_tcp(url: &Url, options: BindOptions) -> Result<Self, BindError> {
        let fail = |address: String, reason: String| BindError { network: "tcp", address, reason };
        let given = url.authority().to_owned();
        // An empty host is every address of the machine.
        let asked = if url.host().is_empty() { format!("[::]{given}") } else { given.clone() };
        let address = asked
            .to_socket_addrs()
            .map_err(|error| fail(given.clone(), format!("lookup: {error}")))?
            .min_by_key(SocketAddr::is_ipv6)
            .ok_or_else(|| fail(given, "no such host".to_owned()))?;
        let bind = || -> io::Result<TcpListener> {
            let socket =
                if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // Connections inherit it: those whose client is gone without a word end some day.
            socket.set_keepalive(true)?;
            set_tcp_keepidle(&socket, KEEPALIVE_INTERVAL)?;
            set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
            // As Go's library has it by itself, so that --socket-reuse-address adds nothing.
            socket.set_reuseaddr(true)?;
            if options.reuse_port {
                socket.set_reuseport(true)?;
            }
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        let listener = bind()
            .map_err(|error| fail(address.to_string(), format!("bind: {}", error_text(&error))))?;
        let address = listener.local_addr().unwrap_or(address).to_string();
        Ok(Self { socket: Socket::Tcp(listener), address, tls: None })
    }

    fn bind_unix(url: &Url) -> Result<Self, BindError> {
        let path = url.socket_path();
        // What an earlier process left; one that is in use is not noticed, as with etcd.
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(BindError {
                    network: "unix",
                    address: path,
                    reason: error_text(&error),
                });
            }
        }
        match UnixListener::bind(&path) {
            Ok(listener) => Ok(Self { socket: Socket::Unix(listener), address: path, tls: None }),
            Err(error) => {
                let reason = format!("bind: {}", error_text(&error));
                Err(BindError { network: "unix", address: path, reason })
            }
        }
    }

    /// From now on its connections are secured by this.
    pub fn with_tls(mut self, tls: Arc<tls::Server>) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Whether its connections are encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Where it listens, with the port the system chose when 0 was asked for.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next connection, and who made it. Errors of a single connection, and want of
    /// descriptors, and of the network, are waited out.
    pub async fn accept(&self) -> io::Result<(Accepted, PeerAddress)> {
        loop {
            let accepted = match &self.socket {
                Socket::Tcp(listener) => listener.accept().await.and_then(|(stream, peer)| {
                    stream.set_nodelay(true)?;
                    Ok((Raw::Tcp(stream.into_std()?), PeerAddress::Tcp(peer)))
                }),
                Socket::Unix(listener) => listener
                    .accept()
                    .await
                    .and_then(|(stream, _)| Ok((Raw::Unix(stream.into_std()?), PeerAddress::Unix))),
            };
            match accepted {
                Ok((raw, peer)) => {
                    return Ok((Accepted { raw, peer, tls: self.tls.clone() }, peer));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if is_passing(&error) => tokio::time::sleep(ACCEPT_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if matches!(self.socket, Socket::Unix(_)) {
            // Nobody answers there any more. If it cannot go, the next start removes it.
            let _gone = std::fs::remove_file(&self.address);
        }
    }
}

/// A connection that belongs to no runtime yet, and that nobody has looked at.
#[derive(Debug)]
pub struct Accepted {
    raw: Raw,
    peer: PeerAddress,
    tls: Option<Arc<tls::Server>>,
}

#[derive(Debug)]
enum Raw {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// Gives the connection to the runtime this is called in, and shakes hands where the listener
    /// has TLS: there is no other way to its bytes. The identity is that of a connection with TLS.
    pub async fn open(self) -> Result<(Stream, Option<PeerIdentity>), Refused> {
        let stream = match self.raw {
            Raw::Tcp(stream) => Stream::Tcp(tokio::net::TcpStream::from_std(stream)?),
            Raw::Unix(stream) => Stream::Unix(tokio::net::UnixStream::from_std(stream)?),
        };
        match self.tls {
            None => Ok((stream, None)),
            Some(tls) => {
                // In a box, so that connections without TLS do not carry room for it.
                let (stream, identity) = Box::pin(tls.accept(stream, self.peer)).await?;
                Ok((stream, Some(identity)))
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, InvalidInput};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | InvalidInput)
}

/// Whether a later call may do better: want of a resource, or what accept(2) passes on of the
/// network and of firewalls.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno as E;
    let code = error.raw_os_error();
    let shortages = [E::MFILE, E::NFILE, E::NOBUFS, E::NOMEM];
    let networks = [
        E::NETDOWN,
        E::PROTO,
        E::NOPROTOOPT,
        E::HOSTDOWN,
        E::NONET,
        E::HOSTUNREACH,
        E::OPNOTSUPP,
        E::NETUNREACH,
        E::PERM,
        E::TIMEDOUT,
    ];
    shortages.iter().chain(&networks).any(|passing| code == Some(passing.raw_os_error()))
}

/// How many connections a listener may have open.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

/// The machine refuses to give enough file descriptors.
#[derive(Debug, Error)]
#[error(
    "file descriptor limit[{limit}] of etcd process is too low, and should be set higher than {RESERVED_DESCRIPTORS} to ensure internal usage"
)]
pub struct TooFewDescriptors {
    limit: u64,
}

impl Gate {
    /// So many.
    pub fn of(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))))
    }

    /// As many as the limit of descriptors leaves to clients.
    pub fn from_descriptor_limit() -> Result<Self, TooFewDescriptors> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        if limit <= RESERVED_DESCRIPTORS {
            return Err(TooFewDescriptors { limit });
        }
        let places = usize::try_from(limit - RESERVED_DESCRIPTORS).unwrap_or(usize::MAX);
        Ok(Self::of(places))
    }

    /// How many places are free.
    pub fn places(&self) -> usize {
        self.0.available_permits()
    }

    /// Waits for a place; it is free again when the permit is dropped.
    pub async fn enter(&self) -> OwnedSemaphorePermit {
        let Ok(permit) = Arc::clone(&self.0).acquire_owned().await else {
            unreachable!("the semaphore is never closed");
        };
        permit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_notice_that_the_other_end_is_gone() {
        use rustix::net::sockopt::{socket_keepalive, tcp_keepidle, tcp_keepintvl};
        let url = Url::parse("http://127.0.0.1:0").unwrap();
        let listener = Listener::bind(&url).unwrap();
        let _client = std::net::TcpStream::connect(listener.address()).unwrap();
        let (Accepted { raw, .. }, _) = listener.accept().await.unwrap();
        let Raw::Tcp(stream) = raw else { panic!("no TCP") };
        assert!(socket_keepalive(&stream).unwrap());
        assert_eq!(tcp_keepidle(&stream).unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(tcp_keepintvl(&stream).unwrap(), KEEPALIVE_INTERVAL);
    }

    #[test]
    fn errors_of_the_network_are_waited_out() {
        use rustix::io::Errno;
        let is_waited = |errno: Errno| is_passing(&io::Error::from(errno));
        for errno in [Errno::MFILE, Errno::NETDOWN, Errno::PERM, Errno::HOSTUNREACH] {
            assert!(is_waited(errno), "{errno}");
        }
        assert!(!is_waited(Errno::BADF) && !is_waited(Errno::INVAL));
    }

    #[tokio::test]
    async fn a_port_is_shared_only_by_those_who_want_it() {
        let share = BindOptions { reuse_port: true };
        let url = Url::parse("http://127.0.0.1:0").unwrap();
        let first = Listener::bind_with(&url, share).unwrap();
        let url = Url::parse(&format!("http://{}", first.address())).unwrap();
        assert!(Listener::bind(&url).is_err());
        assert!(Listener::bind_with(&url, share).is_ok());
    }
}
