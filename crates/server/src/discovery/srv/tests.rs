//! Clusters from the records of a DNS server that the tests play.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use net::dns::Settings;
use tokio::net::UdpSocket;

use super::*;

const DOMAIN: &str = "example.com";

/// The records of a zone: a service, a host, a port.
type Zone = Vec<(&'static str, &'static str, u16)>;

/// A DNS server: what it answers depends on how often it was asked for HTTP members.
async fn server(zone: impl Fn(usize) -> Zone + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("an address");
    let looks = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((received, from)) = socket.recv_from(&mut buffer).await {
            let asked = &buffer[..received];
            let (service, end) = service_of(asked);
            let look = looks.load(Ordering::Relaxed);
            if service == "_etcd-server" {
                looks.fetch_add(1, Ordering::Relaxed);
            }
            let records: Vec<_> =
                zone(look).into_iter().filter(|(name, ..)| *name == service).collect();
            drop(socket.send_to(&answer(&asked[..end], &records), from).await);
        }
    });
    address
}

/// The first label of the name that is asked for, and where the question ends.
fn service_of(asked: &[u8]) -> (String, usize) {
    let mut at = 12;
    while asked[at] != 0 {
        at += usize::from(asked[at]) + 1;
    }
    let first = usize::from(asked[12]);
    (String::from_utf8_lossy(&asked[13..13 + first]).into_owned(), at + 5)
}

fn answer(asked: &[u8], records: &[(&str, &str, u16)]) -> Vec<u8> {
    let mut answer = asked.to_vec();
    let flags: u16 = if records.is_empty() { 0x8183 } else { 0x8180 };
    answer[2..4].copy_from_slice(&flags.to_be_bytes());
    answer[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    for (_, host, port) in records {
        let mut target: Vec<u8> = Vec::new();
        for label in host.split('.') {
            target.push(label.len() as u8);
            target.extend(label.as_bytes());
        }
        target.push(0);
        // The name is the question's, the kind SRV, the class IN, the time to live 60 s.
        answer.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60]);
        answer.extend((6 + target.len() as u16).to_be_bytes());
        answer.extend([0, 0, 0, 0]);
        answer.extend(port.to_be_bytes());
        answer.extend(target);
    }
    answer
}

fn resolver(server: SocketAddr) -> Resolver {
    let timeout = Duration::from_secs(5);
    Resolver::new(Settings { servers: vec![server], timeout, attempts: 1, ..Settings::default() })
}

fn config(name: &str, url: &str, service: &str) -> Config {
    Config {
        name: name.to_owned(),
        discovery_srv: DOMAIN.to_owned(),
        discovery_srv_name: service.to_owned(),
        initial_advertise_peer_urls: vec![Url::parse(url).expect("a URL")],
        ..Config::default()
    }
}

const ONCE: Patience =
    Patience { attempts: 1, first_pause: Duration::ZERO, pause_max: Duration::ZERO };

async fn found(config: Config, zone: Zone) -> Result<String, String> {
    let server = server(move |_| zone.clone()).await;
    find(&config, &resolver(server), &ONCE).await
}

#[tokio::test]
async fn the_record_with_the_own_address_has_the_own_name() {
    let zone = vec![
        ("_etcd-server", "127.0.0.3", 1),
        ("_etcd-server", "127.0.0.1", 1),
        ("_etcd-server", "127.0.0.2", 1),
    ];
    let cluster = found(config("m", "http://127.0.0.2:1", ""), zone.clone()).await;
    assert_eq!(
        cluster.as_deref(),
        Ok("0=http://127.0.0.1:1,m=http://127.0.0.2:1,1=http://127.0.0.3:1")
    );
    let refused = found(config("m", "http://127.0.0.9:1", ""), zone).await;
    assert_eq!(refused, Err("cannot find local etcd member \"m\" in SRV records".to_owned()));
}

#[tokio::test]
async fn both_services_count_and_bear_the_name() {
    let zone = vec![
        ("_etcd-server-ssl-a", "127.0.0.1", 1),
        ("_etcd-server-a", "127.0.0.2", 1),
        ("_etcd-server", "127.0.0.9", 1),
    ];
    let cluster = found(config("m", "https://127.0.0.1:1", "a"), zone).await;
    assert_eq!(cluster.as_deref(), Ok("m=https://127.0.0.1:1,0=http://127.0.0.2:1"));
}

#[tokio::test]
async fn the_own_record_under_the_other_scheme_is_not_taken() {
    let zone = vec![("_etcd-server", "127.0.0.1", 1)];
    let refused = found(config("m", "https://127.0.0.1:1", ""), zone).await.expect_err("refused");
    let (_, http) = refused.split_once('\n').expect("one line for each service");
    assert_eq!(
        http,
        "error querying DNS SRV records for _etcd-server bootstrap at http://127.0.0.1:1 from DNS \
         for etcd-server has scheme mismatch with expected peer https://127.0.0.1:1"
    );
}

#[tokio::test]
async fn a_domain_without_records_is_refused_in_etcds_words() {
    let server = server(|_| Vec::new()).await;
    let refused = find(&config("m", "http://127.0.0.1:1", ""), &resolver(server), &ONCE).await;
    let told = format!(
        "error querying DNS SRV records for _etcd-server-ssl lookup \
         _etcd-server-ssl._tcp.example.com on {server}: no such host\nerror querying DNS SRV \
         records for _etcd-server lookup _etcd-server._tcp.example.com on {server}: no such host"
    );
    assert_eq!(refused, Err(told));
}

#[tokio::test]
async fn records_that_come_late_are_waited_for_and_not_for_ever() {
    let zone = |look| match look {
        0 => Vec::new(),
        // One's own is not there yet.
        1 => vec![("_etcd-server", "127.0.0.1", 1)],
        // The other's address is not there yet.
        2 => vec![("_etcd-server", "127.0.0.2", 1), ("_etcd-server", "0.0.0.0.0", 1)],
        _ => vec![("_etcd-server", "127.0.0.2", 1), ("_etcd-server", "127.0.0.1", 1)],
    };
    let config = config("m", "http://127.0.0.2:1", "");
    for (attempts, cluster) in [
        (1, Err("error querying DNS")),
        (2, Err("cannot find local")),
        (3, Ok("m=http://127.0.0.2:1")),
        (9, Ok("0=http://127.0.0.1:1,m=http://127.0.0.2:1")),
    ] {
        let server = server(zone).await;
        let patience = Patience { attempts, ..ONCE };
        let found = find(&config, &resolver(server), &patience).await;
        match (found, cluster) {
            (Ok(found), Ok(cluster)) => assert_eq!(found, cluster),
            (Err(found), Err(start)) => assert!(found.starts_with(start), "{found}"),
            (found, cluster) => panic!("{found:?} is not {cluster:?}"),
        }
    }
}
