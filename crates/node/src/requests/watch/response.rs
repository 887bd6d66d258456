//! A response of a watch stream, its events encoded already.

use base::{ClusterId, MemberId, Revision, Term, WatchId};
use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use proto::etcdserverpb::{ResponseHeader, WatchResponse};

/// Field number of `WatchResponse.events`.
const EVENTS: u32 = 11;

/// What goes to the client; the sender adds cluster, member and term.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Whom it concerns; -1 for nobody.
    pub watch: WatchId,
    /// The header's revision.
    pub revision: Revision,
    /// It answers a create request.
    pub created: bool,
    /// The watcher is no more.
    pub canceled: bool,
    /// Why it was canceled: everything below this is gone.
    pub compact_revision: Revision,
    /// Why it was refused.
    pub cancel_reason: String,
    /// More of the same revision follows.
    pub fragment: bool,
    /// Encoded `mvccpb.Event`s.
    pub events: Vec<Bytes>,
}

/// The bytes that an event takes in the encoded response.
pub(super) fn encoded_event_len(event: &Bytes) -> usize {
    key_len(EVENTS) + encoded_len_varint(event.len() as u64) + event.len()
}

impl Response {
    pub(super) fn new(watch: WatchId, revision: Revision) -> Self {
        Self { watch, revision, ..Self::default() }
    }

    fn without_events(&self, header: (ClusterId, MemberId, Term)) -> WatchResponse {
        let (cluster, member, term) = header;
        WatchResponse {
            header: Some(ResponseHeader {
                cluster_id: cluster.get(),
                member_id: member.get(),
                revision: self.revision.get(),
                raft_term: term.get(),
            }),
            watch_id: self.watch.get(),
            created: self.created,
            canceled: self.canceled,
            compact_revision: self.compact_revision.get(),
            cancel_reason: self.cancel_reason.clone(),
            fragment: self.fragment,
            events: Vec::new(),
        }
    }

    /// The bytes that the events take in the encoded response.
    pub fn encoded_events_len(&self) -> usize {
        self.events.iter().map(encoded_event_len).sum()
    }

    /// Writes the encoded `WatchResponse`.
    pub fn encode(&self, header: (ClusterId, MemberId, Term), buffer: &mut impl BufMut) {
        // Only fails without room, and BufMut grows or has it: `encoded_len` says how much.
        let head = self.without_events(header).encode_to_vec();
        buffer.put_slice(&head);
        for event in &self.events {
            encode_key(EVENTS, WireType::LengthDelimited, buffer);
            encode_varint(event.len() as u64, buffer);
            buffer.put_slice(event);
        }
    }

    /// The bytes that [`Response::encode`] writes.
    pub fn encoded_len(&self, header: (ClusterId, MemberId, Term)) -> usize {
        self.without_events(header).encoded_len() + self.encoded_events_len()
    }
}

#[cfg(test)]
mod tests {
    use proto::mvccpb::{Event, KeyValue};

    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_message() {
        let event = Event {
            kv: Some(KeyValue { key: "k".into(), mod_revision: 4, ..KeyValue::default() }),
            ..Event::default()
        };
        let header = (ClusterId(1), MemberId(2), Term(3));
        let response = Response {
            events: vec![event.encode_to_vec().into(); 2],
            ..Response::new(WatchId(-7), Revision(4))
        };
        let mut bytes = Vec::new();
        response.encode(header, &mut bytes);
        assert_eq!(bytes.len(), response.encoded_len(header));
        let decoded = WatchResponse::decode(&bytes[..]).unwrap();
        let expected =
            WatchResponse { events: vec![event.clone(), event], ..response.without_events(header) };
        assert_eq!(decoded, expected);
        assert_eq!(decoded.encode_to_vec(), bytes);
    }
}
