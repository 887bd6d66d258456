//! What is refused by a request's headers alone.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts,
};
use node::requests::Code;

use super::body::Body;
use super::status::Status;

const BASE: &str = "application/grpc";
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Digits of a timeout.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// What the headers say beside the path.
pub(super) struct Head {
    /// The time that the client gives.
    pub(super) timeout: Option<Duration>,
    /// The type of the answer: the request's.
    pub(super) content_type: HeaderValue,
}

/// Reads the headers, or answers what is no gRPC request.
pub(super) fn check(head: &Parts) -> Result<Head, Box<Response<Body>>> {
    let kind = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let Some(content_type) = answer_type(kind) else {
        let kind = String::from_utf8_lossy(kind);
        let text = format!("invalid gRPC request content-type {kind:?}");
        let status = Status::new(Code::InvalidArgument, text);
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, &status));
    };
    let timeout = match head.headers.get(GRPC_TIMEOUT).map(|value| parse(value.as_bytes())) {
        None => None,
        Some(Ok(timeout)) => Some(timeout),
        Some(Err(reason)) => {
            let text = format!("malformed grpc-timeout: {reason}");
            return Err(refusal(StatusCode::BAD_REQUEST, &Status::new(Code::Internal, text)));
        }
    };
    if head.method != Method::POST {
        let method = head.method.as_str();
        let text = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, &Status::new(Code::Internal, text)));
    }
    Ok(Head { timeout, content_type })
}

/// The type of the answer to a request of this type; nothing when it is not gRPC's.
fn answer_type(kind: &[u8]) -> Option<HeaderValue> {
    match kind.strip_prefix(BASE.as_bytes())? {
        [] | [b'+' | b';'] => Some(super::CONTENT_TYPE),
        [b'+' | b';', subtype @ ..] => {
            HeaderValue::from_bytes(&[BASE.as_bytes(), b"+", subtype].concat()).ok()
        }
        _ => None,
    }
}

fn refusal(code: StatusCode, status: &Status) -> Box<Response<Body>> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = code;
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, super::CONTENT_TYPE);
    status.put(headers);
    Box::new(response)
}

/// Reads `grpc-timeout`: up to eight digits and a unit.
pub(super) fn parse(text: &[u8]) -> Result<Duration, String> {
    let shown = || String::from_utf8_lossy(text).into_owned();
    if text.len() < 2 {
        return Err(format!("transport: timeout string is too short: {:?}", shown()));
    }
    if text.len() > TIMEOUT_DIGITS_MAX + 1 {
        return Err(format!("transport: timeout string is too long: {:?}", shown()));
    }
    let (digits, unit) = text.split_at(text.len() - 1);
    let nanos: u64 = match unit {
        b"H" => 3_600_000_000_000,
        b"M" => 60_000_000_000,
        b"S" => 1_000_000_000,
        b"m" => 1_000_000,
        b"u" => 1_000,
        b"n" => 1,
        _ => return Err(format!("transport: timeout unit is not recognized: {:?}", shown())),
    };
    let digits = String::from_utf8_lossy(digits).into_owned();
    let bad = || format!("strconv.ParseUint: parsing {digits:?}: invalid syntax");
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let amount: u64 = digits.parse().map_err(|_| bad())?;
    Ok(Duration::from_nanos(amount.saturating_mul(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_type_of_the_request() {
        let told = |kind: &str| {
            let value = answer_type(kind.as_bytes())?;
            value.to_str().ok().map(str::to_owned)
        };
        for (kind, answer) in [
            ("application/grpc", Some("application/grpc")),
            ("application/grpc+proto", Some("application/grpc+proto")),
            ("application/grpc;x", Some("application/grpc+x")),
            ("application/grpc+", Some("application/grpc")),
            ("application/grpcx", None),
            ("application/json", None),
            ("", None),
        ] {
            assert_eq!(told(kind).as_deref(), answer, "{kind}");
        }
    }

    #[test]
    fn timeouts_are_read_as_grpc_go_does() {
        assert_eq!(parse(b"10S"), Ok(Duration::from_secs(10)));
        assert_eq!(parse(b"99999999H"), Ok(Duration::from_nanos(u64::MAX)));
        for (text, told) in [
            ("nonsense", "transport: timeout unit is not recognized: \"nonsense\""),
            ("99999999999S", "transport: timeout string is too long: \"99999999999S\""),
            ("S", "transport: timeout string is too short: \"S\""),
            ("xS", "strconv.ParseUint: parsing \"x\": invalid syntax"),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(told.to_owned()));
        }
    }
}
