//! Looks SRV and PTR records up in the DNS.
//!
//! ```text
//!  name ─► Settings: which names to try ─► each server in turn: UDP, and TCP when the answer
//!          (resolv.conf)                    is cut ─► message: read, bounded, in order
//! ```
//!
//! *Invariants.* 1. Every question ends: a server has `timeout` for an answer, all servers are
//! asked `attempts` times. 2. An answer counts only from the server that was asked, with the
//! number and the question that were sent. 3. A host that is told has only letters, digits,
//! hyphens and underscores.
//!
//! *Absent.* Addresses of names, for which the system's own resolver is right (`/etc/hosts`);
//! caches; DNSSEC; larger datagrams (EDNS): an answer above 512 bytes comes by TCP.
//!
//! *Contract.* RFC 1035, RFC 2782, resolv.conf(5); Go's package `net` for the texts of errors.

#[cfg(test)]
mod fuzz;
mod message;
mod settings;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base::go::error_text;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use message::{Answer, Question, Records};
pub use settings::{RESOLV_CONF, Settings};

/// The longest datagram that is read: without EDNS no server sends more than 512 bytes.
const DATAGRAM_BYTES_MAX: usize = 4_096;

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Srv {
    /// Lower is to be tried first.
    pub priority: u16,
    /// Higher is to be chosen more often among those of one priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, without the dot at its end.
    pub host: String,
}

/// No records.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("lookup {name} on {server}: {reason}")]
pub struct LookupError {
    /// The name that was asked for.
    pub name: String,
    /// Who was asked last.
    pub server: String,
    /// What came of it.
    pub reason: String,
    /// The DNS knows that there are none; otherwise it could not be asked.
    pub is_missing: bool,
}

/// What one question came to.
enum Found {
    Records(Records),
    /// The DNS has no such records.
    Nothing,
}

/// Asks the DNS.
#[derive(Debug, Clone)]
pub struct Resolver(Settings);

impl Resolver {
    /// Asks as these settings say.
    pub fn new(settings: Settings) -> Self {
        Self(settings)
    }

    /// The SRV records of `name`, in the order in which they are to be tried.
    pub async fn srv(&self, name: &str) -> Result<Vec<Srv>, LookupError> {
        let candidates = self.0.candidates(name);
        let questions = candidates.iter().filter_map(|name| Question::services(name));
        match self.look(name, questions).await? {
            Records::Services(services) => Ok(services),
            Records::Names(_) => unreachable!("nobody asked for them"),
        }
    }

    /// The names of the hosts whose address this is.
    pub async fn names_of(&self, address: IpAddr) -> Result<Vec<String>, LookupError> {
        match self.look(&address.to_string(), Question::pointer(address)).await? {
            Records::Names(names) => Ok(names),
            Records::Services(_) => unreachable!("nobody asked for them"),
        }
    }

    /// The records of the first question that has any; all of them are about `name`.
    async fn look(
        &self,
        name: &str,
        questions: impl IntoIterator<Item = Question>,
    ) -> Result<Records, LookupError> {
        let fail = |(server, reason): (Option<SocketAddr>, String), is_missing| LookupError {
            name: name.to_owned(),
            server: server.map_or_else(|| "no server".to_owned(), |server| server.to_string()),
            reason,
            is_missing,
        };
        let mut nothing = (self.0.servers.first().copied(), "no such host".to_owned());
        for question in questions {
            match self.ask_all(&question).await {
                Ok((_, Found::Records(records))) => return Ok(records),
                Ok((server, Found::Nothing)) => nothing.0 = Some(server),
                Err(error) => return Err(fail(error, false)),
            }
        }
        Err(fail(nothing, true))
    }

    /// Asks one server after the other until one knows.
    async fn ask_all(
        &self,
        question: &Question,
    ) -> Result<(SocketAddr, Found), (Option<SocketAddr>, String)> {
        let mut last = (None, "no such host".to_owned());
        for _ in 0..self.0.attempts {
            for server in &self.0.servers {
                let asked = tokio::time::timeout(self.0.timeout, ask(*server, question)).await;
                match asked {
                    Ok(Ok(found)) => return Ok((*server, found)),
                    Ok(Err(error)) => last = (Some(*server), error_text(&error)),
                    Err(_) => last = (Some(*server), "i/o timeout".to_owned()),
                }
            }
        }
        Err(last)
    }
}

/// One question to one server.
async fn ask(server: SocketAddr, question: &Question) -> io::Result<Found> {
    let number = number();
    let asked = question.message(number);
    let mut answer = by_udp(server, question, number, &asked).await?;
    if answer == Answer::Cut {
        answer = by_tcp(server, question, number, &asked).await?;
    }
    match answer {
        Answer::Records(records) => Ok(Found::Records(records)),
        Answer::Nothing => Ok(Found::Nothing),
        Answer::Cut => Err(io::Error::other("the answer is cut by TCP, too")),
        Answer::Failed => Err(io::Error::other("server misbehaving")),
        Answer::Malformed => Err(io::Error::other("cannot unmarshal DNS message")),
    }
}

async fn by_udp(
    server: SocketAddr,
    question: &Question,
    number: u16,
    asked: &[u8],
) -> io::Result<Answer> {
    let own: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own).await?;
    // From now on the kernel passes on what this server sends, and nothing else.
    socket.connect(server).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    // Ends with the time that the caller gives.
    loop {
        let received = socket.recv(&mut buffer).await?;
        // A late answer to another question, or a forged one: the right one may still come.
        if let Some(answer) = question.read(number, &buffer[..received]) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(
    server: SocketAddr,
    question: &Question,
    number: u16,
    asked: &[u8],
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], asked].concat()).await?;
    let length = stream.read_u16().await?;
    // At most 64 KiB, which the length's own size bounds.
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(question.read(number, &answer).unwrap_or(Answer::Malformed))
}

/// A number that nobody outside can guess, as far as 16 bits go.
fn number() -> u16 {
    // The low bits of a keyed hash, with a key from the system's generator.
    (RandomState::new().hash_one(0) & u64::from(u16::MAX)) as u16
}

#[cfg(test)]
mod tests;
