//! What the flags say of TLS, and the connections that follow from it.
//!
//! *Contract.* `newTLSConfig` in `client/v3/config.go` of etcd v3.7.1.

use std::sync::Arc;

use net::Dialer;
use net::tls::{Algorithms, Client, Report, TlsError};

use super::failure::{self, Failure, Outcome};
use super::target::{Demand, demand};

/// What a server must be able to speak.
const PROTOCOLS: [&str; 1] = ["h2"];

/// The flags for TLS; texts are empty when they were not given.
#[derive(Clone, Debug)]
pub(crate) struct Secure {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) cacert: String,
    /// Asks for TLS. Servers must have the name that is dialled all the same: gRPC for Go takes
    /// that before this one.
    pub(crate) server_name: String,
    pub(crate) insecure_transport: bool,
    pub(crate) insecure_skip_tls_verify: bool,
}

impl Secure {
    /// What the endpoints are dialled with, none where it is without TLS. The first of them says
    /// so for all.
    pub(crate) fn dialer(&self, endpoints: &[String]) -> Outcome<Option<Dialer>> {
        let bad = |error: TlsError| Failure::new(failure::BAD_ARGS, error);
        // Broken files are told even where the endpoints do without them.
        let asked = self.asked().map_err(bad)?;
        let client = match endpoints.first().map(|endpoint| demand(endpoint)) {
            None | Some(Demand::Plain) => None,
            Some(Demand::Free) => asked,
            Some(Demand::Secure) => match asked {
                Some(client) => Some(client),
                None => Some(client(&net::tls::Settings::default()).map_err(bad)?),
            },
        };
        Ok(client.map(|client| Dialer::new(Arc::new(client), None)))
    }

    /// The client that the flags ask for, if they do.
    fn asked(&self) -> Result<Option<Client>, TlsError> {
        let given = [&self.cert, &self.key, &self.cacert, &self.server_name];
        let is_given = given.iter().any(|text| !text.is_empty());
        if !is_given && self.insecure_transport && !self.insecure_skip_tls_verify {
            return Ok(None);
        }
        let settings = net::tls::Settings {
            cert_file: self.cert.clone(),
            key_file: self.key.clone(),
            trusted_ca_file: self.cacert.clone(),
            ..net::tls::Settings::default()
        };
        let strict = client(&settings)?;
        if !self.insecure_skip_tls_verify {
            return Ok(Some(strict));
        }
        client(&net::tls::Settings { trusts_any_server: true, ..settings }).map(Some)
    }
}

fn client(settings: &net::tls::Settings) -> Result<Client, TlsError> {
    let algorithms = Algorithms::new(&[], None, None)?;
    // A command is too short for files to change meanwhile.
    let report: Report = Arc::new(|_| ());
    Client::new(settings, &algorithms, &PROTOCOLS, &report)
}
