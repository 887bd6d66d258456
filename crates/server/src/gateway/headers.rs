//! The headers of a request, as the metadata of a call.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use net::PeerAddress;
use tokio::time::Instant;

use super::answer::Failure;

const PREFIX: &str = "grpc-metadata-";
const PERMANENT_PREFIX: &str = "grpcgateway-";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Headers that are metadata under a name of their own.
const PERMANENT: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "authorization",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "warning",
];

/// Names that belong to gRPC itself: nobody may set them.
const RESERVED: &[&str] = &[
    "content-type",
    "grpc-encoding",
    "grpc-message",
    "grpc-message-type",
    "grpc-status",
    "grpc-timeout",
    "te",
    "user-agent",
];

/// What the headers say of a call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) metadata: HeaderMap,
    /// When the client wants to wait no longer.
    pub(super) deadline: Option<Instant>,
    /// Whether the client takes trailers.
    pub(super) takes_trailers: bool,
}

/// Reads the headers of a request to a host.
pub(super) fn read(
    headers: &HeaderMap,
    host: Option<&str>,
    peer: PeerAddress,
) -> Result<Call, Failure> {
    let timeout = match headers.get(TIMEOUT) {
        Some(text) if !text.is_empty() => Some(timeout(text)?),
        _ => None,
    };
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let (name, is_permanent) = (name.as_str(), PERMANENT.contains(&name.as_str()));
        if name == header::AUTHORIZATION.as_str() {
            metadata.append(header::AUTHORIZATION, value.clone());
        }
        let given = match name.strip_prefix(PREFIX) {
            _ if is_permanent => HeaderName::try_from(format!("{PERMANENT_PREFIX}{name}")),
            Some(given) if !RESERVED.contains(&given) => HeaderName::try_from(given),
            _ => continue,
        };
        if name.ends_with("-bin") {
            check_binary(name, value)?;
        }
        let is_text = value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte));
        if let Ok(given) = given
            && is_text
        {
            metadata.append(given, value.clone());
        }
    }
    let host = match headers.get(FORWARDED_HOST) {
        Some(host) if !host.is_empty() => Some(host.clone()),
        _ => host.and_then(|host| HeaderValue::from_str(host).ok()),
    };
    if let Some(host) = host {
        metadata.insert(FORWARDED_HOST, host);
    }
    let passed = headers.get_all(FORWARDED_FOR);
    let mut way: Vec<String> =
        passed.iter().filter_map(|by| by.to_str().ok()).map(str::to_owned).collect();
    if let PeerAddress::Tcp(address) = peer {
        way.push(address.ip().to_string());
    }
    if let Ok(way) = HeaderValue::from_str(&way.join(", "))
        && !way.is_empty()
    {
        metadata.insert(FORWARDED_FOR, way);
    }
    let takes_trailers = headers
        .get(header::TE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.to_ascii_lowercase().contains("trailers"));
    let deadline = timeout.flatten().map(|timeout| {
        // What is longer than the clock can tell is no bound.
        let now = Instant::now();
        now.checked_add(timeout).unwrap_or(now + FAR)
    });
    Ok(Call { metadata, deadline, takes_trailers })
}

/// A deadline that nobody lives to see.
const FAR: Duration = Duration::from_secs(86_400 * 365);

/// Digits, perhaps with a sign, and a unit; zero is no bound, and less is over at once.
fn timeout(value: &HeaderValue) -> Result<Option<Duration>, Failure> {
    let text = String::from_utf8_lossy(value.as_bytes());
    let invalid = || Failure::invalid(format!("invalid grpc-timeout: {text}"));
    let nanos: i64 = match text.as_bytes().last() {
        Some(b'H') => 3_600_000_000_000,
        Some(b'M') => 60_000_000_000,
        Some(b'S') => 1_000_000_000,
        Some(b'm') => 1_000_000,
        Some(b'u') => 1_000,
        Some(b'n') => 1,
        _ => return Err(invalid()),
    };
    let amount: i64 = text[..text.len() - 1].parse().map_err(|_| invalid())?;
    let total = amount.wrapping_mul(nanos);
    Ok((total != 0).then(|| Duration::from_nanos(u64::try_from(total).unwrap_or(0))))
}

/// Refuses what is not base64; nobody here reads it otherwise.
fn check_binary(name: &str, value: &HeaderValue) -> Result<(), Failure> {
    let text = value.as_bytes();
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    let padding = if text.len().is_multiple_of(4) {
        text.iter().rev().take(2).take_while(|byte| **byte == b'=').count()
    } else {
        0
    };
    let letters = &text[..text.len() - padding];
    let wrong = letters.iter().position(|byte| !is_letter(byte));
    let wrong = wrong.or((letters.len() % 4 == 1).then_some(letters.len() / 4 * 4));
    let Some(at) = wrong else { return Ok(()) };
    let canonical: Vec<String> = name
        .split('-')
        .map(|word| word[..1.min(word.len())].to_ascii_uppercase() + &word[1.min(word.len())..])
        .collect();
    Err(Failure::invalid(format!(
        "invalid binary header {}: illegal base64 data at input byte {at}",
        canonical.join("-")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn read_from(pairs: &[(&'static str, &'static str)]) -> Result<Call, Failure> {
        let peer = PeerAddress::Tcp("10.0.0.1:7".parse().expect("an address"));
        read(&headers(pairs), Some("host:2379"), peer)
    }

    #[test]
    fn headers_become_metadata_or_are_dropped() {
        let call = read_from(&[
            ("authorization", "Bearer t"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-te", "x"),
            ("grpc-metadata-grpc-timeout", "1S"),
            ("accept", "*/*"),
            ("x-other", "1"),
            ("x-forwarded-for", "10.0.0.9"),
            ("te", "Trailers"),
        ])
        .expect("valid");
        let expected = headers(&[
            ("authorization", "Bearer t"),
            ("grpcgateway-authorization", "Bearer t"),
            ("hasleader", "true"),
            ("grpcgateway-accept", "*/*"),
            ("x-forwarded-host", "host:2379"),
            ("x-forwarded-for", "10.0.0.9, 10.0.0.1"),
        ]);
        assert_eq!(call.metadata, expected);
        assert!(call.takes_trailers && call.deadline.is_none());
    }

    #[test]
    fn timeouts_are_read_as_the_gateway_does() {
        let timeout = |text: &'static str| timeout(&HeaderValue::from_static(text));
        assert_eq!(timeout("10S").ok(), Some(Some(Duration::from_secs(10))));
        assert_eq!(timeout("0S").ok(), Some(None));
        assert_eq!(timeout("-1S").ok(), Some(Some(Duration::ZERO)));
        for text in ["S", "1", "x", "1x", "1.5S", " 1S", "99999999999999999999S"] {
            let failure = timeout(text).expect_err(text);
            assert_eq!(failure.message, format!("invalid grpc-timeout: {text}"));
        }
        assert!(read_from(&[("grpc-timeout", "x")]).is_err());
        assert!(read_from(&[("grpc-timeout", "9223372036S")]).is_ok());
    }

    #[test]
    fn binary_metadata_must_be_base64() {
        for (value, at) in [("YQ==", None), ("YQ", None), ("!!", Some(0)), ("YQ=a", Some(2))] {
            let told = read_from(&[("grpc-metadata-a-bin", value)]).err().map(|it| it.message);
            let expected = at.map(|at| {
                format!(
                    "invalid binary header Grpc-Metadata-A-Bin: illegal base64 data at input \
                     byte {at}"
                )
            });
            assert_eq!(told.as_deref(), expected.as_deref(), "{value}");
        }
    }
}
