//! Answers as they leave: framed, in pieces of bounded size.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use proto::etcdserverpb::ResponseHeader;
use tokio::sync::mpsc;

use super::body::{Body, Item};
use super::status::Status;
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
#[derive(Debug)]
pub(crate) enum Reply {
    /// In one piece.
    Whole(Bytes),
    /// In several.
    Pieces(VecDeque<Bytes>),
    /// The first pieces of one that is too long to be held; the others are read while it leaves.
    Long {
        /// They begin with the frame.
        first: VecDeque<Bytes>,
        /// The other pieces, and how it ended.
        rest: mpsc::Receiver<Item>,
        /// The bytes of the message.
        bytes: usize,
    },
}

impl Reply {
    /// The answer that `message` is.
    pub(super) fn of(message: &impl Message) -> Self {
        Self::Whole(wire::frame(message))
    }

    /// The bytes of its message.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len() - PREFIX,
            Self::Pieces(pieces) => pieces.iter().map(Bytes::len).sum::<usize>() - PREFIX,
            Self::Long { bytes, .. } => *bytes,
        }
    }

    /// The answer, unless it is longer than gRPC's clients take a message at all.
    pub(super) fn within_bounds(self) -> Result<Self, Status> {
        match self.len() {
            bytes if bytes > wire::SENT_BYTES_MAX => Err(wire::too_long(bytes)),
            _ => Ok(self),
        }
    }

    pub(super) fn into_body(self, encoding: Encoding) -> Body {
        match (self, encoding) {
            (Self::Whole(bytes), Encoding::Identity) => Body::Message(bytes),
            (Self::Pieces(pieces), Encoding::Identity) => Body::Chunks(pieces),
            (Self::Whole(bytes), Encoding::Gzip) if bytes.len() <= PIECE_BYTES => {
                Body::Message(wire::compress([bytes].iter()))
            }
            (Self::Whole(bytes), Encoding::Gzip) => compressed_beside([bytes].into()),
            (Self::Pieces(pieces), Encoding::Gzip) => compressed_beside(pieces),
            // Long answers are only made for callers that do not want compression.
            (Self::Long { first, rest, .. }, _) => Body::Long(first, rest),
        }
    }
}

/// The body of a long message, which begins when it is compressed.
fn compressed_beside(pieces: VecDeque<Bytes>) -> Body {
    let (items, body) = mpsc::channel(1);
    tokio::spawn(async move {
        let ended = match compress(pieces).await {
            Ok(bytes) => items.send(Item::Message(bytes)).await.map(|()| Ok(())),
            Err(status) => Ok(Err(status)),
        };
        // Fails when the client is gone.
        if let Ok(ended) = ended {
            drop(items.send(Item::End(ended)).await);
        }
    });
    Body::Stream(body)
}

/// Compresses a framed message; one that is longer than a piece where no connection waits.
pub(super) async fn compress(pieces: VecDeque<Bytes>) -> Result<Bytes, Status> {
    if pieces.iter().map(Bytes::len).sum::<usize>() <= PIECE_BYTES {
        return Ok(wire::compress(pieces.iter()));
    }
    super::blocking(move || wire::compress(pieces.iter())).await
}

/// The bytes that a row takes in a range's answer.
pub(super) fn framed_len(row: &[u8]) -> usize {
    key_len(KVS) + encoded_len_varint(row.len() as u64) + row.len()
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
        let needed = framed_len(row);
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

    /// Rows that continue an answer whose head has left already.
    pub(super) fn continued() -> Self {
        Self { full: VecDeque::new(), piece: BytesMut::new(), bytes: 0, rows: 0 }
    }

    /// The pieces of such a continuation.
    pub(super) fn into_pieces(mut self) -> VecDeque<Bytes> {
        self.full.push_back(self.piece.freeze());
        self.full
    }

    /// The first pieces of a framed `RangeResponse` of which `rest` bytes of rows are to follow,
    /// then what closes it, and the bytes of the whole message.
    pub(super) fn begin(
        mut self,
        header: &ResponseHeader,
        rest: usize,
        more: bool,
        count: i64,
    ) -> (VecDeque<Bytes>, Bytes, usize) {
        let tail = tail(more, count);
        let mut head = Vec::with_capacity(2 * HEAD_BYTES);
        prost::encoding::message::encode(HEADER, header, &mut head);
        let bytes = head.len() + self.bytes + rest + tail.len();
        self.close(head, bytes);
        (self.full, tail, bytes)
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
        let tail = tail(more, count);
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
        self.close(head, length);
        match self.full.pop_front() {
            Some(whole) if self.full.is_empty() => Reply::Whole(whole),
            Some(first) => {
                self.full.push_front(first);
                Reply::Pieces(self.full)
            }
            None => Reply::Whole(Bytes::new()),
        }
    }

    /// Puts the frame of a message of `length` bytes, and the message's head, in front.
    fn close(&mut self, mut head: Vec<u8>, length: usize) {
        let mut prefix = [0; PREFIX];
        wire::put_prefix(&mut &mut prefix[..], 0, length);
        head.splice(0..0, prefix);
        self.full.push_back(std::mem::take(&mut self.piece).freeze());
        let first = self.full.pop_front().unwrap_or_default();
        let (first, rows) = place(first, &head);
        if let Some(rows) = rows {
            self.full.push_front(rows);
        }
        self.full.push_front(first);
    }
}

/// What closes a `RangeResponse`.
fn tail(more: bool, count: i64) -> Bytes {
    let mut tail = BytesMut::with_capacity(16);
    if more {
        encode_key(MORE, WireType::Varint, &mut tail);
        encode_varint(1, &mut tail);
    }
    if count != 0 {
        encode_key(COUNT, WireType::Varint, &mut tail);
        encode_varint(count.cast_unsigned(), &mut tail);
    }
    tail.freeze()
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
    use node::requests::Code;
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
            Reply::Long { .. } => panic!("rows alone make no long answer"),
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
    fn what_is_begun_and_continued_is_the_message() {
        let header = ResponseHeader { member_id: 9, revision: 3, ..Default::default() };
        let kvs: Vec<_> = (0..8).map(|number| kv(50_000 * number)).collect();
        let (held, left) = kvs.split_at(5);
        let (mut rows, mut others, mut rest) = (Rows::new(), Rows::continued(), 0);
        for kv in held {
            rows.push(&kv.encode_to_vec());
        }
        for kv in left {
            rest += framed_len(&kv.encode_to_vec());
            others.push(&kv.encode_to_vec());
        }
        let (mut pieces, tail, bytes) = rows.begin(&header, rest, true, 8);
        pieces.extend(others.into_pieces());
        pieces.push_back(tail);
        let response = RangeResponse { header: Some(header), kvs, more: true, count: 8 };
        assert_eq!(bytes, response.encoded_len());
        assert_eq!(joined(Reply::Pieces(pieces)), wire::frame(&response));
    }

    #[test]
    fn an_answer_that_no_client_takes_is_refused_before_it_begins() {
        let of = |bytes| {
            let (_, rest) = mpsc::channel(1);
            Reply::Long { first: VecDeque::new(), rest, bytes }.within_bounds()
        };
        assert!(of((1 << 31) - 1).is_ok());
        let refused = of(1 << 31).expect_err("too long");
        assert_eq!(refused.code, Code::ResourceExhausted);
        let text = "trying to send message larger than max (2147483648 vs. 2147483647)";
        assert_eq!(refused.message, text);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn long_answers_are_compressed_as_short_ones_are() {
        for size in [1, 2 * PIECE_BYTES] {
            let message = kv(size);
            let framed = wire::frame(&message);
            let pieces = [framed.slice(..7), framed.slice(7..)].into();
            let compressed = compress(pieces).await.expect("compressed");
            let plain = wire::decompress(&compressed[PREFIX..], 4 * PIECE_BYTES).expect("valid");
            assert_eq!(plain, framed[PREFIX..]);
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
