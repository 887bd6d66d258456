//! The journal of systemd, by its own datagrams.
//!
//! ```text
//!  PRIORITY=6 \n SYSLOG_IDENTIFIER=etcd \n PACKAGE=grpc \n MESSAGE \n <length, 8 bytes> … \n
//! ```
//!
//! *Invariants.* A line that the journal does not take goes to stderr instead.
//!
//! *Contract.* systemd's "Native Journal Protocol", and the fields that etcd v3.7.1 sends.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::Level;
use super::outlet::Entry;
use super::sink::{self, Sink};

/// Where systemd listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    identifier: String,
    otherwise: Box<dyn Sink>,
}

impl Journal {
    /// Finds the journal at its socket.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        let program = std::env::args_os().next().unwrap_or_default();
        let program = program.to_string_lossy();
        let identifier = program.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Self { socket, path: path.to_owned(), identifier, otherwise: sink::stderr()? })
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(datagram).or_else(|_| {
            // The journal was started anew.
            self.socket.connect(&self.path)?;
            self.socket.send(datagram)
        });
        sent.map(|_| ())
    }
}

impl Sink for Journal {
    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let datagram = datagram(entry, &self.identifier);
        self.send(&datagram).or_else(|_| self.otherwise.write(entry))
    }
}

fn datagram(entry: &Entry, identifier: &str) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(entry.bytes.len() + 128);
    put(&mut datagram, "PRIORITY", priority(entry.level).as_bytes());
    put(&mut datagram, "SYSLOG_IDENTIFIER", identifier.as_bytes());
    put(&mut datagram, "PACKAGE", entry.package.as_bytes());
    put(&mut datagram, "MESSAGE", &entry.bytes);
    datagram
}

/// A value with line ends is told by its length.
fn put(datagram: &mut Vec<u8>, name: &str, value: &[u8]) {
    datagram.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value);
    datagram.push(b'\n');
}

const fn priority(level: Level) -> &'static str {
    match level {
        Level::Debug => "7",
        Level::Info => "6",
        Level::Warn => "4",
        Level::Error => "3",
        Level::Dpanic | Level::Panic | Level::Fatal => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        let bytes = text.to_owned().into_bytes().into();
        Entry { level: Level::Warn, package: "grpc".into(), bytes }
    }

    #[test]
    fn a_line_is_a_datagram_and_a_new_journal_is_found() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("socket");
        assert!(Journal::open(&path).is_err(), "nobody listens");
        let listener = UnixDatagram::bind(&path).expect("bind");
        let mut journal = Journal::open(&path).expect("journal");
        journal.identifier = "etcd".to_owned();
        journal.write(&entry("{}\n")).expect("written");
        let mut bytes = [0; 1_024];
        let length = listener.recv(&mut bytes).expect("datagram");
        let told =
            b"PRIORITY=4\nSYSLOG_IDENTIFIER=etcd\nPACKAGE=grpc\nMESSAGE\n\x03\0\0\0\0\0\0\0{}\n\n";
        assert_eq!(&bytes[..length], told);

        drop(listener);
        std::fs::remove_file(&path).expect("remove");
        let listener = UnixDatagram::bind(&path).expect("bind");
        journal.write(&entry("{}\n")).expect("written");
        assert_eq!(listener.recv(&mut bytes).expect("datagram"), told.len());
    }
}
