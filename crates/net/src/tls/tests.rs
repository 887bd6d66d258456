//! Certificates of every kind at both ends; in modules below, files that change, and handshakes.
//! That the outcomes are etcd's is shown in `compat/tls_test.go`, side by side.

mod files;
mod fixture;
mod fuzz;
mod handshakes;

use std::net::Ipv4Addr;

use rcgen::{
    BasicConstraints, CertifiedIssuer, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyUsagePurpose, NameConstraints, SanType, date_time_ymd,
};

use super::certificate::Purpose;
use super::trust::Trust;
use super::*;
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
            let settings =
                Settings { trusted_ca_file: shop.path("ca.pem"), ..shop.settings("near") };
            let server = shop.server(&settings).expect("settings");
            for (name, is_served) in [("near", true), ("far", false)] {
                let met = meet(&server, &shop.client(&shop.settings(name)), "m.example").await;
                assert_eq!(met.server.is_ok(), is_served, "{name}: {met:?}");
            }
        }
    }
}

#[test]
fn all_authorities_of_the_bundle_are_named_to_clients() {
    let mut short = authority_params("short");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let mut expired = authority_params("expired");
    expired.not_after = date_time_ymd(2020, 1, 1);
    let params = [short, expired, authority_params("root")];
    let roots = params.map(|params| params.self_signed(&key()).expect("an authority"));
    let bundle = roots.each_ref().map(|root| root.der().clone());
    let now = rustls::pki_types::UnixTime::now();
    let trust = Trust::new(&bundle, Purpose::Client, any(), now);
    let names: Vec<_> = trust.subjects().iter().map(|name| name.as_ref().to_vec()).collect();
    let subjects = bundle.each_ref().map(|der| {
        let root = certificate::parse(der).expect("an authority");
        root.subject().as_raw().to_vec()
    });
    assert_eq!(names, subjects);
}
