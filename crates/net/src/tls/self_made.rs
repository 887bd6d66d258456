//! The certificate that a member makes for itself: `--auto-tls` and `--peer-auto-tls`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf, absolute};
use std::time::{Duration, SystemTime};

use base::calendar::DateTime;
use base::go::error_text;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P521_SHA512, SanType,
};

use super::{Note, Report, Settings, TlsError};

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Beyond this many years no certificate can say when it ends.
const YEARS_MAX: u64 = 7_000;

/// A certificate to be made, or to be found where it was made before.
#[derive(Debug, Clone, Copy)]
pub struct SelfMade<'a> {
    /// Where `cert.pem` and `key.pem` are.
    pub directory: &'a Path,
    /// The hosts it is for: names and addresses.
    pub hosts: &'a [String],
    /// How long it is good.
    pub years: u64,
}

impl SelfMade<'_> {
    /// Makes the files unless both are there. Says nothing of what is in them.
    pub fn settings(&self, report: &Report) -> Result<Settings, TlsError> {
        if self.years == 0 {
            let error = "selfSignedCertValidity is invalid,it should be greater than 0";
            report(Note { msg: "cannot generate cert", fields: vec![("error", error.to_owned())] });
            return Err(TlsError(error.to_owned()));
        }
        let path = |name: &str| -> Result<PathBuf, TlsError> {
            absolute(self.directory.join(name)).map_err(|error| TlsError(error_text(&error)))
        };
        let (cert, key) = (path("cert.pem")?, path("key.pem")?);
        if !cert.exists() || !key.exists() {
            self.make(&cert, &key, report)?;
        }
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        Ok(Settings {
            cert_file: cert.clone(),
            key_file: key.clone(),
            client_cert_file: cert,
            client_key_file: key,
            trusts_any_server: true,
            ..Settings::default()
        })
    }

    fn make(&self, cert: &Path, key: &Path, report: &Report) -> Result<(), TlsError> {
        let failed = |error: rcgen::Error| TlsError(format!("cannot generate cert: {error}"));
        let now = SystemTime::now();
        let years = u32::try_from(self.years.min(YEARS_MAX)).unwrap_or(u32::MAX);
        let end = now + YEAR * years;
        let seconds = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        report(Note {
            msg: "automatically generate certificates",
            fields: vec![(
                "certificate-validity-bound-not-after",
                format!("{}Z", DateTime(seconds)),
            )],
        });
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "etcd");
        let mut parameters = CertificateParams::default();
        parameters.not_before = now.into();
        parameters.not_after = end.into();
        parameters.distinguished_name = name;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::CrlSign,
        ];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for host in self.hosts.iter().filter(|host| !host.is_empty()) {
            parameters.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into().map_err(failed)?),
            });
        }
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).map_err(failed)?;
        let made = parameters.self_signed(&pair).map_err(failed)?;
        let directory = fs::DirBuilder::new().recursive(true).mode(0o700).create(self.directory);
        directory.map_err(|error| {
            TlsError(format!("mkdir {}: {}", self.directory.display(), error_text(&error)))
        })?;
        // One that was left alone would not fit the new key. The other comes last, so that a
        // member that ends in between makes both anew.
        remove(cert).map_err(|error| {
            TlsError(format!("remove {}: {}", cert.display(), error_text(&error)))
        })?;
        write(key, &pair.serialize_pem(), 0o600)?;
        write(cert, &made.pem(), 0o644)?;
        for (path, msg) in [(cert, "created cert file"), (key, "created key file")] {
            report(Note { msg, fields: vec![("path", path.display().to_string())] });
        }
        Ok(())
    }
}

/// Makes a whole file or none, and one that nobody has open already.
fn write(path: &Path, contents: &str, mode: u32) -> Result<(), TlsError> {
    let write = || {
        let new = path.with_extension("pem.tmp");
        // A process that ended too early may have left one.
        remove(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(contents.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
    };
    write().map_err(|error| TlsError(format!("open {}: {}", path.display(), error_text(&error))))
}

/// Removes a file if it is there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
