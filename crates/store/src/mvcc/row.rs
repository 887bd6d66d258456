//! Stored rows: the bytes of an `mvccpb.KeyValue`, written canonically and looked into without
//! being decoded.
//!
//! *Invariants.* A row's fields stand in ascending order and zero ones are left out: the bytes
//! enter `HashKV`, so every member must write the same.
//!
//! *Absent.* A copy of the value on the way out: [`Parts`] borrows, [`key_of`] slices.

use base::{LeaseId, Revision};
use bytes::Bytes;
use prost::encoding::decode_varint;

const KEY: u8 = 0x0a;
const CREATE: u8 = 0x10;
const MOD: u8 = 0x18;
const VERSION: u8 = 0x20;
const VALUE: u8 = 0x2a;
const LEASE: u8 = 0x30;

/// What a row says, borrowed from it. A row of no bytes (the marker that `etcdutl snapshot
/// restore --bump-revision` leaves) reads as the empty key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts<'a> {
    /// The key; empty only in a marker row.
    pub key: &'a [u8],
    /// The revision of the put that created the key.
    pub create: Revision,
    /// The revision of this put.
    pub modified: Revision,
    /// How many puts since creation, this one included.
    pub version: i64,
    /// The value.
    pub value: &'a [u8],
    /// The lease, 0 for none.
    pub lease: LeaseId,
}

impl<'a> Parts<'a> {
    /// Reads a row; `None` when it is malformed.
    pub fn read(mut rest: &'a [u8]) -> Option<Self> {
        let mut parts = Self::default();
        while !rest.is_empty() {
            let tag = varint(&mut rest)?;
            match u8::try_from(tag).unwrap_or(0) {
                KEY => parts.key = bytes(&mut rest)?,
                CREATE => parts.create = Revision(number(&mut rest)?),
                MOD => parts.modified = Revision(number(&mut rest)?),
                VERSION => parts.version = number(&mut rest)?,
                VALUE => parts.value = bytes(&mut rest)?,
                LEASE => parts.lease = LeaseId(number(&mut rest)?),
                _ => skip(tag, &mut rest)?,
            }
        }
        Some(parts)
    }

    /// Whether etcd writes such a row at that revision: what has rotted mostly does not.
    pub(crate) fn may_stand_at(&self, revision: Revision, tombstone: bool) -> bool {
        if *self == Self::default() {
            return true; // A marker.
        }
        // Every put since the creation took a revision of its own.
        let put = self.modified == revision
            && (1..=revision.0).contains(&self.create.0)
            && (1..=revision.0 - self.create.0 + 1).contains(&self.version);
        !self.key.is_empty() && (tombstone || put)
    }

    /// Appends the canonical bytes to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        put_bytes(out, KEY, self.key);
        put_number(out, CREATE, self.create.0);
        put_number(out, MOD, self.modified.0);
        put_number(out, VERSION, self.version);
        put_bytes(out, VALUE, self.value);
        put_number(out, LEASE, self.lease.0);
    }

    /// The canonical bytes: the one copy of the value on the write path.
    pub fn to_row(self) -> Bytes {
        // Two length prefixes and four numbers of at most ten bytes, six tags.
        let mut out = Vec::with_capacity(self.key.len() + self.value.len() + 24);
        self.write(&mut out);
        Bytes::from(out)
    }
}

/// The row of a delete.
pub(crate) fn tombstone(key: &[u8]) -> Bytes {
    Parts { key, ..Parts::default() }.to_row()
}

/// The key of a row, sharing the row's memory.
pub(crate) fn key_of(row: &Bytes) -> Option<Bytes> {
    // Our rows and etcd's begin with the key.
    let mut rest = row.as_ref();
    if rest.first() == Some(&KEY) {
        rest = &rest[1..];
        return bytes(&mut rest).map(|key| row.slice_ref(key));
    }
    Parts::read(row).map(|parts| row.slice_ref(parts.key))
}

/// The bodies of the length-delimited fields `number` of a message, up to where it is malformed.
pub(crate) fn bodies(mut message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        while !message.is_empty() {
            let tag = varint(&mut message)?;
            if tag == number << 3 | 2 {
                return bytes(&mut message);
            }
            skip(tag, &mut message)?;
        }
        None
    })
}

fn put_number(out: &mut Vec<u8>, tag: u8, number: i64) {
    if number != 0 {
        out.push(tag);
        put_varint(out, number.cast_unsigned());
    }
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn number(rest: &mut &[u8]) -> Option<i64> {
    varint(rest).map(u64::cast_signed)
}

fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(rest)?).ok()?;
    take(rest, length)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn skip(tag: u64, rest: &mut &[u8]) -> Option<()> {
    match tag & 7 {
        0 => varint(rest).map(drop),
        1 => take(rest, 8).map(drop),
        2 => bytes(rest).map(drop),
        3 => skip_group(tag >> 3, rest),
        5 => take(rest, 4).map(drop),
        _ => None,
    }
}

/// Skips a group, which no writer of rows makes and every reader of protobuf passes over.
fn skip_group(number: u64, rest: &mut &[u8]) -> Option<()> {
    let mut open = vec![number];
    while let Some(&number) = open.last() {
        let tag = varint(rest)?;
        match tag & 7 {
            3 => open.push(tag >> 3),
            4 if tag >> 3 == number => {
                open.pop();
            }
            _ => skip(tag, rest)?,
        }
    }
    Some(())
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    decode_varint(rest).ok()
}

#[cfg(test)]
mod tests {
    use arbtest::arbtest;
    use prost::Message;
    use proto::mvccpb::KeyValue;

    use super::*;

    fn parts(kv: &KeyValue) -> Parts<'_> {
        Parts {
            key: &kv.key,
            create: Revision(kv.create_revision),
            modified: Revision(kv.mod_revision),
            version: kv.version,
            value: &kv.value,
            lease: LeaseId(kv.lease),
        }
    }

    #[test]
    fn rows_are_the_bytes_that_protobuf_writes() {
        arbtest(|u| {
            let kv = KeyValue {
                key: Bytes::from(u.arbitrary::<Vec<u8>>()?),
                create_revision: *u.choose(&[0, 1, 127, 128, i64::MAX, -1])?,
                mod_revision: u.arbitrary()?,
                version: u.arbitrary()?,
                value: Bytes::from(u.arbitrary::<Vec<u8>>()?),
                lease: u.arbitrary()?,
            };
            let row = parts(&kv).to_row();
            assert_eq!(row, kv.encode_to_vec());
            assert_eq!(Parts::read(&row), Some(parts(&kv)));
            assert_eq!(key_of(&row), Some(kv.key.clone()));
            Ok(())
        });
    }

    #[test]
    fn a_row_has_at_most_one_version_for_each_revision_since_its_creation() {
        let row = |version| Parts {
            key: b"k",
            create: Revision(3),
            modified: Revision(5),
            version,
            ..Parts::default()
        };
        let stands = |version| row(version).may_stand_at(Revision(5), false);
        assert_eq!([0, 1, 3, 4, i64::MAX].map(stands), [false, true, true, false, false]);
    }

    #[test]
    fn hostile_rows_do_not_panic() {
        arbtest(|u| {
            let bytes = Bytes::from(u.arbitrary::<Vec<u8>>()?);
            let ours = Parts::read(&bytes).is_some();
            // Where protobuf reads a row, so do we.
            assert!(ours || KeyValue::decode(bytes.clone()).is_err());
            key_of(&bytes);
            Ok(())
        });
    }
}
