//! Scripts in `testscripts/store`: commands in etcdctl's words, answers as one would note them.
//! In a key, `NUL` stands for a zero byte.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use base::Revision;
use bytes::Bytes;
use goldenscript::{Argument, Command, Context};
use prost::Message;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, Compare, DeleteRangeRequest, DeleteRangeResponse,
    InternalRaftRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse, response_op,
};
use proto::membershippb::{
    Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest,
};
use proto::mvccpb::KeyValue;
use proto::raftpb::{ConfChange, EntryType};
use store::{Applied, Counts, Response, StoreOptions, read_txn};

use crate::history::ask;
use crate::member::Member;

type Failure = Box<dyn Error>;
type Done<T = String> = Result<T, Failure>;

struct Script {
    member: Member,
    txns: BTreeMap<String, TxnRequest>,
}

/// A command's arguments: words, and words with a value.
#[derive(Default)]
struct Args {
    words: Vec<String>,
    named: Vec<(String, String)>,
}

impl Args {
    fn of(command: &Command) -> Self {
        let mut args = Self::default();
        for arg in &command.args {
            match arg {
                Argument::Positional(word) => args.words.push(word.clone()),
                Argument::KeyValue(name, value) => args.named.push((name.clone(), value.clone())),
                _ => {}
            }
        }
        args
    }

    fn split(text: &str) -> Self {
        let mut args = Self::default();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => args.named.push((name.into(), value.into())),
                None => args.words.push(word.into()),
            }
        }
        args
    }

    fn bytes(&self, at: usize) -> Bytes {
        let word = self.words.get(at).map(String::as_str).unwrap_or_default();
        Bytes::from(word.replace("NUL", "\0"))
    }

    fn flag(&self, name: &str) -> bool {
        self.words.iter().any(|word| word == name)
    }

    fn number(&self, name: &str) -> Done<i64> {
        match self.named.iter().find(|(named, _)| named == name) {
            Some((_, value)) => Ok(value.parse()?),
            None => Ok(0),
        }
    }

    fn text(&self, name: &str) -> &str {
        let found = self.named.iter().find(|(named, _)| named == name);
        found.map_or("", |(_, value)| value)
    }

    /// The words before flags.
    fn put(&self) -> Done<PutRequest> {
        Ok(PutRequest {
            key: self.bytes(0),
            value: if self.flag("ignore_value") { Bytes::new() } else { self.bytes(1) },
            lease: self.number("lease")?,
            prev_kv: self.flag("prev"),
            ignore_value: self.flag("ignore_value"),
            ignore_lease: self.flag("ignore_lease"),
        })
    }

    fn delete(&self) -> DeleteRangeRequest {
        let range_end = Bytes::from(self.text("end").replace("NUL", "\0"));
        DeleteRangeRequest { key: self.bytes(0), range_end, prev_kv: self.flag("prev") }
    }

    fn range(&self) -> Done<RangeRequest> {
        let one_of = |name: &str, choices: &[&str]| {
            let text = self.text(name);
            choices.iter().position(|choice| *choice == text).unwrap_or(0) as i32
        };
        Ok(RangeRequest {
            key: self.bytes(0),
            range_end: Bytes::from(self.text("end").replace("NUL", "\0")),
            limit: self.number("limit")?,
            revision: self.number("rev")?,
            sort_order: one_of("order", &["none", "ascend", "descend"]),
            sort_target: one_of("sort", &["key", "version", "create", "mod", "value"]),
            keys_only: self.flag("keys_only"),
            count_only: self.flag("count_only"),
            min_mod_revision: self.number("min_mod")?,
            max_mod_revision: self.number("max_mod")?,
            min_create_revision: self.number("min_create")?,
            max_create_revision: self.number("max_create")?,
            serializable: false,
        })
    }
}

/// `version(a) > 1`, `value(b,c) = x`: a compare over a key or an interval.
fn compare(text: &str) -> Done<Compare> {
    let (left, right) = text.split_once(") ").ok_or("target(key) op operand")?;
    let (target, keys) = left.split_once('(').ok_or("target(key)")?;
    let (key, range_end) = keys.split_once(',').unwrap_or((keys, ""));
    let (op, operand) = right.split_once(' ').unwrap_or((right, ""));
    let result = ["=", ">", "<", "!="].iter().position(|known| *known == op).ok_or("op")? as i32;
    let number = || operand.parse::<i64>();
    let (target, union) = match target {
        "version" => (0, TargetUnion::Version(number()?)),
        "create" => (1, TargetUnion::CreateRevision(number()?)),
        "mod" => (2, TargetUnion::ModRevision(number()?)),
        "value" => (3, TargetUnion::Value(Bytes::copy_from_slice(operand.as_bytes()))),
        "lease" => (4, TargetUnion::Lease(number()?)),
        other => return Err(format!("unknown target {other}").into()),
    };
    let bytes = |text: &str| Bytes::from(text.replace("NUL", "\0"));
    let (key, range_end) = (bytes(key), bytes(range_end));
    Ok(Compare { result, target, key, range_end, target_union: Some(union) })
}

fn show_kv(kv: &KeyValue) -> String {
    let text = |bytes: &Bytes| bytes.escape_ascii().to_string();
    let mut out = format!(
        "{}={} (create {}, mod {}, version {}",
        text(&kv.key),
        text(&kv.value),
        kv.create_revision,
        kv.mod_revision,
        kv.version
    );
    if kv.lease != 0 {
        let _ = write!(out, ", lease {}", kv.lease);
    }
    out + ")"
}

fn show_header(header: &Option<ResponseHeader>) -> String {
    header.as_ref().map_or("no header".into(), |header| format!("revision {}", header.revision))
}

fn show_put(answer: &PutResponse, out: &mut Vec<String>) {
    out.push(format!("put: {}", show_header(&answer.header)));
    out.extend(answer.prev_kv.iter().map(|kv| format!("  was {}", show_kv(kv))));
}

fn show_delete(answer: &DeleteRangeResponse, out: &mut Vec<String>) {
    out.push(format!("deleted {}: {}", answer.deleted, show_header(&answer.header)));
    out.extend(answer.prev_kvs.iter().map(|kv| format!("  was {}", show_kv(kv))));
}

fn show_range(answer: &RangeResponse, out: &mut Vec<String>) {
    let more = if answer.more { ", more" } else { "" };
    out.push(format!("count {}{more}: {}", answer.count, show_header(&answer.header)));
    out.extend(answer.kvs.iter().map(|kv| format!("  {}", show_kv(kv))));
}

fn show_txn(answer: &TxnResponse, out: &mut Vec<String>) {
    let branch = if answer.succeeded { "then" } else { "else" };
    out.push(format!("{branch}: {}", show_header(&answer.header)));
    for response in &answer.responses {
        use response_op::Response::*;
        let mut inner = vec![];
        match &response.response {
            Some(ResponseRange(answer)) => show_range(answer, &mut inner),
            Some(ResponsePut(answer)) => show_put(answer, &mut inner),
            Some(ResponseDeleteRange(answer)) => show_delete(answer, &mut inner),
            Some(ResponseTxn(answer)) => show_txn(answer, &mut inner),
            None => inner.push("nothing".into()),
        }
        out.extend(inner.into_iter().map(|line| format!("  {line}")));
    }
}

fn show(applied: Applied) -> Done {
    let mut out = vec![];
    if applied.raise_no_space {
        out.push("(raises NOSPACE)".into());
    }
    if applied.force_snapshot {
        out.push("(forces a snapshot)".into());
    }
    match applied.result {
        Err(error) => out.push(format!("refused: {error}")),
        Ok(Response::Put(answer)) => show_put(&answer, &mut out),
        Ok(Response::DeleteRange(answer)) => show_delete(&answer, &mut out),
        Ok(Response::Range(answer)) => show_range(&answer, &mut out),
        Ok(Response::Txn(answer)) => show_txn(&answer, &mut out),
        Ok(Response::Compaction(answer)) => {
            out.push(format!("compacted: {}", show_header(&answer.header)));
        }
        Ok(Response::LeaseGrant(answer)) => {
            let header = show_header(&answer.header);
            out.push(format!("lease {} for {} s: {header}", answer.id, answer.ttl));
        }
        Ok(Response::LeaseRevoke(answer)) => {
            out.push(format!("revoked: {}", show_header(&answer.header)));
        }
        Ok(Response::Alarm(answer)) => {
            let alarms = answer.alarms.iter();
            out.extend(
                alarms.map(|alarm| format!("member {} alarm {}", alarm.member_id, alarm.alarm)),
            );
        }
        Ok(Response::LeaseCheckpoint | Response::Empty) => {}
    }
    if let Some(changed) = applied.conf_change {
        if let Some(error) = changed.refused {
            out.push(format!("refused: {error}"));
        }
        out.push(format!("to raft: member {:x}", changed.change.node_id()));
        out.extend(changed.members.iter().map(store::Member::to_json));
    }
    Ok(out.join("\n"))
}

impl Script {
    fn txn(&self, args: &Args) -> Done<TxnRequest> {
        let mut txn = TxnRequest::default();
        for (name, text) in &args.named {
            match name.as_str() {
                "if" => txn.compare.push(compare(text)?),
                "then" => txn.success.push(self.op(text)?),
                "else" => txn.failure.push(self.op(text)?),
                other => return Err(format!("unknown part {other}").into()),
            }
        }
        Ok(txn)
    }

    fn op(&self, text: &str) -> Done<RequestOp> {
        let (verb, rest) = text.split_once(' ').ok_or("an operation")?;
        let args = Args::split(rest);
        let request = match verb {
            "put" => Op::RequestPut(args.put()?),
            "get" => Op::RequestRange(args.range()?),
            "del" => Op::RequestDeleteRange(args.delete()),
            "txn" => Op::RequestTxn(self.txns.get(rest).ok_or("not defined")?.clone()),
            other => return Err(format!("unknown operation {other}").into()),
        };
        Ok(RequestOp { request: Some(request) })
    }

    fn apply(&mut self, request: InternalRaftRequest) -> Done {
        show(self.member.try_apply(request)?)
    }

    fn conf_change(&mut self, args: &Args) -> Done {
        let kinds = ["add", "remove", "update", "learner"];
        let kind = kinds.iter().position(|kind| args.words[0] == *kind);
        let change = ConfChange {
            id: Some(1),
            r#type: Some(kind.map_or(9, |kind| kind as i32)),
            node_id: Some(args.number("id")? as u64),
            context: Some(Bytes::copy_from_slice(args.text("context").as_bytes())),
        };
        show(self.member.change(&change)?)
    }

    /// Requests that go through the log. `None` for other commands.
    fn request(&mut self, verb: &str, args: &Args) -> Done<Option<InternalRaftRequest>> {
        let id = |at: usize| -> Done<i64> { Ok(args.words.get(at).ok_or("an id")?.parse()?) };
        let mut request = InternalRaftRequest::default();
        match verb {
            "put" => request.put = Some(args.put()?),
            "del" => request.delete_range = Some(args.delete()),
            "txn" => request.txn = Some(self.txn(args)?),
            "compact" => {
                request.compaction = Some(CompactionRequest { revision: id(0)?, physical: false });
            }
            "grant" => {
                request.lease_grant = Some(LeaseGrantRequest { id: id(0)?, ttl: id(1)? });
            }
            "revoke" => request.lease_revoke = Some(LeaseRevokeRequest { id: id(0)? }),
            "alarm" => {
                let actions = ["list", "raise", "clear"];
                let action = actions.iter().position(|action| args.words[0] == *action);
                request.alarm = Some(AlarmRequest {
                    action: action.map_or(7, |action| action as i32),
                    member_id: args.number("member")? as u64,
                    alarm: args.number("type")? as i32,
                });
            }
            "version" => {
                let ver = args.words[0].clone();
                request.cluster_version_set = Some(ClusterVersionSetRequest { ver });
            }
            "downgrade" => {
                let ver = args.words.first().cloned().unwrap_or_default();
                let enabled = !ver.is_empty();
                request.downgrade_info_set = Some(DowngradeInfoSetRequest { enabled, ver });
            }
            "attributes" => {
                let client_urls = vec![args.text("url").to_owned()];
                let name = args.text("name").to_owned();
                request.cluster_member_attr_set = Some(ClusterMemberAttrSetRequest {
                    member_id: args.number("member")? as u64,
                    member_attributes: Some(Attributes { name, client_urls }),
                });
            }
            "unknown" => {}
            _ => return Ok(None),
        }
        Ok(Some(request))
    }

    fn look(&mut self, verb: &str, args: &Args) -> Done {
        let mut out = vec![];
        let view = self.member.view();
        match verb {
            "get" => show_range(&ask(&view, &args.range()?)?, &mut out),
            "read" => {
                let mut counts = Counts::default();
                show_txn(&read_txn(&view, &self.txn(args)?, &mut counts)?, &mut out);
            }
            "hash" => {
                let at = args.words.first().map_or(Ok(0), |at| at.parse())?;
                let hash = view.hash_kv(Revision(at))?;
                let (compacted, at) = (hash.compact_revision, hash.hash_revision);
                out.push(format!("{} compacted {compacted} at {at}", hash.hash));
            }
            "changes" => {
                let from = Revision(args.words[0].parse()?);
                let next = view.changes(from, 100, 1 << 20, &mut |change| {
                    let kind = if change.tombstone { "delete" } else { "put" };
                    let kv = KeyValue::decode(change.row.clone()).expect("a row");
                    out.push(format!("{} {kind} {}", change.at, show_kv(&kv)));
                })?;
                out.push(format!("next {next}"));
            }
            "before" => {
                let row = view.before(&args.bytes(0), Revision(args.words[1].parse()?))?;
                let kv = row.map(|row| KeyValue::decode(row).expect("a row"));
                out.push(kv.as_ref().map_or("nothing".into(), show_kv));
            }
            "rows" => {
                self.member.flush();
                let view = self.member.view();
                let bucket = args.words[0].as_bytes();
                for row in view.database().scan(bucket, b"") {
                    let (key, value) = row?;
                    out.push(format!("{} = {}", key.escape_ascii(), value.escape_ascii()));
                }
            }
            "status" => {
                let shared = self.member.shared();
                let (cluster, storage) = (shared.cluster_version(), shared.storage_version());
                out.push(format!("cluster {cluster:?} storage {storage:?}"));
                let removed = shared.removed_members();
                out.push(format!("{:?} removed {removed:?}", shared.downgrade()));
                let size = shared.index_size();
                out.push(format!("{} keys, {} revisions", size.keys, size.revisions));
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(out.join("\n"))
    }
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Done {
        let args = Args::of(command);
        let verb = command.name.as_str();
        if let Some(request) = self.request(verb, &args)? {
            return self.apply(request);
        }
        match verb {
            "options" => {
                let quota = args.number("quota")? as u64;
                self.member = Member::new(StoreOptions {
                    quota_bytes: Some(quota).filter(|quota| *quota > 0),
                    compaction_batch: args.number("batch")?.max(1) as usize,
                    ..StoreOptions::default()
                });
            }
            "define" => {
                let txn = self.txn(&args)?;
                self.txns.insert(args.words[0].clone(), txn);
            }
            "conf" => return self.conf_change(&args),
            "entry" => {
                let kind = if args.number("type")? == 2 {
                    EntryType::EntryConfChangeV2
                } else {
                    EntryType::EntryNormal
                };
                let entry = self.member.entry(kind, args.bytes(0).to_vec());
                return show(self.member.store().apply(&entry, base::Moment::default())?);
            }
            "commit" => self.member.flush(),
            "crash" => self.member.crash(),
            "slice" => {
                let more = self.member.store().compact_slice()?;
                return Ok(if more { "more" } else { "done" }.into());
            }
            "sweep" => self.member.sweep(),
            _ => return self.look(verb, &args),
        }
        Ok(String::new())
    }
}

#[test]
fn scripts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/store");
    let mut scripts: Vec<_> = std::fs::read_dir(root)
        .expect("scripts")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    for path in scripts {
        let member = Member::new(StoreOptions::default());
        let mut script = Script { member, txns: BTreeMap::new() };
        goldenscript::run(&mut script, path).expect("a script");
    }
}
