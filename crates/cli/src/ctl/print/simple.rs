//! The simple format: short lines for people and shell scripts.

use std::fmt::Write as _;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;

use super::table::{hash_rows, member_rows, status_rows};
use super::{Answer, Health, Text, alarm_type, event_type};
use crate::go;

pub(super) fn render(answer: &Answer, hex: bool, value_only: bool) -> Text {
    let mut simple = Simple { hex, value_only, text: Text::default() };
    simple.answer(answer);
    simple.text
}

fn cluster(header: Option<&pb::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.cluster_id)
}

struct Simple {
    hex: bool,
    value_only: bool,
    text: Text,
}

impl Simple {
    fn line(&mut self, line: &str) {
        self.text.out.extend_from_slice(line.as_bytes());
        self.text.out.push(b'\n');
    }

    fn answer(&mut self, answer: &Answer) {
        match answer {
            Answer::Del(answer) => self.del(answer),
            Answer::Get(answer) => self.get(answer),
            Answer::Put(answer) => self.put(answer),
            Answer::Txn(answer) => self.txn(answer),
            Answer::Watch(answer) => self.watch(answer),
            Answer::Grant(answer) => {
                let line = format!("lease {:016x} granted with TTL({}s)", answer.id, answer.ttl);
                self.line(&line);
            }
            Answer::Revoke { id, .. } => self.line(&format!("lease {id:016x} revoked")),
            Answer::KeepAlive(answer) => {
                let line = format!("lease {:016x} keepalived with TTL({})", answer.id, answer.ttl);
                self.line(&line);
            }
            Answer::TimeToLive { answer, keys } => self.time_to_live(answer, *keys),
            Answer::Leases(answer) => {
                self.line(&format!("found {} leases", answer.leases.len()));
                for lease in &answer.leases {
                    self.line(&format!("{:016x}", lease.id));
                }
            }
            Answer::Members(answer) => self.rows(member_rows(answer)),
            Answer::MemberAdded { answer, name, urls } => self.added(answer, name, urls),
            Answer::MemberChanged { id, how, answer } => {
                let cluster = cluster(answer.header.as_ref());
                self.line(&format!("Member {id:16x} {how} cluster {cluster:16x}"));
            }
            Answer::LeaderMoved { from, to } => {
                self.line(&format!("Leadership transferred from {from:x} to {to:x}"));
            }
            Answer::Downgrade { step, answer } => {
                let version = &answer.version;
                self.line(&format!("Downgrade {step} success, cluster version {version}"));
            }
            Answer::Alarms(answer) => {
                for alarm in &answer.alarms {
                    self.alarm(alarm);
                }
            }
            Answer::Health(list) => self.health(list),
            Answer::Status(list) => self.rows(status_rows(list)),
            Answer::HashKv(list) => self.rows(hash_rows(list)),
        }
    }

    fn rows(&mut self, rows: Vec<Vec<String>>) {
        for row in rows {
            self.line(&row.join(", "));
        }
    }

    /// What happened, and what to start the new member with.
    fn added(&mut self, answer: &pb::MemberAddResponse, name: &str, urls: &str) {
        let member = answer.member.clone().unwrap_or_default();
        let how = if member.is_learner { "added as learner to" } else { "added to" };
        let cluster = cluster(answer.header.as_ref());
        self.line(&format!("Member {:16x} {how} cluster {cluster:16x}", member.id));
        let all = answer.members.iter().flat_map(|other| {
            let name = if other.id == member.id { name } else { &other.name };
            other.peer_ur_ls.iter().map(move |url| format!("{name}={url}"))
        });
        let all = all.collect::<Vec<_>>().join(",");
        self.line("");
        for (variable, value) in [
            ("ETCD_NAME", name),
            ("ETCD_INITIAL_CLUSTER", all.as_str()),
            ("ETCD_INITIAL_ADVERTISE_PEER_URLS", urls),
            ("ETCD_INITIAL_CLUSTER_STATE", "existing"),
        ] {
            self.line(&format!("{variable}={}", go::quote(value.as_bytes())));
        }
    }

    fn pair(&mut self, pair: &KeyValue) {
        if !self.value_only {
            self.bytes(&pair.key);
        }
        self.bytes(&pair.value);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.hex {
            let mut text = String::with_capacity(bytes.len() * 4);
            for byte in bytes {
                let _ = write!(text, "\\x{byte:02x}");
            }
            self.line(&text);
        } else {
            self.text.out.extend_from_slice(bytes);
            self.text.out.push(b'\n');
        }
    }

    fn del(&mut self, answer: &pb::DeleteRangeResponse) {
        self.line(&answer.deleted.to_string());
        for pair in &answer.prev_kvs {
            self.pair(pair);
        }
    }

    fn get(&mut self, answer: &pb::RangeResponse) {
        for pair in &answer.kvs {
            self.pair(pair);
        }
    }

    fn put(&mut self, answer: &pb::PutResponse) {
        self.line("OK");
        if let Some(pair) = &answer.prev_kv {
            self.pair(pair);
        }
    }

    fn txn(&mut self, answer: &pb::TxnResponse) {
        self.line(if answer.succeeded { "SUCCESS" } else { "FAILURE" });
        for operation in &answer.responses {
            self.line("");
            match &operation.response {
                Some(Response::ResponseRange(answer)) => self.get(answer),
                Some(Response::ResponsePut(answer)) => self.put(answer),
                Some(Response::ResponseDeleteRange(answer)) => self.del(answer),
                // etcdctl cannot ask for a nested transaction.
                Some(Response::ResponseTxn(_)) | None => self.line("unexpected response"),
            }
        }
    }

    fn watch(&mut self, answer: &pb::WatchResponse) {
        for event in &answer.events {
            self.line(event_type(event));
            if let Some(pair) = &event.prev_kv {
                self.pair(pair);
            }
            self.pair(event.kv.as_ref().unwrap_or(&KeyValue::default()));
        }
    }

    fn time_to_live(&mut self, answer: &pb::LeaseTimeToLiveResponse, keys: bool) {
        let pb::LeaseTimeToLiveResponse { id, ttl, granted_ttl, .. } = answer;
        if *granted_ttl == 0 && *ttl == -1 {
            self.line(&format!("lease {id:016x} already expired"));
            return;
        }
        let line = format!("lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)");
        self.text.out.extend_from_slice(line.as_bytes());
        if keys {
            self.text.out.extend_from_slice(b", attached keys([");
            self.text.out.extend_from_slice(&answer.keys.join(&b' '));
            self.text.out.extend_from_slice(b"])");
        }
        self.line("");
    }

    /// As Go's text form of the message, which leaves zero fields out.
    fn alarm(&mut self, alarm: &pb::AlarmMember) {
        let mut fields = Vec::new();
        if alarm.member_id != 0 {
            fields.push(format!("memberID:{}", alarm.member_id));
        }
        if alarm.alarm != 0 {
            fields.push(format!("alarm:{}", alarm_type(alarm.alarm)));
        }
        self.line(&fields.join(" "));
    }

    fn health(&mut self, list: &[Health]) {
        for health in list {
            let endpoint = &health.endpoint;
            if health.error.is_empty() {
                self.line(&format!(
                    "{endpoint} is healthy: successfully committed proposal: took = {}",
                    health.took()
                ));
            } else {
                let error = &health.error;
                let line = format!("{endpoint} is unhealthy: failed to commit proposal: {error}\n");
                self.text.err.extend_from_slice(line.as_bytes());
            }
        }
    }
}
