//! Handshakes: what is spoken, what is proved, and doors that are held half open.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::super::keys::{Keys, Side};
use super::super::verifier::{Allowed, Servers};
use super::super::*;
use super::fixture::{Shop, any, leaf, meet};
use crate::stream::{PeerAddress, Stream};

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
async fn whoever_has_lost_its_place_goes_no_further() {
    let shop = Shop::new();
    let settings = shop.settings("good");
    let server = Server::new(&settings, &any(), &[], 1, &shop.report()).expect("settings");
    for _ in 0..16 {
        let (near, far) = UnixStream::pair().expect("a pair");
        let mut first = Box::pin(server.accept(Stream::Unix(near), PeerAddress::Unix));
        let (near, _far) = UnixStream::pair().expect("a pair");
        let mut second = Box::pin(server.accept(Stream::Unix(near), PeerAddress::Unix));
        for handshake in [&mut first, &mut second] {
            tokio::select! {
                biased;
                ended = handshake => panic!("{ended:?}"),
                () = std::future::ready(()) => {}
            }
        }
        drop(far);
        // Until the first one is told that it might go on.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let refused = first.await.expect_err("refused");
        assert_eq!(refused.text, "too many handshakes are under way");
    }
}
