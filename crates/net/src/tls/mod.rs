//! TLS: who a member is to others, whom it believes, and what it tells of refusals.
//!
//! ```text
//!  Settings ─┬─► Server::accept ─► ClientHello ─► handshake ─► revoked? address? ─► Stream
//!            └─► Client::connect ────────────────► handshake ─────────────────────► Stream
//!                     │
//!                Reloaded: certificate and key, authorities, revocations, looked at each time
//! ```
//!
//! *Invariants.* 1. A [`Server`] gives a stream away only when every demand of its settings is met;
//! sessions are never resumed, so that a certificate which is revoked or no longer trusted opens no
//! new connection. 2. A file that changes is read again before the next handshake; a broken one
//! ends no process: a certificate or a list of revocations that cannot be read refuses connections,
//! and authorities stay as they were. 3. A handshake has [`HANDSHAKE_TIMEOUT`], and at most
//! [`HANDSHAKES_MAX`] (for members [`PEER_HANDSHAKES_MAX`]) are under way: one more ends the
//! oldest, so that whoever only opens connections delays nobody.
//!
//! *Absent.* Log lines: see [`Note`] and [`Refused`]. Resumption, and cipher suites without
//! forward secrecy or authenticated encryption, which rustls does not have.
//!
//! *Contract.* `client/pkg/transport` and `client/pkg/tlsutil` of etcd v3.7.1, and of Go's
//! `crypto/x509` what decides whether a certificate is believed.

mod authority;
mod certificate;
mod client;
mod file;
mod keys;
mod names;
mod refused;
mod reverse;
mod revoked;
mod san;
mod self_made;
mod server;
#[cfg(test)]
mod tests;
mod trust;
mod verifier;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use base::go::quoted_list;
use thiserror::Error;

pub use client::Client;
pub use names::{Algorithms, Version, check_ciphers};
pub use refused::{PeerIdentity, Refused};
pub use self_made::SelfMade;
pub use server::Server;

/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes of clients that may be under way on one kind of port.
pub const HANDSHAKES_MAX: usize = 1024;

/// Handshakes of other members that may be under way: few, because they run on the lane of raft's
/// own streams, and because finished connections need the rest of
/// [`PEER_CONNECTIONS_MAX`](crate::PEER_CONNECTIONS_MAX).
pub const PEER_HANDSHAKES_MAX: usize = 64;

/// TLS cannot be set up; the text says why, in etcd's words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct TlsError(pub(crate) String);

/// Something the operator should read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The message.
    pub msg: &'static str,
    /// Names and values.
    pub fields: Vec<(&'static str, String)>,
}

/// Where notes go.
pub type Report = Arc<dyn Fn(Note) + Send + Sync>;

/// TLS as an operator describes it. Paths are empty when they were not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// What is presented to clients, and to servers if there is nothing else for them.
    pub cert_file: String,
    /// The key of `cert_file`.
    pub key_file: String,
    /// What is presented to servers.
    pub client_cert_file: String,
    /// The key of `client_cert_file`.
    pub client_key_file: String,
    /// Whether clients must have a certificate.
    pub client_cert_auth: bool,
    /// Who may sign certificates. Clients must have one as soon as this is given.
    pub trusted_ca_file: String,
    /// Which certificates are revoked.
    pub crl_file: String,
    /// One of these must be the common name of a certificate, if there are any.
    pub allowed_cns: Vec<String>,
    /// The same for names and addresses.
    pub allowed_hostnames: Vec<String>,
    /// Whether a client's certificate must be for the address that it calls from.
    pub checks_client_address: bool,
    /// The name that servers must have; empty for the one that is dialled.
    pub server_name: String,
    /// Whether any server is believed, because all of them made their certificates themselves.
    pub trusts_any_server: bool,
}

impl Settings {
    /// Whether there is neither a certificate nor a key.
    pub fn is_empty(&self) -> bool {
        self.cert_file.is_empty() && self.key_file.is_empty()
    }

    /// Whether a client without a certificate is refused.
    pub fn demands_certificates(&self) -> bool {
        self.client_cert_auth || !self.trusted_ca_file.is_empty()
    }

    /// Fails unless files and lists fit together.
    fn check(&self) -> Result<(), TlsError> {
        if self.cert_file.is_empty() || self.key_file.is_empty() {
            return Err(TlsError(format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                self.key_file, self.cert_file
            )));
        }
        if self.client_key_file.is_empty() != self.client_cert_file.is_empty() {
            return Err(TlsError(format!(
                "ClientKeyFile and ClientCertFile must both be present or both absent: key: {}, \
                 cert: {}]",
                self.client_key_file, self.client_cert_file
            )));
        }
        if !self.allowed_cns.is_empty() && !self.allowed_hostnames.is_empty() {
            return Err(TlsError(format!(
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns={}, hostnames={})",
                quoted_list(&self.allowed_cns),
                quoted_list(&self.allowed_hostnames)
            )));
        }
        Ok(())
    }
}
