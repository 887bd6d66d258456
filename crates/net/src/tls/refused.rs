//! A connection that was not let in, told in Go's words; and who was.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use base::calendar::DateTime;
use base::go::error_text;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible};

use super::certificate::Subject;

/// Who is at the other end of a connection with TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerIdentity {
    /// The common name of the certificate that was verified; nothing when none was asked for.
    pub common_name: Option<Arc<str>>,
}

/// Why a connection was not let in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refused {
    /// What is wrong.
    pub text: String,
    /// Whether the other end went away before anything was wrong.
    pub is_eof: bool,
    /// The name that the client asked for.
    pub server_name: String,
    /// The addresses and names of the client's certificate, when it was believed.
    pub names: Option<(Vec<IpAddr>, Vec<String>)>,
}

impl Refused {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    pub(super) fn with_subject(self, subject: Subject) -> Self {
        Self { names: Some((subject.addresses, subject.dns_names)), ..self }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self { is_eof: true, ..Self::new("EOF") };
        }
        let Some(inner) = inner(&error) else {
            return Self::new(error_text(&error));
        };
        let refused = Self::new(words(inner));
        match cause(inner).and_then(|cause| cause.subject.clone()) {
            Some(subject) => refused.with_subject(subject),
            None => refused,
        }
    }
}

/// A refusal of our own, inside an error of rustls.
#[derive(Debug)]
pub(super) struct Cause {
    pub(super) text: String,
    pub(super) subject: Option<Subject>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Cause {}

/// A refusal with a text of our own.
pub(super) fn refusal(text: impl Into<String>, subject: Option<Subject>) -> Error {
    let cause = Cause { text: text.into(), subject };
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(cause))))
}

fn inner(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn cause(error: &Error) -> Option<&Cause> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// A failed handshake of a dialler, in Go's words.
pub(super) fn reworded(error: io::Error) -> io::Error {
    match inner(&error) {
        Some(inner) => io::Error::new(error.kind(), words(inner)),
        None => error,
    }
}

/// An error of rustls in Go's words, as far as they have them both.
pub(super) fn words(error: &Error) -> String {
    if let Some(cause) = cause(error) {
        return cause.text.clone();
    }
    match error {
        Error::InvalidCertificate(error) => {
            format!("tls: failed to verify certificate: {}", certificate_words(error))
        }
        Error::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        Error::AlertReceived(alert) => format!("remote error: tls: {}", alert_words(*alert)),
        Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "tls: no cipher suite supported by both client and server".to_owned()
        }
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            // Clients have sent it since TLS 1.2.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => "tls: client offered only unsupported versions".to_owned(),
        Error::NoApplicationProtocol => {
            "tls: client requested unsupported application protocols".to_owned()
        }
        other => format!("tls: {other}"),
    }
}

fn certificate_words(error: &CertificateError) -> String {
    let clock = |time: UnixTime| format!("{}Z", DateTime(time.as_secs()));
    let out_of_time = "x509: certificate has expired or is not yet valid";
    match error {
        CertificateError::BadEncoding => "x509: malformed certificate".to_owned(),
        CertificateError::Expired | CertificateError::NotValidYet => out_of_time.to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("{out_of_time}: current time {} is after {}", clock(*time), clock(*not_after))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("{out_of_time}: current time {} is before {}", clock(*time), clock(*not_before))
        }
        CertificateError::UnknownIssuer => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "x509: certificate specifies an incompatible key usage".to_owned()
        }
        CertificateError::UnhandledCriticalExtension => {
            "x509: unhandled critical extension".to_owned()
        }
        other => format!("x509: {other}"),
    }
}

/// What Go calls an alert.
fn alert_words(alert: AlertDescription) -> &'static str {
    use AlertDescription as A;
    match alert {
        A::CloseNotify => "close notify",
        A::UnexpectedMessage => "unexpected message",
        A::BadRecordMac => "bad record MAC",
        A::HandshakeFailure => "handshake failure",
        A::BadCertificate => "bad certificate",
        A::UnsupportedCertificate => "unsupported certificate",
        A::CertificateRevoked => "revoked certificate",
        A::CertificateExpired => "expired certificate",
        A::CertificateUnknown => "unknown certificate",
        A::IllegalParameter => "illegal parameter",
        A::UnknownCA => "unknown certificate authority",
        A::AccessDenied => "access denied",
        A::DecodeError => "error decoding message",
        A::DecryptError => "error decrypting message",
        A::ProtocolVersion => "protocol version not supported",
        A::InsufficientSecurity => "insufficient security level",
        A::InternalError => "internal error",
        A::UserCanceled => "user canceled",
        A::MissingExtension => "missing extension",
        A::UnrecognisedName => "unrecognized name",
        A::CertificateRequired => "certificate required",
        A::NoApplicationProtocol => "no application protocol",
        _ => "alert",
    }
}
