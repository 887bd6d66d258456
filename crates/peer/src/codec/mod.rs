//! Messages as bytes: no sockets, no clock, no tasks.
//!
//! ```text
//!  message stream:  | length u64 | Message | ...           MessageEncoder, MessageDecoder
//!  append stream:   | kind u8 | ... | kind u8 | ...         AppEncoder, AppDecoder
//!  snapshot:        | length u64 | Message | database       MessageEncoder, MessageDecoder
//!  post:            Message                                 decode
//! ```
//!
//! A decoder is fed whatever has come and takes of it what the next message needs. All numbers
//! are big endian.
//!
//! *Invariants.* 1. A decoder holds the bytes that came, and reserves no more than twice of it:
//! a length that lies takes no memory. 2. After an error a decoder must not be used.
//!
//! *Contract.* `msg_codec.go` and `msgappv2_codec.go` in `server/etcdserver/api/rafthttp` of etcd
//! v3.7.1.

mod app;
mod guard;
mod message;
mod piece;

use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{Entry, Message, MessageType};
use thiserror::Error;

pub use app::{AppDecoder, AppEncoder};
pub use message::{MessageDecoder, MessageEncoder};

use crate::limits;

/// Bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A length is beyond its bound.
    #[error("rafthttp: error limit exceeded ({length} bytes, at most {max})")]
    TooLong {
        /// What was claimed.
        length: u64,
        /// The bound.
        max: u64,
    },
    /// There are more entries, or members, than a message may have.
    #[error("message has more than {} parts", limits::MESSAGE_PARTS_MAX)]
    TooManyParts,
    /// The bytes are not what their place demands.
    #[error("malformed raft message")]
    Malformed,
    /// An append stream has a kind of frame that nobody knows.
    #[error("failed to parse type {0} in msgappv2 stream")]
    Kind(u8),
    /// Positions in the log beyond what can be counted.
    #[error("index of an entry is too large")]
    Index,
}

/// The message that says nothing but that a stream lives. Members never send a heartbeat from
/// nobody to nobody.
pub fn link_heartbeat() -> Message {
    Message { r#type: Some(MessageType::MsgHeartbeat.into()), ..Message::default() }
}

/// Whether a message is a stream's sign of life. Told by its content: etcd 3.6 writes fields that
/// are zero, 3.7 does not.
pub fn is_link_heartbeat(message: &Message) -> bool {
    message.r#type == Some(MessageType::MsgHeartbeat.into())
        && message.from() == 0
        && message.to() == 0
}

/// Decodes one message that fills `bytes`.
pub fn decode(bytes: Bytes) -> Result<Message, DecodeError> {
    guard::check_message(&bytes)?;
    Message::decode(bytes).map_err(|_| DecodeError::Malformed)
}

/// Fails unless `encoded` is the answer to a renewal, with a header in it at most.
pub(crate) fn check_renewal(encoded: &[u8]) -> Result<(), DecodeError> {
    guard::check_renewal(encoded)
}

/// Fails unless `encoded` is an answer about a lease that can be decoded in bounded space.
pub(crate) fn check_lease(encoded: &[u8]) -> Result<(), DecodeError> {
    guard::check_lease(encoded)
}

fn decode_entry(bytes: Bytes) -> Result<Entry, DecodeError> {
    guard::check_entry(&bytes)?;
    Entry::decode(bytes).map_err(|_| DecodeError::Malformed)
}
