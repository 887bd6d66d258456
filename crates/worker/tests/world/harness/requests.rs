//! Random requests over few keys, so that they meet.

use base::{Revision, Rng};
use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

const KEYS: u64 = 24;
const LEASES: u64 = 4;

fn key(rng: &mut Rng) -> Bytes {
    Bytes::from(format!("key/{:02}", rng.below(KEYS)))
}

fn value(rng: &mut Rng) -> Bytes {
    let bytes = match rng.below(12) {
        0 => 0,
        1..=8 => rng.below(40),
        9 | 10 => rng.below(900),
        // Larger than a page of the database.
        _ => 4_000 + rng.below(3_000),
    };
    let fill = b'a' + u8::try_from(rng.below(26)).unwrap_or(0);
    Bytes::from(vec![fill; usize::try_from(bytes).unwrap_or(0)])
}

fn put(rng: &mut Rng) -> PutRequest {
    // Some of these leases do not exist: such a put is refused.
    let lease = if rng.one_in(6) { lease(rng) } else { 0 };
    PutRequest { key: key(rng), value: value(rng), lease, ..PutRequest::default() }
}

fn lease(rng: &mut Rng) -> i64 {
    1 + i64::try_from(rng.below(LEASES)).unwrap_or(0)
}

fn delete(rng: &mut Rng) -> DeleteRangeRequest {
    let range_end = if rng.one_in(3) { key(rng) } else { Bytes::new() };
    DeleteRangeRequest { key: key(rng), range_end, prev_kv: rng.one_in(2) }
}

/// A transaction that changes a key twice never gets into the log.
fn unused(rng: &mut Rng, used: &mut Vec<Bytes>) -> Bytes {
    loop {
        let key = key(rng);
        if !used.contains(&key) {
            used.push(key.clone());
            return key;
        }
    }
}

fn operation(rng: &mut Rng, used: &mut Vec<Bytes>) -> RequestOp {
    let request = match rng.below(4) {
        0 => Request::RequestRange(RangeRequest { key: key(rng), ..RangeRequest::default() }),
        1 => {
            let key = unused(rng, used);
            let delete = DeleteRangeRequest { key, range_end: Bytes::new(), ..delete(rng) };
            Request::RequestDeleteRange(delete)
        }
        _ => Request::RequestPut(PutRequest { key: unused(rng, used), lease: 0, ..put(rng) }),
    };
    RequestOp { request: Some(request) }
}

fn txn(rng: &mut Rng) -> TxnRequest {
    let compare = Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Version.into(),
        key: key(rng),
        target_union: Some(TargetUnion::Version(i64::try_from(rng.below(3)).unwrap_or(0))),
        ..Compare::default()
    };
    let branch = |rng: &mut Rng| {
        let mut used = Vec::new();
        (0..rng.below(4)).map(|_| operation(rng, &mut used)).collect()
    };
    TxnRequest { compare: vec![compare], success: branch(rng), failure: branch(rng) }
}

/// A request that a member might have let into its log.
pub(crate) fn draw(rng: &mut Rng, revision: Revision) -> InternalRaftRequest {
    let mut request = InternalRaftRequest::default();
    match rng.below(20) {
        0..=9 => request.put = Some(put(rng)),
        10 | 11 => request.delete_range = Some(delete(rng)),
        12..=15 => request.txn = Some(txn(rng)),
        16 => {
            let ttl = 1 + i64::try_from(rng.below(5)).unwrap_or(0);
            request.lease_grant = Some(LeaseGrantRequest { id: lease(rng), ttl });
        }
        17 => request.lease_revoke = Some(LeaseRevokeRequest { id: lease(rng) }),
        18 if revision.0 > 8 => {
            // Never the newest: a hash at the compaction's own revision depends on when the
            // compaction was done.
            let back = 2 + i64::try_from(rng.below(6)).unwrap_or(0);
            let compaction = CompactionRequest { revision: revision.0 - back, physical: false };
            request.compaction = Some(compaction);
        }
        _ => request.put = Some(put(rng)),
    }
    request
}
