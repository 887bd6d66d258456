//! Walks over the fields of an encoded message without decoding it.

use prost::encoding::decode_varint;

/// Takes one field off the front: its number, and its bytes when it is length-delimited. `None` at
/// the end of the input and where it is malformed; groups count as malformed, no message of etcd
/// has them.
pub fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let tag = decode_varint(rest).ok()?;
    let body = match tag & 7 {
        0 => {
            decode_varint(rest).ok()?;
            None
        }
        1 => {
            take(rest, 8)?;
            None
        }
        2 => {
            let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
            Some(take(rest, length)?)
        }
        5 => {
            take(rest, 4)?;
            None
        }
        _ => return None,
    };
    Some((tag >> 3, body))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}
