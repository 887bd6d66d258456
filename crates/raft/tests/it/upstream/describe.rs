//! Messages, entries and states in the form that the scripts expect them in.

use std::fmt::Write as _;

use prost::Message as _;
use proto::raftpb::{
    ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
    HardState, Message, MessageType, Snapshot,
};
use raft::{Progress, ProgressState, Role};

/// The names under which a member's own disk and state take part in the exchange of messages.
pub(crate) const APPEND_THREAD: u64 = u64::MAX;
pub(crate) const APPLY_THREAD: u64 = u64::MAX - 1;

pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "StateFollower",
        Role::PreCandidate => "StatePreCandidate",
        Role::Candidate => "StateCandidate",
        Role::Leader => "StateLeader",
    }
}

pub(crate) fn hard_state(state: &HardState) -> String {
    let vote = if state.vote() == 0 { String::new() } else { format!(" Vote:{}", state.vote()) };
    format!("Term:{}{vote} Commit:{}", state.term(), state.commit())
}

fn list(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    format!("[{}]", numbers.join(" "))
}

pub(crate) fn conf_state(state: &ConfState) -> String {
    format!(
        "Voters:{} VotersOutgoing:{} Learners:{} LearnersNext:{} AutoLeave:{}",
        list(&state.voters),
        list(&state.voters_outgoing),
        list(&state.learners),
        list(&state.learners_next),
        state.auto_leave()
    )
}

pub(crate) fn snapshot(snapshot: &Snapshot) -> String {
    let metadata = snapshot.metadata.clone().unwrap_or_default();
    let state = metadata.conf_state.clone().unwrap_or_default();
    format!("Index:{} Term:{} ConfState:{}", metadata.index(), metadata.term(), conf_state(&state))
}

fn changes(changes: &[ConfChangeSingle]) -> String {
    let changes: Vec<String> = changes
        .iter()
        .map(|change| {
            let letter = match change.r#type() {
                ConfChangeType::ConfChangeAddNode => 'v',
                ConfChangeType::ConfChangeAddLearnerNode => 'l',
                ConfChangeType::ConfChangeRemoveNode => 'r',
                ConfChangeType::ConfChangeUpdateNode => 'u',
            };
            format!("{letter}{}", change.node_id())
        })
        .collect();
    changes.join(" ")
}

pub(crate) fn entry(entry: &Entry) -> String {
    let kind = entry.r#type();
    let content = match kind {
        EntryType::EntryNormal => format!("{:?}", String::from_utf8_lossy(entry.data())),
        EntryType::EntryConfChange => {
            let change = ConfChange::decode(entry.data()).unwrap();
            changes(&[ConfChangeSingle { r#type: change.r#type, node_id: change.node_id }])
        }
        EntryType::EntryConfChangeV2 => {
            changes(&ConfChangeV2::decode(entry.data()).unwrap().changes)
        }
    };
    let space = if content.is_empty() { "" } else { " " };
    format!("{}/{} {}{space}{content}", entry.term(), entry.index(), kind.as_str_name())
}

pub(crate) fn entries(entries: &[Entry]) -> String {
    entries.iter().map(|it| entry(it) + "\n").collect()
}

fn target(id: u64) -> String {
    match id {
        0 => "None".to_owned(),
        APPEND_THREAD => "AppendThread".to_owned(),
        APPLY_THREAD => "ApplyThread".to_owned(),
        id => format!("{id:x}"),
    }
}

pub(crate) fn message(message: &Message) -> String {
    message_behind("", message)
}

fn message_behind(indent: &str, message: &Message) -> String {
    let mut out = format!(
        "{indent}{}->{} {} Term:{} Log:{}/{}",
        target(message.from()),
        target(message.to()),
        message.r#type().as_str_name(),
        message.term(),
        message.log_term(),
        message.index()
    );
    if message.reject() {
        let _ = write!(out, " Rejected (Hint: {})", message.reject_hint());
    }
    if message.commit() != 0 {
        let _ = write!(out, " Commit:{}", message.commit());
    }
    if message.vote() != 0 {
        let _ = write!(out, " Vote:{}", message.vote());
    }
    match message.entries.as_slice() {
        [] => {}
        [only] => {
            let _ = write!(out, " Entries:[{}]", entry(only));
        }
        more => {
            out.push_str(" Entries:[");
            for it in more {
                let _ = write!(out, "\n{indent}  {}", entry(it));
            }
            let _ = write!(out, "\n{indent}]");
        }
    }
    if let Some(it) = message.snapshot.as_ref().filter(|it| has_index(it)) {
        let _ = write!(out, "\n{indent}  Snapshot: {}", snapshot(it));
    }
    if !message.responses.is_empty() {
        out.push_str(" Responses:[");
        for response in &message.responses {
            let _ = write!(out, "\n{}", message_behind(&format!("{indent}  "), response));
        }
        let _ = write!(out, "\n{indent}]");
    }
    out
}

pub(crate) fn has_index(snapshot: &Snapshot) -> bool {
    snapshot.metadata.as_ref().is_some_and(|metadata| metadata.index() != 0)
}

pub(crate) fn progress(progress: &Progress) -> String {
    let (state, pending) = match progress.state {
        ProgressState::Probe => ("StateProbe", None),
        ProgressState::Replicate => ("StateReplicate", None),
        ProgressState::Snapshot(at) => ("StateSnapshot", Some(at)),
    };
    let mut out = format!("{state} match={} next={}", progress.matched, progress.next);
    if progress.is_learner {
        out.push_str(" learner");
    }
    if progress.is_paused() {
        out.push_str(" paused");
    }
    if let Some(at) = pending {
        let _ = write!(out, " pendingSnap={at}");
    }
    if !progress.recent_active {
        out.push_str(" inactive");
    }
    let inflights = progress.inflights();
    if inflights.count() > 0 {
        let full = if inflights.is_full() { "[full]" } else { "" };
        let _ = write!(out, " inflight={}{full}", inflights.count());
    }
    out
}

/// Whether the message is from or to a member's own disk or state.
pub(crate) fn is_local(message: &Message) -> bool {
    let threads = [APPEND_THREAD, APPLY_THREAD];
    message.from() == message.to()
        || threads.contains(&message.from())
        || threads.contains(&message.to())
}

pub(crate) fn kind(name: &str) -> MessageType {
    MessageType::from_str_name(name).unwrap_or_else(|| panic!("no message type {name}"))
}
