//! One record in its frame: bytes in, bytes out, no file.
//!
//! ```text
//!  8 bytes LE   1          1   1..5     1   1..     n     0..7
//! +-----------+-----------+-------------+-----------+-----+------+
//! | length    | 08 kind   | 10 crc      | 1a n      | data| zeros|
//! +-----------+-----------+-------------+-----------+-----+------+
//!  low 56 bits: bytes of the record; top byte: 0, or 0x80 | number of padding zeros
//! ```
//!
//! The checksum is the CRC-32C of the data of all records so far, in all segments: a chain. It
//! covers the data alone, so everything around the data is parsed strictly, in the one form that
//! etcd writes: a record whose kind or shape has changed must not pass for another one.
//!
//! *Contract.* `server/storage/wal/{encoder,decoder}.go` of etcd v3.7.1.

use base::{LogIndex, Term};
use bytes::Bytes;
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};
use proto::raftpb;

/// Bytes before a record, holding its length.
pub(super) const LENGTH_BYTES: u64 = 8;

/// Frames begin at multiples of this.
const ALIGNMENT: u64 = 8;

const TAG_KIND: u8 = 0x08;
const TAG_CRC: u8 = 0x10;
const TAG_DATA: u8 = 0x1a;

/// The fields of an entry, in their order: type, term, index, data.
const ENTRY_TAGS: [u8; 4] = [0x08, 0x10, 0x18, 0x22];

/// Bytes of a record before its data, at most: tag and kind, tag and crc, tag and length.
pub(super) const HEADER_BYTES_MAX: usize = 2 + 6 + 11;

/// The same when its numbers are written longer than they need be, which is read all the same.
pub(super) const HEADER_READ_MAX: usize = 3 * (1 + 10);

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `etcdserverpb.Metadata`: whose log this is.
    Metadata = 1,
    /// `raftpb.Entry`.
    Entry = 2,
    /// `raftpb.HardState`.
    State = 3,
    /// No data: the checksum with which the segment before ended.
    Crc = 4,
    /// `walpb.Snapshot`: entries up to its index are not needed any more.
    Snapshot = 5,
}

/// A parsed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) crc: u32,
    /// `None` in a record of kind [`Kind::Crc`] only.
    pub(super) data: &'a [u8],
}

impl Record<'_> {
    /// The checksum after this record, given the one before it. Equal to `crc` when it is whole.
    pub(super) fn chained(&self, before: u32) -> u32 {
        crc32c::crc32c_append(before, self.data)
    }
}

/// Why bytes are no record.
pub(super) type Malformed = &'static str;

/// The sizes of record and padding that a length field announces.
pub(super) fn split_length(field: u64) -> Result<(u64, u64), Malformed> {
    let (record, top) = (field & ((1 << 56) - 1), field >> 56);
    let padding = record.next_multiple_of(ALIGNMENT) - record;
    let announced = if padding == 0 { 0 } else { 0x80 | padding };
    if record == 0 {
        return Err("the length of a record is zero");
    }
    if top != announced {
        return Err("the length and the padding of a record disagree");
    }
    Ok((record, padding))
}

/// What stands before the data of a record, and agrees with its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) crc: u32,
    /// Where the data begin, which fill the rest of the record.
    pub(super) data_at: usize,
}

/// Reads the head of a record of `len` bytes from its first [`HEADER_READ_MAX`], or from all of
/// them: so a length that means nothing is seen through without the bytes it asks for.
pub(super) fn parse_head(bytes: &[u8], len: u64) -> Result<Head, Malformed> {
    let mut rest = bytes;
    let number = field(&mut rest, TAG_KIND)?.ok_or("a record has no type")?;
    let kind = match number {
        1 => Kind::Metadata,
        2 => Kind::Entry,
        3 => Kind::State,
        4 => Kind::Crc,
        5 => Kind::Snapshot,
        _ => return Err("the type of a record is unknown"),
    };
    let crc = field(&mut rest, TAG_CRC)?.ok_or("a record has no checksum")?;
    let crc = u32::try_from(crc).map_err(|_| "a checksum has more than 32 bits")?;
    let data_bytes = field(&mut rest, TAG_DATA)?;
    let data_at = bytes.len() - rest.len();
    let left = len - data_at as u64;
    if data_bytes.unwrap_or(0) != left {
        return Err("the data of a record does not fill it");
    }
    if kind == Kind::Crc && left > 0 {
        return Err("a checksum record has data");
    }
    Ok(Head { kind, crc, data_at })
}

/// Reads a record in etcd's own order of fields, with nothing left over.
pub(super) fn parse(bytes: &[u8]) -> Result<Record<'_>, Malformed> {
    let Head { kind, crc, data_at } = parse_head(bytes, bytes.len() as u64)?;
    Ok(Record { kind, crc, data: &bytes[data_at..] })
}

fn field(rest: &mut &[u8], tag: u8) -> Result<Option<u64>, Malformed> {
    if rest.first() != Some(&tag) {
        return Ok(None);
    }
    *rest = &rest[1..];
    let number = decode_varint(rest).map_err(|_| "a number in a record does not end")?;
    Ok(Some(number))
}

/// An entry whose payload is still where it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryView<'a> {
    kind: Option<u64>,
    term: Option<u64>,
    index: Option<u64>,
    payload: Option<&'a [u8]>,
}

impl<'a> EntryView<'a> {
    /// Reads an entry in etcd's own order of fields. Refuses those that raft never writes.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = data;
        let [kind, term, index, payload] = ENTRY_TAGS;
        let kind = field(&mut rest, kind)?;
        let term = field(&mut rest, term)?;
        let index = field(&mut rest, index)?;
        let payload = match field(&mut rest, payload)? {
            Some(len) if len == rest.len() as u64 => Some(rest),
            None if rest.is_empty() => None,
            _ => return Err("the payload of an entry does not fill it"),
        };
        let empty = payload.is_none_or(<[u8]>::is_empty);
        match kind.unwrap_or_default() {
            _ if term.unwrap_or_default() == 0 => Err("an entry without a term"),
            _ if index.unwrap_or_default() == 0 => Err("an entry without an index"),
            0 => Ok(Self { kind, term, index, payload }),
            1 | 2 if !empty => Ok(Self { kind, term, index, payload }),
            1 | 2 => Err("a change of configuration without data"),
            _ => Err("an entry of unknown type"),
        }
    }

    /// Its position in the log.
    pub(super) fn index(&self) -> LogIndex {
        LogIndex(self.index.unwrap_or_default())
    }

    /// The term in which it was proposed.
    pub(super) fn term(&self) -> Term {
        Term(self.term.unwrap_or_default())
    }

    /// The entry, its payload copied.
    pub(super) fn to_entry(self) -> raftpb::Entry {
        raftpb::Entry {
            r#type: self.kind.and_then(|kind| i32::try_from(kind).ok()),
            term: self.term,
            index: self.index,
            data: self.payload.map(Bytes::copy_from_slice),
        }
    }
}

/// Builds frames and carries the chain of checksums.
#[derive(Debug)]
pub(super) struct Encoder {
    crc: u32,
    /// Frames not yet written to the file.
    frames: Vec<u8>,
    /// The fields of an entry before its payload.
    scratch: Vec<u8>,
}

impl Encoder {
    /// Continues a chain that stands at `crc`.
    pub(super) const fn new(crc: u32) -> Self {
        Self { crc, frames: Vec::new(), scratch: Vec::new() }
    }

    /// The frames since the last [`Self::clear`].
    pub(super) fn frames(&self) -> &[u8] {
        &self.frames
    }

    /// Forgets the frames, which have been written, and memory beyond `keep_bytes`.
    pub(super) fn clear(&mut self, keep_bytes: usize) {
        self.frames.clear();
        self.frames.shrink_to(keep_bytes);
        self.scratch.shrink_to(keep_bytes);
    }

    /// The head of a segment: the checksum so far.
    pub(super) fn crc(&mut self) {
        self.frame(Kind::Crc, &[], None);
    }

    /// A record of bytes that are encoded already.
    pub(super) fn bytes(&mut self, kind: Kind, data: &[u8]) {
        self.frame(kind, &[], Some(data));
    }

    /// A record of a small message.
    pub(super) fn message(&mut self, kind: Kind, message: &impl prost::Message) {
        self.frame(kind, &[], Some(&message.encode_to_vec()));
    }

    /// An entry; its payload is copied once, into the frames. Returns its index.
    pub(super) fn entry(&mut self, entry: &raftpb::Entry) -> LogIndex {
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        let numbers =
            [entry.r#type.map(i64::from).map(i64::cast_unsigned), entry.term, entry.index];
        for (tag, number) in ENTRY_TAGS.into_iter().zip(numbers) {
            if let Some(number) = number {
                head.push(tag);
                encode_varint(number, &mut head);
            }
        }
        let payload = entry.data.as_ref();
        if let Some(payload) = payload {
            head.push(ENTRY_TAGS[3]);
            encode_varint(payload.len() as u64, &mut head);
        }
        self.frame(Kind::Entry, &head, Some(payload.map_or(&[], |bytes| bytes)));
        self.scratch = head;
        LogIndex(entry.index())
    }

    /// Appends a frame whose data is `head` and then `body`; `None` leaves the data out.
    fn frame(&mut self, kind: Kind, head: &[u8], body: Option<&[u8]>) {
        let data_bytes = (head.len() + body.map_or(0, <[u8]>::len)) as u64;
        self.crc = crc32c::crc32c_append(self.crc, head);
        self.crc = crc32c::crc32c_append(self.crc, body.unwrap_or(&[]));
        let mut record = 2 + 1 + encoded_len_varint(u64::from(self.crc)) as u64;
        if body.is_some() {
            record += 1 + encoded_len_varint(data_bytes) as u64 + data_bytes;
        }
        let padding = record.next_multiple_of(ALIGNMENT) - record;
        let top = if padding == 0 { 0 } else { 0x80 | padding };
        self.frames.extend_from_slice(&(record | top << 56).to_le_bytes());
        self.frames.extend_from_slice(&[TAG_KIND, kind as u8, TAG_CRC]);
        encode_varint(u64::from(self.crc), &mut self.frames);
        if let Some(body) = body {
            self.frames.push(TAG_DATA);
            encode_varint(data_bytes, &mut self.frames);
            self.frames.extend_from_slice(head);
            self.frames.extend_from_slice(body);
        }
        self.frames.extend_from_slice(&[0; ALIGNMENT as usize][..padding as usize]);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::{etcdserverpb, walpb};

    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// The head of a log written by etcd 3.7.1, and the checksums after its next records.
    #[test]
    fn the_first_records_are_etcds() {
        let metadata = etcdserverpb::Metadata {
            node_id: Some(0xc647_63c5_9328_5da3),
            cluster_id: Some(0xe71d_93db_5108_6437),
        };
        let mut encoder = Encoder::new(0);
        encoder.crc();
        encoder.bytes(Kind::Metadata, &metadata.encode_to_vec());
        let snapshot = walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None };
        encoder.message(Kind::Snapshot, &snapshot);
        let expected = unhex(
            "0400000000000084 08041000 00000000
             1f00000000000081 080110feb4f14b1a1608a3bba199d9f8d8a3c60110b7c8a188b5fbe48ee701 00
             0e00000000000082 080510d1ddb1940f1a0408001000 0000",
        );
        assert_eq!(encoder.frames(), expected);
        assert_eq!(encoder.crc, 0xf28c_6ed1);
    }

    /// Every record of a log that etcd 3.7.1 has written, decoded and encoded again.
    #[test]
    fn real_records_are_written_the_same() {
        let file = include_bytes!(
            "../../tests/fixtures/etcd-3.7.1/member/wal/0000000000000000-0000000000000000.wal"
        );
        let (mut encoder, mut at, mut entries) = (Encoder::new(0), 0, 0);
        loop {
            let length = u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
            let Ok((record, padding)) = split_length(length) else { break };
            let record_end = at + 8 + record as usize;
            let record = parse(&file[at + 8..record_end]).unwrap();
            match record.kind {
                Kind::Crc => encoder.crc(),
                Kind::Metadata => encoder.bytes(Kind::Metadata, record.data),
                Kind::Entry => {
                    entries += 1;
                    encoder.entry(&EntryView::parse(record.data).unwrap().to_entry());
                }
                Kind::State => {
                    let state = raftpb::HardState::decode(record.data).unwrap();
                    encoder.message(Kind::State, &state);
                }
                Kind::Snapshot => {
                    let snapshot = walpb::Snapshot::decode(record.data).unwrap();
                    encoder.message(Kind::Snapshot, &snapshot);
                }
            }
            at = record_end + padding as usize;
        }
        assert_eq!(entries, 19);
        assert_eq!(encoder.frames(), &file[..at]);
    }

    #[test]
    fn an_entry_is_encoded_as_prost_does() {
        let entries = [
            raftpb::Entry::default(),
            raftpb::Entry { r#type: Some(0), term: Some(2), index: Some(2), data: None },
            raftpb::Entry {
                r#type: Some(1),
                term: Some(u64::MAX),
                index: Some(300),
                data: Some(Bytes::from_static(&[7; 1000])),
            },
            raftpb::Entry { data: Some(Bytes::new()), ..raftpb::Entry::default() },
        ];
        let (mut one, mut two) = (Encoder::new(5), Encoder::new(5));
        for entry in &entries {
            one.entry(entry);
            two.message(Kind::Entry, entry);
        }
        assert_eq!(one.frames(), two.frames());
    }

    #[test]
    fn an_entry_comes_back_or_is_refused() {
        let plain = |kind, term, index, data: Option<&'static [u8]>| raftpb::Entry {
            r#type: kind,
            term: Some(term),
            index: Some(index),
            data: data.map(Bytes::from_static),
        };
        for entry in [
            plain(None, 2, 2, None),
            plain(Some(0), 1, 300, Some(b"")),
            plain(Some(1), u64::MAX, u64::MAX, Some(b"change")),
        ] {
            let bytes = entry.encode_to_vec();
            assert_eq!(EntryView::parse(&bytes).unwrap().to_entry(), entry);
            assert!(EntryView::parse(&[&bytes[..], b"\x08\x01"].concat()).is_err());
        }
        // What a hard state looks like when it is taken for an entry, among others.
        for entry in [
            plain(Some(1), 7, 5, None),
            plain(Some(2), 7, 5, Some(b"")),
            plain(Some(3), 7, 5, Some(b"x")),
            plain(Some(0), 0, 5, Some(b"x")),
            plain(Some(0), 1, 0, Some(b"x")),
        ] {
            assert!(EntryView::parse(&entry.encode_to_vec()).is_err(), "{entry:?}");
        }
    }

    #[test]
    fn a_frame_comes_back() {
        arbtest::arbtest(|u| {
            let data: Vec<u8> = u.arbitrary()?;
            let before: u32 = u.arbitrary()?;
            let mut encoder = Encoder::new(before);
            encoder.bytes(Kind::Metadata, &data);
            let frame = encoder.frames();
            assert_eq!(frame.len() % 8, 0);
            let length = u64::from_le_bytes(frame[..8].try_into().unwrap());
            let (record, padding) = split_length(length).unwrap();
            assert_eq!(LENGTH_BYTES + record + padding, frame.len() as u64);
            let record = parse(&frame[8..8 + record as usize]).unwrap();
            assert_eq!((record.kind, record.data), (Kind::Metadata, data.as_slice()));
            assert_eq!(record.chained(before), record.crc);
            Ok(())
        });
    }

    #[test]
    fn any_bytes_are_parsed_without_harm() {
        arbtest::arbtest(|u| {
            let bytes: Vec<u8> = u.arbitrary()?;
            if let Ok(record) = parse(&bytes) {
                assert!(record.data.len() <= bytes.len());
            }
            if let Ok(entry) = EntryView::parse(&bytes) {
                assert_eq!(EntryView::parse(&entry.to_entry().encode_to_vec()), Ok(entry));
            }
            split_length(u.arbitrary()?).unwrap_or_default();
            Ok(())
        });
    }

    /// The first bytes of a record say of it what all of them say.
    #[test]
    fn a_head_is_judged_from_the_first_bytes() {
        arbtest::arbtest(|u| {
            let data = vec![7; u.int_in_range(0..=100)?];
            let mut encoder = Encoder::new(u.arbitrary()?);
            encoder.bytes(Kind::Entry, &data);
            let mut bytes = encoder.frames()[LENGTH_BYTES as usize..].to_vec();
            for _ in 0..u.int_in_range(0..=3)? {
                let at = u.choose_index(bytes.len().min(HEADER_READ_MAX))?;
                bytes[at] = u.arbitrary()?;
            }
            bytes.truncate(u.int_in_range(0..=bytes.len())?);
            let first = &bytes[..bytes.len().min(HEADER_READ_MAX)];
            let head = parse_head(first, bytes.len() as u64);
            assert_eq!(head.map(|_| ()), parse(&bytes).map(|_| ()));
            Ok(())
        });
    }
}
