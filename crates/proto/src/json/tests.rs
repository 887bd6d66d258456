//! Messages that are read from JSON and written to it, as etcd's gateway reads and writes them.

use prost::Message as _;

use super::*;
use crate::etcdserverpb::{
    AlarmMember, AlarmResponse, HashKvResponse, LeaseTimeToLiveResponse, PutRequest, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, ResponseOp, StatusResponse, TxnRequest, TxnResponse,
    WatchRequest, WatchResponse, request_op, response_op, watch_request,
};
use crate::mvccpb::{Event, KeyValue};

fn read<M: prost::Message + Default>(message: &'static Message, json: &str) -> Result<M, String> {
    let bytes = decode(message, json.as_bytes()).map_err(|error| error.to_string())?;
    Ok(M::decode(&bytes[..]).expect("the wire form"))
}

fn write(message: &'static Message, form: Form, bytes: &[u8], piece: usize) -> String {
    let mut out = Vec::new();
    let mut writer = Writer::new(message, form, &mut out);
    for piece in bytes.chunks(piece) {
        writer.push(piece, &mut out).expect("a message");
    }
    writer.end(&mut out).expect("whole");
    String::from_utf8(out).expect("text")
}

#[test]
fn requests_are_read_by_both_names_and_in_every_form() {
    let range = |json| read::<RangeRequest>(&ETCDSERVERPB_RANGEREQUEST, json);
    let expected = RangeRequest {
        key: "a".into(),
        range_end: "b".into(),
        limit: 5,
        sort_order: 2,
        keys_only: true,
        ..RangeRequest::default()
    };
    for json in [
        r#"{"key":"YQ==","range_end":"Yg==","limit":"5","sort_order":"DESCEND","keys_only":true}"#,
        r#"{"key":"YQ","rangeEnd":"Yg","limit":5.0,"sortOrder":2,"keysOnly":true}"#,
        r#" {"limit" : 50e-1, "key": "YQ" , "unknown":[{"a":null}], "[x.y]": 1,
            "rangeEnd":"Yg","sortOrder":"DESCEND", "revision":null,"keysOnly":true} "#,
    ] {
        assert_eq!(range(json).as_ref(), Ok(&expected), "{json}");
    }
    assert_eq!(range("{}"), Ok(RangeRequest::default()));
    let bogus = range(r#"{"sort_order":"BOGUS","sort_target":77}"#).expect("discarded");
    assert_eq!((bogus.sort_order, bogus.sort_target), (0, 77));
}

#[test]
fn oneofs_lists_and_messages_in_messages_are_read() {
    let json = r#"{"compare":[{"key":"YQ==","version":"0"},{"target":"VALUE","value":""}],
        "success":[{"request_put":{"key":"YQ=="}},{"requestTxn":{"failure":[{"request_range":{}}]}}],
        "failure":[]}"#;
    let txn: TxnRequest = read(&ETCDSERVERPB_TXNREQUEST, json).expect("valid");
    assert!(txn.compare.iter().all(|compare| compare.target_union.is_some()));
    let op = |request| RequestOp { request: Some(request) };
    let put = PutRequest { key: "a".into(), ..PutRequest::default() };
    let inner = TxnRequest {
        failure: vec![op(request_op::Request::RequestRange(RangeRequest::default()))],
        ..TxnRequest::default()
    };
    assert_eq!(
        txn.success,
        [op(request_op::Request::RequestPut(put)), op(request_op::Request::RequestTxn(inner)),]
    );
    let watch: WatchRequest =
        read(&ETCDSERVERPB_WATCHREQUEST, r#"{"create_request":{"filters":["NOPUT",1,"X",0]}}"#)
            .expect("valid");
    let Some(watch_request::RequestUnion::CreateRequest(create)) = watch.request_union else {
        panic!("a creation")
    };
    assert_eq!(create.filters, [0, 1, 0]);
}

#[test]
fn what_is_decoded_is_as_long_as_gos_encoding() {
    let value = "a".repeat(300);
    let json = format!(r#"{{"success":[{{"request_put":{{"value":"{value}","lease":0}}}}]}}"#);
    let bytes = decode(&ETCDSERVERPB_TXNREQUEST, json.as_bytes()).expect("valid");
    let txn = TxnRequest::decode(&bytes[..]).expect("valid");
    assert_eq!(txn.encode_to_vec(), bytes);
}

#[test]
fn errors_have_gos_words_and_places() {
    for (json, told) in [
        ("[]", "proto: syntax error (line 1:1): unexpected token ["),
        ("null", "proto: syntax error (line 1:1): unexpected token null"),
        ("\"a\"", "proto: syntax error (line 1:1): unexpected token \"a\""),
        ("1e5", "proto: syntax error (line 1:1): unexpected token 1e5"),
        (r#"{"limit":"x"}"#, "proto: (line 1:10): invalid value for int64 field limit: \"x\""),
        (r#"{"limit":1.5}"#, "proto: (line 1:10): invalid value for int64 field limit: 1.5"),
        (
            "{\n \"range_end\": [1]}",
            "proto: (line 2:15): invalid value for bytes field rangeEnd: [",
        ),
        (
            "{\"key\":\"\u{e4}\u{f6}\", \"serializable\":1}",
            "proto: (line 1:8): invalid value for bytes field key: \"\u{e4}\u{f6}\"",
        ),
        (
            "{\"\u{e4}\":\"\u{f6}\", \"serializable\":1}",
            "proto: (line 1:26): invalid value for bool field serializable: 1",
        ),
        (r#"{"key":"","key":""}"#, "proto: (line 1:11): duplicate field \"key\""),
        (r#"{"range_end":null,"rangeEnd":""}"#, "proto: (line 1:19): duplicate field \"rangeEnd\""),
        (
            r#"{"sort_order":true}"#,
            "proto: (line 1:15): invalid value for enum field sortOrder: true",
        ),
        (r#"{"x":"\ud800"}"#, "proto: unexpected EOF"),
        (
            r#"{"x":"\ud800abcdef"}"#,
            "proto: syntax error (line 1:6): invalid escape code \"abcdef\" in string",
        ),
        (
            r#"{"x":"\ud800\u0041"}"#,
            "proto: syntax error (line 1:6): invalid escape code \"\\\\u0041\" in string",
        ),
    ] {
        let told_by_us = read::<RangeRequest>(&ETCDSERVERPB_RANGEREQUEST, json);
        assert_eq!(told_by_us, Err(told.to_owned()), "{json}");
    }
    let bytes = decode(&ETCDSERVERPB_RANGEREQUEST, b"{\"key\":\"\xff\"}");
    let told = "proto: syntax error (line 1:8): invalid UTF-8 in string";
    assert_eq!(bytes, Err(Invalid(told.to_owned())));
    for (json, told) in [
        (
            r#"{"success":[{"request_put":{},"request_range":{}}]}"#,
            "proto: (line 1:31): error parsing \"request_range\", oneof \
             etcdserverpb.RequestOp.request is already set",
        ),
        (r#"{"success":{}}"#, "proto: syntax error (line 1:12): unexpected token {"),
        (r#"{"success":[null]}"#, "proto: syntax error (line 1:13): unexpected token null"),
    ] {
        assert_eq!(read::<TxnRequest>(&ETCDSERVERPB_TXNREQUEST, json), Err(told.to_owned()));
    }
}

#[test]
fn a_deep_transaction_takes_no_stack() {
    let depth = 3_000;
    let json = format!(
        "{}{}",
        "{\"success\":[{\"request_txn\":".repeat(depth) + "{}",
        "}]}".repeat(depth)
    );
    let bytes = decode(&ETCDSERVERPB_TXNREQUEST, json.as_bytes()).expect("valid");
    let text = write(&ETCDSERVERPB_TXNREQUEST, Form::Plain, &bytes, bytes.len());
    assert_eq!(text, json);
}

#[test]
fn answers_are_written_alike_in_any_pieces() {
    let header = Some(ResponseHeader { cluster_id: u64::MAX, revision: -1, ..Default::default() });
    let kv =
        KeyValue { key: "a".into(), lease: 7, value: vec![0xff; 5].into(), ..Default::default() };
    let range =
        RangeResponse { header, kvs: vec![kv.clone(), KeyValue::default()], more: true, count: 2 };
    let json = r#"{"header":{"cluster_id":"18446744073709551615","revision":"-1"},"kvs":[{"key":"YQ==","value":"//////8=","lease":"7"},{}],"more":true,"count":"2"}"#;
    for piece in 1..60 {
        let bytes = range.encode_to_vec();
        assert_eq!(write(&ETCDSERVERPB_RANGERESPONSE, Form::Plain, &bytes, piece), json);
    }
    let op = |response| ResponseOp { response: Some(response) };
    let txn = TxnResponse {
        responses: vec![
            op(response_op::Response::ResponseTxn(TxnResponse::default())),
            op(response_op::Response::ResponseRange(RangeResponse {
                count: 1,
                ..Default::default()
            })),
        ],
        ..TxnResponse::default()
    };
    let json = r#"{"responses":[{"response_txn":{}},{"response_range":{"count":"1"}}]}"#;
    assert_eq!(write(&ETCDSERVERPB_TXNRESPONSE, Form::Plain, &txn.encode_to_vec(), 3), json);
    let watch = WatchResponse {
        events: vec![Event { r#type: 1, kv: Some(kv), prev_kv: None }, Event::default()],
        cancel_reason: "<&\">\u{2028}\n\u{1}".to_owned(),
        ..WatchResponse::default()
    };
    let bytes = watch.encode_to_vec();
    let events =
        r#""events":[{"type":"DELETE","kv":{"key":"YQ==","value":"//////8=","lease":"7"}},{}]}"#;
    let plain = "{\"cancel_reason\":\"<&\\\">\u{2028}\\n\\u0001\",".to_owned() + events;
    assert_eq!(write(&ETCDSERVERPB_WATCHRESPONSE, Form::Plain, &bytes, 9), plain);
    let html = r#"{"cancel_reason":"\u003c\u0026\"\u003e\u2028\n\u0001","#.to_owned() + events;
    assert_eq!(write(&ETCDSERVERPB_WATCHRESPONSE, Form::Html, &bytes, 9), html);
}

#[test]
fn every_kind_of_value_has_its_form() {
    let hash = HashKvResponse { hash: u32::MAX, compact_revision: 3, ..Default::default() };
    let text = write(&ETCDSERVERPB_HASHKVRESPONSE, Form::Plain, &hash.encode_to_vec(), 100);
    assert_eq!(text, r#"{"hash":4294967295,"compact_revision":"3"}"#);
    let alarm = |alarm| AlarmMember { member_id: 1, alarm };
    let alarms = AlarmResponse { alarms: vec![alarm(2), alarm(0), alarm(9)], ..Default::default() };
    let text = write(&ETCDSERVERPB_ALARMRESPONSE, Form::Plain, &alarms.encode_to_vec(), 100);
    assert_eq!(
        text,
        r#"{"alarms":[{"memberID":"1","alarm":"CORRUPT"},{"memberID":"1"},{"memberID":"1","alarm":9}]}"#
    );
    let lease = LeaseTimeToLiveResponse {
        granted_ttl: 5,
        keys: vec!["".into(), "k".into()],
        ..Default::default()
    };
    let text = write(&ETCDSERVERPB_LEASETIMETOLIVERESPONSE, Form::Plain, &lease.encode_to_vec(), 4);
    assert_eq!(text, r#"{"grantedTTL":"5","keys":["","aw=="]}"#);
    let status = StatusResponse {
        errors: vec!["a".into(), "b".into()],
        is_learner: true,
        ..Default::default()
    };
    let text = write(&ETCDSERVERPB_STATUSRESPONSE, Form::Plain, &status.encode_to_vec(), 4);
    assert_eq!(text, r#"{"errors":["a","b"],"isLearner":true}"#);
}

#[test]
fn what_is_no_message_is_refused() {
    for bytes in
        [&[0xff][..], &[0x0a], &[0x0a, 5, 1], &[0x12, 2, 0x0a, 9], &[0x18], &[0x0b], &[0x0d, 1]]
    {
        let mut out = Vec::new();
        let mut writer = Writer::new(&ETCDSERVERPB_RANGERESPONSE, Form::Plain, &mut out);
        let pushed = writer.push(bytes, &mut out);
        assert!(pushed.is_err() || writer.end(&mut out).is_err(), "{bytes:?}");
    }
}

/// The writer writes fields as they come, so the order of numbers must be that of declarations;
/// and the decoder has one bit for each field.
#[test]
fn fields_are_declared_in_the_order_of_their_numbers() {
    let mut seen: Vec<&'static Message> = Vec::new();
    let mut left: Vec<_> =
        METHODS.iter().flat_map(|method| [method.request, method.response]).collect();
    while let Some(message) = left.pop() {
        if seen.iter().any(|known| std::ptr::eq(*known, message)) {
            continue;
        }
        seen.push(message);
        assert!(
            message.fields.len() <= 64 && message.fields.is_sorted_by_key(|field| field.number),
            "{}",
            message.name
        );
        for field in message.fields {
            if let Kind::Message(inner) = field.kind {
                left.push(inner);
            }
        }
    }
    assert!(seen.len() > 80, "{}", seen.len());
}
