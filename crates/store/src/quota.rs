//! What requests cost against the space quota.
//!
//! *Invariants.* The quota is this member's own: it decides answers, never data.
//!
//! *Contract.* `server/storage/quota.go` of etcd v3.7.1.

use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};

/// An estimate of what storing a lease takes.
pub const LEASE_COST: u64 = 64;
/// An estimate of what a key takes beside its bytes and its value's.
const KEY_COST: u64 = 256;

/// What a put costs.
pub fn put_cost(request: &PutRequest) -> u64 {
    KEY_COST + request.key.len() as u64 + request.value.len() as u64
}

/// What a transaction costs: the dearer branch, whichever will be taken.
pub fn txn_cost(request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| ops.iter().map(op_cost).sum::<u64>();
    branch(&request.success).max(branch(&request.failure))
}

fn op_cost(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Request::RequestPut(put)) => put_cost(put),
        Some(Request::RequestTxn(txn)) => txn_cost(txn),
        _ => 0,
    }
}

/// Whether something of this cost fits a database of `size_bytes`. What costs nothing always
/// fits; no quota has no end.
pub fn fits(quota_bytes: Option<u64>, size_bytes: u64, cost: u64) -> bool {
    cost == 0 || quota_bytes.is_none_or(|quota| size_bytes.saturating_add(cost) < quota)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_txn_costs_its_dearer_branch() {
        let put = |size: usize| RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                key: "k".into(),
                value: vec![0; size].into(),
                ..PutRequest::default()
            })),
        };
        let nested = TxnRequest { failure: vec![put(9)], ..TxnRequest::default() };
        let nested = RequestOp { request: Some(Request::RequestTxn(nested)) };
        let txn = TxnRequest {
            success: vec![put(1), nested],
            failure: vec![put(2), put(3)],
            ..TxnRequest::default()
        };
        assert_eq!(txn_cost(&txn), 256 + 1 + 1 + 256 + 1 + 9);
    }

    #[test]
    fn the_quota_must_not_be_reached() {
        assert!(fits(Some(100), 35, 64));
        assert!(!fits(Some(100), 36, 64));
        assert!(fits(Some(100), 1000, 0));
        assert!(fits(None, u64::MAX, u64::MAX));
    }
}
