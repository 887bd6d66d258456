//! Files: those that are broken, that change, and that a member makes itself.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use rcgen::SerialNumber;

use super::super::*;
use super::fixture::{Shop, any, authority, key, leaf, meet};

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
