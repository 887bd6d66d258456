//! The stream that carries every kind of message: a length, then the message.

use bytes::{BufMut, BytesMut};
use prost::Message as _;
use proto::raftpb::Message;

use super::piece::{Number, Piece};
use super::{DecodeError, decode};
use crate::limits;

/// Writes messages with their length.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageEncoder;

impl MessageEncoder {
    /// Appends one message.
    pub fn encode(self, message: &Message, to: &mut BytesMut) {
        let length = message.encoded_len();
        to.reserve(8 + length);
        to.put_u64(length as u64);
        message.encode_raw(to);
    }
}

/// Reads messages with their length.
#[derive(Debug)]
pub struct MessageDecoder {
    max: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Length(Number),
    Message(Piece),
}

impl MessageDecoder {
    /// For the body of a stream.
    pub fn new() -> Self {
        Self::with_max(limits::MESSAGE_BYTES_MAX)
    }

    /// For the message in front of a database.
    pub fn of_snapshot() -> Self {
        Self::with_max(limits::SNAPSHOT_MESSAGE_BYTES_MAX)
    }

    fn with_max(max: u64) -> Self {
        Self { max, state: State::Length(Number::default()) }
    }

    /// Takes from `input` up to the end of the next message; `None` when it has not all come.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Message>, DecodeError> {
        loop {
            match &mut self.state {
                State::Length(number) => {
                    let Some(length) = number.fill(input) else { return Ok(None) };
                    let max = self.max;
                    let piece = usize::try_from(length).ok().filter(|_| length <= max);
                    let piece = piece.ok_or(DecodeError::TooLong { length, max })?;
                    self.state = State::Message(Piece::of(piece));
                }
                State::Message(piece) => {
                    let Some(bytes) = piece.fill(input) else { return Ok(None) };
                    self.state = State::Length(Number::default());
                    return decode(bytes).map(Some);
                }
            }
        }
    }
}

impl Default for MessageDecoder {
    fn default() -> Self {
        Self::new()
    }
}
