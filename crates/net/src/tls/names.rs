//! Versions and cipher suites by the names that operators give them: Go's.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use super::TlsError;

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 1.2.
    Tls12,
    /// 1.3.
    Tls13,
}

impl Version {
    /// Reads a version; nothing for an empty text.
    pub fn parse(text: &str) -> Result<Option<Self>, TlsError> {
        match text {
            "" => Ok(None),
            "TLS1.2" => Ok(Some(Self::Tls12)),
            "TLS1.3" => Ok(Some(Self::Tls13)),
            _ => Err(TlsError(format!(
                "unexpected TLS version {text:?} (must be one of: TLS1.2, TLS1.3)"
            ))),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS1.2",
            Self::Tls13 => "TLS1.3",
        })
    }
}

/// The suites of TLS 1.2 that there are here; those of 1.3 are not chosen by operators.
const SUITES: [(&str, SupportedCipherSuite); 8] = [
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    // As older lists write the two before.
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// What Go knows and rustls does not offer: no forward secrecy, CBC, RC4, 3DES; and the suites of
/// TLS 1.3, which are always on.
const OTHER_SUITES: [&str; 19] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

fn find(name: &str) -> Option<SupportedCipherSuite> {
    SUITES.iter().find(|(known, _)| *known == name).map(|(_, suite)| *suite)
}

/// Fails for a name that is nobody's; gives those that Go has and this program does not.
pub fn check_ciphers(names: &[String]) -> Result<Vec<String>, TlsError> {
    let mut missing = Vec::new();
    for name in names {
        if OTHER_SUITES.contains(&name.as_str()) {
            missing.push(name.clone());
        } else if find(name).is_none() {
            return Err(TlsError(format!("unexpected TLS cipher suite {name:?}")));
        }
    }
    Ok(missing)
}

/// What may be spoken.
#[derive(Clone)]
pub struct Algorithms {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
}

impl Algorithms {
    /// From lists and limits; empty is everything, and the least version is 1.2.
    pub fn new(
        ciphers: &[String],
        min: Option<Version>,
        max: Option<Version>,
    ) -> Result<Self, TlsError> {
        check_ciphers(ciphers)?;
        let mut provider = default_provider();
        let chosen: Vec<_> = ciphers.iter().filter_map(|name| find(name)).collect();
        if !ciphers.is_empty() {
            let newest = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_some());
            provider.cipher_suites = newest.chain(&chosen).copied().collect();
        }
        let (min, max) = (min.unwrap_or(Version::Tls12), max.unwrap_or(Version::Tls13));
        let has_suites =
            |version| version == Version::Tls13 || ciphers.is_empty() || !chosen.is_empty();
        let known =
            [(Version::Tls13, &rustls::version::TLS13), (Version::Tls12, &rustls::version::TLS12)];
        let versions: Vec<_> = known
            .into_iter()
            .filter(|(version, _)| (min..=max).contains(version) && has_suites(*version))
            .map(|(_, protocol)| protocol)
            .collect();
        if versions.is_empty() {
            return Err(TlsError(format!(
                "none of the TLS cipher suites is supported by this version of quorate: {}",
                ciphers.join(",")
            )));
        }
        Ok(Self { provider: Arc::new(provider), versions })
    }

    /// Which signatures are understood.
    pub(super) fn signatures(&self) -> WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}

impl fmt::Debug for Algorithms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Algorithms").field("versions", &self.versions).finish_non_exhaustive()
    }
}
