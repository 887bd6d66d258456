//! The trace that a caller says its request belongs to.
//!
//! *Contract.* W3C Trace Context.

use http::HeaderMap;

const VERSION: u8 = 0;
const SAMPLED: u8 = 1;
/// `00-` 32 digits `-` 16 digits `-` 2 digits.
const LENGTH: usize = 55;
/// Bytes of `tracestate` that are handed on; more is not.
const STATE_MAX: usize = 512;

/// Who called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    pub(super) is_sampled: bool,
    /// `tracestate`, handed on unread.
    pub(super) state: String,
}

impl Caller {
    /// Reads the headers; nothing where they do not say it, or not properly.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let parent = headers.get("traceparent")?.as_bytes();
        let (version, rest) = (digits::<1>(parent.get(..2)?)?[0], parent.get(2..)?);
        let is_ours = version == VERSION && parent.len() == LENGTH;
        // A later version may have more behind it.
        let is_later = version > VERSION
            && version < u8::MAX
            && (parent.len() == LENGTH || parent.get(LENGTH) == Some(&b'-'));
        let are_separated = [0, 33, 50].iter().all(|at| rest.get(*at) == Some(&b'-'));
        if !(is_ours || is_later) || !are_separated {
            return None;
        }
        let (trace, span) = (digits(rest.get(1..33)?)?, digits(rest.get(34..50)?)?);
        let [flags] = digits(rest.get(51..53)?)?;
        if trace == [0; 16] || span == [0; 8] {
            return None;
        }
        let state = headers.get("tracestate").and_then(|state| state.to_str().ok());
        let state = state.filter(|state| state.len() <= STATE_MAX).unwrap_or_default().to_owned();
        Some(Self { trace, span, is_sampled: flags & SAMPLED != 0, state })
    }
}

/// Reads small hexadecimal digits.
fn digits<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | value;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(parent: &str) -> Option<Caller> {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_str(parent).expect("header"));
        headers.insert("tracestate", HeaderValue::from_static("a=b"));
        Caller::of(&headers)
    }

    #[test]
    fn a_caller_is_read_from_its_header() {
        let caller = read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let caller = caller.expect("a caller");
        assert_eq!(caller.trace[..2], [0x0a, 0xf7]);
        assert_eq!(caller.span, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert!(caller.is_sampled);
        assert_eq!(caller.state, "a=b");
        let other = read("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more");
        assert!(!other.expect("a later version").is_sampled);
    }

    #[test]
    fn what_is_not_proper_is_no_caller() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
