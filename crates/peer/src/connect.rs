//! Opens bare connections to members, if asked from one address of this machine.

use std::io;
use std::net::{IpAddr, SocketAddr};

use net::{Stream, Url};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};

/// A connection to where `url` points, whatever is to be spoken there; from `local`, if it is TCP.
pub(crate) async fn connect(url: &Url, local: Option<IpAddr>) -> io::Result<Stream> {
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
