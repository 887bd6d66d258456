//! Answers as they leave: framed, in pieces of bounded size.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use proto::etcdserverpb::ResponseHeader;

use super::body::Body;
use super::wire::{self, Encoding, PREFIX};

/// Bytes of one piece; a longer row has a piece of its own.
const PIECE_BYTES: usize = 256 * 1024;

/// Bytes of the first piece, which is all that a small answer needs.
const FIRST_PIECE_BYTES: usize = 512;

/// Room for the prefix and a header: 5, then a key, a length and four numbers of up to 10 bytes.
const HEAD_BYTES: usize = PREFIX + 2 + 4 * 11;

/// Field numbers of `RangeResponse`.
const HEADER: u32 = 1;
const KVS: u32 = 2;
const MORE: u32 = 3;
const COUNT: u32 = 4;

/// An answer with its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// In one piece.
    Whole(Bytes),
    /// In several.
    Pieces(VecDeque<Bytes>),
}

impl Reply {
    /// The answer that `message` is.
    pub(super) fn of(message: &impl Message) -> Self {
        Self::Whole(wire::frame(message))
    }

    /// The bytes of its message.
    pub(super) fn len(&self) -> usize {
        let framed = match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.iter().map(Bytes::len).sum(),
        };
        framed - PREFIX
    }

    pub(super) fn into_body(self, encoding: Encoding) -> Body {
        match (self, encoding) {
            (Self::Whole(bytes), Encoding::Identity) => Body::Message(bytes),
            (Self::Pieces(pieces), Encoding::Identity) => Body::Chunks(pieces),
            (Self::Whole(bytes), Encoding::Gzip) => Body::Message(wire::compress([bytes].iter())),
            (Self::Pieces(pieces), Encoding::Gzip) => Body::Message(wire::compress(pieces.iter())),
        }
    }
}

/// Gathers the rows of a range's answer. Each row is copied once, to where it leaves from.
///
/// ```text
///  [room for the head | row row row …] [row row …] … [row … more count]
/// ```
pub(super) struct Rows {
    full: VecDeque<Bytes>,
    piece: BytesMut,
    bytes: usize,
    rows: usize,
}

impl Rows {
    pub(super) fn new() -> Self {
        let mut piece = BytesMut::with_capacity(FIRST_PIECE_BYTES);
        piece.put_bytes(0, HEAD_BYTES);
        Self { full: VecDeque::new(), piece, bytes: 0, rows: 0 }
    }

    /// Adds an encoded `mvccpb.KeyValue`.
    pub(super) fn push(&mut self, row: &[u8]) {
        let needed = key_len(KVS) + encoded_len_varint(row.len() as u64) + row.len();
        self.reserve(needed);
        encode_key(KVS, WireType::LengthDelimited, &mut self.piece);
        encode_varint(row.len() as u64, &mut self.piece);
        self.piece.extend_from_slice(row);
        self.bytes += needed;
        self.rows += 1;
    }

    fn reserve(&mut self, needed: usize) {
        let room = self.piece.capacity() - self.piece.len();
        if needed <= room {
            return;
        }
        if self.full.is_empty() && self.piece.len() + needed <= PIECE_BYTES {
            // The first piece grows, by doubling, to the size of the others.
            let wanted = (2 * self.piece.capacity()).clamp(self.piece.len() + needed, PIECE_BYTES);
            self.piece.reserve(wanted - self.piece.len());
            return;
        }
        let next = BytesMut::with_capacity(PIECE_BYTES.max(needed));
        self.full.push_back(std::mem::replace(&mut self.piece, next).freeze());
    }

    /// Bytes of rows so far.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Rows so far.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Starts over.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// The framed `RangeResponse`.
    pub(super) fn finish(self, header: Option<&ResponseHeader>, more: bool, count: i64) -> Reply {
        self.finish_within(0, header, more, count)
    }

    /// The same inside another message, as its field `outer`; 0 for none.
    pub(super) fn finish_within(
        mut self,
        outer: u32,
        header: Option<&ResponseHeader>,
        more: bool,
        count: i64,
    ) -> Reply {
        let mut tail = BytesMut::with_capacity(16);
        if more {
            encode_key(MORE, WireType::Varint, &mut tail);
            encode_varint(1, &mut tail);
        }
        if count != 0 {
            encode_key(COUNT, WireType::Varint, &mut tail);
            encode_varint(count.cast_unsigned(), &mut tail);
        }
        if !tail.is_empty() {
            self.reserve(tail.len());
            self.piece.extend_from_slice(&tail);
        }
        let mut head = Vec::with_capacity(2 * HEAD_BYTES);
        if let Some(header) = header {
            prost::encoding::message::encode(HEADER, header, &mut head);
        }
        let mut length = head.len() + self.bytes + tail.len();
        if outer != 0 {
            let mut wrapped = Vec::with_capacity(2 * HEAD_BYTES);
            encode_key(outer, WireType::LengthDelimited, &mut wrapped);
            encode_varint(length as u64, &mut wrapped);
            length += wrapped.len();
            wrapped.append(&mut head);
            head = wrapped;
        }
        let mut prefix = [0; PREFIX];
        wire::put_prefix(&mut &mut prefix[..], 0, length);
        head.splice(0..0, prefix);

        let last = self.piece.freeze();
        self.full.push_back(last);
        let first = self.full.pop_front().unwrap_or_default();
        let first = place(first, &head);
        if self.full.is_empty() {
            return match first {
                (whole, None) => Reply::Whole(whole),
                (head, Some(rows)) => Reply::Pieces([head, rows].into()),
            };
        }
        let (head, rows) = first;
        if let Some(rows) = rows {
            self.full.push_front(rows);
        }
        self.full.push_front(head);
        Reply::Pieces(self.full)
    }
}

/// Writes `head` into the room in front of the first piece; when it is too long for the room, or
/// the piece is shared, it is a piece of its own.
fn place(first: Bytes, head: &[u8]) -> (Bytes, Option<Bytes>) {
    if head.len() > HEAD_BYTES {
        return (Bytes::copy_from_slice(head), Some(first.slice(HEAD_BYTES..)));
    }
    match first.try_into_mut() {
        Ok(mut piece) => {
            let start = HEAD_BYTES - head.len();
            piece[start..HEAD_BYTES].copy_from_slice(head);
            (piece.freeze().slice(start..), None)
        }
        Err(first) => (Bytes::copy_from_slice(head), Some(first.slice(HEAD_BYTES..))),
    }
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{RangeResponse, RangeStreamResponse};
    use proto::mvccpb::KeyValue;

    use super::*;

    fn joined(reply: Reply) -> Vec<u8> {
        match reply {
            Reply::Whole(bytes) => bytes.to_vec(),
            Reply::Pieces(pieces) => {
                assert!(pieces.len() > 1, "several pieces");
                pieces.iter().flat_map(|piece| piece.to_vec()).collect()
            }
        }
    }

    fn kv(size: usize) -> KeyValue {
        KeyValue { key: "k".into(), value: vec![7; size].into(), ..KeyValue::default() }
    }

    #[test]
    fn the_pieces_are_the_message_whatever_their_sizes() {
        let header = ResponseHeader { cluster_id: u64::MAX, revision: 3, ..Default::default() };
        for sizes in [vec![], vec![3], vec![100; 20], vec![70_000; 9], vec![400_000, 1, 300_000]] {
            let kvs: Vec<_> = sizes.iter().map(|size| kv(*size)).collect();
            let mut rows = Rows::new();
            for kv in &kvs {
                rows.push(&kv.encode_to_vec());
            }
            assert_eq!(rows.len(), kvs.len());
            let response = RangeResponse { header: Some(header), kvs, more: true, count: 99 };
            let reply = rows.finish(Some(&header), true, 99);
            assert_eq!(reply.len(), response.encoded_len());
            assert!(matches!(reply, Reply::Whole(_)) || response.encoded_len() > PIECE_BYTES);
            assert_eq!(joined(reply), wire::frame(&response));
        }
    }

    #[test]
    fn an_answer_of_a_stream_is_wrapped() {
        let mut rows = Rows::new();
        rows.push(&kv(1).encode_to_vec());
        let range = RangeResponse { kvs: vec![kv(1)], ..RangeResponse::default() };
        let response = RangeStreamResponse { range_response: Some(range) };
        assert_eq!(joined(rows.finish_within(1, None, false, 0)), wire::frame(&response));
    }
}
