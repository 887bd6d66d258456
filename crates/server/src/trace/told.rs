//! Requests as log lines show them.
//!
//! *Invariants.* Values of keys are shown by their size, and what may hold a password not at all.
//! A text is bounded by [`TEXT_MAX`].
//!
//! *Contract.* The `Loggable…` forms in `api/etcdserverpb/raft_internal_stringer.go` of etcd
//! v3.7.1, and protobuf's text format on one line, where etcd's own library varies the spaces.

use std::fmt::Write;

use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};

/// Bytes of a text; what is longer is cut.
const TEXT_MAX: usize = 64 * 1024;

/// Fields of a message, as they are shown.
#[derive(Default)]
struct Fields(String);

impl Fields {
    fn add(&mut self, name: &str, value: &dyn std::fmt::Display) -> &mut Self {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        // Writing to memory cannot fail.
        let _always = write!(self.0, "{name}:{value}");
        self
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> &mut Self {
        if bytes.is_empty() { self } else { self.add(name, &quoted(bytes)) }
    }

    fn number(&mut self, name: &str, number: i64) -> &mut Self {
        if number == 0 { self } else { self.add(name, &number) }
    }

    fn flag(&mut self, name: &str, flag: bool) -> &mut Self {
        if flag { self.add(name, &true) } else { self }
    }
}

/// Cuts a text that is too long.
fn bounded(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.push_str("...");
    }
    text
}

fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\0'..' ' | '\x7f' => text.push_str(&format!("\\x{:02x}", u32::from(letter))),
                _ => text.push(letter),
            }
        }
        for byte in chunk.invalid() {
            let _always = write!(text, "\\x{byte:02x}");
        }
    }
    text.push('"');
    text
}

/// A put, without its value.
pub(super) fn put(request: &PutRequest) -> String {
    let size = i64::try_from(request.value.len()).unwrap_or(i64::MAX);
    let mut fields = Fields::default();
    fields
        .bytes("key", &request.key)
        .number("value_size", size)
        .number("lease", request.lease)
        .flag("prev_kv", request.prev_kv)
        .flag("ignore_value", request.ignore_value)
        .flag("ignore_lease", request.ignore_lease);
    bounded(fields.0 + " ")
}

/// A range.
pub(super) fn range(request: &RangeRequest) -> String {
    let mut fields = Fields::default();
    fields
        .bytes("key", &request.key)
        .bytes("range_end", &request.range_end)
        .number("limit", request.limit)
        .number("revision", request.revision);
    if let Ok(order) = SortOrder::try_from(request.sort_order)
        && order != SortOrder::None
    {
        fields.add("sort_order", &order.as_str_name());
    }
    if let Ok(target) = SortTarget::try_from(request.sort_target)
        && target != SortTarget::Key
    {
        fields.add("sort_target", &target.as_str_name());
    }
    fields
        .flag("serializable", request.serializable)
        .flag("keys_only", request.keys_only)
        .flag("count_only", request.count_only)
        .number("min_mod_revision", request.min_mod_revision)
        .number("max_mod_revision", request.max_mod_revision)
        .number("min_create_revision", request.min_create_revision)
        .number("max_create_revision", request.max_create_revision);
    bounded(fields.0)
}

/// A deletion.
pub(super) fn delete_range(request: &DeleteRangeRequest) -> String {
    let mut fields = Fields::default();
    fields
        .bytes("key", &request.key)
        .bytes("range_end", &request.range_end)
        .flag("prev_kv", request.prev_kv);
    bounded(fields.0)
}

fn compaction(request: &CompactionRequest) -> String {
    let mut fields = Fields::default();
    fields.number("revision", request.revision).flag("physical", request.physical);
    fields.0
}

fn compare(compare: &Compare) -> String {
    let mut fields = Fields::default();
    if let Ok(result) = CompareResult::try_from(compare.result)
        && result != CompareResult::Equal
    {
        fields.add("result", &result.as_str_name());
    }
    if let Ok(target) = CompareTarget::try_from(compare.target)
        && target != CompareTarget::Version
    {
        fields.add("target", &target.as_str_name());
    }
    fields.bytes("key", &compare.key);
    match &compare.target_union {
        Some(TargetUnion::Value(value)) => {
            let size = i64::try_from(value.len()).unwrap_or(i64::MAX);
            fields.number("value_size", size);
            fields.bytes("range_end", &compare.range_end);
            return fields.0 + " ";
        }
        Some(TargetUnion::Version(number)) => fields.add("version", number),
        Some(TargetUnion::CreateRevision(number)) => fields.add("create_revision", number),
        Some(TargetUnion::ModRevision(number)) => fields.add("mod_revision", number),
        Some(TargetUnion::Lease(number)) => fields.add("lease", number),
        None => &mut fields,
    };
    fields.bytes("range_end", &compare.range_end);
    fields.0
}

fn operation(operation: &RequestOp) -> String {
    match &operation.request {
        Some(Request::RequestPut(request)) => format!("request_put:<{}>", put(request)),
        Some(Request::RequestTxn(request)) => format!("request_txn:<{}>", txn(request)),
        Some(Request::RequestRange(request)) => format!("request_range:{{{}}}", range(request)),
        Some(Request::RequestDeleteRange(request)) => {
            format!("request_delete_range:{{{}}}", delete_range(request))
        }
        None => String::new(),
    }
}

/// A transaction.
pub(super) fn txn(request: &TxnRequest) -> String {
    let compares: Vec<_> = request.compare.iter().map(compare).collect();
    let operations = |list: &[RequestOp]| list.iter().map(operation).collect::<Vec<_>>().join(" ");
    let (success, failure) = (operations(&request.success), operations(&request.failure));
    let compares = compares.join(" ");
    let text = format!("compare:<{compares}> success:<{success}> failure:<{failure}>");
    bounded(text)
}

/// An entry of the log.
pub(super) fn entry(request: &InternalRaftRequest) -> String {
    let id = request.header.as_ref().map_or(0, |header| header.id);
    let angled = |name: &str, text: String| format!("header:<ID:{id}> {name}:<{text}>");
    let curled = |name: &str, text: String| format!("header:{{ID:{id}}} {name}:{{{text}}}");
    if let Some(request) = &request.put {
        angled("put", put(request))
    } else if let Some(request) = &request.txn {
        angled("txn", txn(request))
    } else if let Some(request) = &request.lease_grant {
        let text = format!("ttl:{}-second id:{:016x}", request.ttl, request.id);
        angled("lease_grant", text)
    } else if let Some(request) = &request.lease_revoke {
        angled("lease_revoke", format!("id:{:016x}", request.id))
    } else if let Some(request) = &request.delete_range {
        curled("delete_range", delete_range(request))
    } else if let Some(request) = &request.compaction {
        curled("compaction", compaction(request))
    } else {
        format!("header:{{ID:{id}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_in_etcds_form() {
        let small = PutRequest { key: "a\"b".into(), value: "hello".into(), ..Default::default() };
        assert_eq!(put(&small), "key:\"a\\\"b\" value_size:5 ");
        let wide = RangeRequest {
            key: vec![0, 0xff, b'\n'].into(),
            range_end: "é".into(),
            sort_order: SortOrder::Descend as i32,
            serializable: true,
            ..RangeRequest::default()
        };
        let told = "key:\"\\x00\\xff\\n\" range_end:\"é\" sort_order:DESCEND serializable:true";
        assert_eq!(range(&wide), told);
        let whole = TxnRequest {
            compare: vec![Compare {
                target: CompareTarget::Value as i32,
                key: "a".into(),
                target_union: Some(TargetUnion::Value("1".into())),
                ..Compare::default()
            }],
            success: vec![RequestOp { request: Some(Request::RequestPut(small)) }],
            failure: vec![],
        };
        let told = "compare:<target:VALUE key:\"a\" value_size:1 > \
                    success:<request_put:<key:\"a\\\"b\" value_size:5 >> failure:<>";
        assert_eq!(txn(&whole), told);
        assert_eq!(txn(&TxnRequest::default()), "compare:<> success:<> failure:<>");
    }

    #[test]
    fn a_long_text_is_cut() {
        let key = "é".repeat(TEXT_MAX).into();
        let text = range(&RangeRequest { key, ..RangeRequest::default() });
        assert!(text.len() <= TEXT_MAX + 3 && text.ends_with("é..."));
    }

    #[test]
    fn a_password_is_not_told() {
        let request = InternalRaftRequest {
            auth_user_add: Some(proto::etcdserverpb::AuthUserAddRequest {
                password: "secret".into(),
                ..Default::default()
            }),
            ..InternalRaftRequest::default()
        };
        assert_eq!(entry(&request), "header:{ID:0}");
    }
}
