//! Connections to members by TLS, where their address asks for it.

use std::io;
use std::sync::Arc;

use net::Url;
use net::tls::Client;

use crate::dial::{BoxFuture, Connection, Dial, connect};

/// The name that a certificate must have behind a socket file.
const SOCKET_HOST: &str = "localhost";

/// Connections with TLS for `https` and `unixs`, and without it for the others. No protocol is
/// negotiated: members speak HTTP/1.1.
#[derive(Debug, Clone)]
pub struct TlsDial(Arc<Client>);

impl TlsDial {
    /// With what this member shows and believes.
    pub fn new(client: Arc<Client>) -> Self {
        Self(client)
    }
}

impl Dial for TlsDial {
    fn dial<'a>(&'a self, url: &'a Url) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            let stream = connect(url).await?;
            if !url.scheme().is_tls() {
                return Ok(Box::new(stream) as Box<dyn Connection>);
            }
            let host = if url.scheme().is_unix() { SOCKET_HOST } else { url.host() };
            Ok(Box::new(self.0.connect(stream, host).await?) as Box<dyn Connection>)
        })
    }
}
