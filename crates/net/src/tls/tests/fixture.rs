//! Certificates of all kinds, and two ends that meet.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber, date_time_ymd,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::super::*;
use crate::stream::{PeerAddress, Stream};

pub(super) type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A directory with authorities, certificates and keys.
pub(super) struct Shop {
    directory: tempfile::TempDir,
    pub(super) root: Issuer,
    pub(super) notes: Arc<Mutex<Vec<Note>>>,
}

pub(super) fn authority(name: &str) -> Issuer {
    CertifiedIssuer::self_signed(authority_params(name), key()).expect("an authority")
}

pub(super) fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(super) fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

/// A certificate for both sides, for 127.0.0.1 and m.example, by the name of etcd.
pub(super) fn leaf() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "etcd");
    params.subject_alt_names = vec![
        SanType::IpAddress([127, 0, 0, 1].into()),
        SanType::DnsName("m.example".try_into().expect("a name")),
    ];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

impl Shop {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let shop = Self { directory, root: authority("root"), notes: Arc::default() };
        shop.write("ca.pem", shop.root.pem());
        shop.issue("good", leaf());
        shop
    }

    pub(super) fn path(&self, name: &str) -> String {
        PathBuf::from(self.directory.path()).join(name).display().to_string()
    }

    /// Replaces a file as careful tools do: another one takes its name.
    pub(super) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let (new, path) = (self.path("new"), self.path(name));
        fs::write(&new, contents).expect("written");
        fs::rename(new, path).expect("renamed");
    }

    /// Makes `NAME.pem` and `NAME-key.pem`.
    pub(super) fn issue(&self, name: &str, params: CertificateParams) {
        self.issue_by(name, params, &self.root);
    }

    pub(super) fn issue_by(&self, name: &str, params: CertificateParams, issuer: &Issuer) {
        let key = key();
        let made = params.signed_by(&key, issuer).expect("a certificate");
        self.write(&format!("{name}.pem"), made.pem());
        self.write(&format!("{name}-key.pem"), key.serialize_pem());
    }

    /// A list that revokes the certificate with this serial number.
    pub(super) fn revoke(&self, serial: u64) -> rcgen::CertificateRevocationList {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2021, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.root).expect("a list")
    }

    /// Settings with the certificate NAME and our authority.
    pub(super) fn settings(&self, name: &str) -> Settings {
        Settings {
            cert_file: self.path(&format!("{name}.pem")),
            key_file: self.path(&format!("{name}-key.pem")),
            trusted_ca_file: self.path("ca.pem"),
            ..Settings::default()
        }
    }

    pub(super) fn report(&self) -> Report {
        let notes = Arc::clone(&self.notes);
        Arc::new(move |note| notes.lock().expect("whole").push(note))
    }

    pub(super) fn told(&self) -> Vec<&'static str> {
        self.notes.lock().expect("whole").iter().map(|note| note.msg).collect()
    }

    pub(super) fn server(&self, settings: &Settings) -> Result<Server, TlsError> {
        Server::new(settings, &any(), &["h2"], 1_000, &self.report())
    }

    pub(super) fn client(&self, settings: &Settings) -> Client {
        Client::new(settings, &any(), &[], &self.report()).expect("settings for a client")
    }

    /// What becomes of a client with the certificate NAME at a server with the good one.
    pub(super) async fn knock(&self, name: &str) -> Met {
        let server = self.server(&self.settings("good")).expect("settings for a server");
        meet(&server, &self.client(&self.settings(name)), "127.0.0.1").await
    }
}

pub(super) fn any() -> Algorithms {
    Algorithms::new(&[], None, None).expect("algorithms")
}

/// What both ends say of a meeting.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) server: Result<PeerIdentity, Refused>,
    /// What the client is told by a server that serves it.
    pub(super) client: std::io::Result<()>,
}

impl Met {
    /// The server's refusal.
    pub(super) fn refusal(&self) -> &str {
        assert!(self.client.is_err(), "served all the same");
        &self.server.as_ref().expect_err("refused").text
    }

    pub(super) fn is_served(&self) -> bool {
        assert_eq!(self.server.is_ok(), self.client.is_ok(), "{self:?}");
        self.server.is_ok()
    }

    /// The client's refusal.
    pub(super) fn client_says(&self) -> String {
        self.client.as_ref().expect_err("refused").to_string()
    }
}

pub(super) async fn meet(server: &Server, client: &Client, host: &str) -> Met {
    meet_from(server, client, host, [127, 0, 0, 1].into()).await
}

/// A client that seems to call from `address` dials `host`.
pub(super) async fn meet_from(
    server: &Server,
    client: &Client,
    host: &str,
    address: IpAddr,
) -> Met {
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let peer = PeerAddress::Tcp(SocketAddr::new(address, 1));
    let serve = async {
        let (mut stream, identity) = server.accept(Stream::Unix(near), peer).await?;
        // A client that has left by now is the client's affair.
        drop(stream.write_all(b"hello").await);
        drop(stream.flush().await);
        Ok(identity)
    };
    let call = async {
        let mut stream = client.connect(Stream::Unix(far), host).await?;
        let mut told = [0; 5];
        stream.read_exact(&mut told).await?;
        assert_eq!(&told, b"hello");
        Ok(())
    };
    let (server, client) = tokio::join!(serve, call);
    Met { server, client }
}
