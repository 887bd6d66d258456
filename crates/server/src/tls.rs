//! TLS as the flags describe it: from a configuration to listeners and a dialler, with the lines
//! that a start logs.
//!
//! *Contract.* `server/embed/etcd.go` and `server/embed/config_logging.go` of etcd v3.7.1. One
//! difference: files of the client ports that are missing or broken end the start before anything
//! is done, and not when the member has already joined its cluster.

use std::path::Path;
use std::sync::Arc;

use net::tls::{
    Algorithms, Client, HANDSHAKES_MAX, Note, PEER_HANDSHAKES_MAX, Refused, Report, SelfMade,
    Server, Settings, Version, check_ciphers,
};
use net::{Dialer, Listener, PeerAddress, Url};
use peer::Dial;

use crate::config::{Config, Tls as Flags};
use crate::log::{self, Level};
use crate::plan;

/// What clients may choose to speak.
const CLIENT_PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// What secures the ports of a member, and its way to others. `None` is without certificate.
pub(crate) struct Tls {
    peers: Option<Arc<Server>>,
    clients: Option<Arc<Server>>,
    metrics: Option<Arc<Server>>,
    /// What other members are reached with.
    peer: Settings,
    algorithms: Algorithms,
    report: Report,
}

/// Which port refused a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Client,
    Peer,
}

impl Tls {
    /// Reads and makes what the flags name. `places` is how many connections of
    /// clients there can be.
    pub(crate) fn prepare(config: &Config, places: usize) -> Result<Self, String> {
        let algorithms = algorithms(config)?;
        let report = report();
        let peer = settings(config, &config.peer_tls, Endpoint::Peer, &report)?;
        warn_of_plain(config, Endpoint::Peer, &peer);
        let client = settings(config, &config.client_tls, Endpoint::Client, &report)?;
        warn_of_plain(config, Endpoint::Client, &client);
        let text = |error: net::tls::TlsError| error.to_string();
        let is_asked =
            |urls: &[&Vec<Url>]| urls.iter().copied().flatten().any(|url| url.scheme().is_tls());
        // Half of the places stay for connections that have shaken hands.
        let handshakes = HANDSHAKES_MAX.min(places / 2);
        let server = |settings: &Settings, protocols: &[&str], handshakes, is_asked: bool| {
            (is_asked && !settings.is_empty())
                .then(|| Server::new(settings, &algorithms, protocols, handshakes, &report))
                .transpose()
                .map(|server| server.map(Arc::new))
                .map_err(text)
        };
        // Members speak HTTP/1.1 whatever they offer.
        let asked = is_asked(&[&config.listen_peer_urls]);
        let peers = server(&peer, &[], PEER_HANDSHAKES_MAX, asked)?;
        let urls = [&config.listen_client_urls, &config.listen_client_http_urls];
        let serving = Settings { checks_client_address: false, ..client.clone() };
        let clients = server(&serving, &CLIENT_PROTOCOLS, handshakes, is_asked(&urls))?;
        let asked = is_asked(&[&config.listen_metrics_urls]);
        let metrics = server(&client, &CLIENT_PROTOCOLS, handshakes, asked)?;
        Ok(Self { peers, clients, metrics, peer, algorithms, report })
    }

    /// How other members are reached, once it is known whom their certificates must name.
    pub(crate) fn dial(&self, config: &Config) -> Result<Arc<dyn Dial>, String> {
        let server_name = config.peer_server_name.clone().unwrap_or_default();
        let settings = Settings { server_name, ..self.peer.clone() };
        // Members speak HTTP/1.1 without being asked.
        let client = Client::new(&settings, &self.algorithms, &[], &self.report)
            .map_err(|error| error.to_string())?;
        Ok(Arc::new(Dialer::new(Arc::new(client), plan::local_address(config))))
    }

    /// Secures a peer port whose address asks for it.
    pub(crate) fn for_peers(&self, listener: Listener, url: &Url) -> Result<Listener, String> {
        let missing = format!(
            "cannot listen on TLS for {}: KeyFile and CertFile are not presented",
            listener.address()
        );
        secured(listener, url, self.peers.as_ref(), || missing)
    }

    /// Secures a client port whose address asks for it.
    pub(crate) fn for_clients(&self, listener: Listener, url: &Url) -> Result<Listener, String> {
        secured(listener, url, self.clients.as_ref(), || no_client_certificate(url))
    }

    /// Secures a port for metrics whose address asks for it.
    pub(crate) fn for_metrics(&self, listener: Listener, url: &Url) -> Result<Listener, String> {
        secured(listener, url, self.metrics.as_ref(), || {
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
                .to_owned()
        })
    }

    /// Fails when a client port has to be secured and there is no certificate for it.
    pub(crate) fn check_clients(&self, config: &Config) -> Result<(), String> {
        let urls = [&config.listen_client_urls, &config.listen_client_http_urls];
        let mut secure = urls.into_iter().flatten().filter(|url| url.scheme().is_tls());
        match (secure.next(), &self.clients) {
            (Some(url), None) => Err(no_client_certificate(url)),
            _ => Ok(()),
        }
    }
}

fn no_client_certificate(url: &Url) -> String {
    format!(
        "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS \
         scheme"
    )
}

fn secured(
    listener: Listener,
    url: &Url,
    server: Option<&Arc<Server>>,
    missing: impl FnOnce() -> String,
) -> Result<Listener, String> {
    match (url.scheme().is_tls(), server) {
        (false, _) => Ok(listener),
        (true, Some(server)) => Ok(listener.with_tls(Arc::clone(server))),
        (true, None) => Err(missing()),
    }
}

fn algorithms(config: &Config) -> Result<Algorithms, String> {
    let text = |error: net::tls::TlsError| error.to_string();
    let missing = check_ciphers(&config.cipher_suites).map_err(text)?;
    if !missing.is_empty() {
        log::warn("ignoring TLS cipher suites that rustls does not choose by a list")
            .field("cipher-suites", &missing)
            .emit();
    }
    let version = |told| Version::parse(told).map_err(text);
    let (min, max) = (version(&config.tls_min_version)?, version(&config.tls_max_version)?);
    Algorithms::new(&config.cipher_suites, min, max).map_err(text)
}

/// What these flags describe; with a certificate that is made, if they ask for it.
fn settings(
    config: &Config,
    flags: &Flags,
    endpoint: Endpoint,
    report: &Report,
) -> Result<Settings, String> {
    let mut settings = Settings {
        cert_file: flags.cert_file.clone(),
        key_file: flags.key_file.clone(),
        client_cert_file: flags.client_cert_file.clone(),
        client_key_file: flags.client_key_file.clone(),
        client_cert_auth: flags.client_cert_auth,
        trusted_ca_file: flags.trusted_ca_file.clone(),
        crl_file: flags.crl_file.clone(),
        allowed_cns: flags.allowed_cns.clone(),
        allowed_hostnames: flags.allowed_hostnames.clone(),
        checks_client_address: !flags.skip_client_san_verification,
        server_name: String::new(),
        trusts_any_server: false,
    };
    let (kind, urls): (_, Vec<&Url>) = match endpoint {
        Endpoint::Peer => ("peer", config.listen_peer_urls.iter().collect()),
        Endpoint::Client => (
            "client",
            config.listen_client_urls.iter().chain(&config.listen_client_http_urls).collect(),
        ),
    };
    if flags.auto_tls && !settings.is_empty() {
        log::warn(match endpoint {
            Endpoint::Peer => "ignoring peer auto TLS since certs given",
            Endpoint::Client => "ignoring client auto TLS since certs given",
        })
        .emit();
    } else if flags.auto_tls {
        let directory = Path::new(&config.data_dir).join("fixtures").join(kind);
        let named = urls.iter().filter(|url| !url.scheme().is_unix());
        let hosts: Vec<_> = named.map(|url| url.host().to_owned()).collect();
        let years = config.self_signed_cert_validity;
        let made = SelfMade { directory: &directory, hosts: &hosts, years };
        // Nothing else that was said of certificates counts beside it.
        settings = made.settings(report).map_err(|error| error.to_string())?;
    }
    if !settings.is_empty() {
        log::info(match endpoint {
            Endpoint::Peer => "starting with peer TLS",
            Endpoint::Client => "starting with client TLS",
        })
        .field("tls-info", &shown(&settings))
        .field("cipher-suites", &config.cipher_suites)
        .emit();
    }
    Ok(settings)
}

/// The settings as etcd's lines show them.
fn shown(settings: &Settings) -> String {
    format!(
        "cert = {}, key = {}, client-cert={}, client-key={}, trusted-ca = {}, client-cert-auth = \
         {}, crl-file = {}",
        settings.cert_file,
        settings.key_file,
        settings.client_cert_file,
        settings.client_key_file,
        settings.trusted_ca_file,
        settings.client_cert_auth,
        settings.crl_file
    )
}

/// Tells of ports that stay open to all though certificates were given.
fn warn_of_plain(config: &Config, endpoint: Endpoint, settings: &Settings) {
    let (urls, flag, texts): (Vec<&Url>, _, _) = match endpoint {
        Endpoint::Peer => (
            config.listen_peer_urls.iter().collect(),
            "peer-url",
            [
                "scheme is HTTP while key and cert files are present; ignoring key and cert files",
                "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert \
                 auth for this URL",
            ],
        ),
        Endpoint::Client => (
            config.listen_client_urls.iter().chain(&config.listen_client_http_urls).collect(),
            "client-url",
            [
                "scheme is http or unix while key and cert files are present; ignoring key and \
                 cert files",
                "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert \
                 auth for this URL",
            ],
        ),
    };
    for url in urls.into_iter().filter(|url| !url.scheme().is_tls()) {
        if !settings.is_empty() {
            log::warn(texts[0]).text(flag, url).emit();
        }
        if settings.client_cert_auth {
            log::warn(texts[1]).text(flag, url).emit();
        }
    }
}

/// Where what happens to certificates later is told.
pub(crate) fn report() -> Report {
    Arc::new(tell)
}

fn tell(note: Note) {
    let level = if note.msg.starts_with("created ") { Level::Info } else { Level::Warn };
    let line = log::line(level, note.msg);
    note.fields.iter().fold(line, |line, (name, value)| line.field(name, value)).emit();
}

/// Tells of a connection that was not let in.
pub(crate) fn log_refused(endpoint: Endpoint, peer: PeerAddress, refused: &Refused) {
    // Whoever only knocks is no news.
    let level = if refused.is_eof { Level::Debug } else { Level::Warn };
    let line = log::line(
        level,
        match endpoint {
            Endpoint::Client => "rejected connection on client endpoint",
            Endpoint::Peer => "rejected connection on peer endpoint",
        },
    );
    let line = line.text("remote-addr", &peer).field("server-name", &refused.server_name);
    let line = match &refused.names {
        None => line,
        Some((addresses, names)) => line.texts("ip-addresses", addresses).field("dns-names", names),
    };
    line.field("error", &refused.text).emit();
}
