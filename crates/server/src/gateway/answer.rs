//! What a gRPC answer says, and how a failure is told over HTTP.

use std::borrow::Cow;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use proto::json::{Form, put_string};

use crate::grpc::{Body, PREFIX};
use crate::percent;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const METADATA_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");
const TRAILER_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-trailer-content-type");

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The number of its gRPC code.
    pub(super) code: u32,
    pub(super) message: Cow<'static, str>,
}

impl Failure {
    pub(super) const NOT_FOUND: Self = Self::constant(5, "Not Found");
    pub(super) const WRONG_METHOD: Self = Self::constant(12, "Method Not Allowed");
    pub(super) const DEADLINE: Self = Self::constant(4, "context deadline exceeded");
    /// The client has taken too long to send its request.
    pub(super) const LATE: Self = Self::constant(4, "the request did not come in time");
    /// Nobody hears it.
    pub(super) const GONE: Self = Self::constant(1, "context canceled");
    /// The answer has ended without a status.
    pub(super) const CUT: Self = Self::constant(14, "error reading from server: EOF");

    const fn constant(code: u32, message: &'static str) -> Self {
        Self { code, message: Cow::Borrowed(message) }
    }

    /// A request that cannot be read.
    pub(super) fn invalid(message: String) -> Self {
        Self { code: 3, message: Cow::Owned(message) }
    }

    /// A request that is too large.
    pub(super) fn exhausted(message: String) -> Self {
        Self { code: 8, message: Cow::Owned(message) }
    }

    /// What headers or trailers say; nothing when they tell of no failure.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        if code == 0 {
            return None;
        }
        let message = headers.get("grpc-message").map(|text| percent_decode(text.as_bytes()));
        Some(Self { code, message: Cow::Owned(message.unwrap_or_default()) })
    }

    /// The status of HTTP that stands for it.
    pub(super) fn http_status(&self) -> StatusCode {
        let number = match self.code {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 501,
            14 => 503,
            16 => 401,
            _ => 500,
        };
        StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Writes it as JSON.
    pub(super) fn write(&self, form: Form, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{{\"code\":{}", self.code).as_bytes());
        if !self.message.is_empty() {
            out.extend_from_slice(b",\"message\":");
            put_string(out, &self.message, form);
        }
        out.push(b'}');
    }
}

fn percent_decode(text: &[u8]) -> String {
    String::from_utf8_lossy(&percent::decode(text).0).into_owned()
}

/// The answer that a failure is.
pub(super) fn failure(failure: &Failure) -> Response<Body> {
    let mut text = Vec::new();
    failure.write(Form::Plain, &mut text);
    let mut response = Response::new(Body::Plain(text.into()));
    *response.status_mut() = failure.http_status();
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    if failure.code == 16
        && let Ok(message) = HeaderValue::from_str(&failure.message)
    {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, message);
    }
    response
}

/// The same for a client that takes trailers: gRPC's own header of a failed call is one.
pub(super) fn failure_with_trailers(told: &Failure, is_from_call: bool) -> Response<Body> {
    let mut response = failure(told);
    let mut trailers = HeaderMap::new();
    if is_from_call {
        response
            .headers_mut()
            .insert(header::TRAILER, HeaderValue::from_static("Grpc-Trailer-Content-Type"));
        trailers.insert(TRAILER_CONTENT_TYPE, GRPC);
    }
    if let Body::Plain(text) = std::mem::replace(response.body_mut(), Body::Empty) {
        *response.body_mut() = Body::Trailed(Some(text), trailers);
    }
    response
}

/// The headers of an answer that is no failure.
pub(super) fn success(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert(METADATA_CONTENT_TYPE, GRPC);
    response
}

/// Reads the messages of a gRPC answer, each in pieces.
pub(super) struct Messages {
    body: Body,
    data: Bytes,
    /// What has come of a prefix.
    prefix: [u8; PREFIX],
    prefix_bytes: usize,
    /// What has still to come of a message.
    left: Option<usize>,
}

/// What comes next.
pub(super) enum Part {
    /// Bytes of a message.
    Piece(Bytes),
    /// The message is whole.
    MessageEnd,
    /// The answer is over.
    End(Result<(), Failure>),
}

impl Messages {
    /// Reads an answer; one that is a failure has no messages.
    pub(super) fn of(response: Response<Body>) -> Result<Self, Failure> {
        if let Some(failure) = Failure::of(response.headers()) {
            return Err(failure);
        }
        let (body, data) = (response.into_body(), Bytes::new());
        Ok(Self { body, data, prefix: [0; PREFIX], prefix_bytes: 0, left: None })
    }

    /// Waits for the next part. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Part {
        loop {
            match self.left {
                Some(0) => {
                    self.left = None;
                    return Part::MessageEnd;
                }
                Some(left) if !self.data.is_empty() => {
                    let piece = self.data.split_to(left.min(self.data.len()));
                    self.left = Some(left - piece.len());
                    return Part::Piece(piece);
                }
                None if !self.data.is_empty() => {
                    self.prefix[self.prefix_bytes] = self.data.get_u8();
                    self.prefix_bytes += 1;
                    if self.prefix_bytes == PREFIX {
                        let [_, length @ ..] = self.prefix;
                        self.left = Some(u32::from_be_bytes(length) as usize);
                        self.prefix_bytes = 0;
                    }
                    continue;
                }
                _ => {}
            }
            let Some(Ok(frame)) = self.body.frame().await else {
                return Part::End(Err(Failure::CUT));
            };
            match frame.into_data() {
                Ok(data) => self.data = data,
                Err(frame) => {
                    let failed = frame.into_trailers().ok().and_then(|it| Failure::of(&it));
                    return Part::End(failed.map_or(Ok(()), Err));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn codes_have_the_gateways_status() {
        let status = |code| Failure { code, message: Cow::Borrowed("") }.http_status().as_u16();
        let codes = (0..18).map(status).collect::<Vec<_>>();
        assert_eq!(
            codes,
            [
                200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500,
                401, 500
            ]
        );
    }

    #[test]
    fn a_failure_is_json() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static("3"));
        headers.insert("grpc-message", HeaderValue::from_static("a%25%C3%A4 %0A%zz%"));
        let failure = Failure::of(&headers).expect("one");
        let mut text = Vec::new();
        failure.write(Form::Plain, &mut text);
        let expected = "{\"code\":3,\"message\":\"a%\u{e4} \\n%zz%\"}";
        assert_eq!(String::from_utf8(text).as_deref(), Ok(expected));
        assert_eq!(Failure::of(&HeaderMap::new()), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn messages_are_read_in_any_pieces() {
        let framed = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1], b"x"];
        let framed = framed.concat();
        for size in 1..framed.len() {
            let pieces: VecDeque<_> = framed.chunks(size).map(Bytes::copy_from_slice).collect();
            let mut messages =
                Messages::of(Response::new(Body::Chunks(pieces))).expect("no failure");
            let (mut seen, mut message) = (Vec::new(), Vec::new());
            loop {
                match messages.next().await {
                    Part::Piece(piece) => message.extend_from_slice(&piece),
                    Part::MessageEnd => seen.push(std::mem::take(&mut message)),
                    Part::End(end) => {
                        assert_eq!(end, Ok(()));
                        break;
                    }
                }
            }
            assert_eq!(seen, [&b"abc"[..], b"", b"x"]);
        }
        let mut cut = Messages::of(Response::new(Body::Plain(Bytes::new()))).expect("no failure");
        assert!(matches!(cut.next().await, Part::Piece(_) | Part::End(Err(_)) | Part::MessageEnd));
    }
}
