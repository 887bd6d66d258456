//! Paths as Go's `ServeMux` takes them: cleaned by a redirect, then without escapes.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, Uri, header};

use crate::grpc::Body;
use crate::percent;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// Where a request of the gateway goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To this path.
    Here(String),
    /// The client should ask there.
    Elsewhere(String),
}

/// Where a request goes, if it is the gateway's.
pub(super) fn target(uri: &Uri) -> Option<Target> {
    let given = uri.path();
    if !given.contains("v3") && !given.contains('%') {
        return None;
    }
    let renamed = match given.strip_prefix("/v3beta/") {
        Some(rest) => format!("/v3/{rest}"),
        None => given.to_owned(),
    };
    let clean = clean(&renamed);
    let path = percent::decode_valid(&clean)?;
    let is_root = path == "/v3";
    if !is_root && !path.starts_with("/v3/") {
        return None;
    }
    if !is_root && clean == renamed {
        return Some(Target::Here(path));
    }
    let slash = if is_root { "/" } else { "" };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    Some(Target::Elsewhere(format!("{clean}{slash}{query}")))
}

/// A path without empty parts and without dots.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let is_directory = path.ends_with('/') && !parts.is_empty();
    format!("/{}{}", parts.join("/"), if is_directory { "/" } else { "" })
}

/// Sends a client elsewhere.
pub(super) fn redirect(method: &Method, location: &str) -> Response<Body> {
    let mut response = Response::new(Body::Plain(Bytes::new()));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let is_read = [Method::GET, Method::HEAD].contains(method);
    if is_read {
        let shown = location.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let shown = shown.replace('"', "&#34;").replace('\'', "&#39;");
        let text = format!("<a href=\"{shown}\">Temporary Redirect</a>.\n\n");
        *response.body_mut() = Body::Plain(text.into());
        response.headers_mut().insert(header::CONTENT_TYPE, HTML);
    }
    // What stands in a request's path may stand in a header.
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_as_go_takes_them() {
        let here = |path: &str| Some(Target::Here(path.to_owned()));
        let elsewhere = |path: &str| Some(Target::Elsewhere(path.to_owned()));
        for (path, target_of_it) in [
            ("/v3/kv/range", here("/v3/kv/range")),
            ("/v3/kv/range/", here("/v3/kv/range/")),
            ("/v3/", here("/v3/")),
            ("/v3beta/kv/range", here("/v3/kv/range")),
            ("/v3beta/", here("/v3/")),
            ("/v3/kv/r%61nge", here("/v3/kv/range")),
            ("/%763/kv", here("/v3/kv")),
            ("/v3", elsewhere("/v3/")),
            ("/v3?a=b", elsewhere("/v3/?a=b")),
            ("/v3//kv/range", elsewhere("/v3/kv/range")),
            ("//v3/kv/./range", elsewhere("/v3/kv/range")),
            ("/x/../v3/kv/range?a", elsewhere("/v3/kv/range?a")),
            ("/v3/../version", None),
            ("/v3beta", None),
            ("/v3alpha/kv/range", None),
            ("/v3/%zz", None),
            ("/v3/%+f", None),
            ("/version", None),
            ("/", None),
        ] {
            let uri = path.parse().expect("a path");
            assert_eq!(target(&uri), target_of_it, "{path}");
        }
    }
}
