//! The fields format: one `"Name" : value` a line.

use std::fmt::{Display, Write as _};

use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;

use super::{Answer, alarm_type, event_type};
use crate::go;

pub(super) fn render(answer: &Answer, hex: bool) -> Vec<u8> {
    let mut fields = Fields::new(hex);
    fields.answer(answer);
    fields.end().into_bytes()
}

pub(super) struct Fields {
    hex: bool,
    out: String,
}

impl Fields {
    pub(super) fn new(hex: bool) -> Fields {
        Fields { hex, out: String::new() }
    }

    pub(super) fn end(self) -> String {
        self.out
    }

    pub(super) fn line(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    pub(super) fn field(&mut self, name: &str, value: impl Display) {
        let _ = writeln!(self.out, "\"{name}\" : {value}");
    }

    pub(super) fn quoted(&mut self, name: &str, value: &[u8]) {
        self.field(name, go::quote(value));
    }

    /// The id of a member or a cluster.
    fn id(&mut self, name: &str, id: u64) {
        if self.hex { self.field(name, format_args!("{id:x}")) } else { self.field(name, id) }
    }

    fn lease(&mut self, name: &str, id: i64) {
        if self.hex { self.field(name, format_args!("{id:016x}")) } else { self.field(name, id) }
    }

    pub(super) fn header(&mut self, header: Option<&pb::ResponseHeader>) {
        let header = header.copied().unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        if header.revision > 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }

    fn pair(&mut self, prefix: &str, pair: &KeyValue) {
        self.quoted(&format!("{prefix}Key"), &pair.key);
        self.field(&format!("{prefix}CreateRevision"), pair.create_revision);
        self.field(&format!("{prefix}ModRevision"), pair.mod_revision);
        self.field(&format!("{prefix}Version"), pair.version);
        self.quoted(&format!("{prefix}Value"), &pair.value);
        self.lease(&format!("{prefix}Lease"), pair.lease);
    }

    fn answer(&mut self, answer: &Answer) {
        match answer {
            Answer::Del(answer) => self.del(answer),
            Answer::Get(answer) => self.get(answer),
            Answer::Put(answer) => self.put(answer),
            Answer::Txn(answer) => self.txn(answer),
            Answer::Watch(answer) => {
                self.header(answer.header.as_ref());
                for event in &answer.events {
                    self.field("Type", event_type(event));
                    if let Some(pair) = &event.prev_kv {
                        self.pair("Prev", pair);
                    }
                    self.pair("", event.kv.as_ref().unwrap_or(&KeyValue::default()));
                }
            }
            Answer::Grant(pb::LeaseGrantResponse { header, id, ttl, .. })
            | Answer::KeepAlive(pb::LeaseKeepAliveResponse { header, id, ttl }) => {
                self.header(header.as_ref());
                self.lease("ID", *id);
                self.field("TTL", ttl);
            }
            Answer::Revoke { answer, .. } => self.header(answer.header.as_ref()),
            Answer::TimeToLive { answer, .. } => {
                self.header(answer.header.as_ref());
                self.lease("ID", answer.id);
                self.field("TTL", answer.ttl);
                self.field("GrantedTTL", answer.granted_ttl);
                for key in &answer.keys {
                    self.quoted("Key", key);
                }
            }
            Answer::Leases(answer) => {
                self.header(answer.header.as_ref());
                for lease in &answer.leases {
                    self.lease("ID", lease.id);
                }
            }
            Answer::Members(answer) => self.members(answer),
            // Refused before.
            Answer::MemberAdded { .. }
            | Answer::MemberChanged { .. }
            | Answer::LeaderMoved { .. }
            | Answer::Downgrade { .. } => {}
            Answer::Alarms(answer) => {
                self.header(answer.header.as_ref());
                for alarm in &answer.alarms {
                    self.id("MemberID", alarm.member_id);
                    self.field("AlarmType", alarm_type(alarm.alarm));
                    self.out.push('\n');
                }
            }
            Answer::Health(list) => {
                for health in list {
                    self.quoted("Endpoint", health.endpoint.as_bytes());
                    self.field("Health", health.error.is_empty());
                    self.field("Took", health.took());
                    self.field("Error", &health.error);
                    self.out.push('\n');
                }
            }
            Answer::Status(list) => {
                for (endpoint, answer) in list {
                    self.status(endpoint, answer);
                }
            }
            Answer::HashKv(list) => {
                for (endpoint, answer) in list {
                    self.header(answer.header.as_ref());
                    self.quoted("Endpoint", endpoint.as_bytes());
                    self.field("Hash", answer.hash);
                    self.field("HashRevision", answer.hash_revision);
                    self.out.push('\n');
                }
            }
        }
    }

    fn del(&mut self, answer: &pb::DeleteRangeResponse) {
        self.header(answer.header.as_ref());
        self.field("Deleted", answer.deleted);
        for pair in &answer.prev_kvs {
            self.pair("Prev", pair);
        }
    }

    fn get(&mut self, answer: &pb::RangeResponse) {
        self.header(answer.header.as_ref());
        for pair in &answer.kvs {
            self.pair("", pair);
        }
        self.field("More", answer.more);
        self.field("Count", answer.count);
    }

    fn put(&mut self, answer: &pb::PutResponse) {
        self.header(answer.header.as_ref());
        if let Some(pair) = &answer.prev_kv {
            self.pair("Prev", pair);
        }
    }

    fn txn(&mut self, answer: &pb::TxnResponse) {
        self.header(answer.header.as_ref());
        self.field("Succeeded", answer.succeeded);
        for operation in &answer.responses {
            match &operation.response {
                Some(Response::ResponseRange(answer)) => self.get(answer),
                Some(Response::ResponsePut(answer)) => self.put(answer),
                Some(Response::ResponseDeleteRange(answer)) => self.del(answer),
                // etcdctl cannot ask for a nested transaction.
                Some(Response::ResponseTxn(_)) | None => self.quoted("Unknown", b""),
            }
        }
    }

    fn members(&mut self, answer: &pb::MemberListResponse) {
        self.header(answer.header.as_ref());
        for member in &answer.members {
            self.id("ID", member.id);
            self.quoted("Name", member.name.as_bytes());
            for url in &member.peer_ur_ls {
                self.quoted("PeerURL", url.as_bytes());
            }
            for url in &member.client_ur_ls {
                self.quoted("ClientURL", url.as_bytes());
            }
            self.field("IsLearner", member.is_learner);
            self.out.push('\n');
        }
    }

    fn status(&mut self, endpoint: &str, answer: &pb::StatusResponse) {
        self.header(answer.header.as_ref());
        self.quoted("Version", answer.version.as_bytes());
        self.quoted("StorageVersion", answer.storage_version.as_bytes());
        self.field("DBSize", answer.db_size);
        self.field("DBSizeInUse", answer.db_size_in_use);
        self.field("DBSizeQuota", answer.db_size_quota);
        self.field("Leader", answer.leader);
        self.field("IsLearner", answer.is_learner);
        self.field("RaftIndex", answer.raft_index);
        self.field("RaftTerm", answer.raft_term);
        self.field("RaftAppliedIndex", answer.raft_applied_index);
        self.field("Errors", format_args!("[{}]", answer.errors.join(" ")));
        self.quoted("Endpoint", endpoint.as_bytes());
        let downgrade = answer.downgrade_info.clone().unwrap_or_default();
        self.quoted("DowngradeTargetVersion", downgrade.target_version.as_bytes());
        self.field("DowngradeEnabled", downgrade.enabled);
        self.out.push('\n');
    }
}
