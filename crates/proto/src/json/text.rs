//! Text in Go's quotes, as its errors show it.

/// A byte as Go's JSON scanner shows it, in single quotes.
pub(super) fn quote_byte(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        byte => {
            let mut text = String::from("'");
            put(&mut text, char::from(byte));
            text.push('\'');
            text
        }
    }
}

/// Bytes as `%q` shows them, in double quotes.
pub(super) fn quote(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            put(&mut text, letter);
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('"');
    text
}

fn put(text: &mut String, letter: char) {
    let short = match letter {
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\u{c}' => 'f',
        '\n' => 'n',
        '\r' => 'r',
        '\t' => 't',
        '\u{b}' => 'v',
        '"' | '\\' => letter,
        _ => {
            let number = u32::from(letter);
            // Rust and Go agree on what is printable but for marks that join to other letters.
            let is_plain = letter == '\'' || letter.escape_debug().len() == 1;
            match number {
                _ if is_plain && letter != '\u{a0}' => text.push(letter),
                0..0x20 | 0x7f => text.push_str(&format!("\\x{number:02x}")),
                0..0x1_0000 => text.push_str(&format!("\\u{number:04x}")),
                _ => text.push_str(&format!("\\U{number:08x}")),
            }
            return;
        }
    };
    text.push('\\');
    text.push(short);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_shown_as_go_shows_them() {
        for (byte, shown) in [
            (b'a', "'a'"),
            (b'\'', "'\\''"),
            (b'"', "'\"'"),
            (b'\\', "'\\\\'"),
            (0, "'\\x00'"),
            (0x7f, "'\\x7f'"),
            (0x80, "'\\u0080'"),
            (0xa0, "'\\u00a0'"),
            (0xad, "'\\u00ad'"),
            (0xff, "'ÿ'"),
        ] {
            assert_eq!(quote_byte(byte), shown);
        }
        assert_eq!(quote(b"a\"\\'\t\xff\x00"), "\"a\\\"\\\\'\\t\\xff\\x00\"");
    }
}
