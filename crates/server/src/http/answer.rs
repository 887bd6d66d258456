//! Small answers, in the shape of Go's `net/http`.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::grpc::Body;

pub(super) const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");

/// A text of the given type.
pub(super) fn with_type(kind: HeaderValue, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Plain(text.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A plain text that browsers must not take for something else.
pub(super) fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = with_type(PLAIN, text);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

/// An error: its text and a newline.
pub(super) fn error(code: StatusCode, what: &str) -> Response<Body> {
    text(code, format!("{what}\n"))
}

/// Nothing is here.
pub(super) fn not_found() -> Response<Body> {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// Something is here, for another method.
pub(super) fn method_not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}
