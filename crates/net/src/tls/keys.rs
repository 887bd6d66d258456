//! A certificate and its key, as they are presented.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::file::Reloaded;
use super::{Note, Report, TlsError, certificate};

/// Which side presents it; the words of etcd's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    Client,
}

/// A certificate and its key.
pub(super) struct Keys {
    files: Reloaded<CertifiedKey>,
    cert_file: String,
    key_file: String,
    side: Side,
    report: Report,
    /// Why there was nothing to present the last time that there was nothing.
    failure: Mutex<String>,
}

impl Keys {
    /// Reads the files, and fails unless they belong together.
    pub(super) fn open(
        (cert_file, key_file): (&str, &str),
        side: Side,
        provider: Arc<CryptoProvider>,
        report: Report,
    ) -> Result<Self, TlsError> {
        let paths = vec![cert_file.to_owned(), key_file.to_owned()];
        let files = Reloaded::new(paths, move |contents| match contents {
            [certificate, key] => pair(certificate, key, &provider),
            _ => unreachable!("two files are read"),
        });
        files.read().value?;
        let (cert_file, key_file) = (cert_file.to_owned(), key_file.to_owned());
        Ok(Self { files, cert_file, key_file, side, report, failure: Mutex::default() })
    }

    /// What to present now.
    pub(super) fn current(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        let read = self.files.read();
        if let Err(error) = &read.value {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
        }
        if let (Err(error), true) = (&read.value, read.is_news) {
            let is_missing = error.0.ends_with("no such file or directory");
            let msg = match (self.side, is_missing) {
                (Side::Server, true) => "failed to find peer cert files",
                (Side::Server, false) => "failed to create peer certificate",
                (Side::Client, true) => "failed to find client cert files",
                (Side::Client, false) => "failed to create client certificate",
            };
            (self.report)(Note {
                msg,
                fields: vec![
                    ("cert-file", self.cert_file.clone()),
                    ("key-file", self.key_file.clone()),
                    ("error", error.0.clone()),
                ],
            });
        }
        read.value
    }

    /// Why there was nothing to present the last time that there was nothing.
    pub(super) fn failure(&self) -> String {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("cert_file", &self.cert_file).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Keys {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current().ok()
    }
}

impl ResolvesClientCert for Keys {
    fn resolve(
        &self,
        _authorities: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.current().ok()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Puts a certificate and its key together, with Go's refusals.
fn pair(
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| no_certificate(certificate))?;
    let first = chain.first().ok_or_else(|| no_certificate(certificate))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| no_key(key))?;
    let parsed = certificate::parse(first)
        .ok_or_else(|| TlsError("x509: malformed certificate".to_owned()))?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| TlsError("tls: failed to parse private key".to_owned()))?;
    match key.public_key() {
        Some(public) if public.as_ref() == parsed.public_key().raw => {}
        _ => return Err(TlsError("tls: private key does not match public key".to_owned())),
    }
    Ok(CertifiedKey::new(chain, key))
}

/// What the blocks of a file of PEM say that they hold.
fn labels(pem: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(pem);
    let label = |line: &str| {
        line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----").map(str::to_owned)
    };
    text.lines().filter_map(label).collect()
}

fn no_certificate(pem: &[u8]) -> TlsError {
    let found = labels(pem);
    let reason = match found.as_slice() {
        [] => "failed to find any PEM data in certificate input".to_owned(),
        [one] if one.ends_with("PRIVATE KEY") => {
            "failed to find certificate PEM data in certificate input, but did find a private key; \
             PEM inputs may have been switched"
                .to_owned()
        }
        // A block that cannot be read counts for nothing.
        found if found.iter().any(|label| label == "CERTIFICATE") => {
            "failed to find any PEM data in certificate input".to_owned()
        }
        found => format!(
            "failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM \
             blocks of the following types: [{}]",
            found.join(" ")
        ),
    };
    TlsError(format!("tls: {reason}"))
}

fn no_key(pem: &[u8]) -> TlsError {
    let found = labels(pem);
    let reason = match found.as_slice() {
        [one] if one == "CERTIFICATE" => {
            "found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        found if found.iter().all(|label| label.ends_with("PRIVATE KEY")) => {
            "failed to find any PEM data in key input".to_owned()
        }
        found => format!(
            "failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after \
             skipping PEM blocks of the following types: [{}]",
            found.join(" ")
        ),
    };
    TlsError(format!("tls: {reason}"))
}
