//! Reads `/etc/resolv.conf`.
//!
//! *Contract.* resolv.conf(5), with the bounds of glibc.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// Where the system says whom to ask.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What is taken from the file at most.
const SERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 6;
const NDOTS_MAX: usize = 15;
const TIMEOUT_SECONDS_MAX: u64 = 30;
const ATTEMPTS_MAX: u64 = 5;
const FILE_BYTES_MAX: usize = 64 << 10;

const PORT: u16 = 53;

/// Whom to ask, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Asked in this order.
    pub servers: Vec<SocketAddr>,
    /// What to append to short names.
    pub search: Vec<String>,
    /// A name with so many dots is tried as it is first.
    pub ndots: usize,
    /// For one answer of one server.
    pub timeout: Duration,
    /// How often all servers are asked.
    pub attempts: u32,
}

impl Default for Settings {
    /// What holds when the file says nothing: a server on this machine.
    fn default() -> Self {
        Self {
            servers: vec![(Ipv4Addr::LOCALHOST, PORT).into(), (Ipv6Addr::LOCALHOST, PORT).into()],
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        }
    }
}

impl Settings {
    /// Reads a file in the form of [`RESOLV_CONF`]; without one the defaults hold.
    pub fn read(path: impl AsRef<Path>) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        let bytes = &bytes[..bytes.len().min(FILE_BYTES_MAX)];
        Self::parse(&String::from_utf8_lossy(bytes))
    }

    /// Reads such a text. As in every resolver, what cannot be read is passed over.
    pub fn parse(text: &str) -> Self {
        let mut settings = Self::default();
        let mut servers = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    servers.extend(address.map(|address| SocketAddr::from((address, PORT))));
                }
                // The last one of these counts.
                Some("domain") => settings.search = domains(words.take(1)),
                Some("search") => settings.search = domains(words),
                Some("options") => words.for_each(|word| settings.set(word)),
                _ => {}
            }
        }
        servers.truncate(SERVERS_MAX);
        if !servers.is_empty() {
            settings.servers = servers;
        }
        settings
    }

    fn set(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else { return };
        let Ok(value) = value.parse::<u64>() else { return };
        match name {
            "ndots" => self.ndots = usize::try_from(value).unwrap_or(NDOTS_MAX).min(NDOTS_MAX),
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, TIMEOUT_SECONDS_MAX)),
            "attempts" => {
                self.attempts = u32::try_from(value.clamp(1, ATTEMPTS_MAX)).unwrap_or(1);
            }
            _ => {}
        }
    }

    /// The names to ask for, in order.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(whole) = name.strip_suffix('.') {
            return vec![whole.to_owned()];
        }
        let longer = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let mut names: Vec<String> = longer.collect();
        let is_whole = name.matches('.').count() >= self.ndots;
        names.insert(if is_whole { 0 } else { names.len() }, name.to_owned());
        names
    }
}

fn domains<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let named = words.map(|word| word.trim_end_matches('.')).filter(|word| !word.is_empty());
    named.take(SEARCH_MAX).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_whom_to_ask_and_how() {
        let text = "# by hand\nnameserver 10.0.0.1\nnameserver ::1\n;nameserver 10.0.0.9\n\
                    nameserver nonsense\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n\
                    domain first.example\nsearch a.example. b.example\n\
                    options ndots:2 timeout:1 attempts:99 rotate edns0\n";
        let settings = Settings::parse(text);
        let servers: Vec<_> = settings.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53", "10.0.0.2:53"]);
        assert_eq!(settings.search, ["a.example", "b.example"]);
        assert_eq!((settings.ndots, settings.attempts), (2, 5));
        assert_eq!(settings.timeout, Duration::from_secs(1));
    }

    #[test]
    fn without_a_file_this_machine_is_asked() {
        assert_eq!(Settings::read("/nonexistent"), Settings::default());
        assert_eq!(Settings::parse(""), Settings::default());
    }

    #[test]
    fn short_names_are_completed_first_and_long_ones_last() {
        let settings =
            Settings { search: vec!["x.org".to_owned()], ndots: 2, ..Settings::default() };
        assert_eq!(settings.candidates("a.b"), ["a.b.x.org", "a.b"]);
        assert_eq!(settings.candidates("a.b.c"), ["a.b.c", "a.b.c.x.org"]);
        assert_eq!(settings.candidates("a."), ["a"]);
    }
}
