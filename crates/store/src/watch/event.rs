//! Encoded events.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::mvcc::Change;

/// Field numbers of `mvccpb.Event`.
const EVENT_TYPE: u32 = 1;
const EVENT_KV: u32 = 2;
const EVENT_PREV_KV: u32 = 3;
/// Field number of `mvccpb.KeyValue`.
const MOD_REVISION: u32 = 3;
/// `mvccpb.Event.EventType.DELETE`.
const DELETE: u64 = 1;
/// More than keys and lengths take.
const FRAMING_BYTES: usize = 32;

/// Which events a watcher leaves out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletes.
    pub no_delete: bool,
}

impl Filter {
    /// Whether the watcher wants to hear of such a change.
    pub const fn lets_through(self, tombstone: bool) -> bool {
        if tombstone { !self.no_delete } else { !self.no_put }
    }
}

/// The `mvccpb.Event` of a change, with the row before it when that is asked for and known. A
/// delete tells key and revision only.
pub fn encode_event(change: &Change, previous: Option<&Bytes>) -> Bytes {
    let previous_len = previous.map_or(0, Bytes::len);
    let mut event = Vec::with_capacity(change.row.len() + previous_len + FRAMING_BYTES);
    if change.tombstone {
        encode_key(EVENT_TYPE, WireType::Varint, &mut event);
        encode_varint(DELETE, &mut event);
        let mut revision = Vec::with_capacity(FRAMING_BYTES);
        encode_key(MOD_REVISION, WireType::Varint, &mut revision);
        encode_varint(change.at.main.0.cast_unsigned(), &mut revision);
        encode_key(EVENT_KV, WireType::LengthDelimited, &mut event);
        encode_varint((change.row.len() + revision.len()) as u64, &mut event);
        event.extend_from_slice(&change.row);
        event.extend_from_slice(&revision);
    } else {
        encode_key(EVENT_KV, WireType::LengthDelimited, &mut event);
        encode_varint(change.row.len() as u64, &mut event);
        event.extend_from_slice(&change.row);
    }
    if let Some(previous) = previous {
        encode_key(EVENT_PREV_KV, WireType::LengthDelimited, &mut event);
        encode_varint(previous.len() as u64, &mut event);
        event.extend_from_slice(previous);
    }
    event.into()
}

#[cfg(test)]
mod tests {
    use base::Revision;
    use prost::Message;
    use proto::mvccpb::{Event, KeyValue};

    use super::*;
    use crate::mvcc::RevKey;

    #[test]
    fn events_decode_to_what_etcd_sends() {
        let row =
            KeyValue { key: "k".into(), value: "v".into(), mod_revision: 7, ..<_>::default() };
        let at = RevKey::new(Revision(7), 0);
        let mut change = Change {
            at,
            tombstone: false,
            key: "k".into(),
            row: row.encode_to_vec().into(),
            previous: None,
        };
        let decode = |bytes: Bytes| Event::decode(bytes).unwrap();
        let put = decode(encode_event(&change, None));
        assert_eq!(put, Event { r#type: 0, kv: Some(row.clone()), prev_kv: None });

        let before = Bytes::from(row.encode_to_vec());
        change.tombstone = true;
        change.row = KeyValue { key: "k".into(), ..<_>::default() }.encode_to_vec().into();
        let delete = decode(encode_event(&change, Some(&before)));
        let kv = KeyValue { key: "k".into(), mod_revision: 7, ..<_>::default() };
        assert_eq!(delete, Event { r#type: 1, kv: Some(kv), prev_kv: Some(row) });
    }
}
