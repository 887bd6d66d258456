//! What is refused by a request's headers alone.

use std::time::Duration;

use http::{HeaderMap, Method, Response, StatusCode, header, request::Parts};
use node::requests::Code;

use super::body::Body;
use super::status::Status;

const BASE: &str = "application/grpc";
/// Digits of a timeout.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// The time that the client gives, or the answer to what is no gRPC request.
pub(super) fn check(head: &Parts) -> Result<Option<Duration>, Box<Response<Body>>> {
    let kind = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let is_grpc = kind
        .strip_prefix(BASE.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'+' || rest[0] == b';');
    if !is_grpc {
        let kind = String::from_utf8_lossy(kind);
        let text = format!("invalid gRPC request content-type {kind:?}");
        let status = Status::new(Code::InvalidArgument, text);
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, &status));
    }
    let timeout = match head.headers.get("grpc-timeout").map(|value| parse(value.as_bytes())) {
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
    Ok(timeout)
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
fn parse(text: &[u8]) -> Result<Duration, String> {
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
