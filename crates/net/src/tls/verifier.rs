//! What rustls asks in a handshake: whether the other end is believed.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved,
    SignatureScheme,
};

use super::Settings;
use super::certificate::{self, Subject};
use super::names::Algorithms;
use super::refused::refusal;
use super::trust::{self, Trust};

/// The names of which a certificate must have one.
#[derive(Debug, Clone)]
pub(super) struct Allowed {
    common_names: Vec<String>,
    hostnames: Vec<String>,
}

impl Allowed {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            common_names: settings.allowed_cns.clone(),
            hostnames: settings.allowed_hostnames.clone(),
        }
    }

    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        if self.common_names.is_empty() && self.hostnames.is_empty() {
            return Ok(());
        }
        let parsed = certificate::parse(leaf)
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let subject = Subject::of(&parsed);
        let is_allowed = self.common_names.contains(&subject.common_name)
            || self.hostnames.iter().any(|host| certificate::covers(leaf, host));
        match is_allowed {
            true => Ok(()),
            false => Err(refusal("client certificate authentication failed", Some(subject))),
        }
    }
}

/// Judges clients.
#[derive(Debug)]
pub(super) struct Clients {
    trust: Arc<Trust>,
    allowed: Allowed,
    algorithms: Algorithms,
    authorities: Vec<DistinguishedName>,
}

impl Clients {
    pub(super) fn new(trust: Arc<Trust>, allowed: Allowed, algorithms: Algorithms) -> Self {
        let authorities = trust.subjects();
        Self { trust, allowed, algorithms, authorities }
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.authorities
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust.verify(end_entity, intermediates, now)?;
        self.allowed.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.algorithms, message, cert, dss, false)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.algorithms, message, cert, dss, true)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.signatures().supported_schemes()
    }
}

/// Judges servers.
#[derive(Debug)]
pub(super) struct Servers {
    /// Nothing is asked when there is none.
    pub(super) trust: Option<Arc<Trust>>,
    pub(super) allowed: Allowed,
    pub(super) algorithms: Algorithms,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(trust) = &self.trust {
            trust.verify(end_entity, intermediates, now)?;
            let host = server_name.to_str();
            if !certificate::covers(end_entity, &host) {
                let subject = certificate::parse(end_entity).map(|parsed| Subject::of(&parsed));
                let why = subject.unwrap_or_default().mismatch(&host);
                return Err(refusal(format!("tls: failed to verify certificate: {why}"), None));
            }
            self.allowed.check(end_entity)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.algorithms, message, cert, dss, false)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.algorithms, message, cert, dss, true)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.signatures().supported_schemes()
    }
}

/// Whether the other end has the key of the certificate. rustls's own functions read the whole
/// certificate for it, and know no version 1.
fn verify_signature(
    algorithms: &Algorithms,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    is_tls13: bool,
) -> Result<HandshakeSignatureValid, Error> {
    let parsed = certificate::parse(certificate)
        .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let signatures = algorithms.signatures();
    let unoffered = Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme);
    if is_tls13 && !is_of_tls13(signed.scheme) {
        return Err(unoffered);
    }
    let mapped = signatures.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let Some((_, candidates)) = mapped else { return Err(unoffered) };
    // A scheme of TLS 1.3 stands for one algorithm, its first; before, for several.
    let count = if is_tls13 { 1 } else { candidates.len() };
    let is_signed = candidates
        .iter()
        .take(count)
        .any(|known| trust::is_signed_by_key(&parsed, *known, message, signed.signature()));
    match is_signed {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(Error::InvalidCertificate(CertificateError::BadSignature)),
    }
}

/// RSA without PSS signs no handshake of TLS 1.3.
fn is_of_tls13(scheme: SignatureScheme) -> bool {
    use SignatureScheme as S;
    matches!(
        scheme,
        S::ECDSA_NISTP256_SHA256
            | S::ECDSA_NISTP384_SHA384
            | S::ECDSA_NISTP521_SHA512
            | S::RSA_PSS_SHA256
            | S::RSA_PSS_SHA384
            | S::RSA_PSS_SHA512
            | S::ED25519
            | S::ED448
            | S::ML_DSA_44
            | S::ML_DSA_65
            | S::ML_DSA_87
    )
}
