//! The accepting side.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{Acceptor, NoServerSessionStorage};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::authority::{Authority, Derived};
use super::certificate::{self, Purpose, Subject};
use super::keys::{Keys, Side};
use super::names::Algorithms;
use super::refused::{PeerIdentity, Refused};
use super::revoked::Revoked;
use super::trust::Trust;
use super::verifier::{Allowed, Clients};
use super::waiting::Waiting;
use super::{HANDSHAKE_TIMEOUT, Report, Settings, TlsError, san};
use crate::stream::{PeerAddress, Stream};

/// What rustls says when our certificate cannot be read.
const NOTHING_PRESENTED: &str = "no server certificate chain resolved";

/// Makes connections of clients secure, and refuses those that may not be served.
pub struct Server {
    keys: Arc<Keys>,
    /// Nothing where clients need no certificate.
    authority: Option<Authority>,
    revoked: Option<Arc<Revoked>>,
    allowed: Allowed,
    checks_client_address: bool,
    algorithms: Algorithms,
    protocols: Vec<Vec<u8>>,
    config: Derived<ServerConfig>,
    waiting: Waiting,
    pub(super) handshake_timeout: Duration,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Server {
    /// Reads all files, and fails if one of them is broken. `protocols` are what a client may
    /// choose from; with none, what it offers is not looked at. At most `handshakes_max`
    /// are under way at once.
    pub fn new(
        settings: &Settings,
        algorithms: &Algorithms,
        protocols: &[&str],
        handshakes_max: usize,
        report: &Report,
    ) -> Result<Self, TlsError> {
        settings.check()?;
        let provider = Arc::clone(&algorithms.provider);
        let open = |files, side| Keys::open(files, side, Arc::clone(&provider), Arc::clone(report));
        let keys = open((&settings.cert_file, &settings.key_file), Side::Server)?;
        if !settings.client_cert_file.is_empty() {
            // Only looked at: a member that is going to dial must be able to.
            open((&settings.client_cert_file, &settings.client_key_file), Side::Client)?;
        }
        let authority = settings.demands_certificates().then(|| {
            let file = &settings.trusted_ca_file;
            Authority::open(file, Purpose::Client, algorithms, Arc::clone(report))
        });
        let server = Self {
            keys: Arc::new(keys),
            authority: authority.transpose()?,
            revoked: (!settings.crl_file.is_empty())
                .then(|| Arc::new(Revoked::of(&settings.crl_file))),
            allowed: Allowed::of(settings),
            checks_client_address: settings.checks_client_address,
            algorithms: algorithms.clone(),
            protocols: protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
            config: Derived::new(),
            waiting: Waiting::new(handshakes_max),
            handshake_timeout: HANDSHAKE_TIMEOUT,
        };
        server.config()?;
        Ok(server)
    }

    /// What to do with a new connection.
    fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let trust = self.authority.as_ref().map(Authority::current);
        let made = self.config.get(trust, |trust| self.make_config(trust));
        made.map_err(|error| TlsError(format!("tls: {error}")))
    }

    fn make_config(&self, trust: Option<&Arc<Trust>>) -> Result<ServerConfig, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.algorithms.provider))
            .with_protocol_versions(&self.algorithms.versions)?;
        let builder = match trust {
            None => builder.with_no_client_auth(),
            Some(trust) => builder.with_client_cert_verifier(Arc::new(Clients::new(
                Arc::clone(trust),
                self.allowed.clone(),
                self.algorithms.clone(),
            ))),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&self.keys) as _);
        config.alpn_protocols.clone_from(&self.protocols);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Shakes hands, in bounded time, and looks who it is.
    pub async fn accept(
        &self,
        stream: Stream,
        peer: PeerAddress,
    ) -> Result<(Stream, PeerIdentity), Refused> {
        let mut place = self.waiting.enter();
        let handshake = timeout(self.handshake_timeout, self.shake_hands(stream));
        let (stream, server_name) = tokio::select! {
            // First: whoever has lost its place costs no more signatures.
            biased;
            () = place.lost() => return Err(Refused::new("too many handshakes are under way")),
            shaken = handshake => shaken.unwrap_or_else(|_| Err(Refused::new("i/o timeout")))?,
        };
        // The rest may take its time: whoever got here has shown its certificate.
        drop(place);
        let looked = self.look(&stream, peer).await;
        let identity = looked.map_err(|refused| Refused { server_name, ..refused })?;
        Ok((Stream::Tls(Box::new(stream.into())), identity))
    }

    async fn shake_hands(
        &self,
        stream: Stream,
    ) -> Result<(tokio_rustls::server::TlsStream<Stream>, String), Refused> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let server_name = start.client_hello().server_name().unwrap_or_default().to_owned();
        let named = |refused| Refused { server_name: server_name.clone(), ..refused };
        let config = self.config().map_err(|error| named(Refused::new(error.to_string())))?;
        match start.into_stream(config).await {
            Ok(stream) => Ok((stream, server_name)),
            Err(error) => {
                let refused = Refused::from(error);
                let is_ours = refused.text.ends_with(NOTHING_PRESENTED);
                Err(named(if is_ours { Refused::new(self.keys.failure()) } else { refused }))
            }
        }
    }

    /// What a verified certificate must be beside.
    async fn look(
        &self,
        stream: &tokio_rustls::server::TlsStream<Stream>,
        peer: PeerAddress,
    ) -> Result<PeerIdentity, Refused> {
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let Some(leaf) = chain.first() else {
            // rustls has refused it before; this is the second lock of the same door.
            return match self.authority {
                None => Ok(PeerIdentity::default()),
                Some(_) => Err(Refused::new("tls: client didn't provide a certificate")),
            };
        };
        let subject = certificate::parse(leaf).map(|parsed| Subject::of(&parsed));
        let subject = subject.ok_or_else(|| Refused::new("x509: malformed certificate"))?;
        let refused = |text: String| Refused::new(text).with_subject(subject.clone());
        if let (true, PeerAddress::Tcp(address)) = (self.checks_client_address, peer) {
            // A resolver that does not answer must not hold the connection for ever.
            let checked = timeout(HANDSHAKE_TIMEOUT, san::check(leaf, &subject, address.ip()));
            let checked = checked.await.unwrap_or_else(|_| Err("i/o timeout".to_owned()));
            checked.map_err(refused)?;
        }
        if let Some(revoked) = &self.revoked {
            let (revoked, chain) = (Arc::clone(revoked), chain.to_vec());
            // A long list takes long to read, and there are other connections on this lane.
            let checked = tokio::task::spawn_blocking(move || revoked.check(&chain)).await;
            let checked = checked.map_err(|error| refused(error.to_string()))?;
            checked.map_err(|error| refused(error.to_string()))?;
        }
        Ok(PeerIdentity { common_name: Some(subject.common_name.as_str().into()) })
    }

    /// How many handshakes are under way.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.count()
    }
}
