//! Writes the JSON of a message from its wire form, which may come in pieces.
//!
//! *Invariants.*
//! 1. Beside what is written, it holds one field of the outermost message at most: that is one
//!    row of a long answer.
//! 2. A list is written as it comes: its elements must stand together, as every encoder has them.

use bytes::{Buf, BytesMut};
use prost::encoding::{WireType, decode_key, decode_varint};
use thiserror::Error;

use super::{Field, Kind, Message, base64};

/// The wire form is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the answer is no message")]
pub struct Malformed;

/// How strings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As `protojson` does.
    Plain,
    /// As `encoding/json` does, which writes a stream's messages: fit for HTML.
    Html,
}

/// A message that is being written.
#[derive(Debug)]
pub struct Writer {
    outermost: Open,
    form: Form,
    /// The part of a field that has come.
    held: BytesMut,
}

#[derive(Debug)]
struct Open {
    message: &'static Message,
    /// The list that is open, by its field's number.
    list: Option<u32>,
    is_first: bool,
    /// Bytes that are left when it is over.
    left_at_end: usize,
}

impl Open {
    fn new(message: &'static Message, left_at_end: usize) -> Self {
        Self { message, list: None, is_first: true, left_at_end }
    }

    /// Writes what stands in front of a value of this field.
    fn lead(&mut self, field: &Field, out: &mut Vec<u8>) {
        if field.is_repeated && self.list == Some(field.number) {
            out.push(b',');
            return;
        }
        self.end_list(out);
        if !std::mem::take(&mut self.is_first) {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b"\":");
        if field.is_repeated {
            out.push(b'[');
            self.list = Some(field.number);
        }
    }

    fn end_list(&mut self, out: &mut Vec<u8>) {
        if self.list.take().is_some() {
            out.push(b']');
        }
    }
}

impl Writer {
    /// Begins a message.
    pub fn new(message: &'static Message, form: Form, out: &mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { outermost: Open::new(message, 0), form, held: BytesMut::new() }
    }

    /// Writes the fields that are whole with these bytes.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        if self.held.is_empty() {
            let rest = self.fields(bytes, out)?;
            self.held.extend_from_slice(rest);
            return Ok(());
        }
        self.held.extend_from_slice(bytes);
        let held = self.held.split();
        let rest = self.fields(&held, out)?.len();
        self.held = held;
        self.held.advance(self.held.len() - rest);
        Ok(())
    }

    /// Ends the message.
    pub fn end(mut self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        if !self.held.is_empty() {
            return Err(Malformed);
        }
        self.outermost.end_list(out);
        out.push(b'}');
        Ok(())
    }

    /// Writes whole fields and returns the bytes that are left.
    fn fields<'a>(&mut self, bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Malformed> {
        let mut rest = bytes;
        while let Some(length) = field_len(rest)? {
            let (field, behind) = rest.split_at(length);
            write_field(&mut self.outermost, self.form, field, out)?;
            rest = behind;
        }
        Ok(rest)
    }
}

/// The bytes of the field that these begin with; nothing when it is not there as a whole.
fn field_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut rest = bytes;
    // A varint that ends early may go on in the next piece; one of ten bytes does not.
    let is_cut = |rest: &[u8]| rest.len() < 10 && rest.iter().all(|byte| byte & 0x80 != 0);
    if is_cut(rest) {
        return Ok(None);
    }
    let (_, wire) = decode_key(&mut rest).map_err(|_| Malformed)?;
    let body = match wire {
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::Varint | WireType::LengthDelimited if is_cut(rest) => return Ok(None),
        WireType::Varint => {
            decode_varint(&mut rest).map_err(|_| Malformed)?;
            0
        }
        WireType::LengthDelimited => {
            let length = decode_varint(&mut rest).map_err(|_| Malformed)?;
            usize::try_from(length).map_err(|_| Malformed)?
        }
        WireType::StartGroup | WireType::EndGroup => return Err(Malformed),
    };
    let length = (bytes.len() - rest.len()).checked_add(body).ok_or(Malformed)?;
    Ok((length <= bytes.len()).then_some(length))
}

/// Writes one field of the outermost message, with everything in it.
fn write_field(
    outermost: &mut Open,
    form: Form,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let mut rest = bytes;
    // What is open inside the outermost message.
    let mut inner: Vec<Open> = Vec::new();
    loop {
        let top = inner.last_mut().unwrap_or(&mut *outermost);
        if rest.len() <= top.left_at_end {
            if rest.len() < top.left_at_end {
                return Err(Malformed);
            }
            let Some(mut done) = inner.pop() else { return Ok(()) };
            done.end_list(out);
            out.push(b'}');
            continue;
        }
        let within = rest.len() - top.left_at_end;
        let length = field_len(&rest[..within])?.ok_or(Malformed)?;
        let behind = rest.len() - length;
        let (number, wire) = decode_key(&mut rest).map_err(|_| Malformed)?;
        let field = top.message.fields.iter().find(|field| field.number == number);
        let Some(field) = field else {
            rest = &rest[rest.len() - behind..];
            continue;
        };
        match (field.kind, wire) {
            (Kind::Message(message), WireType::LengthDelimited) => {
                decode_varint(&mut rest).map_err(|_| Malformed)?;
                top.lead(field, out);
                out.push(b'{');
                inner.push(Open::new(message, behind));
            }
            (Kind::String | Kind::Bytes, WireType::LengthDelimited) => {
                decode_varint(&mut rest).map_err(|_| Malformed)?;
                let (value, after) = rest.split_at(rest.len() - behind);
                rest = after;
                if value.is_empty() && !field.is_repeated && field.oneof.is_none() {
                    continue;
                }
                top.lead(field, out);
                match field.kind {
                    Kind::Bytes => {
                        out.push(b'"');
                        base64::put(out, value);
                        out.push(b'"');
                    }
                    _ => put_string(out, std::str::from_utf8(value).map_err(|_| Malformed)?, form),
                }
            }
            (Kind::Message(_) | Kind::String | Kind::Bytes, _) => return Err(Malformed),
            (kind, WireType::Varint) => {
                let value = decode_varint(&mut rest).map_err(|_| Malformed)?;
                if value != 0 || field.is_repeated || field.oneof.is_some() {
                    top.lead(field, out);
                    put_number(out, kind, value);
                }
            }
            (kind, WireType::LengthDelimited) => {
                decode_varint(&mut rest).map_err(|_| Malformed)?;
                while rest.len() > behind {
                    let value = decode_varint(&mut rest).map_err(|_| Malformed)?;
                    top.lead(field, out);
                    put_number(out, kind, value);
                }
            }
            _ => return Err(Malformed),
        }
    }
}

fn put_number(out: &mut Vec<u8>, kind: Kind, value: u64) {
    let text = match kind {
        Kind::Bool => (value != 0).to_string(),
        Kind::Int64 => format!("\"{}\"", value.cast_signed()),
        Kind::Uint64 => format!("\"{value}\""),
        Kind::Enum(names) => {
            // An enum is the low half of what stands there.
            let number = (value & 0xffff_ffff) as u32;
            let number = number.cast_signed();
            match names.values.iter().find(|(known, _)| *known == number) {
                Some((_, name)) => format!("\"{name}\""),
                None => number.to_string(),
            }
        }
        _ => (value & 0xffff_ffff).to_string(),
    };
    out.extend_from_slice(text.as_bytes());
}

/// Writes a string in quotes.
pub fn put_string(out: &mut Vec<u8>, text: &str, form: Form) {
    out.push(b'"');
    for letter in text.chars() {
        let short = match letter {
            '"' | '\\' => letter,
            '\u{8}' => 'b',
            '\u{c}' => 'f',
            '\n' => 'n',
            '\r' => 'r',
            '\t' => 't',
            '\0'..'\u{20}' => {
                put_escaped(out, letter);
                continue;
            }
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if form == Form::Html => {
                put_escaped(out, letter);
                continue;
            }
            _ => {
                out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short as u8]);
    }
    out.push(b'"');
}

fn put_escaped(out: &mut Vec<u8>, letter: char) {
    out.extend_from_slice(format!("\\u{:04x}", u32::from(letter)).as_bytes());
}
