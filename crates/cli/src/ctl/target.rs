//! Reads what stands in `--endpoints`: where a member is, how it is reached, and which name its
//! certificate must have.
//!
//! *Contract.* `client/v3/internal/endpoint` of etcd v3.7.1.

use net::Url;

/// What an endpoint's form says of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// There is none, whatever the flags say.
    Plain,
    /// There is TLS, whatever the flags say.
    Secure,
    /// The flags say it.
    Free,
}

/// Where a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// As the user wrote it.
    pub(crate) endpoint: String,
    /// What is dialled; none where the endpoint is no address.
    pub(crate) url: Option<Url>,
    /// Whom the certificate must be for.
    pub(crate) host: String,
}

/// What `endpoint` demands. That of the first endpoint holds for all.
pub(crate) fn demand(endpoint: &str) -> Demand {
    let scheme = match endpoint.split_once("://") {
        Some((scheme, _)) => scheme.to_ascii_lowercase(),
        None => endpoint.split(':').next().unwrap_or_default().to_owned(),
    };
    match scheme.as_str() {
        "https" | "unixs" => Demand::Secure,
        "http" => Demand::Plain,
        _ => Demand::Free,
    }
}

impl Target {
    /// Reads an endpoint, to be reached with TLS or without it.
    pub(crate) fn of(endpoint: &str, is_secure: bool) -> Target {
        let file = ["unixs:", "unix:"].into_iter().find_map(|kind| endpoint.strip_prefix(kind));
        if let Some(path) = file {
            let path = path.strip_prefix("//").unwrap_or(path);
            let scheme = if is_secure { "unixs" } else { "unix" };
            let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            return Target {
                endpoint: endpoint.to_owned(),
                url: Url::parse(&format!("{scheme}:{path}")).ok(),
                host: host_of(name).to_owned(),
            };
        }
        let address = match endpoint.split_once("://") {
            Some((scheme, rest)) if ["http", "https"].contains(&&*scheme.to_ascii_lowercase()) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                rest[..end].rsplit('@').next().unwrap_or_default()
            }
            _ => endpoint,
        };
        let scheme = if is_secure { "https" } else { "http" };
        Target {
            endpoint: endpoint.to_owned(),
            url: Url::parse(&format!("{scheme}://{address}")).ok(),
            host: host_of(address).to_owned(),
        }
    }

    /// What requests name as the server.
    pub(crate) fn authority(&self) -> &str {
        match &self.url {
            Some(url) if !url.scheme().is_unix() => url.authority(),
            _ => "localhost",
        }
    }
}

/// An address without its port and without the brackets of IPv6.
fn host_of(address: &str) -> &str {
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => address,
    };
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_take_every_form() {
        for (endpoint, secure, url, host) in [
            ("127.0.0.1:2379", false, "http://127.0.0.1:2379", "127.0.0.1"),
            ("127.0.0.1:2379", true, "https://127.0.0.1:2379", "127.0.0.1"),
            ("http://host:1", false, "http://host:1", "host"),
            ("https://host:1/a/path?x", true, "https://host:1", "host"),
            ("HTTPS://u@host:1", true, "https://host:1", "host"),
            ("https://[::1]:2379", true, "https://[::1]:2379", "::1"),
            ("unix://localhost:20000", false, "unix:localhost:20000", "localhost"),
            ("unix:///run/etcd.sock", false, "unix:///run/etcd.sock", "etcd.sock"),
            ("unixs:///run/localhost:1", true, "unixs:///run/localhost:1", "localhost"),
            ("unixs:some/file", true, "unixs:some/file", "file"),
        ] {
            let target = Target::of(endpoint, secure);
            assert_eq!(target.url.map(|url| url.to_string()).as_deref(), Some(url), "{endpoint}");
            assert_eq!(target.host, host, "{endpoint}");
        }
        for endpoint in ["host", "dns://host:1", ""] {
            assert_eq!(Target::of(endpoint, false).url, None, "{endpoint}");
        }
    }

    #[test]
    fn the_scheme_says_whether_there_is_tls() {
        for (endpoint, expected) in [
            ("http://a:1", Demand::Plain),
            ("https://a:1", Demand::Secure),
            ("HTTPS://a:1", Demand::Secure),
            ("unixs:a", Demand::Secure),
            ("unixs:///a", Demand::Secure),
            ("unix:///a", Demand::Free),
            ("a:1", Demand::Free),
            ("dns://a", Demand::Free),
        ] {
            assert_eq!(demand(endpoint), expected, "{endpoint}");
        }
    }
}
