//! The bundle of authorities: a file of the operator, or the machine's own.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::certificate::{self, Purpose};
use super::file::{self, Reloaded};
use super::names::Algorithms;
use super::trust::Trust;
use super::{Note, Report, TlsError};

type Bundle = Vec<CertificateDer<'static>>;

/// Where Linux distributions keep the machine's authorities; Go looks there, too.
const MACHINE_FILES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Who is trusted, whenever it is asked.
pub(super) struct Authority {
    source: Source,
    purpose: Purpose,
    algorithms: Algorithms,
    /// The bundle that counts, and what was made of it; nothing until somebody asks.
    now: Mutex<Option<(Arc<Bundle>, Arc<Trust>)>>,
    report: Report,
}

enum Source {
    File(String, Reloaded<Bundle>),
    Machine,
}

impl Authority {
    /// Reads the file; without one, the machine's authorities are trusted.
    pub(super) fn open(
        path: &str,
        purpose: Purpose,
        algorithms: &Algorithms,
        report: Report,
    ) -> Result<Self, TlsError> {
        let algorithms = algorithms.clone();
        let authority =
            |source| Self { source, purpose, algorithms, now: Mutex::new(None), report };
        if path.is_empty() {
            return Ok(authority(Source::Machine));
        }
        let reloaded = Reloaded::new(vec![path.to_owned()], |contents| parse(&contents.concat()));
        reloaded.read().value?;
        let authority = authority(Source::File(path.to_owned(), reloaded));
        authority.current();
        Ok(authority)
    }

    /// Who is trusted now. A file that cannot be read, or that became empty,
    /// changes nothing.
    pub(super) fn current(&self) -> Arc<Trust> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let bundle = match &self.source {
            Source::Machine => now.is_none().then(|| Arc::new(machine_bundle())),
            Source::File(path, reloaded) => {
                let read = reloaded.read();
                let had_some = now.as_ref().is_some_and(|(before, _)| !before.is_empty());
                let value = match read.value {
                    // It is being written, or was lost: nobody wants to trust nobody.
                    Ok(bundle) if bundle.is_empty() && had_some => {
                        Err(TlsError("there is no certificate in it".to_owned()))
                    }
                    value => value,
                };
                if let (Err(error), true) = (&value, read.is_news) {
                    (self.report)(Note {
                        msg: "failed to reload trusted CA file; going on with the former one",
                        fields: vec![
                            ("trusted-ca-file", path.clone()),
                            ("error", error.to_string()),
                        ],
                    });
                }
                value.ok()
            }
        };
        let time = UnixTime::now();
        let bundle = match (bundle, now.as_ref()) {
            // A file that broke before it was read here: nobody is trusted.
            (found, None) => found.unwrap_or_default(),
            (found, Some((before, trust))) => {
                let is_same = found
                    .as_ref()
                    .is_none_or(|found| Arc::ptr_eq(found, before) || found == before);
                if is_same && !trust.is_over(time) {
                    return Arc::clone(trust);
                }
                found.unwrap_or_else(|| Arc::clone(before))
            }
        };
        let trust = Trust::new(&bundle, self.purpose, self.algorithms.clone(), time);
        let trust = Arc::new(trust);
        *now = Some((bundle, Arc::clone(&trust)));
        trust
    }
}

fn parse(pem: &[u8]) -> Result<Bundle, TlsError> {
    let malformed = || TlsError("x509: malformed certificate".to_owned());
    let bundle: Bundle =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| malformed())?;
    match bundle.iter().all(|der| certificate::parse(der).is_some()) {
        true => Ok(bundle),
        false => Err(malformed()),
    }
}

/// Whom the machine trusts; nobody when it does not say.
fn machine_bundle() -> Bundle {
    let asked = std::env::var("SSL_CERT_FILE").ok().filter(|path| !path.is_empty());
    let mut paths: Vec<&str> = match &asked {
        Some(path) => vec![path],
        None => MACHINE_FILES.to_vec(),
    };
    paths.retain(|path| std::path::Path::new(path).exists());
    let Some(path) = paths.first() else { return Vec::new() };
    let pem = file::contents(path).unwrap_or_default();
    CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect()
}

/// Something that is made of the authorities, and made anew when they are others.
pub(super) struct Derived<T>(Mutex<Option<Made<T>>>);

struct Made<T> {
    trust: Option<Arc<Trust>>,
    value: Arc<T>,
}

impl<T> Derived<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// What belongs to `trust`.
    pub(super) fn get<E>(
        &self,
        trust: Option<Arc<Trust>>,
        make: impl FnOnce(Option<&Arc<Trust>>) -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.as_ref() {
            let is_same = match (&made.trust, &trust) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (before, now) => before.is_none() && now.is_none(),
            };
            if is_same {
                return Ok(Arc::clone(&made.value));
            }
        }
        let value = Arc::new(make(trust.as_ref())?);
        *made = Some(Made { trust, value: Arc::clone(&value) });
        Ok(value)
    }
}
