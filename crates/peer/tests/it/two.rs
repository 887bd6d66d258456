//! Two members over loopback.

use base::{ClusterId, MemberId};
use bytes::Bytes;
use proto::raftpb::{Entry, Message, MessageType, Snapshot, SnapshotMetadata};

use crate::member::{Database, Member, connected, pair, poll};

fn message(from: &Member, to: &Member, kind: MessageType, index: u64) -> Message {
    Message {
        r#type: Some(kind.into()),
        from: Some(from.id.get()),
        to: Some(to.id.get()),
        term: Some(1),
        log_term: Some(1),
        index: Some(index),
        ..Message::default()
    }
}

fn append(from: &Member, to: &Member, index: u64, bytes: usize) -> Message {
    let data = Some(vec![b'x'; bytes].into());
    let entry = Entry { term: Some(1), index: Some(index + 1), data, ..Entry::default() };
    Message {
        entries: vec![entry],
        commit: Some(index),
        ..message(from, to, MessageType::MsgApp, index)
    }
}

fn snapshot(from: &Member, to: &Member) -> Message {
    let metadata = SnapshotMetadata { index: Some(100), term: Some(1), conf_state: None };
    let snapshot = Snapshot { data: Some("{}".into()), metadata: Some(metadata) };
    Message { snapshot: Some(snapshot), ..message(from, to, MessageType::MsgSnap, 0) }
}

fn kinds(messages: &[Message], kind: MessageType) -> Vec<u64> {
    let of_kind = messages.iter().filter(|message| message.r#type == Some(kind.into()));
    of_kind.map(Message::index).collect()
}

#[tokio::test]
async fn messages_go_both_ways_in_order() {
    let (one, two) = pair().await;
    let count = 1_000;
    for index in 0..count {
        one.transport.send(vec![
            append(&one, &two, index, 300),
            message(&one, &two, MessageType::MsgHeartbeat, index),
        ]);
        two.transport.send(vec![message(&two, &one, MessageType::MsgAppResp, index)]);
    }
    let all = 2 * usize::try_from(count).expect("small");
    two.told.until("all messages", |seen| seen.messages.len() == all).await;
    one.told.until("all messages", |seen| seen.messages.len() == all / 2).await;
    let expected: Vec<_> = (0..count).collect();
    two.told.look(|seen| {
        assert_eq!(kinds(&seen.messages, MessageType::MsgApp), expected);
        assert_eq!(kinds(&seen.messages, MessageType::MsgHeartbeat), expected);
        let last = seen.messages.iter().rfind(|message| !message.entries.is_empty());
        assert_eq!(last, Some(&append(&one, &two, count - 1, 300)));
    });
    one.told.look(|seen| {
        assert_eq!(kinds(&seen.messages, MessageType::MsgAppResp), expected);
        assert!(seen.unreachable.is_empty());
        let line = "established TCP streaming connection with remote peer \
                    stream-writer-type=\"stream MsgApp v2\" local-member-id=\"1\" \
                    remote-peer-id=\"2\"";
        assert!(seen.events.iter().any(|event| event.to_string() == line));
    });
    assert!(one.transport.active_since(two.id).is_some());
    assert_eq!(one.transport.active_peers(), 1);
    let figures = one.transport.figures();
    assert!(figures[0].is_active && figures[0].sent_bytes > count * 300, "{figures:?}");
}

#[tokio::test]
async fn streams_come_back_after_a_loss() {
    let (one, mut two) = pair().await;
    two.close_port();
    // What two read from one is not over its own port, so only half of the streams is gone.
    two.told.until("the loss", |seen| seen.unreachable == [MemberId(1), MemberId(1)]).await;
    one.told
        .until("the loss", |seen| {
            seen.has_event("peer became inactive (message send to peer failed)")
        })
        .await;
    assert!(one.transport.is_streaming(two.id));
    two.open_port().await;
    connected(&one, &two).await;
    two.transport.send(vec![message(&two, &one, MessageType::MsgAppResp, 7)]);
    one.told.until("a message", |seen| seen.messages.iter().any(|m| m.index() == 7)).await;
    one.told.until("life", |seen| seen.has_event("peer became active")).await;
}

#[tokio::test]
async fn without_streams_messages_are_posted_and_their_sender_is_learned() {
    let (one, two) = (Member::start(1).await, Member::start(2).await);
    one.transport.set_members(&[one.entry(), two.entry()]);
    // Two knows nobody yet, as a member that joined and has nothing applied.
    for index in 0..10 {
        one.transport.send(vec![message(&one, &two, MessageType::MsgHeartbeat, index)]);
    }
    two.told.until("posts", |seen| seen.messages.len() == 10).await;
    assert!(!one.transport.is_streaming(two.id));
    two.told.look(|seen| {
        assert!(seen.has_event("added new remote peer"));
        let mut indexes = kinds(&seen.messages, MessageType::MsgHeartbeat);
        indexes.sort_unstable();
        assert_eq!(indexes, (0..10).collect::<Vec<_>>());
    });
    two.transport.send(vec![message(&two, &one, MessageType::MsgHeartbeatResp, 3)]);
    one.told.until("the answer", |seen| seen.messages.len() == 1).await;
    // Now it learns of the member, and the streams come up.
    two.transport.set_members(&[one.entry(), two.entry()]);
    connected(&one, &two).await;
    one.transport.send(vec![append(&one, &two, 1, 10)]);
    two.told.until("a stream", |seen| seen.messages.len() == 11).await;
}

#[tokio::test]
async fn no_post_is_forgotten() {
    // One at a time, so that each comes when the workers before it are about to end.
    let (one, two) = (Member::start(1).await, Member::start(2).await);
    one.transport.add_remote(two.id, &two.entry().1);
    for index in 0..300 {
        one.transport.send(vec![message(&one, &two, MessageType::MsgHeartbeatResp, index)]);
        let last = Some(index);
        two.told.until("a post", |seen| seen.messages.last().map(Message::index) == last).await;
    }
    one.told.look(|seen| assert!(seen.unreachable.is_empty()));
}

#[tokio::test]
async fn a_member_that_is_gone_is_reported() {
    let (one, mut two) = (Member::start(1).await, Member::start(2).await);
    two.close_port();
    one.transport.set_members(&[one.entry(), two.entry()]);
    one.transport.send(vec![message(&one, &two, MessageType::MsgVote, 1)]);
    one.told.until("a report", |seen| seen.unreachable == [two.id]).await;
    assert_eq!(one.transport.active_since(two.id), None);
    // Nobody waits for it: what is too much is dropped.
    let many = (0..1_000).map(|index| message(&one, &two, MessageType::MsgVote, index)).collect();
    one.transport.send(many);
    one.told.look(|seen| {
        assert!(seen.unreachable.len() > 900, "{}", seen.unreachable.len());
        let line = seen.event("dropped internal Raft message since sending buffer is full");
        assert!(line.contains("message-type=\"MsgVote\""), "{line}");
        assert!(line.contains("remote-peer-name=\"pipeline\""), "{line}");
    });
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let one = Member::start(1).await;
    let two = Member::start_in(ClusterId(0xc2), 2).await;
    let members = [one.entry(), two.entry()];
    one.transport.set_members(&members);
    two.transport.set_members(&members);
    one.transport.send(vec![message(&one, &two, MessageType::MsgVote, 1)]);
    one.told.until("a report", |seen| !seen.unreachable.is_empty()).await;
    let what = "request sent was ignored by remote peer due to cluster ID mismatch";
    one.told.until("a line", |seen| seen.has_event(what)).await;
    one.told.look(|seen| {
        let line = seen.event(what);
        assert!(line.contains("remote-peer-cluster-id=\"c2\""), "{line}");
        assert!(line.contains("local-member-cluster-id=\"c1\""), "{line}");
        assert!(seen.has_event("request sent was ignored due to cluster ID mismatch"));
        assert!(seen.messages.is_empty());
    });
    two.told.look(|seen| {
        assert!(seen.has_event("request cluster ID mismatch"));
        assert!(seen.messages.is_empty());
    });
    assert_eq!(one.transport.active_peers(), 0);
}

#[tokio::test]
async fn a_removed_member_is_told() {
    let (one, two) = (Member::start(1).await, Member::start(2).await);
    one.told.remove(two.id);
    two.transport.set_members(&[one.entry(), two.entry()]);
    two.told.until("the news over a stream", |seen| seen.removed > 0).await;
    let line =
        one.told.look(|seen| seen.event("rejected stream from remote peer because it was removed"));
    assert!(line.contains("remote-peer-id-from=\"2\""), "{line}");
    // The same by a post: here nobody dials.
    let three = Member::start(3).await;
    one.told.remove(three.id);
    three.transport.add_remote(one.id, &one.entry().1);
    three.transport.send(vec![message(&three, &one, MessageType::MsgVote, 1)]);
    three.told.until("the news over a post", |seen| seen.removed == 1).await;
    one.told.look(|seen| assert!(seen.messages.is_empty()));
}

#[tokio::test]
async fn a_message_for_someone_else_does_not_look_like_a_removal() {
    let (one, two) = (Member::start(1).await, Member::start(2).await);
    // One believes that member 9 is where member 2 is.
    one.transport.add_remote(MemberId(9), &two.entry().1);
    let mut lost = message(&one, &two, MessageType::MsgVote, 1);
    lost.to = Some(9);
    one.transport.send(vec![lost]);
    one.told.until("a report", |seen| seen.unreachable == [MemberId(9)]).await;
    one.told.look(|seen| assert_eq!(seen.removed, 0));
    two.told.look(|seen| assert!(seen.messages.is_empty()));
}

#[tokio::test]
async fn members_move_come_and_go() {
    let (one, mut two) = pair().await;
    let moved = Member::start(2).await;
    // Two goes away, and another process of the same id lives elsewhere.
    two.transport.stop();
    two.close_port();
    moved.transport.set_members(&[one.entry(), moved.entry()]);
    one.transport.set_members(&[one.entry(), moved.entry()]);
    connected(&one, &moved).await;
    assert!(one.told.look(|seen| seen.has_event("updated remote peer")));
    one.transport.send(vec![append(&one, &moved, 3, 10)]);
    moved.told.until("a message", |seen| seen.messages.len() == 1).await;
    one.transport.set_members(&[one.entry()]);
    assert!(one.told.look(|seen| seen.has_event("removed remote peer")));
    // The streams to it are closed, and it is not dialed any more.
    moved
        .told
        .until("the end", |seen| seen.has_event("lost TCP streaming connection with remote peer"))
        .await;
    one.transport.send(vec![append(&one, &moved, 4, 10)]);
    assert_eq!(one.transport.active_since(moved.id), None);
    // Not a member to one, and still answered by posts.
    moved
        .told
        .until("a refusal", |seen| {
            seen.events.iter().any(|event| event.message.starts_with("peer became inactive"))
        })
        .await;
    one.told.until("a line", |seen| seen.has_event("failed to find remote peer in cluster")).await;
    one.transport.send(vec![message(&one, &moved, MessageType::MsgAppResp, 5)]);
    moved.told.until("a post", |seen| seen.messages.iter().any(|m| m.index() == 5)).await;
}

#[tokio::test]
async fn a_paused_transport_hears_and_says_nothing() {
    let (one, two) = pair().await;
    one.transport.cut(two.id);
    one.transport.send(vec![message(&one, &two, MessageType::MsgHeartbeat, 1)]);
    two.transport.send(vec![message(&two, &one, MessageType::MsgHeartbeat, 1)]);
    one.transport.mend(two.id);
    one.transport.send(vec![message(&one, &two, MessageType::MsgHeartbeat, 2)]);
    two.told.until("a message", |seen| !seen.messages.is_empty()).await;
    two.told.look(|seen| assert_eq!(kinds(&seen.messages, MessageType::MsgHeartbeat), [2]));
    two.transport.pause();
    one.transport.send(vec![message(&one, &two, MessageType::MsgHeartbeat, 3)]);
    // Signs of life of both streams are eleven bytes.
    let bytes = two.transport.figures()[0].received_bytes;
    poll("bytes", || two.transport.figures()[0].received_bytes > bytes + 11).await;
    two.transport.resume();
    one.transport.send(vec![message(&one, &two, MessageType::MsgHeartbeat, 4)]);
    two.told.until("a message", |seen| seen.messages.len() == 2).await;
    two.told.look(|seen| assert_eq!(kinds(&seen.messages, MessageType::MsgHeartbeat), [2, 4]));
}

#[tokio::test]
async fn a_snapshot_goes_with_its_database() {
    let (one, two) = pair().await;
    let bytes: Bytes = (0..5_000_000_u32).map(|at| (at % 251) as u8).collect();
    let database = Database { bytes: bytes.clone(), broken_at: u64::MAX };
    one.transport.send_snapshot(snapshot(&one, &two), Box::new(database));
    one.told.until("the end", |seen| !seen.snapshots_sent.is_empty()).await;
    one.told.look(|seen| {
        assert_eq!(seen.snapshots_sent, [(two.id, true)]);
        assert_eq!(
            seen.event("sent database snapshot"),
            "sent database snapshot snapshot-index=100 remote-peer-id=\"2\" bytes=5000000 \
             size=\"5.0 MB\""
        );
    });
    two.told.look(|seen| {
        let (message, received) = &seen.snapshots[0];
        assert_eq!(message, &snapshot(&one, &two));
        assert!(received.as_deref() == Ok(&bytes[..]));
        let line = seen.event("received and saved database snapshot");
        assert!(line.contains("incoming-snapshot-size-bytes=5000000"), "{line}");
        // It is the handler that hands the message on.
        assert!(seen.messages.is_empty());
    });
    // A message without its database goes nowhere.
    one.transport.send(vec![snapshot(&one, &two)]);
    one.told.look(|seen| assert_eq!(seen.snapshots_sent, [(two.id, true), (two.id, false)]));
}

#[tokio::test]
async fn a_truncated_snapshot_fails_on_both_sides() {
    let (one, two) = pair().await;
    let database = Database { bytes: vec![1; 3_000_000].into(), broken_at: 1_000_000 };
    one.transport.send_snapshot(snapshot(&one, &two), Box::new(database));
    one.told.until("the end", |seen| !seen.snapshots_sent.is_empty()).await;
    two.told.until("the failure", |seen| !seen.snapshots.is_empty()).await;
    one.told.look(|seen| {
        assert_eq!(seen.snapshots_sent, [(two.id, false)]);
        assert_eq!(seen.unreachable, [two.id]);
        let line = seen.event("failed to send database snapshot");
        assert!(line.contains("page 7 is damaged"), "{line}");
    });
    two.told
        .until("a line", |seen| seen.has_event("failed to save incoming database snapshot"))
        .await;
    two.told.look(|seen| assert_eq!(seen.snapshots[0].1, Err("unexpected EOF".to_owned())));
    // One that shrinks while it is read fails too.
    one.told.clear();
    let database = Database { bytes: Bytes::new(), broken_at: 0 };
    one.transport.send_snapshot(snapshot(&one, &two), Box::new(Longer(database)));
    one.told.until("the end", |seen| seen.snapshots_sent == [(two.id, false)]).await;
}

struct Longer(Database);

impl peer::SnapshotReader for Longer {
    fn size(&self) -> u64 {
        4_096
    }

    fn read_at(&mut self, _offset: u64, _max: usize) -> std::io::Result<Bytes> {
        Ok(self.0.bytes.clone())
    }
}

#[tokio::test]
async fn stopping_ends_all_streams() {
    let (one, two) = pair().await;
    one.transport.stop();
    assert!(!one.transport.is_streaming(two.id));
    two.told
        .until("the end", |seen| {
            let lost = "lost TCP streaming connection with remote peer";
            // Both of its readers and both of its writers.
            seen.events.iter().filter(|event| event.message == lost).count() == 4
        })
        .await;
    one.transport.set_members(&[one.entry(), two.entry()]);
    assert_eq!(one.transport.figures(), []);
}
