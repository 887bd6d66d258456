//! Reaches other members from one address of this machine.

use std::io;
use std::net::{IpAddr, SocketAddr};

use net::{Scheme, Stream, Url};
use tokio::net::{TcpSocket, lookup_host};

use crate::dial::{BoxFuture, Connection, Dial, PlainDial};

/// Connections without TLS that come from `local`, where they are TCP.
#[derive(Debug, Clone, Copy)]
pub struct DialFrom {
    /// The address that other members see.
    pub local: IpAddr,
}

impl Dial for DialFrom {
    fn dial<'a>(&'a self, url: &'a Url) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        if url.scheme() != Scheme::Http {
            return PlainDial.dial(url);
        }
        Box::pin(async move {
            let mut failed = io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("{url}: no address of the kind of {}", self.local),
            );
            for address in lookup_host(url.authority()).await? {
                let socket = match self.local {
                    IpAddr::V4(_) if address.is_ipv4() => TcpSocket::new_v4()?,
                    IpAddr::V6(_) if address.is_ipv6() => TcpSocket::new_v6()?,
                    _ => continue,
                };
                socket.bind(SocketAddr::new(self.local, 0))?;
                match socket.connect(address).await {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        return Ok(Box::new(Stream::Tcp(stream)) as Box<dyn Connection>);
                    }
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        })
    }
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
        let from = DialFrom { local };
        let (dialed, accepted) = tokio::join!(from.dial(&url), listener.accept());
        assert!(dialed.is_ok());
        assert_eq!(accepted.unwrap().1.ip(), local);
        let other = DialFrom { local: "::1".parse().unwrap() };
        assert!(other.dial(&url).await.is_err(), "no IPv4 address is reached from an IPv6 one");
    }
}
