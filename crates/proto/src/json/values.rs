//! Finds where one JSON value ends and the next begins, in bytes that come in any pieces.
//!
//! *Contract.* The scanner of Go's `encoding/json`: what it takes, and its words for what not.

use bytes::{Buf, Bytes, BytesMut};

use super::Invalid;
use super::text::quote_byte;

/// Values in values.
pub const DEPTH_MAX: usize = 10_000;

/// Values that come one behind the other.
#[derive(Debug, Default)]
pub struct Values {
    /// Received and not yet handed out.
    bytes: BytesMut,
    /// How much of it the scanner has seen.
    seen: usize,
    scanner: Scanner,
}

impl Values {
    /// Nothing so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that wait for the end of their value.
    pub fn waiting(&self) -> usize {
        self.bytes.len()
    }

    /// The next value, if it is there as a whole.
    pub fn next_value(&mut self) -> Result<Option<Bytes>, Invalid> {
        while let Some(byte) = self.bytes.get(self.seen) {
            if matches!(self.scanner.state, State::String) {
                // Most of a request is one string; this is several times as fast.
                let plain = |byte: &&u8| **byte >= 0x20 && !b"\"\\".contains(*byte);
                let count = self.bytes[self.seen..].iter().take_while(plain).count();
                if count > 0 {
                    self.seen += count;
                    continue;
                }
            }
            match self.scanner.step(*byte)? {
                Step::Goes => self.seen += 1,
                Step::EndsHere => {
                    self.seen += 1;
                    return Ok(Some(self.take()));
                }
                Step::EndedBefore => return Ok(Some(self.take())),
            }
        }
        if self.scanner.is_before_value() {
            self.bytes.clear();
            self.seen = 0;
        }
        Ok(None)
    }

    /// The last value, when nothing more is to come; `None` when there is no other.
    pub fn end(&mut self) -> Result<Option<Bytes>, Invalid> {
        if let Some(value) = self.next_value()? {
            return Ok(Some(value));
        }
        if self.bytes.is_empty() {
            return Ok(None);
        }
        // A number ends where nothing follows it.
        match self.scanner.step(b' ') {
            Ok(Step::EndedBefore) => Ok(Some(self.take())),
            _ => Err(Invalid("unexpected EOF".to_owned())),
        }
    }

    /// Hands out what was scanned, without the space in front.
    fn take(&mut self) -> Bytes {
        self.scanner = Scanner::default();
        let mut value = self.bytes.split_to(std::mem::take(&mut self.seen)).freeze();
        let space = value.iter().take_while(|byte| is_space(**byte)).count();
        value.advance(space);
        value
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// What a byte does to the value.
enum Step {
    Goes,
    /// The value ends with this byte.
    EndsHere,
    /// The value ended before this byte.
    EndedBefore,
}

/// What the scanner is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Key,
    Value,
    List,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Value,
    ValueOrListEnd,
    Key,
    KeyOrObjectEnd,
    AfterValue,
    String,
    Escape,
    /// Hexadecimal digits that are to come.
    Hex(u8),
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// A word and how much of it has come.
    Word(&'static str, usize),
}

#[derive(Debug, Default)]
struct Scanner {
    state: State,
    within: Vec<Within>,
    is_begun: bool,
}

impl Scanner {
    fn is_before_value(&self) -> bool {
        !self.is_begun
    }

    fn step(&mut self, byte: u8) -> Result<Step, Invalid> {
        self.state = match (self.state, byte) {
            (
                State::Value | State::ValueOrListEnd | State::Key | State::KeyOrObjectEnd,
                b' ' | b'\t' | b'\r' | b'\n',
            ) => return Ok(Step::Goes),
            (State::ValueOrListEnd, b']') => return self.after_value(byte),
            (State::Value | State::ValueOrListEnd, _) => {
                self.is_begun = true;
                self.begin(byte)?
            }
            (State::KeyOrObjectEnd, b'}') => {
                if let Some(last) = self.within.last_mut() {
                    *last = Within::Value;
                }
                return self.after_value(byte);
            }
            (State::Key | State::KeyOrObjectEnd, b'"') => State::String,
            (State::Key | State::KeyOrObjectEnd, _) => {
                return Err(invalid(byte, "looking for beginning of object key string"));
            }
            (State::AfterValue, _) => return self.after_value(byte),
            (State::String, b'"') => State::AfterValue,
            (State::String, b'\\') => State::Escape,
            (State::String, 0..0x20) => return Err(invalid(byte, "in string literal")),
            (State::String, _) => State::String,
            (State::Escape, b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => {
                State::String
            }
            (State::Escape, b'u') => State::Hex(4),
            (State::Escape, _) => return Err(invalid(byte, "in string escape code")),
            (State::Hex(left), _) if byte.is_ascii_hexdigit() => {
                if left == 1 {
                    State::String
                } else {
                    State::Hex(left - 1)
                }
            }
            (State::Hex(_), _) => {
                return Err(invalid(byte, "in \\u hexadecimal character escape"));
            }
            (State::Word(word, at), _) if word.as_bytes().get(at) == Some(&byte) => {
                if at + 1 == word.len() { State::AfterValue } else { State::Word(word, at + 1) }
            }
            (State::Word(word, at), _) => {
                let expected = word.as_bytes().get(at).copied().map_or(' ', char::from);
                let context = format!("in literal {word} (expecting '{expected}')");
                return Err(invalid(byte, &context));
            }
            (state, _) => match number(state, byte)? {
                Some(state) => state,
                None => return self.after_value(byte),
            },
        };
        Ok(Step::Goes)
    }

    fn begin(&mut self, byte: u8) -> Result<State, Invalid> {
        Ok(match byte {
            b'{' => self.open(byte, Within::Key, State::KeyOrObjectEnd)?,
            b'[' => self.open(byte, Within::List, State::ValueOrListEnd)?,
            b'"' => State::String,
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Digits,
            b't' => State::Word("true", 1),
            b'f' => State::Word("false", 1),
            b'n' => State::Word("null", 1),
            _ => return Err(invalid(byte, "looking for beginning of value")),
        })
    }

    fn open(&mut self, byte: u8, within: Within, state: State) -> Result<State, Invalid> {
        if self.within.len() == DEPTH_MAX {
            return Err(invalid(byte, "exceeded max depth"));
        }
        self.within.push(within);
        Ok(state)
    }

    fn after_value(&mut self, byte: u8) -> Result<Step, Invalid> {
        let Some(within) = self.within.last_mut() else { return Ok(Step::EndedBefore) };
        self.state = match (*within, byte) {
            (_, b' ' | b'\t' | b'\r' | b'\n') => State::AfterValue,
            (Within::Key, b':') => {
                *within = Within::Value;
                State::Value
            }
            (Within::Key, _) => return Err(invalid(byte, "after object key")),
            (Within::Value, b',') => {
                *within = Within::Key;
                State::Key
            }
            (Within::List, b',') => State::Value,
            (Within::Value, b'}') | (Within::List, b']') => {
                self.within.pop();
                if self.within.is_empty() {
                    return Ok(Step::EndsHere);
                }
                State::AfterValue
            }
            (Within::Value, _) => return Err(invalid(byte, "after object key:value pair")),
            (Within::List, _) => return Err(invalid(byte, "after array element")),
        };
        Ok(Step::Goes)
    }
}

/// The state after one more byte of a number; nothing when it ended before.
fn number(state: State, byte: u8) -> Result<Option<State>, Invalid> {
    let is_digit = byte.is_ascii_digit();
    Ok(Some(match state {
        State::Minus if byte == b'0' => State::Zero,
        State::Minus if is_digit => State::Digits,
        State::Minus => return Err(invalid(byte, "in numeric literal")),
        State::Digits if is_digit => State::Digits,
        State::Zero | State::Digits if byte == b'.' => State::Point,
        State::Point | State::Fraction if is_digit => State::Fraction,
        State::Point => {
            return Err(invalid(byte, "after decimal point in numeric literal"));
        }
        State::Zero | State::Digits | State::Fraction if matches!(byte, b'e' | b'E') => {
            State::Exponent
        }
        State::Exponent if matches!(byte, b'+' | b'-') => State::ExponentSign,
        State::Exponent | State::ExponentSign | State::ExponentDigits if is_digit => {
            State::ExponentDigits
        }
        State::Exponent | State::ExponentSign => {
            return Err(invalid(byte, "in exponent of numeric literal"));
        }
        _ => return Ok(None),
    }))
}

fn invalid(byte: u8, context: &str) -> Invalid {
    Invalid(format!("invalid character {} {context}", quote_byte(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value of a text, then how it ends.
    fn values(text: &[u8], piece: usize) -> (Vec<String>, Option<String>) {
        let mut values = Values::new();
        let mut found = Vec::new();
        for piece in text.chunks(piece) {
            values.push(piece);
            loop {
                match values.next_value() {
                    Ok(Some(value)) => found.push(String::from_utf8_lossy(&value).into_owned()),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error.to_string())),
                }
            }
        }
        match values.end() {
            Ok(Some(value)) => found.push(String::from_utf8_lossy(&value).into_owned()),
            Ok(None) => {}
            Err(error) => return (found, Some(error.to_string())),
        }
        (found, None)
    }

    #[test]
    fn values_are_told_apart_in_any_pieces() {
        for (text, found, end) in [
            ("", &[][..], None),
            (" \n\t", &[], None),
            ("{}", &["{}"], None),
            (
                " {\"a\": [1, -2.5e+7,{}],\"b\":null}{}\n[]",
                &["{\"a\": [1, -2.5e+7,{}],\"b\":null}", "{}", "[]"],
                None,
            ),
            ("1 true\"a\\\"\\u00e4\" 0", &["1", "true", "\"a\\\"\\u00e4\"", "0"], None),
            ("{", &[], Some("unexpected EOF")),
            ("{} [1", &["{}"], Some("unexpected EOF")),
            ("tru", &[], Some("unexpected EOF")),
            ("1.", &[], Some("unexpected EOF")),
        ] {
            for piece in [1, 2, 3, 100] {
                let (values, told) = values(text.as_bytes(), piece);
                assert_eq!(
                    (&values[..], told.as_deref()),
                    (&found.iter().map(|&it| it.to_owned()).collect::<Vec<_>>()[..], end,),
                    "{text} in pieces of {piece}"
                );
            }
        }
    }

    #[test]
    fn errors_have_gos_words() {
        for (text, told) in [
            ("x", "'x' looking for beginning of value"),
            ("{x", "'x' looking for beginning of object key string"),
            ("{\"a\":1,}", "'}' looking for beginning of object key string"),
            ("{\"a\" 1", "'1' after object key"),
            ("{\"a\":1 1", "'1' after object key:value pair"),
            ("[1 1", "'1' after array element"),
            ("[1,]", "']' looking for beginning of value"),
            ("\"\n", "'\\n' in string literal"),
            ("\"\u{1}", "'\\x01' in string literal"),
            ("\"\\x", "'x' in string escape code"),
            ("\"\\u12g", "'g' in \\u hexadecimal character escape"),
            ("[-x", "'x' in numeric literal"),
            ("[1.x", "'x' after decimal point in numeric literal"),
            ("[1ex", "'x' in exponent of numeric literal"),
            ("[1e+x", "'x' in exponent of numeric literal"),
            ("[01", "'1' after array element"),
            ("nil", "'i' in literal null (expecting 'u')"),
            ("'", "'\\'' looking for beginning of value"),
            ("[1\"", "'\"' after array element"),
            ("\u{e4}", "'Ã' looking for beginning of value"),
        ] {
            let (_, end) = values(text.as_bytes(), 1);
            assert_eq!(end, Some(format!("invalid character {told}")), "{text}");
        }
    }

    #[test]
    fn brackets_take_no_stack_and_have_a_bound() {
        let text = "[".repeat(DEPTH_MAX + 1);
        let (found, end) = values(text.as_bytes(), 1 << 20);
        assert!(found.is_empty());
        assert_eq!(end.as_deref(), Some("invalid character '[' exceeded max depth"));
        let text = ["[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX)].concat();
        assert_eq!(values(text.as_bytes(), 1 << 20).1, None);
    }
}
