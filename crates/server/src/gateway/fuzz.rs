//! Headers and paths of the gateway, almost right. How to run these for longer, and a failure
//! again: see the crate `fuzz`.

use fuzz::{Verdict, fuzz, int, mutate_text};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use net::PeerAddress;

use super::path::{self, Target};
use super::{headers, routes};

#[test]
fn paths_and_headers_are_refused_or_read() {
    fuzz("gateway requests", |u| {
        let text = mutate_text(u, "/v3beta/kv/../kv/r%61nge?a=b")?;
        if let Ok(uri) = text.parse::<Uri>()
            && let Some(target) = path::target(&uri)
        {
            match target {
                Target::Here(path) => drop(routes::find(&path)),
                Target::Elsewhere(there) => {
                    // A client that follows gets somewhere.
                    let there: Uri = there.parse().expect("a path again");
                    let again = path::target(&there);
                    assert!(!matches!(again, Some(Target::Elsewhere(_))), "{text}");
                }
            }
        }
        let mut given = HeaderMap::new();
        let timeout = format!("{}{}", int(u)?.cast_signed(), u.choose(&["H", "S", "n", "x"])?);
        for (name, value) in [
            ("grpc-timeout", timeout.as_str()),
            ("grpc-metadata-token", "t"),
            ("grpc-metadata-x-bin", "YWI="),
            ("te", "trailers"),
        ] {
            let (name, value) = (mutate_text(u, name)?, mutate_text(u, value)?);
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                given.append(name, value);
            }
        }
        Ok(Verdict::of(&headers::read(&given, Some("h"), PeerAddress::Unix)))
    });
}
