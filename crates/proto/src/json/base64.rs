//! Bytes as text: written in the standard alphabet with padding, read in any of Go's forms.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the text of `bytes`.
pub fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let letters = [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift & 63) as usize]);
        let used = group.len() + 1;
        out.extend_from_slice(&letters[..used]);
        out.extend_from_slice(&b"=="[..4 - used]);
    }
}

/// Reads either alphabet. Where the length is a multiple of four there must be padding, if it is
/// needed; where not, there must be none. Line ends are passed over.
pub fn read(text: &str) -> Option<Vec<u8>> {
    let is_url = text.contains(['-', '_']);
    let is_padded = text.len().is_multiple_of(4);
    let mut letters = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n'));
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0_u32, 0);
    while let Some(letter) = letters.next() {
        if letter == b'=' && is_padded {
            let missing = match held {
                2 => 1,
                3 => 0,
                _ => return None,
            };
            let rest: Vec<u8> = letters.by_ref().take(2).collect();
            if rest.len() != missing || rest.iter().any(|letter| *letter != b'=') {
                return None;
            }
            put_rest(&mut bytes, bits, held);
            return Some(bytes);
        }
        bits = bits << 6 | value(letter, is_url)?;
        held += 1;
        if held == 4 {
            bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, held) = (0, 0);
        }
    }
    match held {
        0 => Some(bytes),
        2 | 3 if !is_padded => {
            put_rest(&mut bytes, bits, held);
            Some(bytes)
        }
        _ => None,
    }
}

/// Adds the bytes of two or three letters; bits that are left over count for nothing.
fn put_rest(bytes: &mut Vec<u8>, bits: u32, held: u32) {
    let aligned = bits << (6 * (4 - held));
    let count = if held == 2 { 1 } else { 2 };
    bytes.extend_from_slice(&aligned.to_be_bytes()[1..=count]);
}

fn value(letter: u8, is_url: bool) -> Option<u32> {
    Some(u32::from(match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' if !is_url => 62,
        b'/' if !is_url => 63,
        b'-' if is_url => 62,
        b'_' if is_url => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_go_is_read_and_no_other() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("YQ==", Some(b"a")),
            ("YQ", Some(b"a")),
            ("YWI=", Some(b"ab")),
            ("YWI", Some(b"ab")),
            ("YWJj", Some(b"abc")),
            ("YW\nJj", Some(b"abc")),
            ("++//", Some(&[0xfb, 0xef, 0xff])),
            ("--__", Some(&[0xfb, 0xef, 0xff])),
            ("-_", Some(&[0xfb])),
            // Bits that are left over are ignored.
            ("YR==", Some(b"a")),
            ("YQ=", None),
            ("YQ=\n", None),
            ("Y", None),
            ("Y===", None),
            ("====", None),
            ("YQ==YQ==", None),
            ("YWI=\n", None),
            ("+-__", None),
            ("YQ=a", None),
            ("Y Q=", None),
            ("YQ\u{e4}", None),
        ] {
            assert_eq!(read(text).as_deref(), bytes, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for length in 0..70_u8 {
            let mix = |number: u8| number.wrapping_mul(37) ^ length;
            let bytes: Vec<u8> = (0..length).map(mix).collect();
            let mut text = Vec::new();
            put(&mut text, &bytes);
            let text = String::from_utf8(text).expect("ASCII");
            assert_eq!(read(&text), Some(bytes.clone()));
            assert_eq!(read(text.trim_end_matches('=')), Some(bytes));
        }
    }
}
