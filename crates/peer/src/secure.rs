//! Connections to members by TLS, where their address asks for it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use net::Url;
use net::tls::Client;

use crate::connect::connect;
use crate::dial::{BoxFuture, Connection, Dial};

/// The name that a certificate must have behind a socket file.
const SOCKET_HOST: &str = "localhost";

/// Connections with TLS for `https` and `unixs`, and without it for the others. What is spoken on
/// them was said when the client was made: members negotiate nothing and speak HTTP/1.1.
#[derive(Debug, Clone)]
pub struct TlsDial {
    client: Arc<Client>,
    local: Option<IpAddr>,
}

impl TlsDial {
    /// With what this member shows and believes; from `local`, where that is given.
    pub fn new(client: Arc<Client>, local: Option<IpAddr>) -> Self {
        Self { client, local }
    }
}

impl Dial for TlsDial {
    fn dial<'a>(&'a self, url: &'a Url) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            let stream = connect(url, self.local).await?;
            if !url.scheme().is_tls() {
                return Ok(Box::new(stream) as Box<dyn Connection>);
            }
            let host = if url.scheme().is_unix() { SOCKET_HOST } else { url.host() };
            Ok(Box::new(self.client.connect(stream, host).await?) as Box<dyn Connection>)
        })
    }
}
