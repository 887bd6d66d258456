//! Finds the first fault in a JSON text, in the words of Go.
//!
//! *Invariants.* Does not recurse: depth costs a byte.
//!
//! *Contract.* The errors of package `encoding/json`.

/// Values inside each other that Go reads.
const DEPTH_MAX: usize = 10_000;

const KEY: &str = "looking for beginning of object key string";

struct Scanner<'a> {
    rest: &'a [u8],
    /// What is open: `{` and `[`.
    open: Vec<u8>,
}

/// The reason why this is no JSON, if there is one.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut scanner = Scanner { rest: text.as_bytes(), open: Vec::new() };
    scanner.value()?;
    while let Some(&kind) = scanner.open.last() {
        scanner.skip();
        match (kind, scanner.take()?) {
            (b'{', b'}') | (b'[', b']') => {
                scanner.open.pop();
            }
            (b'{', b',') => {
                scanner.skip();
                scanner.key()?;
                scanner.value()?;
            }
            (b'[', b',') => scanner.value()?,
            (b'{', other) => return Err(unexpected(other, "after object key:value pair")),
            (_, other) => return Err(unexpected(other, "after array element")),
        }
    }
    scanner.skip();
    scanner.rest.first().map_or(Ok(()), |other| Err(unexpected(*other, "after top-level value")))
}

fn unexpected(byte: u8, place: &str) -> String {
    let shown = match byte {
        b'\'' => "\\'".to_owned(),
        b'"' => "\"".to_owned(),
        0..0x20 | 0x7f..=0xff => match byte {
            b'\n' => "\\n".to_owned(),
            b'\r' => "\\r".to_owned(),
            b'\t' => "\\t".to_owned(),
            0xa1..=0xff if byte != 0xad => char::from(byte).to_string(),
            0x80..=0xff => format!("\\u00{byte:02x}"),
            _ => format!("\\x{byte:02x}"),
        },
        b'\\' => "\\\\".to_owned(),
        _ => char::from(byte).to_string(),
    };
    format!("invalid character '{shown}' {place}")
}

impl Scanner<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn take(&mut self) -> Result<u8, String> {
        let (first, rest) = self.rest.split_first().ok_or("unexpected end of JSON input")?;
        self.rest = rest;
        Ok(*first)
    }

    /// The next byte of what cannot end here. Go reads the end of the text as a space.
    fn take_inside(&mut self) -> u8 {
        self.take().unwrap_or(b' ')
    }

    /// Reads a value, or as much of it as needs no end: what it opens is closed by the caller.
    fn value(&mut self) -> Result<(), String> {
        loop {
            self.skip();
            let first = self.take()?;
            if matches!(first, b'{' | b'[') {
                if self.open.len() >= DEPTH_MAX {
                    return Err("exceeded max depth".to_owned());
                }
                self.open.push(first);
                self.skip();
                let end = if first == b'{' { b'}' } else { b']' };
                if self.rest.first() == Some(&end) {
                    return Ok(());
                }
                if first == b'{' {
                    self.key()?;
                }
                continue;
            }
            return match first {
                b'"' => self.string(),
                b'-' => {
                    let digit = self.take_inside();
                    if !digit.is_ascii_digit() {
                        return Err(unexpected(digit, "in numeric literal"));
                    }
                    self.number(digit)
                }
                b'0'..=b'9' => self.number(first),
                b't' => self.literal("true"),
                b'f' => self.literal("false"),
                b'n' => self.literal("null"),
                other => Err(unexpected(other, "looking for beginning of value")),
            };
        }
    }

    fn key(&mut self) -> Result<(), String> {
        match self.take()? {
            b'"' => self.string()?,
            other => return Err(unexpected(other, KEY)),
        }
        self.skip();
        match self.take()? {
            b':' => Ok(()),
            other => Err(unexpected(other, "after object key")),
        }
    }

    fn string(&mut self) -> Result<(), String> {
        loop {
            match self.take()? {
                b'"' => return Ok(()),
                b'\\' => match self.take_inside() {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let digit = self.take_inside();
                            if !digit.is_ascii_hexdigit() {
                                let place = "in \\u hexadecimal character escape";
                                return Err(unexpected(digit, place));
                            }
                        }
                    }
                    other => return Err(unexpected(other, "in string escape code")),
                },
                other @ ..0x20 => return Err(unexpected(other, "in string literal")),
                _ => {}
            }
        }
    }

    fn digits(&mut self) {
        let end = self.rest.iter().position(|byte| !byte.is_ascii_digit());
        self.rest = &self.rest[end.unwrap_or(self.rest.len())..];
    }

    /// What follows the first digit.
    fn number(&mut self, first: u8) -> Result<(), String> {
        if first != b'0' {
            self.digits();
        }
        if self.rest.first() == Some(&b'.') {
            self.take()?;
            let digit = self.take_inside();
            if !digit.is_ascii_digit() {
                return Err(unexpected(digit, "after decimal point in numeric literal"));
            }
            self.digits();
        }
        if matches!(self.rest.first(), Some(b'e' | b'E')) {
            self.take()?;
            let mut digit = self.take_inside();
            if matches!(digit, b'+' | b'-') {
                digit = self.take_inside();
            }
            if !digit.is_ascii_digit() {
                return Err(unexpected(digit, "in exponent of numeric literal"));
            }
            self.digits();
        }
        Ok(())
    }

    fn literal(&mut self, name: &str) -> Result<(), String> {
        for wanted in name.bytes().skip(1) {
            let given = self.take_inside();
            if given != wanted {
                let expecting = char::from(wanted);
                let place = format!("in literal {name} (expecting '{expecting}')");
                return Err(unexpected(given, &place));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_in_gos_words() {
        for (text, told) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{\"a\"", "unexpected end of JSON input"),
            ("[1,", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{a", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("01", "invalid character '1' after top-level value"),
            ("-a", "invalid character 'a' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e+x", "invalid character 'x' in exponent of numeric literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12x\"", "invalid character 'x' in \\u hexadecimal character escape"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("tru", "invalid character ' ' in literal true (expecting 'e')"),
            ("-", "invalid character ' ' in numeric literal"),
            ("\"\\", "invalid character ' ' in string escape code"),
            ("\"", "unexpected end of JSON input"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
        ] {
            assert_eq!(check(text), Err(told.to_owned()), "{text}");
        }
        assert_eq!(check(&"[".repeat(DEPTH_MAX + 1)), Err("exceeded max depth".to_owned()));
    }

    #[test]
    fn json_is_json() {
        for text in
            ["{}", " [ ] ", "{\"a\": [1, -0.5e+3, {\"b\": null}], \"c\": \"\\u00e9\"}", "true"]
        {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }
}
