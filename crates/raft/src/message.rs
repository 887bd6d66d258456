//! Short ways to build and read consensus messages.

use base::{LogIndex, MemberId, Term};
use proto::raftpb::{Entry, EntryType, Message, MessageType};

/// The context by which a vote request says that the old leader wants the election.
pub(crate) const TRANSFER: &[u8] = b"CampaignTransfer";

/// A message of `kind` for `to`.
pub(crate) fn to(to: MemberId, kind: MessageType) -> Message {
    Message { r#type: Some(kind.into()), to: Some(to.0), ..Message::default() }
}

/// A refusal of `kind` for `to`.
pub(crate) fn refusal(recipient: MemberId, kind: MessageType, term: Term) -> Message {
    Message { reject: Some(true), term: Some(term.0), ..to(recipient, kind) }
}

/// What answers a request for votes of `kind`.
pub(crate) fn vote_response(kind: MessageType) -> MessageType {
    match kind {
        MessageType::MsgPreVote => MessageType::MsgPreVoteResp,
        _ => MessageType::MsgVoteResp,
    }
}

/// Whether `kind` promises something that must be on disk before it leaves.
pub(crate) fn waits_for_disk(kind: MessageType) -> bool {
    matches!(kind, MessageType::MsgAppResp | MessageType::MsgVoteResp | MessageType::MsgPreVoteResp)
}

/// Whether a message of `kind` only exists within a member.
pub(crate) fn is_local(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgCheckQuorum
            | MessageType::MsgStorageAppend
            | MessageType::MsgStorageAppendResp
            | MessageType::MsgStorageApply
            | MessageType::MsgStorageApplyResp
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgForgetLeader
    )
}

/// Whether `kind` answers what was sent to a member.
pub(crate) fn is_response(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgAppResp
            | MessageType::MsgVoteResp
            | MessageType::MsgHeartbeatResp
            | MessageType::MsgReadIndexResp
            | MessageType::MsgPreVoteResp
    )
}

pub(crate) fn index(entry: &Entry) -> LogIndex {
    LogIndex(entry.index())
}

pub(crate) fn term(entry: &Entry) -> Term {
    Term(entry.term())
}

pub(crate) fn is_conf_change(entry: &Entry) -> bool {
    entry.r#type() != EntryType::EntryNormal
}
