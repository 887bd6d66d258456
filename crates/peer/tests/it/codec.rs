//! The codec against bytes of etcd, against itself, and against bytes of nobody.
//!
//! The expected bytes were written by `msgAppV2Encoder` and `messageEncoder` of etcd v3.7.1
//! (`server/etcdserver/api/rafthttp`).

use arbtest::arbitrary::Unstructured;
use arbtest::{arbitrary, arbtest};
use base::MemberId;
use bytes::{Bytes, BytesMut};
use peer::codec::{
    AppDecoder, AppEncoder, DecodeError, MessageDecoder, MessageEncoder, decode, is_link_heartbeat,
    link_heartbeat,
};
use peer::limits;
use prost::Message as _;
use proto::raftpb::{ConfState, Entry, Message, MessageType, Snapshot, SnapshotMetadata};

const LOCAL: MemberId = MemberId(2);
const REMOTE: MemberId = MemberId(1);

fn entry(term: u64, index: u64, data: &'static str) -> Entry {
    let data = (!data.is_empty()).then(|| Bytes::from_static(data.as_bytes()));
    Entry { term: Some(term), index: Some(index), data, ..Entry::default() }
}

fn message(kind: MessageType, term: u64) -> Message {
    Message {
        r#type: Some(kind.into()),
        from: Some(REMOTE.get()),
        to: Some(LOCAL.get()),
        term: Some(term),
        ..Message::default()
    }
}

fn append(term: u64, log_term: u64, index: u64, commit: u64, entries: Vec<Entry>) -> Message {
    Message {
        log_term: Some(log_term),
        index: Some(index),
        commit: Some(commit),
        entries,
        ..message(MessageType::MsgApp, term)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Bytes {
    let byte = |at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex");
    (0..hex.len() / 2).map(byte).collect()
}

#[test]
fn appends_of_3_6_are_read() {
    let old = "0803100218012003280230053a090800100318062201613a060800100318074004500058006800";
    let read = decode(bytes_of(old)).expect("a message");
    assert_eq!((read.term(), read.log_term(), read.index(), read.commit()), (3, 2, 5, 4));
    let entries: Vec<_> = read.entries.iter().map(|entry| (entry.index(), entry.data())).collect();
    assert_eq!(entries, [(6, &b"a"[..]), (7, &b""[..])]);
}

#[test]
fn appends_are_etcds_bytes() {
    let steps = [
        (link_heartbeat(), "00"),
        (
            append(1, 1, 5, 5, vec![entry(1, 6, "abc"), entry(1, 7, "")]),
            "02000000000000001f0803100218012001280130053a091001180622036162633a04100118074005",
        ),
        (
            append(1, 1, 7, 6, vec![entry(1, 8, "x")]),
            "0100000000000000010000000000000007100118082201780000000000000006",
        ),
        (append(1, 1, 8, 8, vec![]), "0100000000000000000000000000000008"),
        (link_heartbeat(), "00"),
        (
            append(2, 1, 8, 8, vec![entry(2, 9, "")]),
            "0200000000000000140803100218012002280130083a04100218094008",
        ),
        (
            append(2, 2, 9, 9, vec![entry(2, 10, "yz")]),
            "01000000000000000100000000000000081002180a2202797a0000000000000009",
        ),
    ];
    let (mut encoder, mut decoder) = (AppEncoder::new(), AppDecoder::new(LOCAL, REMOTE));
    for (message, expected) in steps {
        let mut bytes = BytesMut::new();
        encoder.encode(&message, &mut bytes);
        assert_eq!(hex(&bytes), expected);
        let mut input = &bytes[..];
        assert_eq!(decoder.decode(&mut input), Ok(Some(message)));
        assert_eq!(decoder.decode(&mut input), Ok(None));
    }
}

#[test]
fn messages_are_etcds_bytes() {
    let far = Message {
        from: Some(0xc647_63c5_9328_5da3),
        commit: Some(300),
        context: Some("12345678".into()),
        ..message(MessageType::MsgHeartbeat, 3)
    };
    let vote = Message {
        log_term: Some(2),
        index: Some(17),
        context: Some("CampaignTransfer".into()),
        ..message(MessageType::MsgVote, 3)
    };
    let refusal = Message {
        index: Some(17),
        reject: Some(true),
        reject_hint: Some(9),
        ..message(MessageType::MsgAppResp, 3)
    };
    let conf_state = ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() };
    let metadata =
        SnapshotMetadata { conf_state: Some(conf_state), index: Some(100), term: Some(3) };
    let snapshot = Message {
        snapshot: Some(Snapshot { data: Some("{}".into()), metadata: Some(metadata) }),
        ..message(MessageType::MsgSnap, 3)
    };
    let all = [
        (link_heartbeat(), "00000000000000020808"),
        (far, "000000000000001e0808100218a3bba199d9f8d8a3c601200340ac0262083132333435363738"),
        (vote, "000000000000001e080510021801200328023011621043616d706169676e5472616e73666572"),
        (refusal, "000000000000000e0804100218012003301150015809"),
        (snapshot, "000000000000001c08071002180120034a120a027b7d120c0a0608010802100310641803"),
    ];
    let mut stream = BytesMut::new();
    for (message, expected) in &all {
        let mut bytes = BytesMut::new();
        MessageEncoder.encode(message, &mut bytes);
        assert_eq!(hex(&bytes), *expected);
        stream.extend_from_slice(&bytes);
    }
    let mut decoder = MessageDecoder::new();
    let mut input = &stream[..];
    for (message, _) in all {
        assert_eq!(decoder.decode(&mut input), Ok(Some(message)));
    }
    assert!(input.is_empty());
}

#[test]
fn signs_of_life_are_known_by_content() {
    // As raft v3.6.0 writes it: with every number, though it is zero.
    let old = decode(bytes_of("0808100018002000280030004000500058006800")).expect("a message");
    assert!(is_link_heartbeat(&old));
    assert!(!is_link_heartbeat(&message(MessageType::MsgHeartbeat, 0)));
    assert!(!is_link_heartbeat(&Message::default()));
}

#[test]
fn what_cannot_be_is_refused() {
    let app = |bytes: &[u8]| AppDecoder::new(LOCAL, REMOTE).decode(&mut &bytes[..]);
    assert_eq!(app(&[3]), Err(DecodeError::Kind(3)));
    assert_eq!(app(&[1, 0, 0, 0, 0, 0xff, 0, 0, 0]), Err(DecodeError::TooManyParts));
    let max = limits::MESSAGE_BYTES_MAX;
    let length = max + 1;
    let claim = |kind: &[u8]| [kind, &length.to_be_bytes()].concat();
    assert_eq!(app(&claim(&[2])), Err(DecodeError::TooLong { length, max }));
    assert_eq!(
        MessageDecoder::new().decode(&mut &claim(&[])[..]),
        Err(DecodeError::TooLong { length, max })
    );
    let max = limits::SNAPSHOT_MESSAGE_BYTES_MAX;
    let length = max + 1;
    assert_eq!(
        MessageDecoder::of_snapshot().decode(&mut &length.to_be_bytes()[..]),
        Err(DecodeError::TooLong { length, max })
    );
    // All entries of a message share its bound.
    let mut many = vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 8, 0];
    many.extend((limits::MESSAGE_BYTES_MAX - 1).to_be_bytes());
    assert!(matches!(app(&many), Err(DecodeError::TooLong { .. })));
    // The position after a message at the end of the numbers.
    let mut encoder = AppEncoder::new();
    let mut bytes = BytesMut::new();
    encoder.encode(&append(0, 0, u64::MAX, 0, vec![]), &mut bytes);
    bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 8]);
    let mut decoder = AppDecoder::new(LOCAL, REMOTE);
    let mut input = &bytes[..];
    assert!(matches!(decoder.decode(&mut input), Ok(Some(_))));
    assert_eq!(decoder.decode(&mut input), Err(DecodeError::Index));
    // And an encoder at that place does not count beyond it either.
    let mut bytes = BytesMut::new();
    encoder.encode(&append(0, 0, u64::MAX, 0, vec![entry(0, 0, "")]), &mut bytes);
    assert_eq!(bytes[0], 2);
}

/// Messages as a leader sends them: some go on from the one before, some do not.
fn any_appends(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<Message>> {
    let (mut term, mut index) = (0, 0);
    let mut messages = Vec::new();
    for _ in 0..u.int_in_range(1..=8)? {
        if u.ratio(1, 4)? {
            messages.push(link_heartbeat());
            continue;
        }
        let mut log_term = term;
        if u.ratio(1, 3)? {
            term += u.int_in_range(0..=2)?;
            index = u.int_in_range(0..=1_000_000)?;
            log_term = u.int_in_range(0..=term)?;
        }
        let before = index;
        let entries = (0..u.int_in_range(0..=3)?)
            .map(|_| {
                index += 1;
                let length = u.int_in_range(0..=100_000)?;
                let data = (length > 0).then(|| vec![b'x'; length].into());
                Ok(Entry { term: Some(term), index: Some(index), data, ..Entry::default() })
            })
            .collect::<arbitrary::Result<Vec<_>>>()?;
        messages.push(append(term, log_term, before, u.int_in_range(0..=index)?, entries));
    }
    Ok(messages)
}

#[test]
fn appends_survive_any_cut() {
    arbtest(|u| {
        let messages = any_appends(u)?;
        let (mut encoder, mut bytes) = (AppEncoder::new(), BytesMut::new());
        for message in &messages {
            encoder.encode(message, &mut bytes);
        }
        let mut decoder = AppDecoder::new(LOCAL, REMOTE);
        let (mut rest, mut decoded) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let (mut piece, later) = rest.split_at(u.int_in_range(1..=rest.len())?);
            while let Some(message) = decoder.decode(&mut piece).expect("our own bytes") {
                decoded.push(message);
            }
            assert!(piece.is_empty());
            rest = later;
        }
        assert_eq!(decoded, messages);
        Ok(())
    })
    .budget_ms(500);
}

#[test]
fn messages_survive_any_cut() {
    arbtest(|u| {
        let messages = any_appends(u)?;
        let mut bytes = BytesMut::new();
        for message in &messages {
            MessageEncoder.encode(message, &mut bytes);
            assert_eq!(decode(message.encode_to_vec().into()).as_ref(), Ok(message));
        }
        let mut decoder = MessageDecoder::new();
        let (mut rest, mut decoded) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let (mut piece, later) = rest.split_at(u.int_in_range(1..=rest.len())?);
            while let Some(message) = decoder.decode(&mut piece).expect("our own bytes") {
                decoded.push(message);
            }
            rest = later;
        }
        assert_eq!(decoded, messages);
        Ok(())
    })
    .budget_ms(500);
}

/// Decoders take any bytes, in any pieces, and either go on or fail; they never panic. Garbled
/// streams of our own get deeper than noise does.
#[test]
fn noise_is_survived() {
    arbtest(|u| {
        let mut bytes = BytesMut::new();
        if u.ratio(3, 4)? {
            let mut encoder = AppEncoder::new();
            for message in any_appends(u)? {
                if u.arbitrary()? {
                    encoder.encode(&message, &mut bytes);
                } else {
                    MessageEncoder.encode(&message, &mut bytes);
                }
            }
            bytes.truncate(u.int_in_range(0..=bytes.len())?);
            for _ in 0..u.int_in_range(0..=4)? {
                if !bytes.is_empty() {
                    let at = u.int_in_range(0..=bytes.len().min(400) - 1)?;
                    bytes[at] = u.arbitrary()?;
                }
            }
        } else {
            bytes.extend_from_slice(u.bytes(u.len().min(4_000))?);
        }
        let mut app = AppDecoder::new(LOCAL, REMOTE);
        let mut input = &bytes[..];
        while let Ok(Some(_)) = app.decode(&mut input) {}
        let mut stream = MessageDecoder::new();
        let mut input = &bytes[..];
        while let Ok(Some(_)) = stream.decode(&mut input) {}
        let _ = decode(bytes.freeze());
        Ok(())
    })
    .budget_ms(1_500);
}
