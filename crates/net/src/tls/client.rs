//! The dialling side.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::authority::{Authority, Derived};
use super::certificate::Purpose;
use super::keys::{Keys, Side};
use super::names::Algorithms;
use super::refused::reworded;
use super::trust::Trust;
use super::verifier::{Allowed, Servers};
use super::{HANDSHAKE_TIMEOUT, Report, Settings, TlsError};
use crate::stream::Stream;

/// Makes connections to servers secure, and refuses servers that are not believed.
pub struct Client {
    /// Nothing when there is no certificate to present.
    keys: Option<Arc<Keys>>,
    /// Nothing when any server is believed.
    authority: Option<Authority>,
    allowed: Allowed,
    server_name: String,
    algorithms: Algorithms,
    protocols: Vec<Vec<u8>>,
    config: Derived<ClientConfig>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Client {
    /// Reads all files, and fails if one of them is broken. `protocols` are what a server may
    /// choose from; with none, nothing is negotiated.
    pub fn new(
        settings: &Settings,
        algorithms: &Algorithms,
        protocols: &[&str],
        report: &Report,
    ) -> Result<Self, TlsError> {
        let mut keys = None;
        if !settings.is_empty() {
            settings.check()?;
            let provider = &algorithms.provider;
            let open =
                |files, side| Keys::open(files, side, Arc::clone(provider), Arc::clone(report));
            let own = (settings.cert_file.as_str(), settings.key_file.as_str());
            // The server's own certificate must be sound even where another one is presented.
            let presented = open(own, Side::Client)?;
            keys = Some(Arc::new(match settings.client_cert_file.as_str() {
                "" => presented,
                cert => open((cert, &settings.client_key_file), Side::Client)?,
            }));
        }
        let authority = (!settings.trusts_any_server).then(|| {
            let file = &settings.trusted_ca_file;
            Authority::open(file, Purpose::Server, algorithms, Arc::clone(report))
        });
        Ok(Self {
            keys,
            authority: authority.transpose()?,
            allowed: Allowed::of(settings),
            server_name: settings.server_name.clone(),
            algorithms: algorithms.clone(),
            protocols: protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
            config: Derived::new(),
        })
    }

    fn config(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        let trust = self.authority.as_ref().map(Authority::current);
        self.config.get(trust, |trust| self.make_config(trust))
    }

    fn make_config(&self, trust: Option<&Arc<Trust>>) -> Result<ClientConfig, rustls::Error> {
        let verifier = Servers {
            trust: trust.cloned(),
            allowed: self.allowed.clone(),
            algorithms: self.algorithms.clone(),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.algorithms.provider))
            .with_protocol_versions(&self.algorithms.versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.keys {
            None => builder.with_no_client_auth(),
            Some(keys) => builder.with_client_cert_resolver(Arc::clone(keys) as _),
        };
        config.alpn_protocols.clone_from(&self.protocols);
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Shakes hands with the server that was dialled as `host`, in bounded time.
    pub async fn connect(&self, stream: Stream, host: &str) -> io::Result<Stream> {
        let name = if self.server_name.is_empty() { host } else { &self.server_name };
        let name = name.strip_suffix('.').unwrap_or(name);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            let text = format!("tls: {name:?} is neither a name nor an address");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let config = self.config().map_err(io::Error::other)?;
        let handshake = TlsConnector::from(config).connect(name, stream);
        let timed_out =
            || io::Error::new(io::ErrorKind::TimedOut, "net/http: TLS handshake timeout");
        let shaken = timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| timed_out())?;
        Ok(Stream::Tls(Box::new(shaken.map_err(reworded)?.into())))
    }
}
