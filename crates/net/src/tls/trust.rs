//! Whether a chain of certificates leads to an authority that is trusted.
//!
//! ```text
//!  leaf ─┬─ is itself in the bundle ───────────┐
//!        ├─ signed by one of the bundle ───────┼─► its time, its purpose
//!        └─ signed by another ─► webpki, over the certificates that came along
//! ```
//!
//! The two short ways are Go's own rules, which webpki does not share: `openssl req -x509` makes
//! leaves that are authorities, other recipes make version 1, and etcd believes both. An authority
//! counts only in its own time and for its own purposes, which webpki leaves to its caller.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DistinguishedName, Error, RootCertStore};
use x509_parser::certificate::X509Certificate;

use super::certificate::{self, Purpose, sequence};
use super::names::Algorithms;
use super::refused::refusal;

/// What webpki calls an authority that signed a name which it may not sign, and Go's words for it.
const NAME_CONSTRAINT: &str = "NameConstraintViolation";
const FOREIGN_NAME: &str = "tls: failed to verify certificate: x509: a root or intermediate \
                            certificate is not authorized to sign for this name";

/// The authorities that are trusted at some time.
pub(super) struct Trust {
    bundle: Vec<Root>,
    /// Those that may vouch for a purpose now.
    anchors: Anchors,
    /// Those of them that may sign no other authority, which webpki does not ask of its anchors.
    short: Anchors,
    algorithms: Algorithms,
    purpose: Purpose,
    /// The first moment at which another set of authorities is valid.
    good_until: i64,
}

/// A certificate of the bundle, and the name by which others call it their issuer.
struct Root {
    der: CertificateDer<'static>,
    subject: Vec<u8>,
}

/// Authorities as webpki has them.
struct Anchors {
    store: Arc<RootCertStore>,
    /// Nothing where servers are judged, or when there is no authority.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Anchors {
    fn new(store: RootCertStore, purpose: Purpose, algorithms: &Algorithms) -> Self {
        let store = Arc::new(store);
        let clients = (purpose == Purpose::Client && !store.is_empty()).then(|| {
            let provider = Arc::clone(&algorithms.provider);
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), provider).build().ok()
        });
        Self { store, clients: clients.flatten() }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        (purpose, algorithms): (Purpose, &Algorithms),
        now: UnixTime,
    ) -> Result<(), Error> {
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        if self.store.is_empty() {
            return Err(unknown);
        }
        let judged = match purpose {
            Purpose::Client => {
                let Some(clients) = &self.clients else { return Err(unknown) };
                clients.verify_client_cert(leaf, intermediates, now).map(|_| ())
            }
            Purpose::Server => rustls::client::verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(leaf)?,
                &self.store,
                intermediates,
                now,
                algorithms.signatures().all,
            ),
        };
        judged.map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::Other(other))
                if other.to_string() == NAME_CONSTRAINT =>
            {
                refusal(FOREIGN_NAME, None)
            }
            // A namesake of an authority signed it, or it is no leaf to webpki.
            Error::InvalidCertificate(
                CertificateError::BadSignature | CertificateError::Other(_),
            ) => unknown,
            other => other,
        })
    }
}

impl Trust {
    pub(super) fn new(
        certificates: &[CertificateDer<'static>],
        purpose: Purpose,
        algorithms: Algorithms,
        now: UnixTime,
    ) -> Self {
        let seconds = seconds(now);
        let (mut store, mut short) = (RootCertStore::empty(), RootCertStore::empty());
        let mut good_until = i64::MAX;
        let mut bundle = Vec::with_capacity(certificates.len());
        for der in certificates {
            let Some(root) = certificate::parse(der) else { continue };
            let subject = root.subject().as_raw().to_vec();
            bundle.push(Root { der: der.clone(), subject });
            let validity = root.validity();
            for edge in [validity.not_before.timestamp(), validity.not_after.timestamp() + 1] {
                if edge > seconds {
                    good_until = good_until.min(edge);
                }
            }
            let is_fit = check(&root, purpose, now).is_ok() && certificate::can_issue(&root);
            if is_fit {
                let is_short = certificate::signs_leaves_alone(&root);
                let store = if is_short { &mut short } else { &mut store };
                // One that webpki cannot read vouches for nobody but its own leaves.
                drop(store.add(der.clone()));
            }
        }
        let anchors = Anchors::new(store, purpose, &algorithms);
        let short = Anchors::new(short, purpose, &algorithms);
        Self { bundle, anchors, short, algorithms, purpose, good_until }
    }

    /// Whether it is time to look which authorities are valid.
    pub(super) fn is_over(&self, now: UnixTime) -> bool {
        seconds(now) >= self.good_until
    }

    /// The names of all authorities, for a client that has several certificates.
    pub(super) fn subjects(&self) -> Vec<DistinguishedName> {
        self.bundle.iter().map(|root| root.subject.clone().into()).collect()
    }

    /// Fails unless `leaf` is believed.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // The way by webpki looks at no more of a leaf than it needs.
        let parsed = certificate::parse(leaf)
            .filter(certificate::is_readable)
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let near = self.vouched(leaf, &parsed, now);
        match near {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) if intermediates.is_empty() => Err(error),
            near => {
                let far = self.verify_far(leaf, intermediates, now);
                far.map_err(|error| near.and_then(Result::err).unwrap_or(error))
            }
        }
    }

    /// The judgement of the bundle itself; nothing when it has nobody for this certificate.
    fn vouched(
        &self,
        leaf: &CertificateDer<'_>,
        parsed: &X509Certificate<'_>,
        now: UnixTime,
    ) -> Option<Result<(), Error>> {
        if self.bundle.iter().any(|root| root.der == *leaf) {
            return Some(check(parsed, self.purpose, now));
        }
        let mut judgement = None;
        let issuer = parsed.issuer().as_raw();
        let namesakes = self.bundle.iter().filter(|root| root.subject == issuer);
        for root in namesakes.filter_map(|root| certificate::parse(&root.der)) {
            let is_issuer = certificate::can_issue(&root)
                && !certificate::is_constrained(&root)
                && is_signed(leaf, parsed, &root, self.algorithms.signatures().all);
            if !is_issuer {
                continue;
            }
            let checked =
                check(parsed, self.purpose, now).and_then(|()| check(&root, self.purpose, now));
            if checked.is_ok() {
                return Some(checked);
            }
            judgement = Some(checked);
        }
        judgement
    }

    /// By way of other certificates, or under an authority with constraints on names.
    fn verify_far(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let kind = (self.purpose, &self.algorithms);
        let error = match self.anchors.verify(leaf, intermediates, kind, now) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let short = self.short.verify(leaf, &[], kind, now);
        short.map_err(|short| match short {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => error,
            short => short,
        })
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("bundle", &self.bundle.len()).finish_non_exhaustive()
    }
}

fn seconds(now: UnixTime) -> i64 {
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Fails unless the certificate is in its time, for this purpose, and wholly understood.
fn check(certificate: &X509Certificate<'_>, purpose: Purpose, now: UnixTime) -> Result<(), Error> {
    let validity = certificate.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let moment = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or_default();
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
    };
    let error = if !certificate::is_readable(certificate) {
        CertificateError::BadEncoding
    } else if certificate::is_beyond_us(certificate) {
        CertificateError::UnhandledCriticalExtension
    } else if seconds(now) < not_before {
        CertificateError::NotValidYetContext { time: now, not_before: moment(not_before) }
    } else if seconds(now) > not_after {
        CertificateError::ExpiredContext { time: now, not_after: moment(not_after) }
    } else if !certificate::is_for(certificate, purpose) {
        CertificateError::InvalidPurpose
    } else {
        return Ok(());
    };
    Err(Error::InvalidCertificate(error))
}

/// Whether `issuer` signed the certificate.
fn is_signed(
    der: &CertificateDer<'_>,
    certificate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> bool {
    if certificate.tbs_certificate.signature != certificate.signature_algorithm
        || certificate.signature_value.unused_bits != 0
    {
        return false;
    }
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }
    let algorithm = sequence(der)
        .and_then(|(contents, _)| sequence(contents))
        .and_then(|(_, after)| sequence(after))
        .map(|(algorithm, _)| algorithm);
    let Some(algorithm) = algorithm else { return false };
    let message = certificate.tbs_certificate.as_ref();
    let signature = &certificate.signature_value.data;
    algorithms
        .iter()
        .filter(|known| known.signature_alg_id().as_ref() == algorithm)
        .any(|known| is_signed_by_key(issuer, *known, message, signature))
}

/// Whether the certificate's key made this signature, by this algorithm.
pub(super) fn is_signed_by_key(
    certificate: &X509Certificate<'_>,
    algorithm: &dyn SignatureVerificationAlgorithm,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let key = certificate.public_key();
    // SubjectPublicKeyInfo ::= SEQUENCE { algorithm, subjectPublicKey }
    let kind = sequence(key.raw).and_then(|(contents, _)| sequence(contents)).map(|(kind, _)| kind);
    kind == Some(algorithm.public_key_alg_id().as_ref())
        && key.subject_public_key.unused_bits == 0
        && algorithm.verify_signature(&key.subject_public_key.data, message, signature).is_ok()
}
