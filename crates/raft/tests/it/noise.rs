//! Messages of any content, as a broken or hostile member may send them: each is taken, ignored or
//! refused, and none brings the member down.

use base::{LogIndex, MemberId, Rng, Term};
use proto::raftpb::{
    ConfChange, ConfState, Entry, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};
use raft::{Config, Position, Raft, ReadMode, Restored, Role};

/// Few values that often meet, and some at the edges.
fn number(rng: &mut Rng) -> Option<u64> {
    let edges = [u64::MAX, u64::MAX - 1, u64::MAX / 2, u64::MAX / 2 + 1];
    match rng.below(40) {
        0 => None,
        1 => Some(*rng.pick(&edges)),
        _ => Some(rng.below(9)),
    }
}

/// Terms near the member's own, or anything.
fn term(rng: &mut Rng, own: u64) -> Option<u64> {
    match rng.below(12) {
        0 => number(rng),
        1 => Some(own + 1),
        2 => Some(own.saturating_sub(1)),
        _ => Some(own),
    }
}

fn entries(rng: &mut Rng, after: u64, own: u64) -> Vec<Entry> {
    let is_consecutive = !rng.one_in(6);
    let term = own.saturating_sub(rng.below(2));
    (0..rng.below(4))
        .map(|at| Entry {
            r#type: rng.one_in(6).then(|| i32::try_from(rng.below(4)).unwrap()),
            term: if is_consecutive { Some(term) } else { number(rng) },
            index: if is_consecutive { Some(after.wrapping_add(at + 1)) } else { number(rng) },
            data: rng.one_in(2).then(|| vec![8, u8::try_from(rng.below(9)).unwrap(), 24, 2].into()),
        })
        .collect()
}

fn message(rng: &mut Rng, raft: &Raft) -> Message {
    let status = raft.status();
    let (own, last) = (status.term.0, status.last);
    let index = if rng.one_in(2) { Some(last.index.0) } else { number(rng) };
    let ids = |rng: &mut Rng| (0..rng.below(3)).map(|_| 1 + rng.below(4)).collect();
    let snapshot = rng.one_in(4).then(|| Snapshot {
        data: None,
        metadata: (!rng.one_in(9)).then(|| SnapshotMetadata {
            conf_state: Some(ConfState {
                voters: ids(rng),
                learners: ids(rng),
                voters_outgoing: if rng.one_in(2) { ids(rng) } else { Vec::new() },
                learners_next: if rng.one_in(4) { ids(rng) } else { Vec::new() },
                auto_leave: rng.one_in(4).then_some(true),
            }),
            index: if rng.one_in(2) { Some(last.index.0 + 3) } else { number(rng) },
            term: term(rng, own),
        }),
    });
    let between_members: [i32; 14] = [2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 13, 14, 15, 17];
    let kind = match rng.below(6) {
        0 => i32::try_from(rng.below(25)).unwrap(),
        _ => *rng.pick(&between_members),
    };
    Message {
        r#type: Some(kind),
        to: Some(1),
        from: Some(if rng.one_in(9) { rng.below(6) } else { 2 + rng.below(2) }),
        term: term(rng, own),
        log_term: if rng.one_in(2) { Some(last.term.0) } else { number(rng) },
        index,
        entries: entries(rng, index.unwrap_or(0), own),
        commit: number(rng),
        snapshot,
        reject: rng.one_in(4).then_some(true),
        reject_hint: number(rng),
        context: rng.one_in(3).then(|| rng.below(9).to_le_bytes().to_vec().into()),
        vote: None,
        responses: Vec::new(),
    }
}

fn member(rng: &mut Rng) -> Raft {
    let config = Config {
        id: MemberId(1),
        election_ticks: 3,
        heartbeat_ticks: 1,
        pre_vote: rng.one_in(2),
        check_quorum: rng.one_in(2),
        message_bytes_max: rng.below(100),
        inflight_messages_max: 2,
        inflight_bytes_max: 0,
        uncommitted_bytes_max: 50,
        read_mode: ReadMode::Safe,
        disable_proposal_forwarding: false,
        disable_conf_change_validation: false,
        step_down_on_removal: rng.one_in(2),
        gather: rng.one_in(2),
        seed: rng.next_u64(),
    };
    let restored = Restored {
        base: Position { index: LogIndex(2), term: Term(1) },
        conf_state: ConfState { voters: vec![1, 2, 3], ..ConfState::default() },
        hard_state: HardState { term: Some(1), vote: None, commit: Some(2) },
        entries: Vec::new(),
    };
    Raft::new(config, restored).unwrap()
}

/// Writes and applies what there is, and answers for the other voters now and then, so that the
/// member comes to lead.
fn work(rng: &mut Rng, raft: &mut Raft) {
    let duties = raft.duties();
    if let Some(append) = duties.append {
        for own in append.after.into_iter().filter(|it| it.to() == 1) {
            let _refused = raft.step(own);
        }
        raft.appended(&append.receipt);
        if let Some(at) = append.receipt.snapshot {
            raft.applied(at);
        }
    }
    for entry in raft.take_committed(100) {
        if entry.r#type() == proto::raftpb::EntryType::EntryConfChange
            && let Ok(change) = prost::Message::decode(entry.data())
        {
            let change: ConfChange = change;
            let _refused = raft.apply_conf_change(&change);
        }
        raft.applied(LogIndex(entry.index()));
    }
    let votes = [MessageType::MsgVote, MessageType::MsgPreVote];
    for asked in duties.messages.into_iter().filter(|it| votes.contains(&it.r#type())) {
        let kind = match asked.r#type() {
            MessageType::MsgVote => MessageType::MsgVoteResp,
            _ => MessageType::MsgPreVoteResp,
        };
        let granted = Message {
            r#type: Some(kind.into()),
            to: Some(1),
            from: asked.to,
            term: asked.term,
            ..Message::default()
        };
        if !rng.one_in(3) {
            let _refused = raft.step(granted);
        }
    }
}

#[test]
fn no_message_brings_a_member_down() {
    let (mut led, mut taken, mut refused) = (0, 0, 0);
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut raft = member(&mut rng);
        for _ in 0..150 {
            match rng.below(12) {
                0 => raft.tick(),
                1 => drop(raft.propose(vec![0; 9].into())),
                2 => raft.read_index(vec![7].into()),
                3 => raft.transfer_leader(MemberId(rng.below(5))),
                4 => raft.report_snapshot(MemberId(rng.below(5)), rng.one_in(2)),
                5 => raft.compact(raft.log().applied()),
                6 | 7 => work(&mut rng, &mut raft),
                _ => match raft.step(message(&mut rng, &raft)) {
                    Ok(()) => taken += 1,
                    Err(_) => refused += 1,
                },
            }
            led += u64::from(raft.status().role == Role::Leader);
        }
    }
    // The noise is not all refused at the door.
    assert!(led > 3_000 && taken > 8_000 && refused > 3_000, "{led} {taken} {refused}");
}
