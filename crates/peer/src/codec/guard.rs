//! Looks at encoded bytes before the recursive decoder does.
//!
//! prost's recursion limit is off in this workspace (see `proto::check_nesting`), and a repeated
//! field takes more memory than wire. So bytes of other members are scanned first: no groups, no
//! nesting but that of the shape, and no more parts than an honest message has.

use proto::next_field;

use super::DecodeError;
use crate::limits;

/// What the scan must know of a message.
struct Shape {
    /// Fields that are messages themselves.
    nested: &'static [(u64, &'static Shape)],
    /// Fields that are repeated.
    counted: &'static [u64],
    /// Fields that no member sends.
    refused: &'static [u64],
}

const PLAIN: Shape = Shape { nested: &[], counted: &[], refused: &[] };

const CONF_STATE: Shape = Shape { nested: &[], counted: &[1, 2, 3, 4], refused: &[] };

const METADATA: Shape = Shape { nested: &[(1, &CONF_STATE)], counted: &[], refused: &[] };

const SNAPSHOT: Shape = Shape { nested: &[(2, &METADATA)], counted: &[], refused: &[] };

/// Responses (field 14) are messages in a message, for one's own disk and never for others.
const MESSAGE: Shape =
    Shape { nested: &[(7, &PLAIN), (9, &SNAPSHOT)], counted: &[7], refused: &[14] };

/// `LeaseKeepAliveResponse`: a header.
const RENEWAL: Shape = Shape { nested: &[(1, &PLAIN)], counted: &[], refused: &[] };

/// `LeaseTimeToLiveResponse`: a header, and keys without number.
const TIME_TO_LIVE: Shape = Shape { nested: &[(1, &PLAIN)], counted: &[], refused: &[] };

/// `LeaseInternalResponse`.
const LEASE: Shape = Shape { nested: &[(1, &TIME_TO_LIVE)], counted: &[], refused: &[] };

/// Fails unless `encoded` can be decoded as a `raftpb.Message` in bounded space.
pub(super) fn check_message(encoded: &[u8]) -> Result<(), DecodeError> {
    scan(encoded, &MESSAGE)
}

/// Fails unless `encoded` can be decoded as a `raftpb.Entry` in bounded space.
pub(super) fn check_entry(encoded: &[u8]) -> Result<(), DecodeError> {
    scan(encoded, &PLAIN)
}

/// Fails unless `encoded` can be decoded as a `LeaseKeepAliveResponse` in bounded space.
pub(super) fn check_renewal(encoded: &[u8]) -> Result<(), DecodeError> {
    scan(encoded, &RENEWAL)
}

/// Fails unless `encoded` can be decoded as a `LeaseInternalResponse` in bounded space.
pub(super) fn check_lease(encoded: &[u8]) -> Result<(), DecodeError> {
    scan(encoded, &LEASE)
}

fn scan(encoded: &[u8], shape: &'static Shape) -> Result<(), DecodeError> {
    let mut parts = 0;
    let mut open = vec![(encoded, shape)];
    while let Some((rest, shape)) = open.last_mut() {
        if rest.is_empty() {
            open.pop();
            continue;
        }
        let shape = *shape;
        let (field, body) = next_field(rest).ok_or(DecodeError::Malformed)?;
        if shape.refused.contains(&field) {
            return Err(DecodeError::Malformed);
        }
        if shape.counted.contains(&field) {
            // A packed list has as many parts as bytes at most.
            let is_message = shape.nested.iter().any(|(number, _)| *number == field);
            parts += if is_message { 1 } else { body.map_or(1, <[u8]>::len) as u64 };
            if parts > limits::MESSAGE_PARTS_MAX {
                return Err(DecodeError::TooManyParts);
            }
        }
        let nested = shape.nested.iter().find(|(number, _)| *number == field);
        if let (Some((_, shape)), Some(body)) = (nested, body) {
            open.push((body, shape));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::raftpb::{ConfState, Entry, Message, Snapshot, SnapshotMetadata};

    use super::*;

    #[test]
    fn honest_messages_pass() {
        let metadata = SnapshotMetadata {
            conf_state: Some(ConfState { voters: vec![1, 2, 3], ..ConfState::default() }),
            index: Some(7),
            term: Some(2),
        };
        let message = Message {
            r#type: Some(7),
            entries: vec![Entry { index: Some(3), ..Entry::default() }; 3],
            snapshot: Some(Snapshot { data: Some("{}".into()), metadata: Some(metadata) }),
            context: Some(vec![0; 300].into()),
            ..Message::default()
        };
        assert_eq!(check_message(&message.encode_to_vec()), Ok(()));
        assert_eq!(check_message(&[]), Ok(()));
    }

    #[test]
    fn what_would_take_stack_or_memory_is_refused() {
        // Groups in groups, at every level that is decoded.
        assert_eq!(check_message(&[0x7b; 1_000]), Err(DecodeError::Malformed));
        assert_eq!(check_entry(&[0x7b; 1_000]), Err(DecodeError::Malformed));
        assert_eq!(check_message(&[0x3a, 2, 0x7b, 0x7b]), Err(DecodeError::Malformed));
        assert_eq!(check_message(&[0x4a, 4, 0x12, 2, 0x7b, 0x7b]), Err(DecodeError::Malformed));
        // A message in a message.
        let inner = Message { responses: vec![Message::default()], ..Message::default() };
        assert_eq!(check_message(&inner.encode_to_vec()), Err(DecodeError::Malformed));
        // Entries of nothing.
        let parts = usize::try_from(limits::MESSAGE_PARTS_MAX).expect("small");
        let mut many = [0x3a, 0].repeat(parts);
        assert_eq!(check_message(&many), Ok(()));
        many.extend([0x3a, 0]);
        assert_eq!(check_message(&many), Err(DecodeError::TooManyParts));
        // A length that lies.
        assert_eq!(check_message(&[0x3a, 0xff, 0xff, 0xff, 0x7f]), Err(DecodeError::Malformed));
        assert_eq!(check_message(&[0xff; 11]), Err(DecodeError::Malformed));
    }
}
