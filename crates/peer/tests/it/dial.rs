//! Reaches other members without TLS.

use std::io;

use net::Url;
use peer::{BoxFuture, Connection, Dial};
use tokio::net::TcpStream;

/// Connections by bare TCP.
#[derive(Debug)]
pub(crate) struct PlainDial;

impl Dial for PlainDial {
    fn dial<'a>(&'a self, url: &'a Url) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            if url.scheme().is_tls() {
                return Err(io::Error::other(format!("{url}: TLS is not configured")));
            }
            let stream = TcpStream::connect(url.authority()).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}
