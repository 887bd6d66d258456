//! Who may call from a browser: `--cors` and `--host-whitelist`.

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};

use super::{answer, header_text};
use crate::config::Config;
use crate::grpc::Body;
use crate::log;

/// The rules of a client port without TLS.
#[derive(Debug)]
pub(crate) struct Access {
    /// `None` is everyone.
    origins: Option<BTreeSet<String>>,
    /// `None` is every name.
    hosts: Option<BTreeSet<String>>,
}

impl Access {
    pub(crate) fn of(config: &Config) -> Self {
        let some = |list: &BTreeSet<String>| {
            (!list.is_empty() && !list.contains("*")).then(|| list.clone())
        };
        Self { origins: some(&config.cors), hosts: some(&config.host_whitelist) }
    }

    /// The refusal of a request for a host name that is not ours: a page of somebody else may
    /// have made its own name point here.
    pub(super) fn refuse(&self, headers: &HeaderMap, uri: &Uri) -> Option<Response<Body>> {
        let hosts = self.hosts.as_ref()?;
        let given = header_text(headers, header::HOST).or(uri.host()).unwrap_or_default();
        let host = net::url::split_host_port(given).map_or(given, |(host, _)| host);
        if hosts.contains(host) {
            return None;
        }
        log::warn("rejecting HTTP request to prevent DNS rebinding attacks")
            .field("host", host)
            .emit();
        let text = format!(
            "\netcd received your request, but the Host header was unrecognized.\n\n\
             Use TLS, or allow the name: etcd --host-whitelist {host:?}\n\n\
             Without this check a foreign page could reach the member by DNS rebinding \
             (CVE-2018-5702).\n"
        );
        Some(answer::error(StatusCode::MISDIRECTED_REQUEST, &text))
    }

    /// Tells a browser whose pages may read the answer.
    pub(super) fn allow(&self, request: &HeaderMap, response: &mut HeaderMap) {
        let origin = match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => request
                .get(header::ORIGIN)
                .filter(|given| given.to_str().is_ok_and(|given| origins.contains(given)))
                .cloned(),
        };
        let Some(origin) = origin else { return };
        response.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
        );
        response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("accept, content-type, authorization"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(origins: &[&str], hosts: &[&str]) -> Access {
        let set = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
        Access::of(&Config { cors: set(origins), host_whitelist: set(hosts), ..Config::default() })
    }

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_foreign_host_name_is_refused() {
        let access = access(&["*"], &["ok.example", "::1"]);
        let uri = Uri::from_static("/health");
        let refused = |host| access.refuse(&headers(header::HOST, host), &uri);
        assert!(refused("ok.example:2379").is_none());
        assert!(refused("ok.example").is_none());
        assert!(refused("[::1]:2379").is_none());
        let refusal = refused("evil.example:2379").expect("refused");
        assert_eq!(refusal.status(), StatusCode::MISDIRECTED_REQUEST);
    }

    #[test]
    fn an_origin_is_echoed_when_it_is_listed() {
        let access = access(&["http://ok.example:80"], &["*"]);
        for (origin, allowed) in [("http://ok.example:80", true), ("http://evil.example", false)] {
            let mut response = HeaderMap::new();
            access.allow(&headers(header::ORIGIN, origin), &mut response);
            let told = header_text(&response, header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(told, allowed.then_some(origin));
        }
    }
}
