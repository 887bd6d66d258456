//! The list of revoked certificates. As in etcd it counts by serial number alone, and neither its
//! signature nor its age is asked for: it is a file of the operator, like the authorities.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::file::Reloaded;
use super::{TlsError, certificate};

/// Serial numbers without leading zeros.
type Serials = BTreeSet<Vec<u8>>;

/// A file of revocations, read again when it changes.
pub(super) struct Revoked(Reloaded<Serials>);

impl Revoked {
    pub(super) fn of(path: &str) -> Self {
        Self(Reloaded::new(vec![path.to_owned()], |contents| parse(&contents.concat())))
    }

    /// Fails if one of the certificates is revoked, or if that cannot be known.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        let serials: Arc<Serials> = self.0.read().value?;
        for der in chain {
            let parsed = certificate::parse(der)
                .ok_or_else(|| TlsError("x509: malformed certificate".to_owned()))?;
            let serial = trim(parsed.raw_serial());
            if serials.contains(serial) {
                let serial = hexadecimal(serial);
                return Err(TlsError(format!("transport: certificate serial {serial} revoked")));
            }
        }
        Ok(())
    }
}

fn trim(serial: &[u8]) -> &[u8] {
    let first = serial.iter().position(|byte| *byte != 0).unwrap_or(serial.len());
    &serial[first..]
}

/// How a list in PEM begins.
const PEM_BEGIN: &[u8] = b"-----BEGIN";

/// Reads DER, as etcd does; or PEM, as most tools write it, with every list that is there.
pub(super) fn parse(contents: &[u8]) -> Result<Serials, TlsError> {
    let malformed = || TlsError("x509: malformed crl".to_owned());
    if !contents.windows(PEM_BEGIN.len()).any(|window| window == PEM_BEGIN) {
        return serials(contents).ok_or_else(malformed);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(contents);
    let lists: Vec<_> = lists.collect::<Result<_, _>>().map_err(|_| malformed())?;
    if lists.is_empty() {
        return Err(malformed());
    }
    let mut all = Serials::new();
    for list in lists {
        all.append(&mut serials(&list).ok_or_else(malformed)?);
    }
    Ok(all)
}

/// The serial numbers of one list.
fn serials(der: &[u8]) -> Option<Serials> {
    let (rest, list) = CertificateRevocationList::from_der(der).ok()?;
    let numbers = list.iter_revoked_certificates().map(|one| trim(one.raw_serial()).to_vec());
    rest.is_empty().then(|| numbers.collect())
}

/// A serial number as Go prints it: without leading zeros.
fn hexadecimal(serial: &[u8]) -> String {
    let digits: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
    match digits.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => digits.to_owned(),
    }
}
