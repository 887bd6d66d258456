//! Streams and messages of other members, almost right, in pieces as a connection delivers them.
//! How to run these for longer, and a failure again: see the crate `fuzz`.

use base::MemberId;
use bytes::{Bytes, BytesMut};
use fuzz::{Result, Unstructured, Verdict, fuzz, int, mutate, pieces};
use peer::codec::{
    AppDecoder, AppEncoder, DecodeError, MessageDecoder, MessageEncoder, decode, link_heartbeat,
};
use peer::limits;
use prost::Message as _;
use proto::raftpb::{ConfState, Entry, Message, MessageType, Snapshot, SnapshotMetadata};

const LOCAL: MemberId = MemberId(2);
const REMOTE: MemberId = MemberId(1);

fn small(u: &mut Unstructured<'_>) -> Result<Option<u64>> {
    Ok(match u.int_in_range(0..=5)? {
        0 => None,
        1 => Some(int(u)?),
        _ => Some(u.int_in_range(0..=20)?),
    })
}

fn bytes(u: &mut Unstructured<'_>) -> Result<Option<Bytes>> {
    let count = u.int_in_range(0..=40)?;
    let byte = u.arbitrary()?;
    Ok(if u.arbitrary()? { Some(vec![byte; count].into()) } else { None })
}

fn entry(u: &mut Unstructured<'_>) -> Result<Entry> {
    let kind = u.int_in_range(0..=2)?;
    Ok(Entry { r#type: Some(kind), term: small(u)?, index: small(u)?, data: bytes(u)? })
}

/// Any message that can be sent, whether it makes sense or not.
fn message(u: &mut Unstructured<'_>) -> Result<Message> {
    let entries = (0..u.int_in_range(0..=3)?).map(|_| entry(u)).collect::<Result<_>>()?;
    let mut message = Message {
        r#type: Some(u.int_in_range(0..=22)?),
        to: small(u)?,
        from: small(u)?,
        term: small(u)?,
        log_term: small(u)?,
        index: small(u)?,
        commit: small(u)?,
        reject_hint: small(u)?,
        context: bytes(u)?,
        entries,
        ..Message::default()
    };
    if u.ratio(1, 4)? {
        let voters = (0..u.int_in_range(0..=3)?).collect();
        let conf_state = Some(ConfState { voters, ..ConfState::default() });
        let metadata = SnapshotMetadata { conf_state, index: small(u)?, term: small(u)? };
        message.snapshot = Some(Snapshot { data: bytes(u)?, metadata: Some(metadata) });
    }
    Ok(message)
}

/// Appends as a leader sends them: most go on from the one before.
fn appends(u: &mut Unstructured<'_>) -> Result<Vec<Message>> {
    let (mut term, mut index) = (u.int_in_range(0..=3)?, small(u)?.unwrap_or(0));
    let mut messages = Vec::new();
    for _ in 0..u.int_in_range(1..=6)? {
        if u.ratio(1, 5)? {
            messages.push(link_heartbeat());
            continue;
        }
        let log_term = term;
        if u.ratio(1, 5)? {
            (term, index) = (term + u.int_in_range(0..=1)?, small(u)?.unwrap_or(0));
        }
        let entries: Vec<Entry> =
            (0..u.int_in_range(0..=3)?).map(|_| entry(u)).collect::<Result<_>>()?;
        let count = entries.len() as u64;
        messages.push(Message {
            r#type: Some(MessageType::MsgApp.into()),
            from: Some(REMOTE.get()),
            to: Some(LOCAL.get()),
            term: Some(term),
            log_term: Some(log_term),
            index: Some(index),
            commit: Some(index),
            entries,
            ..Message::default()
        });
        index = index.saturating_add(count);
    }
    Ok(messages)
}

/// What a stream comes to: its messages, and how it failed if it did.
type Told = (Vec<Message>, Option<DecodeError>);

fn feed(
    parts: &[&[u8]],
    mut next: impl FnMut(&mut &[u8]) -> std::result::Result<Option<Message>, DecodeError>,
) -> Told {
    let mut messages = Vec::new();
    for part in parts {
        let mut input = *part;
        loop {
            match next(&mut input) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(input.is_empty(), "a decoder that waits has taken everything");
    }
    (messages, None)
}

fn app(parts: &[&[u8]]) -> Told {
    let mut decoder = AppDecoder::new(LOCAL, REMOTE);
    feed(parts, |input| decoder.decode(input))
}

fn stream(parts: &[&[u8]], mut decoder: MessageDecoder) -> Told {
    feed(parts, |input| decoder.decode(input))
}

/// What was decoded is a message that can be sent on: its bytes mean the same.
fn check_told(told: &Told) -> Verdict {
    for message in &told.0 {
        assert_eq!(decode(message.encode_to_vec().into()).as_ref(), Ok(message));
    }
    if told.1.is_none() { Verdict::Taken } else { Verdict::Refused }
}

#[test]
fn append_streams_mean_the_same_in_any_pieces() {
    fuzz("msgappv2", |u| {
        if !u.ratio(15, 16)? {
            return lie(u);
        }
        let (messages, mut bytes) = (appends(u)?, BytesMut::new());
        let mut encoder = AppEncoder::new();
        for message in &messages {
            encoder.encode(message, &mut bytes);
        }
        let mut bytes = bytes.to_vec();
        let whole = app(&[&bytes]);
        // The receiver puts in what only its own connection says.
        assert_eq!((whole.0.len(), &whole.1), (messages.len(), &None));
        assert_eq!(whole.0, messages);
        if u.ratio(7, 8)? {
            mutate(u, &mut bytes)?;
        }
        let told = app(&[&bytes]);
        assert_eq!(app(&pieces(u, &bytes)?), told, "in pieces");
        Ok(check_told(&told))
    });
}

#[test]
fn message_streams_mean_the_same_in_any_pieces() {
    fuzz("message stream", |u| {
        if u.arbitrary()? {
            return one_message(u);
        }
        let (mut bytes, mut messages) = (BytesMut::new(), Vec::new());
        for _ in 0..u.int_in_range(1..=4)? {
            messages.push(message(u)?);
            MessageEncoder.encode(&messages[messages.len() - 1], &mut bytes);
        }
        let mut bytes = bytes.to_vec();
        assert_eq!(stream(&[&bytes], MessageDecoder::new()), (messages, None));
        if u.ratio(7, 8)? {
            mutate(u, &mut bytes)?;
        }
        let parts = pieces(u, &bytes)?;
        let told = stream(&[&bytes], MessageDecoder::new());
        assert_eq!(stream(&parts, MessageDecoder::new()), told, "in pieces");
        let before = stream(&[&bytes], MessageDecoder::of_snapshot());
        assert_eq!(stream(&parts, MessageDecoder::of_snapshot()), before, "in pieces");
        Ok(check_told(&told))
    });
}

/// One message alone: refused, or the same when it is encoded and decoded again.
fn one_message(u: &mut Unstructured<'_>) -> Result<Verdict> {
    let sent = message(u)?;
    let mut bytes = sent.encode_to_vec();
    assert_eq!(decode(bytes.clone().into()), Ok(sent));
    mutate(u, &mut bytes)?;
    let decoded = decode(bytes.into());
    if let Ok(message) = &decoded {
        assert!(message.responses.is_empty(), "for one's own disk only");
        assert_eq!(decode(message.encode_to_vec().into()).as_ref(), Ok(message));
    }
    Ok(Verdict::of(&decoded))
}

/// A length claims the most that is allowed, or more, and little comes. What is reserved for it
/// shows in the memory of the process.
fn lie(u: &mut Unstructured<'_>) -> Result<Verdict> {
    let max = limits::MESSAGE_BYTES_MAX;
    let length = if u.arbitrary()? { max } else { max + 1 };
    let some = vec![7; u.int_in_range(0..=70_000)?];
    let frame = |head: &[u8]| [head, &length.to_be_bytes(), &some].concat();
    let told = [
        app(&pieces(u, &frame(&[2]))?),
        app(&pieces(u, &frame(&[1, 0, 0, 0, 0, 0, 0, 0, 1]))?),
        stream(&pieces(u, &frame(&[]))?, MessageDecoder::new()),
    ];
    let error = (length > max).then_some(DecodeError::TooLong { length, max });
    for told in told {
        assert_eq!(told, (vec![], error));
    }
    Ok(if length > max { Verdict::Refused } else { Verdict::Taken })
}
