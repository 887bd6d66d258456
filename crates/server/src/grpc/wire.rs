//! gRPC's frames: five bytes in front of every message.
//!
//! ```text
//!  flag (1: compressed) | length, 4 bytes big endian | message
//! ```
//!
//! *Invariants.* A length above the limit is refused before its bytes are waited for; what
//! decompresses to more than the limit is refused at the limit.
//!
//! *Contract.* `rpc_util.go` of grpc-go v1.82: codes and texts.

use std::io::{Read, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use node::requests::{Code, Rejected};
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use proto::Shaped;

use super::source::Source;
use super::status::Status;

/// Bytes in front of a message.
pub(crate) const PREFIX: usize = 5;

/// Bytes that a message to a client may have: what etcd tells gRPC's library, and the most that
/// this library's clients can be told to take.
pub(super) const SENT_BYTES_MAX: usize = i32::MAX as usize;

/// Fields of a wrong type that are left out of one message. No client sends even one, and each
/// costs as much as a hundred good ones.
const WRONG_FIELDS_MAX: usize = 1_024;

/// The shortest beginning of a gzip stream.
const GZIP_HEADER: usize = 10;

/// How messages of a call are compressed, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// Reads `grpc-encoding`.
    pub(crate) fn of(header: Option<&http::HeaderValue>) -> Result<Self, Status> {
        match header.map(http::HeaderValue::as_bytes) {
            None | Some(b"" | b"identity") => Ok(Self::Identity),
            Some(b"gzip") => Ok(Self::Gzip),
            Some(other) => {
                let name = String::from_utf8_lossy(other);
                let text =
                    format!("grpc: Decompressor is not installed for grpc-encoding {name:?}");
                Err(Status::new(Code::Unimplemented, text))
            }
        }
    }
}

/// The messages that a client sends in one call.
pub(crate) struct Messages {
    body: Source,
    encoding: Encoding,
    bytes_max: usize,
    /// Received and not yet consumed: either here, or gathered from several frames.
    rest: Bytes,
    gathered: BytesMut,
}

impl Messages {
    /// Reads messages of at most `bytes_max`.
    pub(crate) fn new(body: Source, encoding: Encoding, bytes_max: usize) -> Self {
        Self { body, encoding, bytes_max, rest: Bytes::new(), gathered: BytesMut::new() }
    }

    /// The next message; `None` when the client has sent its last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if !self.fill(PREFIX).await? {
            return match self.rest.is_empty() && self.gathered.is_empty() {
                true => Ok(None),
                false => Err(Status::new(Code::Internal, "unexpected EOF")),
            };
        }
        let flag = self.rest[0];
        let length = u32::from_be_bytes([self.rest[1], self.rest[2], self.rest[3], self.rest[4]]);
        let length = length as usize;
        if length > self.bytes_max {
            let max = self.bytes_max;
            let text = format!("grpc: received message larger than max ({length} vs. {max})");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        if !self.fill(PREFIX + length).await? {
            return Err(Status::new(Code::Internal, "unexpected EOF"));
        }
        self.rest.advance(PREFIX);
        let message = self.rest.split_to(length);
        match (flag, self.encoding) {
            (0, _) => Ok(Some(message)),
            (1, Encoding::Gzip) => decompress(&message, self.bytes_max).map(Some),
            (1, Encoding::Identity) => Err(Status::new(
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            )),
            (other, _) => Err(Status::new(
                Code::Internal,
                format!("grpc: received unexpected payload format {other}"),
            )),
        }
    }

    /// The message of a call that has one.
    pub(crate) async fn only(&mut self) -> Result<Bytes, Status> {
        let missing = || Status::new(Code::Internal, "EOF");
        self.next().await?.ok_or_else(missing)
    }

    /// Receives until `rest` has at least `wanted` bytes. False when the client ended before.
    /// May be dropped while it waits: nothing that was received is lost.
    async fn fill(&mut self, wanted: usize) -> Result<bool, Status> {
        loop {
            if self.rest.len() >= wanted {
                return Ok(true);
            }
            if self.gathered.len() >= wanted {
                self.rest = std::mem::take(&mut self.gathered).freeze();
                return Ok(true);
            }
            let received = self.body.next().await;
            let Some(data) = received.map_err(|_| Status::from(Rejected::Canceled))? else {
                return Ok(false);
            };
            if self.rest.is_empty() && self.gathered.is_empty() {
                // Most messages come whole: then nothing is copied.
                self.rest = data;
                continue;
            }
            if self.gathered.is_empty() {
                self.gathered.reserve(wanted.max(self.rest.len() + data.len()));
                self.gathered.extend_from_slice(&std::mem::take(&mut self.rest));
            }
            self.gathered.extend_from_slice(&data);
        }
    }
}

pub(super) fn decompress(compressed: &[u8], bytes_max: usize) -> Result<Bytes, Status> {
    let mut decoder = GzDecoder::new(compressed);
    if decoder.header().is_none() {
        let reason = match compressed.len() {
            0 => "EOF",
            1..GZIP_HEADER => "unexpected EOF",
            _ => "gzip: invalid header",
        };
        let text = format!("grpc: failed to decompress the message: {reason}");
        return Err(Status::new(Code::Internal, text));
    }
    let mut plain = Vec::new();
    let limit = bytes_max as u64 + 1;
    (&mut decoder).take(limit).read_to_end(&mut plain).map_err(|error| {
        Status::new(Code::Internal, format!("grpc: failed to read decompressed data: {error}"))
    })?;
    if plain.len() > bytes_max {
        let text =
            format!("grpc: received message after decompression larger than max {bytes_max}");
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    Ok(plain.into())
}

/// Decodes the request of a unary call.
pub(crate) fn decode<M: Shaped>(bytes: &Bytes) -> Result<M, Status> {
    read(bytes).ok_or_else(|| unparseable("proto: cannot parse invalid wire-format data"))
}

/// Decodes a message of a stream.
pub(crate) fn decode_streamed<M: Shaped>(bytes: &Bytes) -> Result<M, Status> {
    let text = "grpc: failed to unmarshal the received message: proto: cannot parse invalid \
                wire-format data";
    read(bytes).ok_or_else(|| Status::new(Code::Internal, text))
}

/// What is said of a unary request that is no message, for the reason that Go gives.
pub(crate) fn unparseable(reason: &str) -> Status {
    Status::new(Code::Internal, format!("grpc: error unmarshalling request: {reason}"))
}

fn read<M: Shaped>(bytes: &Bytes) -> Option<M> {
    proto::check_depth::<M>(bytes).ok()?;
    M::decode(bytes.clone()).ok().or_else(|| read_by_field(bytes))
}

/// Go's decoder takes a field whose wire type is wrong for an unknown one; prost refuses the
/// message. So a refused message is read again, field by field, without those, unless there are
/// more than [`WRONG_FIELDS_MAX`].
fn read_by_field<M: Shaped>(bytes: &Bytes) -> Option<M> {
    let mut message = M::default();
    let mut rest = bytes.clone();
    let mut wrong = 0;
    while rest.has_remaining() {
        let before = rest.clone();
        let (number, wire_type) = decode_key(&mut rest).ok()?;
        skip_field(wire_type, number, &mut rest, DecodeContext::default()).ok()?;
        let field = before.slice(..before.len() - rest.len());
        if let Err(error) = message.merge(field) {
            // "failed to …: Message.field: invalid wire type: …": a longer path lies deeper.
            let told = error.to_string();
            let is_of_this_field = told.matches(": ").count() == 3;
            if !(is_of_this_field && told.contains("invalid wire type")) {
                return None;
            }
            wrong += 1;
            if wrong > WRONG_FIELDS_MAX {
                return None;
            }
        }
    }
    Some(message)
}

/// The refusal of an answer that is longer than [`SENT_BYTES_MAX`].
pub(super) fn too_long(bytes: usize) -> Status {
    let text = format!("trying to send message larger than max ({bytes} vs. {SENT_BYTES_MAX})");
    Status::new(Code::ResourceExhausted, text)
}

/// A message with its prefix, in one allocation.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    put_prefix(&mut bytes, 0, length);
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

/// Writes what stands before a message.
pub(crate) fn put_prefix(buffer: &mut impl BufMut, flag: u8, length: usize) {
    buffer.put_u8(flag);
    // Answers end at `SENT_BYTES_MAX`; what grows when it is compressed does so by little.
    buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// A framed message, compressed: `pieces` begin with the prefix.
pub(crate) fn compress<'a>(pieces: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let mut encoder = GzEncoder::new(vec![0; PREFIX], Compression::fast());
    let mut skip = PREFIX;
    for piece in pieces {
        let skipped = skip.min(piece.len());
        skip -= skipped;
        // Writing to memory cannot fail.
        drop(encoder.write_all(&piece[skipped..]));
    }
    let mut bytes = encoder.finish().unwrap_or_default();
    let length = bytes.len() - PREFIX;
    put_prefix(&mut &mut bytes[..PREFIX], 1, length);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::PutRequest;

    use super::*;

    #[test]
    fn a_frame_is_prefix_and_message() {
        let put = PutRequest { key: "k".into(), ..PutRequest::default() };
        assert_eq!(frame(&put)[..], [0, 0, 0, 0, 3, 0x0a, 1, b'k']);
    }

    #[test]
    fn gzip_goes_both_ways_and_is_bounded() {
        let put = PutRequest { value: vec![7; 10_000].into(), ..PutRequest::default() };
        let framed = frame(&put);
        let (head, tail) = (framed.slice(..3), framed.slice(3..));
        let compressed = compress([head, tail].iter());
        assert_eq!(compressed[0], 1);
        let plain = decompress(&compressed[PREFIX..], 20_000).expect("valid");
        assert_eq!(plain, framed[PREFIX..]);
        let refused = decompress(&compressed[PREFIX..], 100).expect_err("too large");
        assert_eq!(
            refused.message,
            "grpc: received message after decompression larger than max 100"
        );
        let refused = decompress(&[1, 2, 3], 100).expect_err("garbage");
        assert_eq!(refused.message, "grpc: failed to decompress the message: unexpected EOF");
    }

    #[test]
    fn a_field_of_a_wrong_type_is_unknown_and_garbage_is_refused() {
        let key = |bytes: &'static [u8]| {
            decode::<PutRequest>(&Bytes::from_static(bytes)).map(|put| put.key)
        };
        assert_eq!(key(&[0x0d, 1, 2, 3, 4]), Ok(Bytes::new()));
        assert_eq!(key(&[0x0d, 1, 2, 3, 4, 0x0a, 1, b'k']), Ok("k".into()));
        for garbage in [&[0xff][..], &[0x0a], &[0x0a, 5, b'a'], &[0x0d, 1], &[0x00, 1], &[0x0b]] {
            assert!(key(garbage).is_err(), "{garbage:?}");
        }
    }

    #[test]
    fn wrong_fields_are_left_out_up_to_a_bound() {
        let with = |wrong: usize| {
            let mut bytes = [0x0d, 1, 2, 3, 4].repeat(wrong);
            bytes.extend_from_slice(&[0x0a, 1, b'k']);
            decode::<PutRequest>(&bytes.into()).map(|put| put.key)
        };
        assert_eq!(with(WRONG_FIELDS_MAX), Ok("k".into()));
        assert!(with(WRONG_FIELDS_MAX + 1).is_err());
    }

    #[test]
    fn encodings_are_known_or_refused_by_name() {
        let value = |text: &'static str| http::HeaderValue::from_static(text);
        assert_eq!(Encoding::of(None), Ok(Encoding::Identity));
        assert_eq!(Encoding::of(Some(&value("gzip"))), Ok(Encoding::Gzip));
        let refused = Encoding::of(Some(&value("deflate"))).expect_err("unknown");
        assert_eq!(
            refused.message,
            "grpc: Decompressor is not installed for grpc-encoding \"deflate\""
        );
    }
}
