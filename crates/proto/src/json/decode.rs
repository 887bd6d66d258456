//! Reads the JSON of a message into the wire form of that message.
//!
//! *Invariants.* No recursion: what is open is a list. The length of a message is known only at
//! its end, so bodies are written first, and the lengths put between them in one pass.

use super::number::{Integer, integer, integer_in};
use super::token::{Token, TokenKind, Tokens};
use super::{Field, Invalid, Kind, Message, base64};

const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;

/// A message that is being read.
struct Open {
    message: &'static Message,
    /// The list of messages that is being read.
    list: Option<&'static Field>,
    /// Fields that were named, by their place; no message has more of them than bits here.
    named: u64,
    /// Fields of a oneof that were set.
    set: u64,
    /// Its place among the bodies; nothing for the outermost.
    body: Option<usize>,
    /// The bytes of lengths that are still to be put into it.
    lengths: usize,
}

/// A body whose length goes in front of it.
struct Body {
    start: usize,
    length: usize,
}

struct Decoder<'a> {
    tokens: Tokens<'a>,
    open: Vec<Open>,
    bodies: Vec<Body>,
    bytes: Vec<u8>,
}

/// Reads one JSON value, which must be valid JSON, as a message.
pub fn decode(message: &'static Message, json: &[u8]) -> Result<Vec<u8>, Invalid> {
    let mut decoder = Decoder {
        tokens: Tokens::new(json),
        open: Vec::new(),
        bodies: Vec::new(),
        bytes: Vec::new(),
    };
    decoder.begin(message, None)?;
    while let Some(top) = decoder.open.last() {
        match top.list {
            Some(field) => decoder.element(field)?,
            None => decoder.field()?,
        }
    }
    Ok(decoder.joined())
}

impl Decoder<'_> {
    /// Begins a message; one that is a field has a number.
    fn begin(&mut self, message: &'static Message, number: Option<u32>) -> Result<(), Invalid> {
        let token = self.tokens.next()?;
        if !matches!(token.kind, TokenKind::ObjectOpen) {
            return Err(self.unexpected(&token));
        }
        let body = number.map(|number| {
            put_varint(&mut self.bytes, u64::from(number << 3 | LENGTH_DELIMITED));
            self.bodies.push(Body { start: self.bytes.len(), length: 0 });
            self.bodies.len() - 1
        });
        self.open.push(Open { message, list: None, named: 0, set: 0, body, lengths: 0 });
        Ok(())
    }

    /// Ends the innermost message.
    fn end(&mut self) {
        let Some(Open { body: Some(body), lengths, .. }) = self.open.pop() else { return };
        let body = &mut self.bodies[body];
        body.length = self.bytes.len() - body.start + lengths;
        let own = varint_len(body.length as u64);
        if let Some(outer) = self.open.last_mut() {
            outer.lengths += lengths + own;
        }
    }

    /// The bytes with the lengths between them.
    fn joined(self) -> Vec<u8> {
        if self.bodies.is_empty() {
            return self.bytes;
        }
        let mut joined = Vec::with_capacity(self.bytes.len() + 5 * self.bodies.len());
        let mut from = 0;
        for body in &self.bodies {
            joined.extend_from_slice(&self.bytes[from..body.start]);
            put_varint(&mut joined, body.length as u64);
            from = body.start;
        }
        joined.extend_from_slice(&self.bytes[from..]);
        joined
    }

    /// Reads the next field of the innermost message, or its end.
    fn field(&mut self) -> Result<(), Invalid> {
        let token = self.tokens.next()?;
        let name = match &token.kind {
            TokenKind::ObjectClose => {
                self.end();
                return Ok(());
            }
            TokenKind::String(name) => name,
            _ => return Err(self.unexpected(&token)),
        };
        let Some(top) = self.open.last_mut() else { return Ok(()) };
        let fields = top.message.fields;
        let place = fields
            .iter()
            .position(|field| field.json_name == name)
            .or_else(|| fields.iter().position(|field| field.name == name));
        let Some(place) = place else { return self.tokens.skip() };
        let (field, bit) = (&fields[place], 1_u64 << place);
        if top.named & bit != 0 {
            return Err(self.at(&token, &format!("duplicate field {}", raw(&token))));
        }
        top.named |= bit;
        if self.tokens.ahead() == Some(b'n') {
            return self.tokens.skip();
        }
        if let (Some(oneof), Some(top)) = (field.oneof, self.open.last_mut()) {
            let is_other = |(other, known): (usize, &Field)| {
                top.set >> other & 1 == 1 && known.oneof == Some(oneof)
            };
            if fields.iter().enumerate().any(is_other) {
                let name = raw(&token);
                let what = format!("error parsing {name}, oneof {oneof} is already set");
                return Err(self.at(&token, &what));
            }
            top.set |= bit;
        }
        if field.is_repeated {
            return self.list(field);
        }
        match field.kind {
            Kind::Message(inner) => self.begin(inner, Some(field.number)),
            _ => self.scalar(field),
        }
    }

    fn list(&mut self, field: &'static Field) -> Result<(), Invalid> {
        let token = self.tokens.next()?;
        if !matches!(token.kind, TokenKind::ListOpen) {
            return Err(self.unexpected(&token));
        }
        if let Some(top) = self.open.last_mut() {
            top.list = Some(field);
        }
        Ok(())
    }

    /// Reads the next element of the list that is open, or its end.
    fn element(&mut self, field: &'static Field) -> Result<(), Invalid> {
        if self.tokens.ahead() == Some(b']') {
            if let Some(top) = self.open.last_mut() {
                top.list = None;
            }
            return self.tokens.next().map(drop);
        }
        match field.kind {
            Kind::Message(inner) => self.begin(inner, Some(field.number)),
            _ => self.scalar(field),
        }
    }

    /// Reads a value. A zero is written only where it says something: in lists and oneofs.
    fn scalar(&mut self, field: &Field) -> Result<(), Invalid> {
        let token = self.tokens.next()?;
        let is_kept = field.is_repeated || field.oneof.is_some();
        let bytes = match (field.kind, &token.kind) {
            (Kind::String, TokenKind::String(text)) => Some(text.as_bytes().to_vec()),
            (Kind::Bytes, TokenKind::String(text)) => base64::read(text),
            _ => None,
        };
        if let Some(bytes) = bytes {
            if is_kept || !bytes.is_empty() {
                put_varint(&mut self.bytes, u64::from(field.number << 3 | LENGTH_DELIMITED));
                put_varint(&mut self.bytes, bytes.len() as u64);
                self.bytes.extend_from_slice(&bytes);
            }
            return Ok(());
        }
        let integer = match &token.kind {
            TokenKind::Number => integer(token.raw),
            TokenKind::String(text) => integer_in(text),
            _ => None,
        };
        let number = match (field.kind, &token.kind) {
            (Kind::Bool, TokenKind::Bool(value)) => Some(u64::from(*value)),
            (Kind::Int64, _) => integer.and_then(|it| it.as_i64()).map(i64::cast_unsigned),
            (Kind::Uint64, _) => integer.and_then(|it| it.as_u64()),
            (Kind::Uint32, _) => {
                integer.and_then(|it| it.as_u64()).filter(|number| *number <= u64::from(u32::MAX))
            }
            (Kind::Enum(names), TokenKind::String(text)) => {
                match names.values.iter().find(|(_, name)| name == text) {
                    Some((number, _)) => Some(i64::from(*number).cast_unsigned()),
                    // A name that is unknown is discarded as an unknown field is.
                    None => return Ok(()),
                }
            }
            (Kind::Enum(_), TokenKind::Number) => integer.and_then(enum_number),
            _ => None,
        };
        let Some(number) = number else {
            let (kind, name) = (field.kind.name(), field.json_name);
            let what = format!("invalid value for {kind} field {name}: {}", raw(&token));
            return Err(self.at(&token, &what));
        };
        if is_kept || number != 0 {
            put_varint(&mut self.bytes, u64::from(field.number << 3 | VARINT));
            put_varint(&mut self.bytes, number);
        }
        Ok(())
    }

    fn at(&self, token: &Token<'_>, what: &str) -> Invalid {
        let (line, column) = self.tokens.position(token.at);
        Invalid(format!("proto: (line {line}:{column}): {what}"))
    }

    fn unexpected(&self, token: &Token<'_>) -> Invalid {
        let (line, column) = self.tokens.position(token.at);
        let raw = raw(token);
        Invalid(format!("proto: syntax error (line {line}:{column}): unexpected token {raw}"))
    }
}

fn enum_number(integer: Integer) -> Option<u64> {
    let number = integer.as_i64()?;
    i32::try_from(number).ok().map(|number| i64::from(number).cast_unsigned())
}

fn raw(token: &Token<'_>) -> String {
    String::from_utf8_lossy(token.raw).into_owned()
}

fn varint_len(number: u64) -> usize {
    (number | 1).ilog2() as usize / 7 + 1
}

fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}
