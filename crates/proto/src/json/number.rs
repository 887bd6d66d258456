//! Integers in JSON, which may be written with a fraction or an exponent, and as strings.

/// Digits of the largest number that fits; more are not unfolded.
const DIGITS_MAX: usize = 20;

/// The digits and the sign of an integer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Integer {
    is_negative: bool,
    digits: String,
}

impl Integer {
    pub(super) fn as_i64(&self) -> Option<i64> {
        let sign = if self.is_negative { "-" } else { "" };
        format!("{sign}{}", self.digits).parse().ok()
    }

    pub(super) fn as_u64(&self) -> Option<u64> {
        if self.is_negative { None } else { self.digits.parse().ok() }
    }
}

/// Reads the integer that a number is, if it is one: `1.0` and `1e3` are, `1.5` is not.
pub(super) fn integer(raw: &[u8]) -> Option<Integer> {
    let (is_negative, rest) = match raw.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, raw),
    };
    let (whole, rest) = digits(rest);
    let whole = match whole {
        [] => return None,
        [b'0', ..] => &[],
        whole => whole,
    };
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => digits(rest),
        rest => (&[][..], rest),
    };
    let zeros = fraction.iter().rev().take_while(|digit| **digit == b'0').count();
    let fraction = &fraction[..fraction.len() - zeros];
    if whole.is_empty() && fraction.is_empty() {
        return Some(Integer { is_negative: false, digits: "0".to_owned() });
    }
    let exponent = match rest {
        [b'e' | b'E'] | [] => 0,
        [b'e' | b'E', rest @ ..] => std::str::from_utf8(rest).ok()?.parse::<i32>().ok()?,
        _ => return None,
    };
    let shift = usize::try_from(exponent.unsigned_abs()).ok()?;
    let mut all = whole.to_vec();
    if exponent >= 0 {
        if fraction.len() > shift || whole.len() + shift > DIGITS_MAX {
            return None;
        }
        all.extend_from_slice(fraction);
        all.resize(whole.len() + shift, b'0');
    } else {
        let kept = whole.len().checked_sub(shift)?;
        if !fraction.is_empty() || whole[kept..].iter().any(|digit| *digit != b'0') {
            return None;
        }
        all.truncate(kept);
    }
    Some(Integer { is_negative, digits: String::from_utf8(all).ok()? })
}

/// Reads the integer at the start of a string, which must not have space around it. What follows
/// the number is not looked at, unless it could belong to it.
pub(super) fn integer_in(text: &str) -> Option<Integer> {
    if text.trim().len() != text.len() {
        return None;
    }
    integer(&text.as_bytes()[..length(text.as_bytes())?])
}

/// The bytes of the number that the text begins with.
fn length(text: &[u8]) -> Option<usize> {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, mut rest) = match unsigned {
        [b'0', rest @ ..] => (&unsigned[..1], rest),
        _ => digits(unsigned),
    };
    if whole.is_empty() {
        return None;
    }
    if let [b'.', b'0'..=b'9', ..] = rest {
        rest = digits(&rest[1..]).1;
    }
    if let [b'e' | b'E', first, ..] = rest {
        let signed = matches!(first, b'+' | b'-');
        rest = &rest[if signed { 2 } else { 1 }..];
        if signed && rest.is_empty() {
            return None;
        }
        rest = digits(rest).1;
    }
    let could_belong = |byte: &u8| byte.is_ascii_alphanumeric() || b"-+._".contains(byte);
    if rest.first().is_some_and(could_belong) {
        return None;
    }
    Some(text.len() - rest.len())
}

/// Splits behind the digits.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|byte| byte.is_ascii_digit()).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_may_be_written_in_many_ways() {
        for (text, number) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("0.00e7", Some(0)),
            ("12", Some(12)),
            ("-12", Some(-12)),
            ("1.0", Some(1)),
            ("1e3", Some(1000)),
            ("1.25E2", Some(125)),
            ("1200e-2", Some(12)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1.5", None),
            ("1.25e1", None),
            ("12e-1", None),
            ("1e20", None),
            ("1e2147483648", None),
            ("10e-3", None),
            ("1e-2147483648", None),
        ] {
            assert_eq!(integer(text.as_bytes()).and_then(|it| it.as_i64()), number, "{text}");
        }
        assert_eq!(integer(b"18446744073709551615").and_then(|it| it.as_u64()), Some(u64::MAX));
        assert_eq!(integer(b"-1").and_then(|it| it.as_u64()), None);
    }

    #[test]
    fn a_string_is_read_as_far_as_its_number_goes() {
        for (text, number) in [
            ("5", Some(5)),
            ("-5", Some(-5)),
            ("5,x", Some(5)),
            ("5 x", Some(5)),
            ("1e", None),
            ("1e3", Some(1000)),
            ("1e-", None),
            ("", None),
            ("-", None),
            (" 5", None),
            ("5\u{a0}", None),
            ("+5", None),
            ("05", None),
            ("5.", None),
            ("0x5", None),
            ("abc", None),
            ("null", None),
        ] {
            assert_eq!(integer_in(text).and_then(|it| it.as_i64()), number, "{text:?}");
        }
    }
}
