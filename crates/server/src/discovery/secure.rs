//! TLS on the way to the discovery service.
//!
//! *Contract.* `newTLSConfig` in `client/v3/config.go` and the schemes of endpoints in
//! `client/v3/internal/endpoint` of etcd v3.7.1.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use net::tls::{Algorithms, Client, Settings};
use net::{Dialer, Stream, Url};
use tonic::codegen::Service;

use super::service::Failure;
use crate::config::Discovery;
use crate::tls;

/// What a service must be able to speak.
const PROTOCOLS: [&str; 1] = ["h2"];

/// Opens secure connections to one endpoint.
#[derive(Clone)]
pub(super) struct Secure {
    dialer: Dialer,
    endpoint: Url,
}

impl Secure {
    /// `None` where the way to `endpoint` is without TLS: its scheme says so, or has nothing to say
    /// and the flags ask for none.
    pub(super) fn of(asked: &Discovery, endpoint: &str) -> Result<Option<Self>, Failure> {
        let refused = |error: &dyn std::fmt::Display| Failure::Refused(error.to_string());
        let is_demanded = endpoint.starts_with("https://") || endpoint.starts_with("unixs:");
        let is_free = !endpoint.contains("://") && !endpoint.starts_with("unix:");
        if !(is_demanded || is_free && is_secured(asked)) {
            return Ok(None);
        }
        let url = if is_free { format!("https://{endpoint}") } else { endpoint.to_owned() };
        let endpoint = Url::parse(&url).map_err(|error| refused(&error))?;
        let settings = Settings {
            cert_file: asked.cert.clone(),
            key_file: asked.key.clone(),
            trusted_ca_file: asked.cacert.clone(),
            trusts_any_server: asked.insecure_skip_tls_verify,
            ..Settings::default()
        };
        let algorithms = Algorithms::new(&[], None, None).map_err(|error| refused(&error))?;
        let client = Client::new(&settings, &algorithms, &PROTOCOLS, &tls::report())
            .map_err(|error| refused(&error))?;
        Ok(Some(Self { dialer: Dialer::new(Arc::new(client), None), endpoint }))
    }
}

/// Whether the flags ask for TLS where an endpoint does not say.
fn is_secured(asked: &Discovery) -> bool {
    let is_given = [&asked.cert, &asked.key, &asked.cacert].iter().any(|file| !file.is_empty());
    is_given || !asked.insecure_transport
}

impl Service<Uri> for Secure {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { dialer, endpoint } = self.clone();
        Box::pin(async move { Ok(TokioIo::new(dialer.dial(&endpoint).await?)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_and_flags_say_where_there_is_tls() {
        let is_secure = |endpoint: &str, asked: &Discovery| {
            Secure::of(asked, endpoint).ok().map(|secure| secure.is_some())
        };
        let plain = Discovery::default();
        let asked = Discovery { insecure_transport: false, ..plain.clone() };
        for (endpoint, expected) in [
            ("http://a:1", [false, false]),
            ("unix:///a", [false, false]),
            ("a:1", [false, true]),
            ("https://a:1", [true, true]),
            ("unixs:///a", [true, true]),
        ] {
            let found = [&plain, &asked].map(|asked| is_secure(endpoint, asked));
            assert_eq!(found, expected.map(Some), "{endpoint}");
        }
        let broken = Discovery { cacert: "/nowhere".to_owned(), ..plain };
        assert_eq!(is_secure("a:1", &broken), None);
    }
}
