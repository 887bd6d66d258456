//! The stream that carries appends: in a steady log both ends know term and index, so only the
//! entries go.
//!
//! ```text
//!  0                                                        a sign of life
//!  1 | count u64 | { length u64 | Entry } x count | commit u64    at the known position
//!  2 | length u64 | Message                                 anywhere; sets the position
//! ```
//!
//! *Invariants.* Both ends start at position (0, 0) with each connection and move it alike.

use base::MemberId;
use base::mutant::{Mutant, is_on};
use bytes::{BufMut, BytesMut};
use prost::Message as _;
use proto::raftpb::{Entry, Message, MessageType};

use super::piece::{Number, Piece};
use super::{DecodeError, decode, decode_entry, is_link_heartbeat, link_heartbeat};
use crate::limits;

const LINK_HEARTBEAT: u8 = 0;
const ENTRIES: u8 = 1;
const MESSAGE: u8 = 2;

/// Where the log of the receiver ends, as both ends of a connection know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    /// Behind a whole message.
    fn behind(message: &Message) -> Self {
        let index = message.entries.last().map_or(message.index(), Entry::index);
        Self { term: message.term(), index }
    }

    /// Whether a message goes on from here.
    fn continues_with(self, message: &Message) -> bool {
        message.index() == self.index
            && message.log_term() == self.term
            && message.term() == self.term
    }

    fn advance(&mut self, entries: u64) -> Option<()> {
        self.index = self.index.checked_add(entries)?;
        Some(())
    }
}

/// Writes appends.
#[derive(Debug, Default)]
pub struct AppEncoder(Position);

impl AppEncoder {
    /// For a new connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one message, a `MsgApp` or a sign of life.
    pub fn encode(&mut self, message: &Message, to: &mut BytesMut) {
        if is_link_heartbeat(message) {
            to.put_u8(LINK_HEARTBEAT);
            return;
        }
        let mut next = self.0;
        if self.0.continues_with(message) && next.advance(message.entries.len() as u64).is_some() {
            self.0 = next;
            to.put_u8(ENTRIES);
            to.put_u64(message.entries.len() as u64);
            for entry in &message.entries {
                let length = entry.encoded_len();
                to.reserve(8 + length);
                to.put_u64(length as u64);
                entry.encode_raw(to);
            }
            let tells_last = is_on(Mutant::StreamTellsLastForCommit);
            to.put_u64(if tells_last { next.index } else { message.commit() });
            return;
        }
        let length = message.encoded_len();
        to.reserve(9 + length);
        to.put_u8(MESSAGE);
        to.put_u64(length as u64);
        message.encode_raw(to);
        self.0 = Position::behind(message);
    }
}

/// Reads appends.
#[derive(Debug)]
pub struct AppDecoder {
    local: MemberId,
    remote: MemberId,
    position: Position,
    state: State,
}

#[derive(Debug)]
enum State {
    Kind,
    Count(Number),
    EntryLength(Entries, Number),
    Entry(Entries, Piece),
    Commit(Entries, Number),
    MessageLength(Number),
    Message(Piece),
}

/// Entries that have come, and how many and how much may still come.
#[derive(Debug, Default)]
struct Entries {
    missing: u64,
    bytes_left: u64,
    entries: Vec<Entry>,
}

/// One step of the decoder.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, on the stack")]
enum Step {
    /// The input is used up in this state.
    Wait(State),
    Go(State),
    Done(Message),
}

impl AppDecoder {
    /// For a new connection, on which `remote` sends to `local`.
    pub fn new(local: MemberId, remote: MemberId) -> Self {
        Self { local, remote, position: Position::default(), state: State::Kind }
    }

    /// Takes from `input` up to the end of the next message; `None` when it has not all come.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Message>, DecodeError> {
        loop {
            let state = std::mem::replace(&mut self.state, State::Kind);
            match self.step(state, input)? {
                Step::Wait(state) => {
                    self.state = state;
                    return Ok(None);
                }
                Step::Go(state) => self.state = state,
                Step::Done(message) => return Ok(Some(message)),
            }
        }
    }

    fn step(&mut self, state: State, input: &mut &[u8]) -> Result<Step, DecodeError> {
        Ok(match state {
            State::Kind => match input.split_first() {
                None => Step::Wait(State::Kind),
                Some((kind, rest)) => {
                    *input = rest;
                    match *kind {
                        LINK_HEARTBEAT => Step::Done(link_heartbeat()),
                        ENTRIES => Step::Go(State::Count(Number::default())),
                        MESSAGE => Step::Go(State::MessageLength(Number::default())),
                        kind => return Err(DecodeError::Kind(kind)),
                    }
                }
            },
            State::Count(mut number) => match number.fill(input) {
                None => Step::Wait(State::Count(number)),
                Some(count) if count > limits::MESSAGE_PARTS_MAX => {
                    return Err(DecodeError::TooManyParts);
                }
                Some(missing) => {
                    let bytes_left = limits::MESSAGE_BYTES_MAX;
                    Step::Go(Entries { missing, bytes_left, entries: Vec::new() }.next())
                }
            },
            State::EntryLength(mut entries, mut number) => match number.fill(input) {
                None => Step::Wait(State::EntryLength(entries, number)),
                Some(length) => {
                    let piece = Piece::of(bounded(length, entries.bytes_left)?);
                    entries.bytes_left -= length;
                    Step::Go(State::Entry(entries, piece))
                }
            },
            State::Entry(mut entries, mut piece) => match piece.fill(input) {
                None => Step::Wait(State::Entry(entries, piece)),
                Some(bytes) => {
                    entries.entries.push(decode_entry(bytes)?);
                    entries.missing -= 1;
                    Step::Go(entries.next())
                }
            },
            State::Commit(entries, mut number) => match number.fill(input) {
                None => Step::Wait(State::Commit(entries, number)),
                Some(commit) => Step::Done(self.append(entries.entries, commit)?),
            },
            State::MessageLength(mut number) => match number.fill(input) {
                None => Step::Wait(State::MessageLength(number)),
                Some(length) => {
                    let length = bounded(length, limits::MESSAGE_BYTES_MAX)?;
                    Step::Go(State::Message(Piece::of(length)))
                }
            },
            State::Message(mut piece) => match piece.fill(input) {
                None => Step::Wait(State::Message(piece)),
                Some(bytes) => {
                    let message = decode(bytes)?;
                    self.position = Position::behind(&message);
                    Step::Done(message)
                }
            },
        })
    }

    /// The message that goes on from the known position.
    fn append(&mut self, entries: Vec<Entry>, commit: u64) -> Result<Message, DecodeError> {
        let Position { term, index } = self.position;
        self.position.advance(entries.len() as u64).ok_or(DecodeError::Index)?;
        Ok(Message {
            r#type: Some(MessageType::MsgApp.into()),
            from: Some(self.remote.get()),
            to: Some(self.local.get()),
            term: Some(term),
            log_term: Some(term),
            index: Some(index),
            entries,
            commit: Some(commit),
            ..Message::default()
        })
    }
}

impl Entries {
    fn next(self) -> State {
        match self.missing {
            0 => State::Commit(self, Number::default()),
            _ => State::EntryLength(self, Number::default()),
        }
    }
}

fn bounded(length: u64, max: u64) -> Result<usize, DecodeError> {
    let piece = usize::try_from(length).ok().filter(|_| length <= max);
    piece.ok_or(DecodeError::TooLong { length, max })
}
