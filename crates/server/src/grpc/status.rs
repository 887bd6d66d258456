//! How a call ended.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use node::requests::{Code, Rejected};
use store::{ApplyError, ReadError, TxnError};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: Code,
    pub(crate) message: Cow<'static, str>,
}

impl Status {
    pub(crate) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// The number of its code.
    pub(crate) fn number(&self) -> usize {
        usize::try_from(self.code as i32).unwrap_or(2)
    }

    /// Adds it to headers or trailers.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        headers.insert(GRPC_STATUS, HeaderValue::from(self.code as i32));
        // Encoded text is printable ASCII.
        if let Ok(text) = HeaderValue::from_str(&percent_encode(&self.message)) {
            headers.insert(GRPC_MESSAGE, text);
        }
    }
}

/// The trailers of a call that succeeded.
pub(crate) fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

impl From<Rejected> for Status {
    fn from(rejected: Rejected) -> Self {
        let (code, message) = rejected.status();
        Self { code, message }
    }
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Self {
        Rejected::from(error).into()
    }
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Self {
        if let ReadError::Damaged(damage) = &error {
            crate::damage::tell(damage);
        }
        Rejected::from(error).into()
    }
}

impl From<TxnError> for Status {
    fn from(error: TxnError) -> Self {
        match error {
            TxnError::Refused(error) => error.into(),
            TxnError::Read(error) => error.into(),
        }
    }
}

/// The form of `grpc-message`: printable ASCII but `%`, the rest as `%XX`.
fn percent_encode(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'%';
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if plain(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encode("100% \u{e4}\n"), "100%25 %C3%A4%0A");
        assert_eq!(percent_encode("etcdserver: no leader"), "etcdserver: no leader");
    }
}
