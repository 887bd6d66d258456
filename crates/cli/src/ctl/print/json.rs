//! The JSON format: one line, as Go's `encoding/json` writes the client's structs.
//!
//! *Invariants.* Fields that are zero are left out where the Go struct says `omitempty`; 64-bit
//! numbers are numbers, bytes are base64, enumerations are numbers.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb;

use super::{Answer, Health};
use crate::go;

pub(super) fn render(answer: &Answer, hex: bool) -> Vec<u8> {
    let mut out = match answer {
        Answer::Del(answer) => del(answer),
        Answer::Get(answer) => range(answer),
        Answer::Put(answer) => put(answer),
        Answer::Txn(answer) => txn(answer),
        Answer::Watch(answer) => watch(answer),
        Answer::Grant(answer) => header_fields(Object::new(), answer.header.as_ref())
            .number("ID", answer.id)
            .number("TTL", answer.ttl)
            .text("Error", &answer.error)
            .end(),
        Answer::Revoke { answer, .. } => with_header(answer.header.as_ref()).end(),
        Answer::KeepAlive(answer) => header_fields(Object::new(), answer.header.as_ref())
            .number("ID", answer.id)
            .number("TTL", answer.ttl)
            .end(),
        Answer::TimeToLive { answer, .. } => header_fields(Object::new(), answer.header.as_ref())
            .number("id", answer.id)
            .number("ttl", answer.ttl)
            .number("granted-ttl", answer.granted_ttl)
            .raw("keys", &array_or_null(answer.keys.iter().map(|key| bytes(key))))
            .end(),
        Answer::Leases(answer) => header_fields(Object::new(), answer.header.as_ref())
            .raw(
                "leases",
                &array(answer.leases.iter().map(|l| Object::new().number("id", l.id).end())),
            )
            .end(),
        Answer::Members(answer) => members(answer.header, None, &answer.members, hex),
        Answer::MemberAdded { answer, .. } => {
            members(answer.header, answer.member.as_ref(), &answer.members, hex)
        }
        Answer::MemberChanged { answer, .. } => members(answer.header, None, &answer.members, hex),
        Answer::LeaderMoved { .. } => Object::new().end(),
        Answer::Downgrade { answer, .. } => {
            with_header(answer.header.as_ref()).nonempty("version", &answer.version).end()
        }
        Answer::Alarms(answer) => with_header(answer.header.as_ref())
            .list("alarms", answer.alarms.iter().map(alarm))
            .end(),
        Answer::Health(list) => array_or_null(list.iter().map(health)),
        Answer::Status(list) => array_or_null(list.iter().map(|(endpoint, answer)| {
            Object::new().text("Endpoint", endpoint).raw("Status", &status(answer)).end()
        })),
        Answer::HashKv(list) => array_or_null(list.iter().map(|(endpoint, answer)| {
            Object::new().text("Endpoint", endpoint).raw("HashKV", &hash_kv(answer)).end()
        })),
    };
    out.push('\n');
    out.into_bytes()
}

/// A JSON object under construction.
pub(super) struct Object(String);

impl Object {
    pub(super) fn new() -> Object {
        Object(String::from("{"))
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        let _ = write!(self.0, "\"{name}\":");
    }

    fn raw(mut self, name: &str, value: &str) -> Object {
        self.name(name);
        self.0.push_str(value);
        self
    }

    fn text(mut self, name: &str, value: &str) -> Object {
        self.name(name);
        go::json_string(&mut self.0, value);
        self
    }

    fn number(self, name: &str, value: impl ToString) -> Object {
        self.raw(name, &value.to_string())
    }

    fn bool(self, name: &str, value: bool) -> Object {
        self.raw(name, if value { "true" } else { "false" })
    }

    // The following leave a field out that holds nothing.

    pub(super) fn nonzero(self, name: &str, value: impl Into<i128>) -> Object {
        let value = value.into();
        if value == 0 { self } else { self.number(name, value) }
    }

    pub(super) fn when(self, name: &str, value: bool) -> Object {
        if value { self.bool(name, value) } else { self }
    }

    fn nonempty(self, name: &str, value: &str) -> Object {
        if value.is_empty() { self } else { self.text(name, value) }
    }

    pub(super) fn some_bytes(self, name: &str, value: &[u8]) -> Object {
        if value.is_empty() { self } else { self.raw(name, &bytes(value)) }
    }

    fn some(self, name: &str, value: Option<String>) -> Object {
        match value {
            Some(value) => self.raw(name, &value),
            None => self,
        }
    }

    pub(super) fn list(self, name: &str, values: impl ExactSizeIterator<Item = String>) -> Object {
        if values.len() == 0 { self } else { self.raw(name, &array(values)) }
    }

    pub(super) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn array(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(","))
}

/// A slice that Go made only when there was something to put in.
fn array_or_null(values: impl ExactSizeIterator<Item = String>) -> String {
    if values.len() == 0 { "null".to_owned() } else { array(values) }
}

fn bytes(value: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(value))
}

pub(super) fn texts(values: &[String]) -> impl ExactSizeIterator<Item = String> {
    values.iter().map(|value| {
        let mut out = String::new();
        go::json_string(&mut out, value);
        out
    })
}

fn header_fields(object: Object, header: Option<&pb::ResponseHeader>) -> Object {
    match header {
        Some(header) => object
            .nonzero("cluster_id", header.cluster_id)
            .nonzero("member_id", header.member_id)
            .nonzero("revision", header.revision)
            .nonzero("raft_term", header.raft_term),
        None => object,
    }
}

fn header(header: &pb::ResponseHeader) -> String {
    header_fields(Object::new(), Some(header)).end()
}

pub(super) fn with_header(from: Option<&pb::ResponseHeader>) -> Object {
    Object::new().some("header", from.map(header))
}

fn pair(pair: &mvccpb::KeyValue) -> String {
    Object::new()
        .some_bytes("key", &pair.key)
        .nonzero("create_revision", pair.create_revision)
        .nonzero("mod_revision", pair.mod_revision)
        .nonzero("version", pair.version)
        .some_bytes("value", &pair.value)
        .nonzero("lease", pair.lease)
        .end()
}

fn range(answer: &pb::RangeResponse) -> String {
    with_header(answer.header.as_ref())
        .list("kvs", answer.kvs.iter().map(pair))
        .when("more", answer.more)
        .nonzero("count", answer.count)
        .end()
}

fn put(answer: &pb::PutResponse) -> String {
    with_header(answer.header.as_ref()).some("prev_kv", answer.prev_kv.as_ref().map(pair)).end()
}

fn del(answer: &pb::DeleteRangeResponse) -> String {
    with_header(answer.header.as_ref())
        .nonzero("deleted", answer.deleted)
        .list("prev_kvs", answer.prev_kvs.iter().map(pair))
        .end()
}

fn txn(answer: &pb::TxnResponse) -> String {
    let operation = |operation: &pb::ResponseOp| {
        let object = Object::new();
        let inner = match &operation.response {
            Some(Response::ResponseRange(answer)) => object.raw("response_range", &range(answer)),
            Some(Response::ResponsePut(answer)) => object.raw("response_put", &put(answer)),
            Some(Response::ResponseDeleteRange(answer)) => {
                object.raw("response_delete_range", &del(answer))
            }
            Some(Response::ResponseTxn(answer)) => object.raw("response_txn", &txn(answer)),
            None => object,
        };
        Object::new().raw("Response", &inner.end()).end()
    };
    with_header(answer.header.as_ref())
        .when("succeeded", answer.succeeded)
        .list("responses", answer.responses.iter().map(operation))
        .end()
}

fn watch(answer: &pb::WatchResponse) -> String {
    let event = |event: &mvccpb::Event| {
        Object::new()
            .nonzero("type", event.r#type)
            .some("kv", event.kv.as_ref().map(pair))
            .some("prev_kv", event.prev_kv.as_ref().map(pair))
            .end()
    };
    Object::new()
        .raw("Header", &header(&answer.header.unwrap_or_default()))
        .raw("Events", &array_or_null(answer.events.iter().map(event)))
        .number("CompactRevision", answer.compact_revision)
        .bool("Canceled", answer.canceled)
        .bool("Created", answer.created)
        .text("CancelReason", &answer.cancel_reason)
        .end()
}

fn members(
    from: Option<pb::ResponseHeader>,
    added: Option<&pb::Member>,
    members: &[pb::Member],
    hex: bool,
) -> String {
    let member = |member: &pb::Member| {
        let object = Object::new();
        let object = if hex {
            object.text("ID", &format!("{:x}", member.id))
        } else {
            object.nonzero("ID", member.id)
        };
        object
            .nonempty("name", &member.name)
            .list("peerURLs", texts(&member.peer_ur_ls))
            .list("clientURLs", texts(&member.client_ur_ls))
            .when("isLearner", member.is_learner)
            .end()
    };
    let added = added.map(member);
    let members = members.iter().map(member);
    if hex {
        let header = from.unwrap_or_default();
        let header = Object::new()
            .text("cluster_id", &format!("{:x}", header.cluster_id))
            .text("member_id", &format!("{:x}", header.member_id))
            .nonzero("revision", header.revision)
            .nonzero("raft_term", header.raft_term)
            .end();
        let object = Object::new().raw("header", &header).some("member", added);
        object.raw("members", &array(members)).end()
    } else {
        with_header(from.as_ref()).some("member", added).list("members", members).end()
    }
}

fn alarm(alarm: &pb::AlarmMember) -> String {
    Object::new().nonzero("memberID", alarm.member_id).nonzero("alarm", alarm.alarm).end()
}

fn health(health: &Health) -> String {
    Object::new()
        .text("endpoint", &health.endpoint)
        .bool("health", health.error.is_empty())
        .text("took", &health.took())
        .nonempty("error", &health.error)
        .end()
}

fn status(answer: &pb::StatusResponse) -> String {
    let downgrade = |info: &pb::DowngradeInfo| {
        Object::new()
            .when("enabled", info.enabled)
            .nonempty("targetVersion", &info.target_version)
            .end()
    };
    with_header(answer.header.as_ref())
        .nonempty("version", &answer.version)
        .nonzero("dbSize", answer.db_size)
        .nonzero("leader", answer.leader)
        .nonzero("raftIndex", answer.raft_index)
        .nonzero("raftTerm", answer.raft_term)
        .nonzero("raftAppliedIndex", answer.raft_applied_index)
        .list("errors", texts(&answer.errors))
        .nonzero("dbSizeInUse", answer.db_size_in_use)
        .when("isLearner", answer.is_learner)
        .nonempty("storageVersion", &answer.storage_version)
        .nonzero("dbSizeQuota", answer.db_size_quota)
        .some("downgradeInfo", answer.downgrade_info.as_ref().map(downgrade))
        .end()
}

fn hash_kv(answer: &pb::HashKvResponse) -> String {
    with_header(answer.header.as_ref())
        .nonzero("hash", answer.hash)
        .nonzero("compact_revision", answer.compact_revision)
        .nonzero("hash_revision", answer.hash_revision)
        .end()
}
