//! What others send to one member, be they mistaken, broken or hostile.

use std::time::Duration;

use base::MemberId;
use bytes::BytesMut;
use peer::codec::{AppEncoder, MessageEncoder};
use peer::limits;
use prost::Message as _;
use proto::raftpb::{Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::member::{Database, Member, poll};
use crate::raw::{self, Canned, SIGNED, ask, request};

const TWO: MemberId = MemberId(2);

fn message(kind: MessageType) -> Message {
    Message {
        r#type: Some(kind.into()),
        from: Some(2),
        to: Some(1),
        term: Some(1),
        ..Message::default()
    }
}

fn head(answer: &str, name: &str) -> Option<String> {
    let (head, _) = answer.split_once("\r\n\r\n")?;
    let value = head.lines().find_map(|line| {
        let (field, value) = line.split_once(": ")?;
        field.eq_ignore_ascii_case(name).then_some(value)
    });
    value.map(str::to_owned)
}

/// The status and the body.
fn brief(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    format!("{status} {}", body.trim_end())
}

#[tokio::test]
async fn refusals_are_etcds() {
    let one = Member::start(1).await;
    one.transport.set_members(&[(TWO, vec!["http://127.0.0.1:1".to_owned()])]);
    one.told.remove(MemberId(9));
    let to_one = format!("{SIGNED}X-Raft-To: 1\r\n");
    let old = SIGNED.replace("Version: 3.7.1", "Version: 2.3.8");
    let odd = SIGNED.replace("Version: 3.7.1", "Version: quorate");
    let newer = SIGNED.replace("3.0.0", "3.8.0");
    let stranger = SIGNED.replace("c1", "c2");
    let heartbeat = message(MessageType::MsgHeartbeat).encode_to_vec();
    let mismatch = Message { to: Some(7), ..message(MessageType::MsgVote) }.encode_to_vec();
    let removed = Message { from: Some(9), ..message(MessageType::MsgVote) }.encode_to_vec();
    let snapshot = |bytes: &[u8]| [&(bytes.len() as u64).to_be_bytes(), bytes].concat();
    let bare = snapshot(&message(MessageType::MsgSnap).encode_to_vec());
    for (line, headers, body, expected) in [
        ("PUT /raft", SIGNED, &[][..], "405 Method Not Allowed"),
        ("POST /raft", "", &[], "412 incompatible version"),
        ("POST /raft", &old, &[], "412 incompatible version"),
        ("POST /raft", &odd, &[], "412 incompatible version"),
        ("POST /raft", &newer, &[], "412 incompatible version"),
        ("POST /raft", &stranger, &[], "412 cluster ID mismatch"),
        ("POST /raft", SIGNED, b"\xff\xff", "400 error unmarshalling raft message"),
        ("POST /raft", SIGNED, &[0x7b; 100_000], "400 error unmarshalling raft message"),
        ("POST /raft", SIGNED, &heartbeat, "204 "),
        (
            "POST /raft",
            SIGNED,
            &mismatch,
            "412 {\"message\":\"cannot process message to mismatch member\"}",
        ),
        (
            "POST /raft",
            SIGNED,
            &removed,
            "403 {\"message\":\"cannot process message from removed member\"}",
        ),
        ("POST /raft/stream/message/2", &to_one, &[], "405 Method Not Allowed"),
        ("GET /raft/stream/message/2", &stranger, &[], "412 cluster ID mismatch"),
        ("GET /raft/stream/message", &to_one, &[], "404 invalid path"),
        ("GET /raft/stream/other/2", &to_one, &[], "404 invalid path"),
        ("GET /raft/stream/message/x", &to_one, &[], "404 invalid from"),
        ("GET /raft/stream/message/3", &to_one, &[], "404 error sender not found"),
        ("GET /raft/stream/message/9", &to_one, &[], "410 removed member"),
        ("GET /raft/stream/message/2", SIGNED, &[], "412 to field mismatch"),
        ("GET /raft/snapshot", SIGNED, &[], "405 Method Not Allowed"),
        ("POST /raft/snapshot", SIGNED, &[], "400 failed to decode raft message (unexpected EOF)"),
        (
            "POST /raft/snapshot",
            SIGNED,
            &u64::MAX.to_be_bytes(),
            "400 failed to decode raft message (rafthttp: error limit exceeded \
             (18446744073709551615 bytes, at most 67108864))",
        ),
        ("POST /raft/snapshot", SIGNED, &snapshot(&heartbeat), "400 wrong raft message type"),
        ("POST /raft/snapshot", SIGNED, &bare, "400 wrong raft message type"),
        ("GET /raft/other", SIGNED, &[], "404 404 page not found"),
    ] {
        let answer = ask(one.address, &request(line, headers, body)).await;
        assert_eq!(brief(&answer), expected, "{line} {headers}");
        let has_cluster = line != "GET /raft/other" && !expected.starts_with("405");
        assert_eq!(head(&answer, "x-etcd-cluster-id"), has_cluster.then(|| "c1".to_owned()));
        let is_stream = line.contains("GET /raft/stream");
        assert_eq!(head(&answer, "x-server-version"), is_stream.then(|| "3.7.1".to_owned()));
    }
    one.told.look(|seen| assert_eq!(seen.messages, [message(MessageType::MsgHeartbeat)]));
    let answer = ask(one.address, &request("PUT /raft", SIGNED, &[])).await;
    assert_eq!(head(&answer, "allow").as_deref(), Some("POST"));
    assert_eq!(head(&answer, "content-type").as_deref(), Some("text/plain; charset=utf-8"));
    assert_eq!(head(&answer, "x-content-type-options").as_deref(), Some("nosniff"));
    let probe = ask(one.address, &request("GET /raft/probing", "", &[])).await;
    assert!(brief(&probe).starts_with("200 {\"OK\":true,\"Now\":\"20"), "{probe}");
}

#[tokio::test]
async fn messages_that_members_do_not_send_reach_nobody() {
    let one = Member::start(1).await;
    for kind in [
        MessageType::MsgHup,
        MessageType::MsgSnap,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgStorageAppend,
    ] {
        let body = message(kind).encode_to_vec();
        let answer = ask(one.address, &request("POST /raft", SIGNED, &body)).await;
        assert_eq!(brief(&answer), "204 ");
    }
    let body = Message { r#type: Some(99), ..message(MessageType::MsgHup) }.encode_to_vec();
    let answer = ask(one.address, &request("POST /raft", SIGNED, &body)).await;
    assert_eq!(brief(&answer), "204 ");
    one.told.look(|seen| {
        assert!(seen.messages.is_empty());
        let line = seen.event("ignored Raft message of an unexpected type");
        assert!(line.contains("message-type=\"MsgHup\""), "{line}");
    });
}

#[tokio::test]
async fn learning_of_members_is_bounded() {
    let one = Member::start(1).await;
    let body = message(MessageType::MsgHeartbeat).encode_to_vec();
    for id in 0x10..0x10 + limits::REMOTES_MAX + 10 {
        let headers = SIGNED.replace("From: 2", &format!("From: {id:x}"));
        let headers = format!("{headers}X-PeerURLs: http://127.0.0.1:1,nonsense\r\n");
        let answer = ask(one.address, &request("POST /raft", &headers, &body)).await;
        assert_eq!(brief(&answer), "204 ");
    }
    one.told.look(|seen| {
        let added = "added new remote peer";
        let count = seen.events.iter().filter(|event| event.message == added).count();
        assert_eq!(count, limits::REMOTES_MAX);
        assert!(seen.has_event("ignored new remote peer; too many are known"));
        assert!(seen.has_event("ignored an address of a remote peer"));
    });
}

#[tokio::test]
async fn a_cut_upload_is_no_snapshot() {
    let one = Member::start(1).await;
    let metadata = SnapshotMetadata { index: Some(5), term: Some(1), conf_state: None };
    let snapshot = Snapshot { data: None, metadata: Some(metadata) };
    let message = Message { snapshot: Some(snapshot), ..message(MessageType::MsgSnap) };
    let mut body = BytesMut::new();
    MessageEncoder.encode(&message, &mut body);
    body.extend_from_slice(&[7; 100]);
    let mut bytes = request("POST /raft/snapshot", SIGNED, &body);
    bytes.truncate(bytes.len() - 1);
    drop(ask(one.address, &bytes).await);
    one.told.until("the failure", |seen| !seen.snapshots.is_empty()).await;
    one.told.look(|seen| assert_eq!(seen.snapshots[0].1, Err("unexpected EOF".to_owned())));
    let answer = ask(one.address, &request("POST /raft/snapshot", SIGNED, &body)).await;
    assert_eq!(brief(&answer), "204 ");
    one.told.look(|seen| {
        assert_eq!(seen.snapshots[1].1, Ok(vec![7; 100]));
        assert_eq!(seen.snapshots[1].0, message);
    });
}

/// A member that dials a stream and then reads nothing.
#[tokio::test]
async fn who_does_not_read_is_cut_off() {
    let one = Member::start(1).await;
    one.transport.set_members(&[(TWO, vec!["http://127.0.0.1:1".to_owned()])]);
    let headers = format!("{SIGNED}X-Raft-To: 1\r\n");
    let mut streams = Vec::new();
    for kind in ["msgapp", "message"] {
        let mut stream = TcpStream::connect(one.address).await.expect("a listener");
        let line = format!("GET /raft/stream/{kind}/2");
        stream.write_all(&request(&line, &headers, &[])).await.expect("written");
        streams.push(stream);
    }
    let up = "established TCP streaming connection with remote peer";
    one.told
        .until("streams", |seen| {
            seen.events.iter().filter(|event| event.message == up).count() == 2
        })
        .await;
    let data = bytes::Bytes::from(vec![1; 1 << 20]);
    let entry = Entry { data: Some(data), ..Entry::default() };
    let append = Message {
        from: Some(1),
        to: Some(2),
        entries: vec![entry],
        ..message(MessageType::MsgApp)
    };
    let count = limits::STREAM_BYTES_MAX / (1 << 19);
    one.transport.send(vec![append; count]);
    one.told.look(|seen| {
        assert!(seen.unreachable.len() >= count / 4, "{}", seen.unreachable.len());
        let line = seen.event("dropped internal Raft message since sending buffer is full");
        assert!(line.contains("remote-peer-name=\"streamMsgAppV2\""), "{line}");
    });
    // The socket takes nothing more, so its deadline passes.
    one.told
        .until("the cut", |seen| {
            let line = seen.event("lost TCP streaming connection with remote peer");
            line.contains("stream MsgApp v2")
        })
        .await;
    // The other stream is silent but for its signs of life, and stays.
    let mut head = [0; 15];
    streams[1].read_exact(&mut head).await.expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_newer_stream_takes_the_place_of_the_older() {
    let one = Member::start(1).await;
    one.transport.set_members(&[(TWO, vec!["http://127.0.0.1:1".to_owned()])]);
    let headers = format!("{SIGNED}X-Raft-To: 1\r\n");
    let bytes = request("GET /raft/stream/message/2", &headers, &[]);
    let mut old = TcpStream::connect(one.address).await.expect("a listener");
    old.write_all(&bytes).await.expect("written");
    one.told.until("a stream", |seen| seen.has_event("set message encoder")).await;
    let mut new = TcpStream::connect(one.address).await.expect("a listener");
    new.write_all(&bytes).await.expect("written");
    let closed = "closed TCP streaming connection with remote peer";
    one.told.until("the end of the old", |seen| seen.has_event(closed)).await;
    let mut text = Vec::new();
    let until_end = async {
        // The answer ends as it should; the connection would go on.
        while !text.ends_with(b"\r\n0\r\n\r\n") {
            assert!(old.read_buf(&mut text).await.expect("readable") > 0);
        }
    };
    timeout(Duration::from_secs(10), until_end).await.expect("the old answer ends");
    let heartbeat = Message { from: Some(1), to: Some(2), ..message(MessageType::MsgHeartbeat) };
    one.transport.send(vec![heartbeat.clone()]);
    let expected = heartbeat.encode_to_vec();
    let mut text = Vec::new();
    let until_come = async {
        while !text.windows(expected.len()).any(|window| window == expected) {
            assert!(new.read_buf(&mut text).await.expect("readable") > 0);
        }
    };
    timeout(Duration::from_secs(10), until_come).await.expect("the message on the new stream");
}

/// One that dials something which is no good member: the stream fails with a line, another is
/// tried, and nothing else happens.
async fn dialing(answer: impl Into<Vec<u8>>) -> (Member, Canned) {
    let one = Member::start(1).await;
    let canned = Canned::start(answer).await;
    one.transport.set_members(&[(TWO, vec![canned.url()])]);
    (one, canned)
}

async fn lost(one: &Member, why: &str) {
    one.told
        .until(why, |seen| {
            seen.events.iter().any(|event| {
                event.message == "lost TCP streaming connection with remote peer"
                    && event.to_string().contains(why)
            })
        })
        .await;
}

#[tokio::test]
async fn bad_frames_end_a_stream() {
    let (one, canned) = dialing(raw::stream("3.7.1", &[9, 9, 9, 9, 9, 9, 9, 9, 9])).await;
    lost(&one, "error=\"failed to parse type 9 in msgappv2 stream\"").await;
    lost(&one, "error=\"rafthttp: error limit exceeded").await;
    // It is dialed again, though not without pause.
    let before = canned.visits();
    poll("more dials", || canned.visits() > before + 2).await;
    one.told.look(|seen| assert!(seen.messages.is_empty() && seen.removed == 0));
}

#[tokio::test]
async fn good_frames_before_a_bad_one_count() {
    let mut bytes = BytesMut::new();
    let mut encoder = AppEncoder::new();
    let append = Message { index: Some(4), ..message(MessageType::MsgApp) };
    encoder.encode(&append, &mut bytes);
    bytes.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 2, 0x7b, 0x7b]);
    let (one, _canned) = dialing(raw::stream("3.6.0", &bytes)).await;
    lost(&one, "error=\"malformed raft message\"").await;
    one.told.look(|seen| assert_eq!(seen.messages[0], append));
}

#[tokio::test]
async fn answers_of_bad_members_are_survived() {
    // No version, one that is none, and one that is too old: no streams with these.
    for version in ["", "X-Server-Version: quorate-0.1\r\n", "X-Server-Version: 0.1.0\r\n"] {
        let (one, canned) = dialing(raw::answer("200 OK", version, "")).await;
        poll("dials", || canned.visits() > 3).await;
        one.told.look(|seen| assert!(!seen.has_event("peer became active"), "{version:?}"));
    }
    // A post that fails is reported, and only the word of a removal is one.
    for (answer, is_removal) in [
        (raw::answer("200 OK", "", ""), false),
        (raw::answer("500 Internal Server Error", "", "x"), false),
        (
            raw::answer(
                "403 Forbidden",
                "",
                "{\"message\":\"cannot process message to mismatch \
                 member\"}",
            ),
            false,
        ),
        (
            raw::answer(
                "403 Forbidden",
                "",
                "{\"message\":\"cannot process message from removed \
                 member\"}",
            ),
            true,
        ),
        ("what is this\r\n\r\n".to_owned(), false),
        (String::new(), false),
        (raw::answer("204 No Content", &format!("X: {}\r\n", "y".repeat(200_000)), ""), false),
    ] {
        let one = Member::start(1).await;
        let canned = Canned::start(answer.clone()).await;
        one.transport.add_remote(TWO, &[canned.url()]);
        let vote = Message { from: Some(1), to: Some(2), ..message(MessageType::MsgVote) };
        one.transport.send(vec![vote]);
        if answer.is_empty() {
            // It never answers; the end of the transport does not wait for it.
            one.transport.stop();
            continue;
        }
        one.told.until("a report", |seen| seen.unreachable == [TWO]).await;
        one.told.look(|seen| assert_eq!(seen.removed > 0, is_removal, "{answer}"));
    }
}

#[tokio::test]
async fn a_snapshot_to_a_member_that_goes_ends() {
    let (one, canned) = dialing("").await;
    let metadata = SnapshotMetadata { index: Some(5), term: Some(1), conf_state: None };
    let snapshot = Snapshot { data: None, metadata: Some(metadata) };
    let snapshot = Message {
        from: Some(1),
        to: Some(2),
        snapshot: Some(snapshot),
        ..message(MessageType::MsgSnap)
    };
    let database = || Database { bytes: vec![0; 1 << 26].into(), broken_at: u64::MAX };
    one.transport.send_snapshot(snapshot.clone(), Box::new(database()));
    // Two streams and the upload.
    poll("the upload", || canned.visits() >= 3).await;
    one.told.look(|seen| assert!(seen.snapshots_sent.is_empty()));
    // One at a time.
    one.transport.send_snapshot(snapshot.clone(), Box::new(database()));
    one.told.look(|seen| assert_eq!(seen.snapshots_sent, [(TWO, false)]));
    one.transport.set_members(&[]);
    one.told.until("the end", |seen| seen.snapshots_sent.len() == 2).await;
    // Nobody of that name.
    one.transport.send_snapshot(snapshot, Box::new(database()));
    one.told.look(|seen| assert_eq!(seen.snapshots_sent, [(TWO, false); 3]));
}
