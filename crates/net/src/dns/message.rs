//! The messages: a question for SRV or PTR records, and what an answer comes to.

use std::net::IpAddr;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, RCODE, TYPE};

use super::Srv;

/// Records that an answer may bring; no cluster has so many members.
pub(super) const RECORDS_MAX: usize = 256;

/// Bytes of a header, and of the smallest question and record after it.
const HEADER_BYTES: usize = 12;
const ITEM_BYTES_MIN: usize = 5;

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Records(Records),
    /// The name has no such records, or is unknown.
    Nothing,
    /// There is more than fits here.
    Cut,
    /// The server could not find out.
    Failed,
    /// It cannot be read, or promises more than is ever needed.
    Malformed,
}

/// Records of the kind that was asked for, and at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Records {
    /// In the order in which they are to be tried.
    Services(Vec<Srv>),
    /// Hosts to which an address belongs.
    Names(Vec<String>),
}

/// A question for the records of a name.
#[derive(Debug, Clone)]
pub(super) struct Question {
    name: Name<'static>,
    kind: TYPE,
}

impl Question {
    /// Where a service is. None when the text cannot be a name.
    pub(super) fn services(name: &str) -> Option<Self> {
        Self::new(name, TYPE::SRV)
    }

    /// Whose an address is.
    pub(super) fn pointer(address: IpAddr) -> Option<Self> {
        Self::new(&pointer(address), TYPE::PTR)
    }

    fn new(name: &str, kind: TYPE) -> Option<Self> {
        let name = Name::new(name).ok()?.into_owned();
        (!name.get_labels().is_empty()).then_some(Self { name, kind })
    }

    fn question(&self) -> simple_dns::Question<'_> {
        let (kind, class) = (QTYPE::TYPE(self.kind), QCLASS::CLASS(CLASS::IN));
        simple_dns::Question::new(self.name.clone(), kind, class, false)
    }

    fn is(&self, asked: &simple_dns::Question<'_>) -> bool {
        let own = self.question();
        // Names are compared as the DNS does, whatever the case of their letters.
        (&asked.qname, asked.qtype, asked.qclass) == (&own.qname, own.qtype, own.qclass)
    }

    /// The question as it is sent.
    pub(super) fn message(&self, number: u16) -> Vec<u8> {
        let mut packet = Packet::new_query(number);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(self.question());
        // A name was checked when it was made, and nothing else can be too long.
        packet.build_bytes_vec().unwrap_or_default()
    }

    /// What these bytes answer; none when they answer something else.
    pub(super) fn read(&self, number: u16, bytes: &[u8]) -> Option<Answer> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let flags = PacketFlag::from_bits_truncate(word(2));
        if word(0) != number || !flags.contains(PacketFlag::RESPONSE) {
            return None;
        }
        if flags.contains(PacketFlag::TRUNCATION) {
            return Some(Answer::Cut);
        }
        // Before anything is set aside for what is promised.
        let promised: usize = [4, 6, 8, 10].iter().map(|at| usize::from(word(*at))).sum();
        if promised.saturating_mul(ITEM_BYTES_MIN) > bytes.len() - HEADER_BYTES {
            return Some(Answer::Malformed);
        }
        let Ok(packet) = Packet::parse(bytes) else { return Some(Answer::Malformed) };
        match packet.questions.as_slice() {
            [asked] if self.is(asked) => {}
            // Some servers leave the question out of a refusal.
            [] if packet.rcode() != RCODE::NoError => {}
            _ => return None,
        }
        Some(match packet.rcode() {
            RCODE::NoError if self.kind == TYPE::PTR => names(&packet),
            RCODE::NoError => services(&packet),
            RCODE::NameError => Answer::Nothing,
            _ => Answer::Failed,
        })
    }
}

/// The SRV records of an answer, whatever alias they stand under.
fn services(packet: &Packet<'_>) -> Answer {
    let service = |data: &RData<'_>| {
        let RData::SRV(srv) = data else { return None };
        let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
        Some(host(&srv.target).map(|host| Srv { priority, weight, port, host }))
    };
    collect(packet, service, |mut records| {
        records.sort_by(|a, b| {
            let rank = |srv: &Srv| (srv.priority, std::cmp::Reverse(srv.weight));
            rank(a).cmp(&rank(b)).then_with(|| (&a.host, a.port).cmp(&(&b.host, b.port)))
        });
        Records::Services(records)
    })
}

/// The PTR records of an answer, whatever alias they stand under.
fn names(packet: &Packet<'_>) -> Answer {
    let name = |data: &RData<'_>| {
        let RData::PTR(pointer) = data else { return None };
        Some(host(&pointer.0))
    };
    collect(packet, name, Records::Names)
}

/// The records of which `read` makes something. It makes `None` of other kinds, and `Some(None)`
/// of one with a host that cannot be.
fn collect<T>(
    packet: &Packet<'_>,
    read: impl Fn(&RData<'_>) -> Option<Option<T>>,
    finish: impl FnOnce(Vec<T>) -> Records,
) -> Answer {
    let found: Vec<_> = packet.answers.iter().filter_map(|record| read(&record.rdata)).collect();
    let is_odd = !found.is_empty();
    let records: Vec<T> = found.into_iter().flatten().collect();
    if records.len() > RECORDS_MAX || (records.is_empty() && is_odd) {
        return Answer::Malformed;
    }
    if records.is_empty() {
        return Answer::Nothing;
    }
    Answer::Records(finish(records))
}

/// `1.0.0.127.in-addr.arpa` and the like.
pub(super) fn pointer(address: IpAddr) -> String {
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

/// The name of a host; none when it has characters that no host has, or no label: the service is
/// decidedly not there.
fn host(name: &Name<'_>) -> Option<String> {
    let label = |label: &simple_dns::Label<'_>| {
        let bytes = label.as_ref();
        let is_known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let text = std::str::from_utf8(bytes).ok().filter(|_| bytes.iter().all(is_known));
        text.map(str::to_owned)
    };
    let labels = name.get_labels().iter().map(label).collect::<Option<Vec<_>>>()?;
    (!labels.is_empty()).then(|| labels.join("."))
}
