//! Certificates of every kind at both ends, files that change, and doors that are held half open.
//! That the outcomes are etcd's is shown in `compat/tls_test.go`, side by side.

mod fixture;
mod fuzz;

use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use rcgen::{
    BasicConstraints, CertifiedIssuer, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::keys::{Keys, Side};
use super::verifier::{Allowed, Servers};
use super::*;
use crate::stream::{PeerAddress, Stream};
use fixture::{Shop, any, authority, authority_params, key, leaf, meet, meet_from};

const UNKNOWN: &str =
    "tls: failed to verify certificate: x509: certificate signed by unknown authority";
const PURPOSE: &str =
    "tls: failed to verify certificate: x509: certificate specifies an incompatible key usage";
const OUT_OF_TIME: &str =
    "tls: failed to verify certificate: x509: certificate has expired or is not yet valid";

#[tokio::test]
async fn a_good_certificate_opens_the_door_and_names_its_owner() {
    let shop = Shop::new();
    let met = shop.knock("good").await;
    assert!(met.is_served());
    let identity = met.server.expect("served");
    assert_eq!(identity.common_name.as_deref(), Some("etcd"));
}

#[tokio::test]
async fn without_a_certificate_nobody_is_served_where_one_is_demanded() {
    let shop = Shop::new();
    let client = Settings { trusted_ca_file: shop.path("ca.pem"), ..Settings::default() };
    let bare = shop.client(&client);
    for (by_ca, by_flag) in [(true, false), (false, true), (true, true)] {
        let mut settings = Settings { client_cert_auth: by_flag, ..shop.settings("good") };
        if !by_ca {
            settings.trusted_ca_file.clear();
        }
        let server = shop.server(&settings).expect("settings");
        let met = meet(&server, &bare, "127.0.0.1").await;
        assert_eq!(met.refusal(), "tls: client didn't provide a certificate");
    }
    let settings = Settings { trusted_ca_file: String::new(), ..shop.settings("good") };
    let met = meet(&shop.server(&settings).expect("settings"), &bare, "127.0.0.1").await;
    assert!(met.is_served());
    assert_eq!(met.server.expect("served").common_name, None, "nothing was verified");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_whatever_the_authority_is_called() {
    let shop = Shop::new();
    shop.issue_by("other", leaf(), &authority("other"));
    shop.issue_by("namesake", leaf(), &authority("root"));
    assert_eq!(shop.knock("other").await.refusal(), UNKNOWN);
    assert_eq!(shop.knock("namesake").await.refusal(), UNKNOWN);
}

#[tokio::test]
async fn a_certificate_counts_in_its_time_alone() {
    let shop = Shop::new();
    let mut expired = leaf();
    expired.not_after = date_time_ymd(2020, 1, 1);
    shop.issue("expired", expired);
    let mut early = leaf();
    early.not_before = date_time_ymd(3000, 1, 1);
    shop.issue("early", early);
    let met = shop.knock("expired").await;
    assert!(met.refusal().starts_with(OUT_OF_TIME), "{met:?}");
    assert!(met.refusal().ends_with("is after 2020-01-01T00:00:00Z"), "{met:?}");
    let met = shop.knock("early").await;
    assert!(met.refusal().ends_with("is before 3000-01-01T00:00:00Z"), "{met:?}");
}

#[tokio::test]
async fn an_authority_counts_in_its_time_and_for_its_purposes_alone() {
    let shop = Shop::new();
    let mut expired = authority_params("expired root");
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut narrow = authority_params("narrow root");
    narrow.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut lay = authority_params("lay root");
    lay.is_ca = IsCa::ExplicitNoCa;
    let mut mute = authority_params("mute root");
    mute.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    for (params, told) in
        [(expired, OUT_OF_TIME), (narrow, PURPOSE), (lay, UNKNOWN), (mute, UNKNOWN)]
    {
        let root = CertifiedIssuer::self_signed(params, key()).expect("an authority");
        shop.write("ca.pem", root.pem() + &shop.root.pem());
        shop.issue_by("below", leaf(), &root);
        let met = shop.knock("below").await;
        assert!(met.refusal().starts_with(told), "{met:?}");

        let between = CertifiedIssuer::signed_by(authority_params("between"), key(), &root);
        let between = between.expect("an authority");
        shop.issue_by("far", leaf(), &between);
        let chain = std::fs::read_to_string(shop.path("far.pem")).expect("a certificate");
        shop.write("far.pem", chain + &between.pem());
        assert!(!shop.knock("far").await.is_served());
    }
}

#[tokio::test]
async fn an_authority_signs_no_names_but_those_it_may() {
    let shop = Shop::new();
    let mut params = authority_params("named root");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("else.example".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let root = CertifiedIssuer::self_signed(params, key()).expect("an authority");
    shop.write("ca.pem", root.pem() + &shop.root.pem());
    shop.issue_by("foreign", leaf(), &root);
    let met = shop.knock("foreign").await;
    assert!(met.refusal().ends_with("is not authorized to sign for this name"), "{met:?}");
    let mut own = leaf();
    let name = "m.else.example".try_into().expect("a name");
    own.subject_alt_names = vec![SanType::DnsName(name)];
    shop.issue_by("own", own, &root);
    assert!(shop.knock("own").await.is_served());
}

#[tokio::test]
async fn a_chain_is_followed_when_the_client_brings_it_along() {
    let shop = Shop::new();
    let between = CertifiedIssuer::signed_by(authority_params("between"), key(), &shop.root);
    let between = between.expect("an authority");
    shop.issue_by("far", leaf(), &between);
    assert_eq!(shop.knock("far").await.refusal(), UNKNOWN);
    let chain = std::fs::read_to_string(shop.path("far.pem")).expect("a certificate");
    shop.write("far.pem", chain + &between.pem());
    assert!(shop.knock("far").await.is_served());
}

#[tokio::test]
async fn a_certificate_that_is_its_own_authority_is_believed_when_it_is_in_the_bundle() {
    let shop = Shop::new();
    let mut params = leaf();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = key();
    let own = params.self_signed(&key).expect("a certificate");
    shop.write("own.pem", own.pem());
    shop.write("own-key.pem", key.serialize_pem());
    assert_eq!(shop.knock("own").await.refusal(), UNKNOWN);
    shop.write("ca.pem", shop.root.pem() + &own.pem());
    assert!(shop.knock("own").await.is_served());
    // And one that is an authority below ours.
    shop.issue("deputy", params);
    assert!(shop.knock("deputy").await.is_served());
}

#[tokio::test]
async fn a_certificate_for_servers_makes_no_client_and_the_other_way_round() {
    let shop = Shop::new();
    let mut server_only = leaf();
    server_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    shop.issue("server-only", server_only);
    assert_eq!(shop.knock("server-only").await.refusal(), PURPOSE);

    let mut client_only = leaf();
    client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    shop.issue("client-only", client_only);
    assert!(shop.knock("client-only").await.is_served());
    let server = shop.server(&shop.settings("client-only")).expect("settings");
    let met = meet(&server, &shop.client(&shop.settings("good")), "127.0.0.1").await;
    assert_eq!(met.client_says(), PURPOSE);

    let mut anything = leaf();
    anything.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    shop.issue("anything", anything);
    assert!(shop.knock("anything").await.is_served());
}

#[tokio::test]
async fn a_dialler_believes_a_server_only_under_the_name_it_dialled() {
    let shop = Shop::new();
    let server = shop.server(&shop.settings("good")).expect("settings");
    let settings = shop.settings("good");
    let client = shop.client(&settings);
    for host in ["127.0.0.1", "m.example", "M.Example."] {
        assert!(meet(&server, &client, host).await.is_served(), "{host}");
    }
    let verify = "tls: failed to verify certificate: x509: certificate is valid for";
    let met = meet(&server, &client, "127.0.0.2").await;
    assert_eq!(met.client_says(), format!("{verify} 127.0.0.1, not 127.0.0.2"));
    let met = meet(&server, &client, "n.example").await;
    assert_eq!(met.client_says(), format!("{verify} m.example, not n.example"));

    let named = Settings { server_name: "m.example".to_owned(), ..settings.clone() };
    assert!(meet(&server, &shop.client(&named), "127.0.0.2").await.is_served());
    let made = Settings { trusts_any_server: true, ..settings };
    assert!(meet(&server, &shop.client(&made), "127.0.0.2").await.is_served());

    shop.issue_by("other", leaf(), &authority("other"));
    let stranger = Settings { trusted_ca_file: shop.path("ca.pem"), ..shop.settings("other") };
    let stranger = shop.server(&stranger).expect("settings");
    assert_eq!(meet(&stranger, &client, "127.0.0.1").await.client_says(), UNKNOWN);
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_by_der_and_by_pem_and_a_broken_list_refuses_all() {
    let shop = Shop::new();
    let mut params = leaf();
    params.serial_number = Some(SerialNumber::from(0xbeef_u64));
    shop.issue("revoked", params);
    let settings = Settings { crl_file: shop.path("crl"), ..shop.settings("good") };
    let server = shop.server(&settings).expect("the list is read when somebody comes");
    let revoked = shop.client(&shop.settings("revoked"));
    let good = shop.client(&shop.settings("good"));
    let met = meet(&server, &revoked, "127.0.0.1").await;
    let path = shop.path("crl");
    assert_eq!(met.refusal(), format!("open {path}: no such file or directory"));

    let list = shop.revoke(0xbeef);
    for contents in [list.der().to_vec(), list.pem().expect("text").into_bytes()] {
        shop.write("crl", contents);
        let met = meet(&server, &revoked, "127.0.0.1").await;
        assert_eq!(met.refusal(), "transport: certificate serial beef revoked");
        let refused = met.server.expect_err("refused");
        let names = (vec![[127, 0, 0, 1].into()], vec!["m.example".to_owned()]);
        assert_eq!(refused.names, Some(names));
        assert!(meet(&server, &good, "127.0.0.1").await.is_served());
    }
    shop.write("crl", "no list");
    assert_eq!(meet(&server, &good, "127.0.0.1").await.refusal(), "x509: malformed crl");
    shop.write("crl", shop.revoke(1).der());
    assert!(meet(&server, &revoked, "127.0.0.1").await.is_served(), "the list is read anew");
}

#[tokio::test]
async fn every_list_of_a_file_of_revocations_counts() {
    let shop = Shop::new();
    let mut params = leaf();
    params.serial_number = Some(SerialNumber::from(0x0a_u64));
    shop.issue("revoked", params);
    let settings = Settings { crl_file: shop.path("crl"), ..shop.settings("good") };
    let server = shop.server(&settings).expect("settings");
    let revoked = shop.client(&shop.settings("revoked"));
    let pem = |serial| shop.revoke(serial).pem().expect("text");
    for contents in [pem(1) + &pem(0x0a), pem(0x0a) + &pem(1)] {
        shop.write("crl", contents);
        let met = meet(&server, &revoked, "127.0.0.1").await;
        assert_eq!(met.refusal(), "transport: certificate serial a revoked");
    }
    let good = shop.client(&shop.settings("good"));
    for broken in ["-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "-----BEGIN X509"] {
        shop.write("crl", pem(1) + broken);
        assert_eq!(meet(&server, &good, "127.0.0.1").await.refusal(), "x509: malformed crl");
    }
    shop.write("crl", shop.root.pem());
    assert_eq!(meet(&server, &good, "127.0.0.1").await.refusal(), "x509: malformed crl");
}

#[tokio::test]
async fn names_and_hosts_that_are_not_allowed_are_refused() {
    let shop = Shop::new();
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let good = shop.client(&shop.settings("good"));
    for (cns, hosts, is_served) in [
        (&["a", "etcd"][..], &[][..], true),
        (&["a", "Etcd"], &[], false),
        (&["m.example"], &[], false),
        (&[], &["a", "m.example"], true),
        (&[], &["127.0.0.1"], true),
        (&[], &["127.0.0.2", "etcd", "example"], false),
    ] {
        let settings = Settings {
            allowed_cns: words(cns),
            allowed_hostnames: words(hosts),
            ..shop.settings("good")
        };
        let server = shop.server(&settings).expect("settings");
        let met = meet(&server, &good, "127.0.0.1").await;
        assert_eq!(met.is_served(), is_served, "{cns:?} {hosts:?}");
        if !is_served {
            assert_eq!(met.refusal(), "client certificate authentication failed");
        }
        // They hold for servers that are dialled, too.
        let dialler = Settings { client_cert_auth: true, ..settings };
        let server = shop.server(&shop.settings("good")).expect("settings");
        let met = meet(&server, &shop.client(&dialler), "127.0.0.1").await;
        assert_eq!(met.client.is_ok(), is_served, "{cns:?} {hosts:?}");
    }
}

#[tokio::test]
async fn a_member_must_call_from_an_address_that_its_certificate_names() {
    let shop = Shop::new();
    let settings = Settings { checks_client_address: true, ..shop.settings("good") };
    let server = shop.server(&settings).expect("settings");
    let with = |names: Vec<SanType>| {
        let mut params = leaf();
        params.subject_alt_names = names;
        params
    };
    let name = |name: &str| SanType::DnsName(name.try_into().expect("a name"));
    let address = |last| SanType::IpAddress([127, 0, 0, last].into());
    for (label, names, told) in [
        ("none", vec![], None),
        ("address", vec![address(1)], None),
        ("local name", vec![name("localhost")], None),
        ("one of both", vec![address(9), name("localhost")], None),
        (
            "other address",
            vec![address(9)],
            Some("x509: certificate is valid for 127.0.0.9, not 127.0.0.1"),
        ),
        (
            "other name",
            vec![name("no.invalid")],
            Some("tls: \"127.0.0.1\" does not match any of DNSNames [\"no.invalid\"]"),
        ),
    ] {
        shop.issue("caller", with(names));
        let caller = shop.client(&shop.settings("caller"));
        let met = meet(&server, &caller, "127.0.0.1").await;
        match told {
            None => assert!(met.is_served(), "{label}"),
            Some(told) => assert!(met.refusal().starts_with(told), "{label}: {met:?}"),
        }
    }
    shop.issue("caller", with(vec![address(1)]));
    let caller = shop.client(&shop.settings("caller"));
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    assert!(meet_from(&server, &caller, "127.0.0.1", mapped).await.is_served());
}

#[tokio::test]
async fn a_certificate_whose_names_cannot_be_read_is_refused() {
    let shop = Shop::new();
    let settings = Settings { checks_client_address: true, ..shop.settings("good") };
    let server = shop.server(&settings).expect("settings");
    let between = CertifiedIssuer::signed_by(authority_params("between"), key(), &shop.root);
    let between = between.expect("an authority");
    let mut twice = leaf();
    twice.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 9].into())];
    let nameless = || {
        let mut params = leaf();
        params.subject_alt_names.clear();
        params
    };
    for (label, mut params, names) in [
        ("twice", twice, &[0x30, 6, 0x87, 4, 127, 0, 0, 8][..]),
        ("no names", nameless(), &[0x31, 1]),
        ("no text", nameless(), &[0x30, 3, 0x82, 1, 0xff]),
        ("a short address", nameless(), &[0x30, 5, 0x87, 3, 127, 0, 0]),
    ] {
        let oid = [2, 5, 29, 17];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&oid, names.to_vec())];
        shop.issue("odd", params.clone());
        shop.issue_by("far", params, &between);
        let chain = std::fs::read_to_string(shop.path("far.pem")).expect("a certificate");
        shop.write("far.pem", chain + &between.pem());
        for name in ["odd", "far"] {
            let met = meet(&server, &shop.client(&shop.settings(name)), "127.0.0.1").await;
            let told = "tls: failed to verify certificate: x509: malformed certificate";
            assert_eq!(met.refusal(), told, "{label}, {name}");
        }
    }
}

#[tokio::test]
async fn an_authority_for_leaves_alone_vouches_for_no_other_authority() {
    let shop = Shop::new();
    let name = || GeneralSubtree::DnsName("m.example".to_owned());
    let constrained =
        || NameConstraints { permitted_subtrees: vec![name()], excluded_subtrees: Vec::new() };
    for constraints in [None, Some(constrained())] {
        let mut params = authority_params("short root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.name_constraints = constraints;
        let root = CertifiedIssuer::self_signed(params, key()).expect("an authority");
        for bundle in [root.pem(), root.pem() + &shop.root.pem()] {
            shop.write("ca.pem", bundle);
            let between = CertifiedIssuer::signed_by(authority_params("between"), key(), &root);
            let between = between.expect("an authority");
            let mut params = leaf();
            params.subject_alt_names.remove(0);
            shop.issue_by("far", params.clone(), &between);
            let chain = std::fs::read_to_string(shop.path("far.pem")).expect("a certificate");
            shop.write("far.pem", chain + &between.pem());
            shop.issue_by("near", params, &root);
            let settings = Settings { trusted_ca_file: shop.path("ca.pem"), ..shop.settings("near") };
            let server = shop.server(&settings).expect("settings");
            for (name, is_served) in [("near", true), ("far", false)] {
                let met = meet(&server, &shop.client(&shop.settings(name)), "m.example").await;
                assert_eq!(met.server.is_ok(), is_served, "{name}: {met:?}");
            }
        }
    }
}

#[tokio::test]
async fn files_that_are_replaced_hold_for_the_next_connection() {
    let shop = Shop::new();
    let server = shop.server(&shop.settings("good")).expect("settings");
    let client = shop.client(&shop.settings("good"));
    assert!(meet(&server, &client, "127.0.0.1").await.is_served());

    // Another authority, then certificates of it.
    let other = authority("other");
    let before = shop.root.pem();
    shop.write("ca.pem", other.pem());
    assert!(!meet(&server, &client, "127.0.0.1").await.is_served());
    shop.issue_by("good", leaf(), &other);
    assert!(meet(&server, &client, "127.0.0.1").await.is_served());

    // A bundle that cannot be read changes nothing, and is told once.
    shop.write("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert!(meet(&server, &client, "127.0.0.1").await.is_served());
    assert!(meet(&server, &client, "127.0.0.1").await.is_served());
    let msg = "failed to reload trusted CA file; going on with the former one";
    assert_eq!(shop.told(), [msg, msg], "the server's, the client's");
    // Nor does an empty one.
    shop.write("ca.pem", "");
    assert!(meet(&server, &client, "127.0.0.1").await.is_served());
    assert!(meet(&server, &client, "127.0.0.1").await.is_served());
    assert_eq!(shop.told(), [msg; 4]);
    shop.write("ca.pem", before);
    assert!(!meet(&server, &client, "127.0.0.1").await.is_served());
    shop.write("ca.pem", other.pem());

    // A certificate without its key refuses all, until it is whole again.
    let whole = std::fs::read(shop.path("good-key.pem")).expect("a key");
    shop.write("good-key.pem", key().serialize_pem());
    for _ in 0..2 {
        let met = meet(&server, &client, "127.0.0.1").await;
        assert_eq!(met.refusal(), "tls: private key does not match public key");
    }
    let told = shop.told();
    let count = told.iter().filter(|msg| **msg == "failed to create peer certificate").count();
    assert_eq!(count, 1, "{told:?}");
    std::fs::remove_file(shop.path("good-key.pem")).expect("removed");
    assert!(!meet(&server, &client, "127.0.0.1").await.is_served());
    assert!(shop.told().contains(&"failed to find peer cert files"));
    shop.write("good-key.pem", whole);
    assert!(meet(&server, &client, "127.0.0.1").await.is_served());
}

#[tokio::test]
async fn a_client_shows_its_certificate_each_time_whatever_it_remembers() {
    let shop = Shop::new();
    let settings = shop.settings("good");
    let keys = Keys::open(
        (&settings.cert_file, &settings.key_file),
        Side::Client,
        any().provider,
        shop.report(),
    )
    .map(Arc::new);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = shop.server(&settings).expect("settings");
        let verifier = Servers { trust: None, allowed: Allowed::of(&settings), algorithms: any() };
        let config = rustls::ClientConfig::builder_with_provider(any().provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(keys.as_ref().expect("keys")) as _);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        for _ in 0..3 {
            let (near, far) = UnixStream::pair().expect("a pair");
            let accept = async {
                let accepted = server.accept(Stream::Unix(near), PeerAddress::Unix).await;
                let (mut stream, _) = accepted.expect("served");
                stream.write_all(b"x").await.expect("written");
                stream.flush().await.expect("flushed");
            };
            let connect = async {
                let name = "m.example".try_into().expect("a name");
                let mut stream = connector.connect(name, far).await.expect("a handshake");
                // With it comes whatever the server gives to remember.
                stream.read_u8().await.expect("read");
                stream.get_ref().1.handshake_kind()
            };
            let ((), kind) = tokio::join!(accept, connect);
            assert_ne!(kind, Some(rustls::HandshakeKind::Resumed));
        }
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_worth_nothing() {
    let shop = Shop::new();
    let settings = shop.settings("good");
    shop.issue("thief", leaf());
    let read = |name: &str| std::fs::read(shop.path(name)).expect("a file");
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&read("good.pem")).map(|der| der.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_slice(&read("thief-key.pem")).expect("a key");
    let key = any().provider.key_provider.load_private_key(key).expect("a key");
    let stolen = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let verifier = Servers { trust: None, allowed: Allowed::of(&settings), algorithms: any() };
        let builder = rustls::ClientConfig::builder_with_provider(any().provider)
            .with_protocol_versions(&[version])
            .expect("a version");
        let config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&stolen) as _);
        let server = shop.server(&settings).expect("settings");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (near, far) = UnixStream::pair().expect("a pair");
        let name = "m.example".try_into().expect("a name");
        let (accepted, _) = tokio::join!(
            server.accept(Stream::Unix(near), PeerAddress::Unix),
            connector.connect(name, far)
        );
        let told = accepted.expect_err("refused").text;
        assert_eq!(told, "tls: failed to verify certificate: x509: BadSignature");

        let config = rustls::ServerConfig::builder_with_provider(any().provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&stolen) as _);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let (near, far) = UnixStream::pair().expect("a pair");
        let client = shop.client(&settings);
        let (_, connected) =
            tokio::join!(acceptor.accept(near), client.connect(Stream::Unix(far), "m.example"));
        assert!(connected.is_err());
    }
}

#[tokio::test]
async fn a_file_that_is_overwritten_in_place_is_seen() {
    let shop = Shop::new();
    let server = shop.server(&shop.settings("good")).expect("settings");
    let client = shop.client(&shop.settings("good"));
    // Not to be told by its length.
    let padded = |pem: String| format!("{pem:\n<1000}");
    let (ours, other) = (padded(shop.root.pem()), padded(authority("other").pem()));
    let moment = std::time::SystemTime::now();
    for (contents, is_served) in [(&ours, true), (&other, false), (&ours, true)] {
        std::fs::write(shop.path("ca.pem"), contents).expect("written");
        // Nor by its time: clocks of file systems tick slowly.
        let file = std::fs::File::options().append(true).open(shop.path("ca.pem"));
        file.expect("a file").set_modified(moment).expect("a time");
        assert_eq!(meet(&server, &client, "127.0.0.1").await.is_served(), is_served);
    }
}

#[tokio::test]
async fn versions_and_ciphers_bound_what_is_spoken() {
    let shop = Shop::new();
    let (settings, report) = (shop.settings("good"), shop.report());
    let speak = |ciphers: &[&str], min, max| {
        let ciphers: Vec<_> = ciphers.iter().map(|&name| name.to_owned()).collect();
        Algorithms::new(&ciphers, min, max)
    };
    let (old, new) = (Some(Version::Tls12), Some(Version::Tls13));
    let aes = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    let chacha = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305";
    let rsa_only = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384";
    let none = "tls: no cipher suite supported by both client and server";
    let versions = "tls: client offered only unsupported versions";
    for (here, there, told) in [
        (speak(&[], new, None), speak(&[], None, old), Some(versions)),
        (speak(&[], None, old), speak(&[], new, None), Some(versions)),
        (speak(&[], None, old), speak(&[], None, None), None),
        (speak(&[], new, None), speak(&[], None, None), None),
        (speak(&[aes], None, old), speak(&[aes], None, old), None),
        (speak(&[chacha], None, old), speak(&[aes, chacha], None, old), None),
        (speak(&[aes], None, old), speak(&[chacha], None, old), Some(none)),
        // Suites of 1.3 are not chosen.
        (speak(&[aes], None, None), speak(&[chacha], None, None), None),
        (speak(&[rsa_only], None, None), speak(&[], None, None), None),
        // Nothing of 1.2 is left.
        (speak(&["TLS_RSA_WITH_AES_128_CBC_SHA"], None, None), speak(&[], None, None), None),
    ] {
        let (here, there) = (here.expect("algorithms"), there.expect("algorithms"));
        let server = Server::new(&settings, &here, &[], 100, &report).expect("settings");
        let client = Client::new(&settings, &there, &[], &report).expect("settings");
        let met = meet(&server, &client, "127.0.0.1").await;
        match told {
            None => assert!(met.is_served()),
            Some(told) => assert_eq!(met.refusal(), told),
        }
    }
    let refused = speak(&["FOO"], None, None).expect_err("nobody's");
    assert_eq!(refused.to_string(), "unexpected TLS cipher suite \"FOO\"");
    assert!(speak(&["TLS_RSA_WITH_AES_128_CBC_SHA"], None, old).is_err());
    let weak = ["TLS_RSA_WITH_RC4_128_SHA".to_owned(), aes.to_owned()];
    assert_eq!(check_ciphers(&weak), Ok(vec![weak[0].clone()]));
}

#[test]
fn settings_that_do_not_fit_are_refused_in_etcds_words() {
    let shop = Shop::new();
    let good = shop.settings("good");
    let (cert, key_file) = (&good.cert_file, &good.key_file);
    shop.write("stray-key.pem", key().serialize_pem());
    shop.write("empty", "");
    let path = |name: &str| shop.path(name);
    let words = |word: &str| vec![word.to_owned()];
    for (settings, told) in [
        (
            Settings { key_file: String::new(), ..good.clone() },
            format!("KeyFile and CertFile must both be present[key: , cert: {cert}]"),
        ),
        (
            Settings { client_cert_file: cert.clone(), ..good.clone() },
            format!(
                "ClientKeyFile and ClientCertFile must both be present or both absent: key: , \
                 cert: {cert}]"
            ),
        ),
        (
            Settings { allowed_cns: words("a"), allowed_hostnames: words("b"), ..good.clone() },
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], \
             hostnames=[\"b\"])"
                .to_owned(),
        ),
        (
            Settings { key_file: path("stray-key.pem"), ..good.clone() },
            "tls: private key does not match public key".to_owned(),
        ),
        (
            Settings { cert_file: path("nope"), ..good.clone() },
            format!("open {}: no such file or directory", path("nope")),
        ),
        (
            Settings { trusted_ca_file: path("nope"), ..good.clone() },
            format!("open {}: no such file or directory", path("nope")),
        ),
        (
            Settings { cert_file: path("empty"), ..good.clone() },
            "tls: failed to find any PEM data in certificate input".to_owned(),
        ),
        (
            Settings { key_file: path("empty"), ..good.clone() },
            "tls: failed to find any PEM data in key input".to_owned(),
        ),
        (
            Settings {
                client_cert_file: cert.clone(),
                client_key_file: path("stray-key.pem"),
                ..good.clone()
            },
            "tls: private key does not match public key".to_owned(),
        ),
    ] {
        assert_eq!(shop.server(&settings).expect_err("refused").to_string(), told);
        let client = Client::new(&settings, &any(), &[], &shop.report());
        assert_eq!(client.expect_err("refused").to_string(), told);
    }
    assert!(shop.server(&Settings { key_file: key_file.clone(), ..good }).is_ok());
}

#[tokio::test]
async fn a_protocol_is_chosen_when_both_offer_it() {
    let shop = Shop::new();
    let (settings, report) = (shop.settings("good"), shop.report());
    let none = "tls: client requested unsupported application protocols";
    for (here, there, told) in [
        (&["h2"][..], &["h2"][..], None),
        (&["h2"], &["foo"], Some(none)),
        (&["h2"], &[], None),
        (&[], &["foo"], None),
    ] {
        let server = Server::new(&settings, &any(), here, 100, &report).expect("settings");
        let client = Client::new(&settings, &any(), there, &report).expect("settings");
        let met = meet(&server, &client, "127.0.0.1").await;
        match told {
            None => assert!(met.is_served(), "{here:?} {there:?}"),
            Some(told) => assert_eq!(met.refusal(), told),
        }
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_and_who_only_knocks_is_told_apart() {
    let shop = Shop::new();
    let server = shop.server(&shop.settings("good")).expect("settings");
    for (bytes, told, is_eof) in [
        (&b""[..], "EOF", true),
        (b"GET / HTTP/1.1\r\n\r\n", "tls: first record does not look like a TLS handshake", false),
    ] {
        let (near, mut far) = UnixStream::pair().expect("a pair");
        far.write_all(bytes).await.expect("written");
        far.shutdown().await.expect("shut down");
        let refused = server.accept(Stream::Unix(near), PeerAddress::Unix).await;
        let refused = refused.expect_err("refused");
        assert_eq!((refused.text.as_str(), refused.is_eof), (told, is_eof));
    }
}

#[tokio::test]
async fn doors_that_are_held_half_open_keep_nobody_out() {
    const HELD: usize = 300;
    let shop = Shop::new();
    let settings = shop.settings("good");
    let server = Server::new(&settings, &any(), &[], 32, &shop.report()).expect("settings");
    let server = Arc::new(server);
    let mut held = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..HELD {
        let (near, far) = UnixStream::pair().expect("a pair");
        held.push(far);
        let accepting = Arc::clone(&server);
        tasks.spawn(async move { accepting.accept(Stream::Unix(near), PeerAddress::Unix).await });
        tokio::task::yield_now().await;
        assert!(server.waiting() <= 32);
    }
    for _ in 0..HELD - 32 {
        let ended = tasks.join_next().await.expect("a task").expect("no panic");
        assert_eq!(ended.expect_err("refused").text, "too many handshakes are under way");
    }
    assert_eq!(server.waiting(), 32);
    let client = shop.client(&settings);
    assert!(meet(&server, &client, "127.0.0.1").await.is_served());
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_ends() {
    let shop = Shop::new();
    let mut server = shop.server(&shop.settings("good")).expect("settings");
    assert_eq!(server.handshake_timeout, Duration::from_secs(10));
    server.handshake_timeout = Duration::from_millis(20);
    let (near, _far) = UnixStream::pair().expect("a pair");
    let refused = server.accept(Stream::Unix(near), PeerAddress::Unix).await;
    assert_eq!(refused.expect_err("refused").text, "i/o timeout");
    assert_eq!(server.waiting(), 0);
}

#[tokio::test]
async fn a_member_makes_its_certificate_once_and_diallers_believe_it() {
    let shop = Shop::new();
    let directory = std::path::PathBuf::from(shop.path("fixtures/peer"));
    let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned(), String::new()];
    let made = SelfMade { directory: &directory, hosts: &hosts, years: 2 };
    let settings = made.settings(&shop.report()).expect("a certificate");
    assert_eq!(settings.cert_file, shop.path("fixtures/peer/cert.pem"));
    assert!(!settings.demands_certificates());
    let mode = std::fs::metadata(&settings.key_file).expect("a key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let pem = std::fs::read(&settings.cert_file).expect("a certificate");
    let server = shop.server(&settings).expect("settings");
    let client = shop.client(&settings);
    assert!(meet(&server, &client, "10.9.9.9").await.is_served());
    let again = made.settings(&shop.report()).expect("the same");
    assert_eq!(again, settings);
    assert_eq!(std::fs::read(&settings.cert_file).expect("a certificate"), pem);
    let told = ["automatically generate certificates", "created cert file", "created key file"];
    assert_eq!(shop.told(), told);
    // A key that others could read is not written over, but replaced.
    std::fs::remove_file(&settings.cert_file).expect("removed");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&settings.key_file, open).expect("set");
    let others = std::fs::File::open(&settings.key_file).expect("a key");
    std::fs::write(shop.path("fixtures/peer/key.pem.tmp"), "left").expect("written");
    made.settings(&shop.report()).expect("another");
    let metadata = |file: &std::fs::File| file.metadata().expect("metadata");
    let new = std::fs::File::open(&settings.key_file).expect("a key");
    assert_eq!(metadata(&new).permissions().mode() & 0o777, 0o600);
    assert_ne!(metadata(&new).ino(), metadata(&others).ino());
    let count = std::fs::read_dir(&directory).expect("a directory").count();
    assert_eq!(count, 2, "nothing else is left");
    let never = SelfMade { years: 0, ..made }.settings(&shop.report()).expect_err("refused");
    assert!(never.to_string().contains("should be greater than 0"));
}
