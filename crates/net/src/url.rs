//! Reads the URLs that operators give to members, with etcd's refusals.
//!
//! *Contract.* `client/pkg/types/urls.go` of etcd v3.7.1, and of Go's `net/url` what these URLs
//! use.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;

/// How to speak on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// TCP, plain text.
    Http,
    /// TCP, TLS.
    Https,
    /// A socket file, plain text.
    Unix,
    /// A socket file, TLS.
    Unixs,
}

impl Scheme {
    /// The text before `://`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Unixs => "unixs",
        }
    }

    /// Whether connections are encrypted.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Unixs)
    }

    /// Whether the address is a socket file.
    pub const fn is_unix(self) -> bool {
        matches!(self, Self::Unix | Self::Unixs)
    }
}

/// An address of a member. Equal when its text is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    scheme: Scheme,
    /// `host:port` for TCP; what stands before the path for a socket file.
    authority: String,
    /// Only socket files have one.
    path: String,
}

/// Why a text is no URL for a member.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UrlError {
    /// The scheme is unknown, or there is none.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// A TCP address without its port.
    #[error("URL address does not have the form \"host:port\": {0}")]
    Address(String),
    /// A TCP address with a path.
    #[error("URL must not contain a path: {0}")]
    Path(String),
    /// Not a URL at all.
    #[error("parse {url:?}: {reason}")]
    Syntax {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A list without an element.
    #[error("no valid URLs given")]
    Empty,
    /// An address to listen on that is a name.
    #[error("expected IP in URL for binding ({0})")]
    NotAnIp(Url),
    /// An address to advertise without a host.
    #[error("unexpected empty host ({0})")]
    EmptyHost(Url),
}

impl Url {
    /// Reads one URL; blanks around it are ignored.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let syntax = |reason: String| UrlError::Syntax { url: text.to_owned(), reason };
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return Err(syntax("net/url: invalid control character in URL".to_owned()));
        }
        let (scheme, rest) = split_scheme(text).map_err(syntax)?;
        let Some(rest) = rest.strip_prefix("//") else {
            // `localhost:2379` is, to Go, a URL of the scheme `localhost`.
            return match known(scheme) {
                Some(Scheme::Unix | Scheme::Unixs) if !rest.is_empty() => Ok(Self {
                    scheme: known(scheme).unwrap_or(Scheme::Unix),
                    authority: String::new(),
                    path: rest.to_owned(),
                }),
                Some(Scheme::Http | Scheme::Https) => Err(UrlError::Address(text.to_owned())),
                _ => Err(UrlError::Scheme(text.to_owned())),
            };
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        check_port(host).map_err(syntax)?;
        let Some(scheme) = known(scheme) else {
            return Err(UrlError::Scheme(text.to_owned()));
        };
        if !scheme.is_unix() {
            if split_host_port(host).is_none() {
                return Err(UrlError::Address(text.to_owned()));
            }
            if path.starts_with('/') {
                return Err(UrlError::Path(text.to_owned()));
            }
        }
        Ok(Self { scheme, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// Reads a list separated by commas, drops repetitions and sorts by text.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, UrlError> {
        if text.is_empty() {
            return Err(UrlError::Empty);
        }
        let mut urls = text.split(',').map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort_by_key(ToString::to_string);
        urls.dedup();
        Ok(urls)
    }

    /// How to speak there.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// `host:port`, as it is dialed.
    pub fn authority(&self) -> &str {
        self.authority.rsplit_once('@').map_or(&self.authority, |(_, host)| host)
    }

    /// The host alone, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        split_host_port(self.authority()).map_or(self.authority(), |(host, _)| host)
    }

    /// The port as it was given.
    pub fn port(&self) -> &str {
        split_host_port(self.authority()).map_or("", |(_, port)| port)
    }

    /// The file of a `unix` socket.
    pub fn socket_path(&self) -> String {
        format!("{}{}", self.authority, self.path)
    }

    /// Fails unless a listener can be bound here: an IP address or `localhost`.
    pub fn check_bindable(&self) -> Result<(), UrlError> {
        let host = self.host();
        if self.scheme.is_unix() || host == "localhost" || parse_ip(host).is_some() {
            return Ok(());
        }
        Err(UrlError::NotAnIp(self.clone()))
    }

    /// Fails unless others could dial it.
    pub fn check_dialable(&self) -> Result<(), UrlError> {
        if !self.scheme.is_unix() && self.host().is_empty() {
            return Err(UrlError::EmptyHost(self.clone()));
        }
        Ok(())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.authority.is_empty() && !self.path.starts_with('/') {
            return write!(f, "{}:{}", self.scheme.text(), self.path);
        }
        write!(f, "{}://{}{}", self.scheme.text(), self.authority, self.path)
    }
}

fn known(scheme: &str) -> Option<Scheme> {
    [Scheme::Http, Scheme::Https, Scheme::Unix, Scheme::Unixs]
        .into_iter()
        .find(|known| scheme.eq_ignore_ascii_case(known.text()))
}

/// The scheme, and what follows its colon.
fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    let first = text.split(['/', '?', '#']).next().unwrap_or(text);
    if first.contains(':') {
        return Err("first path segment in URL cannot contain colon".to_owned());
    }
    Ok(("", text))
}

/// What follows the last colon of an authority must be digits.
fn check_port(host: &str) -> Result<(), String> {
    let tail = match host.rfind(']') {
        Some(at) => &host[at + 1..],
        None if host.starts_with('[') => return Err("missing ']' in host".to_owned()),
        None => host.rfind(':').map_or("", |at| &host[at..]),
    };
    let valid = tail.is_empty()
        || tail.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if valid { Ok(()) } else { Err(format!("invalid port {tail:?} after host")) }
}

/// Splits `host:port` and `[v6]:port`.
pub fn split_host_port(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        return Some((host, tail.strip_prefix(':')?));
    }
    let (host, port) = text.rsplit_once(':')?;
    (!host.contains(':')).then_some((host, port))
}

fn parse_ip(host: &str) -> Option<IpAddr> {
    host.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Url::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn refusals_are_etcds() {
        // Seen by giving these to `etcd --listen-client-urls`.
        for (given, told) in [
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            (
                "http://127.0.0.1",
                "URL address does not have the form \"host:port\": http://127.0.0.1",
            ),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            (
                "127.0.0.1:2379",
                "parse \"127.0.0.1:2379\": first path segment in URL cannot contain colon",
            ),
            ("http://a:b", "parse \"http://a:b\": invalid port \":b\" after host"),
            (":1", "parse \":1\": missing protocol scheme"),
        ] {
            assert_eq!(error(given), told);
        }
    }

    #[test]
    fn lists_are_sets_in_order_of_their_text() {
        let urls = Url::parse_list("http://b:2, http://a:1,http://b:2").expect("valid");
        assert_eq!(
            urls.iter().map(Url::to_string).collect::<Vec<_>>(),
            ["http://a:1", "http://b:2"]
        );
        assert_eq!(urls[1].host(), "b");
        assert_eq!(urls[1].port(), "2");
    }

    #[test]
    fn hosts_and_sockets() {
        let v6 = Url::parse("http://[::1]:2379").expect("valid");
        assert_eq!((v6.host(), v6.port()), ("::1", "2379"));
        assert!(v6.check_bindable().is_ok());
        let unix = Url::parse("unix://localhost:20000").expect("valid");
        assert_eq!(unix.socket_path(), "localhost:20000");
        assert_eq!(unix.to_string(), "unix://localhost:20000");
        let file = Url::parse("unix:///tmp/a.sock").expect("valid");
        assert_eq!(file.socket_path(), "/tmp/a.sock");
        let name = Url::parse("http://foo.com:1").expect("valid");
        let refused = name.check_bindable().expect_err("a name");
        assert_eq!(refused.to_string(), "expected IP in URL for binding (http://foo.com:1)");
        let empty = Url::parse("http://:1").expect("valid");
        let refused = empty.check_dialable().expect_err("no host");
        assert_eq!(refused.to_string(), "unexpected empty host (http://:1)");
    }
}
