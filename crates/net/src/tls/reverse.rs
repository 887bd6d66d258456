//! The names of an address: from `/etc/hosts`, else by DNS.
//!
//! *Invariants.* Every question ends: each of [`SERVERS_MAX`] servers has [`ANSWER_TIMEOUT`], and
//! an answer counts only from the server that was asked, with the number that was sent.
//!
//! *Absent.* Answers that do not fit a datagram: an address has few names.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How long one server has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Servers that are asked, one after another.
const SERVERS_MAX: usize = 3;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 4096;

/// The names that this address leads to, without the dot at their end.
pub(super) async fn names_of(address: IpAddr) -> Result<Vec<String>, String> {
    let local = in_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), address);
    if !local.is_empty() {
        return Ok(local);
    }
    let question = pointer(address);
    let settings = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut trouble = format!("lookup {address}: no such host");
    for server in servers(&settings) {
        match timeout(ANSWER_TIMEOUT, ask(server, &question)).await {
            Ok(Ok(names)) => return Ok(names),
            Ok(Err(error)) => trouble = format!("lookup {question} on {server}: {error}"),
            Err(_) => trouble = format!("lookup {question} on {server}: i/o timeout"),
        }
    }
    Err(trouble)
}

fn in_hosts(hosts: &str, address: IpAddr) -> Vec<String> {
    let names = |line: &str| -> Option<Vec<String>> {
        let mut words = line.split('#').next()?.split_whitespace();
        let is_it = words.next()?.parse::<IpAddr>().ok()? == address;
        is_it.then(|| words.map(str::to_owned).collect())
    };
    hosts.lines().filter_map(names).flatten().collect()
}

/// The servers of `resolv.conf`.
fn servers(settings: &str) -> Vec<SocketAddr> {
    let server = |line: &str| -> Option<SocketAddr> {
        let mut words = line.split_whitespace();
        let is_server = words.next()? == "nameserver";
        is_server.then(|| words.next()?.parse().ok().map(|server| SocketAddr::new(server, 53)))?
    };
    let servers: Vec<_> = settings.lines().filter_map(server).take(SERVERS_MAX).collect();
    if servers.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))] } else { servers }
}

/// `1.0.0.127.in-addr.arpa` and the like.
fn pointer(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let halves = address.octets().into_iter().rev().flat_map(|b| [b & 15, b >> 4]);
            let digits: String = halves.map(|half| format!("{half:x}.")).collect();
            format!("{digits}ip6.arpa")
        }
    }
}

async fn ask(server: SocketAddr, question: &str) -> io::Result<Vec<String>> {
    let number = u16::from_be_bytes(
        RandomState::new().hash_one(question).to_be_bytes()[..2].try_into().unwrap_or_default(),
    );
    let own: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((own, 0)).await?;
    socket.connect(server).await?;
    socket.send(&message(number, question).map_err(io::Error::other)?).await?;
    let mut bytes = vec![0; ANSWER_BYTES_MAX];
    loop {
        let length = socket.recv(&mut bytes).await?;
        match read(number, &bytes[..length]) {
            Some(Ok(names)) => return Ok(names),
            Some(Err(why)) => return Err(io::Error::other(why)),
            None => {}
        }
    }
}

fn message(number: u16, question: &str) -> Result<Vec<u8>, simple_dns::SimpleDnsError> {
    let mut packet = Packet::new_query(number);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let (kind, class) = (QTYPE::TYPE(TYPE::PTR), QCLASS::CLASS(CLASS::IN));
    packet.questions.push(Question::new(Name::new(question)?, kind, class, false));
    packet.build_bytes_vec()
}

/// What the bytes answer; nothing when they answer something else.
pub(super) fn read(number: u16, bytes: &[u8]) -> Option<Result<Vec<String>, &'static str>> {
    let packet = Packet::parse(bytes).ok()?;
    if packet.id() != number || !packet.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    Some(match packet.rcode() {
        RCODE::NoError => Ok(packet
            .answers
            .iter()
            .filter_map(|record| match &record.rdata {
                RData::PTR(name) => Some(name.0.to_string()),
                _ => None,
            })
            .collect()),
        RCODE::NameError => Err("no such host"),
        _ => Err("server misbehaving"),
    })
}

/// The answer that 10.1.2.3 is m1.example.com.
#[cfg(test)]
pub(super) fn answer_for_tests(number: u16) -> Vec<u8> {
    let question = pointer(Ipv4Addr::new(10, 1, 2, 3).into());
    let asked = message(number, &question).expect("a message");
    let mut reply = Packet::parse(&asked).expect("a question").into_reply();
    let host = Name::new("m1.example.com").expect("a name");
    let data = RData::PTR(simple_dns::rdata::PTR(host));
    let name = Name::new(&question).expect("a name");
    reply.answers.push(simple_dns::ResourceRecord::new(name, CLASS::IN, 60, data));
    reply.build_bytes_vec().expect("an answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_hosts_file() {
        let hosts =
            "127.0.0.1 localhost # a b\n::1 localhost ip6\n\n127.0.0.1\tm1.example m1\n#x\n";
        let names = |address: &str| in_hosts(hosts, address.parse().expect("an address"));
        assert_eq!(names("127.0.0.1"), ["localhost", "m1.example", "m1"]);
        assert_eq!(names("::1"), ["localhost", "ip6"]);
        assert!(names("127.0.0.2").is_empty());
    }

    #[test]
    fn an_address_becomes_a_question_and_an_answer_its_names() {
        let four = pointer("10.1.2.3".parse().expect("an address"));
        assert_eq!(four, "3.2.1.10.in-addr.arpa");
        let six = pointer("2001:db8::1".parse().expect("an address"));
        assert!(six.starts_with("1.0.0.0.") && six.ends_with("8.b.d.0.1.0.0.2.ip6.arpa"), "{six}");
        let asked = message(7, &four).expect("a message");
        let bytes = answer_for_tests(7);
        assert_eq!(read(7, &bytes), Some(Ok(vec!["m1.example.com".to_owned()])));
        assert_eq!(read(8, &bytes), None);
        assert_eq!(read(7, &asked), None);
    }

    #[test]
    fn servers_are_bounded() {
        let told = "nameserver 10.0.0.1\nsearch a\nnameserver x\nnameserver ::1\n".repeat(9);
        let servers: Vec<_> = servers(&told).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53", "10.0.0.1:53"]);
    }
}
