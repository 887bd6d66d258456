//! Whether a client calls from an address that its certificate names.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;

use super::certificate::{self, Subject};
use super::reverse;

/// Fails unless the certificate names no address at all, or this one: as itself, or by a name
/// that leads to it or that it leads to.
pub(super) async fn check(
    leaf: &CertificateDer<'_>,
    subject: &Subject,
    from: IpAddr,
) -> Result<(), String> {
    let host = from.to_canonical().to_string();
    if !subject.addresses.is_empty() {
        if certificate::covers(leaf, &host) {
            return Ok(());
        }
        if subject.dns_names.is_empty() {
            return Err(subject.mismatch(&host));
        }
    }
    if subject.dns_names.is_empty() {
        return Ok(());
    }
    match is_named(from.to_canonical(), &subject.dns_names).await {
        Ok(true) => Ok(()),
        told => {
            let why = told.err().map_or(String::new(), |error| format!(" ({error})"));
            let names = base::go::quoted_list(&subject.dns_names);
            Err(format!("tls: {host:?} does not match any of DNSNames {names}{why}"))
        }
    }
}

async fn is_named(address: IpAddr, names: &[String]) -> Result<bool, String> {
    let (wildcards, plain): (Vec<_>, Vec<_>) =
        names.iter().map(String::as_str).partition(|name| name.starts_with("*."));
    let mut trouble = None;
    match reverse::names_of(address).await {
        Ok(found) => {
            let is_match = |found: &String| {
                plain.contains(&found.as_str())
                    || wildcards.iter().any(|wildcard| found.ends_with(&wildcard[1..]))
            };
            if found.iter().any(is_match) {
                return Ok(true);
            }
        }
        Err(error) => trouble = Some(error),
    }
    for name in plain {
        match tokio::net::lookup_host((name, 0)).await {
            Ok(mut found) => {
                if found.any(|found| found.ip().to_canonical() == address) {
                    return Ok(true);
                }
            }
            Err(error) => trouble = Some(format!("lookup {name}: {error}")),
        }
    }
    trouble.map_or(Ok(false), Err)
}
