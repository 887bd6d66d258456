//! Reads a valid JSON value token by token.
//!
//! *Invariants.* The text has passed [`super::Values`], so brackets, commas and colons are where
//! they belong; only strings can still be wrong.

use std::borrow::Cow;

use super::Invalid;
use super::text::quote;

/// One token; commas and colons are none.
#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind<'a>,
    /// The text of it.
    pub(super) raw: &'a [u8],
    /// Where it stands.
    pub(super) at: usize,
}

#[derive(Debug)]
pub(super) enum TokenKind<'a> {
    ObjectOpen,
    ObjectClose,
    ListOpen,
    ListClose,
    Null,
    Bool(bool),
    Number,
    /// A string, and a name.
    String(Cow<'a, str>),
    End,
}

#[derive(Debug)]
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The first byte of the next token.
    pub(super) fn ahead(&mut self) -> Option<u8> {
        let skipped = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':');
        while self.text.get(self.at).is_some_and(skipped) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    pub(super) fn next(&mut self) -> Result<Token<'a>, Invalid> {
        let first = self.ahead();
        let (at, rest) = (self.at, &self.text[self.at..]);
        let (kind, length) = match first {
            None => (TokenKind::End, 0),
            Some(b'{') => (TokenKind::ObjectOpen, 1),
            Some(b'}') => (TokenKind::ObjectClose, 1),
            Some(b'[') => (TokenKind::ListOpen, 1),
            Some(b']') => (TokenKind::ListClose, 1),
            Some(b'n') => (TokenKind::Null, 4),
            Some(b't') => (TokenKind::Bool(true), 4),
            Some(b'f') => (TokenKind::Bool(false), 5),
            Some(b'"') => {
                let (text, length) = self.string(rest)?;
                (TokenKind::String(text), length)
            }
            Some(_) => {
                let in_number = |byte: &&u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                // A byte that begins no token is passed over: the loop must end.
                (TokenKind::Number, rest.iter().take_while(in_number).count().max(1))
            }
        };
        let length = length.min(rest.len());
        self.at += length;
        Ok(Token { kind, raw: &rest[..length], at })
    }

    /// Passes over one value and all that is in it.
    pub(super) fn skip(&mut self) -> Result<(), Invalid> {
        let mut open = 0_usize;
        loop {
            match self.next()?.kind {
                TokenKind::ObjectOpen | TokenKind::ListOpen => open += 1,
                TokenKind::ObjectClose | TokenKind::ListClose => open = open.saturating_sub(1),
                TokenKind::End => return Ok(()),
                _ => {}
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// The string that the text begins with, and its bytes.
    fn string(&self, text: &'a [u8]) -> Result<(Cow<'a, str>, usize), Invalid> {
        let eof = || Invalid("proto: unexpected EOF".to_owned());
        let mut plain = Vec::new();
        let mut from = 1;
        let mut at = 1;
        loop {
            match *text.get(at).ok_or_else(eof)? {
                b'"' => break,
                b'\\' => {
                    plain.extend_from_slice(&text[from..at]);
                    let escape = *text.get(at + 1).ok_or_else(eof)?;
                    at += 2;
                    let letter = match escape {
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'n' => '\n',
                        b'r' => '\r',
                        b't' => '\t',
                        b'u' => {
                            let (letter, length) = self.unicode(&text[at - 2..])?;
                            at += length - 2;
                            letter
                        }
                        other => char::from(other),
                    };
                    plain.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                    from = at;
                }
                _ => at += 1,
            }
        }
        let invalid = || self.syntax("invalid UTF-8 in string");
        let last = std::str::from_utf8(&text[from..at]).map_err(|_| invalid())?;
        if from == 1 {
            return Ok((Cow::Borrowed(last), at + 1));
        }
        plain.extend_from_slice(last.as_bytes());
        let whole = String::from_utf8(plain).map_err(|_| invalid())?;
        Ok((Cow::Owned(whole), at + 1))
    }

    /// The letter that `\u` and four digits stand for, or twice that, and their bytes.
    fn unicode(&self, text: &[u8]) -> Result<(char, usize), Invalid> {
        let eof = || Invalid("proto: unexpected EOF".to_owned());
        let unit = |text: &[u8]| {
            let digits = std::str::from_utf8(text.get(2..6)?).ok()?;
            u16::from_str_radix(digits, 16).ok()
        };
        let first = unit(text).ok_or_else(eof)?;
        if let Some(letter) = char::from_u32(u32::from(first)) {
            return Ok((letter, 6));
        }
        let second = text.get(6..12).ok_or_else(eof)?;
        let pair = unit(second).and_then(|low| char::decode_utf16([first, low]).next()?.ok());
        match pair {
            // A pair that is no surrogate pair decodes to nothing.
            Some(letter) if second.starts_with(b"\\u") => Ok((letter, 12)),
            _ => Err(self.syntax(&format!("invalid escape code {} in string", quote(second)))),
        }
    }

    /// An error at the token that is being read.
    fn syntax(&self, what: &str) -> Invalid {
        let (line, column) = self.position(self.at);
        Invalid(format!("proto: syntax error (line {line}:{column}): {what}"))
    }

    /// Line and column of a place.
    pub(super) fn position(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..at];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let column = before[start..]
            .utf8_chunks()
            .fold(1, |count, chunk| count + chunk.valid().chars().count() + chunk.invalid().len());
        (line, column)
    }
}
