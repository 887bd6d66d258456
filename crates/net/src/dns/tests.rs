//! A resolver asks servers that answer well, badly or not at all.

use std::net::SocketAddr;
use std::time::Duration;

use simple_dns::rdata::{CNAME, PTR, RData, SRV};
use simple_dns::{CLASS, Name, Packet, PacketFlag, RCODE, ResourceRecord};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

const NAME: &str = "_etcd-server._tcp.example.com";

fn srv(priority: u16, port: u16, host: &str) -> RData<'_> {
    RData::SRV(SRV { priority, weight: 0, port, target: Name::new_unchecked(host) })
}

/// The reply to `asked` with these records.
fn reply(asked: &[u8], records: Vec<RData<'_>>, set: impl FnOnce(&mut Packet<'_>)) -> Vec<u8> {
    let asked = Packet::parse(asked).expect("a question");
    let mut reply = Packet::new_reply(asked.id());
    reply.questions.clone_from(&asked.questions);
    let name = || asked.questions[0].qname.clone();
    reply.answers =
        records.into_iter().map(|data| ResourceRecord::new(name(), CLASS::IN, 60, data)).collect();
    set(&mut reply);
    reply.build_bytes_vec_compressed().expect("a message")
}

fn resolver(servers: &[SocketAddr]) -> Resolver {
    Resolver::new(Settings {
        servers: servers.to_vec(),
        timeout: Duration::from_millis(300),
        attempts: 1,
        ..Settings::default()
    })
}

/// A server that answers every datagram with what `answers` makes of it.
async fn server(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((received, from)) = socket.recv_from(&mut buffer).await {
            for answer in answers(&buffer[..received]) {
                drop(socket.send_to(&answer, from).await);
            }
        }
    });
    address
}

fn hosts(found: Result<Vec<Srv>, LookupError>) -> Vec<String> {
    let found = found.expect("records");
    found.into_iter().map(|srv| format!("{}:{}", srv.host, srv.port)).collect()
}

#[tokio::test]
async fn records_come_in_the_order_of_their_priority_through_an_alias() {
    let server = server(|asked| {
        let alias = RData::CNAME(CNAME(Name::new_unchecked("other.example.com")));
        let records =
            vec![alias, srv(20, 1, "b.example.com"), srv(10, 2, "c.example.com"), srv(10, 2, "a")];
        vec![reply(asked, records, |_| {})]
    });
    let found = resolver(&[server.await]).srv(NAME).await;
    assert_eq!(hosts(found), ["a:2", "c.example.com:2", "b.example.com:1"]);
}

#[tokio::test]
async fn answers_to_other_questions_are_passed_over() {
    let server = server(|asked| {
        let right = reply(asked, vec![srv(1, 1, "right")], |_| {});
        let mut forged = reply(asked, vec![srv(1, 1, "forged")], |_| {});
        forged[0] ^= 1;
        let other = Question::services("_etcd-server._tcp.example.org").expect("a name");
        let number = u16::from_be_bytes([asked[0], asked[1]]);
        let other = reply(&other.message(number), vec![srv(1, 1, "other")], |_| {});
        vec![forged, other, asked.to_vec(), Vec::new(), right]
    });
    assert_eq!(hosts(resolver(&[server.await]).srv(NAME).await), ["right:1"]);
}

#[tokio::test]
async fn an_answer_that_is_cut_is_asked_for_by_tcp() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = tcp.local_addr().expect("an address");
    let udp = UdpSocket::bind(address).await.expect("the same port");
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        let (received, from) = udp.recv_from(&mut buffer).await.expect("a question");
        let cut = |reply: &mut Packet<'_>| reply.set_flags(PacketFlag::TRUNCATION);
        let cut = reply(&buffer[..received], Vec::new(), cut);
        udp.send_to(&cut, from).await.expect("sent");
        let (mut stream, _) = tcp.accept().await.expect("a connection");
        let length = stream.read_u16().await.expect("a length");
        let mut asked = vec![0; usize::from(length)];
        stream.read_exact(&mut asked).await.expect("a question");
        let hosts: Vec<String> = (0..100).map(|at| format!("member{at}.example.com")).collect();
        let whole = reply(&asked, hosts.iter().map(|host| srv(1, 1, host)).collect(), |_| {});
        stream.write_u16(u16::try_from(whole.len()).expect("short")).await.expect("sent");
        stream.write_all(&whole).await.expect("sent");
    });
    assert_eq!(hosts(resolver(&[address]).srv(NAME).await).len(), 100);
}

#[tokio::test]
async fn a_server_that_fails_or_is_silent_is_followed_by_the_next() {
    let failing = |asked: &[u8]| {
        let failed = |reply: &mut Packet<'_>| *reply.rcode_mut() = RCODE::ServerFailure;
        vec![reply(asked, Vec::new(), failed)]
    };
    let failing = server(failing).await;
    let silent = server(|_| Vec::new()).await;
    let nonsense = server(|asked| {
        let mut nonsense = reply(asked, vec![srv(1, 1, "a")], |_| {});
        nonsense.truncate(nonsense.len() - 3);
        vec![nonsense]
    });
    let nonsense = nonsense.await;
    let right = server(|asked| vec![reply(asked, vec![srv(1, 1, "right")], |_| {})]).await;
    let found = resolver(&[failing, silent, nonsense, right]).srv(NAME).await;
    assert_eq!(hosts(found), ["right:1"]);
    for (server, reason) in [
        (failing, "server misbehaving"),
        (silent, "i/o timeout"),
        (nonsense, "cannot unmarshal DNS message"),
    ] {
        let refused = resolver(&[server]).srv(NAME).await.expect_err(reason);
        assert_eq!(refused.to_string(), format!("lookup {NAME} on {server}: {reason}"));
    }
}

#[tokio::test]
async fn a_name_without_records_is_no_such_host() {
    let unknown = server(|asked| {
        let unknown = |reply: &mut Packet<'_>| *reply.rcode_mut() = RCODE::NameError;
        vec![reply(asked, Vec::new(), unknown)]
    });
    let empty = server(|asked| vec![reply(asked, Vec::new(), |_| {})]);
    for server in [unknown.await, empty.await] {
        let refused = resolver(&[server]).srv(NAME).await.expect_err("nothing");
        assert_eq!(refused.to_string(), format!("lookup {NAME} on {server}: no such host"));
    }
}

#[tokio::test]
async fn hosts_that_no_url_can_have_are_left_out() {
    let mixed = server(|asked| {
        vec![reply(asked, vec![srv(1, 1, "a b"), srv(1, 1, ""), srv(1, 2, "right")], |_| {})]
    });
    assert_eq!(hosts(resolver(&[mixed.await]).srv(NAME).await), ["right:2"]);
    let odd = server(|asked| vec![reply(asked, vec![srv(1, 1, "a/b"), srv(1, 1, "")], |_| {})]);
    assert!(resolver(&[odd.await]).srv(NAME).await.is_err());
}

#[tokio::test]
async fn the_names_of_an_address_are_those_of_the_server_that_answers_this_question() {
    let server = server(|asked| {
        let name = |host| RData::PTR(PTR(Name::new_unchecked(host)));
        let other = Question::pointer("10.1.2.4".parse().expect("an address")).expect("a name");
        let number = u16::from_be_bytes([asked[0], asked[1]]);
        let other = reply(&other.message(number), vec![name("other")], |_| {});
        let right = reply(asked, vec![name("a b"), name("m1.example.com"), name("m1")], |_| {});
        vec![other, right]
    });
    let address = "10.1.2.3".parse().expect("an address");
    let found = resolver(&[server.await]).names_of(address).await;
    assert_eq!(found, Ok(vec!["m1.example.com".to_owned(), "m1".to_owned()]));
}

#[test]
fn an_address_becomes_a_question() {
    let of = |address: &str| message::pointer(address.parse().expect("an address"));
    assert_eq!(of("10.1.2.3"), "3.2.1.10.in-addr.arpa");
    let six = of("2001:db8::1");
    assert!(six.starts_with("1.0.0.0.") && six.ends_with("8.b.d.0.1.0.0.2.ip6.arpa"), "{six}");
}
