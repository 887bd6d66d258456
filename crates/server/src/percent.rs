//! Percent escapes, in addresses and in gRPC's messages.

/// Replaces escapes by the bytes that they stand for, and says whether each `%` began one; one that
/// does not stays as it is.
pub(crate) fn decode(text: &[u8]) -> (Vec<u8>, bool) {
    let mut bytes = Vec::with_capacity(text.len());
    let (mut rest, mut is_valid) = (text, true);
    loop {
        rest = match rest {
            [] => return (bytes, is_valid),
            [b'%', high, low, behind @ ..] if byte(*high, *low).is_some() => {
                bytes.extend(byte(*high, *low));
                behind
            }
            [first, behind @ ..] => {
                is_valid &= *first != b'%';
                bytes.push(*first);
                behind
            }
        };
    }
}

/// The text that a valid one stands for.
pub(crate) fn decode_valid(text: &str) -> Option<String> {
    let (bytes, is_valid) = decode(text.as_bytes());
    if is_valid { String::from_utf8(bytes).ok() } else { None }
}

/// The byte of two digits; a sign is none.
fn byte(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_two_digits_and_nothing_else() {
        let decoded = |text: &str| {
            let (bytes, is_valid) = decode(text.as_bytes());
            (String::from_utf8_lossy(&bytes).into_owned(), is_valid)
        };
        assert_eq!(decoded("a%20%C3%a4%2b"), ("a \u{e4}+".to_owned(), true));
        for text in ["%+f", "%", "%2", "%zz", "%-1", "% 1"] {
            assert_eq!(decoded(text), (text.to_owned(), false));
            assert_eq!(decode_valid(text), None);
        }
        assert_eq!(decode_valid("%ff"), None);
    }
}
