//! Opens connections to a URL: bare or with TLS, if asked from one address of this machine.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};

use crate::stream::Stream;
use crate::tls::Client;
use crate::url::Url;

/// The name that a certificate must have behind a socket file, where nothing else is said.
const SOCKET_HOST: &str = "localhost";

/// Opens connections with TLS for `https` and `unixs`, and without it for the others. What is
/// spoken on them was said when the client was made.
#[derive(Debug, Clone)]
pub struct Dialer {
    client: Arc<Client>,
    local: Option<IpAddr>,
}

impl Dialer {
    /// With what this side shows and believes; from `local`, where that is given.
    pub fn new(client: Arc<Client>, local: Option<IpAddr>) -> Self {
        Self { client, local }
    }

    /// A connection to where `url` points. Whoever calls bounds the time.
    pub async fn dial(&self, url: &Url) -> io::Result<Stream> {
        let host = if url.scheme().is_unix() { SOCKET_HOST } else { url.host() };
        self.dial_as(url, host).await
    }

    /// The same to a server whose certificate must be for `host`.
    pub async fn dial_as(&self, url: &Url, host: &str) -> io::Result<Stream> {
        let stream = connect(url, self.local).await?;
        if url.scheme().is_tls() { self.client.connect(stream, host).await } else { Ok(stream) }
    }
}

/// A bare connection to where `url` points, whatever is to be spoken there; from `local`, if it is
/// TCP.
pub async fn connect(url: &Url, local: Option<IpAddr>) -> io::Result<Stream> {
    if url.scheme().is_unix() {
        return Ok(Stream::Unix(UnixStream::connect(url.socket_path()).await?));
    }
    let stream = match local {
        Some(local) => connect_from(url, local).await?,
        None => TcpStream::connect(url.authority()).await?,
    };
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

async fn connect_from(url: &Url, local: IpAddr) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!("{url}: no address of the kind of {local}"),
    );
    for address in lookup_host(url.authority()).await? {
        let socket = match local {
            IpAddr::V4(_) if address.is_ipv4() => TcpSocket::new_v4()?,
            IpAddr::V6(_) if address.is_ipv6() => TcpSocket::new_v6()?,
            _ => continue,
        };
        socket.bind(SocketAddr::new(local, 0))?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_other_end_sees_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let local = "127.0.0.7".parse().unwrap();
        let (dialed, accepted) = tokio::join!(connect(&url, Some(local)), listener.accept());
        assert!(dialed.is_ok());
        assert_eq!(accepted.unwrap().1.ip(), local);
        let other = Some("::1".parse().unwrap());
        assert!(connect(&url, other).await.is_err(), "no IPv4 address is reached from an IPv6 one");
    }
}
