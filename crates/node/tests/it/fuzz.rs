//! Requests of clients, almost right: what can be decoded is checked, and refused or sound. How to
//! run these for longer, and a failure again: see the crate `fuzz`.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use base::{ClusterId, MemberId, Rng, Term};
use bytes::Bytes;
use fuzz::{Result, Unstructured, Verdict, fuzz, int, mutate};
use node::requests::check::{
    check_delete_range, check_put, check_range, check_range_stream, check_txn, is_read_only,
    is_serializable,
};
use node::requests::watch::{Limits, Session};
use node::requests::{compactor, versions};
use prost::Message as _;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
};

use crate::store::{Member, put};

/// `--max-txn-ops`.
const OPS_MAX: usize = 128;

fn key(u: &mut Unstructured<'_>) -> Result<Bytes> {
    let keys = [&b"a"[..], b"b", b"c", b"d", b"e", b"f", b"g", b"\0"];
    Ok(Bytes::from_static(if u.ratio(39, 40)? { u.choose(&keys)? } else { b"" }))
}

fn op(u: &mut Unstructured<'_>, depth: u32) -> Result<RequestOp> {
    let request = match u.int_in_range(1..=if depth == 0 { 3 } else { 5 })? {
        _ if !u.ratio(59, 60)? => None,
        1 => Some(Request::RequestRange(RangeRequest {
            key: key(u)?,
            range_end: key(u)?,
            serializable: u.arbitrary()?,
            sort_order: u.int_in_range(-1..=3)?,
            sort_target: u.int_in_range(-1..=5)?,
            ..RangeRequest::default()
        })),
        2 => Some(Request::RequestDeleteRange(DeleteRangeRequest {
            key: key(u)?,
            range_end: key(u)?,
            prev_kv: false,
        })),
        3 => Some(Request::RequestPut(PutRequest {
            key: key(u)?,
            ignore_value: u.ratio(1, 4)?,
            ..PutRequest::default()
        })),
        _ => Some(Request::RequestTxn(txn(u, depth - 1)?)),
    };
    Ok(RequestOp { request })
}

fn txn(u: &mut Unstructured<'_>, depth: u32) -> Result<TxnRequest> {
    let ops = |u: &mut Unstructured<'_>| -> Result<Vec<RequestOp>> {
        (0..u.int_in_range(0..=3)?).map(|_| op(u, depth)).collect()
    };
    let compare = if u.ratio(1, 3)? {
        vec![Compare { key: key(u)?, ..Compare::default() }]
    } else {
        Vec::new()
    };
    Ok(TxnRequest { compare, success: ops(u)?, failure: ops(u)? })
}

/// Transactions inside each other, as the decoded message has them.
fn depth(txn: &TxnRequest) -> usize {
    let inside = txn.success.iter().chain(&txn.failure).filter_map(|op| match &op.request {
        Some(Request::RequestTxn(txn)) => Some(depth(txn)),
        _ => None,
    });
    1 + inside.max().unwrap_or(0)
}

/// What holds of a transaction that was let pass.
fn check_passed(txn: &TxnRequest, budget: usize) {
    let size = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    assert!(size <= budget);
    assert!(txn.compare.iter().all(|compare| !compare.key.is_empty()));
    for op in txn.success.iter().chain(&txn.failure) {
        match op.request.as_ref().expect("an operation") {
            Request::RequestRange(range) => assert!(!range.key.is_empty()),
            Request::RequestPut(put) => assert!(!put.key.is_empty()),
            Request::RequestDeleteRange(delete) => assert!(!delete.key.is_empty()),
            Request::RequestTxn(txn) => check_passed(txn, budget - size),
        }
    }
}

fn check_txn_bytes(u: &mut Unstructured<'_>) -> Result<Verdict> {
    let mut bytes = txn(u, 3)?.encode_to_vec();
    if !u.ratio(31, 32)? {
        // Deeper and deeper, some of it with groups.
        for _ in 0..u.int_in_range(0..=560)? {
            let body = TxnRequest { success: vec![RequestOp::default()], ..TxnRequest::default() };
            let mut outer = vec![0x22];
            prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
            outer.extend(bytes);
            bytes = body.encode_to_vec();
            bytes.truncate(1);
            prost::encoding::encode_varint(outer.len() as u64, &mut bytes);
            bytes.extend(outer);
        }
    }
    if u.ratio(1, 2)? {
        mutate(u, &mut bytes)?;
    }
    let max = u.int_in_range(1..=600)?;
    let shallow = proto::check_nesting(&bytes, max);
    let Ok(request) = proto::decode::<TxnRequest>(&bytes[..]) else { return Ok(Verdict::Refused) };
    // Fields of a oneof that come twice are seen by the scan, and the decoder keeps the last one.
    if depth(&request) > max {
        assert!(shallow.is_err(), "{} levels of {max}", depth(&request));
    }
    if request.encode_to_vec() == bytes {
        assert_eq!(shallow.is_ok(), depth(&request) <= max);
    }
    let checked = check_txn(&request, OPS_MAX);
    if checked.is_ok() {
        check_passed(&request, OPS_MAX);
    }
    if is_serializable(&request) {
        assert!(is_read_only(&request));
    }
    Ok(Verdict::of(&checked))
}

fn check_other_bytes(u: &mut Unstructured<'_>) -> Result<Verdict> {
    let range = RangeRequest {
        key: key(u)?,
        range_end: key(u)?,
        limit: int(u)?.cast_signed(),
        revision: int(u)?.cast_signed(),
        sort_order: u.int_in_range(-1..=3)?,
        sort_target: u.int_in_range(-1..=5)?,
        ..RangeRequest::default()
    };
    let mut bytes = range.encode_to_vec();
    mutate(u, &mut bytes)?;
    let range = proto::decode::<RangeRequest>(&bytes[..]);
    let verdict = range.as_ref().map(|range| {
        drop(check_range_stream(range));
        check_range(range).is_ok()
    });
    // The same bytes as other requests.
    if let Ok(put) = proto::decode::<PutRequest>(&bytes[..]) {
        assert!(check_put(&put).is_err() || !put.key.is_empty());
    }
    if let Ok(delete) = proto::decode::<DeleteRangeRequest>(&bytes[..]) {
        assert!(check_delete_range(&delete).is_err() || !delete.key.is_empty());
    }
    let text = String::from_utf8_lossy(&bytes);
    drop(versions::parse_target(&text));
    let number = int(u)?.cast_signed().to_string();
    for mode in ["periodic", "revision"] {
        drop(compactor::Retention::parse(mode, &number, |_| None));
    }
    Ok(if verdict == Ok(true) { Verdict::Taken } else { Verdict::Refused })
}

#[test]
fn requests_are_refused_or_sound() {
    fuzz("requests", |u| if u.arbitrary()? { check_txn_bytes(u) } else { check_other_bytes(u) });
}

fn watch_request(u: &mut Unstructured<'_>) -> Result<WatchRequest> {
    let number = |u: &mut Unstructured<'_>| -> Result<i64> {
        if u.ratio(3, 4)? { u.int_in_range(-2..=8) } else { Ok(int(u)?.cast_signed()) }
    };
    let union = match u.int_in_range(0..=5)? {
        0 => RequestUnion::ProgressRequest(WatchProgressRequest {}),
        1 => RequestUnion::CancelRequest(WatchCancelRequest { watch_id: number(u)? }),
        _ => RequestUnion::CreateRequest(WatchCreateRequest {
            key: key(u)?,
            range_end: key(u)?,
            start_revision: number(u)?,
            progress_notify: u.arbitrary()?,
            filters: vec![u.int_in_range(-1..=2)?],
            prev_kv: u.arbitrary()?,
            watch_id: number(u)?,
            fragment: u.arbitrary()?,
        }),
    };
    Ok(WatchRequest { request_union: Some(union) })
}

/// A stream of strange watch requests on a store that changes: every request has its answers, and
/// what is answered is a message.
#[test]
fn watch_streams_live_with_any_request() {
    let mut member = Member::new();
    for value in 0..6 {
        member.txn(vec![put("a", &value.to_string())]);
    }
    let shared = member.shared();
    fuzz("watch requests", |u| {
        let limits = Limits {
            progress_interval: Duration::from_secs(1),
            fragment_bytes: u.int_in_range(0..=100)?,
            header: (ClusterId(1), MemberId(1), Term(1)),
        };
        let mut session = Session::new(Arc::clone(&shared), limits, &mut Rng::new(1));
        let (mut taken, mut refused) = (false, false);
        for _ in 0..u.int_in_range(1..=8)? {
            let mut bytes = watch_request(u)?.encode_to_vec();
            if u.arbitrary()? {
                mutate(u, &mut bytes)?;
            }
            match proto::decode::<WatchRequest>(&bytes[..]) {
                Ok(request) => session.handle(request),
                Err(_) => refused = true,
            }
            session.tick();
            // Bounded: nothing is written meanwhile.
            let mut rounds = 0;
            while session.poll(Waker::noop()).unwrap() {
                rounds += 1;
                assert!(rounds < 1_000, "a session without end");
            }
            taken |= !session.take_responses().is_empty();
        }
        Ok(if taken && !refused { Verdict::Taken } else { Verdict::Refused })
    });
}
