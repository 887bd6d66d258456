//! What is read of a certificate beside its signature.

use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, ServerName};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

/// The extensions that decide what a certificate is good for.
const DECISIVE: [Oid<'static>; 5] = [
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS,
    OID_X509_EXT_SUBJECT_ALT_NAME,
];

/// What a certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Client,
    Server,
}

/// Parses a whole certificate.
pub(super) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(certificate)
}

/// Whether the certificate may be used for this: it does not say, or it says so.
pub(super) fn is_for(certificate: &X509Certificate<'_>, purpose: Purpose) -> bool {
    match certificate.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => {
            let usage = usage.value;
            usage.any
                || match purpose {
                    Purpose::Client => usage.client_auth,
                    Purpose::Server => usage.server_auth,
                }
        }
        Err(_) => false,
    }
}

/// Whether the certificate may sign others. Version 1 has no way to say no.
pub(super) fn can_issue(certificate: &X509Certificate<'_>) -> bool {
    let is_authority = match certificate.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) => certificate.version() != X509Version::V3,
        Err(_) => false,
    };
    let may_sign = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    is_authority && may_sign
}

/// Whether the certificate may sign only those that sign no others.
pub(super) fn signs_leaves_alone(certificate: &X509Certificate<'_>) -> bool {
    let constraints = certificate.basic_constraints().ok().flatten();
    constraints.is_some_and(|constraints| constraints.value.path_len_constraint == Some(0))
}

/// Whether what decides about a certificate can be read. What cannot would count as not said, and
/// a certificate that says nothing may do more.
pub(super) fn is_readable(certificate: &X509Certificate<'_>) -> bool {
    // Also of two extensions of one kind neither is seen by those who ask for it.
    certificate.tbs_certificate.extensions_map().is_ok()
        && certificate.extensions().iter().all(|extension| match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => !DECISIVE.contains(&extension.oid),
            ParsedExtension::SubjectAlternativeName(names) => {
                names.general_names.iter().all(|name| match name {
                    GeneralName::IPAddress(bytes) => address(bytes).is_some(),
                    GeneralName::Invalid(..) => false,
                    _ => true,
                })
            }
            _ => true,
        })
}

/// Whether the certificate says which names those below it may have.
pub(super) fn is_constrained(certificate: &X509Certificate<'_>) -> bool {
    !matches!(certificate.name_constraints(), Ok(None))
}

/// Whether something in the certificate must be understood, and is not.
pub(super) fn is_beyond_us(certificate: &X509Certificate<'_>) -> bool {
    let is_known = |parsed: &ParsedExtension<'_>| {
        matches!(
            parsed,
            ParsedExtension::KeyUsage(_)
                | ParsedExtension::BasicConstraints(_)
                | ParsedExtension::SubjectAlternativeName(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::NameConstraints(_)
                | ParsedExtension::CertificatePolicies(_)
        )
    };
    certificate
        .extensions()
        .iter()
        .any(|extension| extension.critical && !is_known(extension.parsed_extension()))
}

/// Splits off a sequence at the beginning of DER: its contents, and what follows it.
pub(super) fn sequence(der: &[u8]) -> Option<(&[u8], &[u8])> {
    const SEQUENCE: u8 = 0x30;
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    if tag != SEQUENCE {
        return None;
    }
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    rest.split_at_checked(length)
}

/// Who a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Subject {
    pub(super) common_name: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) dns_names: Vec<String>,
}

impl Subject {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut subject = Self {
            common_name: certificate
                .subject()
                .iter_common_name()
                .last()
                .and_then(|name| name.as_str().ok())
                .unwrap_or_default()
                .to_owned(),
            ..Self::default()
        };
        let names = certificate.subject_alternative_name();
        for name in names.ok().flatten().map_or(&[][..], |names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => subject.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => subject.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        subject
    }

    /// Why the certificate is not for `host`, in Go's words.
    pub(super) fn mismatch(&self, host: &str) -> String {
        let is_address = host.parse::<IpAddr>().is_ok();
        let names: Vec<_> = match is_address {
            true => self.addresses.iter().map(ToString::to_string).collect(),
            false => self.dns_names.clone(),
        };
        if !names.is_empty() {
            return format!("x509: certificate is valid for {}, not {host}", names.join(", "));
        }
        if is_address {
            return format!(
                "x509: cannot validate certificate for {host} because it doesn't contain any IP \
                 SANs"
            );
        }
        if self.addresses.is_empty() && !self.common_name.is_empty() {
            return "x509: certificate relies on legacy Common Name field, use SANs instead"
                .to_owned();
        }
        format!("x509: certificate is not valid for any names, but wanted to match {host}")
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = |bytes: [u8; 4]| IpAddr::from(bytes);
    let sixteen = |bytes: [u8; 16]| IpAddr::from(bytes);
    bytes.try_into().map(four).or_else(|_| bytes.try_into().map(sixteen)).ok()
}

/// Whether the certificate is for this name or address.
pub(super) fn covers(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(parsed) = rustls::server::ParsedCertificate::try_from(certificate) else {
        // Version 1 has no names that count.
        return false;
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    ServerName::try_from(host)
        .is_ok_and(|name| rustls::client::verify_server_name(&parsed, &name).is_ok())
}
